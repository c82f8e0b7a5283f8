"""The other end of the control socket, or of the HTTP API: asks a running server what it knows, and gives it orders.

Knows no terminal. Life: one per command, ``async with``.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import aiohttp
import msgspec

from sojourn.admin.serving import stranger_of
from sojourn.admin.values import LoginLink, Overview, Visitor
from sojourn.admin.view import Page, SessionRow, Trace
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, ConfigError, Problem, SojournError

T = TypeVar("T")

SERVER = "the server's control socket"
_TIMEOUT_S = 30.0
_LARGEST_EVENT_BYTES = 16 * 1024 * 1024
"""Of a stream; a trace's first one holds all that the flight recorder kept."""


class Remote(NamedTuple):
    """The HTTP API of a server on TCP: where it is, such as ``https://sojourn.example:9300``, and a token for it."""

    url: str
    token: Secret


class ControlClient:
    """A connection to the control socket of one server, or to its HTTP API.

    ``who`` is what the server is called in errors.

    Raises: every method raises BackendUnavailable if nobody answers there or the order was refused.
    """

    def __init__(self, place: Path | Remote) -> None:
        self._place = place
        self._http: aiohttp.ClientSession | None = None
        self.who = SERVER if isinstance(place, Path) else f"the server at {place.url}"

    async def __aenter__(self) -> Self:
        """Open the client; the first request connects."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        if isinstance(self._place, Path):
            self._check_owner(self._place)
            connector = aiohttp.UnixConnector(path=os.fspath(self._place))
            self._http = aiohttp.ClientSession("http://sojourn", connector=connector, timeout=timeout)
        else:
            headers = {"Authorization": f"Bearer {self._place.token.reveal()}"}
            self._http = aiohttp.ClientSession(
                self._place.url, headers=headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._http is not None:
            await self._http.close()

    async def list_sessions(self, query: Mapping[str, str]) -> Page:
        """Return one page of sessions."""
        shown = {name: value for name, value in query.items() if value}
        return decode(await self._expect("GET", "/api/v1/sessions", shown), Page)

    async def find_session(self, session_id: str) -> SessionRow | None:
        """Return one session, or nothing if the server does not remember it."""
        body = await self._ask("GET", f"/api/v1/sessions/{session_id}")
        return None if body is None else decode(body, SessionRow)

    async def ask_gateway(
        self, gateway: str, method: str, path: str, kind: type[T], body: object = None
    ) -> T | None:
        """Return the answer of an operation of a gateway's page; nothing if the server has no such gateway."""
        given = None if body is None else msgspec.json.encode(body)
        answer = await self._ask(method, f"/api/v1/panels/{gateway}{path}", given=given)
        return None if answer is None else decode(answer, kind)

    async def order_gateway(self, gateway: str, method: str, path: str) -> bool:
        """Give an order of a gateway's page that has no answer; return whether there was anybody to take it."""
        return await self._ask(method, f"/api/v1/panels/{gateway}{path}") is not None

    async def close_session(self, session_id: str) -> bool:
        """End one session; return whether it was open."""
        return await self._ask("DELETE", f"/api/v1/sessions/{session_id}") is not None

    async def trace(self, session_id: str) -> Trace | None:
        """Return what was recorded of a session."""
        body = await self._ask("GET", f"/api/v1/sessions/{session_id}/trace")
        return None if body is None else decode(body, Trace)

    async def overview(self) -> Overview:
        """Return the server in figures, with their last minute."""
        return decode(await self._expect("GET", "/api/v1/overview"), Overview)

    async def visitor(self) -> Visitor:
        """Return who we are to the server, and what we may."""
        return decode(await self._expect("GET", "/api/v1/session"), Visitor)

    async def stream(self, path: str, silence_s: float) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield a stream's events as pairs of name and JSON until the server ends it; at once a pair of empty ones.

        Args: silence_s, after which the line counts as dead; comments break it too.
        Source: WHATWG HTML, "Server-sent events", as the server writes them: a name and one line of data.
        """
        if self._http is None:
            raise RuntimeError("use it with: async with")
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
        try:
            async with self._http.get(f"/api/v1{path}", timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:  # noqa: PLR2004 - an HTTP status
                    raise self._refusal(await answer.read(), began)
                yield "", b""
                waiting = b""
                async for piece in answer.content.iter_any():
                    *whole, waiting = (waiting + piece).split(b"\n\n")
                    if len(waiting) > _LARGEST_EVENT_BYTES:
                        raise BackendUnavailable(self.who, time.monotonic() - began, "an event without end")
                    for message in whole:
                        fields = dict(line.partition(b": ")[::2] for line in message.split(b"\n"))
                        if b"event" in fields:
                            yield fields[b"event"].decode(), fields.get(b"data", b"")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BackendUnavailable(self.who, time.monotonic() - began, self._cause(error)) from error

    async def login_link(self, name: str, scope: str) -> LoginLink:
        """Return a new link that lets a browser in, once."""
        body = msgspec.json.encode({"name": name, "scope": scope})
        return decode(await self._expect("POST", "/api/v1/login-links", body=body), LoginLink)

    async def order(self, what: Literal["drain", "reload"]) -> None:
        """Give an order. Raises: ConfigError if a reload found problems."""
        await self._expect("POST", f"/api/v1/{what}")

    async def _expect(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        answer = await self._ask(method, path, query, body)
        if answer is None:
            raise BackendUnavailable(self.who, 0.0, f"it does not know {path}")
        return answer

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, given: bytes | None = None
    ) -> bytes | None:
        """Make one request; return its body, or nothing for 404."""
        if self._http is None:
            raise RuntimeError("use it with: async with")
        began = time.monotonic()
        headers = {} if given is None else {"Content-Type": "application/json"}
        try:
            async with self._http.request(
                method, path, params=query, data=given, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            after_s = time.monotonic() - began
            raise BackendUnavailable(self.who, after_s, self._cause(error)) from error
        if answer.status == 404:  # noqa: PLR2004 - an HTTP status
            return None
        if answer.ok:
            return body
        raise self._refusal(body, began)

    def _refusal(self, body: bytes, began: float) -> SojournError:
        """Return what a server's problem+json (RFC 9457) means."""
        refusal = decode(body, dict[str, Any])
        if problems := refusal.get("problems"):
            return ConfigError([Problem(**problem) for problem in problems])
        words = ": ".join(text for text in (refusal.get("title"), refusal.get("detail")) if text)
        return BackendUnavailable(self.who, time.monotonic() - began, words)

    def _check_owner(self, socket: Path) -> None:
        try:
            stranger = stranger_of(socket)
        except OSError as error:
            raise BackendUnavailable(SERVER, 0.0, self._cause(error)) from error
        if stranger is not None:
            raise BackendUnavailable(SERVER, 0.0, f"{socket} belongs to user {stranger}")

    def _cause(self, error: Exception) -> str:
        number = getattr(error, "errno", None)
        cause = os.strerror(number) if number and number > 0 else type(error).__name__
        return f"{self._place}: {cause}" if isinstance(self._place, Path) else cause


def decode(body: bytes, kind: type[T]) -> T:
    """Read a value of the API. Raises: BackendUnavailable if it is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BackendUnavailable(SERVER, 0.0, "an answer of another version of Sojourn") from error
