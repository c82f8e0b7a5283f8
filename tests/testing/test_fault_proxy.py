"""The proxy does what its script says, to the byte."""

from __future__ import annotations

import asyncio
import io
import socket

import pytest

from sojourn.testing import CaptureWriter, FaultProxy, Faults, ManualClock, Script


class Upstream:
    """A server that keeps what it gets, piece by piece, and answers each with itself."""

    def __init__(self):
        self.pieces = []
        self.is_over = asyncio.Event()
        self.error = None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while data := await reader.read(65536):
                self.pieces.append(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError as error:
            self.error = error
        writer.close()
        self.is_over.set()


async def dial(proxy):
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return reader, writer


def test_without_a_script_everything_passes_both_ways(run):
    """And a half-close passes too."""

    async def main():
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port) as proxy:
            reader, writer = await dial(proxy)
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"hello"
            writer.close()
            connection = await proxy.connection(0)
            await connection.is_over.wait()
            assert (connection.bytes_to_server, connection.bytes_to_client) == (5, 5)

    run(main())


def test_a_cut_lets_so_many_bytes_pass_and_closes_in_order(run):
    """``cut_after_bytes``: the server sees a short packet and the end."""

    async def main():
        script = Script(to_server=Faults(cut_after_bytes=3))
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port, script) as proxy:
            _, writer = await dial(proxy)
            writer.write(b"hello")
            await upstream.is_over.wait()
            assert b"".join(upstream.pieces) == b"hel"
            assert upstream.error is None
            writer.close()

    run(main())


def test_a_reset_is_a_reset_on_both_sides(run):
    """``reset_after_bytes``: RST, not FIN."""

    async def main():
        script = Script(to_client=Faults(reset_after_bytes=4))
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port, script) as proxy:
            reader, writer = await dial(proxy)
            writer.write(b"hello")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(5)
            writer.close()

    run(main())


def test_one_byte_at_a_time(run):
    """``piece_bytes``: the bytes are the same, the pieces are not one."""

    async def main():
        script = Script(to_server=Faults(piece_bytes=1, delay_s=0.001))
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port, script) as proxy:
            reader, writer = await dial(proxy)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert len(upstream.pieces) > 1
            writer.close()

    run(main())


def test_one_byte_is_damaged_wherever_the_pieces_end(run):
    """``damage_at`` counts from the first byte of the connection."""

    async def main():
        script = Script(to_server=Faults(damage_at=6))
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port, script) as proxy:
            reader, writer = await dial(proxy)
            for piece in (b"abcd", b"efgh"):
                writer.write(piece)
                got = await reader.readexactly(4)
            assert got == bytes([ord("e"), ord("f"), ord("g") ^ 0xFF, ord("h")])
            writer.close()

    run(main())


def test_a_stall_keeps_the_connection_open_and_silent(run):
    """``stall_after_bytes`` in one direction leaves the other alone; leaving the proxy ends both."""

    async def main():
        script = Script(to_server=Faults(stall_after_bytes=2))
        async with Upstream() as upstream:
            async with FaultProxy("127.0.0.1", upstream.port, script) as proxy:
                reader, writer = await dial(proxy)
                writer.write(b"hello")
                assert await reader.readexactly(2) == b"he"
                assert not upstream.is_over.is_set()
            await upstream.is_over.wait()
            assert b"".join(upstream.pieces) == b"he"
            writer.close()

    run(main())


def test_a_connection_can_be_stalled_and_resumed_by_hand(run):
    """For faults at a moment that only the test knows."""

    async def main():
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port) as proxy:
            reader, writer = await dial(proxy)
            connection = await proxy.connection(0)
            connection.stall()
            writer.write(b"hello")
            await writer.drain()
            assert connection.bytes_to_server == 0
            connection.resume()
            assert await reader.readexactly(5) == b"hello"
            connection.cut()
            assert await reader.read() == b""
            writer.close()

    run(main())


def test_each_connection_follows_its_own_line_of_the_script(run):
    """The last line holds for all that follow."""

    async def main():
        script = (Script(to_server=Faults(cut_after_bytes=0)), Script())
        async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port, *script) as proxy:
            answers = []
            for _ in range(3):
                reader, writer = await dial(proxy)
                writer.write(b"hi")
                writer.write_eof()
                answers.append(await reader.read())
                writer.close()
            assert answers == [b"", b"hi", b"hi"]

    run(main())


def test_a_server_that_is_not_there_is_a_reset(run):
    """The proxy accepts first: it cannot refuse what it has accepted."""

    async def main():
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.close()
        async with FaultProxy("127.0.0.1", port) as proxy:
            reader, writer = await dial(proxy)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(main())


def test_what_passes_can_be_captured(run):
    """The capture holds the bytes as they were sent, before the damage."""

    async def main():
        stream = io.BytesIO()
        capture = CaptureWriter(stream, ManualClock())
        script = Script(to_server=Faults(damage_at=0))
        async with (
            Upstream() as upstream,
            FaultProxy("127.0.0.1", upstream.port, script, capture=capture) as proxy,
        ):
            reader, writer = await dial(proxy)
            writer.write(b"\x01")
            assert await reader.readexactly(1) == b"\xfe"
            writer.close()
        assert stream.getvalue().splitlines() == [
            b'{"at_s":0.0,"direction":"in","hex":"01"}',
            b'{"at_s":0.0,"direction":"out","hex":"fe"}',
        ]

    run(main())
