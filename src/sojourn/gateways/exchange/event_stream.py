"""Server-sent events: the steps of a simulator on its way, for as long as its client listens.

Knows nothing of simulators.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import web

from sojourn.errors import SojournError
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.rest_types import Progress
from sojourn.web.server import protocol_of

_COMMENT: Final = b": still here\n\n"
_STEPS_COUNT: Final = 16
"""Steps that wait for a slow client; the service waits beyond."""
_RETRY_MS: Final = 2_000


async def stream_progress(
    request: web.Request, steps: AsyncGenerator[Progress, None], comment_s: float
) -> web.StreamResponse:
    """Send each step until the last one, and a comment when there is none for a while.

    Raises: Refusal before the first byte; what goes wrong later is an event of its own.
    """
    async with aclosing(steps):
        first = await anext(steps, None)
        if first is None:
            raise Refusal(Kind.NOT_FOUND)
        protocol_of(request).serves_only_its_client = True
        return await _stream(request, first, steps, comment_s)


async def _stream(
    request: web.Request, first: Progress, steps: AsyncGenerator[Progress, None], comment_s: float
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    await response.write(b"retry: %d\n\n" % _RETRY_MS + _event("progress", first))
    if not first.done:
        await _follow(request, response, steps, comment_s)
    return response


async def _follow(
    request: web.Request,
    response: web.StreamResponse,
    steps: AsyncGenerator[Progress, None],
    comment_s: float,
) -> None:
    waiting: asyncio.Queue[bytes] = asyncio.Queue(_STEPS_COUNT)
    protocol = protocol_of(request)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(_feed(steps, waiting))
        try:
            while not protocol.is_last:
                try:
                    async with asyncio.timeout(comment_s):
                        event = await waiting.get()
                except TimeoutError:
                    event = _COMMENT
                if not event:
                    break
                try:
                    await response.write(event)
                except ConnectionError:
                    break
        finally:
            feeding.cancel()


async def _feed(steps: AsyncGenerator[Progress, None], waiting: asyncio.Queue[bytes]) -> None:
    """Put each step into the queue, and an empty one at the end, whatever the end is."""
    try:
        async for step in steps:
            await waiting.put(_event("progress", step))
            if step.done:
                break
    except Refusal as refusal:
        await waiting.put(_event("problem", refusal.problem()))
    except SojournError:
        await waiting.put(_event("problem", Refusal(Kind.UNAVAILABLE).problem()))
    await waiting.put(b"")


def _event(name: str, value: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(value))
