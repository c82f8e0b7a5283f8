"""Logins of ours at servers: answer what is asked with what is known of the user.

Begins after the startup message and ends with AuthenticationOk. Knows nothing of pools, or of where the credentials
come from.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from sojourn.errors import BackendUnavailable, LimitExceeded, RemoteProtocolError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import (
    SHARED_KEYS,
    Credentials,
    Talk,
    keys_of,
    md5_answer,
    md5_hash,
    password_failed,
)
from sojourn.gateways.postgres.messages import (
    SQLSTATE,
    Authentication,
    Backend,
    Refusal,
    message_names,
    name_of,
)
from sojourn.gateways.postgres.scram import SCRAM, SCRAM_PLUS, Challenge, ClientExchange, KeyCache, ScramKeys

_SOURCE: Final = "PostgreSQL, Start-up"
_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")
_OF_THE_ASKER: Final = frozenset({"28", "3D", "42", "22", "0A"})
"""Classes of SQLSTATEs that are about who asks and for what: it makes no difference when one asks again."""
_ASIDE: Final = frozenset({Backend.NOTICE_RESPONSE, Backend.NEGOTIATE_PROTOCOL_VERSION})


async def login_at_server(
    talk: Talk,
    user: str,
    credentials: Credentials,
    *,
    keys: KeyCache = SHARED_KEYS,
) -> None:
    """Log in at a server that has got our startup message; return after its AuthenticationOk.

    The password itself goes only over TLS, a unix socket or loopback, unlike libpq's habit. NoticeResponse and
    NegotiateProtocolVersion may come in between, and change nothing.

    Raises:
        Refusal: with the server's SQLSTATE, or because what is known does not answer what is asked.
        BackendUnavailable: the server says no for any other reason; its SQLSTATE begins the cause.
        RemoteProtocolError: it breaks the protocol, or does not prove that it knows our secret.
    """
    kind, data = await _request(talk)
    if kind == Authentication.OK:
        return
    if kind == Authentication.CLEARTEXT_PASSWORD:
        talk.send(wire.password_message(_clear_password(talk, user, credentials)))
    elif kind == Authentication.MD5_PASSWORD:
        talk.send(wire.password_message(_md5_password(user, credentials, data)))
    elif kind == Authentication.SASL:
        await _scram(talk, user, credentials, data, keys=keys)
    else:
        raise _unanswerable(user, f"an authentication that we do not have ({_name(kind)})")
    await _expect(talk, Authentication.OK)


async def _scram(talk: Talk, user: str, credentials: Credentials, data: bytes, *, keys: KeyCache) -> None:
    """Prove ourselves by SCRAM, bound to the TLS channel where both sides can, and let the server prove itself."""
    offered = wire.sasl_mechanisms(data)
    binding = talk.channel_binding if talk.is_tls else b""
    exchange = ClientExchange(channel_binding=binding, is_offered=SCRAM_PLUS in offered)
    if exchange.mechanism not in offered:
        raise _unanswerable(user, f"a SASL mechanism other than {SCRAM}")
    if credentials.password is None and credentials.scram is None:
        raise _unanswerable(user, f"{SCRAM}, for which the password or a client's SCRAM login is needed")
    talk.send(wire.sasl_initial_response(exchange.mechanism, exchange.first()))
    challenge = exchange.challenge(await _expect(talk, Authentication.SASL_CONTINUE))
    own = await _own_keys(user, credentials, challenge, keys)
    talk.send(wire.sasl_response(exchange.final(own)))
    exchange.verify(await _expect(talk, Authentication.SASL_FINAL))
    if credentials.password is not None:
        keys.keep(credentials.password.reveal().encode(), own)


async def _own_keys(user: str, credentials: Credentials, challenge: Challenge, keys: KeyCache) -> ScramKeys:
    learned = credentials.scram
    if credentials.password is not None:
        password = credentials.password.reveal().encode()
        try:
            return await keys_of(password, challenge.salt, challenge.iterations, keys)
        except LimitExceeded as error:
            raise RemoteProtocolError(
                f"{challenge.iterations} iterations", f"at most {error.limit}", "RFC 5802 section 9"
            ) from error
    if learned is None or (learned.salt, learned.iterations) != challenge:
        # The proof would be wrong: say so before the server counts it as an attack.
        raise password_failed(
            user, detail="The server's SCRAM secret is another one than the client logged in with."
        )
    return learned


def _clear_password(talk: Talk, user: str, credentials: Credentials) -> bytes:
    if not talk.is_tls and not _is_local(talk.address):
        raise _unanswerable(user, "the password in clear text over a connection without TLS")
    if credentials.password is None:
        raise _unanswerable(user, "the password in clear text, which is not known")
    return credentials.password.reveal().encode()


def _md5_password(user: str, credentials: Credentials, salt: bytes) -> bytes:
    if credentials.password is not None:
        return md5_answer(md5_hash(user, credentials.password.reveal().encode()), salt)
    if credentials.md5 is None:
        raise _unanswerable(user, "an md5 password, which is not known")
    return md5_answer(credentials.md5.reveal(), salt)


async def _expect(talk: Talk, wanted: int) -> bytes:
    kind, data = await _request(talk)
    if kind != wanted:
        raise RemoteProtocolError(f"Authentication {_name(kind)}", _name(wanted), _SOURCE)
    return data


async def _request(talk: Talk) -> tuple[int, bytes]:
    """Return the server's next Authentication message."""
    while True:
        kind, body = await talk.receive()
        if kind == Backend.AUTHENTICATION:
            return wire.authentication(body)
        if kind == Backend.ERROR_RESPONSE:
            raise refused(talk.address, wire.error_fields(body))
        if kind not in _ASIDE:
            raise RemoteProtocolError(name_of(Backend, kind), "Authentication or ErrorResponse", _SOURCE)


def refused(backend: str, fields: Mapping[str, str]) -> Refusal | BackendUnavailable:
    """Return what an error at start-up means: no for this user and database, or no for now.

    Shape: the cause of a BackendUnavailable is the server's SQLSTATE, a colon and its words.
    """
    code = fields.get("C", "")
    sqlstate = code if _SQLSTATE.fullmatch(code) else SQLSTATE.INTERNAL_ERROR
    message = fields.get("M", "")
    if sqlstate[:2] in _OF_THE_ASKER:
        return Refusal(sqlstate, message)
    return BackendUnavailable(backend, 0.0, f"{sqlstate}: {message}")


def _unanswerable(user: str, asked: str) -> Refusal:
    message = f'login of user "{user}" at the server failed'
    return Refusal(SQLSTATE.INVALID_AUTHORIZATION, message, detail=f"The server asks for {asked}.")


def _is_local(address: str) -> bool:
    try:
        return address == "unix" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _name(kind: int) -> str:
    return message_names(Authentication).get(kind) or str(kind)
