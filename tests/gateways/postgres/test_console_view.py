"""The console of the real engine: its tables show what is there, its orders are carried out on pools and clients."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import struct

import asyncpg
import psycopg
import pytest
from console_lab import psql
from gateway_lab import GatewayLab, events_of, gateway_lab

from sojourn.core.secret import Secret
from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.client_session import Holds
from sojourn.gateways.postgres.config import AuthSettings, ClientTls, ConsoleSettings, User
from sojourn.gateways.postgres.console.shows import TABLES


class _ConsoleOf:
    """What psql needs to know of a console."""

    def __init__(self, lab: GatewayLab) -> None:
        self.dsn = functools.partial(lab.dsn, "sojourn")


def test_every_table_can_be_shown_with_psql(run):
    """Issue 3: the console is spoken to with psql; every SHOW of the help answers."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            await client.execute("SELECT 1", prepare=True)
            for table in TABLES:
                done, _, errors = await psql(_ConsoleOf(lab), f"SHOW {table}", user="postgres")  # type: ignore[arg-type]  # it has a dsn too
                assert done == 0, f"{table}: {errors}"

    run(scenario())


def test_pools_and_servers_show_who_uses_them(run):
    """PgBouncer usage: a client in a transaction is active and linked to its server, one that waits is waiting."""

    async def scenario():
        async with gateway_lab(pool={"size_count": 1}) as lab:
            first, second = await lab.connect(), await lab.connect()
            async with first.transaction():
                await first.execute("SELECT 1")
                waiting = asyncio.ensure_future(second.execute("SELECT 2"))
                await lab.until(lambda: any(one.waits_since for one in lab.clients()))
                (pool,) = await lab.console("SHOW POOLS")
                assert (pool["database"], pool["user"], pool["pool_mode"]) == (
                    "postgres",
                    "postgres",
                    "transaction",
                )
                assert (pool["cl_active"], pool["cl_waiting"], pool["sv_active"], pool["sv_idle"]) == (
                    1,
                    1,
                    1,
                    0,
                )
                assert pool["node"] == "db-1"
                clients = {row["state"]: row for row in await lab.console("SHOW CLIENTS")}
                (server,) = await lab.console("SHOW SERVERS")
                assert clients["active"]["link"] == server["ptr"]
                assert server["link"] == clients["active"]["ptr"]
                assert clients["waiting"]["waits_for"] == "a server"
            await waiting
            (pool,) = await lab.console("SHOW POOLS")
            assert (pool["cl_active"], pool["cl_waiting"], pool["sv_active"], pool["sv_idle"]) == (2, 0, 0, 1)

    run(scenario())


def test_a_client_that_has_left_is_counted_no_more(run):
    """SHOW POOLS counts who is there: clients that said goodbye, and clients that were cut off, are not."""

    async def scenario():
        async with gateway_lab() as lab:
            clients = [await lab.connect() for _ in range(3)]
            await clients[0].execute("SELECT 1")
            assert (await lab.console("SHOW POOLS"))[0]["cl_active"] == 3
            await clients[0].close()
            clients[1].pgconn.finish()
            await lab.until(lambda: len(lab.clients()) == 1)
            assert (await lab.console("SHOW POOLS"))[0]["cl_active"] == 1
            await lab.until(lambda: len(lab.gateway.cancel_keys._clients) == 1)

    run(scenario())


