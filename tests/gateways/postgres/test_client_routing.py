"""Which server answers a client: hints, roles, rules and read-only transactions, with a primary and its replica."""

from __future__ import annotations

import asyncio
import contextlib
import io

import asyncpg
import pytest
import uvloop

from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres.config import (
    AuthSettings,
    Cluster,
    Database,
    FailoverSettings,
    NodeSettings,
    PoolSettings,
    PostgresSettings,
    RoutingSettings,
    User,
)
from sojourn.gateways.postgres.gateway import PostgresGateway

WITHIN_S = 60
PRIMARY, REPLICA = False, True
WHERE = "SELECT pg_is_in_recovery()"


@pytest.fixture(scope="module")
def site():
    """Give a loop with a primary and a replica that last for the whole module."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        primary = PostgresServer(version=16, port=0, hba_lines=["host all all 127.0.0.1/32 trust"])
        runner.run(primary.start())
        replica = runner.run(primary.replica(port=0))
        try:
            yield runner, primary, replica
        finally:
            runner.run(replica.stop())
            runner.run(primary.stop())


@pytest.fixture
def through(site):
    """Run a conversation with a gateway of its own settings, before the two servers."""
    runner, primary, replica = site

    def run(conversation, **settings):
        runner.run(asyncio.wait_for(_run(conversation, (primary, replica), settings), WITHIN_S))

    return run


async def _run(conversation, servers, settings):
    nodes = tuple(
        NodeSettings(name=name, address=f"127.0.0.1:{server.port}")
        for name, server in zip("abc", servers, strict=False)
    )
    users = settings.pop("users", ())
    gateway = PostgresGateway(
        PostgresSettings(
            listeners=(ListenerSettings(address="127.0.0.1:0"),),
            clusters=(Cluster(name="main", nodes=nodes, monitor_user="postgres"),),
            databases=(Database(name="*", cluster="main"),),
            users=users,
            auth=AuthSettings(method="trust"),
            pool=PoolSettings(mode=settings.pop("mode", "transaction"), size_count=4),
            failover=FailoverSettings(poll_interval_s=0.05),
            **settings,
        )
    )
    server = Server()
    server.add(gateway, gateway.settings.listeners)
    await server.start()
    try:
        room = gateway.rooms["main"]
        await _until(lambda: room.readable() and room.writable() is not None)
        await conversation(gateway, server.listeners[0].address)
    finally:
        await server.stop(timeout_s=0)


async def _until(holds):
    while not holds():  # noqa: ASYNC110 - the gateway tells nobody
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def client(address, **more):
    host, _, port = address.rpartition(":")
    connection = await asyncpg.connect(
        host=host, port=int(port), user="postgres", database="postgres", **more
    )
    try:
        yield connection
    finally:
        await connection.close()


def direct(server):
    return client(f"127.0.0.1:{server.port}")


def _user(route):
    return (User(name="postgres", route=route),)


def test_everything_goes_to_the_primary_by_default(through):
    """Specification 6.7: the default of a new installation; a READ ONLY transaction too."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            assert await one.fetchval(WHERE) is PRIMARY
            async with one.transaction(readonly=True):
                assert await one.fetchval(WHERE) is PRIMARY

    through(conversation)


