"""Several workers are one to operators: a switchover holds the clients of all, tables and metrics are of all.

Two worker processes, a real primary and its replica, real drivers.
Source: specification 6.2 and 6.4; postgres gateway README.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import urllib.request
from collections import Counter
from pathlib import Path

import aiohttp
import psycopg
import pytest
from admin_lab import told
from daemon_process import WITHIN_S, running_daemon
from failover_lab import running_failover_lab
from ledger import Writer, check_ledger, count_acknowledged, make_ledger
from prometheus_client.parser import text_string_to_metric_families

from sojourn.embedded.account import free_port

WORKERS_COUNT = 2
CLIENTS_COUNT = 12
"""So many that all of them at one worker is one case in 2048."""


class Gateway:
    """A daemon with two workers in front of a cluster."""

    def __init__(self, daemon, port):
        self.daemon = daemon
        self.port = port

    async def connect(self, database="postgres", **options):
        """Return a psycopg connection."""
        return await psycopg.AsyncConnection.connect(
            f"host=127.0.0.1 port={self.port} user=postgres dbname={database} connect_timeout=20", **options
        )

    async def operator(self):
        """Return a connection to the console of whichever worker the kernel picks."""
        return await self.connect("sojourn", autocommit=True)

    async def metrics(self):
        """Return what is scraped, by name and labels."""
        url = f"{self.daemon.admin}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=WITHIN_S).read().decode())
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def told(self, event, count, **fields):
        """Return when the log has so many lines of an event."""
        await asyncio.to_thread(self.daemon.wait_for, event, count, **fields)

    def pids(self):
        """Return the PID of each worker that was started, by index, the newest."""
        started = (one for one in self.daemon.events if one["event"] == "postgres.worker_started")
        return {one["index"]: one["pid"] for one in started}

    def index_of(self, connection):
        """Return the index of the worker that has accepted a connection."""
        port = int(name_of(connection)[1])
        inode = next(
            line[9]
            for line in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
            if line[1].endswith(f":{self.port:04X}") and line[2].endswith(f":{port:04X}")
        )
        for index, pid in self.pids().items():
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if str(entry.readlink()) == f"socket:[{inode}]":
                        return index
        raise LookupError(port)


def name_of(connection):
    """Return our end of a connection: address and port."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
        return ours.getsockname()


@contextlib.asynccontextmanager
async def gateway_before(lab, folder, **failover):
    """Run a daemon with two workers before a cluster."""
    port = free_port()
    nodes = ", ".join(f'{{ name = "{node.name}", address = "{node.address}" }}' for node in lab.nodes)
    settings = "".join(f"{key} = {value}\n" for key, value in {"poll_interval_s": 0.2, **failover}.items())
    text = f"""
[log]
format = "json"

[admin]
address = "127.0.0.1:0"
metrics_without_token = true
socket = "{folder / "control.sock"}"

[postgres]
workers_count = {WORKERS_COUNT}

[postgres.limits]
drain_timeout_s = 1.0

[postgres.pool]
size_count = 10

[postgres.auth]
method = "trust"

[postgres.console]
admin_users = ["postgres"]

[postgres.failover]
{settings}
[[postgres.listeners]]
address = "127.0.0.1:{port}"

[[postgres.clusters]]
name = "main"
monitor_user = "postgres"
nodes = [{nodes}]

[[postgres.databases]]
name = "*"
cluster = "main"
"""
    with running_daemon(folder, text) as daemon:
        daemon.wait_for("postgres.worker_started", WORKERS_COUNT)
        gateway = Gateway(daemon, port)
        operator = await gateway.operator()
        async with asyncio.timeout(WITHIN_S):  # until every worker has found the replica
            while len(await nodes_of(operator, "REPLICA")) < 1:
                pass
        await operator.close()
        yield gateway


