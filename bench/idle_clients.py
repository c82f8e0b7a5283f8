"""Thousands of PostgreSQL clients that logged in, asked once, and are silent: a program of its own.

``idle_clients.py PORT DATABASE USER COUNT`` prints ``ready`` when all of them had their answer. A line on standard
input makes each of them ask again; it prints how many were answered, and ends.
"""

from __future__ import annotations

import asyncio
import struct
import sys

import servers

_AT_ONCE_COUNT = 50
_QUERY = b"SELECT 1"
_READY = ord("Z")
_ERROR = ord("E")


class Client:
    """One connection; login is trusted, so that nothing has to be proved."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def _until_ready(self) -> None:
        while True:
            kind, length = struct.unpack("!BI", await self._reader.readexactly(5))
            body = await self._reader.readexactly(length - 4)
            assert kind != _ERROR, body
            if kind == _READY:
                return

    async def log_in(self, database: str, user: str) -> None:
        """Send the startup packet and wait until queries are taken."""
        parameters = b"".join(
            word.encode() + b"\0" for word in ("user", user, "database", database, "application_name", "idle")
        )
        packet = struct.pack("!I", 196_608) + parameters + b"\0"
        self._writer.write(struct.pack("!I", len(packet) + 4) + packet)
        await self._until_ready()

    async def ask(self) -> None:
        """Run one query."""
        self._writer.write(b"Q" + struct.pack("!I", len(_QUERY) + 5) + _QUERY + b"\0")
        await self._until_ready()


async def _main(port: int, database: str, user: str, count: int) -> None:
    gate = asyncio.Semaphore(_AT_ONCE_COUNT)
    clients: list[Client] = []

    async def open_one() -> None:
        async with gate:
            client = Client(*await asyncio.open_connection("127.0.0.1", port, limit=4096))
            await client.log_in(database, user)
            await client.ask()
            clients.append(client)

    async def ask_again(client: Client) -> None:
        async with gate:
            await client.ask()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(open_one())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(ask_again(client))
    print(len(clients), flush=True)


if __name__ == "__main__":
    servers.allow_many_files()
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
