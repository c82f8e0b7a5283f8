"""The HTTP API over its control socket and over TCP, with a server that is only a list of sessions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sojourn.admin.config import AdminSettings
from sojourn.admin.diagram import trace_svg
from sojourn.admin.openapi import OPERATIONS
from sojourn.admin.rendering import trace_mermaid
from sojourn.admin.serving import AdminServer, control_socket
from sojourn.admin.view import Health, Page, SessionQuery, SessionRow, Trace, TraceEntry
from sojourn.core.secret import Secret
from sojourn.errors import ConfigError, LimitExceeded, Problem

Run = Callable[[Coroutine[Any, Any, Any]], Any]

TOKEN = "0123456789abcdef"
ROWS = tuple(
    SessionRow(
        id=str(number), gateway="echo", peer="192.0.2.1:5", about="ana", state="open", started=1e9 + number
    )
    for number in range(3)
)


class FakeServer:
    """A server of three sessions; remembers what it was told."""

    def __init__(self) -> None:
        self.queries: list[SessionQuery] = []
        self.orders: list[str] = []
        self.notes: list[tuple[str, str, str]] = []
        self.reload_error: Exception | None = None
        self.is_ready = True

    async def list_sessions(self, query: SessionQuery) -> Page:
        if query.cursor:
            raise ValueError(query.cursor)
        self.queries.append(query)
        return Page(sessions=ROWS[: query.limit], next_cursor="more" if query.limit < len(ROWS) else "")

    async def find_session(self, session_id: str) -> SessionRow | None:
        return next((row for row in ROWS if row.id == session_id), None)

    async def trace(self, session_id: str) -> Trace | None:
        row = await self.find_session(session_id)
        entries = (
            TraceEntry(at=1e9, kind="in", name="START", text="user='ana'; \x1b[2J", size_bytes=31),
            TraceEntry(at=1e9 + 0.5, kind="out", name="REPLY", text="status=PASS", size_bytes=18),
            TraceEntry(at=1e9 + 0.5, kind="state", name="finished"),
        )
        return None if row is None else Trace(session=row, entries=entries)

    async def close_session(self, session_id: str) -> bool:
        self.orders.append(f"close {session_id}")
        return await self.find_session(session_id) is not None

    async def metrics_text(self) -> str:
        return "sojourn_sessions 3\n"

    def panels(self) -> dict[str, Any]:
        return {}

    def health(self) -> Health:
        return Health(ok=True, parts={"loop": "fine"})

    def readiness(self) -> Health:
        return Health(ok=self.is_ready, parts={"state": "ready" if self.is_ready else "draining"})

    async def reload(self) -> None:
        self.orders.append("reload")
        if self.reload_error is not None:
            raise self.reload_error

    async def drain(self) -> None:
        self.orders.append("drain")

    def note_order(self, what: str, who: str, outcome: str) -> None:
        self.notes.append((what, who, outcome))

    def note_failure(self, request: str, error: Exception) -> None:
        self.notes.append((request, type(error).__name__, "failed"))


@contextlib.asynccontextmanager
async def serving(
    view: FakeServer, path: Path, settings: AdminSettings | None = None
) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """Serve, and give a client on the control socket and one on TCP."""
    server = AdminServer(view, settings or AdminSettings(address="127.0.0.1:0"), path)
    await server.start()
    try:
        async with (
            aiohttp.ClientSession("http://local", connector=aiohttp.UnixConnector(str(path))) as local,
            aiohttp.ClientSession(f"http://{server.address}") as remote,
        ):
            yield local, remote
    finally:
        await server.stop()


def test_the_control_socket_is_for_its_owner_only_and_goes_with_the_server(run: Run, tmp_path: Path) -> None:
    """The file system is the authentication: mode 0600, in a directory of mode 0700."""
    path = tmp_path / "private" / "control.sock"

    async def scene() -> None:
        async with serving(FakeServer(), path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert not path.exists()

    run(scene())


def test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not(run: Run, tmp_path: Path) -> None:
    """A server that was killed leaves its socket behind; two servers on one socket would hide one."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))

    async def scene() -> None:
        async with serving(FakeServer(), path) as (local, _):
            second = AdminServer(FakeServer(), AdminSettings(address=""), path)
            with pytest.raises(ConfigError, match="on which a server listens"):
                await second.start()
            assert (await local.get("/healthz")).status == 200
        path.write_text("a file")
        with pytest.raises(ConfigError, match="which is no socket"):
            await second.start()
        assert path.read_text() == "a file"

    run(scene())


