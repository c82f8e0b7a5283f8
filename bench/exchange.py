"""What our exchange gateway costs: against ``ws``, ``socket.io``, ``websockets`` and ``uvicorn`` + ``starlette``.

CPU time of the server's process, all in the same rounds on the same core, with the same clients and without
compression. Run from the repository root: ``python bench/exchange.py [--quick] [--strict] [--only NAME]``; see
``bench/README.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import exchange_servers
import measure
import plots
import servers
from exchange_samples import Measured, bytes_per_client, take
from exchange_servers import CONTENDERS, OURS, Contender, Missing, Running

PAYLOAD_BYTES: Final = 200
CLIENTS_COUNT: Final = 500
WINDOWS: Final = {1: "one frame under way", 4: "four frames under way"}
"""Broadcasts under way, and in words; with more than one a server may put frames of the same client together."""
SAMPLES_COUNT: Final = 3
"""Samples of a round that follow each other: a shared machine is quiet for moments."""
FRAME_LIMIT_US: Final = 1e6 / 150_000
ROWS: Final = {"r": 10, "R": 50}
"""Rows of a market frame, by the trigger."""
JUDGED_ROWS: Final = 10
ROW_LIMIT_US: Final = 1.0
MANY_COUNT: Final = 5_000
IDLE_LIMIT_BYTES: Final = 16 * 1024
BUSY: Final = 0.6
_BUSY_SPREAD: Final = 0.08
_WAITED_LIMIT: Final = 0.05
"""Part of a sample in which server or load may have waited for a core; beyond that others make the delays."""
_TRIES_COUNT: Final = 4
_DELAY_SECONDS: Final = 3.0
DELAY_LIMIT_MS: Final = 25.0
MISSED_COUNT: Final = 5
RETURN_LIMIT_S: Final = 10.0
WORKS: Final = ("fan-out", "rows", "idle", "ticks", "return")
_SPARE_FILES_COUNT: Final = 400


class Options(NamedTuple):
    """The command line.

    Units: ``seconds`` of one sample; ``rounds`` of every series.
    """

    rounds: int
    seconds: float
    only: tuple[str, ...]
    strict: bool


def read_command_line() -> Options:
    """Read the command line; ``--help`` and mistakes end the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of 0.3 s: a look, not a result")
    parser.add_argument("--rounds", type=int, default=0, help="rounds; 5 without it")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of one sample; 0.5 without it")
    parser.add_argument("--only", action="append", choices=WORKS, default=[], help="may be given repeatedly")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a gate is not kept")
    given = parser.parse_args()
    rounds, seconds = (2, 0.3) if given.quick else (5, 0.5)
    return Options(given.rounds or rounds, given.seconds or seconds, tuple(given.only or WORKS), given.strict)


