"""Real client and server sessions in a real pool, without sockets: transports that only keep what is written.

The test feeds bytes by hand, cut where it likes, and reads what came out at either end. Servers are of
``scripted_server``, or nobody: then the test answers for them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from core_lab import running
from scripted_server import ScriptedServer

from sojourn.core.connection import Connection
from sojourn.core.peer import Peer
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import Credentials
from sojourn.gateways.postgres.client_session import ClientSession
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    Database,
    FailoverSettings,
    NodeSettings,
    PoolSettings,
    PostgresSettings,
)
from sojourn.gateways.postgres.gateway import PostgresGateway
from sojourn.gateways.postgres.place import Place
from sojourn.gateways.postgres.pool import Pool
from sojourn.gateways.postgres.reported import Reported
from sojourn.gateways.postgres.server_session import ServerSession
from sojourn.gateways.postgres.session_state import SessionState
from sojourn.gateways.postgres.statements import Names, Statement, StatementTable
from sojourn.gateways.postgres.states import Busy, ClientState, Holds
from sojourn.gateways.postgres.vector import EMPTY

TURNS_LIMIT = 10_000


class KeptTransport:
    """One end of a connection that is none: what is written is kept in ``written``."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False
        self.is_reading_ = True
        self.is_lost_told = False

    def write(self, data: bytes) -> None:
        """Keep bytes; a closed transport throws them away."""
        if not self.is_closed:
            self.written.append(bytes(data))

    def close(self) -> None:
        """Take no more."""
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        """Say whether it takes no more."""
        return self.is_closed

    def is_reading(self) -> bool:
        """Say whether bytes may be fed."""
        return self.is_reading_

    def pause_reading(self) -> None:
        """Have no bytes fed."""
        self.is_reading_ = False

    def resume_reading(self) -> None:
        """Have bytes fed again."""
        self.is_reading_ = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take the limits; nothing is ever full here, unless the test says so to the protocol."""

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        """Know nothing."""
        return default

    @property
    def data(self) -> bytes:
        """Everything that was written."""
        return b"".join(self.written)


class ServerTransport(KeptTransport):
    """The connection to one scripted server: what is written waits for :meth:`RelayLab.pump`."""

    def __init__(self, lab: RelayLab, backend: ScriptedServer | None) -> None:
        super().__init__()
        self.lab = lab
        self.backend = backend
        self.session: ServerSession | None = None
        self.unread: list[bytes] = []
        self.to_feed: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep bytes, and let the backend read them at the next pump."""
        super().write(data)
        if not self.is_closed:
            self.unread.append(bytes(data))


class LabClient:
    """One client: feed it, and read what it was sent."""

    def __init__(self, lab: RelayLab) -> None:
        self.lab = lab
        self.transport = KeptTransport()
        self.connection = Connection(lab.manager, Peer("192.0.2.1", 5))
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]  # what the connection needs of it
        lab.gateway.welcomed(self.connection)
        (session,) = self.connection.table.live.values()
        assert isinstance(session, ClientSession)
        self.session = session
        self.is_gone = False

    def feed(self, data: bytes) -> None:
        """Let bytes arrive from the client."""
        if not self.transport.is_closed:
            self.session.data_received(data)

    def say(self, data: bytes) -> bytes:
        """Let bytes arrive, the servers answer, and return what the client is sent for it."""
        before = len(self.transport.written)
        self.feed(data)
        self.lab.pump()
        return b"".join(self.transport.written[before:])

    def leave(self) -> None:
        """Let the connection end, as the loop tells it."""
        if not self.is_gone:
            self.is_gone = True
            self.transport.is_closed = True
            self.session.connection_lost(None)


