"""What real lines and hostile peers do to a session: bad moments, double panels, late answers, slow disks."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from itv2_lab import (
    ID,
    TYPE_2,
    Lab,
    ScriptedPanel,
    asked,
    itv2_lab,
    kinds,
    line,
    opening,
    panel_settings,
)

from sojourn.core.secret import Secret
from sojourn.errors import LocalProtocolError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Done, Rejected, UnknownOutcome
from sojourn.gateways.itv2.commands import ArmPartition, Asker, BypassZones
from sojourn.gateways.itv2.config import Itv2Limits, Itv2Settings
from sojourn.gateways.itv2.encryption import FrameCipher, type2_key
from sojourn.gateways.itv2.history import HistoryQuery

READY = m.ReadyStatus(partition=1, status=1)
OPENED = m.ZoneLifestyle(zone=5, state=1)
ARM = m.Arm(partition=1, mode=2, code="1234")
ADMIN = Asker("ana", frozenset({"admin"}))


async def sources(lab: Lab, kind: str = "zone_opened") -> list[str]:
    """Where the events of a kind come from, the oldest first."""
    await lab.settle()
    page = await lab.gateway.history.search(HistoryQuery(kinds=(kind,), is_oldest_first=True))
    return [one.source for one in page.entries]


async def replaying(lab: Lab, **fields) -> ScriptedPanel:
    """A panel whose handshake is done and whose replay is not over."""
    panel = await lab.dial(**fields)
    await panel.shake_hands()
    await lab.settle()
    return panel


# Bad moments


def test_a_command_that_waited_for_a_poll_is_not_sent_into_a_handshake(run, tmp_path):
    """Section 7.5: who starts over has no keys; a code that goes out then goes out in clear text, or is lost."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            lab.clock.advance(45)
            await panel.hears_of(m.Poll)
            async with asked(lab, ARM) as answer:
                acknowledgement = panel.packet(m.SimpleAck())
                panel.incoming = panel.outgoing = None
                panel.sent = panel.heard = 0
                panel.raw(acknowledgement + panel.packet(opening(command_sequence=7)))
                assert await panel.hears_of(m.CommandResponse) == m.CommandResponse(command_sequence=7)
            assert isinstance(answer.result(), UnknownOutcome)
            assert not answer.result().was_sent

    run(conversation())


def test_what_comes_while_we_end_a_session_in_its_replay_is_a_replay(run, tmp_path):
    """The issue: events queued during an outage never act as live, whatever the moment of a SIGTERM."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await replaying(lab)
            async with asyncio.TaskGroup() as group:
                group.create_task(lab.server.managers["itv2"].drain(20))
                await panel.hears_of(m.EndSession)
                panel.say(OPENED)
                await panel.acknowledged()
                panel.acknowledge()
                await panel.hears_end()
            assert await sources(lab) == ["replay"]

    run(conversation())


def test_a_stop_in_a_handshake_ends_it_at_once(run, tmp_path):
    """Section 12: there is no session yet that END_SESSION could end."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.open_session()
            panel.ask_for_access()
            await panel.hears_of(m.CommandResponse)
            async with asyncio.timeout(5):
                await lab.server.managers["itv2"].drain(20)
            assert await panel.hears_end() == b""
            assert lab.panel.phase == "disconnected"

    run(conversation())


