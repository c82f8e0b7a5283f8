"""One run of pgbench and what it reports; and the tables that it works on.

Knows nothing of proxies: it is given an address.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import proxies

_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_RATE = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_PAST_END_S = 60.0


class Run(NamedTuple):
    """What a run reported."""

    transactions_count: int
    transactions_per_s: float


def program() -> str:
    """Return Debian's pgbench, or any other that is on the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), reverse=True)
    found = str(installed[0]) if installed else shutil.which("pgbench")
    assert found, "pgbench is not installed (Debian's package is postgresql-contrib)"
    return found


def _called(port: int, database: str, arguments: Sequence[str], *, tls: bool) -> list[str]:
    mode = "require" if tls else "disable"
    address = (
        f"host=127.0.0.1 port={port} user={proxies.USER} dbname={database} sslmode={mode} gssencmode=disable"
    )
    return [program(), *arguments, address]


def make_tables(port: int, scale: int) -> None:
    """Fill the database with pgbench's tables."""
    arguments = ("--initialize", "--quiet", f"--scale={scale}")
    subprocess.run(_called(port, proxies.DATABASE, arguments, tls=False), check=True, capture_output=True)


def run(
    port: int,
    database: str,
    arguments: Sequence[str],
    *,
    clients: int,
    seconds: float,
    tls: bool = False,
    core: int | None = None,
) -> Run:
    """Run it and read its report; stop if a transaction failed or a client was lost.

    Args:
        arguments: what is run and how: ``--select-only``, ``--protocol=prepared``, ``--file=...``.
        seconds: whole seconds are all that pgbench knows; at least one.
        core: keep it there.
    """
    how = (f"--client={clients}", "--jobs=1", "--no-vacuum", f"--time={max(1, round(seconds))}", *arguments)
    process = subprocess.Popen(
        _called(port, database, how, tls=tls),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
    )
    if core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, {core})
    output, errors = process.communicate(timeout=seconds + _PAST_END_S)
    assert process.returncode == 0, f"pgbench ended with {process.returncode}: {errors[-2000:]}"
    processed, failed, rate = _PROCESSED.search(output), _FAILED.search(output), _RATE.search(output)
    assert processed is not None, output
    assert rate is not None, output
    assert failed is None or failed[1] == "0", output
    return Run(int(processed[1]), float(rate[1]))
