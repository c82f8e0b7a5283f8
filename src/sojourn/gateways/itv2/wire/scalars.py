"""The scalars of ITv2: bytes to values and back. Big-endian throughout.

Shape: every reader takes the message and an offset, and returns the value and the offset behind it; it raises WireError
where the message ends before. Every writer returns bytes and raises LocalProtocolError where a value does not fit; no
error shows a value, which may be a code.
Source: itv2-protocol.md section 6.
"""

from __future__ import annotations

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2.messages import PanelTime

SOURCE = "itv2-protocol.md section 6"
BASE_YEAR = 2000

_COMPACT_LIMIT_BYTES = 8
_YEARS_COUNT = 64


def take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    """Read ``length`` bytes."""
    end = at + length
    if end > len(data):
        raise cut_short(data, at, length)
    return data[at:end], end


def cut_short(data: bytes, at: int, wanted: int) -> WireError:
    """Return the error that says where a message ends too early."""
    return WireError(f"{max(0, len(data) - at)} bytes at offset {at}", f"{wanted} bytes", SOURCE)


def number(value: int, size_bytes: int) -> bytes:
    """Write an unsigned integer of so many bytes."""
    try:
        return value.to_bytes(size_bytes, "big")
    except OverflowError:
        raise does_not_fit("a number", f"a number of {size_bytes} bytes") from None


def read_compact(data: bytes, at: int) -> tuple[int, int]:
    """Read a compact integer: one byte with its size, up to 8, and that many bytes; need not be the shortest form."""
    try:
        size = data[at]
        if size == 1:
            return data[at + 1], at + 2
    except IndexError:
        raise cut_short(data, at, 2) from None
    if size > _COMPACT_LIMIT_BYTES:
        raise WireError(f"a compact integer of {size} bytes", f"at most {_COMPACT_LIMIT_BYTES}", SOURCE)
    raw, at = take(data, at + 1, size)
    return int.from_bytes(raw, "big"), at


def write_compact(value: int, min_size_bytes: int = 1) -> bytes:
    """Write a compact integer in the fewest bytes, but at least so many."""
    if not 0 <= value < 1 << 8 * _COMPACT_LIMIT_BYTES:
        raise does_not_fit("a compact integer", f"one of at most {_COMPACT_LIMIT_BYTES} bytes")
    size = max(min_size_bytes, (value.bit_length() + 7) // 8)
    return bytes((size,)) + value.to_bytes(size, "big")


def read_digits(bcd: bytes) -> str:
    """Return the digits in BCD, A to F included; the zero that fills an odd count cannot be told from a digit."""
    return bcd.hex().upper()


def write_digits(digits: str) -> bytes:
    """Write digits as BCD, high nibble first; an odd count is filled with a zero."""
    try:
        return bytes.fromhex(digits + "0" * (len(digits) % 2))
    except ValueError:
        raise does_not_fit("a code", "decimal digits") from None


def read_counted(data: bytes, at: int) -> tuple[bytes, int]:
    """Read one byte with a length and that many bytes."""
    try:
        return take(data, at + 1, data[at])
    except IndexError:
        raise cut_short(data, at, 1) from None


def write_counted(value: bytes) -> bytes:
    """Write at most 255 bytes behind their number."""
    if len(value) > 0xFF:  # noqa: PLR2004 - what a byte can say
        raise does_not_fit(f"{len(value)} bytes", "at most 255 bytes")
    return bytes((len(value),)) + value


def read_text(raw: bytes) -> str:
    """Return text in UTF-16; what is no character becomes U+FFFD."""
    return raw.decode("utf-16-be", "replace")


def read_label(raw: bytes) -> str:
    """Return text in UTF-16 without the spaces and NULs around it."""
    return read_text(raw).strip("\0 ")


def write_text(text: str) -> bytes:
    """Write text as UTF-16."""
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError:
        raise does_not_fit("a text with half a character", "Unicode characters") from None


def write_label(label: str, width: int) -> bytes:
    """Write text as UTF-16 filled with spaces to ``width`` bytes."""
    raw = write_text(label)
    if len(raw) > width:
        raise does_not_fit(f"a label of {len(raw)} bytes", f"at most {width} bytes")
    filled = raw + b"\0 " * ((width - len(raw)) // 2)
    return filled + bytes(width - len(filled))


def read_time(data: bytes, at: int) -> tuple[PanelTime, int]:
    """Read a panel's local time, valid or not.

    Shape: from the highest bit: hour 5 bits, minute 6, second 6, year since 2000 6, month 4, day 5.
    """
    raw, at = take(data, at, 4)
    bits = int.from_bytes(raw, "big")
    return PanelTime(
        year=BASE_YEAR + (bits >> 9 & 0x3F),
        month=bits >> 5 & 0xF,
        day=bits & 0x1F,
        hour=bits >> 27,
        minute=bits >> 21 & 0x3F,
        second=bits >> 15 & 0x3F,
    ), at


def write_time(time: PanelTime) -> bytes:
    """Write a panel's local time; whether there is such a time does not matter."""
    year = time.year - BASE_YEAR
    fields = ((time.hour, 5), (time.minute, 6), (time.second, 6), (year, 6), (time.month, 4), (time.day, 5))
    bits = 0
    for value, width in fields:
        if not 0 <= value < 1 << width:
            raise does_not_fit(
                "a time", f"years {BASE_YEAR} to {BASE_YEAR + _YEARS_COUNT - 1} and a time of day"
            )
        bits = bits << width | value
    return bits.to_bytes(4, "big")


def does_not_fit(found: str, wanted: str) -> LocalProtocolError:
    """Return the error about a value that cannot be written."""
    return LocalProtocolError(f"{found} that does not fit its field", wanted, SOURCE)
