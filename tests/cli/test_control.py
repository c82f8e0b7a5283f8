"""Commands that ask a running server over its control socket."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sojourn.admin.config import AdminSettings
from sojourn.admin.core_view import unseen
from sojourn.admin.serving import AdminServer
from sojourn.admin.view import Health, Page, SessionQuery, SessionRow, Trace, TraceEntry
from sojourn.cli.main import app
from sojourn.errors import ConfigError, Problem

ROW = SessionRow(id="7", gateway="echo", peer="192.0.2.1:5", about="a\x1b[2J", state="open", started=1e9)
ENTRIES = tuple(TraceEntry(at=1e9 + n, kind="in", name=f"M{n}") for n in range(4))


class FakeServer:
    """A server of one session, which ends at the third look at its trace."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.notes: list[tuple[str, str, str]] = []
        self.queries: list[SessionQuery] = []
        self.looks_count = 0
        self.is_broken = False

    async def list_sessions(self, query: SessionQuery) -> Page:
        self.queries.append(query)
        return Page(sessions=(ROW,), next_cursor="abc")

    async def find_session(self, session_id: str) -> SessionRow | None:
        return ROW if session_id == ROW.id else None

    async def trace(self, session_id: str) -> Trace | None:
        if session_id != ROW.id:
            return None
        self.looks_count += 1
        is_over = self.looks_count >= 3
        row = SessionRow(
            id="7", gateway="echo", peer="p", about="", state="finished", started=1e9, ended=1e9 + 5
        )
        return Trace(
            session=row if is_over else ROW, entries=ENTRIES[self.looks_count - 1 : self.looks_count + 1]
        )

    async def close_session(self, session_id: str) -> bool:
        self.orders.append(f"close {session_id}")
        return session_id == ROW.id

    async def metrics_text(self) -> str:
        return ""

    def health(self) -> Health:
        return Health(ok=True)

    def readiness(self) -> Health:
        return Health(ok=True)

    async def reload(self) -> None:
        self.orders.append("reload")
        if self.is_broken:
            raise ConfigError([Problem("sojourn.toml", 3, "log", "level", '"x"', "one of ...")])

    async def drain(self) -> None:
        self.orders.append("drain")

    def note_order(self, what: str, who: str, outcome: str) -> None:
        self.notes.append((what, who, outcome))

    def note_failure(self, request: str, error: Exception) -> None:
        self.notes.append((request, type(error).__name__, "failed"))


Sojourn = Callable[..., Result]


@pytest.fixture
def server() -> FakeServer:
    """Give what the commands will see."""
    return FakeServer()


@pytest.fixture
def sojourn(background: Any, server: FakeServer, tmp_path: Path) -> Sojourn:
    """Serve it on a control socket, and give a way to run commands against it."""
    path = tmp_path / "control.sock"

    async def start() -> Callable[[], Awaitable[None]]:
        serving = AdminServer(server, AdminSettings(address=""), path)
        await serving.start()
        return serving.stop

    background.start(start)
    return lambda *arguments: CliRunner().invoke(app, [*arguments, "--socket", str(path)])


def test_sessions_are_listed(sojourn: Sojourn, server: FakeServer) -> None:
    """The options become the query; what a peer sent does not steer the terminal."""
    result = sojourn(
        "sessions", "list", "--gateway", "echo", "--state", "open", "--search", "a b", "--limit", "5"
    )
    assert result.exit_code == 0
    assert server.queries == [SessionQuery(gateway="echo", state="open", search="a b", limit=5)]
    header, row, more = result.output.splitlines()
    assert header.split()[:3] == ["id", "gateway", "peer"]
    assert row.split()[:5] == ["7", "echo", "192.0.2.1:5", "a\\x1b[2J", "open"]
    assert more == "there are more: --cursor abc"


def test_sessions_are_listed_as_json(sojourn: Sojourn) -> None:
    """A program reads the same page."""
    assert json.loads(sojourn("sessions", "list", "--json").output)["sessions"][0]["id"] == "7"


