"""What became of a COMMIT: judged on paper, and by real servers that crash and are promoted."""

from __future__ import annotations

import asyncpg
import pytest

from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import WireError
from sojourn.gateways.postgres.nodes import Evidence, Node
from sojourn.gateways.postgres.outcome import (
    ABORTED,
    COMMITTED,
    IN_PROGRESS,
    OUTCOME_PROBE_SQL,
    UNKNOWN,
    ArmedCommit,
    armed_commit,
    decide,
    history_sql,
    outcome_sql,
    promoted_position,
    switch_position,
)

ARMED = ArmedCommit(xid=731, lsn=0x2000, timeline=1)


async def ask(connection, sql):
    """Ask as the gateway does, rows as the server writes them."""
    for name in ("pg_lsn", "xid8"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str, format="text")
    rows = await connection.fetch(sql)
    return [[None if value is None else str(value).encode() for value in row] for row in rows]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"committed", COMMITTED),
        (b"aborted", ABORTED),
        (b"in progress", IN_PROGRESS),
        (None, UNKNOWN),
        (b"something new", UNKNOWN),
        (b"\xff", UNKNOWN),
    ],
)
@pytest.mark.parametrize(("timeline", "switch"), [(1, 0), (2, 0x2000), (5, 0x9000)])
def test_the_servers_word_counts_on_the_same_timeline_or_past_the_switch(answer, verdict, timeline, switch):
    """Specification 3.3 point 3: a server that no longer knows an old id answers NULL."""
    assert decide([[answer]], armed=ARMED, new_timeline=timeline, switch_lsn=switch) == verdict


@pytest.mark.parametrize(("timeline", "switch"), [(2, 0x1FFF), (2, 0x1000), (2, 0)])
def test_a_timeline_that_left_before_the_transaction_was_seen_knows_nothing_of_it(timeline, switch):
    """Specification 3.3 point 3: the id may have been given to another transaction there."""
    assert decide([[b"committed"]], armed=ARMED, new_timeline=timeline, switch_lsn=switch) == UNKNOWN


def test_a_server_on_an_older_timeline_is_not_believed():
    """Only a primary with the newest timeline is asked; anything else is a mistake."""
    armed = ARMED._replace(timeline=3)
    assert decide([[b"committed"]], armed=armed, new_timeline=2, switch_lsn=0x9000) == UNKNOWN


@pytest.mark.parametrize("rows", [[], [[]], [[b"committed"], [b"committed"]], [[b"committed", b"aborted"]]])
def test_an_error_or_another_answer_decides_nothing(rows):
    """22023: the id is in that server's future."""
    assert decide(rows, armed=ARMED, new_timeline=1, switch_lsn=0) == UNKNOWN


def test_a_transaction_that_wrote_nothing_has_lost_nothing():
    """Without an id there is nothing to commit."""
    armed = armed_commit([[None, b"0/2000", b"00000001"]])
    assert armed == ArmedCommit(0, 0x2000, 1)
    assert decide([], armed=armed, new_timeline=2, switch_lsn=0) == COMMITTED


def test_a_server_in_recovery_arms_nothing():
    """On a replica the probe answers NULLs instead of failing the transaction."""
    assert armed_commit([[None, None, None]]) is None


@pytest.mark.parametrize(
    "rows", [[], [[b"1"]], [[b"x", b"0/1", b"1"]], [[b"1", b"x", b"1"]], [[b"1", b"0/1", b"x"]]]
)
def test_another_answer_to_the_probe_is_an_error(rows):
    """Bad input from a server."""
    with pytest.raises(WireError):
        armed_commit(rows)


def test_the_switch_is_read_from_the_history_of_the_new_timeline():
    """PostgreSQL section 26.3.6: one line per ancestor."""
    history = "# comment\n1\t0/3000\tno recovery target specified\n\n2\t1/4000\tbefore x\n12\tbad\tworse\n"
    assert switch_position(history, 1) == 0x3000
    assert switch_position(history, 2) == 0x1_0000_4000
    assert switch_position(history, 3) == 0
    assert switch_position(history, 12) == 0
    assert switch_position("", 1) == 0


def test_what_the_monitor_saw_of_the_replica_is_a_lower_bound():
    """It needs no rights; it holds for the timeline that the replica followed, and no other."""
    node = Node("two", "")
    node.note(Evidence(True, 1, 0x5000, 7, 1.0, replay_lsn=0x4000))
    assert (promoted_position(node, 1), promoted_position(node, 2)) == (0x4000, 0)


