"""What tests of the panels' history share: events, an open history, and what it told the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sojourn.core.events import Event, Events
from sojourn.gateways.itv2.events import Kind, PanelEvent
from sojourn.gateways.itv2.history import Entry, History, HistoryQuery, HistorySettings
from sojourn.gateways.itv2.history.search import HistoryReader
from sojourn.testing.clock import ManualClock

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""

QUICK = {"retry_max_s": 0.5}


def event(
    panel: str = "house", at_ms: int = START_MS, kind: str = Kind.ZONE_OPENED, **fields: Any
) -> PanelEvent:
    return PanelEvent(panel=panel, at_ms=at_ms, source=fields.pop("source", "live"), kind=kind, **fields)


def stored(path: Path, **query: Any) -> tuple[Entry, ...]:
    """Read everything, the oldest in front, as another process would."""
    with HistoryReader(path) as reader:
        query.setdefault("limit_count", 1_000)
        query.setdefault("is_oldest_first", True)
        return reader.search(HistoryQuery(**query)).entries


async def until(is_so: Callable[[], bool]) -> None:
    """Look again and again, for what a thread does has nothing to wait for."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


class HistoryRoom:
    """An open history and its surroundings."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.clock = ManualClock()
        self.events = Events(self.clock)
        self.told: list[Event] = []
        self.events.add_view(self.told.extend)
        self.history = History(
            HistorySettings(file=str(path), **settings),
            self.events,
            clock=self.clock,
            wall_clock=self.clock.wall_clock(),
        )

    def names(self) -> list[str]:
        """What was told so far."""
        self.events.flush()
        return [one.kind.name for one in self.told]

    async def until_told(self, name: str) -> Event:
        """Wait until the operator is told something."""
        await until(lambda: name in self.names())
        return next(one for one in self.told if one.kind.name == name)


@asynccontextmanager
async def room(path: Path, **settings: Any) -> AsyncIterator[HistoryRoom]:
    """Open a history and close it."""
    opened = HistoryRoom(path, **settings)
    await opened.history.open()
    try:
        yield opened
    finally:
        await opened.history.close()
