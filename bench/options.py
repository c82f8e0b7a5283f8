"""The command line that both benchmarks share."""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Options(NamedTuple):
    """How long to measure, and whether a gate that is not kept is an error.

    Units: ``seconds`` of one sample; ``rounds`` of every series.
    """

    rounds: int
    seconds: float
    strict: bool


def read_options(description: str) -> Options:
    """Read the command line; ``--help`` and mistakes end the program."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="three rounds of 0.5 s: a look, not a result")
    parser.add_argument("--rounds", type=int, default=0, help="rounds; 5 without it")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of one sample; 1.5 without it")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a gate is not kept")
    given = parser.parse_args()
    rounds, seconds = (3, 0.5) if given.quick else (5, 1.5)
    return Options(given.rounds or rounds, given.seconds or seconds, given.strict)
