"""What a message makes true, and what has to be asked because of it.

A hint sets what it surely says, and no more. Knows nothing of events that notifications are (:mod:`descriptions` does).

Source: itv2-protocol.md sections 9.2, 9.3, 10.6, 10.7; itv2-users-and-history.md section 4, faults 13, 14, 24 and 30.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sojourn.gateways.itv2 import words
from sojourn.gateways.itv2.descriptions import FLAG_FIELDS, KINDS_OF, READY_NAMES
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.messages import (
    AccessCodeUpdated,
    AlarmMemory,
    Arming,
    ArmingMode,
    BypassStatus,
    Collection,
    DateTimeBroadcast,
    DelayFlag,
    EntryDelay,
    ExitDelay,
    Labels,
    LeadPhase,
    PanelTime,
    PartitionFlag,
    PartitionFlag2,
    PartitionStatus,
    ProgrammingLead,
    ProgrammingMode,
    ReadyStatus,
    SoftwareVersion,
    SystemCapabilities,
    TroubleStatus,
    ZoneBypass,
    ZoneFlag,
    ZoneLifestyle,
    ZoneStatus,
)
from sojourn.gateways.itv2.messages import ZoneState as Lifestyle
from sojourn.gateways.itv2.state import (
    ASSUMED_DELAY_MS,
    NIGHT_MODES,
    STAY_MODES,
    Capabilities,
    ChangedBy,
    Origin,
    Scope,
    Status,
    is_armed,
    is_assumed,
    is_busy,
    partitions_of,
)

if TYPE_CHECKING:
    from sojourn.gateways.itv2.tracker import Update

FIRE_PRE_ALERT: Final = 0x01
"""Of the third byte of 0812."""
AFTER_DELAY_MS: Final = 1_000
"""So long after a delay's end the panel is asked what came of it. Section 9.2."""
BROADCAST_ROUNDING_S: Final = 1
"""A panel's clock has whole seconds: a drift that moves by less is no news."""
_ZONE_FLAGS: Final = (
    ("open", ZoneFlag.OPEN),
    ("tamper", ZoneFlag.TAMPER),
    ("fault", ZoneFlag.FAULT),
    ("low_battery", ZoneFlag.LOW_BATTERY),
    ("delinquency", ZoneFlag.DELINQUENCY),
    ("alarm", ZoneFlag.ALARM),
    ("alarm_memory", ZoneFlag.ALARM_MEMORY),
    ("bypassed", ZoneFlag.BYPASSED),
)
_PARTITION_FLAGS_2: Final = (
    ("alarm", PartitionFlag2.ALARM),
    ("trouble", PartitionFlag2.TROUBLE),
    ("bypass", PartitionFlag2.BYPASS),
    ("programming", PartitionFlag2.PROGRAMMING),
    ("alarm_memory", PartitionFlag2.ALARM_MEMORY),
    ("chime", PartitionFlag2.CHIME),
    ("siren", PartitionFlag2.SIREN),
)
_OF_ZONES: Final = frozenset(
    kind for field in ("alarm", "alarm_memory", "trouble", "bypass") for kind in KINDS_OF["partition", field]
)
"""What happens to a partition because of a zone: which one it is, the zones say."""
_BIT_MODES: Final = frozenset(
    {
        ArmingMode.STAY,
        ArmingMode.AWAY,
        ArmingMode.NIGHT,
        ArmingMode.NO_ENTRY_DELAY,
        ArmingMode.STAY_NO_ENTRY_DELAY,
        ArmingMode.AWAY_NO_ENTRY_DELAY,
        ArmingMode.NIGHT_NO_ENTRY_DELAY,
    }
)
"""Modes that the bits of 0812 can say."""


