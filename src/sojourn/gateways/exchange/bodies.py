"""The market's values in the words of clients, and back: ``filled`` for 3, ``175.25`` for 175250000.

The same words in WebSocket frames and over REST. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sojourn.gateways.exchange.market.engine import OrderUpdate, Quote
from sojourn.gateways.exchange.market.orders import OrderStatus, OrderType, Side, TimeInForce
from sojourn.gateways.exchange.market.settings import amount_e6, amount_text
from sojourn.gateways.exchange.market.simulation import Portfolio
from sojourn.gateways.exchange.messages import PlaceOrder

SIDES: Final = {Side.BUY: "buy", Side.SELL: "sell"}
TYPES: Final = {OrderType.MARKET: "market", OrderType.LIMIT: "limit"}
TIMES_IN_FORCE: Final = {TimeInForce.GTC: "gtc", TimeInForce.IOC: "ioc", TimeInForce.FOK: "fok"}
STATUSES: Final = {
    OrderStatus.NEW: "new",
    OrderStatus.PARTIALLY_FILLED: "partially_filled",
    OrderStatus.FILLED: "filled",
    OrderStatus.CANCELED: "canceled",
    OrderStatus.REJECTED: "rejected",
}
_SIDES: Final = {name: number for number, name in SIDES.items()}
_TYPES: Final = {name: number for number, name in TYPES.items()}
_TIMES_IN_FORCE: Final = {name: number for number, name in TIMES_IN_FORCE.items()}

_encode = msgspec.json.Encoder().encode


def order_value(update: OrderUpdate) -> dict[str, Any]:
    """Return an order as clients see it; ``last`` is the fill that is told, absent where there is none."""
    value: dict[str, Any] = {
        "order": update.number,
        "id": update.request_id,
        "symbol": update.symbol,
        "side": SIDES[update.side],
        "type": TYPES[update.type],
        "tif": TIMES_IN_FORCE[update.time_in_force],
        "quantity": update.quantity,
        "filled": update.filled,
        "remaining": update.remaining,
        "status": STATUSES[update.status],
    }
    if update.price_e6:
        value["price"] = amount_text(update.price_e6)
    if update.reason:
        value["reason"] = update.reason
    if update.filled:
        value["average_price"] = amount_text(update.average_price_e6)
        value["fee"] = amount_text(update.fee_e6)
    if update.last_quantity:
        value["last"] = {
            "quantity": update.last_quantity,
            "price": amount_text(update.last_price_e6),
            "fee": amount_text(update.last_fee_e6),
        }
    return value


def order_body(update: OrderUpdate) -> bytes:
    """Return an order's event, as JSON."""
    return _encode(order_value(update))


def row_value(quote: Quote) -> dict[str, Any]:
    """Return an instrument's prices; what there is none of is absent."""
    value: dict[str, Any] = {"s": quote.symbol}
    if quote.bid_quantity:
        value["bid"], value["bid_size"] = amount_text(quote.bid_e6), quote.bid_quantity
    if quote.ask_quantity:
        value["ask"], value["ask_size"] = amount_text(quote.ask_e6), quote.ask_quantity
    value["last"] = amount_text(quote.last_e6)
    if quote.last_quantity:
        value["last_size"], value["volume"] = quote.last_quantity, quote.volume
    return value


def portfolio_value(portfolio: Portfolio) -> dict[str, Any]:
    """Return what the user has."""
    return {
        "cash": amount_text(portfolio.cash_e6),
        "reserved": amount_text(portfolio.reserved_e6),
        "fees": amount_text(portfolio.fees_e6),
        "value": amount_text(portfolio.value_e6),
        "positions": [
            {
                "symbol": one.symbol,
                "quantity": one.quantity,
                "reserved": one.reserved,
                "cost": amount_text(one.cost_e6),
                "value": amount_text(one.value_e6),
                "realized": amount_text(one.realized_e6),
                "unrealized": amount_text(one.unrealized_e6),
            }
            for one in portfolio.holdings
        ],
    }


class OrderTerms(msgspec.Struct, frozen=True):
    """An order in the market's numbers."""

    symbol: str
    side: int
    quantity: int
    price_e6: int
    type: int
    time_in_force: int


def order_terms(order: PlaceOrder) -> OrderTerms:
    """Return what a client asks for.

    Raises: ValueError, in words for the client, if the fields do not go together.
    """
    is_market = order.type == "market"
    if is_market and order.price is not None:
        raise ValueError("a market order has no price")
    if not is_market and order.price is None:
        raise ValueError("a limit order has a price")
    tif = order.tif or ("ioc" if is_market else "gtc")
    if is_market and tif == "gtc":
        raise ValueError("a market order does not wait: its tif is ioc or fok")
    return OrderTerms(
        order.symbol,
        _SIDES[order.side],
        order.quantity,
        0 if order.price is None else amount_e6(order.price),
        _TYPES[order.type],
        _TIMES_IN_FORCE[tif],
    )
