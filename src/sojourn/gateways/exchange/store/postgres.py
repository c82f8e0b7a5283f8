"""PostgresStore: the gateway's storage in a PostgreSQL, behind a pooler or not."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from importlib.resources import files
from typing import Final

from sojourn.core.breaker import Breakers
from sojourn.core.clock import Clock, WallClock, utc_now
from sojourn.core.migrations import read_migrations
from sojourn.gateways.exchange.ids import IdMaker
from sojourn.gateways.exchange.rows import Usage
from sojourn.gateways.exchange.storage import (
    EventTable,
    PoolTable,
    RequestTable,
    SessionTable,
    SimulatorTable,
    SingletonName,
    StoreSettings,
)
from sojourn.gateways.exchange.store.database import Database
from sojourn.gateways.exchange.store.events import Events
from sojourn.gateways.exchange.store.pool import Pool
from sojourn.gateways.exchange.store.requests import Requests
from sojourn.gateways.exchange.store.sessions import Sessions
from sojourn.gateways.exchange.store.simulators import Simulators
from sojourn.gateways.exchange.store.singleton import singleton

PACKAGE: Final = "sojourn.gateways.exchange"

_USAGE = """
SELECT 'sessions' AS what, '' AS driver, state, count(*) AS number
FROM {s}.sessions WHERE state <> 'ended' GROUP BY state
UNION ALL
SELECT 'simulators', driver, state, count(*)
FROM {s}.simulators WHERE state NOT IN ('stopped', 'failed') GROUP BY driver, state
UNION ALL
SELECT 'pool', driver, state, count(*) FROM {s}.pool_simulators GROUP BY driver, state
"""


class PostgresStore:
    """The gateway's tables in one PostgreSQL; see :class:`~sojourn.gateways.exchange.storage.Storage`.

    Life: the gateway makes one, starts it, again and again if the database is away, and stops it at its end.

    Args:
        settings: where it is, and the bounds.
        clock: the date and time that is written and compared with.
        monotonic: seconds for deadlines and breakers.
        breakers: which know this database already, after a reload; None makes new ones.
    """

    def __init__(
        self,
        settings: StoreSettings,
        clock: WallClock = utc_now,
        monotonic: Clock = time.monotonic,
        *,
        breakers: Breakers | None = None,
    ) -> None:
        self._database = Database(settings, monotonic, breakers)
        ids = IdMaker(clock)
        self.sessions: SessionTable = Sessions(self._database, clock, ids)
        self.simulators: SimulatorTable = Simulators(self._database, clock, ids)
        self.events: EventTable = Events(self._database)
        self.requests: RequestTable = Requests(self._database, clock)
        self.pool: PoolTable = Pool(self._database, clock)
        self._usage = self._database.sql(_USAGE)

    @property
    def breakers(self) -> Breakers:
        """The circuit of this database, for metrics and for the next store."""
        return self._database.breakers

    @property
    def is_up(self) -> bool:
        """It is started, and answered when it was asked last."""
        return self._database.is_up

    @property
    def up_since(self) -> float:
        """The monotonic second of the first answer after the last failure; 0.0 while it is down."""
        return self._database.up_since

    async def start(self) -> None:
        """Connect and bring the schema up to date; may be tried again after a failure.

        Raises: BackendUnavailable; ConfigError if the migrations do not fit what was applied.
        """
        await self._database.start(read_migrations(files(PACKAGE) / "migrations"))

    async def stop(self) -> None:
        """Close every connection."""
        await self._database.stop()

    async def check(self) -> None:
        """Ask for nothing, to learn whether it answers.

        Raises: BackendUnavailable if it does not.
        """
        await self._database.fetch("SELECT 1")

    async def usage(self) -> Usage:
        """Return how many there are of everything, for metrics."""
        records = await self._database.fetch(self._usage)
        found: dict[str, dict[tuple[str, str], int]] = {"sessions": {}, "simulators": {}, "pool": {}}
        for what, driver, state, number in records:
            found[what][driver, state] = number
        sessions = {state: number for (_, state), number in found["sessions"].items()}
        return Usage(sessions=sessions, simulators=found["simulators"], pool=found["pool"])

    def singleton(self, name: SingletonName) -> AbstractAsyncContextManager[None]:
        """Return a block that only one process of the cluster is in at a time; entering waits for our turn."""
        return singleton(self._database, name)
