"""Engine: instruments, their books and accounts, and what is allowed.

One order in, everything that follows from it done before the next: a price-time priority exchange without auctions.
Pure: it knows no clock, no task and no socket, and the same calls in the same order give the same events. An account
may trade with itself. Units: as :mod:`.orders`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from sojourn.gateways.exchange.market.accounts import Account, fee_of
from sojourn.gateways.exchange.market.book import OrderBook
from sojourn.gateways.exchange.market.orders import (
    MAX_NOTIONAL_E6,
    MAX_PRICE_E6,
    MAX_QUANTITY,
    Fill,
    Order,
    OrderStatus,
    OrderType,
    Reject,
    Side,
    TimeInForce,
)

FEES: Final = "fees"
"""The account that gets the fees."""


class Instrument(NamedTuple):
    """What can be traded: prices are multiples of the tick."""

    symbol: str
    tick_e6: int


class OrderUpdate(NamedTuple):
    """What happened to an order of a watched account, complete enough to need no other.

    ``last_quantity``, ``last_price_e6`` and ``last_fee_e6`` are of the fill that is told, 0 where none is.
    """

    account: str
    number: int
    request_id: str
    symbol: str
    side: int
    type: int
    time_in_force: int
    price_e6: int
    quantity: int
    filled: int
    remaining: int
    status: int
    reason: str
    average_price_e6: int
    fee_e6: int
    last_quantity: int
    last_price_e6: int
    last_fee_e6: int


class Request(NamedTuple):
    """An order as it is asked for."""

    symbol: str
    side: int
    quantity: int
    price_e6: int = 0
    type: int = OrderType.LIMIT
    time_in_force: int = TimeInForce.GTC
    request_id: str = ""


class Limits(NamedTuple):
    """What one account may have; ``remembered_count`` ended orders and request ids are known besides."""

    open_orders_count: int = 1_000
    remembered_count: int = 10_000


DEFAULT_LIMITS: Final = Limits()


class Quote(NamedTuple):
    """An instrument at one moment; a price that does not exist is 0."""

    symbol: str
    bid_e6: int
    bid_quantity: int
    ask_e6: int
    ask_quantity: int
    last_e6: int
    last_quantity: int
    volume: int


class _Tape:
    """What has been traded of one instrument."""

    __slots__ = ("last_e6", "last_quantity", "volume")

    def __init__(self, last_e6: int) -> None:
        self.last_e6 = last_e6
        self.last_quantity = self.volume = 0


class Engine:
    """An exchange of some instruments.

    Life: whoever makes one owns it. Always true between two calls: no book is crossed; the cash of all accounts is what
    they began with, and so are the shares of each instrument.

    Args:
        instruments: and the price at which each was traded last before the start.
        maker_fee_ppm: of a trade's notional, from who was there first; at most the taker's.
        taker_fee_ppm: from who came.
        limits: of each account.
        tell: takes what happens to orders of watched accounts; called while the order is dealt with.
    """

    def __init__(
        self,
        instruments: Iterable[tuple[Instrument, int]],
        *,
        maker_fee_ppm: int = 0,
        taker_fee_ppm: int = 0,
        limits: Limits = DEFAULT_LIMITS,
        tell: Callable[[OrderUpdate], None] = lambda _: None,
    ) -> None:
        if not 0 <= maker_fee_ppm <= taker_fee_ppm:
            raise ValueError("fees: wanted 0 <= maker <= taker")
        self.instruments: dict[str, Instrument] = {}
        self.books: dict[str, OrderBook] = {}
        self._tapes: dict[str, _Tape] = {}
        for instrument, last_e6 in instruments:
            self.instruments[instrument.symbol] = instrument
            self.books[instrument.symbol] = OrderBook()
            self._tapes[instrument.symbol] = _Tape(last_e6)
        self.fees = Account(FEES, 0, has_no_limits=True, is_watched=False)
        self.accounts: dict[str, Account] = {FEES: self.fees}
        self.maker_fee_ppm = maker_fee_ppm
        self.taker_fee_ppm = taker_fee_ppm
        self.limits = limits
        self._tell = tell
        self._number = 0
        self._requests: dict[tuple[str, str], Order] = {}
        self._orders: dict[int, Order] = {}

    # Accounts

    def open_account(
        self, name: str, cash_e6: int, *, has_no_limits: bool = False, is_watched: bool = True
    ) -> Account:
        """Open an account.

        Raises: ValueError if there is one of this name.
        """
        if name in self.accounts:
            raise ValueError(f"there is an account {name!r} already")
        account = self.accounts[name] = Account(
            name, cash_e6, has_no_limits=has_no_limits, is_watched=is_watched
        )
        return account

    # Orders

    def submit(self, account: Account, request: Request) -> Order:
        """Take an order; what became of it at once is in its status.

        A second order with the request id of an earlier one is not taken: the earlier one is returned, or, if they ask
        for different things, a rejected one.
        """
        if request.request_id:
            known = self._requests.get((account.name, request.request_id))
            if known is not None:
                return (
                    known
                    if _asks_for(known, request)
                    else self._reject(account, request, Reject.REQUEST_ID_REUSED, remember=False)
                )
        why = self._refusal(account, request)
        if why:
            return self._reject(account, request, why)
        order = self._order(account, request)
        book = self.books[request.symbol]
        limit_e6 = None if order.type == OrderType.MARKET else order.price_e6
        self._update(account, order)
        opposite = book.opposite(order.side)
        best_e6 = opposite.best_e6
        if best_e6 is not None and (limit_e6 is None or (limit_e6 - best_e6) * opposite.sign <= 0):
            book.match(order, limit_e6, self._on_fill)
        if order.remaining:
            if order.type == OrderType.LIMIT and order.time_in_force == TimeInForce.GTC:
                self._rest(account, order)
            else:
                order.canceled, order.remaining = order.remaining, 0
                self._end(account, order, OrderStatus.CANCELED, "nothing more at this price")
        return order

    def cancel(self, account: Account, number: int) -> Order | str:
        """Take the rest of an order back; return the order, or why not."""
        order = self._orders.get(number)
        if order is None or order.account != account.name:
            return Reject.UNKNOWN_ORDER
        if order.is_final:
            return Reject.ORDER_IS_FINAL
        self.books[order.symbol].cancel(order)
        del account.open[number]
        account.release(order)
        self._end(account, order, OrderStatus.CANCELED, "canceled")
        return order

    def replace(self, account: Account, number: int, quantity: int, price_e6: int) -> Order | str:
        """Give a resting order another quantity or price; return the order, or why not.

        The quantity is that of the whole order, what is filled of it included. Less of the same price keeps its place
        in the queue; anything else goes to the end of it, and may be filled at once. Refused, the order stays as it is.
        """
        order = self._orders.get(number)
        if order is None or order.account != account.name:
            return Reject.UNKNOWN_ORDER
        if order.is_final:
            return Reject.ORDER_IS_FINAL
        why = self._measure_refusal(order.symbol, quantity, price_e6)
        if not why and quantity <= order.filled:
            why = Reject.BAD_QUANTITY
        if why:
            return why
        book = self.books[order.symbol]
        by = order.quantity - quantity
        if price_e6 == order.price_e6 and 0 <= by < order.remaining:
            if by:
                book.reduce(order, by)
                account.reserve(order, self.maker_fee_ppm)
            self._update(account, order)
            return order
        remaining = quantity - order.filled
        why = self._cover_refusal(
            account,
            order.symbol,
            order.side,
            notional_e6=remaining * price_e6,
            quantity=remaining,
            promised_e6=order.reserved_e6,
        )
        if why:
            return why
        book.remove(order)
        del account.open[order.number]
        account.release(order)
        order.quantity, order.remaining, order.price_e6 = quantity, remaining, price_e6
        self._update(account, order)
        book.match(order, price_e6, self._on_fill)
        if order.remaining:
            self._rest(account, order)
        return order

    def find(self, account: Account, number: int) -> Order | None:
        """Return an order of the account, if it is known (any more)."""
        order = self._orders.get(number)
        return order if order is not None and order.account == account.name else None

    def orders(self, account: Account) -> Iterator[Order]:
        """Yield the account's orders that are known, the oldest first."""
        return (order for order in self._orders.values() if order.account == account.name)

    # Prices

    def quote(self, symbol: str) -> Quote:
        """Return an instrument as it stands."""
        book, tape = self.books[symbol], self._tapes[symbol]
        bids, asks = book.bids, book.asks
        bid, ask = bids.best_e6, asks.best_e6
        return Quote(
            symbol,
            bid or 0,
            bids.levels[bids.keys[-1]].quantity if bid is not None else 0,
            ask or 0,
            asks.levels[asks.keys[-1]].quantity if ask is not None else 0,
            tape.last_e6,
            tape.last_quantity,
            tape.volume,
        )

    # Refusals

    def _refusal(self, account: Account, request: Request) -> str:
        """Return why an order is not taken; empty if it is."""
        if request.symbol not in self.instruments:
            return Reject.UNKNOWN_SYMBOL
        is_market = request.type == OrderType.MARKET
        if (
            request.side not in (Side.BUY, Side.SELL)
            or not (is_market or request.type == OrderType.LIMIT)
            or request.time_in_force not in (TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)
        ):
            return Reject.BAD_TYPE
        if is_market and request.price_e6:
            return Reject.BAD_PRICE
        limit_e6 = None if is_market else request.price_e6
        why = self._measure_refusal(request.symbol, request.quantity, limit_e6)
        if why:
            return why
        if limit_e6 is None or request.time_in_force == TimeInForce.FOK:
            return self._liquidity_refusal(account, request, limit_e6)
        if request.time_in_force == TimeInForce.GTC and len(account.open) >= self.limits.open_orders_count:
            return Reject.TOO_MANY_ORDERS
        return self._cover_refusal(
            account,
            request.symbol,
            request.side,
            notional_e6=request.quantity * limit_e6,
            quantity=request.quantity,
        )

    def _liquidity_refusal(self, account: Account, request: Request, limit_e6: int | None) -> str:
        """Return why an order cannot be filled at once, as a whole or, of a market order, at all; empty if it can."""
        fillable, notional_e6 = self.books[request.symbol].cost(request.side, request.quantity, limit_e6)
        wanted = request.quantity if request.time_in_force == TimeInForce.FOK else 1
        if fillable < wanted:
            return Reject.NO_LIQUIDITY
        return self._cover_refusal(
            account, request.symbol, request.side, notional_e6=notional_e6, quantity=request.quantity
        )

    def _measure_refusal(self, symbol: str, quantity: int, price_e6: int | None) -> str:
        if not 0 < quantity <= MAX_QUANTITY:
            return Reject.BAD_QUANTITY
        if price_e6 is None:
            return ""
        if not 0 < price_e6 <= MAX_PRICE_E6 or price_e6 % self.instruments[symbol].tick_e6:
            return Reject.BAD_PRICE
        return Reject.TOO_LARGE if price_e6 * quantity > MAX_NOTIONAL_E6 else ""

    def _cover_refusal(
        self,
        account: Account,
        symbol: str,
        side: int,
        *,
        notional_e6: int,
        quantity: int,
        promised_e6: int = 0,
    ) -> str:
        """Return why an account cannot cover an order; empty if it can.

        Args:
            account: whose order it is.
            symbol: of the order.
            side: of the order.
            notional_e6: at worst.
            quantity: of shares.
            promised_e6: what the same order is promised already.
        """
        if account.has_no_limits:
            return ""
        if side == Side.SELL:
            is_covered = account.free_shares(symbol) + promised_e6 >= quantity
            return "" if is_covered else Reject.INSUFFICIENT_SHARES
        needed_e6 = notional_e6 + fee_of(notional_e6, self.taker_fee_ppm)
        return "" if account.free_cash_e6 + promised_e6 >= needed_e6 else Reject.INSUFFICIENT_CASH

    def _reject(self, account: Account, request: Request, why: str, *, remember: bool = True) -> Order:
        order = self._order(account, request, remember=remember)
        order.canceled, order.remaining = order.remaining, 0
        self._end(account, order, OrderStatus.REJECTED, why)
        return order

    # What becomes of orders

    def _order(self, account: Account, request: Request, *, remember: bool = True) -> Order:
        self._number += 1
        order = Order(
            self._number,
            account.name,
            request.symbol,
            request.side,
            quantity=request.quantity,
            price_e6=request.price_e6,
            type=request.type,
            time_in_force=request.time_in_force,
            request_id=request.request_id,
        )
        self._orders[order.number] = order
        if request.request_id and remember:
            self._requests[account.name, request.request_id] = order
        return order

    def _rest(self, account: Account, order: Order) -> None:
        self.books[order.symbol].rest(order)
        account.open[order.number] = order
        account.reserve(order, self.maker_fee_ppm)

    def _on_fill(self, fill: Fill) -> None:
        resting, coming, price_e6, quantity = fill
        tape = self._tapes[coming.symbol]
        tape.last_e6, tape.last_quantity = price_e6, quantity
        tape.volume += quantity
        self._settle(resting, quantity, price_e6, self.maker_fee_ppm, is_resting=True)
        self._settle(coming, quantity, price_e6, self.taker_fee_ppm, is_resting=False)

    def _settle(self, order: Order, quantity: int, price_e6: int, fee_ppm: int, *, is_resting: bool) -> None:
        account = self.accounts[order.account]
        fee_e6 = account.settle(order, quantity, price_e6, fee_ppm)
        self.fees.cash_e6 += fee_e6
        if is_resting:
            account.reserve(order, self.maker_fee_ppm)
        if order.remaining:
            order.status = OrderStatus.PARTIALLY_FILLED
        else:
            order.status = OrderStatus.FILLED
            if is_resting:
                del account.open[order.number]
            self._remember(account, order)
        if account.is_watched:
            self._update(account, order, quantity, price_e6, fee_e6)

    def _end(self, account: Account, order: Order, status: int, reason: str) -> None:
        order.status = status
        order.reason = reason
        self._remember(account, order)
        self._update(account, order)

    def _remember(self, account: Account, order: Order) -> None:
        """Keep an order that has ended for a while."""
        if not account.is_watched:
            del self._orders[order.number]
            return
        account.ended.append(order)
        if len(account.ended) > self.limits.remembered_count:
            old = account.ended.popleft()
            del self._orders[old.number]
            if old.request_id and self._requests.get((old.account, old.request_id)) is old:
                del self._requests[old.account, old.request_id]

    def _update(
        self, account: Account, order: Order, quantity: int = 0, price_e6: int = 0, fee_e6: int = 0
    ) -> None:
        if not account.is_watched:
            return
        self._tell(
            OrderUpdate(
                account.name,
                order.number,
                order.request_id,
                order.symbol,
                order.side,
                order.type,
                order.time_in_force,
                order.price_e6,
                order.quantity,
                order.filled,
                order.remaining,
                order.status,
                order.reason,
                order.average_price_e6,
                order.fee_e6,
                quantity,
                price_e6,
                fee_e6,
            )
        )


def _asks_for(order: Order, request: Request) -> bool:
    """Say whether an order was asked for by these very words; a replaced one is compared by what it was asked first."""
    return (
        order.symbol == request.symbol
        and order.side == request.side
        and order.type == request.type
        and order.time_in_force == request.time_in_force
        and order.asked == (request.quantity, request.price_e6)
    )
