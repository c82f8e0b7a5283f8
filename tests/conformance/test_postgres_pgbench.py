"""pgbench through the gateway: no error, and its own books balance: every branch is the sum of its tellers."""

from __future__ import annotations

import re

import pytest
from postgres_lab import OURS, running_lab

TRANSACTIONS_COUNT = 40
CLIENTS_COUNT = 8
SUMS = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
       (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history),
       (SELECT count(*) FROM pgbench_history)
"""
MIXED = """\\set aid random(1, 1000)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid FOR UPDATE \\gset
\\startpipeline
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1;
UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, 1, now());
\\endpipeline
END;
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server with pgbench's tables for the whole module."""
    with running_lab(tmp_path_factory.mktemp("pgbench")) as running:
        done = running.direct.program("pgbench", "--initialize", "--quiet", "--scale=2")
        assert done.returncode == 0, done.stderr
        yield running


def balanced(lab, more):
    """Assert that the books balance and that the history has grown by this much; return nothing."""
    *sums, count = lab.direct.value(SUMS).split("|")
    assert len(set(sums)) == 1, sums
    assert int(count) == more


@pytest.fixture
def books(lab):
    """Begin with an empty history and all balances at zero."""
    lab.direct.psql(
        "TRUNCATE pgbench_history; UPDATE pgbench_accounts SET abalance = 0 WHERE abalance <> 0;"
        "UPDATE pgbench_tellers SET tbalance = 0; UPDATE pgbench_branches SET bbalance = 0;"
    )


def reported(done):
    """Return how many transactions were done; none may have failed and nothing may be said."""
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    assert failed is None or failed[1] == "0", done.stdout
    found = re.search(r"number of transactions actually processed: (\d+)", done.stdout)
    assert found is not None, done.stdout
    return int(found[1])


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("connect", [(), ("--connect",)], ids=["kept", "reconnecting"])
def test_tpc_b_loses_and_doubles_nothing(lab, way, protocol, connect):
    """TPC-B of eight clients, in each protocol, with connections that stay and with one for each transaction."""
    each = TRANSACTIONS_COUNT // (4 if connect else 1)
    done = lab.target(way).program(
        "pgbench",
        f"--client={CLIENTS_COUNT}",
        "--jobs=2",
        f"--transactions={each}",
        f"--protocol={protocol}",
        "--no-vacuum",
        *connect,
    )
    assert reported(done) == CLIENTS_COUNT * each
    balanced(lab, CLIENTS_COUNT * each)


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("way", OURS)
@pytest.mark.parametrize("protocol", ["extended", "prepared"])
def test_pipelines_in_transactions_lose_and_double_nothing(lab, tmp_path, way, protocol):
    """A script with a pipeline inside a transaction that has read before."""
    script = tmp_path / "mixed.sql"
    script.write_text(MIXED)
    done = lab.target(way).program(
        "pgbench",
        f"--client={CLIENTS_COUNT}",
        f"--transactions={TRANSACTIONS_COUNT}",
        f"--protocol={protocol}",
        "--no-vacuum",
        f"--file={script}",
    )
    assert reported(done) == CLIENTS_COUNT * TRANSACTIONS_COUNT
    balanced(lab, CLIENTS_COUNT * TRANSACTIONS_COUNT)


@pytest.mark.parametrize("way", OURS)
def test_tables_can_be_made_through_us(lab, way):
    """Initialisation uses DDL, COPY FREEZE from the client, VACUUM and, server-side, one big INSERT."""
    for steps in ("dtgvp", "dtGvpf"):
        lab.fresh_database("made")
        target = lab.target(way)._replace(database="made")
        done = target.program("pgbench", "--initialize", "--quiet", "--scale=1", f"--init-steps={steps}")
        assert done.returncode == 0, done.stderr
        assert target.value("SELECT count(*), sum(abalance) FROM pgbench_accounts") == "100000|0"


@pytest.mark.parametrize("way", OURS)
def test_many_more_clients_than_servers_all_get_their_turn(lab, way):
    """A hundred clients, each of whom must finish; in session mode at most as many as there are servers."""
    clients = 100 if way == "ours-transaction" else 40
    done = lab.target(way).program(
        "pgbench",
        f"--client={clients}",
        "--jobs=2",
        "--transactions=20",
        "--select-only",
        "--protocol=prepared",
        "--no-vacuum",
    )
    assert reported(done) == clients * 20
