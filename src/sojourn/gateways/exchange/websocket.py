"""WebSocketDoor: from an HTTP upgrade to a :class:`~.links.ClientLink` of a session, and back to nothing.

Whoever is not let in gets an HTTP answer; nobody is accepted and closed afterwards. The handshake is
aiohttp's last work on a connection; then a :class:`~.link_protocol.LinkProtocol` has it. What a client gets is written
to the transport as it was encoded, once for all who get the same.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.ids import is_id
from sojourn.gateways.exchange.link_protocol import LinkProtocol, upgrade_of
from sojourn.gateways.exchange.links import ClientLink
from sojourn.gateways.exchange.messages import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, Close
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.rest_types import CreateSession
from sojourn.gateways.exchange.service import Caller
from sojourn.gateways.exchange.sessions import UnknownSession
from sojourn.web.credentials import offered_protocols
from sojourn.web.server import connection_of, own_origins, peer_address, protocol_of

if TYPE_CHECKING:
    import asyncio

    from sojourn.core.clock import Clock
    from sojourn.core.connection import Connection
    from sojourn.core.session import Session
    from sojourn.gateways.exchange.auth import Authenticator
    from sojourn.gateways.exchange.link_config import LinkSettings
    from sojourn.gateways.exchange.principal import Principal
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.service import Service
    from sojourn.gateways.exchange.sessions import SessionKeeper
    from sojourn.gateways.exchange.tickets import TicketDesk

PATHS: Final = ("/v1/ws", "/ws")
CLOSE_WAIT_S: Final = 2.0
"""How long a client has to answer our close frame."""
USER_TIMEOUT_MS: Final = 20_000
"""After which the kernel gives up a client that acknowledges nothing. Source: section 5.4."""
CONN_BYTES: Final = 9
LONGEST_USER_AGENT: Final = 256


class TransportOutlet:
    """An :class:`~.links.Outlet` over the transport under a WebSocket.

    Args:
        transport: of the client.
        connection: the core's, which counts what is sent.
        closing: is told when our close frame has gone out.
    """

    __slots__ = ("_closing", "_connection", "_is_closed", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        connection: Connection,
        closing: Callable[[TransportOutlet], None],
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._closing = closing
        self._is_closed = False

    def write(self, data: bytes) -> None:
        """Send whole WebSocket messages; a connection that is gone loses them."""
        # uvloop raises where the connection is gone, which the link may not have heard yet.
        if not (self._is_closed or self._transport.is_closing()):
            connection = self._connection
            connection.packets_out += 1
            connection.bytes_out += len(data)
            self._transport.write(data)

    def waiting_bytes(self) -> int:
        """Return how much the peer has not taken."""
        return self._transport.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the client has ``CLOSE_WAIT_S`` to answer it."""
        if not self._is_closed:
            self.write(wire.close(code, reason))
            self._is_closed = True
            self._closing(self)

    def abort(self) -> None:
        """End the connection now."""
        self._transport.abort()


