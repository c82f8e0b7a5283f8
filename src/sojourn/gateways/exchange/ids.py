"""Ids of sessions and simulators: UUIDs of version 7, as text, which sort in the order in which they were made.

Python 3.11 makes none. Between two processes the order is that of their clocks, within one it is exact.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from sojourn.core.clock import WallClock

ID_PATTERN: Final = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_TEXT: Final = re.compile(rf"{ID_PATTERN}\Z")
_COUNTER_BITS: Final = 42
_RANDOM_BITS: Final = 32


def is_id(text: str) -> bool:
    """Say whether a text could be one of our ids; anything else need not be looked for."""
    return _TEXT.match(text) is not None


class IdMaker:
    """Makes ids, each greater than the one before, also when the clock stands still or goes back.

    The 74 bits behind the time are a counter of 42, begun anew at random each millisecond with its highest bit 0, and
    32 of chance. A counter that runs over borrows the next millisecond.

    Args:
        clock: the date and time.
        random_bits: an integer of so many bits that nobody can guess.

    Source: RFC 9562 section 5.7, and section 6.2 method 1 with its advice on overflow and on clocks that go back.
    """

    def __init__(self, clock: WallClock, random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._clock = clock
        self._random_bits = random_bits
        self._last_ms = 0
        self._counter = 0

    def __call__(self) -> str:
        """Return a new id."""
        now_ms = int(self._clock().timestamp() * 1000)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._counter = self._random_bits(_COUNTER_BITS - 1)
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._last_ms += 1
                self._counter = self._random_bits(_COUNTER_BITS - 1)
        return _text(self._last_ms, self._counter << _RANDOM_BITS | self._random_bits(_RANDOM_BITS))


def _text(unix_ms: int, tail: int) -> str:
    """Put version 7 and variant 10 between the time and the 74 bits behind it. Source: RFC 9562 section 5.7."""
    rand_a, rand_b = tail >> 62, tail & (1 << 62) - 1
    value = (unix_ms & (1 << 48) - 1) << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
