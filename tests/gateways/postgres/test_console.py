"""The console: PgBouncer's tables and commands, over the simple and the extended protocol, with real clients."""

from __future__ import annotations

import asyncio
import struct

import asyncpg
import psycopg
import pytest
from console_lab import PROBLEM, WITHIN_S, ConsoleServer, FakeView, console_server, psql
from psycopg.rows import dict_row

from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded, SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console.averages import Averages
from sojourn.gateways.postgres.console.commands import MAX_COMMANDS, Command, Token, assignment, commands
from sojourn.gateways.postgres.console.console import Console
from sojourn.gateways.postgres.console.conversation import Conversation
from sojourn.gateways.postgres.console.rows import ClientRow, TotalsRow, columns_of
from sojourn.gateways.postgres.console.shows import TABLES
from sojourn.gateways.postgres.messages import Backend, Frontend, Refusal, name_of

SOCKET_COLUMNS = (
    "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us "
    "close_needed ptr link remote_pid tls application_name prepared_statements id"
)
COUNTERS = (
    "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time "
    "client_parse_count server_parse_count bind_count"
)
PGBOUNCER = {
    "POOLS": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active "
    "sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode "
    "load_balance_hosts",
    "CLIENTS": SOCKET_COLUMNS,
    "SERVERS": SOCKET_COLUMNS,
    "SOCKETS": SOCKET_COLUMNS + " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail",
    "ACTIVE_SOCKETS": SOCKET_COLUMNS
    + " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail",
    "DATABASES": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime "
    "pool_mode load_balance_hosts max_connections current_connections max_client_connections "
    "current_client_connections paused disabled",
    "USERS": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections "
    "max_user_client_connections current_client_connections",
    "STATS": "database total_server_assignment_count total_xact_count total_query_count total_received total_sent "
    "total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count "
    "total_bind_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time "
    "avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count",
    "STATS_TOTALS": f"database {COUNTERS}",
    "STATS_AVERAGES": f"database {COUNTERS}",
    "TOTALS": "name value",
    "LISTS": "list items",
    "CONFIG": "key value default changeable",
    "MEM": "name size used free memtotal",
    "DNS_HOSTS": "hostname ttl addrs",
    "DNS_ZONES": "zonename serial count",
    "PEERS": "peer_id host port pool_size",
    "PEER_POOLS": "database cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login",
    "STATE": "key value",
    "VERSION": "version",
}
EXACT = {"LISTS", "CONFIG", "TOTALS", "VERSION", "STATS_TOTALS"}


async def rows_of(server: ConsoleServer, sql: str, user: str = "admin") -> list[dict[str, object]]:
    """Ask with psycopg, in text format."""
    connection = await psycopg.AsyncConnection.connect(server.dsn(user), autocommit=True)
    async with connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql)
        return await cursor.fetchall() if cursor.description else []


def answer(console: Console, sql: bytes, *, is_admin: bool = True) -> list[tuple[int, bytes]]:
    """Return the messages that answer one simple query."""
    messages, rest = wire.split(asyncio.run(console.execute(sql, is_admin)))
    assert rest == b""
    return messages


def error_of(console: Console, sql: bytes, *, is_admin: bool = True) -> dict[str, str]:
    """Return the fields of the error that is the last answer."""
    kind, body = answer(console, sql, is_admin=is_admin)[-1]
    assert name_of(Backend, kind) == "ErrorResponse"
    return wire.error_fields(body)


# Compatible with PgBouncer