def test_an_address_in_use_is_a_configuration_problem(run: Run, tmp_path: Path) -> None:
    """The operator can mend it, so it names the setting; nothing stays open."""
    path = tmp_path / "control.sock"

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            settings = AdminSettings(address=f"127.0.0.1:{taken.getsockname()[1]}")
            with pytest.raises(ConfigError, match=r"admin\.address: found .*in use"):
                await AdminServer(FakeServer(), settings, path).start()
        assert not path.exists()

    run(scene())


def test_sessions_are_listed_found_and_closed(run: Run, tmp_path: Path) -> None:
    """The query reaches the server as declared values."""
    view = FakeServer()

    async def scene() -> None:
        async with serving(view, tmp_path / "s") as (local, _):
            answer = await local.get("/api/v1/sessions?gateway=echo&state=open&search=an%20a&limit=2")
            assert [row["id"] for row in (await answer.json())["sessions"]] == ["0", "1"]
            assert (await (await local.get("/api/v1/sessions/1")).json())["about"] == "ana"
            assert (await local.delete("/api/v1/sessions/1")).status == 204
            assert (await local.delete("/api/v1/sessions/9")).status == 404

    run(scene())
    assert view.queries == [SessionQuery(gateway="echo", state="open", search="an a", limit=2)]
    assert view.orders == ["close 1", "close 9"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/sessions?limit=0", 400),
        ("/api/v1/sessions?limit=1001", 400),
        ("/api/v1/sessions?limit=%C2%B2", 400),
        ("/api/v1/sessions?state=asleep", 400),
        ("/api/v1/sessions?search=" + "x" * 201, 400),
        ("/api/v1/sessions?search=a&search=b", 400),
        ("/api/v1/sessions?serach=a", 400),
        ("/api/v1/sessions?cursor=forged", 400),
        ("/api/v1/sessions/9", 404),
        ("/api/v1/sessions/" + "9" * 200, 404),
        ("/api/v1/sessions/..%2F..%2Fetc", 404),
        ("/api/v1/sessions/9/trace", 404),
        ("/api/v1/sessions/1/trace?format=pdf", 400),
        ("/api/v1/nothing", 404),
        ("/api/v1/drain", 405),
    ],
)
def test_a_bad_request_is_answered_with_a_problem(run: Run, tmp_path: Path, path: str, status: int) -> None:
    """RFC 9457: every refusal is application/problem+json with its own status inside."""

    async def scene() -> None:
        async with serving(FakeServer(), tmp_path / "s") as (local, _):
            answer = await local.get(path)
            assert (answer.status, answer.content_type) == (status, "application/problem+json")
            assert (await answer.json())["status"] == status

    run(scene())


def test_a_trace_comes_as_json_text_and_mermaid(run: Run, tmp_path: Path) -> None:
    """What the peer sent steers neither the terminal nor the diagram."""

    async def scene() -> tuple[Any, str, str]:
        async with serving(FakeServer(), tmp_path / "s") as (local, _):
            as_json = await (await local.get("/api/v1/sessions/0/trace")).json()
            as_text = await (await local.get("/api/v1/sessions/0/trace?format=text")).text()
            as_mermaid = await (await local.get("/api/v1/sessions/0/trace?format=mermaid")).text()
            return as_json, as_text, as_mermaid

    as_json, as_text, as_mermaid = run(scene())
    assert [entry["kind"] for entry in as_json["entries"]] == ["in", "out", "state"]
    assert "    +0.000 s -> START user='ana'; \\x1b[2J (31 bytes)" in as_text
    assert "\x1b" not in as_text
    assert as_mermaid.splitlines()[3:] == [
        "    P->>S: START user='ana'_ _[2J",
        "    S->>P: REPLY status=PASS",
        "    Note over S: finished",
    ]


def test_drain_and_reload_are_orders(run: Run, tmp_path: Path) -> None:
    """A reload that fails says every problem and that the old configuration stays."""
    view = FakeServer()

    async def scene() -> None:
        async with serving(view, tmp_path / "s") as (local, _):
            assert (await local.post("/api/v1/drain")).status == 202
            assert (await local.post("/api/v1/reload")).status == 200
            view.reload_error = ConfigError([Problem("sojourn.toml", 3, "log", "level", '"x"', "one of ...")])
            answer = await local.post("/api/v1/reload")
            assert answer.status == 422
            assert (await answer.json())["problems"][0]["line"] == 3

    run(scene())
    assert view.orders == ["drain", "reload", "reload"]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("a secret text"), 500), (LimitExceeded("a secret text", 2, 1), 503)]
)
def test_an_exception_shows_nothing_of_its_text(
    run: Run, tmp_path: Path, error: Exception, status: int
) -> None:
    """No exception text is sent to a peer."""
    view = FakeServer()
    view.reload_error = error

    async def scene() -> None:
        async with serving(view, tmp_path / "s") as (local, _):
            answer = await local.post("/api/v1/reload")
            assert answer.status == status
            assert "secret" not in await answer.text()

    run(scene())


