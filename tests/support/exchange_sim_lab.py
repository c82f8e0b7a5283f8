"""What the tests of simulators share: one that serves in this loop, and somebody who reads what a link brings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sojourn.core.breaker import Breakers
from sojourn.core.settings import BreakerSettings
from sojourn.gateways.exchange.market.engine import Request
from sojourn.gateways.exchange.market.orders import Side
from sojourn.gateways.exchange.market.simulation import Event, Portfolio, Row
from sojourn.gateways.exchange.sim.channel import GrpcioChannel
from sojourn.gateways.exchange.sim.link import (
    LinkState,
    Ownership,
    SimulatorLink,
    SimulatorLinkSettings,
    SimulatorSnapshot,
)
from sojourn.gateways.exchange.sim.service import SimulatorService
from sojourn.gateways.exchange.sim.settings import NO_TOKEN, ServiceSettings
from sojourn.gateways.exchange.sim.stubs import pb

SESSION = "session-1"
QUICK = SimulatorLinkSettings(
    heartbeat_s=0.05,
    heartbeat_timeout_s=0.2,
    attach_timeout_s=2.0,
    order_timeout_s=10.0,
    reconnect_min_s=0.01,
    reconnect_max_s=0.05,
)


class Recorder:
    """Writes down what a link brings, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.snapshots: list[SimulatorSnapshot] = []
        self.rows: dict[str, Row] = {}
        self.rows_count = 0
        self.portfolio: Portfolio | None = None
        self.states: list[LinkState] = []
        self.details: list[str] = []
        self.fenced_by: list[int] = []
        self._has_news = asyncio.Event()

    def on_link(self, state: LinkState, detail: str) -> None:
        self.states.append(state)
        self.details.append(detail)
        self._has_news.set()

    def on_fenced(self, by_epoch: int) -> None:
        self.fenced_by.append(by_epoch)
        self._has_news.set()

    def on_snapshot(self, snapshot: SimulatorSnapshot) -> None:
        self.snapshots.append(snapshot)
        self._has_news.set()

    def on_events(self, events: Sequence[Event]) -> None:
        self.events += events
        self._has_news.set()

    def on_rows(self, rows: Sequence[Row]) -> None:
        self.rows |= {row.quote.symbol: row for row in rows}
        self.rows_count += len(rows)
        self._has_news.set()

    def on_portfolio(self, portfolio: Portfolio) -> None:
        self.portfolio = portfolio
        self._has_news.set()

    async def until(self, is_so: Callable[[], Any], within_s: float = 20.0) -> None:
        """Wait until something is so; looked at whenever the link has brought something."""
        async with asyncio.timeout(within_s):
            while not is_so():
                self._has_news.clear()
                await self._has_news.wait()

    async def caught_up(self, seq: int) -> None:
        """Wait for an event."""
        await self.until(lambda: self.events and self.events[-1].seq >= seq)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[SimulatorService]:
    """Serve a simulator whose market stands still, unless the settings say otherwise."""
    told = ServiceSettings(**({"session": SESSION, "speed": 0.0, "drain_timeout_s": 1.0} | settings))
    service = SimulatorService(told)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.run(lambda _: ready.set()))
        await ready.wait()
        try:
            yield service
        finally:
            service.stop()


@asynccontextmanager
async def linked(
    address: str, recorder: Recorder | None = None, epoch: int = 1, **more: Any
) -> AsyncIterator[SimulatorLink]:
    """Follow a simulator for the length of a block."""
    settings = more.pop("settings", QUICK)
    breakers = more.pop("breakers", None) or Breakers(BreakerSettings(consecutive_failures_count=1_000))
    link = SimulatorLink(
        address, Ownership(SESSION, epoch), recorder or Recorder(), settings, breakers=breakers, **more
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(link.run())
        try:
            yield link
        finally:
            link.close()


@asynccontextmanager
async def channel_to(address: str, token: Any = NO_TOKEN) -> AsyncIterator[GrpcioChannel]:
    """Talk to a simulator without a link."""
    channel = GrpcioChannel(address, token)
    try:
        yield channel
    finally:
        await channel.close()


def owner(epoch: int = 1, session: str = SESSION, simulator: str = "") -> pb.Owner:
    return pb.Owner(session=session, epoch=epoch, simulator=simulator)


def resting(request_id: str, symbol: str = "AAPL", quantity: int = 1) -> Request:
    """Return an order far from the market: one event now, one when it is canceled."""
    return Request(symbol, Side.BUY, quantity, 1_000_000, request_id=request_id)


def taking(request_id: str, symbol: str = "AAPL", quantity: int = 1) -> Request:
    """Return an order that is filled at once."""
    return Request(symbol, Side.BUY, quantity, 300_000_000, request_id=request_id)


def submit_of(request: Request, epoch: int = 1) -> pb.SubmitOrderRequest:
    """Return an order as it goes over the wire."""
    return pb.SubmitOrderRequest(
        owner=owner(epoch),
        request_id=request.request_id,
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        time_in_force=request.time_in_force,
        quantity=request.quantity,
        price_e6=request.price_e6,
    )


async def eventually(is_so: Callable[[], Any], within_s: float = 10.0) -> None:
    """Wait until something is so that nobody announces."""
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.005)
