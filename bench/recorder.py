"""What the flight recorder costs a gateway, and what it costs to be watched: CPU time with it and without, in pairs.

The same server twice, with ``entries_per_session_count`` at its default and at 0, under the same load in turns. Run
from the repository root: ``python bench/recorder.py [--quick] [--strict] [--only NAME]``; see ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import exchange_servers
import exchanges
import itv2
import measure
import msgspec
import postgres
from exchange_samples import take
from itv2_panels import BROKER_PASSWORD
from load import Kind, Plan

from sojourn.core.secret import Secret
from sojourn.embedded.mosquitto import MosquittoServer, MqttUser

GATE: Final = 1.05
"""Of a gateway's CPU time; issue 6."""
OFF: Final = "off"
ON: Final = "on"
WATCHED: Final = "on, watched"
TACACS: Final[Mapping[str, Kind]] = {
    "tacacs: PAP login": "pap",
    "tacacs: ASCII login": "ascii",
    "tacacs: command": "command",
}
POSTGRES: Final = {"postgres: simple": "simple", "postgres: prepared": "prepared"}
EXCHANGE: Final = "exchange: event"
ITV2: Final = "itv2: event"
CONNECTIONS_COUNT: Final = 50
EXCHANGE_CLIENTS_COUNT: Final = 200
"""Each in a session of its own: an event is written down once for each session, however many clients it has."""
EVENT_BYTES: Final = 200
PANELS_COUNT: Final = 50
EVENTS_PER_S: Final = 250.0
_END_S: Final = 5.0

Costs = dict[str, float]
"""CPU-microseconds of one operation by series, of samples that followed each other at once."""


class Options(msgspec.Struct, frozen=True):
    """The command line. ``pairs`` of samples in each of ``rounds``, which have processes of their own."""

    rounds: int
    pairs: int
    seconds: float
    only: tuple[str, ...]
    strict: bool

    @property
    def turns(self) -> Iterator[bool]:
        """Say for each pair of a round whether the second of it goes first."""
        return itertools.islice(itertools.cycle((False, True)), self.pairs)


def read_command_line() -> Options:
    """Read the command line; ``--help`` and mistakes end the program."""
    names = ("tacacs", "postgres", "exchange", "itv2")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of 6 pairs: a look, not a result")
    parser.add_argument("--rounds", type=int, default=0, help="rounds; 5 without it")
    parser.add_argument("--pairs", type=int, default=0, help="pairs of samples in a round; 12 without it")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one sample; 0.3 without it")
    parser.add_argument("--only", action="append", choices=names, default=[], help="may be given repeatedly")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a gate is not kept")
    given = parser.parse_args()
    rounds, pairs = (2, 6) if given.quick else (5, 12)
    return Options(
        given.rounds or rounds,
        given.pairs or pairs,
        given.seconds,
        tuple(given.only or names),
        given.strict,
    )


class Pairs:
    """What was measured, by place. Always true: the costs of one list element belong together."""

    def __init__(self) -> None:
        self.costs: dict[str, list[Costs]] = {}

    def add(self, place: str, costs: Costs) -> None:
        """Keep samples that followed each other."""
        self.costs.setdefault(place, []).append(costs)

    def ratios(self, place: str, series: str) -> list[float]:
        """Return what a series costs in terms of the recorder being off, pair by pair, lowest first."""
        return sorted(costs[series] / costs[OFF] for costs in self.costs[place])

    def series(self, place: str) -> Sequence[str]:
        """Return what was measured in a place besides the recorder being off."""
        return [name for name in self.costs[place][0] if name != OFF]

    def lines(self, place: str) -> Iterator[str]:
        """Yield a line per series: least cost of both, median of the ratios, and where half of them are."""
        least = {name: min(costs[name] for costs in self.costs[place]) for name in self.costs[place][0]}
        for name in self.series(place):
            ratios = self.ratios(place, name)
            first, _, third = statistics.quantiles(ratios, n=4)
            yield (
                f"{place:22s} {name:12s} {least[name]:8.2f} us, off {least[OFF]:8.2f} us"
                f"   x{statistics.median(ratios):6.3f}   half {first:.3f} .. {third:.3f}"
                f"   all {ratios[0]:.3f} .. {ratios[-1]:.3f}   of least {least[name] / least[OFF]:.3f}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            place: {
                "median_ratio": {name: statistics.median(self.ratios(place, name)) for name in self.series(place)},
                "us": costs,
            }
            for place, costs in self.costs.items()
        }  # fmt: skip


