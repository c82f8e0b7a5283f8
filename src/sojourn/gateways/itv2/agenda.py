"""When a panel is to be asked what, and when its delays are over: points in time, and no timers.

Hints about the same come together, and the last one is not missed. Knows nothing of panels, sessions or tasks.
"""

from __future__ import annotations

from math import inf
from typing import Final

from sojourn.core.clock import Clock
from sojourn.gateways.itv2.tracker import Want

_ORDER: Final = {"partition": 0, "zones": 1, "statuses": 2, "user": 3, "users": 4, "all": 5}
"""What is asked first of what is due: where an alarm is seen, then where it comes from."""


class Agenda:
    """What one panel is to be asked. Life: its panel's. Units: points on the monotonic clock, in seconds.

    Always true: bounded by what a panel has; of the same question there is one for now and one for later.
    """

    __slots__ = ("_asked", "_clock", "_delays", "_due", "_pause_s", "refresh_at")

    def __init__(self, clock: Clock, pause_s: float) -> None:
        self._clock = clock
        self._pause_s = pause_s
        self._due: dict[tuple[str, int, bool], float] = {}
        self._asked: dict[tuple[str, int], float] = {}
        self._delays: dict[tuple[str, int], float] = {}
        self.refresh_at = inf
        """When everything is asked again anyway."""

    def want(self, want: Want) -> None:
        """Note a question; not sooner after the last one of its kind than the pause."""
        due = self._clock() + want.after_ms / 1_000
        asked = self._asked.get((want.what, want.number))
        if asked is not None:
            due = max(due, asked + self._pause_s)
        key = (want.what, want.number, want.after_ms > 0)
        if want.after_ms > 0 or key not in self._due:
            self._due[key] = due

    def delay(self, field: str, number: int, left_s: float) -> None:
        """Note when a delay of a partition is over; 0 = it is."""
        if left_s > 0:
            self._delays[field, number] = self._clock() + left_s
        else:
            self._delays.pop((field, number), None)

    def next_due(self, *, may_ask: bool) -> float:
        """Return when something is to be done next, infinity if nothing is."""
        due = min(self._delays.values(), default=inf)
        if may_ask:
            due = min(due, self.refresh_at, min(self._due.values(), default=inf))
        return due

    def take_delays(self) -> list[tuple[str, int]]:
        """Return the delays that are over, and forget them."""
        now = self._clock()
        over = [key for key, at in self._delays.items() if at <= now]
        for key in over:
            del self._delays[key]
        return over

    def has_due(self) -> bool:
        """Say whether something is to be asked now."""
        now = self._clock()
        return any(at <= now for at in self._due.values())

    def take_due(self) -> Want | None:
        """Return the most urgent question that is due, and forget it; None if none is."""
        now = self._clock()
        due = [key for key, at in self._due.items() if at <= now]
        if not due:
            return None
        key = min(due, key=lambda key: (_ORDER[key[0]], key[1]))
        del self._due[key]
        self._asked[key[0], key[1]] = now
        return Want(key[0], key[1])

    def clear(self) -> None:
        """Forget everything: the panel is out of sight."""
        self._due.clear()
        self._asked.clear()
        self._delays.clear()
        self.refresh_at = inf
