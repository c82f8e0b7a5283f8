"""A client of a server, without a socket between them.

The transports and the listener are the core's own; here is the way to them that a test wants. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sojourn.core.memory import (
    PIECE_BYTES,
    MemoryListener,
    MemoryTransport,
    accept_in_memory,
    dial,
    memory_pair,
)

if TYPE_CHECKING:
    from sojourn.core.peer import Peer
    from sojourn.core.server import Server

__all__ = ["MemoryListener", "MemoryTransport", "connect", "dial", "memory_pair", "streams"]


def connect(
    server: Server, gateway_name: str, *, peer: Peer | None = None, piece_bytes: int = PIECE_BYTES
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a gateway of a started server and return the client's streams.

    Args:
        server: one that was started; it needs no listener.
        gateway_name: which of its gateways.
        peer: who the client is to the server; somebody at ``memory`` by default.
        piece_bytes: how many of the client's bytes arrive at a time.
    Then: a peer that is refused reads the end of the stream, or a reset.
    """
    return streams(accept_in_memory(server.managers[gateway_name], peer, piece_bytes=piece_bytes))


def streams(transport: MemoryTransport) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a reader and a writer on the client's end of a connection; needs a running loop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport.begin(protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
