"""HTTP on the core's listeners: aiohttp takes the transport over from a connection that the core has let in.

Limits before the first byte, TLS and its reload, PROXY headers, deadlines and drain are the core's and work as in
every gateway; requests, keep-alive and WebSockets are aiohttp's. Knows no route.

Theory of operation. The core makes a connection and asks for admission; ``HttpServer.welcome`` then gives its
transport to an :class:`HttpProtocol`, which tells the connection what the core's own deadlines need: bytes that came,
a head that is not whole, a peer that takes nothing, the end. While answers are owed the connection's table has a
:class:`Visit`, so that a drain waits for them; a WebSocket's handler ends the visit once a session of its own is
attached. A handler goes on when its client is gone, unless it only serves that client (``serves_only_its_client``):
half an order is worse than an answer that nobody reads.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from sojourn.core.events import EventKind
from sojourn.core.session import Session, raised_at
from sojourn.web.problems import MEDIA_TYPE, Kind, Refusal

if TYPE_CHECKING:
    from aiohttp.web_server import Server as AiohttpServer

    from sojourn.core.connection import Connection
    from sojourn.web.config import HttpSettings

REQUEST_FAILED = EventKind("http.request_failed", ("error", "where", "peer"), level="error")
"""A bug of ours met while a request was served; the client got status 500 and no word about it."""
REQUEST_MALFORMED = EventKind("http.request_malformed", ("error", "peer"), level="debug")
"""Bytes that are no HTTP; the connection was closed."""

VISIT: Final = "http request"
"""The key of the visit in its connection's table."""


class NoFraming:
    """Takes the place of a framing: bytes never come this way."""

    def split(self, data: bytes) -> tuple[list[Any], int, int]:
        """Throw everything away."""
        return [], len(data), 1


class Visit(Session):
    """Requests of one connection that wait for answers, as the core sees them; never recorded, gone with the last."""

    @property
    def is_idle(self) -> bool:
        """Say that an answer is owed."""
        return False

    def drain(self) -> None:
        """Let this answer be the connection's last."""
        protocol = self.state
        if protocol is not None:
            protocol.close()


