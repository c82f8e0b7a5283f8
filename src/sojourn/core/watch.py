"""Watch: what has happened in a session, or with all sessions, since somebody looked last.

Whoever watches looks again and again; nobody is told anything. So a session costs the same whether it is watched or
not, and what watching costs is bounded by how often is looked. Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from sojourn.core.recorder import Entry, Recorder
from sojourn.core.registry import SessionSnapshot, TraceEntry

if TYPE_CHECKING:
    from sojourn.core.server import Server
    from sojourn.core.session import Session


class Growth(msgspec.Struct, frozen=True):
    """What was added to a trace between two looks, oldest first; the session as it is now.

    ``has_gap``: the ring has forgotten entries that no look has seen.
    """

    session: SessionSnapshot
    entries: list[TraceEntry]
    has_gap: bool


class TraceWatch:
    """Looks at one session's ring. Life: as long as somebody follows the session; keeps it and its trace in memory.

    The ring is its own to keep: a session that ends and is not kept by the recorder lets go of it.
    """

    def __init__(self, server: Server, session: Session) -> None:
        self._registry = server.registry
        self._session = session
        self._ring: Sequence[Entry] = () if session.trace is None else session.trace
        self._last: Entry | None = None

    def look(self) -> Growth:
        """Return what was added since the last look; at the first one all that there is."""
        session = self._session
        fresh: list[Entry] = []
        last = self._last
        for entry in reversed(self._ring):
            if entry is last:
                break
            fresh.append(entry)
        else:
            last = None
        has_gap = self._last is not None and last is None
        if fresh:
            self._last = fresh[0]
        fresh.reverse()
        return Growth(self._registry.snapshot(session), self._registry.in_words(session, fresh), has_gap)


class Mark(msgspec.Struct, frozen=True):
    """How far somebody has looked at one process.

    Shape: the highest number that a session was given, the last session of each of the recorder's rings, and how many
    sessions had come and gone; ``event`` is the number of the last event.
    """

    opened: int = 0
    finished: int = 0
    failed: int = 0
    opened_count: int = 0
    ended_count: int = 0
    event: int = 0


class Changes(msgspec.Struct, frozen=True):
    """Sessions that came and went between two looks, oldest first, and how many are not among them.

    A session that ended soon after it came is told once, as ended; one that the recorder does not keep is only counted.
    """

    mark: Mark
    opened: list[SessionSnapshot]
    ended: list[SessionSnapshot]
    more_opened: int = 0
    more_ended: int = 0


def changes(server: Server, mark: Mark | None, limit: int) -> Changes:
    """Return what has changed since ``mark``, at most ``limit`` of each kind; without a mark nothing but the first one.

    Costs one pass over the live sessions.
    """
    registry, recorder = server.registry, server.recorder
    seen = Mark() if mark is None else mark
    managers = server.managers.values()
    opened = [one for manager in managers for one in manager.sessions_after(seen.opened)]
    opened = sorted((one for one in opened if _is_recorded(one, recorder)), key=_number)
    counts = [manager.counts() for manager in managers]
    opened_count = sum(one.sessions_opened for one in counts)
    new_mark = Mark(
        opened[-1].number if opened else seen.opened,
        _first_number(recorder.finished()),
        _first_number(recorder.failed()),
        opened_count,
        opened_count - sum(one.sessions_open for one in counts),
        server.events.last_number,
    )
    if mark is None:
        return Changes(new_mark, [], [])
    ended = [
        *_until(recorder.finished(), mark.finished, limit),
        *_until(recorder.failed(), mark.failed, limit),
    ]
    ended.sort(key=_ended_at)
    ended = ended[-limit:]
    told = min(len(opened), limit) + sum(one.number > mark.opened for one in ended)
    return Changes(
        new_mark,
        [registry.snapshot(one) for one in opened[-limit:]],
        [registry.snapshot(one) for one in ended],
        max(0, new_mark.opened_count - mark.opened_count - told),
        max(0, new_mark.ended_count - mark.ended_count - len(ended)),
    )


def _is_recorded(session: Session, recorder: Recorder) -> bool:
    """Say whether a session is one for people; requests over HTTP, which are not, have no trace."""
    return session.trace is not None or not recorder.entries_limit


def _number(session: Session) -> int:
    return session.number


def _ended_at(session: Session) -> float:
    return session.ended_at


def _first_number(ring: Iterable[Session]) -> int:
    return next((session.number for session in ring), 0)


def _until(ring: Iterable[Session], number: int, limit: int) -> list[Session]:
    """Return the newest sessions of a ring as far as the one that was seen."""
    found = []
    for session in islice(ring, limit):
        if session.number == number:
            break
        found.append(session)
    return found
