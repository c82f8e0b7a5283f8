"""Report: what one process tells operators of itself besides its sessions: listeners, peers, breakers, limits, events.

Plain values that go to other processes as they are; made when somebody asks, and for nobody else. Knows no protocol.
Units: moments are seconds since 1970 (UTC).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from sojourn.core.breaker import CircuitState
from sojourn.core.events import Event
from sojourn.core.memory import MemoryListener
from sojourn.core.rates import GatewayFigures
from sojourn.core.watch import Changes, Mark, changes

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.manager import ConnectionManager
    from sojourn.core.server import Server

Level = Literal["debug", "info", "warning", "error"]
Severity = Literal["error", "warning"]

REPORTS: Final = frozenset(
    {"figures", "listeners", "peers", "breakers", "limits", "events", "troubles", "look"}
)
"""What other processes may ask for."""
FAILURES_WITHIN_S: Final = 300.0
"""How long an error of ours counts as something that is wrong now."""
FULL_SHARE: Final = 0.9
"""Of a limit, from which on it is nearly met."""
_LONGEST_VALUE_CHARACTERS: Final = 500


class ListenerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One address on which a gateway listens."""

    gateway: str
    address: str
    tls: bool
    proxy_protocol: bool
    connections: int


class PeerRow(msgspec.Struct, frozen=True, kw_only=True):
    """All connections of one address to one gateway; ``since`` is when the oldest of them began."""

    gateway: str
    address: str
    connections: int
    sessions: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    tls: bool
    names: tuple[str, ...]
    since: float


class BreakerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One circuit breaker. ``probe_in_s``: until an open one lets a call through; 0 where it is not open."""

    endpoint: str
    state: Literal["closed", "open", "half-open"]
    calls: int
    failures: int
    refused: int
    openings: int
    failure_rate: float
    probe_in_s: float


class LimitRow(msgspec.Struct, frozen=True, kw_only=True):
    """One limit: how much of it is used now, and how often it refused something, where that can be told."""

    gateway: str
    name: str
    limit: float
    used: float | None = None
    refused: int | None = None


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened, as the log has it.

    Shape: ``number`` grows by one with each event of one process; ``kind`` is such as ``connection.refused``;
    ``fields`` by their names; ``session`` is the id of the session that it happened in, or empty.
    """

    number: int
    at: float
    level: Level
    kind: str
    fields: dict[str, Any]
    session: str = ""


class TroubleRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now. ``gateway`` is empty for the server's own; ``link`` is a place on the dashboard."""

    severity: Severity
    gateway: str
    text: str
    since: float | None = None
    link: str = ""


class Look(msgspec.Struct, frozen=True):
    """What has happened in one process since somebody looked last; ``more_events`` are not told one by one."""

    process: str
    changes: Changes
    events: list[EventRow]
    more_events: int


