"""Introspection: asking the issuer's server about each token (RFC 7662), seldom.

Answers are kept in a bounded cache, a yes and a no apart, so that made-up tokens push nobody out. While the server does
not answer, a yes that is not too old stays one. Knows nothing of HTTP requests to us.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus

import aiohttp
import msgspec

from sojourn.core.breaker import Breakers
from sojourn.core.clock import Clock
from sojourn.core.events import EventKind, Events
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.auth_config import AuthSettings, IntrospectionSettings
from sojourn.gateways.exchange.key_set import Spawn, read_bounded
from sojourn.gateways.exchange.principal import Principal, principal_of, refused
from sojourn.gateways.exchange.problems import Kind, Refusal

INTROSPECTION_FAILED: Final = EventKind("exchange.introspection_failed", ("error",), level="warning")
"""A token could not be asked about; tokens that are known go on."""

NAME: Final = "exchange.introspection"
_ANSWER_LIMIT_BYTES: Final = 65_536


class _Known(NamedTuple):
    principal: Principal
    fresh_until: float
    keep_until: float


class Introspection:
    """The cache in front of one introspection endpoint.

    Always true: one question per token is under way at most, and ``questions_count`` of all.

    Args:
        http: the session that questions go through; closed by its owner.
        clock: monotonic seconds; wall: unix seconds.
    """

    def __init__(
        self,
        settings: AuthSettings,
        asked: IntrospectionSettings,
        http: aiohttp.ClientSession,
        *,
        breakers: Breakers,
        events: Events,
        spawn: Spawn,
        clock: Clock,
        wall: Callable[[], float],
    ) -> None:
        self.failure = ""
        self._settings = settings
        self._asked = asked
        self._http = http
        self._breakers = breakers
        self._events = events
        self._spawn = spawn
        self._clock = clock
        self._wall = wall
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, str, str]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Any]] = {}

    async def check(self, token: str) -> Principal:
        """Return whose token it is.

        Raises: Refusal.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        now = self._clock()
        known = self._known.get(digest)
        if known is not None and now < known.fresh_until:
            self._known.move_to_end(digest)
            self._check_expiry(known.principal)
            return known.principal
        no = self._refused.get(digest)
        if no is not None and now < no[0]:
            raise refused(no[1], no[2])
        try:
            principal = await self._answer(token, digest)
        except BackendUnavailable:
            known = self._known.get(digest)
            if known is None or self._clock() >= known.keep_until:
                raise Refusal(Kind.AUTH_UNAVAILABLE) from None
            self._check_expiry(known.principal)
            return known.principal
        return principal

    def _check_expiry(self, principal: Principal) -> None:
        if self._wall() >= principal.expires_at + self._settings.leeway_s:
            raise refused("expired", "the token has expired")

    async def _answer(self, token: str, digest: bytes) -> Principal:
        """Ask, or wait for the answer that somebody else waits for."""
        asking = self._asking.get(digest)
        if asking is None:
            if len(self._asking) >= self._asked.questions_count:
                raise BackendUnavailable(NAME, 0.0, "too many questions are under way")
            asking = self._asking[digest] = self._spawn(self._run(token, digest))
        outcome = await asyncio.shield(asking)
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)
        if not isinstance(outcome, Principal):  # the server stops
            raise BackendUnavailable(NAME, 0.0, "not answered")
        return outcome

    async def _run(self, token: str, digest: bytes) -> Principal | Refusal | BackendUnavailable:
        """Ask and remember; what went wrong is returned, so that each who waits raises it in its own task."""
        try:
            with self._breakers.guard(NAME):
                claims = await self._ask(token)
        except BackendUnavailable as error:
            self.failure = error.cause
            self._events.emit(INTROSPECTION_FAILED, None, error.cause)
            return error
        finally:
            del self._asking[digest]
        self.failure = ""
        now = self._clock()
        asked = self._asked
        try:
            principal = self._read(claims, digest)
        except Refusal as refusal:
            self._known.pop(digest, None)
            self._refused[digest] = (now + asked.refused_cache_s, refusal.reason, refusal.detail)
            _bound(self._refused, asked.cache_count)
            return refusal
        self._refused.pop(digest, None)
        self._known[digest] = _Known(principal, now + asked.cache_s, now + max(asked.keep_s, asked.cache_s))
        self._known.move_to_end(digest)
        _bound(self._known, asked.cache_count)
        return principal

    def _read(self, claims: dict[str, Any], digest: bytes) -> Principal:
        """Check an answer as a token of ours is checked; only a literal true is a yes (RFC 7662 section 2.2)."""
        if claims.get("active") is not True:
            raise refused("inactive", "the issuer says no")
        audience = claims.get("aud", self._settings.audience)
        if self._settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise refused("bad_audience", "the token is for somebody else")
        if claims.get("iss", self._settings.issuer) != self._settings.issuer:
            raise refused("bad_issuer", "the token is of another issuer")
        return principal_of(claims, self._settings, self._wall(), digest.hex()[:16])

    async def _ask(self, token: str) -> dict[str, Any]:
        asked = self._asked
        try:
            async with self._http.post(
                asked.url,
                data={"token": token, "token_type_hint": "access_token"},
                headers={"Accept": "application/json", "Authorization": _basic(asked)},
                timeout=aiohttp.ClientTimeout(total=asked.timeout_s),
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004 - the HTTP status of success
                    raise BackendUnavailable(NAME, 0.0, f"status {answer.status}")
                body = await read_bounded(answer, _ANSWER_LIMIT_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BackendUnavailable(NAME, 0.0, type(error).__name__) from None
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            raise BackendUnavailable(NAME, 0.0, "an answer that is no JSON object") from None


def _basic(asked: IntrospectionSettings) -> str:
    """Return our credentials. Source: RFC 6749 section 2.3.1: encoded as a form's fields are, then as Basic."""
    pair = f"{quote_plus(asked.client_id)}:{quote_plus(asked.client_secret.reveal())}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _bound(kept: OrderedDict[bytes, Any], count: int) -> None:
    while len(kept) > count:
        kept.popitem(last=False)
