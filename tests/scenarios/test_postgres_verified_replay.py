"""The primary dies under transactions that are to be run again on the next one: what becomes of each.

Real servers, real drivers, synchronous replication; one failover serves all kinds of clients of a pool mode. Whatever
is committed is in the ledger exactly once. What clients see without the setting is in ``test_postgres_failover``.
Source: specification 6.8, the last row.
"""

from __future__ import annotations

import asyncio
import functools
import struct

import asyncpg
import pytest
import uvloop
from failover_lab import running_failover_lab
from ledger import KNOWN_LOSSES, Writer, check_ledger, count_acknowledged, make_ledger
from psycopg import errors
from psycopg.pq import TransactionStatus

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import Backend

MODES = ("session", "transaction")
VERSIONS = {"session": 16, "transaction": 18}
SLEEPS_S = 600


class Cell:
    """One kind of client in one failover.

    Life: ``prepare`` is called while all is well, ``crashed`` when the primary is dead, ``moved`` when the replica has
    been promoted. Always true: ``error`` is what its transaction ends with, None if it goes on.
    """

    error: type[Exception] | None = None

    def __init__(self, lab, way):
        self.lab = lab
        self.way = way
        self.old_port = lab.primary.port
        self.name = type(self).__name__

    async def connect(self, **options):
        """Open the connection, whose socket has to last."""
        self.connection = await self.way.connect(**options)
        self.fileno = self.connection.fileno()
        return self.connection

    async def write(self, n):
        """Write a number into the ledger, which takes none twice."""
        await self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, n))

    async def ledger(self):
        """Return the numbers that this client has in the new primary's table."""
        rows = await self.lab.direct(f"SELECT n FROM ledger WHERE client = '{self.name}' ORDER BY n")
        return [n for (n,) in rows]

    async def prepare(self):
        """Do what comes before the failover."""

    async def crashed(self):
        """Do what falls into the time without a primary."""

    async def moved(self):
        """Go on, or hear that the transaction is lost; the session is there in any case."""
        if self.error is None:
            await self.write(9)
            await self.connection.commit()
            assert await self.ledger() == [1, 9]
        else:
            with pytest.raises(self.error):
                await self.write(9)
            assert self.connection.info.transaction_status == TransactionStatus.INERROR
            await self.connection.rollback()
            assert await self.ledger() == []

    async def check_socket(self):
        """It is the one that was opened."""
        assert not self.connection.closed
        assert self.connection.fileno() == self.fileno
        assert self.connection.info.transaction_status == TransactionStatus.IDLE
        await self.connection.execute("SELECT 1")
        await self.connection.close()


class ReadAndWritten(Cell):
    """It has read, changed and read again."""

    async def prepare(self):
        await self.connect()
        await self.connection.execute("SELECT * FROM stock WHERE item = %s", (self.name,))
        await self.write(1)
        cursor = await self.connection.execute(
            "UPDATE stock SET count = count - 1 WHERE item = %s RETURNING count", (self.name,)
        )
        assert await cursor.fetchone() == (9,)

    async def moved(self):
        await super().moved()
        assert await self.lab.direct(f"SELECT count FROM stock WHERE item = '{self.name}'") == [(9,)]


class ReadRepeatably(ReadAndWritten):
    """The same at a level that it has asked for."""

    async def prepare(self):
        await self.connect(autocommit=True)
        await self.connection.execute("BEGIN")
        await self.connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        await self.connection.execute("SET LOCAL work_mem = '9MB'")
        await self.connection.execute("SET LOCAL timezone = 'Asia/Tokyo'")
        await self.connection.execute("SELECT * FROM stock WHERE item = %s", (self.name,))
        await self.write(1)
        await self.connection.execute("UPDATE stock SET count = 9 WHERE item = %s", (self.name,))

    async def moved(self):
        cursor = await self.connection.execute(
            "SELECT current_setting('transaction_isolation'), current_setting('work_mem')"
        )
        assert await cursor.fetchone() == ("serializable", "9MB")
        assert self.connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        await super().moved()