class HttpProtocol(RequestHandler):
    """aiohttp's protocol on a core connection.

    Life: made when the core has let a connection in, gone with the transport. Always true: what the core knows of the
    connection (bytes, blocked, partial, closed) is what happened here.
    """

    __slots__ = ("_has_heard_eof", "_http", "connection", "serves_only_its_client", "visit", "work")

    def __init__(self, http: HttpServer, connection: Connection) -> None:
        settings = http.settings
        super().__init__(
            http.server,
            loop=connection.loop,
            keepalive_timeout=settings.keep_alive_timeout_s,
            max_line_size=settings.line_limit_bytes,
            max_field_size=settings.header_limit_bytes,
            max_headers=settings.headers_count,
            lingering_time=settings.linger_timeout_s,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say "none"
        )
        self._http = http
        self._has_heard_eof = False
        self.connection = connection
        self.visit: Visit | None = None
        self.work: asyncio.Task[Any] | None = None
        self.serves_only_its_client = False

    # What the loop calls

    def data_received(self, data: bytes) -> None:
        """Count, parse, and start the clock of a head that is not whole."""
        connection = self.connection
        connection.bytes_in += len(data)
        if self.visit is not None or self._upgraded:
            super().data_received(data)
            return
        if data and not connection.partial_since:
            connection.partial_since = connection.clock()
        super().data_received(data)
        if self._messages:
            # From here on, not from the handler's first step two turns later: a drain in between must see it.
            connection.partial_since = 0.0
            self._open_visit()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # a yes keeps the transport, as asyncio documents
        """Half-close: the client sends nothing more, and may still wait for its answer."""
        if self.visit is None or self.connection.peer.is_tls or self._upgraded or self.serves_only_its_client:
            return False
        self._has_heard_eof = True
        return True

    def connection_lost(self, error: BaseException | None) -> None:
        """Tell the core; a handler that serves only this client is over, another one goes on."""
        super().connection_lost(error)
        work = self.work
        if work is not None and not work.done():
            if self.serves_only_its_client:
                work.cancel()
            self._http.adopt(work)
        self.visit = None
        self.connection.connection_lost(error if isinstance(error, Exception) else None)

    def pause_writing(self) -> None:
        """Let the core's deadline for a peer that takes nothing run; reading is aiohttp's own affair."""
        super().pause_writing()
        connection = self.connection
        connection.writable = False
        connection.blocked_since = connection.clock()

    def resume_writing(self) -> None:
        """End that deadline."""
        super().resume_writing()
        self.connection.resume_writing()

    # What a request is to the core

    def _open_visit(self) -> None:
        """Note that a whole request is here, so that the connection is not idle."""
        connection = self.connection
        if connection.closed:
            return
        manager = connection.manager
        now = connection.clock()
        self.visit = Visit(
            connection,
            None,
            None,
            self,
            connection.gateway,
            connection.gateway.config,
            VISIT,
            manager.next_number(),
            now,
            0.0,
        )
        connection.table.live[VISIT] = self.visit

    def begin(self, method: str) -> None:
        """Note that a handler has a request."""
        self.connection.packets_in += 1
        self.work = asyncio.current_task()
        if self.visit is not None:
            self.visit.about = f"HTTP {method}"

    def end_visit(self) -> None:
        """Let the connection go on without the visit: its answer is written, or a session is attached to it."""
        visit, self.visit = self.visit, None
        if visit is not None and not visit.ended:
            visit.ended = "finished"
            if not self.connection.closed:
                self.connection.ended(visit)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer; end the visit if no other request waits."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            connection = self.connection
            connection.packets_out += 1
            connection.bytes_out += request.writer.output_size
            self.serves_only_its_client = False
            if not self._messages or self._close or self._force_close:
                if self._has_heard_eof:
                    self.close()
                self.end_visit()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the transport to another protocol, for good; bytes that came too early go with it.

        Then: the handler returns what it has answered, and nothing more is read or written here.
        """
        transport, tail = self.connection.transport, self._message_tail
        is_paused = self._reading_paused
        self.transport, self._message_tail = None, b""
        RequestHandler.connection_lost(self, None)
        transport.set_protocol(protocol)
        if is_paused:
            transport.resume_reading()
        if tail:
            protocol.data_received(tail)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - the table of problems says it
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's text, which quotes the peer, is not sent back
    ) -> web.StreamResponse:
        """Answer what never came to a route, or broke there, with a problem; the connection ends."""
        if isinstance(exc, HttpProcessingError):
            kind = Kind.LONG_HEADERS if isinstance(exc, LineTooLong) else Kind.MALFORMED
            self._http.malformed(self.connection, exc)
        else:
            kind = Kind.INTERNAL
            if not isinstance(exc, ConnectionError):  # a client that is gone is no bug
                self._http.failed(self.connection, exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was under way already")
        response = web.Response(
            status=kind.status,
            body=Refusal(kind).body(),
            content_type=MEDIA_TYPE,
            headers={"Cache-Control": "no-store", "Server": "sojourn", "X-Content-Type-Options": "nosniff"},
        )
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Tell of what aiohttp met on its own, without its text, which may quote the peer."""
        error = kwargs.get("exc_info")
        found = error if isinstance(error, BaseException) else None
        if not isinstance(found, ConnectionError) and args:
            self._http.failed(self.connection, found)

    @property
    def is_last(self) -> bool:
        """Say whether the connection ends with the answer that is under way."""
        return self._close or self._force_close or (self._has_heard_eof and not self._messages)