@pytest.mark.parametrize("name", PGBOUNCER)
def test_a_table_begins_with_the_columns_of_pgbouncer_in_their_order(name):
    """PgBouncer 1.25 usage, "Show commands": scripts cut by position, exporters look by name."""
    wanted = PGBOUNCER[name].split()
    found = [column.name for column in columns_of(TABLES[name].row_type)]
    assert found[: len(wanted)] == wanted
    if name in EXACT:
        assert len(found) == len(wanted)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_shown_by_real_drivers_of_both_protocols(run, name):
    """Simple protocol by psycopg, extended with binary results by asyncpg: the same rows."""

    async def scenario():
        async with console_server() as server:
            simple = await rows_of(server, f"SHOW {name};", user="watcher")
            connection = await asyncpg.connect(
                server.dsn("watcher").replace(" ", "&").join(("postgres://?", ""))
            )
            extended = [dict(row) for row in await connection.fetch(f"show {name.lower()}")]
            await connection.close()
            assert simple == extended
            assert bool(simple) == (name not in {"DNS_HOSTS", "DNS_ZONES", "PEERS", "PEER_POOLS"})

    run(scenario())


def test_values_come_as_numbers_text_and_null(run):
    """Integers are int8, instants are text in UTC as PgBouncer writes them, a client's odd bytes stay readable."""

    async def scenario():
        async with console_server() as server:
            first, second = await rows_of(server, "SHOW CLIENTS")
            assert first["port"] == 40_001
            assert first["connect_time"] == "2023-11-14 22:13:20 UTC"
            assert first["pinned"] == "temporary table"
            assert second["request_time"] == ""
            assert second["waits_for"] == "a new primary"
            pools = await rows_of(server, "SHOW POOLS")
            assert pools[0]["maxwait_us"] == 5
            assert pools[0]["load_balance_hosts"] is None
            assert (await rows_of(server, "SHOW USERS"))[1]["name"] == "b\u00e9n"
            assert (await rows_of(server, "SHOW STATEMENTS"))[0]["statement"] == "SELECT \ufffd ?"
            sockets = await rows_of(server, "SHOW ACTIVE_SOCKETS")
            assert [row["state"] for row in sockets] == ["cl_active", "sv_active"]

    run(scenario())


def test_lists_have_every_kind_that_pgbouncer_counts(run):
    """An exporter reads free_servers and dns_names, whether there are any or not."""

    async def scenario():
        async with console_server() as server:
            lists = {row["list"]: row["items"] for row in await rows_of(server, "SHOW LISTS")}
            assert lists["databases"] == 2
            assert lists["free_servers"] == lists["dns_pending"] == 0
            assert lists["nodes"] == 2

    run(scenario())


def test_psql_shows_help_tables_and_what_a_switchover_did(run):
    """Issue 3 item 8: ``psql -d sojourn``; help is a notice, as PgBouncer's."""

    async def scenario():
        async with console_server() as server:
            status, out, errors = await psql(server, "SHOW HELP")
            assert (status, out) == (0, "SHOW\n")
            assert "NOTICE:  00000: Console usage" in errors
            assert "SWITCHOVER <cluster> [TO <node>]" in errors
            status, out, errors = await psql(
                server, "SHOW POOLS;", "SWITCHOVER main TO db-2", "SHOW VERSION", "SHOW"
            )
            assert status == 0
            assert out.startswith("database|user|cl_active|")
            assert "\nshop|ana|3|1|" in out
            assert "SWITCHOVER\n" in out
            assert "PgBouncer 1.25.0 compatible console of Sojourn 0.1.0" in out
            assert "the primary is now db-2" in errors
            assert server.view.calls == [("switchover", "main", "db-2")]

    run(scenario())


# Commands


