"""An open session: acknowledgements, the pending command, replay, silence, and the ways it ends."""

from __future__ import annotations

import asyncio

import pytest
from itv2_lab import asked, itv2_lab, kinds, line, opening, panel_settings

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Done, Rejected, UnknownOutcome
from sojourn.gateways.itv2.config import Itv2Limits, Itv2Settings
from sojourn.gateways.itv2.history import HistoryQuery

READY = m.ReadyStatus(partition=1, status=1)
OPENED = m.ZoneLifestyle(zone=5, state=1)
ARM = m.Arm(partition=1, mode=2, code="1234")
CAPABILITIES = m.SystemCapabilities(zones=16, users=10, partitions=2, fobs=0, tags=0, outputs=0)


# Acknowledgements


def test_every_packet_is_acknowledged_with_our_present_number(run, tmp_path):
    """Section 5.1: a SimpleAck carries the counter unchanged."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            for message in (READY, OPENED, m.Unknown(number=0x0246, body=b"\x01\x02")):
                panel.say(message)
                packet = await panel.hears()
                assert (packet.sender, packet.receiver) == (4, panel.sent)
            assert [one["word"] for one in lab.events("itv2.message_unread")] == ["0246"]

    run(conversation())


def test_a_message_without_a_layout_is_told_in_hex_without_codes(run, tmp_path):
    """Section 9.7: opaque logging, so that users can contribute what they see; section 14, rule 11."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            for number, body in ((0x0817, b"\x01\x02"), (0x0900, b"\x01\x12\x34"), (0x0009, b"\x00\x12\x34")):
                panel.say(m.Unknown(number=number, body=body))
                await panel.acknowledged()
            assert [one["hex"] for one in lab.events("itv2.message_unread")] == [
                "0817 0102",
                "0900 ***",
                "0009 ***",
            ]

    run(conversation())


def test_a_known_word_with_a_body_that_cannot_be_read_is_acknowledged(run, tmp_path):
    """Section 14, rule 3: or the panel would send it for ever."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.say(m.Unknown(number=0x0239, body=b""))
            await panel.acknowledged()
            (told,) = lab.events("itv2.message_unread")
            assert told["word"] == "0239"
            assert "found" in told["why"]

    run(conversation())


def test_a_repeated_packet_is_acknowledged_again_and_taken_once(run, tmp_path):
    """Section 5.1: same number and identical bytes."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            data = panel.say(OPENED)
            await panel.acknowledged()
            panel.raw(data)
            await panel.acknowledged()
            panel.say(OPENED)
            await panel.acknowledged()
            assert (await kinds(lab)).count("zone_opened") <= 2

    run(conversation())


def test_what_is_acknowledged_is_stored(run, tmp_path):
    """A kill -9 must lose nothing that was acknowledged: the acknowledgement waits for the commit."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            held = asyncio.get_running_loop().create_future()
            lab.gateway.history.append = lambda *_: held
            panel.say(OPENED)
            await lab.settle()
            assert lab.session.owed == panel.sent
            held.set_result(True)
            await panel.acknowledged()
            assert lab.session.owed is None

    run(conversation())


def test_a_history_that_takes_too_long_holds_up_no_acknowledgement(run, tmp_path):
    """An alarm matters more than its record: ``ack_wait_s``, and an event tells."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            lab.gateway.history.append = lambda *_: asyncio.get_running_loop().create_future()
            data = panel.say(OPENED)
            panel.raw(data)
            await lab.settle()
            assert lab.session.owed == panel.sent
            lab.clock.advance(1.1)
            await panel.acknowledged()
            assert lab.events("itv2.history_late")

    run(conversation())


