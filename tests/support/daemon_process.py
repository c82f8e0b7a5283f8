"""A real ``sojourn run`` in a process of its own, with its log read line by line, and commands run against it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tacacs_lab import KEY, PASSWORD, SEAL_KEY, hashed

from sojourn.gateways.tacacs.passwords import seal

WITHIN_S = 20.0
"""How long a test waits for what has to happen; far above what it takes, so that a busy machine is no failure."""

PROGRAM = (sys.executable, "-c", "from sojourn.cli.main import main; main()")


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing but the test's own files is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SOJOURN")}
    return kept | {"XDG_RUNTIME_DIR": str(folder), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def configuration(folder: Path, *, users: Sequence[str] = ("ana",), more: str = "") -> str:
    """Return a ``sojourn.toml`` with one device, these users, and rules for them."""
    key = folder / "device.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    tables = "".join(
        f"""
[[tacacs.users]]
name = "{name}"
groups = ["ops"]
password = "{hashed(PASSWORD)}"
secret = "{seal(PASSWORD, SEAL_KEY, name)}"
"""
        for name in users
    )
    return f"""
[log]
format = "json"

[admin]
address = "127.0.0.1:0"
socket = "{folder / "control.sock"}"
metrics_without_token = true

[tacacs]
seal_key = "{SEAL_KEY.reveal()}"

[[tacacs.listeners]]
address = "127.0.0.1:0"

[[tacacs.devices]]
name = "lab"
networks = ["127.0.0.1"]
groups = ["labs"]
secrets = [{{ value = "${{file:device.key}}" }}]
{tables}
[[tacacs.accounting.files]]
name = "records"
path = "{folder / "records.jsonl"}"

[[tacacs.rules]]
name = "ops-session"
user_groups = ["ops"]
services = ["shell"]
commands = ["show"]
{more}
"""


class DaemonProcess:
    """One ``sojourn run --config FILE``.

    Life: started by :func:`running_daemon`, which kills it at the end if the test has not ended it.
    """

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [*PROGRAM, "run", *(arguments or ("--config", str(folder / "sojourn.toml")))],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=environment(folder),
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line of the log so far."""
        return [json.loads(line) for line in tuple(self.lines)]

    def wait_for(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until the log has so many lines of an event with these fields; return the last of them."""
        deadline = time.monotonic() + WITHIN_S
        with self._changed:
            while True:
                found = [
                    one
                    for one in map(json.loads, self.lines)
                    if one["event"] == event and fields.items() <= one.items()
                ]
                if len(found) >= count:
                    return found[-1]
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"no {event} within {WITHIN_S} s in {self.lines}"
                self._changed.wait(left_s)

    @property
    def port(self) -> int:
        """The port of the first TACACS+ listener."""
        return int(self.wait_for("listener.started")["address"].rpartition(":")[2])

    @property
    def admin(self) -> str:
        """Where the HTTP API listens."""
        return f"http://{self.wait_for('admin.started')['address']}"

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end, and for the log's last line; return the exit code."""
        code = self._process.wait(WITHIN_S)
        self._reader.join(WITHIN_S)
        return code

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self._process.kill()
        self.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def sojourn(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return sojourn(self.folder, *arguments)


def sojourn(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the configuration of a folder to its end."""
    more = (
        () if "--config" in arguments or arguments[0] == "run" else ("--config", str(folder / "sojourn.toml"))
    )
    return subprocess.run(
        [*PROGRAM, *arguments, *more],
        check=False,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        cwd=folder,
        env=environment(folder),
    )


@contextlib.contextmanager
def following(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command that goes on until told; it is killed where the test did not end it."""
    command = [*PROGRAM, *arguments, "--config", str(folder / "sojourn.toml")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment(folder)
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def running_daemon(folder: Path, text: str = "") -> Iterator[DaemonProcess]:
    """Start a daemon on a configuration and wait until it serves; at the end it must be gone."""
    (folder / "sojourn.toml").write_text(text or configuration(folder))
    daemon = DaemonProcess(folder)
    try:
        daemon.wait_for("server.started")
        yield daemon
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "Traceback" not in "".join(daemon.lines)
        assert not (folder / "control.sock").exists()
    finally:
        daemon.kill()
