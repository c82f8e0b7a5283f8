"""Child processes: one simulator each, within limits, on a Unix socket or a loopback port.

What a simulator is told goes through a file in memory, never over a command line or a disk. Whether simulators end with
us is a setting: by default they go on, another of our processes on this machine takes them over, and one that nobody
owns ends by itself; with ``dies_with_parent`` the kernel kills them when we die, however we die.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded, Problem
from sojourn.gateways.exchange.sim.settings import NO_TOKEN, ServiceSettings, write_settings
from sojourn.gateways.exchange.spawners.child import Child, Limits, ProcessName, launch
from sojourn.gateways.exchange.spawners.folder import Folder
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings
from sojourn.gateways.exchange.spawners.spawner import (
    Phase,
    SimulatorHandle,
    SimulatorSeen,
    SimulatorSpec,
    SimulatorStatus,
    Spawner,
)

MODULE: Final = "sojourn.gateways.exchange.sim.main"
READY_BYTES: Final = 4096
"""More than the line that a simulator says when it is ready."""
KILL_WITHIN_S: Final = 5.0
"""How long the kernel may take to end what was killed."""
LOOK_S: Final = 0.05
"""One that another process starts has no pipe to us: so often it is looked whether it can be reached."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z")


DEFAULT_SETTINGS: Final = ProcessSettings()


