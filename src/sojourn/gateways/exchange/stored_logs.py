"""StoredLogs: sessions' event logs in the database, for a gateway that has no Valkey; they outlive the process.

Who may write is decided twice: by the lease, as everywhere, and by the owner's epoch in the session's row, which is
locked by every write. Nothing expires; a log goes with its session.

Two things that a table of events cannot say are said by its rows. A log that begins without an event has a row of type
:data:`MARK` in the place before its first. And each row says how far the simulator had come: its own event's number, or
for an event that is none of the simulator's the one before, with :data:`AS_OF` in front of the simulator's name.

Knows nothing of SQL.

Source: exchange-session-service.md sections 5.4 and 5.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import rows
from sojourn.gateways.exchange.bus import (
    Ahead,
    Appended,
    Fenced,
    Gap,
    Gone,
    LogEnd,
    OtherEpoch,
    Owner,
    Page,
    Read,
    Trimmed,
    Written,
    check_contiguous,
)
from sojourn.gateways.exchange.event_log import LogEvent

if TYPE_CHECKING:
    from sojourn.gateways.exchange.bus import Leases
    from sojourn.gateways.exchange.storage import EventTable

MARK: Final = ""
"""The type of a row that is no event; no event has it."""
AS_OF: Final = "~"
"""No simulator's name begins with it."""
SLACK: Final = 10
"""A log is trimmed when it has grown by this part of its bounds, in number or in the bytes of one batch."""


class StoredLogs:
    """The event logs of one process; see :class:`~sojourn.gateways.exchange.bus.EventLogs` for what each call means.

    Life: made with the gateway; holds nothing but references.

    Args:
        leases: say who owns a session.
        events: the table.
        keep_count: events kept of each session, and up to a tenth more.
        keep_bytes: of their bodies.
    """

    def __init__(self, leases: Leases, events: EventTable, *, keep_count: int, keep_bytes: int) -> None:
        self._leases = leases
        self._events = events
        self._keep_count = keep_count
        self._keep_bytes = keep_bytes

    async def append(self, session: str, owner: Owner, epoch: int, events: Sequence[LogEvent]) -> Written:
        """Write contiguous events behind the last one, if the lease is ours."""
        if not events:
            raise ValueError("found no events, wanted some to append")
        check_contiguous(events)
        holder = await self._leases.owner_of(session)
        if holder != owner:
            return Fenced(holder)
        batch = await self._batch(session, events)
        written = await self._events.append(session, owner.epoch, epoch, batch)
        match written:
            case rows.Appended(last):
                await self._trim(session, events)
                return Appended(last)
            case rows.LogGap(log_epoch, last):
                return Gap(log_epoch, last)
            case rows.Fenced(owner_epoch):
                return Fenced(Owner("", owner_epoch))

    async def reseed(
        self,
        session: str,
        owner: Owner,
        epoch: int,
        events: Sequence[LogEvent],
        *,
        after: int = 0,
        simulator: str = "",
        seq: int = 0,
    ) -> Appended | Fenced:
        """Replace the whole log, if the lease is ours: write a mirror again, or begin another epoch."""
        check_contiguous(events, after)
        holder = await self._leases.owner_of(session)
        if holder != owner:
            return Fenced(holder)
        batch = tuple(_placed(events or (LogEvent(after, MARK, b"", 0),), simulator, seq))
        written = await self._events.replace(session, owner.epoch, epoch, batch)
        if isinstance(written, rows.Fenced):
            return Fenced(Owner("", written.owner_epoch))
        await self._trim(session, events)
        return Appended(written.last)

    async def read_after(self, session: str, epoch: int, offset: int, limit_count: int) -> Read:
        """Return what is behind a cursor, or why that cannot be told."""
        newest = await self._events.last(session)
        if newest is None:
            return Gone()
        log_epoch, last = newest
        if log_epoch != epoch:
            return OtherEpoch(log_epoch, last.offset)
        if offset > last.offset:
            return Ahead(log_epoch, last.offset)
        if offset == last.offset:
            return Page((), offset)
        found = await self._events.read(session, epoch, offset, limit_count)
        if not found or found[0].offset != offset + 1 or found[0].type == MARK:
            return Trimmed(log_epoch, await self._first(session, log_epoch, last), last.offset)
        return Page(tuple(map(_event, found)), max(last.offset, found[-1].offset))

    async def log_end(self, session: str) -> LogEnd | None:
        """Return where a session's log ends; None if there is none."""
        newest = await self._events.last(session)
        if newest is None:
            return None
        epoch, last = newest
        first = await self._first(session, epoch, last)
        return LogEnd(epoch, first, last.offset, last.simulator.removeprefix(AS_OF), last.seq)

    async def forget(self, session: str, owner: Owner) -> bool:
        """Delete a session's log, if the lease is ours; False if not."""
        holder = await self._leases.owner_of(session)
        return holder == owner and await self._events.forget(session, owner.epoch)

    async def _batch(self, session: str, events: Sequence[LogEvent]) -> Sequence[LogEvent]:
        """Return events as rows. Raises: BackendUnavailable."""
        if all(event.simulator for event in events):
            return events
        newest = None if events[0].simulator else await self._events.last(session)
        if newest is None:
            return tuple(_placed(events, "", 0))
        return tuple(_placed(events, newest[1].simulator.removeprefix(AS_OF), newest[1].seq))

    async def _first(self, session: str, epoch: int, last: LogEvent) -> int:
        """Return the oldest offset that is kept; one behind the last if none is. Raises: BackendUnavailable."""
        oldest = last
        bounds = await self._events.bounds(session)
        if bounds is not None and bounds.log_epoch == epoch and bounds.first < last.offset:
            found = await self._events.read(session, epoch, bounds.first - 1, 1)
            oldest = found[0] if found else last
        return oldest.offset + (oldest.type == MARK)

    async def _trim(self, session: str, events: Sequence[LogEvent]) -> None:
        """Delete what is too much, now and then; a failure costs only that it is done later."""
        step = max(self._keep_count // SLACK, 1)
        has_grown = events and (events[0].offset - 1) // step != events[-1].offset // step
        if has_grown or sum(len(event.body) for event in events) * SLACK > self._keep_bytes:
            with suppress(BackendUnavailable):
                await self._events.trim(
                    (session,), keep_count=self._keep_count, keep_bytes=self._keep_bytes, after_ms=0
                )


def _placed(events: Sequence[LogEvent], simulator: str, seq: int) -> Iterator[LogEvent]:
    """Yield events as rows.

    Args:
        events: that follow each other.
        simulator: whose event was the last one before them.
        seq: its number.
    """
    for event in events:
        if event.simulator:
            simulator, seq = event.simulator, event.seq
            yield event
        else:
            yield replace(event, simulator=AS_OF + simulator, seq=seq) if simulator or seq else event


def _event(row: LogEvent) -> LogEvent:
    """Return a row's event as it was given."""
    return replace(row, simulator="", seq=0) if row.simulator.startswith(AS_OF) else row
