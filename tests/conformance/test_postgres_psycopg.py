"""psycopg 3 through the gateway: what each use of it returns is compared with what it returns without us.

Each use gets a target and returns everything that its user can see. Where session state matters, other clients work
between its steps, so that in transaction mode its server changes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import itertools
import threading
import uuid

import pytest
from postgres_lab import DIRECT, OURS, SESSION, TRANSACTION, running_lab

pytest.importorskip("psycopg")

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

TABLES = """
CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10, 2));
INSERT INTO item SELECT n, 'item ' || n, n FROM generate_series(1, 500) n;
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server with a table for the whole module."""
    with running_lab(tmp_path_factory.mktemp("psycopg")) as running:
        assert running.direct.psql(TABLES, "--set=ON_ERROR_STOP=1").returncode == 0
        yield running


def connected(target, **more):
    """Connect; nobody waits for ever."""
    return psycopg.connect(target.dsn(), connect_timeout=10, **more)


def crowd(target, count=8):
    """Let other clients use every idle server at once, each with settings of its own."""
    with_all = [connected(target) for _ in range(count)]
    try:
        for number, other in enumerate(with_all):
            other.execute(f"SET application_name = 'other {number}'")
        for other in with_all:
            other.execute("SET search_path TO pg_catalog")
        for other in with_all:
            other.commit()
    finally:
        for other in with_all:
            other.close()


def types(target):
    """Send and fetch values of many types, as text and in binary."""
    values = (
        1, 2**40, decimal.Decimal("1.50"), 1.25, True, None, "ä€😀", b"\0\1\xff", [1, None, 3], ["a", 'b,"c'],
        dt.date(2026, 2, 28), dt.datetime(2026, 2, 28, 12, tzinfo=dt.UTC), dt.timedelta(days=2, seconds=3),
        uuid.UUID(int=7), Jsonb({"a": [1, {"b": None}]}),
    )  # fmt: skip
    seen = []
    with connected(target) as connection:
        for is_binary in (False, True):
            cursor = connection.cursor(binary=is_binary)
            for value in values:
                cast = "%s::text" if isinstance(value, str) else "%b" if is_binary else "%s"
                cursor.execute(f"SELECT {cast}", (value,), binary=is_binary)
                seen.append((cursor.fetchone(), cursor.description[0].type_code, cursor.statusmessage))
    return seen


def errors(target):
    """Break rules, and see SQLSTATE, fields and what is left of the transaction."""
    seen = []
    with connected(target, autocommit=True) as connection:
        for statement in (
            "SELECT 1/0",
            "SELEC",
            "SELECT * FROM missing",
            "INSERT INTO item VALUES (1)",
            "SELECT 'x'::int",
            "DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'ZZ001', DETAIL = 'd', HINT = 'h'; END $$",
        ):
            for parameters in (None, ()):
                with pytest.raises(psycopg.Error) as raised:
                    connection.execute(statement, parameters, prepare=parameters is not None)
                diagnosis = raised.value.diag
                seen.append(
                    (type(raised.value).__name__, diagnosis.sqlstate, diagnosis.message_primary,
                     diagnosis.message_detail, diagnosis.message_hint, diagnosis.statement_position,
                     diagnosis.constraint_name, connection.info.transaction_status.name)
                )  # fmt: skip
    return seen


def transactions(target):
    """Commit, roll back, nest, and be in an aborted transaction."""
    seen = []
    with connected(target) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS work (a int)")
        connection.execute("TRUNCATE work")
        connection.commit()
        with connection.transaction():
            connection.execute("INSERT INTO work VALUES (1)")
            with pytest.raises(ZeroDivisionError), connection.transaction():  # noqa: PT012 - how it is left is the point
                connection.execute("INSERT INTO work VALUES (2)")
                raise ZeroDivisionError
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        seen.append(connection.info.transaction_status.name)
        connection.rollback()
        for level in psycopg.IsolationLevel:
            connection.isolation_level = level
            seen.append(connection.execute("SHOW transaction_isolation").fetchone())
            connection.commit()
        connection.read_only = True
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO work VALUES (9)")
        connection.rollback()
        seen.append(connection.execute("SELECT * FROM work").fetchall())
    return seen


def prepared(target):
    """Use statements so often that they are prepared, while others use the same servers."""
    seen = []
    with connected(target, autocommit=True, prepare_threshold=2) as connection:
        for number in range(6):
            seen.append(connection.execute("SELECT name FROM item WHERE id = %s", (number,)).fetchall())
            seen.append(connection.execute("SELECT %s::int + 1", (number,)).fetchone())
            crowd(target)
        connection.execute("DEALLOCATE ALL")
        seen.append(connection.execute("SELECT name FROM item WHERE id = 5", prepare=True).fetchall())
        connection.prepared_max = 2
        seen.extend(connection.execute(f"SELECT {n} + %s", (1,), prepare=True).fetchone() for n in range(8))
    return seen


def changed_result(target):
    """Change a table under a prepared statement: "cached plan must not change result type", as without us."""
    seen = []
    with connected(target, autocommit=True) as connection, connected(target, autocommit=True) as other:
        other.execute("DROP TABLE IF EXISTS moving")
        other.execute("CREATE TABLE moving (a int)")
        seen.append(connection.execute("SELECT * FROM moving", prepare=True).fetchall())
        other.execute("ALTER TABLE moving ADD b text")
        try:
            seen.append(connection.execute("SELECT * FROM moving", prepare=True).fetchall())
        except psycopg.errors.FeatureNotSupported as error:
            seen.append(error.diag.message_primary)
    return seen


def pipelines(target):
    """Send batches without waiting, with an error in the middle of one."""
    seen = []
    with connected(target, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(50)]
            pipeline.sync()
            seen.extend(cursor.fetchone() for cursor in cursors)
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline() as pipeline:  # noqa: PT012 - how it is left is the point
            connection.execute("SELECT 1")
            connection.execute("SELECT 1/0")
            with pytest.raises(psycopg.errors.PipelineAborted):
                connection.execute("SELECT 2").fetchall()
        with connection.pipeline(), connection.transaction():
            kept = connection.execute("SELECT count(*) FROM item")
        seen.append(kept.fetchone())
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE many (a int)")
            cursor.executemany("INSERT INTO many VALUES (%s)", [(number,) for number in range(300)])
            cursor.executemany("SELECT %s::int * 2", [(1,), (2,)], returning=True)
            seen.append([result.fetchone() for result in cursor.results()])
            seen.append(cursor.execute("SELECT sum(a) FROM many").fetchone())
        seen.append(connection.info.transaction_status.name)
    return seen


def copies(target):
    """COPY both ways, as text and in binary, large, failing in the client, failing in the server, and left early."""
    seen = []
    with connected(target) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE IF NOT EXISTS loaded (a int, b text)")
        cursor.execute("TRUNCATE loaded")
        with cursor.copy("COPY loaded FROM STDIN") as copy:
            for number in range(20_000):
                copy.write_row((number, "x" * 50))
        seen.append(cursor.statusmessage)
        with cursor.copy("COPY loaded FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(("int4", "text"))
            copy.write_row((1, "ä"))
        with cursor.copy("COPY loaded TO STDOUT (FORMAT binary)") as copy:
            seen.append(sum(len(part) for part in copy))
        with cursor.copy("COPY (SELECT a FROM loaded ORDER BY a LIMIT 5) TO STDOUT") as copy:
            seen.append(list(copy.rows()))
        connection.commit()
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY loaded FROM STDIN") as copy:  # noqa: PT012 - how it is left is the point
            copy.write("1\tone\n")
            raise ZeroDivisionError
        seen.append(connection.info.transaction_status.name)
        connection.rollback()
        with pytest.raises(psycopg.errors.BadCopyFileFormat), cursor.copy("COPY loaded FROM STDIN") as copy:
            copy.write("1\ttoo\tmany\n")
        seen.append(connection.info.transaction_status.name)
        connection.rollback()
        big = "COPY (SELECT repeat('y', 1000) FROM generate_series(1, 20000)) TO STDOUT"
        with pytest.raises(ZeroDivisionError), cursor.copy(big) as copy:  # noqa: PT012 - how it is left is the point
            seen.append(len(next(iter(copy))))
            raise ZeroDivisionError
        seen.append(connection.info.transaction_status.name)
        connection.rollback()
        seen.append(cursor.execute("SELECT count(*) FROM loaded").fetchone())
        connection.execute("DROP TABLE loaded")
    return seen


def cursors(target):
    """Read by portals, scroll, and hold a cursor over the end of its transaction while others work."""
    seen = []
    with connected(target) as connection:
        with connection.cursor("plain") as cursor:
            cursor.itersize = 30
            cursor.execute("SELECT id FROM item ORDER BY id")
            seen.append(list(itertools.islice(cursor, 100)))
        with connection.cursor("scrolling", scrollable=True) as cursor:
            cursor.execute("SELECT id FROM item ORDER BY id")
            cursor.scroll(100)
            seen.append(cursor.fetchone())
            cursor.scroll(-50)
            seen.append(cursor.fetchone())
        connection.commit()
        held = connection.cursor("held", withhold=True)
        held.execute("SELECT id FROM item ORDER BY id")
        connection.commit()
        crowd(target)
        seen.append(held.fetchmany(3))
        connection.commit()
        crowd(target)
        seen.append(held.fetchmany(3))
        held.close()
        with connection.cursor(row_factory=dict_row) as cursor:
            seen.append(list(cursor.stream("SELECT id, name FROM item ORDER BY id LIMIT 200", size=1)))
    return seen


def settings(target):
    """Set what a session keeps, and find it again after others used the servers."""
    seen = []
    with connected(target, autocommit=True, options="-c statement_timeout=7s") as connection:
        connection.execute("SET search_path TO public, pg_temp")
        connection.execute("SET TIME ZONE 'Europe/Berlin'")
        connection.execute("SELECT set_config('my.flavour', 'vanilla', false)")
        for _ in range(3):
            crowd(target)
            seen.append(
                connection.execute(
                    "SELECT current_setting('search_path'), current_setting('TimeZone'),"
                    " current_setting('my.flavour'), current_setting('statement_timeout')"
                ).fetchone()
            )
        seen.append(connection.info.timezone.key)
        seen.append(connection.info.parameter_status("application_name"))
        connection.execute("SET application_name = 'mine'")
        seen.append(connection.info.parameter_status("application_name"))
        crowd(target)
        seen.append(connection.execute("SHOW application_name").fetchone())
        connection.execute("BEGIN")
        connection.execute("SET work_mem = '9MB'")
        connection.execute("ROLLBACK")
        seen.append(connection.execute("SHOW work_mem").fetchone())
        connection.execute("RESET ALL")
        crowd(target)
        seen.append(connection.execute("SELECT current_setting('search_path')").fetchone())
    return seen


def temporary_objects(target):
    """Keep a temporary table, a sequence's last value, an advisory lock and a SQL-level statement."""
    seen = []
    with connected(target, autocommit=True) as connection, connected(target, autocommit=True) as other:
        connection.execute("CREATE TEMP TABLE mine (a int)")
        connection.execute("CREATE TEMP SEQUENCE numbers")
        connection.execute("SELECT nextval('numbers')")
        connection.execute("SELECT pg_advisory_lock(4711)")
        connection.execute("PREPARE later(int) AS SELECT $1 * 3")
        crowd(target)
        connection.execute("INSERT INTO mine VALUES (1)")
        crowd(target)
        seen.append(connection.execute("SELECT * FROM mine").fetchall())
        seen.append(connection.execute("SELECT currval('numbers')").fetchone())
        seen.append(other.execute("SELECT pg_try_advisory_lock(4711)").fetchone())
        seen.append(connection.execute("SELECT pg_advisory_unlock(4711)").fetchone())
        seen.append(other.execute("SELECT pg_try_advisory_lock(4711), pg_advisory_unlock(4711)").fetchone())
        seen.append(connection.execute("EXECUTE later(5)").fetchone())
        seen.append(other.execute("SELECT to_regclass('mine')").fetchone())
    return seen


