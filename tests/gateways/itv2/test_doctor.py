"""The connection doctor: for every way to fail one sentence, with the section to compare, and no code in it."""

from __future__ import annotations

import re

import msgspec
import pytest
from itv2_lab import ID, OPENING, TYPE_1, TYPE_2, Lab, ScriptedPanel, itv2_lab, opening, panel_settings

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.config import Itv2Limits
from sojourn.gateways.itv2.doctor import (
    SENTENCES,
    Case,
    Step,
    Symptom,
    firmware_words,
    sentence_of,
    silence_at,
)
from sojourn.gateways.itv2.sections import sections_of

TYPE_1_OPENING = opening(encryption_type=1)
OTHER_CODE = "00112233445566778899AABBCCDDEEFF"


async def diagnosis(lab: Lab, panel: ScriptedPanel | None = None, *, after_s: float = 0.0) -> str:
    """The one sentence; it is the panel's diagnosis too where the panel is known, and the connection is over."""
    await lab.settle()
    if after_s:
        lab.clock.advance(after_s)
    if panel is not None:
        await panel.hears_end()
    await lab.settle()
    (sentence,) = lab.sentences()
    assert TYPE_1 not in sentence
    assert TYPE_2 not in sentence
    assert sentence.endswith(".")
    if sentence.startswith("Panel house "):
        assert lab.panel.diagnosis == sentence
        assert lab.panel.phase == "disconnected"
    return sentence


def test_every_sentence_begins_with_whom_it_is_about():
    """An operator looks for the panel's name; who is unknown is told by ID, else by address."""
    known = Case(panel="house", integration_id="123456789012", peer="192.0.2.7:3096")
    for case, names in (
        (known, ("Panel house ", "192.0.2.7:3096 ")),
        (msgspec.structs.replace(known, panel=""), ("Panel 123456789012 ", "192.0.2.7:3096 ")),
        (Case(peer="192.0.2.7:3096"), ("192.0.2.7:3096 ",)),
    ):
        for symptom in SENTENCES:
            assert sentence_of(symptom, case).startswith(names)


async def reach(panel: ScriptedPanel, step: int) -> None:
    """Do all that comes before a step of the panel's."""
    if step == Step.OPEN_SESSION:
        return
    await panel.begin()
    if step == Step.ACKNOWLEDGE:
        return
    panel.acknowledge()
    echo = await panel.hears_of(m.OpenSession)
    if step == Step.ACCEPT_SESSION:
        return
    panel.say(m.CommandResponse(command_sequence=echo.command_sequence))
    await panel.acknowledged()
    if step == Step.REQUEST_ACCESS:
        return
    panel.ask_for_access()
    await panel.hears_of(m.CommandResponse)
    if step == Step.ACKNOWLEDGE_ENCRYPTED:
        return
    panel.acknowledge()
    await panel.hears()


@pytest.mark.parametrize(
    ("step", "theirs", "words"),
    [
        (Step.OPEN_SESSION, OPENING, ("said nothing", "[851][425]", "[851][426]")),
        (Step.ACKNOWLEDGE, OPENING, ("does not take our answer", "[851][428]")),
        (Step.ACCEPT_SESSION, OPENING, ("does not answer our OpenSession", "[851][425]")),
        (Step.REQUEST_ACCESS, OPENING, ("never asks for access", "[851][425]")),
        (Step.ACKNOWLEDGE_ENCRYPTED, OPENING, ("Type 2 code", "[851][700]")),
        (Step.ACCEPT_ACCESS, OPENING, ("Type 2 code", "[851][700]")),
        (Step.ACKNOWLEDGE_ENCRYPTED, opening(firmware=0x0563), ("5.63", "not supported", "[851][700]")),
        (Step.ACKNOWLEDGE_ENCRYPTED, TYPE_1_OPENING, ("Type 1", "[851][422]")),
        (Step.ACCEPT_ACCESS, TYPE_1_OPENING, ("Type 1 code", "[851][423]")),
    ],
)
def test_silence_has_a_meaning_at_each_step(run, tmp_path, step, theirs, words):
    """Section 7.5: 10 s per step; what the panel does not say tells what is wrong."""

    async def conversation():
        async with itv2_lab(tmp_path, random=bytes(range(32))) as lab:
            panel = await lab.dial(opening=theirs)
            await reach(panel, step)
            sentence = await diagnosis(lab, panel, after_s=10.5)
            assert all(word in sentence for word in words), sentence

    run(conversation())


