"""What drivers' own test suites found out: short uses that go wrong where a relay is almost right.

The suites of asyncpg, psycopg2 and pg8000 and scripts for node-postgres, postgres.js and DBD::Pg ran through both
modes; each test here is a case in which one of them saw something else than without us, told with the two drivers at
hand.
"""

from __future__ import annotations

import asyncio
import socket

import pytest
from postgres_lab import OURS, SIZES_COUNT, TRANSACTION, running_lab

from sojourn.gateways.postgres import wire

pytest.importorskip("psycopg")
pytest.importorskip("asyncpg")

import asyncpg
import psycopg

LONG_TEXT = "a" * 10_000
"""Beyond what asyncpg keeps as a named statement: it stays unnamed."""
WITHIN_S = 10
REPORTED = (
    "standard_conforming_strings",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "client_encoding",
    "application_name",
)
STARTUPS = (
    {},
    {"options": "-c standard_conforming_strings=off -c datestyle=german"},
    {"options": "-c intervalstyle=iso_8601 -c timezone=utc"},
    {"client_encoding": "latin-1"},
    {"application_name": "B\u00fcro"},
)
REFUSED = ("-c work_mem=junk", "-c no_such_setting=1", "-c role=nobody_at_all")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server for the whole module."""
    with running_lab(tmp_path_factory.mktemp("drivers")) as running:
        yield running


def on_each(lab, way, use):
    """Return what a use of asyncpg sees through one way and without us."""

    async def run(target):
        connection = await asyncpg.connect(target.dsn(), ssl=False, timeout=WITHIN_S)
        try:
            return await asyncio.wait_for(use(connection), WITHIN_S)
        finally:
            connection.terminate()

    return asyncio.run(run(lab.target(way))), asyncio.run(run(lab.direct))


async def _altered(connection):
    """Ask twice for a row, and once by a statement of one's own, while a column becomes another type."""
    await connection.execute("DROP TABLE IF EXISTS moving")
    await connection.execute("CREATE TABLE moving AS SELECT 1 AS a, 2 AS b")
    seen = [await connection.fetchrow("SELECT * FROM moving")]
    prepared = await connection.prepare("SELECT b FROM moving")
    seen.append(await prepared.fetchval())
    await connection.execute("ALTER TABLE moving ALTER COLUMN b TYPE text")
    seen.append(await connection.fetchrow("SELECT * FROM moving"))
    for _ in range(2):
        try:
            seen.append(await prepared.fetchval())
        except asyncpg.InvalidCachedStatementError as error:
            seen.append(str(error))
    again = await connection.prepare("SELECT b FROM moving")
    return [*seen, await again.fetchval()]


@pytest.mark.parametrize("way", OURS)
def test_a_client_that_does_not_ask_for_columns_is_told_that_its_plan_is_outdated(lab, way):
    """Specification 3.3.11: a repeat is unseen only where the client learns of the new columns; others misread them."""
    ours, expected = on_each(lab, way, _altered)
    assert ours == expected


async def _altered_in_transaction(connection):
    """Let the outdated plan be found in a transaction, and go on outside of it."""
    await connection.execute("DROP TABLE IF EXISTS moving")
    await connection.execute("CREATE TABLE moving AS SELECT 1 AS a, 2 AS b")
    seen = [await connection.fetchrow("SELECT * FROM moving")]
    await connection.execute("ALTER TABLE moving ALTER COLUMN b TYPE text")
    with pytest.raises(asyncpg.InvalidCachedStatementError):
        async with connection.transaction():
            await connection.fetchrow("SELECT * FROM moving")
    return [*seen, await connection.fetchrow("SELECT * FROM moving")]


@pytest.mark.parametrize("way", OURS)
def test_an_outdated_plan_that_is_found_in_a_transaction_is_outdated_after_it_too(lab, way):
    """The transaction fails as without us; what the driver prepares after it is parsed anew."""
    for _ in range(3):
        ours, expected = on_each(lab, way, _altered_in_transaction)
        assert ours == expected


