"""Logins from the first byte to the first row: psql, psycopg and asyncpg, through a gateway, at a real server."""

from __future__ import annotations

import asyncio
import socket

import asyncpg
import psycopg
import pytest
from gateway_room import LOCALHOST, PASSWORD, Room, gateway_room, server_thread, settings, users

from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings
from sojourn.errors import ConfigError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import md5_hash
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    Database,
    FailoverSettings,
    NodeSettings,
    PostgresLimits,
    TimeoutSettings,
)

CLIENTS = ("psql", "psycopg", "asyncpg")

ROLES = f"""
SET password_encryption = 'scram-sha-256';
CREATE ROLE ana LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE clear LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE open LOGIN;
CREATE ROLE asker LOGIN SUPERUSER PASSWORD '{PASSWORD}';
SET password_encryption = 'md5';
CREATE ROLE old LOGIN PASSWORD '{PASSWORD}';
"""
HBA = (
    "host all old 127.0.0.1/32 md5",
    "host all clear 127.0.0.1/32 password",
    "host all open 127.0.0.1/32 trust",
    "host all ana,asker 127.0.0.1/32 scram-sha-256",
)
MD5 = md5_hash("old", PASSWORD.encode())


@pytest.fixture(scope="module")
def server():
    """Give a server whose roles log in by different methods."""
    with server_thread(hba_lines=HBA) as running:
        running.sql(ROLES)
        yield running


@pytest.mark.parametrize(
    "login",
    [
        ("scram-sha-256", "ana", "plain"),
        ("scram-sha-256", "ana", "verifier"),
        ("scram-sha-256", "old", "plain"),
        ("scram-sha-256", "clear", "plain"),
        ("md5", "ana", "verifier"),
        ("md5", "ana", "plain"),
        ("md5", "old", "md5"),
        ("password", "ana", "plain"),
        ("password", "ana", "verifier"),
        ("password", "old", "md5"),
        ("password", "clear", "verifier"),
        ("trust", "open", "none"),
        ("trust", "ana", "plain"),
    ],
)
def test_every_client_logs_in_by_every_method(run, tmp_path, server, login):
    """Whatever is stored of a user; a SCRAM verifier, as the server has it, is enough for the server too."""
    method, user, stored = login
    text = {"plain": PASSWORD, "md5": MD5, "none": None}.get(stored) or (
        server.verifier(user) if stored == "verifier" else None
    )

    async def main():
        given = settings(server, auth=AuthSettings(method=method), users=users(**{user: text}))
        async with gateway_room(given, tmp_path) as room:
            for client in CLIENTS:
                assert await room.who(client, user) == user
            assert "login_failed" not in room.log()

    run(main())


@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password"])
def test_a_wrong_password_and_an_unknown_user_are_told_the_same(run, tmp_path, server, method):
    """28P01 after as many messages: nobody learns which users there are."""

    async def main():
        given = settings(server, auth=AuthSettings(method=method), users=users(ana=server.verifier("ana")))
        async with gateway_room(given, tmp_path) as room:
            for user in ("ana", "nobody"):
                with pytest.raises(asyncpg.InvalidPasswordError) as caught:
                    await room.asyncpg(user, "wrong")
                assert str(caught.value) == f'password authentication failed for user "{user}"'
                told = await room.psql(user, "wrong")
                assert told.code == 2
                assert f'FATAL:  password authentication failed for user "{user}"' in told.errors
            shapes = []
            for user in ("ana", "nobody"):
                raw = await room.raw()
                await raw.start(user)
                first = await raw.message()
                shapes.append((first[0], len(first[1]), first[1][:4]))
                await raw.close()
            assert shapes[0] == shapes[1]
            assert room.log().count("postgres.login_failed") == 4

    run(main())


def test_a_database_that_is_not_there_is_told_only_to_who_has_logged_in(run, tmp_path, server):
    """3D000 after the password, as PostgreSQL: a stranger learns no names."""

    async def main():
        given = settings(
            server,
            auth=AuthSettings(method="scram-sha-256"),
            users=users(ana=PASSWORD),
            databases=(Database(name="shop", cluster="main", dbname="postgres"),),
        )
        async with gateway_room(given, tmp_path) as room:
            assert await room.who("asyncpg", "ana", database="shop") == "ana"
            with pytest.raises(asyncpg.InvalidCatalogNameError, match='database "other" does not exist'):
                await room.asyncpg("ana", database="other")
            assert room.log().count("postgres.client_refused") == 1
            with pytest.raises(asyncpg.InvalidPasswordError):
                await room.asyncpg("ana", "wrong", database="other")
            assert room.log().count("postgres.login_failed") == 1
            assert "session.failed" not in room.log()

    run(main())


