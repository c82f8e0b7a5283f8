"""The offload pool: bounded, with a deadline, and work that nobody waits for is never started."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from sojourn.core.offload import OffloadPool
from sojourn.errors import BackendUnavailable, LimitExceeded


class Gate:
    """Work that blocks its thread until the test opens the gate."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.calls = 0

    def work(self):
        self.calls += 1
        self.entered.release()
        assert self.opened.wait(30)
        return "through"

    async def until_entered(self):
        """Wait until one more thread is inside."""
        await asyncio.to_thread(self.entered.acquire)


async def until(condition):
    """Let the loop and the threads go on until the condition holds; the run's deadline bounds it."""
    while not condition():  # noqa: ASYNC110  # what changes, changes in a thread that knows no event of ours
        await asyncio.sleep(0)


def test_the_result_and_the_exception_pass_through(run):
    """What the function returns or raises is what the caller gets."""

    async def main():
        pool = OffloadPool(2, 10, 5.0)
        assert await pool.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        assert pool.counters().failed == 1
        assert await pool.close(5.0) == 0

    run(main())


def test_an_exception_that_futures_refuse_passes_through(run):
    """StopIteration cannot be set on a future; a coroutine turns it into RuntimeError."""

    async def main():
        pool = OffloadPool(1, 1, 5.0)
        with pytest.raises(RuntimeError) as raised:
            await pool.run(next, iter(()))
        assert isinstance(raised.value.__cause__, StopIteration)
        await pool.close(5.0)

    run(main())


def test_a_full_queue_refuses_at_once(run):
    """Threads and queue full: LimitExceeded, and the pool works on when there is room again."""

    async def main():
        pool, gate = OffloadPool(1, 1, 5.0), Gate()
        first = asyncio.ensure_future(pool.run(gate.work))
        await gate.until_entered()
        second = asyncio.ensure_future(pool.run(gate.work))
        await until(lambda: pool.counters().queued)
        with pytest.raises(LimitExceeded) as refused:
            await pool.run(gate.work)
        assert (refused.value.amount, refused.value.limit) == (3, 2)
        gate.opened.set()
        assert await asyncio.gather(first, second) == ["through", "through"]
        assert pool.counters()[:2] == (2, 1)
        await pool.close(5.0)

    run(main())


def test_work_whose_deadline_passes_in_the_queue_is_never_started(run):
    """Nobody waits for it any more, so it leaves the queue at once."""

    async def main():
        pool, gate, late = OffloadPool(1, 1, 30.0), Gate(), Gate()
        first = asyncio.ensure_future(pool.run(gate.work))
        await gate.until_entered()
        with pytest.raises(BackendUnavailable, match=r"deadline of 0\.02 s passed"):
            await pool.run(late.work, within_s=0.02)
        assert pool.counters().queued == 0
        gate.opened.set()
        await first
        await pool.close(5.0)
        assert late.calls == 0
        assert pool.counters().timed_out == 1

    run(main())


def test_work_whose_deadline_passes_while_it_runs_keeps_its_place(run):
    """A thread cannot be stopped: it stays counted until it ends, so the pool's bound holds."""

    async def main():
        pool, gate = OffloadPool(1, 0, 30.0), Gate()
        with pytest.raises(BackendUnavailable):
            await pool.run(gate.work, within_s=0.02)
        assert pool.counters().running == 1
        with pytest.raises(LimitExceeded):
            await pool.run(divmod, 1, 1)
        gate.opened.set()
        await until(lambda: not pool.counters().running)
        assert await pool.run(divmod, 1, 1) == (1, 0)
        await pool.close(5.0)

    run(main())


def test_a_deadline_that_has_passed_starts_nothing(run):
    """Zero seconds are no time to work."""

    async def main():
        pool, gate = OffloadPool(1, 1, 30.0), Gate()
        with pytest.raises(BackendUnavailable):
            await pool.run(gate.work, within_s=0.0)
        await pool.close(5.0)
        assert gate.calls == 0

    run(main())