def test_stats_count_what_went_through_also_over_servers_that_are_gone(run):
    """PgBouncer usage: totals grow for the life of the process."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            for _ in range(3):
                await client.execute("SELECT 1")
            await lab.console("RECONNECT postgres")
            await client.execute("SELECT 1")
            (row,) = await lab.console("SHOW STATS_TOTALS")
            assert (row["query_count"], row["xact_count"]) == (4, 4)
            assert row["bytes_received"] > 0
            assert row["bytes_sent"] > 0
            assert row["query_time"] > 0

    run(scenario())


def test_a_pinned_client_says_why(run):
    """Issue 3: an operator sees why a client keeps its server; a remembered failure is seen, too."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            await client.execute("CREATE TEMPORARY TABLE cart (id int)")
            (row,) = await lab.console("SHOW CLIENTS")
            assert "cart" in row["pinned"]
            with pytest.raises(psycopg.errors.DivisionByZero):
                await client.execute("SELECT 1/0")
            (statement,) = await lab.console("SHOW STATEMENTS")
            assert (statement["outcome"], statement["sqlstate"]) == ("failed", "22012")
            assert statement["client"] == row["id"]
            assert "1" not in statement["statement"]

    run(scenario())


def test_pause_waits_for_transactions_and_holds_new_ones_until_resume(run):
    """PgBouncer usage, PAUSE: it returns when servers are released; clients stay connected and wait."""

    async def scenario():
        async with gateway_lab() as lab:
            client, other = await lab.connect(), await lab.connect()
            async with client.transaction():
                await client.execute("SELECT 1")
                pausing = asyncio.ensure_future(lab.console("PAUSE postgres"))
                await lab.until(lambda: "postgres" in lab.gateway.paused)
                held = asyncio.ensure_future(other.execute("SELECT 2"))
                await lab.until(lambda: any(one.waits_since for one in lab.clients()))
                assert (await client.execute("SELECT 3")).rowcount == 1
                assert not pausing.done()
            await pausing
            assert await lab.console("SHOW SERVERS") == []
            waiting = [
                row["waits_for"] for row in await lab.console("SHOW CLIENTS") if row["state"] == "waiting"
            ]
            assert waiting == ["RESUME"]
            assert not held.done()
            late = asyncio.ensure_future(lab.connect(user="newcomer"))
            await lab.until(lambda: len(lab.clients()) == 3)
            await lab.console("RESUME postgres")
            assert (await held).rowcount == 1
            with pytest.raises(psycopg.OperationalError, match="newcomer"):
                await late

    run(scenario())


