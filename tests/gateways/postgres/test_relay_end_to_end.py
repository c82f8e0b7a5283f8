"""Bad input and isolation with a real PostgreSQL and real sockets: what fakes would have to be believed about."""

from __future__ import annotations

import asyncio
import datetime
import socket
import struct

import psycopg
import pytest
from gateway_lab import GatewayLab, gateway_lab

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.config import TimeoutSettings

WITHIN_S = 30.0
RESULT_BYTES = 200_000_000
MEMORY_BYTES = 64 << 20


def rss_bytes() -> int:
    """Return what this process has in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
        return int(file.read().split()[1]) * 4096


async def told(lab: GatewayLab, data: bytes) -> bytes:
    """Send bytes as the first of a connection, and return all that comes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(data)
    try:
        async with asyncio.timeout(WITHIN_S):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def packet(body: bytes) -> bytes:
    """Return a packet without a type."""
    return struct.pack("!I", len(body) + 4) + body


_USER = wire.startup_message({"user": "postgres", "database": "postgres"})
_FIRST = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls at once": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "nothing but zeros": b"\0" * 64,
    "a length of seven": b"\0\0\0\7\0\0\0",
    "oversize": struct.pack("!I", 10_001) + b"\0\3\0\0" + b"x" * 10_000,
    "oversize, header only": struct.pack("!I", 0x7FFF_FFFF) + b"\0\3\0\0",
    "version 2": packet(b"\0\2\0\0user\0postgres\0\0"),
    "no user": packet(b"\0\3\0\0database\0postgres\0\0"),
    "no end": packet(b"\0\3\0\0user\0postgres\0database\0postgres"),
    "a name without a value": packet(b"\0\3\0\0user\0postgres\0database\0\0"),
    "NUL in a name": packet(b"\0\3\0\0user\0post\0gres\0\0\0"),
    "plaintext behind SSLRequest": wire.ssl_request() + _USER,
    "plaintext behind GSSENCRequest": wire.gssenc_request() + _USER,
    "a third request for encryption": wire.ssl_request() * 3,
    "a cancel request for nobody": wire.cancel_request(1, b"key!"),
}


def test_garbage_before_the_login_is_refused_and_nobody_else_sees_it():
    """Issue 3: a proper SQLSTATE or a closed connection, whatever a connection begins with."""

    async def check():
        async with gateway_lab() as lab:
            client = await lab.connect()
            for name, data in _FIRST.items():
                answer = await told(lab, data)
                if name == "plaintext behind SSLRequest":
                    assert b"AuthenticationOk" not in answer
                    assert not answer.endswith(b"I"), answer
                if answer:
                    kinds, _ = wire.split(answer.lstrip(b"N"))
                    for kind, body in kinds:
                        assert kind == ord("E"), name
                        assert wire.error_fields(body)["C"] in {
                            "08P01",
                            "28000",
                            "0A000",
                            "54000",
                            "3D000",
                        }, name
            cursor = await client.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)
            await client.close()
            await lab.until(lambda: not lab.server.managers["postgres"].connections)
            assert not lab.clients()
            assert all(pool.clients == 0 for pool in lab.gateway.pools.values())

    asyncio.run(check())


def test_a_client_that_stops_reading_a_large_result_costs_little_and_is_closed_in_time():
    """Issue 3: its server is paused, memory stays flat, others are served, and client_write_timeout_s ends it."""

    async def check():
        settings = {"timeouts": TimeoutSettings(client_write_timeout_s=2.0)}
        async with gateway_lab(settings=settings, pool={"size_count": 2}) as lab:
            other = await lab.connect()
            stuck = socket.create_connection(("127.0.0.1", lab.port))
            stuck.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(stuck, _USER)
            seen = b""
            while not seen.endswith(wire.ready_for_query()):
                seen += await loop.sock_recv(stuck, 65_536)
            before = rss_bytes()
            rows = RESULT_BYTES // 1_000
            await loop.sock_sendall(
                stuck, wire.query(f"SELECT repeat('x', 990) FROM generate_series(1, {rows})")
            )
            session = max(lab.clients(), key=lambda one: one.number)
            highest = 0
            async with asyncio.timeout(WITHIN_S):
                while not session.ended:
                    cursor = await other.execute("SELECT 2")
                    assert await cursor.fetchone() == (2,)
                    highest = max(highest, rss_bytes() - before)
            assert highest < MEMORY_BYTES
            stuck.close()
            pool = next(iter(lab.gateway.pools.values()))
            await lab.until(lambda: pool.busy_count == 0)
            assert pool.clients == 1

    asyncio.run(check())


async def value(client: psycopg.AsyncConnection, sql: str):
    """Return the only value of a statement."""
    cursor = await client.execute(sql)  # type: ignore[arg-type]  # the tests' own text
    row = await cursor.fetchone()
    return None if row is None else row[0]


_LEAKS = {
    "search_path": ("SET search_path TO pg_catalog", "SHOW search_path"),
    "a setting in a block": ("BEGIN; SET work_mem TO '1MB'; COMMIT", "SHOW work_mem"),
    "set_config": ("SELECT set_config('work_mem', '2MB', false)", "SHOW work_mem"),
    "set_config in DO": (
        "DO $$ BEGIN PERFORM set_config('work_mem', '3MB', false); END $$",
        "SHOW work_mem",
    ),
    "EXECUTE in DO": ("DO $$ BEGIN EXECUTE 'SET work_mem TO ''4MB'''; END $$", "SHOW work_mem"),
    "role": ("SET ROLE pg_monitor", "SELECT current_user"),
    "session authorization": ("SET SESSION AUTHORIZATION other", "SELECT session_user"),
    "application_name": ("SET application_name TO 'ana'", "SHOW application_name"),
    "TimeZone": ("SET TimeZone TO 'Asia/Tokyo'", "SHOW TimeZone"),
    "PREPARE": ("PREPARE ana AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements"),
    "default_transaction_read_only": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW default_transaction_read_only",
    ),
}
"""What one client does, and what another sees that must be as if it had not been done."""

