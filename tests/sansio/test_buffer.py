"""The bytes of a packet that has not arrived whole."""

from __future__ import annotations

from sojourn.sansio.buffer import ReceiveBuffer


def test_bytes_are_given_back_once_enough_are_there():
    """None means: need more."""
    buffer = ReceiveBuffer(b"ab", 5)
    assert buffer.feed(b"c") is None
    assert len(buffer) == 3
    assert buffer.feed(b"") is None
    assert buffer.feed(b"defg") == b"abcdefg"


def test_one_byte_at_a_time_is_one_append_each():
    """What was kept stays where it is until the last byte has come."""
    data = bytes(range(256)) * 256
    buffer = ReceiveBuffer(data[:1], len(data))
    results = [buffer.feed(data[at : at + 1]) for at in range(1, len(data))]
    assert results[-1] == data
    assert not any(results[:-1])


def test_a_buffer_that_holds_enough_from_the_start_gives_it_at_once():
    """A bad packet behind good ones is looked at again without another byte."""
    assert ReceiveBuffer(b"abc", 2).feed(b"") == b"abc"
