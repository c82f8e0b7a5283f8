"""Commands and their outcomes: itv2-protocol.md sections 9.4 and 12, users-and-history section 4."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from itv2_hub_lab import ADMIN, ARMED_AWAY, QUICK, READY, HubLab, running, timed_out

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import NOT_SENT, Rejected, UnknownOutcome
from sojourn.gateways.itv2.commands import (
    SCOPES,
    UNSUPPORTED,
    ArmPartition,
    Asker,
    BypassAndArm,
    BypassZones,
    ClearBypasses,
    DisarmPartition,
    PanelCommand,
    ReadLabels,
    ReadUsers,
    Refresh,
    SendRaw,
    Unsupported,
)
from sojourn.gateways.itv2.desk import COMMAND
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.hub_config import LockoutSettings, PanelProfile
from sojourn.gateways.itv2.procedures import LEFT_OPEN, NEVER_RAW, name_of
from sojourn.gateways.itv2.words import ARMABLE

CODE = Secret("5678")
WRONG = Secret("9999")
PROFILE = PanelProfile(name="house", integration_id="123456789012", default_code=CODE)
AWAY = ArmPartition(1, m.ArmingMode.AWAY, CODE)


def asking(lab, command, request_id="1", asker=ADMIN):
    return lab.panel.carry_out(command, asker, request_id)


@pytest.mark.parametrize("mode", sorted(ARMABLE.values()))
def test_every_mode_can_be_asked_for(run, mode):
    """The issue: away, stay, night, no-entry; "expose all known modes"."""

    async def conversation():
        async with running(HubLab()) as lab:
            outcome = await asking(lab, ArmPartition(1, mode, CODE))
            assert (outcome.result, outcome.reason, outcome.request_id) == ("accepted", "", "1")
            assert lab.session.asked[0] == m.Arm(partition=1, mode=mode, code="5678")

    run(conversation())


def test_one_touch_arming_sends_no_code(run):
    """Section 12: "without code: works only when one-touch arming is on in the panel"."""

    async def conversation():
        async with running(HubLab()) as lab:
            await asking(lab, ArmPartition(1, 1))
            assert lab.session.asked[0].code == ""
        async with running(HubLab(PROFILE)) as lab:
            await asking(lab, ArmPartition(1, 1))
            await asking(lab, ArmPartition(1, 1, Secret("")), "2")
            assert [one.code for one in lab.session.of(m.Arm)] == ["5678", ""]

    run(conversation())


def test_refusals_are_in_words_with_the_panels_number(run):
    """The issue: "rejected with the panel's reason in words"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.ARM] = [
                Rejected(4),
                Rejected(20),
                Rejected(2, is_nack=True),
                Rejected(99),
            ]
            found = []
            for number in range(4):
                outcome = await asking(lab, AWAY, str(number))
                found.append((outcome.result, outcome.code, outcome.reason))
            assert found == [
                ("rejected", 4, "not ready: some or all partitions failed to arm"),
                ("rejected", 20, "there is no such partition"),
                ("rejected", 2, "the communicator does not know the command"),
                ("rejected", 99, "the panel refuses with code 99"),
            ]

    run(conversation())


def test_an_answer_that_does_not_come_is_an_unknown_outcome_and_is_never_sent_again(run):
    """Section 5.2: "never retry a command that may change state: report unknown outcome and refresh the status"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.DISARM] = [timed_out()]
            outcome = await asking(lab, DisarmPartition(1, CODE))
            assert outcome.result == "unknown"
            assert outcome.reason == "the panel did not answer the command in time"
            await lab.pass_s(2)
            assert len(lab.session.of(m.Disarm)) == 1
            assert len(lab.session.of(m.RequestZoneStatus)) == 1

    run(conversation())


def test_what_was_not_sent_is_rejected(run):
    """Nothing has left the house, so nothing is unknown."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.ARM] = [UnknownOutcome(f"{NOT_SENT}a replay took too long")]
            outcome = await asking(lab, AWAY)
            assert (outcome.result, outcome.reason) == ("rejected", "a replay took too long")
            lab.panel.lost("gone")
            outcome = await asking(lab, AWAY, "2")
            assert (outcome.result, outcome.reason) == ("rejected", "the panel is not connected")

    run(conversation())


