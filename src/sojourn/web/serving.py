"""What all operations have in common between their route and their handler: what a request brings, and its deadline.

Knows no operation, and not who asks: that is found out before anything is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from sojourn.web.body import read_body, read_query
from sojourn.web.config import HttpSettings
from sojourn.web.idempotency import key_of
from sojourn.web.operations import Operation
from sojourn.web.problems import Kind, Refusal

T = TypeVar("T")


class Brought(NamedTuple):
    """What a request brought, each part as its operation says; ``raw`` is the body before it was read."""

    query: Mapping[str, Any]
    key: str | None
    raw: bytes
    body: Any


async def read_request(request: web.Request, operation: Operation, settings: HttpSettings) -> Brought:
    """Read a request's query, Idempotency-Key and body.

    Raises: Refusal.
    """
    query = read_query(request, operation.query)
    key = key_of(request.headers.getall("Idempotency-Key", [])) if operation.key else None
    if key is None and operation.key == "required":
        raise Refusal(Kind.NO_KEY)
    raw, body = b"", None
    if operation.may_be_absent and not request.body_exists:
        body = operation.body()
    elif operation.body is not None:
        raw, body = await read_body(request, operation.body, settings)
    return Brought(query, key, raw, body)


async def in_time(operation: Operation, work: Awaitable[T], timeout_s: float) -> T:
    """Return what the work returns, within its deadline.

    Raises: Refusal when that is over: whatever changes something may have done so.
    """
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
        kind = Kind.UNAVAILABLE if operation.method == "GET" else Kind.OUTCOME_UNKNOWN
        raise Refusal(kind, "the work took too long") from None
