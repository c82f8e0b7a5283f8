"""One connection of a TACACS+ client: sends packets and hands each reply to the session that waits for it.

What it does not know on purpose: keys, messages, and what a session is about.
Source: RFC 8907 sections 4.1 and 4.3.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from sojourn.errors import BackendUnavailable, ConnectionLost, SojournError, WireError
from sojourn.gateways.tacacs.wire import Packet, TacacsFraming

CLOSE_TIMEOUT_S = 1.0
"""How long a closing connection may take to send what is left and say goodbye."""


class Link:
    """One connection to the server.

    Made by :func:`open_link`; ends when the server closes it, sends what cannot be cut into packets, or on
    :meth:`end`. Somebody has to run :meth:`deliver_replies` meanwhile.
    Always true: a session waits for at most one reply, since the exchange is in lock-step.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, framing: TacacsFraming
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._framing = framing
        self._waiting: dict[int, asyncio.Future[Packet]] = {}
        self._ended: SojournError | None = None
        self._replied = False
        self.session_ids: set[int] = set()
        self.stays_open = False
        self.refuses_sessions = False

    @property
    def takes_sessions(self) -> bool:
        """Whether a new session may start here."""
        return self.stays_open and self._ended is None and not self.refuses_sessions

    @property
    def is_open(self) -> bool:
        """Whether packets may still be sent."""
        return self._ended is None

    def send(self, packet: bytes) -> None:
        """Write one packet.

        Raises: the reason why the connection ended, if it has.
        """
        if self._ended is not None:
            raise self._ended
        self._writer.write(packet)

    async def exchange(self, session_id: int, packet: bytes) -> Packet:
        """Send one packet of a session and wait for the reply to it; the caller holds the deadline."""
        self.send(packet)
        reply: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        self._waiting[session_id] = reply
        try:
            return await reply
        finally:
            self._waiting.pop(session_id, None)

    def finish_session(self, session_id: int) -> None:
        """Forget a session, and close the connection if it was the last and no new one may come."""
        self.session_ids.discard(session_id)
        if not self.session_ids and not self.takes_sessions:
            self.end(ConnectionLost("closed by us"))

    async def deliver_replies(self) -> None:
        """Read until the connection ends, and tell every session that still waits why it did."""
        reason: SojournError | None = None
        buffer = b""
        try:
            while data := await self._reader.read(65_536):
                buffer += data
                consumed, wanted_bytes = 0, 0
                while len(buffer) - consumed >= wanted_bytes:
                    packets, taken, wanted_bytes = self._framing.split(buffer[consumed:])
                    consumed += taken
                    self._deliver(packets)
                    if not packets:
                        break
                buffer = buffer[consumed:]
        except WireError as error:
            reason = error
        except OSError as error:
            reason = ConnectionLost(str(error) or type(error).__name__)
        finally:
            self.end(reason or self._closed_by_the_server())
        with suppress(OSError):
            await self._writer.wait_closed()

    def end(self, reason: SojournError) -> None:
        """Close the connection; sessions that wait get ``reason``. Ending twice does nothing more."""
        if self._ended is not None:
            return
        self._ended = reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(reason)
        self._writer.close()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._writer.transport.abort)

    def _deliver(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._replied = True
            # A reply that nobody waits for came too late or belongs to no session: nothing hangs on it.
            waiting = self._waiting.get(packet.session_id)
            if waiting is not None and not waiting.done():
                waiting.set_result(packet)

    def _closed_by_the_server(self) -> ConnectionLost:
        if self._replied:
            return ConnectionLost("closed by the server")
        return ConnectionLost(
            "closed by the server before its first reply; is this device known there, with this secret?"
        )


async def open_link(
    host: str,
    tcp_port: int,
    framing: TacacsFraming,
    tls: ssl.SSLContext | None,
    server_name: str,
    *,
    from_address: str = "",
) -> Link:
    """Connect to a server; the caller holds the deadline.

    Raises: BackendUnavailable if nobody listens there, ``from_address`` is none of ours, or the TLS handshake fails.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    local_addr = (from_address, 0) if from_address else None
    try:
        if tls is None:
            reader, writer = await asyncio.open_connection(host, tcp_port, local_addr=local_addr)
        else:
            reader, writer = await asyncio.open_connection(
                host,
                tcp_port,
                local_addr=local_addr,
                ssl=tls,
                server_hostname=server_name,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
            )
    except OSError as error:
        cause = str(error) or type(error).__name__
        raise BackendUnavailable(f"{host}:{tcp_port}", loop.time() - began, cause) from error
    return Link(reader, writer, framing)