@pytest.mark.parametrize(
    "command", [Refresh(), ReadLabels(), ClearBypasses(1), AWAY, ReadUsers(), SendRaw(0x0819)]
)
def test_a_panel_that_is_not_there_is_asked_nothing(run, command):
    """Never seen, it has nothing that could be read; that is no reason to say that all went well."""

    async def conversation():
        async with running(HubLab(), is_connected=False) as lab:
            outcome = await asking(lab, command)
            assert (outcome.result, outcome.reason) == ("rejected", "the panel is not connected")

    run(conversation())


@pytest.mark.parametrize(
    ("command", "answer", "result"),
    [
        (Refresh(), timed_out(), "unknown"),
        (Refresh(), UnknownOutcome(f"{NOT_SENT}a replay took too long"), "rejected"),
        (ClearBypasses(1, CODE), timed_out(), "unknown"),
    ],
)
def test_what_was_not_read_is_not_taken_for_read(run, command, answer, result):
    """A question that was not answered is an unknown outcome, one that was not asked a rejected one."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.COMMAND_REQUEST] = [answer]
            assert (await asking(lab, command)).result == result

    run(conversation())


def test_a_repeated_request_gets_the_same_outcome_and_sends_nothing(run):
    """The contract: "no duplicate disarm after a timeout"; 10 minutes, and per asker."""

    async def conversation():
        async with running(HubLab()) as lab:
            first, second = await asyncio.gather(asking(lab, AWAY), asking(lab, AWAY))
            assert first is second
            assert await asking(lab, AWAY) is first
            assert len(lab.session.of(m.Arm)) == 1
            await asking(lab, AWAY, asker=Asker("ben", frozenset({"arm"})))
            assert len(lab.session.of(m.Arm)) == 2
            await lab.pass_s(600)
            await asking(lab, AWAY)
            assert len(lab.session.of(m.Arm)) == 3

    run(conversation())


def test_request_ids_are_bounded(run):
    """``request_ids_count``: nobody fills the memory with them."""

    async def conversation():
        settings = msgspec.structs.replace(QUICK, request_ids_count=16)
        async with running(HubLab(settings=settings)) as lab:
            for number in range(100):
                await asking(lab, Unsupported("panic"), str(number))
            assert len(lab.panel.desk.requests) == 16

    run(conversation())


def test_a_command_is_finished_even_if_nobody_waits_for_it(run):
    """A client that hangs up in the middle must not leave a panel in programming."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.gate = asyncio.Event()
            task = asyncio.get_running_loop().create_task(asking(lab, BypassZones(1, (2,), code=CODE)))
            await lab.settle()
            task.cancel()
            lab.session.gate.set()
            await lab.until(lambda: lab.session.of(m.ExitConfiguration) and lab.session.mode is None)
            assert (await asking(lab, BypassZones(1, (2,), code=CODE))).result == "accepted"
            assert len(lab.session.of(m.BypassZone)) == 1

    run(conversation())


def test_commands_wait_in_a_bounded_queue_with_a_deadline(run):
    """One procedure per panel at a time; ``commands_count`` and ``command_within_s``."""

    async def conversation():
        settings = msgspec.structs.replace(QUICK, commands_count=2, command_within_s=0.01)
        async with running(HubLab(settings=settings)) as lab:
            lab.session.gate = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                tasks = []
                for number in range(4):
                    tasks.append(group.create_task(asking(lab, AWAY, str(number))))
                    await lab.settle()
                await lab.until(lambda: all(task.done() for task in tasks[1:]))
                lab.session.gate.set()
            reasons = [task.result().reason for task in tasks]
            busy = "the panel is busy with other commands"
            assert reasons == ["", busy, busy, "too many commands wait for this panel"]
            assert len(lab.session.of(m.Arm)) == 1

    run(conversation())


