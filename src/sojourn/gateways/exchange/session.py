"""UserSession: a user's sitting as the core sees it, on this pod: who is connected, and what happened.

It outlives every connection and carries any number of them; what it *is* (owner, log, simulator) is the room's
affair. Made when a room opens, ended when the room closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sojourn.core.recorder import Direction, Through
from sojourn.core.session import Reason, Session

if TYPE_CHECKING:
    from sojourn.gateways.exchange.gateway import ExchangeGateway


class UserSession(Session):
    """One session on this pod. Its ``key`` is the session's id, its ``about`` the subject and that id."""

    gateway: ExchangeGateway

    def record(self, direction: int, size_bytes: int, what: Any) -> None:
        """Put a frame, or a line of text, into the flight recorder."""
        trace = self.trace
        if trace is None:
            return
        connection = self.connection
        if isinstance(what, str):
            connection.now = connection.clock()
            self.note(what, direction=direction)
            return
        kept = self._redacted(what.what if isinstance(what, Through) else what)
        if isinstance(what, Through):
            kept = Through(what.peer, kept)
        trace.append((connection.clock(), direction, size_bytes, kept))
        if len(trace) > connection.trace_limit:
            del trace[: len(trace) // 2]

    def _redacted(self, what: Any) -> Any:
        redact = self.connection.redactors[type(what)]
        return what if redact is None else redact(what)

    def drain(self) -> None:
        """Send the clients away that are still here: their connections are to close."""
        self.gateway.send_away(str(self.key))

    def close(self, reason: str = Reason.CLOSED) -> None:
        """End it from outside; an operator ends the user's session, not just this pod's part of it."""
        if reason == Reason.CLOSED and not self.ended:
            self.gateway.end_by_operator(str(self.key))
            return
        super().close(reason)

    def over(self, why: str) -> None:
        """Take note that the room is closed."""
        if not self.ended:
            self.record(Direction.STATE, 0, why)
            self.finish()
