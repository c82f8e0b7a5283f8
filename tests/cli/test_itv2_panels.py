"""``sojourn itv2 panels`` and ``learn``: a running gateway asked over its control socket, without ``[itv2.http]``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from itv2_simulator_lab import SimulatorLab, identity, simulator_lab
from typer.testing import CliRunner, Result

from sojourn.admin.config import AdminSettings
from sojourn.admin.core_view import CoreView
from sojourn.admin.serving import AdminServer
from sojourn.cli.main import app
from sojourn.core.server import Server

Stop = Callable[[], Awaitable[Any]]
UNKNOWN = identity(9)
CALLS_OFTEN = {"reconnect_s": (0.3, 0.4)}


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def started(background: Any, tmp_path: Path, socket: Path) -> SimulatorLab:
    """A gateway with two panels, of which the second never comes, and operators who may ask."""
    labs: list[SimulatorLab] = []

    async def start() -> Stop:
        stack = contextlib.AsyncExitStack()
        lab = await stack.enter_async_context(simulator_lab(tmp_path, count=2))
        await _listen(stack, lab.server, socket)
        await stack.enter_async_context(lab.connected())
        await stack.enter_async_context(lab.simulated(UNKNOWN, line=CALLS_OFTEN))
        labs.append(lab)
        return stack.aclose

    background.start(start)
    return labs[0]


async def _listen(stack: contextlib.AsyncExitStack, server: Server, socket: Path) -> None:
    admin = AdminServer(CoreView(server), AdminSettings(address=""), socket)
    await admin.start()
    stack.push_async_callback(admin.stop)


def itv2(socket: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["itv2", *arguments, "--socket", str(socket)])


@pytest.mark.usefixtures("started")
def test_each_panel_is_shown_with_what_to_compare(socket: Path) -> None:
    """What an operator looks at first."""
    result = itv2(socket, "panels")
    assert result.exit_code == 0, result.output
    head, here, away = result.stdout.splitlines()
    assert head.split() == ["panel", "phase", "connected", "since", "last", "heard", "state", "diagnosis"]
    assert re.match(
        r"house-0 +connected +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d +\d+ s ago +live *$", here
    )
    assert re.match(
        r"house-1 +disconnected +never +stale +Panel house-1 has not connected yet: compare ", away
    )


@pytest.mark.usefixtures("started")
def test_learning_shows_who_calls_and_ends(socket: Path) -> None:
    """Section 7.5: learning is explicit and timed; nothing is left of it."""
    result = itv2(socket, "learn", "--for", "1s")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert f"  {UNKNOWN.integration_id}  Type 2, firmware 5.43, from 127.0.0.1:" in line
    assert "add it to [[itv2.panels]]" in result.stderr


def test_learning_is_over_when_the_command_is(started: SimulatorLab, socket: Path) -> None:
    """What was learnt is forgotten, and who calls next is not remembered."""
    assert itv2(socket, "learn", "--for", "1s").exit_code == 0
    assert not started.gateway.learning_left_s
    assert not started.gateway.learnt


@pytest.mark.parametrize("span", ["soon", "0s", "2h", "5"])
def test_a_span_that_is_none_is_told_with_what_is_wanted(socket: Path, span: str) -> None:
    """Exit code 2, before anything is asked."""
    result = itv2(socket, "learn", "--for", span)
    assert result.exit_code == 2
    assert "wanted 1s to 1h" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", ["panels", "learn"])
def test_a_server_without_panels_says_so(background: Any, socket: Path, command: str) -> None:
    """One line and what to do."""

    async def start() -> Stop:
        stack = contextlib.AsyncExitStack()
        server = Server()
        await server.start()
        stack.push_async_callback(server.stop, timeout_s=1)
        await _listen(stack, server, socket)
        return stack.aclose

    background.start(start)
    result = itv2(socket, command)
    assert result.exit_code == 1
    assert "error: the server has no panels' gateway" in result.stderr
    assert "next: add [itv2]" in result.stderr


def test_operations_of_a_gateways_page_are_held_to_their_table(run, tmp_path: Path, socket: Path) -> None:
    """What is not in it is refused, and every order is in the log with who gave it."""

    async def go() -> None:
        async with simulator_lab(tmp_path) as lab, contextlib.AsyncExitStack() as stack:
            await _listen(stack, lab.server, socket)
            http = await stack.enter_async_context(
                aiohttp.ClientSession("http://sojourn", connector=aiohttp.UnixConnector(path=str(socket)))
            )
            for method, path, body, status in (
                ("GET", "itv2/panels", None, 200),
                ("GET", "itv2/zones", None, 404),
                ("GET", "other/panels", None, 404),
                ("POST", "itv2/panels", None, 405),
                ("PUT", "itv2/learning", {"for_s": 1e9}, 422),
                ("PUT", "itv2/learning", {"for_s": 60}, 200),
                ("DELETE", "itv2/learning", None, 204),
            ):
                async with http.request(method, f"/api/v1/panels/{path}", json=body) as answer:
                    assert (answer.status, method, path) == (status, method, path)
            orders = [(one["what"], one["outcome"]) for one in lab.events("admin.order")]
            operations = lab.server.panels["itv2"].operations
            begun, ended = (one for one in operations if one.path == "/learning" and one.scope == "admin")
            assert orders[-2:] == [(f"itv2: {begun.summary}", "done"), (f"itv2: {ended.summary}", "done")]

    run(go())