@pytest.mark.parametrize("way", OURS)
def test_a_long_batch_costs_a_message_the_same_as_a_short_one(lab, way):
    """Ten thousand messages under way at once: none of them is looked for among the others."""

    async def use(connection):
        prepared = await connection.prepare("SELECT $1::int")
        spent = []
        for count in (2_000, 20_000):
            began = asyncio.get_running_loop().time()
            await prepared.executemany([(number,) for number in range(count)])
            spent.append(asyncio.get_running_loop().time() - began)
        return spent[1] / spent[0]

    ratio, _ = on_each(lab, way, use)
    assert ratio < 50  # ten is linear, a hundred is not


def test_a_statement_that_others_know_outdated_is_parsed_anew(lab):
    """Who prepares after the change gets today's columns, though servers hold the text with yesterday's."""

    async def use():
        clients = [await asyncpg.connect(lab.target(TRANSACTION).dsn(), ssl=False) for _ in range(4)]
        first, *others = clients
        await first.execute("DROP TABLE IF EXISTS shared")
        await first.execute("CREATE TABLE shared AS SELECT 1 AS a")
        seen = [await client.fetchval("SELECT * FROM shared") for client in clients]
        await first.execute("ALTER TABLE shared ALTER COLUMN a TYPE text")
        seen += [await client.fetchval("SELECT * FROM shared") for client in others]
        late = await asyncpg.connect(lab.target(TRANSACTION).dsn(), ssl=False)
        seen.append(await late.fetchval("SELECT * FROM shared"))
        for client in (*clients, late):
            await client.close()
        return seen

    assert asyncio.run(use()) == [1, 1, 1, 1, "1", "1", "1", "1"]


def _recreated(target, change):
    """Let a text that new clients prepare under the same name mean another type each time; return what they see."""

    def client():
        return psycopg.connect(target.dsn(), connect_timeout=WITHIN_S, autocommit=True)

    seen = []
    with client() as owner:
        owner.execute("DROP TABLE IF EXISTS turning")
        owner.execute("CREATE TABLE turning (a int)")
        for kind, value in (("int", "1"), ("text", "x"), ("date", "2026-11-21")):
            for statement in change.format(kind=kind).split(";"):
                owner.execute(statement)
            with client() as other:
                other.execute("INSERT INTO turning VALUES (%s)", [value], prepare=True)
                other.execute("INSERT INTO turning VALUES (%s)", [value], prepare=True)
                seen.append(
                    other.execute("SELECT a FROM turning WHERE a = %s", [value], prepare=True).fetchall()
                )
    return seen


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE turning;CREATE TABLE turning (a {kind})",
        "BEGIN;DROP TABLE turning;CREATE TABLE turning (a {kind});COMMIT",
    ],
)
def test_a_text_is_parsed_anew_once_what_it_names_was_dropped(lab, way, change):
    """asyncpg's test_extra_codec_alias: Parse settles the types of parameters, so that an old plan has old types."""
    assert _recreated(lab.target(way), change) == _recreated(lab.direct, change)


async def _looked_up(connection):
    """Send a long statement with a type that the driver has to look up between its Parse and its Bind."""
    await connection.execute(
        "DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad', 'happy'); EXCEPTION WHEN duplicate_object THEN END $$"
    )
    text = f"SELECT $1::mood[], '{LONG_TEXT}'"
    return [await connection.fetchval(text, ["sad", None]) for _ in range(2)]


@pytest.mark.parametrize("way", OURS)
def test_the_unnamed_statement_outlives_what_we_ask_in_between(lab, way):
    """asyncpg sets and resets a parameter by set_config while it looks types up: our snapshot drops the statement."""
    ours, expected = on_each(lab, way, _looked_up)
    assert ours == expected == [["sad", None]] * 2


