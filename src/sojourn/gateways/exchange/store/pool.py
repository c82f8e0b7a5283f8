"""The table of the warm pool: a simulator goes to one session, and comes back if that never attaches."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sojourn.core.clock import WallClock
from sojourn.gateways.exchange.rows import Json, PoolRow
from sojourn.gateways.exchange.store.database import Database, columns, json_text, row_of

_ADD = """
INSERT INTO {s}.pool_simulators (id, driver, flavour, state, endpoint, handle, created_at)
VALUES ($1, $2, $3, 'ready', $4, $5::jsonb, $6) ON CONFLICT (id) DO NOTHING
"""
_CLAIMED = "SELECT {c} FROM {s}.pool_simulators p WHERE p.claim_token = $1 AND p.session_id = $2"
_CLAIM = """
WITH free AS MATERIALIZED (
    SELECT id FROM {s}.pool_simulators WHERE driver = $1 AND flavour = $2 AND state = 'ready'
    ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {s}.pool_simulators p SET state = 'held', session_id = $3, claim_token = $4, held_until = $5
FROM free WHERE p.id = free.id RETURNING {c}
"""
_CONFIRM = """
UPDATE {s}.pool_simulators SET state = 'taken', held_until = NULL
WHERE id = $1 AND claim_token = $2 AND $2 <> '' RETURNING id
"""
_GIVE_BACK = """
UPDATE {s}.pool_simulators SET state = 'ready', session_id = '', claim_token = '', held_until = NULL
WHERE id = $1 AND claim_token = $2 AND state = 'held' RETURNING id
"""
_RELEASE_OVERDUE = """
WITH overdue AS MATERIALIZED (
    SELECT id FROM {s}.pool_simulators WHERE state = 'held' AND held_until <= $1
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {s}.pool_simulators p SET state = 'ready', session_id = '', claim_token = '', held_until = NULL
FROM overdue WHERE p.id = overdue.id RETURNING p.id
"""
_WITHDRAW = "DELETE FROM {s}.pool_simulators WHERE id = $1 AND state = 'ready' RETURNING id"
_REMOVE = "DELETE FROM {s}.pool_simulators WHERE id = $1 RETURNING id"
_LIST = "SELECT {c} FROM {s}.pool_simulators p WHERE $1 = '' OR p.driver = $1 ORDER BY p.id"


class Pool:
    """The table of the warm pool; see :class:`~sojourn.gateways.exchange.storage.PoolTable`."""

    def __init__(self, database: Database, clock: WallClock) -> None:
        self._database = database
        self._clock = clock
        sql = partial(database.sql, c=columns(PoolRow, "p"))
        self._add, self._claimed, self._claim, self._confirm = map(sql, (_ADD, _CLAIMED, _CLAIM, _CONFIRM))
        self._give_back, self._release_overdue = map(sql, (_GIVE_BACK, _RELEASE_OVERDUE))
        self._withdraw, self._remove, self._list = map(sql, (_WITHDRAW, _REMOVE, _LIST))

    async def add(self, simulator_id: str, driver: str, flavour: str, endpoint: str, handle: Json) -> None:
        """Put a simulator that is ready into the pool; one that is there already stays as it is."""
        row = (simulator_id, driver, flavour, endpoint, json_text(handle), self._clock())
        await self._database.fetch(self._add, *row)

    async def claim(
        self, driver: str, flavour: str, *, session_id: str, token: str, hold_s: float
    ) -> PoolRow | None:
        """Hold the oldest free simulator for a session; None if none is free."""
        until = self._clock() + timedelta(seconds=hold_s)
        record = await self._database.fetch_one(self._claimed, token, session_id)
        if record is None:
            record = await self._database.fetch_one(self._claim, driver, flavour, session_id, token, until)
        return None if record is None else row_of(record, PoolRow)

    async def confirm(self, simulator_id: str, token: str) -> bool:
        """Note that the session has attached; False if the hold was over and the simulator is somebody else's now."""
        return bool(await self._database.fetch(self._confirm, simulator_id, token))

    async def give_back(self, simulator_id: str, token: str) -> bool:
        """Make a held simulator free again, one that no session has attached to; False if the hold was over."""
        return bool(await self._database.fetch(self._give_back, simulator_id, token))

    async def release_overdue(self) -> int:
        """Make the simulators free whose sessions have not attached in time, and return how many."""
        return len(await self._database.fetch(self._release_overdue, self._clock()))

    async def withdraw(self, simulator_id: str) -> bool:
        """Take a free simulator out, to stop it; False if it is not free."""
        return bool(await self._database.fetch(self._withdraw, simulator_id))

    async def remove(self, simulator_id: str) -> bool:
        """Take a simulator out that is no more; False if it is not there."""
        return bool(await self._database.fetch(self._remove, simulator_id))

    async def list(self, driver: str = "") -> tuple[PoolRow, ...]:
        """Return all members, of one driver or of all, the oldest first."""
        return tuple(row_of(record, PoolRow) for record in await self._database.fetch(self._list, driver))
