"""The events, idempotency keys and warm pool of a :class:`~sojourn.gateways.exchange.memory_store.MemoryStore`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.memory_store.tables import KeyRow, MemoryTables
from sojourn.gateways.exchange.rows import (
    Appended,
    Fenced,
    Fresh,
    InFlight,
    Json,
    KeyConflict,
    LogBounds,
    LogGap,
    PoolRow,
    PoolState,
    StoredResponse,
)
from sojourn.gateways.exchange.storage import PAGE_MAX_COUNT, check_offsets


class MemoryEvents:
    """The events; see :class:`~sojourn.gateways.exchange.storage.EventTable`."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    async def append(
        self, session_id: str, owner_epoch: int, log_epoch: int, events: Sequence[LogEvent]
    ) -> Appended | Fenced | LogGap:
        """Store events behind the last one, if the session lives and its owner still has this epoch."""
        check_offsets(events)
        self._tables.answer()
        if (fenced := self._fenced(session_id, owner_epoch)) is not None:
            return fenced
        stored = self._tables.events.setdefault(session_id, {})
        newest, last = max(stored, default=(log_epoch, 0))
        if newest != log_epoch or events[0].offset > last + 1:
            return LogGap(*max(stored, default=(0, 0)))
        for event in events:
            if event.offset > last:
                stored[log_epoch, event.offset] = event
        return Appended(max(last, events[-1].offset))

    async def replace(
        self, session_id: str, owner_epoch: int, log_epoch: int, events: Sequence[LogEvent]
    ) -> Appended | Fenced:
        """Store events in the place of all that there are."""
        check_offsets(events)
        self._tables.answer()
        if (fenced := self._fenced(session_id, owner_epoch)) is not None:
            return fenced
        self._tables.events[session_id] = {(log_epoch, event.offset): event for event in events}
        return Appended(events[-1].offset)

    async def forget(self, session_id: str, owner_epoch: int) -> bool:
        """Delete a session's events; False if its owner has another epoch."""
        self._tables.answer()
        row = self._tables.sessions.get(session_id)
        is_ours = row is not None and row.owner_epoch == owner_epoch
        if is_ours:
            self._tables.events.pop(session_id, None)
        return is_ours

    def _fenced(self, session_id: str, owner_epoch: int) -> Fenced | None:
        row = self._tables.sessions.get(session_id)
        if row is None:
            return Fenced(0, is_ended=True)
        if not row.is_live or row.owner_epoch != owner_epoch:
            return Fenced(row.owner_epoch, is_ended=not row.is_live)
        return None

    async def read(
        self, session_id: str, log_epoch: int, after: int, limit_count: int = 1000
    ) -> tuple[LogEvent, ...]:
        """Return what is kept behind an offset, the oldest first."""
        self._tables.answer()
        stored = sorted(self._tables.events.get(session_id, {}).items())
        found = [event for (epoch, offset), event in stored if epoch == log_epoch and offset > after]
        return tuple(found[: min(limit_count, PAGE_MAX_COUNT)])

    async def last(self, session_id: str) -> tuple[int, LogEvent] | None:
        """Return the newest log epoch and its last event; None if nothing was ever stored."""
        self._tables.answer()
        stored = self._tables.events.get(session_id)
        if not stored:
            return None
        key = max(stored)
        return key[0], stored[key]

    async def bounds(self, session_id: str) -> LogBounds | None:
        """Return what is kept of the newest log epoch; None if nothing was ever stored."""
        self._tables.answer()
        stored = self._tables.events.get(session_id)
        if not stored:
            return None
        newest, last = max(stored)
        return LogBounds(newest, min(offset for epoch, offset in stored if epoch == newest), last)

    async def trim(
        self, session_ids: Collection[str], *, keep_count: int, keep_bytes: int, after_ms: int
    ) -> int:
        """Delete the oldest events of sessions and return how many; the last stays."""
        self._tables.answer()
        return sum(
            _trim(self._tables.events.get(session_id, {}), keep_count, keep_bytes, after_ms)
            for session_id in {*session_ids}
        )


def _trim(stored: dict[tuple[int, int], LogEvent], keep_count: int, keep_bytes: int, after_ms: int) -> int:
    body_bytes = deleted = 0
    for place, key in enumerate(sorted(stored, reverse=True), 1):
        event = stored[key]
        body_bytes += len(event.body)
        is_over = deleted or place > keep_count or body_bytes > keep_bytes or event.at_ms < after_ms
        if place > 1 and is_over:
            del stored[key]
            deleted += 1
    return deleted


