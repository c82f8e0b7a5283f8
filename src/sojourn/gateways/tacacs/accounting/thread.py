"""A thread of its own for each sink that blocks, so that a slow disk never holds up the loop or another sink.

Knows nothing of what the sink does. A plain executor was not used because its threads are waited for at the
interpreter's exit: a disk that hangs would keep the daemon from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from sojourn.errors import BackendUnavailable
from sojourn.gateways.tacacs.accounting.record import Record

_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class BlockingSink(Protocol):
    """What :class:`ThreadSink` runs: the same as ``Sink``, in plain calls that may block."""

    kind: str
    warning: str

    @property
    def name(self) -> str:
        """Its configured name."""

    def open(self) -> bool:
        """Get ready to store, and tell whether that proves that storing works."""

    def store(self, records: Sequence[Record]) -> None:
        """Store all the records."""

    def close(self) -> None:
        """Release what ``open`` took."""


class ThreadSink:
    """A blocking sink as an asynchronous one; its thread lives from ``open`` to ``close``."""

    def __init__(self, sink: BlockingSink) -> None:
        self._sink = sink
        self._jobs: SimpleQueue[_Job | None] | None = None
        self._is_busy = False

    @property
    def name(self) -> str:
        """Its configured name."""
        return self._sink.name

    @property
    def kind(self) -> str:
        """The blocking sink's kind."""
        return self._sink.kind

    @property
    def warning(self) -> str:
        """The blocking sink's warning."""
        return self._sink.warning

    async def open(self) -> bool:
        """Open the sink in its thread."""
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(
                target=_work, args=(self._jobs,), name=f"accounting {self.name}", daemon=True
            ).start()
        is_proven: bool = await self._run(self._sink.open)
        return is_proven

    async def store(self, records: Sequence[Record]) -> None:
        """Store the records in the sink's thread."""
        await self._run(self._sink.store, records)

    async def close(self) -> None:
        """Close the sink in its thread and end the thread."""
        if self._jobs is None:
            return
        jobs, self._jobs = self._jobs, None
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[Any] = loop.create_future()
        # A thread that hangs closes and ends as well, when what it hangs in lets it go.
        jobs.put((self._sink.close, (), closed, loop))
        jobs.put(None)
        is_hanging, self._is_busy = self._is_busy, False
        if not is_hanging:
            await closed

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._jobs is None or self._is_busy:
            raise BackendUnavailable(self.name, 0.0, "still busy with what was asked before")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._is_busy = True
        self._jobs.put((function, args, future, loop))
        result, error = await future
        self._is_busy = False
        if error is not None:
            raise error
        return result


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    """Do the jobs one after the other; the body of the thread."""
    while (job := jobs.get()) is not None:
        function, args, future, loop = job
        result, error = None, None
        try:
            result = function(*args)
        except Exception as caught:  # noqa: BLE001 - handed to whoever asked
            error = caught
        # The loop may have been closed by a daemon that did not wait for a disk that hung.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if not future.done():
        future.set_result((result, error))