def test_a_stop_while_a_command_is_under_way_says_that_its_outcome_is_unknown(run, tmp_path):
    """The issue: unknown outcome is reported as such."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, ARM) as answer, asyncio.TaskGroup() as group:
                await panel.hears_of(m.Arm)
                group.create_task(lab.server.managers["itv2"].drain(20))
                await panel.hears_of(m.EndSession)
                panel.acknowledge()
                await panel.hears_end()
            assert answer.result() == UnknownOutcome("the session ended before the answer: the server stops")

    run(conversation())


def test_a_stop_waits_for_the_end_of_a_bypass(run, tmp_path):
    """users-and-history section 4, fault 15: programming is always left, and nothing else begins meanwhile."""

    async def conversation():
        async with line(tmp_path) as (lab, panel), asyncio.TaskGroup() as group:
            lab.panel.phase = "connected"

            async def heard(kind):
                while not isinstance(message := (await panel.hears()).message, kind):
                    assert isinstance(message, m.SimpleAck), message
                return message

            async def answered(kind):
                panel.say(m.CommandResponse(command_sequence=(await heard(kind)).command_sequence))

            bypass = BypassZones(partition=1, zones=(5,), is_bypassed=True, code=Secret("1234"))
            first = group.create_task(lab.panel.carry_out(bypass, ADMIN, "1"))
            await answered(m.EnterConfiguration)
            lead = {
                "partition": 1,
                "user": 0,
                "access": 0,
                "mode": 3,
                "time": m.PanelTime(2026, 2, 8, 1, 2, 3),
            }
            panel.say(m.ProgrammingLead(phase=m.LeadPhase.IN, **lead))
            stop = group.create_task(lab.server.stop(timeout_s=20))
            await asyncio.sleep(0)
            second = group.create_task(lab.panel.carry_out(ArmPartition(1, m.ArmingMode.AWAY), ADMIN, "2"))
            await answered(m.BypassZone)
            await answered(m.ExitConfiguration)
            await heard(m.RequestPartitionStatus)
            panel.say(m.PartitionStatus(partition=1, status=bytes((m.PartitionFlag.READY, 0))))
            assert (await first).result == "accepted"
            await heard(m.EndSession)
            panel.acknowledge()
            await panel.hears_end()
            await stop
            assert (await second).reason == "the gateway is being stopped"

    run(conversation())


@pytest.mark.parametrize("steps", ["begin", "open_session"])
def test_a_panel_may_end_the_session_in_its_handshake(run, tmp_path, steps):
    """Section 9.1: acknowledge, then close; waiting for the next step would keep the socket for nothing."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await getattr(panel, steps)()
            panel.say(m.EndSession())
            await panel.acknowledged()
            assert await panel.hears_end() == b""
            assert len(lab.sentences()) == 1

    run(conversation())


@pytest.mark.parametrize("steps", ["begin", "open_session"])
def test_a_notification_in_the_handshake_is_acknowledged(run, tmp_path, steps):
    """Section 14, rule 3: a panel that waits for its acknowledgement would never go on."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await getattr(panel, steps)()
            version = m.Unknown(number=0x060D, body=bytes(11))
            panel.say(version)
            if steps == "begin":
                echo = await panel.hears()
                assert echo.receiver == panel.sent
                panel.say(version)
                await panel.acknowledged()
                panel.say(m.CommandResponse(command_sequence=echo.message.command_sequence))
            await panel.acknowledged()
            panel.ask_for_access()
            await panel.accept_access()
            await panel.acknowledged()

    run(conversation())


def test_an_event_that_comes_too_early_is_not_acknowledged(run, tmp_path):
    """The issue: nothing that was acknowledged is missing; what comes before step 11 comes again."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.open_session()
            panel.ask_for_access()
            await panel.hears_of(m.CommandResponse)
            panel.acknowledge()
            access = await panel.hears_of(m.RequestAccess)
            panel.outgoing = FrameCipher(type2_key(panel.code, access.initializer))
            panel.say(OPENED)
            panel.say(m.CommandResponse(command_sequence=access.command_sequence))
            await panel.acknowledged()
            panel.say(OPENED)
            await panel.acknowledged()
            assert await sources(lab) == ["replay"]

    run(conversation())


def test_a_stop_does_not_wait_for_a_disk_that_hangs(run, tmp_path):
    """What is not stored is not acknowledged either, so that the panel sends it again."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            store, disk = lab.gateway.history._store, threading.Event()
            write = store.write
            store.write = lambda batch: (disk.wait(5), write(batch))[1]
            panel.say(OPENED)
            for _ in range(20):
                await asyncio.sleep(0)
            async with asyncio.TaskGroup() as group:
                group.create_task(lab.server.managers["itv2"].drain(20))
                end = await panel.hears()
                assert (end.message, end.receiver) == (m.EndSession(), panel.sent - 1)
                panel.acknowledge()
                assert await panel.hears_end() == b""
            disk.set()

    run(conversation())


def test_an_end_of_the_session_that_waited_for_the_history_does_not_end_the_next_one(run, tmp_path):
    """Section 7.5: a new OpenSession begins everything anew."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            held = asyncio.get_running_loop().create_future()
            append, lab.gateway.history.append = lab.gateway.history.append, lambda *_: held
            panel.say(m.EndSession())
            await lab.settle()
            await panel.begin()
            lab.gateway.history.append = append
            held.set_result(True)
            panel.acknowledge()
            echo = await panel.hears_of(m.OpenSession)
            panel.say(m.CommandResponse(command_sequence=echo.command_sequence))
            await panel.acknowledged()
            panel.ask_for_access()
            await panel.accept_access()
            await panel.acknowledged()
            await lab.settle()
            panel.say(READY)
            await panel.acknowledged()
            panel.say(READY)
            await panel.acknowledged()

    run(conversation())


