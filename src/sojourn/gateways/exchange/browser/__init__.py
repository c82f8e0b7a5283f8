"""What browsers get from the gateway itself: ``sojourn.js``, the client, and a trading desk to try it on.

Four small files, served from memory, each with its hash; no template, nothing of a request in them. They are no secret:
whoever trades has to show a token to the API.

Source: exchange-session-service.md section 5.3; CSP Level 3; RFC 9110 section 13.1.2 (If-None-Match).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Final, NamedTuple

from aiohttp import web

FILES: Final = {
    "/": ("desk.html", "text/html"),
    "/v1/desk.css": ("desk.css", "text/css"),
    "/v1/desk.js": ("desk.js", "text/javascript"),
    "/v1/sojourn.js": ("sojourn.js", "text/javascript"),
}
"""Path, file and media type of what is served."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the desk may do: load its own files, talk to its own server. A script that somebody slips in runs nowhere."""


class BrowserFile(NamedTuple):
    """One file, as it is sent."""

    content: bytes
    media_type: str
    etag: str


def browser_file(path: str) -> BrowserFile:
    """Return what is served at one of ``FILES``."""
    name, media_type = FILES[path]
    content = files(__name__).joinpath(name).read_bytes()
    return BrowserFile(content, media_type, hashlib.sha256(content).hexdigest()[:32])


def browser_routes() -> Iterable[web.RouteDef]:
    """Return a route for each file, which is read once."""
    return [_route(path, browser_file(path)) for path in FILES]


def _route(path: str, file: BrowserFile) -> web.RouteDef:
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY, "ETag": f'"{file.etag}"'}

    async def serve(request: web.Request) -> web.Response:
        if any(known.value in (file.etag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.content, content_type=file.media_type, charset="utf-8", headers=headers)

    return web.get(path, serve)
