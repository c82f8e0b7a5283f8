"""WebSockets, from an HTTP upgrade to a :class:`~.links.Link` and back to nothing.

Whoever is not let in gets an HTTP answer; nobody is accepted and closed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from sojourn.core.session import Session
from sojourn.gateways.itv2.http.links import Close, Dialect, Link, Spawn
from sojourn.gateways.itv2.http.problems import Kind, Refusal
from sojourn.gateways.itv2.http.tokens import REFUSED_PARAMETERS
from sojourn.web.credentials import check_origin, refuse_token_in_url, ticket_of
from sojourn.web.server import connection_of, own_origins, protocol_of

if TYPE_CHECKING:
    from sojourn.core.clock import Clock
    from sojourn.core.manager import ConnectionManager
    from sojourn.gateways.itv2.http.config import Itv2HttpSettings
    from sojourn.gateways.itv2.http.tokens import Holder, TicketDesk, TokenTable

SUBPROTOCOL = "itv2.v1"
"""What a web page offers beside its ticket, as a server must choose one of what is offered."""


class LinkSession(Session):
    """A link as the core sees it: who is there, and a way for an operator to end it. Its ``state`` is the link."""

    @property
    def is_idle(self) -> bool:
        """Say that a client is there who does not expect to be left."""
        return False

    def drain(self) -> None:
        """Send the client away: its connection is to close."""
        self.state.end(Close.GOING_AWAY, "this server is going away")

    def close(self, reason: str = "") -> None:
        """End it from outside; the client may come back."""
        self.state.end(Close.GOING_AWAY, "closed by the operator")
        super().close(reason)


class Door:
    """Lets clients in to their links.

    Life: made with the API. Always true: ``links`` are those whose handler runs.

    Args:
        tokens: who may come.
        desk: takes tickets.
        settings: returns those of the API as they are now.
        manager: returns the core's, which shows links to the operator.
        clock: monotonic seconds.
        spawn: for commands.
    """

    def __init__(
        self,
        tokens: TokenTable,
        desk: TicketDesk,
        *,
        settings: Callable[[], Itv2HttpSettings],
        manager: Callable[[], ConnectionManager],
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self.links: set[Link] = set()
        self.opened_count = 0
        self.is_leaving = False
        self._tokens = tokens
        self._desk = desk
        self._settings = settings
        self._manager = manager
        self._clock = clock
        self._spawn = spawn

    def route(self, path: str, dialect: Dialect) -> web.RouteDef:
        """Return a path that is upgraded."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, path, dialect)

        return web.get(path, handle)

    async def _handle(self, request: web.Request, path: str, dialect: Dialect) -> web.StreamResponse:
        """Serve one WebSocket from its handshake to its end. Raises: Refusal, before the upgrade."""
        if self.is_leaving:
            raise Refusal(Kind.DRAINING, retry_after_s=1.0)
        settings = self._settings().links
        holder = self._holder(request)
        ws = web.WebSocketResponse(
            timeout=settings.close_timeout_s,
            heartbeat=settings.heartbeat_s,
            max_msg_size=settings.message_bytes,
            compress=False,
            protocols=(SUBPROTOCOL,),
        )
        if not ws.can_prepare(request):
            raise Refusal(Kind.BAD_REQUEST, "this address speaks WebSocket 13: send an upgrade (RFC 6455)")
        if len(self.links) >= settings.links_count:
            raise Refusal(Kind.LIMIT, "too many WebSockets")
        link = Link(holder, dialect, settings, self._clock, self._spawn)
        self.links.add(link)  # before the upgrade: who waits for it counts
        try:
            await ws.prepare(request)
            await self._serve(request, path, link, ws)
        finally:
            self.links.discard(link)
        return ws

    async def _serve(self, request: web.Request, path: str, link: Link, ws: web.WebSocketResponse) -> None:
        transport = request.transport
        if transport is None:
            return  # the client has not waited for the upgrade
        connection, protocol = connection_of(request), protocol_of(request)
        self.opened_count += 1
        session = self._manager().open_detached(f"link {self.opened_count}")
        session.state = link
        session.about = f"{link.holder.name} {path}"
        session.attach(connection, session.key)
        protocol.end_visit()
        protocol.serves_only_its_client = True
        try:
            await link.serve(ws, transport)
        finally:
            if not session.ended:
                session.finish()

    def _holder(self, request: web.Request) -> Holder:
        """Return who comes. Raises: Refusal."""
        refuse_token_in_url(request, REFUSED_PARAMETERS)
        check_origin(request, (*self._settings().origins, *own_origins(request)))
        ticket = ticket_of(request)
        holder = self._tokens.authenticate(request) if ticket is None else self._desk.take(ticket)
        if not holder.may("read"):
            raise Refusal(Kind.FORBIDDEN, "this needs the scope read")
        return holder

    def use_tokens(self) -> None:
        """Send those away whose token is not what it was."""
        for link in tuple(self.links):
            if not self._tokens.is_good(link.holder):
                link.end(Close.POLICY, "the token is not what it was: come back with a good one")

    def leave(self) -> None:
        """Send everybody away."""
        self.is_leaving = True
        for link in tuple(self.links):
            link.end(Close.GOING_AWAY, "this server is going away")
