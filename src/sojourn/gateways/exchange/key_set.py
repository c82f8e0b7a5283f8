"""The issuer's public keys (JWKS): read, kept, fetched again, and chosen by key id and algorithm.

A key verifies only the algorithms of its own kind, so that no token can have its signature checked as something else
than what it is (an RSA key as the secret of an HMAC). Knows nothing of tokens and claims.

Theory of operation. Keys that are younger than ``refresh_s`` are used as they are; older ones are used too while a
fetch runs beside. A key id that nobody knows starts a fetch and waits for it, at most once per ``min_refresh_s``,
however many ids are made up. Fetches never run side by side. While they fail, one is tried every ``retry_s``, as far as
the circuit breaker lets it, and the last keys stay good for ``keep_s``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import jwt
import msgspec

from sojourn.core.breaker import Breakers
from sojourn.core.clock import Clock
from sojourn.core.events import EventKind, Events
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.auth_config import KeySettings

KEYS_CHANGED: Final = EventKind("exchange.auth_keys_changed", ("source", "keys"))
KEYS_FAILED: Final = EventKind("exchange.auth_keys_failed", ("source", "error"), level="warning")
"""The issuer's keys could not be fetched; the ones that are known stay good for a while."""

KEYS_COUNT: Final = 64
"""More keys than any issuer rotates through; a longer set is refused as a whole."""
LONGEST_KEY_ID: Final = 256
_RSA_BITS: Final = 2048
"""Shorter RSA keys are refused. Source: RFC 7518 section 3.3."""
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PUBLIC_MEMBERS: Final = frozenset({"kty", "n", "e", "crv", "x", "y"})

Fetch = Callable[[], Awaitable[bytes]]
Spawn = Callable[[Awaitable[Any]], "asyncio.Task[Any]"]


class VerifyKey(NamedTuple):
    """One public key and the only algorithms that it verifies."""

    kid: str
    algorithms: frozenset[str]
    key: Any


def read_keys(body: bytes) -> tuple[VerifyKey, ...]:
    """Read a JWK set; keys that are no signature keys of a kind that we know are left out.

    Raises: ValueError if it is none, or if nothing is left.
    Source: RFC 7517 sections 4 and 5.
    """
    try:
        members = msgspec.json.decode(body, type=dict[str, Any]).get("keys")
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError("no JSON object") from None
    if not isinstance(members, list) or len(members) > KEYS_COUNT:
        raise ValueError(f"no list of at most {KEYS_COUNT} keys")
    found = tuple(key for key in map(_read_key, members) if key is not None)
    if not found:
        raise ValueError("no key that verifies signatures")
    return found