class HttpServer:
    """One aiohttp application on the connections of one gateway.

    Life: started and stopped with its gateway; ``welcome`` is what ``Gateway.connected`` calls. Always true: after
    ``stop`` no handler runs.
    """

    server: AiohttpServer

    def __init__(self, app: web.Application, settings: HttpSettings) -> None:
        self.settings = settings
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=settings.stop_timeout_s)
        self._orphans: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Make the application ready; before the first connection."""
        await self._runner.setup()
        server = self._runner.server
        if server is None:  # pragma: no cover - setup has just made it
            raise RuntimeError("aiohttp made no server")
        self.server = server
        handle = cast("Callable[[web.BaseRequest], Any]", server.request_handler)

        async def visited(request: web.BaseRequest) -> web.StreamResponse:
            protocol_of(request).begin(request.method)
            return cast("web.StreamResponse", await handle(request))

        server.request_handler = visited

    def welcome(self, connection: Connection) -> HttpProtocol:
        """Take the transport of a connection that the core has let in."""
        protocol = HttpProtocol(self, connection)
        protocol.connection_made(connection.transport)
        connection.transport.set_protocol(protocol)
        return protocol

    def adopt(self, work: asyncio.Task[Any]) -> None:
        """Own a handler whose client is gone."""
        self._orphans.add(work)
        work.add_done_callback(self._orphans.discard)

    async def stop(self) -> None:
        """Let handlers whose clients are gone finish shortly, then end everything."""
        orphans = tuple(self._orphans)
        if orphans:
            await asyncio.wait(orphans, timeout=self.settings.stop_timeout_s)
            for work in orphans:
                work.cancel()
            await asyncio.gather(*orphans, return_exceptions=True)
        await self._runner.cleanup()

    @property
    def orphans_count(self) -> int:
        """Return how many handlers go on without their client."""
        return len(self._orphans)

    def failed(self, connection: Connection, error: BaseException | None) -> None:
        """Tell the operator of a bug."""
        where = raised_at(error) if error is not None else "unknown"
        events = connection.gateway.server.events
        events.emit(REQUEST_FAILED, None, type(error).__name__, where, str(connection.peer))

    def malformed(self, connection: Connection, error: BaseException) -> None:
        """Tell the operator of a peer that speaks no HTTP."""
        events = connection.gateway.server.events
        events.emit(REQUEST_MALFORMED, None, type(error).__name__, str(connection.peer))


def protocol_of(request: web.BaseRequest) -> HttpProtocol:
    """Return the protocol under a request."""
    protocol = request.protocol
    if not isinstance(protocol, HttpProtocol):
        raise TypeError(f"found a request on {type(protocol).__name__}, wanted one of HttpServer")
    return protocol


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the core's connection under a request, for ``session.attach``."""
    return protocol_of(request).connection


def transport_of(request: web.BaseRequest) -> asyncio.Transport | None:
    """Return the transport under a request, for frames that are encoded once; None when the client is gone."""
    return request.transport


def peer_address(request: web.BaseRequest) -> str:
    """Return the address that a request came from, that of a PROXY header where there is one."""
    protocol = request.protocol
    return protocol.connection.peer.address if isinstance(protocol, HttpProtocol) else request.remote or ""


def own_origins(request: web.BaseRequest) -> tuple[str, ...]:
    """Return the origin of pages that this server itself serves at the address that the client uses."""
    scheme = "https" if connection_of(request).peer.is_tls else "http"
    return (f"{scheme}://{request.host}",) if request.host else ()


class Forwarding:
    """Whose address a request is counted under: the peer's, or what a trusted proxy says of it."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in trusted)

    def address_of(self, request: web.BaseRequest) -> str:
        """Return the client's address: from the right, the first that no trusted proxy has."""
        address = connection_of(request).peer.address
        if not self._networks or not self._is_trusted(address):
            return address
        told = ",".join(request.headers.getall("X-Forwarded-For", []))
        for part in reversed(told.split(",")):
            candidate = part.strip()
            try:
                plain = str(ipaddress.ip_address(candidate))
            except ValueError:
                break
            address = plain
            if not self._is_trusted(plain):
                break
        return address

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return address == "unix"
        return any(found in network for network in self._networks)
