"""Registry: who is present. Every live session of every gateway, and those that ended a short while ago.

Makes frozen copies when asked; costs the hot path nothing. Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from sojourn.core.recorder import Direction
from sojourn.core.session import Reason, Session

if TYPE_CHECKING:
    from sojourn.core.server import Server


class SessionSnapshot(msgspec.Struct, frozen=True):
    """One session as it was at one moment.

    Units: ``started`` and ``ended`` are seconds since 1970, ``ended`` 0 while it lives; ``age_s`` its length so far.
    """

    id: str
    gateway: str
    peer: str
    about: str
    state: str
    reason: str
    started: float
    ended: float
    age_s: float
    entries: int


class TraceEntry(msgspec.Struct, frozen=True):
    """One line of a trace. ``at_s`` counts from the session's start; ``source`` and ``target`` are its parties."""

    at_s: float
    direction: str
    source: str
    target: str
    name: str
    summary: str
    size_bytes: int


Recorded = tuple[SessionSnapshot, list[TraceEntry]]
"""A session and its trace."""

_DIRECTIONS = {
    Direction.IN: "in",
    Direction.OUT: "out",
    Direction.STATE: "state",
    Direction.ERROR: "error",
}


class Registry:
    """Finds, lists and closes sessions; one per server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def live(self) -> Iterator[Session]:
        """Yield every live session of every gateway."""
        for manager in self._server.managers.values():
            yield from manager.sessions()

    def snapshots(self, *, gateway: str = "", state: str = "", search: str = "") -> Iterator[SessionSnapshot]:
        """Yield live sessions, then ended ones, that fit, of both the newest first.

        Args:
            gateway: only of this gateway.
            state: ``live``, ``ended`` or ``failed``; empty = all.
            search: part of the id, the peer or what the session is about; case does not matter.
        """
        wanted = search.casefold()
        for snapshot in self._all(state):
            if gateway and snapshot.gateway != gateway:
                continue
            if wanted and wanted not in f"{snapshot.id} {snapshot.peer} {snapshot.about}".casefold():
                continue
            yield snapshot

    def _all(self, state: str) -> Iterator[SessionSnapshot]:
        server = self._server
        now, unix_time = server.clock(), server.events.unix_time
        if state in ("", "live"):
            for session in sorted(self.live(), key=attrgetter("started"), reverse=True):
                yield SessionSnapshot(
                    id=session.id,
                    gateway=session.gateway.name,
                    peer=str(session.connection.peer),
                    about=session.about,
                    state="live",
                    reason="",
                    started=unix_time(session.started),
                    ended=0.0,
                    age_s=now - session.started,
                    entries=len(session.trace or ()),
                )
        if state == "live":
            return
        for session, failed in server.recorder.ended():
            row_state = "failed" if failed else "ended"
            if state in ("", row_state):
                yield SessionSnapshot(
                    id=session.id,
                    gateway=session.gateway.name,
                    peer=str(session.connection.peer),
                    about=session.about,
                    state=row_state,
                    reason=session.ended,
                    started=unix_time(session.started),
                    ended=unix_time(session.ended_at),
                    age_s=session.ended_at - session.started,
                    entries=len(session.trace or ()),
                )

    def find(self, session_id: str) -> SessionSnapshot | None:
        """Return the session of this id, live or ended, or None."""
        return next((one for one in self._all("") if one.id == session_id), None)

    def recorded(self, session_id: str) -> Recorded | None:
        """Return the session of this id with what happened in it, live or ended, or None."""
        snapshot, entries = self.find(session_id), self.trace(session_id)
        return None if snapshot is None or entries is None else (snapshot, entries)

    def close(self, session_id: str) -> bool:
        """End a live session; False if there is none of this id."""
        for session in self.live():
            if session.id == session_id:
                session.close(Reason.CLOSED)
                return True
        return False

    def trace(self, session_id: str) -> list[TraceEntry] | None:
        """Return what happened in a session, oldest first, or None if it is not known (any more)."""
        for session in self.live():
            if session.id == session_id:
                return self._entries(session)
        for session, _ in self._server.recorder.ended():
            if session.id == session_id:
                return self._entries(session)
        return None

    @staticmethod
    def _entries(session: Session) -> list[TraceEntry]:
        gateway, started = session.gateway, session.started
        entries = []
        for entry in session.trace or ():
            at, direction, size, _ = entry
            name, text = gateway.words_for(entry)
            source, target = gateway.parties(session, direction)
            entries.append(TraceEntry(at - started, _DIRECTIONS[direction], source, target, name, text, size))
        return entries
