"""Captures of a panel for bug reports: its packets with their times, in clear, and nothing in them that tells whose.

A capture is in the format of ``sojourn.testing.capture``; each line is a TLink packet with a frame that is not
encrypted. Integration ids, codes, names, texts, initializers, programming data and bodies that nobody can read are
replaced before anything is written, the same by the same throughout a capture, so that it still decodes and still shows
which code was wrong. By what they are replaced depends on a random key that is kept nowhere.

Source: itv2-users-and-history.md section 6, number 8.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final, Literal, Protocol

import msgspec

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.codec import Damaged, Itv2Codec, Received
from sojourn.gateways.itv2.encryption import TYPE_1_INITIALIZER_BYTES, FrameCipher, type1_open, type2_key
from sojourn.gateways.itv2.wire import (
    TLinkPacket,
    WireOptions,
    decode_packet,
    encode_packet,
    encode_tlink,
    frame,
    unframe,
)

Direction = Literal["in", "out"]
"""``in`` is from the panel."""

LIMIT_BYTES: Final = 16 * 1024 * 1024
_DIGITS: Final = "0123456789"
_CHARACTER_BYTES: Final = 2
_OPTIONS: Final = WireOptions()


class Anonymiser:
    """Replaces whatever may tell whose panel it is.

    Life: one per capture. Always true: equal values of a kind become equal ones, and as long ones where the length is
    part of the layout.

    Args:
        key: random; whoever has it could try all codes of four digits.
        keeps_unread: leave the bodies of words without a layout as they are, for those who look for the layout. They
            may hold codes.
    """

    def __init__(self, key: bytes | None = None, *, keeps_unread: bool = False) -> None:
        self._key = key or secrets.token_bytes(32)
        self._keeps_unread = keeps_unread
        self._names: dict[str, str] = {}

    def header(self, header: bytes) -> bytes:
        """Return another Integration ID, of as many digits."""
        return self._digits("id", header.decode("latin-1")).encode("latin-1")

    def message(self, message: m.Message) -> m.Message:
        """Return the message without names and secrets."""
        changes: dict[str, Any] = {}
        match message:
            case m.MultipleMessages():
                changes["messages"] = tuple(map(self.message, message.messages))
            case m.RequestAccess():
                changes["initializer"] = self._bytes(message.initializer)
            case m.Arm() | m.Disarm() | m.EnterConfiguration():
                changes["code"] = self._digits("code", message.code)
            case m.Codes() | m.WriteCodes():
                changes["codes"] = tuple(self._digits("code", code) for code in message.codes)
            case m.SectionData() | m.SectionWrite():
                changes["data"] = self._bytes(message.data)
            case m.Labels():
                fit_count = message.width // _CHARACTER_BYTES
                changes["labels"] = tuple(self._name(label)[:fit_count] for label in message.labels)
            case m.WriteLabels():
                changes["labels"] = tuple(map(self._name, message.labels))
            case m.Text():
                changes["text"] = self._name(message.text)
            case m.Unknown() | m.Chime() | m.GlobalStatus() if not self._keeps_unread:
                changes["body"] = bytes(len(message.body))
            case m.CommandRequest() if not self._keeps_unread:
                changes["parameters"] = bytes(len(message.parameters))
        # The panel wants its OpenSession back with the tail, and whoever looks for a fault wants to see it.
        if message.tail and not self._keeps_unread and not isinstance(message, m.OpenSession):
            changes["tail"] = bytes(len(message.tail))
        return msgspec.structs.replace(message, **changes) if changes else message

    def clear_bytes(self, header: bytes, packet: m.Packet, options: WireOptions) -> bytes:
        """Return the packet's line: without names and secrets, and not encrypted."""
        changed = m.Packet(packet.sender, packet.receiver, self.message(packet.message))
        return encode_tlink(self.header(header), frame(encode_packet(changed, options)))

    def _digits(self, kind: str, text: str) -> str:
        """Return other digits for digits; AAAA is a disabled code, and stays one."""
        number = int.from_bytes(self._hash(f"{kind} {text}".encode(), 32), "big")
        changed = []
        for one in text:
            number, digit = divmod(number, 10)
            changed.append(_DIGITS[digit] if one in _DIGITS else one)
        return "".join(changed)

    def _bytes(self, data: bytes) -> bytes:
        return hashlib.shake_128(self._key + data).digest(len(data))

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, f"N{len(self._names) + 1}") if name else ""

    def _hash(self, data: bytes, count: int) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=count).digest()


