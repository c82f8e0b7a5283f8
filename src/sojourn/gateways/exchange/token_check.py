"""TokenCheck: JSON Web Tokens that are verified here, with keys that are known here.

What decides is ours: the algorithm comes from a list, the key from its id and its own kind, and only then is the
signature looked at. Knows nothing of HTTP.

Source: RFC 7519 section 7.2; RFC 8725 (best current practices), sections 3.1 to 3.12.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.key_set import LONGEST_KEY_ID, KeySet
from sojourn.gateways.exchange.principal import Principal, principal_of, refused
from sojourn.gateways.exchange.problems import Kind, Refusal

KNOWN_COUNT: Final = 20_000
"""Tokens whose signature was good and need not be verified again; a signature costs 0.1 ms, a look-up 1 us."""
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""An ID token or a logout token of the same issuer is no access token. Source: RFC 9068 section 4, RFC 8725 3.11."""
_DEV_ALGORITHM: Final = "HS256"


class TokenCheck:
    """Checks signed tokens.

    Args:
        keys: sources of public keys, asked in order.
        wall: unix seconds.
    """

    def __init__(self, settings: AuthSettings, keys: Sequence[KeySet], wall: Callable[[], float]) -> None:
        self._settings = settings
        self._keys = keys
        self._wall = wall
        self._known: OrderedDict[bytes, Principal] = OrderedDict()
        self._known_version = -1

    async def check(self, token: str) -> Principal:
        """Return whose token it is.

        Raises: Refusal.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        for source in self._keys:
            source.freshen()
        version = sum(source.version for source in self._keys)
        if version != self._known_version:
            self._known.clear()  # a key that was taken back takes its tokens with it
            self._known_version = version
        known = self._known.get(digest)
        if known is not None and self._wall() < known.expires_at + self._settings.leeway_s:
            self._known.move_to_end(digest)
            return known
        principal = await self._verified(token, digest.hex()[:16])
        if self._known_version == sum(source.version for source in self._keys):
            self._known[digest] = principal
            if len(self._known) > KNOWN_COUNT:
                self._known.popitem(last=False)
        return principal

    async def _verified(self, token: str, name: str) -> Principal:
        algorithm, kid = self._head(token)
        key = await self._key(algorithm, kid)
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                # Times are compared in `principal_of`, by the clock that we are given.
                options={
                    "require": ["exp", "sub", "aud", "iss"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise refused("bad_signature", "the signature is not the issuer's") from None
        except jwt.InvalidAudienceError:
            raise refused("bad_audience", "the token is for somebody else") from None
        except jwt.InvalidIssuerError:
            raise refused("bad_issuer", "the token is of another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise refused("missing_claim", f"the token lacks {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise refused("malformed", "this is no token") from None
        return principal_of(claims, settings, self._wall(), name)

    def _head(self, token: str) -> tuple[str, str | None]:
        """Return algorithm and key id that a token claims, if we may go on with them."""
        try:
            head: dict[str, Any] = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise refused("malformed", "this is no token") from None
        algorithm, kid, kind = head.get("alg"), head.get("kid"), head.get("typ", "JWT")
        allowed: tuple[str, ...] = self._settings.algorithms
        if self._settings.dev_secret is not None:
            allowed = (*allowed, _DEV_ALGORITHM)
        if not isinstance(algorithm, str) or algorithm not in allowed:
            raise refused("bad_algorithm", f"the algorithm is none of {', '.join(allowed)}")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise refused("bad_type", "this token is not for access")
        if "crit" in head or head.get("b64", True) is not True:
            raise refused("bad_extension", "the token needs an extension that is not known here")
        if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KEY_ID):
            raise refused("malformed", "the key id is none")
        return algorithm, kid

    async def _key(self, algorithm: str, kid: str | None) -> Any:
        if algorithm == _DEV_ALGORITHM and self._settings.dev_secret is not None:
            return self._settings.dev_secret.reveal().encode()
        away = False
        for source in self._keys:
            try:
                found = await source.find(kid, algorithm)
            except BackendUnavailable:
                away = True
                continue
            if found is not None:
                return found.key
        if away:
            raise Refusal(Kind.AUTH_UNAVAILABLE, retry_after_s=self._settings.keys.retry_s)
        raise refused("unknown_key", "no key of the issuer fits the token")