def test_cancelled_work_is_never_started_if_it_waits(run):
    """Cancellation passes through and the place in the queue is free at once."""

    async def main():
        pool, gate, never = OffloadPool(1, 1, 30.0), Gate(), Gate()
        first = asyncio.ensure_future(pool.run(gate.work))
        await gate.until_entered()
        waiting = asyncio.ensure_future(pool.run(never.work))
        await until(lambda: pool.counters().queued)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool.counters().queued == 0
        gate.opened.set()
        await first
        await pool.close(5.0)
        assert (never.calls, pool.counters().cancelled) == (0, 1)

    run(main())


def test_threads_start_only_as_they_are_needed(run):
    """One call after another needs one thread; calls at once start as many as there may be."""

    async def main():
        pool, gate = OffloadPool(3, 10, 30.0), Gate()
        for _ in range(20):
            await pool.run(divmod, 7, 2)
            await until(lambda: not pool.counters().running)
        assert pool.counters().threads <= 2
        tasks = [asyncio.ensure_future(pool.run(gate.work)) for _ in range(8)]
        for _ in range(3):
            await gate.until_entered()
        assert pool.counters()[5:8] == (3, 5, 3)
        gate.opened.set()
        await asyncio.gather(*tasks)
        await pool.close(5.0)
        assert pool.counters().threads == 0

    run(main())


def test_closing_lets_work_end_and_takes_no_more(run):
    """Drain: what is queued is done, what comes later is refused."""

    async def main():
        pool, gate = OffloadPool(1, 5, 30.0), Gate()
        tasks = [asyncio.ensure_future(pool.run(gate.work)) for _ in range(3)]
        await gate.until_entered()
        closing = asyncio.ensure_future(pool.close(30.0))
        await asyncio.sleep(0)
        with pytest.raises(BackendUnavailable, match="the pool is closed"):
            await pool.run(gate.work)
        gate.opened.set()
        assert await asyncio.gather(*tasks) == ["through"] * 3
        assert await closing == 0
        assert await pool.close(1.0) == 0

    run(main())


def test_closing_gives_up_at_its_deadline(run):
    """Waiting callers get BackendUnavailable; running work is counted and ends its thread when it ends."""

    async def main():
        pool, gate = OffloadPool(1, 5, 30.0), Gate()
        running = asyncio.ensure_future(pool.run(gate.work))
        await gate.until_entered()
        waiting = asyncio.ensure_future(pool.run(gate.work))
        await until(lambda: pool.counters().queued)
        assert await pool.close(0.02) == 1
        with pytest.raises(BackendUnavailable, match="the pool is closed"):
            await waiting
        gate.opened.set()
        assert await running == "through"
        await until(lambda: not pool.counters().threads)
        assert gate.calls == 1

    run(main())


def test_a_loop_that_ended_before_its_work_harms_nobody():
    """The thread finds the loop closed, drops the outcome and serves the next loop."""
    pool, gate = OffloadPool(1, 1, 30.0), Gate()

    async def start_and_leave():
        task = asyncio.ensure_future(pool.run(gate.work))
        await gate.until_entered()
        task.cancel()
        await asyncio.wait([task])

    async def come_back():
        gate.opened.set()
        assert await pool.run(divmod, 7, 2) == (3, 1)
        await pool.close(5.0)

    asyncio.run(start_and_leave())
    asyncio.run(come_back())


def test_nothing_of_ended_work_stays_alive(run):
    """Arguments may be passwords: neither the idle thread nor an exception's traceback keeps them."""

    class Argument:
        pass

    def fail(_argument):
        raise ValueError

    async def main():
        pool = OffloadPool(1, 1, 30.0)
        argument = Argument()
        kept = weakref.ref(argument)
        with contextlib.suppress(ValueError):
            await pool.run(fail, argument)
        del argument
        await until(lambda: not pool.counters().running)
        await until(lambda: kept() is None)
        await pool.close(5.0)

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_busy_seconds_are_counted(run):
    """The clock is read before and after each piece of work."""

    async def main():
        ticks = iter(range(100))
        lock = threading.Lock()

        def clock():
            with lock:
                return float(next(ticks))

        pool = OffloadPool(1, 1, 30.0, clock)
        await pool.run(divmod, 7, 2)
        await pool.close(5.0)
        assert pool.counters().busy_s == 1.0

    run(main())
