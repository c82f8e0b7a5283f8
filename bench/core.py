"""What the core costs: each lane against a bare uvloop protocol in the same run, and memory per idle connection.

Run from the repository root: ``python bench/core.py [--quick] [--strict]``; see ``bench/README.md``.
"""

from __future__ import annotations

import contextlib
import sys

import measure
import plots
import servers
from load import Plan
from options import Options, read_options

SERIES: dict[str, tuple[str, ...]] = {
    "bare": ("bare.py",),
    "lane 1": ("lanes.py", "1", "0"),
    "lane 2": ("lanes.py", "2", "0"),
    "lane 3": ("lanes.py", "3", "0"),
    "lane 1 + recorder": ("lanes.py", "1", "64"),
}
SHAPES = (measure.Shape(1, 1), measure.Shape(50, 1), measure.Shape(50, 16), measure.Shape(500, 1))
RATIO_GATES = (
    ("50x1", "lane 1", 1.25),
    ("50x1", "lane 2", 1.45),
    ("50x1", "lane 3", 1.5),
    ("50x16", "lane 1", 2.0),
)
IDLE_CONNECTIONS_COUNT = 10_000
IDLE_LIMIT_BYTES = 4_096
_SPARE_FILES_COUNT = 200


def measure_lanes(options: Options) -> measure.Table:
    """Measure every lane in every shape, in interleaved rounds."""
    table = measure.Table()
    for number in range(options.rounds):
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(measure.serving(*SERIES[name])) for name in SERIES}
            for shape in SHAPES:
                for name, server in running.items():
                    plan = Plan(
                        port=server.port,
                        kind="echo",
                        connections=shape.connections,
                        depth=shape.depth,
                        seconds=options.seconds,
                    )
                    table.add(str(shape), name, measure.sample(server, plan))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return table


def measure_idle(connections: int) -> dict[str, float]:
    """Return bytes per idle connection for the bare protocol, the core, and the core with its recorder."""
    grown: dict[str, float] = {}
    for name in ("bare", "lane 1", "lane 1 + recorder"):
        with measure.serving(*SERIES[name]) as server:
            plan = Plan(port=server.port, kind="echo", connections=connections, idle=True)
            grown[name] = measure.bytes_per_connection(server, plan)
    return grown


def main() -> int:
    """Measure, print, write, and judge."""
    options = read_options(__doc__ or "")
    table = measure_lanes(options)
    connections = min(IDLE_CONNECTIONS_COUNT, servers.allow_many_files() - _SPARE_FILES_COUNT)
    idle = measure_idle(connections)
    shapes = [str(shape) for shape in SHAPES]
    for shape in shapes:
        print()
        for line in table.lines(shape, "bare"):
            print(line)
    print()
    for name, size in idle.items():
        print(f"{connections} idle connections   {name:20s} {size:7.0f} bytes each")
    gates = [
        measure.Gate(f"{series} at {shape}, times bare", table.ratio(shape, series, "bare"), limit)
        for shape, series, limit in RATIO_GATES
    ]
    gates += [
        measure.Gate(f"bytes per idle connection, {name}", size, IDLE_LIMIT_BYTES)
        for name, size in idle.items()
        if name != "bare"
    ]
    measure.write_results(
        "core",
        {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "shapes": {shape: table.to_json(shape, "bare") for shape in shapes},
            "idle": {"connections": connections, "bytes_each": idle},
        },
        gates,
    )
    plots.draw_ratios(
        measure.RESULTS / "core.png",
        "The core's lanes, CPU per packet (times a bare uvloop protocol)",
        {shape: {name: table.ratio(shape, name, "bare") for name in SERIES} for shape in shapes},
        RATIO_GATES,
    )
    return 1 if options.strict and not all(gate.is_kept for gate in gates) else 0


if __name__ == "__main__":
    sys.exit(main())
