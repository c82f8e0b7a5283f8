"""The table of idempotency keys: one answer per key of a subject, however often the request comes."""

from __future__ import annotations

from datetime import datetime, timedelta

from sojourn.core.clock import WallClock
from sojourn.gateways.exchange.rows import Fresh, InFlight, KeyConflict, StoredResponse
from sojourn.gateways.exchange.store.database import Database, json_text, row_of

_LOOK = """
SELECT digest, attempt, held_until, status, headers, body FROM {s}.idempotency_keys
WHERE subject = $1 AND key = $2 FOR NO KEY UPDATE
"""
_BEGIN = """
INSERT INTO {s}.idempotency_keys (subject, key, digest, held_until, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING attempt
"""
_BEGIN_AGAIN = """
UPDATE {s}.idempotency_keys SET attempt = attempt + 1, held_until = $3
WHERE subject = $1 AND key = $2 RETURNING attempt
"""
_FINISH = """
UPDATE {s}.idempotency_keys SET status = $4, headers = $5::jsonb, body = $6
WHERE subject = $1 AND key = $2 AND attempt = $3 AND (status IS NULL OR (status = $4 AND body = $6))
RETURNING attempt
"""
_ABANDON = """
DELETE FROM {s}.idempotency_keys
WHERE subject = $1 AND key = $2 AND attempt = $3 AND status IS NULL RETURNING attempt
"""
_FORGET = """
DELETE FROM {s}.idempotency_keys WHERE ctid IN (
    SELECT ctid FROM {s}.idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2
    FOR UPDATE SKIP LOCKED
) RETURNING 1
"""


class Requests:
    """The table of idempotency keys; see :class:`~sojourn.gateways.exchange.storage.RequestTable`."""

    def __init__(self, database: Database, clock: WallClock) -> None:
        self._database = database
        self._clock = clock
        self._look, self._begin, self._begin_again = map(database.sql, (_LOOK, _BEGIN, _BEGIN_AGAIN))
        self._finish, self._abandon, self._forget = map(database.sql, (_FINISH, _ABANDON, _FORGET))

    async def begin(
        self, subject: str, key: str, digest: bytes, hold_s: float
    ) -> Fresh | StoredResponse | InFlight | KeyConflict:
        """Begin a request, or learn that it was made before."""
        now = self._clock()
        until = now + timedelta(seconds=hold_s)
        async with self._database.transaction() as connection:
            attempt = await connection.fetchval(self._begin, subject, key, digest, until, now)
            if attempt is not None:
                return Fresh(attempt)
            known = await connection.fetchrow(self._look, subject, key)
            if known is None:  # abandoned between the two statements
                return InFlight(now)
            if known["digest"] != digest:
                return KeyConflict()
            if known["status"] is not None:
                return row_of(known, StoredResponse)
            if known["held_until"] > now:
                return InFlight(known["held_until"])
            return Fresh(await connection.fetchval(self._begin_again, subject, key, until))

    async def finish(self, subject: str, key: str, attempt: int, response: StoredResponse) -> bool:
        """Store the answer; False if the attempt was overtaken by another one."""
        answer = (response.status, json_text(response.headers), response.body)
        return bool(await self._database.fetch(self._finish, subject, key, attempt, *answer))

    async def abandon(self, subject: str, key: str, attempt: int) -> bool:
        """Forget an attempt that failed in a way that may be tried again; False if it was overtaken or finished."""
        return bool(await self._database.fetch(self._abandon, subject, key, attempt))

    async def forget(self, created_before: datetime, limit_count: int = 5000) -> int:
        """Delete old keys, finished or not, and return how many."""
        return len(await self._database.fetch(self._forget, created_before, limit_count))
