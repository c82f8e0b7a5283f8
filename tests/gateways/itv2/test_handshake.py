"""The handshake through a running gateway: whole conversations byte for byte, and panels that start over."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from itv2_lab import OPENING, ScriptedPanel, itv2_lab, opening

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.config import Itv2Settings, Timing
from sojourn.gateways.itv2.encryption import FrameCipher, type2_key

VECTORS = {
    one["id"]: one for one in json.loads((Path(__file__).parent / "itv2_vectors.json").read_text())["vectors"]
}


@pytest.mark.parametrize("name", ["V64", "V65"])
def test_the_whole_conversation_is_that_of_the_specification(run, tmp_path, name):
    """Section 16: every byte of both directions, ciphers switched on exactly where section 7 says."""

    async def conversation():
        vector = VECTORS[name]
        random = bytes.fromhex(vector["input"]["server_random"])
        # A replay so long that the first thing we say of ourselves is a poll.
        timing = Timing(replay_quiet_s=100, replay_pause_s=100, replay_max_s=100)
        async with itv2_lab(tmp_path, random=random, timing=timing) as lab:
            panel = await lab.dial()
            for step in vector["expect"]["steps"]:
                if step["from"] == "panel":
                    panel.raw(bytes.fromhex(step["wire"]))
                    continue
                if "Poll" in step["what"]:
                    lab.clock.advance(45)
                async with asyncio.timeout(5):
                    found = await panel.reader.readuntil(b"\x7f")
                assert found.hex() == step["wire"], step["what"]
            await lab.settle()
            assert not lab.session.is_unacknowledged

    run(conversation())


def test_a_tail_of_open_session_is_sent_back_as_it_came(run, tmp_path):
    """Section 7.1: firmware 5.63 refuses a session whose echo lacks the tail."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            theirs = opening(tail=b"\x00\x01\x00\x02")
            await panel.begin(theirs)
            panel.acknowledge()
            assert await panel.hears_of(m.OpenSession) == opening(tail=theirs.tail, command_sequence=0x4C)

    run(conversation())


@pytest.mark.parametrize("steps_count", range(5))
def test_a_panel_may_start_over_at_any_step(run, tmp_path, steps_count):
    """Section 7.5: sequences, keys and command numbers begin anew on the same socket."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            steps = [panel.begin, panel.open_session, _until_step_9, _until_step_11, panel.shake_hands]
            step = steps[steps_count]
            await (step(panel) if step in (_until_step_9, _until_step_11) else step())
            await lab.settle()
            await panel.shake_hands(opening(command_sequence=0x91))
            await lab.settle()
            assert lab.session.opening.command_sequence == 0x91
            panel.say(m.ReadyStatus(partition=1, status=1))
            await panel.acknowledged()

    run(conversation())


async def _until_step_9(panel: ScriptedPanel) -> None:
    await panel.open_session()
    panel.ask_for_access()
    await panel.hears_of(m.CommandResponse)


async def _until_step_11(panel: ScriptedPanel) -> None:
    await _until_step_9(panel)
    panel.acknowledge()
    await panel.hears_of(m.RequestAccess)


def test_step_9_may_be_encrypted(run, tmp_path):
    """Section 15, point 3: an acknowledgement that cannot be read yet is taken for one."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await _until_step_9(panel)
            panel.outgoing = panel.incoming
            panel.acknowledge()
            access = await panel.hears_of(m.RequestAccess)
            panel.outgoing = _cipher(panel, access)
            panel.say(m.CommandResponse(command_sequence=access.command_sequence))
            await panel.acknowledged()
            await lab.settle()
            assert lab.session.phase == "replay"

    run(conversation())


def test_an_acknowledgement_after_step_10_may_still_be_clear(run, tmp_path):
    """Section 15, point 3, the other way: the panel's clear step 9 arrives behind our step 10."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await _until_step_9(panel)
            panel.acknowledge()
            panel.acknowledge()
            access = await panel.hears_of(m.RequestAccess)
            panel.outgoing = _cipher(panel, access)
            panel.say(m.CommandResponse(command_sequence=access.command_sequence))
            await panel.acknowledged()

    run(conversation())


def test_a_clear_answer_is_not_taken_for_step_11(run, tmp_path):
    """Section 7, step 11: who cannot encrypt has no key, whatever it answers."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await _until_step_11(panel)
            panel.say(m.CommandResponse(command_sequence=0x4E))
            await panel.hears_end()
            assert lab.panel.session is None

    run(conversation())


def test_a_panel_that_offers_type_3_may_come_back_with_type_2(run, tmp_path):
    """Section 7.5: nothing is said to type 3, and type 2 on the same socket goes on."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            panel.raw(panel.packet(opening(encryption_type=3)))
            await lab.settle()
            lab.clock.advance(0.6)
            await panel.shake_hands()
            await lab.settle()
            assert lab.session.opening == OPENING
            assert not lab.sentences()

    run(conversation())


def test_the_newest_connection_takes_the_place_of_the_old_one_when_its_handshake_is_done(run, tmp_path):
    """Section 11: not before, or anybody who knows an id could throw a panel out."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            old = await lab.connected()
            session = lab.session
            new = await lab.dial()
            await new.open_session()
            await lab.settle()
            assert lab.session is session
            new.ask_for_access()
            await new.accept_access()
            await new.acknowledged()
            await lab.settle()
            assert lab.session is not session
            await old.hears_end()
            assert session.ended
            new.say(m.ReadyStatus(partition=1, status=1))
            await new.acknowledged()
            assert not lab.events("itv2.panel_lost")

    run(conversation())


@pytest.mark.parametrize("what", ["a new start", "a notification", "garbage"])
def test_what_comes_in_one_piece_with_the_last_step_is_handled_after_it(run, tmp_path, what):
    """TCP is a stream: a panel that does not wait for our step 12 must not hang the session."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await _until_step_9(panel)
            panel.acknowledge()
            access = await panel.hears_of(m.RequestAccess)
            panel.outgoing = _cipher(panel, access)
            panel.sent += 1
            pieces = [panel.packet(m.CommandResponse(command_sequence=access.command_sequence))]
            if what == "a notification":
                panel.sent += 1
                pieces.append(panel.packet(m.ReadyStatus(partition=1, status=1)))
            elif what == "garbage":
                pieces.append(panel.header + b"\x7e" + bytes(16) + b"\x7f")
            else:
                panel.outgoing = None
                pieces.append(panel.packet(opening(command_sequence=0x91), 0, 0))
            panel.raw(b"".join(pieces))
            await lab.settle()
            assert (await panel.hears()).message == m.SimpleAck()
            if what == "a notification":
                await panel.acknowledged()
            elif what == "a new start":
                panel.incoming = None
                assert await panel.hears_of(m.CommandResponse) == m.CommandResponse(command_sequence=0x91)
            await lab.settle()
            assert len(lab.events("itv2.packet_dropped")) == (what == "garbage")

    run(conversation())


def test_a_panel_that_is_taken_out_of_the_configuration_in_its_handshake_does_not_get_in(run, tmp_path):
    """Section 14, rule 13."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.open_session()
            lab.gateway.reload(Itv2Settings(history=lab.gateway.config.history))
            panel.ask_for_access()
            await panel.accept_access()
            await panel.hears_end()
            assert "unknown Integration ID" in lab.sentences()[0]

    run(conversation())


def _cipher(panel: ScriptedPanel, access: m.RequestAccess):
    return FrameCipher(type2_key(panel.code, access.initializer))