def _zone_lifestyle(update: Update, message: ZoneLifestyle) -> None:
    zone = update.zone(message.zone)
    if zone is None:
        return
    state = update.state
    if message.state in (Lifestyle.OPEN, Lifestyle.RESTORED):
        update.set("zone", message.zone, "open", message.state == Lifestyle.OPEN)
    else:
        update.want("zones")
    # Nobody says that this set off an alarm: ask wherever it may have.
    watching = [
        number
        for number in partitions_of(state, message.zone)
        if is_armed(state.partitions[number]) or is_busy(state.partitions[number])
    ]
    if watching:
        update.want_partitions(watching)


def _exit_delay(update: Update, message: ExitDelay) -> None:
    if update.partition(message.partition) is None:
        return
    _delay(update, message, "exit_delay")


def _entry_delay(update: Update, message: EntryDelay) -> None:
    if update.partition(message.partition) is None:
        return
    _delay(update, message, "entry_delay")


def _delay(update: Update, message: ExitDelay | EntryDelay, field: str) -> None:
    number = message.partition
    is_active = bool(message.flags & DelayFlag.ACTIVE) and message.seconds > 0
    until_ms = update.at_ms + message.seconds * 1_000 if is_active else 0
    update.set("partition", number, field, is_active)
    update.set("partition", number, f"{field}_until_ms", until_ms)
    if not is_active:
        update.want("partition", number, AFTER_DELAY_MS)


def _arming(update: Update, message: Arming) -> None:
    number = message.partition
    partition = update.partition(number)
    if partition is None:
        return
    was_armed = is_armed(partition)
    update.set("partition", number, "mode", message.mode)
    label = update.tracker.user_label(message.user)
    update.set("partition", number, "changed_by", ChangedBy(message.user, label, message.method))
    if message.user and not label:
        update.want("user", message.user)
    if message.mode == ArmingMode.DISARM:
        for field in ("exit_delay", "entry_delay"):
            update.set("partition", number, field, False)
            update.set("partition", number, f"{field}_until_ms", 0)
        update.set("partition", number, "alarm", False, tell=True)
        update.want_partitions([number])
    else:
        if not was_armed:
            # The exit delay is told next, if there is one; "armed" must not flash up before it.
            update.set("partition", number, "exit_delay", True)
            update.set("partition", number, "exit_delay_until_ms", update.at_ms + ASSUMED_DELAY_MS)
        update.want("partition", number)


def _ready_status(update: Update, message: ReadyStatus) -> None:
    partition = update.partition(message.partition)
    if partition is None:
        return
    if (ready := READY_NAMES.get(message.status)) is not None:
        update.set("partition", message.partition, "ready", ready)
    # It does not say "disarmed": an armed partition stays armed until the panel is asked, or says so itself (0232).
    if partition.mode is None or is_armed(partition):
        update.want("partition", message.partition)


def _flag(update: Update, message: AlarmMemory | TroubleStatus | BypassStatus) -> None:
    field = FLAG_FIELDS[type(message)]
    number = message.partition
    if update.partition(number) is not None:
        update.set("partition", number, field, bool(message.flag))
        update.want_partitions([number])
    else:
        # Partition 0 is the whole panel.
        if number == 0 and field == "trouble":
            update.set("panel", 0, "trouble", bool(message.flag))
        update.want_partitions(sorted(update.state.partitions))


def _zone_bypass(update: Update, message: ZoneBypass) -> None:
    if update.zone(message.zone) is None:
        return
    update.set("zone", message.zone, "bypassed", message.is_bypassed)
    for number in partitions_of(update.state, message.zone):
        update.want("partition", number)


def _programming(update: Update, message: ProgrammingLead) -> None:
    number = message.partition
    is_in = message.phase == LeadPhase.IN
    if update.partition(number) is not None:
        update.set("partition", number, "programming", is_in)
        update.want("partition", number)
    _clock(update, message.time)
    if is_in:
        return
    if message.mode == ProgrammingMode.INSTALLER:
        update.want("all")
    elif message.mode == ProgrammingMode.USER_BYPASS:
        update.want("zones")


def _users(update: Update, message: AccessCodeUpdated) -> None:
    for user in update.tracker.user_numbers():
        if message.first <= user <= message.last:
            update.want("user", user)


