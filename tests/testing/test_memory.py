"""The transport in memory keeps asyncio's promises, so that what runs on it runs on a socket."""

from __future__ import annotations

import asyncio
import errno

import pytest

from sojourn.core.gateway import Gateway
from sojourn.core.peer import Peer
from sojourn.core.router import Router
from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings, ListenerSettings
from sojourn.errors import ConfigError
from sojourn.sansio.framing import LineFraming
from sojourn.testing import connect, dial, memory_pair
from sojourn.testing.memory import streams


class Notes(asyncio.Protocol):
    """Writes down what a transport calls."""

    def __init__(self, *, keeps_open=False):
        self.calls = []
        self.data = b""
        self.keeps_open = keeps_open
        self.is_lost = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data):
        self.calls.append(len(data))
        self.data += data

    def eof_received(self):
        self.calls.append("eof")
        return self.keeps_open

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")

    def connection_lost(self, error):
        self.calls.append(type(error).__name__ if error else "lost")
        self.is_lost.set()


def pair(**options):
    ours, theirs = memory_pair(asyncio.get_running_loop(), {"peername": ("192.0.2.1", 7)}, **options)
    server, client = Notes(), Notes()
    ours.begin(server)
    theirs.begin(client)
    return server, client


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


def test_bytes_arrive_in_order_and_in_a_later_turn_of_the_loop(run):
    """write() never calls the other side's protocol directly."""

    async def main():
        server, client = pair()
        client.transport.writelines([b"one ", b"two"])
        assert server.data == b""
        await turns()
        assert server.calls == ["made", 7]
        assert server.data == b"one two"

    run(main())


def test_a_writer_is_paused_above_its_high_water_mark_and_resumed_below_its_low_one(run):
    """asyncio.WriteTransport.set_write_buffer_limits: pause above high, resume at or below low."""

    async def main():
        server, client = pair(piece_bytes=100)
        client.transport.set_write_buffer_limits(high=1000, low=200)
        server.transport.pause_reading()
        client.transport.write(bytes(1000))
        assert client.calls == ["made"]
        client.transport.write(bytes(1))
        assert client.calls == ["made", "pause"]
        assert client.transport.get_write_buffer_size() == 1001
        await turns()
        assert server.data == b""
        server.transport.resume_reading()
        await turns()
        assert client.calls == ["made", "pause", "resume"]
        assert len(server.data) == 1001
        assert client.transport.get_write_buffer_limits() == (200, 1000)

    run(main())


def test_half_close_tells_the_peer_and_leaves_the_other_direction_open(run):
    """write_eof: eof_received comes after the last byte; a true answer keeps the transport open."""

    async def main():
        server, client = pair()
        server.keeps_open = True
        client.transport.write(b"question")
        client.transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            client.transport.write(b"more")
        await turns()
        assert server.calls == ["made", 8, "eof"]
        server.transport.write(b"answer")
        server.transport.close()
        await turns()
        assert client.data == b"answer"
        assert client.calls[-2:] == ["eof", "lost"]
        assert server.calls[-1] == "lost"

    run(main())


def test_a_close_sends_what_is_unsent_first(run):
    """close(): buffered data is flushed, then connection_lost(None) on both sides, once."""

    async def main():
        server, client = pair(piece_bytes=10)
        client.transport.write(bytes(95))
        client.transport.close()
        assert client.transport.is_closing()
        client.transport.write(b"too late")
        await turns()
        assert len(server.data) == 95
        assert server.calls[-2:] == ["eof", "lost"]
        assert client.calls == ["made", "lost"]

    run(main())


def test_an_abort_is_a_reset_for_the_peer(run):
    """abort(): unsent bytes are dropped; the other side gets ConnectionResetError."""

    async def main():
        server, client = pair()
        client.transport.write(b"never seen")
        client.transport.abort()
        await turns()
        assert client.calls == ["made", "lost"]
        assert server.calls == ["made", "ConnectionResetError"]

    run(main())


def test_writing_to_a_peer_that_has_closed_is_a_reset(run):
    """As TCP: bytes for a closed socket are answered with RST."""

    async def main():
        server, client = pair()
        server.keeps_open = True
        client.transport.close()
        await turns()
        assert server.calls == ["made", "eof"]
        server.transport.write(b"anybody there?")
        await turns()
        assert server.calls[-1] == "ConnectionResetError"

    run(main())


def test_a_protocol_that_raises_loses_its_connection_only(run):
    """As every loop: the error goes to the exception handler, the transport is closed."""

    async def main():
        told = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: told.append(context["exception"])
        )
        server, client = pair()
        error = ZeroDivisionError()

        def fails(_data):
            raise error

        server.data_received = fails
        client.transport.write(b"x")
        await turns()
        assert told == [error]
        assert server.calls[-1] == "lost"
        assert client.calls[-1] == "ConnectionResetError"

    run(main())


def test_pieces_of_one_byte_arrive_one_by_one(run):
    """``piece_bytes``: a peer that sends one byte at a time."""

    async def main():
        server, client = pair(piece_bytes=1)
        client.transport.write(b"abc")
        await turns()
        assert server.calls == ["made", 1, 1, 1]

    run(main())


class Echo(Gateway):
    name = "echo"
    router = Router()
    limits = LimitSettings(connections_per_peer_count=2)

    def __init__(self):
        self.framing = LineFraming()

    def admit(self, peer):
        peer.context = "known"


@Echo.router.on(bytes)
def shout(session, message):
    session.reply(message.upper() + b"\n")


async def started(*addresses):
    server = Server()
    server.add(Echo(), [ListenerSettings(address=address) for address in addresses])
    await server.start()
    return server


def test_a_client_in_memory_talks_to_a_gateway_of_a_started_server(run):
    """``connect`` needs no listener; the peer is who the test says."""

    async def main():
        server = await started()
        peer = Peer("192.0.2.9", 4000)
        reader, writer = connect(server, "echo", peer=peer)
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        assert peer.context == "known"
        writer.close()
        await writer.wait_closed()
        await server.stop()

    run(main())


def test_a_listener_in_memory_has_a_name_that_is_taken_once(run):
    """Address ``memory:name``: refused when taken, free again after the stop, unknown names refuse."""

    async def main():
        server = await started("memory:test")
        with pytest.raises(OSError, match="memory:test") as second:
            await started("memory:test")
        assert second.value.errno == errno.EADDRINUSE
        reader, writer = streams(dial("memory:test"))
        assert writer.get_extra_info("peername") == "memory:test"
        writer.write(b"a\nb\n")
        assert await reader.readexactly(4) == b"A\nB\n"
        await server.stop()
        assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            dial("memory:test")
        writer.close()

    run(main())


def test_limits_hold_in_memory_too(run):
    """The manager admits before the first read, whatever the transport."""

    async def main():
        server = await started()
        writers = [connect(server, "echo", peer=Peer("192.0.2.1", port))[1] for port in (1, 2)]
        reader, writer = connect(server, "echo", peer=Peer("192.0.2.1", 3))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert server.managers["echo"].connections_refused == 1
        for each in (*writers, writer):
            each.close()
        await server.stop()

    run(main())


def test_tls_in_memory_is_a_mistake_of_the_operator(run):
    """Nothing declared is silently ignored."""

    async def main():
        server = Server()
        server.add(Echo(), [ListenerSettings(address="memory:x", proxy_protocol=True)])
        with pytest.raises(ConfigError, match="memory:x"):
            await server.start()

    run(main())
