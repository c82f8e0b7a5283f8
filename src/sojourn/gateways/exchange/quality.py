"""Quality: how good one client's connection is, from our own heartbeats alone; the client's clock is never used.

Pure; times are handed in, in seconds of the monotonic clock.

Source: exchange-session-service.md sections 1.6 (the thresholds) and 5.4.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

import msgspec

Grade = Literal["good", "degraded", "poor"]
_WORSE: Final[dict[Grade, int]] = {"good": 0, "degraded": 1, "poor": 2}


class QualitySettings(msgspec.Struct, frozen=True):
    """When a connection is what."""

    samples_count: int = 20
    weight: float = 0.2
    degraded_rtt_ms: float = 500.0
    poor_missed_count: int = 3
    calm_windows_count: int = 2
    advice_every_s: float = 300.0


class Quality:
    """One link's quality.

    A grade gets worse at once, and better only after ``calm_windows_count`` heartbeats in a row that say so.

    Always true: at most one heartbeat is waited for.
    """

    __slots__ = (
        "_advised_at",
        "_better_count",
        "_sent_at",
        "_settings",
        "_times_ms",
        "grade",
        "missed_count",
        "number",
        "rtt_ms",
    )

    def __init__(self, settings: QualitySettings) -> None:
        self._settings = settings
        self._times_ms: deque[float] = deque(maxlen=settings.samples_count)
        self._sent_at = self._advised_at = 0.0
        self._better_count = 0
        self.grade: Grade = "good"
        self.missed_count = self.number = 0
        self.rtt_ms = 0.0

    @property
    def p95_ms(self) -> float:
        """The round trip that 95 of 100 were not longer than, of the last samples; 0 without any."""
        times_ms = sorted(self._times_ms)
        return times_ms[max(0, -(-len(times_ms) * 95 // 100) - 1)] if times_ms else 0.0

    def beat(self, now: float) -> int:
        """Return the number of the next heartbeat, which is sent now; the last one is missed if nobody answered."""
        if self._sent_at:
            self.missed_count += 1
        self._sent_at = now
        self.number += 1
        return self.number

    def answered(self, number: int, now: float) -> bool:
        """Take an answer; False if it answers nothing that is waited for."""
        if number != self.number or not self._sent_at:
            return False
        took_ms = (now - self._sent_at) * 1000
        self._sent_at = 0.0
        self.missed_count = 0
        weight = self._settings.weight
        self.rtt_ms = took_ms if not self._times_ms else weight * took_ms + (1 - weight) * self.rtt_ms
        self._times_ms.append(took_ms)
        return True

    def judge(self) -> bool:
        """Grade what is known; say whether the grade has changed. Called once per heartbeat."""
        settings = self._settings
        seen: Grade = "good"
        if self.missed_count >= settings.poor_missed_count:
            seen = "poor"
        elif self.missed_count or self.rtt_ms > settings.degraded_rtt_ms:
            seen = "degraded"
        if _WORSE[seen] >= _WORSE[self.grade]:
            self._better_count = 0
            has_changed = seen != self.grade
        else:
            self._better_count += 1
            has_changed = self._better_count >= settings.calm_windows_count
        if has_changed:
            self.grade = seen
            self._better_count = 0
        return has_changed

    def advises_reconnect(self, now: float) -> bool:
        """Say whether the client should try another connection; seldom, as each try costs it more than it may win."""
        if self.grade != "poor":
            return False
        if self._advised_at and now - self._advised_at < self._settings.advice_every_s:
            return False
        self._advised_at = now
        return True