def _date_time(update: Update, message: DateTimeBroadcast) -> None:
    _clock(update, message.time)


def _clock(update: Update, time: PanelTime) -> None:
    tracker = update.tracker
    drift_s = tracker.drift_s(time, update.at_ms)
    if drift_s is None:
        return
    old = update.state.clock_drift_s
    limit_s = tracker.drift_limit_s
    update.set("panel", 0, "clock", text_of(time))
    if old is not None and not old.is_stale and abs(old.value - drift_s) <= BROADCAST_ROUNDING_S:
        return
    update.set("panel", 0, "clock_drift_s", drift_s)
    was_right = old is None or abs(old.value) <= limit_s
    if was_right != (abs(drift_s) <= limit_s):
        kind = Kind.CLOCK_WRONG if was_right else Kind.CLOCK_RIGHT
        update.happened(kind, "panel", 0, {"drift_s": drift_s})


def text_of(time: PanelTime) -> str:
    """Return a panel's local time as ISO text; one that is no time as it came."""
    return f"{time.year:04}-{time.month:02}-{time.day:02}T{time.hour:02}:{time.minute:02}:{time.second:02}"


def _software(update: Update, message: SoftwareVersion) -> None:
    text = f"{message.major}.{message.minor}.{message.build}.{message.release}"
    update.set("panel", 0, "software", text)


def _capabilities(update: Update, message: SystemCapabilities) -> None:
    update.set(
        "panel",
        0,
        "capabilities",
        Capabilities(
            message.zones, message.users, message.partitions, message.fobs, message.tags, message.outputs
        ),
    )


def _zone_status(update: Update, message: ZoneStatus) -> None:
    for number, status in enumerate(message.statuses, start=message.first):
        if number in update.state.zones:
            for field, flag in _ZONE_FLAGS:
                update.set("zone", number, field, bool(status & flag), tell=True)


def _partition_status(update: Update, message: PartitionStatus) -> None:
    number = message.partition
    # A partition is either ready, not ready or armed: one that is nothing at all is not in use.
    is_there = number in update.state.partitions or any(message.status)
    partition = update.partition(number) if is_there and message.status else None
    if partition is None:
        return
    first = message.status[0]
    is_exit = bool(first & PartitionFlag.EXIT_DELAY)
    old = partition.mode.value if partition.mode is not None else None
    mode = _mode_of(first, old, is_exit=is_exit)
    update.set("partition", number, "mode", mode)
    if (old or ArmingMode.DISARM) != mode and ArmingMode.DISARM in (old or ArmingMode.DISARM, mode):
        update.set("partition", number, "changed_by", ChangedBy(0, "", 0))
        kind = Kind.ARMED if mode != ArmingMode.DISARM else Kind.DISARMED
        update.happened(kind, "partition", number, {"mode": words.mode_words(mode)})
    if not first & PartitionFlag.ARMED and (ready := _ready_of(first)) is not None:
        update.set("partition", number, "ready", ready)
    for field, is_on in (("exit_delay", is_exit), ("entry_delay", bool(first & PartitionFlag.ENTRY_DELAY))):
        until_ms = getattr(partition, f"{field}_until_ms")
        has_told = not is_assumed(partition) if field == "exit_delay" else True
        is_new = update.set("partition", number, field, is_on, tell=has_told)
        if is_new or not is_on or until_ms is None or until_ms.is_stale:
            update.set("partition", number, f"{field}_until_ms", 0)
    if len(message.status) > 1:
        known_count = len(update.events)
        for field, flag in _PARTITION_FLAGS_2:
            update.set("partition", number, field, bool(message.status[1] & flag), tell=True)
        if any(event.kind in _OF_ZONES for event in update.events[known_count:]):
            update.want("zones")
    if len(message.status) > 2:  # noqa: PLR2004 - the third byte
        is_alert = bool(message.status[2] & FIRE_PRE_ALERT)
        update.set("partition", number, "fire_pre_alert", is_alert, tell=True)


