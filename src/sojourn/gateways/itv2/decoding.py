"""Captured ITv2 bytes in words, for ``sojourn decode itv2``: clear ones, and with the panel's access code all others.

A capture of a whole connection holds what its keys are made of, so that both directions can be read in the order in
which they came. Secrets in messages stay masked. Knows nothing of terminals: it returns lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.encryption import (
    TYPE_1_INITIALIZER_BYTES,
    FrameCipher,
    type1_open,
    type2_key,
)
from sojourn.gateways.itv2.masking import masked_hex
from sojourn.gateways.itv2.messages import Message, MultipleMessages, RequestAccess

_KEY_DIGITS: Final = 32
_SEPARATOR: Final = 0x7E
_END: Final = 0x7F


def bytes_from_hex(text: str) -> bytes:
    """Read bytes written as hexadecimal digits; spaces, line ends and colons between them do not matter.

    Raises: WireError if there is anything else, or nothing.
    """
    try:
        data = bytes.fromhex(text.replace(":", " "))
    except ValueError:
        raise WireError("other characters", "hexadecimal digits, two for each byte", "the input") from None
    if not data:
        raise WireError("nothing", "the bytes of at least one packet or frame", "the input")
    return data


def described(data: bytes, secret: str | None = None) -> Iterator[list[str]]:
    """Yield every TLink packet in words; bytes without a whole one are one frame.

    Args:
        data: packets of one connection, of both directions in the order in which they were sent.
        secret: the panel's access code (Type 1: 8 digits, Type 2: 32), or the key of one direction.
    Raises: WireError at what is no TLink at all.
    """
    reader = _Reader(secret)
    if _SEPARATOR not in data[: data.find(_END) + 1]:
        yield reader.lines(b"", data)
        return
    at = 0
    framing = wire.TLinkFraming()
    while at < len(data):
        end = data.find(_END, at) + 1
        if not end:
            yield [f"offset       {at}", f"incomplete   {len(data) - at} bytes without a 7F"]
            return
        for packet in framing.split(data[at:end])[0]:
            found = (
                [f"damaged      {packet.error}"]
                if packet.error
                else reader.lines(packet.header, packet.payload)
            )
            yield [f"offset       {at}", *found]
        at = end


class _Reader:
    """Reads the frames of one connection and collects the keys that they agree on."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret
        self._ciphers: list[FrameCipher] = []
        if secret is not None and len(secret) == _KEY_DIGITS:
            try:
                self._ciphers.append(FrameCipher(bytes.fromhex(secret)))
            except ValueError:
                raise WireError(
                    "a code of other characters", "hexadecimal digits", "the access code"
                ) from None

    def lines(self, header: bytes, payload: bytes) -> list[str]:
        """Return one packet in words: who, the bytes with secrets masked, the message."""
        who = header.decode("ascii", "backslashreplace") or "no header"
        packet, is_encrypted = self._open(payload)
        if packet is None:
            lines = [f"packet       {who}, {len(payload)} bytes"]
            return [*lines, "unreadable   neither a clear frame nor one whose key is known"]
        lines = [f"packet       {who}, {len(payload)} bytes{', encrypted' if is_encrypted else ''}"]
        decoded = wire.decode_packet(packet)
        message = decoded.message
        if isinstance(message, RequestAccess):
            self._learn(header, message.initializer)
        lines += [
            f"bytes        {masked_hex(packet)}",
            f"sequences    sender {decoded.sender} receiver {decoded.receiver}",
        ]
        if isinstance(message, MultipleMessages):
            subs = [_named(sub) for sub in message.messages]
            return [*lines, f"message      {len(subs)} messages", *(f"  {sub}" for sub in subs)]
        return [*lines, f"message      {_named(message)}"]

    def _open(self, payload: bytes) -> tuple[bytes | None, bool]:
        """Return the packet in a payload, and whether it was encrypted."""
        for cipher in (None, *self._ciphers):
            try:
                return wire.unframe(
                    payload if cipher is None else cipher.decrypt(payload)
                ), cipher is not None
            except WireError:
                continue
        return None, False

    def _learn(self, header: bytes, initializer: bytes) -> None:
        """Keep the key that an initializer gives, if the code is the one that it was made for."""
        if self._secret is None:
            return
        # A Type 1 initializer of the panel is wrapped with its ID, one of the server with the access code.
        wraps = (header.decode("latin-1"), self._secret)
        is_type_1 = len(initializer) == TYPE_1_INITIALIZER_BYTES
        for wrap in wraps if is_type_1 else (self._secret,):
            try:
                key = type1_open(initializer, wrap) if is_type_1 else type2_key(wrap, initializer)
            except (WireError, LocalProtocolError):
                continue
            self._ciphers.append(FrameCipher(key))


def _named(message: Message) -> str:
    return f"{type(message).__name__} {wire.words_of_message(message)}".rstrip()
