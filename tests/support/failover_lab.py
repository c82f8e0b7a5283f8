"""A primary, its streaming replica and gateways in front of both, for tests that kill the primary.

After :meth:`FailoverLab.fail_over` the promoted replica gets a new replica on the dead server's address, so that a
chain of failovers needs one set of nodes only. Replication is synchronous: what was acknowledged has to be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import psycopg

from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings, ListenerSettings
from sojourn.embedded.account import free_port
from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    Database,
    FailoverSettings,
    NodeSettings,
    PoolSettings,
    PostgresSettings,
    TimeoutSettings,
)
from sojourn.gateways.postgres.gateway import PostgresGateway

TRUST = "host all all 127.0.0.1/32 trust"
CONNECTIONS_COUNT = 500


class FailoverLab:
    """The servers of one cluster.

    Life: made and ended by :func:`running_failover_lab`. Always true: ``primary`` is the server that takes writes,
    or was until it was crashed; ``replica`` follows it, or is None.
    """

    def __init__(self, version, replica_settings=None):
        self.version = version
        self.replica_settings = replica_settings
        self.primary = None
        self.replica = None
        self.stack = contextlib.AsyncExitStack()
        self.nodes = ()
        self.loop_errors = []
        self._stopped_pid = 0

    async def start(self):
        """Start both servers."""
        self.primary = PostgresServer(
            version=self.version,
            port=free_port(),
            hba_lines=[TRUST],
            settings={
                "max_connections": str(CONNECTIONS_COUNT),
                "timezone": "UTC",
                "wal_retrieve_retry_interval": "100ms",
            },
        )
        await self.primary.start()
        self.stack.push_async_callback(self.primary.stop)
        await self.add_replica(port=free_port())
        self.nodes = tuple(
            NodeSettings(name=f"db-{number}", address=f"127.0.0.1:{server.port}")
            for number, server in enumerate((self.primary, self.replica), 1)
        )

    async def add_replica(self, *, port):
        """Start a replica of the primary, and let no commit be acknowledged that it does not have."""
        self.replica = await self.primary.replica(port=port, settings=self.replica_settings)
        self.stack.push_async_callback(self.replica.stop)
        await self.direct("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        await self.until("SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")

    def port_name(self, port):
        """Return the name of the node at a port."""
        return next(node.name for node in self.nodes if node.address == f"127.0.0.1:{port}")

    @contextlib.asynccontextmanager
    async def connected(self, server=None):
        """Give a connection past the gateways, to the primary or another server."""
        port = (server or self.primary).port
        connection = await psycopg.AsyncConnection.connect(
            f"host=127.0.0.1 port={port} user=postgres dbname=postgres", autocommit=True
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def direct(self, *statements, server=None):
        """Run statements past the gateways; return the rows of the last one."""
        async with self.connected(server) as connection:
            for statement in statements:
                cursor = await connection.execute(statement)
            return await cursor.fetchall() if cursor.description else []

    async def until(self, sql, server=None):
        """Return when a question past the gateways is answered by true."""
        async with asyncio.timeout(20), self.connected(server) as connection:
            while not (await (await connection.execute(sql)).fetchone())[0]:
                await connection.execute("SELECT pg_sleep(0.005)")

    async def until_running(self, text):
        """Return when a statement with this text in it runs at the primary."""
        await self.until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active'"
            f" AND query LIKE '%{text}%' AND pid <> pg_backend_pid())"
        )

    async def caught_up(self):
        """Return when the replica has received all that the primary has written."""
        (written,) = (await self.direct("SELECT pg_current_wal_flush_lsn()"))[0]
        await self.until(f"SELECT pg_last_wal_receive_lsn() >= '{written}'", self.replica)

    async def stop_stream(self):
        """Let the primary send nothing more to its replica: from now on no commit is acknowledged."""
        ((self._stopped_pid,),) = await self.direct("SELECT pid FROM pg_stat_replication")
        os.kill(self._stopped_pid, signal.SIGSTOP)

    async def crash(self):
        """Kill the primary as a power cut would."""
        await self.primary.crash()
        if self._stopped_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._stopped_pid, signal.SIGKILL)
            self._stopped_pid = 0

    async def start_alone(self, server):
        """Start a server that crashed, and let it take commits without a replica."""
        with (server.data_directory / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")
        await server.start()

    async def promote(self):
        """Make the replica the primary; return the moment at which it was one, for all that we know."""
        await self.replica.promote()
        promoted = asyncio.get_running_loop().time()
        self.primary, self.replica = self.replica, None
        return promoted

    async def gateway(self, mode, *, size_count=20, monitor_user="postgres", link=None, **failover):
        """Run a gateway in front of the cluster; ``link`` makes it one worker of several."""
        settings = PostgresSettings(
            listeners=(ListenerSettings(address="127.0.0.1:0"),),
            limits=LimitSettings(
                connections_count=1_000, connections_per_peer_count=1_000, accepts_per_s=10_000
            ),
            clusters=(Cluster(name="main", nodes=self.nodes, monitor_user=monitor_user),),
            databases=(Database(name="*", cluster="main"),),
            auth=AuthSettings(method="trust"),
            pool=PoolSettings(mode=mode, size_count=size_count),
            failover=FailoverSettings(**{"poll_interval_s": 0.2, **failover}),
            timeouts=TimeoutSettings(),
        )
        server = Server()
        gateway = PostgresGateway(settings, link=link)
        server.add(gateway, settings.listeners)
        await server.start()
        self.stack.push_async_callback(server.stop, timeout_s=0)
        return Way(mode, server, gateway)


class Way:
    """One gateway of a test, and how to connect to it."""

    def __init__(self, mode, server, gateway):
        self.mode = mode
        self.server = server
        self.gateway = gateway
        self.port = int(server.listeners[0].address.rpartition(":")[2])
        self.room = gateway.rooms["main"]

    @property
    def dsn(self):
        """Return the address for libpq."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=20"

    async def connect(self, **options):
        """Return a psycopg connection."""
        return await psycopg.AsyncConnection.connect(self.dsn, **options)

    def told(self, name):
        """Return the events of a kind so far, as mappings of their values."""
        self.server.events.flush()
        return [event.fields() for event in self.server.events.recent if event.kind.name == name]

    async def until_rebuilt(self, connection):
        """Return when a client that keeps its server has one at the primary of the moment, with all that it held."""
        sessions = self.server.managers["postgres"].sessions()
        (client,) = [one for one in sessions if one.pid == connection.info.backend_pid]
        async with asyncio.timeout(20):
            while client.busy or client.server is None or client.server.node is not self.room.writable():  # noqa: ASYNC110
                await asyncio.sleep(0)

    @property
    def waiting_count(self):
        """Return how many clients wait for a server."""
        return sum(1 for pool in self.gateway.pools.values() for _ in pool.waiting())

    async def until_waiting(self, count=1):
        """Return when so many clients wait for a server."""
        async with asyncio.timeout(20):
            while self.waiting_count < count:  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running_failover_lab(version=16, replica_settings=None):
    """Run a primary and a replica for the length of the block.

    Args:
        version: of both.
        replica_settings: what the replica is configured with besides what its primary is.
    """
    lab = FailoverLab(version, replica_settings)
    async with lab.stack:
        await lab.start()
        yield lab
