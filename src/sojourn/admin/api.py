"""The HTTP API of a running server: sessions, traces, metrics, health, reload and drain.

The same application twice: on the control socket, where the file system says who may come in, and on TCP,
where a bearer token does. Knows no gateway by name and no configuration; all it sees is a ``ServerView``.
"""

from __future__ import annotations

import hmac
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from sojourn.admin.openapi import OPERATIONS, document
from sojourn.admin.rendering import trace_mermaid, trace_text
from sojourn.admin.view import (
    LARGEST_PAGE_COUNT,
    LONGEST_ID_CHARACTERS,
    LONGEST_SEARCH_CHARACTERS,
    ServerView,
    SessionQuery,
)
from sojourn.core.secret import Secret
from sojourn.errors import ConfigError, SojournError

_LARGEST_BODY_BYTES = 65_536
_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{LONGEST_ID_CHARACTERS}}}")
_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_STATES = frozenset({"", "open", "finished", "failed"})
_LIMITS = {"gateway": 64, "state": 16, "search": LONGEST_SEARCH_CHARACTERS, "limit": 6, "cursor": 256}

PANELS = "/api/v1/panels"

_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that order nothing."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(NamedTuple):
    """Who may come in over TCP; without a token only health checks are answered."""

    token: Secret | None = None
    metrics_without_token: bool = False


def build_app(view: ServerView, access: Access | None) -> web.Application:
    """Make the application.

    Args: access, or none for a listener that only those can reach who may do everything.
    """
    app = web.Application(
        middlewares=[_audit(view, access), _problems(view), _authentication(access)],
        client_max_size=_LARGEST_BODY_BYTES,
    )
    routes = _Routes(view, access)
    for operation in OPERATIONS:
        app.router.add_route(
            operation.method, operation.path, getattr(routes, operation.handler), name=operation.handler
        )
    app.router.add_route("*", PANELS + "/{gateway}/{path:.*}", routes.panel, name="panel")
    return app


