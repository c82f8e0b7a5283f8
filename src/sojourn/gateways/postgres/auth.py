"""Logins of clients: who must prove what, and what we learn from it for the login at a server.

Speaks through a ``Talk``, asks a function for what is stored of a user, and ends with ``Credentials`` or a
:class:`~sojourn.gateways.postgres.messages.Refusal` that does not tell which part was wrong. Knows nothing of where
secrets come from, which rule chose the method, or what follows AuthenticationOk, which the caller sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sojourn.core.secret import Secret
from sojourn.errors import ConnectionLost, LocalProtocolError, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal
from sojourn.gateways.postgres.scram import (
    SCRAM,
    SCRAM_PLUS,
    KeyCache,
    ScramKeys,
    ServerExchange,
    derive_keys,
    parse_verifier,
)

METHODS: Final = ("trust", "reject", "md5", "password", "scram-sha-256", "cert")

MAX_ANSWER_BYTES: Final = 65_535
"""Longest answer to a request for authentication. Source: PostgreSQL's own limit."""

INLINE_ITERATIONS_COUNT: Final = 16_384
"""More iterations than these, about 5 ms of work, are done in a thread so that the loop goes on."""

MD5_SALT_BYTES: Final = 4
_MD5_HASH: Final = re.compile(r"md5[0-9a-f]{32}")
_SOURCE: Final = "PostgreSQL, Start-up and SASL Authentication"

SHARED_KEYS: Final = KeyCache()
"""The cache of a process that serves on its own; workers of one address share a key, see ``KeyCache``."""

FindSecret = Callable[[str], Awaitable[Secret | None]]
AllowsCertificate = Callable[[str, str], bool]
"""Whether a certificate's name (first) may be a user (second)."""


