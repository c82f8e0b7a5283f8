"""What the admin part may see and ask of a running server: snapshots of sessions and a few orders.

Knows no gateway by name, no socket and no HTTP; who puts the parts together implements :class:`ServerView`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from sojourn.core.panel import AdminPanel
from sojourn.core.report import BreakerRow, EventRow, LimitRow, ListenerRow, PeerRow
from sojourn.core.watch import Mark

if TYPE_CHECKING:
    from sojourn.admin.values import Overview, OverviewTick

State = Literal["open", "finished", "failed"]
Kind = Literal["in", "out", "state", "error"]

LONGEST_ID_CHARACTERS = 128
LONGEST_SEARCH_CHARACTERS = 200
LARGEST_PAGE_COUNT = 1_000


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session as operators see it.

    Units: ``started`` and ``ended`` are seconds since 1970 (UTC); ``ended`` is none while it is open.
    """

    id: str
    gateway: str
    peer: str
    about: str
    state: State
    started: float
    ended: float | None = None
    reason: str = ""


class TraceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened in a session; never holds a secret.

    Shape: ``source`` and ``target`` are who said it to whom, by name; the same for what is said to nobody. ``is_leg``
    says that it went to or from a party behind the gateway, which stands at the right of a diagram.
    Units: ``at`` is seconds since 1970 (UTC).
    """

    at: float
    kind: Kind
    name: str
    text: str = ""
    size_bytes: int = 0
    source: str = ""
    target: str = ""
    is_leg: bool = False


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A session with what the flight recorder kept of it, oldest first."""

    session: SessionRow
    entries: tuple[TraceEntry, ...]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the sessions that were asked for; ``next_cursor`` asks for the ones behind them."""

    sessions: tuple[SessionRow, ...]
    next_cursor: str = ""


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions are asked for; an empty text matches all.

    Shape: ``search`` is looked for in id, peer and about, in any case; ``cursor`` is what a page before gave.
    """

    gateway: str = ""
    state: State | Literal[""] = ""
    search: str = ""
    limit: int = 100
    cursor: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all is well, and in words, part by part."""

    ok: bool
    parts: dict[str, str] = {}


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are asked for.

    Shape: ``level`` is the least important one, ``kind`` how the kind's name begins, ``search`` part of anything.
    """

    level: str = ""
    kind: str = ""
    search: str = ""
    limit: int = 100


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What was added to a trace between two looks, oldest first, and the session as it is now."""

    session: SessionRow
    entries: tuple[TraceEntry, ...]
    has_gap: bool = False


class Follower(Protocol):
    """Somebody who follows one session. ``pause_s`` is how long to wait between two looks."""

    pause_s: float

    async def look(self) -> Growth | None:
        """Return what was added since the last look, at the first one all that there is; None: it is forgotten."""


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened since the last look: sessions and events, oldest first, and how many are not among them.

    Then: hand ``marks`` in with the next look.
    """

    marks: Mapping[str, Mark]
    opened: tuple[SessionRow, ...] = ()
    ended: tuple[SessionRow, ...] = ()
    events: tuple[EventRow, ...] = ()
    more_opened: int = 0
    more_ended: int = 0
    more_events: int = 0


class ServerView(Protocol):
    """A running server, as far as operators may look and reach.

    All methods are called in the server's own loop and must not block; those that wait ask other workers, too.
    """

    async def list_sessions(self, query: SessionQuery) -> Page:
        """Return at most ``query.limit`` sessions, newest first.

        Raises: ValueError if the cursor is none that an earlier page gave.
        """

    async def find_session(self, session_id: str) -> SessionRow | None:
        """Return a session, open or still remembered."""

    async def trace(self, session_id: str) -> Trace | None:
        """Return what was recorded of a session."""

    async def close_session(self, session_id: str) -> bool:
        """End an open session with its protocol's own farewell; return whether there was one."""

    async def follow(self, session_id: str) -> Follower | None:
        """Return what looks at a session's trace again and again, or None if there is no such session."""

    async def news(self, marks: Mapping[str, Mark], sessions_limit: int, events_limit: int) -> News:
        """Return what has happened since ``marks``; nothing for whom there is none, but a mark."""

    async def overview(self) -> Overview:
        """Return the server in figures, with their last minute."""

    async def second(self) -> OverviewTick:
        """Return the server in figures, those of the last second."""

    async def listeners(self) -> list[ListenerRow]:
        """Return every address that is listened on."""

    async def peers(self, gateway: str, search: str, limit: int) -> tuple[list[PeerRow], int]:
        """Return who is connected, those with most connections first, and how many peers did not fit."""

    async def breakers(self) -> list[BreakerRow]:
        """Return every circuit breaker, those that are not closed first."""

    async def limits(self) -> list[LimitRow]:
        """Return every limit with what is used of it."""

    async def events(self, query: EventQuery) -> list[EventRow]:
        """Return the events that fit, newest first."""

    def panels(self) -> Mapping[str, AdminPanel]:
        """Return the pages of the gateways that have one, by gateway."""

    def configuration(self) -> str:
        """Return the configuration in force as TOML, secrets masked."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Run ``work`` in a task that ends with the server at the latest."""

    async def metrics_text(self) -> str:
        """Return all metrics in Prometheus' text format, those of other workers among them."""

    def health(self) -> Health:
        """Return whether this process works at all."""

    def readiness(self) -> Health:
        """Return whether new sessions are welcome: false while starting and draining."""

    async def reload(self) -> None:
        """Read the configuration again and put it in force.

        Raises: ConfigError with every problem; the old configuration then stays.
        """

    async def drain(self) -> None:
        """Begin to stop: take nothing new, let what is there finish. Returns at once."""

    def note_order(self, what: str, who: str, outcome: str) -> None:
        """Write into the log that somebody gave an order, and what came of it."""

    def note_failure(self, request: str, error: Exception) -> None:
        """Write into the log that a request could not be answered; never an error's text that may hold a secret."""
