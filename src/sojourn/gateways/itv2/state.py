"""What is known of a panel, value by value: since when, by what means, and whether it may have changed unseen.

Pure values. What a message changes is in :mod:`tracker`; who is told is in :mod:`panels`.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from sojourn.gateways.itv2.events import Source
from sojourn.gateways.itv2.messages import ArmingMode

T = TypeVar("T")
Origin = Source | Literal["settings"]
"""How a value became known; ``settings``: the operator says so, as the panel does not."""
Scope = Literal["zone", "partition", "user", "panel"]

STATE_FORMAT: Final = b"panel state 1\n"
"""What stored bytes begin with; others are not read, the panel is asked anew."""
STORED_BYTES: Final = 4_194_304
"""Largest state that is read back: 255 zones and 1,000 users need 300 KB."""


class Value(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One value.

    ``since_ms``: unix ms of when we first heard that it has this value. ``is_stale``: the panel was out of sight since.
    """

    value: T
    since_ms: int
    source: Origin = "live"
    is_stale: bool = False


class ChangedBy(msgspec.Struct, frozen=True, gc=False):
    """Who armed or disarmed; user 0 = nobody known, ``method`` is one of ``ArmingMethod``."""

    user: int
    label: str
    method: int


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """How much the panel has of each."""

    zones: int
    users: int
    partitions: int
    fobs: int
    tags: int
    outputs: int


class ZoneState(msgspec.Struct, gc=False):
    """One zone; None is what nobody has told yet. ``partitions`` is known only where programming was read."""

    label: Value[str] | None = None
    definition: Value[int] | None = None
    partitions: Value[tuple[int, ...]] | None = None
    open: Value[bool] | None = None
    tamper: Value[bool] | None = None
    fault: Value[bool] | None = None
    low_battery: Value[bool] | None = None
    delinquency: Value[bool] | None = None
    alarm: Value[bool] | None = None
    alarm_memory: Value[bool] | None = None
    bypassed: Value[bool] | None = None


class PartitionState(msgspec.Struct, gc=False):
    """One partition; None is what nobody has told yet.

    ``status`` is one of :class:`Status`, computed from the others. ``mode`` is one of ``ArmingMode``, 0 = disarmed.
    ``ready`` is ``"ready"``, ``"force"`` or ``"not_ready"``; a panel does not tell while it is armed. The delays' ends
    (unix ms) are 0 where there is no delay or nobody said how long it is. ``alarm_zones``: the zones behind ``alarm``
    or ``alarm_memory``. ``is_enabled`` is known only where programming was read.
    """

    label: Value[str] | None = None
    is_enabled: Value[bool] | None = None
    status: Value[str] | None = None
    mode: Value[int] | None = None
    ready: Value[str] | None = None
    exit_delay: Value[bool] | None = None
    exit_delay_until_ms: Value[int] | None = None
    entry_delay: Value[bool] | None = None
    entry_delay_until_ms: Value[int] | None = None
    alarm: Value[bool] | None = None
    alarm_memory: Value[bool] | None = None
    alarm_zones: Value[tuple[int, ...]] | None = None
    trouble: Value[bool] | None = None
    bypass: Value[bool] | None = None
    programming: Value[bool] | None = None
    chime: Value[bool] | None = None
    siren: Value[bool] | None = None
    fire_pre_alert: Value[bool] | None = None
    changed_by: Value[ChangedBy] | None = None


class PanelState(msgspec.Struct):
    """Everything known of one panel.

    ``is_stale``: true from the loss of the connection to the end of the next full pull. ``clock`` is the panel's local
    time as ISO text, ``clock_drift_s`` by how much it is ahead of this host's. ``firmware`` is the communicator's.
    """

    zones: dict[int, ZoneState] = msgspec.field(default_factory=dict)
    partitions: dict[int, PartitionState] = msgspec.field(default_factory=dict)
    user_labels: dict[int, Value[str]] = msgspec.field(default_factory=dict)
    is_stale: Value[bool] | None = None
    trouble: Value[bool] | None = None
    capabilities: Value[Capabilities] | None = None
    firmware: Value[str] | None = None
    software: Value[str] | None = None
    protocol: Value[str] | None = None
    encryption_type: Value[int] | None = None
    clock: Value[str] | None = None
    clock_drift_s: Value[int] | None = None


class Change(msgspec.Struct, frozen=True, gc=False):
    """One value that is new, or known anew after being stale; ``number`` is 0 for the panel itself.

    A zone or partition that is gone is one change without a field and without a value.
    """

    panel: str
    scope: Scope
    number: int
    field: str
    value: Value[Any] | None


