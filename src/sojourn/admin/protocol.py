"""HTTP as the API's listeners speak it: bounds of a request's head, and problems where aiohttp has words of its own.

What is no HTTP never comes to a route; aiohttp would answer it as plain text that quotes the peer, and write the same
into the log. Knows no operation.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from sojourn.web.config import HttpSettings
from sojourn.web.front import problem_response
from sojourn.web.problems import Kind, Refusal

_BOUNDS: Final = HttpSettings()
"""Those of the gateways' own HTTP, at their defaults."""


class _Protocol(RequestHandler):
    """aiohttp's protocol without its words. Life: of one connection."""

    __slots__ = ()

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

    @property
    def server(self) -> Any:
        """Return what makes a protocol for each connection; None before the set-up."""
        server = super().server
        if server is None:
            return None
        return functools.partial(
            _Protocol,
            server,
            loop=server._loop,  # noqa: SLF001 - the one that aiohttp gives its own protocols
            keepalive_timeout=_BOUNDS.keep_alive_timeout_s,
            max_line_size=_BOUNDS.line_limit_bytes,
            max_field_size=_BOUNDS.header_limit_bytes,
            max_headers=_BOUNDS.headers_count,
            lingering_time=_BOUNDS.linger_timeout_s,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say "none"
        )
