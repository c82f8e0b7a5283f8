"""The monitor: with servers that a test plays, and with real ones that crash and are promoted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import BackendUnavailable, ConnectionLost, WireError
from sojourn.gateways.postgres import incidents, nodes, outcome
from sojourn.gateways.postgres.config import FailoverSettings
from sojourn.gateways.postgres.failover import BUSY, DENIED, REFUSED, SILENT, ClusterState
from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.monitor import NODE_SQL, Monitor, hand_over, kind_of, read_evidence
from sojourn.gateways.postgres.nodes import Node

PRIMARY_ROW = [b"f", b"00000002", b"7", b"0/64", None, None, b"f"]
REPLICA_ROW = [b"t", b"0000000a", b"7", b"0/64", b"0/60", b"1.5", b"t"]
DEBIAN = Path("/usr/lib/postgresql/15/bin")


class AsyncpgProbe:
    """A probe over asyncpg, its errors turned into ours."""

    def __init__(self, connection):
        self.connection = connection

    async def query(self, sql):
        try:
            rows = await self.connection.fetch(sql)
        except asyncpg.PostgresError as error:
            raise Refusal(error.sqlstate, str(error)) from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise ConnectionLost(str(error)) from error
        return [[None if value is None else word(value) for value in row] for row in rows]

    def close(self):
        self.connection.terminate()


def word(value):
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return str(value).encode()


def show(line):
    """Print a measurement, for whoever runs pytest -s."""
    sys.stdout.write(f"\n{line}\n")


async def positions_as_text(connection):
    """Let asyncpg leave pg_lsn and xid8 as the server writes them."""
    for name in ("pg_lsn", "xid8"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str, format="text")


class Servers:
    """Real servers by node name, and how a monitor reaches them."""

    def __init__(self, **servers):
        self.by_name = servers
        self.nodes = {name: Node(name, f"unix:/{name}") for name in servers}
        self.monitor = None

    async def connect(self, node):
        server = self.by_name[node.name]
        if not server.host:
            raise ConnectionRefusedError(node.name)
        try:
            connection = await asyncpg.connect(server.dsn())
        except asyncpg.PostgresError as error:
            raise Refusal(error.sqlstate, str(error)) from error
        except asyncpg.InterfaceError as error:
            raise ConnectionLost(str(error)) from error
        await positions_as_text(connection)
        probe = AsyncpgProbe(connection)
        connection.add_termination_listener(lambda _: self.monitor and self.monitor.lost(node, probe))
        return probe


class Watch:
    """A cluster of real servers that is being monitored, with an engine that has no clients."""

    def __init__(self, servers, **settings):
        self.servers = servers
        self.cluster = ClusterState("main", tuple(servers.nodes.values()), FailoverSettings(**settings))
        self.monitor = Monitor(self.cluster, servers.connect, poll_interval_s=0.5)
        servers.monitor = self.monitor
        self.states = []
        self.moments = []
        self.changed = asyncio.Event()
        self.cluster.on_state.append(self.on_state)
        self.cluster.on_primary.append(self.on_primary)
        self.cluster.on_node.append(lambda *_: self.changed.set())

    def on_state(self, _old, new, _why):
        self.states.append(new)
        self.changed.set()

    def on_primary(self, node):
        self.moments.append((node.name, time.monotonic()))
        self.cluster.answered(node)
        self.cluster.settled()

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def __aenter__(self):
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        self.task = self.group.create_task(self.monitor.run())
        await self.until(lambda: self.cluster.state == incidents.NORMAL)
        self.states.clear()
        self.moments.clear()
        return self

    async def __aexit__(self, *error):
        self.task.cancel()
        await self.group.__aexit__(*error)


@contextlib.asynccontextmanager
async def watched_pair(version, **settings):
    """Give a monitored primary ``one`` and its replica ``two``, both known."""
    place = {"bin_directory": DEBIAN} if version == 15 else {"version": version}
    async with PostgresServer(**place) as primary:
        replica = await primary.replica()
        try:
            servers = Servers(one=primary, two=replica)
            async with Watch(servers, **settings) as watch:
                two = servers.nodes["two"]
                await watch.until(lambda: two.state == nodes.REPLICA)
                yield watch, primary, replica
        finally:
            await replica.stop()


VERSIONS = [*([15] if DEBIAN.exists() else []), 16, 18]
WAY = [incidents.SUSPECT, incidents.BUFFERING, incidents.SWITCHING, incidents.DRAINING, incidents.NORMAL]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_promoted_replica_is_found_within_moments_and_the_old_primary_is_fenced(
    run, record_property, version
):
    """Issue 3, must show 3: first answer under 1 s after the new primary is ready; this is the largest part."""

    async def scenario():
        async with watched_pair(version) as (watch, primary, replica):
            await primary.crash()
            await watch.until(lambda: watch.cluster.state == incidents.BUFFERING)
            assert watch.cluster.writable() is None
            assert watch.cluster.readable() == [watch.servers.nodes["two"]]
            await replica.promote()
            ready = time.monotonic()
            await watch.until(lambda: watch.cluster.state == incidents.NORMAL)
            ((name, found),) = watch.moments
            assert name == "two"
            after_s = found - ready
            record_property("primary_found_after_s", round(after_s, 3))
            show(f"PostgreSQL {version}: new primary found {after_s * 1000:+.0f} ms after promote() returned")
            assert after_s < 2
            assert watch.states == WAY
            two = watch.servers.nodes["two"]
            assert (two.timeline, watch.cluster.newest_timeline) == (2, 2)
            assert outcome.promoted_position(two, 1) > 0
            assert watch.cluster.history[0].outcome == "failover"
            await primary.start()
            one = watch.servers.nodes["one"]
            await watch.until(lambda: one.state == nodes.FENCED)
            assert "timeline 1 is older than 2" in one.evidence
            assert watch.cluster.writable() is two

    run(scenario())


def test_a_primary_that_crashes_and_restarts_is_used_again_at_once(run):
    """Same node, same timeline: a restart."""

    async def scenario():
        async with watched_pair(18) as (watch, primary, _):
            await primary.crash()
            await watch.until(lambda: watch.cluster.state == incidents.BUFFERING)
            await primary.start()
            ready = time.monotonic()
            await watch.until(lambda: watch.cluster.state == incidents.NORMAL)
            ((name, found),) = watch.moments
            show(f"restarted primary found {(found - ready) * 1000:+.0f} ms after start() returned")
            assert name == "one"
            assert found - ready < 2
            assert watch.states == WAY
            assert watch.cluster.history[0].outcome == "restart"

    run(scenario())


def test_an_ended_session_of_a_healthy_server_is_a_false_alarm(run):
    """Specification 6.3: pg_terminate_backend sends the same 57P01 as a server that stops."""

    async def scenario():
        async with watched_pair(18) as (watch, primary, _):
            connection = await asyncpg.connect(primary.dsn())
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            await connection.close()
            watch.cluster.suspect(watch.servers.nodes["one"], "connection reset")
            assert watch.cluster.writable() is None
            await watch.until(lambda: watch.cluster.state == incidents.NORMAL)
            assert watch.states == [incidents.SUSPECT, incidents.NORMAL]
            assert watch.cluster.false_alarms_count == 1
            assert watch.cluster.writable() is watch.servers.nodes["one"]

    run(scenario())


def test_a_planned_switchover_loses_nothing(run):
    """Specification 3.3 point 12; the replica is promoted only when it has all of the old primary's log."""

    async def scenario():
        async with watched_pair(18) as (watch, primary, replica):
            one, two = watch.servers.nodes["one"], watch.servers.nodes["two"]
            writer = await asyncpg.connect(primary.dsn())
            await writer.execute("CREATE TABLE rows (n int)")
            await writer.execute("SET synchronous_commit = off")

            async def idle():
                assert watch.cluster.writable() is None
                await writer.execute("INSERT INTO rows SELECT generate_series(1, 5000)")
                await writer.close()

            await hand_over(watch.cluster, two, connect=watch.servers.connect, idle=idle)
            await watch.until(lambda: watch.cluster.state == incidents.NORMAL)
            assert watch.cluster.writable() is two
            reader = await asyncpg.connect(replica.dsn())
            assert await reader.fetchval("SELECT count(*) FROM rows") == 5000
            await reader.close()
            await watch.until(lambda: one.state == nodes.FENCED)
            assert watch.cluster.history[0].outcome == "switchover"

    run(scenario())


