"""Pools at a real server: sizes, queues, ages and deadlines, with real clients; time is moved by moving stamps."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import asyncpg
import psycopg
import pytest
from gateway_room import PASSWORD, gateway_room, server_thread, settings, users

from sojourn.core.secret import Secret
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Database,
    PoolSettings,
    TimeoutSettings,
    User,
)

ROLES = f"""
CREATE ROLE ana LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE ben LOGIN PASSWORD '{PASSWORD}';
CREATE DATABASE shop;
CREATE DATABASE store;
"""
PID = "SELECT pg_backend_pid()"
LONG_S = 1_000_000.0


@pytest.fixture(scope="module")
def server():
    """Give a server that trusts everybody."""
    with server_thread(hba_lines=("host all all 127.0.0.1/32 trust",)) as running:
        for statement in ROLES.split("\n"):
            running.sql(statement)
        yield running


def one(name="*", **more):
    """Return the entry of a database."""
    return Database(**{"name": name, "cluster": "main", **more})


async def ask(connection, sql=PID):
    """Return the only value that a statement answers."""
    return (await (await connection.execute(sql)).fetchone())[0]


def servers(room, user="ana", database="postgres"):
    """Return the servers of a pool."""
    return tuple(room.pool(user, database).servers())


def waiting(room, user="ana", database="postgres"):
    """Return the clients that wait in a pool, in order."""
    return list(room.pool(user, database).waiting())


class Clients:
    """The clients of one test, which are all closed at its end."""

    def __init__(self, room, stack):
        self.room = room
        self._stack = stack

    async def __call__(self, user="ana", database="postgres", **more):
        connection = await self.room.psycopg(user, database=database, **more)
        return await self._stack.enter_async_context(_closing(connection))

    async def holding(self, user="ana", database="postgres"):
        """Open one that is inside a transaction, so that it keeps its server."""
        connection = await self(user, database)
        await connection.execute("BEGIN")
        return connection

    async def queued(self, user="ana", database="postgres", *, sql=PID, behind=0):
        """Open one whose statement waits for a server; return it and what will be its answer."""
        connection = await self(user, database)
        answer = asyncio.ensure_future(ask(connection, sql))
        self._stack.push_async_callback(_ended, answer)
        await self.room.until(lambda: len(waiting(self.room, user, database)) > behind)
        return connection, answer


@asynccontextmanager
async def _closing(connection):
    yield connection
    await connection.close()


async def _ended(task):
    task.cancel()
    await asyncio.wait((task,))


@asynccontextmanager
async def clients(given, folder):
    """Run a gateway and close all clients at its end."""
    async with gateway_room(given, folder) as room, AsyncExitStack() as stack:
        yield room, Clients(room, stack)


# How many


def test_a_pool_opens_no_more_servers_than_its_size(run, tmp_path, server):
    """The next client waits, and goes on when somebody is done."""

    async def main():
        given = settings(server, pool=PoolSettings(size_count=2))
        async with clients(given, tmp_path) as (room, client):
            first = await client.holding()
            await client.holding()
            _, answer = await client.queued()
            room.pool("ana").upkeep.sweep(monotonic())
            assert len(servers(room)) == 2
            assert not answer.done()
            pid = await ask(first)
            await first.execute("COMMIT")
            assert await answer == pid
            assert len(servers(room)) == 2

    run(main())


def test_servers_are_shared_in_the_order_of_asking(run, tmp_path, server):
    """First come, first served, also against a client that asks again at once."""

    async def main():
        async with clients(settings(server, pool=PoolSettings(size_count=1)), tmp_path) as (room, client):
            holder = await client.holding()
            order = []
            tasks = []
            for number in range(4):
                _, answer = await client.queued(behind=number)
                answer.add_done_callback(lambda _, number=number: order.append(number))
                tasks.append(answer)
            await holder.execute("COMMIT")
            again = asyncio.ensure_future(ask(holder))
            again.add_done_callback(lambda _: order.append("again"))
            await asyncio.gather(*tasks, again)
            assert order == [0, 1, 2, 3, "again"]
            assert len(servers(room)) == 1

    run(main())


def test_the_reserve_is_opened_for_who_has_waited_long_enough(run, tmp_path, server):
    """reserve_size_count more servers after reserve_timeout_s, and not before."""

    async def main():
        pool = PoolSettings(size_count=1, reserve_size_count=1, reserve_timeout_s=5)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            holder = await client.holding()
            _, answer = await client.queued()
            room.pool("ana").upkeep.sweep(monotonic())
            assert len(servers(room)) == 1
            assert not answer.done()
            waiting(room)[0].waits_since -= 6
            room.pool("ana").upkeep.sweep(monotonic())
            assert await answer
            assert len(servers(room)) == 2
            assert await ask(await client()) != await ask(holder)
            assert len(servers(room)) == 2

    run(main())


def test_a_client_that_waits_too_long_gets_an_error_and_stays(run, tmp_path, server):
    """53300 after queue_timeout_s; nothing was executed, and the connection is as good as before."""

    async def main():
        pool = PoolSettings(size_count=1, queue_timeout_s=100)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            holder = await client.holding()
            connection, answer = await client.queued()
            room.pool("ana").upkeep.sweep(monotonic() + 99)
            assert not answer.done()
            room.pool("ana").upkeep.sweep(monotonic() + 101)
            with pytest.raises(psycopg.errors.TooManyConnections, match="no server became free within 100 s"):
                await answer
            assert not waiting(room)
            assert not connection.closed
            await holder.execute("COMMIT")
            assert await ask(connection)

    run(main())


def test_a_full_queue_refuses_at_once(run, tmp_path, server):
    """queue_limit_count bounds what waits."""

    async def main():
        pool = PoolSettings(size_count=1, queue_limit_count=1)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            await client.holding()
            await client.queued()
            third = await client()
            with pytest.raises(psycopg.errors.TooManyConnections, match="clients waiting for a server"):
                await third.execute("SELECT 1")
            assert len(waiting(room)) == 1

    run(main())


def test_a_login_in_session_mode_waits_in_the_queue_too(run, tmp_path, server):
    """There the server is wanted at the login: the same order, the same error (as FATAL)."""

    async def main():
        pool = PoolSettings(mode="session", size_count=1, queue_timeout_s=100)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            first = await client()
            pid = await ask(first)
            second = asyncio.ensure_future(room.psycopg("ana"))
            await room.until(lambda: waiting(room))
            third = asyncio.ensure_future(room.asyncpg("ana"))
            await room.until(lambda: len(waiting(room)) == 2)
            waiting(room)[1].waits_since -= 101
            room.pool("ana").upkeep.sweep(monotonic())
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await third
            await first.close()
            connection = await second
            assert await ask(connection) == pid
            await connection.close()

    run(main())


def test_a_login_that_waits_for_a_server_is_late_by_the_pools_limits_only(run, tmp_path, server):
    """client_login_timeout_s ends with the password: what comes then is our time, not the client's."""

    async def main():
        given = settings(
            server,
            pool=PoolSettings(mode="session", size_count=1),
            timeouts=TimeoutSettings(client_login_timeout_s=30),
        )
        async with clients(given, tmp_path) as (room, client):
            first = await client()
            second = asyncio.ensure_future(room.asyncpg("ana"))
            await room.until(lambda: waiting(room))
            room.server.managers["postgres"].sweep(monotonic() + 100)
            assert len(waiting(room)) == 1
            await first.close()
            await (await second).close()

    run(main())