def test_scopes_are_checked_where_commands_are_carried_out(run):
    """read, arm, disarm, bypass, admin; every kind of command has its scope."""

    async def conversation():
        async with running(HubLab()) as lab:
            arming = Asker("panel-app", frozenset({"read", "arm"}))
            assert (await asking(lab, AWAY, asker=arming)).result == "accepted"
            outcome = await asking(lab, DisarmPartition(1, CODE), "2", arming)
            assert (outcome.result, outcome.reason) == (
                "rejected",
                "panel-app may not do this: it needs the scope disarm",
            )
            outcome = await asking(lab, BypassAndArm(1, 2, code=CODE), "3", arming)
            assert "bypass" in outcome.reason
            assert lab.session.of(m.Disarm) == []

    assert set(SCOPES) == set(PanelCommand.__args__)
    run(conversation())


def test_wrong_codes_are_locked_out_before_the_panel_locks_its_keypads(run):
    """Section 10.3 code 9, users-and-history section 6 point 10."""

    async def conversation():
        async with running(HubLab(lockout=LockoutSettings(failures_count=3, lock_s=300.0))) as lab:
            for number in range(3):
                outcome = await asking(lab, DisarmPartition(1, WRONG), str(number))
                assert (outcome.code, outcome.reason) == (17, "wrong access code")
            outcome = await asking(lab, DisarmPartition(1, CODE), "4")
            assert outcome.reason == "no access codes are sent for 300 s: too many were wrong"
            assert len(lab.session.of(m.Disarm)) == 3
            assert (await asking(lab, ArmPartition(1, 1, Secret("")), "5")).result == "accepted"
            await lab.pass_s(300)
            assert (await asking(lab, DisarmPartition(1, CODE), "6")).result == "accepted"

    run(conversation())


def test_a_panel_that_is_locked_out_gets_no_more_codes(run):
    """Section 10.3: "9 (lock-out): stop sending codes for that partition for some minutes; do not retry"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[2] = READY
            lab.panel.learn(m.PartitionStatus(partition=2, status=READY))
            lab.session.refuse[m.Word.DISARM] = [Rejected(m.NackCode.LOCK_OUT, is_nack=True)]
            outcome = await asking(lab, DisarmPartition(1, CODE))
            assert outcome.reason == "the panel is locked out after wrong codes"
            for number in (1, 2):
                assert (
                    "no access codes are sent"
                    in (await asking(lab, DisarmPartition(number, CODE), f"a{number}")).reason
                )
            assert len(lab.session.of(m.Disarm)) == 1

    run(conversation())


@pytest.mark.parametrize("code", ["123", "12345", "1234567", "123456789", "12a4", "12³4"])
def test_what_can_be_no_code_is_not_sent(run, code):
    """Section 9.4: 4, 6 and 8 digits."""

    async def conversation():
        async with running(HubLab()) as lab:
            outcome = await asking(lab, DisarmPartition(1, Secret(code)))
            assert outcome.reason == "an access code has 4, 6 or 8 digits"
            assert lab.session.asked == []

    run(conversation())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (DisarmPartition(1), "an access code is required"),
        (DisarmPartition(7, CODE), "there is no partition 7"),
        (ArmPartition(1, 0, CODE), "nothing can be armed in disarm"),
        (ArmPartition(1, 10, CODE), "nothing can be armed in mode 10"),
        (BypassZones(1, (), code=CODE), "no zone was named"),
        (BypassZones(1, (2, 77), code=CODE), "there is no zone 77"),
        (BypassZones(1, (2,)), "an access code is required"),
    ],
)
def test_what_makes_no_sense_is_not_sent(run, command, reason):
    """Bad input gets one clear line."""

    async def conversation():
        async with running(HubLab()) as lab:
            outcome = await asking(lab, command)
            assert (outcome.result, outcome.reason) == ("rejected", reason)
            assert lab.session.asked == []

    run(conversation())


def test_a_bypass_enters_bypasses_leaves_and_looks(run):
    """Section 12: 0704 mode 3, 074A, always 0701; then the status says whether it is so."""

    async def conversation():
        async with running(HubLab()) as lab:
            outcome = await asking(lab, BypassZones(1, (3, 2), code=CODE))
            assert outcome.result == "accepted"
            assert lab.session.asked[:4] == [
                m.EnterConfiguration(partition=1, mode=3, code="5678", is_writing=True),
                m.BypassZone(partition=1, zone=2, is_bypassed=True),
                m.BypassZone(partition=1, zone=3, is_bypassed=True),
                m.ExitConfiguration(partition=1),
            ]
            assert lab.zone(2).bypassed.value is True
            assert [one.zone for one in lab.watcher.events if one.kind == Kind.ZONE_BYPASSED] == [2, 3]

    run(conversation())


@pytest.mark.parametrize(
    ("answer", "result"),
    [(Rejected(28), "rejected"), (timed_out(), "unknown"), (Rejected(2, is_nack=True), "rejected")],
)
def test_programming_is_left_also_on_failure(run, answer, result):
    """Fault 15: "bypass must always leave programming, also on failure"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.BYPASS_ZONE] = [answer]
            outcome = await asking(lab, BypassZones(1, (2,), code=CODE))
            assert outcome.result == result
            assert lab.session.mode is None
            assert len(lab.session.of(m.ExitConfiguration)) == 1

    run(conversation())