def test_a_command_does_not_acknowledge_what_is_not_stored_yet(run, tmp_path):
    """Section 5.2: any packet with its number would acknowledge it."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            held = asyncio.get_running_loop().create_future()
            append, lab.gateway.history.append = lab.gateway.history.append, lambda *_: held
            before = panel.sent
            panel.say(OPENED)
            async with asked(lab, ARM) as answer:
                packet = await panel.hears()
                assert packet.receiver == before
                lab.gateway.history.append = append
                held.set_result(True)
                await panel.acknowledged()
                panel.say(m.CommandResponse(command_sequence=packet.message.command_sequence))
                await panel.acknowledged()
            assert answer.result() == Done()

    run(conversation())


def test_a_bug_in_the_state_ends_nothing_and_is_told(run, tmp_path):
    """A packet that is never acknowledged would come for ever."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):

            def take(*_):
                raise ZeroDivisionError

            lab.panel.take = take
            panel.say(OPENED)
            await panel.acknowledged()
            (told,) = lab.events("session.handler_failed")
            assert told["error"] == "ZeroDivisionError"

    run(conversation())


def test_a_damaged_packet_is_dropped_and_the_next_one_counts(run, tmp_path):
    """Section 2, rule 4; section 3: bad stuffing, CRC, length and blocks drop that packet only."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            for data in (
                b"\x7d\x07\x7e\x01\x7f",
                b"separator\x7f",
                panel.header + b"\x7e" + bytes(15) + b"\x7f",
                panel.header + b"\x7e" + bytes(16) + b"\x7f",
                panel.header + b"\x7e\x04\x00\x01\x00\x7d\x00\x7f",
            ):
                panel.raw(data)
            panel.say(READY)
            await panel.acknowledged()
            assert len(lab.events("itv2.packet_dropped")) == 5

    run(conversation())


def test_a_clear_packet_in_an_encrypted_session_is_dropped(run, tmp_path):
    """Section 7: only an OpenSession may come in clear text, whoever knows the id could disarm otherwise."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            outgoing, panel.outgoing = panel.outgoing, None
            panel.say(OPENED)
            await lab.settle()
            assert "clear text" in lab.events("itv2.packet_dropped")[0]["why"]
            panel.outgoing = outgoing
            panel.say(READY)
            await panel.acknowledged()

    run(conversation())


def test_another_id_on_a_later_packet_ends_the_session(run, tmp_path):
    """Section 2: log and close."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.header = b"210987654321"
            panel.say(READY)
            await panel.hears_end()
            (told,) = lab.events("session.failed")
            assert "210987654321" in told["error"]
            assert lab.panel.session is None

    run(conversation())


def test_the_parts_of_an_0623_are_taken_one_by_one(run, tmp_path):
    """Section 5.4, rule 6: an answer may be among them, and one acknowledgement is for all."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, ARM) as answer:
                command = (await panel.hears()).message
                response = m.CommandResponse(command_sequence=command.command_sequence)
                panel.say(m.MultipleMessages(messages=(OPENED, response, READY)))
                await panel.acknowledged()
            assert answer.result() == Done()
            assert "zone_opened" in await kinds(lab)

    run(conversation())


def test_a_panels_own_commands_are_acknowledged_and_nothing_else(run, tmp_path):
    """Section 5.4, last paragraph."""

    async def conversation():
        async with line(tmp_path) as (_, panel):
            panel.say(m.ExitConfiguration(command_sequence=9, partition=1))
            await panel.acknowledged()

    run(conversation())


