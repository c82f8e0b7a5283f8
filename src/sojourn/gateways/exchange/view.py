"""SessionView: what the links of one session look at on one pod, and who is told what.

Fed by the session's owner, here or through the relay; shown to any number of links. Events go to every link at once and
are encoded once per encoding; market and portfolio go with the ticks, to each link what it lacks. Knows no socket, no
database and no simulator.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.core.recorder import Direction
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.event_log import EventLog, LogEvent
from sojourn.gateways.exchange.feed import Feed
from sojourn.gateways.exchange.messages import Degraded, Restored, Snapshot

if TYPE_CHECKING:
    from sojourn.gateways.exchange.links import ClientLink

ENDED_ORDERS_COUNT: Final = 50
"""Ended orders that a snapshot tells."""
FINAL_STATUSES: Final = frozenset({"filled", "canceled", "rejected"})
EVENTS: Final = "events"
"""Clients are told that it is away while their events wait for the log, or for the bus on their way here."""
SIMULATOR: Final = "simulator"
"""The same, while the simulator does not answer."""
ORDER: Final = "order"
"""The type of an event that tells an order."""
ALL_ORDERS: Final = "orders"
"""The type of an event that tells all orders of a simulator, the oldest first."""


class OrderHead(msgspec.Struct, frozen=True):
    """What of an order's event a view must understand."""

    order: int
    status: str


class OrderList(msgspec.Struct, frozen=True):
    """What of an event of all orders it must understand."""

    orders: tuple[msgspec.Raw, ...]


_opened_at = attrgetter("opened_at")
_read_head = msgspec.json.Decoder(OrderHead).decode
_read_list = msgspec.json.Decoder(OrderList).decode


