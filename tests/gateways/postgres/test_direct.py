"""The writer past the event loop's queue: what it takes on itself, and what it leaves to the transport."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from sojourn.gateways.postgres import direct

TWINS = [direct.pure_writer] + ([direct.COMPILED_WRITER] if direct.COMPILED_WRITER is not None else [])
"""Both must keep every rule."""


class Queue:
    """What a transport does with a write: keeps it in order, and says how much waits."""

    def __init__(self) -> None:
        self.kept = b""
        self.is_closing = False

    def write(self, data: bytes) -> None:
        """Keep."""
        self.kept += data

    def waiting_bytes(self) -> int:
        """Return how much waits."""
        return len(self.kept)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends that know each other; ours does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=TWINS, ids=["pure", "compiled"][: len(TWINS)])
def writing(request, pair):
    """Return a writer with its queue and the other end."""
    queue = Queue()
    write = request.param(pair[0].fileno(), queue.waiting_bytes, lambda: queue.is_closing, queue.write)
    return write, queue, pair[1]


def test_what_the_socket_takes_is_never_queued(writing) -> None:
    """The purpose of it all."""
    write, queue, theirs = writing
    write(b"SELECT 1")
    assert (theirs.recv(100), queue.kept) == (b"SELECT 1", b"")


def test_nothing_overtakes_what_waits(writing) -> None:
    """While the transport has something in its queue, everything else stands behind it."""
    write, queue, theirs = writing
    queue.kept = b"first "
    write(b"second")
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert queue.kept == b"first second"


def test_a_closing_transport_s_descriptor_is_left_alone(writing) -> None:
    """Its number may belong to another client already."""
    write, queue, theirs = writing
    queue.is_closing = True
    write(b"not for others")
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert queue.kept == b"not for others"


def test_what_the_socket_does_not_take_waits_in_the_queue(writing) -> None:
    """A peer that reads slowly gets every byte, in order."""
    write, queue, theirs = writing
    data = bytes(range(256)) * 40_000
    write(data)
    taken = b""
    while len(taken) + len(queue.kept) < len(data):
        taken += theirs.recv(1 << 20)
    assert 0 < len(queue.kept) < len(data)
    assert taken + queue.kept == data


def test_a_socket_that_is_full_leaves_the_whole_write_to_the_queue(writing) -> None:
    """Nothing is taken, so nothing may be lost."""
    write, queue, _ = writing
    write(bytes(10_000_000))
    queue.kept = b""  # as if the transport had got rid of it into a socket that is full again
    write(b"later")
    assert queue.kept == b"later"


def test_a_broken_socket_is_the_transport_s_to_find(writing) -> None:
    """The error reaches the protocol by the usual way, connection_lost."""
    write, queue, theirs = writing
    theirs.close()
    write(b"into the void")
    assert queue.kept == b"into the void"


def test_asyncio_s_own_transports_write_at_once_themselves() -> None:
    """Past them there is nothing to gain."""

    async def writer() -> bool:
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            try:
                return direct.writer_of(transport) == transport.write
            finally:
                transport.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(writer())