def test_a_hint_sends_one_statement_and_not_the_next(through):
    """Specification 6.7: a comment in front, in the simple and in the extended query, with nothing configured."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            assert await one.fetchval(f"/* sojourn: replica */ {WHERE}") is REPLICA
            assert await one.fetchval(WHERE) is PRIMARY
            assert await one.fetchval(f"-- sojourn: replica\n{WHERE}") is REPLICA
            await one.execute("/* sojourn: replica */ DO $$ BEGIN ASSERT pg_is_in_recovery(); END $$")
            await one.execute("DO $$ BEGIN ASSERT NOT pg_is_in_recovery(); END $$")

    through(conversation)


def test_a_role_lasts_until_it_is_reset(through):
    """SET sojourn.role: no server knows of it, SHOW tells it, and a wrong word is an error as at a server."""

    async def conversation(gateway, address):
        async with client(address) as one:
            assert await one.execute("SET sojourn.role TO replica") == "SET"
            assert [await one.fetchval(WHERE) for _ in range(3)] == [REPLICA] * 3
            assert await one.execute("SET sojourn.role = 'primary'") == "SET"
            assert await one.fetchval(WHERE) is PRIMARY
            with pytest.raises(asyncpg.InvalidParameterValueError):
                await one.execute("SET sojourn.role TO elsewhere")
            assert await one.execute("RESET sojourn.role") == "RESET"
            assert await one.fetchval(WHERE) is PRIMARY
            assert "sojourn.role" not in next(iter(gateway.pools.values())).primary.idle

    through(conversation)


@pytest.mark.parametrize(
    ("statement", "role"),
    [
        ("SET sojourn.role TO replica", "replica"),
        ("set SESSION Sojourn.Role = 'replica' ;", "replica"),
        ("SET sojourn.role='PRIMARY'", "primary"),
        ("SET sojourn.role TO DEFAULT", "default"),
        ("SET LOCAL sojourn.role TO replica", "default"),
        ("BEGIN; SET sojourn.role TO replica; COMMIT", "replica"),
        ("SELECT 'SET sojourn.role TO replica'", "default"),
    ],
)
def test_show_tells_the_role(through, statement, role):
    """However it is written; as a part of several statements it counts when the server has answered it."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            await one.execute(statement)
            assert await one.fetchval(WHERE) is (role == "replica")
            assert await one.execute("SHOW sojourn.role") == "SHOW"

        def shown():
            psycopg = pytest.importorskip("psycopg")
            host, _, port = address.rpartition(":")
            with psycopg.connect(
                host=host, port=port, user="postgres", dbname="postgres", autocommit=True
            ) as two:
                two.execute(statement)
                return two.execute("SHOW sojourn.role").fetchone()

        assert await asyncio.to_thread(shown) == (role,)

    through(conversation)


def test_a_role_may_come_with_the_login_and_is_what_reset_all_returns_to(through):
    """A startup parameter is a session's default, and RESET ALL goes back to it."""

    async def conversation(_gateway, address):
        async with client(address, server_settings={"sojourn.role": "replica"}) as one:
            assert await one.fetchval(WHERE) is REPLICA
            await one.execute("SET sojourn.role TO primary")
            assert await one.fetchval(WHERE) is PRIMARY
            await one.execute("RESET ALL")
            assert await one.fetchval(WHERE) is REPLICA

    through(conversation)


@pytest.mark.parametrize("is_deferring", [False, True])
def test_a_read_only_transaction_goes_to_a_replica_as_a_whole(through, is_deferring):
    """Specification 6.7: BEGIN READ ONLY; others stay with the primary, where nothing is known of a statement."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            async with one.transaction(readonly=True):
                assert [await one.fetchval(WHERE) for _ in range(3)] == [REPLICA] * 3
            assert await one.fetchval(WHERE) is PRIMARY
            async with one.transaction():
                assert await one.fetchval(WHERE) is PRIMARY

    through(conversation, routing=RoutingSettings(default="replica_reads"), is_deferring_begin=is_deferring)


def test_a_session_that_only_reads_goes_to_a_replica(through):
    """default_transaction_read_only makes every transaction a reading one, until a statement says otherwise."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            await one.execute("SET default_transaction_read_only = on")
            assert await one.fetchval(WHERE) is REPLICA
            await one.execute("SET default_transaction_read_only = off")
            assert await one.fetchval(WHERE) is PRIMARY

    through(conversation, routing=RoutingSettings(default="replica_reads"))


