"""What is wrong with a panel now, in words, and what to do about it: for the page of operators and for their overview.

Looks at states only. Why a connection fails is the doctor's (:mod:`doctor`), whose sentence is handed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from sojourn.core.panel import Trouble
from sojourn.gateways.itv2 import words
from sojourn.gateways.itv2.state import Value, ZoneState, is_on

if TYPE_CHECKING:
    from sojourn.gateways.itv2.gateway import Itv2Gateway
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.gateways.itv2.state import PartitionState

LINK: Final = "#/gateways/itv2"
TOLD_COUNT: Final = 3
"""So many panels have a line of their own in the overview; of more there is one line with as many names."""

Topic = Literal["connection", "alarm", "trouble", "order"]

_AWAY: Final = "It dials again by itself; if it stays away, look at its power and at its network."
_ZONE_ADVICE: Final = {
    "tamper": ("Tampered with", "Look at the sensor: its box is open, or its wire is cut."),
    "fault": ("Faulty", "Look at the sensor and its wiring; a wireless one may be out of reach."),
    "low_battery": ("Low battery", "Change the batteries, then close the sensor's box."),
    "delinquency": ("Not used for long", "Open and close it once; if that shows nothing here, look at the sensor."),
}  # fmt: skip


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong: what it is, and what to do. ``since_ms`` is unix time, 0 = unknown."""

    severity: Literal["error", "warning"]
    topic: Topic
    text: str
    advice: str
    since_ms: int = 0


def findings_of(panel: Panel, asker: str) -> tuple[Finding, ...]:
    """Return what is wrong with a panel, the gravest first; ``asker``: whose wrong codes count."""
    found = [*_alarms(panel), *_connection(panel), *_zones(panel), *_troubles(panel), *_orders(panel, asker)]
    return tuple(sorted(found, key=lambda one: one.severity != "error"))


def zone_name(number: int, zone: ZoneState | None) -> str:
    """Return what people call a zone."""
    label = zone.label.value if zone is not None and zone.label is not None else ""
    return label or f"zone {number}"


def partition_name(number: int, partition: PartitionState) -> str:
    """Return what people call a partition."""
    label = partition.label.value if partition.label is not None else ""
    return label or f"Partition {number}"


def is_in_alarm(panel: Panel) -> bool:
    """Say whether one of its partitions is in alarm, as far as is known."""
    return any(is_on(one.alarm) or is_on(one.fire_pre_alert) for one in panel.state.partitions.values())


def has_trouble(panel: Panel) -> bool:
    """Say whether the panel tells of trouble, as far as is known."""
    return is_on(panel.state.trouble) or any(is_on(one.trouble) for one in panel.state.partitions.values())


def _connection(panel: Panel) -> Iterator[Finding]:
    stale = panel.state.is_stale
    since_ms = stale.since_ms if stale is not None else 0
    if panel.session is None:
        yield Finding(
            severity="error",
            topic="connection",
            text="Not connected: what is shown was so when it was last heard",
            advice=panel.diagnosis or _AWAY,
            since_ms=since_ms,
        )
        return
    if panel.diagnosis:
        yield Finding(
            severity="warning", topic="connection", text="A second connection failed", advice=panel.diagnosis
        )
    if panel.phase == "connected" and is_on(stale):
        yield Finding(
            severity="warning",
            topic="connection",
            text="Not everything could be read: what is marked as uncertain may be otherwise",
            advice="It is asked for again by itself; Read anew does so now.",
            since_ms=since_ms,
        )


def _alarms(panel: Panel) -> Iterator[Finding]:
    state = panel.state
    for number, partition in sorted(state.partitions.items()):
        name = partition_name(number, partition)
        zones = partition.alarm_zones.value if partition.alarm_zones is not None else ()
        listed = ", ".join(zone_name(zone, state.zones.get(zone)) for zone in zones)
        where = f"{name}: {listed}" if listed else name
        if partition.alarm is not None and partition.alarm.value:
            yield Finding(
                severity="error",
                topic="alarm",
                text=f"Alarm in {where}",
                advice="See to it; disarming ends the alarm and its siren.",
                since_ms=partition.alarm.since_ms,
            )
        elif partition.alarm_memory is not None and partition.alarm_memory.value:
            yield Finding(
                severity="warning",
                topic="alarm",
                text=f"There was an alarm in {where}",
                advice="The panel forgets it when it is armed the next time.",
                since_ms=partition.alarm_memory.since_ms,
            )
        if partition.fire_pre_alert is not None and partition.fire_pre_alert.value:
            yield Finding(
                severity="error",
                topic="alarm",
                text=f"Fire pre-alert in {name}",
                advice="See to it: it becomes a fire alarm unless somebody acknowledges it at a keypad.",
                since_ms=partition.fire_pre_alert.since_ms,
            )


