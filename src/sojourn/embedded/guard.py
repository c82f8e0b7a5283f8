"""Run programs for a parent that may die at any moment, and leave nothing behind when it does.

A script rather than a library: :mod:`sojourn.embedded.process` starts it as ``python -I -S guard.py
PARENT_PID`` and talks JSON lines with it. It imports nothing but the standard library, so that it starts in
some 20 ms, and knows nothing of PostgreSQL or Valkey.

How nothing is left behind, by who dies:

- the parent, even by SIGKILL: a pidfd of it becomes readable and our stdin ends; either makes us end the
  program, adopt and end what it started, remove the directories that we made, and exit;
- we, even by SIGKILL: the kernel sends the program its death signal (PR_SET_PDEATHSIG). That setting is
  cleared when a process changes its user, so it is made after the change and not before;
- the program, leaving children: we are their subreaper, so they become ours, and are ended too.

Shape: requests are ``{"do": "directory" | "run" | "signal" | "end", ...}``; answers are
``{"directory": path}``, ``{"started": pid}``, ``{"failed": cause}`` and, whenever a program ends,
``{"ended": status, "log": its last words}``.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
"""The three from linux/prctl.h."""

LOG_TAIL_BYTES: Final = 16_384
ORPHANS_GRACE_S: Final = 1.0
"""PostgreSQL's backends notice the death of their postmaster at once; those that are stuck are killed after
this."""

WITHOUT_PIDFD_POLL_S: Final = 0.1
"""Kernels and sandboxes without pidfd_open: how often to look whether parent and program still live."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set one property of this process.

    Raises: OSError as the kernel reports it.
    """
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, or None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


class Guard:
    """One parent, at most one program at a time, and the directories to remove at the end.

    Lives from the script's start to its exit; every wait goes through :meth:`turn`, so that the program's log
    is always read and can never block it.
    """

    def __init__(self, parent: int) -> None:
        self.parent = parent
        self.requests = b""
        self.directories: list[str] = []
        self.endings: list[tuple[int, float]] = []
        self.program: int | None = None
        self.tail = b""
        self.finished = False
        self.poll = select.poll()
        self.watch: dict[int, str] = {}
        self.poll_s: float | None = None
        self._watch(0, "requests")
        self._watch_process(parent, "parent")

    def serve(self) -> None:
        """Do what is asked until the parent says so or is gone; then end and remove everything."""
        try:
            while not self.finished and os.getppid() == self.parent:
                self.turn(None)
        except Exception as error:
            self.answer(failed=f"{type(error).__name__}: {error}")
            raise
        finally:
            try:
                self.end_program()
            finally:
                self.remove_directories()

    def turn(self, timeout_s: float | None) -> None:
        """Wait for whatever comes first, at most so long, and deal with it."""
        waits = [seconds for seconds in (timeout_s, self.poll_s) if seconds is not None]
        for number, _ in self.poll.poll(max(0, int(min(waits) * 1000)) if waits else None):
            what = self.watch.get(number)
            if what == "requests":
                self.read_requests()
            elif what == "log":
                self.read_log(number)
            elif what == "parent":
                self._unwatch(number)
                self.finished = True
        self.reap()

    def read_requests(self) -> None:
        """Take what the parent wrote; its end of the pipe being gone means the same as being told to end."""
        data = os.read(0, 65_536)
        if not data:
            self._unwatch(0)
            self.finished = True
            return
        *lines, self.requests = (self.requests + data).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))

    def obey(self, request: dict[str, Any]) -> None:
        """Do one request and answer it."""
        match request["do"]:
            case "directory":
                path = os.path.join(request["parent"], request["prefix"] + os.urandom(5).hex())  # noqa: PTH118
                try:
                    os.mkdir(path, 0o700)  # noqa: PTH102
                except OSError as error:
                    self.answer(failed=f"{path}: {error.strerror}")
                else:
                    self.directories.append(path)
                    self.answer(directory=path)
            case "run":
                self.start(request)
            case "signal":
                self.send(request["number"])
            case "end":
                self.endings = request["endings"] or self.endings
                self.finished = True

    def answer(self, **message: str | int) -> None:
        """Write one line to the parent, if there is still one."""
        try:
            os.write(1, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self.finished = True

    def start(self, request: dict[str, Any]) -> None:
        """Fork and execute a program; answer with its pid, or with what went wrong."""
        log_read, log_write = os.pipe()
        error_read, error_write = os.pipe()
        guard = os.getpid()
        pid = os.fork()
        if pid == 0:
            become(request, log_write, error_write, guard)
        os.close(log_write)
        os.close(error_write)
        with os.fdopen(error_read, "rb") as pipe:
            cause = pipe.read().decode(errors="replace")
        if cause:
            os.close(log_read)
            os.waitpid(pid, 0)
            self.answer(failed=cause)
            return
        os.set_blocking(log_read, False)
        self.tail = b""
        self.program = pid
        self.endings = request["endings"]
        self._watch(log_read, "log")
        self._watch_process(pid, "program")
        self.answer(started=pid)

    def has_program(self) -> bool:
        """Tell whether a program runs, or has ended and not been collected."""
        return self.program is not None

    def send(self, number: int) -> None:
        """Send the program a signal, if there is one."""
        if self.program is not None:
            os.kill(self.program, number)

    def read_log(self, number: int) -> bool:
        """Keep the last words of the program; False when there is no more for now."""
        try:
            data = os.read(number, 65_536)
        except BlockingIOError:
            return False
        if data:
            self.tail = (self.tail + data)[-LOG_TAIL_BYTES:]
        else:
            self._unwatch(number)
        return bool(data)

    def reap(self) -> None:
        """Collect every child that ended; when it is the program, end what it left and say so."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.program:
                self.program = None
                self.end_orphans()
                self.forget_program()
                self.answer(ended=os.waitstatus_to_exitcode(status), log=self.tail.decode(errors="replace"))

    def forget_program(self) -> None:
        """Read what is left of the log, and close what belonged to the program."""
        for number, what in list(self.watch.items()):
            if what == "log":
                while self.read_log(number):
                    pass
            if what in ("log", "program") and number in self.watch:
                self._unwatch(number)

    def end_orphans(self) -> None:
        """Wait for the children that the program left to us; kill those that stay."""
        kill_at = time.monotonic() + ORPHANS_GRACE_S
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                if time.monotonic() > kill_at:
                    kill_children()
                time.sleep(0.005)

    def end_program(self) -> None:
        """Send the program its ending signals, each with the time it has to obey."""
        for number, seconds in self.endings:
            self.send(number)
            until = time.monotonic() + seconds
            while self.has_program() and (left := until - time.monotonic()) > 0:
                self.turn(left)

    def remove_directories(self) -> None:
        """Remove what we made; never follows a symbolic link out of it."""
        import shutil  # noqa: PLC0415  kept out of the start, which is waited for

        for path in self.directories:
            shutil.rmtree(path, ignore_errors=True)

    def _watch_process(self, pid: int, what: str) -> None:
        number = pidfd(pid)
        if number is None:
            self.poll_s = WITHOUT_PIDFD_POLL_S
        else:
            self._watch(number, what)

    def _watch(self, number: int, what: str) -> None:
        self.watch[number] = what
        self.poll.register(number, select.POLLIN)

    def _unwatch(self, number: int) -> None:
        self.poll.unregister(number)
        del self.watch[number]
        if number > 0:
            os.close(number)


