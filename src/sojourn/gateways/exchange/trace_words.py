"""Entries of the flight recorder in words, such as ``OrderEvent buy 10 AAA filled at 100.25, order 7, event 12``.

Sees frames and events of the log; no credential is in any of them: tokens and tickets come with the HTTP request. What
clients made up is shown in one printable line. Knows nothing of sessions and terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.core.recorder import Direction, Entry, Leg, summary
from sojourn.gateways.exchange import messages as m
from sojourn.gateways.exchange.bodies import STATUSES
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.market.settings import amount_text
from sojourn.gateways.exchange.view import ALL_ORDERS, ORDER

if TYPE_CHECKING:
    from sojourn.gateways.exchange.market.engine import OrderUpdate
    from sojourn.gateways.exchange.sim.codec import OrderResult

SHOWN_COUNT: Final = 8
"""Symbols of one frame that are named; the others are counted."""


class SimulatorNews(msgspec.Struct, frozen=True):
    """What a simulator told at once: an order as it was changed last, and how many changes there were."""

    party: str
    update: OrderUpdate
    count: int


class _Fill(msgspec.Struct, frozen=True):
    """What of a fill is shown."""

    quantity: int
    price: str


class _Order(msgspec.Struct, frozen=True):
    """What of an order's event is shown."""

    order: int
    symbol: str
    side: str
    quantity: int
    status: str
    filled: int = 0
    price: str = ""
    reason: str = ""
    last: _Fill | None = None


class _Orders(msgspec.Struct, frozen=True):
    """What of an event of all orders is shown: how many there are."""

    orders: tuple[msgspec.Raw, ...]


_read_order = msgspec.json.Decoder(_Order).decode
_read_orders = msgspec.json.Decoder(_Orders).decode


def words_of(entry: Entry) -> tuple[str, str]:
    """Return the name of what an entry holds, and one line about it."""
    what = entry[3]
    if isinstance(what, LogEvent):
        return _event(what)
    words = _WORDS.get(type(what))
    if words is None:
        return summary(entry)
    return type(what).__name__, ", ".join(filter(None, words(what)))


def news_leg(news: SimulatorNews) -> Leg:
    """Return what a simulator told, in words."""
    update = news.update
    status = STATUSES[update.status]
    if update.last_quantity:
        status += f" {update.last_quantity} at {amount_text(update.last_price_e6)}"
    more = f" and {news.count - 1} more" if news.count > 1 else ""
    return Leg(news.party, status.replace("_", " "), f"order {update.number} {_plain(update.symbol)}{more}")


def result_words(result: OrderResult) -> tuple[str, str]:
    """Return what a simulator answers to a command, in words."""
    if result.refusal or result.order is None:
        return "refused", _plain(result.refusal)
    return STATUSES[result.order.status].replace("_", " "), f"order {result.order.number}"


def command_words(command: Any) -> tuple[str, str]:
    """Return a client's command in words, however it came."""
    return words_of((0.0, Direction.IN, 0, command))


def _event(event: LogEvent) -> tuple[str, str]:
    """Return an event of the log in words; one of another version's by its type and size."""
    try:
        if event.type == ORDER:
            return "OrderEvent", ", ".join((*_told(_read_order(event.body)), f"event {event.offset}"))
        if event.type == ALL_ORDERS:
            return "OrdersEvent", f"{_count(_read_orders(event.body).orders, 'order')}, event {event.offset}"
    except msgspec.DecodeError:
        pass
    return "LogEvent", f"{_plain(event.type)}, {len(event.body)} bytes, event {event.offset}"


def _told(order: _Order) -> Iterator[str]:
    status = order.status.replace("_", " ")
    if order.last is not None:
        status += f" {order.last.quantity} at {order.last.price}"
    elif order.price:
        status += f" at {order.price}"
    yield f"{order.side} {order.quantity} {_plain(order.symbol)} {status}"
    if order.reason:
        yield _plain(order.reason)
    yield f"order {order.order}"


