"""The audit log: who ordered what, and what came of it.

The last entries are kept for whoever asks over the API; all of them are events, and so in the log. Knows no HTTP.
"""

from __future__ import annotations

from collections import deque
from typing import final

from sojourn.admin.values import AuditRow
from sojourn.admin.view import ServerView
from sojourn.core.clock import WallClock, utc_now


@final
class Audit:
    """The last orders. Life: one per server of the API; bounded by the settings."""

    def __init__(self, view: ServerView, entries_count: int, wall: WallClock = utc_now) -> None:
        self._view = view
        self._wall = wall
        self._entries: deque[AuditRow] = deque(maxlen=entries_count)

    def note(self, what: str, who: str, outcome: str) -> None:
        """Write one order down."""
        self._entries.append(AuditRow(at=self.now(), what=what, who=who, outcome=outcome))
        self._view.note_order(what, who, outcome)

    def now(self) -> float:
        """Return the present moment, in seconds since 1970."""
        return self._wall().timestamp()

    def last(self, count: int) -> tuple[AuditRow, ...]:
        """Return the last orders, newest first."""
        return tuple(reversed(self._entries))[:count]
