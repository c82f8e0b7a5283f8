"""TACACS+ packets: cut from a stream of bytes, obfuscated, and put together again.

Shape: a header of 12 bytes and a body; the header's ``length`` counts the body alone.
What it does not know on purpose: sockets, time, which key belongs to whom, and what a body says.

Hot path: one struct for the header, ints instead of a loop of bytes for the XOR (0.2 us against 1.4 us for
48 bytes).
Source: RFC 8907 sections 4.1 and 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.tacacs.messages import Flag, Version

try:
    # OpenSSL's MD5 costs twice the built-in one per 16-byte block, and a FIPS build of it refuses.
    from _md5 import md5 as _md5  # type: ignore[import-not-found]
except ImportError:
    import functools
    import hashlib

    _md5 = functools.partial(hashlib.md5, usedforsecurity=False)

HEADER_BYTES = 12
LONG_BODY_BYTES = 240
"""From here on, joining the blocks once is cheaper than appending each of them to the pad."""

_MAJOR_BITS = Version.MAJOR << 4
_HEADER = struct.Struct("!BBBBII")
_unpack_header = _HEADER.unpack_from
_pack_header = _HEADER.pack
_SEEDS: dict[int, Callable[..., bytes]] = {}
_from_bytes = int.from_bytes


class Packet(msgspec.Struct, gc=False):
    """One packet as it lies on the wire: the header without ``length``, and the body, still obfuscated.

    Always true: the text form never shows the body, since over TLS it is in the clear.
    """

    version: int
    type: int
    seq_no: int
    flags: int
    session_id: int
    body: bytes

    def __repr__(self) -> str:
        return (
            f"Packet(version={self.version:#04x}, type={self.type}, seq_no={self.seq_no},"
            f" flags={self.flags:#04x}, session_id={self.session_id:#010x}, body=<{len(self.body)} bytes>)"
        )


class TacacsFraming:
    """Cuts a stream of bytes into packets; holds no bytes itself, so one object serves every connection.

    Args:
        max_length_bytes: the longest body that is accepted; a longer one is refused from its header.
    """

    __slots__ = ("max_length_bytes",)

    def __init__(self, max_length_bytes: int = 65_536) -> None:
        self.max_length_bytes = max_length_bytes

    def split(self, data: bytes) -> tuple[list[Packet], int, int]:
        """Cut the whole packets off the front of ``data``.

        Returns: the packets in order; how many bytes they took; how many bytes the next packet needs, counted
            from there: 12 while its header is incomplete or bad.
        Then: drop the bytes taken, and call again when so many bytes have come together.
        Raises: WireError if the first packet is bad. A bad packet behind good ones is left for the next call,
            so that the good ones are answered.
        Source: RFC 8907 section 4.1.
        """
        size = len(data)
        max_length_bytes = self.max_length_bytes
        if size >= HEADER_BYTES:  # one packet that came alone is the usual case, and worth 0.1 us
            version, packet_type, seq_no, flags, session_id, length = _unpack_header(data)
            if length + HEADER_BYTES == size and length <= max_length_bytes and version & 0xF0 == _MAJOR_BITS:
                body = data[HEADER_BYTES:]
                return [Packet(version, packet_type, seq_no, flags, session_id, body)], size, HEADER_BYTES
        packets: list[Packet] = []
        position = 0
        while size - position >= HEADER_BYTES:
            version, packet_type, seq_no, flags, session_id, length = _unpack_header(data, position)
            if version & 0xF0 != _MAJOR_BITS or length > max_length_bytes:
                if packets:
                    break
                raise self._refusal(version, length)
            end = position + HEADER_BYTES + length
            if end > size:
                return packets, position, HEADER_BYTES + length
            body = data[position + HEADER_BYTES : end]
            packets.append(Packet(version, packet_type, seq_no, flags, session_id, body))
            position = end
        return packets, position, HEADER_BYTES

    def _refusal(self, version: int, length: int) -> WireError:
        if version >> 4 != Version.MAJOR:
            return WireError(
                f"major version {version >> 4:#x}",
                f"major version {Version.MAJOR:#x}",
                "RFC 8907 section 4.1",
            )
        return WireError(
            f"a body of {length} bytes", f"at most {self.max_length_bytes} bytes", "RFC 8907 section 4.1"
        )


def obfuscate(body: bytes, key: bytes, session_id: int, version: int, seq_no: int) -> bytes:
    """Hide ``body``, or make a hidden one readable: the operation is its own inverse.

    A wrong key gives other bytes, not an error; they show when the body is decoded.
    Source: RFC 8907 section 4.5.
    """
    size = len(body)
    pack_seed = _SEEDS.get(len(key)) or _seed_packer(len(key))
    if size <= 16:  # noqa: PLR2004 - one block: every short reply
        pad = _md5(pack_seed(session_id, key, version, seq_no)).digest()
        return (_from_bytes(body) ^ _from_bytes(pad[:size])).to_bytes(size)
    seed = pack_seed(session_id, key, version, seq_no)
    pad = block = _md5(seed).digest()
    missing = size - 16
    if missing > LONG_BODY_BYTES:
        blocks = [block]
        while missing > 0:
            block = _md5(seed + block).digest()
            blocks.append(block)
            missing -= 16
        pad = b"".join(blocks)
    else:
        while missing > 0:
            block = _md5(seed + block).digest()
            pad += block
            missing -= 16
    return (_from_bytes(body) ^ _from_bytes(pad[:size])).to_bytes(size)


def _seed_packer(key_bytes: int) -> Callable[..., bytes]:
    """Return what joins session_id, a key of this length, version and seq_no; one call is 0.1 us less than three."""
    packer = _SEEDS[key_bytes] = struct.Struct(f"!I{key_bytes}sBB").pack
    return packer


def encode_packet(  # noqa: PLR0917 - the hot path; keywords would cost more than the header
    version: int,
    packet_type: int,
    seq_no: int,
    flags: int,
    session_id: int,
    body: bytes,
    key: bytes | None = None,
) -> bytes:
    """Put a header before ``body``, which is obfuscated with ``key`` unless the UNENCRYPTED flag is set.

    Raises: LocalProtocolError if there is neither a key nor the flag, or a header field is out of range.
    Source: RFC 8907 sections 4.1 and 4.5.
    """
    try:
        header = _pack_header(version, packet_type, seq_no, flags, session_id, len(body))
    except struct.error as error:
        raise LocalProtocolError(str(error), "header fields in range", "RFC 8907 section 4.1") from None
    if flags & Flag.UNENCRYPTED or not body:
        return header + body
    if key is None:
        raise LocalProtocolError("no key", "a key, or the UNENCRYPTED flag", "RFC 8907 section 4.5")
    return header + obfuscate(body, key, session_id, version, seq_no)
