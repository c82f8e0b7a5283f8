"""Users and sections: itv2-protocol.md sections 9.5, 9.6 and 12; users-and-history section 4, faults 5 to 7, 17, 18."""

from __future__ import annotations

import pytest
from itv2_hub_lab import ADMIN, READY, FakeUser, HubLab, running, timed_out

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Rejected
from sojourn.gateways.itv2.commands import ReadSections, ReadUsers, WriteUser
from sojourn.gateways.itv2.device_class import device_class_of
from sojourn.gateways.itv2.hub_config import PanelProfile
from sojourn.gateways.itv2.programming import MASTER_CODE_CHANGED

MASTER = Secret("1234")
PROFILE = PanelProfile(
    name="house",
    integration_id="123456789012",
    master_code=MASTER,
    installer_code=Secret("5555"),
    user_writes=True,
)


def asking(lab, command, request_id="1"):
    return lab.panel.carry_out(command, ADMIN, request_id)


def test_users_are_read_without_their_codes(run):
    """Section 9.6: "reading codes returns clear PINs: never log them"; all-A codes are disabled slots."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            lab.session.users[2] = FakeUser("5678", attributes=4, partitions=3, label="Anna")
            outcome = await asking(lab, ReadUsers())
            assert outcome.result == "accepted"
            anna = outcome.data[1]
            assert (anna.number, anna.label, anna.is_enabled, anna.attributes) == (2, "Anna", True, 4)
            assert (anna.partitions, anna.kind) == ((1, 2), "pin")
            assert [one.is_enabled for one in outcome.data] == [True, True, False, False]
            assert "5678" not in repr(outcome)
            assert lab.session.asked[0] == m.EnterConfiguration(
                partition=1, mode=1, code="1234", is_writing=False
            )
            assert lab.session.mode is None
            assert lab.panel.desk.requests == {}

    run(conversation())


def test_users_are_read_in_batches(run):
    """Section 9.6: "size batches so that a message stays under 255 payload bytes"."""

    async def conversation():
        lab = HubLab(PROFILE)
        lab.session.users = {number: FakeUser() for number in range(1, 96)}
        lab.session.users[1].code = "1234"
        async with running(lab):
            outcome = await asking(lab, ReadUsers())
            assert len(outcome.data) == 95
            assert [(one.first, one.count) for one in lab.session.of(m.ReadCodes)] == [
                (1, 32),
                (33, 32),
                (65, 31),
            ]
            some = await asking(lab, ReadUsers(first=94, count=9), "2")
            assert [one.number for one in some.data] == [94, 95]

    run(conversation())


def test_writing_users_is_off_unless_it_is_switched_on(run):
    """The issue, point 4: "master-code user writes behind an explicit switch"."""

    async def conversation():
        profile = PanelProfile(name="house", integration_id="123456789012", master_code=MASTER)
        async with running(HubLab(profile)) as lab:
            outcome = await asking(lab, WriteUser(3, label="Ben"))
            assert outcome.reason == "writing users is switched off: user_writes"
            assert lab.session.asked == []

    run(conversation())


def test_a_code_is_written_alone_and_read_before_the_rest(run):
    """Fault 17: "enabling/disabling a user resets its attributes: write code alone, then re-read"."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            command = WriteUser(3, code=Secret("4321"), attributes=8, partitions=(1, 2), label="Ben")
            outcome = await asking(lab, command)
            assert outcome.result == "accepted", outcome.reason
            writes = [type(one) for one in lab.session.asked if type(one).__name__.startswith("Write")]
            assert writes == [m.WriteCodes, m.WriteAttributes, m.WritePartitions, m.WriteLabels]
            written = lab.session.words.index(m.Word.WRITE_CODES)
            assert lab.session.words[written + 1] == m.Word.READ_CODES
            assert lab.session.users[3] == FakeUser("4321", 8, 3, "Ben")
            record = outcome.data
            assert (record.label, record.is_enabled, record.attributes, record.partitions) == (
                "Ben",
                True,
                8,
                (1, 2),
            )
            assert lab.panel.state.user_labels[3].value == "Ben"

    run(conversation())


