"""Who guessed too often: failures in a sliding window, and locks that end by themselves.

Knows nothing of passwords, directories or answers. The caller decides whose failures count: names that cannot
exist are best not recorded at all, then nobody can fill the table with inventions.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from itertools import islice
from typing import NamedTuple

from sojourn.core.clock import Clock
from sojourn.gateways.tacacs.config import Lockout

EVICTION_SAMPLE_COUNT = 8
"""How many of the longest untouched entries are compared before one leaves."""


class LockedUser(NamedTuple):
    """One lock, for people to look at.

    Units: ``until`` is a point on the table's clock, ``remaining_s`` is seconds from now.
    """

    user: str
    until: float
    remaining_s: float


class LockoutTable:
    """Failures and locks per user; lives as long as the process, through every reload.

    Bounded in both halves by ``tracked_users_count``. A full table of failures loses the entry with the
    fewest failures among the oldest, so that pushing one user's count out takes as many failures per
    invented name as that user has. A full table of locks loses the lock that would end first: to shorten
    one by a flood costs ``failures_count`` attempts for every place in the table.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self.locked_until: dict[str, float] = {}
        """Locks by user; may hold locks that ended already. For look-ups on hot paths; do not change it."""

    def is_locked(self, user: str) -> bool:
        """Tell whether the user is locked now."""
        until = self.locked_until.get(user)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self.locked_until[user]
        return False

    def record_failure(self, user: str, limits: Lockout) -> bool:
        """Count one failure; return whether it locked the user.

        A failure of a user who is locked already changes nothing: a lock is not prolonged by knocking.
        """
        if limits.failures_count == 0 or self.is_locked(user):
            return False
        now = self._clock()
        # Never more than failures_count entries: each failure that completes the count empties the list.
        recent = [at for at in self._failures.pop(user, ()) if at > now - limits.window_s]
        recent.append(now)
        if len(recent) >= limits.failures_count:
            self._lock(user, now, limits)
            return True
        while len(self._failures) >= limits.tracked_users_count:
            self._evict(now - limits.window_s)
        self._failures[user] = recent
        return False

    def record_success(self, user: str) -> None:
        """Forget the user's failures; does not end a lock."""
        self._failures.pop(user, None)

    def end_lock(self, user: str) -> bool:
        """End the user's lock before its time and forget the failures; return whether there was one."""
        was_locked = self.is_locked(user)
        self.locked_until.pop(user, None)
        self._failures.pop(user, None)
        return was_locked

    def locked(self) -> tuple[LockedUser, ...]:
        """Return every lock that has not ended, the one that ends first in front."""
        now = self._clock()
        ends = sorted((until, user) for user, until in self.locked_until.items() if until > now)
        return tuple(LockedUser(user, until, until - now) for until, user in ends)

    def tracked_count(self) -> int:
        """Return how many users have an entry, locked or not."""
        return len(self._failures) + len(self.locked_until)

    def _lock(self, user: str, now: float, limits: Lockout) -> None:
        if len(self.locked_until) >= limits.tracked_users_count:
            for name in [name for name, until in self.locked_until.items() if until <= now]:
                del self.locked_until[name]
        while len(self.locked_until) >= limits.tracked_users_count:
            first = min(self.locked_until, key=self.locked_until.__getitem__)
            del self.locked_until[first]
        self.locked_until[user] = now + limits.lock_s

    def _evict(self, window_start: float) -> None:
        """Drop one entry: an outdated one, or the one with the fewest failures among the oldest."""
        oldest = islice(self._failures.items(), EVICTION_SAMPLE_COUNT)
        leaving = min(oldest, key=lambda entry: 0 if entry[1][-1] <= window_start else len(entry[1]))
        del self._failures[leaving[0]]
