"""Processes: to start one within limits, and to know one by its pid and its start, whether it lives and when it ends.

A pid alone means nothing: when its process has gone the kernel gives it to another. So a process is named by pid, start
time and boot, and held by a pidfd where the kernel has them. Knows nothing of simulators.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

WITHOUT_PIDFD_POLL_S: Final = 0.1
"""Kernels and sandboxes without pidfd_open: how often to look whether the process still lives."""
_STARTTIME_FIELD: Final = 19
"""proc(5): field 22 of ``/proc/pid/stat``, counted behind the name in parentheses, which may hold anything."""
_STATE_FIELD: Final = 0


class Limits(NamedTuple):
    """What a process may use; 0 = as much as we may, but for the core file that it never writes."""

    memory_bytes: int
    cpu_s: int
    files_count: int
    file_bytes: int


class ProcessName:
    """What names a process for ever on this machine."""

    __slots__ = ("boot", "pid", "started")

    def __init__(self, pid: int, started: int, boot: str) -> None:
        self.pid = pid
        self.started = started
        self.boot = boot

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Name a process; None if there is none of this pid, or only what is left of one."""
        started = _started(pid)
        return None if started is None else cls(pid, started, boot_id())

    @property
    def is_alive(self) -> bool:
        """There is such a process, and it has not ended."""
        return self.boot == boot_id() and _started(self.pid) == self.started


class Child:
    """A process that is watched until it ends.

    Life: made for a living process; :meth:`release` ends the watch, and with it nothing of the process.

    Args:
        name: of the process.
        on_end: called in the loop, once, with its exit status: negative for a signal, None where it is not our child.
    """

    def __init__(self, name: ProcessName, on_end: Callable[[int | None], None]) -> None:
        self.name = name
        self.has_ended = asyncio.Event()
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self._timer: asyncio.Handle | None = None
        with suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(name.pid)
        if self._pidfd is None or not name.is_alive:
            # Another may have got the pid between the look at it and the hold on it.
            self._release_pidfd()
            self._look()
        else:
            self._loop.add_reader(self._pidfd, self._end)

    def send(self, number: int) -> None:
        """Send the process a signal, if it is still there."""
        with suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.name.is_alive:
                os.kill(self.name.pid, number)

    async def ended_within(self, seconds: float) -> bool:
        """Wait for the end; False if it lives on after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.has_ended.wait()
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Watch no more."""
        self._release_pidfd()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self.name.is_alive:
            self._timer = self._loop.call_later(WITHOUT_PIDFD_POLL_S, self._look)
        else:
            self._timer = self._loop.call_soon(self._end)

    def _end(self) -> None:
        self.release()
        status: int | None = None
        with suppress(ChildProcessError):
            pid, word = os.waitpid(self.name.pid, os.WNOHANG)
            if not pid:
                # A process is a zombie as soon as its first thread is one, and can be waited for after its last.
                self._timer = self._loop.call_later(WITHOUT_PIDFD_POLL_S, self._end)
                return
            status = os.waitstatus_to_exitcode(word)
        self.has_ended.set()
        self._on_end(status)

    def _release_pidfd(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def launch(
    command: Sequence[str], told: bytes, log: int, environment: Mapping[str, str], limits: Limits
) -> tuple[int, int]:
    """Start a process in a session of its own; return its pid and what it says, a pipe that does not block.

    Args:
        command: to execute.
        told: what it reads on its standard input, from a file in memory: it may be long, and may be secret.
        log: descriptor that is its standard error.
        environment: all of it.
        limits: which hold from the moment after its start; it has not read what it is told by then.
    Then: wait for it by a :class:`Child`; close the pipe.
    Raises: OSError if it cannot be started.
    """
    stdin = os.memfd_create("sojourn-told")
    said, stdout = os.pipe()
    try:
        with os.fdopen(os.dup(stdin), "wb") as file:
            file.write(told)
        os.lseek(stdin, 0, os.SEEK_SET)
        process = subprocess.Popen(  # noqa: S603 - the caller's own command
            command, stdin=stdin, stdout=stdout, stderr=log, cwd="/", env=environment, start_new_session=True
        )
    except OSError:
        os.close(said)
        raise
    finally:
        os.close(stdin)
        os.close(stdout)
    process.returncode = 0  # it is waited for by its pidfd; Popen would warn when it is let go of
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_NOFILE, limits.files_count),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
    ):
        if limit:
            _limit(process.pid, kind, limit)
    _limit(process.pid, resource.RLIMIT_CORE, 0)
    os.set_blocking(said, False)
    return process.pid, said


def _limit(pid: int, kind: int, limit: int) -> None:
    with suppress(ProcessLookupError):
        least = [one for one in (limit, resource.prlimit(pid, kind)[1]) if one != resource.RLIM_INFINITY]
        resource.prlimit(pid, kind, (min(least), min(least)))


def boot_id() -> str:
    """Return what tells this boot of the machine from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # A sandbox without it; its pids do not outlive it either.
        return str(int(time.time() - time.monotonic()) // 60)


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[_STATE_FIELD] in (b"Z", b"X") else int(fields[_STARTTIME_FIELD])
    except (OSError, IndexError, ValueError):
        return None