@pytest.mark.parametrize(
    ("sql", "call"),
    [
        (b"PAUSE", ("pause", None)),
        (b"pause shop;", ("pause", "shop")),
        (b'PAUSE "my-db" -- now', ("pause", "my-db")),
        (b"PAUSE my-db", ("pause", "my-db")),
        (b"/* for the restart */ RESUME 'stock'", ("resume", "stock")),
        (b"DISABLE shop", ("disable", "shop")),
        (b"ENABLE shop", ("enable", "shop")),
        (b"RELOAD", ("reload",)),
        (b"RECONNECT", ("reconnect", None)),
        (b"KILL shop", ("kill", "shop")),
        (b"KILL", ("kill", None)),
        (b"KILL_CLIENT 12", ("kill_client", 12)),
        (b"SWITCHOVER main", ("switchover", "main", None)),
        (b"SWITCHOVER main to db-2", ("switchover", "main", "db-2")),
        (b"SHUTDOWN", ("shutdown", "")),
        (b"shutdown wait_for_clients", ("shutdown", "WAIT_FOR_CLIENTS")),
        (b"SET query_timeout = 5", ("set", "query_timeout", "5")),
        (b"SET query_timeout TO '5'", ("set", "query_timeout", "5")),
        (b"AUDIT shop", ("audit", "shop")),
    ],
)
def test_a_command_reaches_the_engine_and_is_answered_with_its_name(sql, call):
    """PgBouncer 1.25 usage, "Process controlling commands", and ours: any case, comments, quotes."""
    view = FakeView()
    messages = answer(Console(view), sql)
    assert view.calls == [call]
    name = commands(sql)[0].verb
    assert messages[-1] == (Backend.COMMAND_COMPLETE, name.encode() + b"\0")


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        (b"DESTROY shop", "42601"),
        (b"SHOW NOTHING", "42601"),
        (b"SHOW a b", "42601"),
        (b"DISABLE", "42601"),
        (b"PAUSE a b", "42601"),
        (b"PAUSE (", "42601"),
        (b"RELOAD now", "42601"),
        (b"KILL_CLIENT ana", "42601"),
        (b"KILL_CLIENT " + b"9" * 30, "42601"),
        (b"SWITCHOVER", "42601"),
        (b"SWITCHOVER main AT db-2", "42601"),
        (b"SHUTDOWN soon", "42601"),
        (b"SHUTDOWN 'WAIT_FOR_CLIENTS'", "42601"),
        (b"SET", "42601"),
        (b"SET query_timeout", "42601"),
        (b"SET query_timeout = (1)", "42601"),
        (b"SET nothing = 1", "42704"),
        (b"SET max_client_conn = 1", "55P02"),
        (b"SET client_encoding = 'LATIN1'", "0A000"),
        (b"SELECT * FROM pg_class", "0A000"),
        (b"SELECT 1 1", "0A000"),
        (b"SELECT", "0A000"),
        (b"SUSPEND", "0A000"),
        (b"SHOW FDS", "0A000"),
        (b"PAUSE nowhere", "3D000"),
        (b"PAUSE 'shop", "42601"),
        (b"/* no end", "42601"),
        (b'"SHOW" POOLS', "42601"),
        (b"PAUSE \xff", "22021"),
        (b"SHOW VERSION;" * (MAX_COMMANDS + 1), "54000"),
    ],
)
def test_bad_input_is_an_error_with_its_own_sqlstate_and_changes_nothing(sql, sqlstate):
    """Issue 3, "Bad input"; a refusal of the engine is an error of the statement, whatever its severity."""
    view = FakeView()
    fields = error_of(Console(view), sql)
    assert fields["C"] == sqlstate
    assert fields["S"] == fields["V"] == "ERROR"
    assert view.calls == []


def test_an_unknown_command_names_the_way_to_the_known_ones():
    """Nothing the peer sent comes back to it; the hint says where the commands are."""
    fields = error_of(Console(FakeView()), b"DROP TABLE secret_table")
    assert "secret" not in str(fields)
    assert "SHOW HELP" in fields["H"]


@pytest.mark.parametrize(
    "sql", [b"PAUSE", b"RELOAD", b"SET query_timeout = 1", b"AUDIT", b"SHUTDOWN", b"KILL shop", b"SUSPEND"]
)
def test_a_stats_user_may_only_look(sql):
    """PgBouncer's stats_users: SHOW only."""
    view = FakeView()
    assert error_of(Console(view), sql, is_admin=False)["C"] == "42501"
    assert view.calls == []


