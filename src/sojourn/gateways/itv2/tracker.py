"""What a message says about a panel: which values change, what happened, and what should be asked next.

Theory of operation. A panel tells little by itself: no message says that there is an alarm, a tamper or a low battery.
It tells *hints* (alarm memory, trouble, bypass, a zone that opens in an armed partition, a ready status in an armed
one). A hint sets what it surely says and adds a :class:`Want`; whoever runs the panel asks for that and brings the
answer to :meth:`Tracker.learn`. A replayed message is an event and nothing else: what it says was overtaken by time.

Pure but for the clock it is handed; knows no session, no timer and nobody who looks.

Source: itv2-protocol.md sections 9.2, 9.3, 10.6, 10.7 and 11; itv2-users-and-history.md section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from sojourn.gateways.itv2.descriptions import DESCRIBE, KINDS_OF
from sojourn.gateways.itv2.effects import AFTER_DELAY_MS, EFFECTS
from sojourn.gateways.itv2.events import Detail, PanelEvent, Source
from sojourn.gateways.itv2.hub_config import PanelProfile, PartitionDetails, ZoneDetails
from sojourn.gateways.itv2.messages import AlarmMemory, DelayFlag, EntryDelay, Message, PanelTime
from sojourn.gateways.itv2.state import (
    Change,
    Origin,
    PanelState,
    PartitionState,
    Scope,
    Value,
    ZoneState,
    alarm_zones_of,
    is_assumed,
    is_on,
    partitions_of,
    status_of,
)

ZONES_MOST: Final = 255
PARTITIONS_MOST: Final = 32
USERS_MOST: Final = 1_000
"""What a number may be while the panel has not told how many it has; a higher one makes an event but no state."""


class Want(NamedTuple):
    """Something to ask: ``partition`` or ``user`` and its number, or ``zones``, ``users``, ``statuses``, ``all``."""

    what: str
    number: int = 0
    after_ms: int = 0


class Taken(msgspec.Struct):
    """What one message brought."""

    changes: list[Change]
    events: list[PanelEvent]
    wants: list[Want]
    is_configuration: bool = False
    """Zones or partitions appeared, vanished or have other names."""


class Tracker:
    """Keeps one panel's state. Life: its panel's. Always true: only what is newer than the state changes it."""

    __slots__ = ("_details", "_drift_limit_s", "_settings", "_time_zone", "state")

    def __init__(self, settings: PanelProfile, state: PanelState, *, drift_limit_s: float) -> None:
        self._drift_limit_s = drift_limit_s
        self.state = state
        self.use(settings)

    def use(self, settings: PanelProfile) -> None:
        """Take other settings of the panel."""
        self._settings = settings
        self._details: dict[str, dict[int, ZoneDetails | PartitionDetails]] = {
            "zone": {one.number: one for one in settings.zone_details},
            "partition": {one.number: one for one in settings.partition_details},
        }
        self._time_zone = ZoneInfo(settings.time_zone) if settings.time_zone else None

    @property
    def name(self) -> str:
        """The panel's name."""
        return self._settings.name

    def details(self, scope: Scope, number: int) -> ZoneDetails | PartitionDetails | None:
        """Return what the settings say of a zone or partition."""
        return self._details[scope].get(number)

    # How much there may be

    def zone_numbers(self) -> range | tuple[int, ...]:
        """Return the numbers that zones have; as many as can be while the panel has not told."""
        return self._settings.zones or self._numbers("zones", ZONES_MOST)

    def partition_numbers(self) -> range | tuple[int, ...]:
        """Return the numbers that partitions have; as many as can be while the panel has not told."""
        return self._settings.partitions or self._numbers("partitions", PARTITIONS_MOST)

    def user_numbers(self) -> range:
        """Return the numbers that users have."""
        return self._numbers("users", USERS_MOST)

    def _numbers(self, field: str, most: int) -> range:
        capabilities = self.state.capabilities
        told = getattr(capabilities.value, field) if capabilities else 0
        return range(1, min(told or most, most) + 1)

    # What comes in

    def notified(self, message: Message, at_ms: int, panel_time: str | None = None) -> Taken:
        """Take what the panel says by itself, now."""
        update = Update(self, at_ms, "live")
        self._describe(update, message, panel_time)
        update.take(message)
        return update.settled()

    def replayed(self, message: Message, at_ms: int, panel_time: str | None = None) -> Taken:
        """Take what the panel wanted to say in an outage: it happened, that is all."""
        update = Update(self, at_ms, "replay")
        self._describe(update, message, panel_time)
        return Taken([], update.events, [])

    def alarm_hints(self, message: Message) -> tuple[int, ...]:
        """Return the partitions in which there may be an alarm if what a message says still holds.

        Source: itv2-protocol.md section 9.2: entry delay and alarm memory are all that is told of an alarm.
        """
        match message:
            case EntryDelay(partition=number, flags=flags) if flags & DelayFlag.ACTIVE:
                pass
            case AlarmMemory(partition=number, flag=flag) if flag:
                pass
            case _:
                return ()
        if number == 0:  # the whole panel
            return tuple(self.state.partitions)
        return (number,) if number in self.partition_numbers() else ()

    def learn(self, message: Message, at_ms: int) -> Taken:
        """Take an answer to a question of ours."""
        update = Update(self, at_ms, "pull")
        update.take(message)
        return update.settled()

    def change(self, at_ms: int, source: Source, work: Callable[[Update], None]) -> Taken:
        """Let ``work`` set what nobody sent: the end of a delay, what programming said, what vanished."""
        update = Update(self, at_ms, source)
        work(update)
        return update.settled()

    def _describe(self, update: Update, message: Message, panel_time: str | None) -> None:
        describe = DESCRIBE.get(type(message))
        if describe is not None:
            for kind, scope, number, detail in describe(message):
                update.happened(kind, scope, number, detail, panel_time)

    def label_of(self, scope: Scope, number: int) -> str:
        """Return the name of a zone or partition, empty where there is none."""
        holder = (self.state.zones if scope == "zone" else self.state.partitions).get(number)
        return holder.label.value if holder is not None and holder.label else ""

    def user_label(self, user: int) -> str:
        """Return the name of a user, empty where there is none."""
        label = self.state.user_labels.get(user)
        return label.value if label else ""

    def drift_s(self, time: PanelTime, at_ms: int) -> int | None:
        """Return by how many seconds the panel's clock is ahead of this host's; None for a time that is none."""
        try:
            theirs = datetime(*time)  # noqa: DTZ001 - a panel's time has no zone
        except ValueError:
            return None
        ours = datetime.fromtimestamp(at_ms / 1_000, UTC).astimezone(self._time_zone).replace(tzinfo=None)
        return round((theirs - ours) / timedelta(seconds=1))

    @property
    def drift_limit_s(self) -> float:
        """How far off a panel's clock may be."""
        return self._drift_limit_s

    # What nobody sends

    def delay_ended(self, partition: int, field: str, at_ms: int) -> Taken:
        """Note that a delay's time is over by our own clock; ask the panel a little later what came of it.

        An exit delay is over then. An entry delay is what the panel says: it may be an alarm now.
        """

        def end(update: Update) -> None:
            found = self.state.partitions.get(partition)
            if found is None:
                return
            if field == "exit_delay":
                update.set("partition", partition, field, False, tell=not is_assumed(found))
                update.set("partition", partition, "exit_delay_until_ms", 0)
            update.want("partition", partition, AFTER_DELAY_MS)

        return self.change(at_ms, "live", end)


