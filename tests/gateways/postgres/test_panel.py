"""The postgres gateway's page through the admin API, before a real PostgreSQL: every operation, and who may do it."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

import psycopg
import pytest
from failover_lab import running_failover_lab
from gateway_lab import gateway_lab
from panel_lab import UNKNOWN, panel_api

from sojourn.core.manager import ConnectionManager
from sojourn.gateways.postgres import panel
from sojourn.gateways.postgres.config import Database, QueryLogSettings

SCRIPT = "<script>alert(1)</script>"


@contextlib.asynccontextmanager
async def asking(folder, mode="transaction", **options):
    """Run a server, a gateway and the API."""
    async with gateway_lab(mode, **options) as lab, panel_api(lab.server, "postgres", folder) as api:
        yield lab, api


def test_the_state_tells_clusters_and_their_nodes(run, tmp_path):
    """One node that is the primary, and nothing that befell it."""

    async def scenario():
        async with asking(tmp_path) as (lab, api):
            await (await lab.connect()).execute("SELECT 1")
            state = await api.get("/state")
            (cluster,), (node,) = state["clusters"], state["nodes"]
            assert (cluster["cluster"], cluster["state"], cluster["primary"]) == ("main", "NORMAL", "db-1")
            assert (node["node"], node["state"], node["port"]) == ("db-1", "PRIMARY", lab.postgres.port)
            assert node["servers"] == 1
            assert node["lag_bytes"] is None
            assert (state["failovers"], state["losses"], state["missing"]) == ([], [], "")

    run(scenario())


def test_pools_are_told_with_those_first_where_clients_wait(run, tmp_path):
    """Who waits matters most; the totals are those of each database."""

    async def scenario():
        async with asking(tmp_path, pool={"size_count": 1}) as (lab, api):
            await (await lab.connect("template1")).execute("SELECT 1")
            first, second = await lab.connect(), await lab.connect()
            async with first.transaction():
                await first.execute("SELECT 1")
                waiting = asyncio.ensure_future(second.execute("SELECT 2"))
                await lab.until(lambda: any(one.waits_since for one in lab.clients()))
                told = await api.get("/pools")
            await waiting
            assert [(row["database"], row["cl_waiting"]) for row in told["pools"]] == [
                ("postgres", 1),
                ("template1", 0),
            ]
            assert {row["name"] for row in told["databases"]} == {"postgres", "template1"}
            assert {row["database"]: row["query_count"] for row in told["totals"]} == {
                "postgres": 2,
                "template1": 1,
            }
            assert (told["more"], told["missing"]) == (0, "")

    run(scenario())


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_transactions_together_take_no_longer_than_there_was_time(run, tmp_path, mode):
    """A client that keeps its server does one transaction after the other; the time between them is in none."""

    async def scenario():
        async with asking(tmp_path, mode) as (lab, api):
            client = await lab.connect()
            began = monotonic()
            for _ in range(30):
                await client.execute("SELECT 1")
            async with client.transaction():
                await client.execute("SELECT 1")
                await client.execute("SELECT pg_sleep(0.05)")
            async with client.pipeline():
                for _ in range(10):
                    await client.execute("SELECT 1")
            elapsed_us = (monotonic() - began) * 1e6
            (row,) = (await api.get("/pools"))["totals"]
            assert 50_000 <= row["xact_time"] <= elapsed_us
            assert row["query_time"] <= row["xact_time"] * 1.01

    run(scenario())


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_overview_counts_what_is_relayed(run, tmp_path, mode):
    """Requests and answers go past the core's connections; they count all the same, and never backwards."""

    async def scenario():
        async with asking(tmp_path, mode) as (lab, api):
            before = await api.overview("postgres")
            client = await lab.connect()
            for _ in range(5):
                await client.execute("SELECT repeat('x', 1000)")
            row = await api.overview("postgres")
            assert row["sessions_opened"] == 1
            assert (row["packets_in"] - before["packets_in"], row["packets_out"] - before["packets_out"]) == (
                5,
                5,
            )
            assert row["bytes_in"] > 5 * len("SELECT repeat('x', 1000)")
            assert row["bytes_out"] > 5_000
            manager: ConnectionManager = lab.server.managers["postgres"]
            assert manager.packets_in == row["packets_in"]
            await client.close()
            await lab.until(lambda: not lab.clients())
            for pool in lab.gateway.pools.values():
                for server in pool.servers():
                    server.close("the test wants it so")
            await lab.until(lambda: not any(pool.count() for pool in lab.gateway.pools.values()))
            lab.gateway.pools.forget_unused()
            assert not lab.gateway.pools
            after = await api.overview("postgres")
            assert (after["packets_in"], after["bytes_out"]) == (row["packets_in"], row["bytes_out"])

    run(scenario())