def test_one_zone_that_is_refused_does_not_stop_the_others(run):
    """Each has its reason."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.BYPASS_ZONE] = [Rejected(28)]
            outcome = await asking(lab, BypassZones(1, (1, 2), code=CODE))
            assert (outcome.result, outcome.code) == ("rejected", 28)
            assert outcome.reason == "zone 1: there is no such device or module"
            assert lab.zone(2).bypassed.value is True

    run(conversation())


def test_a_panel_that_agrees_and_does_nothing_is_found_out(run):
    """ "Accepted" is what the status confirms."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.on_command = lambda _: lab.session.zones.update({2: 0})
            outcome = await asking(lab, BypassZones(1, (2,), code=CODE))
            assert outcome.reason == "the panel agreed, but zone 2 is not bypassed"

    run(conversation())


def test_a_busy_panel_is_left_first_and_entered_again(run):
    """Fault 16: "entering programming when already in -> busy: leave first, wait 500 ms"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.mode = m.ProgrammingMode.USER_FUNCTIONS
            assert (await asking(lab, BypassZones(1, (2,), code=CODE))).result == "accepted"
            enter, leave = m.Word.ENTER_CONFIGURATION, m.Word.EXIT_CONFIGURATION
            assert lab.session.words[:4] == [enter, leave, enter, m.Word.BYPASS_ZONE]

    run(conversation())


def test_programming_that_the_status_shows_is_left_before_entering(run):
    """Section 12: "status byte 2 bit 08: exit first"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.mode = m.ProgrammingMode.USER_BYPASS
            lab.panel.learn(m.PartitionStatus(partition=1, status=bytes((m.PartitionFlag.NOT_READY, 8))))
            assert (await asking(lab, BypassZones(1, (2,), code=CODE))).result == "accepted"
            assert lab.session.words[0] == m.Word.EXIT_CONFIGURATION

    run(conversation())


def test_somebody_at_a_keypad_is_not_thrown_out(run):
    """Users' complaint: "gateway must not block keypads or programming"."""

    async def conversation():
        async with running(HubLab()) as lab:
            time = m.PanelTime(2026, 9, 21, 14, 13, 20)
            lab(m.ProgrammingLead(partition=1, phase=0, user=0, access=2, mode=0, time=time))
            await lab.settle()
            lab.session.asked.clear()
            outcome = await asking(lab, BypassZones(1, (2,), code=CODE))
            assert outcome.reason == "the panel is being programmed by keypad"
            assert lab.session.asked == []

    run(conversation())


