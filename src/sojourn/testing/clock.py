"""A clock that is moved by hand, so that a deadline passes when a test says so and not before.

Knows nothing of what watches it: whoever has deadlines to enforce is called after each move.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sojourn.core.server import Server

START_S = 1_000.0
"""Where a clock begins. Not 0: the core writes 0 for a moment that never was."""


class ManualClock:
    """Monotonic seconds that stand still until :meth:`advance`; a :data:`~sojourn.core.clock.Clock` by being called.

    Life: made by a test and handed to what it tests, ``Server(clock=clock)``. Always true: it never goes back.
    """

    def __init__(self, start_s: float = START_S) -> None:
        self._now = start_s
        self._watchers: list[Callable[[], None]] = []

    def __call__(self) -> float:
        """Return the present moment."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock, then call everybody who watches it."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s")
        self._now += seconds
        for watcher in tuple(self._watchers):
            watcher()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` after each move from now on."""
        self._watchers.append(watcher)

    def wall_clock(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> Callable[[], datetime]:
        """Return a wall clock that shows ``start`` now and moves with this one."""
        offset = self._now
        return lambda: start + timedelta(seconds=self._now - offset)


def drive(server: Server) -> ManualClock:
    """Return the server's clock and make each of its moves sweep the server's deadlines.

    Args:
        server: one that was made with ``clock=ManualClock()``.
    Raises: TypeError for a server with a clock that nobody can move.
    """
    clock = server.clock
    if not isinstance(clock, ManualClock):
        raise TypeError("found a server whose clock moves by itself, wanted Server(clock=ManualClock())")
    clock.watch(server.sweep)
    return clock
