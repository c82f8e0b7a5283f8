"""The PostgreSQL gateway: puts clusters, pools, logins and the console together for the core.

Boring on purpose: what is relayed is decided in ``client_session`` and ``server_session``, where it goes in
``routing`` and ``failover``, what becomes of a loss in ``retry``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from sojourn.core.events import EventKind
from sojourn.core.gateway import Gateway
from sojourn.core.listener import HANDSHAKE_FAILED
from sojourn.core.panel import AdminPanel, Trouble
from sojourn.core.rates import Relayed
from sojourn.core.recorder import Direction
from sojourn.core.session import Session, in_words, raised_at
from sojourn.core.table import Mode
from sojourn.errors import BackendUnavailable, LimitExceeded, ProtocolError
from sojourn.gateways.postgres import (
    cancel,
    console_tables,
    dial,
    incident_tables,
    login,
    occupied,
    session_trace,
    wire,
)
from sojourn.gateways.postgres.access import Access
from sojourn.gateways.postgres.auth import SHARED_KEYS, Credentials
from sojourn.gateways.postgres.client_deadlines import ClientDeadlines
from sojourn.gateways.postgres.client_routing import RoutingPolicy
from sojourn.gateways.postgres.client_session import ClientSession
from sojourn.gateways.postgres.clusters import ClusterRoom
from sojourn.gateways.postgres.console_door import ConsoleDoor
from sojourn.gateways.postgres.console_view import EngineView
from sojourn.gateways.postgres.first_report import first_report
from sojourn.gateways.postgres.ident import IdentMaps
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.owed import text_of
from sojourn.gateways.postgres.panel import PostgresPanel
from sojourn.gateways.postgres.pools import Pools
from sojourn.gateways.postgres.query_log import QueryLog, shown
from sojourn.gateways.postgres.reported import Reported
from sojourn.gateways.postgres.routing import Rule
from sojourn.gateways.postgres.statements import StatementTable
from sojourn.gateways.postgres.states import ClientState
from sojourn.gateways.postgres.stream import NoFraming, router
from sojourn.gateways.postgres.workers_view import WorkersView

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.peer import Peer
    from sojourn.core.server import Server
    from sojourn.core.settings import LimitSettings
    from sojourn.gateways.postgres.config import Database, PostgresSettings
    from sojourn.gateways.postgres.nodes import Node
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.replies import Entry
    from sojourn.gateways.postgres.retry import Decision
    from sojourn.gateways.postgres.secret_source import SecretSource
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.worker_link import WorkerLink

CLUSTER_MOVED = EventKind("postgres.cluster", ("cluster", "old", "new", "why"), level="warning")
"""A cluster's incident machine moved: normal, suspect, buffering, switching, draining, given up."""
CLUSTER_FOUND = EventKind("postgres.primary_found", ("cluster", "primary", "timeline"))
"""A cluster's primary is known for the first time since the start; from then on `postgres.cluster` tells of changes."""
SERVER_OPENED = EventKind("postgres.server_opened", ("pool", "node", "pid"), level="debug")
SERVER_CLOSED = EventKind("postgres.server_closed", ("pool", "node", "pid", "why"))
"""A connection to a server ended; the reason says whether we wanted it."""
SERVER_FAILED = EventKind("postgres.server_failed", ("pool", "node", "error", "where"), level="error")
"""What a server sent could not be taken: it broke the protocol, or we have a bug; its connection was closed."""
CONNECT_FAILED = EventKind("postgres.connect_failed", ("pool", "node", "error"), level="warning")
LOGIN_FAILED = EventKind("postgres.login_failed", ("user", "database", "peer", "reason"), level="warning")
CLIENT_REFUSED = EventKind("postgres.client_refused", ("sqlstate", "reason", "about", "peer"), level="info")
SESSION_MOVED = EventKind("postgres.session_lost_server", ("situation", "reason", "about"), level="warning")
"""A client's server is gone; the situation is the row of the retry table that decided."""

_AUTHORIZATION_CLASS = "28"

SWEEP_S = 0.5
SERVERS_CLOSE_S = 1.0
"""How long servers have at the end to take our goodbye before their connections are cut."""
TRACED_BYTES = 200
"""Part of a logged statement that the flight recorder shows, masked."""
REFUSED_ALOUD_COUNT = 100
"""Clients above the limits whose startup message is still read, so that they get an error which says why."""


