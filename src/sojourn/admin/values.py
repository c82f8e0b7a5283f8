"""What the HTTP API answers besides sessions and traces: the overview, what is listened to, what happened, who asked.

The one description of these shapes; the OpenAPI document is made of them. Knows no server and no HTTP.
Units: moments are seconds since 1970 (UTC); what ends with ``_per_s`` is the rate of the last second.
"""

from __future__ import annotations

import msgspec

from sojourn.admin.view import SessionRow, TraceEntry
from sojourn.core.panel import Scope
from sojourn.core.report import BreakerRow, EventRow, LimitRow, ListenerRow, PeerRow, TroubleRow


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The last minute, one value per second, oldest first; shorter while the server is younger than that."""

    sessions_open: tuple[float, ...] = ()
    opened_per_s: tuple[float, ...] = ()
    packets_per_s: tuple[float, ...] = ()
    failed_per_s: tuple[float, ...] = ()


class GatewayRow(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway in figures; packets and bytes of both directions, counted since the start."""

    name: str
    title: str
    sessions_open: int
    sessions_opened: int
    sessions_failed: int
    connections: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    opened_per_s: float
    failed_per_s: float
    packets_in_per_s: float
    packets_out_per_s: float
    bytes_in_per_s: float
    bytes_out_per_s: float
    series: Series


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The server at one moment, problems first the worst, then the oldest."""

    now: float
    version: str
    uptime_s: float
    is_draining: bool
    workers: int
    gateways: tuple[GatewayRow, ...]
    problems: tuple[TroubleRow, ...]


class SecondRow(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway as the stream tells it each second: its figures, without the series that the page has already."""

    name: str
    sessions_open: int
    sessions_opened: int
    sessions_failed: int
    connections: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    opened_per_s: float
    failed_per_s: float
    packets_in_per_s: float
    packets_out_per_s: float
    bytes_in_per_s: float
    bytes_out_per_s: float


class OverviewTick(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``overview`` of ``/stream``, once a second.

    The page appends ``sessions_open``, ``opened_per_s``, ``packets_in_per_s + packets_out_per_s`` and ``failed_per_s``
    to its series. ``problems`` is the whole list.
    """

    now: float
    uptime_s: float
    is_draining: bool
    gateways: tuple[SecondRow, ...]
    problems: tuple[TroubleRow, ...]


class SessionTick(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``session`` of ``/stream``: a session began (its state is ``open``) or ended."""

    session: SessionRow


class MoreTick(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``more`` of ``/stream``: so many sessions came or went, and things happened, that were not told."""

    opened: int = 0
    ended: int = 0
    events: int = 0


class DroppedTick(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``dropped``, the last one of a stream whose reader was too slow; it may connect again."""

    reason: str


class EndedTick(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``ended``, the last one of ``/sessions/{id}/trace/stream``: how the session ended."""

    session: SessionRow


class TraceTick(msgspec.Struct, frozen=True, kw_only=True):
    """Event ``entries`` of ``/sessions/{id}/trace/stream``: what was added, oldest first.

    ``has_gap``: entries between these and those before were overwritten unseen.
    """

    entries: tuple[TraceEntry, ...]
    has_gap: bool = False


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events that fit, newest first."""

    events: tuple[EventRow, ...]


class Listeners(msgspec.Struct, frozen=True, kw_only=True):
    """Every address that is listened on."""

    listeners: tuple[ListenerRow, ...]


class PeerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Peers with most connections first; ``more`` is how many did not fit."""

    peers: tuple[PeerRow, ...]
    more: int = 0


class Breakers(msgspec.Struct, frozen=True, kw_only=True):
    """Every circuit breaker, those that are not closed first."""

    breakers: tuple[BreakerRow, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit of the core, for all gateways."""

    limits: tuple[LimitRow, ...]


class Gateways(msgspec.Struct, frozen=True, kw_only=True):
    """Every gateway in figures."""

    gateways: tuple[GatewayRow, ...]


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force as TOML, every secret as ``"***"``."""

    toml: str


class PanelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's own page: its ES module, and where its operations are."""

    gateway: str
    title: str
    module: str
    operations: str


class Panels(msgspec.Struct, frozen=True, kw_only=True):
    """Every gateway that has a page of its own."""

    panels: tuple[PanelRow, ...]


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One order, or attempt at one: who gave it and what came of it."""

    at: float
    what: str
    who: str
    outcome: str


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Orders, the newest first."""

    entries: tuple[AuditRow, ...]


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /login``: what stands behind the ``#`` of a login link."""

    token: str


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what they may.

    ``csrf_token`` belongs into the header X-CSRF-Token of whatever is no GET; empty where no cookie is used.
    ``expires_at``: when the browser's session ends at the latest; none for tokens.
    """

    name: str
    scope: Scope
    csrf_token: str = ""
    expires_at: float | None = None


class LoginLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link that logs a browser in, once; ``url`` is empty where no address is listened on."""

    url: str
    expires_at: float


class LinkOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /login-links``: what the browser may, and for whom it is."""

    scope: Scope = "admin"
    name: str = "browser"


class Drained(msgspec.Struct, frozen=True):
    """The server has begun to stop."""

    draining: bool


class Reloaded(msgspec.Struct, frozen=True):
    """The configuration was read again and is in force."""

    reloaded: bool
