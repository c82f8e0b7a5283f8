"""The peer ``uvicorn`` with ``starlette``: a WebSocket route, and one task that sends to each client in turn.

On uvloop as ours, with uvicorn's newer and cheaper WebSocket protocol. Run as a program
(``exchange_starlette.py PAYLOAD_BYTES``); see ``exchange_triggers.py`` for its ports.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

import exchange_triggers
import servers
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def _serve(payload_bytes: int) -> None:
    text = "x" * payload_bytes
    clients: set[WebSocket] = set()
    wanted = asyncio.Semaphore(0)

    async def endpoint(client: WebSocket) -> None:
        await client.accept()
        clients.add(client)
        try:
            with suppress(WebSocketDisconnect):
                while True:
                    await client.receive_text()
        finally:
            clients.discard(client)

    async def send_all() -> None:
        while True:
            await wanted.acquire()
            for client in tuple(clients):
                with suppress(WebSocketDisconnect, RuntimeError):
                    await client.send_text(text)

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    config = uvicorn.Config(
        Starlette(routes=[WebSocketRoute("/", endpoint)]),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        backlog=4096,
        log_level="warning",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve([listener]))
        sending = tasks.create_task(send_all())
        await exchange_triggers.serve(listener.getsockname()[1], lambda _: wanted.release())
        server.force_exit = server.should_exit = True
        sending.cancel()
        await serving


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    sys.exit(uvloop.run(_serve(int(sys.argv[1]))))
