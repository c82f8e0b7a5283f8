"""What the history holds and what is asked of it, as plain values.

Knows nothing of SQL, files, threads or sessions.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from sojourn.errors import RemoteProtocolError
from sojourn.gateways.itv2.events import Detail

PAGE_LIMIT_COUNT: Final = 1_000
"""Entries of one page at most."""

DIGITS: Final = 19
"""A number with fewer digits fits into SQLite's 64 bits."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event.

    Units: ``at_ms`` is unix time. ``source``: ``live``, ``pull`` or ``replay``. The labels are those of the moment when
    it happened, empty where there were none; ``asker`` is who gave an order through us. ``panel_time`` is the panel's
    own clock as it came; ``is_approximate``: ``at_ms`` is when we heard of it, not when it happened.
    """

    id: int
    panel: str
    at_ms: int
    source: str
    kind: str
    partition: int | None
    partition_label: str
    zone: int | None
    zone_label: str
    user: int | None
    user_label: str
    asker: str
    panel_time: str | None
    is_approximate: bool
    detail: Detail


class Cursor(NamedTuple):
    """The last entry of a page: the next page begins behind it."""

    at_ms: int
    id: int

    def __str__(self) -> str:
        return f"{self.at_ms}.{self.id}"

    @classmethod
    def of(cls, text: str) -> Cursor:
        """Read what ``str`` wrote. Raises: RemoteProtocolError."""
        at_ms, _, number = text.partition(".")
        if not all(part.isascii() and part.isdigit() and len(part) < DIGITS for part in (at_ms, number)):
            found, wanted = "a cursor that is none", "the cursor of the page before"
            raise RemoteProtocolError(found, wanted, "the history's pages")
        return cls(int(at_ms), int(number))


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched; whatever is left out is not asked about.

    Units: unix milliseconds, ``since_ms`` included and ``until_ms`` not. Names are compared without regard to case,
    and as they were at the time. ``kinds`` and ``panels``: any of them. ``limit_count`` is of one page.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    panels: tuple[str, ...] = ()
    partition: int | None = None
    partition_label: str = ""
    zone: int | None = None
    zone_label: str = ""
    user: int | None = None
    user_label: str = ""
    asker: str = ""
    kinds: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    is_oldest_first: bool = False
    limit_count: int = 100
    cursor: str = ""


class Page(NamedTuple):
    """Entries in order, and the cursor of the next page; ``""``: this was the last."""

    entries: tuple[Entry, ...]
    cursor: str
