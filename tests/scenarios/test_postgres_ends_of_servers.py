"""Ends of a primary that are no power cut: smart shutdown, demotion, a second loss while the first is dealt with.

Real servers and drivers, as in ``test_postgres_incidents``. Source: specification 3.3, 6.4 and 6.8.
"""

from __future__ import annotations

import asyncio
import os
import signal

import psycopg
import pytest
from failover_lab import running_failover_lab
from ledger import KNOWN_LOSSES, Writer, check_ledger, count_acknowledged, make_ledger, until
from psycopg import errors
from psycopg.pq import TransactionStatus

from sojourn.gateways.postgres import nodes

MODES = ("session", "transaction")
BUSY_COUNT = 100
DOWN_S = 3


async def until_refused(attempt, error):
    """Try until it fails so."""
    while True:
        try:
            await attempt()
        except error:
            return


@pytest.mark.parametrize("mode", MODES)
def test_a_smart_shutdown_lets_a_transaction_end_and_costs_nobody_a_socket(run, mode):
    """``pg_ctl stop -m smart``: who is connected goes on there, who needs another connection waits for the next."""

    async def scenario():
        async with asyncio.timeout(60), running_failover_lab() as lab:
            await make_ledger(lab, 1)
            way = await lab.gateway(mode)
            within, idle = await way.connect(), await way.connect(autocommit=True)
            await idle.execute("SELECT 1")
            await within.execute("INSERT INTO ledger VALUES (1, 1)")
            filenos = [within.fileno(), idle.fileno()]
            old = lab.primary.port
            os.kill(lab.primary.pid, signal.SIGTERM)
            await until_refused(lambda: lab.direct("SELECT 1"), psycopg.OperationalError)
            await within.commit()
            assert await (await idle.execute("SELECT inet_server_port()")).fetchone() == (old,)
            coming = asyncio.create_task(way.connect(autocommit=True))
            if mode == "session":
                await way.until_waiting()
            await lab.crash()
            await lab.promote()
            newcomer = await coming
            for one in (idle, newcomer):
                assert await (await one.execute("SELECT inet_server_port()")).fetchone() == (
                    lab.primary.port,
                )
            assert await (await within.execute("SELECT n FROM ledger")).fetchall() == [(1,)]
            assert [within.fileno(), idle.fileno()] == filenos
            for one in (within, idle, newcomer):
                await one.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_hundred_busy_clients_outlast_a_primary_that_is_down_for_a_while(run, mode):
    """The same node, the same timeline, three seconds later: nothing lost, nothing doubled, no socket dropped."""

    async def scenario():
        async with asyncio.timeout(90), running_failover_lab() as lab:
            await make_ledger(lab, BUSY_COUNT)
            way = await lab.gateway(mode, size_count=BUSY_COUNT + 5 if mode == "session" else 30)
            writers = [Writer(way, number) for number in range(BUSY_COUNT)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                await count_acknowledged(lab, writers, 2)
                await lab.crash()
                await lab.direct(f"SELECT pg_sleep({DOWN_S})", server=lab.replica)
                await lab.primary.start()
                await count_acknowledged(lab, writers, 2)
                stop.set()
            await check_ledger(lab, writers)
            states = set().union(*(writer.states for writer in writers))
            assert states <= KNOWN_LOSSES
            assert way.told("server.loop_error") == way.told("postgres.server_failed") == []

    run(scenario())


def test_a_primary_that_comes_back_as_a_replica_is_read_from_and_not_written_to(run):
    """Demoted by ``standby.signal`` while another was promoted: its old connections are gone, its role is seen."""

    async def scenario():
        async with asyncio.timeout(60), running_failover_lab() as lab:
            await make_ledger(lab, 1)
            way = await lab.gateway("transaction")
            async with await way.connect(autocommit=True) as client:
                await client.execute("INSERT INTO ledger VALUES (1, 1)")
                old = lab.primary
                await lab.caught_up()
                await lab.crash()
                (old.data_directory / "standby.signal").touch()
                old._source = lab.replica  # it is a replica from now on
                await old.start()
                asking = asyncio.create_task(client.execute("INSERT INTO ledger VALUES (1, 2)"))
                node = next(one for one in way.room.state.nodes if one.name == lab.port_name(old.port))
                await until(lambda: node.state == nodes.REPLICA)
                assert way.room.writable() is None
                await lab.promote()
                await asking
                assert await lab.direct("SELECT n FROM ledger ORDER BY n") == [(1,), (2,)]

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_primary_that_was_set_read_only_refuses_writes_and_no_socket_is_lost(run, mode):
    """``default_transaction_read_only`` is its administrator's word, no failover: the client gets 25006."""

    async def scenario():
        async with asyncio.timeout(60), running_failover_lab() as lab:
            await make_ledger(lab, 1)
            way = await lab.gateway(mode)
            async with await way.connect(autocommit=True) as client:
                await client.execute("INSERT INTO ledger VALUES (1, 1)")
                await lab.direct(
                    "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"
                )
                await until_refused(
                    lambda: client.execute("INSERT INTO ledger VALUES (1, 2)"), errors.ReadOnlySqlTransaction
                )
                await client.execute("SELECT 1")
                await lab.direct(
                    "SET default_transaction_read_only = off",
                    "ALTER SYSTEM RESET default_transaction_read_only",
                    "SELECT pg_reload_conf()",
                )
                async with asyncio.timeout(10):
                    while True:
                        try:
                            await client.execute("INSERT INTO ledger VALUES (1, 3)")
                            break
                        except errors.ReadOnlySqlTransaction:
                            continue
                assert way.room.state.state == "NORMAL"
                assert way.room.state.incidents_count == 0

    run(scenario())


def test_a_commit_is_resolved_although_the_next_primary_dies_as_well(run):
    """The question is put again to whoever takes over from the one that was asked; it was committed, and is told so."""

    async def scenario():
        async with asyncio.timeout(60), running_failover_lab() as lab:
            await make_ledger(lab, 1)
            way = await lab.gateway("transaction", arms_commit_outcome=True)
            client = await way.connect()
            await client.execute("SET LOCAL synchronous_commit = remote_apply")
            await client.execute("INSERT INTO ledger VALUES (1, 1)")
            await lab.caught_up()
            await lab.direct("SELECT pg_wal_replay_pause()", server=lab.replica)
            committing = asyncio.create_task(client.commit())
            await lab.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            await lab.caught_up()
            await lab.crash()
            await lab.promote()
            await until(lambda: way.room.writable() is not None or committing.done())
            await lab.crash()
            await lab.primary.start()
            await committing
            assert client.info.transaction_status == TransactionStatus.IDLE
            assert await lab.direct("SELECT n FROM ledger") == [(1,)]
            await client.close()

    run(scenario())


def test_a_reader_is_asked_for_a_third_time_when_its_second_server_dies_as_well(run):
    """A repeat is lost like the first try, and repeated again: still nothing of it was seen."""

    async def scenario():
        async with asyncio.timeout(60), running_failover_lab() as lab:
            way = await lab.gateway("transaction")
            client = await way.connect(autocommit=True)
            await client.execute("BEGIN READ ONLY")
            reading = asyncio.create_task(client.execute("SELECT pg_sleep(600), 'reader'"))
            await lab.until_running("reader")
            await lab.crash()
            await lab.promote()
            await lab.until_running("reader")
            await lab.crash()
            await lab.start_alone(lab.primary)
            await lab.until_running("reader")
            await lab.direct(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE '%reader%' AND pid <> pg_backend_pid()"
            )
            with pytest.raises(errors.QueryCanceled):
                await reading
            assert client.info.transaction_status == TransactionStatus.INERROR
            await client.rollback()
            await client.execute("SELECT 1")
            await client.close()

    run(scenario())


def test_a_monitor_that_may_not_log_in_any_more_stops_nobody(run):
    """A server that refuses the monitor's login lives; a changed password must not cost the cluster its primary."""

    async def scenario():
        async with asyncio.timeout(60), running_failover_lab() as lab:
            await lab.direct("CREATE ROLE watcher LOGIN")
            await lab.caught_up()
            way = await lab.gateway("transaction", monitor_user="watcher", suspect_timeout_s=0.5)
            async with await way.connect(autocommit=True) as client:
                await client.execute("SELECT 1")
                await lab.direct(
                    "ALTER ROLE watcher NOLOGIN",
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'watcher'",
                    "SELECT pg_sleep(2)",
                )
                assert way.room.state.state == "NORMAL"
                assert "not permitted to log in" in way.room.writable().evidence
                assert await (await client.execute("SELECT inet_server_port()")).fetchone() == (
                    lab.primary.port,
                )
                await lab.direct("ALTER ROLE watcher LOGIN")
                await lab.crash()
                await lab.promote()
                cursor = await client.execute("SELECT inet_server_port()")
                assert await cursor.fetchone() == (lab.primary.port,)

    run(scenario())