class _Routes:
    """The handlers of one application."""

    def __init__(self, view: ServerView, access: Access | None) -> None:
        self._view = view
        self._access = access

    async def healthz(self, request: web.Request) -> web.Response:
        return self._health(request, self._view.health())

    async def readyz(self, request: web.Request) -> web.Response:
        return self._health(request, self._view.readiness())

    def _health(self, request: web.Request, health: Any) -> web.Response:
        # The parts name backends: only for those who may know them.
        known = self._access is None or _has_token(request, self._access)
        body = health if known else {"ok": health.ok}
        return _json(body, status=200 if health.ok else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        body = (await self._view.metrics_text()).encode()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def openapi(self, _request: web.Request) -> web.Response:
        return _json(document())

    async def list_sessions(self, request: web.Request) -> web.Response:
        try:
            return _json(await self._view.list_sessions(_query(request)))
        except ValueError:
            raise web.HTTPBadRequest(text="cursor: found one that no page gave") from None

    async def find_session(self, request: web.Request) -> web.Response:
        return _json(_present(await self._view.find_session(_session_id(request))))

    async def close_session(self, request: web.Request) -> web.Response:
        session_id = _session_id(request)
        if not await self._view.close_session(session_id):
            raise web.HTTPNotFound(text="no such open session")
        return web.Response(status=204)

    async def trace(self, request: web.Request) -> web.Response:
        form = request.query.get("format", "json")
        if form not in {"json", "mermaid", "text"}:
            raise web.HTTPBadRequest(text="format: wanted json, mermaid or text")
        trace = _present(await self._view.trace(_session_id(request)))
        if form == "json":
            return _json(trace)
        return web.Response(text=trace_mermaid(trace) if form == "mermaid" else trace_text(trace))

    async def panel(self, request: web.Request) -> web.Response:
        """Serve an operation of a gateway's page; only such as need no values in path and query."""
        page = self._view.panels().get(request.match_info["gateway"])
        path = "/" + request.match_info["path"]
        fitting = {
            one.method: one for one in (page.operations if page is not None else ()) if one.path == path
        }
        if not fitting:
            raise web.HTTPNotFound(text="no gateway has such an operation")
        operation = fitting.get(request.method)  # type: ignore[call-overload]  # any method may come
        if operation is None:
            raise web.HTTPMethodNotAllowed(request.method, fitting)
        body = None
        if operation.body is not None:
            try:
                body = msgspec.json.decode(await request.read(), type=operation.body)
            except msgspec.DecodeError:
                raise web.HTTPUnprocessableEntity(
                    text=f"wanted a body of {operation.body.__name__}"
                ) from None
        answer = await operation.serve({}, body)
        if operation.answer is None:
            return web.Response(status=204)
        return _json(_present(answer))

    async def drain(self, _request: web.Request) -> web.Response:
        await self._view.drain()
        return _json({"draining": True}, status=202)

    async def reload(self, _request: web.Request) -> web.Response:
        await self._view.reload()
        return _json({"reloaded": True})


def _audit(view: ServerView, access: Access | None) -> Any:
    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell of every order who gave it and what came of it; the response is ready then, whatever went wrong."""
        response = await handler(request)
        name = request.match_info.route.name
        if request.method not in _READING_METHODS and name is not None:
            what = " ".join((name.replace("_", " "), *request.match_info.values()))
            outcome = "done" if response.status < 400 else f"refused: {response.reason}"  # noqa: PLR2004 - HTTP
            view.note_order(what, _who(request, access), outcome)
        return response

    return audit


def _who(request: web.Request, access: Access | None) -> str:
    """Say who gave an order: over the control socket the kernel knows, over TCP the token does."""
    if access is not None:
        return f"{'the token' if _has_token(request, access) else 'nobody known'} from {request.remote}"
    ours = request.transport.get_extra_info("socket") if request.transport is not None else None
    if ours is None:
        return "a local user"
    credentials = struct.Struct("3i")
    process, user, _ = credentials.unpack(
        ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    )
    return f"local user {user}, process {process}"


def _problems(view: ServerView) -> Any:
    @web.middleware
    async def tell_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn whatever goes wrong into ``application/problem+json`` (RFC 9457), without an exception's text."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            detail = error.text if error.text != f"{error.status}: {error.reason}" else ""
            headers = {
                name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers
            }
            return _problem(error.status, error.reason, detail or "", headers)
        except ConfigError as error:
            problems = [problem._asdict() for problem in error.problems]
            return _problem(422, "Configuration has problems", "the old one stays", problems=problems)
        except Exception as error:  # noqa: BLE001 - the last line of defence: logged, and the peer gets no text of it
            view.note_failure(f"{request.method} {request.path}", error)
            if isinstance(error, SojournError):
                return _problem(503, "Not possible now", "see the server's log")
            return _problem(500, "Internal error", "see the server's log")

    return tell_problems


def _authentication(access: Access | None) -> Any:
    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if access is None or request.path in _OPEN_PATHS or _has_token(request, access):
            return await handler(request)
        if access.metrics_without_token and request.path == "/metrics":
            return await handler(request)
        if access.token is None:
            raise web.HTTPForbidden(text="no admin token is configured: only the control socket is open")
        raise web.HTTPUnauthorized(
            text="wanted Authorization: Bearer TOKEN", headers={"WWW-Authenticate": 'Bearer realm="sojourn"'}
        )

    return authenticate


def _has_token(request: web.Request, access: Access) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if access.token is None or scheme.lower() != "bearer":
        return False
    wanted = access.token.reveal().encode()
    return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), wanted)


def _query(request: web.Request) -> SessionQuery:
    """Read the query's parameters.

    Raises: web.HTTPBadRequest if one is unknown, repeated, too long or out of its bounds.
    """
    for name in request.query:
        if name not in _LIMITS:
            raise web.HTTPBadRequest(text=f"unknown parameter; wanted one of {', '.join(_LIMITS)}")
        values = request.query.getall(name)
        if len(values) > 1 or len(values[0]) > _LIMITS[name]:
            raise web.HTTPBadRequest(text=f"{name}: wanted once, of at most {_LIMITS[name]} characters")
    given = dict(request.query)
    limit = given.pop("limit", "100")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= LARGEST_PAGE_COUNT):
        raise web.HTTPBadRequest(text=f"limit: wanted 1 to {LARGEST_PAGE_COUNT}")
    if given.get("state", "") not in _STATES:
        raise web.HTTPBadRequest(text="state: wanted open, finished or failed")
    return SessionQuery(limit=int(limit), **given)  # type: ignore[arg-type]  # state was checked above


def _session_id(request: web.Request) -> str:
    session_id = request.match_info["id"]
    if not _ID.fullmatch(session_id):
        raise web.HTTPNotFound(text="no such session")
    return session_id


def _present(value: T | None) -> T:
    if value is None:
        raise web.HTTPNotFound(text="no such session")
    return value


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _problem(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: object
) -> web.Response:
    body = msgspec.json.encode(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    )
    return web.Response(body=body, status=status, content_type="application/problem+json", headers=headers)
