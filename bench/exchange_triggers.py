"""What the servers of ``exchange.py`` that are written in Python do alike: broadcast once per byte, say their ports.

A trigger is a connection of its own, so that what starts a broadcast costs every server the same. What a byte starts
may take a while; it is then answered by one byte when it is done. Knows nothing of WebSockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import servers

Act = Callable[[int], Coroutine[Any, Any, None] | None]


class Trigger(asyncio.Protocol):
    """A connection each of whose bytes starts something; which byte it is says what.

    Args:
        tasks: where what takes a while runs.
    """

    def __init__(self, act: Act, tasks: asyncio.TaskGroup) -> None:
        self._act = act
        self._tasks = tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Do it as often as there are bytes."""
        for byte in data:
            work = self._act(byte)
            if work is not None:
                self._tasks.create_task(self._answer(work))

    async def _answer(self, work: Coroutine[Any, Any, None]) -> None:
        await work
        self._transport.write(b".")


async def serve(port: int, act: Act) -> None:
    """Listen for triggers, tell both ports, and return when the parent has closed standard input."""
    async with asyncio.TaskGroup() as tasks:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Trigger(act, tasks), "127.0.0.1", 0)
        await servers.serve_until_parent_ends(f"{port} {server.sockets[0].getsockname()[1]}")
        server.close()
