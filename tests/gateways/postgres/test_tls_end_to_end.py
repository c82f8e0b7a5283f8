"""TLS on both sides of the gateway: modes, client certificates, channel binding, reload, and TLS without SSLRequest."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest
from gateway_room import LOCALHOST, PASSWORD, gateway_room, server_thread, settings, users

from sojourn.core.secret import Secret
from sojourn.embedded.account import serving_account
from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.embedded.postgres import SERVING_USERS
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.config import (
    AuthSettings,
    ClientTls,
    Cluster,
    NodeSettings,
    PoolSettings,
    ServerTls,
    TimeoutSettings,
)

DEBIAN = Path("/usr/lib/postgresql/15/bin")
ROLES = f"""
SET password_encryption = 'scram-sha-256';
CREATE ROLE ana LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE clear LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE plus LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE shown LOGIN;
SET password_encryption = 'md5';
CREATE ROLE old LOGIN PASSWORD '{PASSWORD}';
"""
SCRAM = AuthSettings(method="scram-sha-256")


@pytest.fixture(scope="module")
def server():
    """Give a server that trusts us: what is tried here is the clients' side."""
    with server_thread(hba_lines=("host all all 127.0.0.1/32 trust",)) as running:
        running.sql(ROLES)
        yield running


@pytest.fixture
def authority(tmp_path):
    """Give an authority that signs gateways and clients."""
    return ThrowAwayAuthority(tmp_path)


def client_tls(identity, mode="allow", **more):
    """Return the gateway's TLS towards clients."""
    return ClientTls(
        mode=mode,
        certificate_file=str(identity.certificate_file),
        private_key_file=str(identity.private_key_file),
        **{name: str(value) for name, value in more.items()},
    )


def showing(identity):
    """Return libpq's keywords that show a certificate."""
    return {"sslcert": str(identity.certificate_file), "sslkey": str(identity.private_key_file)}