def test_a_failure_ends_a_string_of_commands_and_the_earlier_ones_stay_done():
    """Several statements in one Query: as PostgreSQL, without its implicit transaction."""
    view = FakeView()
    kinds = [name_of(Backend, kind) for kind, _ in answer(Console(view), b"PAUSE shop; NONSENSE; RELOAD")]
    assert kinds == ["CommandComplete", "ErrorResponse"]
    assert view.calls == [("pause", "shop")]


@pytest.mark.parametrize("sql", [b"", b" ;; ", b"-- nothing", b"/* nothing */;"])
def test_a_string_without_a_command_is_an_empty_query(sql):
    """PostgreSQL protocol, "Simple Query": EmptyQueryResponse."""
    assert answer(Console(FakeView()), sql) == [(Backend.EMPTY_QUERY_RESPONSE, b"")]


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (ConfigError([PROBLEM, PROBLEM]), "F0000"),
        (BackendUnavailable("db-1 at secret.example", 2.0, "refused"), "08006"),
        (LimitExceeded("secret", 2, 1), "53400"),
        (SojournError("secret"), "XX000"),
    ],
)
def test_what_fails_inside_is_told_by_its_kind_only(error, sqlstate):
    """STYLE, "Errors": no exception's text is sent to a peer."""
    view = FakeView()
    view.reload_error = error
    fields = error_of(Console(view), b"RELOAD")
    assert fields["C"] == sqlstate
    assert "secret" not in str(fields)
    assert "many" not in str(fields)


# What drivers say unasked


@pytest.mark.parametrize(
    ("sql", "tags"),
    [
        (b"BEGIN", [b"BEGIN"]),
        (b"START TRANSACTION READ ONLY; COMMIT", [b"START TRANSACTION", b"COMMIT"]),
        (b"rollback", [b"ROLLBACK"]),
        (b"SET application_name = 'x'", [b"SET"]),
        (b"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", [b"SET"]),
        (b"SET TIME ZONE 'UTC'", [b"SET"]),
        (b"SET NAMES 'utf-8'", [b"SET"]),
        (b"SET datestyle TO ISO, MDY", [b"SET"]),
        (b"DISCARD ALL", [b"DISCARD ALL"]),
        (
            b"SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
            [b"SELECT 1", b"CLOSE CURSOR", b"UNLISTEN", b"RESET"],
        ),
    ],
)
def test_what_drivers_say_around_everything_is_answered_with_its_tag(sql, tags):
    """Drivers' transactions, resets and settings have nothing to change here, for stats users neither."""
    found = [
        wire.command_tag(body)
        for kind, body in answer(Console(FakeView()), sql, is_admin=False)
        if kind == Backend.COMMAND_COMPLETE
    ]
    assert found == tags


