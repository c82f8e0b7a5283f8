"""Three service processes, their PostgreSQL, their Valkey and their simulators, for benches that break them.

Each pod is a ``sojourn run --config FILE`` of its own; simulators are child processes that no pod takes with it when it
ends. Knows no client and no fault: it starts, signals, looks, and says what it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
import asyncpg
from redis import asyncio as redis
from redis.exceptions import RedisError

from sojourn.core.secret import Secret
from sojourn.embedded.account import free_port
from sojourn.embedded.postgres import PostgresServer
from sojourn.embedded.valkey import ValkeyServer
from sojourn.gateways.exchange.dev_issuer import make_key_file, read_key_file, sign_token

READY_S: Final = 60.0
"""How long a process may take until it is ready; a busy machine takes its time."""
END_S: Final = 40.0
LOOK_S: Final = 0.05
TOKEN_S: Final = 7_200.0
PIDFD_GETFD: Final = 438
"""The same number on every architecture. Source: Linux, scripts/syscall.tbl."""
FOLDER_MODE: Final = 0o711
"""As root the Valkey runs as another user, who must be able to pass."""

_RUN: Final = (
    # The kernel ends a pod that has lost its bench.
    "import ctypes; ctypes.CDLL(None).prctl(1, 9); from sojourn.cli.main import main; main()"
)
_BAD_EVENTS: Final = ("server.loop_error", "exchange.housekeeping_failed", "exchange.request_broke")

Tables = Mapping[str, Mapping[str, Any]]
"""Settings by table of ``[exchange]``, such as ``{"valkey": {"lease_s": 5.0}}``."""


class Simulator(NamedTuple):
    """One simulator as its row has it."""

    id: str
    session: str
    state: str
    endpoint: str
    pid: int


class PodProcess:
    """One place for a pod: the same port and log, one process after the other.

    Life: ``start`` and an end, again and again; ``close`` at last.

    Args:
        number: from 1.
        folder: of its configuration and its log.
        write: makes the configuration of a pod with this name and port.
    """

    def __init__(self, number: int, folder: Path, write: Callable[[str, int], str]) -> None:
        self.number = number
        self.port = free_port()
        self.log = folder / f"pod-{number}.log"
        self.name = ""
        self.is_well = False
        """It is ready, and not told to end."""
        self.starts_count = 0
        self.ready_s = 0.0
        """Since when, in monotonic seconds."""
        self._file = folder / f"pod-{number}.toml"
        self._write = write
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """There is a process."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its id; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def code(self) -> int | None:
        """How its process has ended."""
        return self._process.poll() if self._process is not None else None

    def start(self, name: str) -> None:
        """Start a process under a name of its own, or under its predecessor's."""
        self.name = name
        self.is_well = False
        self.starts_count += 1
        self._file.touch(mode=0o600)
        self._file.write_text(self._write(name, self.port))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SOJOURN")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, "run", "--config", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self._file.parent,
                env=environment | {"XDG_RUNTIME_DIR": str(self._file.parent)},
            )

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def ended(self, within_s: float = END_S) -> int:
        """Wait for its process to end; return the exit code. Raises: TimeoutError."""
        process = self._process
        if process is None:
            return 0
        async with asyncio.timeout(within_s):
            while (code := process.poll()) is None:  # noqa: ASYNC110 - a child process has no event
                await asyncio.sleep(LOOK_S)
        return code

    async def ready(self, http: aiohttp.ClientSession, within_s: float = READY_S) -> float:
        """Wait until it takes sessions; return how long that took. Raises: TimeoutError, AssertionError if it ends."""
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while not await self._is_ready(http):
                assert self.is_running, (
                    f"{self.name} has ended with {self.code}, see {self.log}: {self.last_words()}"
                )
                await asyncio.sleep(LOOK_S)
        self.is_well = True
        self.ready_s = time.monotonic()
        return time.monotonic() - began

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(total=2.0)
            async with http.get(f"{self.url}/readyz", timeout=timeout) as answer:
                return answer.status == 200  # noqa: PLR2004 - the status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""

    def complaints(self) -> list[str]:
        """Return the lines of its log that tell of a bug."""
        if not self.log.exists():
            return []
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                found.append(line)  # no line of the log: a traceback, or what a library says
                continue
            if event.get("event") in _BAD_EVENTS:
                found.append(line)
        return found


