"""psql, as people use it: its own commands, its exit codes and its Ctrl-C, through the gateway as without it."""

from __future__ import annotations

import re
import signal
import subprocess
import time

import pytest
from postgres_lab import DIRECT, OURS, SESSION, TRANSACTION, running_lab

TABLES = """
CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, price numeric(10, 2), at timestamptz DEFAULT now());
CREATE INDEX item_name ON item (name);
INSERT INTO item (id, name, price) SELECT n, 'item ' || n, n * 1.5 FROM generate_series(1, 300) n;
CREATE VIEW cheap AS SELECT id, name FROM item WHERE price < 10;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE SCHEMA other;
"""

SCRIPTS = {
    "results": "SELECT 1 AS one, NULL AS nothing, 'ä€😀' AS text; SELECT * FROM item ORDER BY id LIMIT 3 \\gx",
    "describe": "\\d item\n\\dv\n\\df twice\n\\dn\n\\sf twice\n\\dt+ pg_catalog.pg_am\n",
    "variables": "SELECT id AS found, name FROM item WHERE id = 7 \\gset\n\\echo :found :name\n"
    "SELECT :'name' || '!', :found + 1;\n\\if :found\n\\echo yes\n\\else\n\\echo no\n\\endif\n",
    "formats": "\\pset format csv\nSELECT id, name FROM item ORDER BY id LIMIT 2;\n\\pset format html\nSELECT 1;\n"
    "\\pset format unaligned\n\\t\nSELECT 1, 2;\n",
    "gexec": "SELECT 'SELECT ' || n FROM generate_series(1, 4) n \\gexec\n",
    "gdesc": "SELECT id, name, price FROM item \\gdesc\n",
    "crosstab": "SELECT n % 2, n % 3, count(*) FROM generate_series(1, 60) n GROUP BY 1, 2 ORDER BY 1, 2 "
    "\\crosstabview\n",
    "copy out": "\\copy (SELECT id, name FROM item ORDER BY id LIMIT 5) TO STDOUT\n"
    "COPY (SELECT id FROM item ORDER BY 1 LIMIT 3) TO STDOUT WITH (FORMAT csv, HEADER);\n",
    "copy in": "CREATE TEMP TABLE t (a int, b text);\n"
    "\\copy t FROM STDIN\n1\tone\n2\ttwo\n\\.\nSELECT * FROM t ORDER BY a;\n"
    "COPY t FROM STDIN;\nx\tbad\n\\.\nSELECT count(*) FROM t;\n",
    "cursor": "\\set FETCH_COUNT 100\nSELECT id FROM item ORDER BY id;\n",
    "errors": "SELECT 1/0;\nSELECT * FROM missing;\n\\errverbose\nSELECT 2;\nSELEC 3;\n",
    "error in the middle": "SELECT 1\\; SELECT 1/0\\; SELECT 3;\nSELECT 'next';\n",
    "several results": "SELECT 1\\; SELECT 2\\; SELECT 3;\n",
    "transactions": "BEGIN;\nINSERT INTO item VALUES (1000, 'new');\nROLLBACK;\nSELECT count(*) FROM item;\n"
    "\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1/0;\nSELECT 'still here';\nCOMMIT;\n",
    "aborted": "BEGIN;\nSELECT 1/0;\nSELECT 1;\nCOMMIT;\nSELECT 'after';\n",
    "notices": "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$;\nDROP TABLE IF EXISTS never_was;\n",
    "bind": "SELECT $1 || '-' || $2 \\bind 'a' 'b' \\g\nSELECT $1::int + 1 \\bind 41 \\g\nSELECT $1 \\bind \\g\n",
    "parse": "SELECT $1::int * 2 \\parse doubled\n\\bind_named doubled 21 \\g\n\\bind_named doubled 4 \\g\n"
    "\\close_prepared doubled\n\\bind_named doubled 4 \\g\n",
    "pipeline": "\\startpipeline\nSELECT $1 \\bind 1 \\sendpipeline\n"
    "SELECT $1 \\bind 2 \\sendpipeline\n\\endpipeline\n",
    "pipeline error": "\\startpipeline\nSELECT 1/0 \\bind \\sendpipeline\nSELECT $1 \\bind 2 \\sendpipeline\n"
    "\\syncpipeline\nSELECT $1 \\bind 3 \\sendpipeline\n\\endpipeline\nSELECT 'after';\n",
    "settings": "SET search_path TO other, public;\nSHOW search_path;\nSET statement_timeout = '5s';\n"
    "SHOW statement_timeout;\nRESET ALL;\nSHOW statement_timeout;\nBEGIN;SET LOCAL work_mem = '8MB';SHOW work_mem;"
    "COMMIT;SHOW work_mem;\n",
    "prepare": "PREPARE p(int) AS SELECT $1 + 1;\nEXECUTE p(1);\nEXECUTE p(2);\nDEALLOCATE p;\nEXECUTE p(3);\n",
    "listen": "LISTEN news;\nNOTIFY news, 'hello';\nSELECT 1;\nUNLISTEN news;\n",
    "hold": "BEGIN;\nDECLARE c CURSOR WITH HOLD FOR SELECT id FROM item ORDER BY id;\nCOMMIT;\nFETCH 2 FROM c;\n"
    "FETCH 2 FROM c;\nCLOSE c;\n",
    "temporary": "CREATE TEMP TABLE mine (a int);\nINSERT INTO mine VALUES (1), (2);\nSELECT sum(a) FROM mine;\n",
    "locks": "SELECT pg_advisory_lock(42);\nSELECT pg_try_advisory_lock(42);\nSELECT pg_advisory_unlock(42);\n"
    "SELECT pg_advisory_unlock(42);\nSELECT pg_advisory_unlock(42);\n",
    "large object": "BEGIN;\nSELECT lo_from_bytea(777, 'abc');\nSELECT lo_get(777);\nSELECT lo_unlink(777);\nCOMMIT;\n",
    "connect": "\\c - - - -\nSELECT current_database(), current_user;\n",
    "encoding": "\\encoding LATIN1\nSELECT 'abc';\nSHOW client_encoding;\n\\encoding UTF8\nSHOW client_encoding;\n",
    "empty": ";\n\n-- only a comment\n;\nSELECT;\n",
    "big": "SELECT repeat('x', 300000) IS NOT NULL, length(repeat('y', 5000000));\nSELECT repeat('z', 200000);\n",
}