class WebSocketDoor:
    """Lets clients in to their sessions.

    Life: made with the gateway; ``routes`` are served by its HTTP application. Always true: a link is in ``greeting``
    until it has said hello, and an outlet that was closed by us in ``_closing`` until its connection is gone.

    Args:
        keeper: of the rooms.
        service: makes a session for a client that names none.
        auth: checks tokens and tickets.
        desk: takes tickets.
        settings: returns those of links.
        origins: of web pages that may come.
        session_of: returns the core's session of a room.
        spawn: starts a task that is awaited at the end.
        clock: monotonic seconds.
        wall_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        keeper: SessionKeeper,
        service: Service,
        auth: Authenticator,
        desk: TicketDesk,
        *,
        settings: Callable[[], LinkSettings],
        origins: Callable[[], tuple[str, ...]],
        session_of: Callable[[SessionRoom], Session],
        spawn: Callable[[Awaitable[None]], object],
        clock: Clock,
        wall_ms: Callable[[], int],
    ) -> None:
        self._keeper = keeper
        self._service = service
        self._auth = auth
        self._desk = desk
        self._settings = settings
        self._origins = origins
        self._session_of = session_of
        self._spawn = spawn
        self._clock = clock
        self._wall_ms = wall_ms
        self.greeting: set[ClientLink] = set()
        self._expires: dict[ClientLink, float] = {}
        """When the token is too old that each link came with, in unix seconds."""
        self.opened_count = 0
        self.closes: Counter[int] = Counter()
        self._closing: dict[TransportOutlet, float] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        """Return the paths that are upgraded."""
        return [web.get(path, self.handle) for path in PATHS]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one WebSocket from its handshake to its end.

        Raises: Refusal, before the upgrade.
        """
        if self._keeper.is_draining:
            raise Refusal(Kind.DRAINING, retry_after_s=1.0)
        _check_protocols(request)
        answer, chosen = upgrade_of(request, (SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK))
        room, expires_at = await self._find_room(request)
        self._keeper.enter(room)
        try:
            await answer.prepare(request)
            self._begin(request, room, expires_at, is_binary=chosen == SUBPROTOCOL_MSGPACK)
        except BaseException:
            self._keeper.depart(room)
            raise
        return answer

    # Who comes to which session

    async def _find_room(self, request: web.Request) -> tuple[SessionRoom, float]:
        """Return the room of the session that a request may open, and until when (unix seconds). Raises: Refusal."""
        origins = self._origins() + own_origins(request)
        grant = await self._auth.authenticate_handshake(request, self._desk, origins)
        principal = grant.principal
        self._auth.require(principal, self._auth.settings.user_scope)
        named = request.query.get("session") or request.query.get("sessionId") or ""
        session_id = grant.session or named or await self._make(request, principal)
        if not is_id(session_id) or (named and named != session_id):
            raise Refusal(Kind.NOT_FOUND)
        try:
            room = await self._keeper.open(session_id, principal.subject)
        except UnknownSession:
            raise Refusal(Kind.NOT_FOUND) from None
        return room, principal.expires_at + self._auth.settings.leeway_s

    async def _make(self, request: web.Request, principal: Principal) -> str:
        """Return the session of a client that names its device only, made if there is none. Raises: Refusal."""
        device = request.query.get("device") or request.query.get("deviceId") or ""
        try:
            wish = msgspec.convert({"device": device}, CreateSession)
        except msgspec.ValidationError:
            raise Refusal(Kind.BAD_REQUEST, "the query names neither a session nor a device") from None
        agent = request.headers.get("User-Agent", "")[:LONGEST_USER_AGENT]
        made = await self._service.create_session(principal, wish, Caller(peer_address(request), agent))
        return made.session.id

    # Links

    def _begin(self, request: web.Request, room: SessionRoom, expires_at: float, *, is_binary: bool) -> None:
        """Make the link, let the core's connection carry the session, and take the transport from HTTP.

        Raises: ConnectionResetError if the client is gone.
        """
        if request.transport is None:
            raise ConnectionResetError("the client has not waited for the upgrade")
        connection, protocol, settings = connection_of(request), protocol_of(request), self._settings()
        transport = connection.transport
        transport.set_write_buffer_limits(high=settings.close_bytes)
        _set_user_timeout(transport)
        conn = secrets.token_urlsafe(CONN_BYTES)
        link = ClientLink(
            conn,
            room,
            TransportOutlet(transport, connection, self._note_closing),
            settings,
            clock=self._clock,
            wall_ms=self._wall_ms,
            is_binary=is_binary,
            spawn=self._spawn,
        )
        self.greeting.add(link)
        self._expires[link] = expires_at
        self.opened_count += 1
        self._session_of(room).attach(connection, conn)
        protocol.end_visit()
        ended = partial(self._end, link, room)
        protocol.hand_over(LinkProtocol(link, connection, transport, settings.frame_bytes, ended))

    def _end(self, link: ClientLink, room: SessionRoom, code: int) -> None:
        link.lost(code)
        self.greeting.discard(link)
        self._closing.pop(link.outlet, None)  # type: ignore[call-overload]  # its outlet is ours
        del self._expires[link]
        self.closes[link.closed] += 1
        self._keeper.depart(room)

    def _note_closing(self, outlet: TransportOutlet) -> None:
        self._closing[outlet] = self._clock() + CLOSE_WAIT_S

    @property
    def links_count(self) -> int:
        """How many WebSockets are open."""
        return len(self._expires)

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of links that have not said hello, of tokens, and of clients that do not leave."""
        wall_s = self._wall_ms() / 1000
        for link in [link for link, expires_at in self._expires.items() if expires_at <= wall_s]:
            link.close(Close.AUTH, "the token has expired: come back with a new one")
        for link in tuple(self.greeting):
            if link.is_live or link.closed:
                self.greeting.discard(link)
            else:
                link.sweep(now)
        for outlet, deadline in tuple(self._closing.items()):
            if now >= deadline:
                del self._closing[outlet]
                outlet.abort()

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield what ``Gateway.counters`` yields."""
        yield "sojourn_exchange_links", {}, self.links_count
        yield "sojourn_exchange_links_opened_total", {}, self.opened_count
        for code, count in self.closes.items():
            yield "sojourn_exchange_links_closed_total", {"code": str(code)}, count


def _check_protocols(request: web.Request) -> None:
    """Refuse a client that wants to speak something else; aiohttp would log what it offers, a ticket too.

    Raises: Refusal.
    """
    offered = set(offered_protocols(request))
    if offered and not offered & {SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK}:
        wanted = f"{SUBPROTOCOL_JSON} or {SUBPROTOCOL_MSGPACK}"
        raise Refusal(Kind.BAD_REQUEST, f"none of the offered subprotocols is {wanted}")


def _set_user_timeout(transport: asyncio.Transport) -> None:
    """Let the kernel find clients that have vanished."""
    link = transport.get_extra_info("socket")
    if link is not None and link.family in (socket.AF_INET, socket.AF_INET6):
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
