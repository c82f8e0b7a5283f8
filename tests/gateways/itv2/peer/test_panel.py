"""The life of a simulated panel's house: what is told, and in which order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sojourn.gateways.itv2.messages import (
    AlarmMemory,
    Arming,
    ArmingMethod,
    ArmingMode,
    BypassStatus,
    DateTimeBroadcast,
    EntryDelay,
    ExitDelay,
    LeadPhase,
    Message,
    MultipleMessages,
    PanelTime,
    PartitionFlag,
    PartitionFlag2,
    ProgrammingLead,
    ProgrammingMode,
    Ready,
    ReadyStatus,
    ResponseCode,
    TroubleStatus,
    ZoneBypass,
    ZoneFlag,
    ZoneLifestyle,
    ZoneState,
)
from sojourn.gateways.itv2.peer.panel import PanelModel
from sojourn.gateways.itv2.peer.programme import PanelProgramme, house
from sojourn.testing.clock import ManualClock

FRONT_DOOR, LIVING_ROOM, KITCHEN_WINDOW, SMOKE = 1, 3, 5, 7
NOON = PanelTime(2026, 11, 21, 12, 0, 0)


class House:
    """A panel whose clock is moved by hand; says in order what it was told."""

    def __init__(self, seed: int = 1, **programme: Any) -> None:
        self.clock = ManualClock()
        self.told: list[Message] = []
        self.packets: list[Message] = []
        self.panel = PanelModel(
            PanelProgramme(**programme),
            self._tell,
            clock=self.clock,
            panel_time=lambda: NOON,
            chance=random.Random(seed),
        )

    def _tell(self, message: Message) -> None:
        self.packets.append(message)
        self.told += message.messages if isinstance(message, MultipleMessages) else (message,)

    def take(self) -> list[Message]:
        told, self.told = self.told, []
        return told

    def wait(self, seconds: float) -> list[Message]:
        """Let time pass, from deadline to deadline."""
        end_s = self.clock() + seconds
        while self.panel.deadline_s <= end_s:
            self.clock.advance(max(0.0, self.panel.deadline_s - self.clock()))
            self.panel.pass_time()
        self.clock.advance(end_s - self.clock())
        self.panel.pass_time()
        return self.take()

    def status(self, partition: int = 1) -> bytes:
        one = self.panel.partitions[partition]
        return one.status(in_programming=self.panel.programming is not None)


def ready(status: int, partition: int = 1) -> ReadyStatus:
    return ReadyStatus(partition=partition, status=status)


def zone(number: int, state: int) -> ZoneLifestyle:
    return ZoneLifestyle(zone=number, state=state)


def armed_away(**programme: Any) -> House:
    """A house whose exit delay is over."""
    house_ = House(clock_every_s=1e9, **programme)
    assert house_.panel.arm(1, ArmingMode.AWAY) == ResponseCode.SUCCESS
    house_.wait(60)
    return house_


def test_the_first_open_zone_is_told_after_what_it_means_for_arming() -> None:
    """Section 9.2: 0239 = 2, then 0210 open; a second zone is told alone; closing the last gives 0239 = 1 first."""
    house_ = House()
    house_.panel.open_zone(FRONT_DOOR)
    assert house_.take() == [ready(Ready.FORCE), zone(FRONT_DOOR, ZoneState.OPEN)]
    house_.panel.open_zone(LIVING_ROOM)
    house_.panel.restore_zone(FRONT_DOOR)
    assert house_.take() == [zone(LIVING_ROOM, ZoneState.OPEN), zone(FRONT_DOOR, ZoneState.RESTORED)]
    house_.panel.restore_zone(LIVING_ROOM)
    assert house_.take() == [ready(Ready.READY), zone(LIVING_ROOM, ZoneState.RESTORED)]


def test_a_zone_that_may_not_be_forced_makes_the_partition_not_ready() -> None:
    """Section 9.2, 0239 = 3, and a code 4 for who arms all the same."""
    house_ = House()
    house_.panel.open_zone(KITCHEN_WINDOW)
    assert house_.take()[0] == ready(Ready.NOT_READY)
    assert house_.panel.arm(1, ArmingMode.AWAY) == ResponseCode.FAILED_TO_ARM
    assert house_.take() == []


def test_what_arises_together_comes_in_one_packet_about_half_the_time() -> None:
    """Section 13, point 5."""
    house_ = House()
    for _ in range(200):
        house_.panel.open_zone(FRONT_DOOR)
        house_.panel.restore_zone(FRONT_DOOR)
    combined = sum(isinstance(packet, MultipleMessages) for packet in house_.packets)
    assert 150 < combined < 250


def test_arming_is_told_at_the_start_of_the_exit_delay_and_its_end_is_not_told() -> None:
    """Section 9.2: 0232, 0230 81, 0230 85 with 10 s left; nothing at the end."""
    house_ = House()
    assert house_.panel.arm(1, ArmingMode.AWAY) == ResponseCode.SUCCESS
    assert house_.take() == [
        Arming(partition=1, mode=ArmingMode.AWAY, method=ArmingMethod.FUNCTION_KEY, user=0),
        ExitDelay(partition=1, flags=0x81, seconds=40),
    ]
    assert house_.wait(29) == []
    assert house_.wait(1) == [ExitDelay(partition=1, flags=0x85, seconds=10)]
    assert house_.status()[0] & PartitionFlag.EXIT_DELAY
    assert house_.wait(11) == []
    assert house_.status() == b"\x05\x00\x00"


def test_leaving_by_the_door_during_the_exit_delay_is_no_alarm() -> None:
    """Section 10.8: delay and interior zones wait for the delay's end; no 0239 while armed."""
    house_ = House()
    house_.panel.arm(1, ArmingMode.AWAY)
    house_.take()
    for number in (LIVING_ROOM, FRONT_DOOR):
        house_.panel.open_zone(number)
        house_.panel.restore_zone(number)
    assert {type(message) for message in house_.take()} == {ZoneLifestyle}
    assert not house_.panel.partitions[1].in_alarm