def test_a_packet_behind_the_last_step_that_fails_ends_its_session_and_nothing_else(run, tmp_path):
    """It is handled outside of any batch: whatever it raises must not end up in the loop."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.open_session()
            panel.ask_for_access()
            await panel.hears_of(m.CommandResponse)
            panel.acknowledge()
            access = await panel.hears_of(m.RequestAccess)
            panel.outgoing = FrameCipher(type2_key(panel.code, access.initializer))
            panel.sent += 1
            last = panel.packet(m.CommandResponse(command_sequence=access.command_sequence))
            panel.sent += 1

            def is_repeat(*_):
                raise ZeroDivisionError

            lab.gateway.history.is_repeat = is_repeat
            panel.raw(last + panel.packet(READY))
            await panel.hears_end()
            assert [one["error"] for one in lab.events("session.handler_failed")] == ["ZeroDivisionError"]
            assert not lab.events("loop.error")

    run(conversation())


# Why it ended


def test_silence_is_called_silence(run, tmp_path):
    """What the operator reads of a panel that is lost is a sentence and no name of a class."""

    async def conversation():
        async with line(tmp_path) as (lab, _):
            lab.clock.advance(131)
            await lab.settle()
            (told,) = lab.events("itv2.panel_lost")
            assert told["why"] == "the panel said nothing for 130 s"

    run(conversation())


def test_the_end_after_a_new_start_has_its_own_reason(run, tmp_path):
    """The words of the first end are not those of the second."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            await panel.shake_hands(opening(command_sequence=7))
            await lab.settle()
            panel.writer.close()
            await lab.settle()
            assert [one["why"] for one in lab.events("itv2.panel_lost")] == [
                "the panel started over",
                "connection lost: closed by the peer",
            ]

    run(conversation())


def test_a_session_that_a_reload_ends_says_so(run, tmp_path):
    """It is not the server that stops."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            changed = panel_settings(type2_code=Secret("F" * 32))
            lab.gateway.reload(Itv2Settings(panels=(changed,), history=lab.gateway.config.history))
            lab.server.managers["itv2"].reload()
            await panel.hears_of(m.EndSession)
            panel.acknowledge()
            await panel.hears_end()
            (told,) = lab.events("itv2.panel_lost")
            assert told["why"] == "its settings have changed"

    run(conversation())


# Repetitions


def test_a_repetition_that_acknowledges_a_newer_packet_of_ours_is_a_repetition(run, tmp_path):
    """Section 5.1: a panel counts every packet, so the same number and body twice is the same packet."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            text = m.Text(text="hello")
            panel.say(text)
            await panel.acknowledged()
            async with asked(lab, ARM) as answer:
                command = (await panel.hears()).message
                panel.raw(panel.packet(text))
                await panel.acknowledged()
                panel.say(m.CommandResponse(command_sequence=command.command_sequence))
                await panel.acknowledged()
            assert answer.result() == Done()
            assert (await kinds(lab)).count("text") == 1

    run(conversation())


def test_the_same_news_in_a_session_that_is_open_long_since_reaches_the_state(run, tmp_path):
    """Only the first packets of a session repeat those of the one before; a live view must not miss an alarm."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.say(OPENED)
            await panel.acknowledged()
            panel.writer.close()
            await lab.settle()
            again = await replaying(lab)
            lab.clock.advance(2.5)
            await lab.settle()
            lab.panel.state.zones.clear()
            again.say(OPENED)
            await again.acknowledged()
            assert lab.panel.state.zones[5].open.value is True
            assert await sources(lab) == ["live"]

    run(conversation())


def test_both_counters_go_from_255_to_0(run, tmp_path):
    """Section 5.1: we send 0 after 255, and take 0 or 1."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.sent = 253
            lab.session.sent = panel.heard = 253
            for number in range(6):
                if number == 3:
                    panel.sent += 1  # other implementations leave 0 out
                panel.say(m.Unknown(number=0x0246, body=bytes((number,))))
                await panel.acknowledged()
                lab.clock.advance(45)
                await panel.hears_of(m.Poll)
                assert panel.heard == (254 + number) & 0xFF
                panel.acknowledge()
                await lab.settle()
                assert not lab.session.is_unacknowledged

    run(conversation())


