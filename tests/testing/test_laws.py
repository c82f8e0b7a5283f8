"""The laws pass for framings that keep them, and find one that does not."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import strategies

from sojourn.errors import WireError
from sojourn.sansio.framing import HeaderFraming, LineFraming
from sojourn.testing import laws

FRAMING = HeaderFraming("!HHI", length=1, session=2, max_length_bytes=300)


def encode(message):
    number, text = message
    return FRAMING.encode(7, 0, number, body=text.encode())


def read(packet):
    try:
        return packet.session_id, packet.body.decode()
    except UnicodeDecodeError:
        raise WireError("other bytes", "UTF-8", "the test") from None


MESSAGES = strategies.tuples(strategies.integers(0, 2**32 - 1), strategies.text(max_size=20))
STREAMS = strategies.lists(MESSAGES.map(encode), max_size=5).map(b"".join)


def test_a_framing_with_a_header_keeps_all_laws():
    """Cutting, random bytes, damage, oversize, round trip."""
    laws.any_cutting_gives_the_same_packets(FRAMING, STREAMS)
    laws.random_bytes_give_packets_or_a_wire_error(FRAMING, read)
    laws.random_bytes_give_packets_or_a_wire_error(FRAMING, read, prefix=b"\0\7\0\4")
    laws.damage_gives_a_message_or_a_wire_error(FRAMING, [encode((5, "hello"))], read)
    laws.oversize_is_refused_from_its_header(FRAMING, struct.pack("!HHI", 7, 301, 1))
    laws.what_is_encoded_is_read_back(encode, read, FRAMING, MESSAGES)


class CutBlind:
    """Breaks the first law: takes what there is for a packet."""

    def split(self, data):
        return [data] if data else [], len(data), 1


def test_a_framing_that_depends_on_the_cutting_is_found():
    """pymodbus' bug: frames split or merged in one read."""
    with pytest.raises(AssertionError):
        laws.any_cutting_gives_the_same_packets(CutBlind(), [b"two bytes"])


def test_a_codec_that_raises_something_else_is_found():
    """IndexError is no answer to bytes."""

    def careless(packet):
        return packet.body[3]

    with pytest.raises(IndexError):
        laws.random_bytes_give_packets_or_a_wire_error(FRAMING, careless, prefix=b"\0\7\0\2\0\0\0\0..")
    with pytest.raises(IndexError):
        laws.damage_gives_a_message_or_a_wire_error(FRAMING, [encode((1, "ab"))], careless)


def test_a_framing_that_waits_for_an_oversize_body_is_found():
    """The declared size is checked before the wait."""
    patient = HeaderFraming("!HHI", length=1, session=2, max_length_bytes=1 << 20)
    with pytest.raises(AssertionError, match="not refused"):
        laws.oversize_is_refused_from_its_header(patient, struct.pack("!HHI", 7, 301, 1))


def test_a_framing_that_refuses_too_early_is_found():
    """Half a header says nothing yet."""
    with pytest.raises(AssertionError, match="before its header"):
        laws.oversize_is_refused_from_its_header(LineFraming(max_length_bytes=2), b"123456")


def test_an_encoder_that_its_decoder_does_not_read_is_found():
    """Both directions side by side."""
    with pytest.raises(AssertionError, match="wrote"):
        laws.what_is_encoded_is_read_back(
            lambda message: encode((message[0], "x")), read, FRAMING, [(1, "y")]
        )


def test_packets_before_a_bad_one_are_kept():
    """Good packets are served first, wherever the bytes are cut."""
    stream = encode((1, "a")) + encode((2, "b")) + struct.pack("!HHI", 7, 9999, 1) + b"rest"
    for pieces in laws.cuttings(stream):
        packets, error = laws.outcome_of(FRAMING, pieces)
        assert [packet.session_id for packet in packets] == [1, 2]
        assert isinstance(error, WireError)
    with pytest.raises(WireError):
        laws.packets_of(FRAMING, [stream])


def test_without_hypothesis_the_error_says_what_to_install(monkeypatch):
    """A test's dependency is asked for when a law is tried, not when the module is imported."""
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match="pip install hypothesis"):
        laws.any_cutting_gives_the_same_packets(FRAMING, [b""])