def test_a_session_that_waited_gets_a_server_with_its_own_defaults(run, tmp_path, server):
    """One that was opened with another session's startup parameters would go back to those at a RESET."""

    async def main():
        given = settings(server, pool=PoolSettings(mode="session", size_count=1))
        async with clients(given, tmp_path) as (room, client):
            first = await client(options="-c work_mem=9MB")
            second = asyncio.ensure_future(client())
            await room.until(lambda: len(waiting(room)) == 1)
            third = asyncio.ensure_future(client(options="-c work_mem=8MB"))
            await room.until(lambda: len(waiting(room)) == 2)
            await first.close()
            for coming, value in ((second, "4MB"), (third, "8MB")):
                waited = await coming
                await waited.execute("SET work_mem = '64MB'")
                await waited.execute("RESET work_mem")
                assert await ask(waited, "SHOW work_mem") == value
                await waited.close()

    run(main())


def test_a_node_may_be_lost_while_we_log_in_there(run, tmp_path):
    """Such a connection is nobody's yet: nothing of it is used, and the login goes on elsewhere or waits."""

    async def main():
        came = asyncio.Event()

        async def silent(reader, writer):
            came.set()
            await reader.read()  # the startup message
            await reader.read()
            writer.close()

        listening = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening, gateway_room(settings(address), tmp_path) as room:
            raw = await room.raw()
            await raw.start("ana")
            await came.wait()
            pool = room.pool("ana")
            assert pool.primary.connecting == 1
            pool.node_lost(pool.primary.node, "a test")
            assert not servers(room)
            await raw.close()

    run(main())


