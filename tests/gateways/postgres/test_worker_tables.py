"""Rows of several workers as those of one process: keyed rows summed, connections listed, nothing invented."""

from __future__ import annotations

import pytest

from sojourn.gateways.postgres import worker_tables
from sojourn.gateways.postgres.console.incident_rows import FailoverRow, LossRow, NodeRow, PreparedRow
from sojourn.gateways.postgres.console.rows import ClientRow, DatabaseRow, ListRow, MemoryRow, PoolRow
from sojourn.gateways.postgres.console.shows import TABLES
from sojourn.gateways.postgres.worker_numbers import first_number, worker_of
from sojourn.gateways.postgres.worker_tables import RULES, merged, plain, read


@pytest.mark.parametrize("table", RULES)
def test_rules_name_columns_that_are_there(table):
    """A column that is renamed takes its rule with it."""
    rule = RULES[table]
    named = [*rule.by, *rule.summed, *rule.joined, *(name for names in rule.largest for name in names)]
    assert set(named) <= set(rule.row_type.__struct_fields__)
    assert len(named) == len(set(named))


def test_every_table_that_a_show_needs_can_be_gathered():
    """SHOW asks the other workers for the tables of the view that it is made of."""
    assert {name for table in TABLES.values() for name in table.needs} == RULES.keys()


def test_pools_are_summed_by_database_and_user():
    """One row per database and user, as exporters want; the longest wait is one worker's, not a mix of two."""
    rows = merged(
        "pools",
        [
            [PoolRow("shop", "ana", cl_active=2, sv_idle=1, maxwait=1, maxwait_us=5, node="db-1")],
            [
                PoolRow("shop", "ana", cl_active=3, sv_idle=4, maxwait_us=900_000, node="db-1,db-2"),
                PoolRow("shop", "ben"),
            ],
        ],
    )
    assert rows == [
        PoolRow("shop", "ana", cl_active=5, sv_idle=5, maxwait=1, maxwait_us=5, node="db-1,db-2"),
        PoolRow("shop", "ben"),
    ]


@pytest.mark.parametrize(
    ("table", "mine", "theirs", "both"),
    [
        (
            "databases",
            DatabaseRow("shop", pool_size=20, current_connections=2, paused=1),
            DatabaseRow("shop", pool_size=20, current_connections=3, disabled=1),
            DatabaseRow("shop", pool_size=20, current_connections=5, paused=1, disabled=1),
        ),
        ("memory", MemoryRow("client", 64, 2, 0, 128), MemoryRow("client", 0, 1, 0, 64), None),
        ("losses", LossRow("idle", "repeat", 2, 5.0), LossRow("idle", "repeat", 3, 4.0), None),
        ("nodes", NodeRow("main", "db-1", servers=2), NodeRow("main", "db-1", servers=1), None),
        (
            "prepared",
            PreparedRow("shop", "S_1", clients=1, servers=1, statement="SELECT 1"),
            PreparedRow("shop", "S_9", clients=2, servers=0, statement="SELECT 1"),
            PreparedRow("shop", "S_1", clients=3, servers=1, statement="SELECT 1"),
        ),
    ],
)
def test_other_tables_are_summed_where_a_sum_is_meant(table, mine, theirs, both):
    """What is configured is told once, what is counted is added, and the latest or largest counts."""
    known = {
        "memory": MemoryRow("client", 64, 3, 0, 192),
        "losses": LossRow("idle", "repeat", 5, 5.0),
        "nodes": NodeRow("main", "db-1", servers=3),
    }
    assert merged(table, [[mine], [theirs]]) == [both or known[table]]


def test_connections_are_listed_and_incidents_in_the_order_of_time():
    """Ids tell the worker; no two workers give the same."""
    assert [row.id for row in merged("clients", [[ClientRow(id=3)], [ClientRow(id=2)]])] == [3, 2]
    assert [
        row.id
        for row in merged("failovers", [[FailoverRow(2, "main", started=9.0)], [FailoverRow(1, "main")]])
    ] == [1, 2]
    assert [worker_of(first_number(index)) for index in (0, 1, 255)] == [0, 1, 255]
    assert first_number(0) == 1


def test_lists_count_what_several_workers_have_once():
    """A database is one, however many workers know it; clients are as many as there are."""
    tables = {
        "lists": merged(
            "lists",
            [
                [ListRow("pools", 2), ListRow("used_clients", 3)],
                [ListRow("pools", 2), ListRow("used_clients", 4)],
            ],
        ),
        "pools": [PoolRow("shop", "ana"), PoolRow("shop", "ben")],
    }
    worker_tables.count_once(tables)
    assert tables["lists"] == [ListRow("pools", 2), ListRow("used_clients", 7)]


def test_what_another_version_tells_is_left_out():
    """During a rolling upgrade a table may have other columns; a wrong row would be worse than none."""
    assert read("memory", [["client", 1, 2, 3, 4], ["client", 1]]) == [MemoryRow("client", 1, 2, 3, 4)]


def test_names_that_are_not_utf_8_can_be_told():
    """A client may have any bytes for a name; the console shows them replaced in any case."""
    assert plain(PoolRow("sh\udcffop", "ana")).database == "sh\ufffdop"
