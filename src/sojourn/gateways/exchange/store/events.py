"""The table of session events: the durable log where no Valkey has it.

An insert locks the session's row and looks whether the writer still owns it. A take-over changes that row, so it waits
for the insert or the insert for it: no event of an old owner can appear after the new one has read the last.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import asyncpg

from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.rows import Appended, Fenced, LogBounds, LogGap
from sojourn.gateways.exchange.storage import PAGE_MAX_COUNT, check_offsets
from sojourn.gateways.exchange.store.database import Database

_INTO = """{s}.session_events
        (session_id, log_epoch, event_offset, type, body, at_ms, simulator_id, simulator_seq)"""
_NEW = """unnest($4::bigint[], $5::text[], $6::bytea[], $7::bigint[], $8::text[], $9::bigint[])
        AS e (event_offset, type, body, at_ms, simulator_id, simulator_seq)"""
# What a batch of the same owner wrote whose answer was lost may be invisible to this one: then it is in conflict.
_APPEND = """
WITH owner AS MATERIALIZED (
    SELECT id FROM {s}.sessions WHERE id = $1 AND owner_epoch = $2 AND state <> 'ended' FOR NO KEY UPDATE
), newest AS MATERIALIZED (
    SELECT log_epoch, event_offset AS last FROM {s}.session_events
    WHERE session_id = $1 ORDER BY log_epoch DESC, event_offset DESC LIMIT 1
), stored AS (
    INSERT INTO {into}
    SELECT owner.id, $3, e.* FROM owner LEFT JOIN newest ON true CROSS JOIN {new}
    WHERE coalesce(newest.log_epoch, $3) = $3 AND ($4::bigint[])[1] <= coalesce(newest.last, 0) + 1
      AND e.event_offset > coalesce(newest.last, 0)
    ON CONFLICT DO NOTHING
)
SELECT coalesce(log_epoch, 0) AS log_epoch, coalesce(last, 0) AS last FROM owner LEFT JOIN newest ON true
"""
_LOCK = (
    "SELECT id FROM {s}.sessions WHERE id = $1 AND owner_epoch = $2 AND state <> 'ended' FOR NO KEY UPDATE"
)
_DELETE = "DELETE FROM {s}.session_events WHERE session_id = $1"
_INSERT = """
INSERT INTO {into}
SELECT owner.id, $3, e.* FROM {s}.sessions owner CROSS JOIN {new} WHERE owner.id = $1 AND owner.owner_epoch = $2
"""
_FORGET = """
WITH owner AS MATERIALIZED (
    SELECT id FROM {s}.sessions WHERE id = $1 AND owner_epoch = $2 FOR NO KEY UPDATE
), gone AS (
    DELETE FROM {s}.session_events e USING owner WHERE e.session_id = owner.id
)
SELECT id FROM owner
"""
_OWNER = "SELECT owner_epoch, state = 'ended' AS is_ended FROM {s}.sessions WHERE id = $1"
_COLUMNS = "event_offset, type, body, at_ms, simulator_id, simulator_seq"
_READ = """
SELECT {c} FROM {s}.session_events
WHERE session_id = $1 AND log_epoch = $2 AND event_offset > $3 ORDER BY event_offset LIMIT $4
"""
_LAST = """
SELECT {c}, log_epoch FROM {s}.session_events
WHERE session_id = $1 ORDER BY log_epoch DESC, event_offset DESC LIMIT 1
"""
_BOUNDS = """
SELECT log_epoch, min(event_offset) AS first, max(event_offset) AS last FROM {s}.session_events
WHERE session_id = $1 GROUP BY log_epoch ORDER BY log_epoch DESC LIMIT 1
"""
_TRIM = """
DELETE FROM {s}.session_events old USING (
    SELECT session_id, log_epoch, event_offset, row_number() OVER newer AS place,
        sum(octet_length(body)) OVER newer AS bytes, min(at_ms) OVER newer AS at_ms
    FROM {s}.session_events WHERE session_id = ANY ($1::text[])
    WINDOW newer AS (PARTITION BY session_id ORDER BY log_epoch DESC, event_offset DESC)
) e
WHERE e.place > 1 AND (e.place > $2 OR e.bytes > $3 OR e.at_ms < $4)
  AND old.session_id = e.session_id AND old.log_epoch = e.log_epoch AND old.event_offset = e.event_offset