def test_a_minimum_is_kept_open(run, tmp_path, server):
    """min_size_count servers are opened ahead of need, and kept whatever their idleness."""

    async def main():
        pool = PoolSettings(size_count=5, min_size_count=3, server_idle_timeout_s=60)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            await client()
            room.pool("ana").upkeep.sweep(monotonic())
            await room.until(lambda: room.pool("ana").places and len(servers(room)) == 3)
            room.pool("ana").upkeep.sweep(monotonic() + 61)
            assert len(servers(room)) == 3
            servers(room)[0].abort("a test")
            await room.until(lambda: len(servers(room)) == 2)
            room.pool("ana").upkeep.sweep(monotonic())
            await room.until(lambda: len(servers(room)) == 3)

    run(main())


@pytest.mark.parametrize("what", ["database", "user"])
def test_the_limit_of_a_database_or_user_holds_over_its_pools(run, tmp_path, server, what):
    """Where another pool's free server stands in the way it is closed; one in use is waited for."""

    async def main():
        pool = PoolSettings(**{f"max_{what}_connections_count": 2})
        other = ("ben", "postgres") if what == "database" else ("ana", "shop")
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            first, second = await client.holding(), await client.holding()
            with_limit = await client.queued(behind=0)
            room.pool("ana").upkeep.sweep(monotonic())
            assert len(servers(room)) == 2
            await first.execute("COMMIT")
            assert await with_limit[1]
            stranger = await client("ana" if what == "database" else "ben", "store")
            assert await ask(stranger)
            newcomer = await client(*other)
            await newcomer.execute("BEGIN")
            assert len(servers(room)) + len(servers(room, *other)) == 2
            _, answer = await client.queued(*other)
            room.pool(*other).upkeep.sweep(monotonic())
            assert not answer.done()
            await second.execute("COMMIT")
            room.pool(*other).upkeep.sweep(monotonic())
            assert await answer
            assert len(servers(room)) + len(servers(room, *other)) == 2

    run(main())


def test_limits_of_single_databases_and_users_come_first(run, tmp_path, server):
    """What an entry says counts more than the default, in size, mode and number."""

    async def main():
        given = settings(
            server,
            databases=(
                one("shop", pool_size_count=2, pool_mode="session"),
                one("store", max_connections_count=1),
                one(),
            ),
            users=(User(name="ben", pool_size_count=3, pool_mode="statement", max_connections_count=1),),
            pool=PoolSettings(size_count=7),
        )
        async with clients(given, tmp_path) as (room, client):
            for user, database in (("ana", "postgres"), ("ana", "shop"), ("ana", "store"), ("ben", "shop")):
                await client(user, database)
            assert [
                (room.pool(*key).size, room.pool(*key).mode)
                for key in (("ana", "postgres"), ("ana", "shop"), ("ana", "store"), ("ben", "shop"))
            ] == [(7, "transaction"), (2, "session"), (7, "transaction"), (3, "statement")]
            await client.holding("ana", "store")
            _, answer = await client.queued("ana", "store")
            room.pool("ana", "store").upkeep.sweep(monotonic())
            assert not answer.done()

    run(main())


def test_a_reload_changes_sizes_at_once(run, tmp_path, server):
    """Who waits is served by a larger pool; what a smaller one has too many is closed when it is free."""

    async def main():
        given = settings(server, databases=(one(pool_size_count=1),))
        async with clients(given, tmp_path) as (room, client):
            await client.holding()
            _, answer = await client.queued()
            room.reload(databases=(one(pool_size_count=2),))
            room.pool("ana").upkeep.sweep(monotonic())
            assert await answer
            assert len(servers(room)) == 2
            room.reload(databases=(one(pool_size_count=1),))
            room.pool("ana").upkeep.sweep(monotonic())
            await room.until(lambda: len(servers(room)) == 1)

    run(main())


# How long


