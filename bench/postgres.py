"""What our PostgreSQL gateway costs: against Debian's PgBouncer in the same run, CPU time of the proxy.

Run from the repository root: ``python bench/postgres.py [--quick] [--strict] [--only NAME]``; see
``bench/README.md``. For a look at one change: ``--lab`` keeps PostgreSQL and PgBouncer running until Ctrl-C, and
``--target NAME=PORT:PID --only simple`` measures what listens there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import measure
import pgbench
import pgbouncer
import plots
import proxies
import servers
import sojourn_postgres

from sojourn.embedded.certificates import Identity, ThrowAwayAuthority
from sojourn.embedded.postgres import PostgresServer

DEBIAN: Final = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/15/bin"))
WIDE = "\\set first random(1, 90000)\nSELECT * FROM pgbench_accounts WHERE aid BETWEEN :first AND :first + 999;\n"
"""A thousand rows of about 120 bytes."""

NARROW = "SELECT generate_series(1, 1000);\n"
"""A thousand rows of about 14 bytes."""

IDLE_CLIENTS_COUNT = 10_000
_WARM_CLIENTS_COUNT = 200
IDLE_LIMIT_BYTES = 6 * 1024
_SETTLE_S = 1.0
_START_NICENESS = -10


class Work(NamedTuple):
    """One gate: what pgbench does, and what it may cost us in terms of PgBouncer's cost.

    Args:
        ours, theirs: pool modes, each the best that the proxy has for this.
        judged: ``cpu`` per transaction; ``rate``: PgBouncer's transactions per second in terms of ours; or nothing.
    """

    name: str
    words: str
    arguments: tuple[str, ...]
    at_most: float
    theirs: str = "transaction"
    ours: str = "transaction"
    script: str = ""
    tls: bool = False
    judged: str = "cpu"


WORKS: Final = (
    Work("simple", "simple protocol", ("--select-only", "--protocol=simple"), 1.25),
    Work("extended", "extended protocol", ("--select-only", "--protocol=extended"), 1.25),
    # PgBouncer 1.18 keeps prepared statements in session mode only.
    Work("prepared", "prepared statements", ("--select-only", "--protocol=prepared"), 1.15, theirs="session"),
    Work("rows", "1,000 rows of 120 bytes", (), 0.9, script=WIDE),
    Work("narrow", "1,000 rows of 14 bytes", (), 0.9, script=NARROW),
    Work("tls", "simple protocol over TLS", ("--select-only", "--protocol=simple"), 1.25, tls=True),
    # A thread of pgbench blocks in each login, so that with one of them no two logins are ever under way.
    Work("connect", "reconnecting", ("--select-only", "--connect", "--jobs=10"), 1.0, judged="rate"),
    Work("one-login", "reconnecting, one at a time", ("--select-only", "--connect"), 0.0, judged=""),
)
IDLE: Final = "idle"


class Options(NamedTuple):
    """The command line."""

    rounds: int
    seconds: float
    only: tuple[str, ...]
    clients: int
    pool_size: int
    versus: str
    pinned: bool
    strict: bool
    lab: bool
    targets: tuple[str, ...]


def read_command_line() -> Options:
    """Read the command line; ``--help`` and mistakes end the program."""
    names = [*(work.name for work in WORKS), IDLE]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of 1 s: a look, not a result")
    parser.add_argument("--rounds", type=int, default=0, help="rounds; 5 without it")
    parser.add_argument("--seconds", type=int, default=0, help="length of one sample; 3 without it")
    parser.add_argument("--only", action="append", choices=names, default=[], help="may be given repeatedly")
    parser.add_argument("--clients", type=int, default=10, help="clients of pgbench")
    parser.add_argument("--pool-size", type=int, default=20, help="server connections")
    parser.add_argument(
        "--versus",
        choices=("sojourn", "pgbouncer", "direct"),
        default="sojourn",
        help="who is compared with PgBouncer; itself tells how good the measurement is",
    )
    parser.add_argument("--unpinned", action="store_true", help="leave it to the kernel where what runs")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a gate is not kept")
    parser.add_argument("--lab", action="store_true", help="run PostgreSQL and PgBouncer until Ctrl-C")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=PORT:PID",
        help="measure this, and start nothing; the first one given is what others are compared to",
    )
    given = parser.parse_args()
    rounds, seconds = (2, 1) if given.quick else (5, 3)
    return Options(
        rounds=given.rounds or rounds,
        seconds=given.seconds or seconds,
        only=tuple(given.only or names),
        clients=given.clients,
        pool_size=given.pool_size,
        versus=given.versus,
        pinned=not given.unpinned,
        strict=given.strict,
        lab=given.lab,
        targets=tuple(given.target),
    )


class Bench:
    """A PostgreSQL with pgbench's tables, and what is measured in front of it.

    Life: made inside a running PostgreSQL by the program, for one run.
    """

    def __init__(self, options: Options, folder: Path, postgres_port: int, postgres_pid: int) -> None:
        self._options = options
        self._folder = folder
        self._postgres_port = postgres_port
        self._postgres_pid = postgres_pid
        self._count = 0
        self._scripts: dict[str, str] = {}
        self.identity: Identity = ThrowAwayAuthority(folder).issue("proxy", ("127.0.0.1",))
        for work in WORKS:
            if work.script:
                path = folder / f"{work.name}.sql"
                path.write_text(work.script)
                self._scripts[work.name] = f"--file={path}"

    @contextlib.contextmanager
    def proxy(self, kind: str, name: str, **more: int) -> Iterator[proxies.Proxy]:
        """Run one of what can be measured for the length of the block; ``more`` is what it alone is told."""
        if kind == "direct":
            yield proxies.Proxy(name, self._postgres_port, self._postgres_pid)
            return
        self._count += 1
        folder = self._folder / f"proxy-{self._count}"
        folder.mkdir()
        start = {"pgbouncer": pgbouncer.running, "sojourn": sojourn_postgres.running}[kind]
        with start(
            folder,
            self._postgres_port,
            self.identity,
            pool_size_count=self._options.pool_size,
            clients_count=IDLE_CLIENTS_COUNT + 1_000,
            name=name,
            **more,
        ) as proxy:
            if self._options.pinned:
                proxy.pin(servers.SERVER_CORE, _START_NICENESS)
            yield proxy

    def sample(self, proxy: proxies.Proxy, work: Work, database: str) -> measure.Sample:
        """Measure one proxy at one work; a packet of the sample is a transaction."""
        arguments = (*work.arguments, *([self._scripts[work.name]] if work.script else []))
        with measure.alone():
            before = proxy.cpu_ns()
            began = time.monotonic()
            run = pgbench.run(
                proxy.port,
                database,
                arguments,
                clients=self._options.clients,
                seconds=self._options.seconds,
                tls=work.tls,
                core=servers.LOAD_CORE if self._options.pinned else None,
            )
            seconds = time.monotonic() - began
            cpu_ns = proxy.cpu_ns() - before
        return measure.Sample(
            cpu_ns / run.transactions_count / 1e3, run.transactions_per_s, cpu_ns / 1e9 / seconds
        )


def database_of(work: Work, kind: str) -> str:
    """Return the name under which a proxy offers the database in the mode that is its best for this work."""
    if kind == "direct":
        return proxies.DATABASE
    return proxies.database_in(work.theirs if kind == "pgbouncer" else work.ours)


def measure_works(bench: Bench, options: Options) -> measure.Table:
    """Measure both proxies at every wanted work, in interleaved rounds, each with fresh processes."""
    table = measure.Table()
    wanted = [work for work in WORKS if work.name in options.only]
    for number in range(options.rounds if wanted else 0):
        with (
            bench.proxy("pgbouncer", "PgBouncer") as theirs,
            bench.proxy(options.versus, options.versus) as ours,
        ):
            for work in wanted:
                table.add(
                    work.words, theirs.name, bench.sample(theirs, work, proxies.database_in(work.theirs))
                )
                database = database_of(work, options.versus)
                table.add(work.words, ours.name, bench.sample(ours, work, database))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return table


@contextlib.contextmanager
def idle_clients(port: int, count: int) -> Iterator[None]:
    """Have idle clients for the length of the block; at its end each of them must still be answered."""
    program = str(Path(__file__).parent / "idle_clients.py")
    process = subprocess.Popen(
        [sys.executable, program, str(port), proxies.DATABASE, proxies.USER, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "idle clients could not be opened"
    yield
    output, _ = process.communicate("\n")
    assert output == f"{count}\n", f"of {count} idle clients these were answered in the end: {output}"


def measure_idle(bench: Bench, options: Options) -> dict[str, float]:
    """Return bytes per idle client by proxy; each client logged in and ran one query."""
    grown: dict[str, float] = {}
    for kind, name in (("pgbouncer", "PgBouncer"), (options.versus, options.versus)):
        if kind == "direct":
            continue
        with measure.alone(), bench.proxy(kind, name) as proxy:
            with idle_clients(proxy.port, _WARM_CLIENTS_COUNT):
                pass
            time.sleep(_SETTLE_S)
            before = proxy.rss_bytes()
            with idle_clients(proxy.port, IDLE_CLIENTS_COUNT):
                time.sleep(_SETTLE_S)
                grown[name] = (proxy.rss_bytes() - before) / IDLE_CLIENTS_COUNT
    return grown


def gates_of(table: measure.Table, idle: dict[str, float], options: Options) -> list[measure.Gate]:
    """Judge what was measured."""
    gates = []
    for work in WORKS:
        if work.words not in table.samples or not work.judged:
            continue
        if work.judged == "cpu":
            what = f"{work.words}, CPU per transaction, times PgBouncer's"
            value = table.ratio(work.words, options.versus, "PgBouncer")
        else:
            what = f"{work.words}, PgBouncer's rate, times ours"
            value = best_rate(table, work.words, "PgBouncer") / best_rate(table, work.words, options.versus)
        gates.append(measure.Gate(what, value, work.at_most))
    if options.versus in idle:
        what = f"bytes per idle client, of {IDLE_CLIENTS_COUNT:,}"
        gates.append(measure.Gate(what, idle[options.versus], IDLE_LIMIT_BYTES))
    return gates


def best_rate(table: measure.Table, place: str, series: str) -> float:
    """Return the maximum of transactions per second over the rounds."""
    return max(one.packets_per_s for one in table.samples[place][series])


def compare(bench: Bench, options: Options) -> int:
    """Measure, print, write, and judge."""
    table = measure_works(bench, options)
    print("\nCPU of the proxy per transaction")
    for place in table.samples:
        for line in table.lines(place, "PgBouncer"):
            print(line)
    idle = measure_idle(bench, options) if IDLE in options.only else {}
    for name, grown in idle.items():
        print(f"{IDLE_CLIENTS_COUNT:,} idle clients   {name:20s} {grown:8.0f} bytes each")
    gates = gates_of(table, idle, options)
    name = "postgres" if options.versus == "sojourn" else f"postgres-{options.versus}"
    content: dict[str, Any] = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "clients": options.clients,
        "pool_size": options.pool_size,
        "pgbouncer": subprocess.run(
            [pgbouncer.PROGRAM, "--version"], check=True, capture_output=True, text=True
        ).stdout.splitlines()[0],
        "transactions": {place: table.to_json(place, "PgBouncer") for place in table.samples},
        "bytes_per_idle_client": idle,
    }
    measure.write_results(name, content, gates)
    plots.draw_ratios(
        measure.RESULTS / f"{name}.png",
        "PostgreSQL gateway, CPU per transaction (times PgBouncer's)",
        {place: {options.versus: table.ratio(place, options.versus, "PgBouncer")} for place in table.samples},
        [(work.words, options.versus, work.at_most) for work in WORKS if work.judged == "cpu"],
    )
    return 1 if options.strict and not all(gate.is_kept for gate in gates) else 0


def look(bench: Bench, options: Options) -> int:
    """Measure what is already running, by port and process, in interleaved rounds."""
    targets = []
    for text in options.targets:
        name, _, place = text.rpartition("=")
        port, _, pid = place.partition(":")
        targets.append(proxies.Proxy(name or place, int(port), int(pid)))
        if options.pinned:
            targets[-1].pin(servers.SERVER_CORE, _START_NICENESS)
    table = measure.Table()
    for _ in range(options.rounds):
        for work in WORKS:
            if work.name in options.only:
                for target in targets:
                    database = proxies.database_in(work.ours)
                    table.add(work.words, target.name, bench.sample(target, work, database))
    for place in table.samples:
        for line in table.lines(place, targets[0].name):
            print(line)
    return 0


def keep_running(bench: Bench, postgres_port: int) -> int:
    """Have PostgreSQL and PgBouncer ready for experiments until Ctrl-C or SIGTERM."""
    # asyncio's own handler of the first Ctrl-C only cancels a task, which this one would not notice.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with bench.proxy("pgbouncer", "PgBouncer") as theirs:
        print(
            f"PostgreSQL  127.0.0.1:{postgres_port}  database {proxies.DATABASE}, user {proxies.USER}, no password"
        )
        print(f"PgBouncer   127.0.0.1:{theirs.port}  --target pgbouncer={theirs.port}:{theirs.pid}")
        print(f"certificate {bench.identity.certificate_file}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                signal.pause()
    return 0


async def with_postgres(options: Options, work: Callable[[Bench, int], int]) -> int:
    """Start PostgreSQL with pgbench's tables and do the work on it."""
    settings = {"max_connections": "200", "shared_buffers": "256MB", "autovacuum": "off"}
    async with PostgresServer(
        bin_directory=DEBIAN, port=0, settings=settings, hba_lines=("host all all 127.0.0.1/32 trust",)
    ) as server:
        for command in (f"CREATE ROLE {proxies.USER} SUPERUSER LOGIN", f"CREATE DATABASE {proxies.DATABASE}"):
            await asyncio.to_thread(run_sql, server.dsn(), command)
        if options.pinned:
            proxies.Proxy("PostgreSQL", server.port, server.pid).pin(servers.LOAD_CORE, 0)
        with tempfile.TemporaryDirectory(prefix="sojourn-bench-") as place:
            folder = open_to_all(Path(place))
            await asyncio.to_thread(pgbench.make_tables, server.port, 1)
            return work(Bench(options, folder, server.port, server.pid), server.port)


def open_to_all(folder: Path) -> Path:
    """Let PgBouncer, which runs as somebody else, enter a folder; return it."""
    folder.chmod(0o755)
    return folder


def run_sql(dsn: str, command: str) -> None:
    """Run one command with psql."""
    arguments: Sequence[str] = (str(DEBIAN / "psql"), "--no-psqlrc", "--quiet", f"--command={command}", dsn)
    subprocess.run(arguments, check=True, capture_output=True)


def main() -> int:
    """Do what the command line says."""
    options = read_command_line()
    servers.allow_many_files()
    if options.targets:
        with tempfile.TemporaryDirectory(prefix="sojourn-bench-") as place:
            return look(Bench(options, Path(place), 0, 0), options)
    if not pgbouncer.is_installed():
        print("PgBouncer is not installed: as root, apt-get install pgbouncer", file=sys.stderr)
        return 2
    if options.lab:
        return asyncio.run(with_postgres(options, keep_running))
    return asyncio.run(with_postgres(options, lambda bench, _: compare(bench, options)))


if __name__ == "__main__":
    sys.exit(main())
