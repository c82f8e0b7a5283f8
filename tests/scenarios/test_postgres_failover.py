"""The primary dies and a replica takes over, while clients of every kind are connected: what each of them sees.

One failover serves all kinds of clients in both pool modes, as in life; each kind is a class whose methods are the
moments of the failover. Real servers, real drivers, synchronous replication: whatever a client was told has to be true
in the tables of the new primary.
Source: specification 6.8, and 3.3 for why.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from typing import ClassVar

import asyncpg
import pytest
import uvloop
from failover_lab import running_failover_lab
from psycopg import errors
from psycopg.pq import TransactionStatus

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import Backend

READY_TO_ANSWER_S = 2.0
"""Bound of the tests, generous because the machine may be loaded; the figure that is printed should be below 1."""
SLEEPS_S = 600

MODES = ("session", "transaction")
VERSIONS = {"session": 16, "transaction": 18}


def sleeping_at(port):
    """Return what never ends at one server and at once at any other."""
    return f"pg_sleep(CASE WHEN inet_server_port() = {port} THEN {SLEEPS_S} ELSE 0 END)"


class Cell:
    """One kind of client in one failover.

    Life: ``prepare`` is called while all is well, ``replay_paused`` when the replica takes the log and does not apply
    it, ``stream_stopped`` when it gets none, ``crashed`` when the primary is dead, ``moved`` when the replica has been
    promoted. Always true: the connections of ``connect`` are open at the end, over the same sockets.
    """

    armed: ClassVar[bool] = False

    def __init__(self, lab, way):
        self.lab = lab
        self.way = way
        self.old_port = lab.primary.port
        self.connections = []
        self.notices = []
        self.name = type(self).__name__

    async def connect(self, **options):
        """Open a connection that has to last."""
        connection = await self.way.connect(**options)
        connection.add_notice_handler(
            lambda notice: self.notices.append(notice.message_primary + notice.message_detail)
        )
        self.connections.append((connection, connection.fileno()))
        return connection

    async def ledger(self):
        """Return the numbers that this client has in the new primary's table."""
        rows = await self.lab.direct(f"SELECT n FROM ledger WHERE client = '{self.name}' ORDER BY n")
        return [n for (n,) in rows]

    def begin(self, work):
        """Let something run while the primary dies."""
        self.task = asyncio.create_task(work)

    async def committing(self, work):
        """Begin to commit, and return when the server waits for its replica."""
        waiting = "SELECT count(*) {} FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        ((before,),) = await self.lab.direct(waiting.format(""))
        self.begin(work)
        await self.lab.until(waiting.format(f"> {before}"))

    async def prepare(self):
        """Do what comes before the failover."""

    async def replay_paused(self):
        """Do what has to be in the replica's log only."""

    async def stream_stopped(self):
        """Do what the replica must not get."""

    async def crashed(self):
        """Do what falls into the time without a primary."""

    async def moved(self):
        """Look at what became of it."""

    async def check_sockets(self):
        """Every socket is the one that was opened, and works."""
        for connection, fileno in self.connections:
            assert not connection.closed
            assert connection.fileno() == fileno
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.rollback()
            cursor = await connection.execute("SELECT inet_server_port()")
            assert (await cursor.fetchone())[0] == self.lab.primary.port
            await connection.rollback()
            await connection.close()

    async def fails_with(self, error):
        """Take that what runs ends with this error."""
        with pytest.raises(error):
            await self.task

    async def goes_on(self, connection):
        """A lost transaction is refused until its end, then the session works as before."""
        assert connection.info.transaction_status == TransactionStatus.INERROR
        with pytest.raises(errors.InFailedSqlTransaction):
            await connection.execute("SELECT 1")
        await connection.rollback()
        assert connection.info.transaction_status == TransactionStatus.IDLE


