"""TLink packets: cut from a stream of bytes, and put together again.

Shape: ``stuffed header | 7E | stuffed payload | 7F``; the panel's header is its Integration ID in every packet.
What it does not know on purpose: sockets, ciphers, and what a payload says.

A packet that breaks a rule is dropped and the stream goes on behind its 7F, so it comes as a packet that says what
was wrong with it; only what never ends, or is another protocol, raises.
Source: itv2-protocol.md section 2.
"""

from __future__ import annotations

import re

import msgspec

from sojourn.errors import WireError

DEFAULT_LIMIT_BYTES = 8192
"""Longest packet that is accepted; panels announce buffers of 512 bytes."""

_SOURCE = "itv2-protocol.md section 2"
_SEPARATOR = 0x7E
_END = 0x7F
_ESCAPE = b"\x7d"
_ANOTHER_PROTOCOL = re.compile(rb"([A-Za-z]{1,16}) ")


class TLinkPacket(msgspec.Struct, frozen=True, gc=False):
    """One packet without its stuffing; ``error`` says why it has to be dropped, and then it holds nothing else.

    Always true: the text form never shows the payload, which may be clear text.
    """

    header: bytes
    payload: bytes
    error: str | None = None

    def __repr__(self) -> str:
        return (
            f"TLinkPacket(header={self.header!r}, payload=<{len(self.payload)} bytes>, error={self.error!r})"
        )


class TLinkFraming:
    """Cuts a stream of bytes into packets; holds no bytes itself, so one object serves every connection.

    Args:
        limit_bytes: the longest packet that is accepted, stuffing included and without its 7F.
    """

    __slots__ = ("limit_bytes",)

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes

    def split(self, data: bytes) -> tuple[list[TLinkPacket], int, int]:
        """Cut the whole packets off the front of ``data``, without the empty ones.

        Returns: the packets in order; how many bytes they took; how many bytes the next packet needs at least,
            counted from there.
        Raises: WireError if the first packet is too long, or if ``data`` begins another protocol. What comes behind
            good packets is left for the next call, so that the good ones are served.
        Source: itv2-protocol.md sections 1 and 2.
        """
        packets: list[TLinkPacket] = []
        position = 0
        while True:
            end = data.find(_END, position)
            if (end if end >= 0 else len(data)) - position > self.limit_bytes:
                error = _too_long(self.limit_bytes)
            elif other := _ANOTHER_PROTOCOL.match(data, position):
                error = _another_protocol(other[1])
            elif end < 0:
                return packets, position, len(data) - position + 1
            else:
                packet = _read(data[position:end])
                if packet.payload or packet.error:
                    packets.append(packet)
                position = end + 1
                continue
            if packets:
                return packets, position, 1
            raise error


def encode_tlink(header: bytes, payload: bytes) -> bytes:
    """Write one packet.

    Source: itv2-protocol.md section 2.
    """
    return b"%b\x7e%b\x7f" % (stuff(header), stuff(payload))


def stuff(field: bytes) -> bytes:
    """Hide the bytes 7D, 7E and 7F: they become 7D 00, 7D 01 and 7D 02."""
    return field.replace(_ESCAPE, b"\x7d\x00").replace(b"\x7e", b"\x7d\x01").replace(b"\x7f", b"\x7d\x02")


def unstuff(field: bytes) -> bytes:
    """Undo :func:`stuff`.

    Raises: WireError if 7D comes last or before any other byte, or if 7E or 7F is bare.
    Source: itv2-protocol.md section 2.
    """
    if _SEPARATOR in field or _END in field:
        raise WireError("a bare 7E or 7F in a field", "7D 01 or 7D 02", _SOURCE)
    first, *others = field.split(_ESCAPE)
    pieces = [first]
    for other in others:
        if not other or other[0] > 2:  # noqa: PLR2004 - the three that are hidden
            raise WireError("7D before another byte or at the end", "7D 00, 7D 01 or 7D 02", _SOURCE)
        pieces += (bytes((0x7D + other[0],)), other[1:])
    return b"".join(pieces)


def _read(data: bytes) -> TLinkPacket:
    header, separator, payload = data.partition(b"\x7e")
    if not separator:
        return TLinkPacket(b"", b"", f"a packet of {len(data)} bytes without 7E") if data else _NOTHING
    if _SEPARATOR in payload:
        return TLinkPacket(b"", b"", "a packet with more than one 7E")
    if _ESCAPE in data:
        try:
            return TLinkPacket(unstuff(header), unstuff(payload))
        except WireError as error:
            return TLinkPacket(b"", b"", error.found)
    return TLinkPacket(header, payload)


_NOTHING = TLinkPacket(b"", b"")


def _too_long(limit_bytes: int) -> WireError:
    return WireError(f"a packet of more than {limit_bytes} bytes", f"7F within {limit_bytes} bytes", _SOURCE)


def _another_protocol(word: bytes) -> WireError:
    return WireError(
        f"an HTTP request ({word.decode()} ...)",
        "the 12 digits of an Integration ID and 7E",
        "itv2-protocol.md section 1",
    )
