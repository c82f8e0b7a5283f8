"""Itv2Api: HTTP and WebSockets for the panels, a gateway of its own beside theirs, with which it shares the hub.

Panels and programs come to different addresses and speak differently; the core has one way to speak per gateway.
Boring on purpose: puts the parts together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from aiohttp import web

from sojourn.core.events import EventKind
from sojourn.core.gateway import Gateway
from sojourn.core.router import Router
from sojourn.core.session import raised_at
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.http.carrying import Carrier
from sojourn.gateways.itv2.http.door import Door, LinkSession
from sojourn.gateways.itv2.http.live import Live
from sojourn.gateways.itv2.http.neohub import NeoHub
from sojourn.gateways.itv2.http.rest import Rest
from sojourn.gateways.itv2.http.routes import NEOHUB, WEBSOCKET
from sojourn.gateways.itv2.http.tokens import TicketDesk, TokenTable
from sojourn.web.front import Front
from sojourn.web.server import HttpServer, NoFraming, peer_address
from sojourn.web.tracing import NO_TRACER, OtelTracer

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.server import Server
    from sojourn.gateways.itv2.http.config import Itv2HttpSettings

TOKEN_REFUSED: Final = EventKind(
    "itv2.api_token_refused", ("address", "is_websocket", "why"), level="warning"
)
"""Somebody came without a token, or with one that is not good."""
REQUEST_BROKE: Final = EventKind("itv2.api_request_broke", ("route", "error", "where"), level="error")
"""A bug of ours met in a handler; the client got status 500 and no word about it."""
_DOORS: Final = frozenset({WEBSOCKET, NEOHUB})


def _never(_packet: Any) -> None:
    """Stand for a key of packets: there are none, and a connection with a session on it is not idle."""


class Itv2Api(Gateway):
    """REST and WebSockets of the panels on the same server.

    Life: added behind their gateway, so that it starts after that one and stops before it.

    Args:
        settings: ``[itv2.http]``, without problems.
    """

    name: ClassVar[str] = "itv2-api"
    router = Router()
    framing = NoFraming()
    session_class = LinkSession
    session_key = staticmethod(_never)
    config: Itv2HttpSettings

    front: Front
    http: HttpServer
    door: Door

    def __init__(self, settings: Itv2HttpSettings) -> None:
        self.config = settings
        self.limits = settings.limits
        self.tokens = TokenTable(settings.tokens, self._on_refused)
        self._works: set[asyncio.Task[Any]] = set()
        self._views: tuple[Live | NeoHub, ...] = ()

    # Life

    async def start(self, server: Server) -> None:
        """Put the parts together and begin.

        Raises: ConfigError if tracing is wanted and cannot be had.
        """
        await super().start(server)
        settings = self.config
        house = server.gateways.get(Itv2Gateway.name)
        if not isinstance(house, Itv2Gateway):
            raise TypeError("the panels' gateway has to be added to the server before this one")
        self._house = house
        tracer = OtelTracer(self.name) if settings.tracing else NO_TRACER
        self.front = Front(
            settings, prefix="sojourn_itv2", on_failure=self._on_failure, tracer=tracer, clock=server.clock
        )
        app = web.Application(client_max_size=settings.body_limit_bytes)
        self.front.install(app)
        carrier = Carrier(house.hub, server.events, settings.requests_count)
        desk = TicketDesk(lambda: self.config.links.ticket_ttl_s, server.clock)
        self.door = Door(
            self.tokens,
            desk,
            settings=lambda: self.config,
            manager=lambda: server.managers[self.name],
            clock=server.clock,
            spawn=self._spawn,
        )
        rest = Rest(
            house,
            self.tokens,
            desk,
            carrier,
            house.failures,
            rates=self.front.subjects,
            settings=settings,
        )
        app.add_routes(rest.routes())
        live = Live(house.hub, carrier, house.wall_ms)
        app.add_routes([self.door.route(WEBSOCKET, live)])
        self._views = (live,)
        if settings.neohub:
            neohub = NeoHub(house.hub, carrier)
            app.add_routes([self.door.route(NEOHUB, neohub)])
            self._views = (live, neohub)
        for view in self._views:
            house.hub.subscribe(view)
        self.http = HttpServer(app, settings)
        await self.http.start()

    async def leave(self, timeout_s: float) -> None:  # noqa: ARG002 - it takes none
        """Send everybody away who has a WebSocket."""
        self.door.leave()

    async def stop(self) -> None:
        """End what ``start`` began; commands that are under way go on at the panels."""
        for view in self._views:
            self._house.hub.unsubscribe(view)
        if hasattr(self, "http"):
            await self.http.stop()
        works = tuple(self._works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    def reload(self, config: Itv2HttpSettings) -> None:
        """Take other tokens and bounds; who holds a token that is gone or has other rights is sent away."""
        super().reload(config)
        self.limits = config.limits
        self.tokens.use(config.tokens)
        self.door.use_tokens()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = self.server.spawn(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    # Questions of the core

    def connected(self, connection: Connection) -> None:
        """Let a client speak HTTP."""
        self.http.welcome(connection)

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield requests, WebSockets and refused tokens."""
        if not hasattr(self, "door"):
            return
        yield from self.front.counters()
        yield "sojourn_itv2_links", {}, len(self.door.links)
        yield "sojourn_itv2_links_opened_total", {}, self.door.opened_count
        yield "sojourn_itv2_tokens_refused_total", {}, self.tokens.refused_count

    def _on_refused(self, request: web.BaseRequest, why: str) -> None:
        self.server.events.emit(TOKEN_REFUSED, None, peer_address(request), request.path in _DOORS, why)

    def _on_failure(self, request: web.Request, error: Exception) -> None:
        route = request.match_info.route.name or request.method
        self.server.events.emit(REQUEST_BROKE, None, str(route), type(error).__name__, raised_at(error))