def test_a_user_is_disabled_by_a_code_of_as(run):
    """Fault 7: "disabled codes are AAAA"; as wide as this panel's codes."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            outcome = await asking(lab, WriteUser(2, is_enabled=False))
            assert outcome.data.is_enabled is False
            assert lab.session.users[2].code == "AAAA"

    run(conversation())


def test_a_new_master_code_is_used_from_then_on_and_said(run):
    """Fault 18: "a changed master code must update the stored one"."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            assert (await asking(lab, WriteUser(1, code=Secret("8765")))).result == "accepted"
            assert lab.emitted(MASTER_CODE_CHANGED) == [("house", "ana")]
            assert (await asking(lab, WriteUser(2, label="Anne"), "2")).result == "accepted"
            assert lab.session.of(m.EnterConfiguration)[-1].code == "8765"

    run(conversation())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (WriteUser(1, attributes=1), "the master's rights cannot be written"),
        (WriteUser(1, partitions=(1,)), "the master's rights cannot be written"),
        (WriteUser(1, is_enabled=False), "the master's rights cannot be written"),
        (WriteUser(0, label="x"), "users are 1 to 4"),
        (WriteUser(5, label="x"), "users are 1 to 4"),
        (WriteUser(3), "nothing was said to write"),
        (WriteUser(3, is_enabled=True), "a user is enabled by giving a code"),
        (WriteUser(3, code=Secret("1111"), is_enabled=False), "a user is either given a code or disabled"),
        (WriteUser(3, code=Secret("")), "a user is either given a code or disabled"),
        (WriteUser(3, code=Secret("12345")), "an access code has 4, 6 or 8 digits"),
        (WriteUser(3, attributes=256), "attributes are 8 bits"),
        (WriteUser(3, partitions=(1, 9)), "there is no such partition"),
        (WriteUser(3, label="x" * 15), "a user's name has at most 14 characters"),
        (ReadUsers(first=9), "users are 1 to 4"),
    ],
)
def test_what_cannot_be_written_is_not_sent(run, command, reason):
    """Fault 18: "master's attributes/partitions are read-only", and plain sense."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            outcome = await asking(lab, command)
            assert (outcome.result, outcome.reason) == ("rejected", reason)
            assert lab.session.asked == []

    run(conversation())


def test_a_code_of_another_length_is_not_written(run):
    """A panel's codes have all the same length."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            outcome = await asking(lab, WriteUser(3, code=Secret("123456")))
            assert outcome.reason == "this panel's codes have 4 digits"
            assert lab.session.of(m.WriteCodes) == []
            assert lab.session.mode is None

    run(conversation())


def test_a_write_that_is_not_answered_is_unknown_and_left(run):
    """Never again by itself, and not in programming any more."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            lab.session.refuse[m.Word.WRITE_CODES] = [timed_out()]
            assert (await asking(lab, WriteUser(3, code=Secret("4321")))).result == "unknown"
            assert len(lab.session.of(m.WriteCodes)) == 1
            assert lab.session.mode is None

    run(conversation())


def test_a_wrong_master_code_counts_as_a_wrong_code(run):
    """The panel locks out whatever the code was for."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            for number in range(3):
                await asking(lab, ReadUsers(master_code=Secret("0000")), str(number))
            assert "no access codes are sent" in (await asking(lab, ReadUsers(), "4")).reason

    run(conversation())


def test_programming_says_what_zones_are_and_where(run):
    """Section 9.5: [001] definitions, [200] partitions, [200+p] zones with the first in the highest bit."""

    async def conversation():
        lab = HubLab(PROFILE)
        lab.session.partitions[2] = READY
        lab.session.sections = {
            (1, 1): bytes((1, 4, 0, 0, 8, 0, 0, 0)),
            (200, 1): bytes((1, 1)),
            (201, 1): b"\xc0",
            (202, 1): b"\x48",
        }
        async with running(lab):
            outcome = await asking(lab, ReadSections())
            assert outcome.result == "accepted", outcome.reason
            state = lab.panel.state
            assert {number: zone.definition.value for number, zone in state.zones.items()} == {
                1: 1,
                2: 4,
                3: 0,
                5: 8,
            }
            assert {number: zone.partitions.value for number, zone in state.zones.items()} == {
                1: (1,),
                2: (1, 2),
                3: (),
                5: (2,),
            }
            assert state.partitions[2].is_enabled.value is True
            assert [device_class_of(state.zones[number].definition.value) for number in (1, 2, 5)] == [
                "door",
                "motion",
                "smoke",
            ]
            assert lab.session.asked[0] == m.EnterConfiguration(
                partition=1, mode=0, code="5555", is_writing=False
            )
            assert lab.session.of(m.SectionRead)[0].section == m.Section(address=(1, 1), count=8)
            assert lab.session.mode is None

    run(conversation())


def test_a_section_is_shown_to_whoever_asked_and_kept_nowhere(run):
    """What sections hold may be secret."""

    async def conversation():
        lab = HubLab(PROFILE)
        lab.session.sections[7, 1] = b"\x12\x34\x56"
        async with running(lab):
            section = m.Section(address=(7, 1))
            outcome = await asking(lab, ReadSections((section,)))
            assert [(one.section, one.data) for one in outcome.data] == [(section, b"\x12\x34\x56")]
            assert lab.panel.desk.requests == {}
            assert "123456" not in repr(lab.stored)
            too_many = await asking(lab, ReadSections((section,) * 65), "2")
            assert too_many.reason == "at most 64 sections at once"

    run(conversation())


def test_a_refused_section_ends_the_reading_and_leaves(run):
    """The reason is the panel's."""

    async def conversation():
        async with running(HubLab(PROFILE)) as lab:
            lab.session.refuse[m.Word.SECTION_READ] = [Rejected(3)]
            outcome = await asking(lab, ReadSections())
            assert (outcome.result, outcome.code) == ("rejected", 3)
            assert lab.session.mode is None

    run(conversation())


def test_the_installer_is_never_entered_unasked(run):
    """Fault 31: "entering installer mode at every connect when an installer code is stored"."""

    async def conversation():
        lab = HubLab(PROFILE)
        async with running(lab, is_connected=False):
            lab.panel.connected(lab.session)
            await lab.panel.pull()
            await lab.pass_s(700)
            assert lab.session.of(m.EnterConfiguration) == []

    run(conversation())