class Idle(Cell):
    """An idle client, and one that asks when there is no primary."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("SELECT 1")
        self.asking = await self.connect(autocommit=True)

    async def crashed(self):
        async def ask():
            cursor = await self.asking.execute("SELECT inet_server_port()")
            return await cursor.fetchone(), asyncio.get_running_loop().time()

        self.begin(ask())

    async def moved(self):
        (port,), self.answered = await self.task
        assert port == self.lab.primary.port
        await self.connection.execute("SELECT 1")


class Stateful(Cell):
    """An idle client with settings, prepared statements of both kinds and a channel."""

    async def prepare(self):
        self.connection = connection = await self.connect(autocommit=True)
        for statement in (
            "SET work_mem = '7MB'",
            "SET search_path TO pg_catalog, public",
            "SET app.tenant = 'blue'",
            "PREPARE twice(int) AS SELECT $1 * 2",
            "LISTEN news",
        ):
            await connection.execute(statement)
        await connection.execute("SELECT %s::int + 1", (1,), prepare=True)
        self.before = await self.catalogs()
        assert len(self.before[1]) == 2

    async def catalogs(self):
        """Return what the session's server says that it holds."""
        settings = (
            "SELECT name, setting FROM pg_settings WHERE source = 'session'"
            " AND name IN ('work_mem', 'search_path') ORDER BY 1"
        )
        questions = (
            settings,
            "SELECT name, from_sql FROM pg_prepared_statements ORDER BY 1",
            "SELECT pg_listening_channels()",
            "SELECT current_setting('app.tenant')",
        )
        return [await (await self.connection.execute(sql, prepare=False)).fetchall() for sql in questions]

    async def moved(self):
        # Told before the client has said anything: its session was rebuilt at once.
        await self.way.until_rebuilt(self.connection)
        await self.lab.direct("NOTIFY news, 'after'")
        async with asyncio.timeout(10):
            async for notification in self.connection.notifies(stop_after=1):
                assert (notification.channel, notification.payload) == ("news", "after")
        assert await self.catalogs() == self.before
        assert await (await self.connection.execute("EXECUTE twice(21)")).fetchone() == (42,)
        assert await (await self.connection.execute("SELECT %s::int + 1", (2,), prepare=True)).fetchone() == (
            3,
        )
        assert not self.notices


class InTransaction(Cell):
    """A client between two statements of a transaction that has written."""

    async def prepare(self):
        self.connection = await self.connect()
        await self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, 1))

    async def moved(self):
        with pytest.raises(errors.SerializationFailure):
            await self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, 2))
        await self.goes_on(self.connection)
        await self.connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, 3))
        await self.connection.commit()
        assert await self.ledger() == [3]


class InTransactionThenRollback(Cell):
    """As before, but the client gives up by itself: it never learns of the loss."""

    async def prepare(self):
        self.connection = await self.connect()
        await self.connection.execute("INSERT INTO ledger VALUES (%s, 1)", (self.name,))

    async def moved(self):
        await self.connection.rollback()
        assert await self.ledger() == []


class OnlyBegun(Cell):
    """A client that has begun a transaction and read nothing yet: it begins again unseen."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await self.connection.execute("SET LOCAL work_mem = '9MB'")

    async def moved(self):
        cursor = await self.connection.execute(
            "SELECT current_setting('work_mem'), current_setting('transaction_isolation')"
        )
        assert await cursor.fetchone() == ("9MB", "repeatable read")
        await self.connection.execute("INSERT INTO ledger VALUES (%s, 1)", (self.name,))
        await self.connection.execute("COMMIT")
        assert await self.ledger() == [1]


class Writing(Cell):
    """A statement that may write runs outside a transaction: its outcome is not known."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        self.begin(
            self.connection.execute(
                f"INSERT INTO ledger SELECT '{self.name}', 1 FROM pg_sleep({SLEEPS_S})", prepare=False
            )
        )
        await self.lab.until_running(self.name)

    async def moved(self):
        await self.fails_with(errors.TransactionResolutionUnknown)
        assert self.connection.info.transaction_status == TransactionStatus.IDLE
        assert await self.ledger() == []


