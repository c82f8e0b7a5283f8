"""Cutting a stream into packets: the same ones wherever the bytes are cut, and never one that is too long."""

from __future__ import annotations

import struct

import pytest
from hypothesis import strategies

from sojourn.errors import WireError
from sojourn.sansio.codec import NullCodec
from sojourn.sansio.framing import HeaderFraming, LineFraming
from sojourn.testing import laws

HEADER = struct.Struct("!BHI")
FRAMING = HeaderFraming("!BHI", length=1, session=2, max_length_bytes=1_000)
GOOD = strategies.lists(
    strategies.tuples(strategies.integers(0, 2**32 - 1), strategies.binary(max_size=40)), max_size=5
).map(lambda packets: b"".join(HEADER.pack(1, len(body), number) + body for number, body in packets))
BAD_ENDS = strategies.sampled_from(
    [b"", HEADER.pack(1, 1_001, 0), HEADER.pack(1, 65_535, 0) + b"rest", b"\1\0"]
)


def test_a_packet_has_header_session_and_body():
    """Alone, several at once, and without a session number."""
    one = HEADER.pack(7, 3, 9) + b"abc"
    packets, consumed, wanted = FRAMING.split(one)
    assert [(packet.header, packet.session_id, packet.body) for packet in packets] == [((7, 3, 9), 9, b"abc")]
    assert (consumed, wanted) == (10, 7)
    packets, consumed, _ = FRAMING.split(one * 3 + one[:4])
    assert ([packet.body for packet in packets], consumed) == ([b"abc"] * 3, 30)
    (packet,) = HeaderFraming("!BHI", length=1).split(one)[0]
    assert packet.session_id == 0


@pytest.mark.parametrize(("length", "wanted"), [(0, 7), (6, 7), (7, 17), (16, 17)])
def test_an_incomplete_packet_says_how_many_bytes_it_needs(length, wanted):
    """The header first, then all of it."""
    whole = HEADER.pack(1, 10, 1) + bytes(10)
    assert FRAMING.split(whole[:length]) == ([], 0, wanted)


def test_a_header_framing_keeps_the_laws():
    """Any cutting, random bytes, damage, round trip; good streams and streams with a bad end."""
    streams = strategies.tuples(GOOD, BAD_ENDS).map(b"".join)
    laws.any_cutting_gives_the_same_packets(FRAMING, streams)
    laws.random_bytes_give_packets_or_a_wire_error(FRAMING)
    laws.damage_gives_a_message_or_a_wire_error(FRAMING, [HEADER.pack(1, 4, 1) + b"body"])
    laws.what_is_encoded_is_read_back(
        lambda body: FRAMING.encode(1, 0, 5, body=body),
        lambda packet: packet.body,
        FRAMING,
        strategies.binary(max_size=1_000),
    )


@pytest.mark.parametrize("length", [1_001, 65_535])
def test_a_packet_that_is_too_long_is_refused_from_its_header(length):
    """Before a byte of its body; the longest that is allowed is read."""
    laws.oversize_is_refused_from_its_header(FRAMING, HEADER.pack(1, length, 1))
    assert len(FRAMING.split(HEADER.pack(1, 1_000, 1) + bytes(1_000))[0]) == 1
    with pytest.raises(WireError, match=f"found a body of {length} bytes, wanted at most 1000"):
        FRAMING.split(HEADER.pack(1, length, 1))


def test_good_packets_before_a_bad_one_come_first():
    """The bad one is left in place; the next call raises."""
    data = HEADER.pack(1, 1, 1) + b"a" + HEADER.pack(1, 2_000, 1)
    packets, consumed, wanted = FRAMING.split(data)
    assert ([packet.body for packet in packets], consumed) == ([b"a"], 8)
    assert len(data) - consumed >= wanted
    with pytest.raises(WireError):
        FRAMING.split(data[consumed:])


@pytest.mark.parametrize("delimiter", [b"\n", b"\r\n", b"END"])
def test_lines_keep_the_laws_whatever_ends_them(delimiter):
    """Also where a line of the longest allowed length is cut inside its delimiter."""
    framing = LineFraming(delimiter, max_length_bytes=6)
    lines = strategies.lists(strategies.binary(max_size=9).map(lambda line: line + delimiter), max_size=5)
    laws.any_cutting_gives_the_same_packets(framing, lines.map(b"".join))
    laws.any_cutting_gives_the_same_packets(framing, [b"123456" + delimiter, b"1234567" + delimiter])
    laws.random_bytes_give_packets_or_a_wire_error(framing)


def test_a_line_without_an_end_is_refused_as_soon_as_that_is_certain():
    """The limit holds without the delimiter having come."""
    framing = LineFraming(max_length_bytes=4)
    assert framing.split(b"1234") == ([], 0, 5)
    with pytest.raises(WireError):
        framing.split(b"12345")
    assert framing.split(b"ab\n12345") == ([b"ab"], 3, 1)
    assert framing.split(b"\n\nab\n") == ([b"", b"", b"ab"], 5, 1)


def test_the_null_codec_passes_bytes_on():
    """For protocols whose packets are the messages."""
    codec = NullCodec(b"\n")
    assert codec.decode(None, b"line") == b"line"
    assert codec.encode(None, b"line") == b"line\n"