def test_a_pause_that_somebody_else_resumes_ends(run):
    """RESUME ends PAUSE, also one that still waits: its operator is told so, and not left to wait for ever."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            async with client.transaction():
                await client.execute("SELECT 1")
                for name in ("", " postgres"):
                    pausing = asyncio.ensure_future(lab.console(f"PAUSE{name}"))
                    await lab.until(lambda: bool(lab.gateway.paused))
                    await lab.console(f"RESUME{name}")
                    with pytest.raises(psycopg.errors.QueryCanceled, match="RESUME was ordered"):
                        await pausing

    run(scenario())


def test_who_waits_for_the_first_server_of_a_pool_is_shown_and_counted(run):
    """PgBouncer usage, SHOW POOLS: cl_waiting has logins that wait for a server; an alarm on it must not be blind."""

    async def scenario():
        async with gateway_lab() as lab:
            await lab.console("PAUSE")
            connecting = asyncio.ensure_future(lab.connect())
            await lab.until(lambda: len(lab.clients()) == 1)
            (pool,) = await lab.console("SHOW POOLS")
            assert (pool["cl_active"], pool["cl_waiting"]) == (0, 1)
            assert pool["maxwait"] * 1_000_000 + pool["maxwait_us"] > 0
            (client,) = await lab.console("SHOW CLIENTS")
            assert (client["state"], client["waits_for"]) == ("waiting", "RESUME")
            figures = {name: value for name, _, value in lab.gateway.counters()}
            assert figures["sojourn_postgres_clients_waiting"] == 1
            await lab.console("RESUME")
            await (await connecting).execute("SELECT 1")
            (pool,) = await lab.console("SHOW POOLS")
            assert (pool["cl_active"], pool["cl_waiting"], pool["maxwait_us"]) == (1, 0, 0)

    run(scenario())


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ("SWITCHOVER main", "no replica can take over"),
        ("SWITCHOVER main TO db-1", "db-1 is PRIMARY"),
        ("SWITCHOVER main TO db-7", "db-7 is no node of it"),
    ],
)
def test_a_switchover_that_cannot_be_says_why(run, order, why):
    """Issue 3, SWITCHOVER: what an operator can mend is named."""

    async def scenario():
        async with gateway_lab() as lab:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=why):
                await lab.console(order)

    run(scenario())


def test_a_database_that_nobody_has_used_can_be_paused(run):
    """PAUSE is for the database: pools that come later are held as well."""

    async def scenario():
        async with gateway_lab() as lab:
            await lab.console("PAUSE")
            assert (await lab.console("SHOW STATE"))[1]["value"] == "yes"
            connecting = asyncio.ensure_future(lab.connect())
            await lab.until(lambda: len(lab.gateway.pools) == 1)
            assert await lab.console("SHOW SERVERS") == []
            await lab.console("RESUME")
            assert (await (await connecting).execute("SELECT 1")).rowcount == 1

    run(scenario())


def test_one_database_is_not_resumed_while_all_are_paused(run):
    """RESUME with a name ends a PAUSE of that name; whoever means another one is told so, and it is held on."""

    async def scenario():
        async with gateway_lab() as lab:
            await lab.console("PAUSE")
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="all databases are paused"):
                await lab.console("RESUME postgres")
            assert lab.gateway.paused == {"*"}
            await lab.console("RESUME")
            await lab.console("RESUME postgres")

    run(scenario())


def test_an_operator_can_give_up_waiting(run):
    """A cancel request with the console's key ends PAUSE with 57014; the database stays paused."""

    async def scenario():
        async with gateway_lab() as lab:
            client, operator = await lab.connect(), await lab.connect("sojourn")
            async with client.transaction():
                await client.execute("SELECT 1")
                pausing = asyncio.ensure_future(operator.execute("PAUSE"))
                await lab.until(lambda: lab.gateway.paused == {"*"})
                await operator.cancel_safe()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    await pausing
            await operator.execute("RESUME")
            await client.execute("SELECT 1")

    run(scenario())


def test_disable_refuses_new_clients_and_leaves_the_others(run):
    """PgBouncer usage, DISABLE: rejects all new client connections on the database."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            await lab.console("DISABLE postgres")
            with pytest.raises(psycopg.OperationalError, match="disabled"):
                await lab.connect()
            await client.execute("SELECT 1")
            assert (await lab.console("SHOW DATABASES"))[0]["disabled"] == 1
            await lab.console("ENABLE postgres")
            await (await lab.connect()).execute("SELECT 1")

    run(scenario())


def test_kill_drops_clients_and_servers_and_stays_paused(run):
    """PgBouncer usage, KILL: drops all client and server connections of the database at once."""

    async def scenario():
        async with gateway_lab() as lab:
            idle, busy, other = await lab.connect(), await lab.connect(), await lab.connect("template1")
            sleeping = asyncio.ensure_future(busy.execute("SELECT pg_sleep(60)"))
            await lab.until(lambda: any(one.server is not None for one in lab.clients()))
            await lab.console("KILL postgres")
            with pytest.raises(psycopg.errors.AdminShutdown):
                await sleeping
            with pytest.raises(psycopg.errors.AdminShutdown):
                await idle.execute("SELECT 1")
            await other.execute("SELECT 1")
            assert {row["database"] for row in await lab.console("SHOW SERVERS")} == {"template1"}
            paused = {row["name"]: row["paused"] for row in await lab.console("SHOW DATABASES")}
            assert paused == {"postgres": 1, "template1": 0}
            await lab.console("RESUME postgres")
            await (await lab.connect()).execute("SELECT 1")

    run(scenario())


def test_kill_client_drops_one_by_its_id(run):
    """PgBouncer usage, KILL_CLIENT: the id is that of SHOW CLIENTS; an id of nobody is an error."""

    async def scenario():
        async with gateway_lab() as lab:
            client, other = await lab.connect(), await lab.connect()
            await client.execute("SET application_name = 'victim'")
            rows = await lab.console("SHOW CLIENTS")
            (number,) = [row["id"] for row in rows if row["application_name"] == "victim"]
            await lab.console(f"KILL_CLIENT {number}")
            with pytest.raises(psycopg.errors.AdminShutdown):
                await client.execute("SELECT 1")
            await other.execute("SELECT 1")
            with pytest.raises(psycopg.errors.UndefinedObject):
                await lab.console(f"KILL_CLIENT {number}")

    run(scenario())


def test_reconnect_replaces_servers_when_they_are_free_and_wait_close_waits_for_that(run):
    """PgBouncer usage, RECONNECT and WAIT_CLOSE: a transaction ends on its old server, the next has a new one."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            async with client.transaction():
                (old,) = await (await client.execute("SELECT pg_backend_pid()")).fetchone()
                await lab.console("RECONNECT")
                waiting = asyncio.ensure_future(lab.console("WAIT_CLOSE"))
                (same,) = await (await client.execute("SELECT pg_backend_pid()")).fetchone()
                assert same == old
                assert (await lab.console("SHOW SERVERS"))[0]["close_needed"] == 1
                assert not waiting.done()
            await waiting
            (new,) = await (await client.execute("SELECT pg_backend_pid()")).fetchone()
            assert new != old

    run(scenario())


