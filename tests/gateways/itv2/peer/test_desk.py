"""What a simulated panel answers to each command."""

from __future__ import annotations

import random

import pytest

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.messages import NackCode, ProgrammingMode, ResponseCode
from sojourn.gateways.itv2.peer.desk import Desk
from sojourn.gateways.itv2.peer.kinds import pack_label
from sojourn.gateways.itv2.peer.panel import PanelModel
from sojourn.gateways.itv2.peer.programme import PanelProgramme
from sojourn.testing.clock import ManualClock

MASTER, ANA, INSTALLER, WRONG = "1234", "2345", "5555", "9999"


class Room:
    """A desk, and the house behind it."""

    def __init__(self, programme: PanelProgramme | None = None) -> None:
        self.clock = ManualClock()
        self.told: list[m.Message] = []
        self.house = PanelModel(
            programme or PanelProgramme(),
            self.told.append,
            clock=self.clock,
            panel_time=lambda: m.PanelTime(2026, 1, 1, 0, 0, 0),
            chance=random.Random(1),
        )
        self.desk = Desk(self.house)

    def ask(self, command: m.Message) -> m.Message:
        """Have a command answered and done."""
        answer = self.desk.answer(command)
        if answer.then is not None:
            answer.then()
        return answer.message

    def code_of(self, command: m.Message) -> int:
        answer = self.ask(command)
        assert isinstance(answer, m.CommandResponse)
        assert answer.command_sequence == 7
        return answer.code

    def enter(self, mode: int, code: str, *, is_writing: bool = True) -> int:
        return self.code_of(
            m.EnterConfiguration(partition=1, mode=mode, code=code, is_writing=is_writing, command_sequence=7)
        )


def arm(code: str = "", partition: int = 1) -> m.Arm:
    return m.Arm(partition=partition, mode=2, code=code, command_sequence=7)


def disarm(code: str) -> m.Disarm:
    return m.Disarm(partition=1, code=code, command_sequence=7)


def bypass(zone: int, *, is_bypassed: bool = True) -> m.BypassZone:
    return m.BypassZone(partition=1, zone=zone, is_bypassed=is_bypassed, command_sequence=7)


def read(*address: int, count: int = 0) -> m.SectionRead:
    return m.SectionRead(section=m.Section(address, count), command_sequence=7)


def write(data: bytes, *address: int) -> m.SectionWrite:
    return m.SectionWrite(section=m.Section(address), data=data, command_sequence=7)


def test_all_five_requests_of_status_are_answered() -> None:
    """Section 9.3."""
    room = Room()
    room.house.open_zone(2)
    assert room.ask(m.RequestZoneStatus(first=1, count=3)) == m.ZoneStatus(first=1, statuses=(0, 1, 0))
    assert room.ask(m.RequestPartitionStatus(partition=1)) == m.PartitionStatus(partition=1, status=b"\4\0\0")
    assert room.ask(m.RequestCapabilities()) == m.SystemCapabilities(
        zones=16, users=95, partitions=1, fobs=32, tags=95, outputs=14
    )
    labels = room.ask(m.RequestLabels(collection=m.Collection.ZONES, first=1, last=2))
    assert isinstance(labels, m.Labels)
    assert labels.labels == ("Front Door", "Back Door")
    assert isinstance(room.ask(m.RequestGlobalStatus()), m.GlobalStatus)


@pytest.mark.parametrize(
    "request_",
    [
        m.RequestZoneStatus(first=17, count=1, command_sequence=7),
        m.RequestPartitionStatus(partition=2, command_sequence=7),
        m.RequestLabels(collection=m.Collection.ZONES, first=1, last=20, command_sequence=7),
        m.RequestLabels(collection=1, first=1, last=1, command_sequence=7),
    ],
)
def test_what_is_not_there_is_refused(request_: m.Message) -> None:
    """Section 10.2."""
    assert Room().code_of(request_) in {ResponseCode.INVALID_DEVICE, ResponseCode.INVALID_PARTITION}


def test_some_panels_refuse_an_empty_element_size() -> None:
    """Section 15, point 8."""
    room = Room(PanelProgramme(refuses_zero_width=True))
    refusal = m.CommandError(nacked_word=0x0800, code=NackCode.INVALID_LENGTH)
    assert room.ask(m.RequestZoneStatus(first=1, count=1)) == refusal
    assert isinstance(room.ask(m.RequestZoneStatus(first=1, count=1, width=1)), m.ZoneStatus)