def notifications(target):
    """Hear what others say, and oneself, with nothing else going on; also with others on the servers."""
    seen = []
    with connected(target, autocommit=True) as listener, connected(target, autocommit=True) as speaker:
        listener.execute("LISTEN news")
        crowd(target)
        for number in range(3):
            speaker.execute(sql.SQL("NOTIFY news, {}").format(f"item {number}"))
        seen.extend((one.channel, one.payload) for one in listener.notifies(timeout=20, stop_after=3))
        listener.execute("NOTIFY news, 'own'")
        seen.extend((one.channel, one.payload) for one in listener.notifies(timeout=20, stop_after=1))
        listener.execute("UNLISTEN *")
        speaker.execute("NOTIFY news, 'unheard'")
        listener.execute("LISTEN other")
        speaker.execute("NOTIFY other, 'heard'")
        seen.extend((one.channel, one.payload) for one in listener.notifies(timeout=20, stop_after=1))
    return seen


def notices(target):
    """Receive notices of every severity, with their fields."""
    seen = []
    with connected(target, autocommit=True) as connection:
        connection.add_notice_handler(
            lambda one: seen.append((one.severity, one.message_primary, one.sqlstate))
        )
        connection.execute("DO $$ BEGIN RAISE NOTICE 'a'; RAISE WARNING 'b'; END $$")
        connection.execute("DROP TABLE IF EXISTS never_was")
        connection.execute("SET client_min_messages = debug1")
        connection.execute("DO $$ BEGIN RAISE DEBUG 'c'; END $$")
    return [one for one in seen if one[0] != "DEBUG" or one[1] == "c"]