class WritingAfterCommit(Writing):
    """An earlier COMMIT of the session was armed: its id says nothing about the statement that runs now."""

    armed = True

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("BEGIN")
        await self.connection.execute("INSERT INTO ledger VALUES (%s, 0)", (self.name,))
        await self.connection.execute("COMMIT")
        self.begin(
            self.connection.execute(
                f"INSERT INTO ledger SELECT '{self.name}', 1 FROM pg_sleep({SLEEPS_S}); COMMIT"
            )
        )
        await self.lab.until_running(self.name)

    async def moved(self):
        with pytest.raises(errors.TransactionResolutionUnknown) as caught:
            await self.task
        assert "is unknown" in str(caught.value)
        assert await self.ledger() == [0]


class Pipelining(Cell):
    """A pipeline whose second statement runs: all of it is one transaction up to its Sync."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        self.begin(self.write())
        await self.lab.until_running(f"{self.name}1")

    async def write(self):
        """Send three statements at once."""
        async with self.connection.pipeline():
            for n in range(3):
                await self.connection.execute(
                    # A text of its own for the one that sleeps, so that it can be seen at the server.
                    f"INSERT INTO ledger SELECT '{self.name}', %s FROM pg_sleep(%s) WHERE '{self.name}{n}' <> ''",
                    (n, SLEEPS_S if n == 1 else 0),
                )

    async def moved(self):
        await self.fails_with(errors.TransactionResolutionUnknown)
        assert await self.ledger() == []


class PipeliningQueries(Cell):
    """Three queries at once, of which the first is answered and the second runs: each gets its own answer."""

    async def prepare(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.way.port)
        self.writer.write(wire.startup_message({"user": "postgres", "database": "postgres"}))
        await self.answers(1)
        sleeps = (0, SLEEPS_S, 0)
        self.writer.write(
            b"".join(
                wire.query(f"INSERT INTO ledger SELECT '{self.name}', {n} FROM pg_sleep({sleep_s})")
                for n, sleep_s in enumerate(sleeps)
            )
        )
        assert [kind for kind, _ in await self.answers(1)] == [
            Backend.COMMAND_COMPLETE,
            Backend.READY_FOR_QUERY,
        ]
        await self.lab.until_running(self.name)

    async def answers(self, count):
        """Return what comes up to so many ReadyForQuery."""
        found = []
        while count:
            kind, length = struct.unpack("!BI", await self.reader.readexactly(5))
            found.append((kind, await self.reader.readexactly(length - 4)))
            count -= kind == Backend.READY_FOR_QUERY
        return found

    async def moved(self):
        async with asyncio.timeout(10):
            found = await self.answers(2)
        kinds = [Backend.ERROR_RESPONSE, Backend.READY_FOR_QUERY] * 2
        assert [kind for kind, _ in found if kind != Backend.PARAMETER_STATUS] == kinds
        errors_told = [wire.error_fields(body)["C"] for kind, body in found if kind == Backend.ERROR_RESPONSE]
        assert errors_told == ["08007", "08007"]
        assert await self.ledger() == [0]
        self.writer.write(wire.query("SELECT 1"))
        assert Backend.DATA_ROW in [kind for kind, _ in await self.answers(1)]
        self.writer.close()
        await self.writer.wait_closed()


class WritingInTransaction(Cell):
    """A statement that may write runs inside a transaction: nothing of it was committed."""

    async def prepare(self):
        self.connection = await self.connect()
        self.begin(
            self.connection.execute(f"INSERT INTO ledger SELECT '{self.name}', 1 FROM pg_sleep({SLEEPS_S})")
        )
        await self.lab.until_running(self.name)

    async def moved(self):
        await self.fails_with(errors.SerializationFailure)
        await self.goes_on(self.connection)
        assert await self.ledger() == []


class Reading(Cell):
    """The only statement of a READ ONLY transaction runs: it is asked again, and the client waits a little longer."""

    parameters: ClassVar[tuple] = ()

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("BEGIN READ ONLY")
        slow = f"SELECT '{self.name}', 42 FROM {sleeping_at(self.old_port)}"
        self.begin(self.connection.execute(slow + self.more, self.parameters or None))
        await self.lab.until_running(self.name)

    more = ""

    async def moved(self):
        assert await (await self.task).fetchone() == (self.name, 42)
        assert self.connection.info.transaction_status == TransactionStatus.INTRANS
        await self.connection.execute("COMMIT")


class ReadingWithParameters(Reading):
    """The same by the extended query."""

    more = " WHERE 1 = %s"
    parameters = (1,)


class HalfAnswered(Cell):
    """Rows have come in READ ONLY, others are to come: the rest cannot be read elsewhere."""

    rows_count = 3_000
    begins: ClassVar[str] = "BEGIN READ ONLY"
    error = errors.SerializationFailure

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        if self.begins:
            await self.connection.execute(self.begins)
        self.rows = []
        self.begin(self.read())
        await self.lab.until_running(self.name)
        async with asyncio.timeout(10):
            while len(self.rows) < self.rows_count // 2:  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)

    async def read(self):
        """Take row after row."""
        sql = (
            f"SELECT i, repeat(i::text, 40), '{self.name}',"
            f" CASE WHEN i = {self.rows_count} THEN pg_sleep({SLEEPS_S})::text END"
            f" FROM generate_series(1, {self.rows_count}) AS i"
        )
        async for row in self.connection.cursor().stream(sql):
            self.rows.append(row)

    async def moved(self):
        await self.fails_with(self.error)
        assert self.rows == [(i, str(i) * 40, self.name, None) for i in range(1, len(self.rows) + 1)]
        if self.begins:
            await self.goes_on(self.connection)


class HalfAnsweredAlone(HalfAnswered):
    """The same outside a transaction, where nothing says that the statement only reads."""

    begins = ""
    error = errors.TransactionResolutionUnknown


class Committing(Cell):
    """COMMIT has reached the replica's log and was not answered; nobody can ask for its outcome."""

    async def replay_paused(self):
        self.connection = await self.connect()
        await self.connection.execute("SET LOCAL synchronous_commit = remote_apply")
        await self.connection.execute("INSERT INTO ledger VALUES (%s, 1)", (self.name,))
        await self.committing(self.connection.commit())

    async def committing(self, work):
        """Begin to commit what the replica gets."""
        await super().committing(work)
        await self.lab.caught_up()

    async def moved(self):
        await self.fails_with(errors.TransactionResolutionUnknown)
        assert await self.ledger() == [1]


