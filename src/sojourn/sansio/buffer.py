"""The bytes of a packet that has not arrived whole.

Knows nothing of framing: it is told how many bytes are wanted and says when they are there, so that a peer
that sends one byte at a time costs one append per byte, not one look at everything.
"""

from __future__ import annotations


class ReceiveBuffer:
    """Bytes kept between two reads; empty while packets arrive whole, which is the usual case."""

    __slots__ = ("_kept", "_wanted")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._wanted = 0

    def __len__(self) -> int:
        return len(self._kept)

    def feed(self, data: bytes) -> bytes | None:
        """Add ``data``; return all bytes once the wanted number is there, else None.

        Then: split what came back and hand the rest to :meth:`keep`.
        """
        kept = self._kept
        kept += data
        if len(kept) < self._wanted:
            return None
        whole = bytes(kept)
        kept.clear()
        return whole

    def keep(self, rest: bytes, wanted: int) -> None:
        """Keep the first bytes of a packet of which ``wanted`` bytes are needed in all."""
        self._kept += rest
        self._wanted = wanted