def test_a_database_that_the_server_does_not_have_is_told_in_its_words(run, tmp_path, server):
    """A ``*`` entry passes on any name; the server's 3D000 reaches the client."""

    async def main():
        given = settings(server, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            for _ in range(2):
                with pytest.raises(
                    asyncpg.InvalidCatalogNameError, match='database "nowhere" does not exist'
                ):
                    await room.asyncpg("ana", database="nowhere")
            assert await room.who("psql", "ana") == "ana"

    run(main())


def test_the_first_rule_that_fits_decides(run, tmp_path, server):
    """Rules of a file by database, user and address; who fits none is refused in PostgreSQL's words."""
    rules = tmp_path / "hba.conf"
    rules.write_text(
        "# comment\nhost template1 all 127.0.0.1/32 reject\nhost all ana 127.0.0.1/32 scram-sha-256\n"
        "host all open 127.0.0.0/8 trust\nhost all old 192.0.2.0/24 trust\nhostssl all old all trust\n"
    )

    async def main():
        given = settings(
            server,
            auth=AuthSettings(method="hba", hba_file=str(rules)),
            users=users(ana=PASSWORD, old=PASSWORD),
        )
        async with gateway_room(given, tmp_path) as room:
            assert await room.who("psycopg", "ana") == "ana"
            assert await room.who("psql", "open", "") == "open"
            with pytest.raises(
                asyncpg.InvalidAuthorizationSpecificationError, match=r"no pg_hba\.conf entry"
            ):
                await room.asyncpg("old")
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="rejects"):
                await room.asyncpg("ana", database="template1")
            assert room.log().count("postgres.login_failed") == 2
            rules.write_text("host all all all trust\n")
            room.reload()
            assert await room.who("asyncpg", "old") == "old"
            rules.write_text("host all all all nonsense\n")
            with pytest.raises(ConfigError):
                room.reload()
            assert await room.who("asyncpg", "old") == "old"

    run(main())


def test_logins_wait_for_a_server_as_long_as_clients_are_held_and_no_longer(run, tmp_path):
    """57P03 after buffering_timeout_s where nobody monitors; who comes later than that is told at once."""

    async def main():
        with socket.socket() as unused:
            unused.bind((LOCALHOST, 0))
            failover = FailoverSettings(buffering_timeout_s=2.0)
            given = settings(f"{LOCALHOST}:{unused.getsockname()[1]}", failover=failover)
            async with gateway_room(given, tmp_path) as room:
                for _ in range(2):
                    with pytest.raises(
                        asyncpg.CannotConnectNowError, match="the database server is not available"
                    ):
                        await asyncio.wait_for(room.asyncpg("open"), 20)
                assert room.log().count("postgres.client_refused") == 2

    run(main())


def test_users_come_from_a_user_list(run, tmp_path, server):
    """Plain, md5 and SCRAM entries of PgBouncer's ``auth_file``; the settings' own users come first."""
    listed = tmp_path / "userlist.txt"
    listed.write_text(f'"ana" "{server.verifier("ana")}"\n"old" "{MD5}"\n"clear" "not the one"\n')

    async def main():
        given = settings(
            server, auth=AuthSettings(method="md5", userlist_file=str(listed)), users=users(clear=PASSWORD)
        )
        async with gateway_room(given, tmp_path) as room:
            for user in ("ana", "old", "clear"):
                assert await room.who("psycopg", user) == user

    run(main())


