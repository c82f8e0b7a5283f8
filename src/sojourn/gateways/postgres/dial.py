"""Dial: open a connection to a node, log in there, and make a ServerSession of it.

Straight-line code; the deadline for all of it is the caller's. Knows nothing of pools' limits or of which node is
wanted.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sojourn.core.tls import client_context
from sojourn.errors import BackendUnavailable, ConnectionLost, LimitExceeded, ProtocolError, SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import Credentials
from sojourn.gateways.postgres.messages import Backend
from sojourn.gateways.postgres.reported import Reported
from sojourn.gateways.postgres.server_auth import login_at_server, refused
from sojourn.gateways.postgres.talk import StreamTalk

if TYPE_CHECKING:
    from sojourn.gateways.postgres.config import ServerTls
    from sojourn.gateways.postgres.server_session import ServerSession

_TALK_BYTES = 1 << 20
_YES = 0x53


def server_tls(settings: ServerTls | None) -> ssl.SSLContext | None:
    """Return the context for connections to the servers of a cluster, None for connections without TLS.

    Raises: ConfigError for files that cannot be used.
    """
    if settings is None or settings.mode == "disable":
        return None
    if settings.mode in ("verify-ca", "verify-full"):
        return client_context(
            settings.ca_file,
            settings.certificate_file,
            settings.private_key_file,
            min_version="1.2",
            is_name_checked=settings.mode == "verify-full",
        )
    # As libpq: these modes promise nothing about who is at the other end.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.certificate_file:
        context.load_cert_chain(settings.certificate_file, settings.private_key_file)
    return context


def end_point(certificate: bytes) -> bytes:
    """Return the channel binding data of a certificate in DER: tls-server-end-point.

    Source: RFC 5929 section 4.1: MD5 and SHA-1 become SHA-256.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    algorithm = parsed.signature_hash_algorithm
    if algorithm is None or algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    return parsed.fingerprint(algorithm)


async def connect(
    place: tuple[str, int], *, tls: ssl.SSLContext | None, is_tls_required: bool, timeout_s: float
) -> StreamTalk:
    """Open a connection to a node, with TLS where it is wanted.

    Args:
        timeout_s: how long the TLS handshake may take.

    Raises: OSError, ssl.SSLError, TimeoutError, ConnectionLost, BackendUnavailable where the server has no TLS.
    """
    host, port = place
    loop = asyncio.get_running_loop()
    is_unix = host.startswith("/")
    talk = StreamTalk(limit_bytes=_TALK_BYTES, address="unix" if is_unix else host)
    if is_unix:
        await loop.create_unix_connection(lambda: talk, f"{host}/.s.PGSQL.{port}")
    else:
        transport, _ = await loop.create_connection(lambda: talk, host, port)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if tls is None or is_unix:
        return talk
    try:
        is_encrypted = await _encrypt(talk, tls, host, timeout_s)
    except BaseException:
        talk.abort()
        raise
    if is_tls_required and not is_encrypted:
        talk.abort()
        raise BackendUnavailable(f"{host}:{port}", 0.0, "it has no TLS, which is required")
    return talk


async def _encrypt(talk: StreamTalk, tls: ssl.SSLContext, host: str, timeout_s: float) -> bool:
    """Ask a server for TLS; return whether it has it."""
    talk.send(wire.ssl_request())
    if await talk.receive_byte() != _YES:
        return False
    await talk.start_tls(tls, server_side=False, server_hostname=host, timeout_s=timeout_s)
    transport = talk.transport
    assert transport is not None  # noqa: S101 - it was just made
    certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    talk.channel_binding = end_point(certificate) if certificate else b""
    return True


async def log_in(
    server: ServerSession,
    talk: StreamTalk,
    *,
    user: str,
    database: str,
    credentials: Credentials,
    parameters: Mapping[str, str],
) -> None:
    """Log in as ``user`` and let ``server`` relay on the connection.

    Raises: Refusal with the server's SQLSTATE; BackendUnavailable; ConnectionLost; ProtocolError.
    """
    talk.send(wire.startup_message({"user": user, "database": database, **parameters}))
    await login_at_server(talk, user, credentials)
    values: dict[str, str] = {}
    while True:
        kind, body = await talk.receive()
        if kind == Backend.PARAMETER_STATUS:
            name, value = wire.parameter(body)
            values[name] = value
        elif kind == Backend.BACKEND_KEY_DATA:
            server.pid, server.key = wire.key_data(body)
        elif kind == Backend.READY_FOR_QUERY:
            break
        elif kind == Backend.ERROR_RESPONSE:
            raise refused(server.node.name, wire.error_fields(body))
    server.reported = Reported.of(values)
    transport = talk.transport
    assert transport is not None  # noqa: S101 - the login went over it
    server.take_over(transport)
    talk.hand_over(server)


def in_words(error: BaseException) -> str:
    """Return for the log why a node or the system refused; texts of unknown errors may hold anything."""
    if isinstance(error, ssl.SSLError):
        why = getattr(error, "verify_message", "")
        reason = (error.reason or "TLS failed").lower().replace("_", " ")
        return f"{reason}: {why}" if why else reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, SojournError) else type(error).__name__


FAILURES = (
    OSError,
    ssl.SSLError,
    ConnectionLost,
    BackendUnavailable,
    LimitExceeded,
    ProtocolError,
    TimeoutError,
)
"""What may go wrong with a node that is no fault of ours."""