class Bench:
    """What is measured in one run, and where the servers keep their things.

    Args:
        folder: empty, and gone after the run.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self._folder = folder
        self._count = 0
        self.table = measure.Table()
        self.gates: list[measure.Gate] = []
        self.told: dict[str, Any] = {}
        self.contenders: dict[str, Contender] = {}
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def find(self) -> None:
        """Find out who can be measured here."""
        for contender in CONTENDERS:
            try:
                self.versions[contender.name] = contender.find()
                self.contenders[contender.name] = contender
            except Missing as missing:
                self.missing[contender.name] = str(missing)
                print(f"NOT MEASURED  {contender.name}: {missing}", file=sys.stderr)

    @contextlib.contextmanager
    def running(self, name: str, *, sessions: int = 1) -> Iterator[Running]:
        """Run a server for the length of the block."""
        self._count += 1
        folder = self._folder / f"server-{self._count}"
        arguments = [str(PAYLOAD_BYTES)] if name != OURS else [str(folder), str(sessions), str(PAYLOAD_BYTES)]
        with exchange_servers.running(self.contenders[name], folder, *arguments) as server:
            yield server

    # Frames to many clients

    def fan_out(self) -> None:
        """Measure every server with the same frame to all clients, and ours with rows, in interleaved rounds."""
        options = self.options
        wants_frames, wants_rows = "fan-out" in options.only, "rows" in options.only
        names = tuple(self.contenders) if wants_frames else (OURS,)
        for number in range(options.rounds if wants_frames or wants_rows else 0):
            with contextlib.ExitStack() as stack:
                running = {name: stack.enter_context(self.running(name)) for name in names}
                for window, words in WINDOWS.items() if wants_frames else ():
                    for name, server in running.items():
                        for measured in self._broadcasts(server, window=window):
                            self.table.add(words, name, measured.sample())
                for trigger, rows in ROWS.items() if wants_rows else ():
                    for measured in self._broadcasts(running[OURS], trigger=trigger):
                        self.table.add(f"{rows} rows a frame", OURS, _by_row(measured, rows))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)

    def _broadcasts(self, server: Running, **options: object) -> list[Measured]:
        return take(
            server, count=SAMPLES_COUNT, clients=CLIENTS_COUNT, seconds=self.options.seconds, **options
        )

    def judge_fan_out(self) -> None:
        """Print and judge frames and rows."""
        for words in WINDOWS.values():
            if words not in self.table.samples:
                continue
            print(
                f"\n{PAYLOAD_BYTES}-byte frames to {CLIENTS_COUNT} clients, {words}; CPU of the server per frame"
            )
            self._print(words, "frames")
            ours = self.table.best_us(words, OURS)
            self.gates.append(
                measure.Gate(f"{words}: us per frame (150 k a CPU-second)", ours, FRAME_LIMIT_US)
            )
            for contender in CONTENDERS[1:]:
                name = contender.name
                missing = self.missing.get(name, "")
                value = 0.0 if missing else self.table.ratio(words, OURS, name)
                self.gates.append(
                    measure.Gate(f"{words}: CPU per frame, times {name}'s", value, 1.0, missing)
                )
        for rows in ROWS.values():
            words = f"{rows} rows a frame"
            if words in self.table.samples:
                print(
                    f"\nRows of prices to {CLIENTS_COUNT} clients, {words}; CPU of the server per row and client"
                )
                self._print(words, "rows")
                if rows == JUDGED_ROWS:
                    value = self.table.best_us(words, OURS)
                    self.gates.append(
                        measure.Gate(f"{words}: us per row (1 M a CPU-second)", value, ROW_LIMIT_US)
                    )

    def _print(self, words: str, things: str) -> None:
        for name, samples in self.table.samples[words].items():
            costs = sorted(one.us_per_packet for one in samples)
            busy = min(samples, key=lambda one: one.us_per_packet).busy
            print(
                f"{name:20s} {1e3 / costs[0]:7.1f} k {things} per CPU-second  {costs[0]:6.2f} us"
                f"  x{costs[0] / self.table.best_us(words, OURS):5.2f}"
                f"  spread {costs[0]:.2f} .. {costs[len(costs) // 2]:.2f} .. {costs[-1]:.2f}  busy {busy:4.0%}"
            )

    # Memory

    def idle(self, ours: Running, clients: int) -> None:
        """Measure what a silent client costs, each of ours in a session of its own."""
        grown = {OURS: bytes_per_client(ours, clients)}
        for name in tuple(self.contenders)[1:]:
            with self.running(name) as server:
                grown[name] = bytes_per_client(server, clients)
        with self.running(OURS) as server:
            sessions = (ours.rss_bytes_at_start - server.rss_bytes_at_start) / clients
        print(f"\nMemory per idle connection, of {clients:,}")
        for name, size in grown.items():
            print(f"{name:20s} {size / 1024:7.1f} KiB each")
        print(f"{'a session of ours':20s} {sessions / 1024:7.1f} KiB more, connected or not")
        self.told["idle"] = {"connections": clients, "bytes_each": grown, "bytes_per_session": sessions}
        self.gates.append(measure.Gate("bytes per idle connection", grown[OURS], IDLE_LIMIT_BYTES))
        self.gates += [
            measure.Gate(f"bytes per idle connection of {name}", 0.0, 0.0, why)
            for name, why in self.missing.items()
        ]

    # Delays at 60 % load

    def events(self) -> None:
        """Measure how late an event comes to a client while the server's core is busy for 60 %."""
        with self.running(OURS) as server:
            free_us = min(one.sample().us_per_packet for one in self._broadcasts(server))
            rate_per_s = BUSY / (free_us / 1e6 * CLIENTS_COUNT)
            for _ in range(_TRIES_COUNT):
                (measured,) = take(
                    server,
                    mode="paced",
                    clients=CLIENTS_COUNT,
                    seconds=_DELAY_SECONDS,
                    rate_per_s=rate_per_s,
                )
                self._note_delay("event", measured, f"{rate_per_s:.0f} a second to {CLIENTS_COUNT} clients")
                rate_per_s *= BUSY / measured.busy

    def ticks(self, server: Running, clients: int) -> None:
        """Measure how late prices come from the gateway's tick to a client, at the same load."""
        wanted = clients // 4
        for _ in range(_TRIES_COUNT):
            (measured,) = take(server, mode="watch", clients=wanted, seconds=_DELAY_SECONDS)
            self._note_delay("tick", measured, f"{wanted} sessions of one client, {JUDGED_ROWS} rows a tick")
            wanted = min(clients, int(wanted * BUSY / measured.busy))

    def _note_delay(self, what: str, measured: Measured, words: str) -> None:
        delays = self.told.setdefault("delays", {}).setdefault(what, [])
        delays.append(
            {
                "load": words,
                "busy": measured.busy,
                "waited": measured.waited,
                "ms": measured.result.delays_ms,
            }
        )

    def judge_delays(self) -> None:
        """Print all; judge those whose load was near what it is to be, and that had their cores to themselves."""
        for what, tries in self.told.get("delays", {}).items():
            print(f"\nFrom {what} to socket, at {BUSY:.0%} of a core")
            for one in tries:
                median, late, last = one["ms"]
                print(
                    f"{one['load']:52s} busy {one['busy']:4.0%}  waited {one['waited']:4.0%}"
                    f"  median {median:6.2f} ms  p99 {late:6.2f} ms  longest {last:6.2f} ms"
                )
            fitting = [
                one["ms"][1]
                for one in tries
                if abs(one["busy"] - BUSY) <= _BUSY_SPREAD and one["waited"] <= _WAITED_LIMIT
            ]
            missing = "" if fitting else "no sample had this load and its cores to itself"
            value = min(fitting, default=0.0)
            self.gates.append(
                measure.Gate(f"p99 from {what} to socket, ms, at {BUSY:.0%}", value, DELAY_LIMIT_MS, missing)
            )

    # All come back

    def come_back(self, server: Running, clients: int) -> None:
        """Cut all clients at once, and see how long it takes until each has resumed and has what it missed."""
        (measured,) = take(server, mode="return", trigger="l", clients=clients, missed=MISSED_COUNT)
        result = measured.result
        median, late, last = (delay / 1e3 for delay in result.delays_ms)
        print(
            f"\n{clients:,} clients cut at once: all are back after {result.seconds:.2f} s (median {median:.2f} s,"
            f" p99 {late:.2f} s, last {last:.2f} s) and have the {MISSED_COUNT} events that each missed;"
            f" {result.retries} tries more, CPU {measured.cpu_ns / 1e9:.2f} s,"
            f" {measured.cpu_ns / clients / 1e3:.0f} us each"
        )
        self.told["return"] = {
            "clients": clients,
            "missed": MISSED_COUNT,
            "cpu_ns": measured.cpu_ns,
            "result": result,
        }
        self.gates.append(
            measure.Gate(f"s until {clients:,} clients are back", result.seconds, RETURN_LIMIT_S)
        )

    def many(self) -> None:
        """Measure what needs thousands of sessions, on one server."""
        only = {"idle", "ticks", "return"} & set(self.options.only)
        if not only:
            return
        clients = min(MANY_COUNT, servers.allow_many_files() - _SPARE_FILES_COUNT)
        with self.running(OURS, sessions=clients) as server:
            if "idle" in only:
                self.idle(server, clients)
            if "return" in only:
                self.come_back(server, clients)
            if "ticks" in only:
                self.ticks(server, clients)
        if "ticks" in only:
            self.events()


