"""The named peer of every ratio: the least that a uvloop protocol can do with a header and a session table.

Splits packets of a 12-byte header, looks the session up, counts, and echoes the packet; one ``write`` per read.
No limits, no deadlines, no errors, no second protocol: what it costs is the price of Python and uvloop alone.
Run as a program it serves on a port of 127.0.0.1, which it prints.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import cast

import servers
import uvloop

_HEADER = struct.Struct("!BBBBII")
_HEADER_BYTES = 12


class BareProtocol(asyncio.Protocol):
    """One connection; ``sessions`` counts packets by session id."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.rest = b""
        self.sessions: dict[int, int] = {}

    def data_received(self, data: bytes) -> None:
        """Echo every whole packet, keep what is left."""
        if self.rest:
            data = self.rest + data
        at, end = 0, len(data)
        out: list[bytes] = []
        sessions = self.sessions
        while end - at >= _HEADER_BYTES:
            version, kind, seq_no, flags, session_id, length = _HEADER.unpack_from(data, at)
            body_at = at + _HEADER_BYTES
            if end - body_at < length:
                break
            body = data[body_at : body_at + length]
            sessions[session_id] = sessions.get(session_id, 0) + 1
            out.append(_HEADER.pack(version, kind, seq_no, flags, session_id, length) + body)
            at = body_at + length
        self.rest = data[at:] if at < end else b""
        if out:
            self.transport.write(b"".join(out) if len(out) > 1 else out[0])


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(BareProtocol, "127.0.0.1", 0, backlog=1024)
    await servers.serve_until_parent_ends(server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    sys.exit(uvloop.run(_serve()))
