"""The development issuer: a key file, its public half, and tokens signed with it.

For laptops, demos and tests, where no identity provider is; ``sojourn token`` is its command line. Who can read the
file can be anybody, so it is made readable by its owner only. Knows nothing of how tokens are checked.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from sojourn.errors import ConfigError, Problem

ALGORITHM: Final = "ES256"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PUBLIC: Final = ("crv", "kty", "x", "y")


def make_key_file(path: Path) -> None:
    """Write a new private key as a JWK, mode 0600.

    Raises: ConfigError if the file exists or cannot be made.
    """
    jwk: dict[str, Any] = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    jwk |= {"alg": ALGORITHM, "use": "sig", "kid": _thumbprint(jwk)}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(jwk) + b"\n")
    except OSError as error:
        raise ConfigError(
            [_problem(f"{path}: {error.strerror}", "a new file in a place that can be written")]
        ) from None


def read_key_file(path: Path) -> dict[str, Any]:
    """Return the private key as a JWK.

    Raises: ConfigError if the file is none of ours, or others may read it.
    """
    try:
        if path.stat().st_mode & _OTHERS:
            raise ConfigError([_problem(f"{path}, which others may read", "mode 0600")])
        jwk = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        ECAlgorithm(ECAlgorithm.SHA256).from_jwk(jwk)
    except OSError as error:
        raise ConfigError(
            [_problem(f"{path}: {error.strerror}", "a file of: sojourn token new-key")]
        ) from None
    except (msgspec.MsgspecError, jwt.PyJWTError, ValueError, TypeError):
        raise ConfigError(
            [_problem(f"{path}, which has no key", "a file of: sojourn token new-key")]
        ) from None
    if "d" not in jwk or jwk.get("crv") != "P-256":
        raise ConfigError(
            [_problem(f"{path}, which has no private key of P-256", "a file of: sojourn token new-key")]
        )
    return jwk


def public_set(jwk: dict[str, Any]) -> bytes:
    """Return the public half as a JWK set, for ``auth.jwks_file`` or another server."""
    public = {name: jwk[name] for name in _PUBLIC} | {"alg": ALGORITHM, "use": "sig", "kid": _thumbprint(jwk)}
    return msgspec.json.encode({"keys": [public]})


def sign_token(
    jwk: dict[str, Any],
    *,
    subject: str,
    scopes: Sequence[str],
    issuer: str,
    audience: str,
    lifetime_s: float,
    now: float,
) -> str:
    """Return a signed token.

    Args: now, in unix seconds.
    """
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "scope": " ".join(scopes),
        "iat": int(now),
        "exp": int(now + lifetime_s),
        "jti": secrets.token_urlsafe(12),
    }
    key = ECAlgorithm(ECAlgorithm.SHA256).from_jwk(jwk)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("found a public key, wanted the private one")
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": _thumbprint(jwk)})


def _thumbprint(jwk: dict[str, Any]) -> str:
    """Name a key by what it is. Source: RFC 7638 section 3: the required members in order, hashed."""
    canonical = msgspec.json.encode({name: jwk[name] for name in _PUBLIC}, order="sorted")
    return urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


def _problem(found: str, wanted: str) -> Problem:
    return Problem("(file)", 0, "exchange.auth", "dev_key_file", found, wanted)