@pytest.mark.parametrize("step", [Step.ACCEPT_SESSION, Step.REQUEST_ACCESS, Step.ACKNOWLEDGE_ENCRYPTED])
def test_a_panel_that_hangs_up_says_the_same_as_one_that_is_silent(run, tmp_path, step):
    """Section 7.5: some firmware closes instead of waiting."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await reach(panel, step)
            panel.writer.close()
            sentence = await diagnosis(lab)
            symptom = silence_at(step, 2, OPENING.firmware)
            assert sentence == sentence_of(symptom, case(panel="house"))

    run(conversation())


def case(**fields):
    return Case(
        **{
            "integration_id": ID,
            "peer": "192.0.2.7:3096",
            "encryption_type": 2,
            "firmware": OPENING.firmware,
            **fields,
        }
    )


def test_a_wrong_type_2_code_shows_in_the_panels_first_encrypted_packet(run, tmp_path):
    """Section 7.5: the CRC of step 11 is wrong."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial(code=OTHER_CODE)
            await panel.open_session()
            panel.ask_for_access()
            await panel.reader.readuntil(b"\x7f")
            panel.heard = 3
            panel.acknowledge()
            await panel.reader.readuntil(b"\x7f")
            panel.outgoing = panel.incoming
            panel.say(m.CommandResponse(command_sequence=0x4E))
            sentence = await diagnosis(lab, panel)
            assert sentence == sentence_of(Symptom.WRONG_TYPE_2_CODE, case(panel="house"))
            assert "[851][700]" in sentence

    run(conversation())


def test_a_wrong_type_1_code_shows_in_the_panels_first_encrypted_packet(run, tmp_path):
    """Section 7.5, for Type 1: the panel opened our initializer with another code."""

    async def conversation():
        async with itv2_lab(tmp_path, random=bytes(range(32))) as lab:
            panel = await lab.dial(opening=TYPE_1_OPENING)
            await reach(panel, Step.ACCEPT_ACCESS)
            panel.outgoing = panel.incoming
            panel.say(m.CommandResponse(command_sequence=0x4E))
            sentence = await diagnosis(lab, panel)
            assert "Panel house has another Type 1 code: compare [851][423]" in sentence

    run(conversation())


def test_a_wrong_id_shows_in_the_check_bytes_of_type_1(run, tmp_path):
    """Section 7.5: step 7 cannot be opened; the panel is told INVALID_SESSION."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial(opening=TYPE_1_OPENING, wrap="210987654321")
            await panel.open_session()
            panel.ask_for_access()
            panel.incoming = None
            error = await panel.hears_of(m.CommandError)
            assert error == m.CommandError(nacked_word=0x060E, code=m.NackCode.INVALID_SESSION)
            sentence = await diagnosis(lab, panel)
            assert "wrapped its Type 1 key with another Integration ID" in sentence
            assert "[851][422]" in sentence

    run(conversation())


def test_an_initializer_of_another_length_is_refused_with_its_code(run, tmp_path):
    """Section 7.2, and 10.3 for the code."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.open_session()
            panel.say(m.RequestAccess(command_sequence=0x4D, initializer=bytes(48)))
            error = await panel.hears_of(m.CommandError)
            assert error == m.CommandError(nacked_word=0x060E, code=m.NackCode.INVALID_LENGTH)
            assert "initializer" in await diagnosis(lab, panel)

    run(conversation())


@pytest.mark.parametrize(
    ("panel", "encryption_type", "words"),
    [
        ({"type1_code": None}, 1, ("set to Type 1", "bit 4 of [851][425]", "[851][423]")),
        ({"type2_code": None}, 2, ("set to Type 2", "bit 4 of [851][425]", "[851][700]")),
        ({"type2_code": None, "integration_group": 3}, 2, ("[851][479]", "[851][702]")),
        (
            {"firmware": "4.1", "type1_code": Secret(TYPE_1), "type2_code": None},
            0,
            ("no encryption", "[851][664]"),
        ),
        ({}, 0, ("no encryption", "[851][425]")),
        ({}, 3, ("encryption type 3", "5.43", "not supported")),
    ],
)
def test_a_panel_whose_type_has_no_key_gets_no_answer(run, tmp_path, panel, encryption_type, words):
    """Sections 1.1 and 7.5: the sections are those of the panel's own integration group."""

    async def conversation():
        async with itv2_lab(tmp_path, panels=[panel_settings(**panel)]) as lab:
            scripted = await lab.dial()
            scripted.raw(scripted.packet(opening(encryption_type=encryption_type)))
            await lab.settle()
            lab.clock.advance(2.5)
            assert await scripted.hears_end() == b""
            sentence = await diagnosis(lab)
            assert all(word in sentence for word in words), sentence

    run(conversation())


