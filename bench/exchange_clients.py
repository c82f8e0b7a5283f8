"""The clients of ``exchange.py``'s load: how thousands of WebSockets come in, and how their frames are cut.

By hand, as a WebSocket library would cost the load more than the servers that it measures. Knows no measurement.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
from load import connect

Kind = Literal["plain", "socket.io", "session"]
Mode = Literal["fan-out", "paced", "watch", "idle", "return"]

EVENT: Final = "e"
"""The trigger of a broadcast of one frame."""

DEVICE: Final = "d1"
RECEIVE_BYTES: Final = 262_144
ANSWER_TIMEOUT_S: Final = 30.0
TEXT: Final = 0x81
_QUIET_S = 0.2
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_SHORTEST_HEADER_BYTES = 2
_LONGEST_7_BITS = 125
_LONGEST_16_BITS = 126
_CLOSE = 0x88
_HELLO = b'{"t":"hello","id":"h","device":"%b"%b}'


class Place(msgspec.Struct, frozen=True):
    """Where a client goes: the path of the WebSocket, and the token that it shows there."""

    path: str
    token: str


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What to do.

    Args:
        kind: how a client comes in.
        path: of the WebSocket.
        places: a file with a list of :class:`Place`, taken in turn in the place of ``path``.
        mode: ``fan-out``: the next trigger when all clients have a frame, ``window`` of them under way. ``paced``:
            triggers at random moments, ``rate_per_s`` of them on average. ``watch``: prices change by themselves, and
            say when. ``idle``: nothing. ``return``: all are cut, ``missed`` triggers follow, all come back.
        trigger: the byte that is sent.
        warm: triggers before the measurement.
    """

    port: int
    trigger_port: int
    kind: Kind = "plain"
    path: str = "/"
    places: str = ""
    mode: Mode = "fan-out"
    trigger: str = EVENT
    clients: int = 500
    window: int = 1
    warm: int = 100
    seconds: float = 1.0
    rate_per_s: float = 0.0
    missed: int = 0


class Result(msgspec.Struct, frozen=True):
    """What came back.

    Args:
        frames: that clients got.
        frame_bytes: of one, its header included.
        delays_ms: median, 99th of 100, and longest: from trigger or stamp to client, or from the cut until a client
            is back.
        retries: connections that had to be tried again.
    """

    frames: int
    frame_bytes: int
    seconds: float
    delays_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    retries: int = 0


def masked(payload: bytes) -> bytes:
    """Return a client's text frame; its mask is zero, which is as good as any on loopback."""
    size = len(payload)
    if size <= _LONGEST_7_BITS:
        return bytes((TEXT, 0x80 | size)) + bytes(4) + payload
    return bytes((TEXT, 0x80 | _LONGEST_16_BITS)) + size.to_bytes(2, "big") + bytes(4) + payload


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole frames at the front, each with its header, and what is left."""
    frames, at, end = [], 0, len(data)
    while end - at >= _SHORTEST_HEADER_BYTES:
        size, head = data[at + 1], _SHORTEST_HEADER_BYTES
        if size > _LONGEST_7_BITS:
            width = 2 if size == _LONGEST_16_BITS else 8
            head += width
            size = int.from_bytes(data[at + 2 : at + head], "big")
        if end - at < head + size:
            break
        frames.append(data[at : at + head + size])
        at += head + size
    return frames, data[at:]


def payload_of(frame: bytes) -> bytes:
    """Return what is behind a frame's header."""
    size = frame[1]
    return frame[2 if size <= _LONGEST_7_BITS else 4 if size == _LONGEST_16_BITS else 10 :]


def spread_ms(delays_s: Iterable[float]) -> tuple[float, float, float]:
    """Return median, 99th of 100, and longest."""
    ordered = sorted(delays_s)
    median, late, last = (
        ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in (0.5, 0.99, 1.0)
    )
    return median * 1e3, late * 1e3, last * 1e3


class Client:
    """One connection: what is left of what it got, how many broadcasts it has, and what it was greeted with."""

    __slots__ = ("count", "greetings", "number", "recv_into", "rest", "sock")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.recv_into = sock.recv_into
        self.rest = b""
        self.greetings: list[bytes] = []
        self.count = 0


class Clients:
    """All clients of a load, on one epoll.

    Life: made by the load's program, gone with it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.places: list[Place] = []
        if plan.places:
            self.places = msgspec.json.decode(Path(plan.places).read_bytes(), type=list[Place])
        self.trigger = socket.create_connection(("127.0.0.1", plan.trigger_port))
        self.trigger.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Coming in

    def handshake(self, number: int) -> bytes:
        """Return the upgrade request of a client."""
        plan = self.plan
        place = self.places[number % len(self.places)] if self.places else Place(plan.path, "")
        lines = [
            f"GET {place.path} HTTP/1.1",
            f"Host: 127.0.0.1:{plan.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {_KEY.decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        if plan.kind == "session":
            lines.append("Sec-WebSocket-Protocol: session.v1.json")
        if place.token:
            lines.append(f"Authorization: Bearer {place.token}")
        return "\r\n".join((*lines, "", "")).encode()

    def hello(self, resume: bytes = b"") -> bytes:
        """Return a client's first frame; empty if there is none in its kind."""
        if self.plan.kind == "socket.io":
            return masked(b"40")
        return masked(_HELLO % (DEVICE.encode(), resume)) if self.plan.kind == "session" else b""

    def come_in(self) -> None:
        """Bring every client in, one after the other, and wait until nothing more is said to them."""
        for number in range(self.plan.clients):
            sock = connect(self.plan.port, number)
            sock.sendall(self.handshake(number))
            answer = b""
            while b"\r\n\r\n" not in answer:
                data = sock.recv(RECEIVE_BYTES)
                assert data, f"closed in the handshake after {answer!r}"
                answer += data
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            client = Client(sock, number)
            client.rest = answer.partition(b"\r\n\r\n")[2]
            sock.sendall(self.hello())
            sock.setblocking(False)
            self.clients[sock.fileno()] = client
            self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.take_greetings()

    def read_until_quiet(self) -> None:
        """Read until nothing has come for a moment."""
        quiet_since = time.perf_counter()
        while time.perf_counter() - quiet_since < _QUIET_S:
            for descriptor, _ in self.epoll.poll(0):
                client = self.clients[descriptor]
                client.rest += client.sock.recv(RECEIVE_BYTES)
                quiet_since = time.perf_counter()

    def take_greetings(self) -> None:
        """See that everybody has been greeted, and is not sent away."""
        self.read_until_quiet()
        for client in self.clients.values():
            frames, client.rest = cut(client.rest)
            greetings = b" ".join(payload_of(frame) for frame in frames)
            assert not any(frame[0] == _CLOSE for frame in frames), greetings
            if self.plan.kind != "plain":
                assert (b'"welcome"' if self.plan.kind == "session" else b"40{") in greetings, greetings
                client.greetings = [payload_of(frame) for frame in frames]