RETURNING 1
"""


class Events:
    """The table of events; see :class:`~sojourn.gateways.exchange.storage.EventTable`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        into = database.sql(_INTO)
        self._append, self._insert = (database.sql(text, into=into, new=_NEW) for text in (_APPEND, _INSERT))
        self._owner, self._lock, self._delete = map(database.sql, (_OWNER, _LOCK, _DELETE))
        self._forget = database.sql(_FORGET)
        self._read, self._last = (database.sql(text, c=_COLUMNS) for text in (_READ, _LAST))
        self._bounds, self._trim = map(database.sql, (_BOUNDS, _TRIM))

    async def append(
        self, session_id: str, owner_epoch: int, log_epoch: int, events: Sequence[LogEvent]
    ) -> Appended | Fenced | LogGap:
        """Store events behind the last one, if the session lives and its owner still has this epoch."""
        check_offsets(events)
        columns = _columns(events)
        before = await self._database.fetch_one(self._append, session_id, owner_epoch, log_epoch, *columns)
        if before is None:
            return await self._fenced(session_id)
        end = LogGap(before["log_epoch"], before["last"])
        if end.log_epoch not in (0, log_epoch) or events[0].offset > end.last + 1:
            return end
        return Appended(max(end.last, events[-1].offset))

    async def replace(
        self, session_id: str, owner_epoch: int, log_epoch: int, events: Sequence[LogEvent]
    ) -> Appended | Fenced:
        """Store events in the place of all that there are."""
        check_offsets(events)
        async with self._database.transaction() as connection:
            if await connection.fetchrow(self._lock, session_id, owner_epoch) is not None:
                await connection.execute(self._delete, session_id)
                values = (session_id, owner_epoch, log_epoch, *_columns(events))
                await connection.execute(self._insert, *values)
                return Appended(events[-1].offset)
        return await self._fenced(session_id)

    async def forget(self, session_id: str, owner_epoch: int) -> bool:
        """Delete a session's events; False if its owner has another epoch."""
        return bool(await self._database.fetch(self._forget, session_id, owner_epoch))

    async def _fenced(self, session_id: str) -> Fenced:
        row = await self._database.fetch_one(self._owner, session_id)
        return Fenced(0, is_ended=True) if row is None else Fenced(row["owner_epoch"], row["is_ended"])

    async def read(
        self, session_id: str, log_epoch: int, after: int, limit_count: int = 1000
    ) -> tuple[LogEvent, ...]:
        """Return what is kept behind an offset, the oldest first."""
        limit_count = min(limit_count, PAGE_MAX_COUNT)
        records = await self._database.fetch(self._read, session_id, log_epoch, after, limit_count)
        return tuple(_event(record) for record in records)

    async def last(self, session_id: str) -> tuple[int, LogEvent] | None:
        """Return the newest log epoch and its last event; None if nothing was ever stored."""
        record = await self._database.fetch_one(self._last, session_id)
        return None if record is None else (record["log_epoch"], _event(record))

    async def bounds(self, session_id: str) -> LogBounds | None:
        """Return what is kept of the newest log epoch; None if nothing was ever stored."""
        record = await self._database.fetch_one(self._bounds, session_id)
        return None if record is None else LogBounds(*record)

    async def trim(
        self, session_ids: Collection[str], *, keep_count: int, keep_bytes: int, after_ms: int
    ) -> int:
        """Delete the oldest events of sessions and return how many."""
        limits = (keep_count, keep_bytes, after_ms)
        return len(await self._database.fetch(self._trim, [*session_ids], *limits))


def _columns(events: Sequence[LogEvent]) -> tuple[list[object], ...]:
    """Return the events column by column, as the statements take them."""
    return (
        [event.offset for event in events],
        [event.type for event in events],
        [event.body for event in events],
        [event.at_ms for event in events],
        [event.simulator for event in events],
        [event.seq for event in events],
    )


def _event(record: asyncpg.Record) -> LogEvent:
    return LogEvent(
        offset=record["event_offset"],
        type=record["type"],
        body=record["body"],
        at_ms=record["at_ms"],
        simulator=record["simulator_id"],
        seq=record["simulator_seq"],
    )