def test_users_are_asked_for_at_the_server_and_remembered(run, tmp_path, server):
    """auth_query: one connection for many logins, the answer kept, an unknown user refused like any other."""
    server.sql("CREATE TABLE asked (who text, name text); GRANT ALL ON asked TO PUBLIC")
    query = (
        "WITH noted AS (INSERT INTO asked VALUES (current_user, $1)) "
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"
    )

    async def main():
        auth = AuthSettings(
            method="scram-sha-256",
            query=query,
            query_user="asker",
            query_database="postgres",
            query_cache_s=60,
        )
        async with gateway_room(settings(server, auth=auth, users=users(asker=PASSWORD)), tmp_path) as room:
            assert await asyncio.gather(*(room.who("asyncpg", "ana") for _ in range(5))) == ["ana"] * 5
            assert await room.who("psql", "ana") == "ana"
            with pytest.raises(asyncpg.InvalidPasswordError):
                await room.asyncpg("nobody")
            with pytest.raises(asyncpg.InvalidPasswordError):
                await room.asyncpg("ana", "wrong")
            assert await asyncio.to_thread(server.sql, "SELECT who, name FROM asked ORDER BY 2") == [
                ("asker", "ana"),
                ("asker", "nobody"),
            ]

    run(main())


def test_a_password_that_changed_at_the_server_is_asked_for_again(run, tmp_path, server):
    """The server refuses what was remembered (class 28): the next login asks anew, and gets in."""
    server.sql(f"CREATE ROLE fickle LOGIN PASSWORD '{PASSWORD}'")

    async def main():
        auth = AuthSettings(
            method="scram-sha-256",
            query="SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1",
            query_user="asker",
            query_database="postgres",
            query_cache_s=3600,
        )
        async with gateway_room(settings(server, auth=auth, users=users(asker=PASSWORD)), tmp_path) as room:
            assert await room.who("asyncpg", "fickle") == "fickle"
            await asyncio.to_thread(server.sql, "ALTER ROLE fickle PASSWORD 'another'")
            room.pool("fickle").reconnect()
            await room.until(lambda: not tuple(room.pool("fickle").servers()))
            old = await room.asyncpg("fickle")
            with pytest.raises(asyncpg.PostgresError):
                await old.fetchval("SELECT 1")
            assert await room.who("asyncpg", "fickle", "another") == "fickle"
            with pytest.raises(asyncpg.InvalidPasswordError):
                await room.asyncpg("fickle")

    run(main())


def test_a_secret_that_the_server_does_not_share_is_refused_without_trying(run, tmp_path, server):
    """Keys of another verifier would be a wrong proof, which servers count as attacks."""
    other = Secret(PASSWORD)

    async def main():
        from sojourn.embedded.cluster import password_verifier  # noqa: PLC0415

        given = settings(
            server, auth=AuthSettings(method="scram-sha-256"), users=users(ana=password_verifier(other))
        )
        async with gateway_room(given, tmp_path) as room:
            with pytest.raises(asyncpg.InvalidPasswordError):
                await room.asyncpg("ana")

    run(main())


def test_too_many_clients_are_told_so(run, tmp_path, server):
    """53300, as PostgreSQL: the limit's own words instead of a hang-up; who leaves makes room."""

    async def main():
        limits = PostgresLimits(drain_timeout_s=0.5, connections_count=2)
        async with gateway_room(settings(server, limits=limits), tmp_path) as room:
            first, second = await room.asyncpg("open"), await room.psycopg("open")
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await room.asyncpg("open")
            told = await room.psql("open")
            assert told.code == 2
            assert "too many clients" in told.errors
            await second.close()
            await room.until(lambda: len(room.server.managers["postgres"].connections) == 1)
            assert await room.who("asyncpg", "open") == "open"
            await first.close()

    run(main())


def test_one_address_may_not_take_all_the_room(run, tmp_path, server):
    """The limit of each address is told the same way; a flood beyond it is refused unread."""

    async def main():
        limits = PostgresLimits(drain_timeout_s=0.5, connections_per_peer_count=1)
        async with gateway_room(settings(server, limits=limits), tmp_path) as room:
            first = await room.asyncpg("open")
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await room.asyncpg("open")
            quiet = [await room.raw() for _ in range(100)]
            flood = await room.raw()
            assert await flood.is_closed()
            for one in (*quiet, flood):
                await one.close()
            await first.close()

    run(main())


