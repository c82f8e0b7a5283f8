"""Which packet of a returning panel is the one that it had sent already: nothing stored is stored again.

A panel sends one packet at a time and waits for its acknowledgement. A packet that was stored, and whose
acknowledgement may not have arrived before the connection or this process ended, is the first that the panel takes from
its queue when it is back. It is told by its digest, once, and only until the panel has sent something else to store:
whatever follows a packet proves that its acknowledgement had arrived.

Knows nothing of files; whoever stores the packets stores what has to outlive the process.
Source: itv2-protocol.md section 5.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from sojourn.core.clock import Clock

DIGEST_BYTES: Final = 16


def packet_digest(packet: bytes) -> bytes:
    """Return what tells a packet from others: of its word and body, as sequence numbers begin anew.

    Shape: ``packet`` is unframed, so its first two bytes are the sequence numbers.
    """
    return hashlib.blake2b(packet[2:], digest_size=DIGEST_BYTES).digest()


class _Suspect(NamedTuple):
    digest: bytes
    until: float


class RepeatWatch:
    """The last packets of all panels that may come again.

    Life: one per history. Always true: at most two digests per panel.

    Args:
        clock: monotonic seconds.
        window_s: how long after a panel's return its packet is waited for.
    """

    def __init__(self, clock: Clock, window_s: float) -> None:
        self._clock = clock
        self._window_s = window_s
        self._unproven: dict[str, bytes] = {}
        self._suspects: dict[str, _Suspect] = {}

    def restore(self, unproven: Mapping[str, bytes]) -> None:
        """Begin with what an earlier process has left; what has been noted since is newer."""
        self._unproven = {**unproven, **self._unproven}

    def session_began(self, panel: str) -> None:
        """Expect the last packet of the session before."""
        self._suspects.pop(panel, None)
        digest = self._unproven.get(panel)
        if digest is not None:
            self._suspects[panel] = _Suspect(digest, self._clock() + self._window_s)

    def is_repeat(self, panel: str, digest: bytes) -> bool:
        """Tell whether this packet is stored already, and expect it no more if it is."""
        if not self._is_expecting(panel) or self._suspects[panel].digest != digest:
            return False
        del self._suspects[panel]
        return True

    def stored(self, panel: str, digest: bytes) -> None:
        """Note that a packet with events goes to the file: those before it were acknowledged."""
        self._suspects.pop(panel, None)
        self._unproven[panel] = digest

    def followed(self, panel: str) -> bool:
        """Note a packet without events; True: it proves an acknowledgement, which is news for the file."""
        # At its return a panel may say something else before it empties its queue: that proves nothing.
        if panel not in self._unproven or self._is_expecting(panel):
            return False
        del self._unproven[panel]
        return True

    def _is_expecting(self, panel: str) -> bool:
        suspect = self._suspects.get(panel)
        if suspect is not None and self._clock() > suspect.until:
            del self._suspects[panel]
            return False
        return suspect is not None