HIDDEN = (
    (re.compile(r'(server|port "|Server Port +\| |port )"?\d{4,5}"?'), r"\1 PORT"),
    (re.compile(r"Backend PID +\| \d+"), "Backend PID"),
    (re.compile(r"backend with PID \d+|server process with PID \d+"), "PID"),
)
"""What differs between two direct runs too."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server with a few tables for the whole module."""
    with running_lab(tmp_path_factory.mktemp("psql")) as running:
        done = running.direct.psql(TABLES, "--set=ON_ERROR_STOP=1")
        assert done.returncode == 0, done.stderr
        yield running


def told(done):
    """Return everything that a user sees, without what differs anyway."""
    text = f"exit {done.returncode}\n--- output\n{done.stdout}\n--- errors\n{done.stderr}"
    for pattern, instead in HIDDEN:
        text = pattern.sub(instead, text)
    return text


@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_the_same_as_without_us(lab, name, way):
    """Output, errors, notices and exit code, byte for byte; in transaction mode too, as session state follows."""
    expected = told(lab.target(DIRECT).psql(SCRIPTS[name]))
    assert told(lab.target(way).psql(SCRIPTS[name])) == expected


@pytest.mark.parametrize("way", OURS)
def test_a_script_stops_at_its_first_error_with_the_same_code(lab, way):
    """ON_ERROR_STOP ends with 3; a refused login with 2."""
    script = "SELECT 1; SELECT 1/0; SELECT 2;"
    for arguments in (("--set=ON_ERROR_STOP=1",), ("--single-transaction", "--set=ON_ERROR_STOP=1")):
        direct = lab.target(DIRECT).psql(script, *arguments)
        through = lab.target(way).psql(script, *arguments)
        assert direct.returncode == 3
        assert told(through) == told(direct)


@pytest.mark.parametrize("way", OURS)
def test_a_wrong_password_and_a_missing_database_are_refused_as_by_the_server(lab, way):
    """PostgreSQL's own SQLSTATE and words; psql ends with 2."""
    target = lab.target(way)
    for changed, words in (
        ({"PGPASSWORD": "wrong"}, "password authentication failed"),
        ({"PGDATABASE": "nowhere"}, 'database "nowhere" does not exist'),
    ):
        done = subprocess.run(
            [str(target.programs / "psql"), "--no-psqlrc", "--command=SELECT 1"],
            check=False,
            capture_output=True,
            text=True,
            env=target.environment(**changed),
            timeout=30,
        )
        assert done.returncode == 2
        assert words in done.stderr


def interrupted(lab, target):
    """Have psql sleep in the server, send it a Ctrl-C, and return all that it said and its exit code."""
    name = f"cancelled-{target.name}"
    with subprocess.Popen(
        [str(target.programs / "psql"), "--no-psqlrc", "--no-align", "--tuples-only"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=target.environment(PGAPPNAME=name),
    ) as psql:
        assert psql.stdin is not None
        psql.stdin.write("SELECT pg_sleep(60);\n")
        psql.stdin.flush()
        asleep = (
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
            " AND state = 'active' AND wait_event = 'PgSleep'"
        )
        until = time.monotonic() + 20
        while lab.direct.value(asleep) != "1":
            assert time.monotonic() < until, "the statement did not reach the server"
        psql.send_signal(signal.SIGINT)
        output, errors = psql.communicate(timeout=20)
    return output, errors, psql.returncode


@pytest.mark.parametrize("way", OURS)
def test_ctrl_c_cancels_the_statement(lab, way):
    """CancelRequest on a connection of its own finds the server that works for this client."""
    direct = interrupted(lab, lab.target(DIRECT))
    assert "canceling statement due to user request" in direct[1]
    assert interrupted(lab, lab.target(way)) == direct


@pytest.mark.parametrize("way", [SESSION, TRANSACTION])
def test_a_dump_and_its_restore_are_the_same(lab, way):
    """pg_dump reads a whole database in one snapshot, by COPY; pg_restore in one transaction writes it back."""
    arguments = ("--no-sync", "--inserts", "--rows-per-insert=50") if way == SESSION else ("--no-sync",)
    direct = lab.target(DIRECT).program("pg_dump", *arguments)
    through = lab.target(way).program("pg_dump", *arguments)
    assert direct.returncode == 0, direct.stderr
    # pg_dump of newer releases writes a random word on the lines that guard psql.
    guard = re.compile(r"^\\(un)?restrict .*$", re.MULTILINE)
    assert guard.sub("", through.stdout) == guard.sub("", direct.stdout)
    lab.fresh_database("restored")
    restored = lab.target(way)._replace(database="restored")
    done = restored.psql(direct.stdout, "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null")
    assert done.returncode == 0, done.stderr
    assert restored.value("SELECT count(*), sum(price) FROM item") == lab.direct.value(
        "SELECT count(*), sum(price) FROM item"
    )