class CommittingArmed(Committing):
    """The same, with the transaction's id: the client is told that it was committed."""

    armed = True

    async def moved(self):
        await self.task
        assert self.connection.info.transaction_status == TransactionStatus.IDLE
        assert await self.ledger() == [1]


class CommittingExtendedArmed(CommittingArmed):
    """The same, with a COMMIT of the extended query, which has a longer answer."""

    async def replay_paused(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("BEGIN")
        await self.connection.execute("SET LOCAL synchronous_commit = remote_apply")
        await self.connection.execute("INSERT INTO ledger VALUES (%s, 1)", (self.name,))
        await self.committing(self.connection.execute("COMMIT", prepare=True, binary=True))


class CommittingLost(Cell):
    """COMMIT was written by the primary and did not leave it; the transaction's id is known."""

    armed = True

    async def prepare(self):
        self.connection = await self.connect()
        await self.connection.execute("INSERT INTO ledger VALUES (%s, 1)", (self.name,))

    async def stream_stopped(self):
        await self.committing(self.connection.commit())

    async def moved(self):
        await self.fails_with(errors.SerializationFailure)
        assert self.connection.info.transaction_status == TransactionStatus.IDLE
        assert await self.ledger() == []


class CopyingIn(Cell):
    """The client sends data."""

    error = errors.SerializationFailure
    is_autocommit = True

    async def prepare(self):
        self.connection = await self.connect(autocommit=self.is_autocommit)
        self.crash_seen = asyncio.Event()
        sent = asyncio.Event()
        self.begin(self.copy(sent))
        await sent.wait()

    async def copy(self, sent):
        """Send rows before and after the crash."""
        async with self.connection.cursor().copy("COPY ledger FROM STDIN") as copy:
            for n in range(2_000):
                await copy.write_row((self.name, n))
            sent.set()
            await self.crash_seen.wait()
            for n in range(2_000, 4_000):
                await copy.write_row((self.name, n))

    async def moved(self):
        self.crash_seen.set()
        await self.fails_with(self.error)
        if not self.is_autocommit:
            await self.goes_on(self.connection)
        assert await self.ledger() == []


class CopyingInTransaction(CopyingIn):
    """The same as part of a transaction."""

    is_autocommit = False


class CopyComplete(Cell):
    """All data was sent and the primary waits for its replica: it may be committed."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)

    async def stream_stopped(self):
        async def copy():
            async with self.connection.cursor().copy("COPY ledger FROM STDIN") as copy:
                await copy.write_row((self.name, 1))

        await self.committing(copy())

    async def moved(self):
        await self.fails_with(errors.TransactionResolutionUnknown)


class CopyingOut(Cell):
    """The client receives data of a query, of which nobody says that it only reads; it did not get the end."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        self.rows = []
        self.begin(self.copy())
        await self.lab.until_running(self.name)

    async def copy(self):
        """Take what comes."""
        sql = (
            f"COPY (SELECT i, repeat('{self.name}', 20), CASE WHEN i = 3000 THEN pg_sleep({SLEEPS_S})::text END"
            " FROM generate_series(1, 3000) AS i) TO STDOUT"
        )
        async with self.connection.cursor().copy(sql) as copy:
            async for data in copy:
                self.rows.append(bytes(data))

    async def moved(self):
        await self.fails_with(errors.TransactionResolutionUnknown)
        assert self.rows
        wanted = [f"{i}\t{self.name * 20}\t\\N\n".encode() for i in range(1, len(self.rows) + 1)]
        assert self.rows == wanted


class UnreadCursor(Cell):
    """A cursor WITH HOLD that was not read from is declared again."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5)")

    async def moved(self):
        cursor = await self.connection.execute("SELECT name, is_holdable FROM pg_cursors WHERE name = 'held'")
        assert await cursor.fetchall() == [("held", True)]
        assert await (await self.connection.execute("FETCH 2 FROM held")).fetchall() == [(1,), (2,)]
        assert not self.notices


class ReadCursor(Cell):
    """One that was read from is gone, and a warning says so."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5)")
        await self.connection.execute("FETCH 2 FROM held")
        await self.connection.execute("CREATE TEMPORARY TABLE cart (n int)")

    async def moved(self):
        cursor = await self.connection.execute("SELECT name FROM pg_cursors WHERE name = 'held'")
        assert await cursor.fetchall() == []
        (notice,) = self.notices
        assert "cursor held (was read from)" in notice
        assert "temporary object cart" in notice
        await self.connection.execute("CREATE TEMPORARY TABLE cart (n int)")


