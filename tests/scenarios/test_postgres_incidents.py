"""Incidents of a cluster under load and out of the ordinary: many clients, switchover, return, fencing, time limits.

The matrix of single clients is in ``test_postgres_failover``; this is about what many do at once and about the paths
that do not end with a promotion. Real servers and drivers, synchronous replication, a ledger of who wrote what.
Source: specification 3.3 and 6.4; issue 3, "Must show" 3.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg
import pytest
from failover_lab import running_failover_lab
from ledger import KNOWN_LOSSES, Writer, check_ledger, count_acknowledged, make_ledger, until
from psycopg import errors

from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres import incident_tables

MODES = ("session", "transaction")
BUSY_COUNT = 200
READY_TO_ANSWER_S = 2.0


def tell(figures):
    """Print what was measured, for ``pytest -s``."""
    print(figures)  # noqa: T201 - the figures are asked for


@pytest.mark.parametrize("mode", MODES)
def test_two_hundred_busy_clients_lose_and_double_nothing_in_a_failover(run, mode):
    """Issue 3: no committed row lost or doubled, no socket dropped, errors of the documented kinds only."""

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, BUSY_COUNT)
            way = await lab.gateway(mode, size_count=BUSY_COUNT + 5 if mode == "session" else 30)
            writers = [Writer(way, number) for number in range(BUSY_COUNT)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                await count_acknowledged(lab, writers, 2)
                await lab.crash()
                promoted = await lab.promote()
                before = {writer: len(writer.acknowledged) for writer in writers}
                await count_acknowledged(lab, writers, 2)
                stop.set()
            await check_ledger(lab, writers)
            states = sum((writer.states for writer in writers), Counter())
            firsts = [writer.acknowledged_at[before[writer]] - promoted for writer in writers]
            tell(
                f"{mode}: first of {BUSY_COUNT} acknowledged {min(firsts) * 1000:.0f} ms after the promotion, "
                f"last {max(firsts) * 1000:.0f} ms; told {dict(states)}; "
                f"{sum(len(writer.acknowledged) for writer in writers)} rows acknowledged; "
                f"losses {dict(way.gateway.losses)}"
            )
            assert min(firsts) <= READY_TO_ANSWER_S
            assert set(states) <= KNOWN_LOSSES
            assert sum(states.values()) <= BUSY_COUNT
            assert way.told("server.loop_error") == way.told("postgres.server_failed") == []

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_planned_switchover_costs_time_and_nothing_else(run, mode):
    """Specification 3.3 point 6: clients see latency; settings and channels are there afterwards."""
    count = 30

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, count)
            way = await lab.gateway(mode, size_count=count + 5 if mode == "session" else 10)
            listener = await way.connect(autocommit=True)
            await listener.execute("SET work_mem = '7MB'")
            await listener.execute("LISTEN news")
            writers = [Writer(way, number, pause_s=0.005) for number in range(count)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                await count_acknowledged(lab, writers, 5)
                began = asyncio.get_running_loop().time()
                node = await way.room.switchover()
                took_s = asyncio.get_running_loop().time() - began
                old, lab.primary, lab.replica = lab.primary, lab.replica, None
                assert node.name == lab.port_name(lab.primary.port)
                await count_acknowledged(lab, writers, 5)
                stop.set()
            await check_ledger(lab, writers)
            slowest_s = max(writer.slowest_s for writer in writers)
            tell(
                f"{mode}: switchover took {took_s * 1000:.0f} ms, the slowest of all waited {slowest_s * 1000:.0f} ms"
            )
            assert not sum((writer.states for writer in writers), Counter())
            rows = await lab.direct(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%ledger%'", server=old
            )
            assert rows == [(1,)], "only the question itself is left at the old primary"
            await lab.direct("NOTIFY news, 'moved'")
            async with asyncio.timeout(10):
                async for notification in listener.notifies(stop_after=1):
                    assert notification.payload == "moved"
            assert await (await listener.execute("SHOW work_mem")).fetchone() == ("7MB",)
            await listener.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_switchover_waits_for_the_transactions_that_run(run, mode):
    """They end where they began; whoever begins meanwhile waits; one that does not end makes it come to nothing."""

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, 2)
            way = await lab.gateway(mode, buffering_timeout_s=1.0)
            old = lab.primary.port
            within, waiting = await way.connect(), await way.connect(autocommit=True)
            await within.execute("INSERT INTO ledger VALUES (1, 1)")
            with pytest.raises(BackendUnavailable):
                await way.room.switchover()
            await until(lambda: way.room.state.state == "NORMAL")
            assert await (await waiting.execute("SELECT inet_server_port()")).fetchone() == (old,)
            moving = asyncio.create_task(way.room.switchover())
            await until(lambda: way.room.writable() is None)
            asking = asyncio.create_task(waiting.execute("SELECT inet_server_port()"))
            await way.until_waiting()
            await within.execute("INSERT INTO ledger VALUES (1, 2)")
            await within.commit()
            await moving
            lab.primary = lab.replica
            assert await (await asking).fetchone() == (lab.primary.port,)
            assert await (await within.execute("SELECT n FROM ledger ORDER BY n")).fetchall() == [(1,), (2,)]
            await within.close()
            await waiting.close()

    run(scenario())


def test_a_second_failover_is_as_good_as_the_first(run):
    """The dead server's address gets a replica of the new primary; all that a session holds is made a second time."""
    count = 10

    async def scenario():
        async with running_failover_lab(18) as lab:
            await make_ledger(lab, 2 * count)
            ways = [await lab.gateway(mode, size_count=2 * count) for mode in MODES]
            holders = [await way.connect(autocommit=True) for way in ways]
            for holder in holders:
                for statement in ("SET work_mem = '7MB'", "PREPARE one AS SELECT 1", "LISTEN news"):
                    await holder.execute(statement)
                await holder.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5)")
                await holder.execute("SELECT %s::int", (1,), prepare=True)
            writers = [Writer(ways[number % 2], number) for number in range(2 * count)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                for _ in range(2):
                    await count_acknowledged(lab, writers, 2)
                    dead = lab.primary
                    await lab.crash()
                    await lab.promote()
                    await count_acknowledged(lab, writers, 2)
                    await dead.stop()
                    await lab.add_replica(port=dead.port)
                    for way in ways:
                        await until(lambda way=way: len(way.room.readable()) == 1)
                stop.set()
            await check_ledger(lab, writers)
            for holder in holders:
                names = await holder.execute("SELECT count(*) FROM pg_prepared_statements")
                assert await names.fetchone() == (2,)
                assert await (await holder.execute("SHOW work_mem")).fetchone() == ("7MB",)
                assert await (await holder.execute("SELECT pg_listening_channels()")).fetchone() == ("news",)
                assert await (await holder.execute("FETCH 1 FROM held")).fetchone() == (1,)
                await holder.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_primary_that_comes_back_is_taken_again(run, mode):
    """A crash without a promotion: clients wait for the same node, and what they hold is made again."""
    count = 20

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, count)
            way = await lab.gateway(mode, size_count=count + 5)
            holder = await way.connect(autocommit=True)
            await holder.execute("SET work_mem = '7MB'")
            await holder.execute("PREPARE one AS SELECT 1")
            writers = [Writer(way, number) for number in range(count)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                await count_acknowledged(lab, writers, 2)
                await lab.crash()
                await lab.primary.start()
                back = asyncio.get_running_loop().time()
                before = {writer: len(writer.acknowledged) for writer in writers}
                await count_acknowledged(lab, writers, 2)
                stop.set()
            await check_ledger(lab, writers)
            assert set(sum((writer.states for writer in writers), Counter())) <= KNOWN_LOSSES
            firsts = [(writer.acknowledged_at[before[writer]] - back) * 1000 for writer in writers]
            tell(
                f"{mode}: first acknowledged {min(firsts):.0f} ms after the return, last {max(firsts):.0f} ms"
            )
            assert await (await holder.execute("EXECUTE one")).fetchone() == (1,)
            assert await (await holder.execute("SHOW work_mem")).fetchone() == ("7MB",)
            await holder.close()

    run(scenario())


def test_an_incident_can_be_read_afterwards(run):
    """Watch a pool: SHOW FAILOVERS and SHOW LOSSES say who waited and when; a start is told, and is no incident."""

    async def scenario():
        async with running_failover_lab() as lab:
            way = await lab.gateway("transaction")
            async with await way.connect(autocommit=True) as pinned, await way.connect() as client:
                assert [event["primary"] for event in way.told("postgres.primary_found")] == ["db-1"]
                assert way.told("postgres.cluster") == []
                assert incident_tables.losses(way.gateway) == []
                await pinned.execute("LISTEN news")
                await lab.crash()
                held = asyncio.ensure_future(client.execute("SELECT 1"))
                await way.until_waiting(2)
                await lab.promote()
                await held
                await until(lambda: way.room.state.incident is None)
            (failover,) = incident_tables.failovers(way.gateway)
            assert (failover.clients_held, failover.clients_refused, failover.state) == (2, 0, "failover")
            assert (failover.old_primary, failover.new_primary) == ("db-1", "db-2")
            (loss,) = incident_tables.losses(way.gateway)
            assert (loss.situation, loss.count) == ("idle_restorable", 1)
            assert failover.started - 1 < loss.last < failover.ended
            moves = [(event["old"], event["new"]) for event in way.told("postgres.cluster")]
            assert (moves[0][0], moves[-1][1]) == ("NORMAL", "NORMAL")

    run(scenario())


def test_clients_that_waited_in_vain_are_counted(run):
    """SHOW FAILOVERS, clients_refused: they were told 57P03 because no primary came in time, and stayed."""

    async def scenario():
        async with running_failover_lab() as lab:
            way = await lab.gateway("transaction", buffering_timeout_s=0.3)
            async with await way.connect(autocommit=True) as client:
                await lab.crash()
                with pytest.raises(errors.CannotConnectNow):
                    await client.execute("SELECT 1")
                await lab.promote()
                await until(lambda: way.room.writable() is not None)
                await client.execute("SELECT 1")
            (failover,) = incident_tables.failovers(way.gateway)
            assert (failover.clients_held, failover.clients_refused) == (1, 1)

    run(scenario())


def test_an_old_primary_that_comes_back_is_never_written_to(run):
    """Specification 3.3 point 6, fencing: it still says that it is the primary, on the timeline that was left."""

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, 1)
            ways = [await lab.gateway(mode) for mode in MODES]
            clients = [await way.connect(autocommit=True) for way in ways]
            old = lab.primary
            await lab.crash()
            await lab.promote()
            for client in clients:
                await client.execute("INSERT INTO ledger VALUES (1, 1)")
            await lab.start_alone(old)
            for way in ways:
                node = next(one for one in way.room.state.nodes if one.name == lab.port_name(old.port))
                await until(lambda node=node: node.state == "FENCED")
                assert way.room.writable().name == lab.port_name(lab.primary.port)
            for number in range(2, 12):
                for client in clients:
                    await client.execute("INSERT INTO ledger VALUES (1, %s)", (number,))
                for way in ways:
                    async with await way.connect(autocommit=True) as newcomer:
                        await newcomer.execute("INSERT INTO ledger VALUES (2, %s)", (number,))
            assert await lab.direct("SELECT count(*) FROM ledger", server=old) == [(0,)]
            assert await lab.direct("SELECT count(*) FROM ledger") == [(2 * 11 + 2 * 10,)]
            for client in clients:
                await client.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_who_waits_too_long_is_refused_and_stays_connected(run, mode):
    """Buffering is bounded in time: 57P03, then everything works again; idle clients hear nothing of it."""

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, 1)
            way = await lab.gateway(mode, buffering_timeout_s=0.5)
            asking = await way.connect(autocommit=True)
            await asking.execute("SELECT 1")
            begun = await way.connect()
            await begun.execute("SET LOCAL work_mem = '9MB'")
            listening = await way.connect(autocommit=True)
            await listening.execute("LISTEN news")
            speaking = await way.connect(autocommit=True)
            await speaking.execute("LISTEN news")
            filenos = [one.fileno() for one in (asking, begun, listening)]
            await lab.crash()
            for _ in range(2):
                with pytest.raises(errors.CannotConnectNow):
                    await asking.execute("INSERT INTO ledger VALUES (1, 1)")
            with pytest.raises(errors.CannotConnectNow):
                await speaking.execute("SELECT 1")
            with pytest.raises(errors.CannotConnectNow):
                await begun.execute("SELECT 1")
            with pytest.raises(errors.InFailedSqlTransaction):
                await begun.execute("SELECT 1")
            await begun.rollback()
            await lab.promote()
            await until(lambda: way.room.writable() is not None)
            for one in (listening, speaking):
                await way.until_rebuilt(one)
            await lab.direct("NOTIFY news, 'after'")
            for one in (listening, speaking):
                async with asyncio.timeout(10):
                    async for notification in one.notifies(stop_after=1):
                        assert notification.payload == "after"
            await asking.execute("INSERT INTO ledger VALUES (1, 2)")
            await begun.execute("INSERT INTO ledger VALUES (1, 3)")
            await begun.commit()
            assert await lab.direct("SELECT n FROM ledger ORDER BY n") == [(2,), (3,)]
            assert filenos == [one.fileno() for one in (asking, begun, listening)]
            for one in (asking, begun, listening, speaking):
                await one.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_session_that_cannot_be_restored_is_closed_where_that_is_the_policy(run, mode):
    """``on_unrestorable = "close"``: the holder of a temporary table gets 08006, nobody else anything."""

    async def scenario():
        async with running_failover_lab() as lab:
            way = await lab.gateway(mode, on_unrestorable="close")
            holder, other, late = [await way.connect(autocommit=True) for _ in range(3)]
            await holder.execute("CREATE TEMPORARY TABLE cart (n int)")
            await other.execute("SET work_mem = '7MB'")
            await late.execute("SELECT pg_advisory_lock(7)")
            await lab.crash()
            await lab.promote()
            for closed in (holder, late):
                with pytest.raises(psycopg.OperationalError) as caught:
                    await closed.execute("SELECT 1")
                assert "cannot be restored" in str(caught.value)
                assert closed.closed
            assert await (await other.execute("SHOW work_mem")).fetchone() == ("7MB",)
            await other.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_without_failover_the_loss_is_told_at_once(run, mode):
    """``is_enabled = false``: a client of the lost server is closed, who has none is refused; later all is well."""

    async def scenario():
        async with running_failover_lab() as lab:
            way = await lab.gateway(mode, is_enabled=False)
            within = await way.connect()
            await within.execute("SELECT 1")
            await lab.crash()
            with pytest.raises(psycopg.OperationalError):
                await within.execute("SELECT 1")
            assert within.closed
            with pytest.raises(psycopg.OperationalError):
                async with await way.connect(autocommit=True) as newcomer:
                    await newcomer.execute("SELECT 1")
            await lab.promote()
            await until(lambda: way.room.writable() is not None)
            async with await way.connect() as connection:
                await connection.execute("SELECT 1")

    run(scenario())
