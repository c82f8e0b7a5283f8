"""Thousands of clients that are cut at once and come back at once, each to resume where it was.

Part of the load: every connection goes through TCP, upgrade, hello, welcome and what it has missed on its own, on one
epoll. A client that is not let in tries again a moment later. What a client is told is compared with what it must be
told: one welcome that says ``full``, then every missed event, in order, none twice. Between cut and return it says
``cut`` and waits for a line.
"""

from __future__ import annotations

import errno
import heapq
import random
import select
import socket
import sys
import time
from typing import Final

import msgspec
from exchange_clients import Clients, Result, cut, payload_of, spread_ms
from load import socket_of

_RETRY_S: Final = (0.05, 0.25)
"""A client's wait before it tries again: the short end of what our welcome advises."""
_WITHIN_S: Final = 60.0
_RECEIVE_BYTES: Final = 65_536
_RESUME = b',"resume":{"epoch":%d,"events":%d,"md":%d,"pf":%d}'

_CONNECTING, _UPGRADING, _RESUMING, _WELCOME, _BACK = range(5)


class Cursor(msgspec.Struct):
    """Where a client stands."""

    epoch: int
    events: int
    md: int
    pf: int


class Welcome(msgspec.Struct, tag="welcome", tag_field="t"):
    """What of a welcome is looked at."""

    epoch: int
    events: int
    md: int
    pf: int
    resumed: str
    recovered: int


class Missed(msgspec.Struct, tag="ev", tag_field="t"):
    """What of an event is looked at."""

    o: int


class Market(msgspec.Struct, tag="md", tag_field="t"):
    """What of prices is looked at."""

    r: int


class Portfolio(msgspec.Struct, tag="pf", tag_field="t"):
    """What of a portfolio is looked at."""

    r: int


_read_state = msgspec.json.Decoder(Market | Portfolio).decode


def cursor_of(greetings: list[bytes]) -> Cursor:
    """Return where a client stands after what it was greeted with."""
    said = msgspec.json.decode(greetings[0], type=Welcome)
    cursor = Cursor(said.epoch, said.events + said.recovered, said.md, said.pf)
    for payload in greetings:
        if payload.startswith((b'{"t":"md"', b'{"t":"pf"')):
            state = _read_state(payload)
            if isinstance(state, Market):
                cursor.md = state.r
            else:
                cursor.pf = state.r
    return cursor


class Returning:
    """One client on its way back."""

    __slots__ = ("cursor", "end", "number", "rest", "sock", "step")

    def __init__(self, number: int, cursor: Cursor, missed: int) -> None:
        self.number = number
        self.cursor = cursor
        self.end = cursor.events + missed
        self.step = _CONNECTING
        self.rest = b""
        self.sock: socket.socket


class Return:
    """The return of all clients of a load, which have said hello before.

    Args:
        load: whose clients they are.
    """

    def __init__(self, load: Clients) -> None:
        self._load = load
        self._epoll = select.epoll()
        self._on_the_way: dict[int, Returning] = {}
        self._waiting: list[tuple[float, int]] = []
        self._clients: list[Returning] = []
        self._back_s: list[float] = []
        self._events = 0
        self._retries = 0
        self._started = 0.0
        self._draw = random.Random(1)  # noqa: S311 - waits, not secrets

    def run(self) -> Result:
        """Cut everybody, let there be what they miss, and wait until all are back and have it."""
        load = self._load
        for client in load.clients.values():
            self._clients.append(Returning(client.number, cursor_of(client.greetings), load.plan.missed))
        for client in load.clients.values():
            client.sock.close()
        load.trigger.settimeout(_WITHIN_S)
        for _ in range(load.plan.missed):
            load.trigger.sendall(load.plan.trigger.encode())
            assert load.trigger.recv(1), "the server is gone"
        print("cut", flush=True)
        assert sys.stdin.readline(), "whoever measures is gone"
        self._started = time.perf_counter()
        for place in range(len(self._clients)):
            self._begin(place)
        while len(self._back_s) < len(self._clients):
            now = time.perf_counter()
            assert now < self._started + _WITHIN_S, f"{len(self._clients) - len(self._back_s)} are not back"
            while self._waiting and self._waiting[0][0] <= now:
                self._begin(heapq.heappop(self._waiting)[1])
            for descriptor, _ in self._epoll.poll(0):
                self._go_on(descriptor, self._on_the_way[descriptor])
        wanted = len(self._clients) * load.plan.missed
        assert self._events == wanted, f"{self._events} events instead of {wanted}"
        seconds = time.perf_counter() - self._started
        return Result(self._events, 0, seconds, spread_ms(self._back_s), self._retries)

    def _begin(self, place: int) -> None:
        client = self._clients[place]
        sock = client.sock = socket_of(client.number)
        sock.setblocking(False)
        error = sock.connect_ex(("127.0.0.1", self._load.plan.port))
        assert error in (0, errno.EINPROGRESS), errno.errorcode[error]
        client.step, client.rest = _CONNECTING, b""
        self._on_the_way[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _again(self, descriptor: int, client: Returning) -> None:
        """Try again in a moment."""
        del self._on_the_way[descriptor]
        client.sock.close()
        self._retries += 1
        heapq.heappush(self._waiting, (time.perf_counter() + self._draw.uniform(*_RETRY_S), client.number))

    def _go_on(self, descriptor: int, client: Returning) -> None:
        load = self._load
        if client.step == _CONNECTING:
            if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._again(descriptor, client)
                return
            client.sock.send(load.handshake(client.number))
            client.step = _UPGRADING
            self._epoll.modify(descriptor, select.EPOLLIN)
            return
        try:
            data = client.sock.recv(_RECEIVE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            assert client.step == _UPGRADING, "a client that was let in was closed"
            self._again(descriptor, client)
            return
        client.rest += data
        if client.step == _UPGRADING and b"\r\n\r\n" in client.rest:
            head, _, client.rest = client.rest.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                assert head[9:12] in (b"429", b"503"), head
                self._again(descriptor, client)
                return
            cursor = client.cursor
            resume = _RESUME % (cursor.epoch, cursor.events, cursor.md, cursor.pf)
            client.sock.send(load.hello(resume))
            client.step = _RESUMING
        if client.step >= _RESUMING:
            self._read_frames(client)

    def _read_frames(self, client: Returning) -> None:
        frames, client.rest = cut(client.rest)
        cursor = client.cursor
        for frame in frames:
            payload = payload_of(frame)
            if payload.startswith(b'{"t":"welcome"'):
                said = msgspec.json.decode(payload, type=Welcome)
                assert (said.resumed, said.epoch, said.events) == ("full", cursor.epoch, cursor.events), (
                    payload
                )
                assert said.recovered == self._load.plan.missed, payload
                client.step = _WELCOME
            elif payload.startswith(b'{"t":"ev"'):
                event = msgspec.json.decode(payload, type=Missed)
                assert event.o == cursor.events + 1, f"event {event.o} behind event {cursor.events}"
                cursor.events = event.o
                self._events += 1
        if client.step == _WELCOME and cursor.events == client.end:
            client.step = _BACK
            self._back_s.append(time.perf_counter() - self._started)
