"""Which server a request goes to, and which of several replicas."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import WireError
from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.routing import (
    LsnFloor,
    Mode,
    ReplicaChooser,
    Route,
    Rule,
    choose,
    hint_of,
    parse_lsn,
    role_setting,
    rule_of,
    session_mode,
    transaction_mode,
)


class FakeNode:
    def __init__(
        self, name="a", *, lag_s=0.0, lag_bytes=0, lsn=1000, timeline=1, outstanding=0, latency_s=0.001
    ):
        self.name = name
        self.lag_s = lag_s
        self.lag_bytes = lag_bytes
        self.replay_lsn = lsn
        self.timeline = timeline
        self.outstanding_count = outstanding
        self.latency_ewma_s = latency_s


@pytest.mark.parametrize(
    ("sql", "route"),
    [
        (b"/* sojourn: replica */ SELECT 1", Route.REPLICA),
        (b"/*sojourn:primary*/SELECT 1", Route.PRIMARY),
        (b"  -- sojourn: replica\nSELECT 1", Route.REPLICA),
        (b"--SOJOURN: Primary\r\nSELECT 1", Route.PRIMARY),
        (b"/* from page 7 */\n-- more\n/* sojourn: replica */ SELECT 1", Route.REPLICA),
        (b"/* sojourn: banana */ SELECT 1", None),
        (b"/* sojourn: replica SELECT 1", None),
        (b"-- sojourn: replica and more\nSELECT 1", None),
        (b"SELECT 1 /* sojourn: replica */", None),
        (b"SELECT '/* sojourn: replica */'", None),
        (b"'/* sojourn: replica */'", None),
        (b"/* a */ SELECT 1", None),
        (b"", None),
        (b"/* " + b"x" * 600 + b" */ /* sojourn: replica */ SELECT 1", None),
    ],
)
def test_a_comment_in_front_is_a_hint(sql, route):
    """Spec section 6.7: explicit hint; only a comment, only in front, only the known words."""
    assert hint_of(sql) == route


@given(st.binary(max_size=300))
def test_any_text_has_a_hint_or_none_and_a_mode_or_none(data):
    """Never raises."""
    assert hint_of(data) in {None, Route.PRIMARY, Route.REPLICA}
    assert transaction_mode(data) in {None, Mode.READ_ONLY, Mode.READ_WRITE, Mode.SERIALIZABLE}


@pytest.mark.parametrize(
    ("value", "route"), [("primary", Route.PRIMARY), ("Replica ", Route.REPLICA), ("default", None)]
)
def test_set_sojourn_role_takes_three_words(value, route):
    """``SET sojourn.role TO primary | replica | default``."""
    assert role_setting(value) == route


def test_any_other_word_for_the_role_is_an_error_that_keeps_the_connection():
    """22023, severity ERROR, and what was typed is not repeated."""
    with pytest.raises(Refusal) as caught:
        role_setting("master'")
    assert (caught.value.sqlstate, caught.value.severity) == ("22023", "ERROR")
    assert "master" not in f"{caught.value.message}{caught.value.hint}{caught.value.detail}"


@pytest.mark.parametrize(
    ("sql", "mode"),
    [
        (b"BEGIN", None),
        (b"BEGIN READ ONLY", Mode.READ_ONLY),
        (b"begin work isolation level repeatable read, read only;", Mode.READ_ONLY),
        (b"START TRANSACTION READ WRITE", Mode.READ_WRITE),
        (b"/* a */ START\n TRANSACTION READ\tONLY ; ", Mode.READ_ONLY),
        (b"BEGIN READ ONLY, READ WRITE", Mode.READ_WRITE),
        (b"SET TRANSACTION READ ONLY", Mode.READ_ONLY),
        (b"BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE", Mode.SERIALIZABLE),
        (b"BEGIN ISOLATION LEVEL SERIALIZABLE", Mode.SERIALIZABLE),
        (b"BEGIN /* READ ONLY */", None),
        (b"BEGIN -- READ ONLY", None),
        (b"BEGIN READ ONLY; SELECT 1; COMMIT; DELETE FROM t", None),
        (b"BEGINNING READ ONLY", None),
        (b"SELECT 'BEGIN READ ONLY'", None),
        (b"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", None),
    ],
)
def test_a_transaction_says_whether_it_only_reads(sql, mode):
    """Spec section 6.7: ``BEGIN READ ONLY``; a text of several statements says nothing."""
    assert transaction_mode(sql) == mode


@pytest.mark.parametrize(
    ("read_only", "isolation", "mode"),
    [
        ("on", "read committed", Mode.READ_ONLY),
        ("off", "read committed", None),
        ("", "", None),
        ("on", "serializable", Mode.SERIALIZABLE),
    ],
)
def test_the_settings_of_a_session_speak_for_its_transactions(read_only, isolation, mode):
    """``default_transaction_read_only``; a standby refuses serializable (PostgreSQL section 26.4.5)."""
    assert session_mode(read_only, isolation) == mode


def says(verdict):
    return lambda _sql: verdict


READS = Rule.REPLICA_READS


@pytest.mark.parametrize(
    ("sql", "evidence", "route"),
    [
        (b"/* sojourn: replica */ SELECT 1", {"attached": Route.PRIMARY}, Route.PRIMARY),
        (
            b"/* sojourn: primary */ SELECT 1",
            {"attached": Route.REPLICA, "role": Route.PRIMARY},
            Route.REPLICA,
        ),
        (b"/* sojourn: replica */ SELECT 1", {"role": Route.PRIMARY, "rule": Rule.PRIMARY}, Route.REPLICA),
        (b"SELECT 1", {"role": Route.REPLICA, "rule": Rule.PRIMARY}, Route.REPLICA),
        (b"SELECT 1", {"role": Route.PRIMARY, "rule": Rule.REPLICA}, Route.PRIMARY),
        (b"BEGIN READ WRITE", {"rule": Rule.REPLICA}, Route.REPLICA),
        (b"BEGIN READ ONLY", {"rule": READS}, Route.REPLICA),
        (b"BEGIN READ ONLY", {"rule": Rule.PRIMARY}, Route.PRIMARY),
        (
            b"SELECT f()",
            {"rule": READS, "session": Mode.READ_ONLY, "is_read_only": says(False)},
            Route.REPLICA,
        ),
        (b"BEGIN READ WRITE", {"rule": READS, "session": Mode.READ_ONLY}, Route.PRIMARY),
        (b"BEGIN; SET TRANSACTION READ WRITE; DELETE FROM t", {"rule": READS, "session": 1}, Route.PRIMARY),
        (
            b"SET default_transaction_read_only = off",
            {"rule": READS, "session": Mode.READ_ONLY},
            Route.PRIMARY,
        ),
        (b"BEGIN READ ONLY", {"rule": READS, "session": Mode.SERIALIZABLE}, Route.PRIMARY),
        (
            b"SELECT 1",
            {"rule": READS, "session": Mode.SERIALIZABLE, "is_read_only": says(True)},
            Route.PRIMARY,
        ),
        (b"SELECT 1", {"rule": READS, "is_read_only": says(True)}, Route.REPLICA),
        (b"SELECT 1", {"rule": READS, "is_read_only": says(False)}, Route.PRIMARY),
        (b"SELECT 1", {"rule": READS}, Route.PRIMARY),
        (b"SELECT 1", {"rule": Rule.PRIMARY, "is_read_only": says(True)}, Route.PRIMARY),
        (b"SELECT 1", {}, Route.PRIMARY),
    ],
)
def test_the_first_evidence_wins(sql, evidence, route):
    """Spec section 6.7: held server, hint, rule, mode, classifier; a new installation asks the primary only."""
    assert choose(sql, **evidence) == route


def test_the_user_s_rule_comes_before_that_of_everybody():
    """``users.route`` empty = ``routing.default``."""
    assert rule_of("", "primary") == Rule.PRIMARY
    assert rule_of("replica", "primary") == Rule.REPLICA
    assert rule_of("", "replica_reads") == Rule.REPLICA_READS


def test_a_log_position_is_a_number_and_anything_else_a_wire_error():
    """PostgreSQL section 8.20."""
    assert parse_lsn(b"0/0") == 0
    assert parse_lsn(b"16/B374D848") == 0x16_B374D848
    for wrong in (b"", b"16", b"G/1", b"1/123456789", b"1/2\n", b"-1/2"):
        with pytest.raises(WireError):
            parse_lsn(wrong)


def test_the_floor_of_a_real_primary_is_reached_by_its_replica():
    """``pg_current_wal_insert_lsn()`` and ``pg_last_wal_replay_lsn()`` are read and compared as they come."""

    async def scenario():
        async with PostgresServer(version=16) as primary:
            replica = await primary.replica()
            async with replica:
                writer, reader = await asyncpg.connect(primary.dsn()), await asyncpg.connect(replica.dsn())
                await writer.execute("CREATE TABLE t (a int)")
                floor = LsnFloor()
                floor.advance(
                    parse_lsn((await writer.fetchval("SELECT pg_current_wal_insert_lsn()::text")).encode()), 1
                )
                behind = FakeNode(lsn=floor.lsn - 1)
                assert not floor.is_reached_by(behind)
                while not floor.is_reached_by(behind):
                    replayed = await reader.fetchval("SELECT pg_last_wal_replay_lsn()::text")
                    behind.replay_lsn = parse_lsn(replayed.encode())
                assert await reader.fetchval("SELECT count(*) FROM t") == 0
                await writer.close()
                await reader.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_floor_only_grows_within_a_timeline():
    """Answers may come late; the newer timeline replaces, the older one is not looked at."""
    floor = LsnFloor()
    floor.advance(500, 1)
    floor.advance(400, 1)
    assert (floor.timeline, floor.lsn) == (1, 500)
    floor.advance(300, 2)
    assert (floor.timeline, floor.lsn) == (2, 300)
    floor.advance(900, 1)
    assert (floor.timeline, floor.lsn) == (2, 300)


def test_positions_of_different_timelines_are_never_compared():
    """Spec section 6.7: still check the timeline."""
    floor = LsnFloor()
    assert floor.is_reached_by(FakeNode(lsn=0, timeline=0))
    floor.advance(500, 1)
    assert floor.is_reached_by(FakeNode(lsn=500, timeline=1))
    assert not floor.is_reached_by(FakeNode(lsn=499, timeline=1))
    assert not floor.is_reached_by(FakeNode(lsn=9999, timeline=2))


def test_a_floor_follows_a_promotion_that_kept_the_commit_and_no_other():
    """The new timeline has the client's commit only if it left the old one behind it."""
    kept, lost = LsnFloor(), LsnFloor()
    kept.advance(500, 1)
    lost.advance(700, 1)
    for floor in (kept, lost):
        floor.follow(2, 600)
    assert kept.is_reached_by(FakeNode(lsn=650, timeline=2))
    assert not lost.is_reached_by(FakeNode(lsn=99999, timeline=2))