def test_a_switchover_that_the_server_refuses_goes_back(run):
    """Whoever may not promote learns it before anything has changed."""

    async def scenario():
        async with watched_pair(18) as (watch, _, __):
            one, two = watch.servers.nodes["one"], watch.servers.nodes["two"]

            class Forbidding(AsyncpgProbe):
                async def query(self, sql):
                    if "pg_promote" in sql:
                        raise Refusal("42501", "permission denied for function pg_promote")
                    return await super().query(sql)

            async def connect(node):
                return Forbidding((await watch.servers.connect(node)).connection)

            async def idle():
                return

            with pytest.raises(BackendUnavailable, match="permission denied"):
                await hand_over(watch.cluster, two, connect=connect, idle=idle)
            await watch.until(lambda: watch.cluster.state == incidents.NORMAL)
            assert watch.cluster.writable() is one
            assert watch.cluster.history[0].outcome == "abandoned"

    run(scenario())


def test_an_ordinary_role_may_ask_the_node_query(run):
    """Rights: any role that may connect; pg_monitor only for the received timeline."""

    async def scenario():
        async with PostgresServer(version=18, port=0) as primary:
            owner = await asyncpg.connect(primary.dsn())
            await owner.execute("CREATE ROLE plain LOGIN PASSWORD 'x'")
            await owner.close()
            replica = await primary.replica(port=0)
            try:
                await replica.catch_up()
                for server, is_in_recovery in ((primary, False), (replica, True)):
                    connection = await asyncpg.connect(
                        host=server.host, port=server.port, user="plain", password="x", database="postgres"
                    )
                    await positions_as_text(connection)
                    evidence = read_evidence(await AsyncpgProbe(connection).query(NODE_SQL), 1.0)
                    await connection.close()
                    assert evidence.is_in_recovery is is_in_recovery
                    assert (evidence.timeline, evidence.is_receiving) == (1, is_in_recovery)
                    assert evidence.lsn
                    assert evidence.system_identifier
            finally:
                await replica.stop()

    run(scenario())


