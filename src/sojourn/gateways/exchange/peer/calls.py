"""Calls: a client's HTTP towards one or several servers of an exchange gateway: requests, event streams, upgrades.

Every call has a deadline. Within it, what may be repeated without doing it twice is repeated: at another server where
one cannot be reached, later where one says when, with a new token where the old one is refused. Knows no operation.

Source: exchange-session-service.md sections 5.3 and 5.4; RFC 9457 (problems); RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import asyncio
import random as _random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import aiohttp
import msgspec

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, RemoteProtocolError, SojournError
from sojourn.gateways.exchange.peer.returning import Returning, Verdict, retry_after_of
from sojourn.gateways.exchange.problems import TYPE_PREFIX, Problem

T = TypeVar("T")
Token = Secret | Callable[[], Awaitable[Secret]]
"""A token, or where a new one is to be had when the old one is refused."""
Sleep = Callable[[float], Awaitable[object]]

NAME: Final = "the exchange gateway"
_SOURCE: Final = "exchange-session-service.md section 5.3"
_LARGEST_MESSAGE_BYTES: Final = 2**24
_CLOSE_TIMEOUT_S: Final = 2.0
_REFUSED_TOKENS_COUNT: Final = 2
"""New tokens that may be refused one after the other before we believe it."""
_AGAIN: Final = frozenset({"in_progress", "outcome_unknown", "too_many_requests", "unavailable"})
_OTHER_SERVER: Final = frozenset({502, 503, 504})
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of an upgrade that another try may not meet again."""


