"""Hexdump: what ``hexdump -C`` shows, with a limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sojourn.sansio.hexdump import hexdump


def test_a_row_is_offset_hexadecimal_and_text():
    """Sixteen bytes to a row, a gap in the middle, dots for what cannot be shown."""
    assert hexdump(b"GET / HTTP/1.1\r\n\x00\xff") == (
        "00000000  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  |GET / HTTP/1.1..|\n"
        "00000010  00 ff                                             |..|"
    )


def test_what_is_beyond_the_limit_is_counted():
    """A dump never floods a log."""
    assert hexdump(bytes(300), limit_bytes=16).splitlines()[1] == "00000010  ... 284 more bytes"
    assert hexdump(bytes(17), limit_bytes=16).endswith("... 1 more byte")


def test_nothing_gives_nothing():
    """No bytes, no rows."""
    assert hexdump(b"") == ""


@given(st.binary(max_size=100), st.sampled_from([bytes, bytearray, memoryview]))
def test_the_bytes_can_be_read_back(data, kind):
    """The hexadecimal columns hold every byte; each row is printable and of the usual width."""
    rows = hexdump(kind(data)).splitlines()
    assert bytes.fromhex(" ".join(row[10:58] for row in rows)) == data
    assert all(row.isprintable() and row.isascii() and len(row) <= 78 for row in rows)
