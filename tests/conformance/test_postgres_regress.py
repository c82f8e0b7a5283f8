"""A schedule of SQL scripts in the manner of pg_regress: what psql prints through the gateway is what it prints directly.

Debian ships the program ``pg_regress`` but not its scripts, so these are our own. Each runs twice directly, in
databases of the same name made anew; what differs there already is nothing of ours. ``SOJOURN_REGRESS_SQL`` may name
the ``sql`` folder of a PostgreSQL source tree, whose scripts are then run in its schedule's order as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from postgres_lab import DIRECT, OURS, SESSION, running_lab

SCRIPTS = {path.stem: path for path in sorted(Path(__file__).with_name("postgres_regress").glob("*.sql"))}
PID = re.compile(r"server process with PID \d+|process \d+")
ADDRESSES = re.compile(r"^psql:<stdin>", re.MULTILINE)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server for the whole module."""
    with running_lab(tmp_path_factory.mktemp("regress")) as running:
        yield running


def printed(lab, target, script, more=()):
    """Run a script in an empty database, and return all that psql says."""
    lab.fresh_database("regression")
    done = target._replace(database="regression").psql(script, *more)
    return PID.sub("PID", f"{done.stdout}\n--- {done.returncode}\n{done.stderr}")


def lines_that_agree(first, second):
    """Return the lines of two direct runs, with None where they do not agree."""
    one, two = first.splitlines(), second.splitlines()
    assert len(one) == len(two), "two direct runs differ in length"
    return [line if line == other else None for line, other in zip(one, two, strict=True)]


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_the_same_as_without_us(lab, name, way):
    """Results, notices, errors and notifications, line by line; also in transaction mode, as session state follows."""
    script = SCRIPTS[name].read_text()
    expected = lines_that_agree(*(printed(lab, lab.target(DIRECT), script) for _ in range(2)))
    through = printed(lab, lab.target(way), script).splitlines()
    # A pid that differs between two direct runs may have another width.
    assert len(through) == len(expected), "\n".join(through[-20:])
    different = [
        (number, line, ours)
        for number, (line, ours) in enumerate(zip(expected, through, strict=True), 1)
        if line is not None and line != ours
    ]
    assert different == []


@pytest.mark.skipif("SOJOURN_REGRESS_SQL" not in os.environ, reason="no source tree of PostgreSQL was named")
def test_postgresql_s_own_scripts_print_the_same(lab):
    """pg_regress in session mode: differs only in what also differs between two direct runs."""
    folder = Path(os.environ["SOJOURN_REGRESS_SQL"])
    schedule = (folder.parent / "parallel_schedule").read_text()
    names = [name for line in schedule.splitlines() if line.startswith("test:") for name in line.split()[1:]]

    def run(target):
        lab.fresh_database("regression")
        place = target._replace(database="regression")
        found = {}
        for name in names:
            script = (folder / f"{name}.sql").read_text(encoding="utf-8", errors="surrogateescape")
            done = place.program("psql", "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-f", str(folder / f"{name}.sql"))
            found[name] = PID.sub("PID", done.stdout + done.stderr) if script else ""
        return found

    first, second = run(lab.target(DIRECT)), run(lab.target(DIRECT))
    through = run(lab.target(SESSION))
    assert [name for name in names if first[name] == second[name] != through[name]] == []