def in_turns(names: Sequence[str], sample: Callable[[str], float], *, is_reversed: bool) -> Costs:
    """Measure each of the series once, one right after the other."""
    return {name: sample(name) for name in (reversed(names) if is_reversed else names)}


# Watching


class _Local(HTTPConnection):
    """HTTP over a daemon's control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("local", timeout=_END_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def stream(self, path: str) -> socket.socket:
        """Ask for a stream, and return where it comes."""
        self.request("GET", path)
        return self.sock


@contextlib.contextmanager
def watching(control: Path, port: int) -> Iterator[None]:
    """Have the dashboard's stream open for the length of the block, and that of a session that waits for a password."""
    start = exchanges.ascii_traffic(single_connect=False).exchanges[0]
    over = threading.Event()

    def follow() -> None:
        while not over.is_set():
            with socket.create_connection(("127.0.0.1", port), timeout=_END_S) as device:
                device.sendall(start.packets[0])
                assert device.recv(4_096), "a login was not answered"
                asking = _Local(control)
                asking.request("GET", "/api/v1/sessions?state=open&search=operator&limit=1000")
                rows = msgspec.json.decode(asking.getresponse().read())["sessions"]
                oldest = min(rows, key=lambda row: row["started"])
                _drain(_Local(control).stream(f"/api/v1/sessions/{oldest['id']}/trace/stream"), over)

    def look_on() -> None:
        _drain(_Local(control).stream("/api/v1/stream"), over)

    readers = [threading.Thread(target=work) for work in (follow, look_on)]
    for reader in readers:
        reader.start()
    try:
        yield
        assert all(reader.is_alive() for reader in readers), "somebody who watches was sent away"
    finally:
        over.set()
        for reader in readers:
            reader.join()


def _drain(stream: socket.socket, over: threading.Event) -> None:
    """Read a stream until it ends, or nobody wants it any more."""
    with contextlib.closing(stream), contextlib.suppress(TimeoutError):
        stream.settimeout(_END_S)
        while not over.is_set() and b"event: ended" not in (data := stream.recv(65_536)) and data:
            pass


# The gateways


def measure_tacacs(options: Options, pairs: Pairs) -> None:
    """Measure logins and commands over 50 connections, one at a time on each."""
    with contextlib.ExitStack() as stack:
        folders = {
            name: Path(stack.enter_context(tempfile.TemporaryDirectory())) for name in (OFF, ON, WATCHED)
        }
        rings = {OFF: ("0",), ON: (), WATCHED: ()}
        servers = {
            name: stack.enter_context(measure.serving("daemon.py", str(folder), *rings[name]))
            for name, folder in folders.items()
        }
        stack.enter_context(watching(folders[WATCHED] / "control.sock", servers[WATCHED].port))
        for place, kind in TACACS.items():
            with contextlib.ExitStack() as loads:
                plans = {
                    name: Plan(
                        port=server.port, kind=kind, connections=CONNECTIONS_COUNT, seconds=options.seconds
                    )
                    for name, server in servers.items()
                }
                running = {name: loads.enter_context(measure.loading(plan)) for name, plan in plans.items()}

                def sample(name: str, running: Mapping[str, subprocess.Popen[str]] = running) -> float:
                    return measure.sample_again(servers[name], running[name]).us_per_packet

                for is_reversed in options.turns:
                    with measure.alone():
                        pairs.add(place, in_turns((OFF, ON, WATCHED), sample, is_reversed=is_reversed))


