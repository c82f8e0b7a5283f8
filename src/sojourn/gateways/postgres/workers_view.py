"""WorkersView: the console of one worker among several, who are to operators as one.

Orders are carried out by all workers, or by the one that has the client; tables are those of all together. A worker
that does not answer in time is left out, and named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres import worker_tables
from sojourn.gateways.postgres.console.incident_rows import AuditRow
from sojourn.gateways.postgres.console.rows import Value
from sojourn.gateways.postgres.console_view import EngineView
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.switchover import Leader
from sojourn.gateways.postgres.worker_numbers import worker_of

if TYPE_CHECKING:
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.console.rows import Row
    from sojourn.gateways.postgres.console.view import ShutdownMode
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.nodes import Node
    from sojourn.gateways.postgres.worker_link import WorkerLink

AUDIT_S: Final = 10.0
"""How long a worker may take for an audit, which asks all of its servers."""


class WorkersView(EngineView):
    """The engine of this worker, and a way to ask and order the others.

    Life: as :class:`EngineView`. A worker that starts later knows nothing of orders that were given before.
    """

    is_one_of_several = True

    def __init__(self, gateway: PostgresGateway, link: WorkerLink) -> None:
        super().__init__(gateway)
        self._link = link

    # Tables

    async def whole(self, tables: Sequence[str]) -> tuple[EngineView, str]:
        """Return a view with these tables of all workers, and who is missing."""
        if not tables:
            return self, ""
        told = await self._link.ask(dict[str, list[tuple[Value, ...]]], "rows", *tables)
        found: dict[str, list[Row]] = {}
        for table in tables:
            parts = [[worker_tables.plain(row) for row in getattr(self, table)()]]
            parts += [worker_tables.read(table, answer.get(table, ())) for answer in told.answers.values()]
            found[table] = worker_tables.merged(table, parts)
        worker_tables.count_once(found)
        return _Whole(self._gateway, found), _missing(told.silent)

    async def audit(self, database: str | None) -> tuple[Sequence[AuditRow], str]:
        """Compare what is known of sessions with what their servers say, at every worker."""
        (rows, _), told = await asyncio.gather(
            super().audit(database),
            self._link.ask(list[tuple[Value, ...]], "audit", database, within_s=AUDIT_S),
        )
        theirs = [AuditRow(*values) for answer in told.answers.values() for values in answer]  # type: ignore[arg-type]  # as they were sent
        return [*rows, *theirs], _missing(told.silent)

    # Orders

    async def _everywhere(self, verb: str, *arguments: str | None) -> None:
        """Carry out an order here and at the others, side by side.

        Raises: Refusal, ours before theirs.
        """
        own = getattr(super(), verb)
        results = await asyncio.gather(
            own(*arguments), self._link.order(verb, *arguments), return_exceptions=True
        )
        for error in results:
            if isinstance(error, BaseException):
                raise error

    async def pause(self, database: str | None) -> None:
        """Hand out no more servers; return when all of them are closed."""
        await self._everywhere("pause", database)

    async def resume(self, database: str | None) -> None:
        """End what pause or kill began."""
        await self._everywhere("resume", database)

    async def disable(self, database: str) -> None:
        """Refuse new clients."""
        await self._everywhere("disable", database)

    async def enable(self, database: str) -> None:
        """Take new clients again."""
        await self._everywhere("enable", database)

    async def reconnect(self, database: str | None) -> None:
        """Mark every server to be closed when it is released."""
        await self._everywhere("reconnect", database)

    async def kill(self, database: str | None) -> None:
        """Drop clients and servers at once and stay paused."""
        await self._everywhere("kill", database)

    async def wait_close(self, database: str | None) -> None:
        """Return when no server is marked to be closed."""
        await self._everywhere("wait_close", database)

    async def set_setting(self, key: str, value: str) -> None:
        """Change a setting until the next reload."""
        await self._everywhere("set_setting", key, value)

    async def kill_client(self, client: int) -> None:
        """Drop one client, at the worker that has it.

        Raises: Refusal if there is none.
        """
        index = worker_of(client)
        if index == self._link.place.index:
            await super().kill_client(client)
            return
        told = await self._link.ask(bool, "kill_client", str(client), only=index)
        if told.silent:
            raise Refusal(SQLSTATE.CONNECTION_FAILURE, _missing(told.silent), severity="ERROR")
        if not told.answers:
            self.refuse_client(client)

    async def _move(self, room: ClusterRoom, node: str | None) -> Node:
        """Move the primary while every worker holds its clients."""
        return await room.switchover(node, Leader(self._link))

    async def shutdown(self, mode: ShutdownMode) -> None:
        """Begin to end all workers: the supervisor ends the others when this one has ended.

        Raises: Refusal for WAIT_FOR_CLIENTS.
        """
        if mode == "WAIT_FOR_CLIENTS":
            raise Refusal(
                SQLSTATE.FEATURE_NOT_SUPPORTED,
                "SHUTDOWN WAIT_FOR_CLIENTS is for a single worker",
                hint="SIGUSR2 replaces the workers one by one; SIGTERM lets transactions end.",
                severity="ERROR",
            )
        await super().shutdown(mode)


class _Whole(EngineView):
    """The engine with some tables of all workers.

    Life: of one command. Always true: a table that was gathered answers with what was gathered.
    """

    is_one_of_several = True

    def __init__(self, gateway: PostgresGateway, tables: dict[str, list[Row]]) -> None:
        super().__init__(gateway)
        for name, rows in tables.items():
            setattr(self, name, rows.copy)


def _missing(silent: Sequence[int]) -> str:
    """Say who did not answer; nothing if all did."""
    if not silent:
        return ""
    names = ", ".join(f"worker {index}" for index in sorted(silent))
    return f"no answer in time, and nothing of it here: {names}"
