"""The load: a process of its own that keeps a server busy and counts what comes back.

Plain non-blocking sockets on one epoll that is polled without ever sleeping. A load that slept would have to be woken
by the server's own writes, the more often the slower the server is, and that costs the server microseconds which no
device across a network costs it. Answers are counted by their size; of every 64th batch they are opened and
must be what they should be, so that a server which says no quickly does not win.

Conversation with whoever started it: it says ``ready`` when all connections stand and are warm, starts at a line on
standard input, says one line of JSON, a ``Result``, and so again at the next line. It keeps its connections until
standard input is closed, so that the server's work of losing them is not counted.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import exchanges
import msgspec
import servers

Kind = Literal["echo", "pap", "ascii", "command"]

_TRAFFIC = {
    "pap": exchanges.pap_traffic,
    "ascii": exchanges.ascii_traffic,
    "command": exchanges.command_traffic,
}
_CHECK_MASK = 63
_ANSWER_TIMEOUT_S = 30.0
_RECEIVE_BYTES = 8_192
_WARM_DEPTH = 16
_WARM_BATCHES_COUNT = 4
_RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""``struct linger`` on, 0 s: no socket stays in TIME_WAIT, however often we connect."""
_SOURCES_COUNT = 200


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What to do.

    Args:
        kind: which exchanges, as ``like`` for echoes of packets of that kind's size.
        depth: exchanges under way on each connection; they go out in one write.
        reconnects: a connection carries one exchange; the plan can be carried out once only.
        idle: after one exchange on each connection, only keep them open until the line on standard input.
    """

    port: int
    kind: Kind
    like: Kind = "echo"
    connections: int = 1
    depth: int = 1
    seconds: float = 1.0
    reconnects: bool = False
    idle: bool = False


class Result(msgspec.Struct, frozen=True):
    """Packets that were answered, exchanges that were completed, in how many seconds."""

    packets: int
    exchanges: int
    seconds: float


class Step(NamedTuple):
    """One write, and how many bytes answer it."""

    data: bytes
    answer_bytes: int


Batch = tuple[Step, ...]


def traffic_of(plan: Plan) -> exchanges.Traffic:
    """Return the exchanges that the plan asks for."""
    single_connect = not plan.reconnects
    if plan.kind != "echo":
        return _TRAFFIC[plan.kind](single_connect=single_connect)
    if plan.like == "echo":
        return exchanges.echo_traffic()
    return exchanges.echo_traffic(_TRAFFIC[plan.like](single_connect=single_connect).exchanges[0])


def batches_of(all_exchanges: Sequence[exchanges.Exchange], depth: int) -> list[Batch]:
    """Return the exchanges in groups of ``depth``, each step of a group ready to be written at once."""
    batches: list[Batch] = []
    for at in range(0, len(all_exchanges) - depth + 1, depth):
        group = all_exchanges[at : at + depth]
        batches.append(
            tuple(
                Step(
                    b"".join(exchange.packets[step] for exchange in group),
                    sum(exchange.answer_bytes[step] for exchange in group),
                )
                for step in range(len(group[0].packets))
            )
        )
    return batches


def socket_of(number: int) -> socket.socket:
    """Return the socket of connection ``number``; thousands come from several addresses of the loopback network."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((f"127.0.0.{2 + number % _SOURCES_COUNT}", 0))
    return sock


def connect(port: int, number: int) -> socket.socket:
    """Open connection ``number``."""
    sock = socket_of(number)
    sock.settimeout(_ANSWER_TIMEOUT_S)
    sock.connect(("127.0.0.1", port))
    return sock


def exchange_now(sock: socket.socket, batch: Batch, check: exchanges.Check) -> None:
    """Carry out one batch, waiting for every answer."""
    answers = b""
    for step in batch:
        sock.sendall(step.data)
        answers = b""
        while len(answers) < step.answer_bytes:
            data = sock.recv(_RECEIVE_BYTES)
            assert data, f"closed after {len(answers)} of {step.answer_bytes} bytes"
            answers += data
        assert len(answers) == step.answer_bytes, "more bytes than the right answers have"
    check(answers)


class Client:
    """One connection of the load: which batch it is in, which step of it, and what has come back so far."""

    __slots__ = ("at", "batch", "recv", "rest", "send", "sock", "step", "wanted")

    def __init__(self, sock: socket.socket, at: int) -> None:
        self.at = at
        self.batch: Batch = ()
        self.step = 0
        self.wanted = 0
        self.rest = b""
        self.take(sock)

    def take(self, sock: socket.socket) -> None:
        """Go on with this socket."""
        sock.setblocking(False)
        self.sock, self.send, self.recv = sock, sock.send, sock.recv


