"""NeoHub's own WebSocket messages, so that its Home Assistant integration works as it is.

What differs from NeoHub, and why: a token is needed, as its integration sends one; ``full_state`` comes unasked too, as
the integration makes its entities of the first one; and a panel that is out of sight stays in it with partitions that
are ``unknown``, where NeoHub takes the panel away and the integration goes on showing the last state as true.

Source: itv2-users-and-history.md section 2, "WebSocket".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.carrying import Ask
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.problems import Refusal
from sojourn.gateways.itv2.http.shown import class_of
from sojourn.gateways.itv2.hub_config import is_code
from sojourn.gateways.itv2.state import Status

if TYPE_CHECKING:
    from sojourn.gateways.itv2.events import PanelEvent
    from sojourn.gateways.itv2.http.carrying import Carrier
    from sojourn.gateways.itv2.http.links import Link
    from sojourn.gateways.itv2.http.orders import Order
    from sojourn.gateways.itv2.hub import PanelHub
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.gateways.itv2.state import Change, PartitionState, ZoneState

Byte = Annotated[int, Meta(ge=0, le=255)]

DEVICE_CLASSES: Final = {"opening": "door", "carbon_monoxide": "gas"}
"""What the integration does not know, by the nearest that it does; NeoHub calls everything a door."""


class _Message(msgspec.Struct, frozen=True, tag_field="type"):
    pass


# From clients. NeoHub ignores fields that it does not know.


class GetFullState(_Message, frozen=True, tag="get_full_state"):
    """Ask for a ``full_state``."""


class _PartitionCommand(_Message, frozen=True):
    session_id: str
    partition_number: Byte
    code: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class ArmAway(_PartitionCommand, frozen=True, tag="arm_away"):
    """Arm away; without a code the panel's default one is used."""


class ArmHome(_PartitionCommand, frozen=True, tag="arm_home"):
    """Arm to stay."""


class ArmNight(_PartitionCommand, frozen=True, tag="arm_night"):
    """Arm for the night."""


class Disarm(_PartitionCommand, frozen=True, tag="disarm"):
    """Disarm."""


class BypassZone(_Message, frozen=True, tag="bypass_zone"):
    """Bypass a zone, or restore it."""

    session_id: str
    partition_number: Byte
    zone_number: Byte
    bypass: bool
    code: str | None = None

    def __repr__(self) -> str:
        return "BypassZone(***)"


ClientMessage = GetFullState | ArmAway | ArmHome | ArmNight | Disarm | BypassZone


# To clients


class Partition(msgspec.Struct, frozen=True):
    """One partition of ``full_state``."""

    partition_number: int
    name: str
    status: str


class Zone(msgspec.Struct, frozen=True):
    """One zone of ``full_state``."""

    zone_number: int
    name: str
    device_class: str
    open: bool
    bypassed: bool
    partitions: tuple[int, ...]


class SessionState(msgspec.Struct, frozen=True):
    """One panel; its session's id is its Integration ID."""

    session_id: str
    name: str
    partitions: tuple[Partition, ...]
    zones: tuple[Zone, ...]


class FullState(_Message, frozen=True, tag="full_state"):
    """All panels."""

    sessions: tuple[SessionState, ...]


class PartitionUpdate(_Message, frozen=True, tag="partition_update"):
    """A partition has another status."""

    session_id: str
    partition_number: int
    status: str


class ZoneUpdate(_Message, frozen=True, tag="zone_update"):
    """A zone is open or not, bypassed or not."""

    session_id: str
    zone_number: int
    open: bool
    bypassed: bool


class Error(_Message, frozen=True, tag="error"):
    """A message or a command came to nothing."""

    message: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ClientMessage).decode
_MODES: Final[dict[type, t.Mode]] = {ArmAway: "away", ArmHome: "stay", ArmNight: "night"}