@pytest.mark.parametrize(
    ("sql", "column", "value"),
    [
        ("SELECT 1", "?column?", 1),
        ("select -7 AS minus", "minus", -7),
        ("SELECT 'it''s'", "?column?", "it's"),
        ("SELECT version()", "version", "PgBouncer 1.25.0 compatible console of Sojourn 0.1.0"),
        ("SELECT pg_catalog.pg_is_in_recovery()", "pg_is_in_recovery", "f"),
        ("SHOW client_encoding", "client_encoding", "UTF8"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation", "read committed"),
        ("SHOW transaction_read_only", "transaction_read_only", "off"),
        ("SHOW max_client_conn", "max_client_conn", "10000"),
        ("SHOW auth_query", "auth_query", None),
    ],
)
def test_constants_and_settings_are_answered(run, sql, column, value):
    """Health checks and libpq's target_session_attrs; and SHOW of one setting of ours."""

    async def scenario():
        async with console_server() as server:
            assert await rows_of(server, sql) == [{column: value}]

    run(scenario())


def test_psycopg_works_with_its_own_transactions_and_prepared_statements(run):
    """psycopg sends BEGIN, COMMIT and, when it prepares, Parse with names and DEALLOCATE."""

    async def scenario():
        async with (
            console_server() as server,
            await psycopg.AsyncConnection.connect(server.dsn()) as connection,
        ):
            for _ in range(3):
                cursor = await connection.execute("SHOW DATABASES", prepare=True)
                assert len(await cursor.fetchall()) == 2
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
            await connection.commit()
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            with pytest.raises(psycopg.errors.SyntaxError):
                await connection.execute("NONSENSE", prepare=True)
            await connection.rollback()
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute("SHOW POOLS")
                row = await cursor.fetchone()
                assert row is not None
                assert row[:3] == ("shop", "ana", 3)
            await connection.execute("DEALLOCATE ALL")
            await connection.execute("SHOW DATABASES", prepare=True)

    run(scenario())


def test_asyncpg_works_with_transactions_cursors_and_a_pool(run):
    """asyncpg speaks the extended protocol, asks for binary, fetches in parts, and resets a pool's connections."""

    async def scenario():
        async with console_server() as server:
            async with asyncpg.create_pool(server.url(), min_size=1, max_size=1) as pool:
                assert await pool.fetchval("SELECT 1") == 1
                assert (await pool.fetchrow("SHOW SERVERS"))["timeline"] == 4
                assert await pool.execute("PAUSE shop") == "PAUSE"
                assert (await pool.fetch("AUDIT"))[0]["actual"] == "64MB"
                async with pool.acquire() as connection, connection.transaction():
                    found = [row["list"] async for row in connection.cursor("SHOW LISTS", prefetch=4)]
                    assert len(found) == 15
                reader = await asyncpg.connect(server.url("watcher"))
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await reader.fetch("AUDIT")
                await reader.close()
            assert server.view.calls == [("pause", "shop"), ("audit", None)]

    run(scenario())


# Waiting


def test_wait_close_answers_when_the_engine_says_so(run):
    """PgBouncer: WAIT_CLOSE waits; others are served meanwhile."""

    async def scenario():
        async with console_server() as server, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(psql(server, "PAUSE shop", "WAIT_CLOSE shop", "RESUME shop"))
            await asyncio.wait_for(server.view.entered.wait(), WITHIN_S)
            shown = await rows_of(server, "SHOW DATABASES")
            assert [row["paused"] for row in shown] == [1, 0]
            assert not waiting.done()
            server.view.released.set()
            assert (await waiting)[:2] == (0, "PAUSE\nWAIT_CLOSE\nRESUME\n")
            assert server.view.paused == set()

    run(scenario())


def test_a_wait_ends_when_its_operator_cancels_and_the_connection_stays(run):
    """A CancelRequest ends the command with 57014."""

    async def scenario():
        async with console_server() as server, asyncio.TaskGroup() as tasks:
            connection = await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True)
            waiting = tasks.create_task(_failing(connection))
            await asyncio.wait_for(server.view.entered.wait(), WITHIN_S)
            await connection.cancel_safe()
            assert await waiting == "57014"
            await connection.execute("SHOW POOLS")
            await connection.close()

    run(scenario())


async def _failing(connection: psycopg.AsyncConnection) -> str | None:
    with pytest.raises(psycopg.Error) as caught:
        await connection.execute("WAIT_CLOSE")
    return caught.value.sqlstate


def test_a_wait_ends_when_its_operator_goes_away(run):
    """Nothing waits for somebody who is gone."""

    async def scenario():
        async with console_server() as server:
            talk = await _raw(server)
            talk.write(wire.query("WAIT_CLOSE"))
            await asyncio.wait_for(server.view.entered.wait(), WITHIN_S)
            talk.close()
            await asyncio.wait_for(server.view.left.wait(), WITHIN_S)
            await asyncio.wait_for(server.ended.acquire(), WITHIN_S)

    run(scenario())


# The extended protocol, byte by byte