def _by_row(measured: Measured, rows: int) -> measure.Sample:
    sample = measured.sample()
    return measure.Sample(sample.us_per_packet / rows, sample.packets_per_s * rows, sample.busy)


def main() -> int:
    """Measure, print, write, and judge."""
    options = read_command_line()
    servers.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        bench = Bench(options, folder)
        bench.find()
        bench.fan_out()
        bench.many()
    bench.judge_fan_out()
    bench.judge_delays()
    content: dict[str, Any] = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": bench.versions,
        "missing": bench.missing,
        "cpu": {words: bench.table.to_json(words, OURS) for words in bench.table.samples},
        **bench.told,
    }
    measure.write_results("exchange", content, bench.gates)
    drawn = [words for words in WINDOWS.values() if words in bench.table.samples]
    if drawn:
        plots.draw_ratios(
            measure.RESULTS / "exchange.png",
            f"{PAYLOAD_BYTES}-byte frames to {CLIENTS_COUNT} clients, CPU per frame (times ours)",
            {
                words: {name: bench.table.ratio(words, name, OURS) for name in bench.table.samples[words]}
                for words in drawn
            },
            [],
            "times ours",
        )
    return 1 if options.strict and not all(gate.is_kept for gate in bench.gates) else 0


if __name__ == "__main__":
    sys.exit(main())