class Report:
    """What one server tells of itself; holds nothing of its own. Every method costs one pass over what it tells of."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def figures(self) -> list[GatewayFigures]:
        """Return every gateway in figures."""
        return self._server.rates.figures({name: panel.title for name, panel in self._server.panels.items()})

    def look(self, marks: Mapping[str, Mark], sessions_limit: int, events_limit: int) -> Look:
        """Return what has happened since the mark of this process; without one nothing but a first mark.

        Args: marks, by process, as the looks before had them.
        """
        process = str(os.getpid())
        mark = marks.get(process)
        found = changes(self._server, mark, sessions_limit)
        if mark is None:
            return Look(process, found, [], 0)
        rows = self.events(mark.event, "info", "", "", events_limit)
        rows.reverse()
        return Look(process, found, rows, max(0, found.mark.event - mark.event - len(rows)))

    def listeners(self) -> list[ListenerRow]:
        """Return every address that is listened on."""
        counts: dict[tuple[str, str], int] = {}
        for manager in self._server.managers.values():
            for connection in manager.connections:
                key = manager.gateway.name, connection.peer.listener
                counts[key] = counts.get(key, 0) + 1
        return [
            ListenerRow(
                gateway=one.manager.gateway.name,
                address=one.address,
                tls=not isinstance(one, MemoryListener) and one.settings.tls is not None,
                proxy_protocol=one.settings.proxy_protocol,
                connections=counts.get((one.manager.gateway.name, one.address), 0),
            )
            for one in self._server.listeners
        ]

    def peers(self, gateway: str, search: str) -> list[PeerRow]:
        """Return who is connected; ``search`` is part of the address."""
        by_address: dict[tuple[str, str], list[Connection]] = {}
        for name, manager in self._server.managers.items():
            if gateway in ("", name):
                for connection in manager.connections:
                    if search.casefold() in connection.peer.address.casefold():
                        by_address.setdefault((name, connection.peer.address), []).append(connection)
        return [self._peer(*key, connections) for key, connections in by_address.items()]

    def _peer(self, gateway: str, address: str, connections: list[Connection]) -> PeerRow:
        return PeerRow(
            gateway=gateway,
            address=address,
            connections=len(connections),
            sessions=sum(len(one.table.live) for one in connections),
            packets_in=sum(one.packets_in for one in connections),
            packets_out=sum(one.packets_out for one in connections),
            bytes_in=sum(one.bytes_in for one in connections),
            bytes_out=sum(one.bytes_out for one in connections),
            tls=any(one.peer.is_tls for one in connections),
            names=tuple(dict.fromkeys(name for one in connections for name in one.peer.certificate_names)),
            since=self._server.events.unix_time(min(one.opened for one in connections)),
        )

    def breakers(self) -> list[BreakerRow]:
        """Return every circuit breaker, those that are not closed first."""
        now = self._server.clock()
        rows = [
            BreakerRow(
                endpoint=one.endpoint,
                state=one.state.word,  # type: ignore[arg-type]  # the words of the three states
                calls=one.calls,
                failures=one.failures,
                refused=one.refused,
                openings=one.openings,
                failure_rate=one.failure_rate,
                probe_in_s=max(0.0, one.until - now) if one.state == CircuitState.OPEN else 0.0,
            )
            for one in self._server.breakers.snapshot()
        ]
        return sorted(rows, key=lambda row: (row.state == "closed", row.endpoint))

    def limits(self) -> list[LimitRow]:
        """Return every limit of the core."""
        return [row for manager in self._server.managers.values() for row in _limits_of(manager)]

    def events(self, after: int | None, level: str, kind: str, search: str, limit: int) -> list[EventRow]:
        """Return the newest events that fit, newest first.

        Args:
            after: only those with a higher number.
            level: the least important one.
            kind: how the kind's name begins.
            search: part of the kind, the values or the session's id; case does not matter.
        """
        wanted = search.casefold()
        least = _LEVELS.index(level) if level in _LEVELS else 0
        rows: list[EventRow] = []
        for number, event in self._server.events.remembered(after):
            if _LEVELS.index(event.kind.level) < least or not event.kind.name.startswith(kind):
                continue
            row = self._event(number, event)
            if wanted and wanted not in f"{row.kind} {row.session} {row.fields}".casefold():
                continue
            rows.append(row)
            if len(rows) == limit:
                break
        return rows

    def _event(self, number: int, event: Event) -> EventRow:
        return EventRow(
            number=number,
            at=self._server.events.unix_time(event.at),
            level=event.kind.level,
            kind=event.kind.name,
            fields={name: _shown(value) for name, value in event.fields().items()},
            session="" if event.session is None else event.session.id,
        )

    def troubles(self) -> list[TroubleRow]:
        """Return what is wrong now, the worst first."""
        rows = [*self._of_server(), *self._of_breakers(), *self._of_gateways()]
        return sorted(rows, key=lambda row: (row.severity != "error", row.since or 0.0))

    def _of_server(self) -> Iterator[TroubleRow]:
        server = self._server
        events = server.events
        if not server.is_ready:
            yield TroubleRow(severity="warning", gateway="", text="starting or draining: no new sessions")
        if events.dropped:
            text = f"{events.dropped} events were lost: more happened than could be told"
            yield TroubleRow(severity="warning", gateway="", text=text, link="#/events")
        if events.view_errors:
            text = f"the log could not be written {events.view_errors} times"
            yield TroubleRow(severity="error", gateway="", text=text, link="#/events")
        bugs: dict[str, list[float]] = {}
        for _, event in events.remembered(None):
            if event.kind.level == "error" and server.clock() - event.at < FAILURES_WITHIN_S:
                bugs.setdefault(event.kind.name, []).append(event.at)
        for name, moments in bugs.items():
            times = "once" if len(moments) == 1 else f"{len(moments)} times"
            yield TroubleRow(
                severity="error",
                gateway="",
                text=f"{name} happened {times} in the last {FAILURES_WITHIN_S / 60:.0f} minutes",
                since=events.unix_time(min(moments)),
                link="#/events?level=error",
            )

    def _of_breakers(self) -> Iterator[TroubleRow]:
        for row in self.breakers():
            if row.state != "closed":
                text = f"{row.endpoint} fails: its circuit is {row.state}, {row.refused} calls were refused"
                yield TroubleRow(severity="error", gateway="", text=text)

    def _of_gateways(self) -> Iterator[TroubleRow]:
        server = self._server
        for name, manager in server.managers.items():
            for one in manager.gateway.troubles():
                yield TroubleRow(
                    severity=one.severity,
                    gateway=name,
                    text=one.text,
                    since=server.events.unix_time(one.since) if one.since else None,
                    link=one.link or f"#/gateways/{name}",
                )
            for limit in _limits_of(manager):
                if limit.used is not None and limit.used >= limit.limit * FULL_SHARE:
                    text = f"{limit.used:,.0f} of {limit.limit:,.0f} {limit.name}"
                    yield TroubleRow(severity="warning", gateway=name, text=text, link=f"#/gateways/{name}")
        for name in server.managers:
            failed = round(sum(sample.sessions_failed for sample in server.rates.samples(name)))
            if failed:
                sessions = "session" if failed == 1 else "sessions"
                yield TroubleRow(
                    severity="warning",
                    gateway=name,
                    text=f"{failed:,} {sessions} failed in the last minute",
                    link=f"#/sessions?gateway={name}&state=failed",
                )


_LEVELS: Final = ("debug", "info", "warning", "error")


def _limits_of(manager: ConnectionManager) -> Iterator[LimitRow]:
    limits = manager.gateway.limits
    gateway = manager.gateway.name
    rows: Iterable[tuple[str, float, float | None, int | None]] = (
        ("connections", limits.connections_count, len(manager.connections), manager.connections_refused),
        ("connections of one address", limits.connections_per_peer_count, manager.connections_per_peer_count, None),
        ("accepts per second", limits.accepts_per_s, None, None),
        (
            "sessions of one connection",
            manager.gateway.max_sessions_per_connection_count,
            None,
            manager.sessions_refused,
        ),
    )  # fmt: skip
    for name, limit, used, refused in rows:
        if limit:  # 0 is no limit
            yield LimitRow(gateway=gateway, name=name, limit=limit, used=used, refused=refused)


def _shown(value: Any) -> Any:
    """Return a value of an event as JSON has it; a text is cut where nobody would read on."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST_VALUE_CHARACTERS else f"{text[:_LONGEST_VALUE_CHARACTERS]}..."


def reported(server: Server, what: str, arguments: bytes) -> object:
    """Return one report to another process of the same version.

    Args:
        what: one of ``REPORTS``.
        arguments: its arguments as a list in JSON.
    Raises: ValueError for what is no report, or arguments that do not fit.
    """
    if what not in REPORTS:
        raise ValueError(f"found {what!r}, wanted one of {', '.join(sorted(REPORTS))}")
    given = msgspec.json.decode(arguments, type=list[Any])
    if what == "look":
        given[0] = msgspec.convert(given[0], dict[str, Mark])
    return getattr(Report(server), what)(*given)
