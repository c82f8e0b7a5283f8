"""Logins of ours at real servers, by every method; and servers that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from login_talk import LoginServer, Scripted, Talking, end_point

from sojourn.core.secret import Secret
from sojourn.embedded.account import serving_account
from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.embedded.postgres import SERVING_USERS, PostgresServer
from sojourn.errors import BackendUnavailable, RemoteProtocolError, SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import Credentials
from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.scram import KeyCache, ScramKeys, ServerExchange, derive_keys
from sojourn.gateways.postgres.server_auth import login_at_server

WORD = "pencil \u00e9"
RULES = (
    "host all old 127.0.0.1/32 md5",
    "host all clear 127.0.0.1/32 password",
    "host all guest 127.0.0.1/32 trust",
    "host all barred 127.0.0.1/32 reject",
)
ROLES = f"""
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE ana LOGIN PASSWORD '{WORD}'; CREATE ROLE clear LOGIN PASSWORD '{WORD}';
    CREATE ROLE guest LOGIN; CREATE ROLE barred LOGIN PASSWORD '{WORD}';
    SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD '{WORD}';
"""
PLAIN = Secret(WORD)


async def make_roles(server):
    """Make the roles, and return what is stored of those with passwords."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute(ROLES)
    rows = await admin.fetch("SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    await admin.close()
    return {row["rolname"]: Secret(row["rolpassword"]) for row in rows}


@contextlib.asynccontextmanager
async def dialled(server, user, context=None, *, version=(3, 0)):
    """Give a talk with a server that has got our startup message."""
    talk = Talking(*await asyncio.open_connection("127.0.0.1", server.port))
    if context is not None:
        talk.send(wire.ssl_request())
        assert await talk.exactly(1) == b"S"
        await talk.writer.start_tls(context)
        talk.is_tls = True
        talk.channel_binding = end_point(talk.writer.get_extra_info("ssl_object").getpeercert(True))
    talk.send(wire.startup_message({"user": user, "database": "postgres"}, version))
    try:
        yield talk
    finally:
        await talk.close()


async def log_in(server, credentials, context=None, **more):
    """Log in, and prove that the server serves us."""
    async with dialled(server, credentials.user, context) as talk:
        await login_at_server(talk, credentials.user, credentials, **more)
        while (message := await talk.receive())[0] != ord("Z"):
            assert message[0] in b"SK"
        return talk.sent


async def refused(server, credentials, **more):
    with pytest.raises(Refusal) as caught:
        await log_in(server, credentials, **more)
    return caught.value


@pytest.mark.parametrize("version", [16, 18])
def test_every_request_of_a_real_server_is_answered(run, version):
    """Trust, cleartext on loopback, md5 from password and hash, SCRAM from password and learned keys."""

    async def scenario():
        async with PostgresServer(version=version, port=0, hba_lines=RULES) as server:
            stored = await make_roles(server)
            keys = KeyCache()
            for user in ("ana", "ana", "clear", "old", "guest"):
                await log_in(server, Credentials.of(user, PLAIN), keys=keys)
            assert len(keys) == 1
            await log_in(server, Credentials("guest"))
            await log_in(server, Credentials.of("old", stored["old"]))
            wrong = Secret("wrong")
            for user in ("ana", "clear", "old"):
                error = await refused(server, Credentials.of(user, wrong))
                assert error.sqlstate == "28P01"
                assert f'password authentication failed for user "{user}"' in error.message
            assert (await refused(server, Credentials.of("barred", PLAIN))).sqlstate == "28000"
            assert (await refused(server, Credentials("old"))).sqlstate == "28000"
            assert (await refused(server, Credentials("clear"))).sqlstate == "28000"
            assert "SCRAM" in (await refused(server, Credentials.of("ana", stored["old"]))).detail
            assert (await refused(server, Credentials.of("ana", stored["ana"]))).sqlstate == "28000"

    run(scenario())


def test_what_a_client_of_libpq_taught_us_logs_in_at_the_server(run):
    """Pass-through: the gateway has only the verifier, as auth_query finds it, and no password."""

    async def scenario():
        async with PostgresServer(port=0) as server:
            stored = await make_roles(server)
            async with LoginServer("scram-sha-256", stored).running() as gateway:
                connection = await psycopg.AsyncConnection.connect(
                    host="127.0.0.1", port=gateway.port, user="ana", password=WORD, sslmode="disable"
                )
                await connection.close()
            (learned,) = gateway.outcomes
            assert learned.password is None
            await log_in(server, learned)
            admin = await asyncpg.connect(server.dsn())
            await admin.execute(f"ALTER ROLE ana PASSWORD '{WORD}'")
            await admin.close()
            # The same password with another salt: our keys prove nothing there any more.
            error = await refused(server, learned)
            assert error.sqlstate == "28P01"
            assert "another one" in error.detail

    run(scenario())


def test_what_a_server_refuses_after_the_login_is_left_to_the_caller(run):
    """PostgreSQL counts connections behind AuthenticationOk."""

    async def scenario():
        settings = {"max_connections": "4", "superuser_reserved_connections": "3", "max_wal_senders": "0"}
        async with PostgresServer(port=0, settings=settings, hba_lines=RULES) as server:
            await make_roles(server)
            async with dialled(server, "guest") as first:
                await login_at_server(first, "guest", Credentials("guest"))
                while (await first.receive())[0] != ord("Z"):
                    pass
                async with dialled(server, "guest") as second:
                    await login_at_server(second, "guest", Credentials("guest"))
                    kind, body = await second.receive()
                    assert (chr(kind), wire.error_fields(body)["C"]) == ("E", "53300")

    run(scenario())


def test_an_older_server_may_speak_of_the_protocol_before_it_asks(run):
    """NegotiateProtocolVersion comes before Authentication; the login goes on."""

    async def scenario():
        async with PostgresServer(version=16, port=0) as server:
            await make_roles(server)
            async with dialled(server, "ana", version=(3, 2)) as talk:
                await login_at_server(talk, "ana", Credentials.of("ana", PLAIN))
                assert (await talk.receive())[0] == ord("S")

    run(scenario())


@pytest.fixture
def own_directory():
    """Give a directory that the server's account can enter; pytest's own belongs to one user alone."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.debian("postgresql")
def test_scram_is_bound_to_the_channel_over_tls(run, own_directory):
    """-PLUS is preferred where offered; another certificate's data is refused by the server."""
    authority = ThrowAwayAuthority(own_directory)
    identity = authority.issue("server", ("127.0.0.1",))
    account = serving_account("PostgreSQL", SERVING_USERS)
    for path in identity:
        shutil.chown(path, account.name)
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.check_hostname = False
    tls = {
        "ssl": "on",
        "ssl_cert_file": str(identity.certificate_file),
        "ssl_key_file": str(identity.private_key_file),
    }
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    rules = (
        # The superuser's own connection, by asyncpg, is without TLS.
        "hostnossl all postgres 127.0.0.1/32 scram-sha-256",
        "hostnossl all all 127.0.0.1/32 reject",
        "hostssl all clear 127.0.0.1/32 password",
    )

    async def scenario():
        server = PostgresServer(bin_directory=programs, port=0, settings=tls, hba_lines=rules)
        async with server:
            await make_roles(server)
            sent = await log_in(server, Credentials.of("ana", PLAIN), context)
            assert b"SCRAM-SHA-256-PLUS\0" in sent
            assert b"p=tls-server-end-point,," in sent
            await log_in(server, Credentials.of("clear", PLAIN), context)
            async with dialled(server, "ana", context) as talk:
                talk.channel_binding = bytes(32)
                with pytest.raises(Refusal) as caught:
                    await login_at_server(talk, "ana", Credentials.of("ana", PLAIN))
                assert caught.value.sqlstate == "28000"
            assert (await refused(server, Credentials.of("ana", PLAIN))).sqlstate == "28000"

    run(scenario())


def login(*script, credentials=None, **more):
    """Run a login at a scripted server."""
    credentials = credentials or Credentials("ana", password=Secret("pencil"))
    talk = Scripted(*script, **more)
    asyncio.run(login_at_server(talk, credentials.user, credentials, keys=KeyCache()))
    return talk


def test_the_password_goes_in_clear_only_where_nobody_listens():
    """TLS, unix socket, loopback; libpq would send it anywhere."""
    script = wire.authentication_cleartext(), wire.authentication_ok()
    for more in ({"is_tls": True}, {"address": "unix"}, {"address": "127.0.0.1"}, {"address": "::1"}):
        assert login(*script, **more).sent == [wire.password_message(b"pencil")]
    for address in ("192.0.2.1", "db.example"):
        with pytest.raises(Refusal) as caught:
            login(*script, address=address)
        assert "clear text" in caught.value.detail
        assert "pencil" not in repr(caught.value)


def test_what_the_server_says_no_for_decides_who_is_told():
    """Class 28 and the like are the user's; 57P03 and its like are the server's, and count for its health."""
    for sqlstate in ("28000", "3D000", "42704", "0A000"):
        with pytest.raises(Refusal) as caught:
            login(wire.error_response(sqlstate, "no entry", severity="FATAL"))
        assert (caught.value.sqlstate, caught.value.message) == (sqlstate, "no entry")
    with pytest.raises(BackendUnavailable, match="57P03: the database system is starting up"):
        login(wire.error_response("57P03", "the database system is starting up", severity="FATAL"))
    with pytest.raises(BackendUnavailable, match="XX000"):
        login(wire.error_response("nonsense", "no", severity="FATAL"))


@pytest.mark.parametrize(
    "script",
    [
        (wire.ready_for_query(),),
        (wire.authentication_sasl_final(b"v="),),
        (wire.authentication_md5(b"salt"), wire.authentication_cleartext()),
        (wire.authentication_sasl(["SCRAM-SHA-256"]), wire.authentication_ok()),
        (wire.authentication_sasl(["SCRAM-SHA-256"]), wire.authentication_sasl_continue(b"r=x,s=AA==,i=1")),
        (wire.authentication_sasl(["OAUTHBEARER"]),),
        (wire.authentication_sasl([]),),
    ],
)
def test_a_server_out_of_order_gets_no_login(script):
    """AuthenticationOk in the middle of SCRAM would hide that the server does not know the secret."""
    with pytest.raises(RemoteProtocolError):
        login(*script)


def scram_server(verifier, *, damage=lambda _, data: data, iterations=None):
    """Make the script of a server that has a verifier; each of its SASL messages may be damaged."""
    exchange = ServerExchange(verifier)

    def challenge(sent):
        mechanism, data = wire.sasl_choice(wire.split(sent)[0][0][1])
        first = exchange.first(mechanism, data)
        if iterations is not None:
            first = first.rpartition(b"=")[0] + b"=%d" % iterations
        return wire.authentication_sasl_continue(damage(0, first))

    def outcome(sent):
        final = exchange.final(wire.split(sent)[0][0][1])
        if final is None:
            return wire.error_response("28P01", "password authentication failed", severity="FATAL")
        return wire.authentication_sasl_final(damage(1, final))

    return wire.authentication_sasl(["SCRAM-SHA-256"]), challenge, outcome, wire.authentication_ok()


VERIFIER = derive_keys(b"pencil", b"0123456789abcdef", 16).verifier


def test_a_server_must_prove_that_it_knows_the_secret():
    """RFC 5802 section 3: a wrong ServerSignature ends the login although the server would go on."""
    login(*scram_server(VERIFIER))
    with pytest.raises(RemoteProtocolError, match="signature"):
        login(*scram_server(VERIFIER, damage=lambda step, data: b"v=" + b"A" * 43 + b"=" if step else data))


def test_a_server_cannot_make_us_compute_for_hours():
    """RFC 5802 section 9: the iteration count is the server's word."""
    with pytest.raises(RemoteProtocolError, match="iterations"):
        login(*scram_server(VERIFIER, iterations=2_000_000_000))


def test_learned_keys_are_compared_with_the_challenge_before_they_are_used():
    """A proof that must be wrong would only count as an attack."""
    keys = ScramKeys(b"another salt....", 16, bytes(32), bytes(32))
    with pytest.raises(Refusal) as caught:
        login(*scram_server(VERIFIER), credentials=Credentials("ana", scram=keys))
    assert caught.value.sqlstate == "28P01"


@given(st.integers(0, 1), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_servers_damaged_scram_messages_end_in_errors_of_ours(where, place, byte):
    """One byte damaged: the login ends, or the byte was the right one."""
    changed = []

    def damage(step, data):
        if step != where:
            return data
        at = place % len(data)
        changed.append(data[at] != byte)
        return data[:at] + bytes([byte]) + data[at + 1 :]

    try:
        login(*scram_server(VERIFIER, damage=damage))
    except SojournError:
        assert changed == [True]
    else:
        assert changed == [False]
