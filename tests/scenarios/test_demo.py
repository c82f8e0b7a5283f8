"""The demo as a newcomer meets it: one command, a table of what happened, and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon_process import PROGRAM, WITHIN_S, environment
from rich.console import Console

from sojourn.demo import serve_demo
from sojourn.demo.screen import Screen
from sojourn.demo.site import Site

LAST_LINE = "Ctrl-C stops everything"
LINK = re.compile(r"^  (http://127\.0\.0\.1:\d+)/login#([\w-]{43})$", re.MULTILINE)
LINK_WITHIN_S = 60.0
"""From the command to the first link. Issue 6 wants 30 s at first and 5 s later, where nothing else runs."""
SCREEN_WITHIN_S = 240.0
"""Longer than all deadlines of the demo's parts together, on a busy machine."""
NARROW = 80
"""Columns of a terminal that nobody has made wider."""


class Demo:
    """A demo in a process of its own, read up to the end of its first screen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link_after_s = float("inf")
        began = time.monotonic()
        self.environment = environment(folder) | {"COLUMNS": str(NARROW), "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [*PROGRAM, "run", "--demo"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=self.environment,
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        alarm = threading.Timer(SCREEN_WITHIN_S, self.process.kill)
        alarm.start()
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if LINK.match(line.rstrip()):
                self.link_after_s = min(self.link_after_s, time.monotonic() - began)
            if LAST_LINE in line:
                break
        alarm.cancel()
        assert LAST_LINE in self.text[-200:], f"no end within {SCREEN_WITHIN_S} s:\n{self.text}"

    @property
    def text(self) -> str:
        """The first screen."""
        return "\n".join(self.lines)

    @property
    def links(self) -> list[tuple[str, str]]:
        """The dashboard's address and the secret of a link, as often as it printed them."""
        return LINK.findall(self.text)

    @property
    def commands(self) -> list[str]:
        """What it proposes to type."""
        return [line.strip() for line in self.lines if line.startswith("  ")]

    def stop(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what was printed after it."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, rest


@contextlib.contextmanager
def running_demo(folder: Path) -> Iterator[Demo]:
    """Start a demo; it is killed where the test did not stop it."""
    demo = Demo(folder)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short name: the path of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def shows_that_a_failover_was_survived(text: str) -> None:
    """Check what is said of the database's clients: nobody disconnected, nothing lost, everybody waited as little."""
    assert re.search(
        r"^PostgreSQL on 127\.0\.0\.1:\d+: primary killed, replica promoted \d\.\d s later$",
        text,
        re.MULTILINE,
    )
    connected = re.search(
        r"^(\d+) of \1 clients stayed connected; the longest wait was (\d+\.\d+) s$", text, re.MULTILINE
    )
    assert connected is not None, text
    assert int(connected[1]) == 20
    assert re.search(
        r"^(\d+) of \1 sessions with SET, PREPARE or LISTEN have them as before$", text, re.MULTILINE
    ), text
    assert re.search(r"^\d+ sales were committed: 0 lost, 0 doubled$", text, re.MULTILINE), text
    for pool in ("transaction", "session"):
        row = re.search(rf"^{pool} +(\d+) +(\d+) +(\d+) +\d+ +\d+ +(\d+) +\d", text, re.MULTILINE)
        assert row is not None, text
        assert (row[1], row[2], row[4]) == ("10", "10", "0")
        assert int(row[3]) > 0


def shows_that_a_session_outlives_its_websocket(text: str) -> None:
    """Check what is said of the trader: a simulator of its own, three killed WebSockets, and every event once."""
    assert re.search(
        r"^Exchange on 127\.0\.0\.1:\d+: a session that outlives its WebSocket$", text, re.MULTILINE
    )
    assert re.search(r"^PUT \.\.\./simulator +running, driver process +\d+ ms$", text, re.MULTILINE), text
    replayed = re.findall(
        r"^WebSocket killed, \d of 3 +resumed full, (\d+) events replayed +\d+ ms$", text, re.MULTILINE
    )
    assert len(replayed) == 3, text
    assert all(map(int, replayed)), text
    told = re.search(
        r"^(\d+) events were logged, \1 told: 0 lost, 0 doubled, 0 out of order$", text, re.MULTILINE
    )
    assert told is not None, text
    assert int(told[1]) >= 40


def test_the_demo_shows_what_it_did_and_ends_with_ctrl_c(folder: Path) -> None:
    """Every answer as wanted, among them TLS and refusals; exit code 0, and nothing is left behind."""
    with running_demo(folder) as demo:
        assert re.search(r"^(\d+) of \1 answers as wanted$", demo.text, re.MULTILINE), demo.text
        rows = [line for line in demo.lines if re.search(r" (yes|no: \w+) ", f"{line} ")]
        assert len(rows) >= 14
        assert not [row for row in rows if " no: " in row]
        shows_that_a_failover_was_survived(demo.text)
        shows_that_a_session_outlives_its_websocket(demo.text)
        for what in ("login, MS-CHAPv2", "login over TLS 1.3", "command: reload", "accounting STOP"):
            assert any(row.startswith(what) for row in rows), what
        assert [line for line in demo.lines if len(line.rstrip()) > NARROW and line[:2] != "  "] == []
        assert list(folder.glob("sojourn-demo-*"))
        assert demo.process.poll() is None
        code, rest = demo.stop()
    assert (code, rest) == (0, "stopped; the demo's directory is gone\n")
    assert list(folder.iterdir()) == []


def test_the_proposed_commands_work_as_they_are_printed(folder: Path) -> None:
    """Without any option: the demo takes the usual control socket where it is free."""
    with running_demo(folder) as demo:
        assert "SOJOURN_SOCKET" not in demo.text
        proposed = [line.split()[1:] for line in demo.commands if line.startswith("sojourn ")]
        assert ["top"] in proposed
        for words in proposed:
            done = subprocess.run(
                [*PROGRAM, *words],
                check=False,
                capture_output=True,
                text=True,
                env=demo.environment,
                cwd=folder,
                timeout=WITHIN_S,
            )
            assert done.returncode == 0, (words, done.stderr)
            wanted = {"top": "tacacs", "token": "ey", "login-link": "/login#"}.get(words[0], "-")
            assert wanted in done.stdout, words
        log = next(line.split()[-1] for line in demo.commands if line.endswith("sojourn.log"))
        assert '"event":"tacacs.authentication"' in Path(log).read_text()
        assert demo.stop()[0] == 0


def test_two_demos_run_at_once(folder: Path) -> None:
    """The second takes free ports and a control socket of its own, and says where it is."""
    with running_demo(folder) as first, running_demo(folder) as second:
        said = (r"127\.0\.0\.1:(\d+), TLS on port (\d+)", r"PostgreSQL on 127\.0\.0\.1:(\d+)")
        titles = [re.search(text, demo.text) for demo in (first, second) for text in said]
        assert all(titles)
        ports = [port for title in titles if title is not None for port in title.groups()]
        assert len(set(ports)) == 6
        assert any(line.startswith("export SOJOURN_SOCKET=") for line in second.commands)
        assert [demo.stop()[0] for demo in (second, first)] == [0, 0]
    assert list(folder.iterdir()) == []


async def log_in(address: str, secret: str) -> int:
    """Do what the login page does; return the status."""
    async with (
        aiohttp.ClientSession() as browser,
        browser.post(f"{address}/api/v1/login", json={"token": secret}) as answer,
    ):
        return answer.status


def test_the_dashboard_is_there_before_the_traffic_and_each_link_lets_one_browser_in(folder: Path) -> None:
    """Issue 6, build 5: address and one-time link are printed as soon as the daemon serves, and again at the end."""
    with running_demo(folder) as demo:
        assert demo.link_after_s < LINK_WITHIN_S
        (address, early), (same, late) = demo.links
        assert address == same
        assert early != late
        first_table = next(index for index, line in enumerate(demo.lines) if line.startswith("TACACS+ on"))
        assert any(early in line for line in demo.lines[:first_table])
        assert [asyncio.run(log_in(address, link)) for link in (early, early, late)] == [200, 401, 200]


async def busy_gateways(control: Path, count: int) -> dict[str, float]:
    """Listen to the server until so many gateways have had messages; return how many each had in its best second."""
    best: dict[str, float] = {}
    async with (
        asyncio.timeout(WITHIN_S),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(control))) as operator,
        operator.get("http://local/api/v1/stream") as stream,
    ):
        async for line in stream.content:
            if line.startswith(b"data: ") and b'"gateways":' in line:
                for gateway in json.loads(line.removeprefix(b"data: "))["gateways"]:
                    rate = gateway["packets_in_per_s"] + gateway["packets_out_per_s"]
                    best[gateway["name"]] = max(rate, best.get(gateway["name"], 0.0))
                if sum(rate > 0 for rate in best.values()) >= count:
                    return best
    raise AssertionError(best)


