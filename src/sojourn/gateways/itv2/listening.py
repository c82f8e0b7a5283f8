"""Listening to a session: its notifications as an async iterator, for whoever embeds the gateway."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

import msgspec

if TYPE_CHECKING:
    from sojourn.gateways.itv2.events import Source
    from sojourn.gateways.itv2.messages import Message


class Notification(msgspec.Struct, frozen=True):
    """A message of the panel; ``at_ms`` is unix time."""

    message: Message
    source: Source
    at_ms: int


class Notifications:
    """What one reader has to read yet: an async iterator that ends with the session.

    Life: begins with :meth:`Listeners.listen`, before anything is read of it; who needs it no more drops it. One task
    reads. Always true: at most ``limit_count`` wait; ``lost_count`` older ones were dropped for newer ones.
    """

    __slots__ = ("__weakref__", "_has_ended", "_news", "_waiting", "lost_count")

    def __init__(self, limit_count: int, *, has_ended: bool) -> None:
        self.lost_count = 0
        self._waiting: deque[Notification] = deque(maxlen=limit_count)
        self._has_ended = has_ended
        self._news = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        while not self._waiting:
            if self._has_ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def tell(self, one: Notification) -> None:
        """Keep it until it is read."""
        self.lost_count += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(one)
        self._news.set()

    def end(self) -> None:
        """Let the reader read what is left."""
        self._has_ended = True
        self._news.set()


class Listeners:
    """Whoever reads the notifications of one session.

    Life: made with the session, ended with it. Always true: a reader that is too slow loses the oldest, and holds up
    nobody.

    Args:
        limit_count: notifications that wait for one reader.
    """

    __slots__ = ("_has_ended", "_limit_count", "_readers")

    def __init__(self, limit_count: int) -> None:
        self._limit_count = limit_count
        # Most sessions have no reader, and a set is 1 KiB.
        self._readers: WeakSet[Notifications] | None = None
        self._has_ended = False

    def __len__(self) -> int:
        return len(self._readers or ())

    def listen(self) -> Notifications:
        """Return what comes from now on, until the session ends."""
        reader = Notifications(self._limit_count, has_ended=self._has_ended)
        if self._readers is None:
            self._readers = WeakSet()
        self._readers.add(reader)
        return reader

    def tell(self, one: Notification) -> None:
        """Tell everybody."""
        for reader in tuple(self._readers or ()):
            reader.tell(one)

    def end(self) -> None:
        """Tell everybody that nothing comes any more."""
        self._has_ended = True
        for reader in tuple(self._readers or ()):
            reader.end()