# Answers that come late


CAPABILITIES = m.SystemCapabilities(zones=16, users=10, partitions=2, fobs=0, tags=0, outputs=0)


@pytest.mark.parametrize(
    ("questions", "answers"),
    [
        (
            [m.SectionRead(section=m.Section((1, 5))), m.SectionRead(section=m.Section((1, 6)))],
            [
                m.SectionData(section=m.Section((1, 5)), data=b"\x01"),
                m.SectionData(section=m.Section((1, 6)), data=b"\x02"),
            ],
        ),
        (
            [m.RequestPartitionStatus(partition=1), m.RequestPartitionStatus(partition=2)],
            [m.PartitionStatus(partition=1, status=b"\1\0"), m.PartitionStatus(partition=2, status=b"\2\0")],
        ),
        (
            [m.ReadCodes(first=1, count=1), m.ReadCodes(first=3, count=1)],
            [m.Codes(first=1, width=2, codes=("1234",)), m.Codes(first=3, width=2, codes=("AAAA",))],
        ),
        (
            [m.RequestLabels(collection=0xD1, first=one, last=one) for one in (1, 5)],
            [m.Labels(collection=0xD1, first=one, last=one, width=2, labels=("a",)) for one in (1, 5)],
        ),
    ],
)
def test_a_late_answer_is_not_taken_for_that_of_the_next_question(run, tmp_path, questions, answers):
    """Section 5.4, rule 2, has no number: what the answer is about tells which question it belongs to."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, questions[0], within_s=1) as unanswered:
                await panel.hears()
                panel.acknowledge()
                await lab.settle()
                lab.clock.advance(1.5)
            assert isinstance(unanswered.result(), UnknownOutcome)
            async with asked(lab, questions[1]) as answer:
                await panel.hears()
                panel.say(answers[0])
                await panel.acknowledged()
                assert not answer.done()
                panel.say(answers[1])
                await panel.acknowledged()
            assert answer.result() == Done(answers[1])

    run(conversation())


def test_an_answer_that_says_something_else_than_was_asked_is_taken_if_nothing_else_is_expected(
    run, tmp_path
):
    """No capture has these answers: whoever writes a first zone of its own must not go unheard."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, m.RequestPartitionStatus(partition=1)) as answer:
                await panel.hears()
                status = m.PartitionStatus(partition=0, status=b"\x02\x00")
                panel.say(status)
                await panel.acknowledged()
            assert answer.result() == Done(status)

    run(conversation())


def test_data_may_be_among_the_parts_of_an_0623(run, tmp_path):
    """users-and-history section 4, fault 3: an answer to a read comes as a packet of the panel's own."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, m.SectionRead(section=m.Section((1, 5)))) as answer:
                await panel.hears()
                panel.acknowledge()
                data = m.SectionData(section=m.Section((1, 5)), data=b"\x01")
                panel.say(m.MultipleMessages(messages=(READY, data, OPENED)))
                await panel.acknowledged()
            assert answer.result() == Done(data)
            assert await sources(lab) == ["live"]

    run(conversation())


def test_an_error_may_name_the_word_that_was_asked_for(run, tmp_path):
    """users-and-history section 4, fault 25: a NACK of an 0800 that never completes its caller."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, m.RequestPartitionStatus(partition=7)) as answer:
                await panel.hears()
                panel.say(m.CommandError(nacked_word=0x0812, code=m.NackCode.INVALID_PARTITION))
                await panel.acknowledged()
            assert answer.result() == Rejected(m.NackCode.INVALID_PARTITION, is_nack=True)

    run(conversation())


