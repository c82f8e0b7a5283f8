"""ClusterRoom: one cluster as the pools see it: its state machine, its monitor, its TLS, and who must be told.

Translates between what connections report and what ``failover`` decides. Knows neither SQL nor wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres import dial, incidents, nodes
from sojourn.gateways.postgres.failover import ClusterState
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.monitor import Monitor, hand_over
from sojourn.gateways.postgres.nodes import Node
from sojourn.gateways.postgres.patroni import Patroni
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.routing import ReplicaChooser
from sojourn.gateways.postgres.states import ServerState
from sojourn.gateways.postgres.switchover import ABANDONED, Leader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.config import Cluster, PostgresSettings
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.monitor import Probe
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession

ALONE: Final = Leader()
AT_REST_S: Final = 6.0
"""How long a switchover waits for the rest of an incident, which drains for 5 s at most; nobody is held meanwhile."""
_LOOK_S = 0.005
_NOT_NOW = re.compile(r"(57P0[123]|53300): (.*)", re.DOTALL)
"""The cause that ``server_auth.refused`` gives where a server has no place for anybody now."""
_SHUTDOWNS = frozenset({SQLSTATE.ADMIN_SHUTDOWN, SQLSTATE.CRASH_SHUTDOWN, SQLSTATE.CANNOT_CONNECT_NOW})


class ClusterRoom:
    """One cluster, its pools and its monitor.

    Life: made with the gateway, its task runs as long. Always true: ``writable`` is the only source of where new
    transactions go; pools are told of every change before anybody is served.
    """

    def __init__(self, gateway: PostgresGateway, settings: Cluster, whole: PostgresSettings) -> None:
        self.gateway = gateway
        self.settings = settings
        self.name = settings.name
        self.tls = dial.server_tls(settings.tls)
        self.is_tls_required = settings.tls is not None and settings.tls.mode not in ("disable", "prefer")
        members = tuple(Node(node.name, node.address) for node in settings.nodes)
        self.state = ClusterState(settings.name, members, whole.failover)
        self.pools: list[Pool] = []
        self.given_up_why = ""
        self.chooser = _chooser(whole)
        self._candidates = tuple(Candidate(self, node) for node in members)
        patroni = (
            Patroni(settings.patroni_urls, timeout_s=whole.failover.poll_timeout_s)
            if settings.patroni_urls
            else None
        )
        self.monitor = Monitor(
            self.state,
            self._probe,
            poll_interval_s=whole.failover.poll_interval_s,
            patroni=patroni,
        )
        self.state.on_primary.append(self._on_primary)
        self.state.on_lost.append(self._on_lost)
        self.state.on_given_up.append(self._on_given_up)
        self.state.on_state.append(self._on_state)
        self._watching: asyncio.Task[None] | None = None
        self._has_begun = False
        """A primary was known once: until then the incident machine searches for the first one."""
        self._is_monitored = bool(settings.monitor_user)

    def reload(self, whole: PostgresSettings) -> None:
        """Take what new settings say of the choice among replicas."""
        self.chooser = _chooser(whole)

    def start(self) -> None:
        """Begin to look at the nodes; a cluster that nobody may look at is taken as configured."""
        if self._is_monitored:
            self._watching = self.gateway.server.spawn(self.monitor.run())
        else:
            self.state.assume(self.state.nodes[0])

    async def stop(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    # What the pools ask

    def writable(self) -> Node | None:
        """Return the node for new transactions, None while there is none."""
        return self.state.writable()

    @property
    def is_given_up(self) -> bool:
        """Say whether waiting for a primary was given up."""
        return self.state.state == incidents.GIVEN_UP

    def is_usable(self, node: Node) -> bool:
        """Say whether a new connection to ``node`` may be used."""
        return node is self.state.writable() or node in self.state.readable()

    def replica_for(self, client: ClientSession) -> Node | None:
        """Return the replica that is best for a client's reads, None for the primary."""
        readable = self.readable()
        floor, primary = client.floor, self.state.primary
        if floor is not None and primary is not None and floor.timeline == primary.promoted_timeline:
            floor.follow(primary.timeline, primary.promoted_lsn)
        chosen = self.chooser.choose([one for one in self._candidates if one.node in readable], floor)
        return None if chosen is None else chosen.node

    def node_answered(self, node: Node, took_s: float) -> None:
        """Take note of how long a node took for a question."""
        for candidate in self._candidates:
            if candidate.node is node:
                candidate.answered(took_s)

    def readable(self) -> list[Node]:
        """Return the replicas that may serve reads."""
        return self.state.readable()

    # What the pools tell

    def server_lost(self, server: ServerSession) -> None:
        """Take note of a connection that ended."""
        if server.state != ServerState.CLOSED:
            return
        fatal = server.fatal
        if fatal is not None:
            if fatal.get("C") in _SHUTDOWNS:
                self.monitor.poll_soon(server.node)
        elif not server.closing:
            self.state.suspect(server.node, "a connection broke")
        if self.state.state == incidents.DRAINING:
            self._settle()

    def connect_failed(self, node: Node, error: BaseException) -> None:
        """Take note that nobody could connect to a node."""
        if isinstance(error, OSError | TimeoutError):
            self.state.suspect(node, f"connecting failed: {dial.in_words(error)}")
        else:
            self.monitor.poll_soon(node)

    def answered(self, node: Node) -> None:
        """Take note that a connection to a node is ready."""
        self.state.answered(node)
        if self.state.state == incidents.DRAINING:
            self._settle()

    def served(self) -> None:
        """Take note that a new connection was put to use: it may have been the last that somebody waited for."""
        if self.state.state == incidents.DRAINING:
            self._settle()

    def role_reported(self, node: Node, *, is_standby: bool) -> None:
        """Take note of what a connection reports of its server's role: a reason to ask at once."""
        if is_standby == (node is self.state.primary):
            self.monitor.poll_soon(node)

    def _settle(self) -> None:
        """End an incident when nobody waits and nothing of another primary is left."""
        primary = self.state.primary
        for pool in self.pools:
            if any(True for _ in pool.waiting()):
                return
            if any(
                server.node is not primary and server.node.state != nodes.REPLICA for server in pool.servers()
            ):
                return
        self.state.settled()

    # What the state machine tells

    def _on_primary(self, _node: Node) -> None:
        self.given_up_why = ""
        if self.state.incident is not None:
            self.state.incident.clients_held += self._held_count()
        for pool in tuple(self.pools):
            pool.primary_changed()

    def _on_lost(self, node: Node, why: str) -> None:
        for pool in tuple(self.pools):
            pool.node_lost(node, why)

    def _on_given_up(self, why: str) -> None:
        self.given_up_why = why
        if self.state.incident is not None:
            held = self._held_count()
            self.state.incident.clients_held += held
            self.state.incident.clients_refused += held
        for pool in tuple(self.pools):
            pool.give_up(why)

    def _held_count(self) -> int:
        return sum(len(pool.homeless) for pool in self.pools)

    def _on_state(self, old: str, new: str, why: str) -> None:
        if new in (incidents.SUSPECT, incidents.BUFFERING):
            for pool in tuple(self.pools):
                pool.primary_changed()
        if new == incidents.DRAINING:
            self._settle()
        if self._has_begun or new == incidents.GIVEN_UP:
            self.gateway.cluster_moved(self, old, new, why)
        elif new == incidents.SWITCHING:
            self.gateway.cluster_found(self)
        self._has_begun = self._has_begun or new == incidents.NORMAL

    # What operators order

    async def switchover(self, name: str | None = None, leader: Leader = ALONE) -> Node:
        """Make a replica the primary while clients wait, and return it.

        Args:
            name: of the replica; None takes the one that has replayed most.
            leader: leads the other workers.
        Raises: BackendUnavailable if it came to nothing.
        """
        await self.at_rest()
        await leader.at_rest(self.name)
        target, old = self.target(name), self.state.primary
        outcome = ""

        async def idle() -> None:
            await leader.hold(self.name, old.name if old is not None else "", target.name)
            await leader.attend(self.left_by_all(old))

        try:
            await hand_over(self.state, target, connect=self._probe, idle=idle, decide=leader.decide)
            await self._changed_to(target)
            with contextlib.suppress(BackendUnavailable, TimeoutError):
                async with asyncio.timeout(self.state.settings.buffering_timeout_s):
                    await leader.follow()
        except BaseException:
            incident = self.state.incident
            if self.state.primary is old and (incident is None or not incident.is_final):
                outcome = ABANDONED
            raise
        finally:
            leader.conclude(outcome)
        return target

    async def at_rest(self) -> None:
        """Return when nothing is about to end by itself that would refuse a switchover, or that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AT_REST_S):
                while self._is_settling:  # noqa: ASYNC110 - ends by itself
                    await asyncio.sleep(_LOOK_S)

    @property
    def _is_settling(self) -> bool:
        """Say whether the nodes are being asked for the first time, or an incident is as good as over."""
        state = self.state
        is_new = state.primary is None or not all(node.asked_at for node in state.nodes)
        return state.state in (incidents.SWITCHING, incidents.DRAINING) or (is_new and self._is_monitored)

    async def _changed_to(self, target: Node) -> None:
        """Return when a node that was told to promote itself takes writes.

        Raises: BackendUnavailable.
        """
        limit_s = self.state.settings.buffering_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while self.state.writable() is not target:  # noqa: ASYNC110 - another process's progress
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise BackendUnavailable(
                f"switchover to {target.name}",
                limit_s,
                f"{target.name} did not become primary in {limit_s:g} s",
            ) from error

    def target(self, name: str | None) -> Node:
        """Return the replica of a name, or the best one, if it could take over.

        Raises: BackendUnavailable.
        """
        candidates = [node for node in self.state.readable() if name is None or node.name == name]
        if not candidates:
            known = next((node.state for node in self.state.nodes if node.name == name), "no node of it")
            cause = f"{name} is {known}" if name else "no replica can take over"
            raise BackendUnavailable(name or self.name, 0.0, cause)
        return max(candidates, key=lambda node: node.replay_lsn)

    async def left_by_all(self, old: Node | None) -> None:
        """Return when no client uses a server at ``old`` any more; each goes when its transaction has ended."""
        while True:
            pools = [pool for pool in self.pools if old is not None and old in pool.places]
            if not sum(pool.leave(old) for pool in pools if old is not None):
                return
            await asyncio.sleep(_LOOK_S)

    # The monitor's connections

    async def _probe(self, node: Node) -> Probe:
        """Connect to a node for questions."""
        return await self.probe(node)

    async def probe(self, node: Node) -> NodeProbe:
        """Connect to a node as the monitoring role.

        Raises: OSError or SojournError.
        """
        probe = NodeProbe(self, node)
        await probe.open()
        return probe

    def connect(self) -> Callable[[Node], Awaitable[Probe]]:
        """Return what the monitor's functions take to connect."""
        return self._probe


