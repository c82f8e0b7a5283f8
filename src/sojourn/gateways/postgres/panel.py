"""The gateway's page for operators: clusters and their nodes, pools, servers, failovers, slow and failed statements.

Shows the tables of the console and gives its orders; with several workers, those of all of them. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.core.panel import AdminPanel, PanelOperation, PanelParameter
from sojourn.gateways.postgres.console.incident_rows import (
    ClusterRow,
    FailoverRow,
    NodeRow,
    StatementRow,
)
from sojourn.gateways.postgres.console.rows import DatabaseRow, PoolRow, ServerRow, TotalsRow
from sojourn.gateways.postgres.messages import Refusal as SqlRefusal
from sojourn.gateways.postgres.retry import TABLE
from sojourn.web.problems import Kind, Refusal

if TYPE_CHECKING:
    from sojourn.gateways.postgres.console_view import EngineView

ROWS_COUNT: Final = 500
"""How many rows of a table are told at once."""
PAUSE_S: Final = 10.0
"""How long an operator's page waits for a pause; the console waits as long as it takes."""

_REASONS: Final = {row.situation: row.reason for row in TABLE} | {
    "resolved_aborted": "the new primary says that the transaction was not committed",
    "resolved_committed": "the new primary says that the transaction was committed",
    "resolved_committed_without_result": "the transaction was committed, and its result is lost",
    "replay_equal": "the transaction was run again, and every answer was the same",
    "replay_given_up": "the transaction could not be run again with the same answers",
    "misrouted": "a replica was asked for what only the primary can do",
    "state_lost": "the session held on the server what cannot be made again",
    "within_a_message": "the server was lost in the midst of a message",
}
"""Why it was decided so, by situation."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """How often a server was lost in one situation of the retry table; ``action`` is what was done about it."""

    situation: str
    reason: str
    action: str
    count: int
    last: float


class PostgresState(msgspec.Struct, frozen=True, kw_only=True):
    """Clusters, their nodes and what befell them; failovers with the newest first."""

    clusters: tuple[ClusterRow, ...]
    nodes: tuple[NodeRow, ...]
    failovers: tuple[FailoverRow, ...]
    losses: tuple[Loss, ...]
    missing: str = ""


class PostgresPools(msgspec.Struct, frozen=True, kw_only=True):
    """Databases with their totals since the start, and pools; ``missing`` says which workers did not answer."""

    databases: tuple[DatabaseRow, ...]
    pools: tuple[PoolRow, ...]
    totals: tuple[TotalsRow, ...]
    more: int = 0
    missing: str = ""


class PostgresServers(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to servers; ``more`` is how many did not fit."""

    servers: tuple[ServerRow, ...]
    more: int = 0


class PostgresStatements(msgspec.Struct, frozen=True, kw_only=True):
    """Statements that are remembered, newest first; literals are masked."""

    statements: tuple[StatementRow, ...]


class SwitchoverOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the primary is to go; an empty name is the replica that is furthest."""

    node: str = ""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The new primary."""

    primary: str


