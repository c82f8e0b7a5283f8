"""Link: one WebSocket of a client, from its upgrade to its close code; a dialect says what its messages mean.

Theory of operation. Whoever has something to tell puts it, encoded, into the link's bounded queue with a plain call.
One task writes, one reads, both in the request's handler. A client that lets the queue fill up is closed: it comes back
and gets everything as it is then, which a client that is seconds behind would not have. Commands are carried out in
tasks of the gateway, for a client that goes away must not leave a panel in the middle of one.

Source: RFC 6455 section 7.4.1 for close codes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from aiohttp import WSMsgType, web

from sojourn.core.rate import TokenBucket

if TYPE_CHECKING:
    from sojourn.core.clock import Clock
    from sojourn.gateways.itv2.http.config import LinkSettings
    from sojourn.gateways.itv2.http.tokens import Holder

Spawn = Callable[[Awaitable[None]], object]
"""Starts a task that is awaited at the gateway's end."""


class Close:
    """Close codes that we send."""

    GOING_AWAY = 1001
    TEXT_ONLY = 1003
    POLICY = 1008
    TOO_SLOW = 1013


class Dialect(Protocol):
    """What is said on a kind of link."""

    def joined(self, link: Link) -> None:
        """Tell a new link everything, and from now on what is new."""

    def left(self, link: Link) -> None:
        """Tell it nothing any more."""

    def received(self, link: Link, text: str) -> None:
        """Take a message of the client."""

    def heartbeat(self) -> bytes | None:
        """Return what is sent where nothing has happened for a while; None = nothing."""


class Link:
    """One client's WebSocket.

    Life: made by the door after the upgrade; ``serve`` lasts as long as the client is there. Always true: what waits is
    within its bounds, or the link is ending.

    Args:
        holder: whose token opened it.
        dialect: what is said.
        settings: of links.
        clock: monotonic seconds.
        spawn: for commands.
    """

    def __init__(
        self, holder: Holder, dialect: Dialect, settings: LinkSettings, clock: Clock, spawn: Spawn
    ) -> None:
        self.holder = holder
        self.dialect = dialect
        self.is_ending = False
        self.sent_count = 0
        self.received_count = 0
        self._settings = settings
        self._spawn = spawn
        self._bucket = TokenBucket(settings.messages_per_s, settings.messages_burst_count, clock)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._commands_count = 0
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._farewell = (Close.GOING_AWAY, "")

    # What others do

    def put(self, data: bytes) -> None:
        """Send a message when it is its turn; never blocks."""
        if self.is_ending:
            return
        settings = self._settings
        size = self._waiting_bytes + len(data)
        if self._waiting and (len(self._waiting) >= settings.waiting_count or size > settings.waiting_bytes):
            self.end(Close.TOO_SLOW, "too slow: come back and take everything anew")
            return
        self._waiting.append(data)
        self._waiting_bytes = size
        self._news.set()

    def end(self, code: int, reason: str) -> None:
        """Close the link; what waits is not sent any more."""
        if not self.is_ending:
            self.is_ending = True
            self._farewell = (code, reason)
            self._waiting.clear()
            self._over.set()

    def run(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Carry a command out beside everything else; False if there are too many of this client already."""
        if self._commands_count >= self._settings.commands_count:
            return False
        self._commands_count += 1

        async def counted() -> None:
            try:
                await work()
            finally:
                self._commands_count -= 1

        self._spawn(counted())
        return True

    @property
    def waiting_count(self) -> int:
        """Messages that the client has not taken yet."""
        return len(self._waiting)

    # The link's own work

    async def serve(self, ws: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        """Read and write until either side ends it."""
        async with asyncio.TaskGroup() as group:
            works = (
                group.create_task(self._read(ws)),
                group.create_task(self._write(ws)),
                group.create_task(self._over.wait()),
            )
            try:
                self.dialect.joined(self)
                await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.dialect.left(self)
                works[1].cancel()
            await self._close(ws, transport)
            for work in works:
                work.cancel()

    async def _read(self, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            self.received_count += 1
            if self.is_ending:
                return
            if not self._bucket.take():
                self.end(Close.POLICY, "too many messages")
            elif message.type != WSMsgType.TEXT:
                self.end(Close.TEXT_ONLY, "text messages only")
            else:
                self.dialect.received(self, message.data)

    async def _write(self, ws: web.WebSocketResponse) -> None:
        with suppress(ConnectionError):  # the reader hears of it
            while True:
                data = await self._next()
                self.sent_count += 1
                await ws.send_frame(data, WSMsgType.TEXT)

    async def _next(self) -> bytes:
        """Return what is to be sent next; a heartbeat where there is nothing for a while."""
        while not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout(self._settings.heartbeat_s):
                    await self._news.wait()
            except TimeoutError:
                beat = self.dialect.heartbeat()
                if beat is not None:
                    return beat
        data = self._waiting.popleft()
        self._waiting_bytes -= len(data)
        return data

    async def _close(self, ws: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        """Say why, where it was us, and wait shortly for the client's own word."""
        self.is_ending = True
        code, reason = self._farewell
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await ws.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            transport.abort()