_PINS = {
    "temporary table": ("CREATE TEMP TABLE t (a int)", "SELECT to_regclass('pg_temp.t')::text", None),
    "temporary table by SELECT INTO": (
        "SELECT 1 AS a INTO TEMP t",
        "SELECT to_regclass('pg_temp.t')::text",
        None,
    ),
    "advisory lock": (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        0,
    ),
    "LISTEN": ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", 0),
    "cursor WITH HOLD": (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors WHERE is_holdable",
        0,
    ),
}
"""What keeps a server with its client, and what the next client of that server finds once it has left."""


def test_what_one_client_sets_no_other_sees_on_the_same_server():
    """postgres-proxy.md section 6.6: settings and names are the client's; here two clients share one server."""

    async def check():
        async with gateway_lab(pool={"size_count": 1}) as lab:
            first = await lab.connect()
            await first.execute("CREATE ROLE other SUPERUSER LOGIN")
            for name, (sets, shows) in _LEAKS.items():
                ana, ben = await lab.connect(), await lab.connect()
                expected = await value(ben, shows)
                await ana.execute(sets)
                if name == "PREPARE":
                    await ana.execute("DEALLOCATE ana")  # till then the server is its own
                assert await value(ben, shows) == expected, name
                await ana.close()
                assert await value(ben, shows) == expected, name
                await ben.close()

    asyncio.run(check())


def test_tenants_with_different_tables_behind_the_same_text_do_not_share_a_plan():
    """A prepared statement means what its names meant to the client that prepared it: by search_path and by role."""

    async def check():
        async with gateway_lab(pool={"size_count": 1}) as lab:
            async with await lab.connect() as first:
                await first.execute("CREATE SCHEMA a CREATE TABLE things (n int)")
                await first.execute("CREATE SCHEMA b CREATE TABLE things (t text, also date)")
                await first.execute(
                    "INSERT INTO a.things VALUES (1); INSERT INTO b.things VALUES ('x', '2026-01-01')"
                )
            ana, ben = await lab.connect(), await lab.connect()  # which name their statements alike
            await ana.execute("SET search_path TO a")
            await ben.execute("SET search_path TO b")
            for _ in range(2):
                for client, expected in ((ana, (1,)), (ben, ("x", datetime.date(2026, 1, 1)))):
                    async with client.transaction():  # in which nobody can try again unseen
                        cursor = await client.execute("SELECT * FROM things WHERE %s > 0", (1,), prepare=True)
                        assert await cursor.fetchone() == expected

    asyncio.run(check())


def test_what_lives_on_a_server_only_goes_with_its_client():
    """postgres-proxy.md section 6.6: the server stays with the client, and is cleaned before the next one gets it."""

    async def check():
        async with gateway_lab(pool={"size_count": 1}) as lab:
            pids = set()
            for name, (does, shows, nothing) in _PINS.items():
                ana, ben = await lab.connect(), await lab.connect()
                assert await value(ben, shows) == nothing, name
                await ana.execute(does)
                waiting = asyncio.ensure_future(value(ben, shows))
                await value(ana, "SELECT 1")
                assert not waiting.done(), name
                pids.add(await value(ana, "SELECT pg_backend_pid()"))
                await ana.close()
                async with asyncio.timeout(WITHIN_S):
                    assert await waiting == nothing, name
                pids.add(await value(ben, "SELECT pg_backend_pid()"))
                await ben.close()
            assert len(pids) == 1

    asyncio.run(check())


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_client_that_leaves_in_the_midst_leaves_nothing_behind(mode):
    """Issue 3: an open transaction, COPY or batch goes with its client, and so does its server."""

    async def check():
        async with gateway_lab(mode, pool={"size_count": 1}) as lab:
            first = await lab.connect()
            await first.execute("CREATE TABLE t (a int)")
            await first.close()
            requests = (
                wire.query("BEGIN; INSERT INTO t VALUES (1)"),
                wire.query("COPY t FROM STDIN") + wire.copy_data(b"1\n"),
                wire.parse(b"", b"INSERT INTO t VALUES (1)")
                + wire.bind(b"", b"")
                + wire.execute(b"")
                + wire.flush(),
                wire.query("INSERT INTO t SELECT 1 FROM pg_sleep(60)"),
                b"Q\0\0\1\0INSERT",
            )
            for request in requests:
                reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
                writer.write(_USER)
                seen = b""
                while not seen.endswith(wire.ready_for_query()):
                    seen += await reader.read(65_536)
                writer.write(request)
                if request[-6:] != b"INSERT":
                    await lab.until(lambda: any(one.server is not None for one in lab.clients()))
                writer.transport.abort()
                await lab.until(lambda: not lab.clients())
                async with asyncio.timeout(WITHIN_S):
                    other = await lab.connect()
                    assert await value(other, "SELECT count(*) FROM t") == 0
                    await other.close()

    asyncio.run(check())
