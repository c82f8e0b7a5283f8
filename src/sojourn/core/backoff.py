"""How long to wait before trying again: exponential backoff with full jitter.

Knows nothing of what is tried, and waits for nobody: it gives the delay, the caller sleeps. Full jitter draws
each delay evenly between nothing and the exponential bound, which spreads many clients that lost the same
server better than any jitter around a fixed step.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterator


class Backoff(Iterator[float]):
    """The delays of one thing that is tried again and again; never ends by itself.

    Whoever tries makes it, takes ``next(backoff)`` after each failure and calls :meth:`reset` after a
    success.

    Args:
        base_s: the bound of the first delay.
        cap_s: the bound that no later delay passes.
        random: a number in [0, 1).
    """

    __slots__ = ("_base_s", "_cap_s", "_random", "attempt")

    def __init__(self, base_s: float, cap_s: float, random: Callable[[], float] = _random.random) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError(f"found base_s {base_s} and cap_s {cap_s}, wanted 0 < base_s <= cap_s")
        self._base_s = base_s
        self._cap_s = cap_s
        self._random = random
        self.attempt = 0

    def bound_s(self, attempt: int) -> float:
        """Return the longest delay after failure number ``attempt``, counted from 0."""
        # The exponent is bounded because a float overflows at 2 ** 1024, and a daemon may try for years.
        return min(self._cap_s, self._base_s * 2.0 ** min(attempt, 64))

    def delay_s(self, attempt: int) -> float:
        """Draw a delay for failure number ``attempt``, counted from 0; leaves the count alone."""
        return self.bound_s(attempt) * self._random()

    def __next__(self) -> float:
        delay_s = self.delay_s(self.attempt)
        self.attempt += 1
        return delay_s

    def reset(self) -> None:
        """Begin anew after a success."""
        self.attempt = 0
