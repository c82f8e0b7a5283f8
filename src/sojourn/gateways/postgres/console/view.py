"""What the console may ask of the engine, and nothing else of it.

Knows no pool, no session and no socket. The engine implements it; tests have a fake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

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

ShutdownMode = Literal["", "WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"]


class ConsoleView(Protocol):
    """The engine as the console sees it.

    Commands raise :class:`~sojourn.gateways.postgres.messages.Refusal` to say no: it becomes an error of the
    statement, whatever its severity. A command for ``None`` is one for every database. Commands that wait end by
    cancellation when the operator gives up or goes away; what they started stays as they left it.
    """

    @property
    def version(self) -> str:
        """Return the version of the product, such as ``"0.3.0"``."""

    @property
    def is_paused(self) -> bool:
        """Say whether all databases are paused."""

    @property
    def is_one_of_several(self) -> bool:
        """Say whether other processes serve the same address; what has an ``id`` is shown with its worker then."""

    async def whole(self, tables: Sequence[str]) -> tuple[ConsoleView, str]:
        """Return a view in which these tables, named as its methods, are those of all workers, and who is missing."""

    def pools(self) -> Sequence[PoolRow]:
        """Return the pools."""

    def clients(self) -> Sequence[ClientRow]:
        """Return the clients, without those of the console."""

    def servers(self) -> Sequence[ServerRow]:
        """Return the server connections."""

    def databases(self) -> Sequence[DatabaseRow]:
        """Return the databases."""

    def users(self) -> Sequence[UserRow]:
        """Return the users."""

    def stats(self) -> Sequence[TotalsRow]:
        """Return the totals of each database since the process started."""

    def config(self) -> Sequence[ConfigRow]:
        """Return the settings, without secrets."""

    def lists(self) -> Sequence[ListRow]:
        """Return how many there are of what; missing kinds of PgBouncer are shown as 0."""

    def memory(self) -> Sequence[MemoryRow]:
        """Return what memory is used for."""

    def clusters(self) -> Sequence[ClusterRow]:
        """Return the clusters."""

    def nodes(self) -> Sequence[NodeRow]:
        """Return the nodes of all clusters."""

    def failovers(self) -> Sequence[FailoverRow]:
        """Return the incidents that are remembered, the newest last."""

    def losses(self) -> Sequence[LossRow]:
        """Return the counts of the retry table."""

    def statements(self) -> Sequence[StatementRow]:
        """Return the statements that are remembered, the newest last."""

    def prepared(self) -> Sequence[PreparedRow]:
        """Return the prepared statements."""

    async def pause(self, database: str | None) -> None:
        """Hand out no more servers; return when all of them are closed."""

    async def resume(self, database: str | None) -> None:
        """End what pause or kill began."""

    async def disable(self, database: str) -> None:
        """Refuse new clients."""

    async def enable(self, database: str) -> None:
        """Take new clients again."""

    async def reload(self) -> None:
        """Read the configuration again.

        Raises: ConfigError, then nothing is changed.
        """

    async def reconnect(self, database: str | None) -> None:
        """Mark every server to be closed when it is released."""

    async def kill(self, database: str | None) -> None:
        """Drop clients and servers at once and stay paused."""

    async def kill_client(self, client: int) -> None:
        """Drop one client, by ``id`` of its row."""

    async def wait_close(self, database: str | None) -> None:
        """Return when no server is marked to be closed."""

    async def switchover(self, cluster: str, node: str | None) -> str:
        """Move the primary to ``node``, or to the replica that is furthest; return the new primary's name."""

    async def audit(self, database: str | None) -> tuple[Sequence[AuditRow], str]:
        """Compare what is known of sessions with what their servers say; return the differences, and who is missing."""

    async def shutdown(self, mode: ShutdownMode) -> None:
        """Begin to end the process and return; the answer still has to be sent."""

    async def set_setting(self, key: str, value: str) -> None:
        """Change a setting that ``config`` says is changeable, until the next reload."""