class Raw:
    """A client that sends whatever bytes it is told to, after an honest login."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.write = writer.write
        self.close = writer.close
        self._rest = b""

    async def until(self, kind: int = Backend.READY_FOR_QUERY) -> list[tuple[str, bytes]]:
        """Return the messages up to the next of this kind, or to the end of the connection."""
        found: list[tuple[str, bytes]] = []
        while True:
            messages, self._rest = wire.split(self._rest)
            found += [(name_of(Backend, number), body) for number, body in messages]
            if found and found[-1][0] == name_of(Backend, kind):
                return found
            data = await asyncio.wait_for(self._reader.read(65_536), WITHIN_S)
            if not data:
                return found
            self._rest += data


async def _raw(server: ConsoleServer) -> Raw:
    raw = Raw(*await asyncio.open_connection("127.0.0.1", server.port))
    raw.write(wire.startup_message({"user": "admin", "database": "sojourn"}))
    await raw.until()
    return raw


def _bind(statement: bytes, formats: tuple[int, ...], portal: bytes = b"") -> bytes:
    plain = wire.bind(portal, statement)
    body = plain[5:-2] + struct.pack(f"!h{len(formats)}h", len(formats), *formats)
    return wire.message(Frontend.BIND, body)


def _ask(*parts: bytes) -> bytes:
    return b"".join(parts) + wire.sync()


def test_a_portal_gives_its_rows_in_parts_and_in_the_formats_asked_for(run):
    """PostgreSQL protocol, "Extended Query": PortalSuspended, Describe of a portal, one format per column."""

    async def scenario():
        async with console_server() as server:
            raw = await _raw(server)
            raw.write(
                _ask(
                    wire.parse(b"s", b"SHOW LISTS"),
                    wire.describe_statement(b"s"),
                    _bind(b"s", (0, 1), b"p"),
                    wire.describe_portal(b"p"),
                    wire.execute(b"p", 1),
                    wire.execute(b"p", 100),
                )
            )
            messages = await raw.until()
            names = [name for name, _ in messages]
            assert names[:8] == [
                "ParseComplete",
                "ParameterDescription",
                "RowDescription",
                "BindComplete",
                "RowDescription",
                "DataRow",
                "PortalSuspended",
                "DataRow",
            ]
            assert names[-2:] == ["CommandComplete", "ReadyForQuery"]
            assert names.count("DataRow") == 15
            assert [column.format for column in wire.columns(messages[2][1])] == [0, 0]
            assert [column.format for column in wire.columns(messages[4][1])] == [0, 1]
            assert wire.row_values(messages[5][1]) == [b"databases", b"\0" * 7 + b"\2"]
            raw.close()

    run(scenario())


@pytest.mark.parametrize(
    ("request_", "sqlstate"),
    [
        (_ask(wire.parse(b"", b"SHOW POOLS; PAUSE")), "42601"),
        (_ask(wire.parse(b"", b"SHOW POOLS", [23])), "0A000"),
        (_ask(wire.parse(b"", b"NONSENSE")), "42601"),
        (_ask(wire.parse(b"s", b"PAUSE"), wire.parse(b"s", b"PAUSE")), "42P05"),
        (_ask(wire.bind(b"", b"none")), "26000"),
        (_ask(wire.execute(b"none")), "34000"),
        (_ask(wire.describe_portal(b"none")), "34000"),
        (_ask(wire.parse(b"", b"PAUSE"), wire.bind(b"", b"", [b"1"])), "08P01"),
        (_ask(wire.parse(b"", b"SHOW LISTS"), _bind(b"", (0, 0, 0))), "08P01"),
        (_ask(wire.parse(b"", b"SHOW LISTS"), _bind(b"", (2,))), "08P01"),
        (_ask(wire.message(Frontend.PARSE, b"no end")), "08P01"),
        (_ask(wire.message(Frontend.DESCRIBE, b"X\0")), "08P01"),
        (wire.message(Frontend.QUERY, b"no end"), "08P01"),
        (wire.message(Frontend.QUERY, b"SHOW\0POOLS\0"), "08P01"),
        (wire.message(Frontend.FUNCTION_CALL, b""), "0A000"),
    ],
)
def test_a_broken_request_is_one_error_and_the_connection_goes_on(run, request_, sqlstate):
    """PostgreSQL protocol: after an error everything is skipped up to Sync, which is answered."""

    async def scenario():
        async with console_server() as server:
            raw = await _raw(server)
            raw.write(request_)
            messages = await raw.until()
            errors = [wire.error_fields(body)["C"] for name, body in messages if name == "ErrorResponse"]
            assert errors == [sqlstate]
            raw.write(wire.query("SHOW VERSION"))
            assert next(name for name, _ in await raw.until()) == "RowDescription"
            assert server.view.calls == []
            raw.close()

    run(scenario())


def test_after_an_error_nothing_runs_until_sync(run):
    """PostgreSQL protocol, "Extended Query": not even a simple query; a copy's messages are ignored."""

    async def scenario():
        async with console_server() as server:
            raw = await _raw(server)
            raw.write(
                wire.parse(b"", b"NONSENSE")
                + wire.query("PAUSE")
                + wire.flush()
                + wire.copy_done()
                + wire.execute(b"")
                + wire.sync()
            )
            assert [name for name, _ in await raw.until()] == ["ErrorResponse", "ReadyForQuery"]
            raw.write(_ask(wire.parse(b"", b""), wire.bind(b"", b""), wire.execute(b"")))
            names = [name for name, _ in await raw.until()]
            assert names == ["ParseComplete", "BindComplete", "EmptyQueryResponse", "ReadyForQuery"]
            assert server.view.calls == []
            raw.close()

    run(scenario())


