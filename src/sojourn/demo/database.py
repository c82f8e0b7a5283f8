"""The demo's databases: a primary, its replica, the role and table that customers use; and one for user sessions.

Made-up data under generated passwords, in memory-like servers that are gone with the demo. Knows nothing of the
customers, nor of what is shown.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import asyncpg

from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings
from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    ConsoleSettings,
    Database,
    NodeSettings,
    PoolMode,
    PoolSettings,
    PostgresSettings,
    QueryLogSettings,
    User,
)

APP: Final = "app"
SHOP: Final = "shop"
POOLS: Final[dict[PoolMode, str]] = {"transaction": SHOP, "session": "shop_session"}
"""Pool mode and the name under which customers get it; behind both is the same database."""
SLOW_MS: Final = 200
"""What the demo's pages call a slow statement."""

_MONITOR: Final = "monitor"
_TABLE: Final = "CREATE TABLE sale (customer text, number int, part int, at timestamptz DEFAULT now())"


class DatabasePair:
    """A primary with a synchronous replica, until the primary is killed; beside them a server that is left alone.

    Life: started and stopped by the demo. Always true until :meth:`take_back`: what was committed is on both, so that
    nothing may be missing when the replica takes over.
    """

    def __init__(self) -> None:
        self.password = secrets.token_urlsafe(12)
        self._monitor_password = secrets.token_urlsafe(12)
        self._first = PostgresServer(port=0, settings={"max_connections": "100"})
        self._second: PostgresServer | None = None
        self._sessions = PostgresServer()

    async def start(self) -> None:
        """Start all and fill them.

        Raises: BackendUnavailable or ConfigError where there is no PostgreSQL.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sessions.start())
                tasks.create_task(self._start_pair())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _start_pair(self) -> None:
        await self._first.start()
        owner = await asyncpg.connect(self._first.dsn())
        try:
            await owner.execute(f"CREATE ROLE {APP} LOGIN PASSWORD '{self.password}'")
            await owner.execute(
                f"CREATE ROLE {_MONITOR} LOGIN PASSWORD '{self._monitor_password}' IN ROLE pg_monitor"
            )
            await owner.execute(f"CREATE DATABASE {SHOP} OWNER {APP}")
            self._second = await self._first.replica(port=0)
            # From here on a COMMIT is answered when the replica has it.
            await owner.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await owner.execute("SELECT pg_reload_conf()")
        finally:
            await owner.close()
        app = await asyncpg.connect(
            host=self._first.host, port=self._first.port, user=APP, password=self.password, database=SHOP
        )
        try:
            await app.execute(_TABLE)
        finally:
            await app.close()

    async def stop(self) -> None:
        """Stop what runs; the files go with it."""
        servers = (self._sessions, self._first, *([] if self._second is None else [self._second]))
        await asyncio.gather(*(server.stop() for server in servers))

    async def kill_primary(self) -> None:
        """Kill the primary as a power cut would."""
        await self._first.crash()

    async def promote_replica(self) -> None:
        """Make the replica the primary."""
        assert self._second is not None  # noqa: S101 - started
        await self._second.promote()

    async def take_back(self) -> None:
        """Bring the killed server back, as a replica of the one that took over.

        Raises: BackendUnavailable.
        """
        assert self._second is not None  # noqa: S101 - started
        port = self._first.port
        await self._first.stop()
        self._first = await self._second.replica(port=port)

    async def sales(self) -> list[tuple[str, int, int]]:
        """Return what the server that is there now knows of sales: customer, number and how many rows each has."""
        assert self._second is not None  # noqa: S101 - started
        connection = await asyncpg.connect(
            host=self._second.host, port=self._second.port, user=APP, password=self.password, database=SHOP
        )
        try:
            rows = await connection.fetch("SELECT customer, number, count(*) FROM sale GROUP BY 1, 2")
        finally:
            await connection.close()
        return [(customer, number, count) for customer, number, count in rows]

    def sessions_dsn(self) -> str:
        """Return where the exchange gateway keeps its sessions."""
        return self._sessions.dsn()

    def url(self, address: str, database: str = SHOP) -> str:
        """Return how a client calls a database behind the gateway; the password is made up and in it."""
        return f"postgresql://{APP}:{self.password}@{address}/{database}"

    def settings(self, address: str) -> PostgresSettings:
        """Return the table ``[postgres]`` of the demo, listening on ``address``."""
        assert self._second is not None  # noqa: S101 - started
        nodes = (("db-1", self._first), ("db-2", self._second))
        return PostgresSettings(
            listeners=(ListenerSettings(address=address),),
            clusters=(
                Cluster(
                    name="main",
                    nodes=tuple(
                        NodeSettings(name=name, address=f"{server.host}:{server.port}")
                        for name, server in nodes
                    ),
                    monitor_user=_MONITOR,
                    monitor_password=Secret(self._monitor_password),
                ),
            ),
            databases=tuple(
                Database(name=name, cluster="main", dbname=SHOP, pool_mode=mode)
                for mode, name in POOLS.items()
            ),
            users=(User(name=APP, password=Secret(self.password)),),
            auth=AuthSettings(method="scram-sha-256"),
            console=ConsoleSettings(admin_users=(APP,)),
            pool=PoolSettings(size_count=12),
            query_log=QueryLogSettings(slow_ms=SLOW_MS),
        )