def test_old_and_idle_servers_are_closed(run, tmp_path, server):
    """server_lifetime_s from the login on, server_idle_timeout_s from the last use on; never one in use."""

    async def main():
        pool = PoolSettings(size_count=2, server_lifetime_s=1000, server_idle_timeout_s=100)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            first, second = await client.holding(), await client.holding()
            pids = {await ask(first), await ask(second)}
            room.pool("ana").upkeep.sweep(monotonic() + LONG_S)
            assert {one.pid for one in servers(room)} == pids
            await first.execute("COMMIT")
            room.pool("ana").upkeep.sweep(monotonic() + 99)
            assert len(servers(room)) == 2
            await room.until(lambda: room.pool("ana").primary.idle_count)  # it was tried
            room.pool("ana").upkeep.sweep(monotonic() + 101)
            await room.until(lambda: len(servers(room)) == 1)
            await second.execute("COMMIT")
            servers(room)[0].opened -= 1001
            room.pool("ana").upkeep.sweep(monotonic())
            await room.until(lambda: not servers(room))
            assert await ask(first) not in pids
            text = room.log()
            assert "server_idle_timeout_s" in text
            assert "server_lifetime_s" in text

    run(main())


def test_a_server_that_was_long_unused_is_tried_before_use(run, tmp_path, server):
    """server_check_delay_s; one that does not answer goes, and the client gets another."""

    async def main():
        pool = PoolSettings(size_count=2, server_check_delay_s=30, server_idle_timeout_s=0)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            connection = await client()
            pid = await ask(connection)
            checked = servers(room)[0]
            room.pool("ana").upkeep.sweep(monotonic() + 31)
            assert not room.pool("ana").primary.idle_count
            await room.until(lambda: room.pool("ana").primary.idle_count)
            assert await ask(connection) == pid
            checked.transport.pause_reading()  # its answer never comes
            room.pool("ana").upkeep.sweep(monotonic() + 70)
            other = await ask(connection)
            assert other != pid
            room.pool("ana").upkeep.sweep(monotonic() + 86)
            await room.until(lambda: {one.pid for one in servers(room)} == {other})

    run(main())


def test_a_failed_login_at_the_server_is_not_tried_again_at_once(run, tmp_path, server):
    """server_login_retry_s, growing; a server that is back is used at the first try behind it."""

    async def main():
        pool = PoolSettings(size_count=1, server_login_retry_s=1000, queue_timeout_s=5000)
        async with clients(settings(server, pool=pool), tmp_path) as (room, client):
            connection = await client()
            place = room.pool("ana").primary
            for one_server in servers(room):
                one_server.close("a test")
            await room.until(lambda: not servers(room))
            room.gateway.rooms["main"].tls, good = object(), room.gateway.rooms["main"].tls
            place.node.address, address = "127.0.0.1:1", place.node.address
            answer = asyncio.ensure_future(ask(connection))
            await room.until(lambda: place.failures == 1)
            room.pool("ana").upkeep.sweep(monotonic())
            assert place.connecting == 0
            place.node.address = address
            room.gateway.rooms["main"].tls = good
            place.retry_at = 0.0
            room.gateway.rooms["main"].state.assume(place.node)
            room.pool("ana").upkeep.sweep(monotonic())
            assert await answer
            assert place.failures == 0

    run(main())


# Deadlines of clients


def late(room, by_s=LONG_S):
    """Let the gateway look at its clients as if so much time had passed."""
    room.gateway._sweep_clients(monotonic() + by_s)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_an_idle_client_is_closed(run, tmp_path, server, mode):
    """client_idle_timeout_s: silence between transactions (57P05); whoever said something since the last look stays."""

    async def main():
        given = settings(
            server, pool=PoolSettings(mode=mode), timeouts=TimeoutSettings(client_idle_timeout_s=100)
        )
        async with clients(given, tmp_path) as (room, client):
            idle, busy, held = await client(), await client(), await client.holding()
            late(room, 0)
            late(room, 99)
            assert await ask(busy)
            late(room, 101)
            assert await ask(busy)
            assert await ask(held)
            with pytest.raises(psycopg.errors.IdleSessionTimeout):
                await idle.execute("SELECT 1")
            late(room, 150)
            late(room, 151)
            assert await ask(busy)
            room.reload(timeouts=TimeoutSettings())
            late(room)
            assert await ask(busy)

    run(main())


