"""Talk: one peer in its start-up phase, message by message.

The transport's protocol while a client logs in, or while we log in at a server; the relay takes the transport over
afterwards. Straight-line code awaits here; nothing of it runs once a session relays. Knows no authentication.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from sojourn.errors import ConnectionLost, LimitExceeded, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.direct import writer_of
from sojourn.gateways.postgres.tls_transport import TlsTransport

if TYPE_CHECKING:
    import ssl


class Relay(Protocol):
    """What takes a transport over when its start-up is done."""

    def data_received(self, data: bytes) -> None:
        """Take bytes."""


class StreamTalk(asyncio.Protocol):
    """One peer that is asked and answers.

    Life: made with the transport, gone when ``hand_over`` gives the transport to the relay. Always true: reading
    stops while more than ``limit_bytes`` of input are unread, and goes on when the next message is asked for.
    """

    def __init__(self, *, limit_bytes: int, address: str = "unix") -> None:
        self.transport: asyncio.Transport | None = None
        self.address = address
        self.is_tls = False
        self.channel_binding = b""
        self.certificate_names: tuple[str, ...] = ()
        self._limit_bytes = limit_bytes
        self._data = b""
        self._lost: ConnectionLost | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = transport  # type: ignore[assignment]  # a stream transport
        self.write = writer_of(self.transport)  # type: ignore[arg-type]  # it was just set

    def data_received(self, data: bytes) -> None:
        """Keep what came and wake who waits."""
        self._data += data
        if len(self._data) > self._limit_bytes and self.transport is not None:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """End with the peer."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._lost = ConnectionLost(type(error).__name__ if error is not None else "closed by the peer")
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the conversation calls

    def send(self, data: bytes) -> None:
        """Write ``data``; a peer that is gone is found out at the next ``receive``."""
        if self.transport is not None and self._lost is None:
            self.write(data)

    async def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next message.

        Raises: ConnectionLost, WireError for a length that cannot be, LimitExceeded above the limit.
        """
        while True:
            size = len(self._data)
            if size >= 5:  # noqa: PLR2004 - type and length
                length = int.from_bytes(self._data[1:5], "big")
                if length < 4:  # noqa: PLR2004 - the length counts itself
                    raise WireError(f"a message length of {length}", "at least 4", "Message Formats")
                if length > self._limit_bytes:
                    raise LimitExceeded("message before the session is ready", length, self._limit_bytes)
                if size > length:
                    message = self._data[0], self._data[5 : length + 1]
                    self._data = self._data[length + 1 :]
                    return message
            await self._more()

    async def receive_startup(self) -> bytes:
        """Return the next packet without a type: SSLRequest, GSSENCRequest, CancelRequest or StartupMessage.

        Raises: as ``receive``.
        """
        while (packet := self.take_startup()) is None:
            await self._more()
        return packet

    def take_startup(self) -> bytes | None:
        """Take the next packet without a type, None while it is not whole.

        Raises: WireError for a length that cannot be.
        """
        length = wire.startup_length(self._data, self._limit_bytes)
        if length is None or len(self._data) < length:
            return None
        packet, self._data = self._data[:length], self._data[length:]
        return packet

    async def receive_byte(self) -> int:
        """Return one byte: the answer to SSLRequest or GSSENCRequest.

        Raises: ConnectionLost.
        """
        while not self._data:
            await self._more()
        first, self._data = self._data[0], self._data[1:]
        return first

    def begins_with(self, first: int) -> bool:
        """Say whether the first unread byte is this one."""
        return bool(self._data) and self._data[0] == first

    def allow(self, limit_bytes: int) -> None:
        """Take longer messages from now on: the peer has proved who it is."""
        self._limit_bytes = limit_bytes

    @property
    def has_unread(self) -> bool:
        """Say whether bytes wait that nobody has taken."""
        return bool(self._data)

    async def _more(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self.transport is not None and not self.transport.is_reading():
            self.transport.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        timeout_s: float,
        is_begun: bool = False,
    ) -> None:
        """Go on inside TLS.

        Args:
            is_begun: what is unread is the beginning of the peer's handshake.

        Raises: WireError if bytes came before the handshake (they could have been injected), ssl.SSLError, OSError.
        """
        if self._data and not is_begun:
            raise WireError(
                f"{len(self._data)} bytes before the TLS handshake", "none", "SSL Session Encryption"
            )
        begun, self._data = self._data, b""
        transport = TlsTransport(
            self.transport,  # type: ignore[arg-type]  # made by connection_made
            self,
            context,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        await transport.shake_hands(begun, timeout_s)
        self.transport = transport
        self.write = transport.write
        self.is_tls = True

    def hand_over(self, relay: Relay) -> None:
        """Give the transport to ``relay``, with what is unread.

        Raises: ConnectionLost if the peer is gone.
        """
        transport = self.transport
        if transport is None or self._lost is not None:
            raise self._lost or ConnectionLost("closed by the peer")
        transport.set_protocol(relay)  # type: ignore[arg-type]  # the methods are what counts
        if not transport.is_reading():
            transport.resume_reading()
        data, self._data = self._data, b""
        if data:
            relay.data_received(data)

    def close(self) -> None:
        """Close the transport after what was written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the transport at once."""
        if self.transport is not None:
            self.transport.abort()