class Cancelling(Cell):
    """A request is cancelled while it waits for a primary."""

    async def prepare(self):
        self.connection = await self.connect(autocommit=True)
        await self.connection.execute("SELECT 1")

    async def crashed(self):
        waiting = self.way.waiting_count
        self.begin(self.connection.execute(f"INSERT INTO ledger VALUES ('{self.name}', 1)"))
        async with asyncio.timeout(10):
            while not any(client.kept and b"INSERT" in client.kept[0] for client in self.waiting()):  # noqa: ASYNC110
                await asyncio.sleep(0)
        await self.connection.cancel_safe(timeout=10)
        await self.fails_with(errors.QueryCanceled)
        assert self.way.waiting_count <= waiting + 1

    def waiting(self):
        """Return the clients that wait at our gateway."""
        return [client for pool in self.way.gateway.pools.values() for client in pool.waiting()]

    async def moved(self):
        assert await self.ledger() == []
        await self.connection.execute(f"INSERT INTO ledger VALUES ('{self.name}', 2)")
        assert await self.ledger() == [2]


class AsyncpgCell(Cell):
    """A client of another driver, which speaks the extended query only and names its statements."""

    async def connect(self, **options):
        """Open a connection that has to last."""
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self.way.port, user="postgres", database="postgres", **options
        )
        self.connections.append(connection)
        return connection

    async def check_sockets(self):
        """Every connection works; this driver does not connect again by itself."""
        for connection in self.connections:
            assert await connection.fetchval("SELECT inet_server_port()") == self.lab.primary.port
            await connection.close()


