"""OrderBook: what rests in one instrument, matched by price, then by time.

A side is a sorted list of prices, best last, and a queue of orders per price. Canceled orders stay in their queue as
dead entries until they come to its head or are too many. Knows no account, no fee and no clock.

Units: as :mod:`.orders`. Always true: the best bid is below the best ask; a queue that is in ``levels`` has at least
one live order; ``quantity`` and ``count`` of a level are the sums over its live orders.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from sojourn.gateways.exchange.market.orders import BookLevel, Fill, Order, Side

_DEAD_COUNT: Final = 16
"""Dead entries that a queue may keep besides as many as it has live ones."""


class Level:
    """One price's queue, the oldest order first."""

    __slots__ = ("count", "orders", "quantity")

    def __init__(self) -> None:
        self.orders: deque[Order] = deque()
        self.quantity = self.count = 0


class BookSide:
    """All that rests on one side.

    Args:
        sign: 1 for bids, -1 for asks; ``keys`` are prices times it, in ascending order, so that the best is last.
    """

    __slots__ = ("keys", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self.levels: dict[int, Level] = {}

    @property
    def best_e6(self) -> int | None:
        """The price that is matched first, or None."""
        return self.keys[-1] * self.sign if self.keys else None

    def add(self, order: Order) -> None:
        """Put an order at the end of its price's queue."""
        key = order.price_e6 * self.sign
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = Level()
            self.keys.insert(bisect_left(self.keys, key), key)
        level.orders.append(order)
        level.quantity += order.remaining
        level.count += 1

    def forget(self, order: Order, quantity: int) -> None:
        """Take note that an order which rests here is dead, and had so much left."""
        key = order.price_e6 * self.sign
        level = self.levels[key]
        level.quantity -= quantity
        level.count -= 1
        if not level.count:
            del self.levels[key]
            del self.keys[bisect_left(self.keys, key)]
        elif len(level.orders) > 2 * level.count + _DEAD_COUNT:
            level.orders = deque(one for one in level.orders if one.remaining)

    def from_best(self) -> Iterator[tuple[int, Level]]:
        """Yield prices and their queues, the best first."""
        for key in reversed(self.keys):
            yield key * self.sign, self.levels[key]


class OrderBook:
    """The book of one instrument."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = BookSide(1)
        self.asks = BookSide(-1)

    def side_of(self, side: int) -> BookSide:
        """Return where orders of a side rest."""
        return self.bids if side == Side.BUY else self.asks

    def opposite(self, side: int) -> BookSide:
        """Return what orders of a side are matched with."""
        return self.asks if side == Side.BUY else self.bids

    def cost(self, side: int, quantity: int, limit_e6: int | None) -> tuple[int, int]:
        """Return how much of a quantity could be had at once, and its notional.

        Args:
            side: of who asks.
            quantity: wanted.
            limit_e6: the worst price, None for any.
        """
        opposite = self.opposite(side)
        sign = opposite.sign
        worst = None if limit_e6 is None else limit_e6 * sign
        wanted, notional = quantity, 0
        for key in reversed(opposite.keys):
            if not wanted or (worst is not None and key < worst):
                break
            taken = min(wanted, opposite.levels[key].quantity)
            wanted -= taken
            notional += taken * key * sign
        return quantity - wanted, notional

    def match(self, coming: Order, limit_e6: int | None, on_fill: Callable[[Fill], None]) -> None:
        """Fill an order with what rests on the other side, best price first, then oldest order first.

        Args:
            coming: what of it stays open is left in ``remaining``; it is not put into the book.
            limit_e6: the worst price, None for any.
            on_fill: is told of each trade, when both orders and the book have taken it.
        """
        opposite = self.opposite(coming.side)
        sign, keys = opposite.sign, opposite.keys
        worst = None if limit_e6 is None else limit_e6 * sign
        while coming.remaining and keys:
            key = keys[-1]
            if worst is not None and key < worst:
                return
            level = opposite.levels[key]
            orders = level.orders
            while coming.remaining and level.count:
                resting = orders[0]
                if not resting.remaining:
                    orders.popleft()  # canceled
                    continue
                quantity = min(resting.remaining, coming.remaining)
                resting.remaining -= quantity
                coming.remaining -= quantity
                resting.filled += quantity
                coming.filled += quantity
                level.quantity -= quantity
                if not resting.remaining:
                    orders.popleft()
                    level.count -= 1
                    if not level.count:
                        del opposite.levels[key]
                        keys.pop()
                on_fill(Fill(resting, coming, key * sign, quantity))

    def rest(self, order: Order) -> None:
        """Let an order wait for others; it must not be matchable."""
        self.side_of(order.side).add(order)

    def cancel(self, order: Order) -> int:
        """Take a resting order out, and return how much of it was left."""
        quantity, order.remaining = order.remaining, 0
        order.canceled += quantity
        self.side_of(order.side).forget(order, quantity)
        return quantity

    def remove(self, order: Order) -> None:
        """Take a resting order out that may come back; unlike ``cancel`` it costs a search."""
        side = self.side_of(order.side)
        side.levels[order.price_e6 * side.sign].orders.remove(order)
        side.forget(order, order.remaining)

    def reduce(self, order: Order, by: int) -> None:
        """Make a resting order smaller by less than is left of it; it keeps its place in the queue."""
        order.remaining -= by
        order.quantity -= by
        side = self.side_of(order.side)
        side.levels[order.price_e6 * side.sign].quantity -= by

    def depth(self, side: int, count: int) -> list[BookLevel]:
        """Return the best levels of a side."""
        found: list[BookLevel] = []
        for price_e6, level in self.side_of(side).from_best():
            if len(found) == count:
                break
            found.append(BookLevel(price_e6, level.quantity, level.count))
        return found
