"""The bytes of a packet that has not arrived whole.

Knows nothing of framing: it is told how many bytes are wanted and says when they are there, so that a peer
that sends one byte at a time costs one append per byte, not one look at everything.
"""

from __future__ import annotations


class ReceiveBuffer:
    """Bytes kept between two reads; a connection has one only while a packet is incomplete."""

    __slots__ = ("_kept", "_wanted")

    def __init__(self, first: bytes, wanted: int) -> None:
        self._kept = bytearray(first)
        self._wanted = wanted

    def __len__(self) -> int:
        return len(self._kept)

    def feed(self, data: bytes) -> bytes | None:
        """Add ``data``; return all bytes once the wanted number is there, else None."""
        self._kept += data
        if len(self._kept) < self._wanted:
            return None
        return bytes(self._kept)
