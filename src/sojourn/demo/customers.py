"""Customers of the demo's database: applications with a driver of their own, which count what they are told.

Each has one connection through the gateway and never makes another. They work as applications do: some hold settings,
prepared statements and LISTEN, some write in transactions, some with single statements. Knows no server.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from sojourn.core.session import raised_at
from sojourn.demo.database import APP, POOLS, SHOP, DatabasePair
from sojourn.demo.screen import first_of
from sojourn.errors import SojournError
from sojourn.gateways.postgres.config import PoolMode

if TYPE_CHECKING:
    from sojourn.demo.screen import Screen

PAUSE_S: Final = 0.02
"""Between two requests of one customer."""
THINKING_S: Final = 0.05
"""Within a transaction, as applications do between two statements."""
LATER_PAUSE_S: Final = 0.5
"""The same, after the show."""
BEFORE_S: Final = 2.0
"""Time to work before the primary is killed."""
PROMOTED_AFTER_S: Final = 1.0
"""Time that somebody needs to notice and to decide, from the kill on."""
EACH_COUNT: Final = 2
"""Customers of each kind in each pool."""
WITHIN_S: Final = 20.0
"""For every customer to be answered again."""
CLERK_EVERY_S: Final = 4.0
CLERK_STATEMENTS: Final = (
    "SELECT count(*), max(number) FROM sale",
    "SELECT customer, count(*) FROM sale, (SELECT pg_sleep(0.3)) AS slowly GROUP BY customer",
    "SELECT customer, sum(amount) FROM sale GROUP BY customer",
)
"""A quick one, a slow one, and one with a mistake in it."""

ANSWERED: Final = "answered"
NOT_COMMITTED: Final = "40001"
UNKNOWN: Final = "08007"
_TIMEOUT: Final = "34s"
_CHANNEL: Final = "sale"


class Customer:
    """One application with one connection.

    Life: connected and run by :class:`Customers`, ended with the demo. Always true: ``committed`` are the numbers of
    sales whose COMMIT was answered; ``longest_s`` is the longest request that ended since it was last set to 0.
    """

    def __init__(self, pool: PoolMode, kind: str, number: int) -> None:
        self.pool = pool
        self.kind = kind
        self.name = f"{pool} {kind} {number}"
        self.outcomes: Counter[str] = Counter()
        self.committed: set[int] = set()
        self.unknown: set[int] = set()
        self.longest_s = 0.0
        self.steps_count = 0
        self.is_restored: bool | None = None
        self.is_dropped = False
        self._sale = 0
        self._heard_count = 0
        self._connection: asyncpg.Connection = None  # type: ignore[assignment]  # set by connect
        works: dict[str, Callable[[], Awaitable[None]]] = {
            "listens": self._listens,
            "has settings": self._has_settings,
            "sells": self._sells,
            "inserts": self._inserts,
            "reads": self._reads,
        }
        self._work = works[kind]

    async def connect(self, host: str, port: int, password: str) -> None:
        """Log in and, for some kinds, take what the session is to hold."""
        self._connection = await asyncpg.connect(
            host=host, port=port, user=APP, password=password, database=POOLS[self.pool]
        )
        if self.kind == "listens":
            await self._connection.add_listener(_CHANNEL, self._hears)
        elif self.kind == "has settings":
            await self._connection.execute(f"SET statement_timeout = '{_TIMEOUT}'")
            await self._connection.execute("PREPARE sales AS SELECT count(*) FROM sale WHERE customer = $1")

    async def run(self, pause_s: Callable[[], float]) -> None:
        """Work until the connection is lost or the task is cancelled."""
        try:
            while True:
                await self._step()
                await asyncio.sleep(pause_s())
        except (OSError, asyncpg.InterfaceError):
            self.is_dropped = True
        except Exception as error:  # noqa: BLE001 - shown as what it is; the others go on
            self.is_dropped = True
            self.outcomes[f"{type(error).__name__} at {raised_at(error)}"] += 1
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.terminate()

    @property
    def is_connected(self) -> bool:
        """Say whether it still has the connection that it made at the beginning."""
        return not (self.is_dropped or self._connection.is_closed())

    async def _step(self) -> None:
        began = monotonic()
        try:
            await self._work()
        except asyncpg.PostgresError as error:
            outcome = error.sqlstate or type(error).__name__
            if outcome == UNKNOWN:
                # The honest answer of an application: never the same number again, and no claim about this one.
                self.unknown.add(self._sale)
                self._sale += 1
        else:
            outcome = ANSWERED
        self.outcomes[outcome] += 1
        self.longest_s = max(self.longest_s, monotonic() - began)
        self.steps_count += 1

    # What they do

    def _hears(self, *_: object) -> None:
        self._heard_count += 1
        if self.is_restored is False:
            self.is_restored = True

    async def _listens(self) -> None:
        await self._connection.fetchval("SELECT $1::int", self._heard_count)

    async def _has_settings(self) -> None:
        timeout = await self._connection.fetchval("SHOW statement_timeout")
        tag = await self._connection.execute("EXECUTE sales('nobody')")
        if self.is_restored is False:
            self.is_restored = (timeout, tag) == (_TIMEOUT, "SELECT 1")

    async def _sells(self) -> None:
        sql = "INSERT INTO sale VALUES ($1, $2, $3)"
        async with self._connection.transaction():
            await self._connection.execute(sql, self.name, self._sale, 1)
            await asyncio.sleep(THINKING_S)
            await self._connection.execute(sql, self.name, self._sale, 2)
            await self._connection.execute(f"NOTIFY {_CHANNEL}")
        self._sold()

    async def _inserts(self) -> None:
        await self._connection.execute(
            "INSERT INTO sale VALUES ($1, $2, 1), ($1, $2, 2)", self.name, self._sale
        )
        self._sold()

    def _sold(self) -> None:
        self.committed.add(self._sale)
        self._sale += 1

    async def _reads(self) -> None:
        await self._connection.fetch("SELECT * FROM sale ORDER BY at DESC LIMIT 20")


class PoolResult(NamedTuple):
    """What the customers of one pool met."""

    pool: str
    customers_count: int
    connected_count: int
    answered_count: int
    not_committed_count: int
    unknown_count: int
    others: dict[str, int]
    longest_s: float
    median_s: float


class FailoverResult(NamedTuple):
    """What all customers met, and what is in the database afterwards."""

    pools: Sequence[PoolResult]
    gone_s: float
    held_count: int
    restored_count: int
    committed_count: int
    lost_count: int
    doubled_count: int

    @property
    def is_right(self) -> bool:
        """Say whether nobody lost a connection, a session or a sale."""
        return (
            all(one.customers_count == one.connected_count and not one.others for one in self.pools)
            and self.held_count == self.restored_count
            and not self.lost_count
            and not self.doubled_count
        )


async def show_failover(pair: DatabasePair, screen: Screen, address: str, tasks: asyncio.TaskGroup) -> None:
    """Let customers work, take the primary from under them, and show what they met; they go on afterwards.

    Args:
        pair: the servers.
        screen: where it is shown.
        address: the gateway's listener.
        tasks: where the customers work on.
    """
    host, _, port = address.rpartition(":")
    customers = Customers(pair)
    try:
        with screen.step(f"{len(customers.all)} database clients at work"):
            await customers.start(host, int(port), tasks)
            await asyncio.sleep(BEFORE_S)
        with screen.step("killing their primary, promoting its replica"):
            result = await customers.fail_over(PROMOTED_AFTER_S)
        screen.show_failover(address, result)
    except* (SojournError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as errors:
        first = first_of(errors)
        screen.complain(f"the failover failed: {type(first).__name__}: {first}")
    customers.slow_down()
    try:
        with screen.step("bringing the killed server back as a replica"):
            await pair.take_back()
    except SojournError as error:
        screen.complain(f"the killed server did not come back: {error}")
    clerk = Clerk(host, int(port), pair.password)
    tasks.create_task(clerk.run())


class Clerk:
    """Somebody who comes now and then, writes a report that takes long, makes a mistake, and leaves.

    Life: run in a task of the demo until that is cancelled.
    """

    def __init__(self, host: str, port: int, password: str) -> None:
        self._url = f"postgresql://{APP}:{password}@{host}:{port}/{SHOP}"

    async def run(self) -> None:
        """Work for ever; where there is no database at the moment, come again later."""
        for statement in itertools.cycle(CLERK_STATEMENTS):
            await asyncio.sleep(CLERK_EVERY_S)
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self._url)
                try:
                    await connection.execute(statement)
                finally:
                    connection.terminate()


class Customers:
    """All customers; their tasks live in the group that they are started in."""

    def __init__(self, pair: DatabasePair) -> None:
        self._pair = pair
        self._pause_s = PAUSE_S
        kinds = ("listens", "has settings", "sells", "inserts", "reads")
        self.all = [
            Customer(pool, kind, number)
            for pool in POOLS
            for kind in kinds
            for number in range(1, EACH_COUNT + 1)
        ]

    async def start(self, host: str, port: int, tasks: asyncio.TaskGroup) -> None:
        """Let all log in and begin to work."""
        try:
            async with asyncio.TaskGroup() as logins:
                for one in self.all:
                    logins.create_task(one.connect(host, port, self._pair.password))
        except BaseException:
            for one in self.all:
                one.close()
            raise
        for one in self.all:
            tasks.create_task(one.run(lambda: self._pause_s))

    async def fail_over(self, promoted_after_s: float) -> FailoverResult:
        """Kill the primary and promote the replica while everybody works, and see what it came to."""
        for one in self.all:
            one.longest_s = 0.0
        began = monotonic()
        await self._pair.kill_primary()
        await asyncio.sleep(promoted_after_s)
        await self._pair.promote_replica()
        gone_s = monotonic() - began
        holders = [one for one in self.all if one.kind in ("listens", "has settings")]
        for one in holders:
            one.is_restored = False
        seen = {one: one.steps_count for one in self.all}
        until = monotonic() + WITHIN_S
        # Two rounds: the request that waited, and one that did not.
        while monotonic() < until and not (  # noqa: ASYNC110 - twenty customers, and one that looks
            all(one.is_dropped or one.steps_count > seen[one] + 1 for one in self.all)
            and all(one.is_restored or one.is_dropped for one in holders)
        ):
            await asyncio.sleep(PAUSE_S)
        return await self._result(gone_s, holders)

    def slow_down(self) -> None:
        """Go on quietly."""
        self._pause_s = LATER_PAUSE_S

    async def _result(self, gone_s: float, holders: Sequence[Customer]) -> FailoverResult:
        # First what customers know, then what the server has: they go on selling.
        committed = {(one.name, sale) for one in self.all for sale in one.committed}
        there = {(customer, number): count for customer, number, count in await self._pair.sales()}
        return FailoverResult(
            pools=[_of_pool(pool, [one for one in self.all if one.pool == pool]) for pool in POOLS],
            gone_s=gone_s,
            held_count=len(holders),
            restored_count=sum(one.is_restored is True for one in holders),
            committed_count=len(committed),
            lost_count=sum(there.get(sale, 0) < 2 for sale in committed),  # noqa: PLR2004 - each sale has two parts
            doubled_count=sum(count > 2 for count in there.values()),  # noqa: PLR2004 - as above
        )


def _of_pool(pool: str, customers: Sequence[Customer]) -> PoolResult:
    outcomes: Counter[str] = Counter()
    for one in customers:
        outcomes += one.outcomes
    waits = [one.longest_s for one in customers]
    return PoolResult(
        pool=pool,
        customers_count=len(customers),
        connected_count=sum(one.is_connected for one in customers),
        answered_count=outcomes.pop(ANSWERED, 0),
        not_committed_count=outcomes.pop(NOT_COMMITTED, 0),
        unknown_count=outcomes.pop(UNKNOWN, 0),
        others=dict(outcomes),
        longest_s=max(waits),
        median_s=statistics.median(waits),
    )