@contextlib.asynccontextmanager
async def two_workers(folder, **failover):
    """Run a cluster and a daemon with two workers before it; what is put on the stack ends before both."""
    async with (
        running_failover_lab() as lab,
        gateway_before(lab, folder, **failover) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        yield lab, gateway, stack


async def rows(operator, command):
    """Return what a command at the console answers, as mappings."""
    cursor = await operator.execute(command)
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def nodes_of(operator, state):
    return [row["node"] for row in await rows(operator, "SHOW NODES") if row["state"] == state]


async def connect_to_both(gateway, stack, **options):
    """Return clients of which both workers have some."""
    clients = [
        await stack.enter_async_context(await gateway.connect(autocommit=True, **options))
        for _ in range(CLIENTS_COUNT)
    ]
    assert {gateway.index_of(client) for client in clients} == {0, 1}
    return clients


def test_a_switchover_at_one_console_moves_the_clients_of_all_workers(run, tmp_path):
    """Specification 3.3 point 6: clients see latency; none an error, none another socket, whoever has them."""

    async def scenario():
        async with running_failover_lab() as lab:
            await make_ledger(lab, CLIENTS_COUNT)
            async with gateway_before(lab, tmp_path) as gateway:
                operator = await gateway.operator()
                writers = [Writer(gateway, number, pause_s=0.005) for number in range(CLIENTS_COUNT)]
                stop = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    for writer in writers:
                        group.create_task(writer.run(stop))
                    await count_acknowledged(lab, writers, 5)
                    workers = {row["worker"] for row in await rows(operator, "SHOW CLIENTS")}
                    assert workers == {0, 1}
                    await operator.execute("SWITCHOVER main TO db-2")
                    lab.primary, lab.replica = lab.replica, None
                    await count_acknowledged(lab, writers, 5)
                    stop.set()
                await check_ledger(lab, writers)
                assert not sum((writer.states for writer in writers), Counter())
                incidents = await rows(operator, "SHOW FAILOVERS")
                assert sorted(row["worker"] for row in incidents) == [0, 1]
                assert {(row["kind"], row["new_primary"]) for row in incidents} == {("switchover", "db-2")}
                assert {row["clients_refused"] for row in incidents} == {0}
                assert {row["cluster"]: row["primary"] for row in await rows(operator, "SHOW CLUSTERS")} == {
                    "main": "db-2"
                }
                await operator.close()

    run(scenario())


def test_a_switchover_that_one_worker_cannot_hold_for_is_none_at_any(run, tmp_path):
    """A transaction that does not end, whichever worker has it, makes the order fail, and all go on as they were."""

    async def scenario():
        async with two_workers(tmp_path, buffering_timeout_s=1.0) as (lab, gateway, stack):
            clients = await connect_to_both(gateway, stack)
            operator = await stack.enter_async_context(await gateway.operator())
            for index in (0, 1):
                within = next(one for one in clients if gateway.index_of(one) == index)
                others = [one for one in clients if one is not within]
                await within.execute("BEGIN")
                await within.execute("SELECT 1")
                moving = asyncio.ensure_future(operator.execute("SWITCHOVER main"))
                await gateway.told("postgres.cluster", (index + 1) * 2, new="BUFFERING")
                held = [asyncio.ensure_future(one.execute("SELECT inet_server_port()")) for one in others]
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                    await moving
                await within.execute("COMMIT")
                for one in held:
                    assert await (await one).fetchone() == (lab.primary.port,)
                assert await nodes_of(operator, "REPLICA") == ["db-2"]
            incidents = await rows(operator, "SHOW FAILOVERS")
            assert [(row["kind"], row["new_primary"]) for row in incidents] == [("switchover", "db-1")] * 4

    run(scenario())


@pytest.mark.parametrize("is_leader", [True, False], ids=["that leads", "that follows"])
def test_a_worker_that_dies_in_a_switchover_leaves_nobody_held(run, tmp_path, is_leader):
    """An order ends with who gave it, and comes to nothing with one who is to carry it out: the other goes on."""

    async def scenario():
        async with two_workers(tmp_path) as (lab, gateway, stack):
            clients = await connect_to_both(gateway, stack)
            operator = await gateway.operator()
            leader = gateway.index_of(operator)
            victim = leader if is_leader else 1 - leader
            within, *left = [one for one in clients if gateway.index_of(one) != victim]
            await within.execute("BEGIN")
            await within.execute("SELECT 1")
            moving = asyncio.ensure_future(operator.execute("SWITCHOVER main"))
            await gateway.told("postgres.cluster", WORKERS_COUNT, new="BUFFERING")
            held = [asyncio.ensure_future(one.execute("SELECT inet_server_port()")) for one in left]
            os.kill(gateway.pids()[victim], signal.SIGKILL)
            with pytest.raises(psycopg.Error):
                await moving
            async with asyncio.timeout(WITHIN_S / 2):
                for one in held:
                    assert await (await one).fetchone() == (lab.primary.port,)
            await within.execute("COMMIT")
            await gateway.told("postgres.worker_started", WORKERS_COUNT + 1)
            again = await stack.enter_async_context(await gateway.operator())
            await again.execute("SWITCHOVER main")
            for one in left:
                answer = await one.execute("SELECT inet_server_port()")
                assert await answer.fetchone() == (lab.replica.port,)
            await operator.close()

    run(scenario())


def test_tables_are_those_of_all_workers_and_ids_find_theirs(run, tmp_path):
    """SHOW sums what is of a database and user, and lists connections with their worker; KILL_CLIENT reaches any."""

    async def scenario():
        async with two_workers(tmp_path) as (_, gateway, stack):
            clients = await connect_to_both(gateway, stack)
            operator = await stack.enter_async_context(await gateway.operator())
            for client in clients:
                await client.execute("SELECT 1")
            (pool,) = await rows(operator, "SHOW POOLS")
            assert (pool["database"], pool["cl_active"]) == ("postgres", CLIENTS_COUNT)
            servers = await rows(operator, "SHOW SERVERS")
            assert pool["sv_idle"] == len(servers)
            assert {row["worker"] for row in servers} == {0, 1}
            (stats,) = await rows(operator, "SHOW STATS")
            assert stats["total_query_count"] == CLIENTS_COUNT
            lists = {row["list"]: row["items"] for row in await rows(operator, "SHOW LISTS")}
            assert (lists["pools"], lists["used_clients"]) == (1, CLIENTS_COUNT)
            (database,) = [row for row in await rows(operator, "SHOW DATABASES") if row["name"] == "postgres"]
            assert database["current_client_connections"] == CLIENTS_COUNT
            assert database["pool_size"] == 10
            memory = {row["name"]: row["used"] for row in await rows(operator, "SHOW MEM")}
            assert memory["client"] == CLIENTS_COUNT
            found = await rows(operator, "SHOW CLIENTS")
            assert list(found[0])[-1] == "worker"
            assert len({row["id"] for row in found}) == len({row["ptr"] for row in found}) == CLIENTS_COUNT
            for client in clients:
                port = int(name_of(client)[1])
                (row,) = [one for one in found if one["port"] == port]
                assert row["worker"] == gateway.index_of(client)
                await operator.execute(f"KILL_CLIENT {row['id']}")
                with pytest.raises(psycopg.OperationalError):
                    await client.execute("SELECT 1")
            assert await rows(operator, "SHOW CLIENTS") == []
            with pytest.raises(psycopg.errors.UndefinedObject):
                await operator.execute(f"KILL_CLIENT {found[0]['id']}")

    run(scenario())


def test_sessions_of_every_worker_can_be_listed_traced_and_closed(run, tmp_path):
    """Operators speak to the first worker only, and mean all of them; a session's id tells whose it is."""

    async def scenario():
        async with two_workers(tmp_path) as (_, gateway, stack):
            clients = await connect_to_both(gateway, stack)

            async def sojourn(*arguments):
                done = await asyncio.to_thread(gateway.daemon.sojourn, *arguments)
                assert done.returncode == 0, done.stderr
                return done.stdout

            for client in [
                next(one for one in clients if gateway.index_of(one) == index) for index in (0, 1)
            ]:
                peer = f"127.0.0.1:{name_of(client)[1]}"
                sessions = json.loads(await sojourn("sessions", "list", "--json"))["sessions"]
                (session,) = [one for one in sessions if one["peer"] == peer]
                assert len({one["id"] for one in sessions}) == len(sessions) >= CLIENTS_COUNT
                assert "logged in as postgres" in await sojourn("trace", session["id"])
                await sojourn("sessions", "close", session["id"])
                with pytest.raises(psycopg.OperationalError):
                    await client.execute("SELECT 1")

    run(scenario())


def test_the_overview_the_stream_and_a_followed_trace_are_those_of_all_workers(run, tmp_path):
    """The first worker asks the other one, whatever is asked of it."""

    async def scenario():
        async with two_workers(tmp_path) as (_, gateway, stack):
            control = aiohttp.UnixConnector(str(tmp_path / "control.sock"))
            async with aiohttp.ClientSession("http://local", connector=control) as http:

                async def ask(path):
                    async with http.get("/api/v1" + path) as answer:
                        assert answer.status == 200, await answer.text()
                        return await answer.json()

                async with http.get("/api/v1/stream") as stream:
                    await told(stream, 1)
                    clients = await connect_to_both(gateway, stack)
                    wanted = {f"127.0.0.1:{name_of(client)[1]}" for client in clients}
                    while wanted:
                        ((name, data),) = await told(stream, 1)
                        if name == "session":
                            wanted.discard(data["session"]["peer"])
                overview = await ask("/overview")
                (row,) = overview["gateways"]
                assert overview["workers"] == 2
                assert row["sessions_open"] >= CLIENTS_COUNT
                assert row["sessions_opened"] >= CLIENTS_COUNT
                (listener,) = (await ask("/listeners"))["listeners"]
                assert listener["connections"] >= CLIENTS_COUNT
                (peer,) = (await ask("/peers"))["peers"]
                assert (peer["address"], peer["connections"]) == ("127.0.0.1", listener["connections"])
                assert (await ask("/events?kind=postgres.&limit=5"))["events"]
                far = next(one for one in clients if gateway.index_of(one) == 1)
                sessions = (await ask("/sessions?limit=1000"))["sessions"]
                peer = f"127.0.0.1:{name_of(far)[1]}"
                (session,) = [one for one in sessions if one["peer"] == peer]
                async with http.get(f"/api/v1/sessions/{session['id']}/trace/stream") as stream:
                    assert (await told(stream, 1))[0][0] == "entries"
                    await far.close()
                    while (found := (await told(stream, 1))[0])[0] != "ended":
                        pass
                    assert found[1]["session"]["id"] == session["id"]

    run(scenario())


def test_an_audit_asks_the_servers_of_all_workers(run, tmp_path):
    """AUDIT finds what a function has set behind our back, whichever worker has the server."""

    async def scenario():
        async with running_failover_lab() as lab:
            await lab.direct(
                "CREATE FUNCTION sly() RETURNS void LANGUAGE plpgsql AS 'BEGIN SET work_mem = ''7MB''; END'"
            )
            await lab.caught_up()
            async with gateway_before(lab, tmp_path) as gateway, contextlib.AsyncExitStack() as stack:
                clients = await connect_to_both(gateway, stack)
                for index in (0, 1):
                    await next(one for one in clients if gateway.index_of(one) == index).execute(
                        "SELECT sly()"
                    )
                operator = await stack.enter_async_context(await gateway.operator())
                found = await rows(operator, "AUDIT")
                assert [(row["kind"], row["name"]) for row in found] == [("setting", "work_mem")] * 2

    run(scenario())


def test_a_worker_that_does_not_answer_is_named_and_left_out(run, tmp_path):
    """A table comes within the deadline, with a NOTICE; metrics say how many answered, and counters stay."""

    async def scenario():
        async with two_workers(tmp_path) as (_, gateway, stack):
            clients = await connect_to_both(gateway, stack)
            for client in clients:
                await client.execute("SELECT 1")
            of_first = [one for one in clients if gateway.index_of(one) == 0]
            operator = await gateway.operator()
            while gateway.index_of(operator) != 0:
                await operator.close()
                operator = await gateway.operator()
            notices = []
            operator.add_notice_handler(lambda one: notices.append(one.message_primary))
            queries = ("sojourn_postgres_queries_total", ("database", "postgres"), ("user", "postgres"))
            assert (await gateway.metrics())[queries] == CLIENTS_COUNT
            os.kill(gateway.pids()[1], signal.SIGSTOP)
            try:
                (pool,) = await rows(operator, "SHOW POOLS")
                found = await gateway.metrics()
            finally:
                os.kill(gateway.pids()[1], signal.SIGCONT)
            assert pool["cl_active"] == len(of_first)
            assert notices == ["no answer in time, and nothing of it here: worker 1"]
            assert found["sojourn_workers_answered",] == 1
            assert found[queries] == CLIENTS_COUNT
            await operator.close()

    run(scenario())


def test_one_scrape_tells_of_all_workers_and_no_counter_goes_back(run, tmp_path):
    """Sums are those of all; what a worker counted that is gone stays; figures of processes have their worker."""

    async def scenario():
        async with two_workers(tmp_path) as (_, gateway, stack):
            labels = (("database", "postgres"), ("user", "postgres"))
            clients = await connect_to_both(gateway, stack)
            for client in clients:
                await client.execute("SELECT 1")
            found = await gateway.metrics()
            assert found["sojourn_postgres_clients", *labels] == CLIENTS_COUNT
            assert found["sojourn_postgres_queries_total", *labels] == CLIENTS_COUNT
            assert found["sojourn_postgres_node_is_primary", ("cluster", "main"), ("node", "db-1")] == 1
            assert found["sojourn_workers_answered",] == WORKERS_COUNT
            assert {key[-1] for key in found if key[0] == "process_open_fds"} == {
                ("worker", "0"),
                ("worker", "1"),
            }
            left_count = sum(gateway.index_of(client) == 0 for client in clients)
            os.kill(gateway.pids()[1], signal.SIGKILL)
            await gateway.told("postgres.worker_started", WORKERS_COUNT + 1)
            after = await gateway.metrics()
            assert after["sojourn_postgres_clients", *labels] == left_count
            backwards = {key for key in found if key[0].endswith("_total") and key[0].startswith("sojourn_")}
            assert [key for key in backwards if after[key] < found[key]] == []

    run(scenario())