class _Simulator:
    """One process; made when it is started or taken over, and forgotten when it has ended."""

    def __init__(self, handle: SimulatorHandle, *, is_ours: bool) -> None:
        self.handle = handle
        self.is_ours = is_ours
        self.endpoint = str(handle.place.get("endpoint", ""))
        self.child: Child
        self.is_stopping = False
        self.ready: int | None = None
        self.said = b""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def located(self) -> SimulatorHandle:
        """Its handle, with all that is known of its place."""
        return msgspec.structs.replace(self.handle, place={**self.handle.place, "endpoint": self.endpoint})

    def signal(self, number: int) -> None:
        """Let it end."""
        self.is_stopping = True
        self.child.send(number)

    def close_ready(self) -> None:
        """Listen no more to what it says."""
        if self.ready is not None:
            asyncio.get_running_loop().remove_reader(self.ready)
            os.close(self.ready)
            self.ready = None

    def set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        """Replace what is to happen later."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = timer


class ProcessSpawner(Spawner):
    """The driver ``process``.

    Args:
        settings: of the driver.
        token: that every simulator wants of its callers; where it is empty a Unix socket's directory protects it.
    """

    driver: ClassVar[str] = "process"

    def __init__(self, settings: ProcessSettings = DEFAULT_SETTINGS, token: Secret = NO_TOKEN) -> None:
        super().__init__()
        self.settings = settings
        self.folder = Folder(settings.directory)
        self._token = token
        self._running: dict[str, _Simulator] = {}

    # Life

    async def open(self) -> None:
        """Make the directory ours, and remove what dead simulators have left in it."""
        await super().open()
        self.folder.open()
        self._look_around()

    async def close(self) -> None:
        """End the simulators that we have started, or let go of them."""
        if self.settings.dies_with_parent:
            ours = [one for one in self._running.values() if one.is_ours]
            for simulator in ours:
                simulator.signal(signal.SIGTERM)
            until = time.monotonic() + self.settings.end_timeout_s
            for simulator in ours:
                if not await simulator.child.ended_within(max(0.0, until - time.monotonic())):
                    simulator.signal(signal.SIGKILL)
                    await simulator.child.ended_within(KILL_WITHIN_S)
        for simulator in list(self._running.values()):
            self._let_go(simulator)
        await super().close()

    # What a spawner does

    async def create(self, spec: SimulatorSpec) -> SimulatorHandle:
        """Start a process and return; it is RUNNING as soon as it says where it can be reached."""
        name, limit = spec.simulator, self.settings.simulators_count
        if not _NAME.match(name):
            raise ConfigError(
                [Problem("simulator", 0, "", "name", repr(name[:80]), "letters, digits and hyphens")]
            )
        noted = self.folder.read_note(name)
        if noted is not None and name not in self._running:
            self._adopt(noted)
        known = self._running.get(name)
        if known is not None:
            return known.located
        count = sum(one.is_ours for one in self._running.values())
        if count >= limit:
            raise LimitExceeded("simulators", count + 1, limit)
        try:
            simulator = self._start(spec)
        except OSError as error:
            raise BackendUnavailable(
                "process spawner", 0.0, f"cannot start a simulator: {error.strerror}"
            ) from error
        return simulator.handle

    async def poll(self, handle: SimulatorHandle) -> SimulatorStatus:
        """Return where a simulator stands; one that this process does not know yet is taken over."""
        name = handle.simulator
        seen = self.news.latest.get(name)
        if name not in self._running and (seen is None or not seen.status.is_final):
            self._adopt(handle)
            seen = self.news.latest.get(name)
        return SimulatorStatus(phase=Phase.STOPPED, detail="it is not there") if seen is None else seen.status

    async def stop(self, handle: SimulatorHandle, grace_s: float) -> None:
        """End a process: SIGTERM, and SIGKILL after the grace."""
        await self.poll(handle)
        simulator = self._running.get(handle.simulator)
        if simulator is not None:
            simulator.signal(signal.SIGTERM)
            if not await simulator.child.ended_within(grace_s):
                simulator.signal(signal.SIGKILL)
                if not await simulator.child.ended_within(KILL_WITHIN_S):
                    raise BackendUnavailable(
                        "process spawner", KILL_WITHIN_S, "the kernel has not ended it yet"
                    )
        self.news.forget(handle.simulator)

    async def list(self) -> list[SimulatorSeen]:
        """Return every simulator in the directory, whichever process has started it."""
        for noted in self._look_around():
            if noted.simulator not in self._running:
                self._adopt(noted)
        return [self.news.latest[name] for name in self._running if name in self.news.latest]

    def get_state(self, handle: SimulatorHandle) -> dict[str, Any]:
        """Return what another process on this machine needs to find the simulator."""
        simulator = self._running.get(handle.simulator)
        return super().get_state(handle if simulator is None else simulator.located)

    async def load_state(self, state: dict[str, Any]) -> SimulatorHandle:
        """Take over a simulator."""
        handle = await super().load_state(state)
        await self.poll(handle)
        return handle

    # Starting

    def _start(self, spec: SimulatorSpec) -> _Simulator:
        """Start a process. Raises: OSError."""
        settings, name = self.settings, spec.simulator
        is_unix = settings.listen == "unix"
        listen = f"unix:{self.folder.socket(name)}" if is_unix else "127.0.0.1:0"
        told = ServiceSettings(
            simulator=name,
            session=spec.session,
            listen=listen,
            token=self._token,
            market=spec.market,
            owner_timeout_s=spec.owner_timeout_s,
            replay_directory=settings.replay_directory,
        )
        # -B: RLIMIT_FSIZE cuts off what Python caches of our code, too, and Python then fails to read it.
        command = [sys.executable, "-P", "-B", "-m", MODULE]
        if settings.dies_with_parent:
            command += ["--parent", str(os.getpid())]
        limits = Limits(settings.memory_bytes, settings.cpu_s, settings.files_count, settings.log_bytes)
        log = self.folder.open_log(name)
        try:
            pid, ready = launch(command, write_settings(told), log, _environment(), limits)
        finally:
            os.close(log)
        process = ProcessName.of(pid) or ProcessName(pid, 0, "")
        handle = SimulatorHandle(
            simulator=name,
            driver=self.driver,
            session=spec.session,
            place={
                "pid": pid,
                "started": process.started,
                "boot": process.boot,
                "endpoint": listen if is_unix else "",
            },
        )
        simulator = _Simulator(handle, is_ours=True)
        simulator.ready = ready
        loop = asyncio.get_running_loop()
        loop.add_reader(ready, self._read_ready, simulator)
        simulator.set_timer(loop.call_later(settings.start_timeout_s, self._give_up, simulator))
        self.news.tell(handle, SimulatorStatus(phase=Phase.STARTING, detail="starting"))
        self._watch(simulator, process)
        self._note(simulator)
        return simulator

    def _read_ready(self, simulator: _Simulator) -> None:
        """Take what the process says until it has said where it can be reached."""
        if simulator.ready is None:
            return
        try:
            data = os.read(simulator.ready, READY_BYTES)
        except BlockingIOError:
            return
        simulator.said += data
        line, end, _ = simulator.said.partition(b"\n")
        if not end and data and len(simulator.said) < READY_BYTES:
            return
        simulator.close_ready()
        if not end and not data:
            return  # it has ended, and its end is told by itself
        try:
            simulator.endpoint = str(msgspec.json.decode(line, type=dict[str, Any])["address"])
        except (msgspec.MsgspecError, KeyError):
            self._fail(simulator, "it said something else than where it can be reached")
            return
        self._note(simulator)
        self._is_running(simulator)

    def _is_running(self, simulator: _Simulator) -> None:
        simulator.set_timer(None)
        self.news.tell(simulator.handle, SimulatorStatus(phase=Phase.RUNNING, endpoint=simulator.endpoint))

    def _give_up(self, simulator: _Simulator) -> None:
        self._fail(simulator, f"it could not be reached within {self.settings.start_timeout_s:g} s")

    def _fail(self, simulator: _Simulator, why: str) -> None:
        """Kill what has not become a simulator."""
        simulator.close_ready()
        simulator.set_timer(None)
        self.news.tell(simulator.handle, self._failed(simulator, why))
        simulator.child.send(signal.SIGKILL)

    def _note(self, simulator: _Simulator) -> None:
        # Without a note it cannot be found again by others, but it can be used; the next look at the log will tell.
        with suppress(OSError):
            self.folder.write_note(simulator.located)

    # Taking over

    def _look_around(self) -> Sequence[SimulatorHandle]:
        """Return what is noted of simulators that live, and remove what is left of others."""
        found = []
        for name in self.folder.names():
            noted = self.folder.read_note(name)
            if noted is not None and _process_of(noted).is_alive:
                found.append(noted)
            elif name not in self._running and (noted is not None or self.folder.is_stray(name)):
                self.folder.remove(name)
        return found

    def _adopt(self, handle: SimulatorHandle) -> None:
        """Take over a process that lives; one that does not is not there."""
        process = _process_of(handle)
        if not process.is_alive:
            return
        simulator = _Simulator(handle, is_ours=False)
        self.news.tell(handle, SimulatorStatus(phase=Phase.STARTING, detail="starting"))
        self._watch(simulator, process)
        self._look_at(simulator, time.monotonic() + self.settings.start_timeout_s)

    def _look_at(self, simulator: _Simulator, until: float) -> None:
        """See whether a simulator that somebody else starts, or has started, can be reached."""
        if not simulator.endpoint:
            noted = self.folder.read_note(simulator.handle.simulator)
            simulator.endpoint = "" if noted is None else str(noted.place.get("endpoint", ""))
        if _can_be_reached(simulator.endpoint):
            self._is_running(simulator)
        elif time.monotonic() > until:
            self._give_up(simulator)
        else:
            loop = asyncio.get_running_loop()
            simulator.set_timer(loop.call_later(LOOK_S, self._look_at, simulator, until))

    # Ending

    def _watch(self, simulator: _Simulator, process: ProcessName) -> None:
        self._running[simulator.handle.simulator] = simulator
        simulator.child = Child(process, lambda status: self._ended(simulator, status))

    def _ended(self, simulator: _Simulator, status: int | None) -> None:
        """Say how a process has ended, and remove what is left of it."""
        name = simulator.handle.simulator
        was = self.news.latest[name].status.phase
        if simulator.is_stopping:
            self.news.tell(simulator.handle, SimulatorStatus(phase=Phase.STOPPED, detail="it was stopped"))
        elif was == Phase.RUNNING and status in (0, None):
            # Nobody tells how a process has ended that is no child of ours.
            self.news.tell(simulator.handle, SimulatorStatus(phase=Phase.STOPPED, detail="it has ended"))
        elif was != Phase.FAILED:
            self.news.tell(simulator.handle, self._failed(simulator, _words(status)))
        self._let_go(simulator)
        self.folder.remove(name)
        ended = [one for one in self.news.latest if one not in self._running]
        for old in ended[: -self.settings.simulators_count]:
            self.news.forget(old)

    def _failed(self, simulator: _Simulator, why: str) -> SimulatorStatus:
        said = self.folder.last_words(simulator.handle.simulator)
        return SimulatorStatus(phase=Phase.FAILED, detail=f"{why}; it said last: {said}")

    def _let_go(self, simulator: _Simulator) -> None:
        self._running.pop(simulator.handle.simulator, None)
        simulator.close_ready()
        simulator.set_timer(None)
        simulator.child.release()


def _process_of(handle: SimulatorHandle) -> ProcessName:
    place = handle.place
    return ProcessName(int(place.get("pid", 0)), int(place.get("started", 0)), str(place.get("boot", "")))


def _can_be_reached(endpoint: str) -> bool:
    """Say whether something listens there; of a port that is so if it is known at all."""
    path = endpoint.removeprefix("unix:")
    if path == endpoint:
        return bool(endpoint)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # so many others want to connect that it certainly listens
        except OSError:
            return False
    return True


def _words(status: int | None) -> str:
    if status is None:
        return "it has ended"
    return f"it ended with status {status}" if status >= 0 else f"signal {-status} has ended it"


def _environment() -> dict[str, str]:
    """Return all that a simulator sees of our environment: no secret is in it."""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/",
        "MALLOC_ARENA_MAX": "2",  # an arena for each thread would cost address space, which is limited
    }
    if paths := os.environ.get("PYTHONPATH"):
        parts = [str(Path(path).absolute()) for path in paths.split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(parts)
    return environment
