"""Workers: the supervisor of processes that share the gateway's listeners by SO_REUSEPORT.

Starts them, starts a crashed one again, passes signals on, and replaces one after the other on SIGUSR2: the new one
listens before the old one stops, and the old one's clients are closed between their transactions. Serves nobody
itself. What a worker knows of the others is :mod:`.worker_link`. Source: postgres-proxy.md sections 6.2 and 6.9.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.core.events import EventKind
from sojourn.gateways.postgres import dial
from sojourn.gateways.postgres.worker_link import KEY_FILE, LOOK_S, VARIABLE, WorkerPlace

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from sojourn.core.events import Events

WORKER_STARTED = EventKind("postgres.worker_started", ("index", "pid"))
"""A worker listens."""
WORKER_LOST = EventKind("postgres.worker_lost", ("index", "pid", "code"), level="error")
"""A worker ended that nobody had told to; it is started again, unless it never got as far as listening."""
WORKER_REPLACED = EventKind("postgres.worker_replaced", ("index", "old_pid", "pid"))
RESTART_FAILED = EventKind("postgres.restart_failed", ("slot", "why"), level="error")
"""A new worker does not start; the others go on. Where one is missing it is tried again."""

READY_S: Final = 60.0
"""How long a worker may take until it listens."""
_PAUSE_MAX_S: Final = 10.0
_STEADY_S: Final = 10.0
"""A worker that lived so long has not failed because of how it was started."""


class _Worker:
    """One process and its place."""

    def __init__(self, place: WorkerPlace, process: Process) -> None:
        self.place = place
        self.process = process
        self.began = monotonic()
        self.gone = asyncio.Event()

    def signal(self, number: int) -> None:
        """Send a signal to a process that may be gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """The parent of all workers.

    Life: ``run`` is the whole process. Always true: ``_workers`` has the worker of each slot, the newest one; slot 0
    is the first worker's. One that was replaced is not in it any more, and is waited for all the same.

    Args:
        count: how many workers.
        command: what starts one; its place is told in the environment.
        environ: of the workers.
        events: where it tells what happens.
    """

    def __init__(
        self, count: int, command: Sequence[str], environ: Mapping[str, str], events: Events
    ) -> None:
        self._count = count
        self._command = tuple(command)
        self._environ = dict(environ)
        self._events = events
        self._workers: dict[int, _Worker] = {}
        self._indexes: set[int] = set()
        self._failures: dict[int, int] = {}
        self._stopping = asyncio.Event()
        self._is_restarting = False
        self._has_started = False
        self._code = 0
        self._tasks: asyncio.TaskGroup
        self._directory = Path()

    async def run(self) -> int:
        """Keep the workers running until SIGTERM or Ctrl-C; return the exit code."""
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self._reload,
            signal.SIGUSR2: self._restart_soon,
        }
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory(prefix="sojourn-workers-") as directory:
            self._directory = Path(directory)
            key = self._directory / KEY_FILE
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(32))
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    await self._start_all()
                    await self._stopping.wait()
            finally:
                for number in handlers:
                    loop.remove_signal_handler(number)
                self._events.flush()
        return self._code

    # Signals

    def stop(self) -> None:
        """Let every worker drain and end; a second time: end now."""
        self._stopping.set()
        self._forward(signal.SIGTERM)

    def _reload(self) -> None:
        self._forward(signal.SIGHUP)

    def _forward(self, number: int) -> None:
        for worker in self._workers.values():
            worker.signal(number)

    def _restart_soon(self) -> None:
        if not self._is_restarting and self._has_started and not self._stopping.is_set():
            self._is_restarting = True
            self._tasks.create_task(self._restart())

    # Workers

    async def _start_all(self) -> None:
        workers = [await self._start(slot) for slot in range(self._count)]
        for worker in workers:
            if not await self._is_ready(worker) and not self._stopping.is_set():
                self._code = worker.process.returncode or 1
                self.stop()
        self._has_started = True

    async def _start(self, slot: int) -> _Worker:
        """Put a new worker into a slot that is free."""
        worker = await self._spawn(slot)
        self._workers[slot] = worker
        if self._stopping.is_set():
            worker.signal(signal.SIGTERM)
        return worker

    async def _spawn(self, slot: int) -> _Worker:
        index = next(one for one in range(256) if one not in self._indexes)
        self._indexes.add(index)
        place = WorkerPlace(index, slot == 0, self._directory)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environ | {VARIABLE: place.variable}
            )
        except OSError:
            self._indexes.discard(index)
            raise
        worker = _Worker(place, process)
        self._tasks.create_task(self._watch(slot, worker))
        return worker

    async def _is_ready(self, worker: _Worker) -> bool:
        """Wait until a worker listens; False if it ends first, or takes too long."""
        while not worker.place.ready_file.exists():
            if worker.gone.is_set() or monotonic() - worker.began > READY_S:
                return False
            await asyncio.sleep(LOOK_S)
        self._events.emit(WORKER_STARTED, None, worker.place.index, worker.process.pid)
        self._events.flush()
        return True

    async def _watch(self, slot: int, worker: _Worker) -> None:
        """Wait for a worker's end, and start another one where nobody wanted it."""
        code = await worker.process.wait()
        place = worker.place
        was_ready = place.ready_file.exists()
        for file in (place.ready_file, place.socket_of(place.index), place.orders_of(place.index)):
            file.unlink(missing_ok=True)
        self._indexes.discard(place.index)
        worker.gone.set()
        if self._workers.get(slot) is not worker or self._stopping.is_set():
            return
        if code == 0:
            self.stop()  # an operator has told it to end, and meant us all
            return
        self._events.emit(WORKER_LOST, None, place.index, worker.process.pid, code)
        self._events.flush()
        if not was_ready and not self._has_started:
            return
        is_steady = monotonic() - worker.began > _STEADY_S
        self._failures[slot] = 0 if is_steady else self._failures.get(slot, 0) + 1
        new = await self._start_surely(slot)
        if new is not None:
            await self._is_ready(new)

    async def _start_surely(self, slot: int) -> _Worker | None:
        """Put a new worker into a slot that is free, however often that takes; None when all are to end."""
        while True:
            await self._pause(slot)
            if self._stopping.is_set():
                return None
            try:
                return await self._start(slot)
            except OSError as error:  # no memory or process left, or the program is just being replaced
                self._failures[slot] = self._failures.get(slot, 0) + 1
                self._tell_failed(slot, dial.in_words(error))

    async def _pause(self, slot: int) -> None:
        """Wait the longer the more often a slot's workers have failed soon after their start, or at it."""
        failures = self._failures.get(slot, 0)
        if failures > 1:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(2.0 ** (failures - 2), _PAUSE_MAX_S)):
                    await self._stopping.wait()

    # The rolling restart

    async def _restart(self) -> None:
        """Replace the workers one after the other, the first one last."""
        try:
            for slot in sorted(self._workers, reverse=True):
                if self._stopping.is_set() or not await self._replace(slot):
                    return
        finally:
            self._is_restarting = False

    async def _replace(self, slot: int) -> bool:
        """Let a new worker take the place of an old one; False if it does not start.

        What only the first worker has can be bound once: it has to end before the next one starts, while the others
        take the new connections.
        """
        old = self._workers[slot]
        if slot == 0:
            del self._workers[slot]
            old.signal(signal.SIGTERM)
            await old.gone.wait()
            first = await self._start_surely(slot)
            if first is None:
                return False
            new = first
        else:
            try:
                new = await self._spawn(slot)
            except OSError as error:
                self._tell_failed(slot, dial.in_words(error))
                return False
        if not await self._is_ready(new):
            self._tell_failed(slot, "it does not listen")
            new.signal(signal.SIGTERM)
            return False
        if slot != 0:
            self._workers[slot] = new
            old.signal(signal.SIGTERM)
        self._events.emit(WORKER_REPLACED, None, new.place.index, old.process.pid, new.process.pid)
        self._events.flush()
        return True

    def _tell_failed(self, slot: int, why: str) -> None:
        self._events.emit(RESTART_FAILED, None, slot, why)
        self._events.flush()


def worker_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of workers: ours, without a place of our own."""
    return {name: value for name, value in environ.items() if name != VARIABLE}