def test_a_raw_0800_is_answered_by_the_word_that_it_asks_for(run, tmp_path):
    """Section 5.4, rule 3: the raw console is there for answers whose layout nobody knows."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, m.Unknown(number=0x0800, body=b"\x00\x08\x15")) as answer:
                await panel.hears()
                data = m.Unknown(number=0x0815, body=b"\x01\x02")
                panel.say(data)
                await panel.acknowledged()
            assert answer.result() == Done(data)

    run(conversation())


def test_a_command_that_does_not_fit_is_the_callers_fault_and_harms_nothing(run, tmp_path):
    """Section 7.1: no frame is larger than the panel's buffer."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            with pytest.raises(LocalProtocolError):
                await lab.session.execute(m.Unknown(number=0x0815, body=bytes(600)))
            async with asked(lab, ARM) as answer:
                command = (await panel.hears()).message
                panel.say(m.CommandResponse(command_sequence=command.command_sequence))
                await panel.acknowledged()
            assert answer.result() == Done()

    run(conversation())


def test_a_caller_that_gives_up_leaves_the_line_to_the_next_one(run, tmp_path):
    """The answer to the first one is nobody's."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            first = asyncio.ensure_future(lab.session.execute(ARM))
            given_up = (await panel.hears()).message
            first.cancel()
            async with asked(lab, m.Disarm(partition=1, code="1234")) as answer:
                panel.say(m.CommandResponse(command_sequence=given_up.command_sequence))
                await panel.acknowledged()
                command = (await panel.hears()).message
                assert isinstance(command, m.Disarm)
                assert not answer.done()
                panel.say(m.CommandResponse(command_sequence=command.command_sequence, code=17))
                await panel.acknowledged()
            assert answer.result() == Rejected(17)

    run(conversation())


# A slow history


def test_a_replay_is_not_over_while_we_are_the_ones_who_are_silent(run, tmp_path):
    """Section 11: the panel waits for our acknowledgement, so its silence says nothing."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await replaying(lab)
            append = lab.gateway.history.append
            held = asyncio.get_running_loop().create_future()
            lab.gateway.history.append = lambda *_: held
            panel.say(READY)
            await lab.settle()
            lab.session.owed_until += 10
            lab.clock.advance(3)
            await lab.settle()
            assert lab.session.phase == "replay"
            lab.gateway.history.append = append
            held.set_result(True)
            await panel.acknowledged()
            lab.clock.advance(0.5)
            await lab.settle()
            panel.say(OPENED)
            await panel.acknowledged()
            assert await sources(lab) == ["replay"]

    run(conversation())


def test_the_time_that_the_history_takes_is_not_the_panels(run, tmp_path):
    """Section 12: 30 s are for the panel; with a slow disk its queue is as long as before."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await replaying(lab)
            append = lab.gateway.history.append
            for _ in range(40):
                lab.gateway.history.append = lambda *_: asyncio.get_running_loop().create_future()
                panel.say(OPENED)
                await lab.settle()
                lab.clock.advance(1.1)
                await panel.acknowledged()
            assert lab.session.phase == "replay"
            lab.gateway.history.append = append

    run(conversation())


def test_a_panel_that_dials_again_while_its_packet_is_being_stored_has_it_stored_once(run, tmp_path):
    """Section 11 and the issue: nothing that was acknowledged is missing, nothing is there twice."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            store, disk = lab.gateway.history._store, threading.Event()
            write = store.write
            store.write = lambda batch: (disk.wait(5), write(batch))[1]
            panel.say(OPENED)
            for _ in range(20):
                await asyncio.sleep(0)
            assert lab.session.owed == panel.sent
            new = await lab.dial()
            await new.shake_hands()
            new.say(OPENED)
            for _ in range(20):
                await asyncio.sleep(0)
            assert lab.session.owed == new.sent
            disk.set()
            await new.acknowledged()
            assert await sources(lab) == ["live"]

    run(conversation())


# Two of them


async def _both(lab: Lab, count: int) -> None:
    """Two panels with one id, each of which dials when it was thrown out."""
    for number in range(count):
        panel = await lab.dial(address=f"192.0.2.{7 + number % 2}")
        await panel.shake_hands()
        await lab.settle()
        lab.clock.advance(10)
        await lab.settle()


