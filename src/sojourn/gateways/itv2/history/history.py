"""History: takes events from the loop, has them stored in groups, and says when they are.

Theory of operation. ``append`` is a plain call that puts events into a list; at the end of the loop's turn the whole
list goes to the writer's thread as one transaction, and what comes meanwhile, or within ``commit_pause_s``, is the
next one. So 500 panels that wait for their acknowledgements share one flush of the disk. A file that can't be written
makes the history *failing*: nobody waits for it any more, because an alarm matters more than its record; events are
kept in memory up to a bound, the oldest go first, and the file is tried again with growing pauses until it takes them.

After a kill -9 nothing that was acknowledged is missing: a packet is acknowledged after its commit. Nothing is there
twice: a panel that comes back with the packet whose acknowledgement it may have missed is recognised (``is_repeat``).

Everything here belongs to the loop's thread. Knows no panels and no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from sojourn.core.backoff import Backoff
from sojourn.core.clock import Clock, WallClock, monotonic, utc_now
from sojourn.core.events import EventKind, Events
from sojourn.core.offload import OffloadPool
from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.itv2.events import PanelEvent
from sojourn.gateways.itv2.history.config import HistorySettings
from sojourn.gateways.itv2.history.database import is_damage
from sojourn.gateways.itv2.history.export import ExportFormat, header, lines
from sojourn.gateways.itv2.history.records import PAGE_LIMIT_COUNT, HistoryQuery, Page
from sojourn.gateways.itv2.history.repeats import RepeatWatch
from sojourn.gateways.itv2.history.search import HistoryReader
from sojourn.gateways.itv2.history.store import PRUNE_COUNT, Batch, Outcome, Remembered, Store
from sojourn.gateways.itv2.history.writer_thread import WriterThread

HISTORY_UNAVAILABLE = EventKind("itv2.history_unavailable", ("error",), level="error")
"""Events can't be stored; panels are acknowledged all the same, and the newest events are kept in memory."""
HISTORY_AVAILABLE = EventKind("itv2.history_available", ("stored_count", "lost_count"))
"""They can again; ``lost_count`` events were more than the memory could hold."""
HISTORY_SET_ASIDE = EventKind("itv2.history_set_aside", ("file", "why"), level="error")
"""The file was damaged: it has this name now, and a new one was begun."""
HISTORY_REFUSED = EventKind("itv2.history_refused", ("count",), level="error")
"""Events that do not fit the file; they are lost."""

READERS_COUNT: Final = 2
"""Searches at once; what they read is in memory mostly, so more would only share the interpreter."""

FIRST_PRUNE_S: Final = 10.0
"""How long after its start the daemon looks for what is too old: not while all panels come back."""

PRUNE_PAUSE_S: Final = 0.05
"""Between two slices of pruning: the disk is for what is happening now."""

RETRY_BASE_S: Final = 0.5

StateBytes = bytes | Callable[[], bytes]
"""A state, or what makes it when it is written: so a state that changes often is made seldom."""


class HistorySnapshot(NamedTuple):
    """The history at one moment; the counts of the last six only grow. Units: ``commit_s`` is time spent storing."""

    is_degraded: bool
    trouble: str
    waiting_count: int
    stored_count: int
    lost_count: int
    refused_count: int
    batches_count: int
    failures_count: int
    commit_s: float


