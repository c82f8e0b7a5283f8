"""Lines: the network between one client and the pods, which can be cut, half of it, and clogged.

A line listens on a port of its own, for one client; each connection goes to a pod that chance chooses, as behind a
balancer that does not always know whether a pod is well. Towards pods its buffers are small, so that a client that
reads no more is felt soon, as across a real network. Knows nothing of what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self, cast

from exchange_pods import PodProcess

RECEIVE_BYTES: Final = 2_048
SEGMENT_BYTES: Final = 200
"""What a pod sends in one piece; the kernel measures its own buffer by it. Source: RFC 9293 section 3.7.1."""
KNOWING_SHARE: Final = 0.7
"""Of connections, those for which the balancer knows which pods are well."""
FORGET_S: Final = 30.0
"""When our half of a connection goes that a pod was to take for alive; the pod has closed its own long before."""
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, no seconds: a close sends RST."""


class Passage:
    """One connection of the client, and ours to a pod."""

    def __init__(self, line: Line, pod: PodProcess) -> None:
        self.pod = pod
        self.near: asyncio.Transport | None = None
        self.far: asyncio.Transport | None = None
        self._line = line
        self._early: list[bytes] = []
        self._is_deaf = False

    # From both sides

    def send_far(self, data: bytes) -> None:
        """Pass something on to the pod."""
        if self._is_deaf:
            return
        if self.far is None:
            self._early.append(data)
        elif not self.far.is_closing():
            self.far.write(data)

    def send_near(self, data: bytes) -> None:
        """Pass something on to the client."""
        if self.near is not None and not self.near.is_closing():
            self.near.write(data)

    async def reach(self) -> None:
        """Connect to the pod; where that fails the client hears it."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", self.pod.port))
            await loop.create_connection(lambda: _Far(self), sock=sock)
        except OSError:
            sock.close()
            self.reset()
            return
        for data in self._early:
            self.send_far(data)
        self._early.clear()
        if self.near is None or self.near.is_closing():
            self.reset()

    def ended(self, which: str) -> None:
        """Take note that one side is closed: so is the other, unless it is to believe that nothing has happened."""
        if which == "near":
            self.near = None
            if self.far is not None and not self._is_deaf:
                self.far.close()
        else:
            self.far = None
            if self.near is not None and not self._is_deaf:
                self.near.close()
        if self.near is None and self.far is None:
            self._line.passages.discard(self)

    # What goes wrong

    def reset(self) -> None:
        """Let both sides see a reset."""
        for side in (self.near, self.far):
            _reset(side)

    def lose_client(self) -> None:
        """Let the client see a reset, and the pod nothing at all."""
        self._is_deaf = True
        if self.far is not None:
            self.far.pause_reading()
            asyncio.get_running_loop().call_later(FORGET_S, _reset, self.far)
        _reset(self.near)

    def lose_pod(self) -> None:
        """Let the pod see a reset, and the client nothing at all."""
        self._is_deaf = True
        _reset(self.far)

    def clog(self) -> None:
        """Take nothing more from the pod."""
        if self.far is not None and not self.far.is_closing():
            self.far.pause_reading()

    def clear(self) -> None:
        """Take what comes again."""
        if self.far is not None and not self.far.is_closing() and not self._is_deaf:
            self.far.resume_reading()


class Line:
    """The way of one client; use as ``async with Line(pods, random) as line``.

    Args:
        pods: to which it leads.
        chance: chooses one for each connection.
    """

    def __init__(self, pods: Callable[[], Sequence[PodProcess]], chance: random.Random) -> None:
        self.passages: set[Passage] = set()
        self._pods = pods
        self._chance = chance
        self._tasks = asyncio.TaskGroup()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for passage in tuple(self.passages):
            passage.reset()
        await self._tasks.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        """Where the client finds the pods."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def pod_names(self) -> set[str]:
        """The pods that it is connected to."""
        return {passage.pod.name for passage in self.passages if passage.far is not None}

    def open(self, near: asyncio.Transport) -> Passage:
        """Begin a passage for a connection of the client."""
        pods = self._pods()
        well = [pod for pod in pods if pod.is_well]
        if well and self._chance.random() < KNOWING_SHARE:
            pods = well
        passage = Passage(self, self._chance.choice(pods))
        passage.near = near
        self.passages.add(passage)
        self._tasks.create_task(passage.reach())
        return passage

    def clog(self) -> None:
        """Take nothing more from pods on the connections that there are."""
        for passage in self.passages:
            passage.clog()

    def clear(self) -> None:
        """Take what comes again."""
        for passage in self.passages:
            passage.clear()


class _Near(asyncio.Protocol):
    """The client's side."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._passage = self._line.open(
            cast("asyncio.Transport", transport)
        )  # uvloop's is none of its subclasses

    def data_received(self, data: bytes) -> None:
        self._passage.send_far(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._passage.ended("near")


class _Far(asyncio.Protocol):
    """The pod's side."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._passage.far = cast("asyncio.Transport", transport)  # as above

    def data_received(self, data: bytes) -> None:
        self._passage.send_near(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._passage.ended("far")


def _reset(side: asyncio.Transport | None) -> None:
    if side is None or side.is_closing():
        return
    sock = side.get_extra_info("socket")
    # It may be closed already; uvloop then gives None, or a socket without a descriptor.
    with contextlib.suppress(OSError, AttributeError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    side.abort()
