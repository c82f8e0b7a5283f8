"""MemoryStore: the gateway's storage without a database, for tests of everything that uses one.

Obeys the same tests as the one in PostgreSQL. One object is one database: processes of a test that are to share one
share the object. Nothing here waits, so every operation is a transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sojourn.core.clock import Clock, WallClock, utc_now
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.ids import IdMaker
from sojourn.gateways.exchange.lifecycle import FINAL_SIMULATOR_STATES
from sojourn.gateways.exchange.memory_store.log import MemoryEvents, MemoryPool, MemoryRequests
from sojourn.gateways.exchange.memory_store.sessions import MemorySessions
from sojourn.gateways.exchange.memory_store.simulators import MemorySimulators
from sojourn.gateways.exchange.memory_store.tables import MemoryTables
from sojourn.gateways.exchange.rows import Usage
from sojourn.gateways.exchange.storage import (
    EventTable,
    PoolTable,
    RequestTable,
    SessionTable,
    SimulatorTable,
    SingletonName,
)


class MemoryStore:
    """A database in memory; see :class:`~sojourn.gateways.exchange.storage.Storage`.

    Args:
        clock: the date and time that is written and compared with.
        monotonic: seconds.
    """

    def __init__(self, clock: WallClock = utc_now, monotonic: Clock = time.monotonic) -> None:
        self._tables = MemoryTables(clock, IdMaker(clock))
        self._monotonic = monotonic
        self._up_since = 0.0
        self._turns: dict[str, asyncio.Lock] = {}
        self._scopes: set[asyncio.Timeout] = set()
        self.sessions: SessionTable = MemorySessions(self._tables)
        self.simulators: SimulatorTable = MemorySimulators(self._tables)
        self.events: EventTable = MemoryEvents(self._tables)
        self.requests: RequestTable = MemoryRequests(self._tables)
        self.pool: PoolTable = MemoryPool(self._tables)

    @property
    def is_up(self) -> bool:
        """It is started and not away."""
        return self._up_since > 0.0

    @property
    def up_since(self) -> float:
        """The monotonic second since when; 0.0 while it is away."""
        return self._up_since

    def go_away(self) -> None:
        """Be as a database that nobody can reach: every operation fails, every singleton is lost."""
        self._tables.is_away = True
        self._up_since = 0.0
        self.lose_singletons()

    def come_back(self) -> None:
        """Be there again, with everything that was in it."""
        self._tables.is_away = False
        self._up_since = self._monotonic()

    def lose_singletons(self) -> None:
        """Cut the connections of all who are in a singleton's block."""
        now = asyncio.get_running_loop().time() if self._scopes else 0.0
        for scope in self._scopes:
            scope.reschedule(now)

    async def start(self) -> None:
        """Begin.

        Raises: BackendUnavailable while it is away.
        """
        self._tables.answer()
        self._up_since = self._monotonic()

    async def stop(self) -> None:
        """End; what is in it stays."""
        self._up_since = 0.0

    async def check(self) -> None:
        """Ask for nothing.

        Raises: BackendUnavailable while it is away.
        """
        self._tables.answer()

    async def usage(self) -> Usage:
        """Return how many there are of everything."""
        tables = self._tables
        tables.answer()
        live = (row for row in tables.simulators.values() if row.state not in FINAL_SIMULATOR_STATES)
        return Usage(
            sessions=dict(Counter(row.state.value for row in tables.sessions.values() if row.is_live)),
            simulators=dict(Counter((row.driver, row.state.value) for row in live)),
            pool=dict(Counter((row.driver, row.state.value) for row in tables.pool.values())),
        )

    @asynccontextmanager
    async def singleton(self, name: SingletonName) -> AsyncIterator[None]:
        """Return a block that only one is in at a time; entering waits for our turn."""
        self._tables.answer()
        async with self._turns.setdefault(name, asyncio.Lock()):
            scope = asyncio.timeout(None)
            try:
                async with scope:
                    self._scopes.add(scope)
                    try:
                        yield
                    finally:
                        self._scopes.discard(scope)
            except TimeoutError:
                if scope.expired():
                    raise BackendUnavailable("memory", 0.0, "the singleton was lost") from None
                raise