def _hello(frame: m.Hello) -> Iterator[str]:
    yield f"device {frame.device}"
    if frame.resume is not None:
        yield f"has event {frame.resume.events} of epoch {frame.resume.epoch}"
    if frame.symbols is not None:
        yield _symbols(frame.symbols)


def _place(frame: m.PlaceOrder) -> Iterator[str]:
    price = "" if frame.price is None else f" {frame.price}"
    tif = "" if frame.tif is None else f" {frame.tif}"
    yield f"{frame.side} {frame.quantity} {_plain(frame.symbol)} {frame.type}{price}{tif}"
    yield _plain(frame.id)


def _welcome(frame: m.Welcome) -> Iterator[str]:
    yield f"resumed {frame.resumed}"
    yield f"event {frame.events} of epoch {frame.epoch}"
    if frame.recovered:
        yield f"{frame.recovered} more follow"
    yield f"pod {frame.pod}"


def _snapshot(frame: m.Snapshot) -> Iterator[str]:
    yield f"event {frame.o} of epoch {frame.epoch}"
    yield _count(frame.orders, "order")
    yield f"simulator {frame.sim}"


def _ok(frame: m.Ok) -> Iterator[str]:
    yield _plain(frame.ref)
    if isinstance(frame.d, dict):
        yield from (
            f"{name} {_plain(frame.d[name])}" for name in ("order", "status", "filled") if name in frame.d
        )


def _err(frame: m.Err) -> Iterator[str]:
    yield f"{frame.code}: {_plain(frame.detail)}" if frame.detail else frame.code
    yield _plain(frame.ref or "")


def _quality(frame: m.QualityReport) -> Iterator[str]:
    yield frame.grade
    yield f"{frame.rtt_ms:g} ms"
    if frame.missed:
        yield f"{frame.missed} missed"


def _symbols(symbols: Iterable[str]) -> str:
    named = [_plain(one) for one in symbols]
    more = f" and {len(named) - SHOWN_COUNT} more" if len(named) > SHOWN_COUNT else ""
    return " ".join(named[:SHOWN_COUNT]) + more


def _count(things: Iterable[Any], name: str) -> str:
    number = sum(1 for _ in things)
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() else repr(text)


_WORDS: Final[dict[type, Callable[[Any], Iterable[str]]]] = {
    m.Hello: _hello,
    m.Heartbeat: lambda frame: (str(frame.n),),
    m.HeartbeatAck: lambda frame: (str(frame.n), f"has event {frame.o}"),
    m.Subscribe: lambda frame: (_symbols(frame.symbols),),
    m.Unsubscribe: lambda frame: (_symbols(frame.symbols),),
    m.PlaceOrder: _place,
    m.CancelOrder: lambda frame: (f"order {frame.order}", _plain(frame.id)),
    m.ReplaceOrder: lambda frame: (
        f"order {frame.order} to {frame.quantity} at {frame.price}",
        _plain(frame.id),
    ),
    m.SimulatorCommand: lambda frame: (frame.action, _plain(frame.id)),
    m.SnapshotRequest: lambda frame: (_plain(frame.id),),
    m.Welcome: _welcome,
    m.Snapshot: _snapshot,
    m.Ok: _ok,
    m.Err: _err,
    m.ServerHeartbeat: lambda frame: (str(frame.n),),
    m.ServerHeartbeatAck: lambda frame: (str(frame.n),),
    m.SimulatorState: lambda frame: (frame.state, _plain(frame.detail)),
    m.QualityReport: _quality,
    m.Warn: lambda frame: (f"{frame.reason} in {frame.in_s:g} s",),
    m.Degraded: lambda frame: (frame.what,),
    m.Restored: lambda frame: (frame.what,),
    m.Drain: lambda frame: (
        f"come back in {frame.reconnect_after_ms} ms",
        f"has event {frame.resume.events}",
    ),
    m.Replaced: lambda frame: (f"by device {_plain(frame.device)}",),
    m.Ended: lambda frame: (_plain(frame.reason),),
}