def measure_postgres(options: Options, pairs: Pairs) -> None:
    """Measure transactions of pgbench, through a pool in transaction mode."""
    bench_options = postgres.Options(
        rounds=1,
        seconds=1,
        only=(),
        clients=10,
        pool_size=20,
        versus="sojourn",
        pinned=True,
        strict=False,
        lab=False,
        targets=(),
    )
    works = {work.name: work for work in postgres.WORKS}

    def compare(bench: postgres.Bench, _: int) -> int:
        with (
            bench.proxy("sojourn", OFF, entries_count=0) as off,
            bench.proxy("sojourn", ON) as on,
        ):
            proxies = {OFF: off, ON: on}
            for place, name in POSTGRES.items():
                work = works[name]
                database = postgres.database_of(work, "sojourn")
                for is_reversed in options.turns:
                    costs = in_turns(
                        (OFF, ON),
                        lambda which: bench.sample(proxies[which], work, database).us_per_packet,  # noqa: B023
                        is_reversed=is_reversed,
                    )
                    pairs.add(place, costs)
        return 0

    asyncio.run(postgres.with_postgres(bench_options, compare))


def measure_exchange(options: Options, pairs: Pairs) -> None:
    """Measure events, each to one client of its own session."""
    contender = exchange_servers.CONTENDERS[0]
    arguments = (str(EXCHANGE_CLIENTS_COUNT), str(EVENT_BYTES))
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-") as place, contextlib.ExitStack() as stack:
        Path(place).chmod(0o755)  # a PostgreSQL of its own runs as another user
        running = {
            name: stack.enter_context(
                exchange_servers.running(contender, folder, str(folder), *arguments, *ring)
            )
            for name, folder, ring in ((OFF, Path(place, "off"), ("0",)), (ON, Path(place, "on"), ()))
        }

        def sample(name: str) -> float:
            (taken,) = take(running[name], clients=EXCHANGE_CLIENTS_COUNT, seconds=options.seconds)
            return taken.sample().us_per_packet

        for is_reversed in options.turns:
            pairs.add(EXCHANGE, in_turns((OFF, ON), sample, is_reversed=is_reversed))


def measure_itv2(options: Options, pairs: Pairs) -> None:
    """Measure zones that open and close, with durable history and without MQTT."""

    def compare(folder: Path, broker_port: int) -> None:
        with contextlib.ExitStack() as stack:
            daemons, loads = {}, {}
            for name, ring in ((OFF, ("0",)), (ON, ())):
                (folder / name).mkdir()
                command = ("itv2_daemon.py", str(folder / name), str(PANELS_COUNT), "0", *ring)
                daemons[name] = stack.enter_context(measure.serving(*command))
                loads[name] = stack.enter_context(itv2.panels(daemons[name].port, broker_port, PANELS_COUNT))
                itv2.wait_until_idle(daemons[name])

            def sample(name: str) -> float:
                before = daemons[name].cpu_ns()
                events = itv2.order_events(loads[name], 1.0, EVENTS_PER_S)
                return (daemons[name].cpu_ns() - before) / 1e3 / events.sent_count

            for is_reversed in options.turns:
                with measure.alone():
                    pairs.add(ITV2, in_turns((OFF, ON), sample, is_reversed=is_reversed))

    async def with_broker() -> None:
        users = [MqttUser(name, Secret(BROKER_PASSWORD)) for name in ("gateway", "watcher")]
        with tempfile.TemporaryDirectory(prefix="sojourn-bench-") as folder:
            async with MosquittoServer(users=users) as broker:
                await asyncio.to_thread(compare, Path(folder), broker.port)

    asyncio.run(with_broker())


WORKS: Final[Mapping[str, Callable[[Options, Pairs], None]]] = {
    "tacacs": measure_tacacs,
    "postgres": measure_postgres,
    "exchange": measure_exchange,
    "itv2": measure_itv2,
}


def main() -> int:
    """Measure, print, write, and judge."""
    options = read_command_line()
    pairs = Pairs()
    for number in range(options.rounds):
        for name in options.only:
            WORKS[name](options, pairs)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print("\nCPU of the server per packet, transaction or event; the recorder on in terms of off")
    for place in pairs.costs:
        for line in pairs.lines(place):
            print(line)
    gates = []
    for place, costs in pairs.costs.items():
        median = statistics.median(pairs.ratios(place, ON))
        gates.append(measure.Gate(f"{place}, times off, median of {len(costs)} pairs", median, GATE))
    content = {
        "rounds": options.rounds,
        "pairs": options.pairs,
        "seconds": options.seconds,
        "places": pairs.to_json(),
    }
    measure.write_results("recorder", content, gates)
    return 1 if options.strict and not all(gate.is_kept for gate in gates) else 0


if __name__ == "__main__":
    sys.exit(main())