class LabGateway(PostgresGateway):
    """The gateway, with clients that are logged in from the start."""

    lab: RelayLab

    def connected(self, connection: Connection) -> None:
        """Nobody logs in here; see :meth:`welcomed`."""

    def welcomed(self, connection: Connection) -> None:
        """Make a session as the login leaves it."""
        session = connection.new_session()
        assert isinstance(session, ClientSession)
        pool = self.lab.pool
        session.pool = pool
        session.holding = SessionState(EMPTY)
        session.noteworthy_s = self.noteworthy_s
        session.write = connection.transport.write
        session.reported = self.lab.reported
        session.user = session.database = "lab"
        if self.is_routed(pool):
            session.busy |= Busy.ROUTED
        if pool.mode == "session":
            session.holds |= Holds.SESSION
            pool.take(session)
        self.cancel_keys.give(session, minor=0)
        session.state = ClientState.READY
        pool.clients += 1

    def server_failed(self, server: ServerSession, error: Exception) -> None:
        """Remember: it is garbage, or a bug."""
        self.lab.failures.append(error)
        super().server_failed(server, error)

    def session_failed(self, session: Any, error: BaseException, reason: str) -> None:
        """Remember: it is a refusal, or a bug."""
        self.lab.endings.append(error)
        super().session_failed(session, error, reason)