class Running(Cell):
    """A statement runs while the server dies: it is sent behind the transaction, and its client waits for it only."""

    async def prepare(self):
        await self.connect()
        await self.connection.execute("SELECT count(*) FROM stock")
        sleeps = f"pg_sleep(CASE WHEN inet_server_port() = {self.old_port} THEN {SLEEPS_S} ELSE 0 END)"
        self.task = asyncio.create_task(
            self.connection.execute(f"INSERT INTO ledger SELECT '{self.name}', %s FROM {sleeps}", (1,))
        )
        await self.lab.until_running(self.name)

    async def moved(self):
        await self.task
        await super().moved()


class Returned(Cell):
    """An error of it was taken back by a savepoint."""

    async def prepare(self):
        await self.connect()
        await self.write(1)
        with pytest.raises(errors.UniqueViolation):
            async with self.connection.transaction():
                await self.write(1)


class Listening(Cell):
    """Its session listens, and has prepared statements of both kinds before."""

    async def prepare(self):
        await self.connect(autocommit=True)
        await self.connection.execute("LISTEN news")
        await self.connection.execute("SELECT %s::int + 1", (1,), prepare=True)
        await self.connection.execute("BEGIN")
        await self.connection.execute("SELECT %s::int + 1", (2,), prepare=True)
        await self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, 1), prepare=True)

    async def moved(self):
        await self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, 2), prepare=True)
        await self.write(9)
        await self.connection.commit()
        assert await self.ledger() == [1, 2, 9]
        await self.lab.direct("NOTIFY news, 'after'")
        async with asyncio.timeout(10):
            async for notification in self.connection.notifies(stop_after=1):
                assert notification.payload == "after"


class ReadWithCursor(Cell):
    """It has fetched from a cursor, which goes on where it was."""

    async def prepare(self):
        await self.connect()
        await self.write(1)
        self.cursor = self.connection.cursor("some")
        await self.cursor.execute("SELECT generate_series(1, 10)")
        assert await self.cursor.fetchmany(3) == [(1,), (2,), (3,)]

    async def moved(self):
        assert await self.cursor.fetchmany(2) == [(4,), (5,)]
        await self.cursor.close()
        await super().moved()


class Batched(Cell):
    """It began as JDBC does: BEGIN and the first statement are one batch."""

    async def prepare(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.way.port)
        self.writer.write(wire.startup_message({"user": "postgres", "database": "postgres"}))
        await self.answer()
        assert await self.ask("BEGIN", "SELECT item FROM stock ORDER BY item") == ord("T")
        await self.write(1)

    async def ask(self, *statements):
        """Run statements as one batch; return the status of its ReadyForQuery."""
        for sql in statements:
            self.writer.write(wire.parse(b"", sql.encode()) + wire.bind(b"", b"", ()) + wire.execute(b""))
        self.writer.write(wire.sync())
        return await self.answer()

    async def answer(self):
        """Take what comes up to ReadyForQuery, and return its status."""
        while True:
            kind, length = struct.unpack("!BI", await self.reader.readexactly(5))
            body = await self.reader.readexactly(length - 4)
            assert kind != Backend.ERROR_RESPONSE, body
            if kind == Backend.READY_FOR_QUERY:
                return body[0]

    async def write(self, n):
        assert await self.ask(f"INSERT INTO ledger VALUES ('{self.name}', {n})") == ord("T")

    async def moved(self):
        await self.write(9)
        assert await self.ask("COMMIT") == ord("I")
        assert await self.ledger() == [1, 9]

    async def check_socket(self):
        assert await self.ask("SELECT 1") == ord("I")
        self.writer.close()
        await self.writer.wait_closed()


class AskedMeanwhile(Cell):
    """It asks while there is no primary."""

    async def prepare(self):
        await self.connect()
        await self.write(1)

    async def crashed(self):
        self.task = asyncio.create_task(self.write(2))

    async def moved(self):
        await self.task
        await self.write(9)
        await self.connection.commit()
        assert await self.ledger() == [1, 2, 9]


class ReadTheTime(Cell):
    """It has seen what no other server can show again."""

    error = errors.SerializationFailure
    question = "SELECT now()"

    async def prepare(self):
        await self.connect()
        await self.write(1)
        await self.connection.execute(self.question)


