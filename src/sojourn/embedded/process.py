"""Run the programs of an embedded server so that none of them outlives us, however we end.

Each server has one :class:`Supervisor`: a small child process (``guard.py``) that starts the programs, reads
their output, makes and removes the temporary directories. Knows nothing of any server. Nothing here
belongs to an event loop: a server may be started in one loop, used in others and stopped in yet another.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from sojourn.embedded.account import Account
from sojourn.errors import BackendUnavailable

READY_POLL_S: Final = 0.01
"""Neither server announces its readiness on a descriptor, so it is looked for this often while it starts."""

REMOVAL_S: Final = 10.0
"""How long removing the temporary directories may take after the program has ended."""

CLOSE_WITHIN_S: Final = 60.0
"""Longer than the endings of any program and the removal together; what is not gone by then is killed."""

LOG_LINES_COUNT: Final = 8
"""How many of a program's last lines an error quotes."""

ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC", "HOME": "/"}
"""All that a program sees: ours may hold PGOPTIONS, LD_LIBRARY_PATH and secrets."""


class Deadline:
    """A point on the monotonic clock by which a server must be ready, shared by all steps of its start."""

    def __init__(self, within_s: float) -> None:
        self._began = time.monotonic()
        self._within_s = within_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self._within_s - self.elapsed_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to execute, as whom, and how to end it.

    Shape: ``endings`` are signals in order, each with the seconds that the program has to obey;
    ``death_signal`` is what the kernel sends it should its supervisor be killed. An ``output_file`` must not
    exist yet.
    """

    argv: tuple[str, ...]
    account: Account
    input_file: Path | None = None
    output_file: Path | None = None
    death_signal: int = signal.SIGKILL
    endings: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))

    @property
    def name(self) -> str:
        """The last part of the executable's path."""
        return Path(self.argv[0]).name

    def request(self) -> dict[str, Any]:
        """Return what the guard needs to know."""
        return {
            "do": "run",
            "argv": self.argv,
            "environment": ENVIRONMENT,
            "uid": None if self.account.is_ours else self.account.uid,
            "gid": None if self.account.is_ours else self.account.gid,
            "input": self.input_file and str(self.input_file),
            "output": self.output_file and str(self.output_file),
            "death_signal": int(self.death_signal),
            "endings": self.endings,
        }


