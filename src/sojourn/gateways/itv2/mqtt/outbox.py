"""What waits to be published: the newest state of each topic, and a bounded number of events.

Three lanes, taken in this order: states that have just changed; events and results; the rest, which is everything anew
after a connect. A state's body is made when its turn comes: it is always the newest, however often it has changed.
Knows nothing of brokers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from sojourn.core.clock import Clock, monotonic

BULK_ROOM_COUNT: Final = 256
"""So many states may wait in the last lane before whoever fills it should wait too."""


class Outgoing(msgspec.Struct, gc=False):
    """One message; ``make`` gives its body when it is sent. ``is_state``: it is the last word on its topic.

    ``at`` (monotonic seconds) and ``number`` (from 1) are those of an event.
    """

    topic: str
    make: Callable[[], bytes]
    is_state: bool
    at: float = 0.0
    number: int = 0


class Outbox:
    """The lanes.

    Life: one per publisher; it outlives connections. Always true: a topic waits once, and as many permits are free as
    messages wait.

    Args:
        events_limit_count: events and results that may wait; then the oldest are dropped and counted.
        events_keep_s: how long they may wait; older ones are dropped and counted when their turn comes.
        clock: monotonic seconds.
    """

    def __init__(self, events_limit_count: int, events_keep_s: float, clock: Clock = monotonic) -> None:
        self._urgent: dict[str, Outgoing] = {}
        self._events: deque[Outgoing] = deque()
        self._bulk: dict[str, Outgoing] = {}
        self._limit = events_limit_count
        self._keep_s = events_keep_s
        self._clock = clock
        self._number = 0
        self._waiting = asyncio.Semaphore(0)
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.dropped_count = 0

    def __len__(self) -> int:
        return len(self._urgent) + len(self._events) + len(self._bulk)

    def put_state(self, topic: str, make: Callable[[], bytes], *, is_last: bool = False) -> None:
        """Let a topic's newest state be sent soon; where it waits already it keeps its place, unless ``is_last``."""
        if topic in self._urgent and not is_last:
            self._urgent[topic].make = make
            return
        if self._urgent.pop(topic, None) is None and self._from_bulk(topic) is None:
            self._waiting.release()
        self._urgent[topic] = Outgoing(topic, make, is_state=True)

    def put_bulk(self, topic: str, make: Callable[[], bytes]) -> None:
        """Let a topic's newest state be sent when nothing else waits."""
        waiting = self._urgent.get(topic) or self._bulk.get(topic)
        if waiting is not None:
            waiting.make = make
            return
        self._bulk[topic] = Outgoing(topic, make, is_state=True)
        if len(self._bulk) >= BULK_ROOM_COUNT:
            self._has_room.clear()
        self._waiting.release()

    def put_event(self, topic: str, body: bytes) -> None:
        """Let something that happened be sent; each is sent by itself and in order."""
        if len(self._events) >= self._limit:
            self._events.popleft()
            self.dropped_count += 1
        else:
            self._waiting.release()
        self._number += 1
        self._events.append(
            Outgoing(topic, lambda: body, is_state=False, at=self._clock(), number=self._number)
        )

    def put_back(self, outgoing: Outgoing) -> None:
        """Return what could not be sent: an event to its place among the others, a state where there is no newer."""
        if outgoing.is_state:
            if outgoing.topic not in self._urgent:
                self.put_bulk(outgoing.topic, outgoing.make)
        elif len(self._events) < self._limit:
            place = sum(1 for one in islice(self._events, 32) if one.number < outgoing.number)
            self._events.insert(place, outgoing)
            self._waiting.release()
        else:
            self.dropped_count += 1

    async def take(self) -> Outgoing:
        """Wait for the next message and take it."""
        while True:
            await self._waiting.acquire()
            if self._urgent:
                outgoing = self._urgent.pop(next(iter(self._urgent)))
                if not self._urgent:
                    self._urgent.clear()  # a table that was large once would stay so
                return outgoing
            if self._events:
                outgoing = self._events.popleft()
                if self._clock() - outgoing.at <= self._keep_s:
                    return outgoing
                self.dropped_count += 1
                continue
            rest = self._from_bulk(next(iter(self._bulk)))
            assert rest is not None  # noqa: S101  one permit for each that waits
            return rest

    async def room(self) -> None:
        """Wait until the last lane has room again."""
        await self._has_room.wait()

    def _from_bulk(self, topic: str) -> Outgoing | None:
        outgoing = self._bulk.pop(topic, None)
        if len(self._bulk) < BULK_ROOM_COUNT:
            self._has_room.set()
        return outgoing