def test_a_request_for_access_in_an_open_session_is_out_of_sequence(run, tmp_path):
    """Section 10.3: a handler's result becomes a CommandError with its code."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.say(m.RequestAccess(command_sequence=9, initializer=bytes(16)))
            packet = await panel.hears()
            assert packet.receiver == panel.sent
            assert packet.message == m.CommandError(nacked_word=0x060E, code=m.NackCode.INVALID_SEQUENCE)
            assert lab.session.phase == "open"

    run(conversation())


# Commands


@pytest.mark.parametrize(
    ("command", "messages", "answer"),
    [
        (ARM, [m.CommandResponse(code=0)], Done()),
        (ARM, [m.CommandResponse(code=17)], Rejected(17)),
        (ARM, [m.CommandError(nacked_word=0x0900, code=19)], Rejected(19, is_nack=True)),
        (ARM, [m.SimpleAck(), m.CommandResponse(code=4)], Rejected(4)),
        (ARM, [m.SimpleAck(), READY, m.CommandResponse(code=0)], Done()),
        (m.RequestCapabilities(), [CAPABILITIES], Done(CAPABILITIES)),
        (m.RequestCapabilities(), [m.CommandResponse(code=0), CAPABILITIES], Done(CAPABILITIES)),
        (m.RequestCapabilities(), [m.CommandResponse(code=24)], Rejected(24)),
        (m.RequestCapabilities(), [m.CommandError(nacked_word=0x0800, code=1)], Rejected(1, is_nack=True)),
        (
            m.SectionRead(section=m.Section((1, 5))),
            [m.SimpleAck(), m.SectionData(section=m.Section((1, 5)), data=b"\x01")],
            Done(m.SectionData(section=m.Section((1, 5)), data=b"\x01")),
        ),
        (
            m.Unknown(number=0x0819, body=b"\x00\x01"),
            [m.Unknown(number=0x4819, body=b"\x07")],
            Done(m.Unknown(number=0x4819, body=b"\x07")),
        ),
    ],
)
def test_a_command_is_answered_by_the_ordered_rules(run, tmp_path, command, messages, answer):
    """Section 5.4: directly, after an acknowledgement, by data, by an error that names the word."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, command) as task:
                packet = await panel.hears()
                sequence = getattr(packet.message, "command_sequence", None)
                if sequence is None:
                    sequence = packet.message.body[0]
                assert sequence == 0x4F  # ours 4C and 4E, the panel's 4D
                for message in messages:
                    if isinstance(message, m.SimpleAck):
                        panel.acknowledge()
                        continue
                    if isinstance(message, m.CommandResponse):
                        panel.say(m.CommandResponse(command_sequence=sequence, code=message.code))
                    else:
                        panel.say(message)
                    await panel.acknowledged()
            assert task.result() == answer
            assert not lab.session.is_unacknowledged

    run(conversation())


def test_a_response_to_another_command_changes_nothing(run, tmp_path):
    """Section 5.4, rule 4; it is told as an answer that nobody waits for."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, ARM) as answer:
                command = (await panel.hears()).message
                panel.say(m.CommandResponse(command_sequence=command.command_sequence - 1))
                await panel.acknowledged()
                panel.say(m.CommandError(nacked_word=0x0901, code=17))
                await panel.acknowledged()
                assert not answer.done()
                panel.say(m.CommandResponse(command_sequence=command.command_sequence))
                await panel.acknowledged()
            assert answer.result() == Done()
            assert len(lab.events("session.late_answer")) == 2

    run(conversation())


@pytest.mark.parametrize(
    ("is_acknowledged", "after_s", "words"),
    [(False, 10.5, "acknowledge the command"), (True, 30.5, "answer the command")],
)
def test_a_command_without_an_answer_has_an_unknown_outcome_and_is_not_repeated(
    run, tmp_path, is_acknowledged, after_s, words
):
    """Section 5.2: 10 s for the acknowledgement, 30 s for the answer, and never a second time."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, ARM) as answer:
                await panel.hears()
                if is_acknowledged:
                    lab.clock.advance(9)
                    panel.acknowledge()
                    await lab.settle()
                    lab.clock.advance(29.5)
                    await lab.settle()
                    assert not answer.done()
                lab.clock.advance(after_s)
            assert isinstance(answer.result(), UnknownOutcome)
            assert words in answer.result().why
            assert answer.result().was_sent
            late = m.CommandResponse(command_sequence=0x4F)
            panel.say(late)
            await panel.acknowledged()
            assert lab.events("session.late_answer")

    run(conversation())


