"""A console on loopback with an engine that is not there: its answers are set, what it is asked is written down."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sojourn.embedded.binaries import postgres_wheel
from sojourn.errors import ConnectionLost, Problem, SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console.console import Console
from sojourn.gateways.postgres.console.conversation import Conversation
from sojourn.gateways.postgres.console.incident_rows import (
    AuditRow,
    ClusterRow,
    FailoverRow,
    LossRow,
    NodeRow,
    PreparedRow,
    StatementRow,
)
from sojourn.gateways.postgres.console.rows import (
    ClientRow,
    ConfigRow,
    DatabaseRow,
    ListRow,
    MemoryRow,
    PoolRow,
    ServerRow,
    TotalsRow,
    UserRow,
)
from sojourn.gateways.postgres.console.shows import PARAMETERS
from sojourn.gateways.postgres.console.view import ShutdownMode
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal, SSLRequest

WITHIN_S = 10.0
PROBLEM = Problem("sojourn.toml", 3, "postgres.pool", "size_count", "'many'", "a whole number")


class FakeView:
    """Two databases, one cluster of two nodes, and a diary of what was asked for."""

    version = "0.1.0"
    is_one_of_several = False

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.paused: set[str] = set()
        self.released = asyncio.Event()
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.reload_error: SojournError | None = None
        self.totals = [TotalsRow("shop"), TotalsRow("stock")]

    async def whole(self, _tables: Sequence[str]) -> tuple[FakeView, str]:
        return self, ""

    @property
    def is_paused(self) -> bool:
        return "*" in self.paused

    def pools(self) -> Sequence[PoolRow]:
        return [
            PoolRow(
                "shop", "ana", cl_active=3, cl_waiting=1, sv_active=2, maxwait=1, maxwait_us=5, node="db-1"
            ),
            PoolRow("stock", "ben", pool_mode="session", node="db-1,db-2"),
        ]

    def clients(self) -> Sequence[ClientRow]:
        return [
            ClientRow(
                user="ana",
                database="shop",
                state="active",
                addr="10.0.0.7",
                port=40_001,
                connect_time=1_700_000_000.25,
                ptr="c1",
                link="s1",
                id=1,
                pinned="temporary table",
            ),
            ClientRow(
                user="ana", database="shop", state="waiting", ptr="c2", id=2, waits_for="a new primary"
            ),
        ]

    def servers(self) -> Sequence[ServerRow]:
        return [
            ServerRow(
                user="ana",
                database="shop",
                state="active",
                remote_pid=77,
                ptr="s1",
                id=3,
                node="db-1",
                role="PRIMARY",
                timeline=4,
            )
        ]

    def databases(self) -> Sequence[DatabaseRow]:
        return [
            DatabaseRow(
                name, "db-1", 5432, name, pool_size=20, paused=int(name in self.paused), cluster="main"
            )
            for name in ("shop", "stock")
        ]

    def users(self) -> Sequence[UserRow]:
        return [UserRow("ana"), UserRow("b\u00e9n", pool_size=5)]

    def stats(self) -> Sequence[TotalsRow]:
        return self.totals

    def config(self) -> Sequence[ConfigRow]:
        return [
            ConfigRow("max_client_conn", "10000", "10000"),
            ConfigRow("query_timeout", "0", "0", "yes"),
            ConfigRow("auth_query", None, None),
        ]

    def lists(self) -> Sequence[ListRow]:
        return [ListRow("databases", 2), ListRow("nodes", 2)]

    def memory(self) -> Sequence[MemoryRow]:
        return [MemoryRow("client", 4_096, 2, 0, 8_192)]

    def clusters(self) -> Sequence[ClusterRow]:
        return [ClusterRow("main", primary="db-1", timeline=4, nodes=2, replicas=1)]

    def nodes(self) -> Sequence[NodeRow]:
        return [
            NodeRow("main", "db-1", state="PRIMARY"),
            NodeRow("main", "db-2", state="REPLICA", lag_bytes=16),
        ]

    def failovers(self) -> Sequence[FailoverRow]:
        return [FailoverRow(1, "main", cause="connection refused", old_primary="db-0", new_primary="db-1")]

    def losses(self) -> Sequence[LossRow]:
        return [LossRow("COMMIT unanswered", "08007", 2)]

    def statements(self) -> Sequence[StatementRow]:
        return [StatementRow(1_700_000_000.0, "shop", "ana", outcome="slow", statement="SELECT \udce9 ?")]

    def prepared(self) -> Sequence[PreparedRow]:
        return [PreparedRow("shop", "S_1", clients=2, servers=1, uses=9, statement="SELECT $1")]

    def _known(self, database: str | None) -> None:
        if database not in {None, "shop", "stock", "my-db"}:
            raise Refusal(SQLSTATE.INVALID_CATALOG_NAME, "there is no database of this name")

    async def _waiting(self) -> None:
        self.entered.set()
        try:
            await self.released.wait()
        finally:
            self.left.set()

    async def pause(self, database: str | None) -> None:
        self._known(database)
        self.calls.append(("pause", database))
        self.paused.add(database or "*")

    async def resume(self, database: str | None) -> None:
        self._known(database)
        self.calls.append(("resume", database))
        self.paused.discard(database or "*")

    async def disable(self, database: str) -> None:
        self.calls.append(("disable", database))

    async def enable(self, database: str) -> None:
        self.calls.append(("enable", database))

    async def reload(self) -> None:
        if self.reload_error is not None:
            raise self.reload_error
        self.calls.append(("reload",))

    async def reconnect(self, database: str | None) -> None:
        self.calls.append(("reconnect", database))

    async def kill(self, database: str | None) -> None:
        self.calls.append(("kill", database))

    async def kill_client(self, client: int) -> None:
        self.calls.append(("kill_client", client))

    async def wait_close(self, database: str | None) -> None:
        self.calls.append(("wait_close", database))
        await self._waiting()

    async def switchover(self, cluster: str, node: str | None) -> str:
        self.calls.append(("switchover", cluster, node))
        return node or "db-2"

    async def audit(self, database: str | None) -> tuple[Sequence[AuditRow], str]:
        self.calls.append(("audit", database))
        return [AuditRow(1, "shop", "ana", "db-1", "setting", "work_mem", None, "64MB")], ""

    async def shutdown(self, mode: ShutdownMode) -> None:
        self.calls.append(("shutdown", mode))

    async def set_setting(self, key: str, value: str) -> None:
        self.calls.append(("set", key, value))


class StreamTalk:
    """A conversation's end of a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> tuple[int, bytes]:
        try:
            head = await self._reader.readexactly(5)
            return head[0], await self._reader.readexactly(int.from_bytes(head[1:], "big") - 4)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ConnectionLost(type(error).__name__) from error