def _chooser(whole: PostgresSettings) -> ReplicaChooser:
    routing = whole.routing
    return ReplicaChooser(routing.balance, routing.max_lag_s, routing.max_lag_bytes)


class Candidate:
    """A node as the choice among replicas sees it: its figures, and how busy our pools keep it.

    Life: as long as its room. Always true: nothing is counted before somebody has to choose.
    """

    __slots__ = ("_room", "latency_ewma_s", "node")

    WEIGHT: Final = 0.2
    """Of the newest answer in the moving average."""

    def __init__(self, room: ClusterRoom, node: Node) -> None:
        self._room = room
        self.node = node
        self.latency_ewma_s = 0.0

    def answered(self, took_s: float) -> None:
        """Take note of how long the node took for a question of ours."""
        known = self.latency_ewma_s
        self.latency_ewma_s = known + self.WEIGHT * (took_s - known) if known else took_s

    @property
    def name(self) -> str:
        """Return the node's name."""
        return self.node.name

    @property
    def lag_s(self) -> float:
        """Return how old its data are."""
        return self.node.lag_s

    @property
    def lag_bytes(self) -> int:
        """Return how much log it has still to replay."""
        return self.node.lag_bytes

    @property
    def replay_lsn(self) -> int:
        """Return how far it has replayed the log."""
        return self.node.replay_lsn

    @property
    def timeline(self) -> int:
        """Return the timeline that it follows."""
        return self.node.timeline

    @property
    def outstanding_count(self) -> int:
        """Return how many clients use it or wait for it."""
        places = (pool.places.get(self.node) for pool in self._room.pools)
        return sum(len(one.servers) - one.idle_count + len(one.waiting) for one in places if one is not None)