class Load:
    """All connections, one epoll, one clock."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.traffic = traffic_of(plan)
        self.batches = batches_of(self.traffic.exchanges, plan.depth)
        self.clients: dict[int, Client] = {}
        self.epoll = select.epoll()

    def warm_up(self) -> None:
        """Open every connection and let each do some exchanges, so that all paths and caches are warm."""
        plan, check = self.plan, self.traffic.check
        single = batches_of(self.traffic.exchanges, 1)
        warm = batches_of(self.traffic.exchanges, _WARM_DEPTH)[:_WARM_BATCHES_COUNT]
        if plan.reconnects:
            for number, batch in enumerate(single[: len(exchanges.USERS)]):
                with connect(plan.port, number) as sock:
                    exchange_now(sock, batch, check)
        for number in range(plan.connections):
            sock = connect(plan.port, number)
            if not plan.reconnects:
                # RFC 8907 section 4.3: alone, until the first reply has said that more may follow.
                exchange_now(sock, single[number % len(single)], check)
                for batch in () if plan.idle else warm:
                    exchange_now(sock, batch, check)
            self.clients[sock.fileno()] = Client(sock, number)

    def run(self) -> Result:
        """Keep every connection busy for the plan's time, then wait for the last answers."""
        clients, poll = self.clients, self.epoll.poll
        steps_count = len(self.batches[0])
        done = 0
        open_count = len(clients)
        heard = started = time.perf_counter()
        end = started + self.plan.seconds
        for descriptor, client in clients.items():
            self.epoll.register(descriptor, select.EPOLLIN)
            self._begin(client)
        while open_count:
            events = poll(0)
            now = time.perf_counter()
            if not events:
                assert now < heard + _ANSWER_TIMEOUT_S, "no answer for too long"
                continue
            heard = now
            is_over = now >= end
            for descriptor, _ in events:
                client = clients[descriptor]
                data = client.recv(_RECEIVE_BYTES)
                if client.rest or len(data) != client.wanted:
                    data = self._put_together(client, data)
                    if not data:
                        continue
                step = client.step + 1
                if step < steps_count:
                    client.step = step
                    payload, client.wanted = client.batch[step]
                    client.send(payload)
                    continue
                done += 1
                client.at += 1
                if not client.at & _CHECK_MASK:
                    self.traffic.check(data)
                if is_over:
                    open_count -= 1
                    self.epoll.unregister(descriptor)
                else:
                    self._begin_next(descriptor, client)
        completed = done * self.plan.depth
        return Result(completed * steps_count, completed, time.perf_counter() - started)

    def _begin_next(self, descriptor: int, client: Client) -> None:
        if self.plan.reconnects:
            self._reconnect(descriptor, client)
        self._begin(client)

    def _begin(self, client: Client) -> None:
        batch = client.batch = self.batches[client.at % len(self.batches)]
        client.step = 0
        payload, client.wanted = batch[0]
        client.send(payload)

    def _put_together(self, client: Client, data: bytes) -> bytes:
        """Return the whole answer to a step, or nothing while a part of it is missing; refuse a longer one."""
        assert data, f"closed after {len(client.rest)} of {client.wanted} bytes"
        data = client.rest + data
        if len(data) > client.wanted:
            self.traffic.check(data)
            raise AssertionError(f"{len(data)} bytes where the right answers have {client.wanted}")
        client.rest = data if len(data) < client.wanted else b""
        return b"" if client.rest else data

    def _reconnect(self, descriptor: int, client: Client) -> None:
        del self.clients[descriptor]
        client.sock.close()
        client.take(connect(self.plan.port, client.at))
        self.clients[client.sock.fileno()] = client
        self.epoll.register(client.sock.fileno(), select.EPOLLIN)


def main() -> None:
    """Carry out the plan of the command line, as often as it is asked for."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    servers.take_core(servers.LOAD_CORE)
    servers.allow_many_files()
    load = Load(plan)
    load.warm_up()
    print("ready", flush=True)
    while sys.stdin.readline():
        if not plan.idle:
            print(msgspec.json.encode(load.run()).decode(), flush=True)


if __name__ == "__main__":
    main()
