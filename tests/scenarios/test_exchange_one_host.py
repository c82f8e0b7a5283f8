"""``examples/exchange.toml`` as a reader runs it: a file, a command, a token, and nothing else to start."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import WITHIN_S, DaemonProcess, running_daemon
from typer.testing import CliRunner

from sojourn.cli.token import app as token_cli

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/exchange.toml"
OURS = """
[log]
format = "json"
[admin]
address = ""
socket = "control.sock"
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a directory that the user of the PostgreSQL can enter where the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def ask(daemon: DaemonProcess, token: str, method: str, path: str, body: Any = None) -> Any:
    """Send a request to the gateway and return its answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.port}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        return json.loads(answer.read() or b"null")


def token_of(folder: Path, subject: str) -> str:
    """Return a token as the command of the example's first lines makes one."""
    key = str(folder / "exchange-data/dev-key.json")
    return CliRunner().invoke(token_cli, ["issue", subject, "--key", key]).output.strip()


def test_the_example_serves_sessions_that_outlive_a_restart(folder: Path) -> None:
    """Spec 5.7, the default column: a PostgreSQL of our own, a development key; both are there again."""
    text = EXAMPLE.read_text(encoding="utf-8").replace("127.0.0.1:8080", "127.0.0.1:0") + OURS
    with running_daemon(folder, text) as daemon:
        daemon.wait_for("exchange.pod_ready")
        token = token_of(folder, "ana")
        made = ask(daemon, token, "POST", "/v1/sessions", {"device": "laptop"})
        assert (made["subject"], made["state"]) == ("ana", "new")
    with running_daemon(folder, text) as daemon:
        daemon.wait_for("exchange.pod_ready")
        assert ask(daemon, token, "GET", f"/v1/sessions/{made['id']}")["id"] == made["id"]
        assert ask(daemon, token_of(folder, "ben"), "GET", "/v1/sessions")["sessions"] == []
