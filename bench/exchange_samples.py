"""One measurement of ``exchange.py``: a server, a plan, and what the server's process spent on it.

Knows no server by name and judges nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import measure
import msgspec
from exchange_clients import Plan, Result
from exchange_servers import Running

_PROGRAM: Final = str(Path(__file__).with_name("exchange_load.py"))
_END_S: Final = 60.0
_SETTLE_S: Final = 0.3
"""A server writes its last log lines, and forgets connections that are gone, a moment later."""
_QUIET_S: Final = 1.5
WARM_CLIENTS_COUNT: Final = 200


class Measured(NamedTuple):
    """What came back, what it cost, and for how long server and load waited for a core that others had."""

    result: Result
    cpu_ns: int
    waited_ns: int

    @property
    def busy(self) -> float:
        """Return the part of one core that the server used."""
        return self.cpu_ns / 1e9 / self.result.seconds

    @property
    def waited(self) -> float:
        """Return the part of the time in which server or load waited for a core."""
        return self.waited_ns / 1e9 / self.result.seconds

    def sample(self) -> measure.Sample:
        """Return it as the tables take it; a packet is a frame that a client got."""
        frames = self.result.frames
        return measure.Sample(self.cpu_ns / frames / 1e3, frames / self.result.seconds, self.busy)


@contextlib.contextmanager
def loading(plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """Run the load up to its ``ready``; the block says the rest."""
    process = subprocess.Popen(
        [sys.executable, _PROGRAM, msgspec.json.encode(plan).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"the load against {plan.path} stopped before it began"
        yield process
    finally:
        process.communicate(timeout=_END_S)


def take(server: Running, *, count: int = 1, **options: object) -> list[Measured]:
    """Carry out a plan, so many times with the same clients; see that every frame came."""
    taken = []
    with measure.alone(), loading(server.plan(**options)) as load:
        if options.get("mode") == "return":
            assert _ask(load) == "cut\n", "the load stopped before all were cut"
        for _ in range(count):
            time.sleep(_SETTLE_S)
            before, waited_before = server.cpu_ns(), server.waited_ns() + measure.waited_ns_of(load.pid)
            line = _ask(load)
            cpu_ns = server.cpu_ns() - before
            waited_ns = server.waited_ns() + measure.waited_ns_of(load.pid) - waited_before
            assert line, "the load stopped: a frame was wrong, or none came"
            taken.append(Measured(msgspec.json.decode(line, type=Result), cpu_ns, waited_ns))
    time.sleep(_SETTLE_S)
    return taken


def _ask(load: subprocess.Popen[str]) -> str:
    """Let the load go on, and return what it says."""
    assert load.stdin is not None
    assert load.stdout is not None
    load.stdin.write("go\n")
    load.stdin.flush()
    return load.stdout.readline()


def bytes_per_client(server: Running, clients: int) -> float:
    """Return by how much a server grows for each client that is in and silent."""
    with measure.alone():
        with loading(server.plan(mode="idle", clients=min(WARM_CLIENTS_COUNT, clients))):
            pass
        time.sleep(_QUIET_S)
        before = server.rss_bytes()
        with loading(server.plan(mode="idle", clients=clients)):
            time.sleep(_QUIET_S)
            grown = server.rss_bytes() - before
    time.sleep(_QUIET_S)
    return grown / clients