class Cluster:
    """The servers, the pods and their simulators.

    Use as ``async with Cluster(3, tables) as cluster``: on leaving, all of it is gone.

    Args:
        pods_count: how many processes.
        tables: settings of ``[exchange]`` besides those that join the pods.
    """

    def __init__(self, pods_count: int, tables: Tables) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sojourn-bench-"))
        self.folder.chmod(FOLDER_MODE)
        self.key = self.folder / "dev-key.json"
        self.postgres = PostgresServer(port=0, settings={"max_connections": "200"})
        self.valkey = ValkeyServer(
            directory=self.folder / "valkey", port=free_port(), password=Secret("bench-of-a-valkey")
        )
        self.is_valkey_up = False
        self.pods = [
            PodProcess(number, self.folder, self._configuration) for number in range(1, pods_count + 1)
        ]
        self._tables = tables
        self._born_count = 0

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self) -> None:
        make_key_file(self.key)
        await asyncio.gather(self.postgres.start(), self.valkey.start())
        self.is_valkey_up = True
        self.http = aiohttp.ClientSession()
        self.database = await asyncpg.create_pool(self.postgres.dsn(), min_size=1, max_size=4)
        self.keys = redis.Redis.from_url(self.valkey.url(), socket_timeout=2.0, socket_connect_timeout=2.0)
        self.pods[0].start(self.new_name())  # alone at first: it makes the tables
        await self.pods[0].ready(self.http)
        for pod in self.pods[1:]:
            pod.start(self.new_name())
        await asyncio.gather(*(pod.ready(self.http) for pod in self.pods))

    async def _close(self) -> None:
        for pod in self.pods:
            pod.signal(signal.SIGCONT)
            pod.signal(signal.SIGKILL)
        for pod in self.pods:
            await pod.ended()
        if hasattr(self, "database"):
            for one in await self.simulators():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            await self.database.close()
            await self.keys.aclose()
            await self.http.close()
        await self.valkey.stop()
        await self.postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_name(self) -> str:
        """Return a name that no pod has had."""
        self._born_count += 1
        return f"pod-{self._born_count}"

    def token(self, subject: str) -> Secret:
        """Return who a user is."""
        return Secret(
            sign_token(
                read_key_file(self.key),
                subject=subject,
                scopes=("exchange",),
                issuer="sojourn-dev",
                audience="sojourn",
                lifetime_s=TOKEN_S,
                now=time.time(),
            )
        )

    # Pods

    def _configuration(self, name: str, port: int) -> str:
        folder = self.folder
        tables: dict[str, dict[str, Any]] = {
            "pod": {"name": name},
            "auth": {"dev_key_file": str(self.key)},
            "store": {"dsn": self.postgres.dsn()},
            "valkey": {"url": self.valkey.url()},
            "process": {"directory": str(folder / "simulators")},
        }
        for table, settings in self._tables.items():
            tables[table] = tables.get(table, {}) | dict(settings)
        lines = ["[log]", 'format = "json"', "[admin]", 'address = "127.0.0.1:0"']
        lines.append(f'socket = "{folder / f"{port}.sock"}"')
        lines += ["[[exchange.listeners]]", f'address = "127.0.0.1:{port}"']
        for table, settings in tables.items():
            lines.append(f"[exchange.{table}]")
            lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
        return "\n".join(lines) + "\n"

    @property
    def well(self) -> list[PodProcess]:
        """The pods that are ready, and not told to end."""
        return [pod for pod in self.pods if pod.is_well]

    # What is where

    async def simulators(self) -> list[Simulator]:
        """Return every simulator that the database knows."""
        rows = await self.database.fetch(
            "SELECT id, session_id, state, endpoint, handle FROM exchange.simulators ORDER BY id"
        )
        return [
            Simulator(
                row["id"],
                row["session_id"],
                row["state"],
                row["endpoint"],
                int(json.loads(row["handle"]).get("place", {}).get("pid", 0)),
            )
            for row in rows
        ]

    async def owners(self) -> dict[str, tuple[str, int]]:
        """Return who owns each session, and under which epoch, as the database has it."""
        rows = await self.database.fetch("SELECT id, owner_pod, owner_epoch FROM exchange.sessions")
        return {row["id"]: (row["owner_pod"], row["owner_epoch"]) for row in rows}

    async def leases(self, sessions: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return who has the lease of each session that somebody has. Raises: RedisError."""
        found = {}
        for session, held in zip(
            sessions, await self.keys.mget([f"{{{one}}}:own" for one in sessions]), strict=True
        ):
            if held:
                text = held.decode() if isinstance(held, bytes) else held
                pod, _, epoch = text.rpartition(":")
                found[session] = (pod, int(epoch))
        return found

    async def has_log(self, session: str) -> bool:
        """Say whether the Valkey has a session's events. Raises: RedisError."""
        return bool(await self.keys.exists(f"{{{session}}}:log"))

    # The Valkey

    def kill_valkey(self) -> None:
        """End it as a power cut would."""
        self.is_valkey_up = False
        os.kill(self.valkey.pid, signal.SIGKILL)

    async def start_valkey(self, *, keeps_data: bool) -> None:
        """Start it again, with its data or empty."""
        await self.valkey.stop()
        if not keeps_data:
            await asyncio.to_thread(shutil.rmtree, self.folder / "valkey" / "data", ignore_errors=True)
        await self.valkey.start()
        self.is_valkey_up = True


def _toml(value: Any) -> str:  # noqa: ANN401 - whatever a setting is
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def cut_links(pid: int) -> int:
    """Shut every connection that a process has accepted, as if its network were cut; return how many there were.

    Sockets of another process are reached by pidfd_getfd(2), which root may do; for others there are none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    cut_count = 0
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return 0
    try:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            copy = libc.syscall(PIDFD_GETFD, process, int(file.name), 0)
            if copy < 0:
                continue
            try:
                one = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with one, contextlib.suppress(OSError):
                # Neither the socket that listens, nor the nameless pairs by which a loop wakes itself.
                if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and one.getsockname():
                    one.getpeername()
                    one.shutdown(socket.SHUT_RDWR)
                    cut_count += 1
    finally:
        os.close(process)
    return cut_count


__all__ = ["Cluster", "PodProcess", "RedisError", "Simulator", "cut_links"]
