"""Orders, fills and what may be said of them: the words of the reference simulator.

Units: prices are integers in millionths of the currency (``price_e6``), quantities whole shares; a notional is their
product, in millionths too. Integers because money that is added up must be the same in every order of addition.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Side:
    """Which way an order goes."""

    BUY: Final = 1
    SELL: Final = 2


class OrderType:
    """How an order finds its price."""

    MARKET: Final = 1
    LIMIT: Final = 2


class TimeInForce:
    """How long an order waits: until it is canceled, not at all, or only as a whole."""

    GTC: Final = 1
    IOC: Final = 2
    FOK: Final = 3


class OrderStatus:
    """Where an order stands; FILLED, CANCELED and REJECTED are final."""

    NEW: Final = 1
    PARTIALLY_FILLED: Final = 2
    FILLED: Final = 3
    CANCELED: Final = 4
    REJECTED: Final = 5


class Reject:
    """Why an order, a cancel or a replace was refused; the words that clients get."""

    UNKNOWN_SYMBOL: Final = "unknown_symbol"
    BAD_QUANTITY: Final = "bad_quantity"
    BAD_PRICE: Final = "bad_price"
    BAD_TYPE: Final = "bad_type"
    TOO_LARGE: Final = "too_large"
    TOO_MANY_ORDERS: Final = "too_many_orders"
    INSUFFICIENT_CASH: Final = "insufficient_cash"
    INSUFFICIENT_SHARES: Final = "insufficient_shares"
    NO_LIQUIDITY: Final = "no_liquidity"
    UNKNOWN_ORDER: Final = "unknown_order"
    ORDER_IS_FINAL: Final = "order_is_final"
    REQUEST_ID_REUSED: Final = "request_id_reused"


MAX_QUANTITY: Final = 1_000_000_000
MAX_PRICE_E6: Final = 1_000_000_000 * 1_000_000
"""With the quantity's limit no notional and no sum of a book leaves 63 bits by more than Python minds; protocol buffers
carry int64, and a single notional is kept below it."""
MAX_NOTIONAL_E6: Final = 2**62


class Order:
    """One order, from its acceptance to its end.

    Always true: ``remaining + filled + canceled == quantity``. While it rests in a book, ``remaining`` is above 0.
    """

    __slots__ = (
        "account",
        "asked",
        "canceled",
        "fee_e6",
        "filled",
        "notional_e6",
        "number",
        "price_e6",
        "quantity",
        "reason",
        "remaining",
        "request_id",
        "reserved_e6",
        "side",
        "status",
        "symbol",
        "time_in_force",
        "type",
    )

    def __init__(
        self,
        number: int,
        account: str,
        symbol: str,
        side: int,
        *,
        quantity: int,
        price_e6: int,
        type: int = OrderType.LIMIT,  # noqa: A002 - the field's name everywhere
        time_in_force: int = TimeInForce.GTC,
        request_id: str = "",
    ) -> None:
        self.number = number
        self.account = account
        self.symbol = symbol
        self.side = side
        self.quantity = self.remaining = quantity
        self.price_e6 = price_e6
        self.asked = quantity, price_e6  # which a replacement does not change
        self.type = type
        self.time_in_force = time_in_force
        self.request_id = request_id
        self.status: int = OrderStatus.NEW
        self.reason = ""
        self.filled = self.canceled = 0
        self.notional_e6 = self.fee_e6 = self.reserved_e6 = 0

    def __repr__(self) -> str:
        side = "buy" if self.side == Side.BUY else "sell"
        return (
            f"<Order {self.number} {side} {self.remaining}/{self.quantity} {self.symbol} at {self.price_e6}>"
        )

    @property
    def is_final(self) -> bool:
        """Say whether nothing happens to it any more."""
        return self.status >= OrderStatus.FILLED

    @property
    def average_price_e6(self) -> int:
        """What a share has cost on average, rounded to the nearest millionth; 0 while nothing is filled."""
        return (2 * self.notional_e6 + self.filled) // (2 * self.filled) if self.filled else 0


class Fill(NamedTuple):
    """A trade: the resting order gave the price."""

    resting: Order
    coming: Order
    price_e6: int
    quantity: int


class BookLevel(NamedTuple):
    """All that rests at one price."""

    price_e6: int
    quantity: int
    orders_count: int
