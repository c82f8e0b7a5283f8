"""The admin API as a page sees it, with a server behind it that is whatever a test says; nothing of it is real.

Its answers are made of the structs of ``sojourn.admin.values``, so that their shapes are the real ones'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from pathlib import Path

import msgspec
from aiohttp import web

import sojourn.admin
from sojourn.admin.values import (
    AuditPage,
    AuditRow,
    Breakers,
    Configuration,
    EventPage,
    GatewayRow,
    Limits,
    Listeners,
    Overview,
    OverviewTick,
    PanelRow,
    Panels,
    PeerPage,
    SecondRow,
    Series,
    Visitor,
)
from sojourn.admin.view import Page, SessionRow, Trace, TraceEntry
from sojourn.core.report import BreakerRow, EventRow, LimitRow, ListenerRow, PeerRow, TroubleRow

DASHBOARD = Path(sojourn.admin.__file__).parent / "dashboard"
GATEWAYS = DASHBOARD.parent.parent / "gateways"
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TITLES = {"tacacs": "TACACS+", "exchange": "Exchange", "postgres": "PostgreSQL"}
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
CSRF = "csrf-of-the-page"
LOGIN_CODE = "login-code-of-sixteen-characters"
EVIL = "<img src=x onerror=window.wasRun=1>\"'><script>window.wasRun=1</script>"


def wave(base, size, phase=0.0, count=60):
    """Return a minute of something that goes up and down."""
    return tuple(max(0.0, base + size * math.sin(phase + index / 5)) for index in range(count))


class FakeApi:
    """One server that nobody runs; tests change its attributes and tell its streams."""

    def __init__(self, *, sessions_count=40):
        self.started = time.time() - 9_000
        self.problems = ()
        self.sessions = {}
        self.traces = {}
        self.panels = {}
        self.tables = {}
        self.titles = dict(TITLES)
        self.orders = []
        self.scope = "admin"
        self.is_logged_in = False
        self.is_draining = False
        self.streams = set()
        self.followers = {}
        now = time.time()
        for number in range(sessions_count):
            gateway = tuple(TITLES)[number % 3]
            state = "open" if number < sessions_count * 0.7 else ("failed" if number % 7 == 0 else "finished")
            row = SessionRow(
                id=f"{gateway}-{number:05d}",
                gateway=gateway,
                peer=f"192.0.2.{number % 250}:{40000 + number % 20000}",
                about=f"{('authenticate', 'trade', 'shop')[number % 3]} user{number}",
                state=state,
                started=now - number * 1.7 - 2,
                ended=None if state == "open" else now - number * 0.3,
                reason="" if state == "open" else ("timeout" if state == "failed" else "finished"),
            )
            self.sessions[row.id] = row

    # What tests do

    def add_session(self, row, entries=()):
        self.sessions[row.id] = row
        self.traces[row.id] = list(entries)
        self.tell("session", {"session": row})

    def add_entries(self, session_id, *entries, has_gap=False):
        self.traces[session_id].extend(entries)
        for queue in self.followers.get(session_id, ()):
            queue.put_nowait(("entries", {"entries": entries, "has_gap": has_gap}))

    def end_session(self, session_id, reason="closed"):
        old = self.sessions[session_id]
        row = msgspec.structs.replace(old, state="finished", ended=time.time(), reason=reason)
        self.sessions[session_id] = row
        self.tell("session", {"session": row})
        for queue in self.followers.get(session_id, ()):
            queue.put_nowait(("ended", {"session": row}))

    def tell(self, kind, value):
        for queue in self.streams:
            queue.put_nowait((kind, value))

    # What it answers

    def overview(self):
        now = time.time()
        rows = []
        for index, (name, title) in enumerate(self.titles.items()):
            mine = [one for one in self.sessions.values() if one.gateway == name]
            rows.append(
                GatewayRow(
                    name=name,
                    title=title,
                    series=Series(
                        sessions_open=wave(40 + 30 * index, 12, index),
                        opened_per_s=wave(3 + index, 2, index * 2),
                        packets_per_s=wave(60 * (index + 1), 30, index * 3),
                        failed_per_s=tuple(float(i == 40 and index == 0) for i in range(60)),
                    ),
                    **self.figures(mine, index),
                )
            )
        return Overview(
            now=now,
            version="0.6.0",
            uptime_s=now - self.started,
            is_draining=self.is_draining,
            workers=1,
            gateways=tuple(rows),
            problems=self.problems,
        )

    @staticmethod
    def figures(mine, index):
        return {
            "sessions_open": sum(one.state == "open" for one in mine),
            "sessions_opened": 12_345 * (index + 1),
            "sessions_failed": 17 * index,
            "connections": 12 + index,
            "packets_in": 100_000,
            "packets_out": 120_000,
            "bytes_in": 31_234_567 * (index + 1),
            "bytes_out": 91_234_567,
            "opened_per_s": 3.4 + index,
            "failed_per_s": 0.0,
            "packets_in_per_s": 31.0 * (index + 1),
            "packets_out_per_s": 30.0,
            "bytes_in_per_s": 1000.0,
            "bytes_out_per_s": 4000.0,
        }

    def tick(self):
        whole = self.overview()
        rows = []
        for row in whole.gateways:
            fields = msgspec.structs.asdict(row)
            del fields["title"], fields["series"]
            fields["packets_in_per_s"] += 12 * math.sin(time.time())
            rows.append(SecondRow(**fields))
        return OverviewTick(
            now=whole.now,
            uptime_s=whole.uptime_s,
            is_draining=whole.is_draining,
            gateways=tuple(rows),
            problems=self.problems,
        )

    def page(self, query):
        wanted = query.get("search", "").casefold()
        found = [
            row
            for row in self.sessions.values()
            if query.get("gateway", row.gateway) == row.gateway
            and query.get("state", row.state) == row.state
            and wanted in f"{row.id} {row.peer} {row.about}".casefold()
        ]
        found.sort(key=lambda row: (row.state != "open", -row.started))
        start, limit = int(query.get("cursor", "0")), int(query.get("limit", "100"))
        rest = found[start:]
        return Page(sessions=tuple(rest[:limit]), next_cursor=str(start + limit) if len(rest) > limit else "")

    events = (
        ("info", "server.started", {"gateways": "tacacs, exchange, postgres"}),
        ("warning", "tacacs.key_warning", {"device": "switch-7", "key": 0, "what": "older than 365 days"}),
        ("info", "session.opened", {"peer": "192.0.2.8"}),
        ("error", "postgres.node_down", {"cluster": "shop", "node": "db-1", "why": "refused"}),
        ("info", "postgres.failover", {"cluster": "shop", "node": "db-2", "took_ms": 812}),
    )

    def event_page(self, query):
        now = time.time()
        rows = tuple(
            EventRow(number=100 - index, at=now - index * 7, level=level, kind=kind, fields=fields)
            for index, (level, kind, fields) in enumerate(self.events * 8)
        )
        order = ("debug", "info", "warning", "error")
        least = order.index(query.get("level", "debug"))
        return EventPage(events=tuple(row for row in rows if order.index(row.level) >= least))

    def core_tables(self):
        limits = [
            LimitRow(gateway=name, name=limit, limit=most, used=used, refused=refused)
            for name in TITLES
            for limit, most, used, refused in (
                ("connections_count", 10_000, 412, 0),
                ("sessions_per_connection_count", 100, None, 3),
                ("connections_per_peer_count", 64, 61, 12),
            )
        ]
        return {
            "/listeners": Listeners(
                listeners=tuple(
                    ListenerRow(
                        gateway=name,
                        address=f"0.0.0.0:{port}",
                        tls=index % 2 == 0,
                        proxy_protocol=False,
                        connections=14,
                    )
                    for index, (name, port) in enumerate(zip(TITLES, (49, 8443, 6432), strict=True))
                )
            ),
            "/limits": Limits(limits=tuple(limits)),
            "/breakers": Breakers(
                breakers=(
                    BreakerRow(
                        endpoint="ldap.example.net:636",
                        state="open",
                        calls=812,
                        failures=9,
                        refused=41,
                        openings=2,
                        failure_rate=0.4,
                        probe_in_s=3.2,
                    ),
                    BreakerRow(
                        endpoint="db-2.example.net:5432",
                        state="closed",
                        calls=81_200,
                        failures=0,
                        refused=0,
                        openings=0,
                        failure_rate=0.0,
                        probe_in_s=0.0,
                    ),
                )
            ),
            "/config": Configuration(
                toml='[admin]\naddress = "127.0.0.1:9300"\ntoken = "***"\n\n[tacacs]\nsession_timeout_s = 60\n'
                'seal_key = "***"\n\n[[tacacs.devices]]\nname = "switch-7"\nprefixes = ["192.0.2.0/28"]\n'
                'secrets = ["***"]\n\n[recorder]\nfinished_keep_s = 300\nfailed_keep_s = 3600\n',
            ),
            "/audit": AuditPage(
                entries=(
                    AuditRow(
                        at=time.time() - 40,
                        what="close session tacacs-00003",
                        who="ana, a browser",
                        outcome="done",
                    ),
                )
            ),
            "/panels": Panels(
                panels=tuple(
                    PanelRow(
                        gateway=name,
                        title=TITLES[name],
                        module=f"/static/panels/{name}.js",
                        operations=f"/api/v1/panels/{name}/",
                    )
                    for name in self.panels
                )
            ),
        }

    def peers(self, query):
        names = [query["gateway"]] if query.get("gateway") else list(TITLES)
        return PeerPage(
            peers=tuple(
                PeerRow(
                    gateway=name,
                    address=f"192.0.2.{index}",
                    connections=index + 1,
                    sessions=3,
                    packets_in=10,
                    packets_out=10,
                    bytes_in=12_345 * index,
                    bytes_out=99_999,
                    tls=False,
                    names=(),
                    since=self.started,
                )
                for name in names
                for index in range(3)
            )
        )

    # Over HTTP

    def app(self):
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._index)
        app.router.add_get("/login", self._index)
        app.router.add_get("/static/{name:.+}", self._static)
        app.router.add_post("/api/v1/login", self._login)
        app.router.add_post("/api/v1/logout", self._logout)
        app.router.add_get("/api/v1/stream", self._stream)
        app.router.add_get("/api/v1/sessions/{id}/trace/stream", self._trace_stream)
        app.router.add_route("*", "/api/v1/{path:.*}", self._api)
        return app

    @web.middleware
    async def _guard(self, request, handler):
        if (
            request.path.startswith("/api/")
            and not self.is_logged_in
            and not request.path.endswith(("/login",))
        ):
            return _problem(401, "Who are you?")
        if (
            request.path.startswith("/api/")
            and request.method != "GET"
            and not request.path.endswith("/login")
            and request.headers.get("X-CSRF-Token") != CSRF
        ):
            return _problem(403, "Not from this web page")
        return await handler(request)

    async def _index(self, _request):
        return _file(DASHBOARD / "index.html")

    async def _static(self, request):
        name = request.match_info["name"]
        if name.startswith("panels/"):
            gateway = name.removeprefix("panels/").removesuffix(".js")
            return _file(GATEWAYS / gateway / "panel.js")
        return _file(DASHBOARD / name)

    async def _login(self, request):
        token = (await request.json())["token"]
        if token != LOGIN_CODE:
            return _problem(401, "The token is not good")
        self.is_logged_in = True
        return _json(self.visitor())

    async def _logout(self, _request):
        self.is_logged_in = False
        return web.Response(status=204)

    def visitor(self):
        return Visitor(name="ana", scope=self.scope, csrf_token=CSRF)

    async def _api(self, request):  # noqa: PLR0911 - a table of paths
        path = "/" + request.match_info["path"]
        query = request.query
        if request.method != "GET":
            return await self._order(request, path)
        if path == "/session":
            return _json(self.visitor())
        if path == "/overview":
            return _json(self.overview())
        if path == "/sessions":
            return _json(self.page(query))
        if path == "/events":
            return _json(self.event_page(query))
        if path in (tables := {"/peers": self.peers(query), **self.core_tables(), **self.tables}):
            return _json(tables[path])
        if path.startswith("/sessions/"):
            return self._session(path.removeprefix("/sessions/"), query)
        if path.startswith("/panels/"):
            _, _, gateway, rest = path.split("/", 3)
            answer = self.panels.get(gateway, {}).get("/" + rest)
            if answer is not None:
                return _json(answer(query) if callable(answer) else answer)
        return _problem(404, "There is no such thing")

    def _session(self, rest, query):
        session_id, _, what = rest.partition("/")
        row = self.sessions.get(session_id)
        if row is None:
            return _problem(404, "There is no such thing")
        if not what:
            return _json(row)
        entries = tuple(self.traces.get(session_id, ()))
        if query.get("format") == "jsonl":
            return web.Response(text="\n".join(msgspec.json.encode(one).decode() for one in entries))
        if query.get("format") == "mermaid":
            return web.Response(text="sequenceDiagram\n")
        return _json(Trace(session=row, entries=entries))

    async def _order(self, request, path):
        body = await request.json() if request.can_read_body else None
        self.orders.append((request.method, path, body))
        if request.method == "DELETE" and path.startswith("/sessions/"):
            self.end_session(path.removeprefix("/sessions/"))
            return web.Response(status=204)
        if path.startswith("/panels/"):
            return web.Response(status=204)
        return _json({"done": True})

    async def _stream(self, request):
        queue = asyncio.Queue()
        self.streams.add(queue)
        ticking = asyncio.ensure_future(self._ticking(queue))
        try:
            return await _send(request, queue)
        finally:
            ticking.cancel()
            self.streams.discard(queue)

    async def _ticking(self, queue):
        while True:
            queue.put_nowait(("overview", self.tick()))
            await asyncio.sleep(1)

    async def _trace_stream(self, request):
        session_id = request.match_info["id"]
        if session_id not in self.sessions:
            return _problem(404, "There is no such thing")
        queue = asyncio.Queue()
        queue.put_nowait(("entries", {"entries": tuple(self.traces.get(session_id, ())), "has_gap": False}))
        followers = self.followers.setdefault(session_id, set())
        followers.add(queue)
        try:
            return await _send(request, queue)
        finally:
            followers.discard(queue)


async def _send(request, queue):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while (told := await queue.get()) is not None:
            kind, value = told
            await response.write(f"event: {kind}\ndata: {msgspec.json.encode(value).decode()}\n\n".encode())
    return response


def _file(path):
    if not path.is_file():
        return web.Response(status=404)
    return web.Response(
        body=path.read_bytes(),
        content_type=TYPES[path.suffix],
        charset="utf-8",
        headers={
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
        },
    )


def _json(value):
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _problem(status, title):
    return web.Response(
        status=status,
        text=json.dumps({"title": title, "status": status, "detail": ""}),
        content_type="application/problem+json",
    )


@contextlib.asynccontextmanager
async def serving_fake(fake):
    """Serve a fake API on loopback; yields its address."""
    runner = web.AppRunner(fake.app(), shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def login_trace(started, device="switch-7"):
    """Return what a TACACS+ login looks like, with a silence, a repetition and a failure in it."""

    def entry(at, kind, name, text="", size=0, source=None, target=None):  # noqa: PLR0917 - read as a table
        way = {"in": (device, "tacacs"), "out": ("tacacs", device)}.get(kind, ("tacacs", "tacacs"))
        source, target = (source, target) if source else way
        return TraceEntry(
            at=started + at, kind=kind, name=name, text=text, size_bytes=size, source=source, target=target
        )

    yield entry(0.0, "state", "opened")
    yield entry(
        0.001, "in", "AuthenStart", "LOGIN ASCII priv_lvl=1 user=ana port=tty0 rem_addr=198.51.100.7", 46
    )
    yield entry(0.002, "out", "AuthenReply", "GETPASS NOECHO 'Password: '", 22)
    yield entry(4.412, "in", "AuthenContinue", "", 17)
    yield entry(
        4.413, "out", "search", "uid=ana in ou=people,dc=example,dc=net", 0, "tacacs", "ldap.example.net"
    )
    yield entry(4.431, "in", "entry", "cn=Ana memberOf=ops", 0, "ldap.example.net", "tacacs")
    yield entry(4.502, "out", "AuthenReply", "PASS", 6)
    for turn in range(6):
        yield entry(6.0 + turn * 2, "in", "AcctRequest", f"WATCHDOG user=ana task_id=4711 elapsed={turn}", 60)
        yield entry(6.001 + turn * 2, "out", "AcctReply", "SUCCESS", 5)
    yield entry(17.2, "in", "AuthorRequest", "user=ana service=shell cmd=reload", 70)
    yield entry(
        17.201, "error", "denied by rule 3 of group ops", "cmd 'reload' matches deny '^(reload|write erase)'"
    )
    yield entry(17.202, "out", "AuthorReply", "FAIL 'reload is not for operators'", 40)


def problem_rows():
    """Return two things that are wrong."""
    now = time.time()
    return (
        TroubleRow(
            severity="error",
            gateway="postgres",
            text="Cluster shop: primary db-1 does not answer; clients wait for the failover",
            since=now - 4,
            link="#/gateways/postgres",
        ),
        TroubleRow(
            severity="warning",
            gateway="tacacs",
            text="Accounting sink syslog is down; 214 records wait",
            since=now - 640,
            link="#/gateways/tacacs",
        ),
    )
