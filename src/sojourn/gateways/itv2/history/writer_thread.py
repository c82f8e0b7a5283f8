"""A thread that does one thing after another, so that a slow disk never holds up the loop.

A plain executor was not used because its threads are waited for at the interpreter's exit: a disk that hangs would keep
the daemon from ending. Knows nothing of what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Done = Callable[[Any, BaseException | None], None]
"""Called in the loop's thread with the result, or with the error."""

_Job = tuple[Callable[[], Any], Done]


class WriterThread:
    """Calls what it is given, one after the other, and tells the loop what came of it.

    Life: starts with the first job; ends by ``end``, or with the process.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._has_begun = False

    def do(self, function: Callable[[], Any], done: Done) -> None:
        """Call ``function`` there, then ``done`` here."""
        if not self._has_begun:
            self._has_begun = True
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._jobs.put((function, done))

    def end(self) -> None:
        """End the thread when it has done what it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, done = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = function()
            except Exception as caught:  # noqa: BLE001 - handed to whoever asked
                error = caught
            # The loop may have been closed by a daemon that did not wait for a disk that hung.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(done, result, error)
