"""The table of sessions: made and joined in one transaction, written in batches, owned by one pod at a time.

Batches lock their rows in the order of the ids before they change them, so that two of them never wait for each other
in a circle.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import asyncpg

from sojourn.core.clock import WallClock
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.ids import IdMaker, is_id
from sojourn.gateways.exchange.lifecycle import (
    DevicePolicy,
    DeviceRefusal,
    EndReason,
    SessionEvent,
    Timeouts,
    admit_device,
    session_sources,
)
from sojourn.gateways.exchange.rows import (
    Activity,
    Opened,
    Owned,
    Page,
    Refusal,
    RefusalReason,
    SessionFilter,
    SessionRow,
    Touch,
)
from sojourn.gateways.exchange.storage import PAGE_MAX_COUNT
from sojourn.gateways.exchange.store.database import BACKEND, Database, columns, json_text, row_of

if TYPE_CHECKING:
    from sojourn.gateways.exchange.store.database import PooledConnection

ROUNDS_COUNT: Final = 10
"""Between two looks of one creation the session may have been made and ended by others; so often is not chance."""

_FIND_LOCKED = "SELECT {c} FROM {s}.sessions s WHERE s.subject = $1 AND s.state <> 'ended' FOR NO KEY UPDATE"
_COUNT_LIVE = "SELECT count(*) FROM {s}.sessions WHERE state <> 'ended'"
_MAKE = """
INSERT INTO {s}.sessions AS s
    (id, subject, state, devices, policy, attributes, created_at, active_at, detached_at, expires_at)
VALUES ($1, $2, 'new', ARRAY[$3::text], $4, $5::jsonb, $6, $6, $6, $7)
ON CONFLICT (subject) WHERE state <> 'ended' DO NOTHING
RETURNING {c}
"""
_JOIN = """
UPDATE {s}.sessions s SET devices = $2, policy = $3, active_at = greatest(s.active_at, $4)
WHERE s.id = $1 RETURNING {c}
"""
_GET = "SELECT {c} FROM {s}.sessions s WHERE s.id = $1"
_FIND = "SELECT {c} FROM {s}.sessions s WHERE s.subject = $1 AND s.state <> 'ended'"
_LIST = """
SELECT {c} FROM {s}.sessions s
WHERE ($1 = '' OR s.subject = $1) AND (cardinality($2::text[]) = 0 OR s.state = ANY ($2))
  AND ($3 = '' OR s.owner_pod = $3) AND ($4 = '' OR $4 = ANY (s.devices)) AND ($5 = '' OR s.id < $5)
ORDER BY s.id DESC LIMIT $6
"""
_ATTACH = """
UPDATE {s}.sessions s SET state = 'active', detached_at = NULL, active_at = greatest(s.active_at, $3)
WHERE s.id = $1 AND s.owner_epoch = $2 AND s.state = ANY ($4::text[]) RETURNING {c}
"""
_DETACH = """
UPDATE {s}.sessions s SET state = 'detached', detached_at = coalesce(s.detached_at, $3), links_count = 0
WHERE s.id = $1 AND s.owner_epoch = $2 AND s.state = ANY ($4::text[]) RETURNING {c}
"""
_DROP_DEVICE = """
UPDATE {s}.sessions s SET devices = array_remove(s.devices, $2)
WHERE s.id = $1 AND s.state <> 'ended' RETURNING {c}
"""
_END = """
UPDATE {s}.sessions s
SET state = 'ended', ended_at = $2, ended_reason = $3, ended_detail = $4, links_count = 0,
    detached_at = coalesce(s.detached_at, $2)
