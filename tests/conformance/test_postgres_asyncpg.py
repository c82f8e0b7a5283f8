"""asyncpg through the gateway: it prepares everything it runs, in binary, and looks types up by itself.

Each use gets a function that connects, and returns everything that its user can see; that is compared with what the
same use returns without us.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import io
import ipaddress
import uuid

import pytest
from postgres_lab import DIRECT, OURS, running_lab

pytest.importorskip("asyncpg")

import asyncpg

TABLES = """
CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10, 2));
INSERT INTO item SELECT n, 'item ' || n, n FROM generate_series(1, 500) n;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b mood);
CREATE DOMAIN small AS int CHECK (VALUE < 10);
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server with a table and some types for the whole module."""
    with running_lab(tmp_path_factory.mktemp("asyncpg")) as running:
        assert running.direct.psql(TABLES, "--set=ON_ERROR_STOP=1").returncode == 0
        yield running


async def crowd(connect, count=8):
    """Let other clients use every idle server at once, each with settings of its own."""
    others = [await connect() for _ in range(count)]
    transactions = [other.transaction() for other in others]
    for other, transaction in zip(others, transactions, strict=True):
        await transaction.start()
        await other.execute("SET search_path TO pg_catalog")
    for transaction in transactions:
        await transaction.commit()
    for other in others:
        await other.close()


async def types(connect):
    """Send and fetch values of many types, of types that have to be looked up, and with codecs of one's own."""
    connection = await connect()
    seen = []
    for value, name in (
        (1, "int2"), (2**40, "int8"), (1.25, "float8"), (decimal.Decimal("12.50"), "numeric"), ("ä€😀", "text"),
        (b"\0\xff", "bytea"), (True, "bool"), (None, "text"), ([1, None], "int[]"), ([["a"], ["b"]], "text[]"),
        (dt.date(2026, 2, 28), "date"), (dt.datetime(2026, 2, 28, tzinfo=dt.UTC), "timestamptz"),
        (dt.timedelta(days=2), "interval"), (uuid.UUID(int=7), "uuid"), ('{"a": 1}', "jsonb"),
        (ipaddress.ip_address("192.0.2.1"), "inet"), (asyncpg.Range(1, 5), "int4range"), ("happy", "mood"),
        ((1, "sad"), "pair"), (["sad"], "mood[]"), (7, "small"), (asyncpg.Point(1, 2), "point"),
    ):  # fmt: skip
        seen.append(await connection.fetchval(f"SELECT $1::{name}", value))
    await connection.set_type_codec("jsonb", encoder=str, decoder=len, schema="pg_catalog")
    seen.append(await connection.fetchval("SELECT '{\"a\": 1}'::jsonb"))
    return seen


async def statements(connect):
    """Prepare, describe and use statements again after others used the servers; evict them from the cache."""
    connection = await connect(statement_cache_size=3)
    prepared = await connection.prepare("SELECT id, name FROM item WHERE id = $1")
    seen = [[(one.name, one.type.name) for one in prepared.get_attributes()], prepared.get_parameters()]
    for number in range(6):
        await crowd(connect)
        seen.append(await prepared.fetch(number))
        seen.append(await connection.fetchval(f"SELECT {number} + $1::int", number))
    seen.append(await connection.executemany("SELECT $1::int", [(n,) for n in range(100)]))
    await connection.reload_schema_state()
    seen.append(await prepared.fetchval(3))
    with pytest.raises(asyncpg.DataError):
        await prepared.fetch("text")
    return seen


async def changed_table(connect):
    """Change a table whose statements are cached: asyncpg prepares again where it is outside a transaction."""
    connection, other = await connect(), await connect()
    await other.execute(
        "DROP TABLE IF EXISTS moving; CREATE TABLE moving (a int); INSERT INTO moving VALUES (1)"
    )
    seen = [await connection.fetch("SELECT * FROM moving")]
    await other.execute("ALTER TABLE moving ADD b text DEFAULT 'new'")
    seen.append(await connection.fetch("SELECT * FROM moving"))
    await other.execute("ALTER TABLE moving ALTER a TYPE text")
    with pytest.raises(asyncpg.InvalidCachedStatementError):  # noqa: PT012 - how it is left is the point
        async with connection.transaction():
            await connection.execute("SELECT 1")
            await connection.fetch("SELECT * FROM moving")
    seen.append(await connection.fetch("SELECT * FROM moving"))
    return seen


async def transactions(connect):
    """Commit, roll back, nest; isolation levels; errors in the middle."""
    connection = await connect()
    await connection.execute("CREATE TABLE IF NOT EXISTS work (a int); TRUNCATE work")
    seen = []
    async with connection.transaction():
        await connection.execute("INSERT INTO work VALUES (1)")
        with pytest.raises(asyncpg.DivisionByZeroError):  # noqa: PT012 - how it is left is the point
            async with connection.transaction():
                await connection.execute("INSERT INTO work VALUES (2)")
                await connection.fetch("SELECT 1 / $1::int", 0)
    for isolation in ("read_committed", "repeatable_read", "serializable"):
        async with connection.transaction(isolation=isolation, readonly=True):
            seen.append(await connection.fetchval("SHOW transaction_isolation"))
            seen.append(await connection.fetchval("SHOW transaction_read_only"))
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT * FROM missing")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await connection.fetch("SELECT 1")
    await transaction.rollback()
    seen.append(await connection.fetch("SELECT * FROM work"))
    seen.append(connection.is_in_transaction())
    return seen


