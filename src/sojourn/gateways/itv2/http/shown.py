"""Panels as the API tells them: numbers in words, everything with its age.

Knows nothing of requests and of who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sojourn.gateways.itv2 import commands, words
from sojourn.gateways.itv2.device_class import device_class_of
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.state import ChangedBy, Value

if TYPE_CHECKING:
    from sojourn.gateways.itv2.events import PanelEvent
    from sojourn.gateways.itv2.gateway import Learnt
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.gateways.itv2.state import PartitionState, ZoneState

T = TypeVar("T")


def is_live(panel: Panel) -> bool:
    """Say whether what is known of a panel is so now."""
    stale = panel.state.is_stale
    return panel.phase == "connected" and not (stale is not None and stale.value)


def class_of(panel: Panel, number: int, state: ZoneState) -> str:
    """Return what the operator says that a zone is, else what its definition says."""
    chosen = panel.settings.device_class_of(number)
    return chosen or device_class_of(state.definition.value if state.definition is not None else None)


def zone_of(panel: Panel, number: int, state: ZoneState) -> t.Zone:
    """Return a zone."""
    return t.Zone(number=number, device_class=class_of(panel, number, state), **_fields(state))


def partition_of(number: int, state: PartitionState) -> t.Partition:
    """Return a partition."""
    fields = _fields(state)
    for name in ("mode", "changed_by"):
        fields[name] = worded(name, fields[name])
    return t.Partition(number=number, **fields)


def zones_of(panel: Panel) -> tuple[t.Zone, ...]:
    """Return all zones of a panel."""
    return tuple(zone_of(panel, number, state) for number, state in sorted(panel.state.zones.items()))


def partitions_of(panel: Panel) -> tuple[t.Partition, ...]:
    """Return all partitions of a panel."""
    return tuple(partition_of(number, state) for number, state in sorted(panel.state.partitions.items()))


def summary_of(panel: Panel) -> t.PanelSummary:
    """Return what a list shows of a panel."""
    return t.PanelSummary(
        **_head(panel), zones_count=len(panel.state.zones), partitions_count=len(panel.state.partitions)
    )


def panel_of(panel: Panel) -> t.PanelDetail:
    """Return everything that is known of a panel."""
    state = panel.state
    return t.PanelDetail(
        **_head(panel),
        trouble=state.trouble,
        capabilities=state.capabilities,
        firmware=state.firmware,
        software=state.software,
        protocol=state.protocol,
        encryption_type=state.encryption_type,
        clock=state.clock,
        clock_drift_s=state.clock_drift_s,
        partitions=partitions_of(panel),
        zones=zones_of(panel),
        users={str(number): label for number, label in sorted(state.user_labels.items())},
    )


def learning_of(left_s: float, learnt: Iterable[Learnt]) -> t.Learning:
    """Return whether the gateway learns, and who has called."""
    panels = (
        t.LearntPanel(one.integration_id, one.encryption_type, one.firmware, one.peer, one.at_ms)
        for one in learnt
    )
    return t.Learning(round(left_s, 1), tuple(panels))


def worded(field: str, value: Value[Any] | None) -> Value[Any] | None:
    """Return a partition's value as it is told: modes and methods in words."""
    if value is None:
        return None
    if field == "mode":
        return _with(value, words.mode_words(value.value))
    if field == "changed_by" and isinstance(value.value, ChangedBy):
        by = value.value
        return _with(value, t.ChangedBy(by.user, by.label, words.METHODS.get(by.method, "unknown")))
    return value


def events_of(events: Iterable[PanelEvent]) -> tuple[t.Event, ...]:
    """Return events without the panel's name, which is said once."""
    return tuple(
        t.Event(
            at_ms=event.at_ms,
            kind=event.kind,
            source=event.source,
            partition=event.partition,
            zone=event.zone,
            user=event.user,
            detail=event.detail,
            panel_time=event.panel_time,
            is_approximate=event.is_approximate,
        )
        for event in events
    )


def outcome_of(panel: str, outcome: commands.Outcome) -> t.CommandOutcome:
    """Return how a command ended, with what a read brought."""
    data: Any = outcome.data
    rows: Sequence[Any] = data if isinstance(data, Sequence) and not isinstance(data, str) else ()
    return t.CommandOutcome(
        request_id=outcome.request_id,
        panel=panel,
        result=outcome.result,
        reason=outcome.reason,
        panel_code=outcome.code,
        users=tuple(t.User(**msgspec.structs.asdict(row)) for row in rows if isinstance(row, commands.User)),
        sections=tuple(
            t.SectionContent(row.section.address, row.data.hex())
            for row in rows
            if isinstance(row, commands.SectionContent)
        ),
        answer=data if isinstance(data, str) else "",
    )


def _head(panel: Panel) -> dict[str, Any]:
    return {
        "name": panel.name,
        "integration_id": panel.id,
        "phase": panel.phase,
        "is_connected": panel.session is not None,
        "is_stale": not is_live(panel),
        "diagnosis": panel.diagnosis,
        "connected_since_ms": panel.connected_since_ms,
        "last_heard_ms": panel.last_heard_ms,
    }


def _fields(state: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__struct_fields__}


def _with(value: Value[Any], other: T) -> Value[T]:
    return Value(other, value.since_ms, value.source, value.is_stale)
