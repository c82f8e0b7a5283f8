"""Measuring: servers and load as processes, CPU time of the server in nanoseconds, rounds, ratios, gates.

One *round* measures every series once in every shape, so that what else the machine does hits all of them. Of all
rounds the *minimum* counts: noise on a shared machine only ever adds. Knows no server by name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from load import Plan, Result

RESULTS = Path(__file__).parent / "results"
_HERE = Path(__file__).parent
_LOG_TICK_S = 0.25
"""A server writes the log lines of its last answers a moment later; they belong to them."""
_END_S = 20.0


class Shape(NamedTuple):
    """How a load comes: connections times exchanges under way on each, or one exchange per connection."""

    connections: int
    depth: int
    reconnects: bool = False

    def __str__(self) -> str:
        return f"{self.connections}x{self.depth}" + (" reconnecting" if self.reconnects else "")


def cpu_ns_of(pid: int) -> int:
    """Return the CPU time of all threads of a process; the kernel's ticks in ``stat`` are 10 ms, these are ns."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def waited_ns_of(pid: int) -> int:
    """Return for how long the threads of a process, together, had work to do and no core to do it on."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[1])
    return total


def rss_bytes_of(pid: int) -> int:
    """Return the memory that a process occupies."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class ServerProcess:
    """A server of ours in a process of its own; gone when the block ends.

    Args:
        command: the program beside this file, and its arguments.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / command[0]), *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip().isdigit(), f"{' '.join(command)} did not start"
        self.port = int(line)

    def cpu_ns(self) -> int:
        """Return the CPU time of all its threads."""
        return cpu_ns_of(self._process.pid)

    def loop_cpu_ns(self) -> int:
        """Return the CPU time of its first thread, in which its event loop runs."""
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])

    def rss_bytes(self) -> int:
        """Return the memory that it occupies."""
        return rss_bytes_of(self._process.pid)

    def close(self) -> None:
        """End it; it stops when its standard input is closed."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=_END_S)


@contextlib.contextmanager
def serving(*command: str) -> Iterator[ServerProcess]:
    """Run a server for the length of the block."""
    server = ServerProcess(*command)
    try:
        yield server
    finally:
        server.close()


class Sample(msgspec.Struct):
    """One measurement: CPU-microseconds per packet, packets per second, and how busy the server's core was."""

    us_per_packet: float
    packets_per_s: float
    busy: float


@contextlib.contextmanager
def loading(plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """Run the load up to its ``ready``; the block says the rest."""
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "load.py"), msgspec.json.encode(plan).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", f"the load against port {plan.port} stopped before it began"
        yield process
    finally:
        process.communicate(timeout=_END_S)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other benchmark of this machine is in a sample, and keep others out for the block."""
    with (Path(tempfile.gettempdir()) / "sojourn-bench.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sample(server: ServerProcess, plan: Plan) -> Sample:
    """Measure one server under one load."""
    with alone(), loading(plan) as load:
        time.sleep(_LOG_TICK_S)
        return sample_again(server, load)


def sample_again(server: ServerProcess, load: subprocess.Popen[str]) -> Sample:
    """Measure a server while a load that is ready does its work once more."""
    assert load.stdin is not None
    assert load.stdout is not None
    before = server.cpu_ns()
    load.stdin.write("go\n")
    load.stdin.flush()
    line = load.stdout.readline()
    assert line, "the load stopped: an answer was wrong, or none came"
    result = msgspec.json.decode(line, type=Result)
    time.sleep(_LOG_TICK_S)
    cpu_ns = server.cpu_ns() - before
    return Sample(
        cpu_ns / result.packets / 1e3, result.packets / result.seconds, cpu_ns / 1e9 / result.seconds
    )


def bytes_per_connection(server: ServerProcess, plan: Plan) -> float:
    """Return by how much the server grows for each connection that did one exchange and is idle."""
    warm = msgspec.structs.replace(plan, connections=min(200, plan.connections))
    with loading(warm):
        pass
    time.sleep(_LOG_TICK_S)
    before = server.rss_bytes()
    with loading(plan):
        time.sleep(_LOG_TICK_S)
        grown = server.rss_bytes() - before
    return grown / plan.connections


class Gate(msgspec.Struct):
    """A promise about a number: at most this much. What could not be measured, ``missing`` says why, is not kept."""

    what: str
    value: float
    at_most: float
    missing: str = ""

    @property
    def is_kept(self) -> bool:
        """Tell whether it holds."""
        return not self.missing and self.value <= self.at_most

    def __str__(self) -> str:
        if self.missing:
            return f"NOT MEASURED  {self.what}: {self.missing}"
        verdict = "PASS" if self.is_kept else "FAIL"
        return f"{verdict}  {self.what}: {self.value:.2f}, at most {self.at_most:g}"


class Table:
    """Samples by shape and series, in the order in which they came; the first series is what others are compared to."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, list[Sample]]] = {}

    def add(self, shape: str, series: str, one: Sample) -> None:
        """Keep one sample."""
        self.samples.setdefault(shape, {}).setdefault(series, []).append(one)

    def best_us(self, shape: str, series: str) -> float:
        """Return the minimum over the rounds."""
        return min(one.us_per_packet for one in self.samples[shape][series])

    def ratio(self, shape: str, series: str, to: str) -> float:
        """Return the minimum of one series in terms of another's."""
        return self.best_us(shape, series) / self.best_us(shape, to)

    def lines(self, shape: str, to: str) -> Iterator[str]:
        """Yield a line per series: minimum, ratio, spread, rate, how busy the server was."""
        for series, samples in self.samples[shape].items():
            costs = sorted(one.us_per_packet for one in samples)
            rate = max(one.packets_per_s for one in samples) / 1e3
            busy = min(samples, key=lambda one: one.us_per_packet).busy
            yield (
                f"{shape:18s} {series:20s} {costs[0]:7.2f} us  x{self.ratio(shape, series, to):5.2f}"
                f"  spread {costs[0]:.2f} .. {costs[len(costs) // 2]:.2f} .. {costs[-1]:.2f}"
                f"  {rate:6.1f} k/s  busy {busy:4.0%}"
            )

    def to_json(self, shape: str, to: str) -> dict[str, Any]:
        """Return what is known of a shape."""
        return {
            series: {
                "us_per_packet": self.best_us(shape, series),
                "ratio": self.ratio(shape, series, to),
                "packets_per_s": max(one.packets_per_s for one in samples),
                "rounds": samples,
            }
            for series, samples in self.samples[shape].items()
        }


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "load_average": os.getloadavg()[0],
        "measured": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def write_results(name: str, content: dict[str, Any], gates: Sequence[Gate]) -> None:
    """Write ``results/NAME.json``, print the gates."""
    RESULTS.mkdir(exist_ok=True)
    told = {
        "machine": machine(),
        **content,
        "gates": [
            {
                "what": gate.what,
                "value": None if gate.missing else gate.value,
                "at_most": gate.at_most,
                "kept": gate.is_kept,
                **({"missing": gate.missing} if gate.missing else {}),
            }
            for gate in gates
        ],
    }
    path = RESULTS / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    print()
    for gate in gates:
        print(gate)
    print(f"\n{path}")
