"""Makers and crowd: the others in the market, seeded, so that a user's orders meet somebody.

Each maker quotes some levels around what it believes is fair, and takes its old quotes back before it places new ones.
The crowd buys and sells at any price. Both are accounts of the house and may owe.
"""

from __future__ import annotations

import math
import random
from typing import Final

from sojourn.gateways.exchange.market.accounts import Account
from sojourn.gateways.exchange.market.engine import Engine, Instrument, Request
from sojourn.gateways.exchange.market.orders import Order, OrderType, Side, TimeInForce
from sojourn.gateways.exchange.market.settings import MarketSettings

_BPS: Final = 1e-4
_BELIEF: Final = 0.25
"""How far makers believe apart, as a part of the spread."""
_CROWD_QUANTITY: Final = 100


class Maker:
    """One market maker.

    Args:
        engine: where it quotes.
        settings: of the market.
        number: of the maker; each has a will of its own.
    """

    def __init__(self, engine: Engine, settings: MarketSettings, number: int) -> None:
        self._engine = engine
        self._settings = settings
        self._account = engine.open_account(f"maker-{number}", 0, has_no_limits=True, is_watched=False)
        self._random = random.Random(f"{settings.seed}:maker:{number}")  # noqa: S311 - a market, no secret
        self._quotes: dict[str, list[Order]] = {symbol: [] for symbol in engine.instruments}

    def withdraw(self, symbol: str) -> None:
        """Take back what it quotes."""
        account = self._account
        for order in self._quotes[symbol]:
            if not order.is_final:
                self._engine.cancel(account, order.number)
        self._quotes[symbol].clear()

    def quote(self, instrument: Instrument, fair_e6: int) -> None:
        """Quote around a fair price."""
        settings, tick_e6 = self._settings, instrument.tick_e6
        half = settings.spread_bps * _BPS / 2
        belief = fair_e6 * (1 + half * 2 * _BELIEF * self._random.uniform(-1.0, 1.0))
        for level in range(settings.maker_levels_count):
            away = half * (1 + level)
            quantity = max(1, round(settings.maker_quantity * self._random.uniform(0.5, 1.5)))
            bid = math.floor(belief * (1 - away) / tick_e6) * tick_e6
            ask = math.ceil(belief * (1 + away) / tick_e6) * tick_e6
            if bid > 0:
                self._place(instrument.symbol, Side.BUY, quantity, bid)
            self._place(instrument.symbol, Side.SELL, quantity, max(ask, bid + tick_e6, tick_e6))

    def _place(self, symbol: str, side: int, quantity: int, price_e6: int) -> None:
        order = self._engine.submit(self._account, Request(symbol, side, quantity, price_e6))
        if not order.is_final:
            self._quotes[symbol].append(order)


class Crowd:
    """Everybody else: market orders that come at random."""

    def __init__(self, engine: Engine, settings: MarketSettings) -> None:
        self._engine = engine
        self._account: Account = engine.open_account("crowd", 0, has_no_limits=True, is_watched=False)
        self._random = random.Random(f"{settings.seed}:crowd")  # noqa: S311 - a market, no secret
        self._mean = settings.crowd_orders_per_step

    def trade(self, symbol: str) -> None:
        """Send what comes in one step."""
        chance = self._random.expovariate(1.0)
        while chance < self._mean:
            side = Side.BUY if self._random.random() < 0.5 else Side.SELL  # noqa: PLR2004 - either way
            quantity = self._random.randint(1, _CROWD_QUANTITY)
            request = Request(symbol, side, quantity, type=OrderType.MARKET, time_in_force=TimeInForce.IOC)
            self._engine.submit(self._account, request)
            chance += self._random.expovariate(1.0)