class NeoHub:
    """Everybody who speaks NeoHub's messages.

    Life and arguments: as :class:`~.live.Live`.
    """

    def __init__(self, hub: PanelHub, carrier: Carrier) -> None:
        self.links: set[Link] = set()
        self._hub = hub
        self._carrier = carrier
        self._present: dict[str, bool] = {}
        """Which panels were in sight when ``full_state`` was told last."""

    # What links do

    def joined(self, link: Link) -> None:
        """Send everything as it is, and from now on what is new."""
        self.links.add(link)
        link.put(self._full_state(link))

    def left(self, link: Link) -> None:
        """Send nothing any more."""
        self.links.discard(link)

    def heartbeat(self) -> None:
        """Say nothing: the integration warns of messages that it does not know, and pings by itself."""

    def received(self, link: Link, text: str) -> None:
        """Take a message of a client."""
        try:
            message = _decode(text)
        except msgspec.ValidationError as error:
            # The library's text may quote what it found.
            words = "Unknown message type" if "Invalid value" in str(error) else "Invalid message"
            link.put(_error(words))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            link.put(_error("Invalid JSON"))
        else:
            if isinstance(message, GetFullState):
                link.put(self._full_state(link))
            else:
                self._command(link, message)

    def _command(self, link: Link, message: Any) -> None:
        panel = self._hub.by_id.get(message.session_id)
        if panel is None or not link.holder.sees(panel.name):
            link.put(_error("Session not found"))
            return
        code = message.code or None
        if code is not None and not is_code(code):
            link.put(_error("An access code has 4, 6 or 8 digits"))
            return
        order, body = _order_of(message, code)
        ask = Ask(panel, order, message.partition_number, body, None, "NeoHub")
        if not link.run(partial(self._carry_out, link, ask)):
            link.put(_error("Too many commands at once"))

    async def _carry_out(self, link: Link, ask: Ask) -> None:
        """Carry a command out; only what is not done is told, as NeoHub does."""
        try:
            outcome = await self._carrier.carry_out(link.holder, ask)
        except Refusal as refusal:
            told = refusal.detail or "; ".join(one.problem for one in refusal.errors)
            link.put(_error(told or refusal.kind.title))
            return
        if outcome.result == "unknown":
            link.put(_error(f"Nobody can say whether it was done: {outcome.reason}"))
        elif outcome.result != "accepted":
            link.put(_error(outcome.reason or "Command failed"))

    # What the hub tells

    def changed(self, panel: Panel, changes: Sequence[Change]) -> None:
        """Tell zones and partitions of which something is new that NeoHub tells."""
        partitions = {one.number for one in changes if (one.scope, one.field) == ("partition", "status")}
        zones = {one.number for one in changes if one.scope == "zone" and one.field in ("open", "bypassed")}
        for number in sorted(partitions):
            state = panel.state.partitions.get(number)
            if state is not None:
                update = PartitionUpdate(panel.id, number, _status_of(panel, state))
                self._tell(panel, update)
        for number in sorted(zones):
            zone = panel.state.zones.get(number)
            if zone is not None:
                self._tell(panel, ZoneUpdate(panel.id, number, _is_on(zone.open), _is_on(zone.bypassed)))

    def happened(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Nothing: NeoHub tells states only."""

    def phase_changed(self, panel: Panel) -> None:
        """Tell everything when a panel comes in sight, when it was read, and when it goes."""
        is_present = panel.phase == "connected"
        if self._present.get(panel.id) != is_present:
            self._present[panel.id] = is_present
            self._tell_full_state(panel)

    def configuration_changed(self, panel: Panel) -> None:
        """Tell everything: zones or partitions came, went or have other names."""
        if self._hub.panels.get(panel.name) is not panel:
            self._present.pop(panel.id, None)
        self._tell_full_state(panel)

    def _tell(self, panel: Panel, message: _Message) -> None:
        data = _encode(message)
        for link in tuple(self.links):
            if link.holder.sees(panel.name):
                link.put(data)

    def _tell_full_state(self, panel: Panel) -> None:
        """Send everything to whom the panel concerns, encoded once for all who see the same panels."""
        encoded: dict[frozenset[str], bytes] = {}
        for link in tuple(self.links):
            seen = link.holder.panels
            if link.holder.sees(panel.name):
                if seen not in encoded:
                    encoded[seen] = self._full_state(link)
                link.put(encoded[seen])

    def _full_state(self, link: Link) -> bytes:
        panels = (panel for name, panel in sorted(self._hub.panels.items()) if link.holder.sees(name))
        return _encode(FullState(tuple(_session_of(panel) for panel in panels)))


def _order_of(message: Any, code: str | None) -> tuple[Order, t.Body]:
    if isinstance(message, BypassZone):
        return ORDERS["bypass"], t.BypassBody((message.zone_number,), message.bypass, code)
    if isinstance(message, Disarm):
        return ORDERS["disarm"], t.CodeBody(code)
    return ORDERS["arm"], t.ArmBody(_MODES[type(message)], code)


def _session_of(panel: Panel) -> SessionState:
    state = panel.state
    partitions = tuple(
        Partition(number, _name(one.label, f"Partition {number}"), _status_of(panel, one))
        for number, one in sorted(state.partitions.items())
    )
    zones = tuple(_zone_of(panel, number, one) for number, one in sorted(state.zones.items()))
    return SessionState(panel.id, panel.name, partitions, zones)


def _zone_of(panel: Panel, number: int, state: ZoneState) -> Zone:
    device_class = class_of(panel, number, state)
    return Zone(
        number,
        _name(state.label, f"Zone {number}"),
        DEVICE_CLASSES.get(device_class, device_class),
        _is_on(state.open),
        _is_on(state.bypassed),
        _partitions_of(panel, state),
    )


def _partitions_of(panel: Panel, state: ZoneState) -> tuple[int, ...]:
    """Return a zone's partitions; the only one there is where programming was not read, else none rather than any."""
    if state.partitions is not None:
        return tuple(state.partitions.value)
    numbers = tuple(panel.state.partitions)
    return numbers if len(numbers) == 1 else ()


def _status_of(panel: Panel, state: PartitionState) -> str:
    status = state.status
    if status is None or status.is_stale or panel.session is None:
        return Status.UNKNOWN
    return status.value


def _name(label: Any, otherwise: str) -> str:
    return (label.value if label is not None else "") or otherwise


def _is_on(value: Any) -> bool:
    return bool(value is not None and value.value)


def _error(message: str) -> bytes:
    return _encode(Error(message))
