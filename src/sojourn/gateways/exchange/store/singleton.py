"""What only one process of the cluster does at a time, by an advisory lock.

This is the one place that keeps something in a connection: a transaction that stays open for as long as we are the
one, with the lock in it. So a pooler in transaction mode leaves us on one server, and needs one connection to it for
each singleton; its own limit for idle transactions must be longer than a third of the hold. The transaction reads
nothing between its beats and holds no vacuum up.

Theory of operation. The holder beats every third of the hold. The server itself ends a transaction that has been silent
for a hold, and with it the lock: a process that vanished or cannot be reached does not keep it. The holder gives up
when a beat is not answered within another third, so always before the server can: from then on its block is cancelled.
Between giving up and the last line of a block that clears up slowly another process may begin; what a singleton does
must bear that, and does, for every write of it is a compare-and-swap.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.store.database import BACKEND, Database

LOCK_CLASS: Final = 0x736F6B
"""First half of the advisory locks' keys, another one than the migrations'; the second is made of the name."""

_TRY: Final = "SELECT pg_catalog.pg_try_advisory_xact_lock($1, pg_catalog.hashtext($2))"


@asynccontextmanager
async def singleton(database: Database, name: str) -> AsyncIterator[None]:
    """Wait until nobody else of the cluster is in a block of this name, and be it.

    Raises: BackendUnavailable on entering if the database does not answer; out of the block, which is cancelled, as
        soon as it is not certain any more that we are the only one.
    """
    connection = await database.connect()
    try:
        await _acquire(connection, database, name)
        try:
            async with asyncio.TaskGroup() as tasks:
                beat = _Beat(connection, database.settings.singleton_hold_s / 3)
                async with beat.scope:
                    task = tasks.create_task(beat.run())
                    try:
                        yield
                    finally:
                        task.cancel()
        except BaseExceptionGroup as group:
            # What leaves the block leaves it as it is; the beat itself raises nothing.
            (error,) = group.exceptions
            if isinstance(error, TimeoutError) and beat.scope.expired():
                raise BackendUnavailable(BACKEND, 0.0, beat.cause) from None
            raise error from None
    finally:
        with contextlib.suppress(Exception):  # asyncpg has aborted it by then
            async with asyncio.timeout(database.settings.deadline_s):
                await connection.execute("ROLLBACK")
                await connection.close()
        connection.terminate()


async def _acquire(connection: asyncpg.Connection[asyncpg.Record], database: Database, name: str) -> None:
    """Try again and again; between two tries the connection is in no transaction."""
    settings = database.settings
    key = f"{settings.schema}.{name}"
    hold_ms = max(int(settings.singleton_hold_s * 1000), 1)
    while True:
        try:
            async with asyncio.timeout(settings.deadline_s):
                await connection.execute(f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {hold_ms}")
                if await connection.fetchval(_TRY, LOCK_CLASS, key):
                    return
                await connection.execute("ROLLBACK")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise BackendUnavailable(BACKEND, 0.0, f"no lock for {name}: {type(error).__name__}") from None
        await asyncio.sleep(settings.singleton_poll_s)


class _Beat:
    """Keeps the transaction alive, and ends the block (``scope``) when it cannot; ``cause`` says why."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], every_s: float) -> None:
        self.scope = asyncio.timeout(None)
        self.cause = ""
        self._connection = connection
        self._every_s = every_s
        self._closed = asyncio.Event()
        connection.add_termination_listener(lambda _: self._closed.set())

    async def run(self) -> None:
        """Beat until we are cancelled, a beat is not answered, or the connection has gone."""
        try:
            while not self._closed.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._closed.wait()
                        break
                async with asyncio.timeout(self._every_s):
                    await self._connection.execute("SELECT 1")
            self.cause = "the singleton's connection was closed"
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            self.cause = f"the singleton's beat was not answered: {type(error).__name__}"
        self.scope.reschedule(asyncio.get_running_loop().time())
