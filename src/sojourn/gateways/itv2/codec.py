"""The codec of one connection: TLink packets to ITv2 packets and back, through the cipher of each direction.

What cannot be read comes as :class:`Damaged` and ends nothing. Which cipher is on, and from which packet, is decided by
the handshake. Knows nothing of sequences, deadlines or panels.

Source: itv2-protocol.md sections 2, 3, 7 and 8.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sojourn.errors import LocalProtocolError, RemoteProtocolError, WireError
from sojourn.gateways.itv2.encryption import FrameCipher
from sojourn.gateways.itv2.messages import OpenSession, Packet, SimpleAck
from sojourn.gateways.itv2.wire import (
    TLinkPacket,
    WireOptions,
    decode_packet,
    encode_packet,
    encode_tlink,
    frame,
    unframe,
)

BUFFER_BYTES: Final = 512
"""What panels announce as their buffer; the longest frame that may be sent to one that announces no more."""

FRAME_BYTES: Final = 4
"""What a frame has beside its packet at most: two bytes of length, two of CRC."""

_SHOWN_BYTES: Final = 16
_OPTIONS: Final = WireOptions()


class OtherHeader(RemoteProtocolError):  # noqa: N818 - what it is
    """A packet of another panel than the ones before it."""


class Damaged(msgspec.Struct, frozen=True, gc=False):
    """A packet that could not be read and is dropped; ``why`` shows none of its bytes."""

    why: str


class Received(Packet, frozen=True):
    """A packet of the panel; ``raw`` is what its frame carried, for telling repetitions."""

    raw: bytes

    def redacted(self) -> Packet:
        """Return this packet without secrets and without its bytes."""
        return Packet(self.sender, self.receiver, self.message.redacted())


class Itv2Codec:
    """Packets to messages for one connection.

    Life: made with the connection; the handshake sets its ciphers. Always true: ``header`` is that of the first packet
    that could be read, and every later one has the same.
    """

    __slots__ = ("_is_encrypted", "header", "incoming", "limit_bytes", "options", "outgoing")

    def __init__(self, options: WireOptions = _OPTIONS) -> None:
        self.options = options
        self.header = b""
        self.limit_bytes = BUFFER_BYTES
        self.incoming: FrameCipher | None = None
        self.outgoing: FrameCipher | None = None
        self._is_encrypted = False

    def start_over(self) -> None:
        """Speak and expect clear text again; the header stays."""
        self.incoming = self.outgoing = None
        self._is_encrypted = False

    def decode(self, _session: Any, packet: TLinkPacket) -> Received | Damaged:
        """Return the packet, or why there is none.

        Raises: OtherHeader if its header is another than before; the connection is closed then.
        Source: itv2-protocol.md section 2.
        """
        if packet.error is not None:
            return Damaged(packet.error)
        if self.header and packet.header != self.header:
            raise OtherHeader(
                f"a packet of {shown(packet.header)}",
                f"{shown(self.header)} as before",
                "itv2-protocol.md section 2",
            )
        try:
            found = self._clear(packet.payload) if self.incoming is None else self._decrypted(packet.payload)
        except WireError as error:
            return Damaged(error.found)
        self.header = packet.header
        return found

    def encode(self, _session: Any, packet: Packet) -> bytes:
        """Return a packet's bytes, encrypted if that direction is; the panel's own header is echoed.

        Raises: LocalProtocolError if a value does not fit its field, or the frame the panel's buffer.
        """
        data = frame(encode_packet(packet, self.options))
        if len(data) > self.limit_bytes:
            raise LocalProtocolError(
                f"a frame of {len(data)} bytes",
                f"the panel's {self.limit_bytes}",
                "itv2-protocol.md section 7.1",
            )
        if self.outgoing is not None:
            data = self.outgoing.encrypt(data)
        return encode_tlink(self.header, data)

    def _clear(self, payload: bytes) -> Received:
        raw = unframe(payload)
        packet = decode_packet(raw, self.options)
        return Received(packet.sender, packet.receiver, packet.message, raw)

    def _decrypted(self, payload: bytes) -> Received:
        """Decrypt; in clear text only what may be: a new start at any time, acknowledgements until the panel encrypts.

        Source: itv2-protocol.md sections 7, steps 9 and 11, and 7.5.
        """
        assert self.incoming is not None  # noqa: S101 - the caller has looked
        try:
            packet = self._clear(self.incoming.decrypt(payload))
        except WireError as error:
            try:
                packet = self._clear(payload)
            except WireError:
                raise error from None
            kind = type(packet.message)
            if kind is OpenSession or (kind is SimpleAck and not self._is_encrypted):
                return packet
            raise WireError(
                "a packet in clear text", "an encrypted one", "itv2-protocol.md section 7"
            ) from None
        self._is_encrypted = True
        return packet


def shown(header: bytes) -> str:
    """Return the header of a packet as it may be shown."""
    text = repr(header[:_SHOWN_BYTES])[2:-1]
    return f"{text}..." if len(header) > _SHOWN_BYTES else text or "nobody"
