"""What operators see of a server of the core: its sessions, traces, metrics and health as the admin API's values.

Knows no gateway by name, no configuration and no HTTP. Reload and drain are the daemon's, which adds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final

from sojourn.admin.view import Health, Kind, Page, SessionQuery, SessionRow, State, Trace, TraceEntry
from sojourn.core.events import EventKind
from sojourn.core.metrics import metrics_text
from sojourn.core.panel import AdminPanel
from sojourn.core.registry import Recorded, SessionSnapshot
from sojourn.core.server import Server
from sojourn.core.session import in_words, raised_at

ORDERED: Final = EventKind("admin.order", ("what", "who", "outcome"), level="warning")
"""Somebody gave the server an order, or tried to; for whoever asks later who it was."""
REQUEST_FAILED: Final = EventKind("admin.request_failed", ("request", "error", "where"), level="error")
"""A request of the HTTP API met an error that no answer of its own is for."""

_STATES: Final[dict[str, State]] = {"live": "open", "ended": "finished", "failed": "failed"}
_WANTED: Final = {"": "", "open": "live", "finished": "ended", "failed": "failed"}
_KINDS: Final[dict[str, Kind]] = {"in": "in", "out": "out", "state": "state", "error": "error"}


class CoreView:
    """The part of :class:`~sojourn.admin.view.ServerView` that the core alone can answer.

    Life: as long as its server; holds nothing of its own.
    """

    def __init__(self, server: Server) -> None:
        self.server = server

    async def list_sessions(self, query: SessionQuery) -> Page:
        """Return at most ``query.limit`` sessions, live ones first.

        Raises: ValueError if the cursor is none that an earlier page gave.
        """
        start = int(query.cursor or 0)
        if start < 0:
            raise ValueError(query.cursor)
        found = await self.snapshots(
            query.gateway, _WANTED[query.state], query.search, start + query.limit + 1
        )
        page = [_row(snapshot) for snapshot in found[start:]]
        more = len(page) > query.limit
        return Page(sessions=tuple(page[: query.limit]), next_cursor=str(start + query.limit) if more else "")

    async def find_session(self, session_id: str) -> SessionRow | None:
        """Return a session, open or still remembered."""
        found = await self.recorded(session_id)
        return None if found is None else _row(found[0])

    async def trace(self, session_id: str) -> Trace | None:
        """Return what was recorded of a session."""
        found = await self.recorded(session_id)
        if found is None:
            return None
        snapshot, entries = found
        return Trace(
            session=_row(snapshot),
            entries=tuple(
                TraceEntry(
                    at=snapshot.started + entry.at_s,
                    kind=_KINDS[entry.direction],
                    name=entry.name,
                    text=entry.summary,
                    size_bytes=entry.size_bytes,
                    source=entry.source,
                    target=entry.target,
                )
                for entry in entries
            ),
        )

    def panels(self) -> Mapping[str, AdminPanel]:
        """Return the pages of the gateways that have one, by gateway."""
        pages = {name: gateway.panel() for name, gateway in self.server.gateways.items()}
        return {name: page for name, page in pages.items() if page is not None}

    async def snapshots(self, gateway: str, state: str, search: str, count: int) -> list[SessionSnapshot]:
        """Return the first sessions that fit; a daemon that is one of several workers asks the others too."""
        return list(
            islice(self.server.registry.snapshots(gateway=gateway, state=state, search=search), count)
        )

    async def recorded(self, session_id: str) -> Recorded | None:
        """Return a session with its trace, from whichever worker has it."""
        return self.server.registry.recorded(session_id)

    async def close_session(self, session_id: str) -> bool:
        """End an open session; return whether there was one."""
        return self.server.registry.close(session_id)

    async def metrics_text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return metrics_text(self.server).decode()

    def health(self) -> Health:
        """Return whether the process works: its loop answers, or nobody would read this."""
        return Health(ok=True, parts={"loop": "running"})

    def readiness(self) -> Health:
        """Return whether new sessions are welcome, where, and what the gateways depend on."""
        server = self.server
        if not server.is_ready:
            return Health(ok=False, parts={"server": "starting or draining"})
        parts = {
            f"{listener.manager.gateway.name} {listener.address}": "listening"
            for listener in server.listeners
        }
        for name, gateway in server.gateways.items():
            parts.update({f"{name} {part}": how for part, how in gateway.dependencies()})
        return Health(ok=True, parts=parts)

    def note_order(self, what: str, who: str, outcome: str) -> None:
        """Tell that somebody gave an order, and what came of it."""
        self.server.events.emit(ORDERED, None, what, who, outcome)

    def note_failure(self, request: str, error: Exception) -> None:
        """Tell that a request could not be answered, and where the error was raised."""
        self.server.events.emit(REQUEST_FAILED, None, request, in_words(error), raised_at(error))


def _row(snapshot: SessionSnapshot) -> SessionRow:
    return SessionRow(
        id=snapshot.id,
        gateway=snapshot.gateway,
        peer=snapshot.peer,
        about=snapshot.about,
        state=_STATES[snapshot.state],
        started=snapshot.started,
        ended=snapshot.ended or None,
        reason=snapshot.reason,
    )
