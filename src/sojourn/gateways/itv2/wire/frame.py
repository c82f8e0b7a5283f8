"""ITv2 frames: a length before a packet, a CRC behind it; what comes behind the CRC is the cipher's padding.

Source: itv2-protocol.md section 3.
"""

from __future__ import annotations

from binascii import crc_hqx

from sojourn.errors import LocalProtocolError, WireError

MAX_FRAME_LENGTH = 0x7FFF
"""The largest length that the two-byte form can say; it counts packet and CRC."""

_MIN_LENGTH = 4
_CRC_BYTES = 2
_LONG_FORM = 0x80
_SOURCE = "itv2-protocol.md section 3"


def crc16(data: bytes) -> int:
    """Return the CRC-16 of ``data``: polynomial 1021, initial value FFFF, not reflected, no final XOR."""
    return crc_hqx(data, 0xFFFF)


def encode_length(length: int) -> bytes:
    """Write a length: one byte up to 127, else two with the top bit set.

    Raises: LocalProtocolError above :data:`MAX_FRAME_LENGTH`.
    """
    if length < _LONG_FORM:
        return bytes((length,))
    if length > MAX_FRAME_LENGTH:
        raise LocalProtocolError(f"a length of {length}", f"at most {MAX_FRAME_LENGTH}", _SOURCE)
    return (length | 0x8000).to_bytes(2, "big")


def decode_length(data: bytes, at: int = 0) -> tuple[int, int]:
    """Read a length of either form at offset ``at``; return it and the offset behind it.

    Raises: WireError if the data ends before.
    """
    try:
        first = data[at]
        if first < _LONG_FORM:
            return first, at + 1
        return (first & 0x7F) << 8 | data[at + 1], at + 2
    except IndexError:
        raise WireError("no length", "a length of one or two bytes", _SOURCE) from None


def frame(packet: bytes) -> bytes:
    """Put the length before a packet and the CRC behind it.

    Raises: LocalProtocolError if the packet is too long for a frame.
    """
    framed = encode_length(len(packet) + _CRC_BYTES) + packet
    return framed + crc_hqx(framed, 0xFFFF).to_bytes(2, "big")


def unframe(data: bytes) -> bytes:
    """Return the packet in a frame, whose padding is ignored.

    Raises: WireError if the length or the CRC is wrong.
    """
    length, start = decode_length(data)
    end = start + length
    if not _MIN_LENGTH <= length <= len(data) - start:
        raise WireError(
            f"a length of {length}",
            f"{_MIN_LENGTH} to {len(data) - start}, the bytes that are there",
            _SOURCE,
        )
    crc_at = end - _CRC_BYTES
    if crc_hqx(data[:crc_at], 0xFFFF) != data[crc_at] << 8 | data[crc_at + 1]:
        raise WireError("a wrong CRC", "the CRC of length and packet", _SOURCE)
    return data[start:crc_at]
