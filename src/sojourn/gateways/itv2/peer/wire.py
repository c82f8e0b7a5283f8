"""The panel's half of TLink and of the ITv2 frame: bytes of a TCP stream to clear packets and back.

Written from the specification, apart from the server's half, so that the two can disagree. Knows no messages, no
keys and no sequence rules.

Source: itv2-protocol.md sections 2 and 3.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from typing import Final, NamedTuple

from sojourn.errors import WireError

END: Final = b"\x7f"
MIDDLE: Final = b"\x7e"
CRC_START: Final = 0xFFFF
"""``crc_hqx`` has the polynomial 0x1021 and no reflection; begun here it is CRC-16/CCITT-FALSE."""
SHORT_LENGTH_BYTES: Final = 127
LONG_LENGTH_FLAG: Final = 0x8000
MAX_LENGTH_BYTES: Final = 32_767
MIN_LENGTH_BYTES: Final = 4
MAX_STREAM_BYTES: Final = 8_192
"""What a panel gathers without a packet's end before it gives up."""

_STUFFED = re.compile(rb"(?:[^\x7d-\x7f]|\x7d[\x00-\x02])*")
_ESCAPE = re.compile(rb"\x7d([\x00-\x02])")


class TLink(NamedTuple):
    """A TLink packet without its stuffing."""

    header: bytes
    payload: bytes


def stuff(data: bytes) -> bytes:
    """Write ``7D``, ``7E``, ``7F`` as ``7D 00``, ``7D 01``, ``7D 02``."""
    return data.replace(b"\x7d", b"\x7d\x00").replace(MIDDLE, b"\x7d\x01").replace(END, b"\x7d\x02")


def unstuff(data: bytes) -> bytes:
    """Undo :func:`stuff`. Raises: WireError if a delimiter is in the data or an escape is none."""
    if not _STUFFED.fullmatch(data):
        raise WireError("a byte that is not stuffed", "7D before 00, 01 or 02", "itv2-protocol.md section 2")
    return _ESCAPE.sub(lambda escape: bytes((0x7D + escape[1][0],)), data)


def to_tlink(header: bytes, payload: bytes) -> bytes:
    """Return a whole TLink packet."""
    return b"".join((stuff(header), MIDDLE, stuff(payload), END))


def from_tlink(packet: bytes) -> TLink:
    """Read one packet, its ``7F`` already cut off. Raises: WireError."""
    header, *payloads = packet.split(MIDDLE)
    if len(payloads) != 1:
        raise WireError(f"{len(payloads)} bytes 7E in a packet", "one", "itv2-protocol.md section 2")
    return TLink(unstuff(header), unstuff(payloads[0]))


class Gatherer:
    """Cuts a TCP stream at each ``7F``; keeps what has no end yet."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """What came behind the last whole packet."""
        return self._rest

    def cut(self, data: bytes) -> list[bytes]:
        """Return the packets that are whole by now, without their ``7F``.

        Raises: WireError if more than ``MAX_STREAM_BYTES`` have no end.
        """
        *packets, self._rest = (self._rest + data).split(END)
        if len(self._rest) > MAX_STREAM_BYTES:
            raise WireError("a packet without end", f"{MAX_STREAM_BYTES} bytes at most", "section 2")
        return packets


def crc_of(data: bytes) -> int:
    """Return the checksum over length and packet."""
    return crc_hqx(data, CRC_START)


def length_bytes(length: int) -> bytes:
    """Return a length in one byte up to 127, else in two with the top bit set."""
    if length <= SHORT_LENGTH_BYTES:
        return bytes((length,))
    if length > MAX_LENGTH_BYTES:
        raise WireError(f"a length of {length}", f"at most {MAX_LENGTH_BYTES}", "itv2-protocol.md section 3")
    return (LONG_LENGTH_FLAG | length).to_bytes(2, "big")


def take_length(data: bytes, at: int = 0) -> tuple[int, int]:
    """Return a length and where the bytes behind it begin. Raises: WireError if it is cut off."""
    first = data[at : at + 1]
    if first and first[0] <= SHORT_LENGTH_BYTES:
        return first[0], at + 1
    if len(data) < at + 2:
        raise WireError("a length that is cut off", "1 or 2 bytes", "itv2-protocol.md section 3")
    return int.from_bytes(data[at : at + 2], "big") & MAX_LENGTH_BYTES, at + 2


def to_frame(packet: bytes) -> bytes:
    """Put length and checksum around a packet."""
    framed = length_bytes(len(packet) + 2) + packet
    return framed + crc_of(framed).to_bytes(2, "big")


def from_frame(data: bytes) -> bytes:
    """Return the packet in a frame; what lies behind the frame is padding.

    Raises: WireError if the length or the checksum is wrong.
    """
    length, begin = take_length(data)
    end = begin + length
    if length < MIN_LENGTH_BYTES or end > len(data):
        raise WireError(f"length {length}", f"{MIN_LENGTH_BYTES} to {len(data) - begin}", "section 3")
    if crc_of(data[: end - 2]) != int.from_bytes(data[end - 2 : end], "big"):
        raise WireError("a wrong checksum", "CRC-16/CCITT-FALSE", "itv2-protocol.md section 3")
    return data[begin : end - 2]
