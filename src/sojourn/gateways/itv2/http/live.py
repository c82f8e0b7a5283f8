"""The live WebSocket's dialect: a snapshot, then every change and event as it comes, and commands with their outcomes.

A view of the panels' hub. Each message is encoded once, however many clients get it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.errors import WireError
from sojourn.gateways.itv2.http import frames as f
from sojourn.gateways.itv2.http.carrying import Ask
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.problems import Kind, Refusal
from sojourn.gateways.itv2.http.routes import PATH_SCHEMAS
from sojourn.gateways.itv2.http.shown import events_of, panel_of, worded
from sojourn.web.body import field_error

if TYPE_CHECKING:
    from sojourn.gateways.itv2.events import PanelEvent
    from sojourn.gateways.itv2.http.carrying import Carrier
    from sojourn.gateways.itv2.http.links import Link
    from sojourn.gateways.itv2.http.orders import Order
    from sojourn.gateways.itv2.hub import PanelHub
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.gateways.itv2.state import Change

_OUT_OF_SIGHT: Final = "disconnected"


class Live:
    """Everybody who watches live.

    Life: made with the API; subscribed to the hub while that runs.

    Args:
        hub: the panels.
        carrier: carries commands out.
        wall_ms: unix ms.
    """

    def __init__(self, hub: PanelHub, carrier: Carrier, wall_ms: Callable[[], int]) -> None:
        self.links: set[Link] = set()
        self._hub = hub
        self._carrier = carrier
        self._wall_ms = wall_ms

    # What links do

    def joined(self, link: Link) -> None:
        """Send everything as it is, and from now on what is new."""
        self.links.add(link)
        self._send_snapshot(link)

    def left(self, link: Link) -> None:
        """Send nothing any more."""
        self.links.discard(link)

    def heartbeat(self) -> bytes:
        """Return a sign of life that web pages can see; they do not see pings."""
        return f.encode(f.Heartbeat(self._wall_ms()))

    def received(self, link: Link, text: str) -> None:
        """Take a message of a client."""
        try:
            frame = f.read_frame(text)
        except WireError as error:
            link.put(f.encode(f.Error(Kind.BAD_REQUEST.name, f"wanted {error.wanted}")))
            return
        match frame:
            case f.Ping():
                link.put(f.encode(f.Pong(frame.id)))
            case f.GetSnapshot():
                self._send_snapshot(link)
            case f.Command():
                self._command(link, frame)

    def _send_snapshot(self, link: Link) -> None:
        panels = (panel for name, panel in sorted(self._hub.panels.items()) if link.holder.sees(name))
        link.put(f.encode(f.Snapshot(self._wall_ms(), tuple(map(panel_of, panels)))))

    def _command(self, link: Link, frame: f.Command) -> None:
        try:
            ask = self._ask_of(link, frame)
        except Refusal as refusal:
            link.put(_error(refusal, frame.request_id))
            return
        if not link.run(partial(self._carry_out, link, ask)):
            link.put(_error(Refusal(Kind.LIMIT, "too many commands at once"), frame.request_id))

    def _ask_of(self, link: Link, frame: f.Command) -> Ask:
        """Return what a client wants. Raises: Refusal."""
        panel = self._carrier.panel(link.holder, frame.panel)
        order = ORDERS.get(frame.command)
        if order is None:
            raise Refusal(Kind.INVALID, f"wanted a command out of {', '.join(ORDERS)}")
        number, body = _number_of(order, frame), _body_of(order, frame)
        return Ask(panel, order, number, body, frame.request_id, "WebSocket")

    async def _carry_out(self, link: Link, ask: Ask) -> None:
        try:
            outcome = await self._carrier.carry_out(link.holder, ask)
        except Refusal as refusal:
            link.put(_error(refusal, ask.request_id or ""))
        else:
            link.put(f.encode(f.Outcome(**msgspec.structs.asdict(outcome))))

    # What the hub tells

    def changed(self, panel: Panel, changes: Sequence[Change]) -> None:
        """Tell new values."""
        self._tell(panel.name, lambda: f.Changes(panel.name, tuple(map(_change, changes))))

    def happened(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Tell what happened."""
        self._tell(panel.name, lambda: f.Events(panel.name, events_of(events)))

    def phase_changed(self, panel: Panel) -> None:
        """Tell where the connection stands, and of a panel out of sight all that is stale now."""
        self._tell(panel.name, lambda: f.PhaseChanged(panel.name, panel.phase, panel.diagnosis))
        if panel.phase == _OUT_OF_SIGHT:
            self._tell(panel.name, lambda: f.PanelFrame(panel_of(panel)))

    def configuration_changed(self, panel: Panel) -> None:
        """Tell everything of a panel anew, or that it is gone."""
        if self._hub.panels.get(panel.name) is panel:
            self._tell(panel.name, lambda: f.PanelFrame(panel_of(panel)))
        else:
            self._tell(panel.name, lambda: f.Gone(panel.name))

    def _tell(self, panel: str, make: Callable[[], msgspec.Struct]) -> None:
        watching = [link for link in self.links if link.holder.sees(panel)]
        if watching:
            data = f.encode(make())
            for link in watching:
                link.put(data)


def _change(change: Change) -> f.OneChange:
    value = worded(change.field, change.value) if change.scope == "partition" else change.value
    return f.OneChange(change.scope, change.number, change.field, value)


def _number_of(order: Order, frame: f.Command) -> int:
    """Return the number of what the order names. Raises: Refusal."""
    if order.target == "panel":
        return 0
    number = int(getattr(frame, order.target))
    highest: int = PATH_SCHEMAS[order.target]["maximum"]
    if not 1 <= number <= highest:
        raise Refusal(Kind.INVALID, f"{order.target}: wanted a number from 1 to {highest}")
    return number


def _body_of(order: Order, frame: f.Command) -> Any:
    """Return the order's body. Raises: Refusal."""
    if order.body is None:
        return None
    try:
        return msgspec.json.decode(frame.body, type=order.body)
    except (msgspec.MsgspecError, RecursionError) as error:
        found = field_error(str(error))
        raise Refusal(Kind.INVALID, f"body, {found.field}: {found.problem}") from None


def _error(refusal: Refusal, request_id: str) -> bytes:
    detail = refusal.detail or "; ".join(f"{one.field}: {one.problem}" for one in refusal.errors)
    return f.encode(f.Error(refusal.kind.name, detail or refusal.kind.title, request_id))