def test_nothing_is_programmed_where_something_is_armed(run):
    """Section 12: "do not enter while any partition is armed or in delay"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            lab(m.Arming(partition=1, mode=2, method=1, user=2))
            await lab.settle()
            lab.session.asked.clear()
            outcome = await asking(lab, BypassZones(1, (2,), code=CODE))
            assert outcome.reason == "partition 1 is armed, or in a delay or an alarm"
            assert lab.session.asked == []

    run(conversation())


def test_the_first_command_waits_until_programming_has_begun(run):
    """Fault 16: "without waiting for the lead-in the first command is refused spuriously"."""

    async def conversation():
        settings = msgspec.structs.replace(QUICK, lead_in_within_s=30.0)
        async with running(HubLab(settings=settings)) as lab:
            task = asyncio.get_running_loop().create_task(asking(lab, BypassZones(1, (2,), code=CODE)))
            await lab.settle()
            assert lab.session.words == [m.Word.ENTER_CONFIGURATION]
            time = m.PanelTime(2026, 9, 21, 14, 13, 20)
            lab(m.ProgrammingLead(partition=1, phase=0, user=2, access=0, mode=3, time=time))
            assert (await task).result == "accepted"

    run(conversation())


def test_a_session_that_is_lost_in_programming_ends_the_wait(run):
    """Every wait ends."""

    async def conversation():
        settings = msgspec.structs.replace(QUICK, lead_in_within_s=30.0)
        async with running(HubLab(settings=settings)) as lab:
            task = asyncio.get_running_loop().create_task(asking(lab, BypassZones(1, (2,), code=CODE)))
            await lab.settle()
            lab.panel.lost("cable cut")
            outcome = await task
            assert outcome.result in {"unknown", "rejected"}
            assert lab.emitted(LEFT_OPEN) == [("house", 1, f"{NOT_SENT}the panel is not connected")]

    run(conversation())


def test_leaving_is_said_twice_if_nobody_answers(run):
    """It is harmless twice; what stays open is said, and left at the next connection."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.EXIT_CONFIGURATION] = [timed_out()]
            await asking(lab, BypassZones(1, (2,), code=CODE))
            assert len(lab.session.of(m.ExitConfiguration)) == 2
            assert lab.emitted(LEFT_OPEN) == []
            lab.session.refuse[m.Word.EXIT_CONFIGURATION] = [timed_out(), timed_out()]
            await asking(lab, BypassZones(1, (2,), code=CODE), "2")
            assert len(lab.emitted(LEFT_OPEN)) == 1

    run(conversation())


def test_bypass_and_arm_bypasses_what_is_open(run):
    """Users' wish: "bypass before arming, arm with open zones"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.zones[2] = m.ZoneFlag.OPEN
            lab(m.ZoneLifestyle(zone=2, state=1))
            outcome = await asking(lab, BypassAndArm(1, m.ArmingMode.AWAY, code=CODE))
            assert outcome.result == "accepted"
            assert [one.zone for one in lab.session.of(m.BypassZone)] == [2]
            assert lab.session.words.index(m.Word.EXIT_CONFIGURATION) < lab.session.words.index(m.Word.ARM)

    run(conversation())


def test_nothing_is_armed_that_could_not_be_bypassed(run):
    """Half of it would be worse than nothing."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.refuse[m.Word.BYPASS_ZONE] = [Rejected(23)]
            outcome = await asking(lab, BypassAndArm(1, 2, (3,), CODE))
            assert outcome.reason == "not armed: zone 3: the function is not available"
            assert lab.session.of(m.Arm) == []
            lab.session.refuse[m.Word.ARM] = [Rejected(4)]
            outcome = await asking(lab, BypassAndArm(1, 2, (3,), CODE), "2")
            assert outcome.reason == "zone 3 bypassed, then: not ready: some or all partitions failed to arm"

    run(conversation())


def test_all_bypasses_are_cleared_at_once(run):
    """Users-and-history section 1: "group / all bypass clear"; nothing is entered where there is nothing."""

    async def conversation():
        async with running(HubLab()) as lab:
            assert (await asking(lab, ClearBypasses(1, CODE))).result == "accepted"
            assert lab.session.of(m.EnterConfiguration) == []
            lab.session.zones.update({1: m.ZoneFlag.BYPASSED, 3: m.ZoneFlag.BYPASSED})
            assert (await asking(lab, ClearBypasses(1, CODE), "2")).result == "accepted"
            assert [(one.zone, one.is_bypassed) for one in lab.session.of(m.BypassZone)] == [
                (1, False),
                (3, False),
            ]
            assert lab.zone(1).bypassed.value is False

    run(conversation())


