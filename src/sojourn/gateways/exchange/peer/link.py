"""Link: one WebSocket of a client, from its first frame to the verdict on its end.

Reads and writes at once: heartbeats are answered before everything else, all the rest goes out as fast as the server
lets its clients. A server that is silent for too long is taken for gone. Knows frames, not what they mean.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import WSMsgType

from sojourn.core.clock import Clock
from sojourn.core.rate import TokenBucket
from sojourn.errors import RemoteProtocolError
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.messages import Close, LinkLimits
from sojourn.gateways.exchange.peer.calls import Socket
from sojourn.gateways.exchange.peer.frames import ServerFrame, read_server_frame
from sojourn.gateways.exchange.peer.returning import Verdict, verdict_of_close


class Link:
    """One connection.

    Life: made with an open WebSocket; ``run`` is all of it. Always true: after ``run`` the socket is closed.

    Args:
        socket: open.
        is_binary: frames are MessagePack.
        clock: monotonic seconds.
    """

    def __init__(self, socket: Socket, *, is_binary: bool, clock: Clock) -> None:
        self.is_greeted = False
        """The server has let us in, and we are where it is."""
        self.is_closing = False
        """It takes no requests any more."""
        self.reason = ""
        """What the server said of the end before it came."""
        self._socket = socket
        self._is_binary = is_binary
        self._clock = clock
        self._outbox: deque[Any] = deque()
        self._has_more = asyncio.Event()
        self._bucket: TokenBucket | None = None
        self._pause_s = 0.0
        self._deadline: asyncio.Timeout | None = None
        self._verdict: Verdict | None = None
        self._is_broken = False

    # What goes out

    def send(self, frame: Any) -> None:
        """Send a frame when those before it have gone out."""
        self._outbox.append(frame)
        self._has_more.set()

    def send_now(self, frame: Any) -> None:
        """Send a frame before all that wait."""
        self._outbox.appendleft(frame)
        self._has_more.set()

    def pace(self, limits: LinkLimits) -> None:
        """Send no more than the server takes; half of its burst is left for what the network bunches."""
        burst_count = max(1, limits.frames_burst_count // 2)
        self._bucket = TokenBucket(limits.frames_per_s, burst_count, self._clock)
        self._pause_s = 1.0 / limits.frames_per_s if limits.frames_per_s else 0.0

    async def _write(self) -> None:
        opcode = WSMsgType.BINARY if self._is_binary else WSMsgType.TEXT
        try:
            while True:
                if not self._outbox:
                    self._has_more.clear()
                    await self._has_more.wait()
                elif self._bucket is not None and not self._bucket.take():
                    await asyncio.sleep(self._pause_s)
                else:
                    data = wire.write_frame(self._outbox.popleft(), is_binary=self._is_binary)
                    await self._socket.send_frame(data, opcode)
        except (aiohttp.ClientError, ConnectionError):
            return  # whoever reads hears of it too

    # What comes in

    async def run(self, take: Callable[[ServerFrame], None], timeout_s: float) -> Verdict:
        """Hand every frame on until the connection ends, and return what that means.

        Args:
            take: is given each frame; a RemoteProtocolError of it ends the connection.
            timeout_s: until the server must have been heard for the first time.
        Raises: Dismissed.
        """
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write())
                try:
                    await self._read(take, timeout_s)
                finally:
                    writing.cancel()
            verdict = self._verdict
            if verdict is None:
                # What aiohttp itself finds wrong it notes as a close code, which no server has sent.
                code = None if self._is_broken else self._socket.close_code
                return verdict_of_close(code, self.reason)
            if verdict.code != Close.HEARTBEAT_TIMEOUT:
                await self._socket.close(code=verdict.code)
            return verdict
        finally:
            self._socket.cut()

    async def _read(self, take: Callable[[ServerFrame], None], timeout_s: float) -> None:
        receive, is_binary = self._socket.receive, self._is_binary
        try:
            async with asyncio.timeout(timeout_s) as self._deadline:
                while True:
                    message = await receive()
                    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                        self._is_broken = message.type == WSMsgType.ERROR
                        self.reason = self.reason or str(message.extra or "")
                        return
                    frame = read_server_frame(message.data, is_binary=is_binary)
                    if frame is not None:
                        take(frame)
        except TimeoutError:
            if self._verdict is None:
                self._verdict = Verdict("the server was silent for too long", Close.HEARTBEAT_TIMEOUT)
        except RemoteProtocolError as error:
            self._verdict = Verdict(str(error), Close.PROTOCOL, is_hasty=True)
        finally:
            self._deadline = None

    def expect_within(self, timeout_s: float) -> None:
        """Begin anew to wait for a sign of life."""
        deadline = self._deadline
        if deadline is not None and not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + timeout_s)

    # The end

    def leave(self, verdict: Verdict) -> None:
        """End the connection in order, with the verdict's code."""
        if self._verdict is None and self._deadline is not None:
            self._verdict = verdict
            self.expect_within(0.0)

    def cut(self) -> None:
        """End the connection as networks do: without a word."""
        self._socket.cut()
