"""Simulation: one user's market in motion. Engine, prices, makers and crowd under a clock that is handed in.

What happens is of two kinds. Events, what became of the user's orders, are numbered without gaps and kept for who comes
back. State, prices and the portfolio, has a revision for each row, and only the last one counts.

Pure: time passes by :meth:`Simulation.advance` only. The same settings, the same orders between the same steps: the
same events. Units: as :mod:`.orders`; time in whole milliseconds since the start of the market.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from sojourn.gateways.exchange.market.engine import (
    Engine,
    Instrument,
    Limits,
    OrderUpdate,
    Quote,
    Request,
)
from sojourn.gateways.exchange.market.makers import Crowd, Maker
from sojourn.gateways.exchange.market.orders import Order
from sojourn.gateways.exchange.market.prices import Prices, RandomWalk, Replay
from sojourn.gateways.exchange.market.settings import MarketSettings, amount_e6

USER: Final = "user"
EVENTS_COUNT: Final = 10_000
"""Events that are kept for who comes back; an owner that is further behind gets a snapshot."""
CATCH_UP_STEPS_COUNT: Final = 50
"""Steps made up for after a pause; a market that slept an hour does not run through it."""


class Event(NamedTuple):
    """Something that happened, once, in its place."""

    seq: int
    time_ms: int
    update: OrderUpdate


class Row(NamedTuple):
    """An instrument's prices, and the revision in which they changed last."""

    revision: int
    quote: Quote


class Holding(NamedTuple):
    """What the user has of one instrument."""

    symbol: str
    quantity: int
    reserved: int
    cost_e6: int
    value_e6: int
    realized_e6: int
    unrealized_e6: int


class Portfolio(NamedTuple):
    """What the user has, at the prices of the moment."""

    revision: int
    cash_e6: int
    reserved_e6: int
    fees_e6: int
    value_e6: int
    holdings: tuple[Holding, ...]


