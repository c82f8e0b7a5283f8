"""The servers that ``exchange.py`` compares: ours and its peers, each a process of its own on one core.

Peers of npm are installed into ``$SOJOURN_CACHE/bench-npm`` (by default below ``~/.cache/sojourn``), as
``exchange_peers/package-lock.json`` names them; those of PyPI come with the dependency group ``bench``. What cannot be
had here is missing, with the reason in words; nothing is measured in its place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple

import measure
import msgspec
import servers
from exchange_clients import Kind, Plan

OURS: Final = "sojourn"
_HERE: Final = Path(__file__).parent
_PEERS: Final = _HERE / "exchange_peers"
_INSTALL_S: Final = 300.0
_END_S: Final = 20.0


class Contender(NamedTuple):
    """One that can be measured.

    Args:
        kind: how a client comes in.
        path: of its WebSocket.
        program: what runs it, up to its arguments.
        find: returns what is measured and its version.
    """

    name: str
    kind: Kind
    path: str
    program: tuple[str, ...]
    find: Callable[[], str]


class Missing(Exception):  # noqa: N818 - it is no error: this machine has not got it
    """A contender cannot be had here."""


class Running:
    """A contender that runs.

    Life: of ``running``'s block.

    Args:
        folder: where its log is.
    """

    def __init__(self, contender: Contender, process: subprocess.Popen[str], folder: Path) -> None:
        self.name = contender.name
        self._contender = contender
        self._folder = folder
        self._process = process
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        log = (folder / "output.log").read_text(errors="replace")
        assert ports, f"{contender.name} did not start: {log}"
        self._port, self._trigger_port = map(int, ports)
        self._take_core()
        self.rss_bytes_at_start = self.rss_bytes()

    def _take_core(self) -> None:
        """Keep every thread of it on the servers' core; the kernel puts those that come later beside them."""
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), {servers.SERVER_CORE})
        servers.take_precedence(self._process.pid)

    def plan(self, **options: object) -> Plan:
        """Return a plan for the load."""
        places = self._folder / "places.json"
        plan = Plan(
            port=self._port,
            trigger_port=self._trigger_port,
            kind=self._contender.kind,
            path=self._contender.path,
            places=str(places) if places.exists() else "",
        )
        return msgspec.structs.replace(plan, **options)

    def cpu_ns(self) -> int:
        """Return its CPU time; that of child processes, such as a database of its own, is not in it."""
        return measure.cpu_ns_of(self._process.pid)

    def waited_ns(self) -> int:
        """Return for how long it waited for a core."""
        return measure.waited_ns_of(self._process.pid)

    def rss_bytes(self) -> int:
        """Return the memory that it occupies, child processes left out."""
        return measure.rss_bytes_of(self._process.pid)


@contextlib.contextmanager
def running(contender: Contender, folder: Path, *arguments: str) -> Iterator[Running]:
    """Run a contender for the length of the block.

    Args:
        folder: made here; the log is written there.
        arguments: behind its program.
    """
    folder.mkdir(parents=True)
    folder.chmod(0o755)  # a PostgreSQL of its own runs as another user
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [*contender.program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield Running(contender, process, folder)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=_END_S)


def _npm_folder() -> Path:
    """Return where the peers of npm are."""
    cache = Path(os.environ.get("SOJOURN_CACHE") or Path.home() / ".cache" / "sojourn")
    return cache / "bench-npm"


def _find_npm(name: str) -> str:
    """Install the peers of npm, once; return the version of one. Raises: Missing."""
    folder = _npm_folder()
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise Missing("node and npm are not installed: as root, apt-get install nodejs npm")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _PEERS / "package-lock.json"
    is_new = not (folder / lock.name).exists() or (folder / lock.name).read_bytes() != lock.read_bytes()
    for path in _PEERS.iterdir():
        shutil.copy(path, folder)
    if is_new or not (folder / "node_modules" / name).exists():
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_INSTALL_S)
        except (subprocess.SubprocessError, OSError) as error:
            (folder / lock.name).unlink()
            raise Missing(f"npm ci in {folder}: {error}") from error
    package = msgspec.json.decode((folder / "node_modules" / name / "package.json").read_bytes())
    run = subprocess.run([node, "--version"], check=True, capture_output=True, text=True)
    return f"{package['version']} on Node.js {run.stdout.strip()}"


def _find_pypi(*names: str) -> str:
    """Return the versions of packages that are installed. Raises: Missing."""
    try:
        return ", ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError as error:
        raise Missing(f"{error.name} is not installed: pip install --group bench") from error


def _python(program: str) -> tuple[str, ...]:
    return (sys.executable, str(_HERE / program))


CONTENDERS: Final = (
    Contender(OURS, "session", "", _python("exchange_sojourn.py"), lambda: _find_pypi("sojourn", "aiohttp")),
    Contender("ws", "plain", "/", ("node", str(_npm_folder() / "ws.mjs")), lambda: _find_npm("ws")),
    Contender(
        "socket.io",
        "socket.io",
        "/socket.io/?EIO=4&transport=websocket",
        ("node", str(_npm_folder() / "socketio.mjs")),
        lambda: _find_npm("socket.io"),
    ),
    Contender(
        "websockets", "plain", "/", _python("exchange_websockets.py"), lambda: _find_pypi("websockets")
    ),
    Contender(
        "uvicorn+starlette",
        "plain",
        "/",
        _python("exchange_starlette.py"),
        lambda: _find_pypi("uvicorn", "starlette"),
    ),
)
"""Ours first; what each is measured with says its program."""
