"""Days and hours in which a rule applies: whether a window is open, and when that changes next.

Compares the clock on the wall of the window's own time zone, so that 08:00 is 08:00 in summer and in winter.
Knows nothing of rules and never asks for the time itself.
"""

from __future__ import annotations

import datetime as dt
from typing import Final
from zoneinfo import ZoneInfo

from sojourn.gateways.tacacs.config import TimeWindow

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def minutes_of(text: str) -> int:
    """Turn ``HH:MM`` into minutes since midnight; ``24:00`` is 1440."""
    return int(text[:2]) * 60 + int(text[3:])


class Window:
    """A declared time window, ready to be asked.

    A window whose end is before its start runs over midnight and belongs to the day on which it starts: ``fri
    22:00-06:00`` is open on Saturday at 05:00. An hour that summer time skips opens what would have opened in
    it; an hour that comes twice is judged by the clock on the wall both times.

    Raises: zoneinfo.ZoneInfoNotFoundError: if the time zone is unknown.
    """

    __slots__ = ("_days", "_end", "_start", "_zone")

    def __init__(self, declared: TimeWindow) -> None:
        self._days = frozenset(DAYS.index(day) for day in declared.days)
        self._start = minutes_of(declared.start)
        self._end = minutes_of(declared.end)
        self._zone = ZoneInfo(declared.timezone)

    def is_open(self, now: dt.datetime) -> bool:
        """Tell whether the window is open at an instant."""
        local = now.astimezone(self._zone)
        minute = local.hour * 60 + local.minute
        today = local.weekday()
        if self._start < self._end:
            return today in self._days and self._start <= minute < self._end
        if minute >= self._start:
            return today in self._days
        return minute < self._end and (today - 1) % 7 in self._days

    def next_change(self, now: dt.datetime) -> float:
        """Return the next instant at which the window may open or close.

        Never later than the next real change, at most two days ahead; it may be earlier (a day that is not in
        the window still has its start and end).

        Units: Unix seconds.
        """
        local = now.astimezone(self._zone)
        midnight = dt.datetime.combine(local.date(), dt.time(), self._zone)
        instant = now.timestamp()
        candidates: list[float] = []
        for day in range(3):
            for minute in (0, self._start, self._end):
                wall = midnight + dt.timedelta(days=day, minutes=minute)
                # fold: a wall time that comes twice is two boundaries, one that never comes has two guesses.
                candidates += (wall.timestamp(), wall.replace(fold=1).timestamp())
        change = min(candidate for candidate in candidates if candidate > instant)
        return self._jump_before(instant, change)

    def _jump_before(self, start: float, end: float) -> float:
        """Return the instant in between at which the zone's offset changes, or ``end`` where it does not."""
        before = self._offset(start)
        if self._offset(end) == before:
            return end
        low, high = int(start), int(end)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == before:
                low = middle
            else:
                high = middle
        return float(high)

    def _offset(self, instant: float) -> dt.timedelta | None:
        return dt.datetime.fromtimestamp(instant, self._zone).utcoffset()
