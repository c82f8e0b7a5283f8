"""Auth: who may come in, from a request's headers to a :class:`~.principal.Principal`.

Bearer tokens that are verified here or asked about elsewhere, tickets for WebSockets of web pages, origins. A token in
a URL is refused wherever it is found: URLs are logged by everything on the way. Knows nothing of sessions.

Source: RFC 6750; exchange-session-service.md sections 5.3, 5.4 and 5.6.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp

from sojourn.core.clock import Clock, monotonic
from sojourn.core.events import EventKind
from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.dev_issuer import public_set, read_key_file
from sojourn.gateways.exchange.introspection import Introspection
from sojourn.gateways.exchange.key_set import KeySet, fetch_from_file, fetch_from_url
from sojourn.gateways.exchange.principal import Principal, refused
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.tickets import Grant, TicketDesk
from sojourn.gateways.exchange.token_check import TokenCheck
from sojourn.web import credentials
from sojourn.web.credentials import TICKET_PARAMETER, bearer_of, check_origin, refuse_token_in_url
from sojourn.web.server import peer_address

if TYPE_CHECKING:
    from aiohttp import web

    from sojourn.core.server import Server
    from sojourn.gateways.exchange.key_set import Fetch

AUTH_REFUSED: Final = EventKind("exchange.auth_refused", ("reason", "peer"), level="info")
"""A token was refused; the reason is one of a few words, the token is not told."""


class AuthHealth(NamedTuple):
    """Whether new tokens can be checked; ``cause`` is for operators."""

    is_degraded: bool
    cause: str


class Authenticator:
    """Checks whatever a request shows.

    Life: made with the gateway, started and stopped with it.

    Args:
        settings: ``[exchange.auth]``, without problems.
        server: its breakers, events and tasks.
        wall: unix seconds.
    """

    def __init__(
        self,
        settings: AuthSettings,
        server: Server,
        *,
        clock: Clock = monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.refusals: Counter[str] = Counter()
        self._server = server
        self._clock = clock
        self._wall = wall
        self._http: aiohttp.ClientSession | None = None
        self._sources: list[KeySet] = []
        self._local = TokenCheck(settings, self._sources, wall)
        self._remote: Introspection | None = None

    async def start(self) -> None:
        """Read keys from files, and fetch them once where they are elsewhere; it does no harm if that fails.

        Raises: ConfigError for the development key's file.
        """
        settings, server = self.settings, self._server
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        if settings.jwks_url:
            self._add("exchange.jwks", fetch_from_url(self._http, settings.jwks_url, settings.keys))
        if settings.jwks_file:
            self._add("exchange.jwks_file", fetch_from_file(settings.jwks_file))
        if settings.dev_key_file:
            keys = public_set(read_key_file(Path(settings.dev_key_file)))

            async def dev_keys() -> bytes:
                return keys

            self._add("exchange.dev_key", dev_keys)
        for source in self._sources:
            await source.start()
        if settings.introspection is not None:
            self._remote = Introspection(
                settings,
                settings.introspection,
                self._http,
                breakers=server.breakers,
                events=server.events,
                spawn=server.spawn,
                clock=self._clock,
                wall=self._wall,
            )

    def _add(self, name: str, fetch: Fetch) -> None:
        server = self._server
        self._sources.append(
            KeySet(
                name,
                fetch,
                self.settings.keys,
                breakers=server.breakers,
                events=server.events,
                spawn=server.spawn,
                clock=self._clock,
            )
        )

    async def stop(self) -> None:
        """Close what was opened."""
        if self._http is not None:
            await self._http.close()

    def health(self) -> AuthHealth:
        """Say whether tokens that are new to us can be checked."""
        failures = [source.failure for source in self._sources if source.failure]
        if self._remote is not None and self._remote.failure:
            failures.append(self._remote.failure)
        return AuthHealth(bool(failures), "; ".join(failures))

    # Requests

    async def authenticate(self, request: web.BaseRequest) -> Principal:
        """Return who sends a request by its Authorization header.

        Raises: Refusal.
        """
        try:
            refuse_token_in_url(request)
            return await self.check(bearer_of(request))
        except Refusal as refusal:
            self._tell(refusal, request)
            raise

    async def check(self, token: str) -> Principal:
        """Return whose token it is.

        Raises: Refusal.
        """
        if len(token) > self.settings.token_limit_bytes:
            raise refused("too_long", f"the token is longer than {self.settings.token_limit_bytes} bytes")
        return await (self._remote or self._local).check(token)

    async def authenticate_handshake(
        self, request: web.BaseRequest, desk: TicketDesk, origins: Collection[str]
    ) -> Grant:
        """Return who opens a WebSocket, before it is accepted; the grant's session is empty where a token was shown.

        Raises: Refusal.
        """
        try:
            refuse_token_in_url(request)
            check_origin(request, origins)
            if (ticket := ticket_of(request)) is not None:
                grant = await desk.take(ticket)
                if self._wall() >= grant.principal.expires_at + self.settings.leeway_s:
                    raise refused("expired", "the token behind the ticket has expired")
                return grant
            return Grant("", await self.check(bearer_of(request)))
        except Refusal as refusal:
            self._tell(refusal, request)
            raise

    def require(self, principal: Principal, scope: str) -> None:
        """Let a principal go on that has a scope.

        Raises: Refusal.
        """
        if not principal.may(scope):
            self.refusals["scope"] += 1
            raise Refusal(Kind.FORBIDDEN, f"the token lacks the scope {scope}", reason="scope")

    def _tell(self, refusal: Refusal, request: web.BaseRequest) -> None:
        reason = refusal.reason or refusal.kind.name
        self.refusals[reason] += 1
        self._server.events.emit(AUTH_REFUSED, None, reason, peer_address(request))

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield refusals by reason; reasons are words of ours, so there are few."""
        for reason, count in self.refusals.items():
            yield "sojourn_exchange_auth_refused_total", {"reason": reason}, count
        yield "sojourn_exchange_auth_degraded", {}, float(self.health().is_degraded)


def ticket_of(request: web.BaseRequest) -> str | None:
    """Return the ticket of a handshake: among its subprotocols, or the query's ``ticket``."""
    ticket = credentials.ticket_of(request)
    return request.query.get(TICKET_PARAMETER) if ticket is None else ticket
