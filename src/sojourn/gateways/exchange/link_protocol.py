"""LinkProtocol: what is under a link once its upgrade is through: a client's frames in, its transport's news on.

Takes the place of aiohttp's protocol, and with it of the request, its headers, two tasks and a chain of handlers, which
would stay for as long as the client does: 16 of 23 KiB of an idle connection (``bench/exchange.py``). Knows nothing of
what messages say; the link does.

Source: RFC 6455 sections 4.2 and 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sojourn.errors import WireError
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.client_frames import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    FrameReader,
    answer_to,
    close_code_of,
)
from sojourn.gateways.exchange.problems import Kind, Refusal

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.gateways.exchange.links import ClientLink

_NO_CODE: Final = 1005
_NORMAL: Final = 1000
_ABNORMAL: Final = 1006


class Upgraded(web.StreamResponse):
    """The 101 answer. Nothing comes behind it: the connection is another protocol's."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""
        del data


def upgrade_of(request: web.Request, protocols: tuple[str, ...]) -> tuple[Upgraded, str]:
    """Return the answer to a handshake, and the subprotocol that was chosen.

    Then: prepare it, and hand the connection over.
    Raises: Refusal if it is none.
    """
    found = answer_to(request.path, request.headers.items(), protocols)
    if found is None:
        raise Refusal(Kind.BAD_REQUEST, "this address speaks WebSocket 13: send an upgrade (RFC 6455)")
    headers, chosen = found
    answer = Upgraded(status=101, headers=headers)
    answer.force_close()
    return answer, chosen


class LinkProtocol(asyncio.Protocol):
    """One client's WebSocket on its transport.

    Life: takes the transport from HTTP, gone with it. Always true: the link is told of its end once, with the code that
    it ended with; what the core knows of the connection is what happened here.

    Args:
        link: gets the messages.
        connection: the core's.
        transport: under both.
        limit_bytes: of one message.
        ended: is told the code at the end.
    """

    __slots__ = ("_code", "_connection", "_ended", "_link", "_reader", "_transport")

    def __init__(
        self,
        link: ClientLink,
        connection: Connection,
        transport: asyncio.Transport,
        limit_bytes: int,
        ended: Callable[[int], None],
    ) -> None:
        self._link = link
        self._connection = connection
        self._transport = transport
        self._reader: FrameReader | None = FrameReader(limit_bytes)
        self._ended = ended
        self._code = _ABNORMAL

    def data_received(self, data: bytes) -> None:
        """Hand every whole message on."""
        connection, reader, link = self._connection, self._reader, self._link
        connection.bytes_in += len(data)
        if reader is None:
            return
        try:
            reader.feed(data)
            while (message := reader.next_message()) is not None:
                kind, payload = message
                connection.packets_in += 1
                if kind in (TEXT, BINARY):
                    link.receive(payload)
                elif isinstance(payload, bytes) and self._control(kind, payload):
                    return
        except WireError:
            self._end(reader.close_code)

    def _control(self, kind: int, payload: bytes) -> bool:
        """Answer a ping, or a close frame; say whether that was the end."""
        link = self._link
        if kind != CLOSE:
            if link.pinged() and kind == PING:
                link.outlet.write(wire.pong(payload))
            return False
        code = close_code_of(payload)
        self._end(code if code != _NO_CODE else _NORMAL)
        return True

    def _end(self, code: int) -> None:
        """Send a close frame, unless ours has gone out, and close."""
        self._reader = None
        link = self._link
        if code and not link.closed:
            self._code = code
            link.outlet.write(wire.close(code, ""))
            link.lost(code)
        self._transport.close()

    def eof_received(self) -> bool:
        """Close: who sends nothing more cannot answer heartbeats."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the link, then the core."""
        self._reader = None
        self._connection.connection_lost(error)
        self._ended(self._code)

    def pause_writing(self) -> None:
        """Let the core's deadline for a peer that takes nothing run."""
        connection = self._connection
        connection.writable = False
        connection.blocked_since = connection.clock()

    def resume_writing(self) -> None:
        """End that deadline."""
        self._connection.resume_writing()
