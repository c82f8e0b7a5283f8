"""Traders: users who place orders all the time, over whatever the network is, and remember all that they are told.

Each is an :class:`ExchangeClient`, which reconnects by the rules, and keeps what the law is checked with: every event
in the order in which it came, every welcome, every order that was answered. Knows no fault and no truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, SojournError
from sojourn.gateways.exchange.messages import Welcome
from sojourn.gateways.exchange.peer import Declined, ExchangeClient, LiveEvent, LiveSession, Placed

FINAL: Final = frozenset({"filled", "canceled", "rejected"})
ANSWER_S: Final = 15.0
"""For one try of an order; the client itself repeats it on every connection meanwhile."""
START_S: Final = 90.0
CALM_S: Final = 90.0
"""For the last orders, when nothing fails any more."""
TICK: Final = Decimal("0.01")
RESEND_SHARE: Final = 0.12
CANCEL_SHARE: Final = 0.15
REPLACE_SHARE: Final = 0.05
KEEP_OPEN_COUNT: Final = 20
FOREVER_S: Final = 1e6


class Terms(NamedTuple):
    """What an order asks for; without a price it is a market order."""

    symbol: str
    side: Literal["buy", "sell"]
    quantity: int
    price: str | None


class Greeting(NamedTuple):
    """One welcome: when it came, and how it continued what was before."""

    at_s: float
    pod: str
    epoch: int
    resumed: str
    recovered: int


class Trader:
    """One user on one device.

    Life: made with an open client; ``run`` trades until ``is_trading`` is false.

    Args:
        name: of the user.
        client: theirs.
        chance: of their decisions.
        pace_s: the mean time between two orders of one of their hands.
        hands_count: orders that they may wait for at once.
    """

    def __init__(
        self,
        name: str,
        client: ExchangeClient,
        chance: random.Random,
        *,
        pace_s: float,
        hands_count: int = 2,
    ) -> None:
        self.name = name
        self.client = client
        self.session = ""
        self.events: list[LiveEvent] = []
        self.greetings: list[Greeting] = []
        self.lost_at_s: list[float] = []
        self.ends: Counter[str] = Counter()
        """Why connections ended."""
        self.asked: dict[str, Terms] = {}
        self.placed: dict[str, int] = {}
        """Orders that were acknowledged: the simulator's number by our id."""
        self.contradictions: list[str] = []
        self.declined: Counter[str] = Counter()
        self.resent_count = self.unanswered_count = self.changes_count = 0
        self.is_trading = True
        self.error = ""
        self.live: LiveSession
        self._chance = chance
        self._pace_s = pace_s
        self._hands_count = hands_count
        self._welcome: Welcome | None = None
        self._was_live = False
        self._ids_count = 0
        self._rows: tuple[dict[str, Any], ...] = ()

    # Life

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Trader]:
        """Open the session and its simulator, and remember all that comes for the length of a block."""
        session = await self.client.create_session()
        self.session = session.id
        async with self.client.live(session.id, timeout_s=START_S, events_count=1_000_000) as live:
            self.live = live
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch())
                keeping = tasks.create_task(self._keep())
                try:
                    await live.start_simulator(timeout_s=START_S)
                    await live.until(lambda: bool(live.rows), START_S)
                    yield self
                finally:
                    watching.cancel()
                    keeping.cancel()

    async def _keep(self) -> None:
        try:
            async for event in self.live.events():
                self.events.append(event)
        except SojournError as error:
            self.error = f"{type(error).__name__}: {error}"

    async def _watch(self) -> None:
        with contextlib.suppress(SojournError):  # the keeper has it too
            await self.live.until(self._look, FOREVER_S)

    def _look(self) -> bool:
        """Take note of each new welcome, and of each end; is asked after every frame."""
        live = self.live
        welcome, is_live = live.welcome, live.state == "live"
        if welcome is not None and welcome is not self._welcome:
            self._welcome = welcome
            now_s = time.monotonic()
            self.greetings.append(
                Greeting(now_s, welcome.pod, welcome.epoch, welcome.resumed, welcome.recovered)
            )
        if self._was_live and live.state == "waiting":
            self.lost_at_s.append(time.monotonic())
            self.ends[live.stats.last_why] += 1
        self._was_live = is_live
        return False

    # Trading

    async def trade(self) -> None:
        """Trade with every hand until told to stop."""
        async with asyncio.TaskGroup() as hands:
            for _ in range(self._hands_count):
                hands.create_task(self._trade())

    async def _trade(self) -> None:
        while self.is_trading and not self.error:
            await asyncio.sleep(self._chance.expovariate(1 / self._pace_s))
            try:
                await self._act()
            except Declined as declined:
                self.declined[declined.code] += 1
            except BackendUnavailable:
                self.unanswered_count += 1
            except SojournError:
                return  # the conversation is over, as the keeper hears too

    async def _act(self) -> None:
        """Do one thing. Raises: Declined, BackendUnavailable, or what ended the conversation."""
        roll = self._chance.random()
        waiting = self._open_orders()
        if roll < RESEND_SHARE and self.placed:
            name = self._chance.choice(tuple(self.placed))
            self.resent_count += 1
            await self._place(name, self.asked[name])
        elif waiting and (roll < RESEND_SHARE + CANCEL_SHARE or len(waiting) > KEEP_OPEN_COUNT):
            self.changes_count += 1
            await self.live.cancel(self._chance.choice(waiting), timeout_s=ANSWER_S)
        elif waiting and roll < RESEND_SHARE + CANCEL_SHARE + REPLACE_SHARE:
            self.changes_count += 1
            order = self.live.orders[self._chance.choice(waiting)]
            if "price" in order:
                await self.live.replace(
                    order["order"], order["quantity"] + 1, order["price"], timeout_s=ANSWER_S
                )
        else:
            await self._place(self._new_name(), self._wish())

    async def _place(self, name: str, terms: Terms) -> Placed:
        """Place an order under an id; one that is not answered in time is asked again, as the same order."""
        self.asked[name] = terms
        while True:
            try:
                placed = await self.live.order(*terms, request_id=name, timeout_s=ANSWER_S)
            except BackendUnavailable:
                self.unanswered_count += 1
                if not self.is_trading:
                    raise
                continue
            break
        before = self.placed.setdefault(name, placed.order)
        if before != placed.order:
            self.contradictions.append(f"{name} was order {before}, and is order {placed.order}")
        return placed

    def _new_name(self) -> str:
        self._ids_count += 1
        return f"{self.name}-{self._ids_count}"

    def _wish(self) -> Terms:
        """Think of an order: at the market, at its price, or somewhat off it."""
        chance = self._chance
        # Behind a snapshot there are no rows for a moment.
        self._rows = tuple(self.live.rows.values()) or self._rows
        row = chance.choice(self._rows)
        side: Literal["buy", "sell"] = "buy" if chance.random() < 0.5 else "sell"  # noqa: PLR2004 - a coin
        price = None
        if chance.random() < 0.7:  # noqa: PLR2004 - most orders have a price
            price = str(Decimal(row["last"]) + TICK * chance.randint(-8, 8))
        return Terms(row["s"], side, chance.randint(1, 20), price)

    def _open_orders(self) -> Sequence[int]:
        return [number for number, order in self.live.orders.items() if order["status"] not in FINAL]

    # The end

    async def settle(self) -> None:
        """Take back what is open, then place a last order, and hear what became of it.

        Then nothing more can happen, and what was told is all that will be.
        """
        live = self.live
        while waiting := self._open_orders():
            for number in waiting:
                with contextlib.suppress(Declined):  # it was filled a moment ago
                    await live.cancel(number, timeout_s=CALM_S)
            await live.until(lambda gone=tuple(waiting): not set(gone) & set(self._open_orders()), CALM_S)  # type: ignore[misc]
        name = f"{self.name}-last"
        with contextlib.suppress(Declined):
            await self._place(name, self._wish()._replace(price=None))
        await live.until(lambda: self._has_ended(name), CALM_S)

    def _has_ended(self, name: str) -> bool:
        return any(one["id"] == name and one["status"] in FINAL for one in self.live.orders.values())


@asynccontextmanager
async def all_at_work(traders: Iterable[Trader], at_once_count: int) -> AsyncIterator[None]:
    """Let them all come, so many at a time, since each may start a process; at the end they leave."""
    gate = asyncio.Semaphore(at_once_count)
    leaving = asyncio.Event()

    async def work(trader: Trader, has_begun: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            async with gate:
                await stack.enter_async_context(trader.at_work())
            has_begun.set()
            await leaving.wait()

    async with asyncio.TaskGroup() as tasks:
        begun = []
        for trader in traders:
            begun.append(asyncio.Event())
            tasks.create_task(work(trader, begun[-1]))
        try:
            for one in begun:
                await one.wait()
            yield
        finally:
            leaving.set()


@asynccontextmanager
async def client_of(endpoints: Sequence[str], token: Secret, device: str) -> AsyncIterator[ExchangeClient]:
    """Open a client of a user's device."""
    async with ExchangeClient(endpoints, token, device=device, timeout_s=20.0) as client:
        yield client
