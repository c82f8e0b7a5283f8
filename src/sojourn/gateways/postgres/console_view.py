"""EngineView: what operators see of the engine at the console, and may order it to do.

Orders are carried out on pools and sessions at once; those that wait look at them every few milliseconds, because
nothing of the hot path should know of operators. Knows no connection of an operator and no SQL.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from sojourn import __version__
from sojourn.core.session import Reason
from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres import audit, console_settings, console_tables, incident_tables
from sojourn.gateways.postgres.console_tables import EVERY, clients, is_to_be_closed, pools_of, sessions
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.states import ClientState

if TYPE_CHECKING:
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.console import incident_rows, rows
    from sojourn.gateways.postgres.console.view import ShutdownMode
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.nodes import Node
    from sojourn.gateways.postgres.pool import Pool

LOOK_S: Final = 0.02
"""How often an order that waits looks whether it is done."""
ANSWER_S: Final = 0.1
"""How long the answer to SHUTDOWN has to reach the operator before the end begins."""


class EngineView:
    """The engine as :class:`~.console.view.ConsoleView` describes it.

    Life: made with the gateway's console. Always true: it keeps nothing; that a database is paused or disabled is
    kept by the gateway, for pools that are yet to come.
    """

    version = __version__
    is_one_of_several = False

    def __init__(self, gateway: PostgresGateway) -> None:
        self._gateway = gateway

    # Tables

    async def whole(self, tables: Sequence[str]) -> tuple[EngineView, str]:  # noqa: ARG002 - it has them all
        """Return a view whose tables are those of all workers, of which there is this one."""
        return self, ""

    @property
    def is_paused(self) -> bool:
        """Say whether all databases are paused."""
        return EVERY in self._gateway.paused

    def pools(self) -> Sequence[rows.PoolRow]:
        """Return the pools."""
        return console_tables.pools(self._gateway)

    def clients(self) -> Sequence[rows.ClientRow]:
        """Return the clients, without those of the console."""
        return console_tables.client_rows(self._gateway)

    def servers(self) -> Sequence[rows.ServerRow]:
        """Return the server connections."""
        return console_tables.server_rows(self._gateway)

    def databases(self) -> Sequence[rows.DatabaseRow]:
        """Return the databases."""
        return console_tables.databases(self._gateway)

    def users(self) -> Sequence[rows.UserRow]:
        """Return the users."""
        return console_tables.users(self._gateway)

    def stats(self) -> Sequence[rows.TotalsRow]:
        """Return the totals of each database since the process started."""
        return console_tables.stats(self._gateway)

    def config(self) -> Sequence[rows.ConfigRow]:
        """Return the settings, without secrets."""
        return console_settings.config(self._gateway.settings)

    def lists(self) -> Sequence[rows.ListRow]:
        """Return how many there are of what."""
        return console_tables.lists(self._gateway)

    def memory(self) -> Sequence[rows.MemoryRow]:
        """Return what memory is used for."""
        return console_tables.memory(self._gateway)

    def clusters(self) -> Sequence[incident_rows.ClusterRow]:
        """Return the clusters."""
        return incident_tables.clusters(self._gateway)

    def nodes(self) -> Sequence[incident_rows.NodeRow]:
        """Return the nodes of all clusters."""
        return incident_tables.nodes(self._gateway)

    def failovers(self) -> Sequence[incident_rows.FailoverRow]:
        """Return the incidents that are remembered, the newest last."""
        return incident_tables.failovers(self._gateway)

    def losses(self) -> Sequence[incident_rows.LossRow]:
        """Return the counts of the retry table."""
        return incident_tables.losses(self._gateway)

    def statements(self) -> Sequence[incident_rows.StatementRow]:
        """Return the statements that are remembered, the newest last."""
        return incident_tables.statements(self._gateway)

    def prepared(self) -> Sequence[incident_rows.PreparedRow]:
        """Return the prepared statements."""
        return console_tables.prepared(self._gateway)

    # Orders about databases

    async def pause(self, database: str | None) -> None:
        """Hand out no more servers; return when all of them are closed, which waits for those who have one."""
        self._hold(database)
        for pool in self._pools(database):
            pool.reconnect("PAUSE")
        paused, what = self._gateway.paused, database or EVERY
        await self._until(lambda: what not in paused or not self._has_servers(database))
        if what not in paused:
            raise Refusal(
                SQLSTATE.QUERY_CANCELED, "RESUME was ordered before everything had paused", severity="ERROR"
            )

    def _hold(self, database: str | None) -> None:
        self._check(database)
        self._gateway.paused.add(database or EVERY)
        for pool in self._pools(database):
            pool.pause()

    def _has_servers(self, database: str | None) -> bool:
        """Say whether servers are left; one whose login was under way is closed when it comes."""
        is_left = False
        for pool in self._pools(database):
            if pool.is_paused and any(place.idle for place in pool.places.values()):
                pool.reconnect("PAUSE")
            is_left |= any(place.servers or place.connecting for place in pool.places.values())
        return is_left

    async def resume(self, database: str | None) -> None:
        """End what pause or kill began; without a name for all databases, however they were paused.

        Raises: Refusal for one database while all are paused.
        """
        self._check(database)
        paused = self._gateway.paused
        if database is None:
            paused.clear()
        elif EVERY in paused:
            raise Refusal(
                SQLSTATE.OBJECT_NOT_IN_STATE,
                f'all databases are paused, "{database}" among them',
                hint="RESUME without a name ends that.",
                severity="ERROR",
            )
        else:
            paused.discard(database)
        for pool in self._pools(database):
            if not {pool.name, EVERY} & paused:
                pool.resume()

    async def disable(self, database: str) -> None:
        """Refuse new clients."""
        self._check(database)
        self._gateway.disabled.add(database)

    async def enable(self, database: str) -> None:
        """Take new clients again."""
        self._check(database)
        self._gateway.disabled.discard(database)

    async def reconnect(self, database: str | None) -> None:
        """Mark every server to be closed when it is released."""
        self._check(database)
        for pool in self._pools(database):
            pool.reconnect()

    async def wait_close(self, database: str | None) -> None:
        """Return when no server is marked to be closed."""
        self._check(database)
        await self._until(
            lambda: (
                not any(
                    is_to_be_closed(server) for pool in self._pools(database) for server in pool.servers()
                )
            )
        )

    async def kill(self, database: str | None) -> None:
        """Drop clients and servers at once and stay paused."""
        self._hold(database)
        for session in sessions(self._gateway):
            if session.state != ClientState.CONSOLE and session.user and database in {None, session.database}:
                session.close(Reason.CLOSED)
        for pool in self._pools(database):
            for server in pool.servers():
                server.abort("KILL")
        await self._until(lambda: not self._has_servers(database))

    async def kill_client(self, client: int) -> None:
        """Drop one client, by ``id`` of its row.

        Raises: Refusal if there is none.
        """
        for session in clients(self._gateway):
            if session.number == client:
                session.close(Reason.CLOSED)
                return
        self.refuse_client(client)

    @staticmethod
    def refuse_client(client: int) -> NoReturn:
        """Say that there is no such client.

        Raises: Refusal, always.
        """
        raise Refusal(
            SQLSTATE.UNDEFINED_OBJECT, f"there is no client {client}", hint="See id in SHOW CLIENTS."
        )

    # Orders about everything

    async def reload(self) -> None:
        """Read the configuration again.

        Raises: ConfigError, then nothing is changed.
        """
        self._gateway.server.reload()
        if self._gateway.link is not None:
            os.kill(os.getppid(), signal.SIGHUP)  # the other workers read it too

    async def switchover(self, cluster: str, node: str | None) -> str:
        """Move the primary to ``node``, or to the replica that is furthest; return the new primary's name.

        Raises: Refusal for a cluster that is not there; what the cluster's own switchover raises.
        """
        room = self._gateway.rooms.get(cluster)
        if room is None:
            raise Refusal(
                SQLSTATE.UNDEFINED_OBJECT, f'there is no cluster "{cluster}"', hint="See SHOW CLUSTERS."
            )
        try:
            return (await self._move(room, node)).name
        except BackendUnavailable as error:
            raise Refusal(
                SQLSTATE.OBJECT_NOT_IN_STATE,
                f"no switchover: {error.cause}",
                hint="See SHOW NODES for what each node says, and SHOW FAILOVERS for what was tried.",
                severity="ERROR",
            ) from error

    async def _move(self, room: ClusterRoom, node: str | None) -> Node:
        """Move the primary; raises what the cluster's own switchover raises."""
        return await room.switchover(node)

    async def audit(self, database: str | None) -> tuple[Sequence[incident_rows.AuditRow], str]:
        """Compare what is known of sessions with what their servers say; return the differences."""
        self._check(database)
        return await audit.audit(self._pools(database)), ""

    async def shutdown(self, mode: ShutdownMode) -> None:
        """Begin to end the process and return.

        Without a mode everything ends at once; WAIT_FOR_SERVERS lets transactions end, as SIGTERM does; with
        WAIT_FOR_CLIENTS nobody new is let in, and the end comes with that of the last client.
        """
        server = self._gateway.server
        if mode == "WAIT_FOR_CLIENTS":
            for listener in server.listeners:
                if listener.manager.gateway is self._gateway:
                    await listener.close()
            server.spawn(self._end_with_last_client())
            return
        loop = asyncio.get_running_loop()
        loop.call_later(ANSWER_S, server.ask_to_stop, "SHUTDOWN at the console")
        if not mode:
            loop.call_later(ANSWER_S, server.ask_to_stop, "SHUTDOWN at the console")

    async def _end_with_last_client(self) -> None:
        gateway = self._gateway
        await self._until(lambda: all(one.state == ClientState.CONSOLE for one in sessions(gateway)))
        gateway.server.ask_to_stop("SHUTDOWN WAIT_FOR_CLIENTS at the console")

    async def set_setting(self, key: str, value: str) -> None:
        """Change a setting that ``config`` says is changeable, until the next reload.

        Raises: Refusal.
        """
        self._gateway.use(console_settings.changed(self._gateway.settings, key, value))

    # What they are made of

    def _check(self, database: str | None) -> None:
        """Raise Refusal for a database that nobody may name."""
        if database is not None and self._gateway.find_database(database) is None:
            raise Refusal(
                SQLSTATE.INVALID_CATALOG_NAME,
                f'there is no database "{database}"',
                hint="See SHOW DATABASES.",
            )

    def _pools(self, database: str | None) -> Iterable[Pool]:
        return pools_of(self._gateway, database)

    @staticmethod
    async def _until(is_done: Callable[[], bool]) -> None:
        """Return when something is so."""
        while not is_done():  # noqa: ASYNC110 - what it waits for is the hot path's, which tells nobody
            await asyncio.sleep(LOOK_S)
