"""A postgres gateway in the test's own process and loop, and real clients that come to it.

The servers behind it run in a thread of their own, so that one serves a whole module of tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import msgspec
import psycopg

from sojourn.core.logs import LogView
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings, LogSettings
from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    Database,
    NodeSettings,
    PostgresLimits,
    PostgresSettings,
    User,
)
from sojourn.gateways.postgres.gateway import PostgresGateway

PSQL = "/usr/bin/psql"
WITHIN_S = 20.0
PASSWORD = "laboratory"
LOCALHOST = "127.0.0.1"


class ServerThread:
    """A PostgreSQL that outlives the loops of single tests."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.postgres = PostgresServer(**options)

    def run(self, work: Any) -> Any:
        """Run a coroutine in the thread to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def start(self) -> None:
        """Start the server."""
        self.run(self.postgres.start())

    def stop(self) -> None:
        """Stop the server, then the thread."""
        try:
            self.run(self.postgres.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def sql(self, text: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as the superuser, directly, and return the last one's rows."""
        with psycopg.connect(self.postgres.dsn(database), autocommit=True) as connection:
            done = connection.execute(text)
            while done.nextset():
                pass
            return done.fetchall() if done.description else []

    def verifier(self, user: str) -> str:
        """Return what the server stores of a user's password."""
        return str(self.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'")[0][0])

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{LOCALHOST}:{self.postgres.port}"


@contextlib.contextmanager
def server_thread(**options: Any) -> Iterator[ServerThread]:
    """Run a server for the length of the block."""
    thread = ServerThread(**{"version": 16, "port": 0, **options})
    try:
        thread.start()
        yield thread
    finally:
        thread.stop()


def users(**passwords: str | None) -> tuple[User, ...]:
    """Return users with what is stored of them."""
    return tuple(
        User(name=name, password=None if text is None else Secret(text)) for name, text in passwords.items()
    )


def settings(server: ServerThread | str, **tables: Any) -> PostgresSettings:
    """Return settings that pass every database on to one server; ``tables`` replace what is said here."""
    address = server if isinstance(server, str) else server.address
    return PostgresSettings(
        **{
            "listeners": (ListenerSettings(address=f"{LOCALHOST}:0"),),
            "limits": PostgresLimits(drain_timeout_s=0.5),
            "clusters": (Cluster(name="main", nodes=(NodeSettings(name="db-1", address=address),)),),
            "databases": (Database(name="*", cluster="main"),),
            "auth": AuthSettings(method="trust"),
            **tables,
        }
    )


class Told(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    errors: str


class Room:
    """One running gateway; made by ``gateway_room``."""

    def __init__(self, server: Server, gateway: PostgresGateway, log: Path) -> None:
        self.server = server
        self.gateway = gateway
        self.port = int(server.listeners[0].address.rpartition(":")[2])
        self._log = log

    def reload(self, **changes: Any) -> None:
        """Put changed settings in force."""
        self.gateway.reload(msgspec.structs.replace(self.gateway.settings, **changes))

    def log(self) -> str:
        """Return what was logged so far."""
        self.server.events.flush()
        return self._log.read_text() if self._log.exists() else ""

    def dsn(self, user: str, password: str = PASSWORD, database: str = "postgres", **more: str) -> str:
        """Return libpq's keywords for a login."""
        given = {
            "host": LOCALHOST,
            "port": str(self.port),
            "user": user,
            "dbname": database,
            "sslmode": "disable",
        }
        given |= {"password": password} if password else {}
        return " ".join(
            f"{name}='{value}'" for name, value in (given | {"gssencmode": "disable"} | more).items()
        )

    async def psycopg(
        self, user: str, password: str = PASSWORD, database: str = "postgres", **more: str
    ) -> psycopg.AsyncConnection[Any]:
        """Log in with psycopg (libpq 18)."""
        dsn = self.dsn(user, password, database, **more)
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True)

    async def asyncpg(
        self, user: str, password: str = PASSWORD, database: str = "postgres", **more: Any
    ) -> asyncpg.Connection[Any]:
        """Log in with asyncpg."""
        given = {"ssl": False, "timeout": WITHIN_S, **more}
        return await asyncpg.connect(
            host=LOCALHOST, port=self.port, user=user, password=password, database=database, **given
        )

    async def psql(
        self,
        user: str,
        password: str = PASSWORD,
        database: str = "postgres",
        *,
        sql: str = "SELECT current_user",
        **more: str,
    ) -> Told:
        """Run one command with psql."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        process = await asyncio.create_subprocess_exec(
            PSQL,
            "--no-psqlrc",
            "--no-password",
            "--tuples-only",
            "--no-align",
            "--command",
            sql,
            self.dsn(user, password, database, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept | {"LC_ALL": "C.UTF-8"},
        )
        out, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
        return Told(process.returncode or 0, out.decode().strip(), errors.decode())

    async def who(self, client: str, user: str, password: str = PASSWORD, **more: str) -> str:
        """Log in with one of the three clients and return who one is at the server."""
        if client == "psql":
            told = await self.psql(user, password, **more)
            assert told.code == 0, told.errors
            return told.out
        if client == "psycopg":
            async with await self.psycopg(user, password, **more) as connection:
                row = await (await connection.execute("SELECT current_user")).fetchone()
                assert row is not None
                return str(row[0])
        other = await self.asyncpg(user, password, **more)
        try:
            return str(await other.fetchval("SELECT current_user"))
        finally:
            await other.close()

    async def raw(self, *, ssl: Any = None) -> RawClient:
        """Connect and send nothing yet."""
        return RawClient(*await asyncio.open_connection(LOCALHOST, self.port, ssl=ssl))

    def pool(self, user: str, database: str = "postgres") -> Any:
        """Return a pool."""
        return self.gateway.pools[database, user]

    async def until(self, is_so: Any) -> None:
        """Let the loop turn until something is so, for at most a while."""
        async with asyncio.timeout(WITHIN_S):
            while not is_so():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0)


class RawClient:
    """A client that writes the messages itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._rest = b""

    def send(self, data: bytes) -> None:
        """Write."""
        self.writer.write(data)

    async def start(
        self, user: str, database: str = "postgres", version: tuple[int, int] = (3, 0), **more: str
    ) -> None:
        """Send a startup message."""
        self.send(wire.startup_message({"user": user, "database": database, **more}, version))

    async def byte(self) -> bytes:
        """Read the answer to a request for encryption."""
        return await asyncio.wait_for(self.reader.readexactly(1), WITHIN_S)

    async def message(self) -> tuple[str, bytes]:
        """Read one message."""
        head = await asyncio.wait_for(self.reader.readexactly(5), WITHIN_S)
        return chr(head[0]), await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)

    async def messages(self, last: str = "Z") -> list[tuple[str, bytes]]:
        """Read up to a message of this type, or to the end of the connection."""
        found = []
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not found or found[-1][0] != last:
                found.append(await self.message())
        return found

    async def error(self) -> Mapping[str, str]:
        """Read up to an error and return its fields."""
        found = await self.messages("E")
        assert found
        assert found[-1][0] == "E", found
        return wire.error_fields(found[-1][1])

    async def is_closed(self) -> bool:
        """Wait for the end of the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(1), WITHIN_S) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def gateway_room(given: PostgresSettings, folder: Path) -> AsyncIterator[Room]:
    """Run a gateway for the length of the block; its log must tell of no bug of ours."""
    server = Server()
    log = folder / "gateway.log"
    view = LogView(LogSettings(format="json", level="debug", file=str(log)), server.events.unix_time)
    server.events.add_view(view)
    gateway = PostgresGateway(given)
    server.add(gateway, given.listeners)
    await server.start()
    room = Room(server, gateway, log)
    try:
        yield room
    finally:
        await server.stop(timeout_s=0)
        view.close()
    for event in ("session.handler_failed", "server.loop_error", "postgres.server_failed", "connection.bug"):
        assert event not in log.read_text(), log.read_text()