class History:
    """The history of one gateway.

    Life: made and opened by the gateway at its start, closed at its end, after the last session. Always true: a future
    that ``append`` returned is settled, whatever happens to the file.

    Args:
        settings: table ``[itv2.history]``.
        events: where to tell what the operator should know.
        clock: monotonic seconds.
        wall_clock: for ages.
    """

    def __init__(
        self,
        settings: HistorySettings,
        events: Events,
        *,
        clock: Clock = monotonic,
        wall_clock: WallClock = utc_now,
    ) -> None:
        self.settings = settings
        self.trouble = ""
        """Why nothing can be stored at the moment; ``""``: all is well."""
        self._path = Path(settings.file)
        self._events = events
        self._clock = clock
        self._wall_clock = wall_clock
        self._store = Store(settings)
        self._watch = RepeatWatch(clock, settings.repeat_window_s)
        self._backoff = Backoff(RETRY_BASE_S, settings.retry_max_s)
        self._readers = OffloadPool(
            READERS_COUNT, settings.searches_limit_count, settings.search_timeout_s, clock
        )
        self._waiting: deque[PanelEvent] = deque()
        self._packets: dict[str, bytes | None] = {}
        self._states: dict[str, bytes] = {}
        self._changing: dict[str, StateBytes] = {}
        self._waiters: list[asyncio.Future[bool]] = []
        self._restored: dict[str, bytes] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._has_remembered = self._is_open = self._is_busy = self._is_called = self._is_doubted = False
        self._idle = asyncio.Event()
        self._stored = self._lost = self._lost_before = self._refused = self._batches = self._failures = 0
        self._kept = 0
        self._pause_until = 0.0
        self._commit_s = 0.0

    async def open(self) -> None:
        """Open the file. One that can't be opened now is tried again later, and the gateway goes on.

        Raises: ConfigError: the operator has to mend something first: no folder, another daemon, a newer file.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._thread = WriterThread("itv2 history", loop)
        opened: asyncio.Future[BaseException | None] = loop.create_future()

        def done(result: tuple[Remembered, Outcome] | None, error: BaseException | None) -> None:
            if not isinstance(error, ConfigError):
                self._take_remembered(result, error)
            if not opened.done():
                opened.set_result(error)

        self._is_open = True
        self._do(self._store.open, done)
        error = await opened
        if isinstance(error, ConfigError):
            await self.close()
            raise error
        self._later("prune", FIRST_PRUNE_S, self._prune)

    async def close(self) -> None:
        """Store what waits, and the states; bounded by ``close_timeout_s``. Harmless when it is closed."""
        if not self._is_open:
            return
        self._encode_states()
        closed: asyncio.Future[bool] = self._loop.create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.close_timeout_s):
                self.trouble = ""  # one last try
                try:
                    await self.flush()
                finally:
                    self._is_open = False
                    for timer in self._timers.values():
                        timer.cancel()
                    self._timers.clear()
                    self._thread.do(self._store.close, lambda *_: _settle([closed], True))
                    self._thread.end()
                await closed
        self._settle(False)
        await self._readers.close(self.settings.close_timeout_s)

    # What panels do

    def append(
        self, panel: str, events: Sequence[PanelEvent], digest: bytes = b""
    ) -> asyncio.Future[bool] | None:
        """Have events stored, and return what says when they are; None: there is nothing to wait for.

        Args:
            panel: whose they are.
            events: of one packet, or what was not in a packet.
            digest: of the packet (``packet_digest``); ``b""`` where there is none. Give every packet after the
                handshake except SimpleAcks, those without events too: each proves that the one before was
                acknowledged.
        Returns: True: committed; False: they can't be stored now.
        Then: acknowledge the packet when the future is done, whatever it says, and after ``ack_wait_s`` at the latest.
        """
        if events:
            if digest:
                self._watch.stored(panel, digest)
                self._packets[panel] = digest
            self._keep(events)
        elif digest and self._watch.followed(panel):
            self._packets[panel] = None
        else:
            return None
        if self.trouble or not self._is_open:
            return None
        self._call()
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.append(future)
        return future

    def when_stored(self) -> asyncio.Future[bool] | None:
        """Return what says when all that was appended so far is stored, as of ``append``; None: it is."""
        if self.trouble or not self._is_open or not (self._is_busy or self._waiting or self._packets):
            return None
        self._call()
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.append(future)
        return future

    def session_began(self, panel: str) -> None:
        """Expect the packet that the panel may not know to be acknowledged. Then: ask ``is_repeat`` for each packet."""
        self._watch.session_began(panel)

    def is_repeat(self, panel: str, digest: bytes) -> bool:
        """Tell whether a packet was appended already. Then: acknowledge it ``when_stored``, and do nothing else."""
        return self._watch.is_repeat(panel, digest)

    # What is known of panels

    def save_state(self, panel: str, state: StateBytes, *, at_once: bool = False) -> None:
        """Have a panel's state stored: the last one of each ``state_every_s``, or at once where it is about to rest."""
        if at_once:
            self._changing.pop(panel, None)
            self._states[panel] = state if isinstance(state, bytes) else state()
            self._call()
            return
        self._changing[panel] = state
        if self._is_open and "states" not in self._timers:
            self._later("states", self.settings.state_every_s, self._encode_states)

    def load_states(self) -> dict[str, bytes]:
        """Return the states that an earlier process has left, by panel; once, as they are kept nowhere else then."""
        states, self._restored = self._restored, {}
        return states

    # Who looks

    async def search(self, query: HistoryQuery) -> Page:
        """Return one page of what was stored.

        Raises:
            RemoteProtocolError: the query's cursor is none.
            LimitExceeded: too many search already.
            BackendUnavailable: it took too long, or the file can't be read.
        """
        try:
            return await self._readers.run(self._search, query)
        except BackendUnavailable as error:
            if error.__cause__ is not None and is_damage(error.__cause__):
                self._check()
            raise

    async def export(self, query: HistoryQuery, form: ExportFormat) -> AsyncIterator[bytes]:
        """Yield everything that a query finds as CSV or JSON lines. Raises: as ``search``."""
        yield header(form)
        query = msgspec.structs.replace(query, limit_count=PAGE_LIMIT_COUNT)
        while True:
            page = await self.search(query)
            if page.entries:
                yield lines(page.entries, form)
            if not page.cursor:
                return
            query = msgspec.structs.replace(query, cursor=page.cursor)

    async def flush(self) -> bool:
        """Return when all that waits now is stored: True; False: it can't be."""
        if self.trouble or not self._is_open:
            return False
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.append(future)
        self._call()
        return await future

    @property
    def is_degraded(self) -> bool:
        """Say whether events are kept in memory only."""
        return bool(self.trouble)

    def snapshot(self) -> HistorySnapshot:
        """Return the history as it stands."""
        return HistorySnapshot(
            is_degraded=self.is_degraded,
            trouble=self.trouble,
            waiting_count=len(self._waiting),
            stored_count=self._stored,
            lost_count=self._lost,
            refused_count=self._refused,
            batches_count=self._batches,
            failures_count=self._failures,
            commit_s=self._commit_s,
        )

    def counters(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield the metrics of ``Gateway.counters``."""
        yield "sojourn_itv2_history_events_total", {"outcome": "stored"}, self._stored
        yield "sojourn_itv2_history_events_total", {"outcome": "lost"}, self._lost
        yield "sojourn_itv2_history_events_total", {"outcome": "refused"}, self._refused
        yield "sojourn_itv2_history_commits_total", {}, self._batches
        yield "sojourn_itv2_history_commit_seconds_total", {}, self._commit_s
        yield "sojourn_itv2_history_failures_total", {}, self._failures
        yield "sojourn_itv2_history_waiting", {}, len(self._waiting)
        yield "sojourn_itv2_history_degraded", {}, self.is_degraded

    # The writer

    def _keep(self, events: Iterable[PanelEvent]) -> None:
        waiting = self._waiting
        waiting.extend(events)
        while len(waiting) > self.settings.waiting_limit_count:
            waiting.popleft()
            self._lost += 1

    def _call(self) -> None:
        """Hand over at the end of the loop's turn, or of the pause behind the last commit.

        Events of all panels that were read until then share a commit, which is most of an event's cost.
        """
        if not (self._is_called or self._is_busy or self.trouble) and self._is_open:
            self._is_called = True
            wait_s = self._pause_until - self._clock()
            if wait_s > 0:
                self._loop.call_later(wait_s, self._hand_over)
            else:
                self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._is_called = False
        if self._is_busy or not self._is_open:
            return
        batch = Batch(self._waiting, self._packets, self._states, self._now_ms())
        waiters = self._waiters
        self._waiting, self._packets, self._states, self._waiters = deque(), {}, {}, []
        if not (batch.events or batch.packets or batch.states):
            _settle(waiters, True)
            return
        began = self._clock()
        self._pause_until = began + self.settings.commit_pause_s

        def done(outcome: Outcome | None, error: BaseException | None) -> None:
            self._commit_s += self._clock() - began
            if outcome is None:
                self._put_back(batch)
                _settle(waiters, False)
                self._fail(error)
            else:
                self._stored += len(batch.events) - outcome.refused_count
                self._batches += 1
                _settle(waiters, True)
                self._tell(outcome)
                self._recover()

        self._do(lambda: self._store.write(batch), done)

    def _do(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Have the thread do something, and go on with what waits when it is done."""

        def finished(result: Any, error: BaseException | None) -> None:
            self._is_busy = False
            done(result, error)
            if self._is_doubted:
                self._check()
            if self._waiters or self._waiting or self._states or self._packets:
                self._call()

        self._is_busy = True
        self._thread.do(function, finished)

    def _put_back(self, batch: Batch) -> None:
        waiting = self._waiting
        self._waiting = deque(batch.events)
        self._keep(waiting)
        self._packets = {**batch.packets, **self._packets}
        self._states = {**batch.states, **self._states}

    def _fail(self, error: BaseException | None) -> None:
        """Let nobody wait any more, and try again later."""
        why = error.cause if isinstance(error, BackendUnavailable) else f"{error or 'no reason'}"
        self._failures += 1
        if not self.trouble:
            self._lost_before = self._lost
            self._kept = self._stored
            self._events.emit(HISTORY_UNAVAILABLE, None, why)
        self.trouble = why
        self._settle(False)
        if self._is_open:
            self._later("retry", max(next(self._backoff), RETRY_BASE_S), self._retry)

    def _recover(self) -> None:
        self._backoff.reset()
        if self.trouble:
            self.trouble = ""
            stored = self._stored - self._kept
            self._events.emit(HISTORY_AVAILABLE, None, stored, self._lost - self._lost_before)

    def _retry(self) -> None:
        if self._is_busy:
            self._later("retry", RETRY_BASE_S, self._retry)
        elif not self._has_remembered:
            self._do(self._store.open, self._take_remembered)
        elif self._waiting or self._packets or self._states:
            self._hand_over()
        else:
            self._check()

    def _take_remembered(
        self, result: tuple[Remembered, Outcome] | None, error: BaseException | None
    ) -> None:
        if result is None:
            self._fail(error)
            return
        remembered, outcome = result
        self._has_remembered = True
        self._restored = remembered.states
        self._watch.restore(remembered.unproven)
        self._tell(outcome)
        self._recover()

    def _check(self) -> None:
        """Have the writer read the whole file, as somebody met damage in it."""

        def done(outcome: Outcome | None, error: BaseException | None) -> None:
            if outcome is None:
                self._fail(error)
            else:
                self._tell(outcome)
                self._recover()

        self._is_doubted = self._is_busy
        if self._is_open and not self._is_busy:
            self._do(self._store.check, done)

    def _prune(self) -> None:
        def done(count: int | None, error: BaseException | None) -> None:
            if count is None:
                self._fail(error)
            self._later(
                "prune", PRUNE_PAUSE_S if count == PRUNE_COUNT else self.settings.prune_every_s, self._prune
            )

        if self._is_busy or self.trouble:
            self._later("prune", PRUNE_PAUSE_S if self._is_busy else self.settings.prune_every_s, self._prune)
        else:
            now_ms = self._now_ms()
            self._do(lambda: self._store.prune(now_ms), done)

    def _encode_states(self) -> None:
        timer = self._timers.pop("states", None)
        if timer is not None:
            timer.cancel()
        while self._changing:
            panel, state = self._changing.popitem()
            self._states[panel] = state if isinstance(state, bytes) else state()
        self._call()

    def _tell(self, outcome: Outcome) -> None:
        if outcome.set_aside:
            self._failures += 1
            self._events.emit(HISTORY_SET_ASIDE, None, outcome.set_aside, outcome.why)
        if outcome.refused_count:
            self._refused += outcome.refused_count
            self._events.emit(HISTORY_REFUSED, None, outcome.refused_count)

    def _settle(self, is_stored: bool) -> None:
        waiters, self._waiters = self._waiters, []
        _settle(waiters, is_stored)

    def _later(self, name: str, delay_s: float, function: Callable[[], None]) -> None:
        if self._is_open:
            earlier = self._timers.get(name)
            if earlier is not None:
                earlier.cancel()
            self._timers[name] = self._loop.call_later(delay_s, function)

    def _search(self, query: HistoryQuery) -> Page:
        with HistoryReader(self._path, self.settings.search_timeout_s) as reader:
            return reader.search(query)

    def _now_ms(self) -> int:
        return int(self._wall_clock().timestamp() * 1000)


def _settle(waiters: Iterable[asyncio.Future[bool]], is_stored: bool) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(is_stored)