def test_a_client_idle_in_a_transaction_is_closed(run, tmp_path, server):
    """idle_in_transaction_timeout_s counts from the answer, not from a statement that took long itself."""

    async def main():
        given = settings(server, timeouts=TimeoutSettings(idle_in_transaction_timeout_s=100))
        async with clients(given, tmp_path) as (room, client):
            idle, outside = await client.holding(), await client()
            servers(room)[0].began -= 1000  # its statement took so long
            late(room, 0)
            assert await ask(idle)
            late(room, 0)
            late(room, 99)
            late(room, 101)
            with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
                await idle.execute("SELECT 1")
            assert await ask(outside)

    run(main())


def test_a_statement_or_transaction_that_takes_too_long_ends_with_its_client(run, tmp_path, server):
    """query_timeout_s (57014) and transaction_timeout_s (25P04); the server stops working on it too."""

    async def main():
        given = settings(server, timeouts=TimeoutSettings(query_timeout_s=100, transaction_timeout_s=1000))
        async with clients(given, tmp_path) as (room, client):
            slow, fast, long_one = await client(), await client(), await client.holding()
            sleeping = asyncio.ensure_future(ask(slow, "SELECT pg_sleep(600)"))
            await room.until(lambda: any(one.fifo for one in servers(room)))
            pid = next(one.pid for one in servers(room) if one.fifo)
            active = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"
            await asyncio.to_thread(_until, server, active, 1)
            late(room, 99)
            assert not sleeping.done()
            late(room, 101)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await sleeping
            await asyncio.to_thread(_until, server, active, 0)
            assert await ask(fast)
            assert await ask(long_one)
            late(room, 1001)
            with pytest.raises(psycopg.errors.TransactionTimeout):
                await long_one.execute("SELECT 1")
            assert await ask(fast)

    run(main())


def _until(server, sql, count):
    deadline = monotonic() + 20
    while server.sql(sql)[0][0] != count:
        assert monotonic() < deadline


def test_a_client_that_takes_nothing_is_closed(run, tmp_path, server):
    """client_write_timeout_s frees the server that it holds."""

    async def main():
        given = settings(server, timeouts=TimeoutSettings(client_write_timeout_s=50))
        async with clients(given, tmp_path) as (room, client):
            raw = await room.raw()
            await raw.start("ana")
            await raw.messages()
            raw.writer.transport.pause_reading()
            raw.send(wire.query("SELECT repeat('x', 1000000) FROM generate_series(1, 60)"))
            manager = room.server.managers["postgres"]
            await room.until(lambda: any(one.blocked_since for one in manager.connections))
            manager.sweep(monotonic() + 49)
            assert manager.connections
            manager.sweep(monotonic() + 51)
            await room.until(lambda: not manager.connections and not servers(room))
            await raw.close()
            other = await client()
            assert await ask(other)

    run(main())


# Modes and settings of sessions