async def cursors(connect):
    """Read through portals, forwards and in steps."""
    connection = await connect()
    seen = []
    async with connection.transaction():
        seen.append(
            [row["id"] async for row in connection.cursor("SELECT id FROM item ORDER BY id", prefetch=7)]
        )
        cursor = await connection.cursor("SELECT id FROM item WHERE id > $1 ORDER BY id", 100)
        seen.append(await cursor.fetch(3))
        seen.append(await cursor.forward(10))
        seen.append(await cursor.fetchrow())
    with pytest.raises(asyncpg.NoActiveSQLTransactionError):
        await connection.cursor("SELECT 1")
    return seen


async def copies(connect):
    """COPY records, files and query results; fail on both sides."""
    connection = await connect()
    await connection.execute("CREATE TEMP TABLE loaded (a int, b text)")
    seen = [
        await connection.copy_records_to_table("loaded", records=[(n, "x" * 40) for n in range(20_000)]),
        await connection.copy_to_table("loaded", source=io.BytesIO(b"1\tone\n2\ttwo\n")),
    ]
    out = io.BytesIO()
    seen.append(
        await connection.copy_from_query("SELECT a FROM loaded WHERE a < $1 ORDER BY a", 5, output=out)
    )
    seen.append(out.getvalue())
    with pytest.raises(asyncpg.BadCopyFileFormatError):
        await connection.copy_to_table("loaded", source=io.BytesIO(b"1\ttoo\tmany\n"))

    async def failing():
        yield b"3\tthree\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await connection.copy_to_table("loaded", source=failing())
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.copy_from_table("missing", output=io.BytesIO())
    seen.append(await connection.fetchval("SELECT count(*) FROM loaded"))
    return seen


async def notifications(connect):
    """Hear notifications while idle and busy, also after others used the servers, and stop to hear them."""
    connection, speaker = await connect(), await connect()
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def listener(_connection, _pid, channel, payload):
        heard.put_nowait((channel, payload))

    await connection.add_listener("news", listener)
    await crowd(connect)
    await speaker.execute("NOTIFY news, 'one'")
    await speaker.execute("SELECT pg_notify('news', 'two')")
    seen = [await heard.get(), await heard.get()]
    await connection.execute("NOTIFY news, 'own'")
    seen.append(await heard.get())
    await connection.remove_listener("news", listener)
    await speaker.execute("NOTIFY news, 'unheard'")
    await connection.add_listener("other", listener)
    await speaker.execute("NOTIFY other, 'heard'")
    seen.append(await heard.get())
    return seen


async def cancellations(connect):
    """Time out and be cancelled, then go on with the same connection."""
    connection = await connect()
    seen = []
    for _ in range(3):
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch("SELECT pg_sleep(30)", timeout=0.1)
        seen.append(await connection.fetchval("SELECT 'after a timeout'"))
        task = asyncio.ensure_future(connection.fetch("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen.append(await connection.fetchval("SELECT 'after a cancel'"))
    async with connection.transaction():
        with pytest.raises(asyncio.TimeoutError):
            async with connection.transaction():
                await connection.fetch("SELECT pg_sleep(30)", timeout=0.1)
        seen.append(await connection.fetchval("SELECT 'same transaction'"))
    return seen


async def session_state(connect):
    """Set what a session keeps, find it again, and reset it as asyncpg's own pool does."""
    connection = await connect(server_settings={"application_name": "mine", "search_path": "public, pg_temp"})
    seen = []
    await connection.execute("SET TIME ZONE 'Asia/Tokyo'; SET work_mem = '9MB'")
    await connection.execute("CREATE TEMP TABLE mine (a int); SELECT pg_advisory_lock(99)")
    for _ in range(3):
        await crowd(connect)
        seen.append(
            await connection.fetchrow(
                "SELECT current_setting('TimeZone'), current_setting('work_mem'), current_setting('search_path'),"
                " current_setting('application_name'), to_regclass('mine')::text"
            )
        )
        seen.append(connection.get_settings().TimeZone)
    await connection.reset()
    await crowd(connect)
    seen.append(await connection.fetchrow("SELECT current_setting('TimeZone'), current_setting('work_mem')"))
    seen.append(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
    return seen


async def much_data(connect):
    """Fetch and send megabytes; a hundred thousand rows."""
    connection = await connect()
    sent = b"\0\xff" * 8_000_000
    rows = await connection.fetch("SELECT n, n::text FROM generate_series(1, 100000) n")
    return await connection.fetchval("SELECT $1::bytea", sent) == sent, len(rows), tuple(rows[-1])


async def many_clients(connect):
    """Have twenty clients at once, each sees only its own answers."""

    async def client(number):
        connection = await connect()
        seen = []
        for step in range(20):
            async with connection.transaction():
                seen.append(tuple(await connection.fetchrow("SELECT $1::int, $2::int", number, step)))
        return seen

    return await asyncio.gather(*(client(number) for number in range(20)))


USES = (
    types, statements, changed_table, transactions, cursors, copies, notifications, cancellations, session_state,
    much_data, many_clients,
)  # fmt: skip


def used(target, use):
    """Run a use against a target; close what it opened, also where it fails."""

    async def main():
        opened = []

        async def connect(**more):
            opened.append(await asyncpg.connect(target.dsn(), timeout=10, **more))
            return opened[-1]

        try:
            async with asyncio.timeout(30):
                return await use(connect)
        finally:
            for connection in opened:
                connection.terminate()

    return asyncio.run(main())


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_use_sees_the_same_as_without_us(lab, use, way):
    """Results and errors are those of a direct connection."""
    expected = used(lab.target(DIRECT), use)
    assert used(lab.target(way), use) == expected
