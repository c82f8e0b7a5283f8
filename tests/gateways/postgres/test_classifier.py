"""Statements that are known to only read, and the many that are not."""

from __future__ import annotations

import asyncio
import re
import sys

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres import classifier
from sojourn.gateways.postgres.classifier import Classifier, is_available, read_only_functions

WHOLE_CATALOG = """
    SELECT proname::text AS name, bool_and(provolatile IN ('i', 's') AND prokind <> 'p') AS is_reading,
           bool_or(NOT (ARRAY[{internal}]::regtype[] && (proargtypes::oid[]::regtype[] || prorettype::regtype)))
               AS is_callable
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1
"""
INTERNAL = (
    "internal",
    "cstring",
    "trigger",
    "event_trigger",
    "language_handler",
    "fdw_handler",
    "index_am_handler",
    "table_am_handler",
    "tsm_handler",
    "pg_ddl_command",
)
# Stable, and still of one server, connection or transaction; or reading what the parser cannot see.
OF_ONE_SERVER = re.compile(r"pg_|txid_|binary_upgrade_|inet_client_|inet_server_|.*_to_xml|.*_to_xmlschema")
OF_EVERY_SERVER = re.compile(
    r"pg_(typeof|size_pretty|size_bytes|column_size|collation_for|has_role|basetype|lsn|wal_lsn_diff"
    r"|char_to_encoding|encoding_to_char|input_is_valid|input_error_info|get_\w+def|get_expr|get_userbyid"
    r"|get_serial_sequence|get_keywords|get_function_\w+|get_viewdef|\w+_is_visible)"
)


def of_every_server(rows):
    """The rule behind the file: from the rows of WHOLE_CATALOG to names."""
    return {
        row["name"]
        for row in rows
        if row["is_reading"]
        and row["is_callable"]
        and (not OF_ONE_SERVER.match(row["name"]) or OF_EVERY_SERVER.fullmatch(row["name"]))
    }


async def listed_names():
    names, writing = set(), set()
    for version in (16, 18):
        async with PostgresServer(version=version) as server:
            connection = await asyncpg.connect(server.dsn())
            internal = ", ".join(f"'{name}'" for name in INTERNAL)
            rows = await connection.fetch(WHOLE_CATALOG.format(internal=internal))
            await connection.close()
        names |= of_every_server(rows)
        writing |= {row["name"] for row in rows if not row["is_reading"]}
    return sorted(names - writing)


def test_the_list_of_functions_is_what_the_servers_say():
    """``read_only_functions.txt``: immutable or stable in every form, in 16 and 18. To make it anew: run this file."""
    assert asyncio.run(listed_names()) == sorted(read_only_functions())


WRITING_OR_OF_ONE_SESSION = (
    "nextval setval currval lastval set_config pg_advisory_lock pg_notify random lo_get pg_current_xact_id "
    "txid_current pg_sleep pg_backend_pid pg_is_in_recovery ts_rewrite inet_server_addr query_to_xml "
    "pg_my_temp_schema clock_timestamp pg_export_snapshot"
)