class NodeProbe:
    """One connection to a node for questions of our own.

    Life: opened by the room, closed by who asked; ends by itself with the node.
    """

    def __init__(self, room: ClusterRoom, node: Node) -> None:
        self._room = room
        self._node = node
        self._server: ServerSession | None = None
        self._is_wanted = True

    async def open(self) -> None:
        """Connect and log in.

        Raises: OSError or SojournError.
        """
        pool = self._room.gateway.pools.for_monitor(self._room, on_lost=self._lost)
        place = pool.place(self._node)
        try:
            self._server = await pool.connect(place)
        except BackendUnavailable as error:
            found = _NOT_NOW.match(error.cause)
            if found is None:
                raise
            raise Refusal(found[1], found[2]) from error

    async def query(self, sql: str) -> list[list[bytes | None]]:
        """Ask and return the rows of the only result.

        Raises: Refusal with the server's SQLSTATE, or BackendUnavailable if it is gone.
        """
        server = self._server
        assert server is not None  # noqa: S101 - opened before
        answered: asyncio.Future[Hidden] = asyncio.get_running_loop().create_future()
        began = monotonic()
        server.run(sql.encode(), Hidden(lambda one: _settle(answered, one)))
        hidden = await answered
        self._room.node_answered(self._node, monotonic() - began)
        if hidden.error is not None:
            if hidden.error.get("S") == "FATAL":
                raise ConnectionError(hidden.error.get("M", ""))
            raise Refusal(hidden.error.get("C", ""), hidden.error.get("M", ""))
        return hidden.results[0] if hidden.results else []

    def close(self) -> None:
        """End the connection."""
        self._is_wanted = False
        if self._server is not None:
            self._server.close("not needed any more")

    def _lost(self) -> None:
        if self._is_wanted:
            self._room.monitor.lost(self._node, self)


def _settle(answered: asyncio.Future[Hidden], hidden: Hidden) -> None:
    if not answered.done():
        answered.set_result(hidden)
