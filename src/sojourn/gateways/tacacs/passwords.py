"""What proves a user: password hashes, sealed secrets and one-time codes.

Knows nothing of users, lock-outs or configuration files. Nothing here keeps, logs or returns a password,
except :func:`unseal`, whose whole purpose it is. Everything is synchronous; the slow functions say so and
belong into the offload pool.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from datetime import datetime
from typing import Final

import argon2
import bcrypt
import pyotp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from passlib.hash import des_crypt, md5_crypt, sha256_crypt, sha512_crypt

from sojourn.core.secret import Secret

ARGON2_TIME_COUNT: Final = 2
"""Passes over the memory. Source: the OWASP password storage sheet (19 MiB, 2 passes, 1 lane)."""

ARGON2_MEMORY_KIB: Final = 19_456
"""19 MiB: every offload thread may hold as much at once."""

MAX_ARGON2_MEMORY_KIB: Final = 1_048_576
MAX_ARGON2_TIME_COUNT: Final = 32
MAX_BCRYPT_COST: Final = 16
MAX_SHA_CRYPT_ROUNDS: Final = 1_000_000
"""Dearer hashes are refused: a login would hold a thread, and for SHA-crypt the interpreter, for seconds."""

MAX_PASSWORD_BYTES: Final = 4_096
"""Longer passwords never match; the limit is that of the crypt formats."""

BCRYPT_BYTES: Final = 72
"""bcrypt has never read more of a password than this."""

SEAL_KEY_BYTES: Final = 32
SEAL_PREFIX: Final = "sealed:v1:"
_NONCE_BYTES: Final = 12

TOTP_STEP_S: Final = 30
TOTP_DIGITS: Final = 6
MIN_TOTP_SECRET_BYTES: Final = 10
"""RFC 4226 section 4 asks for 16, but 10 is what most authenticator programs were given."""

TOTP_WINDOW_COUNT: Final = 1
"""Steps before and after the present one that are taken. Source: RFC 6238 section 5.2."""

DUMMY_HASH: Final = (
    f"$argon2id$v=19$m={ARGON2_MEMORY_KIB},t={ARGON2_TIME_COUNT},p=1"
    "$c29qb3Vybi1kdW1teS1zYWx0$0kK9mU6vQqz5m7jYbW3d1Hh0y8mXG1tJ5m0c5y3b3nE"
)
"""A hash that nobody knows a password of; it costs what :func:`hash_password` makes cost."""

_HASHER: Final = argon2.PasswordHasher(ARGON2_TIME_COUNT, ARGON2_MEMORY_KIB, 1)
_BCRYPT: Final = re.compile(r"^\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}$")
_CRYPTS: Final = (("$6$", sha512_crypt), ("$5$", sha256_crypt), ("$1$", md5_crypt))
_FORMATS: Final = "argon2id, argon2i, bcrypt, sha512-crypt, sha256-crypt, md5-crypt or des-crypt"


def hash_password(text: str) -> str:
    """Return the argon2id hash of a password; takes tens of milliseconds."""
    return _HASHER.hash(text)


def verify_password(hashed: str, password: bytes) -> bool:
    """Tell whether the password fits the hash; takes what the hash asks for, up to seconds.

    A hash of no known format, and a password that its format cannot hold, do not fit; see
    :func:`check_hash_format` for the former.
    """
    if len(password) > MAX_PASSWORD_BYTES:
        password, hashed = b"", DUMMY_HASH
    if hashed.startswith("$argon2"):
        try:
            return _HASHER.verify(hashed, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    if hashed.startswith("$2"):
        try:
            return bcrypt.checkpw(password[:BCRYPT_BYTES], hashed.encode())
        except ValueError:
            return False
    crypt = next((crypt for prefix, crypt in _CRYPTS if hashed.startswith(prefix)), des_crypt)
    try:
        return bool(crypt.verify(password, hashed))
    except (ValueError, TypeError):
        return False


def check_hash_format(hashed: str) -> str | None:
    """Return what is wrong with a hash, in words that do not show it, or None where it can be verified."""
    if hashed.startswith("$argon2"):
        return _check_argon2(hashed)
    if hashed.startswith("$2"):
        found = _BCRYPT.match(hashed)
        if found is None:
            return "a damaged bcrypt hash"
        return f"a bcrypt cost above {MAX_BCRYPT_COST}" if int(found[1]) > MAX_BCRYPT_COST else None
    for prefix, crypt in _CRYPTS:
        if hashed.startswith(prefix):
            return _check_crypt(crypt.name.replace("_", "-"), crypt, hashed)
    if des_crypt.identify(hashed):
        return None
    return f"a password hash of no known format ({_FORMATS} can be verified)"


def _check_argon2(hashed: str) -> str | None:
    try:
        parameters = argon2.extract_parameters(hashed)
    except argon2.exceptions.InvalidHashError:
        return "a damaged argon2 hash"
    if parameters.type not in (argon2.Type.ID, argon2.Type.I):
        return "an argon2d hash (argon2id and argon2i can be verified)"
    if parameters.memory_cost > MAX_ARGON2_MEMORY_KIB or parameters.time_cost > MAX_ARGON2_TIME_COUNT:
        return f"an argon2 hash of more than {MAX_ARGON2_MEMORY_KIB} KiB or {MAX_ARGON2_TIME_COUNT} passes"
    return None


def _check_crypt(name: str, crypt: type[sha512_crypt | sha256_crypt | md5_crypt], hashed: str) -> str | None:
    try:
        parsed = crypt.from_string(hashed)
    except (ValueError, TypeError):
        return f"a damaged {name} hash"
    if parsed.checksum is None:
        return f"a {name} hash without its checksum"
    if getattr(parsed, "rounds", 0) > MAX_SHA_CRYPT_ROUNDS:
        return f"a {name} hash of more than {MAX_SHA_CRYPT_ROUNDS} rounds"
    return None


def new_seal_key() -> Secret:
    """Return a fresh random key for :func:`seal`, in the form of the setting ``tacacs.seal_key``."""
    return Secret(base64.b64encode(os.urandom(SEAL_KEY_BYTES)).decode())


def check_seal_key(key: Secret) -> str | None:
    """Return what is wrong with a seal key, in words, or None."""
    return None if _key_bytes(key) is not None else f"a key that is not {SEAL_KEY_BYTES} bytes in base64"


def seal(secret: str, key: Secret, user: str) -> str:
    """Encrypt a recoverable secret for one user: ``sealed:v1:`` and base64 of nonce and AES-256-GCM box.

    The user's name is part of what is authenticated: the text does not unseal under another name.

    Raises: ValueError: the key is not usable; :func:`check_seal_key` says why.
    """
    raw = _key_bytes(key)
    if raw is None:
        raise ValueError(check_seal_key(key))
    nonce = os.urandom(_NONCE_BYTES)
    box = AESGCM(raw).encrypt(nonce, secret.encode(), _associated(user))
    return SEAL_PREFIX + base64.b64encode(nonce + box).decode()


def unseal(sealed: str, key: Secret, user: str) -> bytes | None:
    """Return the secret, or None where key, user and text do not belong together; never log the answer."""
    raw = _key_bytes(key)
    if raw is None or not sealed.startswith(SEAL_PREFIX):
        return None
    try:
        data = base64.b64decode(sealed[len(SEAL_PREFIX) :], validate=True)
        return AESGCM(raw).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _associated(user))
    except (binascii.Error, InvalidTag, ValueError):
        return None


def check_sealed(sealed: Secret, key: Secret, user: str) -> str | None:
    """Return what is wrong with a user's sealed secret, in words, or None."""
    if unseal(sealed.reveal(), key, user) is None:
        return "a secret that was not sealed with this seal_key for this user"
    return None