@pytest.mark.parametrize("version", [16, 18])
def test_a_promoted_replica_tells_committed_from_aborted_and_unknown_ids(run, version):
    """Specification 3.3 point 3, with everything in the order of a crash."""

    async def scenario():
        async with PostgresServer(version=version) as primary:
            replica = await primary.replica()
            try:
                done, open_, late, other = [await asyncpg.connect(primary.dsn()) for _ in range(4)]
                await other.execute("CREATE TABLE rows (n int)")
                armed = []
                for connection in (done, open_):
                    await connection.execute("BEGIN; INSERT INTO rows VALUES (1)")
                    armed.append(armed_commit(await ask(connection, OUTCOME_PROBE_SQL)))
                rows = await ask(other, outcome_sql(armed[1].xid))
                assert decide(rows, armed=armed[1], new_timeline=1, switch_lsn=0) == IN_PROGRESS
                await done.execute("COMMIT")
                await other.execute("INSERT INTO rows VALUES (2)")
                await replica.catch_up()
                reader = await asyncpg.connect(replica.dsn())
                assert armed_commit(await ask(reader, OUTCOME_PROBE_SQL)) is None
                await reader.execute("ALTER SYSTEM SET primary_conninfo = ''")
                await reader.execute("SELECT pg_reload_conf()")
                while await reader.fetchval("SELECT count(*) FROM pg_stat_wal_receiver"):
                    await reader.execute("SELECT pg_sleep(0.01)")
                await late.execute("BEGIN; INSERT INTO rows VALUES (3)")
                armed.append(armed_commit(await ask(late, OUTCOME_PROBE_SQL)))
                await late.execute("COMMIT")
                await primary.crash()
                await replica.promote()
                # The new primary gives the id of the transaction that it never saw to another one.
                while await reader.fetchval("SELECT pg_current_xact_id()::text::int8") < armed[2].xid:
                    pass
                ((history,),) = await ask(reader, history_sql(2))
                switch = switch_position(history.decode(), 1)
                verdicts = []
                for one in armed:
                    rows = await ask(reader, outcome_sql(one.xid))
                    assert rows[0][0] in (b"committed", b"aborted")
                    verdicts.append(decide(rows, armed=one, new_timeline=2, switch_lsn=switch))
                assert verdicts == [COMMITTED, ABORTED, UNKNOWN]
                with pytest.raises(asyncpg.InvalidParameterValueError):  # SQLSTATE 22023
                    await ask(reader, outcome_sql(10**9))
                await reader.close()
                for connection in (done, open_, late, other):
                    connection.terminate()
            finally:
                await replica.stop()

    run(scenario())


def test_a_primary_that_crashed_and_came_back_knows_what_it_had_decided(run):
    """Same timeline: pg_xact_status is right as it is."""

    async def scenario():
        async with PostgresServer(version=18) as primary:
            done, open_ = [await asyncpg.connect(primary.dsn()) for _ in range(2)]
            await done.execute("CREATE TABLE rows (n int)")
            armed = []
            for connection in (done, open_):
                await connection.execute("BEGIN; INSERT INTO rows VALUES (1)")
                armed.append(armed_commit(await ask(connection, OUTCOME_PROBE_SQL)))
            await done.execute("COMMIT")
            await primary.crash()
            await primary.start()
            reader = await asyncpg.connect(primary.dsn())
            verdicts = [
                decide(await ask(reader, outcome_sql(one.xid)), armed=one, new_timeline=1, switch_lsn=0)
                for one in armed
            ]
            assert verdicts == [COMMITTED, ABORTED]
            assert await reader.fetchval("SELECT count(*) FROM rows") == 1
            await reader.close()
            for connection in (done, open_):
                connection.terminate()

    run(scenario())


def test_a_commit_whose_record_lies_behind_the_known_end_of_its_timeline_is_aborted():
    """Section 3.3 point 3: COMMIT's record is behind the probe's position; a timeline left before that lacks it."""
    armed = ARMED._replace(lsn=100)
    assert decide([], armed=armed, new_timeline=2, switch_lsn=99, is_switch_exact=True) == ABORTED
    assert decide([], armed=armed, new_timeline=2, switch_lsn=99) == UNKNOWN
    assert decide([], armed=armed, new_timeline=2, switch_lsn=0, is_switch_exact=True) == UNKNOWN
