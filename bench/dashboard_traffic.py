"""What happens on the server that ``dashboard.py`` looks at: sessions that come, talk, and go.

A program of its own: ``dashboard_traffic.py PORT SESSIONS PER_S`` prints ``1`` once SESSIONS are open and goes on until
its standard input closes; then it prints how many events happened in how many seconds. An event is a session that
opens, a session that ends (one in ten fails), or a message; of ten there are two, two, and six.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import deque
from typing import Final

import servers
from dashboard_daemon import ASK, END, FAIL, HEADER

CONNECTIONS_COUNT: Final = 20
WATCHED: Final = "watched by somebody"
_TURN_S = 0.05
_WATCHED_TURNS = 4
"""The session that somebody watches says something every 200 ms."""
_FAILS_EVERY = 10


class Traffic:
    """All clients. Always true: as many sessions are open as at the start, for one opens when another ends."""

    def __init__(self, wires: list[asyncio.StreamWriter]) -> None:
        self._wires = wires
        self._numbers = itertools.count(1)
        self._open: deque[int] = deque()
        self._ended = 0
        self.events_count = 0

    def _say(self, number: int, kind: int, text: str) -> None:
        data = text.encode()
        self._wires[number % len(self._wires)].write(HEADER.pack(kind, len(data), number) + data)

    def watched(self, turn: int) -> None:
        """Let the session number 0 say something, each time something else."""
        self._say(0, ASK, f"{WATCHED}, {'abcdefgh'[turn % 8]} of turn")

    def open_one(self) -> None:
        """Open a session."""
        number = next(self._numbers)
        self._say(number, ASK, f"user{number} on device-{number % 97}")
        self._open.append(number)

    def ten(self) -> None:
        """Let ten events happen."""
        for _ in range(2):
            self.open_one()
            self._ended += 1
            self._say(self._open.popleft(), END if self._ended % _FAILS_EVERY else FAIL, "goodbye")
        for step in range(6):
            self._say(self._open[-1 - step * 7 % len(self._open)], ASK, f"line {step}")
        self.events_count += 10


async def _forget(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


async def _main(port: int, sessions_count: int, per_s: int) -> None:
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_COUNT)]
    traffic = Traffic([writer for _, writer in pairs])
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(_forget(reader)) for reader, _ in pairs]
        traffic.watched(0)
        for _ in range(sessions_count - 1):
            traffic.open_one()
        await asyncio.gather(*(writer.drain() for _, writer in pairs))
        print(1, flush=True)
        started = time.monotonic()
        for turn in itertools.count(1):
            await asyncio.sleep(max(0.0, started + turn * _TURN_S - time.monotonic()))
            if over.is_set():
                break
            while traffic.events_count < per_s * (time.monotonic() - started):
                traffic.ten()
            if turn % _WATCHED_TURNS == 0:
                traffic.watched(turn // _WATCHED_TURNS)
            await asyncio.gather(*(writer.drain() for _, writer in pairs))
        seconds = time.monotonic() - started
        for task in reading:
            task.cancel()
    print(f"{traffic.events_count} {seconds}", flush=True)


if __name__ == "__main__":
    servers.allow_many_files()
    asyncio.run(_main(*(int(word) for word in sys.argv[1:4])))