@pytest.mark.parametrize("name", WRITING_OR_OF_ONE_SESSION.split())
def test_functions_with_effects_or_of_one_session_are_not_listed(name):
    """Spec section 6.7: volatile functions and those that depend on the connection."""
    assert name not in read_only_functions()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT a, lower(b) FROM t JOIN u USING (id) WHERE a = $1 ORDER BY 1 LIMIT 5;",
        "select count(*), sum(x) over w from app.t window w as (partition by y)",
        "SELECT pg_catalog.upper('a'), current_date, now(), extract(year from d), coalesce(a, b) FROM t",
        "WITH x AS (SELECT * FROM t) SELECT * FROM x UNION ALL SELECT * FROM y",
        "VALUES (1), (2)",
        "TABLE t",
        "SHOW work_mem",
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN (COSTS off, VERBOSE) SELECT * FROM t",
        "SELECT * FROM generate_series(1, 10), unnest(ARRAY[1, 2])",
        "SELECT current_setting('timezone')",
        "/* from the shop */ SELECT 'é' -- end",
        "SELECT a FROM t WHERE b IN (SELECT c FROM u) AND d OPERATOR(pg_catalog.=) 5",
        "SELECT array_agg(x ORDER BY y), json_agg(z), row_number() OVER () FROM t GROUP BY g",
    ],
)
def test_a_statement_that_only_reads_is_known(sql):
    """Spec section 6.7: single SELECT without locking, INTO, volatile or unknown functions."""
    assert Classifier().is_read_only(sql.encode())


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "-- nothing",
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE t",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE",
        "TRUNCATE t",
        "CREATE TABLE t (a int)",
        "COPY t TO STDOUT",
        "BEGIN",
        "SET work_mem = 1",
        "CALL p()",
        "DO $$ BEGIN END $$",
        "LISTEN a",
        "SELECT * INTO u FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM (SELECT * FROM t FOR KEY SHARE) x",
        "SELECT 1 UNION (SELECT a FROM t FOR SHARE)",
        "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
        "WITH d AS (WITH e AS (INSERT INTO t DEFAULT VALUES RETURNING *) TABLE e) SELECT * FROM d",
        "SELECT nextval('s')",
        "SELECT f()",
        "SELECT app.lower('a')",
        "SELECT * FROM t WHERE lower(nextval('s')::text) = 'a'",
        "SELECT * FROM f(1)",
        "SELECT set_config('a.b', 'c', false)",
        "SELECT pg_advisory_lock(1)",
        "SELECT * FROM pg_temp.t",
        "SELECT * FROM pg_locks",
        "SELECT * FROM pg_catalog.pg_settings",
        "SELECT * FROM information_schema.tables",
        "SELECT 1 OPERATOR(app.+) 2",
        "SELECT 1 OPERATOR(app.+) ANY (SELECT 2)",
        "SELECT a FROM t ORDER BY a USING OPERATOR(app.<)",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN (ANALYZE false) SELECT 1",
        "EXPLAIN DELETE FROM t",
        "EXPLAIN SELECT nextval('s')",
        "EXPLAIN CREATE TABLE t AS SELECT 1",
        "SHOW transaction_read_only",
        "SHOW ALL",
        "SELECT current_setting('in_hot_standby')",
        "SELECT current_setting(name) FROM t",
        "SELECT 1\0; DROP TABLE t",
    ],
)
def test_whatever_may_write_or_is_not_understood_is_not_known_to_read(sql):
    """Spec section 6.7: everything else goes to the primary."""
    assert not Classifier().is_read_only(sql.encode())


def test_the_operator_can_allow_functions_of_the_application():
    """``routing.allowed_functions``: a name alone is the name alone, with a schema only with that schema."""
    allowing = Classifier(("total", "App.price"))
    assert allowing.is_read_only(b"SELECT total(1), app.price(2)")
    assert not allowing.is_read_only(b"SELECT price(2)")
    assert not allowing.is_read_only(b"SELECT other.total(1)")


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT " + b"NOT " * 3_000 + b"random()",
        b"SELECT " + b"(" * 9_000,
        b"SELECT 1" + b"+1" * 7_000 + b"+nextval('s')",
        b"SELECT " + b"lower(" * 2_000 + b"nextval('s')" + b")" * 2_000,
        b"SELECT '" + b"x" * 20_000 + b"'",
        b"SELECT '\xff\xfe'",
    ],
)
def test_depth_length_and_foreign_bytes_are_refused_without_an_error(sql):
    """Bad input: never an exception, never a verdict for what was not read whole."""
    assert not Classifier().is_read_only(sql)


@given(st.binary(max_size=200))
def test_any_bytes_get_a_verdict(data):
    """Never raises."""
    assert Classifier().is_read_only(data) in {True, False}


def test_a_verdict_is_remembered_and_the_memory_is_bounded(monkeypatch):
    """At most two generations of CACHED_STATEMENTS_COUNT; what is asked for stays; long texts are not kept."""
    monkeypatch.setattr(classifier, "CACHED_STATEMENTS_COUNT", 8)
    judge = Classifier()
    for number in range(100):
        assert judge.is_read_only(b"SELECT %d" % number)
        assert judge.is_read_only(b"SELECT 'kept'")
    assert len(judge._young) + len(judge._old) <= 16
    judge._parse = None  # from here on only memory can say yes
    assert judge.is_read_only(b"SELECT 'kept'")
    assert not judge.is_read_only(b"SELECT 0")
    before = set(judge._young) | set(judge._old)
    assert not judge.is_read_only(b"SELECT '" + b"x" * 3_000 + b"'")
    assert set(judge._young) | set(judge._old) == before


def test_without_the_parser_nothing_is_known_to_read(monkeypatch):
    """``pglast`` is an extra: the gateway works without, and everything goes to the primary."""
    assert is_available()
    monkeypatch.setitem(sys.modules, "pglast.parser", None)
    assert not Classifier().is_read_only(b"SELECT 1")


if __name__ == "__main__":
    path = classifier.Path(classifier.__file__).with_name(classifier.FUNCTIONS_FILE)
    path.write_text("\n".join([*asyncio.run(listed_names()), ""]), encoding="ascii")
