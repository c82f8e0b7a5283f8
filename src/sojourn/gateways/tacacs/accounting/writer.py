"""Group commit in front of one sink: take all records that wait, store them at once, release the waiters.

Theory of operation. :meth:`Writer.offer` is a plain call that appends to a list. One task per sink
(:meth:`Writer.run`) takes the whole list, gives it to the sink in one piece and settles every waiter with the
outcome; what arrives in the meantime is the next batch, so batches grow just when storing is slow. A batch
that fails is tried once more over a fresh opening: a server that restarted costs nobody an ERROR. If that
fails too the sink is *down*: everything that waits, and everything offered from then on, is refused at once
instead of after a timeout, while this task keeps opening the sink with growing, jittered pauses. So the
writer is its own circuit breaker with one probe.

*On trial* is a sink that opened although that proves little: because it is UDP, or because it opened just as
well before and then failed to store. It is offered records again, but is called up only when it has stored
some; until then another failure belongs to the same incident and rings no second alarm.

Knows nothing of what a sink is or of other sinks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from sojourn.core.backoff import Backoff
from sojourn.core.clock import Clock
from sojourn.errors import BackendUnavailable, LimitExceeded, LocalProtocolError, SojournError
from sojourn.gateways.tacacs.accounting.record import Record

OnAlarm = Callable[[str, str], None]
"""Called in the loop's thread with the sink's name and what changed about its health; must not raise."""

OnSettled = Callable[[str, SojournError | None], None]
"""Called in the loop's thread with a sink's name and None if it has stored the record, else why not; must not raise."""

BATCH_COUNT = 2_000
"""Records stored at once at most, so that one batch never takes longer than a device waits."""

CLOSE_S = 1.0
"""How long a sink may take to close when its writer is cancelled."""

UP, TRIAL, DOWN, OPENING, CLOSED = "up", "trial", "down", "opening", "closed"


class Sink(Protocol):
    """One place for records. Calls never overlap; after an error come ``close`` and ``open`` again."""

    @property
    def name(self) -> str:
        """Its configured name."""

    @property
    def kind(self) -> str:
        """``"file"``, ``"syslog"`` or ``"postgres"``."""

    @property
    def warning(self) -> str:
        """What an operator should mend although records are stored; ``""`` when there is nothing."""

    async def open(self) -> bool:
        """Get ready to store, and tell whether that proves that storing works.

        Raises:
            OSError, BackendUnavailable: it can't be opened now.
        """

    async def store(self, records: Sequence[Record]) -> None:
        """Store all the records, or none of them as far as that is possible.

        Raises:
            OSError, BackendUnavailable: nothing may be taken as stored.
            LimitExceeded, LocalProtocolError: the sink is well, but one of these records is not for it.
        """

    async def close(self) -> None:
        """Release what ``open`` took; harmless when nothing is open."""


class Waiter(msgspec.Struct):
    """A record on its way, shared by all writers; ``future`` gets None, or the error to raise.

    Errors travel as results because a waiter may have gone: an exception that nobody fetches would be
    reported.
    """

    record: Record
    future: asyncio.Future[SojournError | None]
    remaining: int
    deadline: float
    told: OnSettled | None = None


class SinkSnapshot(NamedTuple):
    """One sink at one moment, for metrics.

    Shape: ``health`` is ``up``, ``trial``, ``down``, ``opening`` or ``closed``; ``stored_count``,
    ``failed_count`` (records answered with an error), ``batches_count`` and ``failures_count`` (of the sink)
    only grow; ``last_error`` stays after recovery.
    """

    name: str
    kind: str
    health: str
    waiting_count: int
    in_flight_count: int
    stored_count: int
    failed_count: int
    batches_count: int
    failures_count: int
    last_error: str
    warning: str


def cause_of(error: BaseException) -> str:
    """Return why, in words that hold no secret: the text of unknown exceptions may quote a DSN."""
    if isinstance(error, BackendUnavailable):
        return error.cause
    if isinstance(error, SojournError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


class Writer:
    """The queue and the writing task of one sink.

    Life: made by ``Accounting``, which runs :meth:`run` in its task group until :meth:`close`. A record that
    was accepted by :meth:`offer` is always settled: stored, failed or overdue.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        queue_count: int,
        timeout_s: float,
        clock: Clock,
        on_alarm: OnAlarm,
        backoff: Backoff,
    ) -> None:
        self.sink = sink
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.health = OPENING
        self._queue_count = queue_count
        self._timeout_s = timeout_s
        self._clock = clock
        self._on_alarm = on_alarm
        self._backoff = backoff
        self._pending: list[Waiter] = []
        self._in_flight: Sequence[Waiter] = ()
        self._refusal: str | None = None
        self._is_open = self._is_closing = self._is_idle = self._is_doubtful = False
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._stored = self._failed = self._batches = self._failures = 0
        self._last_error = self._warning = ""

    def offer(self, waiter: Waiter) -> SojournError | None:
        """Queue a record, or return why it will not be stored."""
        if self._refusal is not None:
            return self._refuse(waiter, BackendUnavailable(self.sink.name, 0.0, self._refusal))
        pending = self._pending
        if len(pending) >= self._queue_count:
            what = f"records waiting for accounting sink {self.sink.name}"
            return self._refuse(waiter, LimitExceeded(what, len(pending) + 1, self._queue_count))
        pending.append(waiter)
        if self._is_idle:
            self._is_idle = False
            self._work.set()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire)
        return None

    def _refuse(self, waiter: Waiter, error: SojournError) -> SojournError:
        self._failed += 1
        if waiter.told is not None:
            waiter.told(self.sink.name, error)
        return error

    def close(self) -> None:
        """Take no more records; :meth:`run` stores what waits, closes the sink and sets ``ended``."""
        self._is_closing = True
        self._refusal = "closing"
        self._work.set()

    def snapshot(self) -> SinkSnapshot:
        """Return the sink as it stands."""
        return SinkSnapshot(
            name=self.sink.name,
            kind=self.sink.kind,
            health=self.health,
            waiting_count=len(self._pending),
            in_flight_count=len(self._in_flight),
            stored_count=self._stored,
            failed_count=self._failed,
            batches_count=self._batches,
            failures_count=self._failures,
            last_error=self._last_error,
            warning=self._warning,
        )

    async def run(self) -> None:
        """Open the sink and store batches until :meth:`close`; survives every failure of the sink."""
        try:
            while await self._reopen():
                if self._pending:
                    await self._store_all_that_waits()
                elif self._is_closing:
                    break
                else:
                    await self._wait_for_work(None)
        finally:
            await self._end()

    async def _reopen(self) -> bool:
        """Have the sink open; False when it is not and we are closing."""
        while not self._is_open and not await self._try_to_open():
            if self._is_closing:
                return False
            await self._wait_for_work(next(self._backoff))
        return True

    async def _wait_for_work(self, within_s: float | None) -> None:
        self._is_idle = True
        self._work.clear()
        # Closing may have come between the caller's look and this one.
        if not self._is_closing and not self._pending:
            if within_s is None:
                await self._work.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within_s):
                        await self._work.wait()
        self._is_idle = False

    async def _try_to_open(self) -> bool:
        try:
            is_proven = await self.sink.open()
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the daemon and the other sinks go on
            self._is_doubtful = False
            await self._goes_down(error)
            return False
        else:
            self._is_open = True
            if not self._is_closing:
                self._refusal = None
            if is_proven and not self._is_doubtful:
                self._comes_up()
            else:
                self.health = TRIAL
            return True
        finally:
            self.ready.set()

    async def _store_all_that_waits(self) -> None:
        if len(self._pending) <= BATCH_COUNT:
            self._in_flight, self._pending = self._pending, []
        else:
            self._in_flight, self._pending = self._pending[:BATCH_COUNT], self._pending[BATCH_COUNT:]
        try:
            await self._store(self._in_flight)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the daemon and the other sinks go on
            self._last_error = cause_of(error)
            await self._store_once_more()
        self._note_warning()

    async def _store_once_more(self) -> None:
        """Store what is left of the batch over a fresh opening, or give up on everything that waits."""
        began = self._clock()
        self._is_doubtful = False
        try:
            await self._close_sink()
            await self.sink.open()
            self._is_doubtful = True
            await self._store(self._in_flight)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the daemon and the other sinks go on
            waiting, self._in_flight = [*self._in_flight, *self._pending], ()
            self._pending = []
            self._settle(waiting, BackendUnavailable(self.sink.name, self._clock() - began, cause_of(error)))
            await self._goes_down(error)

    async def _store(self, waiters: Sequence[Waiter]) -> None:
        """Store the head of what is in flight; one record that the sink can't take fails alone."""
        try:
            await self.sink.store([waiter.record for waiter in waiters])
        except (LimitExceeded, LocalProtocolError) as error:
            if len(waiters) > 1:
                half = len(waiters) // 2
                await self._store(waiters[:half])
                await self._store(waiters[half:])
                return
            self._last_error = str(error)
            self._in_flight = self._in_flight[1:]
            self._settle(waiters, error)
        else:
            self._in_flight = self._in_flight[len(waiters) :]
            self._batches += 1
            self._is_doubtful = False
            self._backoff.reset()
            self._settle(waiters, None)
        # Also a sink that refuses a record has answered; it may have been called down for its silence.
        if self.health != UP:
            self._comes_up()

    def _settle(self, waiters: Sequence[Waiter], outcome: SojournError | None) -> None:
        if outcome is None:
            self._stored += len(waiters)
            for waiter in waiters:
                if waiter.told is not None:
                    waiter.told(self.sink.name, None)
                waiter.remaining -= 1
                if not waiter.remaining and not waiter.future.done():
                    waiter.future.set_result(None)
        else:
            self._failed += len(waiters)
            for waiter in waiters:
                if waiter.told is not None:
                    waiter.told(self.sink.name, outcome)
                if not waiter.future.done():
                    waiter.future.set_result(outcome)

    def _expire(self) -> None:
        """Fail what is overdue; a sink that made it so is down until it answers."""
        self._timer = None
        now = self._clock()
        overdue = [waiter for waiter in self._in_flight if waiter.deadline <= now]
        kept = [waiter for waiter in self._pending if waiter.deadline > now]
        forgotten = len(self._pending) - len(kept)
        if forgotten or any(not waiter.future.done() for waiter in overdue):
            error = BackendUnavailable(self.sink.name, self._timeout_s, "no answer in time")
            # What is in flight is counted when its outcome is known; it may yet be stored.
            for waiter in overdue:
                if not waiter.future.done():
                    if waiter.told is not None:
                        waiter.told(self.sink.name, error)
                    waiter.future.set_result(error)
            self._settle(self._pending[:forgotten], error)
            self._pending = kept
            self._mark_down(error)
        # Both lists are in the order of arrival, which is that of their deadlines.
        waiting = [*self._in_flight[len(overdue) :], *kept]
        if waiting:
            pause_s = max(waiting[0].deadline - now, 0.01)
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._expire)

    def _comes_up(self) -> None:
        was, self.health = self.health, UP
        if not self._is_closing:
            self._refusal = None
        if was in {DOWN, TRIAL} and self._failures:
            self._on_alarm(self.sink.name, "available again")

    def _mark_down(self, error: Exception) -> None:
        was, self.health = self.health, DOWN
        cause = cause_of(error)
        self._failures += 1
        self._last_error = cause
        if not self._is_closing:
            self._refusal = cause
        if was in {UP, OPENING} or (was == TRIAL and self._failures == 1):
            self._on_alarm(self.sink.name, f"unavailable: {cause}")

    async def _goes_down(self, error: Exception) -> None:
        self._is_open = False
        self._mark_down(error)
        # Records were taken while this was the first opening; they must not wait for the second.
        waiting, self._pending = self._pending, []
        self._settle(waiting, BackendUnavailable(self.sink.name, 0.0, cause_of(error)))
        await self._close_sink()

    def _note_warning(self) -> None:
        if self.sink.warning != self._warning:
            self._warning = self.sink.warning
            self._on_alarm(self.sink.name, self._warning or "warning cleared")

    async def _close_sink(self) -> None:
        with contextlib.suppress(Exception):  # a sink that failed may fail to close; nothing depends on it
            await self.sink.close()

    async def _end(self) -> None:
        self.close()
        waiting, self._pending, self._in_flight = [*self._in_flight, *self._pending], [], ()
        self._settle(waiting, BackendUnavailable(self.sink.name, 0.0, "closing"))
        if self._timer is not None:
            self._timer.cancel()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._close_sink()
        finally:
            self.health = CLOSED
            self.ready.set()
            self.ended.set()
