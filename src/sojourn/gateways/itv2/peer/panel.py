"""The life of a simulated panel: sensors move, people arm and disarm, delays run, alarms sound.

Everything that a real panel would notify is given to ``emit``, in the order of a real panel. Time passes only when
:meth:`PanelModel.pass_time` is called. Knows no bytes and no connection.

Source: itv2-protocol.md sections 9.2 and 13.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sojourn.core.clock import Clock
from sojourn.gateways.itv2.messages import (
    AccessCodeUpdated,
    AlarmMemory,
    Arming,
    ArmingMethod,
    ArmingMode,
    BypassStatus,
    DateTimeBroadcast,
    DelayFlag,
    EntryDelay,
    ExitDelay,
    LeadPhase,
    Message,
    MultipleMessages,
    PanelTime,
    ProgrammingLead,
    ProgrammingMode,
    Ready,
    ReadyStatus,
    ResponseCode,
    TroubleStatus,
    ZoneBypass,
    ZoneLifestyle,
    ZoneState,
)
from sojourn.gateways.itv2.peer.programme import (
    AROUND_THE_CLOCK,
    AWAY_ONLY,
    DELAY,
    INSTANT,
    INTERIOR,
    PanelProgramme,
    UserProgramme,
)
from sojourn.gateways.itv2.peer.zones import (
    INSTANT_MODES,
    NEVER,
    NIGHT_MODES,
    STAY_MODES,
    Partition,
    User,
    Zone,
)

COMBINED_SHARE: Final = 0.5
"""How often two messages that arise together come in one 0623."""
MAY_BYPASS: Final = 0x04
MASTER: Final = 1
INSTALLER: Final = 0
"""A user number that nobody has."""


class Programming(NamedTuple):
    """Who is in programming, where, and until when."""

    partition: int
    mode: int
    is_writing: bool
    user: int
    ends_s: float


class PanelModel:
    """A panel as its house knows it.

    Always true: what a notification said is what a status request finds, until the next one.

    Args:
        emit: takes each notification.
        clock: the panel's seconds.
        panel_time: what the panel's keypads show.
        chance: decides what is left open.
        speed: how many of the panel's seconds pass in one; what it tells of delays is true for who listens.
    """

    def __init__(
        self,
        programme: PanelProgramme,
        emit: Callable[[Message], None],
        *,
        clock: Clock,
        panel_time: Callable[[], PanelTime],
        chance: random.Random,
        speed: float = 1.0,
    ) -> None:
        self.programme = programme
        self.zones = {number: Zone(number, zone) for number, zone in enumerate(programme.zones, 1)}
        self.partitions = {
            number: Partition(number, label) for number, label in enumerate(programme.partitions, 1)
        }
        self.users = {number: User(number, user) for number, user in enumerate(programme.users, 1)}
        self.installer_code = programme.installer_code
        self.has_power = True
        self.reporting: dict[int, int] = {}
        self.programming: Programming | None = None
        self._emit = emit
        self._clock = clock
        self._panel_time = panel_time
        self._chance = chance
        self._speed = speed
        self._wrong_codes_count = 0
        self._locked_until_s = -NEVER
        self._broadcast_s = clock() + programme.clock_every_s

    # Sensors

    def open_zone(self, number: int) -> None:
        """Open a zone; what it violates follows. Raises: KeyError."""
        zone = self.zones[number]
        if zone.is_open:
            return
        zone.is_open = True
        self._tell_zone(zone, ZoneState.OPEN)
        for partition in self._partitions_of(zone):
            self._violate(partition, zone)

    def restore_zone(self, number: int) -> None:
        """Close a zone. Raises: KeyError."""
        zone = self.zones[number]
        if zone.is_open:
            zone.is_open = False
            self._tell_zone(zone, ZoneState.RESTORED)

    def _tell_zone(self, zone: Zone, state: int) -> None:
        """Say first what it means for arming, then what it was: so do real panels."""
        batch: list[Message] = list(self._changed_readiness())
        batch.append(ZoneLifestyle(zone=zone.number, state=state))
        self._tell(batch)

    def set_tamper(self, number: int, *, has_tamper: bool) -> None:
        """Open or close the box of a zone's sensor; nothing live tells the zone. Raises: KeyError."""
        self.zones[number].has_tamper = has_tamper
        self._tell([*self._changed_troubles(), *self._changed_readiness()])

    def set_fault(self, number: int, *, has_fault: bool) -> None:
        """Break a zone's sensor, or mend it. Raises: KeyError."""
        self.zones[number].has_fault = has_fault
        self._tell(list(self._changed_troubles()))

    def set_low_battery(self, number: int, *, is_low: bool) -> None:
        """Run a sensor's battery down, or change it. Raises: KeyError."""
        self.zones[number].has_low_battery = is_low
        self._tell(list(self._changed_troubles()))

    def set_power(self, *, has_power: bool) -> None:
        """Take the mains away, or give it back."""
        self.has_power = has_power
        self._tell(list(self._changed_troubles()))

    # People

    def arm(self, number: int, mode: int, *, user: int = 0, method: int = ArmingMethod.FUNCTION_KEY) -> int:
        """Arm a partition at its keypad; returns a ``ResponseCode``."""
        partition = self.partitions.get(number)
        if partition is None or not partition.is_enabled:
            return ResponseCode.INVALID_PARTITION
        if partition.is_armed or partition.ready == Ready.NOT_READY or mode == ArmingMode.DISARM:
            return ResponseCode.FAILED_TO_ARM
        partition.mode = mode
        self._emit(Arming(partition=number, mode=mode, method=method, user=user))
        self._begin_exit_delay(partition)
        self._forget_alarms(partition)
        return ResponseCode.SUCCESS

    def disarm(self, number: int, *, user: int = 0, method: int = ArmingMethod.ACCESS_CODE) -> int:
        """Disarm a partition at its keypad, which also ends its alarm and its bypasses; returns a ``ResponseCode``."""
        partition = self.partitions.get(number)
        if partition is None or not partition.is_enabled:
            return ResponseCode.INVALID_PARTITION
        was_armed = partition.is_armed
        self._end_alarm(partition)
        partition.mode = ArmingMode.DISARM
        partition.exit_ends_s = partition.entry_ends_s = partition.urgent_s = NEVER
        if was_armed:
            partition.ready = self._readiness(partition)
            self._emit(ReadyStatus(partition=number, status=partition.ready))
            self._emit(Arming(partition=number, mode=ArmingMode.DISARM, method=method, user=user))
            for zone in list(self._zones_of(partition)):
                self.bypass(zone.number, is_bypassed=False)
        return ResponseCode.SUCCESS

    def bypass(self, number: int, *, is_bypassed: bool) -> None:
        """Leave a zone out, or take it back in. Raises: KeyError."""
        zone = self.zones[number]
        if zone.is_bypassed == is_bypassed:
            return
        zone.is_bypassed = is_bypassed
        self._emit(ZoneBypass(zone=number, is_bypassed=is_bypassed))
        for partition in self._partitions_of(zone):
            has_bypass = any(one.is_bypassed for one in self._zones_of(partition))
            if has_bypass != partition.has_bypass:
                partition.has_bypass = has_bypass
                self._emit(BypassStatus(partition=partition.number, flag=int(has_bypass)))
        self._tell(list(self._changed_readiness()))

    def user_of(self, code: str, partition: int) -> User | None:
        """Return who has a code and may use it for a partition."""
        mask = 1 << (partition - 1)
        mine = (user for user in self.users.values() if user.code and user.code == code)
        return next((user for user in mine if user.partitions & mask), None)

    def judge_code(self, *, is_right: bool) -> None:
        """Count wrong codes in a row; enough of them lock the panel."""
        if is_right:
            self._wrong_codes_count = 0
            return
        self._wrong_codes_count += 1
        if self._wrong_codes_count >= self.programme.lockout_count > 0:
            self._wrong_codes_count = 0
            self._locked_until_s = self._clock() + self.programme.lockout_s

    @property
    def is_locked(self) -> bool:
        """Whether no code is taken for now."""
        return self._clock() < self._locked_until_s

    def user(self, number: int) -> User:
        """Return a user's slot, made if nobody ever used it."""
        if number not in self.users:
            self.users[number] = User(number, UserProgramme(attributes=0, partitions=0))
        return self.users[number]

    def tell_users_changed(self, what: int, first: int, count: int) -> None:
        """Tell that consecutive users were changed. Source: itv2-protocol.md section 9.2, word 0250."""
        self._emit(AccessCodeUpdated(what=what, records=count, first=first, last=first + count - 1))

    # Programming

    def enter_programming(self, partition: int, mode: int, *, is_writing: bool, user: int) -> None:
        """Begin programming; the partition cannot be armed meanwhile."""
        ends_s = self._clock() + self.programme.programming_s
        self.programming = Programming(partition, mode, is_writing, user, ends_s)
        self._lead(LeadPhase.IN, self.programming)

    def leave_programming(self) -> None:
        """End programming, if anybody is in it."""
        was, self.programming = self.programming, None
        if was is not None:
            self._lead(LeadPhase.OUT, was)

    def _lead(self, phase: int, programming: Programming) -> None:
        lead = ProgrammingLead(
            partition=programming.partition,
            phase=phase,
            user=programming.user,
            access=0,
            mode=programming.mode,
            time=self._panel_time(),
        )
        self._tell([lead, *self._changed_readiness()], may_combine=False)

    # Time

    @property
    def deadline_s(self) -> float:
        """Return when :meth:`pass_time` has something to do, on the panel's clock."""
        programming_s = NEVER if self.programming is None else self.programming.ends_s
        return min(
            self._broadcast_s,
            programming_s,
            *(
                min(one.urgent_s, one.exit_ends_s, one.entry_ends_s, one.siren_ends_s)
                for one in self.partitions.values()
            ),
        )

    def pass_time(self) -> None:
        """Do what is due by now."""
        now = self._clock()
        for partition in self.partitions.values():
            self._pass_delays(partition, now)
        if self.programming is not None and self.programming.ends_s <= now:
            self.leave_programming()
        if self._broadcast_s <= now:
            self.broadcast_time()

    def broadcast_time(self) -> None:
        """Tell the panel's time, and again after the usual interval."""
        self._broadcast_s = self._clock() + self.programme.clock_every_s
        self._emit(DateTimeBroadcast(time=self._panel_time()))

    def _pass_delays(self, partition: Partition, now: float) -> None:
        if partition.urgent_s <= now:
            partition.urgent_s = NEVER
            self._tell_delay(partition, DelayFlag.URGENT, self.programme.urgent_s)
        if partition.exit_ends_s <= now:  # nothing is sent
            partition.exit_ends_s = NEVER
        if partition.entry_ends_s <= now:
            partition.entry_ends_s = NEVER
            for zone in list(self._zones_of(partition)):
                if zone.is_open and not zone.is_bypassed and zone.definition in DELAY | INTERIOR:
                    self._alarm(partition, zone)
            if not partition.in_alarm:  # whoever came in closed the door and never gave a code
                self._alarm(partition, next(self._doors_of(partition)))
        if partition.siren_ends_s <= now:
            partition.siren_ends_s = NEVER

    # What follows from what

    def _violate(self, partition: Partition, zone: Zone) -> None:
        """Source: itv2-protocol.md sections 10.8 and 13."""
        if zone.is_bypassed:
            return
        kind = zone.definition
        if kind in AROUND_THE_CLOCK:
            self._alarm(partition, zone)
        elif not partition.is_armed or (kind in AWAY_ONLY and partition.mode in STAY_MODES | NIGHT_MODES):
            return
        elif kind in INSTANT:
            self._alarm(partition, zone)
        elif partition.is_leaving or partition.is_entered:
            return
        elif kind in INTERIOR or (kind in DELAY and partition.mode in INSTANT_MODES):
            self._alarm(partition, zone)
        elif kind in DELAY:
            self._begin_entry_delay(partition)

    def _begin_exit_delay(self, partition: Partition) -> None:
        delay_s = self.programme.exit_delay_s
        if delay_s > 0:
            partition.exit_ends_s = self._clock() + delay_s
            self._begin_urgency(partition, delay_s)
            self._tell_delay(partition, 0, delay_s)

    def _begin_entry_delay(self, partition: Partition) -> None:
        delay_s = self.programme.entry_delay_s
        partition.entry_ends_s = self._clock() + delay_s
        self._begin_urgency(partition, delay_s)
        self._tell_delay(partition, 0, delay_s)

    def _begin_urgency(self, partition: Partition, delay_s: float) -> None:
        urgent_s = self.programme.urgent_s
        partition.urgent_s = self._clock() + delay_s - urgent_s if delay_s > urgent_s else NEVER

    def _tell_delay(self, partition: Partition, flag: int, seconds: float) -> None:
        kind = EntryDelay if partition.is_entered else ExitDelay
        flags = DelayFlag.ACTIVE | DelayFlag.AUDIBLE | flag
        left_s = max(1, round(seconds / self._speed))
        self._emit(kind(partition=partition.number, flags=flags, seconds=left_s))

    def _alarm(self, partition: Partition, zone: Zone) -> None:
        zone.in_alarm = zone.has_alarm_memory = True
        partition.in_alarm = True
        partition.entry_ends_s = partition.urgent_s = NEVER
        partition.siren_ends_s = self._clock() + self.programme.siren_s
        if not partition.has_alarm_memory:
            partition.has_alarm_memory = True
            self._emit(AlarmMemory(partition=partition.number, flag=1))

    def _end_alarm(self, partition: Partition) -> None:
        partition.in_alarm = False
        partition.siren_ends_s = NEVER
        for zone in self._zones_of(partition):
            zone.in_alarm = False

    def _forget_alarms(self, partition: Partition) -> None:
        """Arming empties the alarm memory."""
        if partition.has_alarm_memory:
            partition.has_alarm_memory = False
            for zone in self._zones_of(partition):
                zone.has_alarm_memory = False
            self._emit(AlarmMemory(partition=partition.number, flag=0))

    def _readiness(self, partition: Partition) -> int:
        if self.programming is not None:
            return Ready.NOT_READY
        waiting = [
            zone
            for zone in self._zones_of(partition)
            if not zone.is_bypassed and (zone.is_open or zone.has_tamper)
        ]
        if not waiting:
            return Ready.READY
        return (
            Ready.FORCE
            if all(zone.may_be_forced and not zone.has_tamper for zone in waiting)
            else Ready.NOT_READY
        )

    def _changed_readiness(self) -> Iterator[Message]:
        """Say of each partition that is not armed whether it can be, where that is new."""
        for partition in self.partitions.values():
            ready = self._readiness(partition)
            if not partition.is_armed and ready != partition.ready:
                partition.ready = ready
                yield ReadyStatus(partition=partition.number, status=ready)

    def _changed_troubles(self) -> Iterator[Message]:
        for partition in self.partitions.values():
            has_trouble = not self.has_power or any(zone.has_trouble for zone in self._zones_of(partition))
            if has_trouble != partition.has_trouble:
                partition.has_trouble = has_trouble
                yield TroubleStatus(partition=partition.number, flag=int(has_trouble))

    def _tell(self, batch: list[Message], *, may_combine: bool = True) -> None:
        """Emit what arises together, roughly half the time in one packet."""
        if len(batch) > 1 and may_combine and self._chance.random() < COMBINED_SHARE:
            batch = [MultipleMessages(messages=tuple(batch))]
        for message in batch:
            self._emit(message)

    def _zones_of(self, partition: Partition) -> Iterator[Zone]:
        return (
            zone for zone in self.zones.values() if zone.definition and partition.number in zone.partitions
        )

    def _doors_of(self, partition: Partition) -> Iterator[Zone]:
        return (zone for zone in self._zones_of(partition) if zone.definition in DELAY)

    def _partitions_of(self, zone: Zone) -> list[Partition]:
        numbers = sorted(zone.partitions) if zone.definition else ()
        return [self.partitions[number] for number in numbers if number in self.partitions]


MODES_OF_MASTER: Final = frozenset({ProgrammingMode.ACCESS_CODES, ProgrammingMode.USER_FUNCTIONS})
"""Programming modes that want the master's code."""