def _associated(user: str) -> bytes:
    return b"sojourn tacacs user\0" + user.encode()


def _key_bytes(key: Secret) -> bytes | None:
    try:
        raw = base64.b64decode(key.reveal(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == SEAL_KEY_BYTES else None


def check_totp_secret(secret: Secret) -> str | None:
    """Return what is wrong with a TOTP secret, in words, or None."""
    try:
        raw = pyotp.TOTP(secret.reveal()).byte_secret()
    except (binascii.Error, ValueError):
        return "a TOTP secret that is not base32"
    return None if len(raw) >= MIN_TOTP_SECRET_BYTES else "a TOTP secret of less than 80 bits"


def totp_step(secret: Secret, code: bytes, now: datetime) -> int | None:
    """Return the time step to which a one-time code belongs, or None where it fits none in the window.

    Every step of the window is computed, whichever fits, so that all answers take alike.

    Then: the caller refuses a step that is not later than the last one it took (RFC 6238 section 5.2).
    """
    try:
        totp = pyotp.TOTP(secret.reveal(), digits=TOTP_DIGITS, interval=TOTP_STEP_S)
        present = int(now.timestamp()) // TOTP_STEP_S
        steps = range(present - TOTP_WINDOW_COUNT, present + TOTP_WINDOW_COUNT + 1)
        codes = [(step, totp.generate_otp(step).encode()) for step in steps if step >= 0]
    except (binascii.Error, ValueError):
        return None
    fitting = [step for step, wanted in codes if hmac.compare_digest(wanted, code)]
    return fitting[-1] if fitting else None
