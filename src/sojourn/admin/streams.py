"""Live streams as server-sent events: what happens on the server, for all who look; one session's trace, for one.

One loop looks at the server for all streams, encodes each message once and puts the same bytes into every reader's
queue; nobody who looks, no loop. A reader's queue is bounded: one that falls behind is dropped with a word instead of
slowing the others down. Knows no protocol.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import msgspec
from aiohttp import web

from sojourn.admin.problems import Kind
from sojourn.admin.values import DroppedTick, EndedTick, MoreTick, SessionTick, TraceTick
from sojourn.web.problems import Refusal

if TYPE_CHECKING:
    from sojourn.admin.config import StreamSettings
    from sojourn.admin.view import Follower, ServerView
    from sojourn.core.watch import Mark

LOOKS_PER_S: Final = 2
"""How often the server is looked at while somebody streams."""
_COMMENT: Final = b": still here\n\n"
_RETRY: Final = b"retry: 2000\n\n"
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
_TOO_SLOW: Final = "the reader was too slow"
_STOPPING: Final = "the server stops"
_LOGGED_OUT: Final = "logged out"

IsWelcome = Callable[[], bool]
"""Says whether who listens may still do so."""


@final
class Stream:
    """What waits for one reader. Always true: never more than its bound; after ``end`` nothing is added."""

    def __init__(self, limit_count: int) -> None:
        self._waiting: deque[bytes] = deque()
        self._limit = limit_count
        self._news = asyncio.Event()
        self.is_over = False

    def put(self, message: bytes) -> None:
        """Add a message; a reader that has too many waiting is dropped."""
        if self.is_over:
            return
        if len(self._waiting) >= self._limit:
            self._waiting.clear()
            self.end(event("dropped", DroppedTick(reason=_TOO_SLOW)))
            return
        self._waiting.append(message)
        self._news.set()

    def end(self, last: bytes = b"") -> None:
        """Let the reader go, with a last message."""
        if not self.is_over:
            self.is_over = True
            if last:
                self._waiting.append(last)
            self._news.set()

    async def next(self, within_s: float) -> bytes:
        """Return all that waits as one piece, or nothing after a while and at the end."""
        if not self._waiting and not self.is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._news.wait()
        self._news.clear()
        piece = b"".join(self._waiting)
        self._waiting.clear()
        return piece


@final
class Streams:
    """All streams of one server of the API.

    Life: made with it; its loop runs while somebody listens to what happens on the server.
    """

    def __init__(self, view: ServerView, settings: StreamSettings) -> None:
        self._view = view
        self._settings = settings
        self._readers: set[Stream] = set()
        self._open: set[Stream] = set()
        self._is_running = False
        self.dropped_count = 0

    @property
    def open_count(self) -> int:
        """Return how many streams are open, of all kinds."""
        return len(self._open)

    def close(self) -> None:
        """End every stream: the server stops."""
        for stream in tuple(self._open):
            stream.end(event("dropped", DroppedTick(reason=_STOPPING)))

    # What happens on the server

    async def serve_all(self, request: web.Request, is_welcome: IsWelcome) -> web.StreamResponse:
        """Tell one reader what happens on the server. Raises: Refusal where there are too many streams."""
        with self._place() as stream:
            self._readers.add(stream)
            try:
                if not self._is_running:
                    self._is_running = True
                    self._view.spawn(self._look_on())
                return await self._send(request, stream, is_welcome)
            finally:
                self._readers.discard(stream)

    async def _look_on(self) -> None:
        """Look at the server until nobody listens any more."""
        marks: Mapping[str, Mark] = {}
        looks = 0
        try:
            while self._readers:
                # News first: whatever happens after a reader has its first overview is told.
                marks = await self._tell_news(marks)
                if looks % LOOKS_PER_S == 0:
                    self._tell(event("overview", await self._view.second()))
                looks += 1
                await asyncio.sleep(1 / LOOKS_PER_S)
        finally:
            self._is_running = False
            for stream in tuple(self._readers):  # a look that failed, or the end of the server
                stream.end(event("dropped", DroppedTick(reason=_STOPPING)))

    async def _tell_news(self, marks: Mapping[str, Mark]) -> Mapping[str, Mark]:
        settings = self._settings
        news = await self._view.news(
            marks,
            max(1, settings.sessions_per_s // LOOKS_PER_S),
            max(1, settings.events_per_s // LOOKS_PER_S),
        )
        messages = [event("session", SessionTick(session=row)) for row in (*news.opened, *news.ended)]
        messages += [event("event", row) for row in news.events]
        if news.more_opened or news.more_ended or news.more_events:
            more = MoreTick(opened=news.more_opened, ended=news.more_ended, events=news.more_events)
            messages.append(event("more", more))
        if messages:
            self._tell(b"".join(messages))
        return news.marks

    def _tell(self, message: bytes) -> None:
        for stream in tuple(self._readers):
            stream.put(message)

    # One session

    async def serve_trace(
        self, request: web.Request, follower: Follower, is_welcome: IsWelcome
    ) -> web.StreamResponse:
        """Tell one reader what happens in a session, until it ends.

        Raises: Refusal where there are too many streams, or the session is forgotten.
        """
        return await self.serve_values(request, _growth(follower), is_welcome)

    async def serve_values(
        self, request: web.Request, values: AsyncIterator[tuple[str, Any]], is_welcome: IsWelcome
    ) -> web.StreamResponse:
        """Send pairs of an event's name and its value as they come. Raises: Refusal, also that of the first value."""
        iterator = aiter(values)
        with self._place() as stream:
            first = await anext(iterator, None)
            if first is None:
                raise Refusal(Kind.NOT_FOUND)
            stream.put(event(*first))
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(_feed(iterator, stream))
                try:
                    return await self._send(request, stream, is_welcome)
                finally:
                    feeding.cancel()

    # Sending

    @contextlib.contextmanager
    def _place(self) -> Any:
        """Give room for one more stream. Raises: Refusal."""
        settings = self._settings
        if len(self._open) >= settings.streams_count:
            raise Refusal(Kind.LIMIT, f"{settings.streams_count} streams are open, the limit")
        stream = Stream(settings.queue_count)
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)

    async def _send(self, request: web.Request, stream: Stream, is_welcome: IsWelcome) -> web.StreamResponse:
        """Write what is put into the stream until it ends, or its reader does."""
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        piece = _RETRY
        while piece and await self._write(request, response, piece):
            piece = await stream.next(self._settings.comment_s) or (b"" if stream.is_over else _COMMENT)
            if piece and not is_welcome():
                stream.end()
                piece = event("dropped", DroppedTick(reason=_LOGGED_OUT))
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, piece: bytes) -> bool:
        """Write a piece; say whether the reader took it."""
        try:
            async with asyncio.timeout(self._settings.write_timeout_s):
                await response.write(piece)
        except TimeoutError:
            self.dropped_count += 1
            if request.transport is not None:
                request.transport.abort()
            return False
        except ConnectionError:
            return False
        return True


async def _feed(values: AsyncIterator[tuple[str, Any]], stream: Stream) -> None:
    """Put each value into the stream, and end it with the last one."""
    try:
        async for name, value in values:
            stream.put(event(name, value))
            if stream.is_over:
                return
    finally:
        stream.end()


async def _growth(follower: Follower) -> AsyncIterator[tuple[str, Any]]:
    """Yield what a session's trace grows by, and how it ended."""
    is_first = True
    while (growth := await follower.look()) is not None:
        if growth.entries or is_first:
            yield "entries", TraceTick(entries=growth.entries, has_gap=growth.has_gap)
            is_first = False
        if growth.session.ended is not None:
            yield "ended", EndedTick(session=growth.session)
            return
        await asyncio.sleep(follower.pause_s)


def event(name: str, value: object) -> bytes:
    """Return one event; JSON has no line break outside of its texts, and none unescaped in them."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(value))