class Declined(SojournError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """The server has understood, and says no.

    Args:
        code: the problem's type over REST, the error's code on a WebSocket.
        detail: in the server's words.
        status: of HTTP; 0 on a WebSocket.
        retry_after_s: when it may be tried again, where that may help.
    """

    def __init__(self, code: str, detail: str = "", *, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}{f' ({status})' if status else ''}{': ' if detail else ''}{detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s


class Socket(aiohttp.ClientWebSocketResponse[Literal[True]]):
    """A WebSocket that can also be cut, as networks do it: without a close frame."""

    def cut(self) -> None:
        """End the connection now."""
        self._response.close()


class Calls:
    """What a client asks of whichever server is there.

    Life: opened and closed with its client. Always true: a token is in a header, never in a URL.

    Args:
        endpoints: base URLs, such as ``http://127.0.0.1:8090``; one after the other is tried.
        token: who we are.
        tls: a context of :func:`sojourn.core.tls.client_context` for ``https`` endpoints, None for the system's.
        timeout_s: of a whole call, repetitions included.
        random: a number in [0, 1), for waits.
        sleep: waits between two tries.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        token: Token,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        random: Callable[[], float] = _random.random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not endpoints:
            raise ValueError("found no endpoint, wanted at least one base URL")
        self.timeout_s = timeout_s
        self.random = random
        self.sleep = sleep
        self._endpoints = tuple(one.rstrip("/") for one in endpoints)
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._token_source = token
        self._token: Secret | None = token if isinstance(token, Secret) else None
        self._refused_count = 0
        self._current = 0
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready; connects to nobody yet."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            ws_response_class=Socket,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    @property
    def endpoint(self) -> str:
        """The server that is asked next."""
        return self._endpoints[self._current]

    def go_elsewhere(self) -> None:
        """Ask the next server from now on."""
        self._current = (self._current + 1) % len(self._endpoints)

    # Tokens

    async def headers(self) -> dict[str, str]:
        """Return who we are, for a request's headers."""
        token = self._token
        if token is None and not isinstance(self._token_source, Secret):
            token = self._token = await self._token_source()
        return {"Authorization": f"Bearer {token.reveal()}"} if token is not None else {}

    def renew_token(self) -> bool:
        """Take another token next time; False where there is none, or none that is believed."""
        self._refused_count += 1
        if isinstance(self._token_source, Secret) or self._refused_count > _REFUSED_TOKENS_COUNT:
            return False
        self._token = None
        return True

    def token_is_good(self) -> None:
        """Take note that the server has let us in."""
        self._refused_count = 0

    # Requests

    async def ask(
        self,
        method: str,
        path: str,
        into: type[T],
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        key: str = "",
    ) -> T:
        """Send a request, and return what is answered.

        Args:
            key: of idempotency; a POST without one is not repeated once a server may have it.
        Raises: Declined, BackendUnavailable, RemoteProtocolError.
        """
        raw = await self._within_deadline(
            method, path, query, None if body is None else msgspec.json.encode(body), key
        )
        try:
            return msgspec.json.decode(raw or b"null", type=into)
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(str(error), f"an answer to {method} {path}", _SOURCE) from error

    async def _within_deadline(
        self, method: str, path: str, query: Mapping[str, str | int] | None, body: bytes | None, key: str
    ) -> bytes:
        """Try until it is answered. Raises: Declined, BackendUnavailable."""
        returning = Returning(self.random)
        latest: SojournError | None = None
        may_repeat = method != "POST" or bool(key)
        try:
            async with asyncio.timeout(self.timeout_s):
                while True:
                    try:
                        return await self._once(method, path, query, body, key)
                    except Declined as declined:
                        latest = declined
                        if declined.status == 401 and self.renew_token():  # noqa: PLR2004 - the status
                            continue
                        if declined.code not in _AGAIN and declined.status not in _OTHER_SERVER:
                            raise
                        if declined.status in _OTHER_SERVER:
                            self.go_elsewhere()
                    except aiohttp.ClientConnectorError as error:
                        latest = BackendUnavailable(self.endpoint, 0.0, _words(error))
                        self.go_elsewhere()
                    except (aiohttp.ClientError, OSError) as error:
                        latest = BackendUnavailable(self.endpoint, 0.0, _words(error))
                        self.go_elsewhere()
                        if not may_repeat:
                            raise latest from error
                    if isinstance(latest, Declined) and not may_repeat:
                        raise latest
                    after_s = latest.retry_after_s if isinstance(latest, Declined) else 0.0
                    await self.sleep(returning.delay_s(Verdict(str(latest), after_s=after_s)))
        except TimeoutError:
            cause = str(latest) if latest is not None else "no answer in time"
            raise BackendUnavailable(NAME, self.timeout_s, cause) from latest

    async def _once(
        self, method: str, path: str, query: Mapping[str, str | int] | None, body: bytes | None, key: str
    ) -> bytes:
        headers = await self.headers()
        if body is not None:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Idempotency-Key"] = f'"{key}"'
        async with self._session.request(
            method, self.endpoint + path, params=query, data=body, headers=headers, allow_redirects=False
        ) as response:
            raw = await response.read()
            if not response.ok:
                raise _declined(response.status, raw, response.headers.get("Retry-After"))
            self.token_is_good()
            return raw

    async def stream(self, path: str) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield server-sent events as name and data, until the server ends the stream.

        Raises: Declined, BackendUnavailable.
        Source: WHATWG HTML, "Server-sent events".
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_s, sock_read=None)
        try:
            async with self._session.get(
                self.endpoint + path, headers=await self.headers(), timeout=timeout, allow_redirects=False
            ) as response:
                if not response.ok:
                    raw = await response.read()
                    raise _declined(response.status, raw, response.headers.get("Retry-After"))
                name = data = b""
                async for line in response.content:
                    field, _, value = line.rstrip(b"\r\n").partition(b":")
                    match field:
                        case b"event":
                            name = value.strip()
                        case b"data":
                            data = value.strip()
                        case b"" if data:
                            yield name.decode(), data
                            name = data = b""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BackendUnavailable(self.endpoint, 0.0, _words(error)) from error

    # WebSockets

    async def dial(
        self, path: str, *, query: Mapping[str, str], protocols: Sequence[str], with_token: bool
    ) -> Socket | Verdict:
        """Return an open WebSocket; or why there is none, and how to try again.

        Raises: Declined if trying again would not help.
        """
        try:
            headers = await self.headers() if with_token else {}
            async with asyncio.timeout(self.timeout_s):
                socket = await self._session.ws_connect(
                    self.endpoint + path,
                    params=query,
                    protocols=protocols,
                    headers=headers,
                    autoping=True,
                    compress=0,
                    max_msg_size=_LARGEST_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            return self._turned_away(error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Verdict(f"{self.endpoint}: {_words(error)}", is_elsewhere=True)
        if not isinstance(socket, Socket) or socket.protocol != protocols[0]:
            await socket.close()
            raise Declined("bad_subprotocol", f"the server does not speak {protocols[0]}")
        self.token_is_good()
        return socket

    def _turned_away(self, error: aiohttp.WSServerHandshakeError) -> Verdict:
        """Return what a refused upgrade means. Raises: Declined."""
        status, why = error.status, f"the upgrade was answered with {error.status}"
        if status == 401:  # noqa: PLR2004 - the status
            if not self.renew_token():
                raise Declined("invalid_token", "the server refuses the token", status=status)
            return Verdict(why)
        after_s = retry_after_of(error.headers.get("Retry-After") if error.headers else None)
        if status not in _LATER:
            raise Declined("not_found" if status == 404 else "refused", why, status=status)  # noqa: PLR2004 - the status
        return Verdict(why, after_s=after_s, is_elsewhere=status in _OTHER_SERVER)

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the client is not open: use it as `async with`")
        return self._http


def _declined(status: int, raw: bytes, retry_after: str | None) -> Declined:
    """Return a refusal as it was answered; what is no problem of ours has its status only."""
    after_s = retry_after_of(retry_after)
    try:
        problem = msgspec.json.decode(raw, type=Problem)
    except msgspec.DecodeError:
        return Declined("refused", f"status {status} without a word", status=status, retry_after_s=after_s)
    words = [problem.title, problem.detail, *(f"{one.field}: {one.problem}" for one in problem.errors)]
    if problem.reason:
        words.append(f"reason {problem.reason}")
    return Declined(
        problem.type.removeprefix(TYPE_PREFIX),
        "; ".join(word for word in words if word),
        status=status,
        retry_after_s=problem.retry_after_s or after_s,
    )


def _words(error: BaseException) -> str:
    """Return what went wrong below HTTP, in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"