class Status:
    """What a partition is doing, in NeoHub's words."""

    UNKNOWN = "unknown"
    DISARMED = "disarmed"
    ARMING = "arming"
    ARMED_AWAY = "armed_away"
    ARMED_HOME = "armed_home"
    ARMED_NIGHT = "armed_night"
    PENDING = "pending"
    TRIGGERED = "triggered"


ASSUMED_DELAY_MS: Final = 2_000
"""An arming that no exit delay follows within this had none."""
STAY_MODES: Final = frozenset(
    {
        ArmingMode.STAY,
        ArmingMode.STAY_NO_ENTRY_DELAY,
        ArmingMode.GLOBAL_STAY,
        ArmingMode.INSTANT_STAY,
    }
)
NIGHT_MODES: Final = frozenset({ArmingMode.NIGHT, ArmingMode.NIGHT_NO_ENTRY_DELAY})


def status_of(partition: PartitionState) -> str:
    """Return what a partition is doing; the gravest that holds."""
    if is_on(partition.alarm):
        return Status.TRIGGERED
    if is_on(partition.entry_delay):
        return Status.PENDING
    if is_on(partition.exit_delay):
        return Status.ARMING
    mode = partition.mode
    if mode is None:
        return Status.UNKNOWN
    if mode.value == ArmingMode.DISARM:
        return Status.DISARMED
    if mode.value in STAY_MODES:
        return Status.ARMED_HOME
    return Status.ARMED_NIGHT if mode.value in NIGHT_MODES else Status.ARMED_AWAY


def is_busy(partition: PartitionState) -> bool:
    """Say whether something goes on that the panel does not report the end of."""
    return any(map(is_on, (partition.alarm, partition.siren, partition.exit_delay, partition.entry_delay)))


def is_armed(partition: PartitionState) -> bool:
    """Say whether a partition is armed, or about to be."""
    mode = partition.mode
    return (mode is not None and mode.value != ArmingMode.DISARM) or is_on(partition.exit_delay)


def is_assumed(partition: PartitionState) -> bool:
    """Say whether the exit delay was only expected, because somebody armed."""
    delay, until_ms = partition.exit_delay, partition.exit_delay_until_ms
    if delay is None or until_ms is None or not delay.value:
        return False
    return until_ms.value == delay.since_ms + ASSUMED_DELAY_MS


def is_on(value: Value[bool] | None) -> bool:
    """Say whether something is known to be so, stale or not."""
    return value is not None and value.value


def partitions_of(state: PanelState, zone: int) -> list[int]:
    """Return the partitions that a zone is in, or may be in where programming was not read."""
    found = state.zones.get(zone)
    if found is not None and found.partitions is not None:
        return [number for number in found.partitions.value if number in state.partitions]
    return sorted(state.partitions)


def alarm_zones_of(state: PanelState, number: int, partition: PartitionState) -> tuple[int, ...]:
    """Return the zones behind a partition's alarm, or its alarm memory."""
    if not is_on(partition.alarm) and not is_on(partition.alarm_memory):
        return ()
    return tuple(
        zone
        for zone, found in sorted(state.zones.items())
        if (is_on(found.alarm) or is_on(found.alarm_memory)) and number in partitions_of(state, zone)
    )


def make_stale(state: PanelState) -> None:
    """Mark everything as perhaps changed unseen; what is equal stays one object."""
    # The type is part of the key: True and 1 are equal, and a mode is no flag.
    known: dict[tuple[type, Value[Any]], Value[Any]] = {}

    def stale(value: Value[Any]) -> Value[Any]:
        key = (type(value.value), value)
        if key not in known:
            known[key] = Value(value.value, value.since_ms, value.source, is_stale=True)
        return known[key]

    for holder in (*state.zones.values(), *state.partitions.values(), state):
        for field in holder.__struct_fields__:
            value = getattr(holder, field)
            # What the settings say is as true as before.
            if isinstance(value, Value) and field != "is_stale" and value.source != "settings":
                setattr(holder, field, stale(value))
    state.user_labels = {user: stale(label) for user, label in state.user_labels.items()}


def to_bytes(state: PanelState) -> bytes:
    """Return a state as it is stored for the next start; what repeats in it costs nothing."""
    return STATE_FORMAT + zlib.compress(_ENCODER.encode(state), level=1)


def from_bytes(data: bytes) -> PanelState | None:
    """Return a stored state, stale; None for bytes that are none of ours or have another format."""
    if not data.startswith(STATE_FORMAT):
        return None
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(data[len(STATE_FORMAT) :], STORED_BYTES)
        state = _DECODER.decode(plain) if unpacker.eof else None
    except (zlib.error, msgspec.MsgspecError):
        return None
    if state is not None:
        make_stale(state)
    return state


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(PanelState)