def test_statement_mode_has_no_transactions(run, tmp_path, server):
    """BEGIN ends the client; single statements are shared as ever."""

    async def main():
        given = settings(server, pool=PoolSettings(mode="statement", size_count=1))
        async with clients(given, tmp_path) as (room, client):
            raw = await room.raw()
            await raw.start("ana")
            await raw.messages()
            raw.send(wire.query("SELECT 1"))
            assert (await raw.messages())[-1] == ("Z", b"I")
            raw.send(wire.query("BEGIN"))
            error = await raw.error()
            assert (error["S"], error["C"]) == ("FATAL", "0A000")
            assert await raw.is_closed()
            await raw.close()
            other = await client()
            assert await ask(other)
            assert (
                await ask(other, "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
                == 0
            )

    run(main())


def test_a_server_is_cleaned_between_two_sessions(run, tmp_path, server):
    """DISCARD ALL in session mode: settings, temporary tables, prepared statements and locks go with their client."""

    async def main():
        given = settings(server, pool=PoolSettings(mode="session", size_count=1))
        async with clients(given, tmp_path) as (room, client):
            first = await client()
            pid = await ask(first)
            for sql in (
                "SET work_mem = '11MB'",
                "CREATE TEMP TABLE mine (a int)",
                "PREPARE mine AS SELECT 1",
                "SELECT pg_advisory_lock(7)",
                "SET ROLE ana",
            ):
                await first.execute(sql)
            await first.close()
            second = await client()
            assert await ask(second) == pid
            assert await ask(second, "SHOW work_mem") == "4MB"
            assert await ask(second, "SELECT count(*) FROM pg_prepared_statements") == 0
            assert await ask(second, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
            assert await ask(second, "SELECT to_regclass('pg_temp.mine')") is None
            assert await ask(second, "SELECT session_user") == "ana"
            assert len(servers(room)) == 1

    run(main())


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_reset_goes_back_to_what_the_client_began_with(run, tmp_path, server, mode):
    """Startup parameters, ``options`` among them, are a session's defaults, on whichever server it is."""

    async def main():
        given = settings(server, pool=PoolSettings(mode=mode, size_count=1))
        async with clients(given, tmp_path) as (_, client):
            options = "-c work_mem=9MB -c search_path=pg_catalog"
            for _ in range(2):
                first = await client(application_name="one", options=options)
                for name, value in (
                    ("work_mem", "9MB"),
                    ("application_name", "one"),
                    ("search_path", "pg_catalog"),
                ):
                    assert await ask(first, f"SHOW {name}") == value
                    await first.execute(f"SET {name} = '64'")
                    await first.execute(f"RESET {name}")
                    assert await ask(first, f"SHOW {name}") == value
                await first.execute("SET work_mem = '65MB'")
                await first.execute("RESET ALL")
                assert await ask(first, "SHOW work_mem") == "9MB"
                if mode == "session":
                    await first.close()
                second = await client(application_name="two")
                assert await ask(second, "SHOW work_mem") == "4MB"
                assert await ask(second, "SHOW application_name") == "two"
                if mode == "session":
                    await second.close()
                else:
                    assert await ask(first, "SHOW work_mem") == "9MB"

    run(main())


def test_parameters_that_are_to_be_ignored_are(run, tmp_path, server):
    """ignore_startup_parameters; any other goes to the server, whose refusal ends the login."""

    async def main():
        given = settings(server, pool=PoolSettings(ignore_startup_parameters=("statement_timeout",)))
        async with clients(given, tmp_path) as (_, client):
            connection = await client(options="-c work_mem=9MB")
            assert await ask(connection, "SHOW work_mem") == "9MB"
        async with gateway_room(given, tmp_path) as room:
            other = await room.asyncpg("ana", server_settings={"statement_timeout": "7", "lock_timeout": "8"})
            assert await other.fetchval("SHOW statement_timeout") == "0"
            assert await other.fetchval("SHOW lock_timeout") == "8ms"
            await other.close()

    run(main())


def test_a_database_entry_says_where_and_as_whom_and_with_what(run, tmp_path, server):
    """dbname, user, password, parameters and connect_query; ``*`` is for every other name."""

    async def main():
        given = settings(
            server,
            auth=AuthSettings(method="scram-sha-256"),
            users=users(ana=PASSWORD, ben=PASSWORD),
            databases=(
                one(
                    "front",
                    dbname="shop",
                    user="ben",
                    password=Secret(PASSWORD),
                    parameters={"application_name": "front", "work_mem": "10MB"},
                    connect_query="SET lock_timeout = '9s'; SELECT 1",
                ),
                one(),
            ),
        )
        async with clients(given, tmp_path) as (_, client):
            connection = await client("ana", "front")
            assert await ask(connection, "SELECT current_database() || current_user") == "shopben"
            assert await ask(connection, "SHOW work_mem") == "10MB"
            assert await ask(connection, "SHOW lock_timeout") == "9s"
            named = await client("ana", "front", application_name="mine")
            assert await ask(named, "SHOW application_name") == "mine"
            other = await client("ana", "store")
            assert await ask(other, "SELECT current_database() || current_user") == "storeana"

    run(main())


def test_clients_of_one_pool_are_told_what_their_server_reports(run, tmp_path, server):
    """ParameterStatus follows the server: another server's value is told before its first answer."""

    async def main():
        given = settings(server, pool=PoolSettings(size_count=2))
        async with clients(given, tmp_path) as (room, client):
            first, second = await client(application_name="one"), await client(application_name="two")
            for _ in range(3):
                for connection, name in ((first, "one"), (second, "two")):
                    assert await ask(connection, "SHOW application_name") == name
                    assert connection.info.parameter_status("application_name") == name
            await first.execute("SET application_name = 'other'")
            assert first.info.parameter_status("application_name") == "other"
            assert await ask(second, "SHOW application_name") == "two"
            assert room.gateway.pools

    run(main())
