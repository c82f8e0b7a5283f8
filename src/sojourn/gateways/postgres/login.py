"""Login: from the first byte of a connection to the first ReadyForQuery, read from top to bottom.

TLS and GSS requests, cancel requests, the startup message, who the client is, which pool it belongs to. Nothing of a
server is told before the client has proved who it is. Source: PostgreSQL, "Message Flow: Start-up".
"""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING

from sojourn.core.listener import TLS_HANDSHAKE
from sojourn.core.session import Reason
from sojourn.core.tls import peer_names
from sojourn.errors import BackendUnavailable, ConnectionLost, RemoteProtocolError, SojournError
from sojourn.gateways.postgres import client_routing, wire
from sojourn.gateways.postgres.access import ALPN, Access, Tls, common_name
from sojourn.gateways.postgres.auth import Credentials, login_client, no_rule
from sojourn.gateways.postgres.client_session import ClientSession
from sojourn.gateways.postgres.messages import (
    NEWEST_MINOR,
    OPTION_PREFIX,
    PROTOCOL_MAJOR,
    SQLSTATE,
    CancelRequest,
    GSSENCRequest,
    Refusal,
    SSLRequest,
    StartupMessage,
    StartupPacket,
)
from sojourn.gateways.postgres.reported import Reported
from sojourn.gateways.postgres.session_state import SessionState
from sojourn.gateways.postgres.states import Busy, ClientState, Holds
from sojourn.gateways.postgres.talk import StreamTalk
from sojourn.gateways.postgres.vector import Vector, from_startup

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession

_ENCRYPTION_REQUESTS_COUNT = 2
"""A client may ask for GSS and then for TLS, once each."""
_AUTHENTICATION_OK = wire.authentication_ok()
_READY = wire.ready_for_query()
_VECTORS_COUNT = 256
"""Settings that clients come back with; what servers report for them stays known meanwhile."""


class DirectTls:
    """Stands for the first packet of a client that begins with TLS at once (``sslnegotiation=direct``)."""


class ClientTalk(StreamTalk):
    """A client in its start-up phase; the core's connection is told what the loop tells.

    Requests for encryption that are declined, and the first startup message, are taken without a task: most
    clients need none until they prove who they are, some not even then. Measured: 40 of 220 us of a login's CPU.
    """

    def __init__(self, connection: Connection, session: ClientSession, *, limit_bytes: int) -> None:
        super().__init__(limit_bytes=limit_bytes, address=connection.peer.address)
        self.connection = connection
        self.first: StartupPacket | DirectTls | None = None
        self.asked = 0
        self._session = session
        self.connection_made(connection.transport)

    def data_received(self, data: bytes) -> None:
        """Keep what came; begin the login when it is known what the client wants."""
        super().data_received(data)
        if self.first is None and not self._session.ended:
            try:
                self._begin()
            except SojournError as error:
                self._session.fail(error)

    def _begin(self) -> None:
        gateway: PostgresGateway = self._session.gateway
        if not self.asked and self.begins_with(TLS_HANDSHAKE):
            self.first = DirectTls()
            self._session.run(log_in(self._session, self), ends=False)
            return
        while (data := self.take_startup()) is not None:
            packet = wire.startup_packet(data)
            if isinstance(packet, GSSENCRequest) or (
                isinstance(packet, SSLRequest) and gateway.access.tls is None
            ):
                decline(self)
                continue
            self.first = packet
            if not isinstance(packet, StartupMessage) or not _is_let_in(gateway, self._session, self, packet):
                self._session.run(log_in(self._session, self), ends=False)
            return

    def connection_lost(self, error: Exception | None) -> None:
        """Wake the login, then end the connection."""
        super().connection_lost(error)
        self.connection.connection_lost(error)

    def pause_writing(self) -> None:
        """Let the core's deadline for a peer that takes nothing run."""
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        """End that deadline."""
        self.connection.resume_writing()


async def log_in(session: ClientSession, talk: ClientTalk) -> None:
    """Bring a client from its first byte to ReadyForQuery.

    Raises: Refusal, which the client is told; ConnectionLost; ProtocolError; LimitExceeded.
    """
    gateway: PostgresGateway = session.gateway
    is_operator = await _log_in(gateway, session, talk)
    session.deadline = 0.0
    if is_operator:
        await gateway.door.serve(session, talk)