class PostgresGateway(Gateway):
    """A PostgreSQL proxy: pooling, and failover that clients do not notice.

    Args:
        settings: ``[postgres]``, without problems.
        link: to the other workers that share the listeners; None: there are none.
    """

    name: ClassVar[str] = "postgres"
    router = router
    framing = NoFraming()
    session_class = ClientSession
    first_mode = Mode.SINGLE
    config: PostgresSettings

    def __init__(self, settings: PostgresSettings, *, link: WorkerLink | None = None) -> None:
        self.link = link
        self.settings = self.config = settings
        self.limits = core_limits(settings)
        self.statements = StatementTable()
        self.cancel_keys = cancel.CancelKeys(0 if link is None else link.place.index)
        self.losses: Counter[str] = Counter()
        self.lost_at: dict[str, float] = {}
        self.pools = Pools(self)
        self.rooms: dict[str, ClusterRoom] = {}
        self.routing = RoutingPolicy(settings)
        self.disabled: set[str] = set()
        """Databases that take no new clients."""
        self.paused: set[str] = set()
        """Databases whose pools lend no servers, also those pools that are yet to come; ``*`` is all of them."""
        self.door = ConsoleDoor(self)
        self.access = Access(settings, {}, None, IdentMaps({}), None)
        self.first_number = 1 if link is None else link.place.first_number
        """Where the numbers of what is shown to operators begin."""
        self._numbers = itertools.count(self.first_number)
        self._by_pid: dict[tuple[Node, int], ServerSession] = {}
        self._servers: set[ServerSession] = set()
        self._nobody_left: asyncio.Event | None = None
        self._deadlines = ClientDeadlines()
        self._of_peer: Counter[str] = Counter()

    # Life

    async def start(self, server: Server) -> None:
        """Read the files, make the clusters and begin to look at their nodes."""
        await super().start(server)
        self.loop = asyncio.get_running_loop()
        self.query_log = QueryLog(self.settings.query_log, server.clock)
        self.access = Access.read(self.settings)
        for cluster in self.settings.clusters:
            self.rooms[cluster.name] = ClusterRoom(self, cluster, self.settings)
        if self.link is not None:
            SHARED_KEYS.share(self.link.place.process_key)
            await self.link.start(self)
        for room in self.rooms.values():
            room.start()
        server.spawn(self._sweep())

    async def stop(self) -> None:
        """Close every server connection; return when they are closed."""
        if self.link is not None:
            await self.link.stop()
        for room in self.rooms.values():
            await room.stop()
        self._nobody_left = asyncio.Event()
        for server in tuple(self._servers):
            server.close("the gateway stops")
        if self._servers:
            with suppress(TimeoutError):  # TLS says goodbye in both directions
                async with asyncio.timeout(SERVERS_CLOSE_S):
                    await self._nobody_left.wait()
        for server in tuple(self._servers):
            server.abort("the gateway stops")

    def reload(self, config: PostgresSettings) -> None:
        """Swap the settings: clients that are there keep theirs, pools take the new sizes and timeouts."""
        self.access = Access.read(config)
        self.use(config)

    def use(self, config: PostgresSettings) -> None:
        """Put settings in force whose files are those that were read."""
        self.settings = self.config = config
        self.limits = core_limits(config)
        self.query_log.configure(config.query_log)
        self.routing = RoutingPolicy(config)
        for room in self.rooms.values():
            room.reload(config)
        for pool in self.pools.values():
            pool.reload(config)

    async def _sweep(self) -> None:
        """Enforce the deadlines of pools and clients, twice a second."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = monotonic()
            for pool in tuple(self.pools.values()):
                pool.upkeep.sweep(now)
            self.pools.forget_unused()
            occupied.leave(self.pools.values(), now)
            self._sweep_clients(now)
            self.door.tick()

    def _sweep_clients(self, now: float) -> None:
        sessions = self.server.managers[self.name].sessions()
        clients = (one for one in sessions if isinstance(one, ClientSession))
        for client, refusal in self._deadlines.overdue(clients, self.settings.timeouts, now):
            if client.server is not None and client.server.fifo:
                # Without it the server would go on until it has something to say.
                self.server.spawn(
                    cancel.abandon(client.server, timeout_s=self.settings.timeouts.cancel_wait_timeout_s)
                )
            client.refuse(refusal)

    # Connections of clients

    def connected(self, connection: Connection) -> None:
        """Open the session and let it log in."""
        self._of_peer[connection.peer.address] += 1
        session = connection.new_session()
        assert isinstance(session, ClientSession)  # noqa: S101 - session_class
        session.state = ClientState.STARTUP
        session.deadline = connection.opened + self.settings.timeouts.client_login_timeout_s
        talk = login.ClientTalk(connection, session, limit_bytes=self.settings.startup_packet_bytes)
        connection.transport.set_protocol(talk)

    def disconnected(self, connection: Connection) -> None:
        """Let go of what the client had."""
        address = connection.peer.address
        if self._of_peer[address] > 1:
            self._of_peer[address] -= 1
        else:
            del self._of_peer[address]
        for session in tuple(connection.table.live.values()):
            if isinstance(session, ClientSession):
                self.client_left(session)

    def client_left(self, session: ClientSession) -> None:
        """Forget a client, once."""
        is_logged_in: bool = session.pool is not None  # not until the login is through
        if is_logged_in and not session.has_left:
            session.has_left = True
            session.leave()
            session.pool.clients -= 1
            session.pool.wait_s += session.wait_s
            self.cancel_keys.take(session)

    def farewell(self, session: Session, error: BaseException) -> Any:  # noqa: ARG002 - the core's signature
        """Tell a client why it is closed: its refusal, or in general words what was wrong."""
        if isinstance(error, Refusal):
            return wire.error_response(
                error.sqlstate, error.message, severity="FATAL", detail=error.detail, hint=error.hint
            )
        if isinstance(error, TimeoutError):
            return wire.error_response(SQLSTATE.PROTOCOL_VIOLATION, "client_login_timeout", severity="FATAL")
        if isinstance(error, LimitExceeded):
            return wire.error_response(SQLSTATE.PROGRAM_LIMIT, "a limit is exceeded", severity="FATAL")
        if isinstance(error, ProtocolError):
            return wire.error_response(SQLSTATE.PROTOCOL_VIOLATION, "protocol violation", severity="FATAL")
        if isinstance(error, BackendUnavailable):
            return wire.error_response(
                SQLSTATE.CANNOT_CONNECT_NOW, "the database server is not available", severity="FATAL"
            )
        return wire.error_response(
            SQLSTATE.ADMIN_SHUTDOWN, "terminating connection due to administrator command", severity="FATAL"
        )

    # Who may log in

    def check_room(self, peer: Peer) -> None:
        """Keep to the configured number of clients, now that one can be told so.

        Raises: Refusal.
        """
        limits = self.settings.limits
        is_full = len(self.server.managers[self.name].connections) > limits.connections_count
        if is_full or self._of_peer[peer.address] > limits.connections_per_peer_count:
            raise Refusal(SQLSTATE.TOO_MANY_CONNECTIONS, "too many clients are connected")

    def secrets_for(self, access: Access, database: str) -> SecretSource:
        """Return where the secrets of users of ``database`` are found."""
        return access.secrets_for(database, self._auth_query)

    async def _auth_query(self, database: str, sql: str, user: str) -> list[list[bytes | None]]:
        """Run auth_query as its user, with the name as a parameter.

        Raises: BackendUnavailable.
        """
        entry = self.find_database(database)
        if entry is None:
            return []
        auth_user = self.settings.auth.query_user
        pool = self.pools.of(
            entry, database, auth_user, Credentials.of(auth_user, self.access.known.get(auth_user))
        )
        node = pool.room.writable()
        if node is None:
            raise BackendUnavailable(pool.room.name, 0.0, "no primary is known")
        place = pool.place(node)
        place.connecting += 1
        try:
            server = await pool.connect(place)
        except (*dial.FAILURES, Refusal) as error:
            raise BackendUnavailable(node.name, 0.0, type(error).__name__) from error
        finally:
            place.connecting -= 1
        try:
            return await server.ask(sql.encode(), user.encode())
        finally:
            server.close("auth_query is answered")

    def known_users(self) -> Iterable[str]:
        """Return the users whose secrets the settings and the user list have."""
        return self.access.known.keys()

    # Pools

    def find_database(self, name: str) -> Database | None:
        """Return the entry for a database that a client names: its own, or that for all others."""
        fallback = None
        for database in self.settings.databases:
            if database.name == name:
                return database
            if database.name == "*":
                fallback = database
        return fallback

    async def welcome(self, pool: Pool) -> Reported:
        """Return what servers of a pool report, opening the first one if need be.

        Raises: Refusal.
        """
        return pool.report or await first_report(pool)

    def is_routed(self, pool: Pool) -> bool:
        """Say whether every statement of a pool's clients has to be looked at."""
        return self.settings.failover.arms_commit_outcome or self.routing.rule(pool.user) != Rule.PRIMARY

    # What servers and clients tell

    def next_server_number(self) -> int:
        """Return the number of a new server connection."""
        return next(self._numbers)

    def server_opened(self, server: ServerSession) -> None:
        """Take note of a new server connection."""
        self._by_pid[server.node, server.pid] = server
        self._servers.add(server)
        self.server.events.emit(SERVER_OPENED, None, server.pool.name, server.node.name, server.pid)
        server.pool.room.answered(server.node)

    def server_closed(self, server: ServerSession, cause: str) -> None:
        """Take note of the end of a server connection."""
        if self._by_pid.get((server.node, server.pid)) is server:
            del self._by_pid[server.node, server.pid]
        self._servers.discard(server)
        if self._nobody_left is not None:
            if not self._servers:
                self._nobody_left.set()
            return
        self.pools.closed(server)
        self.server.events.emit(SERVER_CLOSED, None, server.pool.name, server.node.name, server.pid, cause)

    def server_failed(self, server: ServerSession, error: Exception) -> None:
        """Tell of an answer that could not be taken: garbage, or a bug of ours."""
        text = in_words(error)
        self.server.events.emit(
            SERVER_FAILED, None, server.pool.name, server.node.name, text, raised_at(error)
        )

    def public_pid(self, node: Node, pid: int) -> int:
        """Return the PID that clients know for a backend's own at a node."""
        server = self._by_pid.get((node, pid))
        return server.last_pid or pid if server is not None else pid

    def connect_failed(self, pool: Pool, node: Node, error: BaseException) -> None:
        """Tell that a connection could not be opened."""
        text = dial.in_words(error)
        if isinstance(error, Refusal) and error.sqlstate[:2] == "28":
            self.access.forget(pool.user)  # its secret has changed, perhaps
        self.server.events.emit(CONNECT_FAILED, None, pool.name, node.name, text)

    def handshake_failed(self, session: ClientSession, reason: str) -> None:
        """Tell that a client and we found no common TLS."""
        words = reason.lower().replace("_", " ")
        self.server.events.emit(HANDSHAKE_FAILED, session, str(session.connection.peer), words)

    def session_failed(self, session: Session, error: BaseException, reason: str) -> None:
        """Tell the operator; a client that is told no in PostgreSQL's words is no failure of its session."""
        if not isinstance(error, Refusal) or not isinstance(session, ClientSession):
            super().session_failed(session, error, reason)
            return
        peer = session.connection.peer.address
        why = error.message if error.__cause__ is None else f"{error.message} ({in_words(error.__cause__)})"
        if error.sqlstate.startswith(_AUTHORIZATION_CLASS):
            self.server.events.emit(LOGIN_FAILED, session, session.user, session.database, peer, why)
        else:
            self.server.events.emit(CLIENT_REFUSED, session, error.sqlstate, why, session.about, peer)

    def cluster_moved(self, room: ClusterRoom, old: str, new: str, why: str) -> None:
        """Tell of a step of an incident."""
        self.server.events.emit(CLUSTER_MOVED, None, room.name, old, new, why)

    def cluster_found(self, room: ClusterRoom) -> None:
        """Tell which node the first search has found."""
        primary = room.state.primary
        if primary is not None:
            self.server.events.emit(CLUSTER_FOUND, None, room.name, primary.name, primary.timeline)

    def count_loss(self, situation: str) -> None:
        """Count what was decided about a client whose server was lost."""
        self.losses[situation] += 1
        self.lost_at[situation] = monotonic()

    def told_loss(self, client: ClientSession, decision: Decision) -> None:
        """Tell what was decided, one line per client and loss."""
        self.server.events.emit(SESSION_MOVED, client, decision.situation, decision.reason, client.about)

    @property
    def noteworthy_s(self) -> float:
        """Return from which duration on a statement is offered to the log: all of them where any is sampled."""
        settings = self.settings.query_log
        if settings.sample_rate:
            return 0.0
        return settings.slow_ms / 1000 if settings.slow_ms and settings.entries_count else float("inf")

    def statement_failed(self, client: ClientSession, head: Entry, fields: Mapping[str, str]) -> None:
        """Take note of a statement's error: for the log and the trace."""
        self.log_statement(client, head, 0.0, fields.get("C", ""))

    def log_statement(
        self, client: ClientSession, head: Entry, took_s: float, sqlstate: str, answer: bytes = b""
    ) -> None:
        """Write a statement into the log and the trace if it is slow, failed or sampled."""
        if not self.query_log.wants(took_s, bool(sqlstate)):
            if sqlstate:
                client.note(f"error {sqlstate}", direction=Direction.ERROR)
            return
        if isinstance(head, bytes):
            text = text_of(client, head)
        else:
            statement = getattr(head, "statement", None)
            text = statement.text if statement is not None else getattr(head, "text", b"")
        server = client.server
        if client.trace is not None:
            shown_text = shown(text[:TRACED_BYTES])
            session_trace.statement_ended(client, server, shown_text, took_s, sqlstate, answer)
        self.query_log.finished(
            session_id=client.id,
            database=client.database,
            user=client.user,
            node=server.node.name if server is not None else "",
            statement=text,
            duration_s=took_s,
            wait_s=client.wait_s,
            sqlstate=sqlstate,
        )

    async def cancel(self, pid: int, key: bytes, *, is_passed_on: bool = False) -> None:
        """Carry out a cancel request, here or at the worker that gave the key."""
        client = self.cancel_keys.find(pid, key)
        if client is None:
            if self.link is not None and not is_passed_on:
                await self.link.pass_on(self.cancel_keys.worker_of(key), pid, key)
        elif not self.door.cancel(client):
            await cancel.cancel(client, timeout_s=self.settings.timeouts.cancel_wait_timeout_s)

    # What the operator sees

    def parties(self, session: Session, direction: int) -> tuple[str, str]:
        """Return from whom to whom an entry goes."""
        theirs = session.about or str(session.connection.peer)
        return {Direction.IN: (theirs, self.name), Direction.OUT: (self.name, theirs)}.get(
            direction, (self.name, self.name)
        )

    def panel(self) -> AdminPanel:
        """Return the page with clusters, pools, failovers and statements."""
        return PostgresPanel(EngineView(self) if self.link is None else WorkersView(self, self.link)).panel()

    def troubles(self) -> Iterable[Trouble]:
        """Yield clusters that have no primary, and clients that wait for one."""
        for row in incident_tables.clusters(self):
            if row.state != "NORMAL":
                waiting = f"; {row.held_clients} clients wait" if row.held_clients else ""
                text = f"Cluster {row.cluster}: {row.state.lower().replace('_', ' ')}{waiting}"
                yield Trouble("error", text, link="#/gateways/postgres")

    def relayed(self) -> Relayed:
        """Return the requests of clients and their answers, each as one packet however many messages it has.

        They go from one transport to the other; logins are not among them.
        """
        totals = self.pools.totals()
        return Relayed(totals.queries, totals.queries, totals.bytes_in, totals.bytes_out)

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield figures of pools, clusters and losses."""
        waiting = console_tables.waiting(self)
        for (database, user), pool in self.pools.items():
            labels = {"database": database, "user": user}
            totals = pool.totals()
            yield "sojourn_postgres_clients", labels, pool.clients
            yield "sojourn_postgres_clients_waiting", labels, len(waiting[pool])
            yield "sojourn_postgres_servers", labels, sum(1 for _ in pool.servers())
            yield "sojourn_postgres_servers_busy", labels, pool.busy_count
            yield "sojourn_postgres_transactions_total", labels, totals.transactions
            yield "sojourn_postgres_queries_total", labels, totals.queries
        is_first = self.link is None or self.link.place.is_first
        for room in self.rooms.values() if is_first else ():  # each worker sees the same, which is no sum
            for node in room.state.nodes:
                labels = {"cluster": room.name, "node": node.name}
                yield "sojourn_postgres_node_is_primary", labels, float(node is room.writable())
                yield "sojourn_postgres_node_lag_bytes", labels, node.lag_bytes
            yield "sojourn_postgres_incidents_total", {"cluster": room.name}, room.state.incidents_count
        for situation, count in self.losses.items():
            yield "sojourn_postgres_losses_total", {"situation": situation}, count


def core_limits(settings: PostgresSettings) -> LimitSettings:
    """Return what the core refuses before it reads: more than is configured, so that a client can be told at its login.

    A flood of them is still refused unread.
    """
    limits = settings.limits
    return msgspec.structs.replace(
        limits,
        connections_count=limits.connections_count + REFUSED_ALOUD_COUNT,
        connections_per_peer_count=limits.connections_per_peer_count + REFUSED_ALOUD_COUNT,
        write_timeout_s=settings.timeouts.client_write_timeout_s,
    )
