"""A TCP proxy that does to a connection what networks do: cut, delay, split, damage, stall, reset.

Stands between a client and a server on loopback; each connection follows its line of a script. Knows nothing of
what passes through.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from sojourn.testing.capture import CaptureWriter

_READ_BYTES = 65_536
_LINGER_NONE = struct.pack("ii", 1, 0)
"""SO_LINGER on, no seconds: a close sends RST."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to the bytes of one direction; offsets count from the connection's first byte.

    Args:
        cut_after_bytes: let so many bytes pass, then close both sides in order.
        reset_after_bytes: let so many bytes pass, then reset both sides.
        stall_after_bytes: let so many bytes pass, then read no more but keep everything open.
        damage_at: flip every bit of the byte at this offset.
        piece_bytes: pass bytes on in pieces of this size, each in a segment of its own; 0 = as they come.
        delay_s: hold each piece back for so long.
    """

    cut_after_bytes: int | None = None
    reset_after_bytes: int | None = None
    stall_after_bytes: int | None = None
    damage_at: int | None = None
    piece_bytes: int = 0
    delay_s: float = 0.0


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of one connection, by direction; none by default."""

    to_server: Faults = Faults()
    to_client: Faults = Faults()


class ProxiedConnection:
    """One connection through the proxy.

    Life: made at its accept; over when both sides are closed. The methods do by hand what a script does by counting.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bytes_to_server = self.bytes_to_client = 0
        self.is_over = asyncio.Event()
        self._flows = asyncio.Event()
        self._flows.set()
        self._ended = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    def stall(self) -> None:
        """Pass nothing on until :meth:`resume`, in both directions."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass bytes on again."""
        self._flows.set()

    def cut(self) -> None:
        """Close both sides in order."""
        self._ended.set()
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        """Reset both sides."""
        self._ended.set()
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            # It may be closed already; uvloop then gives None, or a socket without a descriptor.
            with suppress(OSError, AttributeError, ValueError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            writer.transport.abort()


class FaultProxy:
    """Listens on a loopback port and passes every connection on to a server, with the faults of its script.

    ::

        async with FaultProxy("127.0.0.1", port, Script(to_server=Faults(cut_after_bytes=5))) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)

    Args:
        host: where the server is.
        port: its port.
        script: the faults of the first connection, of the second, and so on; the last one holds for all that follow.
        capture: writes down what passes, before any damage.
    """

    def __init__(self, host: str, port: int, *script: Script, capture: CaptureWriter | None = None) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.connections: list[ProxiedConnection] = []
        """Every connection so far, oldest first."""
        self._target = host, port
        self._script: Sequence[Script] = script or (Script(),)
        self._capture = capture
        self._tasks = asyncio.TaskGroup()
        self._server: asyncio.Server | None = None
        self._accepted = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            connection.resume()
            connection.reset()
        await self._tasks.__aexit__(kind, error, trace)

    async def connection(self, index: int) -> ProxiedConnection:
        """Wait until a connection was accepted and return it."""
        async with self._accepted:
            await self._accepted.wait_for(lambda: len(self.connections) > index)
        return self.connections[index]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = ProxiedConnection(self._script[min(len(self.connections), len(self._script) - 1)])
        connection._writers.append(writer)  # noqa: SLF001 - the proxy's own
        self.connections.append(connection)
        self._tasks.create_task(self._serve(connection, reader, writer))

    async def _serve(
        self, connection: ProxiedConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with self._accepted:
            self._accepted.notify_all()
        try:
            try:
                there, here = await asyncio.open_connection(*self._target)
            except OSError:
                connection.reset()
                return
            connection._writers.append(here)  # noqa: SLF001 - the proxy's own
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(connection, reader, here, is_to_server=True))
                both.create_task(self._pass_on(connection, there, writer, is_to_server=False))
        finally:
            connection.cut()
            for each in connection._writers:  # noqa: SLF001 - the proxy's own
                with suppress(OSError):
                    await each.wait_closed()
            connection.is_over.set()

    async def _pass_on(
        self,
        connection: ProxiedConnection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_to_server: bool,
    ) -> None:
        faults = connection.script.to_server if is_to_server else connection.script.to_client
        passed = 0
        # The other side is gone: its own direction says so. uvloop says RuntimeError of a closed transport.
        with suppress(OSError, RuntimeError):
            while data := await reader.read(_READ_BYTES):
                if self._capture is not None:
                    self._capture.note("in" if is_to_server else "out", data)
                for piece in _pieces(_damaged(data, faults.damage_at, passed), faults):
                    let, does_end = _let_through(piece, passed, faults)
                    if faults.delay_s:
                        await asyncio.sleep(faults.delay_s)
                    await connection._flows.wait()  # noqa: SLF001 - the proxy's own
                    writer.write(let)
                    await writer.drain()
                    passed += len(let)
                    if is_to_server:
                        connection.bytes_to_server = passed
                    else:
                        connection.bytes_to_client = passed
                    if does_end:
                        await _end(connection, faults, passed)
                        return
            if not writer.is_closing():
                writer.write_eof()


async def _end(connection: ProxiedConnection, faults: Faults, passed: int) -> None:
    """Do what the script says after so many bytes."""
    if passed == faults.reset_after_bytes:
        connection.reset()
    elif passed == faults.cut_after_bytes:
        connection.cut()
    else:
        await connection._ended.wait()  # noqa: SLF001 - the proxy's own


def _pieces(data: bytes, faults: Faults) -> Sequence[bytes]:
    size = faults.piece_bytes or len(data)
    return [data[start : start + size] for start in range(0, len(data), size)]


def _damaged(data: bytes, damage_at: int | None, passed: int) -> bytes:
    if damage_at is None or not passed <= damage_at < passed + len(data):
        return data
    changed = bytearray(data)
    changed[damage_at - passed] ^= 0xFF
    return bytes(changed)


def _let_through(piece: bytes, passed: int, faults: Faults) -> tuple[bytes, bool]:
    """Return how much of ``piece`` passes and whether a fault comes after it."""
    marks = (faults.cut_after_bytes, faults.reset_after_bytes, faults.stall_after_bytes)
    nearest = min((mark for mark in marks if mark is not None), default=None)
    if nearest is None or passed + len(piece) < nearest:
        return piece, False
    return piece[: nearest - passed], True
