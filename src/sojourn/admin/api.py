"""The HTTP API of a running server, for operators, their programs, and the dashboard.

The same application twice: on the control socket, where the file system says who may come in, and on TCP, where a
bearer token or a browser's cookie does. Everything that is the same for all operations is done once, driven by the
table of :mod:`.openapi`: who asks, what may be asked, the body, the audit log. The handlers only translate. Knows no
gateway by name and no configuration; all it sees is a ``ServerView``.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from sojourn.admin import values as v
from sojourn.admin.access import CSRF_HEADER, READING_METHODS, Access, Browser, Caller
from sojourn.admin.audit import Audit
from sojourn.admin.config import AdminSettings
from sojourn.admin.diagram import trace_svg
from sojourn.admin.openapi import FORMATS, OPERATIONS, PANELS, described, document
from sojourn.admin.pages import Pages
from sojourn.admin.problems import Kind
from sojourn.admin.rendering import trace_jsonl, trace_mermaid, trace_text
from sojourn.admin.streams import Streams
from sojourn.admin.view import LONGEST_ID_CHARACTERS, EventQuery, Health, ServerView, SessionQuery
from sojourn.core.panel import PanelOperation
from sojourn.errors import ConfigError, LimitExceeded, SojournError
from sojourn.web.body import read_body, read_query
from sojourn.web.config import HttpSettings
from sojourn.web.front import Rates, problem_response, rated_address
from sojourn.web.operations import Operation
from sojourn.web.problems import MEDIA_TYPE, FieldError, Refusal, of_status

_LARGEST_BODY_BYTES = 65_536
_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{LONGEST_ID_CHARACTERS}}}")
_HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
_OPEN_PATHS = frozenset({*_HEALTH_PATHS, "/", "/login", "/api/v1/login"})
_OPEN_FILES = "/static/"
_ERROR_STATUS = 400
_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "sojourn",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What an answer has unless its handler said something else."""

CALLER: Final = web.RequestKey("caller", Caller)
WHAT: Final = web.RequestKey("what", str)
"""What the audit log calls an order, where the operation's name and the values of its path do not say it."""
OUTCOME: Final = web.RequestKey("outcome", str)
"""What came of an order, where the answer's status does not say it."""
NOBODY: Final = Caller("nobody known", None)

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Call(NamedTuple):
    """One request, read and checked."""

    request: web.Request
    caller: Caller
    query: Mapping[str, Any]
    body: Any


class Parts(NamedTuple):
    """What both applications share.

    ``attempts`` counts logins and wrong tokens per address. ``url`` says where browsers find the dashboard, empty
    where no address is listened on.
    """

    view: ServerView
    settings: AdminSettings
    access: Access
    attempts: Rates
    audit: Audit
    streams: Streams
    pages: Pages
    url: Callable[[], str]


def build_app(parts: Parts, *, is_local: bool) -> web.Application:
    """Make the application.

    Args: is_local, for a listener that only those can reach who may do everything.
    """
    door = _Door(parts, is_local=is_local)
    app = web.Application(
        middlewares=[door.audit, door.tell_problems, door.identify], client_max_size=_LARGEST_BODY_BYTES
    )
    app.on_response_prepare.append(_complete_headers)
    routes = _Routes(parts)
    for operation in OPERATIONS:
        handle = routes.serving(operation, getattr(routes, operation.handler))
        app.router.add_route(operation.method, operation.path, handle, name=operation.handler)
    app.router.add_route("*", PANELS + "/{gateway}/{path:.*}", routes.panel, name="panel")
    app.add_routes(parts.pages.routes())
    return app


