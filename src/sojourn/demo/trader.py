"""A trader of the demo: a user's program whose WebSocket is killed while it trades, and that counts what it is told.

Creates a session over REST, has a simulator started, trades over the WebSocket, and once without it; at the end it
compares every event that it was told with the log that the gateway kept. Knows no server and no database.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sojourn.core.secret import Secret
from sojourn.demo.screen import first_of
from sojourn.errors import SojournError
from sojourn.gateways.exchange.dev_issuer import read_key_file, sign_token
from sojourn.gateways.exchange.peer import Declined, ExchangeClient, LiveEvent, LiveSession

if TYPE_CHECKING:
    from sojourn.demo.screen import Screen
    from sojourn.demo.site import Site

TRADER: Final = "ana"
DEVICE: Final = "demo"
LIFETIME_S: Final = 12 * 3600.0
ORDERS_COUNT: Final = 20
"""Orders of each round."""
KILLS_COUNT: Final = 3
LATER_PAUSE_S: Final = 2.0
"""Between two orders, after the show."""
SECOND: Final = "ben"
"""Another trader, who comes after the show."""
SECOND_PAUSE_S: Final = 5.0
WITHIN_S: Final = 20.0
LOOK_S: Final = 0.05
PAGE_COUNT: Final = 500


class Step(NamedTuple):
    """What was done, what came of it, and how long it took."""

    what: str
    answer: str
    seconds: float


class TraderResult(NamedTuple):
    """What the trader saw: its steps, and its events against the log's."""

    session: str
    steps: list[Step]
    logged_count: int
    told_count: int
    lost_count: int
    doubled_count: int
    disordered_count: int
    snapshots_count: int

    @property
    def is_right(self) -> bool:
        """Say whether every event of the log was told once, in its place."""
        wrong = self.lost_count + self.doubled_count + self.disordered_count + self.snapshots_count
        return self.logged_count > 0 and not wrong


