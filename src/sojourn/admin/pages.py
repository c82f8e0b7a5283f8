"""The dashboard's files: one page, its modules and styles, and the module of each gateway that has a page of its own.

Read once, served from memory, each with its hash; nothing of a request is ever in them, and they are no secret:
whoever looks at sessions has to be logged in. Knows nothing of what the page shows.

Source: CSP Level 3; RFC 9110 section 13.1.2 (If-None-Match).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from aiohttp import web

from sojourn.admin.view import ServerView

POLICY: Final = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: load its own files, talk to its own server. A script that somebody slips in runs nowhere."""
_MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""What is served; anything else in the folder is not."""
_PAGE: Final = "index.html"


class PageFile(NamedTuple):
    """One file, as it is sent."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """Return the dashboard's files by their path inside its folder."""
    return dict(_files_in(files("sojourn.admin").joinpath("dashboard"), ""))


def _files_in(folder: Traversable, path: str) -> Iterator[tuple[str, PageFile]]:
    if not folder.is_dir():
        return
    for one in folder.iterdir():
        if one.is_dir():
            yield from _files_in(one, f"{path}{one.name}/")
        elif (found := _page_file(one)) is not None:
            yield f"{path}{one.name}", found


def _page_file(file: Traversable) -> PageFile | None:
    media_type = _MEDIA_TYPES.get(f".{file.name.rpartition('.')[2]}")
    if media_type is None:
        return None
    content = file.read_bytes()
    return PageFile(content, media_type, hashlib.sha256(content).hexdigest()[:32])


class Pages:
    """What a browser gets besides the API. Life: one per server of the API."""

    def __init__(self, view: ServerView) -> None:
        self._view = view
        self._files = page_files()
        self._panels: dict[str, PageFile] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the page itself, under both of its addresses, and its files."""
        return [
            web.get("/", self._page),
            web.get("/login", self._page),
            web.get("/static/panels/{gateway}.js", self._panel),
            web.get("/static/{path:.+}", self._file),
        ]

    async def _page(self, request: web.Request) -> web.Response:
        """Answer with the page, which no cache may keep: it is what a login link opens."""
        return _answer(request, self._files.get(_PAGE), "no-store")

    async def _file(self, request: web.Request) -> web.Response:
        return _answer(request, self._files.get(request.match_info["path"]), "no-cache")

    async def _panel(self, request: web.Request) -> web.Response:
        gateway = request.match_info["gateway"]
        panel = self._view.panels().get(gateway)
        if panel is not None and gateway not in self._panels:
            found = _page_file(panel.script)
            if found is not None:
                self._panels[gateway] = found
        return _answer(request, self._panels.get(gateway), "no-cache")


def _answer(request: web.Request, file: PageFile | None, caching: str) -> web.Response:
    if file is None:
        raise web.HTTPNotFound
    headers = {"Cache-Control": caching, "Content-Security-Policy": POLICY, "ETag": f'"{file.etag}"'}
    if any(known.value in (file.etag, "*") for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    charset = None if file.media_type.startswith(("image/p", "font/")) else "utf-8"
    return web.Response(body=file.content, content_type=file.media_type, charset=charset, headers=headers)
