"""Database: a pool of connections with a deadline, a circuit breaker and one kind of error.

Works behind a pooler in transaction mode. Nothing is left in a connection between transactions, so nothing is reset
when one is given back; without a statement cache even a single statement runs in a transaction of its own, because
asyncpg prepares it in one step and runs it in the next, which a pooler may send to two servers.

Knows nothing of tables.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg
import msgspec

from sojourn.core.breaker import Breakers, CircuitState
from sojourn.core.clock import Clock
from sojourn.core.migrations import Migration, migrate
from sojourn.errors import BackendUnavailable, LocalProtocolError, SojournError
from sojourn.gateways.exchange.storage import StoreSettings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    PooledConnection = PoolConnectionProxy[asyncpg.Record]

BACKEND: Final = "exchange database"
"""Its name in errors, breakers and metrics."""

COMPONENT: Final = "exchange"
"""Our name in the schema's table of migrations."""

APPLICATION_NAME: Final = "sojourn exchange"
REPEATS_COUNT: Final = 3
"""How often a transaction is made again that the server rolled back because of another one's."""

_OUR_FAULT: Final = ("22", "23")
"""The server is well; our statement is not. Source: PostgreSQL appendix A."""

_ROLLED_BACK: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_JSON_COLUMNS: Final = frozenset({"attributes", "spec", "handle", "failure", "headers"})

RowT = TypeVar("RowT", bound=msgspec.Struct)