def test_one_command_at_a_time(run, tmp_path):
    """Section 14, rule 7."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, ARM) as first, asked(lab, m.Disarm(partition=1, code="1234")) as second:
                command = (await panel.hears()).message
                await lab.settle()
                assert isinstance(command, m.Arm)
                panel.say(m.CommandResponse(command_sequence=command.command_sequence, code=4))
                await panel.acknowledged()
                command = (await panel.hears()).message
                assert isinstance(command, m.Disarm)
                panel.say(m.CommandResponse(command_sequence=command.command_sequence))
                await panel.acknowledged()
            assert (first.result(), second.result()) == (Rejected(4), Done())

    run(conversation())


def test_a_command_whose_session_ends_has_an_unknown_outcome_and_the_one_behind_it_was_not_sent(
    run, tmp_path
):
    """The contract: a lost connection raises nothing."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            async with asked(lab, ARM) as first, asked(lab, ARM) as second:
                await panel.hears()
                panel.writer.close()
            assert first.result().was_sent
            assert not second.result().was_sent

    run(conversation())


def test_a_poll_is_acknowledged_before_a_command_goes_out(run, tmp_path):
    """Section 5.2: one packet at a time on the line."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            lab.clock.advance(45)
            await panel.hears_of(m.Poll)
            async with asked(lab, ARM) as answer:
                await lab.settle()
                panel.acknowledge()
                command = (await panel.hears()).message
                panel.say(m.CommandResponse(command_sequence=command.command_sequence))
                await panel.acknowledged()
            assert answer.result() == Done()

    run(conversation())


def test_codes_for_programming_are_written_as_the_panel_wants_them(run, tmp_path):
    """Section 9.4: ``raw_digits``."""

    async def conversation():
        panels = [panel_settings(raw_digits=True)]
        async with line(tmp_path, panels=panels) as (lab, panel):
            command = m.EnterConfiguration(partition=1, mode=3, code="1234", is_writing=True)
            async with asked(lab, command):
                async with asyncio.timeout(5):
                    data = await panel.reader.readuntil(b"\x7f")
                plain = panel.incoming.decrypt(data[13:-1].replace(b"\x7d\x01", b"\x7e"))
                assert b"\x01\x02\x03\x04" in plain
                panel.heard = plain[1]
                panel.say(m.CommandResponse(command_sequence=0x4F))
                await panel.acknowledged()

    run(conversation())


# Replay


def test_what_comes_at_once_is_a_replay(run, tmp_path):
    """Section 11: stored as replayed with the panel's own time, and nothing is asked meanwhile."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.shake_hands()
            await lab.settle()
            assert lab.panel.phase == "replay"
            lab.clock.advance(1.5)
            panel.say(m.DateTimeBroadcast(time=m.PanelTime(2026, 2, 8, 19, 27, 9)))
            await panel.acknowledged()
            for _ in range(30):
                lab.clock.advance(0.5)
                panel.say(OPENED)
                await panel.acknowledged()
            assert lab.session.phase == "replay"
            lab.clock.advance(1)
            assert await panel.hears_of(m.RequestCapabilities)
            page = await lab.gateway.history.search(HistoryQuery(kinds=("zone_opened",)))
            assert {(one.source, one.panel_time) for one in page.entries} == {
                ("replay", "2026-02-08 19:27:09")
            }

    run(conversation())


@pytest.mark.parametrize(
    ("answer_s", "pause_s", "source"), [(0, 0.8, "live"), (0.5, 0.8, "replay"), (0.5, 1.8, "live")]
)
def test_what_comes_behind_a_pause_is_news(run, tmp_path, answer_s, pause_s, source):
    """Section 11: a panel that has much to say is not taken for one that replays; on a slow line pauses are longer."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            panel = await lab.dial()
            await panel.open_session()
            panel.ask_for_access()
            await lab.settle()
            lab.clock.advance(answer_s)
            await panel.accept_access()
            await panel.acknowledged()
            for _ in range(3):
                panel.say(READY)
                await panel.acknowledged()
            lab.clock.advance(pause_s)
            panel.say(OPENED)
            await panel.acknowledged()
            page = await lab.gateway.history.search(HistoryQuery(kinds=("zone_opened",)))
            assert [one.source for one in page.entries] == [source]

    run(conversation())


def test_a_replay_is_over_after_thirty_seconds(run, tmp_path):
    """Section 12: a panel that never falls silent is asked all the same."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.shake_hands()
            await lab.settle()
            for _ in range(60):
                panel.say(READY)
                await panel.acknowledged()
                lab.clock.advance(0.5)
            await lab.settle()
            assert lab.session.phase == "open"

    run(conversation())


