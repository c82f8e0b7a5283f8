"""Registry: who is present. Every live session of every gateway, and those that ended a short while ago.

Makes frozen copies when asked; costs the hot path nothing. Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from sojourn.core.recorder import Direction, Entry, Through
from sojourn.core.session import Reason, Session, is_failure

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
    """One line of a trace. ``at_s`` counts from the session's start; ``source`` and ``target`` are its parties.

    ``is_leg``: it went between the gateway and a party behind it, not the peer.
    """

    at_s: float
    direction: str
    source: str
    target: str
    name: str
    summary: str
    size_bytes: int
    is_leg: bool = False


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
        if state in ("", "live"):
            for session in sorted(self.live(), key=attrgetter("started"), reverse=True):
                yield self.snapshot(session)
        if state == "live":
            return
        for session, failed in self._server.recorder.ended():
            if state in ("", "failed" if failed else "ended"):
                yield self.snapshot(session)

    def snapshot(self, session: Session) -> SessionSnapshot:
        """Return a session as it is now."""
        unix_time = self._server.events.unix_time
        now = self._server.clock()
        # Whatever the recorder does not keep has no moment of its end.
        ended_at = (session.ended_at or now) if session.ended else 0.0
        state = "live"
        if session.ended:
            state = "failed" if is_failure(session.ended) else "ended"
        return SessionSnapshot(
            id=session.id,
            gateway=session.gateway.name,
            peer=str(session.connection.peer),
            about=session.about,
            state=state,
            reason=session.ended,
            started=unix_time(session.started),
            ended=unix_time(ended_at) if ended_at else 0.0,
            age_s=(ended_at or now) - session.started,
            entries=len(session.trace or ()),
        )

    def find(self, session_id: str) -> SessionSnapshot | None:
        """Return the session of this id, live or ended, or None."""
        session = self.session(session_id)
        return None if session is None else self.snapshot(session)

    def recorded(self, session_id: str) -> Recorded | None:
        """Return the session of this id with what happened in it, live or ended, or None."""
        session = self.session(session_id)
        return (
            None if session is None else (self.snapshot(session), self.in_words(session, session.trace or ()))
        )

    def session(self, session_id: str) -> Session | None:
        """Return the session of this id itself, live or ended, or None."""
        gateway, _, digits = session_id.rpartition("-")
        manager = self._server.managers.get(gateway)
        try:
            number = int(digits, 16)
        except ValueError:
            return None
        if manager is None:
            return None
        # The number first: an id is made for each session that is asked for one, and there may be thousands.
        live = (one for one in manager.sessions_after(number - 1) if one.number == number)
        ended = (one for one, _ in self._server.recorder.ended() if one.number == number)
        return next((one for one in (*live, *ended) if one.id == session_id), None)

    def close(self, session_id: str) -> bool:
        """End a live session; False if there is none of this id."""
        session = self.session(session_id)
        if session is None or session.ended:
            return False
        session.close(Reason.CLOSED)
        return True

    def trace(self, session_id: str) -> list[TraceEntry] | None:
        """Return what happened in a session, oldest first, or None if it is not known (any more)."""
        session = self.session(session_id)
        return None if session is None else self.in_words(session, session.trace or ())

    @staticmethod
    def in_words(session: Session, ring: Iterable[Entry]) -> list[TraceEntry]:
        """Return entries of a session's ring as people read them."""
        gateway, started = session.gateway, session.started
        entries = []
        for entry in ring:
            at, direction, size, what = entry
            leg = gateway.leg(what)
            if leg is not None:
                name, text = leg.name, leg.text
                source, target = _ends(gateway.name, leg.party, direction)
            elif isinstance(what, Through):
                name, text = gateway.words_for((at, direction, size, what.what))
                source, target = _ends(gateway.name, what.peer, direction)
            else:
                name, text = gateway.words_for(entry)
                source, target = gateway.parties(session, direction)
            words = (source, target, name, text)
            entries.append(TraceEntry(at - started, _DIRECTIONS[direction], *words, size, leg is not None))
        return entries


def _ends(ours: str, theirs: str, direction: int) -> tuple[str, str]:
    """Return from whom to whom; what fails at a party comes from it."""
    return (ours, theirs) if direction == Direction.OUT else (theirs, ours)
