"""LogWriter: a session's events, durable first and told afterwards, in order, each once.

Only the session's owner has one. What is put in gets the next offsets when it is written, so that nothing that was not
written has ever had a place. An outage of the log holds events back; the simulator remembers them too, so a bound here
costs a pause and no event.

Source: exchange-session-service.md sections 5.4 and 5.6.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from sojourn.core.backoff import Backoff
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import Appended, EventLogs, Fenced, Gap, Owner
from sojourn.gateways.exchange.event_log import LogEvent

if TYPE_CHECKING:
    from sojourn.gateways.exchange.view import SessionView

BATCH_COUNT: Final = 500
"""Events of one call at most."""
QUIET_S: Final = 1.0
"""How long the log may fail before anybody is told: what is lost in a failover is tried again, and is no outage."""


class PendingEvent(NamedTuple):
    """An event without its place; as :class:`LogEvent`."""

    type: str
    body: bytes
    at_ms: int
    simulator: str = ""
    seq: int = 0


class LogWriter:
    """The one way into a session's log.

    Life: made when a pod becomes the owner; ``run`` is its work, which ends by ``stop``, by being fenced, or by
    cancellation. Always true: the view has been told exactly what is durable.

    Args:
        session: its id.
        owner: the pod and the epoch under which it writes.
        logs: where the events go.
        view: is told of each.
        limit_count: events that may wait.
        backoff: between tries during an outage.
        regain: is called when nobody has the lease any more; says whether it is ours again.
        on_outage: is told when an outage begins (True) and ends (False).
        on_written: is told after each batch that the view has.
        on_room: is told when so little waits again that more may come.
    """

    def __init__(
        self,
        session: str,
        owner: Owner,
        logs: EventLogs,
        view: SessionView,
        *,
        limit_count: int,
        backoff: Backoff,
        regain: Callable[[], Awaitable[bool]],
        on_outage: Callable[[bool], None],
        on_written: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self.session = session
        self.owner = owner
        self.view = view
        self.fenced_by: Owner | None = None
        self.is_fenced = False
        self._logs = logs
        self._limit_count = limit_count
        self._backoff = backoff
        self._regain = regain
        self._on_outage = on_outage
        self._on_written = on_written
        self._on_room = on_room
        self._waiting: deque[PendingEvent] = deque()
        self._has_news = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_stopping = False
        self._is_doubted = False
        self._is_called = asyncio.Event()
        self._is_out = False
        self._tried_at = self._failing_since = 0.0

    @property
    def waiting_count(self) -> int:
        """How many events are not durable yet."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Say whether nothing more may be put in for now."""
        return len(self._waiting) >= self._limit_count

    @property
    def is_out(self) -> bool:
        """Say whether the log cannot be written at the moment."""
        return self._is_out

    def put(self, event: PendingEvent) -> bool:
        """Take an event; False, and it is not taken, where too many wait or somebody else writes now."""
        if self.is_full or self.is_fenced or self._is_stopping:
            return False
        self._waiting.append(event)
        self._is_empty.clear()
        self._has_news.set()
        return True

    async def flush(self) -> bool:
        """Return when nothing waits any more: True if all is durable, False if it never will be here."""
        await self._is_empty.wait()
        return not self.is_fenced

    def doubt(self) -> None:
        """Look soon whether the log is still there: where nothing happens, no write would find that it is not."""
        self._is_doubted = True
        self._has_news.set()
        self._is_called.set()

    def stop(self) -> None:
        """Take nothing more; ``run`` ends when what waits is durable, and the log is where the mirror is."""
        self._is_stopping = True
        self.doubt()

    async def run(self) -> None:
        """Write what waits until stopped or fenced; whoever writes next says how the log is from then on."""
        try:
            await self._run()
        finally:
            self._tell_outage(False)

    async def _run(self) -> None:
        while not self.is_fenced:
            if self._is_doubted:
                await self._look()
            elif self._waiting:
                await self._write_some()
            elif self._is_stopping:
                return
            else:
                await self._has_news.wait()
                self._has_news.clear()

    async def _look(self) -> None:
        """Write the mirror where the backend has lost what it had."""
        self._is_doubted = False
        self._tried_at = asyncio.get_running_loop().time()
        log = self.view.log
        try:
            end = await self._logs.log_end(self.session)
            is_there = end is not None and (end.epoch, end.last) >= (log.epoch, log.last)
            result = None if is_there else await self._mend()
        except BackendUnavailable:
            self._is_doubted = True
            self._tell_outage(True)
            await self._pause()
            return
        if isinstance(result, Fenced):
            await self._act_on(result)
            self._is_doubted = not self.is_fenced
        elif not self._waiting:
            self._tell_outage(False)

    async def _write_some(self) -> None:
        """Write the oldest events that wait, or find out why that cannot be done now."""
        self._tried_at = asyncio.get_running_loop().time()
        log = self.view.log
        batch = [
            LogEvent(offset, *event)
            for offset, event in enumerate(list(self._waiting)[:BATCH_COUNT], log.last + 1)
        ]
        try:
            result = await self._logs.append(self.session, self.owner, log.epoch, batch)
            if isinstance(result, Gap):
                result = await self._mend()
        except BackendUnavailable:
            self._tell_outage(True)
            await self._pause()
            return
        match result:
            case Appended(last) if last >= batch[-1].offset:
                self._written(batch)
            case Fenced():
                await self._act_on(result)
            case _:
                pass  # the log is as the mirror is again: the next turn writes the batch

    async def _act_on(self, fenced: Fenced) -> None:
        """Take the lease again if nobody has it; let go otherwise."""
        if fenced.owner is not None or not await self._is_regained():
            self._give_up(fenced.owner)

    async def _pause(self) -> None:
        """Wait before the next try during an outage, or until somebody knows better."""
        self._is_called.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(next(self._backoff)):
                await self._is_called.wait()

    async def _mend(self) -> Appended | Fenced:
        """Write our mirror where the log does not end as it does: the backend has lost what it had."""
        log = self.view.log
        return await self._logs.reseed(
            self.session,
            self.owner,
            log.epoch,
            tuple(log.after(0)),
            after=log.first - 1,
            simulator=self.view.last_simulator,
            seq=self.view.last_seq,
        )

    async def _is_regained(self) -> bool:
        try:
            return await self._regain()
        except BackendUnavailable:
            self._tell_outage(True)
            await self._pause()
            return True  # not known: the next write says

    def _written(self, batch: list[LogEvent]) -> None:
        self._backoff.reset()
        self._tell_outage(False)
        for event in batch:
            self._waiting.popleft()
            self.view.publish(event)
        self._on_written()
        if len(self._waiting) * 4 < self._limit_count:
            self._on_room()
        if not self._waiting:
            self._is_empty.set()

    def _give_up(self, owner: Owner | None) -> None:
        """Let go: what waits is the new owner's, who has it from the simulator."""
        self.is_fenced = True
        self.fenced_by = owner
        self._waiting.clear()
        self._is_empty.set()

    def _tell_outage(self, is_out: bool) -> None:
        """Tell of an outage that lasts, and of its end."""
        if not is_out:
            self._failing_since = 0.0
        elif not self._failing_since:
            self._failing_since = self._tried_at
        is_out = is_out and asyncio.get_running_loop().time() - self._failing_since >= QUIET_S
        if is_out != self._is_out:
            self._is_out = is_out
            self._on_outage(is_out)