def cancels(target):
    """Cancel from another thread, and cancel when nothing runs."""
    seen = []
    with connected(target, autocommit=True) as connection:
        connection.cancel_safe(timeout=10)
        seen.append(connection.execute("SELECT 1").fetchone())
        for _ in range(3):
            timer = threading.Timer(0.1, connection.cancel_safe)
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(30)")
            timer.join()
            seen.append(connection.execute("SELECT 2").fetchone())
        connection.execute("SET statement_timeout = '20ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(30)")
        seen.append(connection.info.transaction_status.name)
    return seen


def two_phases(target):
    """Prepare a transaction here and finish it there."""
    seen = []
    with connected(target) as connection, connected(target, autocommit=True) as other:
        other.execute("CREATE TABLE IF NOT EXISTS phased (a int)")
        other.execute("TRUNCATE phased")
        for number, is_kept in ((1, True), (2, False)):
            name = connection.xid(7, f"{target.name}-{number}", "branch")
            connection.tpc_begin(name)
            connection.execute("INSERT INTO phased VALUES (%s)", (number,))
            connection.tpc_prepare()
            seen.append(other.execute("SELECT count(*) FROM phased").fetchone())
            seen.append([one.gtrid.rpartition("-")[2] for one in other.tpc_recover()])
            (connection.tpc_commit if is_kept else connection.tpc_rollback)()
            seen.append(other.execute("SELECT * FROM phased").fetchall())
    return seen