def test_a_replica_beyond_a_limit_is_not_used():
    """``max_lag_s``, ``max_lag_bytes``; None means the primary; without a limit any lag will do."""
    late, behind, unknown = (
        FakeNode("late", lag_s=9),
        FakeNode("behind", lag_bytes=9),
        FakeNode("unknown", lsn=0),
    )
    assert ReplicaChooser(max_lag_s=5).choose([late, behind]) is behind
    assert ReplicaChooser(max_lag_bytes=5).choose([late, behind]) is late
    assert ReplicaChooser(max_lag_s=5, max_lag_bytes=5).choose([late, behind, unknown]) is None
    assert ReplicaChooser().choose([unknown]) is unknown
    assert ReplicaChooser().choose([]) is None


def test_a_replica_below_the_floor_of_the_client_is_not_used():
    """Read your writes."""
    floor = LsnFloor()
    floor.advance(800, 1)
    old, new = FakeNode("old", lsn=799), FakeNode("new", lsn=800, outstanding=5)
    assert ReplicaChooser().choose([old, new], floor) is new
    assert ReplicaChooser().choose([old], floor) is None


def test_the_least_loaded_is_chosen_and_among_equals_the_fastest():
    """``least_outstanding``."""
    busy, slow, fast = (
        FakeNode("busy", outstanding=3, latency_s=0.0001),
        FakeNode("slow", latency_s=0.01),
        FakeNode("fast", latency_s=0.001),
    )
    chooser = ReplicaChooser()
    assert chooser.choose([busy, slow, fast]) is fast
    assert chooser.choose([busy, slow]) is slow


def test_a_node_with_one_slow_answer_is_asked_again_now_and_then():
    """Otherwise its average could never improve."""
    slow, fast = FakeNode("slow", latency_s=9.0), FakeNode("fast")
    chooser = ReplicaChooser()
    chosen = [chooser.choose([slow, fast]).name for _ in range(64)]
    assert 0 < chosen.count("slow") <= 4


def test_round_robin_takes_them_in_turn():
    """``round_robin``."""
    nodes = [FakeNode(name, outstanding=load) for name, load in (("a", 9), ("b", 0), ("c", 5))]
    chooser = ReplicaChooser("round_robin")
    assert sorted(chooser.choose(nodes).name for _ in range(6)) == list("aabbcc")