class Database:
    """The connections of one store; made, started and stopped by it.

    Always true: an operation ends within twice the deadline, the second time for giving up in order.

    Args:
        settings: where it is, and the bounds.
        clock: monotonic seconds.
        breakers: which know this database already; None makes new ones.
    """

    def __init__(
        self, settings: StoreSettings, clock: Clock = time.monotonic, breakers: Breakers | None = None
    ) -> None:
        self.settings = settings
        self.breakers = breakers or Breakers(settings.breaker, clock)
        self.up_since = 0.0
        self._clock = clock
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._prepares = settings.statement_cache_count > 0

    @property
    def is_up(self) -> bool:
        """It is started, and answered when it was asked last."""
        closed = self.breakers.state(BACKEND) is CircuitState.CLOSED
        return self._pool is not None and self.up_since > 0.0 and closed

    def sql(self, text: str, **parts: str) -> str:
        """Return a statement with the schema's name in place of ``{s}``, and with other parts of ours."""
        return text.format(s=f'"{self.settings.schema}"', **parts)

    async def start(self, migrations: Sequence[Migration]) -> None:
        """Connect and bring the schema up to date.

        Raises: BackendUnavailable; ConfigError if the migrations do not fit what was applied.
        """
        await self.stop()
        settings = self.settings
        pool = asyncpg.create_pool(
            settings.dsn.reveal(),
            min_size=0,
            max_size=settings.connections_count,
            command_timeout=settings.deadline_s,
            timeout=settings.deadline_s,
            statement_cache_size=settings.statement_cache_count,
            server_settings={"application_name": APPLICATION_NAME},
            reset=_nothing_to_reset,
        )
        self._pool = await pool
        try:
            async with self._guarded(), self._connection() as connection:
                await migrate(connection, migrations, schema=settings.schema, component=COMPONENT)
        except Exception as error:
            await self.stop()
            if isinstance(error, SojournError):
                raise
            # The driver's own errors about an address it cannot read quote it, and with it the password.
            raise self._unavailable(error, 0.0) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close every connection, at once where the server does not answer."""
        pool, self._pool = self._pool, None
        self.up_since = 0.0
        if pool is not None:
            try:
                async with asyncio.timeout(self.settings.deadline_s):
                    await pool.close()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pool.terminate()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        for left in range(REPEATS_COUNT, -1, -1):
            try:
                async with self._guarded(), self._connection() as connection:
                    if self._prepares:
                        return await connection.fetch(query, *arguments)
                    async with connection.transaction():
                        return await connection.fetch(query, *arguments)
            except _ROLLED_BACK as error:
                if not left:
                    raise self._unavailable(error, 0.0) from error
        raise AssertionError  # the last round returns or raises

    async def fetch_one(self, query: str, *arguments: object) -> asyncpg.Record | None:
        """Run one statement that has at most one row."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PooledConnection]:
        """Return a block that is committed at its end and rolled back on an exception; it reads what is committed.

        Raises: BackendUnavailable, also if the server rolled it back because of another transaction's.
        """
        try:
            async with self._guarded(), self._connection() as connection, connection.transaction():
                # Our process may vanish without a word; the locks of this transaction must not wait for TCP to notice.
                limit_ms = max(int(self.settings.deadline_s * 1000), 1)
                await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {limit_ms}")
                yield connection
        except _ROLLED_BACK as error:
            raise self._unavailable(error, 0.0) from error

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """Open a connection beside the pool; whoever asked closes it.

        Raises: BackendUnavailable
        """
        async with self._guarded():
            return await asyncpg.connect(
                self.settings.dsn.reveal(),
                timeout=self.settings.deadline_s,
                command_timeout=self.settings.deadline_s,
                statement_cache_size=self.settings.statement_cache_count,
                server_settings={"application_name": f"{APPLICATION_NAME} singleton"},
            )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PooledConnection]:
        if self._pool is None:
            raise BackendUnavailable(BACKEND, 0.0, "not started")
        async with self._pool.acquire(timeout=self.settings.deadline_s) as connection:
            yield connection

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        """Give the block a deadline and a breaker, and turn what the driver says into errors of ours."""
        began = self._clock()
        with self.breakers.guard(BACKEND):
            try:
                async with asyncio.timeout(self.settings.deadline_s):
                    yield
            except (SojournError, *_ROLLED_BACK):
                raise
            except asyncpg.PostgresError as error:
                if error.sqlstate[:2] in _OUR_FAULT:
                    source = f"PostgreSQL error {error.sqlstate}"
                    raise LocalProtocolError("what the tables refuse", "what they take", source) from error
                await self._expire(error)
                raise self._unavailable(error, self._clock() - began) from error
            except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                raise self._unavailable(error, self._clock() - began) from None
            if self.up_since == 0.0:
                self.up_since = self._clock()

    async def _expire(self, error: asyncpg.PostgresError) -> None:
        """Leave a server that became a standby: the pool's other connections go there as well."""
        if self._pool is not None and isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            await self._pool.expire_connections()

    def _unavailable(self, error: Exception, after_s: float) -> BackendUnavailable:
        """Say what happened, without any text that might quote the address, and with it the password."""
        self.up_since = 0.0
        if isinstance(error, TimeoutError):
            return BackendUnavailable(BACKEND, after_s, "no answer in time")
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
            return BackendUnavailable(BACKEND, 0.0, f"{type(error).__name__} ({error.sqlstate})")
        if isinstance(error, OSError) and error.strerror:
            return BackendUnavailable(BACKEND, 0.0, error.strerror)
        return BackendUnavailable(BACKEND, 0.0, type(error).__name__)


async def _nothing_to_reset(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Save the round trip with which asyncpg clears a connection that is given back."""


def columns(row: type[msgspec.Struct], alias: str) -> str:
    """Return the columns of a table, which are the fields of its struct in their order."""
    return ", ".join(f"{alias}.{name}" for name in row.__struct_fields__)


def json_text(value: object) -> str:
    """Return a value as a jsonb parameter takes it."""
    return msgspec.json.encode(value).decode()


def row_of(record: asyncpg.Record, row: type[RowT]) -> RowT:
    """Return a row of the database as its struct; jsonb comes as text."""
    values = dict(record)
    for name in _JSON_COLUMNS & values.keys():
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values, row)
