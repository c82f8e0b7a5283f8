"""A log that its backend has lost is written again from its owner's memory, before anybody could miss it."""

from __future__ import annotations

import asyncio
import contextlib

from exchange_lab import LEASE_S, ExchangeLab, LabClient

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.drain import Drain


async def traded(lab):
    """Let a client place an order, hear of it, and be quiet."""
    await lab.start()
    client = LabClient(lab)
    assert await client.connect(lab.pods[0])
    await lab.turns()
    client.say("sim", action="start")
    await lab.turns(60)
    client.say("order", symbol="AAA", side="buy", quantity=1, type="market", tif="ioc")
    await lab.turns()
    client.hear()
    assert client.bodies == lab.truth() != []
    return client


async def comes_back(lab, client, pod):
    """Come back to a pod; say how the session was continued."""
    assert await client.connect(pod)
    await lab.turns()
    client.hear()
    assert client.losses == 0
    assert client.bodies == lab.truth()


def test_an_owner_writes_a_lost_log_again_although_nothing_happens(run):
    """Section 5.4: continuity is proven by memory; it must not wait for the next event, as the owner may die first."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        lab.hub.lose_data()
        await lab.renew()
        await lab.turns()
        assert (await lab.pods[1].bus.log_end(lab.session)).last == len(lab.truth())
        lab.pods[0].kill()
        client.cut()
        lab.clock.advance(20.0)
        await comes_back(lab, client, lab.pods[1])
        assert not lab.bugs
        await lab.end()

    run(scenario())


def test_a_pod_that_leaves_writes_a_lost_log_again_before_it_hands_over(run):
    """Section 5.6: what was said is durable before another pod owns the session, also if it was lost a moment ago."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        lab.hub.lose_data()
        await lab.pods[0].drain()
        client.hear()
        await comes_back(lab, client, lab.pods[1])
        assert not lab.bugs
        await lab.end()

    run(scenario())


def test_a_pod_that_leaves_waits_for_a_bus_that_is_away(run):
    """Section 5.6: what only it has in memory would be lost with it, should the bus come back without its data."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        leaving = lab.pods[0]
        lab.hub.away.add(leaving.name)
        with contextlib.suppress(BackendUnavailable):
            await leaving.keeper.renew()
        lab.hub.lose_data()
        drain = Drain(leaving.keeper, window_s=0.0, pods=lab.pods_that_live, sleep=lab.sleep)
        leaving.keeper.is_draining = True
        handing = asyncio.ensure_future(drain.hand_over(leaving.keeper.rooms[lab.session]))
        await lab.turns()
        assert not handing.done()
        lab.hub.heal()
        await lab.renew()
        assert await handing
        leaving.kill()
        client.hear()
        await comes_back(lab, client, lab.pods[1])
        await lab.end()

    run(scenario())


def test_data_that_are_lost_in_the_middle_of_a_hand_over_are_written_again(run):
    """Section 5.6: the lease is gone with the log, and the pod that leaves is the only one that has the events."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        bus = lab.pods[0].bus
        transfer = bus.transfer

        async def lost_before(*asked):
            bus.transfer = transfer
            lab.hub.lose_data()
            return await transfer(*asked)

        bus.transfer = lost_before
        await lab.pods[0].drain()
        client.hear()
        await comes_back(lab, client, lab.pods[1])
        await lab.end()

    run(scenario())


def test_a_log_that_is_there_is_not_written_again(run):
    """Whoever doubts looks first."""

    async def scenario():
        lab = ExchangeLab()
        await traded(lab)
        written = []
        bus, reseed = lab.pods[0].bus, lab.pods[0].bus.reseed

        async def counted(*asked, **more):
            written.append(asked)
            return await reseed(*asked, **more)

        bus.reseed = counted
        await lab.pods[0].drain()
        assert not written
        await lab.end()

    run(scenario())


def test_a_pod_that_follows_waits_for_the_log_that_its_owner_has_told_of(run):
    """Section 5.4: a client that comes to it while the log is lost must not be told that all is lost."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        lab.hub.logs.clear()
        await comes_back(lab, client, lab.pods[1])
        assert lab.pods[1].keeper.rooms[lab.session].role.owner_pod == lab.pods[0].name
        assert not lab.bugs
        await lab.end()

    run(scenario())


def test_nobody_takes_a_session_whose_log_is_lost_before_its_owner_could_come_back(run):
    """Section 5.4: if the owner lives, it writes the log again; an empty backend does not say that it is dead."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        lab.hub.away.add(lab.pods[0].name)
        lab.hub.lose_data()
        coming = asyncio.ensure_future(client.connect(lab.pods[1]))
        await lab.turns()
        lab.hub.heal()
        await lab.renew()
        assert await coming
        await lab.turns()
        client.hear()
        assert client.losses == 0
        assert client.bodies == lab.truth()
        assert lab.pods[1].keeper.rooms[lab.session].role.owner_pod == lab.pods[0].name
        await lab.end()

    run(scenario())


def test_a_session_whose_log_and_owner_are_lost_begins_anew_after_a_lease(run):
    """Section 5.6: if the log is lost too, a snapshot, and another epoch; what went before is not told again."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        lab.pods[0].kill()
        lab.hub.lose_data()
        coming = asyncio.ensure_future(client.connect(lab.pods[1]))
        await lab.turns()
        assert not coming.done()
        lab.clock.advance(LEASE_S)
        assert await coming
        await lab.turns()
        client.hear()
        assert client.losses == 1
        assert client.epoch > 1
        before, client.bodies = client.bodies, []
        client.say("order", symbol="AAA", side="buy", quantity=2, type="market", tif="ioc")
        await lab.turns()
        client.hear()
        assert before + [body for body in client.bodies if b'"orders"' not in body] == lab.truth()
        assert client.errors == []
        await lab.end()

    run(scenario())


def test_an_owner_that_dies_while_it_begins_anew_leaves_nothing_to_be_told_again(run):
    """Section 5.4: behind a snapshot there is no overlap, whoever goes on from the empty log."""

    async def scenario():
        lab = ExchangeLab()
        client = await traded(lab)
        before = client.bodies
        lab.pods[0].kill()
        lab.hub.lose_data()
        epochs = await lab.store.sessions.take_over((lab.session,), "pod-x")
        dying, bus = Owner("pod-x", epochs[lab.session]), lab.hub.join("pod-x")
        assert await bus.acquire(lab.session, dying, LEASE_S) == dying
        await bus.reseed(lab.session, dying, dying.epoch, ())
        lab.clock.advance(LEASE_S)
        client.bodies = []
        assert await client.connect(lab.pods[1])
        await lab.turns()
        client.hear()
        client.say("order", symbol="AAA", side="buy", quantity=2, type="market", tif="ioc")
        await lab.turns()
        client.hear()
        assert before + [body for body in client.bodies if b'"orders"' not in body] == lab.truth()
        await lab.end()

    run(scenario())
