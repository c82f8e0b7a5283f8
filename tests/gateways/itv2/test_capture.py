"""Captures: anonymised, and still what the codec reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itv2_messages import MESSAGES, SINGLE

from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.capture import Anonymiser, CapturingCodec, Converter, read_packet
from sojourn.gateways.itv2.wire import (
    TLinkFraming,
    decode_packet,
    encode_packet,
    encode_tlink,
    frame,
)
from sojourn.testing.capture import CaptureLine, CaptureWriter, Replayed, replay
from sojourn.testing.clock import ManualClock

KEY = bytes(range(32))
VECTORS = {
    one["id"]: one for one in json.loads(Path(__file__).with_name("itv2_vectors.json").read_text())["vectors"]
}
HIDDEN = frozenset("0123456789") | frozenset(range(1, 256))
"""What makes a code of a text, and something of bytes."""
CODES = {"V64": "0123456789ABCDEFFEDCBA9876543210", "V65": "87654321"}


def on_the_wire(vector: str) -> list[CaptureLine]:
    steps = VECTORS[vector]["expect"]["steps"]
    return [
        CaptureLine(float(n), "in" if step["from"] == "panel" else "out", step["wire"])
        for n, step in enumerate(steps)
    ]


def converted(vector: str, secret: str) -> list[Replayed]:
    return list(replay(on_the_wire(vector), TLinkFraming, Converter(secret, Anonymiser(KEY)).convert))


def sequences(lines: list[CaptureLine]) -> list[tuple[Any, ...]]:
    found = [one.message for one in replay(lines, TLinkFraming, read_packet)]
    return [(packet.sender, packet.receiver, type(packet.message)) for packet in found]


@pytest.mark.parametrize("vector", ["V64", "V65"])
def test_a_whole_session_is_decrypted_and_still_decodes(vector: str) -> None:
    """Both encryption types: the packets in their order and with their numbers, and nothing of the panel in them."""
    lines = [
        CaptureLine(one.at_s, one.direction, one.message.hex()) for one in converted(vector, CODES[vector])
    ]
    clear = [
        CaptureLine(
            float(n),
            "in" if step["from"] == "panel" else "out",
            encode_tlink(b"123456789012", bytes.fromhex(step["frame"])).hex(),
        )
        for n, step in enumerate(VECTORS[vector]["expect"]["steps"])
    ]
    assert sequences(lines) == sequences(clear)
    text = json.dumps([line.hex for line in lines])
    given = VECTORS[vector]["input"]
    for secret in (b"123456789012".hex(), given["panel_random"], given["server_random"]):
        assert secret not in text


def test_a_wrong_access_code_is_told_and_nothing_unread_is_written() -> None:
    """What can't be decrypted can't be anonymised."""
    found = converted("V64", "0" * 32)
    assert [one.message for one in found if isinstance(one.message, WireError)]
    assert len(found) == len(on_the_wire("V64"))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_message_still_decodes_as_what_it_is(kind: type[m.Message], data: st.DataObject) -> None:
    """Law: anonymised, encoded and decoded again it is the same class with the same numbers."""
    message = decode_packet(encode_packet(m.Packet(1, 2, data.draw(MESSAGES[kind])))).message
    changed = Anonymiser(KEY).message(message)
    back = decode_packet(encode_packet(m.Packet(1, 2, changed))).message
    assert type(back) is type(message)
    assert back == changed
    secret = {*message.secret_fields, "tail", "labels", "text", "messages", "body", "parameters"}
    for name in message.__struct_fields__:
        if name not in secret:
            assert getattr(back, name) == getattr(message, name), name


@pytest.mark.parametrize(
    "kind", [kind for kind in SINGLE if kind.secret_fields], ids=lambda kind: kind.__name__
)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_secret_field_is_kept(kind: type[m.Message], data: st.DataObject) -> None:
    """Whatever a message class calls secret: a class that gets one later is found here."""
    message = data.draw(SINGLE[kind])
    changed = Anonymiser(KEY).message(message)
    for name in kind.secret_fields:
        was, now = getattr(message, name), getattr(changed, name)
        for before, after in zip(was, now, strict=True) if isinstance(was, tuple) else ((was, now),):
            # Short ones may become themselves by chance, and what has nothing to hide stays.
            if len([one for one in before if one in HIDDEN]) > 6:
                assert before != after


def test_the_same_code_is_the_same_throughout_and_another_in_another_capture() -> None:
    """It still shows which code was wrong; nobody can look it up."""
    arm, disarm = m.Arm(partition=1, mode=2, code="1234"), m.Disarm(partition=1, code="1234")
    first, second = Anonymiser(), Anonymiser()
    assert first.message(arm).code == first.message(disarm).code
    assert len({Anonymiser().message(disarm).code for _ in range(20)}) > 1
    assert len(second.message(arm).code) == 4
    assert first.message(m.Arm(partition=1, mode=2)).code == ""


def test_a_disabled_code_stays_one() -> None:
    """Spec 9.6: AAAA says that the slot is free."""
    changed = Anonymiser(KEY).message(m.Codes(first=1, width=2, codes=("AAAA", "1234")))
    assert changed.codes[0] == "AAAA"
    assert changed.codes[1] != "1234"


def test_names_are_numbered_and_empty_ones_stay_empty() -> None:
    """Who has how many zones is seen; what they are called is not."""
    labels = m.Labels(collection=m.Collection.ZONES, first=1, last=3, width=28, labels=("Safe", "", "Safe"))
    assert Anonymiser(KEY).message(labels).labels == ("N1", "", "N1")


def test_bodies_that_nobody_can_read_are_blank_unless_they_are_asked_for() -> None:
    """They may hold a code; whoever looks for their layout decides."""
    unknown = m.Unknown(number=0x0999, body=b"\x12\x34")
    assert Anonymiser(KEY).message(unknown).body == b"\0\0"
    assert Anonymiser(KEY, keeps_unread=True).message(unknown).body == b"\x12\x34"


def test_the_tail_of_an_open_session_is_kept() -> None:
    """Firmware 5.63 is looked into by it."""
    opening = decode_packet(bytes.fromhex("0000060a4b020329054302230200020000010201020304")).message
    assert Anonymiser(KEY).message(opening) == opening


def test_a_connection_is_captured_both_ways_as_it_talks() -> None:
    """The codec of a live connection; what is written never had a code in it."""
    stream, clock = io.BytesIO(), ManualClock()
    codec = CapturingCodec(CaptureWriter(stream, clock), Anonymiser(KEY))
    poll = encode_tlink(b"123456789012", frame(encode_packet(m.Packet(0, 0, m.Poll()))))
    (packet,), _, _ = TLinkFraming().split(poll)
    codec.decode(None, packet)
    clock.advance(0.5)
    codec.encode(None, m.Packet(1, 0, m.Disarm(partition=1, code="4711")))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["direction"], second["direction"], second["at_s"]) == ("in", "out", 0.5)
    assert b"4711" not in stream.getvalue()
    assert b"123456789012".hex().encode() not in stream.getvalue()


def test_a_capture_ends_at_its_limit() -> None:
    """A panel that talks for months must not fill a disk."""
    stream = io.BytesIO()
    codec = CapturingCodec(CaptureWriter(stream, ManualClock()), Anonymiser(KEY), limit_bytes=200)
    for _ in range(100):
        codec.encode(None, m.Packet(0, 0, m.Poll()))
    assert 0 < len(stream.getvalue().splitlines()) < 100


def test_what_can_not_be_read_is_an_error_of_the_replay() -> None:
    """A known word with a body of another layout is what captures are made for."""
    bad = encode_tlink(b"1", frame(bytes.fromhex("00000239"))).hex()
    (found,) = replay([CaptureLine(1.0, "in", bad)], TLinkFraming, read_packet)
    assert isinstance(found.message, WireError)
    assert "0239" in str(found.message)
