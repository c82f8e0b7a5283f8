"""What is remembered of requests: which, how much, and never a secret."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.gateways.postgres import query_log
from sojourn.gateways.postgres.config import QueryLogSettings
from sojourn.gateways.postgres.query_log import QueryLog, shown


@dataclass
class HandClock:
    now: float = 1000.0

    def __call__(self):
        return self.now


def log(clock=None, **settings):
    return QueryLog(QueryLogSettings(**settings), clock or HandClock())


def record(into, statement=b"SELECT 1", **more):
    facts = {"session_id": "7", "database": "shop", "user": "ana", "duration_s": 0.001, **more}
    into.finished(statement=statement, **facts)


def test_slow_and_failed_requests_are_wanted_and_nothing_else_by_default():
    """``slow_ms``; ``sample_rate`` 0."""
    asked = log(slow_ms=100)
    assert not asked.wants(0.0999, is_failed=False)
    assert asked.wants(0.1, is_failed=False)
    assert asked.wants(0.0, is_failed=True)


def test_zero_switches_off():
    """``slow_ms`` 0: nothing is slow; ``entries_count`` 0: nothing is remembered."""
    assert not log(slow_ms=0).wants(9e9, is_failed=False)
    asked = log(entries_count=0, sample_rate=1.0)
    assert not any(
        [asked.wants(9e9, is_failed=False), asked.wants(0.0, is_failed=True), asked.wants(0, is_failed=False)]
    )


@pytest.mark.parametrize(
    ("rate", "count"), [(0.25, 250), (1.0, 1000), (0.75, 750), (0.0, 0), (0.001953125, 1)]
)
def test_the_sample_is_exactly_the_share(rate, count):
    """``sample_rate``, without chance."""
    asked = log(sample_rate=rate)
    assert sum(asked.wants(0.0, is_failed=False) for _ in range(1000)) == count


def test_each_request_is_in_one_ring_the_newest_in_front():
    """Failed before slow before sampled."""
    kept = log(slow_ms=100)
    record(kept, b"SELECT a", duration_s=5)
    record(
        kept,
        b"SELECT b",
        duration_s=5,
        sqlstate="42P01",
        wait_s=0.5,
        node="db-1",
    )
    record(kept, b"SELECT c")
    record(kept, b"SELECT d")
    seen = kept.snapshot()
    assert [entry.statement for entry in seen.slow] == ["SELECT a"]
    assert [entry.statement for entry in seen.sampled] == ["SELECT d", "SELECT c"]
    (failed,) = seen.failed
    assert (failed.statement, failed.sqlstate, failed.wait_s, failed.node) == (
        "SELECT b",
        "42P01",
        0.5,
        "db-1",
    )
    assert (failed.session_id, failed.database, failed.user, failed.finished_at) == (
        "7",
        "shop",
        "ana",
        1000.0,
    )
    kept.clear()
    assert not any(
        [kept.snapshot().slow, kept.snapshot().failed, kept.snapshot().sampled, kept.snapshot().kinds]
    )


def test_the_rings_are_bounded_and_a_reload_keeps_what_fits():
    """``entries_count``; the oldest gives way."""
    clock = HandClock()
    kept = log(clock, entries_count=3)
    for number in range(10):
        clock.now += 1
        record(kept, b"SELECT c%d" % number)
    assert [entry.statement for entry in kept.snapshot().sampled] == ["SELECT c9", "SELECT c8", "SELECT c7"]
    kept.configure(QueryLogSettings(entries_count=1))
    assert [entry.statement for entry in kept.snapshot().sampled] == ["SELECT c9"]


def test_statements_that_differ_in_literals_only_are_one_kind():
    """Count, total, longest and errors; by database and user; a list is a list, however long."""
    kept = log()
    record(kept, b"SELECT * FROM t WHERE a = 1 AND b IN (1, 2, 3)", duration_s=1)
    record(kept, b"SELECT * FROM t  WHERE a = -- x\n 22 AND b IN ('x','y')", duration_s=3, sqlstate="57014")
    record(kept, b"SELECT * FROM t WHERE a = 3 AND b IN (5,6)", duration_s=2)
    record(kept, b"SELECT * FROM t WHERE a = 3 AND b IN (5,6)", user="ben")
    kinds = kept.snapshot().kinds
    assert [(kind.user, kind.count, kind.total_s, kind.max_s, kind.errors_count) for kind in kinds] == [
        ("ana", 3, 6, 3, 1),
        ("ben", 1, 0.001, 0.001, 0),
    ]
    assert kinds[0].statement == "SELECT * FROM t WHERE a = ? AND b IN (?, ...)"


def test_the_kinds_are_bounded_and_the_longest_unseen_gives_way(monkeypatch):
    """KINDS_COUNT."""
    monkeypatch.setattr(query_log, "KINDS_COUNT", 3)
    kept = log()
    for name in (b"a", b"b", b"c", b"a", b"d"):
        record(kept, b"SELECT " + name)
    assert {kind.statement for kind in kept.snapshot().kinds} == {"SELECT a", "SELECT c", "SELECT d"}


def test_a_snapshot_does_not_change_afterwards():
    """It is a copy."""
    kept = log()
    record(kept)
    seen = kept.snapshot()
    record(kept)
    assert seen.kinds[0].count == 1
    assert len(seen.sampled) == 1


def test_too_many_in_a_second_are_dropped_and_counted():
    """Spec section 6.9: bounded, dropped under pressure."""
    clock = HandClock()
    kept = log(clock)
    for _ in range(query_log.RECORDS_PER_S_COUNT + 20):
        record(kept)
    assert kept.snapshot().dropped_count == 20
    clock.now += 1
    record(kept)
    assert kept.snapshot().dropped_count == 20


def test_only_a_part_of_a_long_statement_is_kept():
    """``statement_bytes``; a literal that was cut is masked all the same."""
    kept = log(statement_bytes=20)
    record(kept, b"SELECT 'a literal that is long', " + b"x" * 10_000)
    assert kept.snapshot().sampled[0].statement == "SELECT ?"


@pytest.mark.parametrize(
    ("statement", "masked"),
    [
        (b"SELECT 1, -1.5e+10, .5, 0x1F, 1_000", "SELECT ?, -?, ?, ?, ?"),
        (b"SELECT 'it''s', E'a\\'b', U&'\\0441', B'01', N'x', x'1F'", "SELECT ?, ?, ?, ?, ?, ?"),
        (b"SELECT $1, $22", "SELECT $1, $22"),
        (b"SELECT $$a 'b' $x$ $$ || $t$ $$ $t$", "SELECT ? || ?"),
        (b'SELECT "Col 1", a1, b$2, t2.c3 FROM t4', 'SELECT "Col 1", a1, b$2, t2.c3 FROM t4'),
        (b"SELECT \"it's\" FROM t WHERE a = 'x'", 'SELECT "it\'s" FROM t WHERE a = ?'),
        (b"SELECT a FROM t WHERE b LIKE'%x\\' AND c = 5", "SELECT a FROM t WHERE b LIKE?"),
        (b"SELECT a /* 'secret' */ , b -- 'it", "SELECT a , b"),
        (b"SELECT 5-3, 8/2, a->>'k', a @> '{}'", "SELECT ?-?, ?/?, a->>?, a @> ?"),
        (b"INSERT INTO t VALUES (1, 'a'), (2, 'b'),\n(3, 'c')", "INSERT INTO t VALUES (?, ...), ..."),
        (b"INSERT INTO t VALUES (1), (2)", "INSERT INTO t VALUES (?), ..."),
        (b"SELECT f( 1,'a' ), ARRAY[1, 2]", "SELECT f(?, ...), ARRAY[?, ...]"),
        (b"SELECT \x1b[31m\x00\x07 a\n\n\tb", "SELECT [? a b"),
        (b"SELECT '\xff' , \xff", "SELECT ? , \ufffd"),
        (b"SELECT 'open", "SELECT ?"),
        (b"SELECT $x$open", "SELECT ?"),
        (b"SELECT 1 /* open", "SELECT ?"),
        (b"", ""),
    ],
)
def test_literals_and_comments_are_masked_and_names_stay(statement, masked):
    """``mask_literals``: on one line, without control characters."""
    assert shown(statement) == masked


SECRETS = [
    b"ALTER ROLE ana PASSWORD 'hunter2'",
    b"alter user ana with encrypted password E'hunter2'",
    b"CREATE ROLE ana LOGIN PASSWORD $$hunter2$$ VALID UNTIL 'infinity'",
    b"ALTER ROLE ana PASSWORD hunter2",
    b'ALTER ROLE ana PASSWORD "hunter2"',
    b"CREATE USER ana IDENTIFIED BY hunter2",
    b"ALTER ROLE ana PASSWORD 'hunter2",
    b"ALTER ROLE ana PASSWORD U&'hunter2'",
    b"/* new password */ ALTER ROLE ana /* hunter2 */ PASSWORD /* x */ 'hunter2'",
    b"SELECT 1; ALTER ROLE ana PASSWORD 'hunter2'; SELECT 2",
    b"CREATE USER MAPPING FOR ana SERVER s OPTIONS (user 'ana', password 'hunter2')",
    b"CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2' PUBLICATION p",
    b"SELECT dblink_connect('c', 'host=h password=hunter2')",
    b"SELECT * FROM users WHERE name = 'ana' AND password = 'hunter2'",
    b"INSERT INTO users (name, passwd) VALUES ('ana', 'hunter2')",
    b"SELECT crypt('hunter2', gen_salt('bf'))",
    b"SELECT pgp_sym_decrypt(a, 'hunter2'), decrypt(b, 'k', 'aes') FROM t",
    b"SET app.api_key = 'hunter2'",
    b"SELECT set_config('app.token', 'hunter2', false)",
    b"COPY t FROM PROGRAM 'curl https://ana:hunter2@example.net/'",
    b"SELECT 'https://ana:hunter2",
]


@pytest.mark.parametrize("statement", SECRETS, ids=lambda statement: statement[:40].decode())
@pytest.mark.parametrize("is_masking", [True, False])
def test_a_secret_is_masked_in_every_mode(statement, is_masking):
    """``mask_literals`` False shows literals, and never passwords; wherever the text was cut."""
    assert "hunter2" not in shown(statement, is_masking=is_masking)
    start = statement.index(b"hunter2")
    for end in range(start + 3, len(statement) + 1):
        assert "hun" not in shown(statement[:end], is_masking=is_masking)


def test_without_masking_other_literals_are_shown():
    """``mask_literals`` False; the kinds are masked all the same."""
    kept = log(mask_literals=False)
    record(kept, b"SELECT 'a',\n 5 -- why")
    assert kept.snapshot().sampled[0].statement == "SELECT 'a', 5 -- why"
    assert kept.snapshot().kinds[0].statement == "SELECT ?, ?"


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_can_be_shown(data, is_masking):
    """Never raises; one printable line."""
    text = shown(data, is_masking=is_masking)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text)


@given(st.text(alphabet="ab'\\\"$ ,;-/*E0", max_size=30))
def test_a_quoted_literal_is_masked_whatever_stands_in_it(inner):
    """A literal quoted as the server quotes it never leaves a trace, and what follows a plain one is kept."""
    literal = b"'SECRET" + inner.replace("'", "''").encode() + b"'"
    assert "ECRET" not in shown(b"SELECT a, " + literal + b" FROM t")
    if "\\" not in inner:
        assert shown(b"SELECT a, " + literal + b" FROM t") == "SELECT a, ? FROM t"