class SessionView:
    """One session as clients see it.

    Life: made when a pod first has to do with a session, gone with it there. Always true: every link that is live has
    been told every event up to ``log.last``, in order.

    Args:
        log: the end of the session's log.
    """

    __slots__ = (
        "_change",
        "_ended",
        "_portfolio",
        "_portfolio_frames",
        "degraded",
        "due_ms",
        "feed",
        "last_seq",
        "last_simulator",
        "links",
        "log",
        "orders",
        "portfolio_revision",
        "simulator",
        "simulator_state",
    )

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.feed = Feed()
        self.links: set[ClientLink] = set()
        self.due_ms = math.inf
        """When the last tick has left something for a later one: not before this time; else never."""
        self.degraded: dict[str, None] = {}
        """What clients were told is away, and not yet that it is back."""
        self.simulator = ""
        self.simulator_state = "none"
        self.last_simulator = ""
        self.last_seq = 0
        """The last event of a simulator that is in the log: where its owner goes on."""
        self.orders: dict[int, bytes] = {}
        self._ended: dict[int, None] = {}
        self._portfolio: Any = None
        self._portfolio_frames: dict[bool, bytes] = {}
        self.portfolio_revision = 0
        self._change: asyncio.Event | None = None

    # What comes in

    def publish(self, event: LogEvent) -> None:
        """Take the next event of the log, which is durable, and tell every link."""
        self.log.append(event)
        if event.simulator:
            if event.simulator != self.last_simulator:
                self.take_orders(())  # another market counts its orders from 1 again
            self.last_simulator, self.last_seq = event.simulator, event.seq
        self.note(event)
        json = msgpack = b""
        links = tuple(self.links)
        for link in links:
            if link.is_binary:
                msgpack = msgpack or event_frame(event, is_binary=True)
                link.send_event(msgpack)
            else:
                json = json or event_frame(event, is_binary=False)
                link.send_event(json)
        if links:
            # Once for all of them: hundreds of the same line would push everything else out of the recorder.
            first = min(links, key=_opened_at)
            first.room.record(first, Direction.OUT, len(json or msgpack), event)

    def note(self, event: LogEvent) -> None:
        """Remember what an event tells of orders."""
        if event.type == ORDER:
            self.note_order(event.body)
        elif event.type == ALL_ORDERS:
            self.take_orders(bytes(body) for body in _read_list(event.body).orders)

    def note_order(self, body: bytes) -> None:
        """Remember an order as an event told it."""
        self._changed()
        head = _read_head(body)
        self.orders.pop(head.order, None)
        self.orders[head.order] = body
        if head.status in FINAL_STATUSES:
            self._ended[head.order] = None
            if len(self._ended) > ENDED_ORDERS_COUNT:
                oldest = next(iter(self._ended))
                del self._ended[oldest], self.orders[oldest]

    def take_orders(self, bodies: Iterable[bytes]) -> None:
        """Take all orders anew, the oldest first."""
        self.orders.clear()
        self._ended.clear()
        for body in bodies:
            self.note_order(body)

    def add_orders(self, orders: Iterable[tuple[int, bytes]]) -> None:
        """Take orders of which nothing is known yet; they are older than those that are."""
        unknown = [body for number, body in orders if number not in self.orders]
        self.take_orders((*unknown, *tuple(self.orders.values())))

    def take_portfolio(self, value: Any, revision: int) -> None:
        """Take the portfolio of a later revision."""
        self._portfolio = value
        self._portfolio_frames.clear()
        self.portfolio_revision = revision
        self._changed()

    def take_simulator(self, simulator: str, state: str) -> None:
        """Take note of where the simulator stands."""
        self.simulator, self.simulator_state = simulator, state
        self._changed()

    def tell(self, frame: Any) -> None:
        """Send a control frame to every link; what it says about outages is told to those who come later, too."""
        if isinstance(frame, Degraded):
            self.degraded[frame.what] = None
        elif isinstance(frame, Restored):
            self.degraded.pop(frame.what, None)
        frames: dict[bool, bytes] = {}
        for link in tuple(self.links):
            if link.is_binary not in frames:
                frames[link.is_binary] = message(frame, is_binary=link.is_binary)
            link.send(frames[link.is_binary], frame)

    # What goes out

    async def change(self) -> None:
        """Return when an order, the portfolio or the simulator's state changes next."""
        if self._change is None:
            self._change = asyncio.Event()
        await self._change.wait()

    def _changed(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            change.set()

    def tick(self, now_s: float) -> None:
        """Send each link whose time has come what it lacks of market and portfolio."""
        now_ms, due_ms = now_s * 1000, math.inf
        market, portfolio = self.feed.revision, self.portfolio_revision
        for link in tuple(self.links):
            if link.market_cursor != market or link.portfolio_cursor != portfolio:
                if now_ms >= link.ladder.next_ms:
                    link.tick(now_s)
                    if link.market_cursor == market and link.portfolio_cursor == portfolio:
                        continue
                due_ms = min(due_ms, link.ladder.next_ms)
        self.due_ms = due_ms

    def order(self, number: int, after: int = 0) -> bytes | None:
        """Return an order as its last event told it; one that ended long ago is looked for in the log.

        Args:
            after: the event behind which the log is looked through.
        """
        found = self.orders.get(number)
        return self._logged_orders(after).get(number) if found is None else found

    def known_orders(self) -> dict[int, bytes]:
        """Return every order of the present simulator: those of a snapshot, and what else the log still tells of."""
        return self._logged_orders(0) | self.orders

    def _logged_orders(self, after: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for event in self.log.after(after):
            if event.simulator not in ("", self.last_simulator):
                continue
            if event.type == ORDER:
                found[_read_head(event.body).order] = event.body
            elif event.type == ALL_ORDERS:
                bodies = map(bytes, _read_list(event.body).orders)
                found = {_read_head(body).order: body for body in bodies}
        return found

    @property
    def portfolio(self) -> Any:
        """What the user has, in the words of clients; None if that is not known."""
        return self._portfolio

    def restart(self, log: EventLog) -> None:
        """Take another log, which nothing before can be continued in: every link gets a snapshot."""
        self.log = log
        for link in tuple(self.links):
            link.send_snapshot()

    def portfolio_frame(self, *, is_binary: bool) -> bytes:
        """Return the portfolio as a WebSocket message; empty if there is none."""
        if self._portfolio is None:
            return b""
        made = self._portfolio_frames.get(is_binary)
        if made is None:
            body = wire.value(self._portfolio, is_binary=is_binary)
            payload = wire.portfolio(self.portfolio_revision, body, is_binary=is_binary)
            made = self._portfolio_frames[is_binary] = wire.websocket(payload, is_binary=is_binary)
        return made

    def snapshot(self) -> Snapshot:
        """Return where the session stands, without market and portfolio."""
        return Snapshot(
            epoch=self.log.epoch,
            o=self.log.last,
            sim=self.simulator_state,
            simulator=self.simulator,
            orders=tuple(msgspec.Raw(body) for body in self.orders.values()),
        )

    def snapshot_message(self, *, is_binary: bool) -> bytes:
        """Return the snapshot as a WebSocket message."""
        snapshot = self.snapshot()
        if not is_binary:
            return message(snapshot, is_binary=False)
        plain = msgspec.to_builtins(msgspec.structs.replace(snapshot, orders=()))
        orders = [msgspec.json.decode(body) for body in self.orders.values()]
        return wire.websocket(wire.value({**plain, "orders": orders}, is_binary=True), is_binary=True)


def message(frame: Any, *, is_binary: bool) -> bytes:
    """Return a frame as a WebSocket message."""
    return wire.websocket(wire.write_frame(frame, is_binary=is_binary), is_binary=is_binary)


def event_frame(event: LogEvent, *, is_binary: bool) -> bytes:
    """Return an event as a WebSocket message."""
    payload = wire.event(event.offset, event.type, event.body, is_binary=is_binary)
    return wire.websocket(payload, is_binary=is_binary)
