"""The other end of the control socket: asks a running server what it knows, and gives it orders.

Knows no terminal. Life: one per command, ``async with``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import aiohttp
import msgspec

from sojourn.admin.serving import stranger_of
from sojourn.admin.values import LoginLink
from sojourn.admin.view import Page, SessionRow, Trace
from sojourn.errors import BackendUnavailable, ConfigError, Problem

T = TypeVar("T")

SERVER = "the server's control socket"
_TIMEOUT_S = 30.0


class ControlClient:
    """A connection to the control socket of one server.

    Raises: every method raises BackendUnavailable if nobody answers there or the order was refused.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the client; the first request connects."""
        self._check_owner()
        self._http = aiohttp.ClientSession(
            "http://sojourn",
            connector=aiohttp.UnixConnector(path=os.fspath(self._socket)),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
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
        return _decode(await self._expect("GET", "/api/v1/sessions", shown), Page)

    async def find_session(self, session_id: str) -> SessionRow | None:
        """Return one session, or nothing if the server does not remember it."""
        body = await self._ask("GET", f"/api/v1/sessions/{session_id}")
        return None if body is None else _decode(body, SessionRow)

    async def ask_gateway(
        self, gateway: str, method: str, path: str, kind: type[T], body: object = None
    ) -> T | None:
        """Return the answer of an operation of a gateway's page; nothing if the server has no such gateway."""
        given = None if body is None else msgspec.json.encode(body)
        answer = await self._ask(method, f"/api/v1/panels/{gateway}{path}", given=given)
        return None if answer is None else _decode(answer, kind)

    async def order_gateway(self, gateway: str, method: str, path: str) -> bool:
        """Give an order of a gateway's page that has no answer; return whether there was anybody to take it."""
        return await self._ask(method, f"/api/v1/panels/{gateway}{path}") is not None

    async def close_session(self, session_id: str) -> bool:
        """End one session; return whether it was open."""
        return await self._ask("DELETE", f"/api/v1/sessions/{session_id}") is not None

    async def trace(self, session_id: str) -> Trace | None:
        """Return what was recorded of a session."""
        body = await self._ask("GET", f"/api/v1/sessions/{session_id}/trace")
        return None if body is None else _decode(body, Trace)

    async def login_link(self, name: str, scope: str) -> LoginLink:
        """Return a new link that lets a browser in, once."""
        body = msgspec.json.encode({"name": name, "scope": scope})
        return _decode(await self._expect("POST", "/api/v1/login-links", body=body), LoginLink)

    async def order(self, what: Literal["drain", "reload"]) -> None:
        """Give an order. Raises: ConfigError if a reload found problems."""
        await self._expect("POST", f"/api/v1/{what}")

    async def _expect(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        answer = await self._ask(method, path, query, body)
        if answer is None:
            raise BackendUnavailable(SERVER, 0.0, f"it does not know {path}")
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
            async with self._http.request(method, path, params=query, data=given, headers=headers) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            after_s = time.monotonic() - began
            raise BackendUnavailable(SERVER, after_s, self._cause(error)) from error
        if answer.status == 404:  # noqa: PLR2004 - an HTTP status
            return None
        if answer.ok:
            return body
        refusal = _decode(body, dict[str, Any])
        if problems := refusal.get("problems"):
            raise ConfigError([Problem(**problem) for problem in problems])
        words = ": ".join(text for text in (refusal.get("title"), refusal.get("detail")) if text)
        raise BackendUnavailable(SERVER, time.monotonic() - began, words)

    def _check_owner(self) -> None:
        try:
            stranger = stranger_of(self._socket)
        except OSError as error:
            raise BackendUnavailable(SERVER, 0.0, self._cause(error)) from error
        if stranger is not None:
            raise BackendUnavailable(SERVER, 0.0, f"{self._socket} belongs to user {stranger}")

    def _cause(self, error: Exception) -> str:
        number = getattr(error, "errno", None)
        return f"{self._socket}: {os.strerror(number) if number else type(error).__name__}"


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BackendUnavailable(SERVER, 0.0, "an answer of another version of Sojourn") from error