async def _log_in(gateway: PostgresGateway, session: ClientSession, talk: ClientTalk) -> bool:
    """Bring a client in; return whether it is an operator, whose conversation with the console is to come."""
    access = gateway.access
    startup = await _startup(gateway, access.tls, session, talk)
    if startup is None:
        return False
    user, database = _introduce(session, startup)
    _check(access.tls, talk, startup, user)
    _negotiate(talk, startup)
    if database in gateway.settings.console.databases:
        # The limit does not keep operators out: they come to see why it is reached.
        await _authenticate(gateway, access, talk, user, database)
        gateway.door.enter(session, talk, startup)
        return True
    gateway.check_room(session.connection.peer)
    entry = gateway.find_database(database)
    credentials = await _authenticate(gateway, access, talk, user, database)
    if entry is None:
        raise Refusal(SQLSTATE.INVALID_CATALOG_NAME, f'database "{database}" does not exist')
    _join(session, gateway.pools.of(entry, database, user, credentials))
    try:
        await _enter(gateway, session, talk, startup)
    except BaseException:
        gateway.client_left(session)
        raise
    return False


def _is_let_in(
    gateway: PostgresGateway, session: ClientSession, talk: ClientTalk, startup: StartupMessage
) -> bool:
    """Let a client in at once where nobody has to be asked: not the client, not a server, not the user list.

    The same steps as in ``log_in`` for whoever is trusted and has settings that a server of its pool has had. Returns
    False where a question is left; then nothing has been done. Measured: a third of the CPU of such a login.
    Raises: Refusal.
    """
    parameters = startup.parameters
    user = parameters.get("user", "")
    database = parameters.get("database") or user
    pool = gateway.pools.get((database, user))
    if pool is None or pool.mode == "session" or pool.report is None or gateway.settings.auth.query:
        return False
    access = gateway.access
    if _method(access, talk, user, database)[0] != "trust" or database in gateway.settings.console.databases:
        return False
    entry = gateway.find_database(database)
    vector = _vector(startup, gateway.settings.pool.ignore_startup_parameters)
    reported = pool.report_of(vector)
    if entry is None or reported is None:
        return False
    _introduce(session, startup)
    _check(access.tls, talk, startup, user)
    _negotiate(talk, startup)
    gateway.check_room(session.connection.peer)
    gateway.pools.of(entry, database, user, Credentials.of(user, access.known.get(user)))
    _join(session, pool)
    try:
        _equip(gateway, session, talk, vector)
        _greet(session, talk, startup, reported)
    except BaseException:
        gateway.client_left(session)
        raise
    return True


def _introduce(session: ClientSession, startup: StartupMessage) -> tuple[str, str]:
    """Take down who the client says it is; return user and database."""
    parameters = startup.parameters
    session.user = user = parameters.get("user", "")
    session.database = database = parameters.get("database") or user
    session.about = f"{user}@{database}"
    session.application = parameters.get("application_name", "")
    return user, database


def _join(session: ClientSession, pool: Pool) -> None:
    """Let a client that has proved who it is into its pool."""
    session.deadline = 0.0  # from here on it waits for us, by the pool's own limits
    pool.clients += 1
    pool.joined_count += 1
    session.pool = pool
    session.state = ClientState.WAITING


