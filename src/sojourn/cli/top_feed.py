"""What keeps ``sojourn top`` up to date: a server's live streams, read again whenever the line was down.

Knows no terminal. Life: a feed runs until it is cancelled, one of a trace until the session has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final

from sojourn.admin.values import (
    DroppedTick,
    EndedTick,
    OverviewTick,
    SessionTick,
    TraceTick,
)
from sojourn.admin.view import SessionRow, TraceEntry
from sojourn.cli.control import ControlClient, decode
from sojourn.cli.top_board import Board, Lost
from sojourn.errors import BackendUnavailable, SojournError

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 15.0
STEADY_S: Final = 30.0
"""How long a line must have held for the waits to begin anew."""
SILENCE_S: Final = 10.0
"""How long the overview may fail to come, which a server sends each second."""
TRACE_SILENCE_S: Final = 60.0
"""The same of a trace; a server breaks its silence each ``[admin.streams] comment_s``, 15 by default."""
REFRESH_S: Final = 5.0
"""How often the list of sessions is read anew: nobody tells of a session that only changed."""
LEAST_PAUSE_S: Final = 0.25
"""Between two readings of the list, however fast somebody types or sessions come."""
ENTRIES_COUNT: Final = 2_000
"""Entries of a trace that are kept; the oldest are forgotten first."""
_CLOSED: Final = "the line was closed"


async def keep(listen: Callable[[], Awaitable[str]], lose: Callable[[Lost], None]) -> None:
    """Listen again and again, with waits that grow while it fails; returns when ``listen`` returns nothing.

    Args: listen, which returns why it ended.
    """
    clock = time.monotonic
    failures_count = 0
    while True:
        began = clock()
        try:
            why = await listen()
        except SojournError as error:
            why = error.cause if isinstance(error, BackendUnavailable) else str(error)
        if not why:
            return
        failures_count = 1 if clock() - began > STEADY_S else failures_count + 1
        wait_s = min(FIRST_WAIT_S * 2 ** (failures_count - 1), LONGEST_WAIT_S)
        lose(Lost(why, clock() + wait_s))
        await asyncio.sleep(wait_s)


class Feed:
    """Tells a board what happens on a server."""

    def __init__(self, server: ControlClient, board: Board) -> None:
        self._server = server
        self._board = board
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Keep the board up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._refresh())
            await keep(self._listen, self._lose)

    def want(self) -> None:
        """Read the list of sessions soon: other ones are wanted."""
        self._wanted.set()

    def _lose(self, lost: Lost) -> None:
        self._board.lost = lost

    async def _listen(self) -> str:
        """Hear what happens until the line ends; return why."""
        async with aclosing(self._server.stream("/stream", SILENCE_S)) as events:
            await anext(events)
            # Only now: whatever happens behind this overview is told.
            self._board.begin(await self._server.overview())
            self.want()
            async for name, data in events:
                match name:
                    case "overview":
                        if not self._board.tick(decode(data, OverviewTick)):
                            self._board.begin(await self._server.overview())
                    case "session":
                        self._board.session(decode(data, SessionTick).session)
                    case "more":
                        self.want()
                    case "dropped":
                        return decode(data, DroppedTick).reason
        return _CLOSED

    async def _refresh(self) -> None:
        """Read the list of sessions whenever others are wanted, and now and then."""
        board = self._board
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._wanted.wait()
            self._wanted.clear()
            wanted = board.filter
            with suppress(SojournError):  # whoever hears the stream tells that nobody answers
                page = await self._server.list_sessions(wanted.query())
                if wanted == board.filter:
                    board.page(page)
            await asyncio.sleep(LEAST_PAUSE_S)


class TraceFeed:
    """Collects what happens in one session. Always true: never more than ``ENTRIES_COUNT`` entries."""

    def __init__(self, server: ControlClient, session: SessionRow) -> None:
        self._server = server
        self.session = session
        self.entries: deque[TraceEntry] = deque(maxlen=ENTRIES_COUNT)
        self.lost: Lost | None = None
        self.is_forgotten = False

    async def run(self) -> None:
        """Collect until the session has ended, or is forgotten."""
        await keep(self._listen, self._lose)

    def _lose(self, lost: Lost) -> None:
        self.lost = lost

    async def _listen(self) -> str:
        """Hear what happens until the line ends; return why, nothing once all has been told."""
        row = await self._server.find_session(self.session.id)
        if row is None:
            self.lost, self.is_forgotten = None, True
            return ""
        path = f"/sessions/{row.id}/trace/stream"
        async with aclosing(self._server.stream(path, TRACE_SILENCE_S)) as events:
            await anext(events)
            self.session, self.lost = row, None
            self.entries.clear()  # the stream begins with all that there is
            async for name, data in events:
                match name:
                    case "entries":
                        self._add(decode(data, TraceTick))
                    case "ended":
                        self.session = decode(data, EndedTick).session
                        return ""
                    case "dropped":
                        return decode(data, DroppedTick).reason
        return _CLOSED

    def _add(self, tick: TraceTick) -> None:
        if tick.has_gap and tick.entries:
            at = tick.entries[0].at
            self.entries.append(TraceEntry(at=at, kind="state", name="entries were overwritten unseen"))
        self.entries.extend(tick.entries)
