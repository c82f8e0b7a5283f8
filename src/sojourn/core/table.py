"""SessionTable: the sessions of one connection, and whether it may open another.

Knows nothing of bytes or tasks. There is one way out of the table, ``Connection.ended``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sojourn.core.session import Session


class Mode:
    """How many sessions a connection carries.

    SINGLE: one, then the connection closes. NEGOTIATING: one until the first reply has said whether more may
    follow. MULTI: many at once. DRAINING: those that run, then the connection closes.
    """

    SINGLE = "single"
    NEGOTIATING = "negotiating"
    MULTI = "multi"
    DRAINING = "draining"


class SessionTable:
    """Sessions by key; made and owned by a connection.

    Always true: every session in ``live`` is unfinished; a DRAINING table opens nothing.
    """

    __slots__ = ("limit", "live", "mode", "opened")

    def __init__(self, mode: str, limit: int) -> None:
        self.mode = mode
        self.limit = limit
        self.live: dict[Hashable, Session] = {}
        self.opened = 0

    def refusal(self) -> str | None:
        """Return why no session can be opened now, or None if one can."""
        mode = self.mode
        if mode == Mode.MULTI:
            if len(self.live) >= self.limit:
                return f"{self.limit} sessions are open, the limit"
        elif mode == Mode.DRAINING:
            return "the connection is draining"
        elif self.opened:
            if mode == Mode.NEGOTIATING:
                return "a second session came before the first reply"
            return "the connection carries a single session"
        return None

    def negotiated(self, *, multi: bool) -> None:
        """Leave NEGOTIATING: the first reply says whether sessions may share the connection."""
        if self.mode == Mode.NEGOTIATING:
            self.mode = Mode.MULTI if multi else Mode.SINGLE

    def drain(self) -> bool:
        """Open nothing more; return True if nothing runs, so that the connection can close now."""
        self.mode = Mode.DRAINING
        return not self.live