def kill_children() -> None:
    """Send SIGKILL to every child of ours, adopted ones included."""
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                    # The name in parentheses may itself hold spaces and parentheses: the fields begin after
                    # the last.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                if parent == os.getpid():
                    os.kill(int(entry), signal.SIGKILL)
            except (OSError, IndexError):
                continue


def become(request: dict[str, Any], log: int, error: int, guard: int) -> None:
    """Turn a forked child into the program that was asked for; never returns."""
    step = "begin"
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        step = "open its input and output"
        output = log
        if request["output"]:
            output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.dup2(os.open(request["input"] or os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(log, 2)
        if request["uid"] is not None:
            step = f"become user {request['uid']}"
            os.setgroups([])
            os.setresgid(request["gid"], request["gid"], request["gid"])
            os.setresuid(request["uid"], request["uid"], request["uid"])
        step = "tie its life to ours"
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_PDEATHSIG, request["death_signal"])
        if os.getppid() != guard:
            os._exit(1)
        step = f"execute {request['argv'][0]}"
        os.umask(0o077)
        os.chdir("/")
        os.execve(request["argv"][0], request["argv"], request["environment"])  # noqa: S606
    except OSError as cause:
        os.write(error, f"cannot {step}: {cause.strerror}".encode())
    finally:
        os._exit(127)


def main() -> None:
    """Guard until the parent is gone."""
    # A terminal's or a service manager's signal is for the parent, which then tells us in what order to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    Guard(int(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
