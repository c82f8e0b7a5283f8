"""What operators see of a server of the core: its sessions, traces, metrics and health as the admin API's values.

Knows no gateway by name, no configuration and no HTTP. Reload and drain are the daemon's, which adds them.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeVar, cast

from msgspec.structs import replace

from sojourn import __version__
from sojourn.admin.values import GatewayRow, Overview, OverviewTick, SecondRow, Series
from sojourn.admin.view import (
    EventQuery,
    Follower,
    Growth,
    Health,
    Kind,
    News,
    Page,
    SessionQuery,
    SessionRow,
    State,
    Trace,
    TraceEntry,
)
from sojourn.core import registry
from sojourn.core.events import EventKind
from sojourn.core.metrics import metrics_text
from sojourn.core.panel import AdminPanel
from sojourn.core.rates import GatewayFigures, PerSecond, together
from sojourn.core.registry import Recorded, SessionSnapshot
from sojourn.core.report import (
    BreakerRow,
    EventRow,
    LimitRow,
    ListenerRow,
    Look,
    PeerRow,
    Report,
    TroubleRow,
)
from sojourn.core.server import Server
from sojourn.core.session import in_words, raised_at
from sojourn.core.watch import Mark, TraceWatch

ORDERED: Final = EventKind("admin.order", ("what", "who", "outcome"), level="warning")
"""Somebody gave the server an order, or tried to; for whoever asks later who it was."""
REQUEST_FAILED: Final = EventKind("admin.request_failed", ("request", "error", "where"), level="error")
"""A request of the HTTP API met an error that no answer of its own is for."""

_STATES: Final[dict[str, State]] = {"live": "open", "ended": "finished", "failed": "failed"}
_WANTED: Final = {"": "", "open": "live", "finished": "ended", "failed": "failed"}
_LOOK_S: Final = 0.1
"""How long after it happened a follower sees something."""
_LOOK_FAR_S: Final = 0.5
"""The same in another process, which has to be asked for the whole trace."""

T = TypeVar("T")

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
        return Trace(session=_row(snapshot), entries=_entries(snapshot, entries))

    async def follow(self, session_id: str) -> Follower | None:
        """Return what looks at a session's trace again and again, in whichever worker it is."""
        session = self.server.registry.session(session_id)
        if session is not None:
            return _Near(TraceWatch(self.server, session))
        found = await self.recorded(session_id)
        return None if found is None else _Far(self, session_id)

    async def news(self, marks: Mapping[str, Mark], sessions_limit: int, events_limit: int) -> News:
        """Return what has happened since ``marks``, in all workers."""
        looks = await self.reports(Look, "look", dict(marks), sessions_limit, events_limit)
        opened = [one for look in looks for one in look.changes.opened]
        ended = [one for look in looks for one in look.changes.ended]
        happened = [one for look in looks for one in look.events]
        opened.sort(key=lambda one: one.started)
        ended.sort(key=lambda one: one.ended)
        happened.sort(key=lambda one: one.at)
        return News(
            marks={look.process: look.changes.mark for look in looks},
            opened=tuple(map(_row, opened[-sessions_limit:])),
            ended=tuple(map(_row, ended[-sessions_limit:])),
            events=tuple(happened[-events_limit:]),
            more_opened=sum(look.changes.more_opened for look in looks)
            + max(0, len(opened) - sessions_limit),
            more_ended=sum(look.changes.more_ended for look in looks) + max(0, len(ended) - sessions_limit),
            more_events=sum(look.more_events for look in looks) + max(0, len(happened) - events_limit),
        )

    async def overview(self) -> Overview:
        """Return the server in figures, with their last minute."""
        figures = await self.reports(list[GatewayFigures], "figures")
        return Overview(
            now=self._now(),
            version=__version__,
            uptime_s=self._uptime_s(),
            is_draining=not self.server.is_ready,
            workers=len(figures),
            gateways=tuple(_gateway(one) for one in together(chain.from_iterable(figures))),
            problems=await self._problems(),
        )

    async def second(self) -> OverviewTick:
        """Return the server in figures, those of the last second."""
        figures = await self.reports(list[GatewayFigures], "figures")
        return OverviewTick(
            now=self._now(),
            uptime_s=self._uptime_s(),
            is_draining=not self.server.is_ready,
            gateways=tuple(_second(one) for one in together(chain.from_iterable(figures))),
            problems=await self._problems(),
        )

    async def _problems(self) -> tuple[TroubleRow, ...]:
        """Return what is wrong anywhere; what several workers tell alike is told once."""
        rows: dict[tuple[str, str], TroubleRow] = {}
        for row in chain.from_iterable(await self.reports(list[TroubleRow], "troubles")):
            rows.setdefault((row.gateway, row.text), row)
        return tuple(sorted(rows.values(), key=lambda row: (row.severity != "error", row.since or 0.0)))

    def _now(self) -> float:
        return self.server.events.unix_time(self.server.clock())

    def _uptime_s(self) -> float:
        started = self.server.started_at
        return self.server.clock() - started if started else 0.0

    async def listeners(self) -> list[ListenerRow]:
        """Return every address that is listened on; an address that workers share is one."""
        rows: dict[tuple[str, str], ListenerRow] = {}
        for row in chain.from_iterable(await self.reports(list[ListenerRow], "listeners")):
            known = rows.get((row.gateway, row.address))
            more = 0 if known is None else known.connections
            rows[row.gateway, row.address] = replace(row, connections=row.connections + more)
        return list(rows.values())

    async def peers(self, gateway: str, search: str, limit: int) -> tuple[list[PeerRow], int]:
        """Return who is connected, those with most connections first, and how many peers did not fit."""
        rows: dict[tuple[str, str], PeerRow] = {}
        for row in chain.from_iterable(await self.reports(list[PeerRow], "peers", gateway, search)):
            known = rows.get((row.gateway, row.address))
            rows[row.gateway, row.address] = row if known is None else _both(known, row)
        found = sorted(rows.values(), key=lambda row: (-row.connections, row.address))
        return found[:limit], max(0, len(found) - limit)

    async def breakers(self) -> list[BreakerRow]:
        """Return every circuit breaker, those that are not closed first."""
        rows = chain.from_iterable(await self.reports(list[BreakerRow], "breakers"))
        return sorted(rows, key=lambda row: (row.state == "closed", row.endpoint))

    async def limits(self) -> list[LimitRow]:
        """Return every limit, each worker's own added up."""
        rows: dict[tuple[str, str], LimitRow] = {}
        for row in chain.from_iterable(await self.reports(list[LimitRow], "limits")):
            known = rows.get((row.gateway, row.name))
            rows[row.gateway, row.name] = row if known is None else _sum(known, row)
        return list(rows.values())

    async def events(self, query: EventQuery) -> list[EventRow]:
        """Return the events that fit, newest first."""
        asked = (None, query.level, query.kind, query.search, query.limit)
        rows = chain.from_iterable(await self.reports(list[EventRow], "events", *asked))
        return sorted(rows, key=lambda row: -row.at)[: query.limit]

    async def reports(self, kind: type[T], what: str, *arguments: object) -> Sequence[T]:  # noqa: ARG002 - for subclasses
        """Return what each worker reports; the first one is this process.

        Args:
            kind: of each answer.
            what: a method of :class:`~sojourn.core.report.Report`.
        """
        return [cast("T", getattr(Report(self.server), what)(*arguments))]

    def panels(self) -> Mapping[str, AdminPanel]:
        """Return the pages of the gateways that have one, by gateway."""
        return self.server.panels

    def configuration(self) -> str:
        """Return the configuration in force; the core alone has none."""
        return ""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Run ``work`` in a task that ends with the server at the latest."""
        return self.server.spawn(work)

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


def _entries(snapshot: SessionSnapshot, entries: Iterable[registry.TraceEntry]) -> tuple[TraceEntry, ...]:
    return tuple(
        TraceEntry(
            at=snapshot.started + entry.at_s,
            kind=_KINDS[entry.direction],
            name=entry.name,
            text=entry.summary,
            size_bytes=entry.size_bytes,
            source=entry.source,
            target=entry.target,
            is_leg=entry.is_leg,
        )
        for entry in entries
    )


class _Near:
    """Follows a session of this process."""

    pause_s = _LOOK_S

    def __init__(self, watch: TraceWatch) -> None:
        self._watch = watch

    async def look(self) -> Growth | None:
        """Return what was added since the last look."""
        grown = self._watch.look()
        return Growth(
            session=_row(grown.session),
            entries=_entries(grown.session, grown.entries),
            has_gap=grown.has_gap,
        )


class _Far:
    """Follows a session of another worker, which tells all that it has each time."""

    pause_s = _LOOK_FAR_S

    def __init__(self, view: CoreView, session_id: str) -> None:
        self._view = view
        self._session_id = session_id
        self._seen: tuple[TraceEntry, ...] = ()

    async def look(self) -> Growth | None:
        """Return what was added since the last look; None once the worker has forgotten the session."""
        trace = await self._view.trace(self._session_id)
        if trace is None:
            return None
        fresh = unseen(self._seen, trace.entries)
        has_gap = bool(self._seen) and len(fresh) == len(trace.entries)
        self._seen = trace.entries
        return Growth(session=trace.session, entries=fresh, has_gap=has_gap)


def unseen(before: tuple[TraceEntry, ...], now: tuple[TraceEntry, ...]) -> tuple[TraceEntry, ...]:
    """Return the entries that came between two looks at one ring, which forgets its oldest."""
    for kept in range(min(len(before), len(now)), 0, -1):
        if before[-kept:] == now[:kept]:
            return now[kept:]
    return now


def _gateway(figures: GatewayFigures) -> GatewayRow:
    samples = figures.samples
    return GatewayRow(
        title=figures.title,
        series=Series(
            sessions_open=tuple(one.sessions_open for one in samples),
            opened_per_s=tuple(_rounded(one.sessions_opened) for one in samples),
            packets_per_s=tuple(_rounded(one.packets_in + one.packets_out) for one in samples),
            failed_per_s=tuple(_rounded(one.sessions_failed) for one in samples),
        ),
        **_figures(figures),
    )


def _second(figures: GatewayFigures) -> SecondRow:
    return SecondRow(**_figures(figures))


def _figures(figures: GatewayFigures) -> dict[str, Any]:
    counts = figures.counts
    last = figures.samples[-1] if figures.samples else PerSecond()
    return {
        "name": figures.name,
        **{name: getattr(counts, name) for name in counts.__struct_fields__},
        "opened_per_s": _rounded(last.sessions_opened),
        "failed_per_s": _rounded(last.sessions_failed),
        "packets_in_per_s": _rounded(last.packets_in),
        "packets_out_per_s": _rounded(last.packets_out),
        "bytes_in_per_s": _rounded(last.bytes_in),
        "bytes_out_per_s": _rounded(last.bytes_out),
    }


def _rounded(per_s: float) -> float:
    """Leave digits away that say nothing and cost bytes each second; a slow rate keeps its first ones."""
    return round(per_s, 1 if per_s >= 10 else 2)  # noqa: PLR2004 - as said


def _both(first: PeerRow, second: PeerRow) -> PeerRow:
    return replace(
        first,
        connections=first.connections + second.connections,
        sessions=first.sessions + second.sessions,
        packets_in=first.packets_in + second.packets_in,
        packets_out=first.packets_out + second.packets_out,
        bytes_in=first.bytes_in + second.bytes_in,
        bytes_out=first.bytes_out + second.bytes_out,
        since=min(first.since, second.since),
    )


def _sum(first: LimitRow, second: LimitRow) -> LimitRow:
    """Add up what two workers use; each has the limit for itself."""
    return replace(
        first,
        limit=first.limit + second.limit,
        used=None if first.used is None or second.used is None else first.used + second.used,
        refused=None if first.refused is None or second.refused is None else first.refused + second.refused,
    )
