"""Patroni's word, from small HTTP servers that play it."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from aiohttp import web

from sojourn.errors import BackendUnavailable, WireError
from sojourn.gateways.postgres import incidents
from sojourn.gateways.postgres.config import FailoverSettings
from sojourn.gateways.postgres.failover import ClusterState
from sojourn.gateways.postgres.monitor import Monitor
from sojourn.gateways.postgres.nodes import Node
from sojourn.gateways.postgres.patroni import ANSWER_LIMIT_BYTES, Patroni, match, read_cluster

CLUSTER = {
    "scope": "main",
    "members": [
        {"name": "one", "role": "replica", "state": "streaming", "host": "10.0.0.1", "port": 5432,
         "api_url": "http://10.0.0.1:8008/patroni", "timeline": 3, "lag": 1024},
        {"name": "two", "role": "leader", "state": "running", "host": "10.0.0.2", "port": 5433, "timeline": 3},
        {"name": "three", "role": "replica", "state": "starting", "host": "fd00::3", "port": 5432, "lag": "unknown"},
    ],
}  # fmt: skip
NODES = (Node("a", "10.0.0.1:5432"), Node("b", "10.0.0.2:5433"), Node("three", "db3.example.net:5432"))


@contextlib.asynccontextmanager
async def played(*answers):
    """Start one Patroni per answer: a document, bytes, a status, or None for one that never answers."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for answer in answers:

            async def cluster(request, answer=answer):
                if answer is None:
                    await asyncio.Event().wait()
                if isinstance(answer, int):
                    return web.Response(status=answer)
                return web.Response(body=answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            app = web.Application()
            app.router.add_get("/cluster", cluster)
            runner = web.AppRunner(app, shutdown_timeout=0.01)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        yield urls


def test_members_are_found_by_address_or_name_with_their_role():
    """Patroni GET /cluster."""
    one, two, three = read_cluster(json.dumps(CLUSTER).encode())
    assert match((one, two, three), NODES) == {NODES[0]: one, NODES[1]: two, NODES[2]: three}
    assert (one.is_leader, two.is_leader, three.is_leader) == (False, True, False)
    assert three.address == "[fd00::3]:5432"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"members": 1}', b'{"members": [{"port": "x"}]}', b"\xff"]
)
def test_anything_else_is_no_cluster(body):
    """Bad input from whatever listens there."""
    with pytest.raises(WireError):
        read_cluster(body)


def test_a_leader_that_does_not_run_is_none():
    """The lock is held a moment longer than the server lives."""
    (member,) = read_cluster(b'{"members": [{"name": "x", "role": "leader", "state": "stopped"}]}')
    assert not member.is_leader


def test_the_next_interface_is_asked_when_one_fails_and_the_good_one_first_next_time(run):
    """One failing url tries the next."""

    async def scenario():
        huge = b" " * (ANSWER_LIMIT_BYTES + 1)
        async with played(503, b"nonsense", huge, None, CLUSTER) as urls:
            patroni = Patroni(["http://127.0.0.1:1", *urls], timeout_s=0.3)
            assert await patroni.leader(NODES) is NODES[1]
            assert patroni._urls[0] == urls[-1].rstrip("/")
            assert [member.is_leader for member in await patroni.members()] == [False, True, False]

    run(scenario())


def test_nobody_that_answers_is_not_an_error_for_the_monitor(run):
    """Patroni is a second opinion; without it the servers are asked all the same."""

    async def scenario():
        async with played(404) as urls:
            patroni = Patroni(urls, timeout_s=1)
            assert await patroni.leader(NODES) is None
            with pytest.raises(BackendUnavailable, match=f"{urls[0].rstrip('/')}: BackendUnavailable"):
                await patroni.members()

    run(scenario())


def test_another_leader_makes_the_monitor_ask_and_moves_nothing(run):
    """The lock changes hands before the promotion has finished: only the server's own word counts."""

    async def scenario():
        nodes = (Node("one", "10.0.0.1:5432"), Node("two", "10.0.0.2:5433"))
        cluster = ClusterState("main", nodes, FailoverSettings(poll_interval_s=20, suspect_timeout_s=20))
        asked = {"one": 0, "two": 0}
        enough = asyncio.Event()
        row = {
            "one": [b"f", b"1", b"7", b"0/1", None, None, b"f"],
            "two": [b"t", b"1", b"7", b"0/1", b"0/1", None, b"t"],
        }

        class Probe:
            def __init__(self, node):
                self.name = node.name

            async def query(self, _sql):
                asked[self.name] += 1
                if min(asked.values()) >= 2:
                    enough.set()
                return [row[self.name]]

            def close(self):
                return

        async def connect(node):
            return Probe(node)

        async with played(CLUSTER) as urls:
            monitor = Monitor(cluster, connect, poll_interval_s=20, patroni=Patroni(urls, timeout_s=5))
            cluster.on_primary.append(lambda node: (cluster.answered(node), cluster.settled()))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(monitor.run())
                await enough.wait()
                assert (cluster.state, cluster.writable()) == (incidents.NORMAL, nodes[0])
                task.cancel()

    run(scenario())