def _zones(panel: Panel) -> Iterator[Finding]:
    for field, (text, advice) in _ZONE_ADVICE.items():
        found = {
            zone_name(number, zone): value.since_ms
            for number, zone in sorted(panel.state.zones.items())
            if (value := getattr(zone, field)) is not None and value.value
        }
        if found:
            yield Finding(
                severity="warning",
                topic="trouble",
                text=f"{text}: {', '.join(found)}",
                advice=advice,
                since_ms=min(found.values()),
            )


def _troubles(panel: Panel) -> Iterator[Finding]:
    state = panel.state
    named: list[tuple[str, Value[bool] | None]] = [
        (partition_name(number, partition), partition.trouble)
        for number, partition in sorted(state.partitions.items())
    ]
    if not any(is_on(value) for _, value in named):
        named = [("The panel", state.trouble)]
    for name, value in named:
        if value is not None and value.value:
            yield Finding(
                severity="warning",
                topic="trouble",
                text=f"{name} tells of trouble",
                advice="[*][2] at a keypad lists what it is; panels do not say it over this protocol.",
                since_ms=value.since_ms,
            )
    drift = state.clock_drift_s
    if drift is not None and abs(drift.value) > panel.hub_settings.clock_drift_s:
        yield Finding(
            severity="warning",
            topic="trouble",
            text=f"Its clock is {timedelta(seconds=abs(drift.value))} {'ahead' if drift.value > 0 else 'behind'}",
            advice="Set the clock at a keypad: no public layout exists for doing it from here.",
            since_ms=drift.since_ms,
        )


def _orders(panel: Panel, asker: str) -> Iterator[Finding]:
    """Yield why an order would be refused now."""
    for number, partition in sorted(panel.state.partitions.items()):
        name = partition_name(number, partition)
        seconds = panel.lockout.locked_for_s(number, asker)
        if seconds:
            yield Finding(
                severity="warning",
                topic="order",
                text=f"No access codes are sent to {name} for {seconds} s: too many were wrong",
                advice="Wait: more wrong codes would lock the panel's own keypads.",
            )
        programming = partition.programming
        if programming is not None and programming.value:
            access = words.ACCESS.get(panel.programming_access.get(number, -1), "somebody")
            yield Finding(
                severity="warning",
                topic="order",
                text=f"{name} is being programmed by {access}: it cannot be armed",
                advice="Wait until that has ended.",
                since_ms=programming.since_ms,
            )


# The overview


class _Line(NamedTuple):
    panel: str
    text: str
    since_ms: int


def troubles_of(gateway: Itv2Gateway) -> Iterator[Trouble]:
    """Yield what operators should see first: alarms, panels that are away or in trouble, the history, the broker."""
    alarms, away, troubles = [], [], []
    for _, panel in sorted(gateway.hub.panels.items()):
        if is_in_alarm(panel):
            alarms += [
                _Line(panel.name, f"{panel.name}: {one.text}", one.since_ms)
                for one in _alarms(panel)
                if one.severity == "error"
            ]
        if panel.session is None:
            stale = panel.state.is_stale
            since_ms = 0 if stale is None else stale.since_ms
            away.append(_Line(panel.name, f"Panel {panel.name} is not connected", since_ms))
        elif has_trouble(panel):
            found = [*_zones(panel), *_troubles(panel)]
            text = f"{panel.name}: {'; '.join(one.text for one in found)}"
            troubles.append(_Line(panel.name, text, min(one.since_ms for one in found)))
    yield from _told(gateway, "error", alarms, "panels are in alarm")
    yield from _told(gateway, "error", away, "panels are not connected")
    yield from _told(gateway, "warning", troubles, "panels tell of trouble")
    yield from _of_parts(gateway)


def _told(
    gateway: Itv2Gateway, severity: Literal["error", "warning"], lines: Sequence[_Line], what: str
) -> Iterator[Trouble]:
    names = tuple(dict.fromkeys(line.panel for line in lines))
    if len(names) > TOLD_COUNT:
        more = f"{', '.join(names[:TOLD_COUNT])} and {len(names) - TOLD_COUNT} more"
        first_ms = min(line.since_ms for line in lines)
        lines = (_Line("", f"{len(names)} {what}: {more}", first_ms),)
    for line in lines:
        yield Trouble(severity, line.text, _since(gateway, line.since_ms), LINK)


def _since(gateway: Itv2Gateway, unix_ms: int) -> float:
    """Return a moment on the server's clock; 0 for one that is unknown."""
    return gateway.server.clock() - (gateway.wall_ms() - unix_ms) / 1_000 if unix_ms else 0.0


def _of_parts(gateway: Itv2Gateway) -> Iterable[Trouble]:
    history, mqtt = gateway.history, gateway.mqtt
    if history is not None and history.is_degraded:
        waiting = history.snapshot().waiting_count
        text = f"The history cannot be written: {history.trouble}; {waiting} events wait in memory"
        yield Trouble("error", text, link=LINK)
    if mqtt is not None and not mqtt.is_connected:
        text = f"The MQTT broker is not reached; {mqtt.waiting_count} messages wait for it"
        yield Trouble("warning", text, link=LINK)
