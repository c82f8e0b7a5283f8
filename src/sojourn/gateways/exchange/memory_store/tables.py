"""The rows of a :class:`~sojourn.gateways.exchange.memory_store.MemoryStore`, and whether they can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from sojourn.core.clock import WallClock
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.ids import IdMaker
from sojourn.gateways.exchange.lifecycle import FINAL_SIMULATOR_STATES
from sojourn.gateways.exchange.rows import Desired, Page, PoolRow, SessionRow, SimulatorRow, StoredResponse
from sojourn.gateways.exchange.storage import PAGE_MAX_COUNT

RowT = TypeVar("RowT", SessionRow, SimulatorRow)


class KeyRow(msgspec.Struct):
    """One idempotency key."""

    digest: bytes
    attempt: int
    held_until: datetime
    created_at: datetime
    response: StoredResponse | None = None


class MemoryTables:
    """All rows by their keys, the oldest first; events by session, and by log epoch and offset."""

    def __init__(self, clock: WallClock, ids: IdMaker) -> None:
        self.ids = ids
        self.is_away = False
        self.sessions: dict[str, SessionRow] = {}
        self.simulators: dict[str, SimulatorRow] = {}
        self.events: dict[str, dict[tuple[int, int], LogEvent]] = {}
        self.keys: dict[tuple[str, str], KeyRow] = {}
        self.pool: dict[str, PoolRow] = {}
        self._clock = clock

    def answer(self) -> datetime:
        """Return the present date and time, as every operation begins.

        Raises: BackendUnavailable while the database is away.
        """
        if self.is_away:
            raise BackendUnavailable("memory", 0.0, "it is away")
        return self._clock()

    def wanted_simulators(self, session_id: str) -> list[SimulatorRow]:
        """Return a session's simulators that are to run."""
        return [
            row
            for row in self.simulators.values()
            if row.session_id == session_id
            and row.desired is Desired.RUNNING
            and row.state not in FINAL_SIMULATOR_STATES
        ]

    def want_stopped(self, row: SimulatorRow, now: datetime) -> SimulatorRow:
        """Want a simulator stopped."""
        changed = replace(row, desired=Desired.STOPPED, generation=row.generation + 1, changed_at=now)
        self.simulators[row.id] = changed
        return changed

    def forget_session(self, session_id: str) -> None:
        """Delete a session and what belongs to it."""
        del self.sessions[session_id]
        self.events.pop(session_id, None)
        self.simulators = {key: row for key, row in self.simulators.items() if row.session_id != session_id}


def page_of(page: Page, rows: Iterator[RowT]) -> tuple[RowT, ...]:
    """Return one page of rows, the newest first."""
    found = sorted((row for row in rows if not page.before or row.id < page.before), key=lambda row: row.id)
    return tuple(found[::-1][: min(page.limit_count, PAGE_MAX_COUNT)])