def _check(tls: Tls | None, talk: ClientTalk, startup: StartupMessage, user: str) -> None:
    if startup.major != PROTOCOL_MAJOR:
        raise Refusal(
            SQLSTATE.FEATURE_NOT_SUPPORTED,
            f"unsupported frontend protocol {startup.major}.{startup.minor}: server supports 3.0 to 3.2",
        )
    if not user:
        raise Refusal(SQLSTATE.INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet")
    if startup.parameters.get("replication", "false").lower() not in ("false", "off", "no", "0", ""):
        raise Refusal(
            SQLSTATE.FEATURE_NOT_SUPPORTED,
            "replication connections are not relayed",
            hint="Connect to the server directly.",
        )
    if (
        tls is not None
        and tls.mode in ("require", "verify-full")
        and not talk.is_tls
        and talk.address != "unix"
    ):
        raise Refusal(SQLSTATE.INVALID_AUTHORIZATION, "TLS is required")


def _negotiate(talk: ClientTalk, startup: StartupMessage) -> None:
    """Tell the client which version and which extensions it gets, where it asked for others.

    The first answer of all: a client takes it only before it has logged in. Version 3.1 was never used.
    """
    options = [name for name in startup.parameters if name.startswith(OPTION_PREFIX)]
    if startup.minor not in (0, NEWEST_MINOR) or options:
        minor = NEWEST_MINOR if startup.minor >= NEWEST_MINOR else 0
        talk.send(wire.negotiate_protocol_version(minor, options))


async def _startup(
    gateway: PostgresGateway, tls: Tls | None, session: ClientSession, talk: ClientTalk
) -> StartupMessage | None:
    """Answer what comes before the startup message; None if that was all."""
    packet = talk.first
    while True:
        match packet:
            case DirectTls():
                await _encrypt_directly(gateway, tls, session, talk)
            case SSLRequest():
                await _encrypt(gateway, tls, session, talk)
            case GSSENCRequest():
                decline(talk)
            case CancelRequest(pid=pid, key=key):
                # As at a server the end of the connection says that it is done; whoever does not wait for that still
                # has its statement cancelled.
                await asyncio.shield(gateway.server.spawn(gateway.cancel(pid, key)))
                session.finish(reason=Reason.FINISHED)
                return None
            case StartupMessage():
                return packet
        packet = wire.startup_packet(await talk.receive_startup())


def _count_request(talk: ClientTalk) -> None:
    """Let a client ask for encryption twice; bytes behind a request could have been injected and end the connection.

    Raises: RemoteProtocolError.
    """
    if talk.has_unread or talk.is_tls:
        raise RemoteProtocolError(
            "bytes behind a request for encryption", "none before its answer", "Start-up"
        )
    talk.asked += 1
    if talk.asked > _ENCRYPTION_REQUESTS_COUNT:
        raise RemoteProtocolError("a third request for encryption", "a startup message", "Start-up")


def decline(talk: ClientTalk) -> None:
    """Say no to a request for encryption; the client may go on without.

    Raises: RemoteProtocolError for bytes behind the request.
    """
    _count_request(talk)
    talk.send(b"N")


async def _encrypt(
    gateway: PostgresGateway, tls: Tls | None, session: ClientSession, talk: ClientTalk
) -> None:
    """Answer SSLRequest."""
    if tls is None:
        decline(talk)
        return
    _count_request(talk)
    talk.send(b"S")
    await _shake_hands(gateway, tls, session, talk)


async def _encrypt_directly(
    gateway: PostgresGateway, tls: Tls | None, session: ClientSession, talk: ClientTalk
) -> None:
    """Begin TLS with a client that did not ask, which must name the protocol that it means (ALPN).

    Raises: RemoteProtocolError. Source: PostgreSQL, "SSL Session Encryption".
    """
    talk.asked += 1
    if tls is None:
        talk.abort()
        raise RemoteProtocolError("a TLS handshake", "a startup packet, as there is no TLS here", "Start-up")
    chosen = await _shake_hands(gateway, tls, session, talk, is_begun=True)
    if chosen.selected_alpn_protocol() != ALPN:
        raise RemoteProtocolError(
            "TLS without SSLRequest and without ALPN", f"ALPN {ALPN}", "SSL Session Encryption"
        )


async def _shake_hands(
    gateway: PostgresGateway, tls: Tls, session: ClientSession, talk: ClientTalk, *, is_begun: bool = False
) -> ssl.SSLObject:
    """Go on inside TLS and take note of who the client's certificate says it is.

    Raises: ConnectionLost if the handshake fails.
    """
    try:
        await talk.start_tls(
            tls.context,
            server_side=True,
            timeout_s=gateway.settings.timeouts.client_login_timeout_s,
            is_begun=is_begun,
        )
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
        gateway.handshake_failed(session, str(reason or "TLS"))
        raise ConnectionLost("the TLS handshake failed") from error
    transport = talk.transport
    assert transport is not None  # noqa: S101 - start_tls has just set it
    session.connection.transport = transport
    transport.set_write_buffer_limits(high=gateway.limits.write_high_water_bytes)
    chosen: ssl.SSLObject = transport.get_extra_info("ssl_object")
    peer = session.connection.peer
    peer.is_tls = True
    peer.certificate_names = tuple(peer_names(chosen))
    name = common_name(chosen)
    talk.certificate_names = (name,) if name else ()
    talk.channel_binding = tls.channel_binding
    return chosen


async def _authenticate(
    gateway: PostgresGateway, access: Access, talk: ClientTalk, user: str, database: str
) -> Credentials:
    """Let the client prove who it is, by the method that is configured for it."""
    method, map_name = _method(access, talk, user, database)
    try:
        if not method:
            raise no_rule(talk, user, database)
        return await login_client(
            talk,
            user,
            database,
            method=method,
            find_secret=gateway.secrets_for(access, database).find,
            allows_certificate=access.certificate_rule(map_name),
        )
    except BackendUnavailable as error:
        raise Refusal(SQLSTATE.CANNOT_CONNECT_NOW, "the user list cannot be asked at the moment") from error


def _method(access: Access, talk: ClientTalk, user: str, database: str) -> tuple[str, str]:
    """Return the authentication method for a client, and its rule's certificate map."""
    return access.method_for(
        is_tls=talk.is_tls,
        is_unix=talk.address == "unix",
        address=talk.address,
        database=database,
        user=user,
    )


async def _enter(
    gateway: PostgresGateway, session: ClientSession, talk: ClientTalk, startup: StartupMessage
) -> None:
    """Find out what the client is told of its server, and begin to relay."""
    pool = session.pool
    _equip(gateway, session, talk, _vector(startup, gateway.settings.pool.ignore_startup_parameters))
    reported = await gateway.welcome(pool)
    pid = 0
    if pool.mode == "session":
        session.holds |= Holds.SESSION
        server = await _attach(session, pool)
        reported, pid = server.reported, server.pid
    else:
        reported = await _report(session, pool, reported)
    _greet(session, talk, startup, reported, pid)


def _equip(gateway: PostgresGateway, session: ClientSession, talk: ClientTalk, vector: Vector) -> None:
    """Give a session what it needs before it may have a server.

    Raises: Refusal for a setting that is ours and wrong; ConnectionLost.
    """
    pool = session.pool
    session.vector = vector
    client_routing.enter(session, is_session=pool.mode == "session")
    session.holding = SessionState(session.vector)
    session.noteworthy_s = gateway.noteworthy_s
    if gateway.is_routed(pool):
        session.busy |= Busy.ROUTED
    if talk.transport is None:
        raise ConnectionLost("closed by the peer")
    session.write = talk.write


def _greet(
    session: ClientSession, talk: ClientTalk, startup: StartupMessage, reported: Reported, pid: int = 0
) -> None:
    """Tell the client that it is in, and begin to relay.

    Raises: ConnectionLost if it has gone meanwhile.
    """
    gateway: PostgresGateway = session.gateway
    session.reported = reported
    gateway.cancel_keys.give(session, minor=min(startup.minor, NEWEST_MINOR), pid=pid)
    out = [_AUTHENTICATION_OK, reported.messages, wire.backend_key_data(session.pid, session.secret), _READY]
    talk.send(b"".join(out))
    session.state = ClientState.READY
    session.note(f"logged in as {session.user} to {session.database}, {session.pool.mode} pooling")
    talk.hand_over(session)


def _vector(startup: StartupMessage, ignored: tuple[str, ...]) -> Vector:
    """Return the settings that a client asks for, without those that are not ours to pass on."""
    return _vector_of(tuple(startup.parameters.items()), ignored)


@lru_cache(maxsize=_VECTORS_COUNT)
def _vector_of(parameters: tuple[tuple[str, str], ...], ignored: tuple[str, ...]) -> Vector:
    return from_startup(
        {
            name: value
            for name, value in parameters
            if name not in ignored and not name.startswith(OPTION_PREFIX)
        }
    )


async def _report(session: ClientSession, pool: Pool, base: Reported) -> Reported:
    """Return what a server reports that has the client's settings.

    Settings that no server of the pool has had yet are tried on one, which is given back at once: only a server knows
    how it writes a value, and whether it takes it. The name of the application alone is known without.

    Raises: Refusal with the server's own words for a setting that it does not take.
    """
    vector = session.vector
    known = pool.report_of(vector)
    if known is not None:
        return known
    application = vector.get("application_name") or ""
    names = {name for name, _ in vector.items}
    if names <= {"application_name"} and isinstance(application, str) and application.isascii():
        own = {"application_name": application} if names else {}
        return pool.keep_report(vector, Reported.of({**base.values, **own}))
    server = await _attach(session, pool)
    session.detach(server)
    return pool.keep_report(vector, server.reported)


async def _attach(session: ClientSession, pool: Pool) -> ServerSession:
    """Take the server that the client keeps for the whole session."""
    session.login_waiter = asyncio.get_running_loop().create_future()
    try:
        if pool.take(session) is None:
            session.busy |= Busy.WAITING
            session.waits_since = monotonic()
            await session.login_waiter
    finally:
        session.login_waiter = None
    server = session.server
    if server is None:
        raise Refusal(SQLSTATE.CONNECTION_FAILURE, "the server was lost during the login")
    return server