class KeptStatements(StatementTable):
    """Forgets no statement, so that each run of a conversation meets the same aliases."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: set[Statement] = set()

    def intern(self, body: bytes, names: Names = ()) -> Statement:
        """Return the statement of a Parse body."""
        statement = super().intern(body, names)
        self._kept.add(statement)
        return statement


class RelayLab:
    """One pool with its gateway.

    Life: made by :func:`relay_lab`. ``failures`` are errors met in what servers said, ``endings`` those that ended
    clients.
    """

    def __init__(self, gateway: LabGateway, *, is_scripted: bool) -> None:
        gateway.lab = self
        self.gateway = gateway
        gateway.statements = KeptStatements()
        self.is_scripted = is_scripted
        self.reported = Reported.of({"application_name": "", "TimeZone": "UTC"})
        self.failures: list[Exception] = []
        self.endings: list[BaseException] = []
        self.transports: list[ServerTransport] = []
        self.clients: list[LabClient] = []

    def start(self, manager: Any) -> None:
        """Make the pool, whose servers are scripted ones."""
        self.manager = manager
        self.pool = self.gateway.pools.of(
            self.gateway.settings.databases[0], "lab", "lab", Credentials.of("lab", None)
        )
        self.pool.connect = self._connect  # type: ignore[method-assign]  # dials nobody

    async def _connect(self, place: Place, asking: ClientSession | None = None) -> ServerSession:
        del asking
        return self._make(self.pool, place)

    def _make(self, pool: Pool, place: Place) -> ServerSession:
        server = ServerSession(pool, place.node, self.gateway.next_server_number())
        transport = ServerTransport(self, ScriptedServer() if self.is_scripted else None)
        transport.session = server
        self.transports.append(transport)
        place.servers.add(server)
        server.pid = 1000 + len(self.transports)
        server.reported = self.reported
        pool.report = self.reported
        server.take_over(transport)  # type: ignore[arg-type]  # what the session needs of it
        self.gateway.server_opened(server)
        return server

    def open_server(self) -> ServerSession:
        """Put one more server into the pool."""
        place = self.pool.primary
        assert place is not None
        server = self._make(self.pool, place)
        self.pool.give_back(server)
        return server

    def client(self) -> LabClient:
        """Let one more client in."""
        client = LabClient(self)
        self.clients.append(client)
        return client

    def pump(self, cutter: Cutter | None = None) -> None:
        """Let servers read and answer until nobody has anything to say."""
        for _ in range(TURNS_LIMIT):
            is_quiet = True
            for transport in tuple(self.transports):
                if self._turn(transport, cutter):
                    is_quiet = False
            if is_quiet:
                return
        raise AssertionError("the servers never come to rest")

    def _turn(self, transport: ServerTransport, cutter: Cutter | None) -> bool:
        session, backend = transport.session, transport.backend
        assert session is not None
        if transport.is_closed and session.state != "closed":
            session.connection_lost(None)
            return True
        if session.state == "closed":
            return False
        if transport.unread and backend is not None:
            data, transport.unread = b"".join(transport.unread), []
            answer = backend.answer(data)
            if answer:
                transport.to_feed += cutter.cut(answer) if cutter is not None else [answer]
        if transport.to_feed and transport.is_reading_:
            session.data_received(transport.to_feed.pop(0))
            return True
        return bool(transport.unread) and backend is not None

    def end(self) -> None:
        """Let every client and every server go, as the loop tells it."""
        for client in self.clients:
            client.leave()
        self.end_servers()

    def end_servers(self) -> None:
        """Let every server go; none is opened instead."""
        place = self.pool.primary
        assert place is not None
        self.pool.size, size = 0, self.pool.size
        for server in tuple(place.servers):
            server.abort("the run is over")
            server.connection_lost(None)
        self.pool.size = size

    def check_rest(self) -> None:
        """Check that every server is where it belongs, once nothing is under way."""
        place = self.pool.primary
        assert place is not None
        idle = [server for servers in place.idle.values() for server in servers]
        assert len(idle) == len(set(idle))
        for server in place.servers:
            assert server.state != "closed"
            if server in idle:
                assert server.client is None
                assert not server.fifo
                assert server.status == 73
                assert not server.is_paused
            else:
                assert server.client is not None or server.fifo
            if server.client is not None:
                assert server.client.server is server
                assert not server.client.ended or not server.client.has_left


class Cutter:
    """Cuts a stream at places that are counted from its first byte.

    Args:
        places: in ascending order.
    """

    def __init__(self, *places: int) -> None:
        self._places = list(places)
        self._passed = 0

    def cut(self, data: bytes) -> list[bytes]:
        """Return ``data`` in pieces."""
        begin, end = self._passed, self._passed + len(data)
        self._passed = end
        inside = [place - begin for place in self._places if begin < place < end]
        edges = [0, *inside, len(data)]
        return [data[left:right] for left, right in itertools.pairwise(edges)]


def settings_of(
    mode: str, servers_count: int, failover: FailoverSettings | None = None, **pool: Any
) -> PostgresSettings:
    """Return the settings of a lab."""
    return PostgresSettings(
        clusters=(Cluster(name="lab", nodes=(NodeSettings(name="db-1", address="127.0.0.1:1"),)),),
        databases=(Database(name="*", cluster="lab"),),
        auth=AuthSettings(method="trust"),
        pool=PoolSettings(mode=mode, size_count=servers_count, **pool),
        failover=failover or FailoverSettings(),
    )


@contextlib.asynccontextmanager
async def relay_lab(
    mode: str = "transaction",
    *,
    servers_count: int = 1,
    is_scripted: bool = True,
    failover: FailoverSettings | None = None,
    **pool: Any,
) -> AsyncIterator[RelayLab]:
    """Run a lab with so many servers open; at its end nothing is left of it."""
    gateway = LabGateway(settings_of(mode, servers_count, failover, **pool))
    lab = RelayLab(gateway, is_scripted=is_scripted)
    async with running(gateway) as server:
        lab.start(server.manager)
        for _ in range(servers_count):
            lab.open_server()
        try:
            yield lab
        finally:
            lab.end()


@contextlib.contextmanager
def fresh(lab: RelayLab) -> Iterator[LabClient]:
    """Give a client on new servers, for one run of a conversation; both go at its end."""
    lab.end_servers()
    lab.transports.clear()
    for _ in range(lab.pool.size):
        lab.open_server()
    others, lab.clients = lab.clients, []
    try:
        yield lab.client()
    finally:
        lab.end()
        lab.clients = others


def story_of(data: bytes) -> list[str]:
    """Return what a client was sent, a word a message: the SQLSTATE, the tag, the status, or the type."""
    words = []
    messages, rest = wire.split(data)
    assert rest == b""
    for kind, body in messages:
        match chr(kind):
            case "E" | "N":
                words.append(wire.error_fields(body)["C"])
            case "C":
                words.append(body[:-1].decode())
            case "Z":
                words.append(body.decode())
            case other:
                words.append(other)
    return words