WHERE s.id = $1 AND s.state <> 'ended' RETURNING {c}
"""
_STOP_SIMULATORS = """
UPDATE {s}.simulators SET desired = 'stopped', generation = generation + 1, changed_at = $2
WHERE session_id = $1 AND desired = 'running' AND state NOT IN ('stopped', 'failed')
"""
_GET_LOCKED = "SELECT {c} FROM {s}.sessions s WHERE s.id = $1 AND s.state <> 'ended' FOR NO KEY UPDATE"
_DUE = """
SELECT {c} FROM {s}.sessions s
WHERE s.state <> 'ended' AND (s.active_at <= $1 OR s.detached_at <= $2 OR s.expires_at <= $3)
  AND ($4::text IS NULL OR s.owner_pod = $4)
ORDER BY s.id LIMIT $5
"""
_TAKE_OVER = """
WITH taken AS MATERIALIZED (
    SELECT id FROM {s}.sessions WHERE id = ANY ($1::text[]) AND state <> 'ended' ORDER BY id FOR NO KEY UPDATE
)
UPDATE {s}.sessions s SET owner_pod = $2, owner_epoch = greatest(s.owner_epoch + 1, $3)
FROM taken WHERE s.id = taken.id RETURNING s.id, s.owner_epoch
"""
_RELEASE = """
UPDATE {s}.sessions SET owner_pod = ''
WHERE id = $1 AND owner_pod = $2 AND owner_epoch = $3 AND state <> 'ended' RETURNING id
"""
_OWNED_BY = """
SELECT id, owner_epoch FROM {s}.sessions
WHERE owner_pod = $1 AND owner_pod <> '' AND state <> 'ended' ORDER BY id
"""
_TOUCH = """
WITH touched AS MATERIALIZED (
    SELECT t.* FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::integer[], $6::text[])
        AS t (id, owner_epoch, active_at, state, links_count, quality)
    JOIN {s}.sessions s ON s.id = t.id AND s.owner_epoch = t.owner_epoch AND s.state <> 'ended'
    ORDER BY s.id FOR NO KEY UPDATE OF s
)
UPDATE {s}.sessions s
SET active_at = greatest(s.active_at, t.active_at), links_count = t.links_count, quality = t.quality,
    state = CASE WHEN t.state = '' OR (t.state = 'detached' AND s.state = 'new') THEN s.state ELSE t.state END,
    detached_at = CASE WHEN t.state = 'active' THEN NULL
                       WHEN t.state = 'detached' AND s.state = 'active' THEN $7
                       ELSE s.detached_at END