def test_labels_and_statuses_are_read_when_asked_for(run):
    """Reads are commands like others."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.zone_labels[1] = "Back Door"
            lab.session.zones[1] = m.ZoneFlag.TAMPER
            assert (await asking(lab, ReadLabels())).result == "accepted"
            assert lab.zone(1).label.value == "Back Door"
            assert lab.zone(1).tamper.value is True
            lab.session.refuse[m.Word.COMMAND_REQUEST] = [timed_out()]
            assert (await asking(lab, Refresh(), "2")).result == "unknown"

    run(conversation())


@pytest.mark.parametrize("what", sorted(UNSUPPORTED))
def test_what_has_no_layout_is_not_guessed(run, what):
    """Section 9.7: "do not guess these on a live alarm panel"."""

    async def conversation():
        async with running(HubLab()) as lab:
            outcome = await asking(lab, Unsupported(what))
            assert outcome.result == "unsupported"
            assert outcome.reason.startswith("unsupported: layout unknown")
            assert lab.session.asked == []

    run(conversation())


def test_a_raw_word_goes_as_it_is_with_room_for_the_sequence(run):
    """Section 9.7 (b): the expert's console; 0800 has a layout of its own."""

    async def conversation():
        async with running(HubLab()) as lab:
            outcome = await asking(lab, SendRaw(0x0902, b"\x01\x02"))
            assert outcome.reason == "the communicator does not know the command"
            await asking(lab, SendRaw(0x0800, b"\x08\x10"), "2")
            assert lab.session.asked == [
                m.Unknown(number=0x0902, body=b"\x00\x01\x02"),
                m.CommandRequest(requested=0x0810),
            ]

    run(conversation())


@pytest.mark.parametrize("word", [*sorted(NEVER_RAW), 0, 0x10000])
def test_some_words_are_never_sent_raw(run, word):
    """Section 9.8: 074F resets the programming; others carry codes, or are the session's own."""

    async def conversation():
        async with running(HubLab()) as lab:
            assert (await asking(lab, SendRaw(word, b"\x01"))).result == "rejected"
            assert lab.session.asked == []

    run(conversation())


def test_every_command_is_audited_with_its_asker_and_without_its_code(run):
    """The issue, point 6: "every command audited with the token's name"."""

    async def conversation():
        async with running(HubLab()) as lab:
            await asking(lab, AWAY, "r1", Asker("phone", frozenset({"arm"})))
            await asking(lab, DisarmPartition(1, WRONG), "r2", Asker("phone", frozenset({"disarm"})))
            await asking(lab, DisarmPartition(1, CODE), "r3", Asker("phone", frozenset()))
            events = [one for one in lab.stored if one.kind == Kind.COMMAND]
            assert [(one.detail["command"], one.detail["result"], one.partition) for one in events] == [
                ("arm_partition", "accepted", 1),
                ("disarm_partition", "rejected", 1),
                ("disarm_partition", "rejected", 1),
            ]
            assert {one.detail["asker"] for one in events} == {"phone"}
            assert events[0].detail["mode"] == "away"
            assert len(lab.emitted(COMMAND)) == 3
            shown = repr((events, lab.emitted(COMMAND), AWAY, lab.panel.desk.requests, lab.panel.saved()))
            assert "5678" not in shown
            assert "9999" not in shown

    run(conversation())


def test_a_gateway_that_does_not_run_carries_nothing_out(run):
    """Before its start and while it stops."""

    async def conversation():
        lab = HubLab()
        lab.panel.connected(lab.session)
        outcome = await asking(lab, AWAY)
        assert (outcome.result, outcome.reason) == ("rejected", "the gateway is not running")

    run(conversation())


def test_a_command_that_the_end_interrupts_has_an_unknown_outcome(run):
    """Whoever waits gets an answer, and the panel is left."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            lab.session.gate = asyncio.Event()
            task = asyncio.get_running_loop().create_task(asking(lab, AWAY))
            await lab.settle()
        outcome = await task
        assert (outcome.result, outcome.reason) == ("unknown", "the gateway is being stopped")

    run(conversation())


def test_commands_have_names_of_small_letters():
    """They are what audits and topics show."""
    assert name_of(BypassAndArm(1, 2)) == "bypass_and_arm"
    assert name_of(AWAY) == "arm_partition"
