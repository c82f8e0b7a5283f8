"""WorkersView: the console of one worker among several, whose orders all of them carry out.

Tables show this worker alone: the others' pools and clients are in their own. ``KILL_CLIENT``, ``AUDIT`` and
``SWITCHOVER`` are this worker's too; its ids mean nothing elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres.console_view import EngineView
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal

if TYPE_CHECKING:
    from sojourn.gateways.postgres.console.view import ShutdownMode
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.worker_link import WorkerLink

SHARED_ORDERS: Final = frozenset(
    {"pause", "resume", "disable", "enable", "reconnect", "kill", "wait_close", "set_setting"}
)
"""Methods that every worker carries out."""


class WorkersView(EngineView):
    """The engine of this worker, and a way to order the others.

    Life: as :class:`EngineView`. A worker that starts later knows nothing of orders that were given before.
    """

    def __init__(self, gateway: PostgresGateway, link: WorkerLink) -> None:
        super().__init__(gateway)
        self._link = link

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
