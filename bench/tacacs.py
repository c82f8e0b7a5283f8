"""What a TACACS+ exchange costs: our daemon against a bare uvloop protocol with packets of the same size.

The daemon runs with policy, JSON log and flight recorder, as in production. Run from the repository root:
``python bench/tacacs.py [--quick] [--strict]``; see ``bench/README.md``.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Final

import measure
import plots
from load import Kind, Plan
from options import Options, read_options

KINDS: Final[dict[Kind, str]] = {"pap": "PAP", "ascii": "ASCII", "command": "command authorization"}
SHAPES: Final = (
    measure.Shape(1, 1),
    measure.Shape(1, 16),
    measure.Shape(50, 1),
    measure.Shape(50, 1, reconnects=True),
)
GATE_SHAPE: Final = "50x1"
RATIO_GATES: Final[dict[Kind, float]] = {"pap": 2.3, "command": 2.3}
PACKETS_COUNT: Final[dict[Kind, int]] = {"pap": 1, "ascii": 2, "command": 1}
"""Packets of the client in one exchange."""


def place(kind: Kind, shape: measure.Shape) -> str:
    """Return the name of what is measured, for tables and plots."""
    return f"{KINDS[kind]} {shape}"


def measure_exchanges(options: Options) -> measure.Table:
    """Measure every kind of exchange in every shape, in interleaved rounds."""
    table = measure.Table()
    for number in range(options.rounds):
        with (
            tempfile.TemporaryDirectory(prefix="sojourn-bench-") as folder,
            measure.serving("bare.py") as bare,
            measure.serving("daemon.py", folder) as daemon,
        ):
            for kind in KINDS:
                for shape in SHAPES:
                    for name, server, sent in (("bare", bare, "echo"), ("sojourn", daemon, kind)):
                        plan = Plan(
                            port=server.port,
                            kind="echo" if sent == "echo" else kind,
                            like=kind,
                            connections=shape.connections,
                            depth=shape.depth,
                            seconds=options.seconds,
                            reconnects=shape.reconnects,
                        )
                        table.add(place(kind, shape), name, measure.sample(server, plan))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return table


def main() -> int:
    """Measure, print, write, and judge."""
    options = read_options(__doc__ or "")
    table = measure_exchanges(options)
    places: list[str] = []
    for kind, words in KINDS.items():
        print(f"\n{words}: {PACKETS_COUNT[kind]} packet(s) of the client in one exchange; CPU per packet")
        for shape in SHAPES:
            places.append(place(kind, shape))
            for line in table.lines(places[-1], "bare"):
                print(line)
    gates = [
        measure.Gate(
            f"{KINDS[kind]} at {GATE_SHAPE}, times bare",
            table.ratio(f"{KINDS[kind]} {GATE_SHAPE}", "sojourn", "bare"),
            limit,
        )
        for kind, limit in RATIO_GATES.items()
    ]
    measure.write_results(
        "tacacs",
        {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "packets_per_exchange": {KINDS[kind]: count for kind, count in PACKETS_COUNT.items()},
            "shapes": {each: table.to_json(each, "bare") for each in places},
        },
        gates,
    )
    plots.draw_ratios(
        measure.RESULTS / "tacacs.png",
        "TACACS+, CPU per packet (times a bare uvloop protocol)",
        {
            str(shape): {
                words: table.ratio(place(kind, shape), "sojourn", "bare") for kind, words in KINDS.items()
            }
            for shape in SHAPES
        },
        [(GATE_SHAPE, KINDS[kind], limit) for kind, limit in RATIO_GATES.items()],
    )
    return 1 if options.strict and not all(gate.is_kept for gate in gates) else 0


if __name__ == "__main__":
    sys.exit(main())
