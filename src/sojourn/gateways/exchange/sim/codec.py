"""The market's values <-> the messages of ``sim.v1``; both directions side by side.

Field names are the market's own, so a value goes over by its fields. What it does not know on purpose: who sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sojourn.gateways.exchange.market.engine import OrderUpdate, Quote
from sojourn.gateways.exchange.market.orders import Order
from sojourn.gateways.exchange.market.simulation import USER, Event, Holding, Portfolio, Row
from sojourn.gateways.exchange.sim.stubs import pb


class SimulatorSnapshot(NamedTuple):
    """All that a simulator knows of the user, as of one event; ``orders`` are the oldest first."""

    run: str
    seq: int
    time_ms: int
    orders: tuple[OrderUpdate, ...]


class OrderResult(NamedTuple):
    """What came of a request: the order as it stands, if there is one, and why the request was refused, if it was.

    Shape: all that came of it is in the events up to ``seq``. An order that the market took and rejected is no refusal:
    its status is REJECTED.
    """

    order: OrderUpdate | None
    refusal: str
    seq: int


class SimulatorReport(NamedTuple):
    """A simulator as it describes itself."""

    simulator: str
    session: str
    run: str
    owner_epoch: int
    seq: int
    revision: int
    time_ms: int
    uptime_ms: int
    silent_ms: int
    is_attached: bool
    is_draining: bool


def order_to(order: Order | OrderUpdate) -> pb.Order:
    """Encode an order as it stands."""
    return pb.Order(
        number=order.number,
        request_id=order.request_id,
        symbol=order.symbol,
        side=order.side,  # type: ignore[arg-type]  # protoc's types want a member, protobuf takes the number
        type=order.type,  # type: ignore[arg-type]  # as above
        time_in_force=order.time_in_force,  # type: ignore[arg-type]  # as above
        price_e6=order.price_e6,
        quantity=order.quantity,
        filled=order.filled,
        remaining=order.remaining,
        status=order.status,  # type: ignore[arg-type]  # as above
        reason=order.reason,
        average_price_e6=order.average_price_e6,
        fee_e6=order.fee_e6,
    )


def order_from(
    order: pb.Order, last_quantity: int = 0, last_price_e6: int = 0, last_fee_e6: int = 0
) -> OrderUpdate:
    """Decode an order as it stands."""
    return OrderUpdate(
        account=USER,
        number=order.number,
        request_id=order.request_id,
        symbol=order.symbol,
        side=int(order.side),
        type=int(order.type),
        time_in_force=int(order.time_in_force),
        price_e6=order.price_e6,
        quantity=order.quantity,
        filled=order.filled,
        remaining=order.remaining,
        status=int(order.status),
        reason=order.reason,
        average_price_e6=order.average_price_e6,
        fee_e6=order.fee_e6,
        last_quantity=last_quantity,
        last_price_e6=last_price_e6,
        last_fee_e6=last_fee_e6,
    )


def event_to(event: Event) -> pb.Event:
    """Encode an event."""
    update = event.update
    return pb.Event(
        seq=event.seq,
        time_ms=event.time_ms,
        order=order_to(update),
        last_quantity=update.last_quantity,
        last_price_e6=update.last_price_e6,
        last_fee_e6=update.last_fee_e6,
    )


def event_from(event: pb.Event) -> Event:
    """Decode an event."""
    update = order_from(event.order, event.last_quantity, event.last_price_e6, event.last_fee_e6)
    return Event(event.seq, event.time_ms, update)


def row_to(row: Row) -> pb.Row:
    """Encode an instrument's prices."""
    return pb.Row(revision=row.revision, **row.quote._asdict())


def row_from(row: pb.Row) -> Row:
    """Decode an instrument's prices."""
    return Row(
        row.revision,
        Quote(
            row.symbol,
            row.bid_e6,
            row.bid_quantity,
            row.ask_e6,
            row.ask_quantity,
            row.last_e6,
            row.last_quantity,
            row.volume,
        ),
    )


def portfolio_to(portfolio: Portfolio) -> pb.Portfolio:
    """Encode what the user has."""
    revision, cash_e6, reserved_e6, fees_e6, value_e6, holdings = portfolio
    return pb.Portfolio(
        revision=revision,
        cash_e6=cash_e6,
        reserved_e6=reserved_e6,
        fees_e6=fees_e6,
        value_e6=value_e6,
        holdings=[pb.Holding(**holding._asdict()) for holding in holdings],
    )


def portfolio_from(portfolio: pb.Portfolio) -> Portfolio:
    """Decode what the user has."""
    return Portfolio(
        portfolio.revision,
        portfolio.cash_e6,
        portfolio.reserved_e6,
        portfolio.fees_e6,
        portfolio.value_e6,
        tuple(
            Holding(
                one.symbol,
                one.quantity,
                one.reserved,
                one.cost_e6,
                one.value_e6,
                one.realized_e6,
                one.unrealized_e6,
            )
            for one in portfolio.holdings
        ),
    )


def snapshot_to(orders: Iterable[Order]) -> pb.Snapshot:
    """Encode the orders that are known."""
    return pb.Snapshot(orders=[order_to(order) for order in orders])


def snapshot_from(update: pb.Update, run: str) -> SimulatorSnapshot:
    """Decode an update's snapshot."""
    return SimulatorSnapshot(
        run, update.seq, update.time_ms, tuple(order_from(order) for order in update.snapshot.orders)
    )


def result_to(order: Order | None, refusal: str, seq: int) -> pb.OrderReply:
    """Encode what came of a request."""
    return pb.OrderReply(order=None if order is None else order_to(order), refusal=refusal, seq=seq)


def result_from(reply: pb.OrderReply) -> OrderResult:
    """Decode what came of a request."""
    order = order_from(reply.order) if reply.HasField("order") else None
    return OrderResult(order, reply.refusal, reply.seq)


def report_from(reply: pb.StatusReply) -> SimulatorReport:
    """Decode a simulator's description of itself."""
    return SimulatorReport(*(getattr(reply, name) for name in SimulatorReport._fields))