class AsyncpgListening(AsyncpgCell):
    """It listens and has prepared a statement."""

    async def prepare(self):
        self.heard = asyncio.get_running_loop().create_future()
        self.connection = await self.connect()
        self.prepared = await self.connection.prepare("SELECT $1::int + 1")
        assert await self.prepared.fetchval(1) == 2
        await self.connection.add_listener("tidings", lambda *news: self.heard.set_result(news[2:]))

    async def moved(self):
        assert await self.prepared.fetchval(2) == 3
        await self.lab.direct("NOTIFY tidings, 'after'")
        async with asyncio.timeout(10):
            assert await self.heard == ("tidings", "after")
        await self.connection.remove_listener("tidings", lambda: None)


class AsyncpgInTransaction(AsyncpgCell):
    """Its transaction has written."""

    async def prepare(self):
        self.connection = await self.connect()
        self.transaction = self.connection.transaction()
        await self.transaction.start()
        await self.connection.execute("INSERT INTO ledger VALUES ($1, 1)", self.name)

    async def moved(self):
        with pytest.raises(asyncpg.SerializationError):
            await self.connection.execute("INSERT INTO ledger VALUES ($1, 2)", self.name)
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await self.connection.fetchval("SELECT 1")
        await self.transaction.rollback()
        async with self.connection.transaction():
            await self.connection.execute("INSERT INTO ledger VALUES ($1, 3)", self.name)
        assert await self.ledger() == [3]


class AsyncpgWriting(AsyncpgCell):
    """Its statement runs outside a transaction."""

    async def prepare(self):
        self.connection = await self.connect()
        self.begin(
            self.connection.execute(
                f"INSERT INTO ledger SELECT '{self.name}', $1::int FROM pg_sleep({SLEEPS_S})", 1
            )
        )
        await self.lab.until_running(self.name)

    async def moved(self):
        await self.fails_with(asyncpg.TransactionResolutionUnknownError)
        assert await self.ledger() == []


class AsyncpgReading(AsyncpgCell):
    """It reads, and has said so."""

    async def prepare(self):
        self.connection = await self.connect()
        self.transaction = self.connection.transaction(readonly=True)
        await self.transaction.start()
        self.begin(
            self.connection.fetchrow(
                f"SELECT '{self.name}', $1::int FROM {sleeping_at(self.old_port)}",
                42,
            )
        )
        await self.lab.until_running(self.name)

    async def moved(self):
        assert tuple(await self.task) == (self.name, 42)
        await self.transaction.commit()


class AsyncpgCopyingIn(AsyncpgCell):
    """It sends data."""

    async def prepare(self):
        self.connection = await self.connect()
        self.crash_seen, sent = asyncio.Event(), asyncio.Event()

        async def rows():
            yield "".join(f"{self.name}\t{n}\n" for n in range(1000)).encode()
            sent.set()
            await self.crash_seen.wait()
            yield "".join(f"{self.name}\t{n}\n" for n in range(1000, 2000)).encode()

        self.begin(self.connection.copy_to_table("ledger", source=rows()))
        await sent.wait()

    async def moved(self):
        self.crash_seen.set()
        await self.fails_with(asyncpg.SerializationError)
        assert await self.ledger() == []


