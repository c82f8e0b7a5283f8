"""The JSON bodies of state topics and events: plain values by name, null where nobody has told yet.

Beside the values each body has ``since_ms`` and ``source`` of every value, and ``is_stale``: the panel was out of sight
since at least one of them was told. Codes are no part of a panel's state, so none can be in a body.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sojourn.gateways.itv2.commands import Outcome
from sojourn.gateways.itv2.device_class import UNUSED
from sojourn.gateways.itv2.events import PanelEvent
from sojourn.gateways.itv2.messages import ArmingMethod, ArmingMode
from sojourn.gateways.itv2.panels import Panel
from sojourn.gateways.itv2.state import PartitionState, Status, Value, ZoneState

_encode = msgspec.json.Encoder().encode

MODES: Final = {number: name.lower() for name, number in vars(ArmingMode).items() if name.isupper()}
METHODS: Final = {number: name.lower() for name, number in vars(ArmingMethod).items() if name.isupper()}


def _flat(state: msgspec.Struct, number: int) -> dict[str, Any]:
    """Return the values of a zone or partition by name, and what is known of each."""
    body: dict[str, Any] = {"number": number}
    since: dict[str, int] = {}
    source: dict[str, str] = {}
    is_stale = False
    for name in state.__struct_fields__:
        value: Value[Any] | None = getattr(state, name)
        if value is None:
            body[name] = None
            continue
        body[name] = value.value
        since[name] = value.since_ms
        source[name] = value.source
        is_stale = is_stale or value.is_stale
    body["since_ms"] = since
    body["source"] = source
    body["is_stale"] = is_stale
    return body


def zone_body(panel: Panel, number: int) -> bytes:
    """Return a zone's body, or nothing for a zone that the panel does not have any more."""
    state = panel.state.zones.get(number)
    return b"" if state is None or not is_used(state) else _encode(_flat(state, number))


def partition_body(panel: Panel, number: int) -> bytes:
    """Return a partition's body, or nothing for one that the panel does not have any more.

    ``state`` is the status in Home Assistant's words; null where it is not known.
    """
    state = panel.state.partitions.get(number)
    if state is None or not is_enabled(state):
        return b""
    body = _flat(state, number)
    status = body["status"]
    body["state"] = None if status == Status.UNKNOWN else status
    body["mode"] = MODES.get(body["mode"])
    if state.changed_by is not None:
        by = state.changed_by.value
        body["changed_by"] = {"user": by.user, "label": by.label, "method": METHODS.get(by.method)}
    return _encode(body)


def panel_body(panel: Panel) -> bytes:
    """Return the body of the panel itself."""
    state = panel.state
    return _encode(
        {
            "name": panel.name,
            "phase": panel.phase,
            "is_connected": panel.phase == "connected",
            "is_stale": panel.phase != "connected" or bool(state.is_stale and state.is_stale.value),
            "diagnosis": panel.diagnosis or None,
            "connected_since": _iso(panel.connected_since_ms),
            "last_heard": _iso(panel.last_heard_ms),
            "trouble": _value(state.trouble),
            "firmware": _value(state.firmware),
            "clock_drift_s": _value(state.clock_drift_s),
        }
    )


def event_body(event: PanelEvent) -> bytes:
    """Return an event's body; ``event_type`` is where Home Assistant looks for the kind."""
    body: dict[str, Any] = {
        **event.detail,
        "event_type": event.kind,
        "at": _iso(event.at_ms),
        "at_ms": event.at_ms,
        "source": event.source,
        "partition": event.partition,
        "zone": event.zone,
        "user": event.user,
        "panel_time": event.panel_time,
        "is_approximate": event.is_approximate,
    }
    return _encode(body)


def result_body(outcome: Outcome, asked: Mapping[str, Any]) -> bytes:
    """Return how a command ended; ``asked`` says what it was, without its code."""
    return _encode(
        {
            "request_id": outcome.request_id,
            **asked,
            "result": outcome.result,
            "reason": outcome.reason,
            "panel_code": outcome.code,
        }
    )


def is_used(zone: ZoneState) -> bool:
    """Say whether a zone is put to use, as far as anybody knows."""
    return zone.definition is None or zone.definition.value != UNUSED


def is_enabled(partition: PartitionState) -> bool:
    """Say whether a partition is put to use, as far as anybody knows."""
    return partition.is_enabled is None or partition.is_enabled.value


def _value(value: Value[Any] | None) -> Any:
    return None if value is None else value.value


def _iso(at_ms: int) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds") if at_ms else None
