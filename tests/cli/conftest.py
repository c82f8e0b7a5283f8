"""A server in a thread of its own, as the commands run loops themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

T = TypeVar("T")
Start = Callable[[], Awaitable[Callable[[], Awaitable[None]]]]


class Background:
    """A loop in a thread; what was started in it is stopped at the end of the test."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def start(self, start: Start) -> None:
        """Await ``start`` in the loop; what it returns is awaited at the end."""
        self._stops.append(asyncio.run_coroutine_threadsafe(self._awaited(start()), self._loop).result(30))

    def stop(self) -> None:
        """Stop everything and end the thread."""
        for stop in self._stops:
            asyncio.run_coroutine_threadsafe(self._awaited(stop()), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._runner.close()

    async def _awaited(self, what: Awaitable[T]) -> T:
        return await what


@pytest.fixture
def background() -> Iterator[Background]:
    """Give a loop in a thread."""
    one = Background()
    yield one
    one.stop()