def test_two_panels_with_one_id_do_not_throw_each_other_out_for_ever(run, tmp_path):
    """Section 11: the newest wins, against a socket that is half dead; two that live would go on all night."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, limits=Itv2Limits(replacements_count=3)) as lab:
            await _both(lab, 4)
            there = lab.session
            assert len(lab.events("itv2.panel_replaced")) == 3
            other = await lab.dial(address="192.0.2.9")
            await other.shake_hands()
            await other.hears_of(m.EndSession)
            await other.hears_end()
            await lab.settle()
            assert lab.session is there
            (sentence,) = lab.sentences()
            assert "192.0.2.8" in sentence
            assert "192.0.2.9" in sentence
            assert "[851][428]" in sentence
            assert lab.panel.diagnosis == sentence
            assert lab.panel.phase == "connected" or lab.session.phase == "open"

    run(conversation())


def test_a_panel_that_is_silent_is_replaced_however_often_that_was(run, tmp_path):
    """Section 11: a half-open socket must not keep its panel out."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, limits=Itv2Limits(replacements_count=1)) as lab:
            await _both(lab, 2)
            there = lab.session
            lab.clock.advance(50)
            new = await lab.dial()
            await new.shake_hands()
            await lab.settle()
            assert lab.session is not there

    run(conversation())


# Reload


def test_a_reload_with_other_keys_ends_a_handshake_with_the_old_ones(run, tmp_path):
    """A key that is known to others opens no session any more, however far it had come."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.open_session()
            changed = panel_settings(type2_code=Secret("F" * 32))
            lab.gateway.reload(Itv2Settings(panels=(changed,), history=lab.gateway.config.history))
            lab.server.managers["itv2"].reload()
            await panel.hears_end()
            assert lab.panel.session is None

    run(conversation())


def test_two_panels_may_swap_their_ids(run, tmp_path):
    """A reload is one step from one configuration to another, in whatever order it is taken."""

    async def conversation():
        other = "210987654321"
        panels = [panel_settings(), panel_settings(name="shed", integration_id=other)]
        async with itv2_lab(tmp_path, panels=panels) as lab:
            swapped = (
                panel_settings(integration_id=other),
                panel_settings(name="shed", integration_id=ID),
            )
            lab.gateway.reload(Itv2Settings(panels=swapped, history=lab.gateway.config.history))
            assert {one.id: one.name for one in lab.gateway.hub.by_id.values()} == {
                other: "house",
                ID: "shed",
            }
            await replaying(lab)
            assert lab.gateway.hub.panels["shed"].session is not None

    run(conversation())


def test_a_panel_that_is_configured_no_more_changes_nothing_while_its_session_ends(run, tmp_path):
    """Views have forgotten it: news about it would bring it back, as entities of nobody."""

    class View:
        changed = happened = lambda *_: pytest.fail("news of a panel that is gone")
        phase_changed = configuration_changed = staticmethod(lambda *_: None)

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            lab.gateway.reload(Itv2Settings(history=lab.gateway.config.history))
            lab.server.managers["itv2"].reload()
            await panel.hears_of(m.EndSession)
            lab.gateway.hub.subscribe(View())
            panel.say(OPENED)
            await panel.acknowledged()
            assert not lab.events("itv2.view_failed")

    run(conversation())


def test_a_panel_that_a_reload_adds_has_a_diagnosis(run, tmp_path):
    """Section 1.1: what makes it dial is asked for on the first day, whenever that is."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panels = (panel_settings(), panel_settings(name="shed", integration_id="210987654321"))
            lab.gateway.reload(Itv2Settings(panels=panels, history=lab.gateway.config.history))
            assert "has not connected yet" in lab.gateway.hub.panels["shed"].diagnosis

    run(conversation())


# Hostile peers


def test_a_peer_that_drips_its_bytes_has_ten_seconds(run, tmp_path):
    """Section 14, rule 12: bytes that make no packet buy no time."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            for byte in panel.packet(opening())[:11]:
                panel.raw(bytes((byte,)))
                lab.clock.advance(1)
                await lab.settle()
            await panel.hears_end()
            assert lab.clock() > 10

    run(conversation())


def test_an_open_session_that_is_larger_than_its_own_buffer_is_returned_as_it_came(run, tmp_path):
    """Section 7.1: the body goes back whole; what a panel can send it can take, and no bug of ours is told."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.begin(opening(tail=bytes(700)))
            panel.acknowledge()
            echo = await panel.hears_of(m.OpenSession)
            assert echo.tail == bytes(700)

    run(conversation())