@pytest.mark.parametrize(
    "modes",
    [
        ("disable", {"disable": True, "prefer": True, "require": False, "verify-full": False}),
        ("allow", {"disable": True, "prefer": True, "require": True, "verify-full": True}),
        ("require", {"disable": False, "prefer": True, "require": True, "verify-full": True}),
    ],
)
def test_what_a_mode_asks_of_clients(run, tmp_path, server, authority, modes):
    """disable has no TLS, allow takes both, require takes TLS only."""
    mode, let_in = modes
    identity = authority.issue("gateway", (LOCALHOST,))

    async def main():
        given = settings(server, tls=client_tls(identity, mode), auth=SCRAM, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            for sslmode, is_in in let_in.items():
                told = await room.psql("ana", sslmode=sslmode, sslrootcert=str(authority.ca_file))
                assert (told.code == 0) is is_in, (sslmode, told)
            if let_in["require"]:
                context = ssl.create_default_context(cafile=str(authority.ca_file))
                assert await room.who("asyncpg", "ana", ssl=context) == "ana"
            if not let_in["disable"]:
                with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TLS is required"):
                    await room.asyncpg("ana")

    run(main())


def test_verify_full_takes_only_clients_with_a_certificate(run, tmp_path, server, authority):
    """The handshake itself refuses who has none, or one of somebody else; the login's method still counts."""
    identity = authority.issue("gateway", (LOCALHOST,))
    ana = authority.issue("ana", ("ana.example",))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stranger = ThrowAwayAuthority(elsewhere, "another").issue("ana", ("ana.example",))
    tls = client_tls(identity, "verify-full", client_ca_file=authority.ca_file)

    async def main():
        given = settings(server, tls=tls, auth=SCRAM, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            assert await room.who("psql", "ana", sslmode="require", **showing(ana)) == "ana"
            told = await room.psql("ana", "wrong", sslmode="require", **showing(ana))
            assert "password authentication failed" in told.errors
            assert (await room.psql("ana", sslmode="require")).code == 2
            assert (await room.psql("ana", sslmode="require", **showing(stranger))).code == 2
            assert room.log().count("listener.handshake_failed") == 2

    run(main())


@pytest.mark.parametrize("mode", ["allow", "require", "verify-full"])
def test_a_certificate_is_a_login(run, tmp_path, server, authority, mode):
    """Method cert: the subject's common name must be the user's, whatever other names the certificate has."""
    identity = authority.issue("gateway", (LOCALHOST,))
    shown, other = authority.issue("shown", ("someone.example", "old")), authority.issue("old", ("shown",))
    tls = client_tls(identity, mode, client_ca_file=authority.ca_file)

    async def main():
        given = settings(server, tls=tls, auth=AuthSettings(method="cert"))
        async with gateway_room(given, tmp_path) as room:
            for client in ("psql", "psycopg"):
                assert await room.who(client, "shown", "", sslmode="require", **showing(shown)) == "shown"
            context = ssl.create_default_context(cafile=str(authority.ca_file))
            context.load_cert_chain(*shown)
            assert await room.who("asyncpg", "shown", ssl=context) == "shown"
            told = await room.psql("shown", "", sslmode="require", **showing(other))
            assert 'certificate authentication failed for user "shown"' in told.errors
            if mode != "verify-full":
                told = await room.psql("shown", "", sslmode="require")
                assert 'certificate authentication failed for user "shown"' in told.errors
            if mode == "allow":
                told = await room.psql("shown", "")
                assert 'certificate authentication failed for user "shown"' in told.errors

    run(main())


def test_rules_say_who_needs_a_certificate_and_maps_whom_it_may_be(run, tmp_path, server, authority):
    """pg_hba's ``cert map=`` with pg_ident's lines; others log in by password on the same address."""
    identity = authority.issue("gateway", (LOCALHOST,))
    robot = authority.issue("robot-old", ("robot.example",))
    rules, maps = tmp_path / "hba.conf", tmp_path / "ident.conf"
    rules.write_text(
        "hostssl all ana all scram-sha-256\nhostssl all all all cert map=robots\nhost all all all reject\n"
    )
    maps.write_text("robots /^robot-(.*)$ \\1\nrobots robot-old shown\n")
    tls = client_tls(identity, client_ca_file=authority.ca_file)
    auth = AuthSettings(method="hba", hba_file=str(rules), ident_file=str(maps))

    async def main():
        given = settings(server, tls=tls, auth=auth, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            assert await room.who("psql", "ana", sslmode="require") == "ana"
            for user in ("old", "shown"):
                assert await room.who("psql", user, "", sslmode="require", **showing(robot)) == user
            told = await room.psql("clear", "", sslmode="require", **showing(robot))
            assert "certificate authentication failed" in told.errors
            assert "rejects" in (await room.psql("ana", sslmode="disable")).errors
            maps.write_text("robots robot-old clear\n")
            room.reload()
            assert await room.who("psql", "clear", "", sslmode="require", **showing(robot)) == "clear"
            assert (await room.psql("old", "", sslmode="require", **showing(robot))).code == 2

    run(main())


def test_a_login_is_bound_to_the_certificate_that_is_in_force(run, tmp_path, server, authority):
    """SCRAM-SHA-256-PLUS follows a reload; connections that are there stay, a reload with a mistake changes nothing."""
    first, second = authority.issue("first", (LOCALHOST,)), authority.issue("second", (LOCALHOST,))
    bound = {"sslmode": "verify-full", "channel_binding": "require", "sslrootcert": str(authority.ca_file)}

    async def subject(room):
        pem = await asyncio.to_thread(_certificate_at, room.port, authority.ca_file)
        return dict(part[0] for part in pem["subject"])["commonName"]

    async def main():
        given = settings(server, tls=client_tls(first), auth=SCRAM, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            for client in ("psql", "psycopg"):
                assert await room.who(client, "ana", **bound) == "ana"
            kept = await room.psycopg("ana", **bound)
            assert await subject(room) == "first"
            room.reload(tls=client_tls(second))
            assert await subject(room) == "second"
            for client in ("psql", "psycopg"):
                assert await room.who(client, "ana", **bound) == "ana"
            with pytest.raises(Exception, match="certificate_file"):
                room.reload(tls=client_tls(second._replace(certificate_file=tmp_path / "missing.pem")))
            assert await room.who("psycopg", "ana", **bound) == "ana"
            await kept.execute("SELECT 1")
            await kept.close()
            told = await room.psql("ana", sslmode="disable", channel_binding="require")
            assert "channel binding" in told.errors

    run(main())


def _certificate_at(port, ca_file):
    context = ssl.create_default_context(cafile=str(ca_file))
    with socket.create_connection((LOCALHOST, port), timeout=10) as sock:
        sock.sendall(wire.ssl_request())
        assert sock.recv(1) == b"S"
        with context.wrap_socket(sock, server_hostname=LOCALHOST) as tls:
            return tls.getpeercert()


def test_tls_may_begin_at_once(run, tmp_path, server, authority):
    """``sslnegotiation=direct`` of libpq 17 saves a round trip; the login is bound to the channel all the same."""
    identity = authority.issue("gateway", (LOCALHOST,))
    direct = {"sslmode": "require", "sslnegotiation": "direct", "channel_binding": "require"}

    async def main():
        for mode in ("allow", "require"):
            given = settings(server, tls=client_tls(identity, mode), auth=SCRAM, users=users(ana=PASSWORD))
            async with gateway_room(given, tmp_path) as room:
                assert await room.who("psycopg", "ana", **direct) == "ana"
                with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                    await room.psycopg("ana", "wrong", **direct)
                async with await room.psycopg("ana", **direct) as connection:
                    big = await connection.execute("SELECT repeat('x', 3000000)")
                    assert len((await big.fetchone())[0]) == 3_000_000

    run(main())


def test_tls_that_begins_at_once_must_name_its_protocol(run, tmp_path, server, authority):
    """Without ALPN a browser's request could be taken for a login (ALPACA)."""
    identity = authority.issue("gateway", (LOCALHOST,))
    context = ssl.create_default_context(cafile=str(authority.ca_file))

    async def main():
        given = settings(server, tls=client_tls(identity))
        async with gateway_room(given, tmp_path) as room:
            for protocols in ([], ["http/1.1"]):
                if protocols:
                    context.set_alpn_protocols(protocols)
                raw = await room.raw(ssl=context)
                await raw.start("ana")
                assert (await raw.error())["C"] == "08P01"
                await raw.close()
            context.set_alpn_protocols(["postgresql"])
            raw = await room.raw(ssl=context)
            raw.send(wire.startup_message({"user": "ana", "database": "postgres"}))
            assert (await raw.messages())[-1] == ("Z", b"I")
            await raw.close()

    run(main())


@pytest.mark.parametrize("cut", [1, 4, 5, 100, 10_000])
def test_a_handshake_may_come_in_any_pieces(run, tmp_path, server, authority, cut):
    """The part that was read before TLS was known to begin comes first, and once."""
    identity = authority.issue("gateway", (LOCALHOST,))
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.set_alpn_protocols(["postgresql"])

    async def main():
        async with gateway_room(settings(server, tls=client_tls(identity)), tmp_path) as room:
            raw = await room.raw()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname=LOCALHOST)

            async def flush():
                data = outgoing.read()
                for start in range(0, len(data), cut):
                    raw.send(data[start : start + cut])
                    await raw.writer.drain()
                    for _ in range(10 if start < 300 else 0):
                        await asyncio.sleep(0)

            async def over(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        await flush()
                        incoming.write(await asyncio.wait_for(raw.reader.read(65_536), 10))

            await over(tls.do_handshake)
            tls.write(wire.startup_message({"user": "ana", "database": "postgres"}))
            await flush()
            assert (await over(lambda: tls.read(1))) == b"R"
            await raw.close()

    run(main())


def test_tls_that_begins_at_once_is_refused_where_there_is_none(run, tmp_path, server):
    """The connection is closed, and the log says why."""

    async def main():
        async with gateway_room(settings(server), tmp_path) as room:
            direct = {"sslmode": "require", "sslnegotiation": "direct"}
            with pytest.raises(psycopg.OperationalError):
                await room.psycopg("ana", **direct)
            assert "a TLS handshake" in room.log()

    run(main())


def test_what_is_no_handshake_ends_its_connection_only(run, tmp_path, server, authority):
    """Garbage behind ``S``, and silence there until the login's deadline."""
    identity = authority.issue("gateway", (LOCALHOST,))

    async def main():
        given = settings(
            server, tls=client_tls(identity), timeouts=TimeoutSettings(client_login_timeout_s=0.3)
        )
        async with gateway_room(given, tmp_path) as room:
            garbage, silent = await room.raw(), await room.raw()
            for raw in (garbage, silent):
                raw.send(wire.ssl_request())
                assert await raw.byte() == b"S"
            garbage.send(wire.startup_message({"user": "ana"}) + bytes(500))
            for raw in (garbage, silent):
                while not await raw.is_closed():
                    pass
                await raw.close()
            assert await room.who("psql", "ana", sslmode="require") == "ana"
            assert "listener.handshake_failed" in room.log()

    run(main())


# Towards servers


@pytest.fixture(scope="module")
def tls_server():
    """Give Debian's server with TLS, whose roles log in by different methods; and the authority that signed it."""
    directory = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    directory.chmod(0o755)
    authority = ThrowAwayAuthority(directory)
    identity = authority.issue("server", (LOCALHOST,))
    account = serving_account("PostgreSQL", SERVING_USERS)
    for path in identity:
        shutil.chown(path, account.name)
    rules = (
        "host all postgres 127.0.0.1/32 scram-sha-256",
        "hostssl all shown 127.0.0.1/32 cert",
        "hostnossl all ana,plus,shown 127.0.0.1/32 reject",
        "host all old 127.0.0.1/32 md5",
        "host all clear 127.0.0.1/32 password",
    )
    tls = {
        "ssl": "on",
        "ssl_cert_file": str(identity.certificate_file),
        "ssl_key_file": str(identity.private_key_file),
        "ssl_ca_file": str(authority.ca_file),
    }
    try:
        with server_thread(bin_directory=DEBIAN, settings=tls, hba_lines=rules) as running:
            running.sql(ROLES)
            yield running, authority
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def cluster(server, tls):
    """Return the server as a cluster with TLS towards it."""
    nodes = (NodeSettings(name="db-1", address=server.address),)
    return (Cluster(name="main", nodes=nodes, tls=tls),)


@pytest.mark.debian("postgresql")
@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("login", [("ana", ""), ("ana", PASSWORD), ("clear", PASSWORD), ("old", PASSWORD)])
def test_we_log_in_over_tls(run, tmp_path, tls_server, mode, login):
    """Every mode and method, by the stored password or by what the client's login taught us (SCRAM-PLUS too)."""
    user, stored = login
    server, authority = tls_server
    checks = mode.startswith("verify")
    tls = ServerTls(mode=mode, ca_file=str(authority.ca_file) if checks else "")
    secret = stored or server.verifier(user)

    async def main():
        given = settings(server, clusters=cluster(server, tls), auth=SCRAM, users=users(**{user: secret}))
        async with gateway_room(given, tmp_path) as room:
            sql = "SELECT current_user, (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
            told = await room.psql(user, sql=sql)
            assert told.out == f"{user}|t", told.errors
            assert await room.who("asyncpg", user) == user

    run(main())


@pytest.mark.debian("postgresql")
def test_we_show_the_server_a_certificate(run, tmp_path, tls_server):
    """Method cert there: nothing but the gateway's own certificate is needed."""
    server, authority = tls_server
    shown = authority.issue("shown", ("gateway.example",))
    tls = ServerTls(
        mode="verify-full",
        ca_file=str(authority.ca_file),
        certificate_file=str(shown.certificate_file),
        private_key_file=str(shown.private_key_file),
    )

    async def main():
        async with gateway_room(settings(server, clusters=cluster(server, tls)), tmp_path) as room:
            assert await room.who("psycopg", "shown") == "shown"

    run(main())


@pytest.mark.debian("postgresql")
def test_a_server_that_does_not_let_us_in_is_told_to_the_client(run, tmp_path, tls_server):
    """Without TLS the server's own rule refuses (28000); its words reach a client that has proved who it is."""
    server, _ = tls_server

    async def main():
        given = settings(server, clusters=cluster(server, None), users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="rejects connection"):
                await room.asyncpg("ana")

    run(main())


@pytest.mark.debian("postgresql")
@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_server_that_nobody_vouches_for_gets_no_login(run, tmp_path, tls_server, authority, mode):
    """Another authority's certificate: nothing is sent, clients are told to try again (57P03), the log says why."""
    server, _ = tls_server
    tls = ServerTls(mode=mode, ca_file=str(authority.ca_file))

    async def main():
        given = settings(
            server,
            clusters=cluster(server, tls),
            users=users(ana=PASSWORD),
            pool=PoolSettings(queue_timeout_s=0.3),
        )
        async with gateway_room(given, tmp_path) as room:
            with pytest.raises(asyncpg.CannotConnectNowError):
                await room.asyncpg("ana")
            assert "certificate verify failed" in room.log()

    run(main())


@pytest.mark.parametrize(("mode", "is_in"), [("prefer", True), ("require", False), ("verify-full", False)])
def test_a_server_without_tls_is_used_only_where_tls_was_but_preferred(run, tmp_path, server, mode, is_in):
    """As libpq's sslmode."""

    async def main():
        given = settings(
            server,
            clusters=cluster(server, ServerTls(mode=mode)),
            users=(*users(ana=PASSWORD),),
            pool=PoolSettings(queue_timeout_s=0.3),
        )
        async with gateway_room(given, tmp_path) as room:
            if is_in:
                assert await room.who("asyncpg", "ana") == "ana"
            else:
                with pytest.raises(asyncpg.CannotConnectNowError):
                    await room.asyncpg("ana")
                assert "no TLS" in room.log()

    run(main())


@pytest.mark.debian("postgresql")
def test_a_cancel_request_goes_over_tls_too(run, tmp_path, tls_server):
    """The key that cancels is as secret as the session that it ends."""
    server, authority = tls_server
    tls = ServerTls(mode="verify-full", ca_file=str(authority.ca_file))

    async def main():
        given = settings(server, clusters=cluster(server, tls), auth=SCRAM, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            connection = await room.psycopg("ana")
            sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(30)"))
            await room.until(lambda: room.pool("ana").busy_count and not sleeping.done())
            raw = await room.raw()
            key = next(
                one for one in room.gateway.server.managers["postgres"].sessions() if one.user == "ana"
            )
            raw.send(wire.cancel_request(key.pid, key.secret))
            await raw.close()  # it does not wait for the end of its request
            with pytest.raises(psycopg.errors.QueryCanceled):
                await asyncio.wait_for(sleeping, 10)
            await connection.execute("SELECT 1")
            await connection.close()

    run(main())


def test_a_secret_is_in_no_log(run, tmp_path, server, authority):
    """Neither passwords nor verifiers, whatever goes wrong."""
    identity = authority.issue("gateway", (LOCALHOST,))
    verifier = server.verifier("ana")

    async def main():
        given = settings(server, tls=client_tls(identity), auth=SCRAM, users=users(ana=verifier))
        async with gateway_room(given, tmp_path) as room:
            assert await room.who("psql", "ana", sslmode="require") == "ana"
            assert (await room.psql("ana", "not-the-password")).code == 2
            text = room.log() + repr(given) + repr(room.gateway.access) + str(Secret(PASSWORD))
            for secret in (PASSWORD, "not-the-password", verifier, verifier[-20:]):
                assert secret not in text

    run(main())