def test_a_setting_is_changed_until_the_next_reload(run):
    """PgBouncer usage, SET: PgBouncer's name of the setting, a value that is checked."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            await lab.console("SET default_pool_size = 7")
            config = {row["key"]: row for row in await lab.console("SHOW CONFIG")}
            assert (config["default_pool_size"]["value"], config["default_pool_size"]["default"]) == (
                "7",
                "20",
            )
            await client.execute("SELECT 1")
            assert next(iter(lab.gateway.pools.values())).size == 7
            for order, wanted in (
                ("default_pool_size = 'many'", "A whole number, 1 or more, 100000 at most."),
                ("default_pool_size = 0", "A whole number, 1 or more, 100000 at most."),
                ("server_lifetime = soon", "A number of seconds, 0 or more."),
                ("server_lifetime = inf", "A number of seconds, 0 or more."),
                ("audit = maybe", "One of log, off, pin."),
            ):
                with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
                    await lab.console(f"SET {order}")
                assert refused.value.diag.message_hint == wanted
            with pytest.raises(psycopg.errors.CantChangeRuntimeParam):
                await lab.console("SET auth_type = 'trust'")

    run(scenario())


def test_an_audit_finds_what_a_session_holds_without_our_knowledge(run):
    """Issue 3, AUDIT: sessions on servers and free servers are compared with what PostgreSQL says."""

    async def scenario():
        async with gateway_lab("session") as lab:
            client = await lab.connect()
            await client.execute("SET work_mem = '5MB'")
            assert await lab.console("AUDIT") == []
            session = next(one for one in lab.clients() if one.pool is not None)
            session.holding.forget_all()
            (row,) = await lab.console("AUDIT postgres")
            assert (row["kind"], row["name"], row["tracked"]) == ("setting", "work_mem", None)
            assert row["client"] == session.number
            assert (await client.execute("SELECT 1")).rowcount == 1

    run(scenario())


def test_a_free_server_that_holds_something_is_found_and_given_back(run):
    """Issue 3, AUDIT: a server that nobody uses must hold nothing of anybody."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            await client.execute("SELECT 1")
            (server,) = next(iter(lab.gateway.pools.values())).servers()
            await server.query("LISTEN secrets")
            (row,) = await lab.console("AUDIT")
            assert (row["client"], row["kind"], row["name"]) == (0, "channel", "secrets")
            assert (await client.execute("SELECT 2")).rowcount == 1

    run(scenario())