def several_statements(target):
    """Send several statements in one simple query, with an error in one of them."""
    seen = []
    with connected(target, autocommit=True) as connection:
        cursor = connection.execute("SELECT 1; SELECT 2 WHERE false; CREATE TEMP TABLE s (a int); SELECT 3")
        seen.extend((result.statusmessage, result.rowcount) for result in cursor.results())
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("CREATE TABLE not_kept (a int); SELECT 1/0")
        seen.append(connection.execute("SELECT to_regclass('not_kept')").fetchone())
        connection.execute("BEGIN; SELECT 1")
        seen.append(connection.info.transaction_status.name)
        connection.execute("COMMIT; BEGIN; SELECT 2")
        seen.append(connection.info.transaction_status.name)
        connection.execute("ROLLBACK")
        seen.append(connection.execute("").statusmessage)
    return seen


def much_data(target):
    """Send and fetch values of many megabytes, and a hundred thousand rows."""
    with connected(target) as connection:
        sent = "a€" * 3_000_000
        (length, back) = connection.execute("SELECT length(%s), %s::text", (sent, sent)).fetchone()
        rows = connection.execute("SELECT n, n::text FROM generate_series(1, 100000) n").fetchall()
        return length, back == sent, len(rows), rows[-1]


USES = (
    types, errors, transactions, prepared, changed_result, pipelines, copies, cursors, settings,
    temporary_objects, notifications, notices, cancels, two_phases, several_statements, much_data,
)  # fmt: skip


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_use_sees_the_same_as_without_us(lab, use, way):
    """Results, errors, statuses and notices are those of a direct connection."""
    expected = use(lab.target(DIRECT))
    if use is changed_result and way == TRANSACTION:
        # In transaction mode a plan that is invalid is mended: the table's new row instead of the error.
        assert expected[-1] == "cached plan must not change result type"
        expected[-1] = []
    assert use(lab.target(way)) == expected