class PostgresPanel:
    """Serves the page's operations; every method is one of them.

    Args:
        view: the engine as the console sees it.
    """

    def __init__(self, view: EngineView) -> None:
        self._view = view

    def panel(self) -> AdminPanel:
        """Return the page."""
        database = PanelParameter("database", "Only of this database.", longest=128)
        outcome = PanelParameter(
            "search", "Part of the statement, the database, the user or the outcome.", longest=200
        )
        return AdminPanel(
            "PostgreSQL",
            Path(__file__).with_name("panel.js"),
            (
                PanelOperation("GET", "/state", "view", "Clusters, nodes, failovers.", self.state, PostgresState),
                PanelOperation("GET", "/pools", "view", "Databases and pools.", self.pools, PostgresPools),
                PanelOperation(
                    "GET", "/servers", "view", "Connections to servers.", self.servers, PostgresServers,
                    query=(database,),
                ),
                PanelOperation(
                    "GET", "/statements", "view", "Slow and failed statements.", self.statements, PostgresStatements,
                    query=(outcome,),
                ),
                PanelOperation("POST", "/databases/{name}/pause", "operate", "Hand out no more servers.", self.pause),
                PanelOperation("POST", "/databases/{name}/resume", "operate", "End a pause.", self.resume),
                PanelOperation(
                    "POST", "/databases/{name}/reconnect", "operate", "Close servers as they are released.",
                    self.reconnect,
                ),
                PanelOperation(
                    "POST", "/clusters/{name}/switchover", "admin", "Move the primary.", self.switchover, Moved,
                    SwitchoverOrder,
                ),
            ),
        )  # fmt: skip

    async def state(self, _asked: Mapping[str, Any], _body: Any) -> PostgresState:
        """Return where clusters stand."""
        view, missing = await self._view.whole(("clusters", "nodes", "failovers", "losses"))
        return PostgresState(
            clusters=tuple(view.clusters()),
            nodes=tuple(view.nodes())[:ROWS_COUNT],
            failovers=tuple(reversed(view.failovers()))[:ROWS_COUNT],
            losses=tuple(
                Loss(
                    situation=row.situation,
                    reason=_REASONS.get(row.situation, row.situation.replace("_", " ")),
                    action=row.action,
                    count=row.count,
                    last=row.last,
                )
                for row in view.losses()
                if row.count
            ),
            missing=missing,
        )

    async def pools(self, _asked: Mapping[str, Any], _body: Any) -> PostgresPools:
        """Return databases and pools, those with most waiting clients first."""
        view, missing = await self._view.whole(("databases", "pools", "stats"))
        pools = sorted(
            view.pools(), key=lambda row: (-row.cl_waiting, -row.cl_active, row.database, row.user)
        )
        return PostgresPools(
            databases=tuple(view.databases())[:ROWS_COUNT],
            pools=tuple(pools[:ROWS_COUNT]),
            totals=tuple(view.stats())[:ROWS_COUNT],
            more=max(0, len(pools) - ROWS_COUNT),
            missing=missing,
        )

    async def servers(self, asked: Mapping[str, Any], _body: Any) -> PostgresServers:
        """Return connections to servers, busy ones first."""
        view, _ = await self._view.whole(("servers",))
        rows = [row for row in view.servers() if asked["database"] in {"", row.database}]
        rows.sort(key=lambda row: (row.state != "active", row.node, row.database))
        return PostgresServers(servers=tuple(rows[:ROWS_COUNT]), more=max(0, len(rows) - ROWS_COUNT))

    async def statements(self, asked: Mapping[str, Any], _body: Any) -> PostgresStatements:
        """Return remembered statements that fit, newest first."""
        view, _ = await self._view.whole(("statements",))
        wanted = asked["search"].casefold()
        found = [
            row
            for row in sorted(view.statements(), key=lambda row: row.time, reverse=True)
            if wanted in f"{row.statement} {row.database} {row.user} {row.outcome} {row.sqlstate}".casefold()
        ]
        return PostgresStatements(statements=tuple(found[:ROWS_COUNT]))

    async def pause(self, asked: Mapping[str, Any], _body: Any) -> None:
        """Pause a database; who has a server keeps it to the end of the transaction. Raises: Refusal."""
        with _in_words(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S):  # it is paused from the first moment; the rest is waiting
                await self._view.pause(asked["name"])

    async def resume(self, asked: Mapping[str, Any], _body: Any) -> None:
        """End a pause. Raises: Refusal."""
        with _in_words():
            await self._view.resume(asked["name"])

    async def reconnect(self, asked: Mapping[str, Any], _body: Any) -> None:
        """Close servers as they are released. Raises: Refusal."""
        with _in_words():
            await self._view.reconnect(asked["name"])

    async def switchover(self, asked: Mapping[str, Any], body: SwitchoverOrder) -> Moved:
        """Move a cluster's primary. Raises: Refusal."""
        with _in_words():
            return Moved(primary=await self._view.switchover(asked["name"], body.node or None))


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Say in HTTP's way what the console says in SQL's."""
    try:
        yield
    except SqlRefusal as error:
        raise Refusal(Kind.CONFLICT, f"{error.message} {error.hint}".strip()) from error
