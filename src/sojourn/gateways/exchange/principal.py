"""Principal: who a request comes from, as a token said and we have checked.

Also what both ways of checking tokens share: reading a subject and scopes out of claims. Knows no key and no server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.problems import Kind, Refusal

LONGEST_SUBJECT: Final = 255
LONGEST_TOKEN_ID: Final = 128
SCOPES_COUNT: Final = 256
LATEST_UNIX_S: Final = 253_402_300_799
"""The last second of the year 9999; later dates have no text."""


class Principal(msgspec.Struct, frozen=True):
    """Who asks, and what they may.

    Units: ``expires_at`` is in unix seconds. ``token_id`` names the token in logs and is not the token.
    """

    subject: str
    scopes: frozenset[str]
    expires_at: float
    token_id: str

    def may(self, scope: str) -> bool:
        """Say whether a scope was granted; an empty one needs no grant."""
        return not scope or scope in self.scopes


def refused(reason: str, detail: str) -> Refusal:
    """Return the refusal of a token; the reason is one of a few words of ours."""
    return Refusal(Kind.INVALID_TOKEN, detail, reason=reason)


def principal_of(claims: Mapping[str, Any], settings: AuthSettings, now: float, token_id: str) -> Principal:
    """Read and check what a trusted source says of a token: times, subject, scopes.

    Args: now, in unix seconds; token_id, for a token that has no id of its own.
    Raises: Refusal.
    Source: RFC 7519 section 4.1.
    """
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        raise refused("no_expiry", "the token never expires")
    leeway_s = settings.leeway_s
    if now >= expires_at + leeway_s:
        raise refused("expired", "the token has expired")
    begins_at = _moment(claims, "nbf")
    if begins_at is not None and now < begins_at - leeway_s:
        raise refused("not_yet_valid", "the token is not valid yet")
    issued_at = _moment(claims, "iat")
    if issued_at is not None and now < issued_at - leeway_s:
        raise refused("not_yet_valid", "the token was issued in the future")
    if settings.token_max_age_s and (
        issued_at is None or expires_at - issued_at > settings.token_max_age_s + leeway_s
    ):
        raise refused("too_long_lived", "the token lives longer than allowed here")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
        raise refused("bad_subject", "the token names nobody")
    token = claims.get("jti")
    if not isinstance(token, str) or not 0 < len(token) <= LONGEST_TOKEN_ID or not token.isprintable():
        token = token_id
    return Principal(subject, scopes_of(claims, settings.scope_claim), expires_at, token)


def scopes_of(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """Return the scopes: words of a string (RFC 8693 section 4.2) or a list of strings, as issuers differ."""
    value = claims.get(claim, "")
    if isinstance(value, str):
        words = value.split()
    elif isinstance(value, list):
        words = [word for word in value if isinstance(word, str)]
    else:
        words = []
    return frozenset(words[:SCOPES_COUNT])


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), None where there is none.

    Raises: Refusal if it is no number that could be a date.
    """
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused("malformed", f"{name} is no date")
    # Compared before it is converted: an integer may be too long for a float.
    if not 0 <= value <= LATEST_UNIX_S or not math.isfinite(value):
        raise refused("malformed", f"{name} is no date")
    return float(value)