def _mode_of(first: int, old: int | None, *, is_exit: bool) -> int:
    """Return the arming mode that a status byte says; where it says less than is known, what is known stays.

    Source: itv2-protocol.md sections 10.7 and 15 point 14b.
    """
    if not first & PartitionFlag.ARMED:
        if not is_exit:
            return ArmingMode.DISARM
        return old or ArmingMode.UNKNOWN
    has_no_entry = bool(first & PartitionFlag.NO_ENTRY_DELAY)
    if first & PartitionFlag.NIGHT:
        mode = ArmingMode.NIGHT_NO_ENTRY_DELAY if has_no_entry else ArmingMode.NIGHT
    elif first & PartitionFlag.STAY:
        mode = ArmingMode.STAY_NO_ENTRY_DELAY if has_no_entry else ArmingMode.STAY
    elif first & PartitionFlag.AWAY:
        mode = ArmingMode.AWAY_NO_ENTRY_DELAY if has_no_entry else ArmingMode.AWAY
    else:
        return old or ArmingMode.UNKNOWN
    # 0232 knows more modes than the bits do: a global away is away as far as the bits go.
    return (
        old if old and old not in _BIT_MODES and _family(old) == _family(mode) and not has_no_entry else mode
    )


def _family(mode: int) -> str:
    if mode in STAY_MODES:
        return Status.ARMED_HOME
    if mode in NIGHT_MODES:
        return Status.ARMED_NIGHT
    return "" if mode == ArmingMode.UNKNOWN else Status.ARMED_AWAY


def _ready_of(first: int) -> str | None:
    if first & PartitionFlag.READY:
        return "ready"
    if first & PartitionFlag.FORCE_READY:
        return "force"
    return "not_ready" if first & PartitionFlag.NOT_READY else None


def _labels(update: Update, message: Labels) -> None:
    for number, label in enumerate(message.labels, start=message.first):
        if message.collection == Collection.USERS:
            if number in update.tracker.user_numbers():
                update.set_user_label(number, label)
                _rename(update, number, label)
        elif message.collection == Collection.ZONES:
            _label(update, "zone", number, label)
        elif message.collection == Collection.PARTITIONS:
            _label(update, "partition", number, label)


def _rename(update: Update, user: int, label: str) -> None:
    """Put the name of a user where it was not known yet."""
    for number, partition in update.state.partitions.items():
        changed_by = partition.changed_by
        if changed_by is not None and changed_by.value.user == user:
            update.set("partition", number, "changed_by", ChangedBy(user, label, changed_by.value.method))


def _label(update: Update, scope: Scope, number: int, label: str) -> None:
    """Set the name of a zone or partition; one that nobody names and that never was there stays away."""
    details = update.tracker.details(scope, number)
    source: Origin | None = None
    if not label and details is not None:
        label, source = details.label, "settings"
    holders: dict[int, Any] = update.state.zones if scope == "zone" else update.state.partitions
    if label:
        # A partition is there if its status says so: panels have names for all of them.
        if number in holders or (scope == "zone" and update.zone(number) is not None):
            update.set(scope, number, "label", label, source=source)
    elif number in holders and holders[number].label is not None:
        update.forget(scope, number)


EFFECTS: Final[dict[type, Callable[[Any, Any], None]]] = {
    ZoneLifestyle: _zone_lifestyle,
    ExitDelay: _exit_delay,
    EntryDelay: _entry_delay,
    Arming: _arming,
    ReadyStatus: _ready_status,
    AlarmMemory: _flag,
    TroubleStatus: _flag,
    BypassStatus: _flag,
    ZoneBypass: _zone_bypass,
    ProgrammingLead: _programming,
    AccessCodeUpdated: _users,
    DateTimeBroadcast: _date_time,
    SoftwareVersion: _software,
    SystemCapabilities: _capabilities,
    ZoneStatus: _zone_status,
    PartitionStatus: _partition_status,
    Labels: _labels,
}
