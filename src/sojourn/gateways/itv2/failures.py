"""How often handshakes failed, by address and by Integration ID, within a window of time.

Knows nothing of connections and of what a failure was.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sojourn.core.clock import Clock

KEYS_COUNT: Final = 4_096
"""Addresses or ids that are remembered; whoever failed longest ago is forgotten first."""


class FailureCount:
    """Failures by key; a key's window begins with its first failure.

    Args:
        clock: monotonic seconds.
        keys_count: most keys.
    """

    def __init__(self, clock: Clock, keys_count: int = KEYS_COUNT) -> None:
        self._clock = clock
        self._keys_count = keys_count
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def add(self, key: str, window_s: float) -> int:
        """Count a failure and return how many there are in the window."""
        began, count = self._counts.pop(key, (self._clock(), 0))
        if self._clock() - began > window_s:
            began, count = self._clock(), 0
        self._counts[key] = began, count + 1
        if len(self._counts) > self._keys_count:
            self._counts.popitem(last=False)
        return count + 1

    def count(self, key: str, window_s: float) -> int:
        """Return how many there are in the window."""
        began, count = self._counts.get(key, (0.0, 0))
        return count if count and self._clock() - began <= window_s else 0

    def forget(self, key: str) -> None:
        """Begin anew: it went well."""
        self._counts.pop(key, None)
