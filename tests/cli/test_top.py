"""The command ``sojourn top``: one look as text or JSON, what it refuses, and a real terminal."""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from admin_lab import TOKENS
from top_lab import WITHIN_S, site
from typer.testing import CliRunner

from sojourn.cli import top
from sojourn.cli.main import app

HEADLINE = ["gateway", "last", "minute", "open", "new/s", "packets/s", "bytes/s", "failed"]


@pytest.fixture
def place(background, tmp_path):
    """Run a server in a thread."""
    stack, found = contextlib.AsyncExitStack(), []

    async def start() -> Callable[[], Awaitable[None]]:
        found.append(await stack.enter_async_context(site(tmp_path)))
        return stack.aclose

    background.start(start)
    return found[0]


def sojourn(*arguments: str, **environ: str):
    """Run a command without a terminal."""
    return CliRunner().invoke(app, ["top", *arguments], env={"COLUMNS": "80", **environ})


def test_without_a_terminal_it_prints_one_look(place) -> None:
    """Issue 6, build item 4: into a pipe, or with --once, the overview as plain text and exit code 0."""
    for option in ((), ("--once",)):
        result = sojourn("--socket", str(place.socket), *option)
        assert result.exit_code == 0
        head, well, empty, columns, gateway = result.stdout.splitlines()
        assert head.startswith("sojourn 0.")
        assert head.endswith("1 worker")
        assert (well, empty) == ("ok all is well", "")
        assert columns.split() == HEADLINE
        assert gateway.split()[0] == "tacacs"
        assert "\x1b" not in result.stdout


def test_a_program_gets_one_look_as_json(place) -> None:
    """--json prints what GET /api/v1/overview answers."""
    told = json.loads(sojourn("--socket", str(place.socket), "--json").stdout)
    assert told["gateways"][0]["name"] == "tacacs"


def test_another_machine_is_looked_at_over_http_with_a_token(place, tmp_path: Path) -> None:
    """The token comes from a variable or a file and is in no line of the output."""
    url = f"http://{place.admin.address}"
    token = tmp_path / "token"
    token.write_text(TOKENS["view"])
    token.chmod(0o600)
    for result in (
        sojourn("--url", url, "--token-env", "TOKEN", TOKEN=TOKENS["view"]),
        sojourn("--url", url, "--token-file", str(token)),
    ):
        assert result.exit_code == 0, result.output
        assert "tacacs" in result.stdout
    refused = sojourn("--url", url, "--token-env", "TOKEN", TOKEN="nobody's token")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: the server at {url} unavailable")
    assert "nobody's token" not in refused.output


@pytest.mark.parametrize(
    "url",
    [
        "sojourn.example",
        "ftp://sojourn.example",
        "http://",
        "http://host:port",
        "http://ana:secret@host",
        "http://host/x",
    ],
)
def test_an_url_that_is_none_is_one_clear_line(url: str) -> None:
    """Exit code 2, and what was wanted; never what was given, which may hold a password."""
    result = sojourn("--url", url, "--token-env", "TOKEN", TOKEN="a token")
    assert result.exit_code == 2
    assert "wanted such as" in result.stderr
    assert "secret" not in result.stderr


def test_a_token_in_the_clear_is_warned_of() -> None:
    """Plain HTTP to another machine shows the token to whoever listens on the way."""
    result = sojourn("--url", "http://192.0.2.1:1", "--token-env", "NONE")
    assert result.stderr.startswith("warning: the token goes to 192.0.2.1 in the clear; use https")


def test_a_token_needs_an_url() -> None:
    """The control socket lets in who may open it."""
    result = sojourn("--token-env", "TOKEN", TOKEN="x")
    assert result.exit_code == 2
    assert "the control socket needs none" in result.stderr


@pytest.mark.parametrize("option", ["--once", "--json"])
def test_no_server_is_one_clear_line(tmp_path: Path, option: str) -> None:
    """Exit code 1, the socket, the cause, and what to do."""
    result = sojourn("--socket", str(tmp_path / "absent.sock"), option)
    assert result.exit_code == 1
    error, next_step = result.stderr.splitlines()
    assert "absent.sock: No such file or directory" in error
    assert next_step.startswith("next: start it with: sojourn run")


def test_without_textual_it_says_what_to_install(place, monkeypatch) -> None:
    """The screen is the extra ``top``; one look needs nothing."""
    importing = builtins.__import__

    def without(name, *arguments, **more):
        if name.partition(".")[0] == "textual":
            raise ModuleNotFoundError(name)
        return importing(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(top, "_is_screen", lambda: True)
    result = sojourn("--socket", str(place.socket))
    assert result.exit_code == 1
    assert "pip install 'sojourn[top]'" in result.stderr


def test_nobody_else_pays_for_textual() -> None:
    """Only the screen imports it: no other command waits for it."""
    code = (
        "import sys, sojourn.cli.main; assert not [one for one in sys.modules if one.startswith('textual')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_output_without_our_characters_gets_others() -> None:
    """ASCII draws the same heights with what it has."""
    assert top.ascii_text("▁▄█ · a…é") == "_-# , a~?"


class Terminal:
    """A real terminal of 80 by 24 with ``sojourn top`` in it; all that was drawn is in ``drawn``."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._seen = threading.Condition()
        self.drawn = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from sojourn.cli.main import main; main()", "top", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", **environ},
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65_536)
            except OSError:  # Linux: nobody has the other end any more
                piece = b""
            with self._seen:
                self.drawn += piece
                self._seen.notify_all()
            if not piece:
                return

    def until(self, text: bytes) -> None:
        with self._seen:
            assert self._seen.wait_for(lambda: text in self.drawn, WITHIN_S * 2), self.drawn[-2_000:]

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(WITHIN_S)
        os.close(self._ours)


@pytest.fixture
def terminal(place):
    with contextlib.closing(Terminal("--socket", str(place.socket))) as one:
        yield one


@pytest.mark.parametrize("end", [b"q", b"\x03", None], ids=["q", "ctrl-c", "SIGTERM"])
def test_in_a_real_terminal_it_shows_the_server_and_leaves_the_terminal_as_it_was(terminal, end) -> None:
    """Exit code 0, and the alternate screen is left, whichever way it ends."""
    terminal.until(b"tacacs")
    assert b"\x1b[?1049h" in terminal.drawn
    if end is None:
        terminal.process.terminate()
    else:
        terminal.press(end)
    assert terminal.process.wait(WITHIN_S) == 0
    terminal.until(b"\x1b[?1049l")


def test_a_dumb_terminal_gets_one_look(place) -> None:
    """TERM=dumb cannot be drawn on."""
    with contextlib.closing(Terminal("--socket", str(place.socket), TERM="dumb")) as terminal:
        assert terminal.process.wait(WITHIN_S * 2) == 0
        terminal.until(b"tacacs")
        assert b"\x1b" not in terminal.drawn