@pytest.mark.parametrize("mode", ["log", "pin"])
def test_the_setting_audit_compares_after_every_change_of_a_session(mode, run):
    """Issue 3, audit mode: a difference is told as an event; with ``pin`` the client keeps its server."""

    async def scenario():
        async with gateway_lab(settings={"audit": mode}) as lab:
            with events_of(lab, "postgres.audit") as differences:
                client = await lab.connect()
                await client.execute("SET work_mem = '5MB'")
                lab.server.events.flush()
                assert differences == []
                session = next(one for one in lab.clients())
                await client.execute("SELECT 1")
                (server,) = session.pool.servers()
                await server.query("LISTEN unseen")
                await client.execute("SET work_mem = '6MB'")
                (shown,) = await (await client.execute("SHOW work_mem")).fetchone()
                assert shown == "6MB"
                await client.execute("SELECT 1")  # behind whatever SHOW has led to, which is nothing
                lab.server.events.flush()
                assert [one["difference"] for one in differences] == [
                    "channel unseen: on the server, but not tracked"
                ]
                assert bool(session.holds & Holds.SESSION) == (mode == "pin")

    run(scenario())


def test_only_listed_users_may_come_in(run):
    """Issue 3: admin_users may do everything, stats_users may look, and with nobody listed nobody may."""

    async def scenario():
        async with gateway_lab() as lab:
            assert await lab.console("SHOW POOLS", user="viewer") == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await lab.console("PAUSE", user="viewer")
            with pytest.raises(psycopg.OperationalError, match="stats_users"):
                await lab.console("SHOW POOLS", user="stranger")
        async with gateway_lab(settings={"console": ConsoleSettings()}) as lab:
            with pytest.raises(psycopg.OperationalError, match="nobody may"):
                await lab.console("SHOW POOLS")

    run(scenario())


def test_an_operator_proves_who_it_is(run):
    """The console has the same methods as databases have: with SCRAM a wrong password lets nobody in."""
    users = (User(name="postgres", password=Secret("right")),)
    settings = {"auth": AuthSettings(method="scram-sha-256"), "users": users}

    async def scenario():
        async with gateway_lab(settings=settings) as lab:
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                await psycopg.AsyncConnection.connect(lab.dsn("sojourn") + " password=wrong")
            operator = await psycopg.AsyncConnection.connect(
                lab.dsn("sojourn") + " password=right", autocommit=True
            )
            await operator.execute("SHOW VERSION")
            await operator.close()

    run(scenario())


def test_the_console_is_there_inside_tls_and_shows_who_uses_it(run, tmp_path):
    """The login before the console is that of any client: TLS is asked for inside the protocol."""
    identity = ThrowAwayAuthority(tmp_path).issue("gateway", ("127.0.0.1",))
    tls = ClientTls(
        mode="require",
        certificate_file=str(identity.certificate_file),
        private_key_file=str(identity.private_key_file),
    )

    async def scenario():
        async with gateway_lab(settings={"tls": tls}) as lab:
            clients = [
                await psycopg.AsyncConnection.connect(
                    lab.dsn(database).replace("sslmode=disable", "sslmode=require"), autocommit=True
                )
                for database in ("postgres", "sojourn")
            ]
            await clients[0].execute("SELECT 1")
            rows = await (await clients[1].execute("SHOW CLIENTS")).fetchall()
            assert any("TLSv1" in str(value) for value in rows[0])
            for client in clients:
                await client.close()

    run(scenario())


def test_an_operator_is_in_the_registry_and_not_among_the_clients(run):
    """The registry knows every session; SHOW CLIENTS is about clients of databases."""

    async def scenario():
        async with gateway_lab() as lab:
            operator = await lab.connect("sojourn")
            (row,) = lab.server.registry.snapshots(state="live")
            assert row.about == "postgres@sojourn"
            assert (await (await operator.execute("SHOW CLIENTS")).fetchall()) == []
            assert lab.server.registry.close(row.id)
            with pytest.raises(psycopg.errors.AdminShutdown):
                await operator.execute("SHOW POOLS")

    run(scenario())


