"""Snapshots as rows: what is read, what is adopted and what the audit says; servers are in test_session_state."""

from __future__ import annotations

import pytest

from sojourn.gateways.postgres.session_state import SessionState
from sojourn.gateways.postgres.snapshot import (
    SNAPSHOT_SQL,
    Snapshot,
    differences,
    may_say_the_same,
    parse_snapshot,
    says_the_same,
    snapshot_sql,
    vector_of,
)
from sojourn.gateways.postgres.vector import EMPTY, Vector

ROWS = [
    [b"setting", b"work_mem", b"5MB", b"session", b"integer"],
    [b"setting", b"search_path", "größe".encode("latin-1"), b"session", b"string"],
    [b"setting", b"datestyle", b"ISO, MDY", b"default", b"string"],
    [b"setting", b"application_name", b"psql", b"client", b"string"],
    [b"setting", b"transaction_isolation", b"serializable", b"session", b"enum"],
    [b"encoding", b"LATIN1", b"", b"", b""],
    [b"role", b"", b"ana", b"", b""],
    [b"user", b"carl", b"postgres", b"", b""],
    [b"prepared", b"p", b"PREPARE o AS SELECT 1; PREPARE p AS SELECT 2", b"sql", b""],
    [b"prepared", b"s1", b"SELECT 1", b"", b""],
    [b"channel", b"c", b"", b"", b""],
    [b"cursor", b"k", b"BEGIN; DECLARE k CURSOR WITH HOLD FOR SELECT 1; COMMIT", b"", b""],
    [b"advisory", b"2", b"", b"", b""],
    [b"temporary", b"t", b"", b"", b""],
    [b"custom", b"a.b", b"x", b"", b""],
    [b"custom", b"a.none", None, b"", b""],
    [b"a row of something else"],
]


def test_the_rows_become_a_snapshot():
    """Section 6.5, Snapshot; the catalogs keep whole query strings, of which one statement is taken."""
    assert parse_snapshot([ROWS]) == Snapshot(
        settings={"work_mem": "5MB", "search_path": "größe", "datestyle": "ISO, MDY"},
        at_default=frozenset({"datestyle"}),
        startup={"application_name": "psql"},
        custom={"a.b": "x"},
        types={
            "work_mem": "integer",
            "search_path": "string",
            "datestyle": "string",
            "application_name": "string",
        },
        role="ana",
        session_user="carl",
        login_user="postgres",
        prepared={b"p": b"PREPARE p AS SELECT 2"},
        protocol_prepared=frozenset({b"s1"}),
        channels=frozenset({b"c"}),
        cursors={b"k": b"DECLARE k CURSOR WITH HOLD FOR SELECT 1"},
        advisory_locks_count=2,
        temporary=frozenset({b"t"}),
    )
    assert parse_snapshot([]) == Snapshot()


def test_custom_settings_are_asked_for_by_name():
    """Fact 8: placeholder settings are not in pg_settings."""
    assert snapshot_sql() == SNAPSHOT_SQL
    assert b"current_setting('a.b', true)" in snapshot_sql(["a.b"])


def test_a_tracked_value_that_says_the_same_keeps_its_words():
    """Section 6.6: a vector that changed its words only would cost a needless difference."""
    known = Vector.of(
        {
            "work_mem": b"'5MB'",
            "search_path": b'GR, "B c"',
            "role": b'"ana"',
            "application_name": "psql",
            "gone": b"1",
        }
    )
    seen = Snapshot(
        settings={"work_mem": "5MB", "search_path": 'gr, "B c"', "jit": "off"},
        startup={"application_name": "psql"},
        custom={"a.b": ""},
        role="ana",
        session_user="u",
        login_user="u",
    )
    assert vector_of(seen, known) is known.without("gone").with_value("jit", "off")
    other = vector_of(Snapshot(session_user="carl", login_user="u"), Vector.of({"role": b"NONE"}))
    assert other is Vector.of({"role": b"NONE", "session_authorization": "carl"})
    assert vector_of(Snapshot(), Vector.of({"role": b"ana"})) is EMPTY


@pytest.mark.parametrize(
    ("name", "value", "text", "vartype", "surely"),
    [
        ("work_mem", b"65536", "64MB", "integer", False),
        ("jit", b"f", "off", "bool", True),
        ("jit", b"TRUE", "on", "bool", True),
        ("jit", b"1", "off", "bool", False),
        ("synchronous_commit", b"yes", "on", "enum", True),
        ("application_name", b"'a'", "A", "string", False),
        ("search_path", b"'a b', public", '"a b", public', "string", True),
        ("timezone", b"'utc'", "UTC", "string", False),
    ],
)
def test_values_are_compared_as_the_server_spells_them(name, value, text, vartype, surely):
    """The server shows its own spelling; numbers with units cannot be compared by text."""
    assert says_the_same(name, value, text, vartype) is surely


def test_the_audit_says_each_disagreement_in_a_sentence():
    """Section 6.5, audit mode."""
    state = SessionState()
    state.vector = Vector.of({"jit": "off", "work_mem": b"65536", "application_name": b"'x'", "a.b": "1"})
    for tag, statement in (
        (b"LISTEN", b"LISTEN ours"),
        (b"PREPARE", b"PREPARE ours AS SELECT 1"),
        (b"DECLARE CURSOR", b"DECLARE ours CURSOR WITH HOLD FOR SELECT 1"),
        (b"CREATE TABLE", b"CREATE TEMP TABLE ours ()"),
    ):
        state.completed(tag, statement)
    state.ready(73)
    seen = Snapshot(
        settings={"work_mem": "64MB", "application_name": "y", "enable_sort": "off"},
        custom={"a.b": "2"},
        types={"work_mem": "integer"},
        channels=frozenset({b"theirs"}),
        advisory_locks_count=1,
    )
    assert may_say_the_same("work_mem", b"65536", "64MB", "integer")
    assert differences(state, seen) == [
        "setting a.b: the server has another value than the one tracked",
        "setting enable_sort: not tracked, but the session changed it on the server",
        "setting jit: tracked, but the server has its default",
        "prepared statement ours: tracked, but the server has none",
        "channel ours: tracked, but the server has none",
        "channel theirs: on the server, but not tracked",
        "cursor ours: tracked, but the server has none",
        "temporary object ours: tracked, but the server has none",
        "advisory locks: not tracked, but the server holds 1",
    ]
    state.take_snapshot(seen)
    assert differences(state, seen) == []