class PlayedProbe:
    """A connection to a server that the test plays: each query takes the next answer."""

    def __init__(self, answers):
        self.answers = answers
        self.is_closed = False

    async def query(self, _sql):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return [answer]

    def close(self):
        self.is_closed = True


def played(connections, **settings):
    """Give a monitor of one node whose connections are played in order."""
    node = Node("one", "one:5432")
    made = []

    async def connect(_):
        answers = connections.pop(0)
        if isinstance(answers, BaseException):
            raise answers
        made.append(PlayedProbe(answers))
        return made[-1]

    cluster = ClusterState("main", [node], FailoverSettings(**settings))
    return Monitor(cluster, connect, poll_interval_s=0.5), node, made


def test_a_connection_is_kept_between_polls(run):
    """One connection per node, not one per poll."""

    async def scenario():
        monitor, node, made = played([[PRIMARY_ROW, PRIMARY_ROW]])
        await monitor.poll(node)
        await monitor.poll(node)
        assert (node.state, len(made), made[0].is_closed) == (nodes.PRIMARY, 1, False)

    run(scenario())


def test_a_broken_connection_is_made_anew_before_anything_is_concluded(run):
    """The end of a session says nothing about its server; a refused new one does."""

    async def scenario():
        monitor, node, made = played(
            [[PRIMARY_ROW, Refusal("57P01", "terminating connection")], [PRIMARY_ROW, ConnectionLost("reset")],
             ConnectionRefusedError(111, "refused")]
        )  # fmt: skip
        await monitor.poll(node)
        await monitor.poll(node)
        assert (node.state, made[0].is_closed, made[1].is_closed) == (nodes.PRIMARY, True, False)
        await monitor.poll(node)
        assert (node.state, made[1].is_closed) == (nodes.DOWN, True)

    run(scenario())


