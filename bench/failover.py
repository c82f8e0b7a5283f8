"""Run pgbench TPC-B through failovers: are commits lost or doubled, what do clients see, does memory stay.

``python bench/failover.py [--seconds 600] [--clients 100] [--failovers 4]``. An embedded primary with a synchronous
replica, the gateway in transaction mode with ``arms_commit_outcome``; at even intervals the primary is killed as by a
power cut, the replica promoted, and a new replica takes the dead server's address. pgbench repeats what fails with
40001 and gives up a client on any other error. Every transaction that pgbench counts must be one row of
``pgbench_history``, and the balances must add up; exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

# By name at run time: the servers are the tests' own, which are no package.
failover_lab: Any = importlib.import_module("failover_lab")

_FIGURE = re.compile(
    r"number of (transactions actually processed|failed transactions|transactions retried): (\d+)"
)
_ABORTED = re.compile(r"client \d+ .*?aborted[^:]*: *(.*)")
"""A client that pgbench gave up, and the error that it saw."""


def main() -> int:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--failovers", type=int, default=4)
    parser.add_argument("--scale", type=int, default=20)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with failover_lab.running_failover_lab(16) as lab:
        way = await lab.gateway("transaction", size_count=20, arms_commit_outcome=True)
        pgbench = str(lab.primary.bin_directory / "pgbench")
        await _pgbench(pgbench, lab.primary.port, "--initialize", f"--scale={arguments.scale}", "--quiet")
        memory = [_mebibytes()]
        async with asyncio.TaskGroup() as group:
            load = group.create_task(
                _pgbench(
                    pgbench,
                    way.port,
                    "--no-vacuum",
                    f"--client={arguments.clients}",
                    f"--time={arguments.seconds}",
                    "--max-tries=0",
                    "--failures-detailed",
                )
            )
            for number in range(1, arguments.failovers + 1):
                await asyncio.sleep(arguments.seconds / (arguments.failovers + 1))
                memory.append(_mebibytes())
                await _fail_over(lab, way, number)
        memory.append(_mebibytes())
        return await _judge(lab, way, load.result(), memory)


async def _fail_over(lab: Any, way: Any, number: int) -> None:  # noqa: ANN401 - the tests' classes
    """Kill the primary, promote its replica, say how long that took, and give the new primary a replica."""
    dead = lab.primary
    began = time.monotonic()
    await lab.crash()
    await lab.promote()
    promoted = time.monotonic()
    await _answered(way)
    answered_s = time.monotonic() - promoted
    print(
        f"failover {number}: down {promoted - began:.2f} s, first answer {answered_s:.3f} s after the promotion",
        flush=True,
    )
    port = dead.port
    await dead.stop()
    await lab.add_replica(port=port)


async def _answered(way: Any) -> None:  # noqa: ANN401 - as above
    """Return when a new client is answered."""
    connection = await way.connect()
    await connection.execute("SELECT 1")
    await connection.close()


async def _judge(lab: Any, way: Any, said: str, memory: list[float]) -> int:  # noqa: ANN401 - as above
    figures = {name: int(count) for name, count in _FIGURE.findall(said)}
    ((rows, deltas),) = await lab.direct("SELECT count(*), coalesce(sum(delta), 0) FROM pgbench_history")
    ((accounts,),) = await lab.direct("SELECT sum(abalance) FROM pgbench_accounts")
    ((tellers,),) = await lab.direct("SELECT sum(tbalance) FROM pgbench_tellers")
    ((branches,),) = await lab.direct("SELECT sum(bbalance) FROM pgbench_branches")
    errors: dict[str, int] = {}
    for line in said.splitlines():
        found = _ABORTED.search(line)
        if found:
            errors[found[1]] = errors.get(found[1], 0) + 1
    processed = figures.get("transactions actually processed", 0)
    print(f"\n{processed} transactions by pgbench, {rows} rows in pgbench_history")
    print(f"sums: accounts {accounts}, tellers {tellers}, branches {branches}, history {deltas}")
    print(
        f"repeated after 40001: {figures.get('transactions retried', 0)},"
        f" failed: {figures.get('failed transactions', 0)}"
    )
    print(f"errors that clients saw: {errors or 'none'}")
    print(f"what was decided: {dict(way.gateway.losses)}")
    print(f"memory, MiB: {', '.join(f'{one:.0f}' for one in memory)}")
    unknown = sum(count for error, count in errors.items() if "unknown" in error)
    is_sound = accounts == tellers == branches == deltas and processed <= rows <= processed + unknown
    print("\nPASS" if is_sound else "\nFAIL", "no commit lost or doubled")
    return 0 if is_sound else 1


async def _pgbench(program: str, port: int, *arguments: str) -> str:
    """Run pgbench and return all that it said."""
    process = await asyncio.create_subprocess_exec(
        program,
        "--host=127.0.0.1",
        f"--port={port}",
        "--username=postgres",
        *arguments,
        "postgres",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said.decode(errors="replace")


def _mebibytes() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    sys.exit(main())
