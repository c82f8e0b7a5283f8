"""A schedule of SQL scripts in the manner of pg_regress: psql prints through the gateway what it prints directly.

Debian ships the program ``pg_regress`` but not its scripts, so these are our own. Each runs twice directly, in a
database made anew; what differs there already is nothing of ours. In transaction mode other clients use the servers
between the script's transactions. With ``SOJOURN_REGRESS_SQL=/path/to/src/test/regress/sql`` the scripts of a
PostgreSQL source tree are run as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from pathlib import Path

import pytest
from postgres_lab import DIRECT, OURS, SESSION, TRANSACTION, running_lab

pytest.importorskip("psycopg")

import psycopg

SCRIPTS = {path.stem: path for path in sorted(Path(__file__).with_name("postgres_regress").glob("*.sql"))}
SOURCE = os.environ.get("SOJOURN_REGRESS_SQL", "")
PID = re.compile(r"server process with PID \d+|process \d+")
DATABASE = "regression"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server for the whole module."""
    with running_lab(tmp_path_factory.mktemp("regress")) as running:
        yield running


@contextlib.contextmanager
def disturbance(target):
    """Let four other clients take servers at once, again and again, and leave settings of their own on them."""
    clients = [psycopg.connect(target.dsn(), autocommit=True, connect_timeout=10) for _ in range(4)]
    is_over = threading.Event()
    failures = []

    def disturb():
        try:
            for number in itertools.count():
                for client in clients:
                    client.execute("BEGIN")
                for client in clients:
                    client.execute(f"SET search_path TO pg_catalog; SET work_mem = {64 + number % 64}")
                for client in clients:
                    client.execute("COMMIT")
                if is_over.wait(0.005):
                    return
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for client in clients:
            client.close()
    assert failures == []


def printed(lab, way, script):
    """Run a script in an empty database, and return the lines that psql says."""
    lab.fresh_database(DATABASE)
    target = lab.target(way)._replace(database=DATABASE)
    with disturbance(target) if way == TRANSACTION else contextlib.nullcontext():
        done = target.psql(script)
    return PID.sub("PID", f"{done.stdout}\n--- {done.returncode}\n{done.stderr}").splitlines()


@pytest.fixture(scope="module")
def expected(lab):
    """Give a function that returns the lines of two direct runs, with None where they do not agree."""
    known = {}

    def lines_of(name, script):
        if name not in known:
            first, second = printed(lab, DIRECT, script), printed(lab, DIRECT, script)
            assert len(first) == len(second), "two direct runs differ in length"
            known[name] = [one if one == two else None for one, two in zip(first, second, strict=True)]
        return known[name]

    return lines_of


def differing(direct, through):
    """Return number, direct line and our line wherever they differ and two direct runs do not."""
    pairs = enumerate(itertools.zip_longest(direct, through, fillvalue=""), 1)
    return [(number, line, ours) for number, (line, ours) in pairs if line is not None and line != ours]


# The name comes first, so that a script's two ways are near each other and its direct runs are known.
@pytest.mark.parametrize(("name", "way"), list(itertools.product(SCRIPTS, OURS)))
def test_a_script_prints_the_same_as_without_us(lab, expected, name, way):
    """Results, notices, errors and notifications, line by line; also in transaction mode, as session state follows."""
    script = SCRIPTS[name].read_text()
    assert differing(expected(name, script), printed(lab, way, script)) == []


if SOURCE:

    def test_the_scripts_of_postgresql_print_the_same(lab):
        """pg_regress in session mode: differs only in what also differs between two direct runs."""
        folder = Path(SOURCE)
        schedule = (folder.parent / "parallel_schedule").read_text().splitlines()
        names = [name for line in schedule if line.startswith("test:") for name in line.split()[1:]]

        def run(way):
            lab.fresh_database(DATABASE)
            target = lab.target(way)._replace(database=DATABASE)
            found = {}
            for name in names:
                arguments = ("-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-f", str(folder / f"{name}.sql"))
                done = target.program("psql", *arguments)
                found[name] = PID.sub("PID", done.stdout + done.stderr).splitlines()
            return found

        first, second, through = run(DIRECT), run(DIRECT), run(SESSION)
        steady = [name for name in names if first[name] == second[name]]
        assert [name for name in steady if through[name] != first[name]] == []