class _Door:
    """What every request goes through, from the outside in: audit log, problems, who it is."""

    def __init__(self, parts: Parts, *, is_local: bool) -> None:
        self._parts = parts
        self._is_local = is_local
        self._requests = Rates(parts.settings.requests)

    @web.middleware
    async def audit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell of every order who gave it and what came of it; the response is ready then, whatever went wrong."""
        response = await handler(request)
        name = request.match_info.route.name
        if request.method not in READING_METHODS and name is not None:
            what = request.get(WHAT) or " ".join((name.replace("_", " "), *request.match_info.values()))
            is_done = response.status < _ERROR_STATUS
            outcome = request.get(OUTCOME, "done") if is_done else f"refused: {response.reason}"
            self._parts.audit.note(what, self._who(request), outcome)
        return response

    def _who(self, request: web.Request) -> str:
        """Say who gave an order: over the control socket the kernel knows, over TCP the token or cookie does."""
        if not self._is_local:
            return f"{request.get(CALLER, NOBODY).name} from {request.remote}"
        ours = request.transport.get_extra_info("socket") if request.transport is not None else None
        if ours is None:
            return "a local user"
        credentials = struct.Struct("3i")
        process, user, _ = credentials.unpack(
            ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        )
        return f"local user {user}, process {process}"

    @web.middleware
    async def tell_problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn whatever goes wrong into ``application/problem+json`` (RFC 9457), without an exception's text."""
        try:
            return await handler(request)
        except Refusal as error:
            response = problem_response(error)
        except web.HTTPException as error:
            if error.status < _ERROR_STATUS:
                raise
            response = problem_response(of_status(error.status, allow=error.headers.get("Allow", "")))
        except ConfigError as error:
            response = _config_problems(error)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: logged, and the peer gets no text of it
            self._parts.view.note_failure(f"{request.method} {request.path}", _first_of(error))
            is_known = isinstance(error, SojournError)
            response = problem_response(
                Refusal(Kind.UNAVAILABLE if is_known else Kind.INTERNAL, "see the log")
            )
        if request.writer.output_size:
            raise ConnectionError("the answer was under way already")
        return response

    @web.middleware
    async def identify(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Find out who asks; refuse nobody where somebody is wanted."""
        if self._is_local:
            request[CALLER] = Caller("a local user", "admin")
            return await handler(request)
        if request.path not in _HEALTH_PATHS:
            self._requests.take(_address(request))
        is_open = request.path in _OPEN_PATHS or request.path.startswith(_OPEN_FILES)
        is_open |= self._parts.access.metrics_without_token and request.path == "/metrics"
        if not is_open:
            request[CALLER] = self._known(request)
        else:
            with suppress(Refusal):
                request[CALLER] = self._known(request)
        return await handler(request)

    def _known(self, request: web.Request) -> Caller:
        """Return who asks. Raises: Refusal for nobody, and for a page that is not ours."""
        access = self._parts.access
        if "Authorization" in request.headers:
            caller = access.of_token(request.headers["Authorization"])
            if caller is None and not access.is_closed:
                self._parts.attempts.take(_address(request))
                raise Refusal(Kind.INVALID_TOKEN)
        else:
            caller = access.of_cookie(request.cookies.get(_cookie_name(request), ""))
            if caller is not None and caller.browser is not None:
                access.check_origin(request.method, request.headers)
                if request.method not in READING_METHODS:
                    access.check_csrf(caller.browser, request.headers.get(CSRF_HEADER, ""))
        if caller is None:
            raise Refusal(Kind.NO_ACCESS if access.is_closed else Kind.NO_TOKEN)
        return caller


class _Routes:
    """The handlers of one application: one method per operation of the table."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._view = parts.view
        self._http = HttpSettings(body_timeout_s=parts.settings.body_timeout_s)
        self._panels = _PanelTable(parts.view)

    def serving(
        self, operation: Operation, serve: Callable[[Call], Awaitable[web.StreamResponse]]
    ) -> Handler:
        """Return what reads a request to an operation, checks it, and serves it within its time."""

        async def handle(request: web.Request) -> web.StreamResponse:
            call = await self._call(request, operation)
            if operation.media == "text/event-stream":
                return await serve(call)
            return await self._in_time(serve(call))

        return handle

    async def _call(self, request: web.Request, operation: Operation) -> Call:
        caller = request.get(CALLER, NOBODY)
        is_open_scrape = self._parts.access.metrics_without_token and operation.path == "/metrics"
        if not caller.may(operation.access) and not is_open_scrape:
            raise Refusal(Kind.FORBIDDEN, f"wanted the scope {operation.access}")
        try:
            query = read_query(request, operation.query)
        except Refusal as error:
            raise Refusal(Kind.BAD_QUERY, errors=error.errors) from None
        body = None
        if operation.body is not None:
            _, body = await read_body(request, operation.body, self._http)
        return Call(request, caller, query, body)

    async def _in_time(self, work: Awaitable[T]) -> T:
        """Await work for as long as a request may take. Raises: Refusal."""
        deadline = asyncio.timeout(self._parts.settings.request_timeout_s)
        try:
            async with deadline:
                return await work
        except TimeoutError:
            if not deadline.expired():
                raise
            raise Refusal(Kind.UNAVAILABLE, "the work took too long") from None

    # Health

    async def healthz(self, call: Call) -> web.Response:
        return self._health(call, self._view.health())

    async def readyz(self, call: Call) -> web.Response:
        return self._health(call, self._view.readiness())

    def _health(self, call: Call, health: Health) -> web.Response:
        # The parts name backends: only for those who may know them.
        body = health if call.caller.may("view") else {"ok": health.ok}
        return _json(body, status=200 if health.ok else 503)

    async def metrics(self, _call: Call) -> web.Response:
        body = (await self._view.metrics_text()).encode()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def openapi(self, _call: Call) -> web.Response:
        return _json(document(self._view.panels()))

    # Who asks

    async def login(self, call: Call) -> web.Response:
        request, access = call.request, self._parts.access
        self._parts.attempts.take(_address(request))
        if "Origin" in request.headers:
            access.check_origin(request.method, request.headers)
        cookie, browser = access.log_in(call.body.token)
        request[CALLER] = Caller(f"the browser of {browser.name}", browser.scope, browser)
        response = _json(self._visitor(request[CALLER]))
        response.set_cookie(
            _cookie_name(request),
            cookie,
            max_age=int(self._parts.settings.browsers.lifetime_s),
            httponly=True,
            samesite="Strict",
            secure=access.wants_secure(request.headers.get("Origin", "")),
            path="/",
        )
        return response

    async def logout(self, call: Call) -> web.Response:
        if call.caller.browser is not None:
            self._parts.access.log_out(call.caller.browser)
        response = web.Response(status=204)
        response.del_cookie(_cookie_name(call.request), httponly=True, samesite="Strict", path="/")
        return response

    async def visitor(self, call: Call) -> web.Response:
        return _json(self._visitor(call.caller))

    def _visitor(self, caller: Caller) -> v.Visitor:
        browser, scope = caller.browser, caller.scope
        assert scope is not None  # noqa: S101 - nobody gets here without one
        if browser is None:
            return v.Visitor(name=caller.name, scope=scope)
        expires_at = self._parts.audit.now() + self._parts.access.expires_in_s(browser)
        return v.Visitor(name=browser.name, scope=scope, csrf_token=browser.csrf_token, expires_at=expires_at)

    async def new_login_link(self, call: Call) -> web.Response:
        secret, lifetime_s = self._parts.access.new_link(call.body.name, call.body.scope)
        call.request[WHAT] = f"new login link for {call.body.name}, {call.body.scope}"
        url = self._parts.url()
        return _json(
            v.LoginLink(
                url=f"{url}/login#{secret}" if url else "", expires_at=self._parts.audit.now() + lifetime_s
            )
        )

    # What there is

    async def overview(self, _call: Call) -> web.Response:
        return _json(await self._view.overview())

    async def gateways(self, _call: Call) -> web.Response:
        return _json(v.Gateways(gateways=(await self._view.overview()).gateways))

    async def stream(self, call: Call) -> web.StreamResponse:
        return await self._parts.streams.serve_all(call.request, self._is_welcome(call.caller))

    async def list_sessions(self, call: Call) -> web.Response:
        try:
            return _json(await self._view.list_sessions(SessionQuery(**call.query)))
        except ValueError:
            errors = (FieldError("query.cursor", "wanted one that a page gave"),)
            raise Refusal(Kind.BAD_QUERY, errors=errors) from None

    async def find_session(self, call: Call) -> web.Response:
        return _json(_present(await self._view.find_session(_session_id(call.request))))

    async def close_session(self, call: Call) -> web.Response:
        if not await self._view.close_session(_session_id(call.request)):
            raise Refusal(Kind.NOT_FOUND, "no such open session")
        return web.Response(status=204)

    async def trace(self, call: Call) -> web.Response:
        form = call.query["format"] or "json"
        trace = _present(await self._view.trace(_session_id(call.request)))
        if form == "json":
            return _json(trace)
        write = {"mermaid": trace_mermaid, "text": trace_text, "jsonl": trace_jsonl, "svg": trace_svg}[form]
        return web.Response(text=write(trace), content_type=FORMATS[form], charset="utf-8")

    async def follow(self, call: Call) -> web.StreamResponse:
        follower = _present(await self._view.follow(_session_id(call.request)))
        return await self._parts.streams.serve_trace(call.request, follower, self._is_welcome(call.caller))

    def _is_welcome(self, caller: Caller) -> Callable[[], bool]:
        """Return what says whether a reader may go on; a browser that reads a stream is not idle."""
        access, browser = self._parts.access, caller.browser

        def is_welcome() -> bool:
            return browser is None or _stays(access, browser)

        return is_welcome

    async def listeners(self, _call: Call) -> web.Response:
        return _json(v.Listeners(listeners=tuple(await self._view.listeners())))

    async def peers(self, call: Call) -> web.Response:
        peers, more = await self._view.peers(**call.query)
        return _json(v.PeerPage(peers=tuple(peers), more=more))

    async def breakers(self, _call: Call) -> web.Response:
        return _json(v.Breakers(breakers=tuple(await self._view.breakers())))

    async def limits(self, _call: Call) -> web.Response:
        return _json(v.Limits(limits=tuple(await self._view.limits())))

    async def events(self, call: Call) -> web.Response:
        return _json(v.EventPage(events=tuple(await self._view.events(EventQuery(**call.query)))))

    async def configuration(self, _call: Call) -> web.Response:
        return _json(v.Configuration(toml=self._view.configuration()))

    async def audit(self, call: Call) -> web.Response:
        return _json(v.AuditPage(entries=self._parts.audit.last(call.query["limit"])))

    # What can be ordered of the server

    async def drain(self, _call: Call) -> web.Response:
        await self._view.drain()
        response = _json(v.Drained(draining=True), status=202)
        response.headers["Location"] = "/readyz"
        return response

    async def reload(self, _call: Call) -> web.Response:
        await self._view.reload()
        return _json(v.Reloaded(reloaded=True))

    # Gateways' own pages

    async def panels(self, _call: Call) -> web.Response:
        rows = tuple(
            v.PanelRow(
                gateway=gateway,
                title=panel.title,
                module=f"/static/panels/{gateway}.js",
                operations=f"{PANELS}/{gateway}/",
            )
            for gateway, panel in self._view.panels().items()
        )
        return _json(v.Panels(panels=rows))

    async def panel(self, request: web.Request) -> web.StreamResponse:
        """Serve an operation of a gateway's page."""
        gateway = request.match_info["gateway"]
        request[WHAT] = f"panel {request.method} {gateway} {request.match_info['path']}"
        operation, values = self._panels.find(gateway, request.method, "/" + request.match_info["path"])
        what = " ".join(f"{name}={value}" for name, value in values.items())
        request[WHAT] = f"{gateway}: {operation.summary} {what}".rstrip()
        call = await self._call(request, described(gateway, operation))
        given = {**call.query, **values, "operator": call.caller.name}
        try:
            if operation.is_stream:
                stream = await self._in_time(operation.serve(given, call.body))
                return await self._parts.streams.serve_values(
                    request, _named(stream), self._is_welcome(call.caller)
                )
            answer = await self._in_time(operation.serve(given, call.body))
        except LimitExceeded:
            raise Refusal(Kind.LIMIT) from None
        if operation.outcome is not None:
            request[OUTCOME] = operation.outcome(answer)
        if operation.answer is None:
            return web.Response(status=204)
        if answer is None:
            raise Refusal(Kind.NOT_FOUND)
        return _json(answer)


class _PanelTable:
    """Finds the operation that a path means. Knows the gateways' panels as they are when they are asked for."""

    def __init__(self, view: ServerView) -> None:
        self._view = view
        self._patterns: dict[str, re.Pattern[str]] = {}

    def find(self, gateway: str, method: str, path: str) -> tuple[PanelOperation, dict[str, str]]:
        """Return an operation and the values in its path. Raises: Refusal."""
        panel = self._view.panels().get(gateway)
        fitting = [
            (operation, found)
            for operation in (panel.operations if panel is not None else ())
            if (found := self._pattern(operation.path).fullmatch(path))
        ]
        for operation, found in fitting:
            if operation.method == method:
                return operation, found.groupdict()
        if fitting:
            allow = ", ".join(sorted({operation.method for operation, _ in fitting}))
            raise Refusal(Kind.BAD_METHOD, allow=allow)
        raise Refusal(Kind.NOT_FOUND)

    def _pattern(self, path: str) -> re.Pattern[str]:
        pattern = self._patterns.get(path)
        if pattern is None:
            parts = re.split(r"\{(\w+)\}", path)  # literal, name, literal, name ...
            text = "".join(
                f"(?P<{part}>[^/\x00-\x1f\x7f]{{1,{LONGEST_ID_CHARACTERS}}})"
                if index % 2
                else re.escape(part)
                for index, part in enumerate(parts)
            )
            pattern = self._patterns[path] = re.compile(text)
        return pattern


async def _named(values: AsyncIterator[Any]) -> AsyncIterator[tuple[str, Any]]:
    async for value in values:
        yield "panel", value


def _stays(access: Access, browser: Browser) -> bool:
    is_good = access.is_good(browser)
    if is_good:
        access.stay(browser)
    return is_good


def _address(request: web.Request) -> str:
    return rated_address(request.remote or "")


def _cookie_name(request: web.Request) -> str:
    """Return the cookie's name: cookies are of a host and not of a port, where another server may have its own."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return f"sojourn_{name[1] if isinstance(name, tuple) else 0}"


async def _complete_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _SECURITY.items():
        response.headers.setdefault(name, value)


def _session_id(request: web.Request) -> str:
    session_id = request.match_info["id"]
    if not _ID.fullmatch(session_id):
        raise Refusal(Kind.NOT_FOUND, "no such session")
    return session_id


def _present(value: T | None) -> T:
    if value is None:
        raise Refusal(Kind.NOT_FOUND, "no such session")
    return value


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _config_problems(error: ConfigError) -> web.Response:
    """Return every problem of a configuration that was not put in force."""
    told = msgspec.to_builtins(Refusal(Kind.BAD_CONFIG, "the old one stays").problem())
    told["problems"] = [problem._asdict() for problem in error.problems]
    return web.Response(
        body=msgspec.json.encode(told), status=Kind.BAD_CONFIG.status, content_type=MEDIA_TYPE
    )


def _first_of(error: Exception) -> Exception:
    """Return what went wrong first where several tasks were at work."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
