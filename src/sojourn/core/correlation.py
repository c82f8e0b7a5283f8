"""PendingTable: commands that wait for the answer that names them.

One table per session serves every kind of command; knows nothing of messages. Deadlines are stamps that the
sweep compares, so that a pending command costs no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from sojourn.errors import LocalProtocolError


class PendingTable:
    """Futures by key, each with a deadline on the monotonic clock.

    Always true: a key is here exactly as long as its future is undone.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[Hashable, tuple[asyncio.Future[Any], float]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self, key: Hashable, deadline: float, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """Register ``key`` and return the future that its answer completes.

        Raises: LocalProtocolError if ``key`` is pending already: two commands must not share an answer.
        """
        known = self._pending.get(key)
        if known is not None and not known[0].done():
            raise LocalProtocolError(
                f"a second pending command {key!r}", "one at a time", "PendingTable.expect"
            )
        future: asyncio.Future[Any] = loop.create_future()
        self._pending[key] = (future, deadline)
        return future

    def complete(self, key: Hashable, answer: Any) -> bool:
        """Complete ``key`` with ``answer``; False if it is unknown, timed out or cancelled."""
        entry = self._pending.pop(key, None)
        if entry is None or entry[0].done():
            return False
        entry[0].set_result(answer)
        return True

    def fail(self, key: Hashable, error: BaseException) -> bool:
        """Raise ``error`` where ``key`` is awaited; False if nobody does."""
        entry = self._pending.pop(key, None)
        if entry is None or entry[0].done():
            return False
        _raise_in(entry[0], error)
        return True

    def fail_all(self, error: BaseException) -> int:
        """Raise ``error`` in everything that is pending; return how much that was."""
        return sum(self.fail(key, error) for key in tuple(self._pending))

    def sweep(self, now: float) -> None:
        """Raise TimeoutError in what is past its deadline."""
        for key, (_, deadline) in tuple(self._pending.items()):
            if now >= deadline:
                self.fail(key, TimeoutError(f"no answer for {key!r}"))


def _raise_in(future: asyncio.Future[Any], error: BaseException) -> None:
    future.set_exception(error)
    future.exception()  # retrieved: an author who never awaits the future causes no complaint of the loop