def test_a_session_is_shown_and_closed(sojourn: Sojourn, server: FakeServer) -> None:
    """An id that the server does not know is exit code 1 and a next step."""
    assert "192.0.2.1:5" in sojourn("sessions", "show", "7").output
    assert sojourn("sessions", "close", "7").exit_code == 0
    for command in ("show", "close"):
        result = sojourn("sessions", command, "8")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1] == "next: list them with: sojourn sessions list"
    assert server.orders == ["close 7", "close 8"]


def test_a_trace_is_printed_in_every_form(sojourn: Sojourn) -> None:
    """Text for people, Mermaid for documents, JSON for programs."""
    assert "+0.000 s -> M0" in sojourn("trace", "7").output
    assert sojourn("trace", "7", "--mermaid").output.startswith("sequenceDiagram\n")
    assert json.loads(sojourn("trace", "7", "--json").output)["session"]["id"] == "7"
    assert sojourn("trace", "8").exit_code == 1
    assert sojourn("trace", "7", "--follow", "--json").exit_code == 2


def test_a_trace_is_followed_to_the_sessions_end(sojourn: Sojourn) -> None:
    """Every entry is printed once, though the ring forgets its oldest ones."""
    result = sojourn("trace", "7", "--follow")
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()] == ["M0", "M1", "M2", "M3"]


def test_a_trace_is_followed_as_a_diagram_that_grows(sojourn: Sojourn) -> None:
    """Whenever it is cut off, what was printed is a whole Mermaid diagram."""
    lines = sojourn("trace", "7", "--follow", "--mermaid").output.splitlines()
    assert lines[0] == "sequenceDiagram"
    assert [line.partition(": ")[2] for line in lines if "->>" in line] == ["M0", "M1", "M2", "M3"]
    assert lines[-1] == "    Note over P,S: finished"


def test_a_login_link_needs_an_address(sojourn: Sojourn) -> None:
    """A server that listens nowhere for browsers says so; exit code 1 and a next step."""
    result = sojourn("login-link")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: the server listens nowhere for browsers",
        "next: set [admin] address",
    ]


def test_a_login_link_is_printed_alone(background: Any, server: FakeServer, tmp_path: Path) -> None:
    """A program may read it; for how long it is good goes to standard error."""
    path = tmp_path / "control.sock"

    async def start() -> Callable[[], Awaitable[None]]:
        serving = AdminServer(server, AdminSettings(address="127.0.0.1:0"), path)
        await serving.start()
        return serving.stop

    background.start(start)
    arguments = ["login-link", "--name", "ana", "--scope", "view", "--socket", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/login#[\w-]{43}\n", result.stdout)
    assert re.fullmatch(r"works once, for (300|299) seconds\n", result.stderr)
    assert server.notes[0][0] == "new login link for ana, view"


def test_unseen_entries_are_those_behind_the_overlap() -> None:
    """A ring that turned over completely shows all that it has."""
    assert unseen((), ENTRIES) == ENTRIES
    assert unseen(ENTRIES, ENTRIES) == ()
    assert unseen(ENTRIES[:3], ENTRIES[1:]) == ENTRIES[3:]
    assert unseen(ENTRIES[:2], ENTRIES[2:]) == ENTRIES[2:]


def test_drain_and_reload_are_ordered(sojourn: Sojourn, server: FakeServer) -> None:
    """A reload that finds problems prints them all and is exit code 2."""
    assert sojourn("drain").output == "draining\n"
    assert sojourn("reload").exit_code == 0
    server.is_broken = True
    result = sojourn("reload")
    assert result.exit_code == 2
    assert result.stderr.startswith('sojourn.toml:3: log.level: found "x", wanted one of ...\n')
    assert server.orders == ["drain", "reload", "reload"]


@pytest.mark.parametrize("command", [["sessions", "list"], ["sessions", "watch"], ["trace", "7"], ["drain"]])
def test_no_server_is_one_clear_line(tmp_path: Path, command: list[str]) -> None:
    """Exit code 1, the socket, the cause, and what to do."""
    socket = tmp_path / "absent.sock"
    result = CliRunner().invoke(app, [*command, "--socket", str(socket)])
    assert result.exit_code == 1
    error, next_step = result.stderr.splitlines()
    assert f"{socket}: No such file or directory" in error
    assert next_step.startswith("next: start it with: sojourn run")