def test_a_command_waits_for_the_end_of_the_replay(run, tmp_path):
    """Section 14, rule 8."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            panel = await lab.dial()
            await panel.shake_hands()
            await lab.settle()
            async with asked(lab, ARM) as answer:
                await lab.settle()
                lab.clock.advance(2.5)
                command = (await panel.hears()).message
                panel.say(m.CommandResponse(command_sequence=command.command_sequence))
                await panel.acknowledged()
            assert answer.result() == Done()

    run(conversation())


# Silence


def test_our_own_silence_is_broken_by_a_poll(run, tmp_path):
    """Section 11: every 45 s; acknowledgements of ours do not count."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            for _ in range(3):
                lab.clock.advance(30)
                panel.say(READY)
                await panel.acknowledged()
                lab.clock.advance(15)
                await panel.hears_of(m.Poll)
                panel.acknowledge()
                await lab.settle()

    run(conversation())


def test_a_poll_may_be_answered_by_data(run, tmp_path):
    """Section 5.2: any packet with our number acknowledges."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            lab.clock.advance(45)
            await panel.hears_of(m.Poll)
            panel.say(READY)
            await panel.acknowledged()
            assert not lab.session.is_unacknowledged

    run(conversation())


def test_a_poll_without_an_answer_is_sent_twice_more_and_then_the_panel_is_gone(run, tmp_path):
    """Sections 5.2 and 11: polls only are repeated; 130 s without a packet end the session."""

    async def conversation():
        async with line(tmp_path) as (lab, _):
            began = lab.clock()
            polls = []
            while lab.panel.session is not None:
                lab.clock.advance(0.5)
                await lab.settle()
                if lab.session_or_none is not None and lab.session_or_none.sent > 4 + len(polls):
                    polls.append(lab.clock() - began)
            assert polls[:3] == [42.5, 52.5, 62.5]
            assert lab.clock() - began == pytest.approx(127.5)
            (told,) = lab.events("session.failed")
            assert "said nothing for 130 s" in told["error"]
            assert [one["count"] for one in lab.events("itv2.poll_unanswered")] == [1, 2, 1]

    run(conversation())


# Ends


def test_the_panel_may_end_the_session(run, tmp_path):
    """Section 9.1: acknowledge, then close."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.say(m.EndSession())
            await panel.acknowledged()
            assert await panel.hears_end() == b""
            (told,) = lab.events("itv2.panel_lost")
            assert told["why"] == "the panel ended the session"
            assert lab.panel.phase == "disconnected"

    run(conversation())


def test_a_drain_tells_the_panel_and_waits_for_its_acknowledgement(run, tmp_path):
    """Section 12, shutdown: 060B, at most 2 s."""

    async def conversation():
        async with line(tmp_path) as (lab, panel), asyncio.TaskGroup() as group:
            group.create_task(lab.server.managers["itv2"].drain(20))
            await panel.hears_of(m.EndSession)
            panel.acknowledge()
            assert await panel.hears_end() == b""

    run(conversation())


def test_a_drain_does_not_wait_for_a_panel_that_is_deaf(run, tmp_path):
    """Section 12, shutdown: after 2 s it is over all the same."""

    async def conversation():
        async with line(tmp_path) as (lab, panel), asyncio.TaskGroup() as group:
            group.create_task(lab.server.managers["itv2"].drain(20))
            await panel.hears_of(m.EndSession)
            lab.clock.advance(2.5)
            assert await panel.hears_end() == b""

    run(conversation())