def test_the_entry_delay_is_told_and_disarming_ends_it() -> None:
    """Section 9.2: 0231 as 0230; then 0239 before 0232 with mode 0."""
    house_ = armed_away()
    house_.panel.open_zone(FRONT_DOOR)
    assert house_.take() == [
        zone(FRONT_DOOR, ZoneState.OPEN),
        EntryDelay(partition=1, flags=0x81, seconds=30),
    ]
    house_.panel.open_zone(LIVING_ROOM)  # it follows the door
    assert house_.take() == [zone(LIVING_ROOM, ZoneState.OPEN)]
    assert house_.wait(20) == [EntryDelay(partition=1, flags=0x85, seconds=10)]
    assert house_.status()[0] & PartitionFlag.ENTRY_DELAY
    assert house_.panel.disarm(1, user=1) == ResponseCode.SUCCESS
    assert house_.take() == [
        ready(Ready.FORCE),
        Arming(partition=1, mode=0, method=ArmingMethod.ACCESS_CODE, user=1),
    ]
    assert house_.wait(100) == []
    assert not house_.panel.partitions[1].in_alarm


def test_an_entry_delay_that_runs_out_is_an_alarm_of_the_zones_that_are_open() -> None:
    """Section 13: alarm and its memory, in the zone and in the partition."""
    house_ = armed_away()
    house_.panel.open_zone(FRONT_DOOR)
    assert house_.wait(30)[-1] == AlarmMemory(partition=1, flag=1)
    assert house_.panel.zones[FRONT_DOOR].status == ZoneFlag.OPEN | ZoneFlag.ALARM | ZoneFlag.ALARM_MEMORY
    assert house_.status()[1] == PartitionFlag2.ALARM | PartitionFlag2.ALARM_MEMORY | PartitionFlag2.SIREN


def test_who_comes_in_and_closes_the_door_raises_the_alarm_too() -> None:
    """The delay runs out although nothing is open any more."""
    house_ = armed_away()
    house_.panel.open_zone(FRONT_DOOR)
    house_.panel.restore_zone(FRONT_DOOR)
    house_.wait(30)
    assert house_.panel.zones[FRONT_DOOR].in_alarm


