"""HTTP as the API's listeners speak it: bounds of a request's head, and problems where aiohttp has words of its own.

What is no HTTP never comes to a route; aiohttp would answer it as plain text that quotes the peer, and write the same
into the log. Knows no operation.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from sojourn.admin.config import AdminSettings
from sojourn.web.config import HttpSettings
from sojourn.web.front import problem_response
from sojourn.web.problems import Kind, Refusal

_BOUNDS: Final = HttpSettings()
"""Those of the gateways' own HTTP, at their defaults."""


class _Protocol(RequestHandler):
    """aiohttp's protocol without its words, and with the bounds that it has none of. Life: of one connection."""

    __slots__ = ("_head_deadline", "_settings")

    def __init__(self, settings: AdminSettings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or end it where there are too many; a first head must come soon."""
        settings = self._settings
        if self._manager is not None and len(self._manager.connections) >= settings.connections_count:
            cast("asyncio.Transport", transport).abort()
            return
        super().connection_made(transport)
        # Of any later head aiohttp's own keep-alive is the deadline.
        self._head_deadline = self._loop.call_later(settings.head_timeout_s, self.force_close)

    def data_received(self, data: bytes) -> None:
        """Parse; the first whole head ends its deadline."""
        super().data_received(data)
        if self._messages and self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def connection_lost(self, error: BaseException | None) -> None:
        """Forget the deadline."""
        if self._head_deadline is not None:
            self._head_deadline.cancel()
        super().connection_lost(error)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - the table of problems says it
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the peer
    ) -> web.StreamResponse:
        """Answer what never came to a route with a problem; the connection ends."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was under way already")
        kind = Kind.INTERNAL
        if isinstance(exc, HttpProcessingError):
            kind = Kind.LONG_HEADERS if isinstance(exc, LineTooLong) else Kind.MALFORMED
        response = problem_response(Refusal(kind))
        response.headers.update(
            {"Cache-Control": "no-store", "Server": "sojourn", "X-Content-Type-Options": "nosniff"}
        )
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Say nothing: what goes wrong behind a route is told there, and anything else is the peer's mistake."""


class Runner(web.AppRunner):
    """Runs one application of the API; its listeners speak what is above."""

    def __init__(self, app: web.Application, settings: AdminSettings, *, shutdown_timeout_s: float) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout_s)
        self._settings = settings

    @property
    def server(self) -> Any:
        """Return what makes a protocol for each connection; None before the set-up."""
        server = super().server
        if server is None:
            return None
        return functools.partial(
            _Protocol,
            self._settings,
            server,
            loop=server._loop,  # noqa: SLF001 - the one that aiohttp gives its own protocols
            keepalive_timeout=_BOUNDS.keep_alive_timeout_s,
            max_line_size=_BOUNDS.line_limit_bytes,
            max_field_size=_BOUNDS.header_limit_bytes,
            max_headers=_BOUNDS.headers_count,
            lingering_time=_BOUNDS.linger_timeout_s,
            auto_decompress=False,
            access_log=None,
        )