async def _concurrently(target):
    """Have twenty asynchronous clients at once, each in transactions of its own, some cancelled in the middle."""

    async def client(number):
        async with await psycopg.AsyncConnection.connect(target.dsn(), autocommit=True) as connection:
            seen = []
            for step in range(10):
                async with connection.transaction():
                    cursor = await connection.execute("SELECT %s::int, %s::int", (number, step), prepare=True)
                    seen.append(await cursor.fetchone())
            if number % 5 == 0:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(connection.execute("SELECT pg_sleep(30)"), 0.2)
                seen.append(connection.info.transaction_status.name)
                seen.append(await (await connection.execute("SELECT 'after'")).fetchone())
            return seen

    async with asyncio.timeout(60):
        return await asyncio.gather(*(client(number) for number in range(20)))


@pytest.mark.parametrize("way", OURS)
def test_many_asynchronous_clients_see_the_same_as_without_us(lab, way):
    """Each gets its own answers only; cancelling a task cancels its statement and keeps its connection."""
    expected = asyncio.run(_concurrently(lab.target(DIRECT)))
    assert asyncio.run(_concurrently(lab.target(way))) == expected


@pytest.mark.parametrize("way", [DIRECT, SESSION])
def test_in_session_mode_the_catalog_lists_the_client_s_own_statements(lab, way):
    """In transaction mode pg_prepared_statements lists what the server holds for all its clients; here only ours."""
    with connected(lab.target(way), autocommit=True, prepare_threshold=0) as connection:
        connection.execute("SELECT %s::int + 1", (1,))
        rows = connection.execute("SELECT statement FROM pg_prepared_statements", prepare=False).fetchall()
    assert rows == [("SELECT $1::int + 1",)]


def test_a_server_is_shared_in_transaction_mode(lab):
    """The point of it: forty clients who are all connected use at most the pool's twelve servers."""
    target = lab.target("ours-transaction")
    clients = [connected(target, autocommit=True) for _ in range(40)]
    try:
        servers = {client.execute("SELECT pg_backend_pid()").fetchone() for client in clients}
    finally:
        for client in clients:
            client.close()
    assert len(servers) <= 12
