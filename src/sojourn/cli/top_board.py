"""What ``sojourn top`` knows of a server at one moment: its figures, some of its sessions, whether it answers.

Knows no terminal and no connection: it is told things, and bounded whatever it is told.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, NamedTuple

import msgspec

from sojourn.admin.values import GatewayRow, Overview, OverviewTick, SecondRow, Series
from sojourn.admin.view import Page, SessionRow, State

SERIES_COUNT: Final = 60
"""Values of a series: the last minute, as the server has it."""
SESSIONS_COUNT: Final = 500
"""Sessions that are kept, as nobody reads more of them; searching asks the server, which looks through all."""


class Sort(StrEnum):
    """Orders of the list of sessions."""

    NEWEST = "newest first"
    OLDEST = "oldest first"
    GATEWAY = "by gateway"
    PEER = "by peer"
    ABOUT = "by about"


class Filter(msgspec.Struct, frozen=True):
    """Which sessions are wanted; an empty text matches all."""

    gateway: str = ""
    state: State | Literal[""] = "open"
    search: str = ""

    def fits(self, row: SessionRow) -> bool:
        """Say whether a session is wanted, by the rule of the server's own search."""
        return (
            self.gateway in {"", row.gateway}
            and self.state in {"", row.state}
            and any(self.search.casefold() in text.casefold() for text in (row.id, row.peer, row.about))
        )

    def query(self) -> dict[str, str]:
        """Return it as a query of the list of sessions."""
        return {**msgspec.structs.asdict(self), "limit": str(SESSIONS_COUNT)}


class Lost(NamedTuple):
    """Nobody answers: why, and when the next attempt is, on the monotonic clock."""

    why: str
    retry_at: float


class Board:
    """The server as it was told last. Life: as long as the screen. Always true: never more than ``SESSIONS_COUNT``."""

    def __init__(self, overview: Overview) -> None:
        self.overview = overview
        self.filter = Filter()
        self.sort = Sort.NEWEST
        self.lost: Lost | None = None
        self.has_more = False
        self._sessions: dict[str, SessionRow] = {}

    @property
    def gateways(self) -> list[str]:
        """Return the gateways' names."""
        return [one.name for one in self.overview.gateways]

    def begin(self, overview: Overview) -> None:
        """Take the whole overview; the server answers."""
        self.overview = overview
        self.lost = None

    def tick(self, tick: OverviewTick) -> bool:
        """Take the figures of one second; say whether all its gateways are known."""
        seconds = {one.name: one for one in tick.gateways}
        gateways = tuple(
            _later(one, seconds[one.name]) if one.name in seconds else one for one in self.overview.gateways
        )
        self.overview = msgspec.structs.replace(
            self.overview,
            now=tick.now,
            uptime_s=tick.uptime_s,
            is_draining=tick.is_draining,
            gateways=gateways,
            problems=tick.problems,
        )
        return seconds.keys() == {one.name for one in gateways}

    def choose(self, wanted: Filter) -> None:
        """Want other sessions; what is known of them already is shown until the server has answered."""
        self.filter = wanted
        self._sessions = {row.id: row for row in self._sessions.values() if wanted.fits(row)}

    def session(self, row: SessionRow) -> None:
        """Take a session that began or ended."""
        if not self.filter.fits(row):
            self._sessions.pop(row.id, None)
            return
        self._sessions[row.id] = row
        if len(self._sessions) > SESSIONS_COUNT:
            oldest = min(self._sessions.values(), key=lambda one: one.started)
            del self._sessions[oldest.id]
            self.has_more = True

    def page(self, page: Page) -> None:
        """Take all sessions that are wanted, or as many as one page has."""
        self._sessions = {row.id: row for row in page.sessions[:SESSIONS_COUNT]}
        self.has_more = bool(page.next_cursor)

    def rows(self) -> list[SessionRow]:
        """Return the sessions in order."""
        newest = sorted(self._sessions.values(), key=lambda row: (-row.started, row.id))
        match self.sort:
            case Sort.NEWEST:
                return newest
            case Sort.OLDEST:
                return newest[::-1]
            case Sort.GATEWAY:
                return sorted(newest, key=lambda row: row.gateway)
            case Sort.PEER:
                return sorted(newest, key=lambda row: row.peer)
            case Sort.ABOUT:
                return sorted(newest, key=lambda row: row.about)


def _later(gateway: GatewayRow, second: SecondRow) -> GatewayRow:
    """Return a gateway one second later."""
    series, packets = gateway.series, second.packets_in_per_s + second.packets_out_per_s
    later = Series(
        sessions_open=_longer(series.sessions_open, second.sessions_open),
        opened_per_s=_longer(series.opened_per_s, second.opened_per_s),
        packets_per_s=_longer(series.packets_per_s, packets),
        failed_per_s=_longer(series.failed_per_s, second.failed_per_s),
    )
    return msgspec.structs.replace(gateway, series=later, **msgspec.structs.asdict(second))


def _longer(values: tuple[float, ...], value: float) -> tuple[float, ...]:
    return (*values, value)[-SERIES_COUNT:]
