"""The kinds of fields that ITv2 messages are made of: how each is read off a cursor, and how it is written.

Knows no messages.

Source: itv2-protocol.md section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sojourn.errors import WireError
from sojourn.gateways.itv2.messages import PanelTime

SOURCE: Final = "itv2-protocol.md section 6"
MAX_INTEGER_BYTES: Final = 8


class Cursor:
    """A place in the bytes of a message."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Go on by so many bytes. Raises: WireError if there are fewer."""
        end = self.at + count
        if end > len(self.data):
            raise WireError("a message that is too short", f"{end - len(self.data)} bytes more", SOURCE)
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def rest(self) -> bytes:
        """Go to the end."""
        return self.take(len(self.data) - self.at)

    def unsigned(self, count: int) -> int:
        """Read a number of so many bytes."""
        return int.from_bytes(self.take(count), "big")

    def compact(self) -> int:
        """Read a compact integer; it need not be minimal."""
        count = self.unsigned(1)
        if count > MAX_INTEGER_BYTES:
            raise WireError(f"an integer of {count} bytes", "at most 8", SOURCE)
        return self.unsigned(count)


class Kind(NamedTuple):
    """How a field is read and written."""

    read: Callable[[Cursor], Any]
    write: Callable[[Any], bytes]


def compact(value: int, least_bytes: int = 1) -> bytes:
    """Write a compact integer in as few bytes as possible, but not in fewer than told."""
    count = max(least_bytes, (value.bit_length() + 7) // 8)
    return bytes((count,)) + value.to_bytes(count, "big")


def pack_digits(digits: str) -> bytes:
    """Write digits as BCD; A to F are allowed, an odd count gets a 0 at its end."""
    return bytes.fromhex(digits + "0" * (len(digits) % 2))


def unpack_digits(packed: bytes) -> str:
    """Read BCD; whether its last 0 is padding cannot be told."""
    return packed.hex().upper()


def pack_time(time: PanelTime) -> bytes:
    """Write a panel's time into 4 bytes."""
    value = time.hour
    for amount, bits in (
        (time.minute, 6),
        (time.second, 6),
        (time.year - 2000, 6),
        (time.month, 4),
        (time.day, 5),
    ):
        value = value << bits | amount
    return value.to_bytes(4, "big")


def unpack_time(value: int) -> PanelTime:
    """Read a panel's time as it is, valid or not."""
    return PanelTime(
        year=2000 + (value >> 9 & 0x3F),
        month=value >> 5 & 0xF,
        day=value & 0x1F,
        hour=value >> 27,
        minute=value >> 21 & 0x3F,
        second=value >> 15 & 0x3F,
    )


def counted(data: bytes) -> bytes:
    """Write bytes behind their count."""
    return bytes((len(data),)) + data


def pack_label(label: str, width_bytes: int) -> bytes:
    """Write a name in UTF-16BE, filled with spaces or cut to a width."""
    return label.ljust(width_bytes // 2)[: width_bytes // 2].encode("utf-16-be")


def unpack_label(data: bytes) -> str:
    """Read a name without what fills it."""
    return data.decode("utf-16-be", "replace").strip("\0 ")


U8: Final = Kind(lambda cursor: cursor.unsigned(1), lambda value: bytes((value,)))
U16: Final = Kind(lambda cursor: cursor.unsigned(2), lambda value: value.to_bytes(2, "big"))
FLAG: Final = Kind(lambda cursor: bool(cursor.unsigned(1)), lambda value: bytes((value,)))
COMPACT: Final = Kind(Cursor.compact, compact)
USER: Final = Kind(Cursor.compact, lambda value: compact(value, 2))
"""A compact integer as real panels write user numbers: in two bytes at least."""
COUNTED: Final = Kind(lambda cursor: cursor.take(cursor.unsigned(1)), counted)
REST: Final = Kind(Cursor.rest, bytes)
CODE: Final = Kind(lambda cursor: unpack_digits(cursor.rest()), pack_digits)
"""A code to the end of the message."""
COUNTED_CODE: Final = Kind(
    lambda cursor: unpack_digits(cursor.take(cursor.unsigned(1))), lambda value: counted(pack_digits(value))
)
TEXT: Final = Kind(
    lambda cursor: cursor.take(cursor.unsigned(1)).decode("utf-16-be", "replace"),
    lambda value: counted(value.encode("utf-16-be")),
)
TIME: Final = Kind(lambda cursor: unpack_time(cursor.unsigned(4)), pack_time)