def _read_key(member: Any) -> VerifyKey | None:
    if not isinstance(member, dict) or member.get("use", "sig") != "sig":
        return None
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    match member.get("kty"), member.get("crv"):
        case "RSA", None:
            algorithms = _RSA_ALGORITHMS
        case "EC", str(curve) if curve in _CURVES:
            algorithms = frozenset({_CURVES[curve]})
        case "OKP", "Ed25519":
            algorithms = frozenset({"EdDSA"})
        case _:
            return None  # a shared secret has no place in a set of public keys
    declared = member.get("alg")
    if declared is not None:
        algorithms &= {declared} if isinstance(declared, str) else frozenset()
    kid = member.get("kid", "")
    if not algorithms or not isinstance(kid, str) or len(kid) > LONGEST_KEY_ID:
        return None
    public = {name: value for name, value in member.items() if name in _PUBLIC_MEMBERS}
    try:
        key = jwt.PyJWK(public, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if getattr(key, "key_size", _RSA_BITS) < _RSA_BITS and member["kty"] == "RSA":
        return None
    return VerifyKey(kid, algorithms, key)


class KeySet:
    """The keys of one source.

    Life: made with the authenticator; ``start`` fetches once and raises nothing. Always true: ``version`` changes with
    the keys, so that what was concluded from old ones can be forgotten.

    Args:
        name: in logs and of the circuit breaker.
        fetch: returns the set as JSON. Raises: BackendUnavailable.
        spawn: runs a fetch in a task that the server owns.
    """

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        settings: KeySettings,
        *,
        breakers: Breakers,
        events: Events,
        spawn: Spawn,
        clock: Clock,
    ) -> None:
        self.name = name
        self.version = 0
        self.failure = ""
        self._fetch = fetch
        self._settings = settings
        self._breakers = breakers
        self._events = events
        self._spawn = spawn
        self._clock = clock
        self._keys: tuple[VerifyKey, ...] = ()
        self._body = b""
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Fetch once; without success the first token tries again."""
        await self._refreshed()

    async def find(self, kid: str | None, algorithm: str) -> VerifyKey | None:
        """Return the key that a token names, None if there is none; without a name, the only one that fits.

        Raises: BackendUnavailable if there are no keys that are good.
        """
        age_s = self._clock() - self._fetched_at
        if age_s > self._settings.keep_s:
            await self._refreshed()
            if self._clock() - self._fetched_at > self._settings.keep_s:
                raise BackendUnavailable(self.name, 0.0, "its keys are not known, or too old")
        else:
            self.freshen()
        found = self._find(kid, algorithm)
        if found is None and kid is not None and not self._knows(kid) and self._may_try():
            await self._refreshed()
            found = self._find(kid, algorithm)
        return found

    def freshen(self) -> None:
        """Fetch beside the work if the keys are old; cheap enough for every request."""
        if self._clock() - self._fetched_at > self._settings.refresh_s and self._may_try():
            self._begin()

    def _knows(self, kid: str) -> bool:
        return any(key.kid == kid for key in self._keys)

    def _find(self, kid: str | None, algorithm: str) -> VerifyKey | None:
        fitting = [
            key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _may_try(self) -> bool:
        """Say whether a fetch is under way already, or may begin."""
        wait_s = self._settings.retry_s if self.failure else self._settings.min_refresh_s
        return self._fetching is not None or self._clock() - self._tried_at >= wait_s

    async def _refreshed(self) -> None:
        """Wait for the fetch that is under way, or for a new one; who goes away does not stop it for the others."""
        if self._may_try():
            await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[Any]:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = self._spawn(self._run())
        return self._fetching

    async def _run(self) -> None:
        """Fetch and take what came; told, never raised."""
        try:
            with self._breakers.guard(self.name):
                body = await self._fetch()
                try:
                    keys = read_keys(body)
                except ValueError as error:
                    raise BackendUnavailable(self.name, 0.0, str(error)) from None
        except BackendUnavailable as error:
            self.failure = error.cause
            self._events.emit(KEYS_FAILED, None, self.name, error.cause)
        else:
            self.failure = ""
            self._fetched_at = self._clock()
            if body != self._body:
                self._body, self._keys = body, keys
                self.version += 1
                self._events.emit(KEYS_CHANGED, None, self.name, len(keys))
        finally:
            self._fetching = None


def fetch_from_url(http: aiohttp.ClientSession, url: str, settings: KeySettings) -> Fetch:
    """Return what fetches a JWK set by HTTP; redirects are not followed, so that the address is the one configured."""

    async def fetch() -> bytes:
        timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
        try:
            async with http.get(url, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:  # noqa: PLR2004 - the HTTP status of success
                    raise BackendUnavailable("jwks", 0.0, f"status {answer.status}")
                return await read_bounded(answer, settings.answer_limit_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BackendUnavailable("jwks", 0.0, type(error).__name__) from None

    return fetch


def fetch_from_file(path: str) -> Fetch:
    """Return what reads a JWK set from a file; a local file of a few kilobytes, so the loop may wait for it."""

    def read() -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise BackendUnavailable("jwks", 0.0, error.strerror or "the file cannot be read") from None

    async def fetch() -> bytes:
        return read()

    return fetch


async def read_bounded(answer: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """Return the body of an answer.

    Raises: BackendUnavailable if it is longer than allowed.
    """
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            raise BackendUnavailable("auth", 0.0, f"an answer of more than {limit_bytes} bytes")
    return bytes(body)