class Simulation:
    """A market that runs for one user.

    Life: whoever makes one owns it and lets its time pass. Always true: ``events`` are numbered one after the other,
    the last one ``seq``.

    Args:
        settings: of the market.
        replay: prices that are followed, by symbol, instead of a random walk.
    Raises: ValueError if the maker's fee is above the taker's, a symbol comes twice, or a price is no multiple of its
        tick.
    """

    def __init__(self, settings: MarketSettings, replay: Mapping[str, Replay] | None = None) -> None:
        self.settings = settings
        self.seq = self.revision = self.time_ms = 0
        self.step = 0
        self.events: deque[Event] = deque(maxlen=EVENTS_COUNT)
        self._next_step_ms = 0
        self._prices: dict[str, Prices] = {}
        instruments: list[tuple[Instrument, int]] = []
        for one in settings.instruments:
            tick_e6, price_e6 = amount_e6(one.tick), amount_e6(one.price)
            if one.symbol in self._prices:
                raise ValueError(f"instruments: {one.symbol} comes twice")
            if not tick_e6 or not price_e6 or price_e6 % tick_e6:
                raise ValueError(f"{one.symbol}: the price {one.price} is no multiple of the tick {one.tick}")
            walk = (replay or {}).get(one.symbol)
            self._prices[one.symbol] = walk if walk is not None else RandomWalk(one, settings.seed)
            instruments.append((Instrument(one.symbol, tick_e6), price_e6))
        self.engine = Engine(
            instruments,
            maker_fee_ppm=settings.maker_fee_ppm,
            taker_fee_ppm=settings.taker_fee_ppm,
            limits=Limits(open_orders_count=settings.open_orders_count),
            tell=self._take,
        )
        self.account = self.engine.open_account(USER, amount_e6(settings.cash))
        for one in settings.instruments:
            if one.shares:
                position = self.account.position(one.symbol)
                position.quantity = one.shares
                position.cost_e6 = one.shares * amount_e6(one.price)
        self._makers = [Maker(self.engine, settings, number) for number in range(settings.makers_count)]
        self._crowd = Crowd(self.engine, settings)
        self._rows = {symbol: Row(0, self.engine.quote(symbol)) for symbol in self.engine.instruments}
        self._portfolio = self._count(0)
        self.advance(0)

    # Time

    def advance(self, time_ms: int) -> None:
        """Let the market run until a time; one that has passed already changes nothing."""
        step_ms = self.settings.step_ms
        behind = (time_ms - self._next_step_ms) // step_ms + 1
        if behind > CATCH_UP_STEPS_COUNT:
            self._next_step_ms += (behind - CATCH_UP_STEPS_COUNT) * step_ms
        while self._next_step_ms <= time_ms:
            self.time_ms = self._next_step_ms
            self._next_step_ms += step_ms
            self._step()
        self.time_ms = max(self.time_ms, time_ms)

    @property
    def next_step_ms(self) -> int:
        """When the market moves next."""
        return self._next_step_ms

    def _step(self) -> None:
        self.step += 1
        time_s = self.time_ms / 1000
        for symbol, instrument in self.engine.instruments.items():
            fair_e6 = self._prices[symbol].at(self.step, time_s)
            for maker in self._makers:
                maker.withdraw(symbol)
            for maker in self._makers:
                maker.quote(instrument, fair_e6)
            self._crowd.trade(symbol)
        self._refresh()

    # Orders

    def submit(self, request: Request) -> Order:
        """Take the user's order."""
        order = self.engine.submit(self.account, request)
        self._refresh()
        return order

    def cancel(self, number: int) -> Order | str:
        """Take back the rest of the user's order; return it, or why not."""
        result = self.engine.cancel(self.account, number)
        self._refresh()
        return result

    def replace(self, number: int, quantity: int, price_e6: int) -> Order | str:
        """Change the user's order; return it, or why not."""
        result = self.engine.replace(self.account, number, quantity, price_e6)
        self._refresh()
        return result

    def orders(self) -> list[Order]:
        """Return the user's orders that are known, the oldest first."""
        return list(self.engine.orders(self.account))

    # What is told

    def events_after(self, seq: int) -> list[Event] | None:
        """Return what happened after an event; None if that is not known any more, or never happened."""
        if seq == self.seq:
            return []
        if not self.events or not self.events[0].seq - 1 <= seq < self.seq:
            return None
        return [event for event in self.events if event.seq > seq]

    def rows_after(self, revision: int) -> list[Row]:
        """Return the rows that have changed since a revision."""
        return [row for row in self._rows.values() if row.revision > revision]

    def portfolio(self) -> Portfolio:
        """Return what the user has."""
        return self._portfolio

    def _take(self, update: OrderUpdate) -> None:
        self.seq += 1
        self.events.append(Event(self.seq, self.time_ms, update))

    def _refresh(self) -> None:
        """Give a new revision to what has changed."""
        revision = self.revision + 1
        has_changed = False
        for symbol, row in self._rows.items():
            quote = self.engine.quote(symbol)
            if quote != row.quote:
                self._rows[symbol] = Row(revision, quote)
                has_changed = True
        portfolio = self._count(self._portfolio.revision)
        if portfolio != self._portfolio:
            self._portfolio = portfolio._replace(revision=revision)
            has_changed = True
        if has_changed:
            self.revision = revision

    def _count(self, revision: int) -> Portfolio:
        account = self.account
        holdings = []
        value_e6 = account.cash_e6
        for symbol, position in account.positions.items():
            if not (position.quantity or position.realized_e6):
                continue
            last_e6 = self._rows[symbol].quote.last_e6
            worth_e6 = position.value_e6(last_e6)
            value_e6 += worth_e6
            holdings.append(
                Holding(
                    symbol,
                    position.quantity,
                    position.reserved,
                    position.cost_e6,
                    worth_e6,
                    position.realized_e6,
                    position.unrealized_e6(last_e6),
                )
            )
        return Portfolio(
            revision, account.cash_e6, account.reserved_e6, account.fees_e6, value_e6, tuple(holdings)
        )
