"""A token bucket: so many per second, evenly refilled, with a burst on top.

Knows nothing of what is counted. Belongs to the loop's thread; has no timer, the clock is read when a token
is taken.
"""

from __future__ import annotations

import time

from sojourn.core.clock import Clock


class TokenBucket:
    """A bucket that starts full; it never holds more than its burst.

    Args:
        per_s: tokens that flow in per second; 0 = no limit.
        burst_count: tokens that the bucket holds.
        clock: monotonic seconds.
    """

    __slots__ = ("_burst_count", "_clock", "_per_s", "_stamp", "_tokens", "refused_count")

    def __init__(self, per_s: float, burst_count: int, clock: Clock = time.monotonic) -> None:
        if per_s < 0 or burst_count < 1:
            raise ValueError(f"found {per_s} per second and a burst of {burst_count}, wanted >= 0 and >= 1")
        self._per_s = per_s
        self._burst_count = burst_count
        self._clock = clock
        self._tokens = float(burst_count)
        self._stamp = clock()
        self.refused_count = 0

    def take(self) -> bool:
        """Take one token; false where the bucket is empty, and then nothing is taken."""
        if not self._per_s:
            return True
        self._refill()
        if self._tokens < 1.0:
            self.refused_count += 1
            return False
        self._tokens -= 1.0
        return True

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst_count, self._tokens + (now - self._stamp) * self._per_s)
        self._stamp = now
