"""What every measured server does at its start and its end: take its core, say its port, end with its parent.

Knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from sojourn.core.settings import RecorderSettings

SERVER_CORE = 0
LOAD_CORE = 1


_NICENESS = -10


def take_core(core: int) -> None:
    """Run on this core only and before others, where the system lets us choose; server and load must not share one.

    Precedence matters on a shared machine: a load that waits for its core leaves the server idle, and a server that
    falls asleep between packets costs more for each.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {core})
    with contextlib.suppress(OSError):
        os.setsid()  # a group of its own for the scheduler, and whoever started us keeps theirs
    take_precedence(os.getpid())


def take_precedence(pid: int) -> None:
    """Let a process run before others, where the system lets us.

    With Linux's autogroups, which are on by default, niceness counts only within a session, and the session's own among
    all. Source: sched(7), "The autogroup feature".
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
    if os.getsid(pid) == pid:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(_NICENESS))


def allow_many_files() -> int:
    """Raise the limit of open files as far as we may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def recorder_of(arguments: Sequence[str]) -> RecorderSettings:
    """Return the flight recorder with so many entries per session; its default where no argument says it."""
    return RecorderSettings(entries_per_session_count=int(arguments[0])) if arguments else RecorderSettings()


async def serve_until_parent_ends(port: int | str) -> None:
    """Tell the port, or ports, then wait for standard input to close: no server survives its bench."""
    print(port, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
