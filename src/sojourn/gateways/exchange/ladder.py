"""Ladder: what a client that reads slowly gets, step by step less, until it is told to come back.

Only conflatable data is held back; its cursor stays, and the next frame covers what was passed over. Events are sent
while there is any room at all. Pure; sizes and times are handed in.

Source: exchange-session-service.md section 5.4, "slow consumer ladder".
"""

from __future__ import annotations

from typing import Final

import msgspec


class LadderSettings(msgspec.Struct, frozen=True):
    """The rungs: bytes that wait in a link's write buffer, and what follows."""

    skip_bytes: int = 65_536
    events_only_bytes: int = 262_144
    close_bytes: int = 1_048_576
    stalled_s: float = 10.0
    intervals_ms: tuple[int, ...] = (50, 100, 250, 1000)


class Rung:
    """What a link may be sent at this moment."""

    ALL: Final = 0
    NO_MARKET: Final = 1
    EVENTS_ONLY: Final = 2
    CLOSE: Final = 3


class Ladder:
    """Where one link stands.

    Always true: ``interval_ms`` is one of the settings' intervals; it grows with each tick that had to be skipped, and
    shrinks again after as many ticks without.
    """

    __slots__ = (
        "_calm_count",
        "_forgiven_bytes",
        "_settings",
        "_stalled_since",
        "_step",
        "is_watched",
        "next_ms",
        "skipped_count",
    )

    CALM_COUNT: Final = 20
    """Ticks without trouble before a link is sent market data more often again."""

    def __init__(self, settings: LadderSettings) -> None:
        self._settings = settings
        self._step = self._calm_count = self._forgiven_bytes = 0
        self._stalled_since = 0.0
        self.next_ms = 0.0
        self.is_watched = False
        """Something waited when it was last looked at: it is to be looked at again, even if nothing waits now."""
        self.skipped_count = 0

    @property
    def interval_ms(self) -> int:
        """How often it gets market data at most."""
        return self._settings.intervals_ms[self._step]

    def look(self, waiting_bytes: int, now_s: float) -> int:
        """Return the rung of a link whose buffer holds so much.

        Args:
            waiting_bytes: that the peer has not taken.
            now_s: monotonic.
        """
        settings = self._settings
        self.is_watched = waiting_bytes > 0
        if not waiting_bytes:
            self._stalled_since = 0.0
            self._forgiven_bytes = 0
            return Rung.ALL
        waiting_bytes -= self._forgiven_bytes
        if waiting_bytes < settings.skip_bytes:
            self._stalled_since = 0.0
            return Rung.ALL
        if not self._stalled_since:
            self._stalled_since = now_s
        if waiting_bytes >= settings.close_bytes or now_s - self._stalled_since >= settings.stalled_s:
            return Rung.CLOSE
        return Rung.EVENTS_ONLY if waiting_bytes >= settings.events_only_bytes else Rung.NO_MARKET

    def forgive(self, size_bytes: int) -> None:
        """Do not count what is replayed to a client until it has taken all of it, or it would never catch up."""
        self._forgiven_bytes += size_bytes
        self.is_watched = True

    def skip(self) -> None:
        """Take note that a market tick was passed over."""
        self.skipped_count += 1
        self._calm_count = 0
        self._step = min(self._step + 1, len(self._settings.intervals_ms) - 1)

    def sent(self, now_ms: float) -> None:
        """Take note that a market tick was sent."""
        if self._step:
            self._calm_count += 1
            if self._calm_count >= self.CALM_COUNT:
                self._calm_count = 0
                self._step -= 1
        self.next_ms = now_ms + self._settings.intervals_ms[self._step]