def test_an_instant_zone_is_an_alarm_at_once_and_disarming_leaves_its_memory() -> None:
    """Sections 10.6 and 10.7; the next arming empties the memory."""
    house_ = armed_away()
    house_.panel.open_zone(KITCHEN_WINDOW)
    assert house_.take() == [zone(KITCHEN_WINDOW, ZoneState.OPEN), AlarmMemory(partition=1, flag=1)]
    house_.panel.restore_zone(KITCHEN_WINDOW)
    house_.panel.disarm(1)
    assert house_.panel.zones[KITCHEN_WINDOW].status == ZoneFlag.ALARM_MEMORY
    assert house_.status()[1] == PartitionFlag2.ALARM_MEMORY
    house_.take()
    house_.panel.arm(1, ArmingMode.AWAY)
    assert house_.take()[-1] == AlarmMemory(partition=1, flag=0)
    assert house_.panel.zones[KITCHEN_WINDOW].status == 0


def test_smoke_is_an_alarm_around_the_clock_and_a_siren_has_its_time() -> None:
    """Section 10.8."""
    house_ = House(clock_every_s=1e9)
    house_.panel.open_zone(SMOKE)
    assert house_.status()[1] & PartitionFlag2.SIREN
    house_.wait(240)
    assert house_.status()[1] & (PartitionFlag2.SIREN | PartitionFlag2.ALARM) == PartitionFlag2.ALARM
    house_.panel.disarm(1)
    assert not house_.panel.partitions[1].in_alarm


@pytest.mark.parametrize(
    ("mode", "zone_number", "is_alarm"),
    [
        (ArmingMode.STAY, LIVING_ROOM, False),
        (ArmingMode.STAY, KITCHEN_WINDOW, True),
        (ArmingMode.AWAY, LIVING_ROOM, True),
        (ArmingMode.NO_ENTRY_DELAY, FRONT_DOOR, True),
    ],
)
def test_a_mode_decides_what_a_zone_does(mode: int, zone_number: int, is_alarm: bool) -> None:
    """Sections 10.1 and 10.8."""
    house_ = House(clock_every_s=1e9)
    house_.panel.arm(1, mode)
    house_.wait(60)
    house_.panel.open_zone(zone_number)
    assert house_.panel.partitions[1].in_alarm is is_alarm


def test_a_bypassed_zone_is_left_out_until_the_next_disarming() -> None:
    """Sections 9.2 and 12: 0820, then 0240, then what it means for arming."""
    house_ = House(clock_every_s=1e9)
    house_.panel.open_zone(KITCHEN_WINDOW)
    house_.take()
    house_.panel.bypass(KITCHEN_WINDOW, is_bypassed=True)
    assert house_.take() == [
        ZoneBypass(zone=KITCHEN_WINDOW, is_bypassed=True),
        BypassStatus(partition=1, flag=1),
        ready(Ready.READY),
    ]
    house_.panel.arm(1, ArmingMode.AWAY)
    house_.wait(60)
    house_.panel.restore_zone(KITCHEN_WINDOW)
    house_.panel.open_zone(KITCHEN_WINDOW)
    assert not house_.panel.partitions[1].in_alarm
    house_.take()
    house_.panel.disarm(1)
    told = house_.take()
    assert told[-3:] == [
        ZoneBypass(zone=KITCHEN_WINDOW, is_bypassed=False),
        BypassStatus(partition=1, flag=0),
        ready(Ready.NOT_READY),
    ]


def test_trouble_is_told_once_for_all_its_causes() -> None:
    """Section 9.2, 023F: trouble is present or not; which one is not told."""
    house_ = House()
    house_.panel.set_power(has_power=False)
    house_.panel.set_low_battery(2, is_low=True)
    assert house_.take() == [TroubleStatus(partition=1, flag=1)]
    house_.panel.set_power(has_power=True)
    assert house_.take() == []
    house_.panel.set_low_battery(2, is_low=False)
    assert house_.take() == [TroubleStatus(partition=1, flag=0)]


