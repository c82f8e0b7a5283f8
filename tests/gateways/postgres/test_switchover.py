"""The part of a worker in a switchover that another one leads, order by order, with a real primary and replica."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from failover_lab import running_failover_lab
from ledger import until

from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.worker_link import KEY_FILE, WorkerLink, WorkerPlace
from sojourn.gateways.postgres.workers_view import WorkersView

PORT = "SELECT inet_server_port()"


def link_of(directory, index):
    """Return the link of a worker that lives in this process."""
    return WorkerLink(WorkerPlace(index, index == 0, directory))


@contextlib.asynccontextmanager
async def follower(directory: Path, **failover):
    """Run worker 1 before a cluster, with a client; give both, and the link of worker 0, which would lead."""
    (directory / KEY_FILE).write_bytes(b"k" * 32)
    async with running_failover_lab() as lab:
        way = await lab.gateway("transaction", link=link_of(directory, 1), **failover)
        await until(lambda: way.room.readable() and way.room.state.state == "NORMAL")
        client = await way.connect(autocommit=True)
        await client.execute("SELECT 1")
        try:
            yield lab, way, client, link_of(directory, 0)
        finally:
            await client.close()


async def port_of(client):
    """Return the port of the server that answers a client."""
    return (await (await client.execute(PORT)).fetchone())[0]


def test_a_worker_without_its_word_given_goes_back_with_the_end_of_the_leader(run, tmp_path):
    """Nothing was promoted then, because the leader had not the word of all."""

    async def scenario():
        async with follower(tmp_path) as (lab, way, client, leading):
            async with leading.lines() as (line,):
                await line.order("hold", "main", "db-1", "db-2")
                held = asyncio.ensure_future(port_of(client))
                await way.until_waiting()
                starting = asyncio.ensure_future(leading.order("until_settled"))
            assert await held == lab.primary.port
            await starting

    run(scenario())


def test_a_worker_that_gave_its_word_waits_for_the_promotion_and_goes_back_when_there_is_none(run, tmp_path):
    """The leader's end may have come right behind the order to promote: the time limit decides, nobody waits longer."""

    async def scenario():
        async with follower(tmp_path, buffering_timeout_s=1.5) as (lab, way, client, leading):
            began = asyncio.get_running_loop().time()
            async with leading.lines() as (line,):
                await line.order("hold", "main", "db-1", "db-2")
                await line.order("decide")
            assert way.room.writable() is None
            assert await port_of(client) == lab.primary.port
            assert asyncio.get_running_loop().time() - began >= 1.5

    run(scenario())


def test_a_promotion_is_followed_though_the_leader_is_gone(run, tmp_path):
    """The new timeline speaks for itself."""

    async def scenario():
        async with follower(tmp_path) as (lab, _, client, leading):
            async with leading.lines() as (line,):
                await line.order("hold", "main", "db-1", "db-2")
                await line.order("decide")
            await lab.replica.promote()
            assert await port_of(client) == lab.replica.port

    run(scenario())


def test_what_the_leader_gives_up_is_given_up_at_once(run, tmp_path):
    """A server that refuses to be promoted costs clients no time limit, word or not."""

    async def scenario():
        async with follower(tmp_path) as (lab, _, client, leading), leading.lines() as (line,):
            await line.order("hold", "main", "db-1", "db-2")
            await line.order("decide")
            line.tell("conclude", "abandoned")
            assert await port_of(client) == lab.primary.port

    run(scenario())


def test_a_worker_that_sees_another_primary_or_target_holds_nobody(run, tmp_path):
    """Both must mean the same servers."""

    async def scenario():
        async with follower(tmp_path) as (lab, way, client, leading):
            for old, target in (("db-2", "db-1"), ("db-1", "db-1"), ("db-1", "db-9")):
                async with leading.lines() as (line,):
                    with pytest.raises(Refusal):
                        await line.order("hold", "main", old, target)
                    with pytest.raises(Refusal):
                        await line.order("decide")
                    assert way.room.state.state == "NORMAL"
                    assert await port_of(client) == lab.primary.port

    run(scenario())


def test_a_server_that_does_not_let_itself_be_promoted_leaves_all_as_they_were(run, tmp_path):
    """Without the right to call pg_promote the order fails; the other worker's clients go on as ours do."""

    async def scenario():
        (tmp_path / KEY_FILE).write_bytes(b"k" * 32)
        async with running_failover_lab() as lab:
            await lab.direct("CREATE ROLE looks LOGIN", "GRANT pg_monitor TO looks")
            await lab.caught_up()
            ways = [
                await lab.gateway("transaction", link=link_of(tmp_path, index), monitor_user="looks")
                for index in (0, 1)
            ]
            clients = [await way.connect(autocommit=True) for way in ways]
            for way in ways:
                await until(lambda way=way: way.room.readable() and way.room.state.state == "NORMAL")
            with pytest.raises(Refusal, match="permission denied"):
                await WorkersView(ways[0].gateway, link_of(tmp_path, 0)).switchover("main", None)
            for client in clients:
                assert await port_of(client) == lab.primary.port
                await client.close()

    run(scenario())
