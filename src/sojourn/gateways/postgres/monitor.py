"""Asking the nodes: one small query to each, slowly in peace and quickly in an incident.

One task per node asks over a connection of its own, kept between polls; what comes of it goes to
:class:`.failover.ClusterState`, which alone decides. How a connection is made is for the caller to say (``Connect``),
so this knows no bytes, no logins and no pools.

Rights: any role that may connect is enough. Membership in ``pg_monitor`` lets it also read the timeline that a replica
receives; without it a replica shows the timeline of its last restart point, and after a promotion serves reads through
the gateway only when that has moved on. :func:`hand_over` needs EXECUTE on ``pg_promote``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, ConnectionLost, SojournError, WireError
from sojourn.gateways.postgres import failover, incidents, nodes
from sojourn.gateways.postgres.failover import ClusterState
from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.nodes import Evidence, Node
from sojourn.gateways.postgres.patroni import Patroni

Rows = list[list[bytes | None]]

NODE_SQL: Final = """
SELECT r,
  CASE WHEN r THEN pg_catalog.lpad(pg_catalog.to_hex(greatest(
      (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),
      (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()),
      (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()))), 8, '0')
    ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END,
  (SELECT system_identifier FROM pg_catalog.pg_control_system()),
  CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_lsn() END,
  CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() END,
  CASE WHEN r AND pg_catalog.pg_last_wal_receive_lsn() IS DISTINCT FROM pg_catalog.pg_last_wal_replay_lsn()
    THEN (EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()))::float8 END,
  EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver)
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS s
"""
"""What a node is. Recovery is asked about once, first: a promotion between two questions would make the second fail.
Right after a promotion the control file still has the old timeline; the current log file's name has the new one."""

FAST_INTERVAL_S: Final = 0.05
"""Time between two polls of a node while clients wait; a new primary is seen within this and one round trip."""

MIN_GAP_S: Final = 0.005
"""However often somebody wants a poll: a cluster in trouble is not to be asked to death."""

CATCH_UP_INTERVAL_S: Final = 0.01

REFUSING_STATES: Final = frozenset({"57P01", "57P02", "57P03"})
"""SQLSTATEs of a server that starts, stops or crashes, as the answer to a new connection."""
BUSY_STATE: Final = "53300"
DENYING_CLASSES: Final = ("28", "3D", "42")
"""Classes of SQLSTATEs that say no to this login for good: password, ``pg_hba.conf``, database, rights."""


class Probe(Protocol):
    """One connection to one node, logged in, for questions only.

    Its maker should also call :meth:`Monitor.lost` when the connection ends by itself: then nobody waits for the next
    poll to find out.
    """

    async def query(self, sql: str) -> Rows:
        """Ask and return the rows, values in text form.

        Raises: OSError or SojournError if there is no answer (Refusal with the server's SQLSTATE).
        """

    def close(self) -> None:
        """End the connection; it is not used any more, and may be broken already."""


Connect = Callable[[Node], Awaitable[Probe]]
"""Make a connection; raises what :meth:`Probe.query` raises."""


