"""In memory: two ends that behave as a TCP connection does, and a listener for them, without a socket.

For tests, and for a client that lives in the server's own process. An end has no kernel buffer behind it: what
its peer does not read stays in the writer's own buffer, so that water marks are met exactly. Knows nothing of
sessions or protocols.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sojourn.core.connection import Connection
from sojourn.core.events import EventKind
from sojourn.core.peer import Peer
from sojourn.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sojourn.core.manager import ConnectionManager
    from sojourn.core.settings import ListenerSettings

LISTENING_IN_MEMORY = EventKind("listener.started_in_memory", ("gateway", "address"))

PREFIX = "memory:"
"""How the address of a listener in memory begins."""
PIECE_BYTES = 65_536
"""How much one end gives the other per turn of the loop, unless told otherwise."""
_HIGH_BYTES = 65_536
"""asyncio's own high-water mark of a transport; the low one is a quarter of it."""

_listening: dict[str, MemoryListener] = {}
"""Names are taken once per process, as ports are once per machine."""


class MemoryTransport(asyncio.Transport):
    """One end of a pair.

    Life: made by :func:`memory_pair`, silent until :meth:`begin` gives it a protocol, over at ``connection_lost``.
    Always true: bytes arrive in order; an end of file arrives after them; ``connection_lost`` comes exactly once,
    and in a turn of the loop of its own.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        extra: Mapping[str, Any] | None = None,
        *,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        super().__init__(extra)
        self.piece_bytes = piece_bytes
        self._loop = loop
        self._peer = self
        self._protocol: asyncio.Protocol | None = None
        self._unsent = bytearray()
        self._high, self._low = _HIGH_BYTES, _HIGH_BYTES // 4
        self._is_reading = True
        self._is_closing = self._is_lost = False
        self._ends_writing = self._ended_writing = False
        self._eof_waits = False
        self._paused_protocol = False
        self._is_pump_due = False

    # What a protocol and its owner call

    def begin(self, protocol: asyncio.Protocol) -> None:
        """Give the end to ``protocol``: it is told of the connection, then of what has arrived meanwhile."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._look_for_more()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; above the high-water mark the protocol is told to pause."""
        if self._ends_writing:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_closing or not data:
            return
        self._unsent += data
        if len(self._unsent) > self._high and not self._paused_protocol and self._protocol is not None:
            self._paused_protocol = True
            self._protocol.pause_writing()
        self._pump_soon()

    def can_write_eof(self) -> bool:
        """Say yes: half-close works."""
        return True

    def write_eof(self) -> None:
        """Half-close: send what is unsent, then the end of file; reading goes on."""
        if not self._ends_writing and not self._is_closing:
            self._ends_writing = True
            self._pump_soon()

    def close(self) -> None:
        """Stop reading, send what is unsent, then close both directions."""
        if not self._is_closing:
            self._is_closing = True
            self._pump_soon()

    def abort(self) -> None:
        """Close at once; the peer sees a reset."""
        if not self._is_lost:
            peer = self._peer
            self._lose(None)
            self._loop.call_soon(peer._lose, _reset())  # noqa: SLF001 - the other half of the pair

    def is_closing(self) -> bool:
        """Say whether the end is closed or about to be."""
        return self._is_closing

    def is_reading(self) -> bool:
        """Say whether what arrives is handed to the protocol."""
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        """Take nothing more from the peer."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Take what the peer has for us."""
        self._is_reading = True
        self._look_for_more()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks, as :meth:`asyncio.WriteTransport.set_write_buffer_limits` says."""
        if high is None:
            high = _HIGH_BYTES if low is None else 4 * low
        low = high // 4 if low is None else low
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the peer has not taken yet."""
        return len(self._unsent)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high water mark."""
        return self._low, self._high

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the end to another protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that holds the end."""
        return cast("asyncio.BaseProtocol", self._protocol)

    # Between the two ends

    @property
    def _takes(self) -> bool:
        return self._protocol is not None and self._is_reading and not self._is_closing

    def _look_for_more(self) -> None:
        self._peer._pump_soon()  # noqa: SLF001 - the other half of the pair
        if self._eof_waits:
            self._loop.call_soon(self._take_eof)

    def _pump_soon(self) -> None:
        if not self._is_pump_due and not self._is_lost:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Give the peer one piece; after the last one the end of file, or the close."""
        self._is_pump_due = False
        peer = self._peer
        if self._is_lost:
            return
        if self._unsent:
            if peer._is_lost:  # noqa: SLF001
                self._lose(_reset())
                return
            if not peer._takes:  # noqa: SLF001
                return
            piece = bytes(self._unsent[: self.piece_bytes])
            del self._unsent[: self.piece_bytes]
            if self._paused_protocol and len(self._unsent) <= self._low and self._protocol is not None:
                self._paused_protocol = False
                self._protocol.resume_writing()
            peer._deliver(piece)  # noqa: SLF001
            if self._unsent or self._is_closing or self._ends_writing:
                self._pump_soon()
        elif self._is_closing:
            self._end_writing()
            self._lose(None)
        elif self._ends_writing:
            self._end_writing()

    def _end_writing(self) -> None:
        if not self._ended_writing:
            self._ended_writing = True
            peer = self._peer
            peer._eof_waits = True  # noqa: SLF001
            self._loop.call_soon(peer._take_eof)  # noqa: SLF001

    def _deliver(self, piece: bytes) -> None:
        try:
            cast("asyncio.Protocol", self._protocol).data_received(piece)
        except Exception as error:  # noqa: BLE001 - as every loop does: tell, and close this one transport
            self._loop.call_exception_handler(
                {"message": "Fatal error: protocol.data_received() call failed.", "exception": error}
            )
            self.abort()

    def _take_eof(self) -> None:
        if self._eof_waits and self._takes:
            self._eof_waits = False
            if not cast("asyncio.Protocol", self._protocol).eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._unsent.clear()
        self._loop.call_soon(self._tell_lost, error)
        self._peer._pump_soon()  # noqa: SLF001 - what it still has to say is a reset now

    def _tell_lost(self, error: Exception | None) -> None:
        if self._protocol is not None:
            self._protocol.connection_lost(error)


def memory_pair(
    loop: asyncio.AbstractEventLoop,
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    *,
    piece_bytes: int = PIECE_BYTES,
) -> tuple[MemoryTransport, MemoryTransport]:
    """Return two ends of one connection.

    Args:
        loop: the loop that both belong to.
        first: what ``get_extra_info`` of the first end knows.
        second: what ``get_extra_info`` of the second end knows.
        piece_bytes: how much of what the *second* end writes arrives per turn of the loop; 1 makes it a peer that
            sends one byte at a time.
    Then: call :meth:`MemoryTransport.begin` on both.
    """
    ours, theirs = MemoryTransport(loop, first), MemoryTransport(loop, second, piece_bytes=piece_bytes)
    ours._peer, theirs._peer = theirs, ours  # noqa: SLF001 - this is where a pair becomes one
    return ours, theirs


class MemoryListener:
    """An address ``memory:name`` of one gateway, for clients in this process.

    Life: as :class:`~sojourn.core.listener.Listener`: bound by the server's start, closed first at its drain.
    """

    def __init__(self, settings: ListenerSettings, manager: ConnectionManager) -> None:
        self.settings = settings
        self.manager = manager
        self.address = settings.address
        if settings.tls is not None or settings.proxy_protocol:
            wanted = "neither tls nor proxy_protocol in memory"
            raise ConfigError([Problem("configuration", 0, "listeners", "address", self.address, wanted)])

    async def start(self) -> None:
        """Take the name.

        Raises: OSError where another listener of this process has it.
        """
        if self.address in _listening:
            raise OSError(errno.EADDRINUSE, f"{self.address}: {os.strerror(errno.EADDRINUSE)}")
        _listening[self.address] = self
        self.manager.events.emit(LISTENING_IN_MEMORY, None, self.manager.gateway.name, self.address)

    async def close(self) -> None:
        """Give the name back; connections that were accepted stay."""
        if _listening.get(self.address) is self:
            del _listening[self.address]

    def accept(self, peer: Peer | None = None, *, piece_bytes: int = PIECE_BYTES) -> MemoryTransport:
        """Let a client in and return its end; see :func:`accept_in_memory`."""
        return accept_in_memory(
            self.manager,
            peer or Peer("memory", 0, self.address),
            piece_bytes=piece_bytes,
            address=self.address,
        )


def accept_in_memory(
    manager: ConnectionManager,
    peer: Peer | None = None,
    *,
    piece_bytes: int = PIECE_BYTES,
    address: str = PREFIX,
) -> MemoryTransport:
    """Make a connection of ``manager``'s gateway and return the client's end of it.

    Args:
        manager: the gateway's; its limits hold.
        peer: who the client says it is.
        piece_bytes: as :func:`memory_pair` says.
        address: what the client sees as the server's address.
    Then: call :meth:`MemoryTransport.begin`; a peer that was refused finds the connection reset.
    """
    peer = peer or Peer("memory", 0, address)
    there, here = (peer.address, peer.port), address
    ours, theirs = memory_pair(
        manager.loop,
        {"peername": there, "sockname": here},
        {"peername": here, "sockname": there},
        piece_bytes=piece_bytes,
    )
    ours.begin(Connection(manager, peer))
    return theirs


def dial(address: str, peer: Peer | None = None) -> MemoryTransport:
    """Return the client's end of a new connection to a listener in memory.

    Raises: ConnectionRefusedError where nobody listens there.
    """
    listener = _listening.get(address)
    if listener is None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}: {os.strerror(errno.ECONNREFUSED)}")
    return listener.accept(peer)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
