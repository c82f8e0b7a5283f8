"""Idempotency: a request with a key is carried out once, however often it comes.

The answer to the first one is kept and given again. Knows nothing of where (``storage.RequestTable``) nor of what.

Source: draft-ietf-httpapi-idempotency-key-header-07, sections 2.1 to 2.7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from sojourn.gateways.exchange.problems import MEDIA_TYPE, Kind, Problem, Refusal
from sojourn.gateways.exchange.rows import InFlight, KeyConflict, StoredResponse
from sojourn.gateways.exchange.storage import RequestTable
from sojourn.web.idempotency import fingerprint, key_of

__all__ = ["REPLAYED", "Once", "fingerprint", "key_of", "with_request_id"]

REPLAYED: Final = "Idempotency-Replayed"
"""Header of an answer that was given before."""
_KEPT_STATUSES: Final = frozenset({404, 410, 422})
"""Refusals that a repeat would meet again; others (409, 429, 503) are of the moment, and a repeat may succeed."""


class Once:
    """Carries requests out once.

    Args:
        requests: what was answered, the same for all pods.
        hold_s: a request that is not finished by then, because its pod died, may be begun again.
    """

    def __init__(self, requests: RequestTable, hold_s: float) -> None:
        self._requests = requests
        self._hold_s = hold_s

    async def run(
        self, subject: str, key: str, digest: bytes, work: Callable[[], Awaitable[StoredResponse]]
    ) -> StoredResponse:
        """Do the work, or return what was answered before.

        Raises: Refusal: the key was used for something else, or is being worked on; whatever the work raises.
        """
        found = await self._requests.begin(subject, key, digest, self._hold_s)
        if isinstance(found, StoredResponse):
            return StoredResponse(found.status, found.body, {**found.headers, REPLAYED: "true"})
        if isinstance(found, KeyConflict):
            raise Refusal(Kind.KEY_REUSED)
        if isinstance(found, InFlight):
            left_s = (found.until - datetime.now(UTC)).total_seconds()
            raise Refusal(Kind.IN_PROGRESS, retry_after_s=min(max(left_s, 1.0), self._hold_s))
        is_settled = False
        try:
            response = await work()
            await self._requests.finish(subject, key, found.attempt, response)
            is_settled = True
        except Refusal as refusal:
            if refusal.kind.status in _KEPT_STATUSES:
                kept = StoredResponse(refusal.kind.status, refusal.body(), _problem_headers(refusal))
                await self._requests.finish(subject, key, found.attempt, kept)
                is_settled = True
            raise
        finally:
            if not is_settled:
                await self._requests.abandon(subject, key, found.attempt)
        return response


def with_request_id(stored: StoredResponse, request_id: str) -> StoredResponse:
    """Return a stored problem as the problem of another request; any other answer as it is."""
    if stored.headers.get("Content-Type") != MEDIA_TYPE:
        return stored
    problem = msgspec.json.decode(stored.body, type=Problem)
    body = msgspec.json.encode(msgspec.structs.replace(problem, request_id=request_id))
    return StoredResponse(stored.status, body, stored.headers)


def _problem_headers(refusal: Refusal) -> dict[str, str]:
    return {**refusal.headers(), "Content-Type": MEDIA_TYPE}
