"""The table of simulators: what is wanted of each, what was seen of it, and who works on it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Final

from sojourn.core.clock import WallClock
from sojourn.gateways.exchange.ids import IdMaker, is_id
from sojourn.gateways.exchange.lifecycle import simulator_sources
from sojourn.gateways.exchange.rows import (
    Desired,
    Json,
    Observation,
    Page,
    Refusal,
    RefusalReason,
    SimulatorFilter,
    SimulatorRow,
    Wanted,
)
from sojourn.gateways.exchange.storage import PAGE_MAX_COUNT
from sojourn.gateways.exchange.store.database import Database, columns, json_text, row_of

_LIVE: Final = "state NOT IN ('stopped', 'failed')"
_LOCK_SESSION = "SELECT id FROM {s}.sessions WHERE id = $1 AND state <> 'ended' FOR NO KEY UPDATE"
_WANTED = """
SELECT {c} FROM {s}.simulators m
WHERE m.session_id = $1 AND m.desired = 'running' AND m.{live} ORDER BY m.id FOR NO KEY UPDATE
"""
_LATEST = (
    "SELECT {c} FROM {s}.simulators m WHERE m.session_id = $1 AND m.name = $2 ORDER BY m.id DESC LIMIT 1"
)
_MAKE = """
INSERT INTO {s}.simulators AS m
    (id, session_id, name, driver, desired, state, spec, generation, created_at, changed_at)
SELECT $1, $2, $3, $4, 'running', 'requested', $5::jsonb, coalesce(max(generation), 0) + 1, $6, $6
FROM {s}.simulators WHERE session_id = $2 RETURNING {c}
"""
_STOP = """
UPDATE {s}.simulators m SET desired = 'stopped', generation = m.generation + 1, changed_at = $2
WHERE m.id = $1 RETURNING {c}
"""
_GET = "SELECT {c} FROM {s}.simulators m WHERE m.id = $1"
_LIST = """
SELECT {c} FROM {s}.simulators m
WHERE ($1 = '' OR m.session_id = $1) AND (cardinality($2::text[]) = 0 OR m.state = ANY ($2))
  AND ($3 = '' OR m.driver = $3) AND ($4 = '' OR m.desired = $4) AND ($5 = '' OR m.id < $5)
ORDER BY m.id DESC LIMIT $6
"""
_OBSERVE = """
UPDATE {s}.simulators m
SET state = $3, observed_generation = $2, endpoint = coalesce($4, m.endpoint),
    handle = coalesce($5::jsonb, m.handle), failure = coalesce($6::jsonb, m.failure),
    is_unreachable = coalesce($7, m.is_unreachable),
    changed_at = CASE WHEN m.state = $3 THEN m.changed_at ELSE $8 END,
    claimed_by = CASE WHEN $3 IN ('stopped', 'failed') THEN '' ELSE m.claimed_by END,
    claimed_until = CASE WHEN $3 IN ('stopped', 'failed') THEN NULL ELSE m.claimed_until END