class ConsoleServer:
    """A listener whose every login is trusted; the user ``admin`` is one, everybody else may look only."""

    def __init__(self, view: FakeView) -> None:
        self.view = view
        self.console = Console(view)
        self.conversations: list[Conversation] = []
        self.ended = asyncio.Semaphore(0)
        self.port = 0

    def dsn(self, user: str = "admin") -> str:
        return f"host=127.0.0.1 port={self.port} user={user} dbname=sojourn sslmode=disable"

    def url(self, user: str = "admin") -> str:
        return f"postgres://{user}@127.0.0.1:{self.port}/sojourn?sslmode=disable"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(4)
                packet = wire.startup_packet(head + await reader.readexactly(int.from_bytes(head, "big") - 4))
                if isinstance(packet, wire.StartupMessage):
                    break
                if isinstance(packet, wire.CancelRequest):
                    for conversation in self.conversations:
                        conversation.cancel()
                    return
                assert isinstance(packet, SSLRequest)
                writer.write(b"N")
            greeting = [wire.authentication_ok()]
            greeting += [wire.parameter_status(*item) for item in PARAMETERS.items()]
            greeting += [wire.backend_key_data(1, b"\0\0\0\1"), wire.ready_for_query()]
            writer.write(b"".join(greeting))
            is_admin = packet.parameters["user"] == "admin"
            conversation = Conversation(self.console, StreamTalk(reader, writer), is_admin=is_admin)
            self.conversations.append(conversation)
            await conversation.serve()
        except Refusal:
            pass
        finally:
            writer.close()
            self.ended.release()


@asynccontextmanager
async def console_server() -> AsyncIterator[ConsoleServer]:
    """Yield a console that listens."""
    server = ConsoleServer(FakeView())
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


async def psql(server: ConsoleServer, *commands: str, user: str = "admin") -> tuple[int, str, str]:
    """Run psql with these commands; return its exit status, output and errors."""
    wheel = postgres_wheel(16)
    program = (wheel.site / wheel.program).with_name("psql")
    arguments = [part for command in commands for part in ("-c", command)]
    process = await asyncio.create_subprocess_exec(
        str(program),
        *("-X", "-A", "-v", "VERBOSITY=verbose", "-d", server.dsn(user), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PGCLIENTENCODING": "UTF8"},
    )
    out, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
    return int(process.returncode or 0), out.decode(), errors.decode()