def test_a_command_may_be_longer_than_a_startup_packet(run):
    """The limit of 10000 bytes is for strangers; an operator's own is a mebibyte, and above it the end."""

    async def scenario():
        async with gateway_lab() as lab:
            comment = "x" * 50_000
            assert await lab.console(f"/* {comment} */ SHOW POOLS") == []
            reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
            writer.write(wire.startup_message({"user": "postgres", "database": "sojourn"}))
            writer.write(b"Q" + struct.pack("!i", 1 << 21))
            told = await reader.read()
            assert b"limit is exceeded" in told
            writer.close()

    run(scenario())


async def _drained(lab: GatewayLab) -> None:
    await lab.server.managers["postgres"].drain(20.0)


def test_a_drain_ends_idle_clients_and_operators_at_once(run):
    """Drain: a client between transactions gets FATAL 57P01; a console command that waits does not hold it up."""

    async def scenario():
        async with gateway_lab() as lab:
            client, operator = await lab.connect(), await lab.connect("sojourn")
            await client.execute("SELECT 1")
            await asyncio.wait_for(_drained(lab), 5.0)
            for gone in (client, operator):
                with pytest.raises(psycopg.errors.AdminShutdown):
                    await gone.execute("SHOW server_version")

    run(scenario())


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_drain_lets_a_transaction_end(mode, run):
    """Drain: a client inside a transaction goes on until its COMMIT is answered, then it is closed."""

    async def scenario():
        async with gateway_lab(mode) as lab:
            client, other = await lab.connect(), await lab.connect()
            await other.execute("CREATE TABLE kept (id int)")
            await client.execute("BEGIN")
            await client.execute("INSERT INTO kept VALUES (1)")
            draining = asyncio.ensure_future(_drained(lab))
            await lab.until(lambda: len(lab.clients()) == 1)
            await client.execute("INSERT INTO kept VALUES (2)")
            assert not draining.done()
            await client.execute("COMMIT")
            await draining
            with pytest.raises(psycopg.OperationalError):  # libpq may have read the reason while idle
                await client.execute("SELECT 1")
            direct = await asyncpg.connect(lab.postgres.dsn())
            assert await direct.fetchval("SELECT count(*) FROM kept") == 2
            await direct.close()

    run(scenario())


def test_a_drain_comes_between_the_transactions_of_a_client_that_never_rests(run):
    """Drain: the end of each transaction is looked at, not only what a sweep happens to see."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            direct = await asyncpg.connect(lab.postgres.dsn())
            await direct.execute("CREATE TABLE counted (id int)")
            committed = 0
            at_work = False

            async def work():
                nonlocal committed, at_work
                while True:
                    await client.execute("BEGIN")
                    at_work = True
                    await client.execute("INSERT INTO counted VALUES (1)")
                    await client.execute("COMMIT")
                    committed += 1
                    at_work = False

            working = asyncio.ensure_future(work())
            await lab.until(lambda: committed > 3)
            await _drained(lab)
            with pytest.raises(psycopg.OperationalError):
                await working
            assert not at_work, "a transaction was broken"
            assert await direct.fetchval("SELECT count(*) FROM counted") == committed
            await direct.close()

    run(scenario())


def test_shutdown_for_clients_lets_nobody_in_and_ends_with_the_last(run):
    """PgBouncer usage, SHUTDOWN WAIT_FOR_CLIENTS: stop accepting, end when the last client has gone."""

    async def scenario():
        async with gateway_lab() as lab:
            client = await lab.connect()
            await lab.console("SHUTDOWN WAIT_FOR_CLIENTS")
            with contextlib.suppress(OSError):
                await asyncio.open_connection("127.0.0.1", lab.port)
                pytest.fail("somebody was let in")
            await client.execute("SELECT 1")
            assert not lab.server._stop_asked.is_set()
            await client.close()
            await lab.server._stop_asked.wait()

    run(scenario())