class Trader:
    """One user's program.

    Args:
        client: to the gateway.
    """

    def __init__(self, client: ExchangeClient) -> None:
        self._client = client
        self._steps: list[Step] = []
        self._told: list[LiveEvent] = []
        self._random = random.Random(7)  # noqa: S311 - which stock to buy is no secret

    @contextmanager
    def _step(self, what: str) -> Iterator[list[str]]:
        """Take note of how long a step takes; the list gets what came of it."""
        began, answer = time.monotonic(), []  # type: tuple[float, list[str]]
        yield answer
        self._steps.append(Step(what, ", ".join(answer), time.monotonic() - began))

    async def show(self) -> TraderResult:
        """Do everything once, and compare. Raises: SojournError."""
        client = self._client
        with self._step("POST /v1/sessions") as answer:
            session = await client.create_session()
            answer.append(f"session {session.id}")
        with self._step("PUT .../simulator") as answer:
            simulator = await client.start_simulator(session.id)
            answer.append(f"{simulator.state}, driver {simulator.driver}")
        async with client.live(session.id) as live, self._listening(live):
            with self._step("WebSocket") as answer:
                await live.until(lambda: bool(live.rows) and live.portfolio is not None, WITHIN_S)
                answer.append(f"{len(live.rows)} symbols, cash {live.portfolio['cash']}")
            with self._step(f"{ORDERS_COUNT} orders") as answer:
                filled = [await self._trade(live) for _ in range(ORDERS_COUNT)]
                answer.append(f"{sum(filled)} shares traded")
            for number in range(1, KILLS_COUNT + 1):
                with self._step(f"WebSocket killed, {number} of {KILLS_COUNT}") as answer:
                    answer.append(await self._trade_without(live, session.id))
            return await self._compare(session.id, live)

    @asynccontextmanager
    async def _listening(self, live: LiveSession) -> AsyncIterator[None]:
        async def listen() -> None:
            async for event in live.events():
                self._told.append(event)

        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen())
            try:
                yield
            finally:
                listening.cancel()

    async def _trade(self, live: LiveSession) -> int:
        """Buy or sell a little; return how much was filled, 0 if it was declined. Raises: SojournError."""
        symbol = self._random.choice(sorted(live.rows))
        held = {one["symbol"]: one["quantity"] for one in (live.portfolio or {}).get("positions", ())}
        quantity = self._random.randint(1, 9)
        side = "sell" if held.get(symbol, 0) > quantity and self._random.random() < 0.5 else "buy"  # noqa: PLR2004
        try:
            return (await live.order(symbol, "buy" if side == "buy" else "sell", quantity)).filled
        except Declined:  # what it knew of its cash and shares was older than the order before
            return 0

    async def _trade_without(self, live: LiveSession, session_id: str) -> str:
        """Lose the WebSocket, trade over REST meanwhile, and come back to all that was missed. Raises: SojournError."""
        before = live.stats.recovered_count
        connections = live.stats.connections_count
        symbols = sorted(live.rows)
        known = (await self._client.events_after(session_id, 0, limit_count=PAGE_COUNT)).last
        with live.away():
            for symbol in self._random.choices(symbols, k=3):
                await self._client.submit_order(session_id, symbol, "buy", 1)
            # An order is answered before its events are logged: without them there would be nothing to replay.
            while (await self._client.events_after(session_id, known)).last == known:  # noqa: ASYNC110 - it is the server's
                await asyncio.sleep(LOOK_S)
        await live.until(lambda: live.stats.connections_count > connections, WITHIN_S)
        resumed = live.welcome.resumed if live.welcome is not None else "none"
        return f"resumed {resumed}, {live.stats.recovered_count - before} events replayed"

    async def _compare(self, session_id: str, live: LiveSession) -> TraderResult:
        """Compare what was told with what was logged. Raises: SojournError."""
        page = await self._client.events_after(session_id, 0, limit_count=PAGE_COUNT)
        logged = {event.o: event.d for event in page.events}
        await live.until(lambda: live.resume is not None and live.resume.events >= page.last, WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            while not self._told or self._told[-1].offset < page.last:  # noqa: ASYNC110 - the queue is being emptied
                await asyncio.sleep(0)
        told = [event for event in self._told if event.type != "snapshot" and event.offset <= page.last]
        offsets = [event.offset for event in told]
        known = {event.offset: event.data for event in told}
        return TraderResult(
            session=session_id,
            steps=self._steps,
            logged_count=len(logged),
            told_count=len(told),
            lost_count=sum(known.get(offset) != data for offset, data in logged.items()),
            doubled_count=len(offsets) - len(set(offsets)),
            disordered_count=sum(later <= earlier for earlier, later in itertools.pairwise(offsets)),
            snapshots_count=max(0, sum(event.type == "snapshot" for event in self._told) - 1),
        )

    async def go_on(self, session_id: str, pause_s: float = LATER_PAUSE_S) -> None:
        """Trade quietly, for ever. Raises: SojournError."""
        async with self._client.live(session_id) as live, self._listening(live):
            await live.until(lambda: bool(live.rows))
            while True:
                await self._trade(live)
                self._told.clear()
                await asyncio.sleep(pause_s)

    async def come_and_trade(self) -> None:
        """Open a session with a simulator and trade in it, for ever. Raises: SojournError."""
        session = await self._client.create_session()
        await self._client.start_simulator(session.id)
        await self.go_on(session.id, SECOND_PAUSE_S)


def demo_token(site: Site, trader: str = TRADER) -> Secret:
    """Return a token for one of the demo's traders."""
    token = sign_token(
        read_key_file(site.dev_key_file),
        subject=trader,
        scopes=("exchange",),
        issuer="sojourn-dev",
        audience="sojourn",
        lifetime_s=LIFETIME_S,
        now=time.time(),
    )
    return Secret(token)


async def show_trader(site: Site, screen: Screen, tasks: asyncio.TaskGroup) -> None:
    """Let the trader trade, show what it saw, and let it go on."""
    client = await _entered(site, TRADER)
    trader = Trader(client)
    result: TraderResult | None = None
    try:
        with screen.step("a trader, whose WebSocket is killed three times"):
            async with asyncio.timeout(3 * WITHIN_S):
                result = await trader.show()
    except* (SojournError, OSError, TimeoutError) as errors:
        error = first_of(errors)
        screen.complain(f"the trader failed: {type(error).__name__}: {error}")
    if result is None:
        await client.calls.close()
        return
    screen.show_trader(site, result)
    tasks.create_task(_go_on(client, trader.go_on(result.session)))
    second = await _entered(site, SECOND)
    tasks.create_task(_go_on(second, Trader(second).come_and_trade()))


async def _entered(site: Site, trader: str) -> ExchangeClient:
    client = ExchangeClient([site.exchange_url], demo_token(site, trader), device=DEVICE)
    await client.calls.open()
    return client


async def _go_on(client: ExchangeClient, trading: Coroutine[Any, Any, None]) -> None:
    try:
        await trading
    except* (SojournError, OSError):
        pass  # the daemon ends, and says so itself
    finally:
        await client.calls.close()