def test_programming_is_told_and_ends_by_itself() -> None:
    """Section 9.2: 0702 in, then 0239 = 3; 0702 out, then 0239 = 1."""
    house_ = House(clock_every_s=1e9)
    house_.panel.enter_programming(1, ProgrammingMode.INSTALLER, is_writing=False, user=0)
    lead, after = house_.take()
    assert isinstance(lead, ProgrammingLead)
    assert (lead.phase, lead.time, after) == (LeadPhase.IN, NOON, ready(Ready.NOT_READY))
    assert house_.status()[1] & PartitionFlag2.PROGRAMMING
    lead, after = house_.wait(1200)
    assert isinstance(lead, ProgrammingLead)
    assert (lead.phase, after) == (LeadPhase.OUT, ready(Ready.READY))


def test_the_clock_is_told_every_240_s() -> None:
    """Section 11."""
    assert House().wait(24 * 60) == [DateTimeBroadcast(time=NOON)] * 6


def test_partitions_do_not_touch_each_other() -> None:
    """Section 13, point 5."""
    house_ = House(zones=house(16, 2), partitions=("House", "Office"))
    house_.panel.open_zone(12)
    assert house_.take()[0] == ready(Ready.NOT_READY, 2)
    assert house_.panel.arm(1, ArmingMode.AWAY) == ResponseCode.SUCCESS
    assert house_.panel.arm(2, ArmingMode.AWAY) == ResponseCode.FAILED_TO_ARM
    assert house_.panel.arm(3, ArmingMode.AWAY) == ResponseCode.INVALID_PARTITION


class AnyHouse(RuleBasedStateMachine):
    """Whatever happens: what was told last is what is so."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()

    @rule(number=st.integers(1, 16))
    def open_zone(self, number: int) -> None:
        self.house.panel.open_zone(number)

    @rule(number=st.integers(1, 16))
    def restore_zone(self, number: int) -> None:
        self.house.panel.restore_zone(number)

    @rule(number=st.integers(1, 16), is_bypassed=st.booleans())
    def bypass(self, number: int, is_bypassed: bool) -> None:
        self.house.panel.bypass(number, is_bypassed=is_bypassed)

    @rule(number=st.integers(1, 16), has_tamper=st.booleans())
    def tamper(self, number: int, has_tamper: bool) -> None:
        self.house.panel.set_tamper(number, has_tamper=has_tamper)

    @rule(mode=st.sampled_from([1, 2, 3, 4, 17]))
    def arm(self, mode: int) -> None:
        self.house.panel.arm(1, mode)

    @rule()
    def disarm(self) -> None:
        self.house.panel.disarm(1)

    @rule(seconds=st.floats(0, 300))
    def wait(self, seconds: float) -> None:
        told, self.house.told = self.house.told, []
        self.house.told = told + self.house.wait(seconds)

    @precondition(lambda self: self.house.panel.programming is None)
    @rule()
    def programme(self) -> None:
        self.house.panel.enter_programming(1, 0, is_writing=True, user=0)

    @rule()
    def leave(self) -> None:
        self.house.panel.leave_programming()

    def last(self, kind: type[Any], default: int, field: str, **match: int) -> int:
        for message in reversed(self.house.told):
            if isinstance(message, kind) and all(getattr(message, k) == v for k, v in match.items()):
                return int(getattr(message, field))
        return default

    @invariant()
    def what_was_told_is_so(self) -> None:
        partition = self.house.panel.partitions[1]
        for number, one in self.house.panel.zones.items():
            assert self.last(ZoneLifestyle, 0, "state", zone=number) == one.is_open
            assert self.last(ZoneBypass, 0, "is_bypassed", zone=number) == one.is_bypassed
        assert self.last(Arming, 0, "mode") == partition.mode
        assert self.last(AlarmMemory, 0, "flag") == partition.has_alarm_memory
        assert self.last(TroubleStatus, 0, "flag") == partition.has_trouble
        assert self.last(BypassStatus, 0, "flag") == partition.has_bypass
        if not partition.is_armed:
            assert self.last(ReadyStatus, 1, "status") == partition.ready

    @invariant()
    def an_alarm_has_a_zone(self) -> None:
        zones = self.house.panel.zones.values()
        assert self.house.panel.partitions[1].in_alarm == any(one.in_alarm for one in zones)


AnyHouse.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyHouse = AnyHouse.TestCase