class ReadAtRandom(ReadTheTime):
    """The same."""

    question = "SELECT random()"


class NumberReturned(ReadTheTime):
    """Sequences are not rolled back, and go on elsewhere with another number."""

    question = "INSERT INTO numbered DEFAULT VALUES RETURNING id"


class ReadWhatChanged(ReadTheTime):
    """It has read a row that somebody else changed before the failover: the snapshot there has the new one."""

    question = "SELECT count FROM stock WHERE item = 'ReadWhatChanged'"

    async def prepare(self):
        await super().prepare()
        await self.lab.direct(f"UPDATE stock SET count = 0 WHERE item = '{self.name}'")


class WroteWhatChanged(Cell):
    """It has changed a row after it had read another; all of it is what it was, but for the order of commits."""

    async def prepare(self):
        await self.connect()
        await self.write(1)
        await self.lab.direct(f"UPDATE stock SET count = 3 WHERE item = '{self.name}'")
        cursor = await self.connection.execute("SELECT count FROM stock WHERE item = %s", (self.name,))
        assert await cursor.fetchone() == (3,)


class WithTemporaryTable(ReadTheTime):
    """Its session has what no other server can be given."""

    async def prepare(self):
        await self.connect(autocommit=True)
        await self.connection.execute("CREATE TEMPORARY TABLE cart (n int)")
        await self.connection.execute("BEGIN")
        await self.write(1)


class Committing(Cell):
    """COMMIT has been sent: nothing is run again, and its outcome is not known."""

    async def prepare(self):
        await self.connect()

    async def stream_stopped(self):
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await self.write(1)
        self.task = asyncio.create_task(self.connection.commit())
        await self.lab.until(waiting)

    async def moved(self):
        with pytest.raises(errors.TransactionResolutionUnknown):
            await self.task
        assert await self.ledger() == []


class Asyncpg(Cell):
    """Another driver: the extended query only, and statements with names, some of them from before."""

    async def connect(self):
        self.connection = await asyncpg.connect(
            host="127.0.0.1", port=self.way.port, user="postgres", database="postgres"
        )
        return self.connection

    async def prepare(self):
        await self.connect()
        self.known = await self.connection.prepare("SELECT count FROM stock WHERE item = $1")
        assert await self.known.fetchval(self.name) == 10
        self.transaction = self.connection.transaction()
        await self.transaction.start()
        assert await self.known.fetchval(self.name) == 10
        await self.write(1)
        assert await self.connection.fetchval("SELECT $1::int + 1", 1) == 2

    async def write(self, n):
        await self.connection.execute("INSERT INTO ledger VALUES ($1, $2)", self.name, n)

    async def moved(self):
        assert await self.known.fetchval(self.name) == 10
        assert await self.connection.fetchval("SELECT $1::int + 1", 2) == 3
        await self.write(9)
        await self.transaction.commit()
        assert await self.ledger() == [1, 9]

    async def check_socket(self):
        assert await self.connection.fetchval("SELECT inet_server_port()") == self.lab.primary.port
        await self.connection.close()


class AsyncpgReadTheTime(Asyncpg):
    """The same, and it has seen the time."""

    async def prepare(self):
        await super().prepare()
        await self.connection.fetchval("SELECT clock_timestamp()")

    async def moved(self):
        with pytest.raises(asyncpg.SerializationError):
            await self.write(9)
        await self.transaction.rollback()
        assert await self.ledger() == []


class AsyncpgCursor(Asyncpg):
    """It reads a portal in parts."""

    async def prepare(self):
        await self.connect()
        self.transaction = self.connection.transaction(isolation="repeatable_read")
        await self.transaction.start()
        await self.write(1)
        self.cursor = await self.connection.cursor("SELECT generate_series(1, 10) AS n")
        assert [row["n"] for row in await self.cursor.fetch(3)] == [1, 2, 3]

    async def moved(self):
        assert [row["n"] for row in await self.cursor.fetch(2)] == [4, 5]
        await self.write(9)
        await self.transaction.commit()
        assert await self.ledger() == [1, 9]


