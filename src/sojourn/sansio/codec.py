"""Codec: packets to messages and back, for one connection.

Knows nothing of sockets or time. A connection has one codec, so that it may remember what it learned there:
which key fits, which cipher is on.
"""

from __future__ import annotations

from typing import Any, Protocol


class Codec(Protocol):
    """The contract: what ``encode`` writes, ``decode`` of the other side reads."""

    def decode(self, session: Any, packet: Any) -> Any:
        """Return the message in ``packet``, read as the session's state asks for.

        Raises:
            WireError: the packet breaks a rule; the gateway's farewell answers and the session ends.
        """
        ...

    def encode(self, session: Any, message: Any) -> bytes:
        """Return the bytes of ``message`` for this session, framing included."""
        ...


class NullCodec:
    """For protocols whose packets are the messages: bytes in, bytes out, ``delimiter`` added behind."""

    def __init__(self, delimiter: bytes = b"") -> None:
        self._delimiter = delimiter

    def decode(self, _session: Any, packet: Any) -> Any:
        """Return the packet itself."""
        return packet

    def encode(self, _session: Any, message: bytes) -> bytes:
        """Return the message's bytes and the delimiter."""
        return message + self._delimiter