class Script:
    """An operator whose messages are known before, and who then ends."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = wire.split(b"".join(messages) + wire.terminate())[0]
        self.sent = b""

    def send(self, data: bytes) -> None:
        self.sent += data

    async def receive(self) -> tuple[int, bytes]:
        return self._messages.pop(0)


def test_serving_ends_with_terminate_and_portals_end_with_their_cycle():
    """PostgreSQL protocol: Close is answered, Sync ends a portal outside a transaction, Terminate is not answered."""
    script = Script(
        _ask(wire.parse(b"s", b"SELECT 1, 'a' AS b"), wire.bind(b"p", b"s")),
        _ask(wire.execute(b"p")),
        _ask(wire.close_statement(b"s"), wire.close_portal(b"p"), wire.describe_statement(b"s")),
    )
    asyncio.run(Conversation(Console(FakeView()), script, is_admin=False).serve())
    names = [name_of(Backend, kind) for kind, _ in wire.split(script.sent)[0]]
    assert names == [
        *("ParseComplete", "BindComplete", "ReadyForQuery"),
        *("ErrorResponse", "ReadyForQuery"),
        *("CloseComplete", "CloseComplete", "ErrorResponse", "ReadyForQuery"),
    ]


def test_a_message_of_an_unknown_type_ends_the_connection(run):
    """PostgreSQL answers FATAL 08P01."""

    async def scenario():
        async with console_server() as server:
            raw = await _raw(server)
            raw.write(wire.message(0x7A, b"?"))
            ((name, body),) = await raw.until()
            assert name == "ErrorResponse"
            assert wire.error_fields(body)["S"] == "FATAL"
            raw.close()

    run(scenario())


# Averages and the language


def test_averages_are_those_of_the_last_whole_minute():
    """PgBouncer: counts per second; times per transaction, per query and per assignment."""
    averages = Averages()
    averages.tick(10.0, [TotalsRow("shop")])
    assert averages.of("shop") == TotalsRow("shop")
    grown = TotalsRow("shop", 30, 120, 600, 6_000, 60_000, 240, 1_200, 90, 60, 30, 120)
    averages.tick(40.0, [grown])
    assert averages.of("shop") == TotalsRow("shop")
    averages.tick(70.0, [grown, TotalsRow("new", xact_count=60)])
    assert averages.of("shop") == TotalsRow("shop", 0, 2, 10, 100, 1_000, 2, 2, 3, 1, 0, 2)
    assert averages.of("new").xact_count == 1
    assert averages.of("gone") == TotalsRow("gone")
    stats = averages.stats([grown])[0]
    assert (stats.total_sent, stats.avg_sent, stats.avg_wait_time) == (60_000, 1_000, 3)
    sums = {row.name: row.value for row in averages.sums([grown, TotalsRow("new", xact_count=60)])}
    assert sums["total_xact_count"] == 180
    assert sums["avg_xact_count"] == 3
    assert sums["total_client_bytes"] == 6_000


def test_a_total_that_went_down_averages_to_nothing():
    """A database that was removed and came back begins again."""
    averages = Averages()
    averages.tick(0.0, [TotalsRow("shop", xact_count=100, xact_time=5)])
    averages.tick(60.0, [TotalsRow("shop", xact_count=1, xact_time=1)])
    assert averages.of("shop") == TotalsRow("shop")


def test_the_console_takes_the_totals_once_a_minute(run):
    """A sweep that comes by more often asks nobody."""
    view = FakeView()
    console = Console(view)
    run(console.tick(0.0))
    view.totals = [TotalsRow("shop", xact_count=600)]
    assert not console.is_due(59.0)
    run(console.tick(60.0))
    kind, body = answer(console, b"SHOW STATS_AVERAGES")[1]
    assert kind == Backend.DATA_ROW
    assert wire.row_values(body)[2] == b"10"


def test_the_language_knows_words_names_strings_and_comments():
    """Several commands in one string; quotes keep case, semicolons and comment marks."""
    found = commands(b"show Pools; /* a; b */ pause \"A\"\"b\" -- c;\n;SET x='--;'''")
    assert found == [
        Command("SHOW", (Token("word", "Pools"),)),
        Command("PAUSE", (Token("name", 'A"b'),)),
        Command("SET", (Token("word", "x"), Token("mark", "="), Token("string", "--;'"))),
    ]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (b"SET a = b", ("a", "b")),
        (b"SET A TO 'B'", ("a", "B")),
        (b"SET LOCAL datestyle = iso, 'MDY'", ("datestyle", "iso, MDY")),
        (b"SET NAMES utf8", ("client_encoding", "utf8")),
        (b"SET TIME ZONE 'UTC'", ("timezone", "UTC")),
        (b"SET TRANSACTION READ ONLY", ("transaction", "")),
        (b"SET a=''", ("a", "")),
    ],
)
def test_an_assignment_has_a_key_and_a_value(sql, wanted):
    """PostgreSQL, SET: its forms."""
    assert assignment(commands(sql)[0]) == wanted


@pytest.mark.parametrize(
    "sql", [b"SET a", b"SET = 1", b"SET a =", b"SET a = = 1", b"SET 'a' = 1", b"SET LOCAL"]
)
def test_half_an_assignment_is_refused(sql):
    """PostgreSQL, SET: a key and a value are both wanted."""
    with pytest.raises(Refusal):
        assignment(commands(sql)[0])


def test_long_garbage_is_read_in_linear_time():
    """No text makes the language's patterns search for long."""
    for garbage in (
        b"'" * 100_001,
        b"/*" * 50_000,
        b"*/" * 50_000,
        b'"' * 100_001,
        b"-" * 100_000,
        b"/" * 100_000,
    ):
        try:
            assert len(commands(b"SHOW " + garbage)) <= MAX_COMMANDS
        except Refusal:
            continue


def test_a_row_has_a_place_for_every_column():
    """The columns are made of the fields, so values and columns cannot differ in number."""
    row = ClientRow(user="ana")
    assert len(row.values()) == len(columns_of(ClientRow))