class AsyncpgCommittingArmed(AsyncpgCell):
    """Its COMMIT is in the replica's log."""

    armed = True

    async def replay_paused(self):
        self.connection = await self.connect()
        self.transaction = self.connection.transaction()
        await self.transaction.start()
        await self.connection.execute("SET LOCAL synchronous_commit = remote_apply")
        await self.connection.execute("INSERT INTO ledger VALUES ($1, 1)", self.name)
        await self.committing(self.transaction.commit())
        await self.lab.caught_up()

    async def moved(self):
        await self.task
        assert await self.ledger() == [1]


CELLS = (
    Idle,
    Stateful,
    InTransaction,
    InTransactionThenRollback,
    OnlyBegun,
    Writing,
    WritingAfterCommit,
    Pipelining,
    PipeliningQueries,
    WritingInTransaction,
    Reading,
    ReadingWithParameters,
    HalfAnswered,
    HalfAnsweredAlone,
    Committing,
    CommittingArmed,
    CommittingExtendedArmed,
    CommittingLost,
    CopyingIn,
    CopyingInTransaction,
    CopyComplete,
    CopyingOut,
    UnreadCursor,
    ReadCursor,
    Cancelling,
    AsyncpgListening,
    AsyncpgInTransaction,
    AsyncpgWriting,
    AsyncpgReading,
    AsyncpgCopyingIn,
    AsyncpgCommittingArmed,
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
            if failures.get(cell.name) is None:
                try:
                    async with asyncio.timeout(20):
                        await getattr(cell, moment)()
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - reported by its own test
                    failures[cell.name] = error

    async with running_failover_lab(VERSIONS[mode]) as lab:
        await lab.direct("CREATE TABLE ledger (client text, n int, PRIMARY KEY (client, n))")
        ways = [await lab.gateway(mode, size_count=40, arms_commit_outcome=armed) for armed in (False, True)]
        cells = [kind(lab, ways[kind.armed]) for kind in CELLS]
        failures.update({cell.name: None for cell in cells})
        await everywhere(cells, "prepare")
        await lab.caught_up()
        await lab.direct("SELECT pg_wal_replay_pause()", server=lab.replica)
        await everywhere(cells, "replay_paused")
        await lab.stop_stream()
        await everywhere(cells, "stream_stopped")
        await lab.crash()
        await everywhere(cells, "crashed")
        promoted = await lab.promote()
        await everywhere(cells, "moved")
        await everywhere(cells, "check_sockets")
        (idle,) = [cell for cell in cells if isinstance(cell, Idle)]
        failures["first answer"] = idle.answered - promoted if failures[idle.name] is None else None
        failures["bugs"] = [
            event
            for way in ways
            for name in ("server.loop_error", "postgres.server_failed")
            for event in way.told(name)
        ]
    return failures


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_a_client_sees_of_a_failover_what_the_retry_table_says(kind, mode):
    """Specification 6.8, row by row; its sockets stay open in every mode."""
    failure = outcomes(mode)[kind.__name__]
    if failure is not None:
        raise failure


@pytest.mark.parametrize("mode", MODES)
def test_the_first_answer_comes_right_after_the_promotion(mode):
    """Issue 3: under a second from the new primary being ready to the first answer."""
    took_s = outcomes(mode)["first answer"]
    print(f"{mode}: first answer {took_s * 1000:.0f} ms after the promotion")  # noqa: T201 - the figure is asked for
    assert took_s <= READY_TO_ANSWER_S


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_ours_breaks_in_a_failover(mode):
    """A bug in what the loop calls would be told as an event only."""
    assert outcomes(mode)["bugs"] == []