class Update:
    """One change of the state in the making: equal values of one moment are one object."""

    __slots__ = ("_touched", "_values", "at_ms", "changes", "events", "source", "taken", "tracker", "wants")

    def __init__(self, tracker: Tracker, at_ms: int, source: Source) -> None:
        self.tracker = tracker
        self.at_ms = at_ms
        self.source = source
        self.changes: list[Change] = []
        self.events: list[PanelEvent] = []
        self.wants: list[Want] = []
        self.taken = Taken(self.changes, self.events, self.wants)
        self._touched: set[int] = set()
        self._values: dict[tuple[type, Any, int, str], Value[Any]] = {}

    @property
    def state(self) -> PanelState:
        """The state that is changed."""
        return self.tracker.state

    def take(self, message: Message) -> None:
        """Make true what a message says, if it says anything."""
        if (effect := EFFECTS.get(type(message))) is not None:
            effect(self, message)

    # Who there is

    def zone(self, number: int) -> ZoneState | None:
        """Return a zone, made where it is new; None for a number that cannot be one."""
        zones = self.state.zones
        if number not in zones:
            if number not in self.tracker.zone_numbers():
                return None
            zones[number] = ZoneState()
            self.taken.is_configuration = True
            self.use_details("zone", number)
        return zones[number]

    def partition(self, number: int) -> PartitionState | None:
        """Return a partition, made where it is new; None for a number that cannot be one."""
        partitions = self.state.partitions
        if number not in partitions:
            if number not in self.tracker.partition_numbers():
                return None
            partitions[number] = PartitionState()
            self.taken.is_configuration = True
            self.use_details("partition", number)
        return partitions[number]

    def forget(self, scope: Scope, number: int) -> None:
        """Take a zone or a partition away that the panel does not have any more."""
        holders: dict[int, Any] = self.state.zones if scope == "zone" else self.state.partitions
        if holders.pop(number, None) is not None:
            self.taken.is_configuration = True
            self.changes.append(Change(self.name, scope, number, "", None))

    @property
    def name(self) -> str:
        """The panel's name."""
        return self.tracker.name

    # What is so

    def set(
        self,
        scope: Scope,
        number: int,
        field: str,
        value: Any,
        *,
        tell: bool = False,
        source: Origin | None = None,
    ) -> bool:
        """Set a value; say whether it was another before. ``tell``: that is an event, too."""
        holder: Any = self.state
        if scope == "zone":
            holder = self.state.zones[number]
        elif scope == "partition":
            holder = self.state.partitions[number]
            if field != "label":
                self._touched.add(number)
        old: Value[Any] | None = getattr(holder, field)
        is_same = old is not None and old.value == value
        if old is not None and is_same and not old.is_stale:
            return False
        since_ms = old.since_ms if old is not None and is_same else self.at_ms
        new = self._value(value, since_ms, source or self.source)
        setattr(holder, field, new)
        self.changes.append(Change(self.name, scope, number, field, new))
        if is_same:
            return False
        if tell and (kinds := KINDS_OF.get((scope, field))) and (value or old is not None):
            self.happened(kinds[0] if value else kinds[1], scope, number, {})
        return True

    def set_all(self, values: dict[str, Any]) -> None:
        """Set values of the panel itself."""
        for field, value in values.items():
            self.set("panel", 0, field, value)

    def set_user_label(self, user: int, label: str) -> None:
        """Set the name of a user."""
        old = self.state.user_labels.get(user)
        if not label:
            if self.state.user_labels.pop(user, None) is not None:
                self.changes.append(Change(self.name, "user", user, "", None))
            return
        if old is None or old.value != label or old.is_stale:
            since_ms = old.since_ms if old is not None and old.value == label else self.at_ms
            value = self._value(label, since_ms, self.source)
            self.state.user_labels[user] = value
            self.changes.append(Change(self.name, "user", user, "label", value))

    def use_details(self, scope: Scope, number: int) -> None:
        """Set what the settings say of a zone or partition that is there; the panel's own name goes first."""
        details = self.tracker.details(scope, number)
        if details is None:
            return
        holder: Any = (self.state.zones if scope == "zone" else self.state.partitions)[number]
        if isinstance(details, ZoneDetails) and details.partitions:
            self.set("zone", number, "partitions", details.partitions, source="settings")
        if details.label and (holder.label is None or holder.label.source == "settings"):
            self.set(scope, number, "label", details.label, source="settings")

    def use_all_details(self) -> None:
        """Set what the settings say of everything that is there, and forget what they say no more."""
        holders: dict[Scope, dict[int, Any]] = {"zone": self.state.zones, "partition": self.state.partitions}
        for scope, there in holders.items():
            for number, holder in there.items():
                details = self.tracker.details(scope, number)
                for field in ("label", "partitions"):
                    value = getattr(holder, field, None)
                    is_ours = value is not None and value.source == "settings"
                    if is_ours and not getattr(details, field, None):
                        setattr(holder, field, None)
                        self.changes.append(Change(self.name, scope, number, field, None))
                self.use_details(scope, number)

    def _value(self, value: Any, since_ms: int, source: Origin) -> Value[Any]:
        key = (type(value), value, since_ms, source)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = Value(value, since_ms, source)
        return found

    # What happened, and what to ask

    def happened(
        self, kind: str, scope: str, number: int, detail: Detail, panel_time: str | None = None
    ) -> None:
        """Note an event, with the names that things have now."""
        tracker = self.tracker
        zone = number if scope == "zone" else None
        partition = number if scope == "partition" else None
        user = detail.pop("user", None)
        if zone is not None:
            detail["zone_label"] = tracker.label_of("zone", zone)
            partition = _only(partitions_of(self.state, zone))
        if partition is not None:
            detail["partition_label"] = tracker.label_of("partition", partition)
        if isinstance(user, int) and user:
            detail["user_label"] = tracker.user_label(user)
        self.events.append(
            PanelEvent(
                panel=self.name,
                at_ms=self.at_ms,
                source=self.source,
                kind=kind,
                partition=partition,
                zone=zone,
                user=user if isinstance(user, int) and user else None,
                detail=detail,
                panel_time=panel_time,
                is_approximate=self.source != "live",
            )
        )

    def want(self, what: str, number: int = 0, after_ms: int = 0) -> None:
        """Ask the panel soon."""
        self.wants.append(Want(what, number, after_ms))

    def want_partitions(self, numbers: Iterable[int]) -> None:
        """Ask for the status of partitions, then for the zones'."""
        for number in numbers:
            self.want("partition", number)
        self.want("zones")

    # The end

    def settled(self) -> Taken:
        """Compute what follows from what was set."""
        state = self.state
        zones_changed = any(
            change.scope == "zone" and change.field in {"alarm", "alarm_memory"} for change in self.changes
        )
        for number in sorted(state.partitions if zones_changed else self._touched & state.partitions.keys()):
            partition = state.partitions[number]
            self.set("partition", number, "status", status_of(partition))
            self.set("partition", number, "alarm_zones", alarm_zones_of(state, number, partition))
        if any(change.scope == "partition" and change.field in {"trouble", ""} for change in self.changes):
            self.set("panel", 0, "trouble", any(is_on(one.trouble) for one in state.partitions.values()))
        self.taken.is_configuration = self.taken.is_configuration or any(
            change.field in {"label", "definition", "partitions", "is_enabled"} and change.scope != "user"
            for change in self.changes
        )
        return self.taken


def _only(numbers: list[int]) -> int | None:
    return numbers[0] if len(numbers) == 1 else None