FROM touched t WHERE s.id = t.id RETURNING s.id
"""
_NOTE = """
WITH noted AS MATERIALIZED (
    SELECT t.* FROM unnest($1::text[], $2::timestamptz[]) AS t (id, active_at)
    JOIN {s}.sessions s ON s.id = t.id AND s.active_at < t.active_at AND s.state <> 'ended'
    ORDER BY s.id FOR NO KEY UPDATE OF s
)
UPDATE {s}.sessions s SET active_at = t.active_at FROM noted t WHERE s.id = t.id
"""
_FORGET = """
WITH old AS MATERIALIZED (
    SELECT id FROM {s}.sessions WHERE state = 'ended' AND ended_at < $1
    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
), events AS (
    DELETE FROM {s}.session_events WHERE session_id IN (SELECT id FROM old)
)
DELETE FROM {s}.sessions WHERE id IN (SELECT id FROM old) RETURNING id
"""


class Sessions:
    """The table of sessions; see :class:`~sojourn.gateways.exchange.storage.SessionTable`."""

    def __init__(self, database: Database, clock: WallClock, ids: IdMaker) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        sql = partial(database.sql, c=columns(SessionRow, "s"))
        self._find_locked, self._count_live, self._make, self._join = map(
            sql, (_FIND_LOCKED, _COUNT_LIVE, _MAKE, _JOIN)
        )
        self._get, self._find, self._list, self._due = map(sql, (_GET, _FIND, _LIST, _DUE))
        self._attach, self._detach, self._drop_device = map(sql, (_ATTACH, _DETACH, _DROP_DEVICE))
        self._end, self._stop_simulators, self._get_locked = map(sql, (_END, _STOP_SIMULATORS, _GET_LOCKED))
        self._take_over, self._release, self._owned_by = map(sql, (_TAKE_OVER, _RELEASE, _OWNED_BY))
        self._touch, self._note, self._forget = map(sql, (_TOUCH, _NOTE, _FORGET))

    async def open(
        self,
        subject: str,
        device: str,
        *,
        policy: DevicePolicy,
        timeouts: Timeouts,
        limit_count: int = 0,
        attributes: Mapping[str, str] | None = None,
    ) -> Opened | Refusal:
        """Return the subject's live session, joined by this device, or a new one."""
        for _ in range(ROUNDS_COUNT):
            async with self._database.transaction() as connection:
                found = await connection.fetchrow(self._find_locked, subject)
                if found is not None:
                    return await self._joined(connection, row_of(found, SessionRow), device, policy)
                if limit_count and await connection.fetchval(self._count_live) >= limit_count:
                    return Refusal(RefusalReason.SESSIONS_LIMIT, limit_count)
                now = self._clock()
                made = await connection.fetchrow(
                    self._make,
                    self._ids(),
                    subject,
                    device,
                    str(policy),
                    json_text(attributes or {}),
                    now,
                    timeouts.expires_at(now),
                )
                if made is not None:
                    return Opened(row_of(made, SessionRow), is_new=True)
        raise BackendUnavailable(BACKEND, 0.0, "others make and end this session all the time")

    async def _joined(
        self, connection: PooledConnection, row: SessionRow, device: str, policy: DevicePolicy
    ) -> Opened | Refusal:
        decision = admit_device(policy, row.state, row.devices, device)
        if isinstance(decision, DeviceRefusal):
            return Refusal(RefusalReason(decision.value), policy.devices_count)
        record = await connection.fetchrow(
            self._join, row.id, list(decision.devices), str(policy), self._clock()
        )
        if record is None:
            raise AssertionError  # it is locked
        return Opened(row_of(record, SessionRow), is_new=False, replaced=decision.replaced)

    async def get(self, session_id: str) -> SessionRow | None:
        """Return a session, ended ones too; None if there is none."""
        return await self._row(self._get, session_id) if is_id(session_id) else None

    async def find(self, subject: str) -> SessionRow | None:
        """Return the live session of a subject; None if it has none."""
        return await self._row(self._find, subject)

    async def list(self, where: SessionFilter, page: Page) -> tuple[SessionRow, ...]:
        """Return a page of the sessions that match, the newest first."""
        limit_count = min(page.limit_count, PAGE_MAX_COUNT)
        states = [state.value for state in where.states]
        return await self._rows(
            self._list, where.subject, states, where.owner_pod, where.device, page.before, limit_count
        )

    async def attach(self, session_id: str, owner_epoch: int) -> SessionRow | None:
        """Note that a connection has come; None if the session has ended or is not the owner's."""
        states = [state.value for state in session_sources(SessionEvent.ATTACH)]
        return await self._row(self._attach, session_id, owner_epoch, self._clock(), states)

    async def detach(self, session_id: str, owner_epoch: int) -> SessionRow | None:
        """Note that the last connection has gone; None if there was none, it has ended or is not the owner's."""
        states = [state.value for state in session_sources(SessionEvent.DETACH)]
        return await self._row(self._detach, session_id, owner_epoch, self._clock(), states)

    async def drop_device(self, session_id: str, device: str) -> SessionRow | None:
        """Free the place of a device in a live session; None if there is no such session."""
        return await self._row(self._drop_device, session_id, device)

    async def end(self, session_id: str, reason: EndReason, detail: str = "") -> SessionRow | None:
        """End a session and want its simulators stopped; of all who ask exactly one gets the row."""
        async with self._database.transaction() as connection:
            return await self._ended(connection, session_id, reason, detail)

    async def end_if_due(self, session_id: str, timeouts: Timeouts) -> SessionRow | None:
        """End a session whose time is up, as expired, unless something has happened in it meanwhile."""
        async with self._database.transaction() as connection:
            record = await connection.fetchrow(self._get_locked, session_id)
            expiry = row_of(record, SessionRow).expiry(timeouts) if record is not None else None
            if expiry is None or not expiry.is_due(self._clock()):
                return None
            return await self._ended(connection, session_id, EndReason.EXPIRED, expiry.cause.value)

    async def _ended(
        self, connection: PooledConnection, session_id: str, reason: EndReason, detail: str
    ) -> SessionRow | None:
        """Two statements: the second must see a simulator that was wanted while the first waited for the row."""
        now = self._clock()
        record = await connection.fetchrow(self._end, session_id, now, reason.value, detail)
        if record is None:
            return None
        await connection.execute(self._stop_simulators, session_id, now)
        return row_of(record, SessionRow)

    async def due(
        self,
        timeouts: Timeouts,
        *,
        within_s: float = 0.0,
        owner_pod: str | None = None,
        limit_count: int = 500,
    ) -> tuple[SessionRow, ...]:
        """Return live sessions whose time will be up within so many seconds."""
        at = self._clock() + timedelta(seconds=within_s)
        return await self._rows(self._due, *timeouts.cutoffs(at), at, owner_pod, limit_count)

    async def take_over(
        self, session_ids: Collection[str], pod: str, *, least_epoch: int = 0
    ) -> dict[str, int]:
        """Make a pod the owner of sessions and return their new epochs; those that have ended are left out."""
        records = await self._database.fetch(self._take_over, [*session_ids], pod, least_epoch)
        return {record["id"]: record["owner_epoch"] for record in records}

    async def release(self, session_id: str, pod: str, owner_epoch: int) -> bool:
        """Leave a session without an owner, if the pod still is the owner under that epoch."""
        return bool(await self._database.fetch(self._release, session_id, pod, owner_epoch))

    async def owned_by(self, pod: str) -> tuple[Owned, ...]:
        """Return the live sessions of a pod."""
        records = await self._database.fetch(self._owned_by, pod)
        return tuple(Owned(record["id"], record["owner_epoch"]) for record in records)

    async def touch(self, touches: Sequence[Touch]) -> frozenset[str]:
        """Write many owners' notes in one statement and return the sessions that were not theirs, or have ended."""
        newest = {touch.session_id: touch for touch in touches}
        batch = newest.values()
        records = await self._database.fetch(
            self._touch,
            [*newest],
            [touch.owner_epoch for touch in batch],
            [touch.active_at for touch in batch],
            [touch.state or "" for touch in batch],
            [touch.links_count for touch in batch],
            [touch.quality for touch in batch],
            self._clock(),
        )
        return frozenset(newest) - {record["id"] for record in records}

    async def note(self, activities: Sequence[Activity]) -> None:
        """Write activity that was seen by any pod; activity never goes back in time."""
        newest: dict[str, datetime] = {}
        for activity in activities:
            known = newest.get(activity.session_id, activity.active_at)
            newest[activity.session_id] = max(known, activity.active_at)
        await self._database.fetch(self._note, [*newest], [*newest.values()])

    async def forget(self, ended_before: datetime, limit_count: int = 500) -> int:
        """Delete what has ended before a moment, with its simulators and events; return how many sessions."""
        return len(await self._database.fetch(self._forget, ended_before, limit_count))

    async def _row(self, query: str, *arguments: object) -> SessionRow | None:
        record = await self._database.fetch_one(query, *arguments)
        return None if record is None else row_of(record, SessionRow)

    async def _rows(self, query: str, *arguments: object) -> tuple[SessionRow, ...]:
        records: builtins.list[asyncpg.Record] = await self._database.fetch(query, *arguments)
        return tuple(row_of(record, SessionRow) for record in records)