def test_an_unknown_panel_gets_no_answer(run, tmp_path):
    """Section 7.5: before an unknown id is trusted it is configured."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial(header=b"999999999999")
            panel.raw(panel.packet(OPENING))
            assert await panel.hears_end() == b""
            sentence = await diagnosis(lab)
            assert (
                "Panel 999999999999 has an unknown Integration ID (Type 2, firmware 5.43, from " in sentence
            )
            assert "[851][422]" in sentence
            assert not lab.gateway.learnt

    run(conversation())


def test_what_is_learnt_is_shown_and_not_trusted(run, tmp_path):
    """Section 7.5: learning is explicit and has an end; a learnt panel gets no answer either."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            lab.gateway.learn(60)
            for _ in range(2):
                panel = await lab.dial(header=b"999999999999")
                panel.raw(panel.packet(opening(encryption_type=1)))
                assert await panel.hears_end() == b""
            await lab.settle()
            (learnt,) = lab.gateway.learnt
            assert (learnt.integration_id, learnt.encryption_type, learnt.firmware) == (
                "999999999999",
                1,
                "5.43",
            )
            lab.clock.advance(60)
            assert not lab.gateway.learning_left_s
            panel = await lab.dial(header=b"888888888888")
            panel.raw(panel.packet(OPENING))
            assert await panel.hears_end() == b""
            assert lab.gateway.learnt == (learnt,)

    run(conversation())


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        (b"POST /absip HTTP/1.1\r\n", ("PowerSeries Pro", "no section")),
        (b"GET / HTTP/1.1\r\n", ("web browser or a scanner",)),
    ],
)
def test_http_is_recognised(run, tmp_path, request_line, words):
    """Section 1: PowerSeries Pro panels come to the same port."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            panel.raw(request_line)
            sentence = await diagnosis(lab, panel)
            assert all(word in sentence for word in words), sentence
            assert "/absip" not in sentence

    run(conversation())


def test_firmware_5_63_refuses_the_length_of_our_open_session(run, tmp_path):
    """Section 7.1: it says CommandError 060A, code 1, and would start over for ever."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial(opening=opening(firmware=0x0563, tail=bytes(4)))
            await reach(panel, Step.ACCEPT_SESSION)
            panel.say(m.CommandError(nacked_word=0x060A, code=1))
            sentence = await diagnosis(lab, panel)
            assert "5.63" in sentence
            assert "[851][425]" in sentence

    run(conversation())


@pytest.mark.parametrize(
    "refusal",
    [
        m.CommandResponse(command_sequence=0x4C, code=24),
        m.CommandError(nacked_word=0x060A, code=7),
    ],
)
def test_a_panel_may_refuse_the_session(run, tmp_path, refusal):
    """Section 10: the code is told."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await reach(panel, Step.ACCEPT_SESSION)
            panel.say(refusal)
            sentence = await diagnosis(lab, panel)
            assert f"{refusal.code} for word 060A" in sentence
            assert "[851][425]" in sentence

    run(conversation())


def test_a_panel_that_starts_over_again_and_again_is_too_slow(run, tmp_path):
    """Section 7.5: 30 s for the whole handshake, however often it begins."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            for _ in range(3):
                await panel.begin()
                lab.clock.advance(9)
            await panel.open_session()
            lab.clock.advance(4)
            sentence = await diagnosis(lab, panel)
            assert "[851][425]" in sentence

    run(conversation())


