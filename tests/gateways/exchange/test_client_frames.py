"""Frames of a client: whatever the cutting, the same messages; whatever the damage, a message or a close code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from sojourn.errors import WireError
from sojourn.gateways.exchange.client_frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameReader,
    close_code_of,
)

LIMIT = 100_000
DATA = st.one_of(st.binary(max_size=300), st.integers(65_530, 65_540).map(bytes))


def frame(opcode, data=b"", *, fin=True):
    """Return a frame as another implementation writes it for clients."""
    return Frame(Opcode(opcode), data, fin).serialize(mask=True)


def read(reader, *pieces):
    """Return all messages of some bytes."""
    messages = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            messages.append(tuple(message))
    return messages


@st.composite
def conversations(draw):
    """Whole messages, some in fragments with control frames between them: their bytes, and what they are."""
    data, wanted = b"", []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from((TEXT, BINARY)))
        parts = [
            part if kind == BINARY else part.hex().encode()
            for part in draw(st.lists(DATA, min_size=1, max_size=3))
        ]
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            data += frame(kind if not number else 0, part, fin=is_last)
            if not is_last and draw(st.booleans()):
                data += frame(PING, b"p")
                wanted.append((PING, b"p"))
        whole = b"".join(parts)
        wanted.append((kind, whole.decode() if kind == TEXT else whole))
    return data, wanted


@given(conversations(), st.lists(st.integers(1, 100_000), max_size=8))
def test_any_cutting_of_the_bytes_gives_the_same_messages(conversation, cuts):
    """RFC 6455 section 5.4: fragments make one message; control frames may come between them."""
    data, wanted = conversation
    places = sorted({min(cut, len(data)) for cut in cuts})
    pieces = [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert read(FrameReader(10**6), *pieces) == wanted


@given(conversations(), st.data())
def test_a_damaged_byte_gives_messages_or_a_close_code(conversation, data):
    """Nothing else is ever raised, and nothing is waited for without end."""
    good, _ = conversation
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    reader = FrameReader(LIMIT)
    try:
        read(reader, bad)
    except WireError:
        assert reader.close_code in {1002, 1007, 1009}


@given(st.binary(max_size=400))
def test_random_bytes_give_messages_or_a_close_code(data):
    """As above."""
    reader = FrameReader(LIMIT)
    try:
        read(reader, data)
    except WireError:
        assert reader.close_code in {1002, 1007, 1009}


@pytest.mark.parametrize(
    ("data", "close_code"),
    [
        (b"\x81\x03abc", 1002),  # no mask
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x83\x80", 1002),  # an unknown opcode
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in fragments
        (b"\x89\xfe\x00\x7e" + bytes(130), 1002),  # a long ping
        (b"\x80\x80\x00\x00\x00\x00", 1002),  # a continuation of nothing
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),  # a message within another
        (frame(TEXT, b"\xff"), 1007),
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),  # refused from its header
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
        (frame(BINARY, bytes(LIMIT), fin=False) + b"\x80\x81", 1009),  # its fragments together
    ],
    ids=(
        "no mask",
        "reserved bit",
        "opcode",
        "ping in fragments",
        "long ping",
        "continuation",
        "two messages",
        "text",
        "header",
        "sign",
        "fragments",
    ),
)
def test_what_breaks_a_rule_has_its_close_code(data, close_code):
    """RFC 6455 sections 5.1 to 5.5 and 7.4.1; what is too large is refused before it has come."""
    reader = FrameReader(LIMIT)
    with pytest.raises(WireError):
        read(reader, data)
    assert reader.close_code == close_code


def test_good_frames_before_a_bad_one_are_read():
    """What came whole counts."""
    reader = FrameReader(LIMIT)
    reader.feed(frame(TEXT, b"one") + b"\x81\x03abc")
    assert reader.next_message() == (TEXT, "one")
    with pytest.raises(WireError):
        reader.next_message()


def test_control_frames_are_handed_on():
    """RFC 6455 section 5.5."""
    data = frame(PING, b"1") + frame(PONG, b"") + frame(CLOSE, b"\x03\xe8bye")
    assert read(FrameReader(LIMIT), data) == [(PING, b"1"), (PONG, b""), (CLOSE, b"\x03\xe8bye")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 1005),
        (b"\x03", 1002),
        (b"\x03\xe8", 1000),
        (b"\x0f\xa0x", 4000),
        (b"\x03\xed", 1002),
        (b"\x13\x88", 1002),
    ],
)
def test_a_close_code_is_one_that_may_be_sent(data, code):
    """RFC 6455 section 7.4: 1005, 1006 and what is out of range are never on the wire."""
    assert close_code_of(data) == code