def test_servers_are_told_busy_ones_first_and_by_database(run, tmp_path):
    """A filter that nothing fits leaves nothing; one that is too long is refused."""

    async def scenario():
        async with asking(tmp_path) as (lab, api):
            await (await lab.connect("template1")).execute("SELECT 1")
            busy = await lab.connect()
            async with busy.transaction():
                await busy.execute("SELECT 1")
                told = await api.get("/servers")
            assert [(row["database"], row["state"]) for row in told["servers"]] == [
                ("postgres", "active"),
                ("template1", "idle"),
            ]
            pid = await (await busy.execute("SELECT pg_backend_pid()")).fetchone()
            (only,) = (await api.get("/servers", database="postgres"))["servers"]
            assert only["node"] == "db-1"
            assert only["remote_pid"] > 0
            assert pid is not None
            assert (await api.get("/servers", database=UNKNOWN))["servers"] == []
            assert await api.status("GET", "/servers", params={"database": "x" * 129}) == 400

    run(scenario())


def test_no_list_is_longer_than_its_bound(run, tmp_path, monkeypatch):
    """What does not fit is counted."""
    monkeypatch.setattr(panel, "ROWS_COUNT", 1)

    async def scenario():
        async with asking(tmp_path) as (lab, api):
            for database in ("postgres", "template1"):
                client = await lab.connect(database)
                await client.execute("SELECT 1")
                with pytest.raises(psycopg.Error):
                    await client.execute("SELECT 1/0")
            pools, servers = await api.get("/pools"), await api.get("/servers")
            assert (len(pools["pools"]), pools["more"]) == (1, 1)
            assert (len(servers["servers"]), servers["more"]) == (1, 1)
            assert len((await api.get("/statements"))["statements"]) == 1

    run(scenario())


def test_slow_and_failed_statements_are_told_without_their_values(run, tmp_path):
    """The newest first; searched by text, user and outcome, whatever the case."""
    settings = {"query_log": QueryLogSettings(slow_ms=100)}

    async def scenario():
        async with asking(tmp_path, settings=settings) as (lab, api):
            client = await lab.connect()
            await client.execute("SELECT pg_sleep(0.12), 'hunter2'")
            with pytest.raises(psycopg.Error):
                await client.execute(f'SELECT "{SCRIPT}"')
            failed, slow = (await api.get("/statements"))["statements"]
            assert (failed["outcome"], failed["sqlstate"]) == ("failed", "42703")
            assert SCRIPT in failed["statement"]
            assert (slow["outcome"], slow["user"], slow["node"]) == ("slow", "postgres", "db-1")
            assert slow["duration_us"] >= 120_000
            assert "hunter2" not in slow["statement"]
            found = await api.get("/statements", search="PG_SLEEP")
            assert [row["outcome"] for row in found["statements"]] == ["slow"]
            assert (await api.get("/statements", search=UNKNOWN))["statements"] == []
            assert await api.status("GET", "/statements", params={"search": "x" * 201}) == 400

    run(scenario())


def test_a_slow_statement_has_its_text_however_it_was_sent(run, tmp_path):
    """Simple, extended, and by a name that is parsed in the same request or was long before."""
    settings = {"query_log": QueryLogSettings(slow_ms=1)}

    async def scenario():
        async with asking(tmp_path, settings=settings) as (lab, api):
            client = await lab.connect()
            await client.execute("SELECT pg_sleep(0.01)")
            await client.execute("SELECT pg_sleep(%s)", (0.01,))
            for _ in range(3):
                await client.execute("SELECT pg_sleep(0.01)", prepare=True)
            async with client.pipeline():
                await client.execute("SELECT pg_sleep(0.01)", prepare=True)
            told = (await api.get("/statements"))["statements"]
            assert len(told) >= 6
            assert {row["statement"] for row in told} <= {"SELECT pg_sleep(?)", "SELECT pg_sleep($1)"}

    run(scenario())


