"""One bounded pool of threads for work that would stop the loop: password hashing, directory calls, files.

Knows nothing of what the work is. It has a queue of its own instead of the loop's default executor because
that one queues without bound, cannot take back work that nobody waits for any more, and holds up the end of
the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from sojourn.core.clock import Clock
from sojourn.errors import BackendUnavailable, LimitExceeded

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BACKEND = "offload"
"""The name under which :class:`~sojourn.errors.BackendUnavailable` speaks of this pool."""

_WAITING, _RUNNING, _DONE, _ABANDONED = range(4)


class OffloadCounters(NamedTuple):
    """What a pool did since it was made, and what it does now.

    Shape: ``running`` includes work that nobody waits for any more, because it still holds its thread.
    Units: ``busy_s`` is thread-seconds of ended work.
    """

    submitted: int
    refused: int
    timed_out: int
    cancelled: int
    failed: int
    running: int
    queued: int
    threads: int
    busy_s: float


class _Job:
    """One piece of work: made by ``run``, ended by a thread or given up by the waiting side."""

    __slots__ = ("args", "cause", "error", "function", "future", "loop", "result", "state")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.function = function
        self.args = args
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.state = _WAITING
        self.result: Any = None
        self.error: BaseException | None = None
        self.cause = ""

    def wake(self) -> None:
        """Let the waiting side go on; called in its loop."""
        if not self.future.done():
            self.future.set_result(None)


class OffloadPool:
    """At most ``threads_count`` pieces of work at once, ``queue_count`` more waiting, refusal beyond that.

    The application makes one and closes it. Threads start when there is work for them and are daemons: work
    that never returns cannot keep the process alive. Safe to use from several loops in several threads.

    Args:
        threads_count: threads at most.
        queue_count: work that may wait for a thread; 0 = only what a free thread takes at once.
        timeout_s: deadline of work that names none.
        clock: monotonic seconds, for the counters and error texts; deadlines run on the loop's own timers.
    """

    def __init__(
        self, threads_count: int, queue_count: int, timeout_s: float, clock: Clock = time.monotonic
    ) -> None:
        self._threads_count = threads_count
        self._jobs_count = threads_count + queue_count
        self._timeout_s = timeout_s
        self._clock = clock
        # Everything below is guarded by this condition's lock; a deque and not queue.SimpleQueue, because
        # work given up must leave at once: behind stuck threads its remains would pile up without bound.
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Job] = deque()
        self._threads = 0
        self._idle = 0
        self._running = 0
        self._closing = False
        self._drained: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._submitted = self._refused = self._timed_out = self._cancelled = self._failed = 0
        self._busy_s = 0.0

    def counters(self) -> OffloadCounters:
        """Return what the pool did so far, and what it does now."""
        with self._changed:
            return OffloadCounters(
                self._submitted,
                self._refused,
                self._timed_out,
                self._cancelled,
                self._failed,
                self._running,
                len(self._queue),
                self._threads,
                self._busy_s,
            )

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, within_s: float | None = None) -> T:
        """Call ``function(*args)`` in a thread and return what it returns.

        Work still waiting for a thread when its deadline passes or its caller is cancelled is never started.
        Work that runs already cannot be stopped: it keeps its thread until it ends, and its outcome is
        dropped.

        Args:
            function: what to call; what it raises is raised here.
            args: its arguments.
            within_s: the deadline, queueing included; the pool's ``timeout_s`` when absent.

        Raises:
            LimitExceeded: the queue is full; raised at once.
            BackendUnavailable: the deadline passed, or the pool is closed.
        """
        limit_s = self._timeout_s if within_s is None else within_s
        loop = asyncio.get_running_loop()
        job = _Job(function, args, loop)
        began = self._clock()
        self._submit(job, limit_s)
        timer = loop.call_later(limit_s, self._give_up, job)
        try:
            await job.future
        except asyncio.CancelledError:
            self._abandon(job, cancelled=True)
            raise
        finally:
            timer.cancel()
        if job.state == _ABANDONED:
            cause = job.cause or f"deadline of {limit_s:g} s passed"
            raise BackendUnavailable(BACKEND, self._clock() - began, cause)
        if job.error is not None:
            error, job.error = job.error, None
            try:
                raise error
            finally:
                # The traceback holds this frame and the frame the error: cut the circle, the collector is
                # dear.
                del error
        result: T = job.result
        return result

    async def close(self, within_s: float) -> int:
        """Take no more work, let what is there end until the deadline, and end the threads.

        At the deadline waiting work is given up: its callers get :class:`~sojourn.errors.BackendUnavailable`.

        Returns: how many pieces of work still run; their threads end with them, or with the process.
        """
        loop = asyncio.get_running_loop()
        drained: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._closing = True
            if self._threads == 0:
                return 0
            self._drained.append((loop, drained))
            self._changed.notify_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await drained
        with self._changed:
            left = list(self._queue)
            self._queue.clear()
            for job in left:
                job.state, job.cause = _ABANDONED, "the pool is closed"
            running = self._running
        for job in left:
            _call(job.loop, job.wake)
        return running

    def _submit(self, job: _Job, limit_s: float) -> None:
        """Put the work into the queue, or refuse it."""
        with self._changed:
            if self._closing:
                raise BackendUnavailable(BACKEND, 0.0, "the pool is closed")
            if limit_s <= 0:
                self._timed_out += 1
                raise BackendUnavailable(BACKEND, 0.0, "the deadline had passed already")
            jobs_count = self._running + len(self._queue)
            if jobs_count >= self._jobs_count:
                self._refused += 1
                raise LimitExceeded("offload queue", jobs_count + 1, self._jobs_count)
            self._submitted += 1
            self._queue.append(job)
            # An idle thread counts as idle until it has taken its work: one that is woken but has not run yet
            # must not be counted on twice.
            wants_thread = len(self._queue) > self._idle and self._threads < self._threads_count
            if wants_thread:
                self._threads += 1
            else:
                self._changed.notify()
        if wants_thread:
            self._start_thread(job)

    def _start_thread(self, job: _Job) -> None:
        """Start one more thread; without any, take the work back."""
        try:
            threading.Thread(target=self._work, name="sojourn-offload", daemon=True).start()
        except RuntimeError as error:
            with self._changed:
                self._threads -= 1
                if self._threads > 0:
                    return
                self._queue.remove(job)
            raise BackendUnavailable(BACKEND, 0.0, "no thread can be started") from error

    def _give_up(self, job: _Job) -> None:
        """Stop waiting for work whose deadline passed; called by its loop's timer."""
        if self._abandon(job, cancelled=False):
            job.wake()

    def _abandon(self, job: _Job, *, cancelled: bool) -> bool:
        """Take the work out of the queue, or drop its outcome; false where it has ended already."""
        with self._changed:
            if job.state >= _DONE:
                return False
            if job.state == _WAITING:
                self._queue.remove(job)
            job.state = _ABANDONED
            if cancelled:
                self._cancelled += 1
            else:
                self._timed_out += 1
            return True

    def _work(self) -> None:
        """Take work from the queue until the pool closes: the life of one thread."""
        changed = self._changed
        while True:
            with changed:
                self._idle += 1
                while not self._queue and not self._closing:
                    changed.wait()
                self._idle -= 1
                if not self._queue:
                    self._leave()
                    return
                job = self._queue.popleft()
                job.state = _RUNNING
                self._running += 1
            self._perform(job)
            # An idle thread that keeps its last job in a local name keeps its arguments alive: passwords too.
            del job

    def _perform(self, job: _Job) -> None:
        """Do the work and tell who waits for it."""
        result, error = None, None
        began = self._clock()
        try:
            result = job.function(*job.args)
        # Whatever it is belongs to the caller; the thread lives on.
        except BaseException as raised:  # noqa: BLE001
            error = raised
        took_s = self._clock() - began
        with self._changed:
            self._running -= 1
            self._busy_s += took_s
            self._failed += error is not None
            wanted = job.state == _RUNNING
            if wanted:
                job.state, job.result, job.error = _DONE, result, error
        # An error's traceback holds this frame: cut the circle here too.
        del result, error
        if wanted:
            _call(job.loop, job.wake)

    def _leave(self) -> None:
        """Count this thread out and tell those who wait for the last one; called with the lock held."""
        self._threads -= 1
        if self._threads == 0:
            for loop, drained in self._drained:
                _call(loop, _settle, drained)
            self._drained.clear()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[*Ts], object], *args: *Ts) -> None:
    """Call in the loop's thread; a loop that is closed has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)
