"""EventQueue: events on their way from a connection to whoever consumes them, bounded.

A consumer that is too slow hears so, in its place: it gets what was kept, then the error. Nothing waits for it
meanwhile, since answers and heartbeats come on the same connection.
"""

from __future__ import annotations

import asyncio
from collections import deque

from sojourn.errors import LimitExceeded, SojournError
from sojourn.gateways.exchange.peer.mirror import LiveEvent


class EventQueue:
    """One consumer's events.

    Always true: what it gives is without a gap, up to its end.

    Args:
        limit_count: events that may wait.
    """

    def __init__(self, limit_count: int) -> None:
        self._limit_count = limit_count
        self._events: deque[LiveEvent] = deque()
        self._is_over = False
        self._error: SojournError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: LiveEvent) -> None:
        """Append an event; one too many ends the queue."""
        if self._is_over:
            return
        if len(self._events) >= self._limit_count:
            what = "events that nobody has taken; take them faster, or allow more with events_count"
            self.end(LimitExceeded(what, self._limit_count + 1, self._limit_count))
            return
        self._events.append(event)
        self._wake()

    def end(self, error: SojournError | None = None) -> None:
        """Let nothing more in; the consumer hears of the error behind the last event."""
        if not self._is_over:
            self._is_over, self._error = True, error
            self._wake()

    async def get(self) -> LiveEvent | None:
        """Return the next event, or None behind the last.

        Raises: the error that the queue ended with.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._is_over:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._events.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