def test_an_unknown_word_is_refused_by_name() -> None:
    """Section 13, point 6: 0501 with code 2."""
    refusal = m.CommandError(nacked_word=0x0908, code=NackCode.INVALID_COMMAND)
    assert Room().ask(m.Unknown(number=0x0908, body=b"\x01")) == refusal


def test_arming_and_disarming_want_the_right_code() -> None:
    """Sections 9.4 and 12."""
    room = Room()
    assert room.code_of(arm(WRONG)) == ResponseCode.INVALID_ACCESS_CODE
    assert room.code_of(arm(partition=2)) == ResponseCode.INVALID_PARTITION
    assert room.code_of(arm(ANA)) == ResponseCode.SUCCESS
    assert room.told[0] == m.Arming(partition=1, mode=2, method=m.ArmingMethod.ACCESS_CODE, user=2)
    assert room.code_of(arm(ANA)) == ResponseCode.FAILED_TO_ARM
    assert room.code_of(disarm("")) == ResponseCode.ACCESS_CODE_REQUIRED
    assert room.code_of(disarm(MASTER)) == ResponseCode.SUCCESS
    room.house.open_zone(5)
    assert room.code_of(arm()) == ResponseCode.FAILED_TO_ARM


def test_one_touch_arming_is_a_setting() -> None:
    """Section 12."""
    room = Room(PanelProgramme(has_one_touch=False))
    assert room.code_of(arm()) == ResponseCode.ACCESS_CODE_REQUIRED


def test_wrong_codes_lock_the_panel_for_a_while() -> None:
    """Section 10.3, code 9."""
    room = Room(PanelProgramme(lockout_count=3, lockout_s=300))
    room.code_of(arm(ANA))
    for _ in range(3):
        assert room.code_of(disarm(WRONG)) == ResponseCode.INVALID_ACCESS_CODE
    assert room.ask(disarm(MASTER)) == m.CommandError(nacked_word=0x0901, code=NackCode.LOCK_OUT)
    room.clock.advance(300)
    assert room.code_of(disarm(MASTER)) == ResponseCode.SUCCESS


def test_a_bypass_needs_its_programming_mode() -> None:
    """Section 12: 0704, 074A, 0701."""
    room = Room()
    assert room.code_of(bypass(5)) == ResponseCode.NOT_IN_PROGRAMMING
    assert room.enter(ProgrammingMode.USER_BYPASS, ANA) == ResponseCode.SUCCESS
    assert room.enter(ProgrammingMode.USER_BYPASS, ANA) == ResponseCode.BUSY
    assert room.code_of(bypass(5)) == ResponseCode.SUCCESS
    assert room.code_of(bypass(7)) == ResponseCode.FUNCTION_NOT_AVAILABLE  # smoke
    assert room.code_of(bypass(99)) == ResponseCode.INVALID_DEVICE
    leave = m.ExitConfiguration(partition=1, command_sequence=7)
    assert room.code_of(leave) == ResponseCode.SUCCESS
    assert room.code_of(leave) == ResponseCode.NOT_IN_PROGRAMMING
    assert room.house.zones[5].is_bypassed


@pytest.mark.parametrize(
    ("mode", "code", "expected"),
    [
        (ProgrammingMode.INSTALLER, INSTALLER, ResponseCode.SUCCESS),
        (ProgrammingMode.INSTALLER, MASTER, ResponseCode.INVALID_ACCESS_CODE),
        (ProgrammingMode.ACCESS_CODES, MASTER, ResponseCode.SUCCESS),
        (ProgrammingMode.ACCESS_CODES, ANA, ResponseCode.INVALID_ACCESS_CODE),
        (ProgrammingMode.USER_BYPASS, WRONG, ResponseCode.INVALID_ACCESS_CODE),
        (9, MASTER, ResponseCode.INVALID_PROGRAMMING_TYPE),
    ],
)
def test_every_programming_mode_has_its_code(mode: int, code: str, expected: int) -> None:
    """Sections 9.5, 9.6 and 10.5."""
    assert Room().enter(mode, code) == expected