class Talk(Protocol):
    """How start-up code converses with one peer; implemented for clients and for servers.

    Always true: ``channel_binding`` is the tls-server-end-point data (RFC 5929) of the server's side of the
    connection, b"" without TLS; ``address`` is the peer's IP address or ``unix``; ``certificate_names`` are those of a
    verified client certificate.
    """

    is_tls: bool
    channel_binding: bytes
    address: str
    certificate_names: tuple[str, ...]

    def send(self, data: bytes) -> None:
        """Write."""

    async def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next message.

        Raises: ConnectionLost, TimeoutError, WireError.
        """


@dataclass(frozen=True, slots=True)
class Credentials:
    """What can be shown for a user at a server; ``repr`` shows no secret.

    Made by a client's login or by ``of``; its pool keeps those of the newest login for new servers. Any of the
    three may be absent: the plain password answers every request, ``scram`` only that of a server with the same
    verifier, and ``md5`` (the stored ``md5...`` text) only a request for an md5 hash.
    """

    user: str
    password: Secret | None = None
    scram: ScramKeys | None = None
    md5: Secret | None = None

    @classmethod
    def of(cls, user: str, secret: Secret | None) -> Credentials:
        """Return what a stored secret is good for: plain or md5; a SCRAM verifier is good for nothing here."""
        text = secret.reveal() if secret is not None else ""
        if secret is None or not text or parse_verifier(text) is not None:
            return cls(user)
        return cls(user, md5=secret) if is_md5_hash(text) else cls(user, password=secret)

    @property
    def is_empty(self) -> bool:
        """Nothing is known: only a server that trusts us can be reached."""
        return self.password is None and self.scram is None and self.md5 is None


async def login_client(
    talk: Talk,
    user: str,
    database: str,
    *,
    method: str,
    find_secret: FindSecret,
    allows_certificate: AllowsCertificate | None = None,
    keys: KeyCache = SHARED_KEYS,
) -> Credentials:
    """Let a client prove who it is by ``method``, and return what it taught us.

    Args:
        method: one of ``METHODS``; ``md5`` becomes SCRAM for a user whose SCRAM verifier is stored.
        find_secret: returns what is stored of a user: plain, ``md5...`` or ``SCRAM-SHA-256$...``.
        allows_certificate: for ``cert``; without it the certificate must name the user itself.

    Then: send AuthenticationOk, which the caller does when it wants to.
    Raises: Refusal; ConnectionLost if the client ends the login; whatever ``talk`` and ``find_secret`` raise.
    """
    if method == "reject":
        raise rejected(talk, user, database)
    if method == "cert":
        _check_certificate(talk, user, allows_certificate)
    elif method not in METHODS:
        raise LocalProtocolError(f"the method {method!r}", f"one of {', '.join(METHODS)}", "login_client")
    secret = await find_secret(user)
    if method in {"trust", "cert"}:
        return Credentials.of(user, secret)
    text = secret.reveal() if secret is not None else ""
    if method == "password":
        return await _by_password(talk, user, text, keys)
    if method == "md5" and text and parse_verifier(text) is None:
        return await _by_md5(talk, user, text)
    # As PostgreSQL: a user who is not there gets the mock of SCRAM, whatever the others have.
    return await _by_scram(talk, user, text, keys)


def rejected(talk: Talk, user: str, database: str) -> Refusal:
    """Return the refusal of a client that a rule rejects."""
    return Refusal(SQLSTATE.INVALID_AUTHORIZATION, f"an HBA rule rejects {_whom(talk, user, database)}")


def no_rule(talk: Talk, user: str, database: str) -> Refusal:
    """Return the refusal of a client that no rule is for."""
    # "no pg_hba.conf entry" is what users search for; drivers and scripts look for it, too.
    return Refusal(SQLSTATE.INVALID_AUTHORIZATION, f"no pg_hba.conf entry for {_whom(talk, user, database)}")


def password_failed(user: str, *, detail: str = "") -> Refusal:
    """Return the one refusal of a wrong password, a user who is not there and a secret that cannot be used."""
    message = f'password authentication failed for user "{user}"'
    return Refusal(SQLSTATE.INVALID_PASSWORD, message, detail=detail)


def is_md5_hash(text: str) -> bool:
    """Say whether a stored secret is an md5 hash, not a password."""
    return _MD5_HASH.fullmatch(text) is not None


def md5_hash(user: str, password: bytes) -> str:
    """Return what PostgreSQL stores of a password as md5: ``md5`` and the hash of password and user."""
    return "md5" + _md5(password + _bytes_of(user))


def md5_answer(stored: str, salt: bytes) -> bytes:
    """Return the answer to a request for an md5 password, from the stored hash."""
    return b"md5" + _md5(stored[3:].encode() + salt).encode()


async def keys_of(password: bytes, salt: bytes, iterations: int, keys: KeyCache) -> ScramKeys:
    """Return the keys of a password that may be wrong: cached ones, or derived now and not kept.

    Raises: LimitExceeded for too many iterations.
    """
    known = keys.find(password, salt, iterations)
    if known is not None:
        return known
    if iterations <= INLINE_ITERATIONS_COUNT:
        return derive_keys(password, salt, iterations)
    return await asyncio.to_thread(derive_keys, password, salt, iterations)


async def _by_password(talk: Talk, user: str, stored: str, keys: KeyCache) -> Credentials:
    """Ask for the password itself and compare it with whatever is stored."""
    talk.send(wire.authentication_cleartext())
    password = wire.password(await _answer(talk))
    verifier = parse_verifier(stored)
    if verifier is None and stored:
        is_hash = is_md5_hash(stored)
        shown = md5_hash(user, password).encode() if is_hash else password
        is_right = hmac.compare_digest(shown, _bytes_of(stored))
    else:
        # Without a stored secret as much is computed as with one.
        wanted = verifier or keys.mock_verifier(user)
        found = await keys_of(password, wanted.salt, wanted.iterations, keys)
        is_right = hmac.compare_digest(found.verifier.stored_key, wanted.stored_key) and verifier is not None
        if is_right:
            keys.keep(password, found)
    try:
        text = password.decode()
    except UnicodeDecodeError:
        raise password_failed(user) from None
    if not is_right or not text:
        raise password_failed(user)
    return Credentials(user, password=Secret(text))


async def _by_md5(talk: Talk, user: str, stored: str) -> Credentials:
    """Ask for the password hashed with a salt."""
    salt = secrets.token_bytes(MD5_SALT_BYTES)
    talk.send(wire.authentication_md5(salt))
    answer = wire.password(await _answer(talk))
    hashed = stored if is_md5_hash(stored) else md5_hash(user, _bytes_of(stored))
    if not hmac.compare_digest(answer, md5_answer(hashed, salt)):
        raise password_failed(user)
    return Credentials.of(user, Secret(stored))


async def _by_scram(talk: Talk, user: str, stored: str, keys: KeyCache) -> Credentials:
    """Run SCRAM-SHA-256, bound to the TLS channel if the client can."""
    verifier = parse_verifier(stored)
    is_plain = verifier is None and bool(stored) and not is_md5_hash(stored)
    if is_plain:
        password = _bytes_of(stored)
        own = await keys_of(password, keys.salt_of(user), keys.mock_verifier(user).iterations, keys)
        keys.keep(password, own)
        verifier = own.verifier
    binding = talk.channel_binding if talk.is_tls else b""
    mechanisms = (SCRAM_PLUS, SCRAM) if binding else (SCRAM,)
    wanted = verifier or keys.mock_verifier(user)
    exchange = ServerExchange(wanted, channel_binding=binding, is_mock=verifier is None)
    talk.send(wire.authentication_sasl(mechanisms))
    mechanism, data = wire.sasl_choice(await _answer(talk))
    if mechanism not in mechanisms:
        raise Refusal(SQLSTATE.PROTOCOL_VIOLATION, "the chosen SASL mechanism was not offered")
    if data is None:
        # RFC 4422 section 3.3 lets a client wait for an empty challenge first.
        talk.send(wire.authentication_sasl_continue(b""))
        data = await _answer(talk)
    talk.send(wire.authentication_sasl_continue(exchange.first(mechanism, data)))
    outcome = exchange.final(await _answer(talk))
    if outcome is None:
        raise password_failed(user)
    talk.send(wire.authentication_sasl_final(outcome))
    if is_plain:
        return Credentials(user, password=Secret(stored))
    learned = ScramKeys(wanted.salt, wanted.iterations, exchange.client_key, wanted.server_key)
    return Credentials(user, scram=learned)


def _check_certificate(talk: Talk, user: str, allows: AllowsCertificate | None) -> None:
    for name in talk.certificate_names if talk.is_tls else ():
        if name == user if allows is None else allows(name, user):
            return
    raise Refusal(SQLSTATE.INVALID_AUTHORIZATION, f'certificate authentication failed for user "{user}"')


async def _answer(talk: Talk) -> bytes:
    """Return the body of the client's answer to a request for authentication."""
    kind, body = await talk.receive()
    if kind == Frontend.TERMINATE:
        raise ConnectionLost("the client ended the login")
    if kind != Frontend.PASSWORD:
        raise WireError(f"a message of type {kind:#04x}", "an answer to the authentication request", _SOURCE)
    if len(body) > MAX_ANSWER_BYTES:
        raise WireError(f"an answer of {len(body)} bytes", f"at most {MAX_ANSWER_BYTES}", _SOURCE)
    return body


def _whom(talk: Talk, user: str, database: str) -> str:
    host = "[local]" if talk.address == "unix" else talk.address
    transport = "SSL encryption" if talk.is_tls else "no encryption"
    return f'host "{host}", user "{user}", database "{database}", {transport}'


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _md5(data: bytes) -> str:
    # The protocol's choice, not ours: the flag lets it work where md5 is barred from security.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