def test_after_the_tables_there_is_traffic_at_every_gateway_and_the_killed_server_is_back(
    folder: Path,
) -> None:
    """Issue 6, build 5: lively, honest traffic; what was broken for the show is whole again."""
    with running_demo(folder) as demo:
        assert re.search(r"^bringing the killed server back as a replica +\d+ ms$", demo.text, re.MULTILINE)
        busy = asyncio.run(busy_gateways(folder / "sojourn.sock", 4))
        assert busy.keys() >= {"tacacs", "postgres", "exchange", "itv2"}


class QuickVisitor(Screen):
    """Somebody who presses Ctrl-C as soon as there is nothing more to read."""

    def __init__(self) -> None:
        self.output = io.StringIO()
        super().__init__(Console(file=self.output, width=NARROW))

    def show_next_steps(self, site: Site, link: str) -> None:
        super().show_next_steps(site, link)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_port_that_is_taken_after_we_looked_does_not_stop_the_demo(
    run: Callable[[Coroutine[Any, Any, Any]], Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two demos that start at the same moment see the same free port; the second one moves."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    visitor = QuickVisitor()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("sojourn.demo.site._free_port", lambda _: port)
        run(serve_demo(visitor))
    text = visitor.output.getvalue()
    assert re.search(r"^(\d+) of \1 answers as wanted$", text, re.MULTILINE), text
    assert f":{port}" not in text
    assert "export SOJOURN_SOCKET=" in text
    assert text.endswith("stopped; the demo's directory is gone\n")
