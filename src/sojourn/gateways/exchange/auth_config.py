"""``[exchange.auth]``: whose tokens are believed, and what they must say.

Declares names, units, defaults and help; knows nothing of how a token is checked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Settings

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures that a public key verifies; ``none`` and secrets shared with clients are no choice."""

ALGORITHMS: Final[tuple[Algorithm, ...]] = ("RS256", "PS256", "ES256", "EdDSA")
SHORTEST_SECRET_BYTES: Final = 32
"""A key of the hash's size or more. Source: RFC 7518 section 3.2."""


class KeySettings(Settings, frozen=True):
    """How the issuer's public keys are fetched and kept."""

    refresh_s: Annotated[
        float, Meta(gt=0, description="Age of the keys at which they are fetched again, beside the work.")
    ] = 300.0
    min_refresh_s: Annotated[
        float, Meta(gt=0, description="Shortest time between two fetches, whatever key ids tokens name.")
    ] = 30.0
    retry_s: Annotated[
        float,
        Meta(gt=0, description="The same after a fetch that failed; the circuit breaker makes it longer."),
    ] = 1.0
    keep_s: Annotated[
        float, Meta(gt=0, description="How long keys stay good while their server does not answer.")
    ] = 86_400.0
    timeout_s: Annotated[float, Meta(gt=0, description="One fetch.")] = 5.0
    answer_limit_bytes: Annotated[int, Meta(ge=1_024, description="Longest set of keys.")] = 262_144

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield times that contradict each other."""
        if self.keep_s < self.refresh_s:
            yield "keep_s", str(self.keep_s), f"at least refresh_s ({self.refresh_s})"


class IntrospectionSettings(Settings, frozen=True):
    """A server that is asked about each token (RFC 7662), for tokens that say nothing themselves."""

    url: Annotated[str, Meta(description="Its address.", examples=["https://login.example.net/introspect"])]
    client_id: Annotated[str, Meta(description="Who asks.")]
    client_secret: Annotated[
        Secret, Meta(description="Its secret.", examples=["${file:/etc/sojourn/introspection.secret}"])
    ]
    timeout_s: Annotated[float, Meta(gt=0, description="One question.")] = 5.0
    cache_s: Annotated[
        float, Meta(ge=0, description="How long a yes is believed; a revoked token works this much longer.")
    ] = 30.0
    refused_cache_s: Annotated[float, Meta(ge=0, description="How long a no is believed.")] = 5.0
    keep_s: Annotated[
        float, Meta(ge=0, description="How long a yes stays good while the server does not answer.")
    ] = 900.0
    cache_count: Annotated[int, Meta(ge=1, description="Answers kept.")] = 20_000
    questions_count: Annotated[int, Meta(ge=1, description="Questions under way at once.")] = 32

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield an address that would show tokens to the network."""
        yield from url_problems("url", self.url)


class AuthSettings(Settings, frozen=True):
    """Bearer tokens: who signs them, for whom they are, and what they allow."""

    jwks_url: Annotated[
        str,
        Meta(
            description="Public keys of the issuer.",
            examples=["https://login.example.net/.well-known/jwks.json"],
        ),
    ] = ""
    jwks_file: Annotated[str, Meta(description="The same as a file; read again when it has changed.")] = ""
    introspection: IntrospectionSettings | None = None
    dev_key_file: Annotated[
        str, Meta(description="Key that `sojourn token` signs with; for development and demos.")
    ] = ""
    dev_secret: Annotated[
        Secret | None, Meta(description="Secret of HS256 tokens, at least 32 bytes; for development only.")
    ] = None
    issuer: Annotated[str, Meta(description="What iss must be.", examples=["https://login.example.net/"])] = (
        "sojourn-dev"
    )
    audience: Annotated[str, Meta(min_length=1, description="What aud must have.")] = "sojourn"
    algorithms: Annotated[
        tuple[Algorithm, ...], Meta(min_length=1, description="Signatures that are accepted.")
    ] = ALGORITHMS
    leeway_s: Annotated[
        float, Meta(ge=0, le=300, description="By how much the issuer's clock may differ from ours.")
    ] = 10.0
    token_limit_bytes: Annotated[int, Meta(ge=256, le=65_536, description="Longest token.")] = 8_192
    token_max_age_s: Annotated[
        float, Meta(ge=0, description="Longest life that a token may have from iat to exp; 0 = any.")
    ] = 0.0
    scope_claim: Annotated[
        str, Meta(min_length=1, description="Claim with the scopes: a list, or words in a string.")
    ] = "scope"
    user_scope: Annotated[str, Meta(description="Scope that lets a user in; empty = every token does.")] = (
        "exchange"
    )
    admin_scope: Annotated[str, Meta(min_length=1, description="Scope of administrators.")] = "exchange.admin"
    ticket_ttl_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a ticket for a WebSocket is good.")
    ] = 30.0
    keys: KeySettings = KeySettings()

    @property
    def has_source(self) -> bool:
        """Something says whose tokens are believed; without it nobody is let in."""
        is_asked = self.introspection is not None or self.dev_secret is not None
        return is_asked or bool(self.jwks_url or self.jwks_file or self.dev_key_file)

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what contradicts, and what would let anybody in; whether there is a source shows one table up."""
        sources = [
            name
            for name, value in (
                ("jwks_url", self.jwks_url),
                ("jwks_file", self.jwks_file),
                ("introspection", self.introspection),
            )
            if value
        ]
        if self.introspection is not None and self.dev_key_file:
            sources.append("dev_key_file")
        if self.introspection is not None and self.dev_secret is not None:
            sources.append("dev_secret")
        if len(sources) > 1:
            yield sources[1], f"besides {sources[0]}", "one source of truth about tokens"
        if self.jwks_url:
            yield from url_problems("jwks_url", self.jwks_url)
        if not self.issuer:
            yield "issuer", "nothing", "what iss must be"
        if self.dev_secret is not None and len(self.dev_secret.reveal().encode()) < SHORTEST_SECRET_BYTES:
            yield "dev_secret", "a short secret", f"at least {SHORTEST_SECRET_BYTES} bytes"


def url_problems(key: str, url: str) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with an address to which we entrust who is let in."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_whole = bool(host) and parts.port != 0
    except ValueError:
        parts, host, is_whole = urlsplit(""), "", False
    if not is_whole or parts.scheme not in {"http", "https"} or parts.username is not None:
        yield key, repr(url), "an https:// address without user and password"
    elif parts.scheme == "http" and not _is_loopback(host):
        yield key, repr(url), "https: whoever is on the way could decide who is let in"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