def test_over_tcp_only_health_checks_are_open_without_a_token(run: Run, tmp_path: Path) -> None:
    """No token configured: nobody is let in, whatever they send; health says yes or no and no more."""
    view = FakeServer()
    view.is_ready = False

    async def scene() -> None:
        async with serving(view, tmp_path / "s") as (local, remote):
            assert await (await remote.get("/healthz")).json() == {"ok": True}
            ready = await remote.get("/readyz")
            assert (ready.status, await ready.json()) == (503, {"ok": False})
            assert (await (await local.get("/readyz")).json())["parts"] == {"state": "draining"}
            for path in ("/metrics", "/api/v1/sessions", "/api/v1/nothing"):
                answer = await remote.get(path, headers={"Authorization": "Bearer "})
                assert (answer.status, answer.content_type) == (403, "application/problem+json")

    run(scene())


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (f"Bearer {TOKEN}0", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \xff", 401),
        ("", 401),
    ],
)
def test_over_tcp_the_bearer_token_opens_everything(
    run: Run, tmp_path: Path, header: str, status: int
) -> None:
    """Exactly the configured token does."""
    settings = AdminSettings(address="127.0.0.1:0", token=Secret(TOKEN))

    async def scene() -> None:
        async with serving(FakeServer(), tmp_path / "s", settings) as (_, remote):
            for path in ("/metrics", "/api/v1/sessions"):
                answer = await remote.get(path, headers={"Authorization": header})
                assert answer.status == status
                assert ("WWW-Authenticate" in answer.headers) == (status == 401)

    run(scene())


def test_metrics_may_be_opened_without_a_token(run: Run, tmp_path: Path) -> None:
    """Only metrics are; a scraper without a token sees nothing else."""
    settings = AdminSettings(address="127.0.0.1:0", token=Secret(TOKEN), metrics_without_token=True)

    async def scene() -> None:
        async with serving(FakeServer(), tmp_path / "s", settings) as (_, remote):
            metrics = await remote.get("/metrics")
            assert (metrics.content_type, await metrics.text()) == ("text/plain", "sojourn_sessions 3\n")
            assert (await remote.get("/api/v1/sessions")).status == 401

    run(scene())


def test_a_large_body_is_refused(run: Run, tmp_path: Path) -> None:
    """No request of this API needs a body; its size is bounded all the same."""

    async def scene() -> None:
        async with serving(FakeServer(), tmp_path / "s") as (local, _):
            # The server answers and closes before it has read it all: either is a refusal.
            with contextlib.suppress(aiohttp.ClientConnectionError):
                answer = await local.post("/api/v1/nothing", data=b"x" * 1_000_000)
                assert answer.status in {404, 413}
            assert (await local.get("/healthz")).status == 200

    run(scene())