def test_a_user_of_replicas_writes_to_the_primary_after_all(through, site):
    """Specification 6.7, the safety net: 25006 outside a transaction is repeated on the primary, and counted."""

    async def conversation(gateway, address):
        async with client(address) as one:
            assert await one.fetchval(WHERE) is REPLICA
            await one.execute("CREATE TABLE net (n int)")
            await site[2].catch_up()
            write = "WITH new AS (INSERT INTO net VALUES ({}) RETURNING n) SELECT n FROM new"
            await one.execute(write.format(1))
            assert await one.fetchval(write.format("$1"), 2) == 2
            writer = await one.prepare(write.format("$1 + 0"))
            assert [await writer.fetchval(n) for n in (3, 4)] == [3, 4]
            assert gateway.losses["misrouted"] == 4
            await one.execute("INSERT INTO net VALUES ($1)", 5)
            assert (
                gateway.losses["misrouted"] == 4
            )  # where a write is plain to see nobody else is asked first
            assert await one.fetchval("/* sojourn: primary */ SELECT count(*) FROM net") == 5
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with one.transaction():
                    await one.execute("INSERT INTO net VALUES (6)")
            assert await one.fetchval(WHERE) is REPLICA
            await one.execute("DROP TABLE net")

    through(conversation, users=_user("replica"))


def test_a_query_ends_a_batch_that_has_no_sync(through):
    """PostgreSQL section 55.2.3: a Query has its own ReadyForQuery; asyncpg parses with Flush before it copies."""

    async def conversation(gateway, address):
        async with client(address) as one:
            await one.execute("CREATE TABLE IF NOT EXISTS parsed (n int)")
            records = [(n,) for n in range(1000)]
            assert await one.copy_records_to_table("parsed", records=records) == "COPY 1000"
            assert next(iter(gateway.pools.values())).busy_count == 0
            await one.execute("DROP TABLE parsed")

    through(conversation)


