"""The peer ``websockets``: its own ``broadcast`` to all connections, on uvloop as ours.

Run as a program (``exchange_websockets.py PAYLOAD_BYTES``); see ``exchange_triggers.py`` for its ports.
"""

from __future__ import annotations

import sys

import exchange_triggers
import servers
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def _serve(payload_bytes: int) -> None:
    text = "x" * payload_bytes

    async def keep(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(keep, "127.0.0.1", 0, compression=None, backlog=4096) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await exchange_triggers.serve(port, lambda _: broadcast(server.connections, text))


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    sys.exit(uvloop.run(_serve(int(sys.argv[1]))))
