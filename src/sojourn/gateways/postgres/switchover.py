"""A switchover that all workers make together: one leads it, and the others hold their clients for it.

The leader has each worker hold new transactions, which is answered when none runs there any more, and has the word of
each before the replica is promoted. Who has given it does not go back to the old primary by itself; who has not may,
and then nothing is promoted. Should the leader vanish, workers without a given word go back at once, the others when
``buffering_timeout_s`` has passed without a promotion. Knows no socket and no client.
Source: postgres-proxy.md sections 6.2 and 6.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres.incidents import BUFFERING
from sojourn.gateways.postgres.messages import Refusal

if TYPE_CHECKING:
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.incidents import Incident
    from sojourn.gateways.postgres.worker_link import Line, WorkerLink

ABANDONED: Final = "abandoned"
LOOK_S: Final = 0.005
ANSWER_S: Final = 10.0
"""How long another worker may take to be at rest, and to say so."""


class Leader:
    """The other workers, in a switchover that this one leads.

    Life: of one SWITCHOVER, from ``hold`` to ``conclude``. Alone, without a link, it does nothing. Always true: a
    worker that started too late for ``hold`` waits for the end before it has its first client.
    """

    def __init__(self, link: WorkerLink | None = None) -> None:
        self._link = link
        self._lines: Sequence[Line] = ()

    async def at_rest(self, cluster: str) -> None:
        """Return when the others have left an incident behind them that is as good as over.

        Raises: BackendUnavailable if one of them does not answer, before anybody is held for it.
        """
        if self._link is None:
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._link.order("at_rest", cluster)
        except TimeoutError as error:
            raise BackendUnavailable("a worker", ANSWER_S, "another worker does not answer") from error

    async def hold(self, cluster: str, old: str, target: str) -> None:
        """Return when no other worker has a transaction at the old primary, nor begins one; after we hold our own.

        Raises: BackendUnavailable.
        """
        if self._link is not None:
            self._lines = await self._link.connect()
        await self._order("hold", cluster, old, target)

    async def attend(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what waits, as long as the others are there.

        Raises: BackendUnavailable if one of them goes away meanwhile.
        """
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work)
            ends = [tasks.create_task(line.until_gone()) for line in self._lines]
            await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
            for one in (task, *ends):
                one.cancel()
        if task.cancelled():
            raise BackendUnavailable("another worker", 0.0, "another worker is gone")

    async def decide(self) -> None:
        """Return when all have given their word not to go back.

        Raises: BackendUnavailable.
        """
        await self._order("decide")

    async def follow(self) -> None:
        """Return when all know the new primary.

        Raises: BackendUnavailable.
        """
        await self._order("follow")

    def conclude(self, outcome: str = "") -> None:
        """Tell the others that it is over: abandoned, or for the promotion to show."""
        for line in self._lines:
            line.tell("conclude", outcome)
            line.close()
        self._lines = ()

    async def _order(self, verb: str, *arguments: str) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for line in self._lines:
                    tasks.create_task(_ordered(line, verb, *arguments))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


async def _ordered(line: Line, verb: str, *arguments: str) -> None:
    try:
        await line.order(verb, *arguments)
    except Refusal as refusal:  # it is no server that refuses
        who = f"worker {line.index}"
        raise BackendUnavailable(who, 0.0, f"{who}: {refusal.message}") from refusal


class Follower:
    """Our part in a switchover that another worker leads.

    Life: from ``hold`` until ``abandon``, ``forsaken`` or the new primary. Always true: once it has given its word,
    only the leader or its end lets it go back to the old primary.
    """

    def __init__(self, room: ClusterRoom) -> None:
        self._room = room
        self._incident: Incident | None = None
        self._old = room.state.primary

    async def hold(self, old: str, target: str) -> None:
        """Hold new transactions; return when none runs at the old primary.

        Raises: BackendUnavailable if the cluster looks otherwise from here.
        """
        room = self._room
        if self._old is None or self._old.name != old:
            raise BackendUnavailable(room.name, 0.0, f"{old} is not its primary")
        room.state.begin_switchover(room.target(target))
        self._incident = room.state.incident
        await room.left_by_all(self._old)

    def decide(self) -> None:
        """Give the word.

        Raises: BackendUnavailable if clients are not held any more.
        """
        if not self._is_holding:
            raise BackendUnavailable(self._room.name, 0.0, f"the cluster is {self._room.state.state}")
        self._room.state.promotion_ordered()

    async def follow(self) -> None:
        """Return when a new primary is known."""
        while self._room.writable() in (None, self._old):  # noqa: ASYNC110 - another process's progress
            await asyncio.sleep(LOOK_S)

    def abandon(self) -> None:
        """Go back to the old primary, as the leader does."""
        if self._is_mine:
            self._room.state.abandon_switchover("the switchover came to nothing")

    def forsaken(self) -> None:
        """Take that the leader is gone and has not said how it ended."""
        if self._is_mine:
            self._room.state.forsake_switchover("the worker that led the switchover is gone")

    @property
    def _is_mine(self) -> bool:
        return self._incident is not None and self._room.state.incident is self._incident

    @property
    def _is_holding(self) -> bool:
        return self._is_mine and self._room.state.state == BUFFERING