def test_the_loss_of_an_idle_connection_is_asked_about_at_once(run):
    """Nobody waits for the next poll; a connection that was given up before is nobody's news."""

    async def scenario():
        monitor, node, made = played([[PRIMARY_ROW, Refusal("57P01", "terminating")], [PRIMARY_ROW]])
        await monitor.poll(node)
        await monitor.poll(node)
        monitor.lost(node, made[0])
        assert (monitor._wanted[node].is_set(), made[1].is_closed) == (False, False)
        monitor.lost(node, made[1])
        assert (monitor._wanted[node].is_set(), made[1].is_closed) == (True, True)

    run(scenario())


def test_a_server_that_does_not_answer_is_silent_after_the_poll_timeout(run):
    """poll_timeout_s; the connection that waits for its answer is closed."""

    async def scenario():
        monitor, node, made = played([[PRIMARY_ROW, None]], poll_timeout_s=0.01)
        await monitor.poll(node)
        monitor.cluster.answered(node)
        monitor.cluster.settled()
        await monitor.poll(node)
        assert (monitor.cluster.state, monitor.cluster.writable()) == (incidents.SUSPECT, node)
        assert made[0].is_closed

    run(scenario())


def test_a_server_that_answers_something_else_is_no_postgresql(run):
    """Bad input from a server: no evidence, and the connection is not used again."""

    async def scenario():
        monitor, node, made = played([[[b"?"]]])
        await monitor.poll(node)
        assert (node.state, made[0].is_closed) == (nodes.DOWN, True)

    run(scenario())


def test_cancelling_the_monitor_closes_its_connections(run):
    """Whoever opens a connection ends it."""

    async def scenario():
        monitor, _, made = played([[PRIMARY_ROW, None]])
        seen = asyncio.Event()
        monitor.cluster.on_primary.append(lambda _: seen.set())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(monitor.run())
            await seen.wait()
            task.cancel()
        assert made[0].is_closed

    run(scenario())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('192.0.2.1', 5432)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (BackendUnavailable("db-1", 0.0, "57P03: starting up"), "57P03: starting up"),
        (TimeoutError(), "no answer in time"),
        (ConnectionError("terminating connection"), "terminating connection"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_evidence_is_told_in_the_words_of_operators(run, error, words):
    """SHOW NODES and SHOW FAILOVERS are read by people who know PostgreSQL, not our classes."""

    async def scenario():
        monitor, node, _ = played([error])
        await monitor.poll(node)
        assert node.evidence == words

    run(scenario())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), REFUSED),
        (ConnectionResetError(), REFUSED),
        (FileNotFoundError(), REFUSED),
        (ConnectionLost("closed"), REFUSED),
        (Refusal("57P03", "the database system is starting up"), REFUSED),
        (Refusal("53300", "sorry, too many clients already"), BUSY),
        (Refusal("28P01", "password authentication failed"), DENIED),
        (Refusal("3D000", "database does not exist"), DENIED),
        (TimeoutError(), SILENT),
        (OSError(113, "no route to host"), SILENT),
    ],
)
def test_failures_mean_what_they_say(error, kind):
    """A refusal is known at once; what could pass, or is our own mistake, needs time."""
    assert kind_of(error) == kind


def test_evidence_is_read_as_the_server_writes_it():
    """The timeline is hexadecimal in both roles."""
    primary, replica = read_evidence([PRIMARY_ROW], 1.0), read_evidence([REPLICA_ROW], 2.0)
    assert (primary.is_in_recovery, primary.timeline, primary.lsn, primary.system_identifier) == (
        False,
        2,
        0x64,
        7,
    )
    assert (replica.is_in_recovery, replica.timeline, replica.replay_lsn) == (True, 10, 0x60)
    assert (replica.lag_s, replica.is_receiving, replica.seen_at) == (1.5, True, 2.0)


@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("value", [b"x", b"\xff"])
def test_a_damaged_answer_is_no_evidence(column, value):
    """Bad input: any value that cannot be read, except of the last column, which is a hint."""
    row = [*REPLICA_ROW]
    row[column] = value
    if column == 6 and value == b"x":
        assert not read_evidence([row], 1.0).is_receiving
        return
    with pytest.raises(WireError):
        read_evidence([row], 1.0)