class Monitor:
    """The tasks that ask the nodes of one cluster.

    Life: made with the cluster; runs as long as :meth:`run` is not cancelled. Always true: at most one poll per node
    at a time, each ends within ``poll_timeout_s``.
    """

    def __init__(
        self,
        cluster: ClusterState,
        connect: Connect,
        *,
        poll_interval_s: float,
        fast_interval_s: float = FAST_INTERVAL_S,
        patroni: Patroni | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.cluster = cluster
        self._connect = connect
        self._poll_interval_s = poll_interval_s
        self._fast_interval_s = min(fast_interval_s, poll_interval_s)
        self._patroni = patroni
        self._clock = clock
        self._probes: dict[Node, Probe] = {}
        self._wanted = {node: asyncio.Event() for node in cluster.nodes}
        self._stirred = asyncio.Event()
        cluster.on_poll_wanted.append(self.poll_soon)
        cluster.on_state.append(self._on_state)

    def poll_soon(self, node: Node) -> None:
        """Ask a node at once; one that is being asked is asked again."""
        wanted = self._wanted.get(node)
        if wanted is not None:
            wanted.set()

    def lost(self, node: Node, probe: Probe) -> None:
        """Take that a probe's connection ended; one that is in use, or was given up, changes nothing."""
        if self._probes.get(node) is probe:
            self._drop(node)
            self.poll_soon(node)

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for node in self.cluster.nodes:
                    group.create_task(self._watch(node), name=f"postgres monitor {node.name}")
                group.create_task(self._keep_time(), name=f"postgres monitor {self.cluster.name}")
                if self._patroni is not None:
                    group.create_task(self._listen(self._patroni), name=f"patroni {self.cluster.name}")
        finally:
            for node in self.cluster.nodes:
                self._drop(node)

    async def _watch(self, node: Node) -> None:
        """Ask one node again and again."""
        wanted = self._wanted[node]
        while True:
            wanted.clear()
            began = self._clock()
            await self.poll(node)
            await asyncio.sleep(MIN_GAP_S)
            await _event(wanted, began + self._interval_s() - self._clock())

    async def _keep_time(self) -> None:
        """Let the time bounds of the incident machine pass."""
        while True:
            self._stirred.clear()
            await _event(self._stirred, self._interval_s())
            self.cluster.tick()
            await asyncio.sleep(MIN_GAP_S)

    async def _listen(self, patroni: Patroni) -> None:
        """Ask the nodes at once when Patroni names another leader than ours; its word alone moves nothing."""
        while True:
            leader = await patroni.leader(self.cluster.nodes)
            if leader is not None and leader is not self.cluster.writable():
                for node in self.cluster.nodes:
                    self.poll_soon(node)
            await asyncio.sleep(self._poll_interval_s)

    async def poll(self, node: Node) -> None:
        """Ask one node once and report what came of it."""
        asked_at = self._clock()
        try:
            async with asyncio.timeout(self.cluster.settings.poll_timeout_s):
                rows = await self._ask(node)
            evidence = read_evidence(rows, asked_at)
        except (OSError, SojournError) as error:
            if isinstance(error, WireError):
                self._drop(node)
            self.cluster.failed(node, _reason(error), kind_of(error))
        else:
            self.cluster.saw(node, evidence)

    async def _ask(self, node: Node) -> Rows:
        """Ask over the kept connection, or a new one: the end of a session says nothing about its server."""
        probe = self._probes.pop(node, None)
        if probe is not None:
            try:
                return await self._query(node, probe)
            except (OSError, SojournError):
                pass
        return await self._query(node, await self._connect(node))

    async def _query(self, node: Node, probe: Probe) -> Rows:
        try:
            rows = await probe.query(NODE_SQL)
        except BaseException:
            probe.close()
            raise
        self._probes[node] = probe
        return rows

    def _interval_s(self) -> float:
        """Say how long the next poll may be away; nobody waits any more where waiting was given up."""
        if self.cluster.is_quiet or self.cluster.state == incidents.GIVEN_UP:
            return self._poll_interval_s
        return self._fast_interval_s

    def _on_state(self, old: str, new: str, why: str) -> None:  # noqa: ARG002  an observer takes what it is told
        if old == incidents.NORMAL:
            self._stirred.set()
            for wanted in self._wanted.values():
                wanted.set()

    def _drop(self, node: Node) -> None:
        probe = self._probes.pop(node, None)
        if probe is not None:
            probe.close()


def read_evidence(rows: Rows, asked_at: float) -> Evidence:
    """Read the answer to ``NODE_SQL``.

    Raises: WireError if a server answers something else.
    """
    try:
        (row,) = rows
        recovery, timeline, system_identifier, written, replayed, lag_s, receiving = (
            (value or b"").decode() for value in row
        )
        return Evidence(
            is_in_recovery={"t": True, "f": False}[recovery],
            timeline=int(timeline, 16),
            lsn=nodes.lsn(written) if written else 0,
            system_identifier=int(system_identifier),
            seen_at=asked_at,
            replay_lsn=nodes.lsn(replayed) if replayed else 0,
            lag_s=float(lag_s or 0.0),
            is_receiving=receiving == "t",
        )
    except (ValueError, KeyError):
        raise WireError("another answer to the node query", "one row of seven values", "NODE_SQL") from None


def kind_of(error: OSError | SojournError) -> str:
    """Say what a failed poll over a new connection means: REFUSED, SILENT, BUSY or DENIED."""
    if isinstance(error, Refusal):
        if error.sqlstate in REFUSING_STATES:
            return failover.REFUSED
        if error.sqlstate[:2] in DENYING_CLASSES:
            return failover.DENIED
        return failover.BUSY if error.sqlstate == BUSY_STATE else failover.SILENT
    if isinstance(error, ConnectionLost | ConnectionError | FileNotFoundError):
        return failover.REFUSED
    return failover.SILENT


async def hand_over(
    cluster: ClusterState,
    target: Node,
    *,
    connect: Connect,
    idle: Callable[[], Awaitable[None]],
    decide: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Make a replica the primary with nobody losing anything: the planned switchover.

    New transactions wait; when those that run have ended and the replica has replayed all that the old primary wrote,
    it is promoted. Writes that do not come through the gateway are not held. The old primary goes on running, fenced:
    to make it a replica is the operator's work.

    Args:
        idle: returns when no transaction runs at the old primary.
        decide: returns when nobody else who holds clients will go back to the old primary by itself.
    Raises: BackendUnavailable if it came to nothing or its end is not known; ``cluster`` shows what happened.
    """
    old = cluster.primary
    cluster.begin_switchover(target)
    limit_s = cluster.settings.buffering_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            await idle()
            await _promote(cluster, old or target, target, connect, decide)
    except (OSError, SojournError) as error:
        why = _reason(error)
        # A server that answers with an error, or was never told, has not begun to promote itself.
        if isinstance(error, Refusal) or cluster.incident is None or not cluster.incident.is_final:
            cluster.abandon_switchover(why)
        raise BackendUnavailable(f"switchover to {target.name}", limit_s, why) from error
    except BaseException:
        if cluster.incident is not None and not cluster.incident.is_final:
            cluster.abandon_switchover("cancelled")
        raise


async def _promote(
    cluster: ClusterState,
    old: Node,
    target: Node,
    connect: Connect,
    decide: Callable[[], Awaitable[None]] | None,
) -> None:
    """Wait until the target has replayed all of the old primary's log, and promote it."""
    probe = await connect(old)
    try:
        written = await _position(probe, "SELECT pg_catalog.pg_current_wal_insert_lsn()")
        # Only what is flushed is sent to a replica. A commit of our own makes the log writer flush all before it,
        # also commits that did not wait for that.
        await probe.query("SELECT pg_catalog.pg_current_xact_id()")
    finally:
        probe.close()
    probe = await connect(target)
    try:
        while await _position(probe, "SELECT pg_catalog.pg_last_wal_replay_lsn()") < written:  # noqa: ASYNC110  it is another process's progress
            await asyncio.sleep(CATCH_UP_INTERVAL_S)
        if decide is not None:
            await decide()
        cluster.promotion_ordered()
        await probe.query("SELECT pg_catalog.pg_promote(false)")
    finally:
        probe.close()
    for node in (target, old):
        cluster.suspect(node, "promotion")


async def _position(probe: Probe, sql: str) -> int:
    """Ask for one position in the log; 0 where there is none.

    Raises: WireError if a server answers something else; what ``Probe.query`` raises.
    """
    try:
        ((position,),) = await probe.query(sql)
        text = (position or b"0/0").decode()
    except ValueError:
        raise WireError(
            "another answer to the question for a position", "one row of one value", sql
        ) from None
    return nodes.lsn(text)


async def _event(event: asyncio.Event, within_s: float) -> None:
    """Wait for an event, for so long at most."""
    try:
        async with asyncio.timeout(max(0.0, within_s)):
            await event.wait()
    except TimeoutError:
        return


def _reason(error: Exception) -> str:
    """Say for people what went wrong."""
    if isinstance(error, BackendUnavailable):
        return error.cause
    if isinstance(error, OSError) and error.strerror:
        # The loop's own words name the address as Python writes it; names that are not found have numbers below 0.
        number = error.errno or 0
        return os.strerror(number) if number > 0 else error.strerror
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