def test_a_pause_lets_clients_wait_until_it_is_ended(run, tmp_path):
    """Its order and its end are for those who may operate; nothing is lost."""

    async def scenario():
        async with asking(tmp_path) as (lab, api):
            client = await lab.connect()
            await client.execute("SELECT 1")
            for order in ("pause", "resume", "reconnect"):
                assert await api.status("POST", f"/databases/postgres/{order}") == 403
            assert await api.status("POST", "/databases/postgres/pause", "operate") == 204
            (database,) = (await api.get("/pools"))["databases"]
            assert database["paused"] == 1
            waiting = asyncio.ensure_future(client.execute("SELECT 2"))
            await lab.until(lambda: any(one.waits_since for one in lab.clients()))
            assert await api.status("POST", "/databases/postgres/resume", "operate") == 204
            assert await (await waiting).fetchone() == (2,)
            assert (await api.get("/pools"))["databases"][0]["paused"] == 0

    run(scenario())


def test_a_pause_that_waits_for_a_transaction_is_in_force_at_once(run, tmp_path, monkeypatch):
    """The page is answered after a while; who has a server keeps it to the end of the transaction."""
    monkeypatch.setattr(panel, "PAUSE_S", 0.05)

    async def scenario():
        async with asking(tmp_path) as (lab, api):
            client = await lab.connect()
            async with client.transaction():
                await client.execute("SELECT 1")
                assert await api.status("POST", "/databases/postgres/pause", "operate") == 204
                assert (await api.get("/pools"))["databases"][0]["paused"] == 1
                assert await (await client.execute("SELECT 2")).fetchone() == (2,)
            assert await api.status("POST", "/databases/postgres/resume", "operate") == 204

    run(scenario())


def test_reconnect_replaces_servers_as_they_are_released(run, tmp_path):
    """A free one goes at once; the next statement gets a new one."""

    async def scenario():
        async with asking(tmp_path) as (lab, api):
            client = await lab.connect()
            await client.execute("SELECT 1")
            (old,) = (await api.get("/servers"))["servers"]
            assert await api.status("POST", "/databases/postgres/reconnect", "operate") == 204
            await client.execute("SELECT 1")
            (new,) = (await api.get("/servers"))["servers"]
            assert old["remote_pid"] != new["remote_pid"]

    run(scenario())


@pytest.mark.parametrize("order", ["pause", "resume", "reconnect"])
def test_an_order_for_an_unknown_database_is_refused_in_words(run, tmp_path, order):
    """The console's words, as problem+json; and nothing is paused by it."""
    settings = {"databases": (Database(name="postgres", cluster="main"),)}

    async def scenario():
        async with asking(tmp_path, settings=settings) as (lab, api):
            status, problem = await api.ask("POST", f"/databases/{UNKNOWN}/{order}", "operate")
            assert status == 409
            assert f'there is no database "{UNKNOWN}"' in problem["detail"]
            assert await api.status("POST", f"/databases/{'x' * 129}/{order}", "operate") in {400, 404, 409}
            assert not lab.gateway.paused

    run(scenario())


def test_a_switchover_is_for_admins_and_says_why_it_cannot_be(run, tmp_path):
    """There is no other node to go to; nor any cluster of that name; nor a body with more in it."""

    async def scenario():
        async with asking(tmp_path) as (_, api):
            path = "/clusters/main/switchover"
            assert await api.status("POST", path, "operate", json={}) == 403
            status, problem = await api.ask("POST", path, "admin", json={})
            assert status == 409
            assert problem["detail"].startswith("no switchover")
            status, problem = await api.ask("POST", f"/clusters/{UNKNOWN}/switchover", "admin", json={})
            assert (status, "there is no cluster" in problem["detail"]) == (409, True)
            assert await api.status("POST", path, "admin", json={"force": True}) in {400, 422}

    run(scenario())


def test_a_switchover_moves_the_primary_and_is_told_as_one(run, tmp_path):
    """With the client that was held, how long, and what the nodes are now."""

    async def scenario():
        async with running_failover_lab(18) as lab:
            way = await lab.gateway("transaction")
            async with panel_api(way.server, "postgres", tmp_path) as api:
                async with await way.connect(autocommit=True) as client:
                    await client.execute("SELECT 1")
                    path = "/clusters/main/switchover"
                    status, moved = await api.ask("POST", path, "admin", json={"node": "db-2"})
                    assert (status, moved) == (200, {"primary": "db-2"})
                    await client.execute("SELECT 1")
                state = await api.get("/state")
                (failover,) = state["failovers"]
                assert (failover["kind"], failover["old_primary"], failover["new_primary"]) == (
                    "switchover",
                    "db-1",
                    "db-2",
                )
                assert failover["ended"] >= failover["started"] > 0
                assert state["clusters"][0]["primary"] == "db-2"

    run(scenario())
