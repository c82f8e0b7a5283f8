"""What stands between pgbench and PostgreSQL: a process with an address, whose CPU time and memory can be read.

Knows no proxy by name; ``pgbouncer.py`` and ``sojourn_postgres.py`` start them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import psutil

POOL_MODES = ("transaction", "session")
DATABASE = "bench"
USER = "bench"
_START_S = 20.0
_POLL_S = 0.02


def database_in(pool_mode: str) -> str:
    """Return the name under which every proxy offers the one database in this pool mode."""
    return DATABASE if pool_mode == "transaction" else f"{DATABASE}_{pool_mode}"


class Proxy:
    """A running proxy, or PostgreSQL itself.

    Life: whoever starts the process makes it and ends the process.

    Args:
        pid: the process; its children count as its own.
        tls_port: where clients that want TLS connect.
    """

    def __init__(self, name: str, port: int, pid: int, *, tls_port: int = 0) -> None:
        self.name = name
        self.port = port
        self.tls_port = tls_port or port
        self.pid = pid

    def _pids(self) -> list[int]:
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]

    def cpu_ns(self) -> int:
        """Return the CPU time, user and system, of all its threads; ``utime`` and ``stime`` have ticks of 10 ms."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    total += int((task / "schedstat").read_text().split()[0])
        return total

    def rss_bytes(self) -> int:
        """Return the memory that it occupies."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self._pids())

    def pin(self, core: int, niceness: int) -> None:
        """Keep it on one core and before others, where the system lets us."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), {core})
                    os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the process accepts connections; stop with its log if it ended instead."""
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, f"nothing listens on {port}: {log.read_text(errors='replace')}"
        time.sleep(_POLL_S)