def test_data_that_came_before_the_refusal_are_not_sent_again(through, site):
    """COPY data are not kept: a COPY that a replica refuses is told to the client, and the session goes on."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            await one.execute("CREATE TABLE late (n int)")
            await site[2].catch_up()
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await one.copy_records_to_table("late", records=[(n,) for n in range(1000)])
            assert await one.fetchval("/* sojourn: primary */ SELECT count(*) FROM late") == 0
            await one.execute("DROP TABLE late")

    through(conversation, users=_user("replica"))


def test_copy_and_listen_of_a_user_of_replicas_go_to_the_primary(through, site):
    """A replica refuses both before it does anything; LISTEN keeps the primary for its session."""

    async def conversation(_gateway, address):
        async with client(address) as one, client(address) as other:
            await one.execute("CREATE TABLE loaded (n int)")
            await site[2].catch_up()
            rows = io.BytesIO(b"7\n" * 1000)
            assert await one.copy_to_table("loaded", source=rows) == "COPY 1000"
            await site[2].catch_up()
            assert await one.fetchval("SELECT count(*) FROM loaded") == 1000
            heard = asyncio.Event()
            await one.add_listener("news", lambda *_: heard.set())
            assert await one.fetchval(WHERE) is PRIMARY
            await other.execute("NOTIFY news")
            await heard.wait()
            await one.execute("DROP TABLE loaded")

    through(conversation, users=_user("replica"))


def test_a_session_of_a_user_of_replicas_lives_on_one(through):
    """Session pooling: the server is chosen at the login and kept, also for what it refuses."""

    async def conversation(_gateway, address):
        async with client(address) as one:
            assert await one.fetchval(WHERE) is REPLICA
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await one.execute("CREATE TABLE never (n int)")
            assert await one.fetchval(WHERE) is REPLICA

    through(conversation, users=_user("replica"), mode="session")


def test_the_classifier_sends_what_only_reads(through):
    """Specification 6.7: single SELECTs without locks and unknown functions; the rest goes to the primary."""
    pytest.importorskip("pglast")

    async def conversation(_gateway, address):
        async with client(address) as one:
            assert await one.fetchval("SELECT current_setting('transaction_isolation')") == "read committed"
            gone = await one.fetchval("SELECT $1::int + 1", 2)
            assert gone == 3
            assert await one.fetchval(WHERE) is PRIMARY
            pool = next(iter(_gateway.pools.values()))
            answered = {
                place.node.name: sum(one.queries for one in place.servers) for place in pool.places.values()
            }
            assert answered["b"] >= 2

    through(conversation, routing=RoutingSettings(default="replica_reads", classifier=True))


def test_a_client_reads_what_it_has_written(through):
    """Specification 6.7, read your writes: the primary answers until a replica has come as far as the commit."""

    async def conversation(gateway, address):
        async with client(address) as one:
            await one.execute("/* sojourn: primary */ CREATE TABLE own (n int)")
            for n in range(1, 30):
                await one.execute(f"/* sojourn: primary */ INSERT INTO own VALUES ({n})")
                assert await one.fetchval("SELECT count(*) FROM own") == n
            seen = PRIMARY
            while seen is PRIMARY:
                seen = await one.fetchval(WHERE)
            assert await one.fetchval("SELECT count(*) FROM own") == 29
            await one.execute("DROP TABLE own")

    through(conversation, users=_user("replica"), routing=RoutingSettings(read_your_writes=True))


def test_a_write_waits_for_the_reads_that_were_sent_before_it(through):
    """Pipelining: requests are answered in order, each by the server that is right for it."""
    psycopg = pytest.importorskip("psycopg")

    def pipelined(address):
        host, _, port = address.rpartition(":")
        role = "-c sojourn.role=replica"
        where = {"host": host, "port": port, "user": "postgres", "dbname": "postgres", "options": role}
        with psycopg.connect(**where, autocommit=True) as one, one.pipeline() as pipeline:
            cursors = []
            for sql in (WHERE, f"/* sojourn: primary */ {WHERE}", WHERE):
                cursors.append(one.execute(sql))
                pipeline.sync()
            return [cursor.fetchone()[0] for cursor in cursors]

    async def conversation(_gateway, address):
        seen = await asyncio.to_thread(pipelined, address)
        assert seen[1] is PRIMARY
        assert len(seen) == 3

    through(conversation)


def test_two_replicas_share_the_reads_and_one_that_lags_gets_none(site):
    """Specification 6.7: the fewest requests under way decide; beyond the lag limit nobody reads."""
    runner, primary, replica = site
    second = runner.run(primary.replica(port=0))

    async def conversation(gateway, address):
        room = gateway.rooms["main"]
        await _until(lambda: len(room.readable()) == 2)
        async with contextlib.AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(client(address)) for _ in range(4)]
            for reader in readers:
                await reader.execute("BEGIN READ ONLY")
            counts = [one.outstanding_count for one in room._candidates]
            assert counts == [0, 2, 2]
            for reader in readers:
                await reader.execute("COMMIT")
            for node in room.readable():
                node.lag_bytes = 10_000
            # Without a wait in between, in which the monitor would see that they have caught up.
            assert room.chooser.choose(list(room._candidates[1:])) is None

    settings = {"users": _user("replica"), "routing": RoutingSettings(max_lag_bytes=5000)}
    try:
        runner.run(asyncio.wait_for(_run(conversation, (primary, replica, second), settings), WITHIN_S))
    finally:
        runner.run(second.stop())


def test_reads_go_on_at_the_primary_when_the_replica_dies(through, site):
    """Retry table, a single read that was not answered: repeated; the client sees a slow answer and no error."""
    runner, primary, _ = site
    replica = runner.run(primary.replica(port=0))

    async def conversation(gateway, address):
        async with client(address) as one, client(address) as other:
            assert await one.fetchval(WHERE) is REPLICA
            sql = "SELECT pg_is_in_recovery() FROM pg_sleep($1)"
            sleeper = await one.prepare(sql)
            assert await sleeper.fetchval(0) is REPLICA
            async with asyncio.TaskGroup() as group:
                # The second is parsed in the batch that is lost, which the driver cuts in two by Flush.
                sleeping = [group.create_task(work) for work in (sleeper.fetchval(2), other.fetchval(sql, 2))]
                async with direct(replica) as looking:
                    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                    while await looking.fetchval(asleep) < 2:
                        pass
                await replica.crash()
            assert [task.result() for task in sleeping] == [PRIMARY, PRIMARY]
            assert await other.fetchval(WHERE) is PRIMARY
            assert gateway.losses["read_unanswered"] == 2

    try:
        runner.run(
            asyncio.wait_for(_run(conversation, (primary, replica), {"users": _user("replica")}), WITHIN_S)
        )
    finally:
        runner.run(replica.stop())