class CaptureSink(Protocol):
    """Where the lines of a capture go: ``sojourn.testing.capture.CaptureWriter``."""

    def note(self, direction: Direction, data: bytes) -> None:
        """Write down ``data`` with the time."""


class CapturingCodec(Itv2Codec):
    """A connection's codec that writes down what goes through it, anonymised.

    Args:
        sink: what is written to; it stays its maker's.
        anonymiser: replaces what tells whose panel it is.
        limit_bytes: of packets, behind which nothing more is written.
    """

    __slots__ = ("_anonymiser", "_left_bytes", "_sink")

    def __init__(self, sink: CaptureSink, anonymiser: Anonymiser, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__()
        self._sink = sink
        self._anonymiser = anonymiser
        self._left_bytes = limit_bytes

    def decode(self, session: Any, packet: TLinkPacket) -> Received | Damaged:
        """Return the packet, noted if it could be read."""
        found = super().decode(session, packet)
        if isinstance(found, Received):
            self._note("in", packet.header, found)
        return found

    def encode(self, session: Any, packet: m.Packet) -> bytes:
        """Return the packet's bytes."""
        data = super().encode(session, packet)
        self._note("out", self.header, packet)
        return data

    def _note(self, direction: Direction, header: bytes, packet: m.Packet) -> None:
        data = self._anonymiser.clear_bytes(header, packet, self.options)
        self._left_bytes -= len(data)
        if self._left_bytes >= 0:
            self._sink.note(direction, data)


class Converter:
    """Turns packets as they were on the wire into those of a capture that may be shown.

    Life: one per connection, given every packet of both directions from its beginning: its keys are made there.

    Args:
        secret: the panel's access code; None where nothing is encrypted.
        anonymiser: replaces what tells whose panel it is.
        options: as the connection's codec had them.
    """

    def __init__(self, secret: str | None, anonymiser: Anonymiser, options: WireOptions = _OPTIONS) -> None:
        self._secret = secret
        self._anonymiser = anonymiser
        self._options = options
        self._ciphers: list[FrameCipher] = []

    def convert(self, _direction: Direction, packet: TLinkPacket) -> bytes:
        """Return the bytes of the packet's line. Raises: WireError if it can't be read, for want of a key say."""
        found = decode_packet(self._opened(packet), self._options)
        if isinstance(found.message, m.RequestAccess):
            self._learn(packet.header, found.message.initializer)
        return self._anonymiser.clear_bytes(packet.header, found, self._options)

    def _opened(self, packet: TLinkPacket) -> bytes:
        """Return what the frame carries. Raises: WireError."""
        _check(packet)
        try:
            return unframe(packet.payload)
        except WireError as error:
            for cipher in self._ciphers:
                try:
                    return unframe(cipher.decrypt(packet.payload))
                except WireError:
                    continue
            raise error from None

    def _learn(self, header: bytes, initializer: bytes) -> None:
        """Keep the key that an initializer gives, if the code is of its type."""
        if self._secret is None:
            return
        is_type_1 = len(initializer) == TYPE_1_INITIALIZER_BYTES
        # A Type 1 initializer of the panel is wrapped with its ID, one of the server with the access code.
        for wrap in (header.decode("latin-1"), self._secret) if is_type_1 else (self._secret,):
            try:
                key = type1_open(initializer, wrap) if is_type_1 else type2_key(wrap, initializer)
            except (WireError, LocalProtocolError):
                continue
            self._ciphers.append(FrameCipher(key))


def read_packet(_direction: Direction, packet: TLinkPacket) -> m.Packet:
    """Return what the codec makes of one packet of a capture.

    Raises: WireError also for a body that could not be read although its word is known: that is what captures are for.
    """
    _check(packet)
    found = decode_packet(unframe(packet.payload), _OPTIONS)
    message = found.message
    for part in message.messages if isinstance(message, m.MultipleMessages) else (message,):
        if isinstance(part, m.Unknown) and part.why:
            raise WireError(f"word {part.number:04X}: {part.why}", "its layout", "itv2-protocol.md section 9")
    return found


def _check(packet: TLinkPacket) -> None:
    if packet.error is not None:
        raise WireError(packet.error, "a TLink packet", "itv2-protocol.md section 2")