def test_garbage_ends_the_connection_when_there_is_too_much_of_it(run, tmp_path):
    """Section 2, rules 2 to 4: each such packet is dropped, and too many in a row are enough."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            panel.raw(b"\x7d\x07\x7e\x01\x7f" * 20)
            sentence = await diagnosis(lab, panel)
            assert "cannot be read" in sentence
            assert "[851][429]" in sentence
            assert len(lab.events("itv2.packet_dropped")) == 16

    run(conversation())


def test_a_packet_without_end_is_refused(run, tmp_path):
    """Section 2, rule 5."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            panel.raw(bytes(70_000))
            sentence = await diagnosis(lab, panel)
            assert "more than 8192 bytes" in sentence
            assert "[851][429]" in sentence

    run(conversation())


@pytest.mark.parametrize(
    "header", [b"", b"12345678901", b"12345678901x", "\uff11\uff12\uff13\uff14".encode()]
)
def test_who_has_no_integration_id_is_no_panel(run, tmp_path, header):
    """Section 2: 12 ASCII digits in every packet."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial(header=header)
            panel.raw(panel.packet(OPENING))
            assert await panel.hears_end() == b""
            assert "12 digits" in await diagnosis(lab)

    run(conversation())


def test_an_id_that_changes_within_the_handshake_ends_it(run, tmp_path):
    """Section 2: one connection is one panel."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            await panel.begin()
            panel.header = b"210987654321"
            panel.acknowledge()
            sentence = await diagnosis(lab, panel)
            assert "changed its Integration ID" in sentence
            assert "[851][422]" in sentence

    run(conversation())


def test_a_session_that_goes_on_where_none_was_opened_ends(run, tmp_path):
    """Section 7: the first packet is an OpenSession."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            panel.say(m.ReadyStatus(partition=1, status=1))
            assert "this server does not know" in await diagnosis(lab, panel)

    run(conversation())


def test_a_panel_that_never_came_has_a_diagnosis_too(run, tmp_path):
    """Section 1.1: what makes it dial."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            sentence = lab.panel.diagnosis
            assert all(word in sentence for word in ("[851][425]", "[851][426]", "[851][428]", "[851][429]"))
            await lab.connected()
            assert lab.panel.diagnosis == ""

    run(conversation())


def test_an_address_that_fails_too_often_is_not_let_in_for_a_while(run, tmp_path):
    """Section 14, rule 12."""

    async def conversation():
        limits = Itv2Limits(failures_count=3, failures_window_s=60)
        async with itv2_lab(tmp_path, limits=limits) as lab:
            for _ in range(3):
                panel = await lab.dial(header=b"999999999999")
                panel.raw(panel.packet(OPENING))
                await panel.hears_end()
            refused = await lab.dial()
            refused.raw(refused.packet(OPENING))
            assert await refused.hears_end() == b""
            assert "failed 3 times" in lab.sentences()[-1]
            await lab.connected(address="192.0.2.8")
            lab.clock.advance(61)
            again = await lab.dial()
            await again.shake_hands()

    run(conversation())


def test_who_connects_and_goes_without_a_word_is_worth_no_line(run, tmp_path):
    """Load balancers and port scans do so all day."""

    async def conversation():
        async with itv2_lab(tmp_path) as lab:
            panel = await lab.dial()
            panel.writer.close()
            await lab.settle()
            assert not lab.sentences()

    run(conversation())


@pytest.mark.parametrize("symptom", SENTENCES)
def test_a_sentence_is_one_and_names_what_to_compare(symptom):
    """The issue: one human sentence with the panel section, of the right group, for each failure."""
    group_4 = sentence_of(symptom, case(panel="house", sections=sections_of(4), detail="x"))
    assert len(re.findall(r"\.(?:\s|$)", group_4)) == 1
    assert "None" not in group_4
    assert not re.search(r"\[851\]\[(42[3-9]|4[3-9]\d|700)\]", group_4), "a section of another group"
    has_section = "[851]" in group_4
    assert has_section or symptom in {Symptom.HTTP, Symptom.POWERSERIES_PRO}
    assert not msgspec.structs.asdict(case()).keys() & {"code", "type2_code", "type1_code"}


def test_every_symptom_has_a_sentence():
    """A symptom without words would be a traceback."""
    assert {value for name, value in vars(Symptom).items() if name.isupper()} == SENTENCES.keys()


def test_firmware_is_shown_by_its_hex_digits():
    """Section 7.1: 0543 is 5.43."""
    assert [firmware_words(one) for one in (0x0543, 0x0411, 0x0563, 0)] == ["5.43", "4.11", "5.63", "unknown"]