def test_an_armed_panel_is_not_programmed() -> None:
    """Section 12."""
    room = Room()
    room.code_of(arm())
    assert room.enter(ProgrammingMode.INSTALLER, INSTALLER) == ResponseCode.BUSY


def test_a_panel_that_takes_raw_digits_refuses_packed_ones() -> None:
    """Section 9.4, the note on 0704."""
    room = Room(PanelProgramme(takes_raw_digits=True))
    assert room.enter(ProgrammingMode.INSTALLER, INSTALLER) == ResponseCode.INVALID_ACCESS_CODE
    assert room.enter(ProgrammingMode.INSTALLER, "05050505") == ResponseCode.SUCCESS


def test_sections_hold_the_programming() -> None:
    """Section 9.5."""
    room = Room()
    assert room.code_of(read(1, 1)) == ResponseCode.NOT_IN_PROGRAMMING
    room.enter(ProgrammingMode.INSTALLER, INSTALLER)

    def data(ask: m.SectionRead) -> bytes:
        answer = room.ask(ask)
        assert isinstance(answer, m.SectionData)
        assert answer.section == ask.section
        return answer.data

    assert data(read(1, 1, count=5)) == bytes((1, 1, 5, 5, 3))
    assert data(read(0, 1, 1)) == pack_label("Front Door", 56)
    assert data(read(0, 101)) == pack_label("House", 56)
    assert data(read(200, 1)) == b"\x01"
    assert data(read(201, 1)) == data(read(201, 2)) == b"\xff"
    assert room.code_of(write(b"\xa0", 201, 1)) == ResponseCode.SUCCESS
    assert [number for number in range(1, 9) if 1 in room.house.zones[number].partitions] == [1, 3]
    assert room.code_of(write(pack_label("Attic", 56), 0, 1, 2)) == ResponseCode.SUCCESS
    assert room.house.zones[2].label == "Attic"
    refusal = m.CommandError(nacked_word=0x0722, code=NackCode.INVALID_LENGTH)
    assert room.ask(write(b"\x01\x02", 1, 1)) == refusal
    assert room.code_of(read(999, 1)) == ResponseCode.FUNCTION_NOT_AVAILABLE


def test_sections_that_were_opened_for_reading_are_not_written() -> None:
    """Section 9.4: the last byte of 0704."""
    room = Room()
    room.enter(ProgrammingMode.INSTALLER, INSTALLER, is_writing=False)
    assert room.code_of(write(b"\x03", 1, 1)) == ResponseCode.NOT_IN_PROGRAMMING


def test_users_are_read_and_written_by_the_master() -> None:
    """Section 9.6: a slot that is switched on loses its attributes; the master keeps his."""
    room = Room()
    first = {"first": 4, "command_sequence": 7}
    assert room.code_of(m.ReadCodes(count=1, **first)) == ResponseCode.NOT_IN_PROGRAMMING
    room.enter(ProgrammingMode.ACCESS_CODES, MASTER)
    codes = room.ask(m.ReadCodes(first=1, count=4))
    assert codes == m.Codes(first=1, width=2, codes=("1234", "2345", "3456", "AAAA"))
    assert room.code_of(m.WriteAttributes(width=1, attributes=(0x0D,), **first)) == ResponseCode.SUCCESS
    assert room.code_of(m.WriteCodes(width=2, codes=("4321",), **first)) == ResponseCode.SUCCESS
    assert room.ask(m.ReadAttributes(first=4, count=1)) == m.Attributes(first=4, width=1, attributes=(4,))
    assert room.told[-1] == m.AccessCodeUpdated(what=1, records=1, first=4, last=4)
    assert room.code_of(m.WriteCodes(width=2, codes=("1234",), **first)) == ResponseCode.INVALID_ACCESS_CODE
    assert room.code_of(m.WriteLabels(labels=("Cleo",), **first)) == ResponseCode.SUCCESS
    labels = room.ask(m.RequestLabels(collection=m.Collection.USERS, first=4, last=4))
    assert isinstance(labels, m.Labels)
    assert (labels.labels, labels.width) == (("Cleo",), 28)
    mine = m.WritePartitions(first=1, width=1, partitions=(1,), command_sequence=7)
    assert room.code_of(mine) == ResponseCode.FUNCTION_NOT_AVAILABLE
    assert room.ask(m.ReadUserTypes(first=4, count=2)) == m.UserTypes(first=4, width=1, types=(1, 0))