@pytest.mark.parametrize("how", ["hangs up", "starts over"])
def test_a_panel_that_only_offers_type_3_is_told_of_whatever_it_does_then(run, tmp_path, how):
    """Section 7.5: firmware 5.63 may close its connection, or offer it again and again."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            for _ in range(32 if how == "starts over" else 1):
                panel.raw(panel.packet(opening(encryption_type=3, firmware=0x0563)))
                await lab.settle()
                lab.clock.advance(1)
                await lab.settle()
            panel.writer.close()
            await lab.settle()
            (sentence,) = lab.sentences()
            assert "encryption type 3 with firmware 5.63" in sentence

    run(conversation())


def test_a_flood_of_connections_keeps_no_panel_out(run, tmp_path):
    """Section 14, rule 12: one address has so many connections; another one is not asked to wait."""

    async def conversation():
        limits = Itv2Limits(connections_per_peer_count=4)
        async with itv2_lab(tmp_path, limits=limits) as lab:
            for _ in range(20):
                await lab.dial(address="198.51.100.1")
            assert len(lab.server.managers["itv2"].connections) == 4
            await replaying(lab)
            assert lab.session.phase == "replay"

    run(conversation())


@pytest.mark.parametrize("how", ["glued", "byte by byte"])
def test_packets_may_come_in_any_pieces(run, tmp_path, how):
    """Section 2, rule 1: TCP is a stream."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            pieces = []
            for zone in range(1, 6):
                panel.sent += 1
                pieces.append(panel.packet(m.ZoneLifestyle(zone=zone, state=1)))
            data = b"".join(pieces)
            if how == "glued":
                panel.raw(data)
                await lab.settle()
            else:
                for byte in data:
                    panel.raw(bytes((byte,)))
                    await asyncio.sleep(0)
            await lab.settle()
            assert await sources(lab) == ["live"] * 5
            while (await panel.hears()).receiver != panel.sent:
                pass

    run(conversation())


def test_no_event_shows_a_code(run, tmp_path):
    """Section 14, rule 11: whatever goes wrong with it."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, m.Disarm(partition=1, code="7391"), within_s=1):
                await panel.hears()
                panel.say(m.Unknown(number=0x0901, body=b"\x07\x01\x01\x73\x91"))
                await panel.acknowledged()
                panel.say(m.Unknown(number=0x4736, body=b"\x01\x01\x01\x01\x09\x73\x91"))
                await panel.acknowledged()
                panel.say(m.Codes(first=1, width=2, codes=("7391",)))
                await panel.acknowledged()
                lab.clock.advance(2)
            lab.server.events.flush()
            entries = [lab.gateway.words_for(one) for one in lab.session.trace]
            for text in (str(lab.told), repr(lab.session.asking), str(entries), repr(lab.session.trace)):
                assert "7391" not in text
                assert TYPE_2 not in text
                assert "7\\x91" not in text

    run(conversation())


# Whoever embeds us


def test_notifications_are_kept_from_the_moment_that_they_are_asked_for(run, tmp_path):
    """Who asks for them and reads later has missed nothing."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            stream = lab.session.notifications()
            panel.say(READY)
            await panel.acknowledged()
            async with asyncio.timeout(5):
                assert (await anext(stream)).message == READY

    run(conversation())


def test_notifications_of_a_session_that_has_ended_are_over(run, tmp_path):
    """Nobody waits for ever for what cannot come."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            session = lab.session
            before = session.notifications()
            panel.say(READY)
            await panel.acknowledged()
            panel.writer.close()
            await lab.settle()
            async with asyncio.timeout(5):
                assert [one.message async for one in before] == [READY]
                assert [one async for one in before] == []
                assert [one async for one in session.notifications()] == []

    run(conversation())


def test_a_reader_that_is_dropped_costs_nothing_any_more(run, tmp_path):
    """Nobody has to close anything."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            stream = lab.session.notifications()
            for _ in range(300):
                panel.say(READY)
                await panel.acknowledged()
            assert stream.lost_count == 300 - lab.gateway.config.limits.notifications_count
            assert len(lab.session.listeners) == 1
            del stream
            gc.collect()
            assert len(lab.session.listeners) == 0

    run(conversation())