def test_server_and_command_line_find_the_same_socket() -> None:
    """A configured path wins, then the user's runtime directory."""
    assert control_socket(AdminSettings(socket="/a/b"), {"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/a/b")
    assert control_socket(AdminSettings(), {"XDG_RUNTIME_DIR": "/run/user/1"}) == Path(
        "/run/user/1/sojourn.sock"
    )
    assert control_socket(AdminSettings(), {}).name == "control.sock"


def test_a_public_address_needs_a_token() -> None:
    """Whoever reaches the API over a network must prove who they are."""
    assert [key for key, _, _ in AdminSettings(address="0.0.0.0:9300").problems()] == ["address"]
    assert [key for key, _, _ in AdminSettings(address="9300").problems()] == ["address"]
    assert [key for key, _, _ in AdminSettings(token=Secret("short")).problems()] == ["token"]
    assert not list(AdminSettings(address="[::1]:9300").problems())
    assert not list(AdminSettings(address="0.0.0.0:9300", token=Secret(TOKEN)).problems())


def test_requests_at_once_are_all_answered(run: Run, tmp_path: Path) -> None:
    """The API is no bottleneck of its own."""

    async def scene() -> None:
        async with serving(FakeServer(), tmp_path / "s") as (local, _):
            answers = await asyncio.gather(*(local.get("/api/v1/sessions") for _ in range(50)))
            assert {answer.status for answer in answers} == {200}

    run(scene())


def test_every_order_is_noted_with_who_gave_it(run: Run, tmp_path: Path) -> None:
    """Over the control socket the kernel says who, over TCP the token does; refused orders are noted too."""
    view = FakeServer()
    settings = AdminSettings(address="127.0.0.1:0", token=Secret(TOKEN))

    async def scene() -> None:
        async with serving(view, tmp_path / "s", settings) as (local, remote):
            await local.post("/api/v1/drain")
            await local.delete("/api/v1/sessions/nobody")
            await remote.delete("/api/v1/sessions/1", headers={"Authorization": f"Bearer {TOKEN}"})
            await remote.post("/api/v1/reload")
            await remote.get("/api/v1/sessions")
            await remote.post("/api/v1/anything\x1b")

    run(scene())
    me = f"local user {os.geteuid()}, process {os.getpid()}"
    assert view.notes == [
        ("drain", me, "done"),
        ("close session nobody", me, "refused: Not Found"),
        ("close session 1", "the token from 127.0.0.1", "done"),
        ("reload", "nobody known from 127.0.0.1", "refused: Unauthorized"),
    ]
    assert view.orders == ["drain", "close nobody", "close 1"]


def test_the_openapi_document_describes_what_is_served(run: Run, tmp_path: Path) -> None:
    """Every operation is in it, every reference leads somewhere, and what is served fits its schema's names."""

    async def scene() -> tuple[Any, Any]:
        async with serving(FakeServer(), tmp_path / "s") as (local, _):
            described = await (await local.get("/api/v1/openapi.json")).json()
            return described, await (await local.get("/api/v1/sessions")).json()

    described, page = run(scene())
    operations = {(method, path) for path, methods in described["paths"].items() for method in methods}
    assert operations == {(one.method.lower(), one.path) for one in OPERATIONS}
    schemas = described["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described))
    assert set(references) == set(schemas)
    assert set(page) <= set(schemas["Page"]["properties"])
    assert set(page["sessions"][0]) == set(schemas["SessionRow"]["properties"])
    assert described["paths"]["/healthz"]["get"]["security"] == []
    assert described["paths"]["/api/v1/drain"]["post"]["security"] == [{"token": []}]


def test_a_request_that_crashes_is_told_to_the_operator(run: Run, tmp_path: Path) -> None:
    """The one who asked gets no text of the error; the log says which request it was."""
    view = FakeServer()
    view.reload_error = RuntimeError("a secret text")

    async def scene() -> None:
        async with serving(view, tmp_path / "s") as (local, _):
            assert (await local.post("/api/v1/reload")).status == 500

    run(scene())
    assert view.notes[0] == ("POST /api/v1/reload", "RuntimeError", "failed")
    assert view.notes[1][2] == "refused: Internal Server Error"


def test_a_diagram_names_who_really_spoke() -> None:
    """A gateway that knows its peers by name calls them so; a session may have more than two parties."""
    entries = tuple(
        TraceEntry(at=1e9, kind="in", name=name, source=source, target="echo")
        for name, source in (("A", "lab-1"), ("B", "lab-2"))
    )
    lines = trace_mermaid(Trace(session=ROWS[0], entries=entries)).splitlines()
    assert lines == [
        "sequenceDiagram",
        "    participant P as lab-1 192.0.2.1:5",
        "    participant P2 as lab-2",
        "    participant S as echo 0",
        "    P->>S: A",
        "    P2->>S: B",
    ]


def test_repetition_in_a_diagram_is_folded_and_a_wait_is_told() -> None:
    """A diagram is as long as its story: a pattern that comes three times or more is drawn once."""
    pairs = [
        TraceEntry(at=1e9 + number, kind=kind, name=name)
        for number in range(50)
        for kind, name in (("in", "Query"), ("out", "Ready"))
    ]
    last = TraceEntry(at=1e9 + 100, kind="error", name="too late", text="<b>")
    image = trace_svg(Trace(session=ROWS[0], entries=(*pairs, last)))
    assert image.count("Query  x50") == image.count("Ready  x50") == 1
    assert "51.0 s pass" in image
    assert "&lt;b&gt;" in image
    assert "<b>" not in image
