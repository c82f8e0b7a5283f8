"""A PostgreSQL and a gateway before it in this process: tests see the engine's objects and speak to it by drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import psycopg

from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres.client_session import ClientSession
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    ConsoleSettings,
    Database,
    NodeSettings,
    PoolSettings,
    PostgresSettings,
)
from sojourn.gateways.postgres.gateway import PostgresGateway
from sojourn.gateways.postgres.worker_link import WorkerLink

WITHIN_S = 20.0
BUGS = frozenset(
    {
        "session.handler_failed",
        "postgres.server_failed",
        "connection.bug",
        "connection.not_started",
        "server.loop_error",
    }
)
"""Events that a healthy gateway never has."""
USER = "postgres"


class GatewayLab:
    """One gateway on a port of its own, in front of one server.

    Life: made by :func:`gateway_lab`, which ends everything. Always true: every connection that a test opened by
    ``connect`` is closed at the end.
    """

    def __init__(self, server: Server, gateway: PostgresGateway, postgres: PostgresServer) -> None:
        self.server = server
        self.gateway = gateway
        self.postgres = postgres
        self.port = int(server.listeners[0].address.rpartition(":")[2])
        self._opened: list[psycopg.AsyncConnection[Any]] = []

    def dsn(self, database: str = "postgres", user: str = USER) -> str:
        """Return what libpq needs."""
        return f"host=127.0.0.1 port={self.port} user={user} dbname={database} sslmode=disable"

    async def connect(self, database: str = "postgres", user: str = USER) -> psycopg.AsyncConnection[Any]:
        """Open a client in autocommit mode, or an operator."""
        client = await psycopg.AsyncConnection.connect(self.dsn(database, user), autocommit=True)
        self._opened.append(client)
        return client

    async def asyncpg(self, database: str = "postgres") -> asyncpg.Connection:
        """Open a client of the other driver; the test closes it."""
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=USER, database=database, ssl=False
        )

    async def console(self, sql: str, user: str = USER) -> list[dict[str, Any]]:
        """Give one command at the console as an operator of its own; return its rows."""
        async with await psycopg.AsyncConnection.connect(
            self.dsn("sojourn", user), autocommit=True
        ) as operator:
            cursor = await operator.execute(sql.encode())
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    def clients(self) -> list[ClientSession]:
        """Return the clients that are there, operators too."""
        found = self.server.managers["postgres"].sessions()
        return [session for session in found if isinstance(session, ClientSession)]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop turn until something is so."""
        async with asyncio.timeout(WITHIN_S):
            while not is_so():  # noqa: ASYNC110 - what it waits for tells nobody
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Close what the test opened."""
        for client in self._opened:
            await client.close()


@asynccontextmanager
async def gateway_lab(
    mode: str = "transaction",
    *,
    pool: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    link: WorkerLink | None = None,
) -> AsyncIterator[GatewayLab]:
    """Run a PostgreSQL and a gateway before it, whose every user is trusted and ``postgres`` is an admin."""
    postgres = PostgresServer(version=16, port=0, hba_lines=["host all all 127.0.0.1/32 trust"])
    await postgres.start()
    try:
        values: dict[str, Any] = {
            "listeners": (ListenerSettings(address="127.0.0.1:0"),),
            "clusters": (
                Cluster(
                    name="main", nodes=(NodeSettings(name="db-1", address=f"127.0.0.1:{postgres.port}"),)
                ),
            ),
            "databases": (Database(name="*", cluster="main"),),
            "auth": AuthSettings(method="trust"),
            "pool": PoolSettings(mode=mode, **(pool or {})),  # type: ignore[arg-type]  # the test says it
            "console": ConsoleSettings(admin_users=(USER,), stats_users=("viewer",)),
        }
        whole = PostgresSettings(**values | dict(settings or {}))
        gateway = PostgresGateway(whole, link=link)
        server = Server(first_number=gateway.first_number)
        server.add(gateway, whole.listeners)
        bugs: list[str] = []
        server.events.add_view(
            lambda batch: bugs.extend(
                f"{event.kind.name} {event.fields()}" for event in batch if event.kind.name in BUGS
            )
        )
        await server.start()
        lab = GatewayLab(server, gateway, postgres)
        try:
            yield lab
        finally:
            await lab.close()
            await server.stop(timeout_s=5.0)
            assert not bugs, bugs
    finally:
        await postgres.stop()


@contextmanager
def events_of(lab: GatewayLab, name: str):
    """Collect the events of one kind, as their fields."""
    found: list[Mapping[str, Any]] = []

    def see(batch):
        found.extend(event.fields() for event in batch if event.kind.name == name)

    lab.server.events.add_view(see)
    yield found
    lab.server.events.flush()