def test_a_client_that_does_not_log_in_is_closed_in_time(run, tmp_path, server):
    """client_login_timeout_s holds from the first byte to the last of the login."""

    async def main():
        timeouts = TimeoutSettings(client_login_timeout_s=0.2)
        auth = AuthSettings(method="scram-sha-256")
        given = settings(server, timeouts=timeouts, auth=auth, users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            silent, asked = await room.raw(), await room.raw()
            await asked.start("ana")
            assert (await asked.message())[0] == "R"
            for client in (silent, asked):
                assert (await client.error())["C"] == "08P01"
                assert await client.is_closed()
            await silent.close()
            await asked.close()
            assert await room.who("psql", "ana") == "ana"

    run(main())


# Versions and requests before the startup message


@pytest.mark.parametrize(
    "offer",
    [
        ((3, 0), (), None),
        ((3, 2), (), None),
        ((3, 0), ("_pq_.newer",), (0, ["_pq_.newer"])),
        ((3, 2), ("_pq_.newer",), (2, ["_pq_.newer"])),
        ((3, 9), ("_pq_.a", "_pq_.b"), (2, ["_pq_.a", "_pq_.b"])),
        ((3, 1), (), (0, [])),
        ((3, 9999), (), (2, [])),
    ],
)
@pytest.mark.parametrize("method", ["trust", "password"])
def test_a_client_learns_which_version_it_gets(run, tmp_path, server, offer, method):
    """NegotiateProtocolVersion comes first of all, names what is not there, and the key has that version's length."""
    version, options, answer = offer

    async def main():
        given = settings(server, auth=AuthSettings(method=method), users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            keys = [await logged_in(room) for _ in range(3)]
            assert len(set(keys)) == 3

    async def logged_in(room: Room) -> bytes:
        raw = await room.raw()
        await raw.start("ana", version=version, **dict.fromkeys(options, "on"))
        if method == "password":
            found = await raw.messages("R")
            raw.send(wire.password_message(PASSWORD.encode()))
            found += await raw.messages()
        else:
            found = await raw.messages()
        kinds = [kind for kind, _ in found]
        assert kinds[0] == ("R" if answer is None else "v")
        assert kinds.count("v") == (answer is not None)
        if answer is not None:
            body = found[0][1]
            assert int.from_bytes(body[:4], "big") in (answer[0], 3 << 16 | answer[0])
            assert body[8:].decode().split("\0")[:-1] == answer[1]
        key = next(body for kind, body in found if kind == "K")
        assert len(key) == 4 + (32 if version[1] >= 2 else 4)
        await raw.close()
        return key

    run(main())


def test_who_comes_again_is_told_what_the_first_was_told(run, tmp_path, server):
    """Trusted clients that nobody has to be asked about are let in at once: the same messages, their own settings."""

    async def main():
        async with gateway_room(settings(server, auth=AuthSettings(method="trust")), tmp_path) as room:
            told = []
            for name in ("one", "one", "two", "one"):
                raw = await room.raw()
                await raw.start("open", application_name=name, DateStyle="German, DMY")
                found = [message for message in await raw.messages() if message[0] != "K"]
                raw.send(
                    wire.query("SELECT current_setting('application_name'), current_setting('DateStyle')")
                )
                told.append((found, [body for kind, body in await raw.messages() if kind == "D"]))
                await raw.close()
            assert told[0] == told[1] == told[3] != told[2]
            assert ("S", b"application_name\0one\0") in told[1][0]
            assert b"German, DMY" in told[1][1][0]

    run(main())


def test_a_reload_that_asks_for_passwords_asks_those_too_that_were_trusted(run, tmp_path, server):
    """What is remembered of a login never spares anybody the present rules."""

    async def main():
        given = settings(server, auth=AuthSettings(method="trust"), users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            for _ in range(2):
                assert await room.who("asyncpg", "ana", "wrong") == "ana"
            room.reload(auth=AuthSettings(method="scram-sha-256"))
            with pytest.raises(asyncpg.InvalidPasswordError):
                await room.asyncpg("ana", "wrong")

    run(main())


def test_libpq_of_version_18_logs_in_with_protocol_3_2(run, tmp_path, server):
    """``max_protocol_version=latest`` asks for 3.2 and gets it; ``min_protocol_version=3.2`` insists."""

    async def main():
        given = settings(server, auth=AuthSettings(method="scram-sha-256"), users=users(ana=PASSWORD))
        async with gateway_room(given, tmp_path) as room:
            for wanted in (
                {"max_protocol_version": "latest"},
                {"min_protocol_version": "3.2", "max_protocol_version": "3.2"},
            ):
                assert await room.who("psycopg", "ana", **wanted) == "ana"

    run(main())


def test_an_older_protocol_is_refused(run, tmp_path, server):
    """Version 2 went with PostgreSQL 14."""

    async def main():
        async with gateway_room(settings(server), tmp_path) as room:
            raw = await room.raw()
            raw.send((296).to_bytes(4, "big") + (2 << 16).to_bytes(4, "big") + bytes(288))
            error = await raw.error()
            assert (error["S"], error["C"]) == ("FATAL", "0A000")
            assert await raw.is_closed()
            await raw.close()

    run(main())


def test_requests_for_encryption_that_are_declined_leave_the_way_open(run, tmp_path, server):
    """GSSENCRequest and SSLRequest get ``N``, once each in either order; then the client goes on in plain text."""

    async def main():
        async with gateway_room(settings(server), tmp_path) as room:
            for requests in ((wire.gssenc_request(), wire.ssl_request()), (wire.ssl_request(),)):
                raw = await room.raw()
                for request in requests:
                    raw.send(request)
                    assert await raw.byte() == b"N"
                await raw.start("open")
                assert (await raw.messages())[-1] == ("Z", b"I")
                await raw.close()
            assert await room.who("psycopg", "open", sslmode="prefer", gssencmode="prefer") == "open"
            with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
                await room.psycopg("open", sslmode="require")

    run(main())


def test_a_third_request_and_bytes_behind_a_request_end_the_connection(run, tmp_path, server):
    """What comes before its answer could have been injected by somebody in between (CVE-2021-23214)."""

    async def main():
        async with gateway_room(settings(server), tmp_path) as room:
            raw = await room.raw()
            for _ in range(2):
                raw.send(wire.ssl_request())
                assert await raw.byte() == b"N"
            raw.send(wire.ssl_request())
            assert (await raw.error())["C"] == "08P01"
            await raw.close()
            raw = await room.raw()
            raw.send(wire.ssl_request() + wire.startup_message({"user": "open"}))
            assert (await raw.error())["C"] == "08P01"
            await raw.close()

    run(main())


def test_a_unix_socket_is_a_way_in(run, tmp_path, server):
    """Rules of type ``local`` are for it."""
    rules = tmp_path / "hba.conf"
    rules.write_text("local all open trust\nhost all all all reject\n")

    async def main():
        listeners = (
            ListenerSettings(address=f"{LOCALHOST}:0"),
            ListenerSettings(address=f"unix:{tmp_path}/.s.PGSQL.6432"),
        )
        auth = AuthSettings(method="hba", hba_file=str(rules))
        async with gateway_room(settings(server, listeners=listeners, auth=auth), tmp_path) as room:
            told = await room.psql("open", "", host=str(tmp_path), port="6432")
            assert told.out == "open"
            assert (await room.psql("open", "")).code == 2

    run(main())


def test_a_role_of_the_database_entry_is_who_one_is_there(run, tmp_path, server):
    """``user`` and ``password`` of the entry hold for everybody that comes by it."""

    async def main():
        given = settings(
            server,
            auth=AuthSettings(method="scram-sha-256"),
            users=users(guest="own"),
            databases=(
                Database(
                    name="shop", cluster="main", dbname="postgres", user="ana", password=Secret(PASSWORD)
                ),
            ),
        )
        async with gateway_room(given, tmp_path) as room:
            for client in CLIENTS:
                assert await room.who(client, "guest", "own", database="shop") == "ana"

    run(main())


def test_a_server_over_its_unix_socket_is_a_server_too(run, tmp_path, server):
    """``unix:/directory:port`` as a node's address; peer authentication is the server's matter."""
    address = f"unix:{server.postgres.socket_directory}:{server.postgres.port}"

    async def main():
        cluster = Cluster(name="main", nodes=(NodeSettings(name="db-1", address=address),))
        async with gateway_room(settings(server, clusters=(cluster,)), tmp_path) as room:
            assert await room.who("psycopg", "postgres") == "postgres"

    run(main())