def _login(target, startup):
    with psycopg.connect(target.dsn(), connect_timeout=WITHIN_S, **startup) as connection:
        return {name: connection.info.parameter_status(name) for name in REPORTED}


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("startup", STARTUPS, ids=str)
def test_a_login_tells_what_the_client_s_own_settings_are_reported_as(lab, way, startup):
    """A driver quotes and decodes by what it is told at its login, when no server is its own; also the second time."""
    expected = _login(lab.direct, startup)
    assert [_login(lab.target(way), startup) for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("options", REFUSED)
def test_a_setting_that_the_server_does_not_take_ends_the_login_with_its_words(lab, way, options):
    """Not the first statement, and not in words of ours."""
    told = []
    for target in (lab.direct, lab.target(way)):
        with pytest.raises(psycopg.OperationalError) as refused:
            psycopg.connect(target.dsn(), connect_timeout=WITHIN_S, options=options)
        told.append(str(refused.value).rpartition("FATAL:")[2].strip())
    assert told[0] == told[1]
    assert _login(lab.target(way), {})["DateStyle"]


async def _asleep(lab, connection):
    """Let a connection sleep for a minute, and return what waits for it once it does."""
    asleep = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    look = await asyncpg.connect(lab.direct.dsn(), ssl=False)
    text = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'"
    while not await look.fetchval(text):
        pass  # each question takes its time
    await look.close()
    return asleep


@pytest.mark.parametrize("way", OURS)
def test_a_cancelled_task_leaves_a_connection_that_can_be_used(lab, way):
    """asyncpg waits for the end of its cancel request's connection before it goes on."""

    async def use(connection):
        asleep = await _asleep(lab, connection)
        asleep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asleep
        return await connection.fetchval("SELECT 1")

    assert on_each(lab, way, use) == (1, 1)


@pytest.mark.parametrize("way", OURS)
def test_a_cancel_request_counts_though_its_sender_does_not_wait(lab, way):
    """Some drivers close the connection right behind the request; a server acts on it all the same."""

    async def use():
        client = await asyncpg.connect(lab.target(way).dsn(), ssl=False)
        asleep = await _asleep(lab, client)
        with socket.create_connection((lab.target(way).host, lab.target(way).port)) as connection:
            key = client._protocol.backend_secret.to_bytes(4, "big", signed=True)  # it is nowhere else
            connection.sendall(wire.cancel_request(client.get_server_pid(), key))
        with pytest.raises(asyncpg.QueryCanceledError):
            await asyncio.wait_for(asleep, WITHIN_S)
        await client.close()

    asyncio.run(use())


def test_servers_go_back_between_transactions_of_every_kind(lab):
    """asyncpg's Parse, Describe, Flush and psycopg's pipelines end with a Sync, and keep no server behind it."""

    async def use():
        clients = [await asyncpg.connect(lab.target(TRANSACTION).dsn(), ssl=False) for _ in range(30)]
        pids = set()
        for client in clients:
            pids.add(await client.fetchval("SELECT pg_backend_pid()"))
            async with client.transaction():
                pids.add(await client.fetchval("SELECT pg_backend_pid() + $1::int", 0))
            prepared = await client.prepare("SELECT pg_backend_pid()")
            pids.add(await prepared.fetchval())
            await client.executemany("SELECT $1::int", [(n,) for n in range(10)])
        for client in clients:
            await client.close()
        return pids

    clients = [psycopg.connect(lab.target(TRANSACTION).dsn(), autocommit=True) for _ in range(30)]
    pids = asyncio.run(use())
    for client in clients:
        with client.pipeline():
            pids.add(client.execute("SELECT pg_backend_pid()").fetchone()[0])
    for client in clients:
        client.close()
    assert len(pids) <= SIZES_COUNT["transaction"]


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("command", ["DROP DATABASE once", "ALTER DATABASE once RENAME TO twice"])
def test_a_database_whose_clients_have_left_can_be_dropped_and_renamed(lab, way, command):
    """Suites make a database, use it and drop it; the servers that we keep idle there are nobody's users of it."""
    target = lab.target(way)
    lab.fresh_database("once")
    with psycopg.connect(lab.direct.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS twice")
    for _ in range(2):
        with psycopg.connect(target.dsn(database="once")) as connection:
            connection.execute("SELECT 1")
    with psycopg.connect(target.dsn(), autocommit=True) as connection:
        connection.execute(command)
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = 'once'").fetchall() == []