def test_a_stop_at_once_says_goodbye_too(run, tmp_path):
    """Section 9.1: the panel then dials again by itself."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            await lab.server.stop(timeout_s=0)
            await panel.hears_of(m.EndSession)

    run(conversation())


def test_a_panel_that_starts_over_in_an_open_session_is_lost_and_back(run, tmp_path):
    """Section 7.5: commands that are under way have an unknown outcome; everything is read anew."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            session = lab.session
            async with asked(lab, ARM) as answer:
                await panel.hears()
                panel.incoming = panel.outgoing = None
                await panel.shake_hands(opening(command_sequence=7))
            assert isinstance(answer.result(), UnknownOutcome)
            await lab.settle()
            assert lab.session is session
            assert lab.panel.phase == "replay"
            lab.clock.advance(2.5)
            async with asked(lab, ARM) as answer:
                command = (await panel.hears()).message
                assert command.command_sequence == 11
                panel.say(m.CommandResponse(command_sequence=11))
                await panel.acknowledged()
            assert answer.result() == Done()
            assert [one["why"] for one in lab.events("itv2.panel_lost")] == ["the panel started over"]

    run(conversation())


def test_a_connection_that_breaks_leaves_a_stale_panel(run, tmp_path):
    """The state stays; what it says of now it does not know."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            panel.writer.transport.abort()
            await lab.settle()
            assert lab.panel.session is None
            assert lab.panel.phase == "disconnected"
            assert lab.panel.state.is_stale.value

    run(conversation())


# Whoever embeds us


def test_notifications_can_be_read_one_by_one(run, tmp_path):
    """The issue: an async iterator, which ends with the session."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            read = []

            async def reader():
                read.extend([(one.message, one.source) async for one in lab.session.notifications()])

            async with asyncio.TaskGroup() as group:
                group.create_task(reader())
                await asyncio.sleep(0)
                panel.say(m.MultipleMessages(messages=(READY, OPENED)))
                await panel.acknowledged()
                panel.say(m.EndSession())
                await panel.acknowledged()
            assert read == [(READY, "live"), (OPENED, "live")]

    run(conversation())


def test_a_slow_reader_loses_the_oldest_and_holds_up_nobody(run, tmp_path):
    """Every queue has a bound: ``limits.notifications_count``."""

    async def conversation():
        async with line(tmp_path, limits=Itv2Limits(notifications_count=3)) as (lab, panel):
            stream = lab.session.notifications()
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            for number in range(1, 7):
                panel.say(m.ZoneLifestyle(zone=number, state=1))
                await panel.acknowledged()
            zones = [(await waiting).message.zone]
            panel.say(m.EndSession())
            await panel.acknowledged()
            zones += [one.message.zone async for one in stream]
            assert zones == [1, 4, 5, 6]
            assert stream.lost_count == 2

    run(conversation())


# Reload


def test_a_reload_with_other_keys_ends_the_session(run, tmp_path):
    """A key that was changed because it is known to others must not go on working."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            settings = lab.gateway.config
            lab.gateway.reload(settings)
            lab.server.managers["itv2"].reload()
            await lab.settle()
            assert lab.session.phase == "open"
            changed = panel_settings(type2_code=Secret("F" * 32))
            lab.gateway.reload(Itv2Settings(panels=(changed,), history=settings.history))
            lab.server.managers["itv2"].reload()
            await panel.hears_of(m.EndSession)

    run(conversation())


def test_a_panel_that_is_configured_no_more_is_ended(run, tmp_path):
    """It is not known any more."""

    async def conversation():
        async with line(tmp_path) as (lab, panel):
            lab.gateway.reload(Itv2Settings(history=lab.gateway.config.history))
            lab.server.managers["itv2"].reload()
            await panel.hears_of(m.EndSession)
            panel.say(READY)
            await panel.acknowledged()

    run(conversation())
