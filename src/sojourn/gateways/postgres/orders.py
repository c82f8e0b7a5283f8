"""Orders: what a worker does and tells for the others, over one connection of theirs.

Knows no socket: :mod:`.worker_link` reads orders and writes answers. What an operator may order at one console for all
workers is here, and what only workers ask of each other: rows, metrics, and their part in a switchover.
Source: postgres-proxy.md section 6.2.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, Self

from sojourn.core.metrics import Family, figures
from sojourn.core.registry import Recorded, SessionSnapshot
from sojourn.core.report import reported
from sojourn.gateways.postgres.console_view import EngineView
from sojourn.gateways.postgres.incidents import BUFFERING, GIVEN_UP
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.switchover import ABANDONED, LOOK_S, Follower
from sojourn.gateways.postgres.worker_tables import RULES, plain

if TYPE_CHECKING:
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.console.rows import Value
    from sojourn.gateways.postgres.gateway import PostgresGateway

SHARED_ORDERS: Final = frozenset(
    {"pause", "resume", "disable", "enable", "reconnect", "kill", "wait_close", "set_setting"}
)
"""Methods of the console's view that every worker carries out."""
_OF_WORKERS: Final = frozenset(
    {
        *("rows", "metrics", "sessions", "recorded", "report", "close_session", "kill_client", "audit"),
        *("at_rest", "hold", "decide", "follow", "conclude", "until_settled"),
    }
)


class Orders:
    """What one connection of another worker has ordered.

    Life: as that connection. Always true: after it nobody is held for its sake.
    """

    def __init__(self, gateway: PostgresGateway) -> None:
        self._gateway = gateway
        self._view = EngineView(gateway)
        self._follower: Follower | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._follower is not None:
            self._follower.forsaken()

    async def carry_out(self, verb: str, arguments: Sequence[str | None]) -> object:
        """Carry out one order and return what is to be told of it.

        Raises: Refusal; BackendUnavailable from what a switchover needs.
        """
        if verb in SHARED_ORDERS:
            return await getattr(self._view, verb)(*arguments)
        if verb in _OF_WORKERS:
            return await getattr(self, verb)(*arguments)
        raise Refusal(SQLSTATE.FEATURE_NOT_SUPPORTED, "another version's order", severity="ERROR")

    # Questions

    async def rows(self, *tables: str) -> dict[str, list[tuple[Value, ...]]]:
        """Return the rows of some tables here."""
        return {
            table: [plain(row).values() for row in getattr(self._view, table)()]
            for table in tables
            if table in RULES
        }

    async def metrics(self) -> tuple[int, list[Family]]:
        """Return the PID of this process and its metrics."""
        return os.getpid(), figures(self._gateway.server)

    async def sessions(self, gateway: str, state: str, search: str, count: str) -> list[SessionSnapshot]:
        """Return the first sessions here that fit."""
        found = self._gateway.server.registry.snapshots(gateway=gateway, state=state, search=search)
        return list(islice(found, int(count)))

    async def recorded(self, session_id: str) -> list[Recorded]:
        """Return a session with its trace, if it is here."""
        found = self._gateway.server.registry.recorded(session_id)
        return [] if found is None else [found]

    async def report(self, what: str, arguments: str) -> object:
        """Return what this process reports; the arguments are a list in JSON."""
        return reported(self._gateway.server, what, arguments.encode())

    async def close_session(self, session_id: str) -> bool:
        """End a session."""
        return self._gateway.server.registry.close(session_id)

    async def audit(self, database: str | None) -> list[tuple[Value, ...]]:
        """Return the differences that an audit finds here."""
        rows, _ = await self._view.audit(database)
        return [plain(row).values() for row in rows]

    async def kill_client(self, client: str) -> bool:
        """Drop one client."""
        await self._view.kill_client(int(client))
        return True

    # Switchovers that another worker leads

    async def at_rest(self, cluster: str) -> None:
        """Return when no incident is about to end."""
        await self._room(cluster).at_rest()

    async def hold(self, cluster: str, old: str, target: str) -> None:
        """Let no transaction begin; return when none runs any more.

        Raises: BackendUnavailable.
        """
        self._follower = Follower(self._room(cluster))
        await self._follower.hold(old, target)

    def _room(self, cluster: str) -> ClusterRoom:
        room = self._gateway.rooms.get(cluster)
        if room is None:
            raise Refusal(SQLSTATE.UNDEFINED_OBJECT, f'there is no cluster "{cluster}"', severity="ERROR")
        return room

    async def decide(self) -> None:
        """Give the word not to go back to the old primary.

        Raises: BackendUnavailable if that has happened already.
        """
        if self._follower is not None:
            self._follower.decide()

    async def follow(self) -> None:
        """Return when the new primary is known here."""
        if self._follower is not None:
            await self._follower.follow()

    async def conclude(self, outcome: str) -> None:
        """Take that the leader has ended the switchover."""
        if self._follower is not None and outcome == ABANDONED:
            self._follower.abandon()
        self._follower = None

    async def until_settled(self) -> None:
        """Return when no switchover is going on."""
        while any(  # noqa: ASYNC110 - another process's progress
            room.state.incident is not None
            and room.state.incident.is_planned
            and room.state.state in (BUFFERING, GIVEN_UP)
            for room in self._gateway.rooms.values()
        ):
            await asyncio.sleep(LOOK_S)
