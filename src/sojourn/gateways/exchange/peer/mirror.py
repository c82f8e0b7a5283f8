"""Mirror: what a client knows of its session, and how far it has come.

Takes frames in the order in which they came and refuses what does not fit: an event that is not the next one, a welcome
that continues something else. Its cursor moves only with what it describes: the epoch together with an offset, and
where a server begins anew not before the snapshot is here, so that a connection that is cut in between is none lost.
Pure; knows no connection.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sojourn.errors import RemoteProtocolError
from sojourn.gateways.exchange.messages import Drain, Resume, SimulatorState, Welcome
from sojourn.gateways.exchange.peer.frames import EventFrame, MarketFrame, PortfolioFrame, SnapshotFrame
from sojourn.gateways.exchange.peer.stats import LiveStats
from sojourn.gateways.exchange.view import ENDED_ORDERS_COUNT

SNAPSHOT: Final = "snapshot"
"""The type of the event that stands for everything before it."""
_SOURCE: Final = "exchange-session-service.md section 5.4"
_FINAL: Final = frozenset({"filled", "canceled", "rejected"})


class LiveEvent(msgspec.Struct, frozen=True):
    """One event of a session.

    One of type ``snapshot`` is none of the log: it stands for all events up to its offset, and ``data`` has where the
    session stands behind them.
    """

    epoch: int
    offset: int
    type: str
    data: Any

    @property
    def resume(self) -> Resume:
        """Where who has dealt with this event goes on."""
        return Resume(self.epoch, self.offset)


class Mirror:
    """One session, as a client sees it.

    Life: as long as the client's interest in the session, over any number of connections. Always true: it has every
    event up to its cursor, in order and none twice, or a snapshot that stands for those before.

    Args:
        stats: counts events, and what was recovered or lost.
        resume: where it goes on; None to begin anew.
    """

    def __init__(self, stats: LiveStats, resume: Resume | None = None) -> None:
        self.stats = stats
        self.resume = resume
        """The cursor: what the next hello says."""
        self.knows_all = resume is None
        """False while it goes on from an earlier program's cursor: orders and simulator come with a snapshot."""
        self.rows: dict[str, dict[str, Any]] = {}
        self.portfolio: Any = None
        self.orders: dict[int, dict[str, Any]] = {}
        self.simulator = SimulatorState("none")
        self.awaits_snapshot = True
        self._wants_rows = False
        """What the client wants of the market has changed, and what it has of it is not whole."""
        self._asking_count = 0
        self._ended: dict[int, None] = {}

    @property
    def offset(self) -> int:
        """The last event that is here; 0 for none."""
        return 0 if self.resume is None else self.resume.events

    def say_hello(self) -> Resume | None:
        """Return what a hello says of where we are; it says which rows are wanted, too."""
        self._asking_count = 0
        if self.resume is None or not self._wants_rows:
            return self.resume
        return msgspec.structs.replace(self.resume, md=0)

    def ask_rows(self) -> None:
        """Take note that the server is asked for other rows."""
        self._asking_count += 1
        self._wants_rows = True

    def rows_granted(self) -> None:
        """Take note that it will send them: the next full frame has them all."""
        self._asking_count -= 1
        self._wants_rows = True

    def take_welcome(self, welcome: Welcome) -> None:
        """Begin a connection.

        Raises: RemoteProtocolError if it continues what is not ours.
        """
        self.awaits_snapshot = welcome.resumed == "none"
        if self.awaits_snapshot:
            return
        resume = self.resume
        if resume is None or (welcome.epoch, welcome.events) != (resume.epoch, resume.events):
            found = f"a welcome behind event {welcome.events} of epoch {welcome.epoch}"
            raise RemoteProtocolError(found, f"one behind {_said(resume)}", _SOURCE)
        self.stats.recovered_count += welcome.recovered

    def take_event(self, frame: EventFrame) -> LiveEvent:
        """Take the next event.

        Raises: RemoteProtocolError if it is not the next one.
        """
        resume = self.resume
        if resume is None or self.awaits_snapshot or frame.o != resume.events + 1:
            raise RemoteProtocolError(f"event {frame.o}", f"the one behind {_said(resume)}", _SOURCE)
        self.resume = msgspec.structs.replace(resume, events=frame.o)
        self.stats.events_count += 1
        match frame.y:
            case "order":
                self._note_order(frame.d)
            case "orders":
                self._take_orders(_field(frame.d, "orders"))
        return LiveEvent(resume.epoch, frame.o, frame.y, frame.d)

    def take_snapshot(self, frame: SnapshotFrame) -> LiveEvent:
        """Take the session as a whole; what came before and is not in it any more is gone."""
        resume, self.awaits_snapshot, self.knows_all = self.resume, False, True
        if resume is None or (resume.epoch, resume.events) != (frame.epoch, frame.o):
            self.stats.lost_count += resume is not None
            self.resume = Resume(frame.epoch, frame.o)
            self.rows.clear()
            self.portfolio = None
        self.simulator = SimulatorState(frame.sim, frame.simulator)
        self._take_orders(frame.orders)
        data = {"sim": frame.sim, "simulator": frame.simulator, "orders": frame.orders}
        return LiveEvent(frame.epoch, frame.o, SNAPSHOT, data)

    def take_market(self, frame: MarketFrame) -> None:
        """Take rows."""
        if frame.full:
            self.rows.clear()
            self._wants_rows = self._asking_count > 0
        for row in frame.rows:
            self.rows[_field(row, "s")] = row
        if self.resume is not None and not self.awaits_snapshot:
            self.resume = msgspec.structs.replace(self.resume, md=frame.r)

    def take_portfolio(self, frame: PortfolioFrame) -> None:
        """Take what the user has."""
        self.portfolio = frame.d
        if self.resume is not None and not self.awaits_snapshot:
            self.resume = msgspec.structs.replace(self.resume, pf=frame.r)

    def take_drain(self, frame: Drain) -> None:
        """Take the cursor that a server gives to whom it sends away: it may be further in what is not an event."""
        resume, told = self.resume, frame.resume
        is_ours = resume is not None and (resume.epoch, resume.events) == (told.epoch, told.events)
        if is_ours and not self.awaits_snapshot and not self._wants_rows:
            self.resume = told

    def _note_order(self, order: dict[str, Any]) -> None:
        number = _field(order, "order")
        self.orders.pop(number, None)
        self.orders[number] = order
        if _field(order, "status") in _FINAL:
            self._ended[number] = None
            if len(self._ended) > ENDED_ORDERS_COUNT:
                oldest = next(iter(self._ended))
                del self._ended[oldest], self.orders[oldest]

    def _take_orders(self, orders: list[dict[str, Any]]) -> None:
        self.orders.clear()
        self._ended.clear()
        for order in orders:
            self._note_order(order)


def _field(value: Any, name: str) -> Any:
    """Return a field of what a server told. Raises: RemoteProtocolError if it has none."""
    try:
        return value[name]
    except (KeyError, TypeError):
        raise RemoteProtocolError(f"no field {name!r}", "one", _SOURCE) from None


def _said(resume: Resume | None) -> str:
    return "nothing" if resume is None else f"event {resume.events} of epoch {resume.epoch}"
