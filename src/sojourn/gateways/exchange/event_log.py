"""EventLog: the last events of one session, in memory, each in its place.

A mirror: what is in it has been written to the session's durable log before, or came from there. Bounded by number, age
and bytes. Pure; the clock's value is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

import msgspec

from sojourn.errors import LocalProtocolError


class LogEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a session's log.

    ``offset`` counts from 1 within the log's epoch. ``body`` is JSON. ``simulator`` and ``seq`` say which event of
    which simulator it is; empty and 0 for what the session says itself. ``at_ms`` is since 1970.
    """

    offset: int
    type: str
    body: bytes
    at_ms: int
    simulator: str = ""
    seq: int = 0


class EventLog:
    """The end of a session's log.

    Always true: the offsets in it are contiguous; ``last`` is the highest that there ever was in this epoch.

    Args:
        epoch: of the log; another one means that nothing before can be continued.
        last: how many events there were before the first that is put in.
        limit_count: events kept.
        limit_bytes: of their bodies.
        keep_s: how long.
    """

    def __init__(self, epoch: int, last: int, *, limit_count: int, limit_bytes: int, keep_s: float) -> None:
        self.epoch = epoch
        self.last = last
        self._limit_count = limit_count
        self._limit_bytes = limit_bytes
        self._keep_ms = int(keep_s * 1000)
        self._events: deque[LogEvent] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def first(self) -> int:
        """The offset of the oldest event that is kept; one behind the last if none is."""
        return self.last - len(self._events) + 1

    def append(self, event: LogEvent) -> None:
        """Put the next event in.

        Raises: LocalProtocolError if it is not the next one.
        """
        if event.offset != self.last + 1:
            raise LocalProtocolError(f"event {event.offset}", f"event {self.last + 1}", "a session's log")
        self._events.append(event)
        self.last = event.offset
        self._bytes += len(event.body)
        while len(self._events) > self._limit_count or self._bytes > self._limit_bytes:
            self._bytes -= len(self._events.popleft().body)

    def trim(self, now_ms: int) -> None:
        """Forget what is too old."""
        while self._events and now_ms - self._events[0].at_ms > self._keep_ms:
            self._bytes -= len(self._events.popleft().body)

    def has_all_after(self, epoch: int, offset: int) -> bool:
        """Say whether everything behind an offset is here."""
        return epoch == self.epoch and self.first - 1 <= offset <= self.last

    def after(self, offset: int) -> Iterator[LogEvent]:
        """Yield what is kept behind an offset, the oldest first."""
        return islice(self._events, max(offset - self.first + 1, 0), None)
