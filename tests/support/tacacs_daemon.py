"""The daemon as people run it: a process with a configuration file, signals and an exit code."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tacacs_lab as labs

CONFIGURATION = """
[log]
format = "json"
level = "info"
file = "{folder}/log.jsonl"

[admin]
address = ""
socket = "{folder}/admin.sock"

[tacacs]
seal_key = "{seal_key}"

[tacacs.limits]
drain_timeout_s = 20.0

[[tacacs.listeners]]
address = "127.0.0.1:0"

[[tacacs.devices]]
name = "lab"
networks = ["127.0.0.1"]
groups = ["labs"]

[[tacacs.devices.secrets]]
value = "{key}"

[[tacacs.users]]
name = "ana"
groups = ["ops"]
password = "{password}"

{more}

[[tacacs.rules]]
name = "ops"
user_groups = ["ops"]

[[tacacs.accounting.files]]
name = "records"
path = "{folder}/records.jsonl"
"""


class Daemon:
    """One process and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: asyncio.subprocess.Process = None  # type: ignore[assignment]  # made by start
        self.port = 0

    def configure(self, more: str = "", key: bytes = labs.KEY) -> None:
        """Write the configuration file."""
        path = self.folder / "sojourn.toml"
        path.write_text(
            CONFIGURATION.format(
                folder=self.folder,
                seal_key=labs.SEAL_KEY.reveal(),
                key=key.decode(),
                password=labs.hashed(labs.PASSWORD),
                more=more,
            )
        )
        path.chmod(0o600)

    async def start(self) -> None:
        """Start it and wait until it listens."""
        with (self.folder / "stderr").open("wb") as stderr:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", "from sojourn.cli.main import main; main()"),
                *("run", "--config", str(self.folder / "sojourn.toml")),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
            )
        await labs.eventually(
            lambda: self.said("server.started") or self.process.returncode is not None, 30.0
        )
        assert self.process.returncode is None, self.stderr
        self.port = int(self.said("listener.started")[0]["address"].rpartition(":")[2])

    @property
    def stderr(self) -> str:
        """What it said besides its log; a traceback would be here."""
        return (self.folder / "stderr").read_text()

    def said(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of an event."""
        path = self.folder / "log.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [entry for entry in entries if entry["event"] == name]

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ends(self, within_s: float = 20.0) -> int:
        """Wait for its end and return the exit code."""
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    def wire(self, key: bytes = labs.KEY) -> labs.Wire:
        """Return a connection to it, to be entered."""
        return labs.Wire(self.port, key=key)


@asynccontextmanager
async def daemon(folder: Path, more: str = "") -> AsyncIterator[Daemon]:
    """Run a daemon; nothing of it is left afterwards."""
    running = Daemon(folder)
    running.configure(more)
    await running.start()
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.signal(signal.SIGKILL)
            await running.process.wait()
    assert running.stderr == ""