WHERE m.id = $1 AND m.observed_generation <= $2 AND $2 <= m.generation AND m.state = ANY ($9::text[])
RETURNING {c}
"""
_BEAT = """
WITH alive AS MATERIALIZED (
    SELECT id FROM {s}.simulators WHERE id = ANY ($1::text[]) AND {live} ORDER BY id FOR NO KEY UPDATE
)
UPDATE {s}.simulators m SET heartbeat_at = $2, is_unreachable = false FROM alive WHERE m.id = alive.id
"""
_CLAIM = """
UPDATE {s}.simulators SET claimed_by = $2, claimed_until = $3
WHERE id = $1 AND {live} AND (claimed_by IN ('', $2) OR claimed_until <= $4) RETURNING id
"""
_CLAIM_WORK = """
WITH free AS MATERIALIZED (
    SELECT id FROM {s}.simulators
    WHERE {live} AND (observed_generation < generation OR state IN ('requested', 'starting', 'stopping'))
      AND (claimed_by IN ('', $1) OR claimed_until <= $3)
    ORDER BY id LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {s}.simulators m SET claimed_by = $1, claimed_until = $2 FROM free WHERE m.id = free.id RETURNING {c}
"""
_RELEASE_CLAIM = """
UPDATE {s}.simulators SET claimed_by = '', claimed_until = NULL WHERE id = $1 AND claimed_by = $2 RETURNING id
"""


class Simulators:
    """The table of simulators; see :class:`~sojourn.gateways.exchange.storage.SimulatorTable`."""

    def __init__(self, database: Database, clock: WallClock, ids: IdMaker) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        sql = partial(database.sql, c=columns(SimulatorRow, "m"), live=_LIVE)
        self._lock_session, self._wanted, self._latest = map(sql, (_LOCK_SESSION, _WANTED, _LATEST))
        self._make, self._stop, self._get, self._list = map(sql, (_MAKE, _STOP, _GET, _LIST))
        self._observe, self._beat, self._claim = map(sql, (_OBSERVE, _BEAT, _CLAIM))
        self._claim_work, self._release_claim = map(sql, (_CLAIM_WORK, _RELEASE_CLAIM))

    async def want(
        self,
        session_id: str,
        desired: Desired,
        *,
        driver: str = "",
        spec: Json | None = None,
        name: str = "main",
        limit_count: int = 1,
    ) -> Wanted | Refusal:
        """Say what the simulator of that name is to be; saying it twice is saying it once."""
        async with self._database.transaction() as connection:
            if await connection.fetchrow(self._lock_session, session_id) is None:
                return Refusal(RefusalReason.SESSION_ENDED)
            records = await connection.fetch(self._wanted, session_id)
            wanted = {record["name"]: row_of(record, SimulatorRow) for record in records}
            known = wanted.get(name)
            if desired is Desired.RUNNING:
                if known is not None:
                    return Wanted(known, is_changed=False)
                if len(wanted) >= limit_count:
                    return Refusal(RefusalReason.SIMULATORS_LIMIT, limit_count)
                made = (self._ids(), session_id, name, driver, json_text(spec or {}), self._clock())
                record = await connection.fetchrow(self._make, *made)
            elif known is not None:
                record = await connection.fetchrow(self._stop, known.id, self._clock())
            else:
                record = await connection.fetchrow(self._latest, session_id, name)
                latest = None if record is None else row_of(record, SimulatorRow)
                return Wanted(latest, is_changed=False)
            if record is None:
                raise AssertionError  # it was made, or is locked
            return Wanted(row_of(record, SimulatorRow), is_changed=True)

    async def get(self, simulator_id: str) -> SimulatorRow | None:
        """Return a simulator; None if there is none."""
        if not is_id(simulator_id):
            return None
        record = await self._database.fetch_one(self._get, simulator_id)
        return None if record is None else row_of(record, SimulatorRow)

    async def list(self, where: SimulatorFilter, page: Page) -> tuple[SimulatorRow, ...]:
        """Return a page of the simulators that match, the newest first."""
        records = await self._database.fetch(
            self._list,
            where.session_id,
            [state.value for state in where.states],
            where.driver,
            where.desired or "",
            page.before,
            min(page.limit_count, PAGE_MAX_COUNT),
        )
        return tuple(row_of(record, SimulatorRow) for record in records)

    async def observe(
        self, simulator_id: str, generation: int, observation: Observation
    ) -> SimulatorRow | None:
        """Write what was seen under a generation; None if somebody has looked under a newer one, or it is no step."""
        record = await self._database.fetch_one(
            self._observe,
            simulator_id,
            generation,
            observation.state.value,
            observation.endpoint,
            None if observation.handle is None else json_text(observation.handle),
            None if observation.failure is None else json_text(observation.failure),
            observation.is_unreachable,
            self._clock(),
            [state.value for state in simulator_sources(observation.state)],
        )
        return None if record is None else row_of(record, SimulatorRow)

    async def beat(self, simulator_ids: Collection[str]) -> None:
        """Note that these simulators have answered."""
        await self._database.fetch(self._beat, [*simulator_ids], self._clock())

    async def claim(self, simulator_id: str, pod: str, hold_s: float) -> bool:
        """Give the work on a simulator to a pod for a while, or for a while longer; False if another one has it."""
        now = self._clock()
        until = now + timedelta(seconds=hold_s)
        return bool(await self._database.fetch(self._claim, simulator_id, pod, until, now))

    async def claim_work(self, pod: str, hold_s: float, limit_count: int = 50) -> tuple[SimulatorRow, ...]:
        """Claim simulators with which something is to be done, and that nobody works on; the oldest first."""
        now = self._clock()
        until = now + timedelta(seconds=hold_s)
        records = await self._database.fetch(self._claim_work, pod, until, now, limit_count)
        return tuple(sorted((row_of(record, SimulatorRow) for record in records), key=lambda row: row.id))

    async def release_claim(self, simulator_id: str, pod: str) -> bool:
        """Give a claim back; False if the pod has none."""
        return bool(await self._database.fetch(self._release_claim, simulator_id, pod))