CELLS = (
    ReadAndWritten,
    ReadRepeatably,
    Running,
    Returned,
    Listening,
    ReadWithCursor,
    Batched,
    AskedMeanwhile,
    ReadTheTime,
    ReadAtRandom,
    NumberReturned,
    ReadWhatChanged,
    WroteWhatChanged,
    WithTemporaryTable,
    Committing,
    Asyncpg,
    AsyncpgReadTheTime,
    AsyncpgCursor,
)
STOCKED = (
    "ReadAndWritten",
    "ReadRepeatably",
    "ReadWhatChanged",
    "WroteWhatChanged",
    "Asyncpg",
    "AsyncpgReadTheTime",
)


@functools.cache
def outcomes(mode):
    """Run a mode's failover once; return what each cell had to say, by its class's name: None or its error."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_fail_over(mode))


async def _fail_over(mode):
    failures = {}

    async def everywhere(cells, moment):
        for cell in cells:
            if failures.get(cell.name) is None and hasattr(cell, moment):
                try:
                    async with asyncio.timeout(20):
                        await getattr(cell, moment)()
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - reported by its own test
                    failures[cell.name] = error

    async with running_failover_lab(VERSIONS[mode]) as lab:
        await lab.direct(
            "CREATE TABLE ledger (client text, n int, PRIMARY KEY (client, n))",
            "CREATE TABLE stock (item text PRIMARY KEY, count int)",
            "CREATE TABLE numbered (id serial)",
            *(f"INSERT INTO stock VALUES ('{item}', 10)" for item in STOCKED),
        )
        way = await lab.gateway(mode, size_count=40, verified_replay=True)
        cells = [kind(lab, way) for kind in CELLS]
        failures.update({cell.name: None for cell in cells})
        await everywhere(cells, "prepare")
        await lab.caught_up()
        await lab.stop_stream()
        await everywhere(cells, "stream_stopped")
        await lab.crash()
        await everywhere(cells, "crashed")
        await lab.promote()
        await everywhere(cells, "moved")
        await everywhere(cells, "check_socket")
        failures["counted"] = dict(way.gateway.losses)
        failures["told"] = way.told("postgres.session_lost_server")
        failures["bugs"] = [
            event for name in ("server.loop_error", "postgres.server_failed") for event in way.told(name)
        ]
    return failures


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_a_transaction_goes_on_only_if_every_answer_is_the_same(kind, mode):
    """Specification 6.8: re-run with a checksum of every result, stopped at the first difference."""
    failure = outcomes(mode)[kind.__name__]
    if failure is not None:
        raise failure


@pytest.mark.parametrize("mode", MODES)
def test_each_replay_is_counted_and_told_with_its_end(mode):
    """Specification 6.8: every automatic action increments a labelled counter and writes one log line."""
    counted = outcomes(mode)["counted"]
    assert counted["verified_replay"] == counted["replay_equal"] + counted["replay_given_up"]
    assert counted["replay_given_up"] == 5
    given_up = [event for event in outcomes(mode)["told"] if "replay_given_up" in event.values()]
    assert len(given_up) == 5


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_ours_breaks_in_a_replay(mode):
    """A bug in what the loop calls would be told as an event only."""
    assert outcomes(mode)["bugs"] == []


@pytest.mark.parametrize("mode", MODES)
def test_many_transactions_at_once_are_written_exactly_once(mode):
    """Issue 3: whatever a client was told of a write is true, whoever ran it and how often."""

    async def body():
        async with running_failover_lab(VERSIONS[mode]) as lab:
            await make_ledger(lab, 12)
            way = await lab.gateway(mode, size_count=40, verified_replay=True)
            writers = [Writer(way, number) for number in range(0, 12, 2)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                await count_acknowledged(lab, writers, 5)
                await lab.crash()
                await lab.promote()
                await count_acknowledged(lab, writers, 5)
                stop.set()
            await check_ledger(lab, writers)
            for writer in writers:
                assert set(writer.states) <= KNOWN_LOSSES
            assert way.gateway.losses["replay_equal"] > 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())
