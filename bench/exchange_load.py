"""The load of ``exchange.py``: thousands of WebSocket clients in one process, on one epoll that never sleeps.

It sends a byte to a server's trigger, and counts the frames that come back. Frames are counted by their size, which the
first broadcast teaches; whatever has another size is cut up and looked at. Why it polls says ``load.py``; how thousands
of clients come back at once is in ``exchange_return.py``.

Conversation with whoever started it: it says ``ready`` when all clients are in and warm, measures at each line on
standard input, says one line of JSON, a ``Result``, and keeps its connections until standard input is closed.
"""

from __future__ import annotations

import random
import re
import sys
import time
from array import array
from typing import Final

import exchange_return
import msgspec
import servers
from exchange_clients import ANSWER_TIMEOUT_S, RECEIVE_BYTES, TEXT, Clients, Plan, Result, cut, spread_ms

MARKETS_OPEN: Final = "t"
"""The trigger from which on the prices of all sessions change by themselves, each change with its time."""
MARKETS_CLOSE: Final = "o"

_STAMP = re.compile(rb'"at_us":(\d+)')
_QUIET_S = 0.2


class Load(Clients):
    """What clients do while a server is measured."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.buffer = bytearray(RECEIVE_BYTES)
        self.frame_bytes = 0

    def learn(self) -> None:
        """Learn from a broadcast how long its frame is; from the second, as the first may bring more than is new."""
        self.trigger.send(self.plan.trigger.encode())
        self.read_until_quiet()
        for client in self.clients.values():
            client.rest = b""
        self.trigger.send(self.plan.trigger.encode())
        left = set(self.clients)
        deadline = time.perf_counter() + ANSWER_TIMEOUT_S
        while left:
            assert time.perf_counter() < deadline, f"{len(left)} clients got no broadcast"
            for descriptor, _ in self.epoll.poll(0):
                client = self.clients[descriptor]
                frames, client.rest = cut(client.rest + client.sock.recv(RECEIVE_BYTES))
                for frame in frames:
                    assert frame[0] == TEXT, frame
                    assert self.frame_bytes in (0, len(frame)), frame
                    self.frame_bytes = len(frame)
                    left.discard(descriptor)

    def take(self, descriptor: int) -> int:
        """Read from one client; return how many frames of the broadcasts' size it got."""
        client = self.clients[descriptor]
        size = client.recv_into(self.buffer)
        if size == self.frame_bytes and not client.rest:
            client.count += 1
            return 1
        assert size, "a client was closed"
        frames, client.rest = cut(client.rest + bytes(self.buffer[:size]))
        got = sum(len(frame) == self.frame_bytes for frame in frames)
        client.count += got
        return got

    def fan_out(self, *, seconds: float = 0.0, broadcasts: int = 0) -> Result:
        """Broadcast for so long or so often; each broadcast that everybody has is followed by another."""
        clients, poll, take = self.clients, self.epoll.poll, self.take
        clients_count = len(clients)
        base = next(iter(clients.values())).count
        left = [clients_count] * self.plan.window
        started = heard = now = time.perf_counter()
        end = started + seconds
        done = 0
        for _ in left:
            self.trigger.send(self.plan.trigger.encode())
        while done < len(left):
            events = poll(0, clients_count)
            now = time.perf_counter()
            for descriptor, _ in events:
                client = clients[descriptor]
                before = client.count - base
                take(descriptor)
                for number in range(before, client.count - base):
                    left[number] -= 1
            if events:
                heard = now
            assert now < heard + ANSWER_TIMEOUT_S, f"{left[done]} frames are missing"
            while done < len(left) and not left[done]:
                done += 1
                if now < end or len(left) < broadcasts:
                    left.append(clients_count)
                    self.trigger.send(self.plan.trigger.encode())
        return Result(done * clients_count, self.frame_bytes, now - started)

    def paced(self) -> Result:
        """Trigger at random moments, whatever has come back; take the time of each frame.

        The k-th frame of a client answers the k-th trigger. It counts as received when this program has read it, so
        that what the load itself is late counts against the server.
        """
        plan, clock = self.plan, time.perf_counter
        poll, take, clients = self.epoll.poll, self.take, self.clients
        base = next(iter(clients.values())).count
        draw = random.Random(1)  # noqa: S311 - moments, not secrets
        sent = array("d")
        delays = array("d")
        started = next_at = clock()
        end = started + plan.seconds
        wanted = 0
        while True:
            now = clock()
            if now >= next_at and now < end:
                sent.append(now)
                wanted += len(clients)
                self.trigger.send(plan.trigger.encode())
                next_at += draw.expovariate(plan.rate_per_s)
            for descriptor, _ in poll(0, 64):
                client = clients[descriptor]
                before = client.count - base
                got = take(descriptor)
                now = clock()
                for number in range(before, before + got):
                    delays.append(now - sent[number])
            if now >= end and len(delays) == wanted:
                break
            assert now < end + ANSWER_TIMEOUT_S, f"{wanted - len(delays)} frames are missing"
        return Result(len(delays), self.frame_bytes, clock() - started, spread_ms(delays))

    def watch(self) -> Result:
        """Let prices change by themselves, and take the time from the stamp in each frame to this program."""
        delays = array("d")
        stamp, clock = _STAMP.search, time.perf_counter
        self.trigger.send(MARKETS_OPEN.encode())
        started = now = clock()
        end = started + self.plan.seconds
        is_on = True
        heard = started
        while is_on or now < heard + _QUIET_S:
            for descriptor, _ in self.epoll.poll(0, 64):
                client = self.clients[descriptor]
                data = client.sock.recv(RECEIVE_BYTES)
                now = heard = clock()
                assert data, "a client was closed"
                frames, client.rest = cut(client.rest + data if client.rest else data)
                for frame in frames:
                    found = stamp(frame)
                    if found is not None:
                        delays.append(now - int(found[1]) / 1e6)
                        self.frame_bytes = len(frame)
            now = clock()
            if is_on and now >= end:
                is_on = False
                self.trigger.send(MARKETS_CLOSE.encode())
        return Result(len(delays), self.frame_bytes, heard - started, spread_ms(delays))


def main() -> None:
    """Carry out the plan of the command line, once for each line on standard input."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    servers.take_core(servers.LOAD_CORE)
    servers.allow_many_files()
    load = Load(plan)
    load.come_in()
    if plan.mode in ("fan-out", "paced"):
        load.learn()
        load.fan_out(broadcasts=plan.warm)
    print("ready", flush=True)
    while sys.stdin.readline():
        match plan.mode:
            case "fan-out":
                result = load.fan_out(seconds=plan.seconds)
            case "paced":
                result = load.paced()
            case "watch":
                result = load.watch()
            case "return":
                result = exchange_return.Return(load).run()
            case "idle":
                continue
        print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