class Launched(ABC):
    """A server that is started by entering it and stopped by leaving it."""

    @abstractmethod
    async def start(self) -> None:
        """Start it and return when it is ready; do nothing if it runs."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop it; do nothing if it does not run."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class Supervisor:
    """The child process that runs one program at a time for a server, and its temporary directories.

    Its owner opens it and closes it; should the owner's process die instead, it ends the program and removes
    the directories by itself.

    Args:
        name: what the errors call the server.
        process: the child.
        requests: our end of its stdin.
        answers: our end of its stdout; does not block.
    """

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], requests: BinaryIO, answers: BinaryIO
    ) -> None:
        self.name = name
        self._process = process
        self._requests = requests
        self._answers = answers
        self._is_closed = False
        self._unread = b""
        self._answer: dict[str, Any] = {}
        self._has_ended = False
        self._status = 0
        self._log = ""
        self._is_lost = False

    @classmethod
    def open(cls, name: str) -> Self:
        """Start the child process.

        Raises: BackendUnavailable where this Python cannot start another.
        """
        their_stdin, our_requests = os.pipe()
        our_answers, their_stdout = os.pipe()
        os.set_blocking(our_answers, False)
        requests = os.fdopen(our_requests, "wb", buffering=0)
        answers = os.fdopen(our_answers, "rb", buffering=0)
        guard = str(Path(__file__).with_name("guard.py"))
        try:
            process = subprocess.Popen(  # noqa: S603  our own script, under our own Python
                [sys.executable, "-I", "-S", guard, str(os.getpid())],
                stdin=their_stdin,
                stdout=their_stdout,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={},
            )
        except OSError as error:
            requests.close()
            answers.close()
            raise BackendUnavailable(name, 0.0, f"cannot start its supervisor: {error.strerror}") from error
        finally:
            os.close(their_stdin)
            os.close(their_stdout)
        return cls(name, process, requests, answers)

    @property
    def is_lost(self) -> bool:
        """The child process itself has ended without being asked to."""
        self._read()
        return self._is_lost

    @property
    def is_running(self) -> bool:
        """The program has been started, and its end has not been reported."""
        self._read()
        return not self._has_ended and not self._is_lost

    async def directory(self, parent: Path, prefix: str, deadline: Deadline) -> Path:
        """Make a directory of mode 0700 that is removed when this supervisor closes, or when we die."""
        answer = await self._ask({"do": "directory", "parent": str(parent), "prefix": prefix}, deadline)
        return Path(answer["directory"])

    async def run(self, program: Program, deadline: Deadline) -> str:
        """Run a program to its end and return what it printed last.

        Raises: BackendUnavailable if it cannot be started, fails, or is not done by the deadline.
        """
        self._has_ended = False
        await self._ask(program.request(), deadline)
        if not await self._until(lambda: self._has_ended, deadline.left_s):
            raise BackendUnavailable(self.name, deadline.elapsed_s, f"{program.name} did not finish in time")
        if self._status != 0:
            raise self._failure(program, deadline)
        return self._log

    async def launch(
        self, program: Program, ready: Callable[[int], Awaitable[bool]], deadline: Deadline
    ) -> int:
        """Start a program and return its pid as soon as ``ready(pid)`` says so.

        Raises: BackendUnavailable if it ends before, or is not ready by the deadline; the text quotes its
        log.
        """
        self._has_ended = False
        pid = int((await self._ask(program.request(), deadline))["started"])
        while not await ready(pid):
            if await self._until(lambda: self._has_ended, READY_POLL_S):
                raise self._failure(program, deadline)
            if not deadline.left_s:
                self._send({"do": "signal", "number": int(signal.SIGKILL)})
                await self._until(lambda: self._has_ended, READY_POLL_S + REMOVAL_S)
                raise self._failure(program, deadline, "was not ready in time")
        return pid

    async def signal(self, number: int) -> None:
        """Send the program a signal."""
        self._send({"do": "signal", "number": int(number)})

    async def ended(self, within_s: float) -> bool:
        """Wait for the program's end; False if it is still running after so long."""
        return await self._until(lambda: self._has_ended, within_s)

    async def close(self, endings: tuple[tuple[int, float], ...] = ()) -> None:
        """End the program, remove the directories, end the child process; do nothing the second time.

        Args:
            endings: signals to use instead of the program's own, each with the seconds it has to obey.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._send({"do": "end", "endings": endings})
        self._requests.close()
        self._answers.close()
        await asyncio.to_thread(self._collect, CLOSE_WITHIN_S)

    def _collect(self, longest_s: float) -> None:
        try:
            self._process.wait(longest_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _ask(self, request: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        self._answer = {}
        self._send(request)
        if not await self._until(lambda: bool(self._answer), deadline.left_s):
            raise BackendUnavailable(self.name, deadline.elapsed_s, "its supervisor did not answer in time")
        if "failed" in self._answer:
            raise BackendUnavailable(self.name, deadline.elapsed_s, str(self._answer["failed"]))
        return self._answer

    async def _until(self, done: Callable[[], bool], within_s: float) -> bool:
        """Read answers until ``done()``; False if that is not so in time.

        Raises: BackendUnavailable if the supervisor is gone.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        self._read()
        while not done():
            if self._is_lost:
                raise BackendUnavailable(self.name, 0.0, "its supervisor has ended")
            left_s = until - loop.time()
            if left_s <= 0:
                return False
            await _readable(self._answers.fileno(), left_s)
            self._read()
        return True

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            self._is_lost = True

    def _read(self) -> None:
        """Take in what the supervisor has said so far."""
        # A raw file gives None where a read would block.
        while not self._is_closed and not self._is_lost and (data := self._answers.read(65_536)) is not None:
            if not data:
                self._is_lost = True
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "ended" in message:
                    self._has_ended, self._status, self._log = True, message["ended"], message["log"]
                else:
                    self._answer = message

    def _failure(self, program: Program, deadline: Deadline, what: str = "") -> BackendUnavailable:
        lines = [line.strip() for line in self._log.splitlines() if line.strip()][-LOG_LINES_COUNT:]
        said = " | ".join(lines) if lines else "nothing"
        return BackendUnavailable(
            self.name,
            deadline.elapsed_s,
            f"{program.name} {what or f'ended with status {self._status}'}; its log said last: {said}",
        )


async def run_once(name: str, program: Program, deadline: Deadline) -> str:
    """Run a program to its end under a supervisor of its own; return what it printed last."""
    supervisor = Supervisor.open(name)
    try:
        return await supervisor.run(program, deadline)
    finally:
        await supervisor.close()


async def _readable(descriptor: int, within_s: float) -> None:
    """Wait until there is something to read, for at most so long."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(within_s):
            await readable.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(descriptor)


class LaunchedProgram(Launched):
    """A server of one program: it is launched under a supervisor, which goes with it.

    Always true: there is a supervisor from the launch to the stop, and ``pid`` is 0 before and after.
    """

    def __init__(self, start_within_s: float) -> None:
        self.pid = 0
        self._start_within_s = start_within_s
        self._supervisor: Supervisor | None = None
        self._place: Path | None = None

    @abstractmethod
    async def _launch(self, deadline: Deadline) -> None:
        """Open the supervisor, and run the program until it is ready."""

    @property
    def is_running(self) -> bool:
        """The server has been started and has not ended."""
        return bool(self.pid) and self._supervisor is not None and self._supervisor.is_running

    async def start(self) -> None:
        """Start the server and return when it answers; do nothing if it runs.

        Raises: BackendUnavailable with what the program said last.
        """
        if self.is_running:
            return
        deadline = Deadline(self._start_within_s)
        try:
            await self.stop()
            await self._launch(deadline)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server and remove what is temporary; do nothing if it does not run."""
        supervisor, self._supervisor = self._supervisor, None
        self._place, self.pid = None, 0
        if supervisor is not None:
            await supervisor.close()
