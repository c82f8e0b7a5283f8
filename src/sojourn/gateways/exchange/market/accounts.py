"""Account: cash, positions and what of both is promised to orders that rest.

Average cost: what is sold costs its part of what all was bought for. A fee is rounded down to a millionth, so that many
small fills never cost more than was promised. Knows no book. Units: as :mod:`.orders`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sojourn.gateways.exchange.market.orders import Order, Side

PPM: Final = 1_000_000


def fee_of(notional_e6: int, fee_ppm: int) -> int:
    """Return the fee of a trade, in millionths of the currency."""
    return notional_e6 * fee_ppm // PPM


class Position:
    """What an account has of one instrument; below 0 for what it has sold short.

    ``cost_e6`` is what the open quantity was bought (or sold short) for, never negative; ``realized_e6`` what closing
    has brought, without fees.
    """

    __slots__ = ("cost_e6", "quantity", "realized_e6", "reserved")

    def __init__(self, quantity: int = 0, cost_e6: int = 0) -> None:
        self.quantity = quantity
        self.cost_e6 = cost_e6
        self.reserved = 0
        self.realized_e6 = 0

    def trade(self, change: int, price_e6: int) -> None:
        """Take a trade: ``change`` is above 0 for what was bought."""
        held = self.quantity
        if held and (held > 0) != (change > 0):
            closed = min(abs(held), abs(change))
            cost_e6 = self.cost_e6 * closed // abs(held)
            gain_e6 = closed * price_e6 - cost_e6
            self.realized_e6 += gain_e6 if held > 0 else -gain_e6
            self.cost_e6 -= cost_e6
            self.cost_e6 += (abs(change) - closed) * price_e6
        else:
            self.cost_e6 += abs(change) * price_e6
        self.quantity = held + change

    def value_e6(self, price_e6: int) -> int:
        """Return what it is worth at a price."""
        return self.quantity * price_e6

    def unrealized_e6(self, price_e6: int) -> int:
        """Return what closing it at a price would bring."""
        value_e6 = self.value_e6(price_e6)
        return value_e6 - self.cost_e6 if self.quantity >= 0 else value_e6 + self.cost_e6


class Account:
    """Whoever trades.

    Always true, unless ``has_no_limits``: ``cash_e6 >= reserved_e6 >= 0`` and every position has at least what is
    reserved of it.

    Args:
        name: unique in an engine.
        cash_e6: to begin with.
        has_no_limits: may owe cash and sell what it does not have: a market maker of the house.
        is_watched: what happens to its orders is told as events.
    """

    __slots__ = (
        "cash_e6",
        "ended",
        "fees_e6",
        "has_no_limits",
        "is_watched",
        "name",
        "open",
        "positions",
        "reserved_e6",
    )

    def __init__(
        self, name: str, cash_e6: int, *, has_no_limits: bool = False, is_watched: bool = True
    ) -> None:
        self.name = name
        self.cash_e6 = cash_e6
        self.has_no_limits = has_no_limits
        self.is_watched = is_watched
        self.reserved_e6 = self.fees_e6 = 0
        self.positions: dict[str, Position] = {}
        self.open: dict[int, Order] = {}
        """Orders that rest, by their numbers."""
        self.ended: deque[Order] = deque()
        """Orders that have ended and are still known, the oldest first."""

    def position(self, symbol: str) -> Position:
        """Return what it has of an instrument; made where there is nothing yet."""
        found = self.positions.get(symbol)
        if found is None:
            found = self.positions[symbol] = Position()
        return found

    @property
    def free_cash_e6(self) -> int:
        """Cash that no order is promised."""
        return self.cash_e6 - self.reserved_e6

    def free_shares(self, symbol: str) -> int:
        """Return how many shares no order is promised."""
        found = self.positions.get(symbol)
        return 0 if found is None else found.quantity - found.reserved

    def reserve(self, order: Order, fee_ppm: int) -> None:
        """Promise an order that rests what its open part needs; called again whenever that part changes."""
        if self.has_no_limits:
            return
        if order.side == Side.BUY:
            notional_e6 = order.price_e6 * order.remaining
            needed_e6 = notional_e6 + fee_of(notional_e6, fee_ppm)
            self.reserved_e6 += needed_e6 - order.reserved_e6
            order.reserved_e6 = needed_e6
        else:
            self.position(order.symbol).reserved += order.remaining - order.reserved_e6
            order.reserved_e6 = order.remaining  # shares, where a buyer has cash

    def release(self, order: Order) -> None:
        """Take back what an order was promised that rests no more."""
        if order.side == Side.BUY:
            self.reserved_e6 -= order.reserved_e6
        else:
            self.position(order.symbol).reserved -= order.reserved_e6
        order.reserved_e6 = 0

    def settle(self, order: Order, quantity: int, price_e6: int, fee_ppm: int) -> int:
        """Take a fill of one of its orders into cash and position, and return the fee."""
        notional_e6 = quantity * price_e6
        fee_e6 = fee_of(notional_e6, fee_ppm)
        if order.side == Side.BUY:
            self.cash_e6 -= notional_e6 + fee_e6
            self.position(order.symbol).trade(quantity, price_e6)
        else:
            self.cash_e6 += notional_e6 - fee_e6
            self.position(order.symbol).trade(-quantity, price_e6)
        self.fees_e6 += fee_e6
        order.notional_e6 += notional_e6
        order.fee_e6 += fee_e6
        return fee_e6