class MemoryRequests:
    """The idempotency keys; see :class:`~sojourn.gateways.exchange.storage.RequestTable`."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    async def begin(
        self, subject: str, key: str, digest: bytes, hold_s: float
    ) -> Fresh | StoredResponse | InFlight | KeyConflict:
        """Begin a request, or learn that it was made before."""
        now = self._tables.answer()
        until = now + timedelta(seconds=hold_s)
        known = self._tables.keys.get((subject, key))
        if known is None:
            self._tables.keys[subject, key] = KeyRow(digest, 1, until, now)
            return Fresh(1)
        if known.digest != digest:
            return KeyConflict()
        if known.response is not None:
            return known.response
        if known.held_until > now:
            return InFlight(known.held_until)
        known.attempt += 1
        known.held_until = until
        return Fresh(known.attempt)

    async def finish(self, subject: str, key: str, attempt: int, response: StoredResponse) -> bool:
        """Store the answer; False if the attempt was overtaken by another one."""
        self._tables.answer()
        known = self._tables.keys.get((subject, key))
        if known is None or known.attempt != attempt or known.response not in (None, response):
            return False
        known.response = response
        return True

    async def abandon(self, subject: str, key: str, attempt: int) -> bool:
        """Forget an attempt that failed in a way that may be tried again; False if it was overtaken or finished."""
        self._tables.answer()
        known = self._tables.keys.get((subject, key))
        if known is None or known.attempt != attempt or known.response is not None:
            return False
        del self._tables.keys[subject, key]
        return True

    async def forget(self, created_before: datetime, limit_count: int = 5000) -> int:
        """Delete old keys, finished or not, and return how many."""
        self._tables.answer()
        old = [key for key, row in self._tables.keys.items() if row.created_at < created_before][:limit_count]
        for key in old:
            del self._tables.keys[key]
        return len(old)


class MemoryPool:
    """The warm pool; see :class:`~sojourn.gateways.exchange.storage.PoolTable`."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    async def add(self, simulator_id: str, driver: str, flavour: str, endpoint: str, handle: Json) -> None:
        """Put a simulator that is ready into the pool; one that is there already stays as it is."""
        now = self._tables.answer()
        row = PoolRow(
            id=simulator_id,
            driver=driver,
            flavour=flavour,
            state=PoolState.READY,
            endpoint=endpoint,
            handle=handle,
            created_at=now,
            session_id="",
            claim_token="",
            held_until=None,
        )
        self._tables.pool.setdefault(simulator_id, row)

    async def claim(
        self, driver: str, flavour: str, *, session_id: str, token: str, hold_s: float
    ) -> PoolRow | None:
        """Hold the oldest free simulator for a session; None if none is free."""
        until = self._tables.answer() + timedelta(seconds=hold_s)
        rows = sorted(self._tables.pool.values(), key=lambda row: row.id)
        for row in rows:
            if (row.claim_token, row.session_id) == (token, session_id):
                return row
        for row in rows:
            if (row.driver, row.flavour, row.state) == (driver, flavour, PoolState.READY):
                held = replace(
                    row, state=PoolState.HELD, session_id=session_id, claim_token=token, held_until=until
                )
                self._tables.pool[row.id] = held
                return held
        return None

    async def confirm(self, simulator_id: str, token: str) -> bool:
        """Note that the session has attached; False if the hold was over and the simulator is somebody else's now."""
        self._tables.answer()
        row = self._tables.pool.get(simulator_id)
        if row is None or not token or row.claim_token != token:
            return False
        self._tables.pool[row.id] = replace(row, state=PoolState.TAKEN, held_until=None)
        return True

    async def give_back(self, simulator_id: str, token: str) -> bool:
        """Make a held simulator free again, one that no session has attached to; False if the hold was over."""
        self._tables.answer()
        row = self._tables.pool.get(simulator_id)
        if row is None or row.claim_token != token or row.state is not PoolState.HELD:
            return False
        self._free(row)
        return True

    async def release_overdue(self) -> int:
        """Make the simulators free whose sessions have not attached in time, and return how many."""
        now = self._tables.answer()
        rows = self._tables.pool.values()
        overdue = [row for row in rows if row.held_until is not None and row.held_until <= now]
        for row in overdue:
            self._free(row)
        return len(overdue)

    async def withdraw(self, simulator_id: str) -> bool:
        """Take a free simulator out, to stop it; False if it is not free."""
        self._tables.answer()
        row = self._tables.pool.get(simulator_id)
        if row is None or row.state is not PoolState.READY:
            return False
        del self._tables.pool[simulator_id]
        return True

    async def remove(self, simulator_id: str) -> bool:
        """Take a simulator out that is no more; False if it is not there."""
        self._tables.answer()
        return self._tables.pool.pop(simulator_id, None) is not None

    async def list(self, driver: str = "") -> tuple[PoolRow, ...]:
        """Return all members, of one driver or of all, the oldest first."""
        self._tables.answer()
        rows = sorted(self._tables.pool.values(), key=lambda row: row.id)
        return tuple(row for row in rows if driver in {"", row.driver})

    def _free(self, row: PoolRow) -> None:
        free = replace(row, state=PoolState.READY, session_id="", claim_token="", held_until=None)
        self._tables.pool[row.id] = free
