"""Rooms: made when somebody needs them, gone when nobody does, and not a moment before."""

from __future__ import annotations

import asyncio

import pytest
from exchange_lab import LEASE_S, ExchangeLab, LabClient

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import relay_wire, sessions
from sojourn.gateways.exchange.lifecycle import REPLACE, Timeouts
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import PlaceOrder
from sojourn.gateways.exchange.relay_wire import HandOver, NotOwner


async def with_simulator(lab):
    """Let a client start a simulator."""
    await lab.start()
    client = LabClient(lab)
    assert await client.connect(lab.pods[0])
    await lab.turns()
    client.say("sim", action="start")
    await lab.turns(60)
    return client


def test_a_room_that_is_swept_away_before_its_guest_is_in_is_opened_again(run):
    """Between the answer and the guest there are turns of the loop, in which a sweep may find an idle room."""

    async def scenario():
        lab = ExchangeLab()
        await lab.start()
        await lab.pods[0].keeper.open(lab.session)
        keeper = lab.pods[1].keeper
        coming = asyncio.ensure_future(keeper.open(lab.session))
        await asyncio.sleep(0)
        keeper._opening[lab.session].add_done_callback(
            lambda _: keeper.sweep(lab.clock(), tuple(keeper.rooms.values()))
        )
        room = await coming
        assert keeper.rooms[lab.session] is room
        assert room.role is not None
        await lab.end()

    run(scenario())


def test_a_pod_that_leaves_does_not_keep_a_guest_waiting_for_an_owner(run):
    """Section 5.6: it owns nothing more, so who waits there waits for nothing, and the drain waits for them."""

    async def scenario():
        lab = ExchangeLab()
        await lab.start()
        keeper = lab.pods[0].keeper
        keeper.is_draining = True
        async with asyncio.timeout(2):
            with pytest.raises(BackendUnavailable):
                await keeper.open(lab.session)
        assert not keeper.rooms
        await lab.end()

    run(scenario())


def test_an_order_that_comes_before_the_new_owner_has_found_the_simulator_may_be_sent_again(run):
    """Section 5.6: the session moves; its client must not be told that it has no simulator."""

    async def scenario():
        lab = ExchangeLab()
        client = await with_simulator(lab)
        listing, may_list = lab.store.simulators.list, asyncio.Event()

        async def late(*asked):
            await may_list.wait()
            return await listing(*asked)

        lab.store.simulators.list = late
        lab.pods[0].kill()
        lab.clock.advance(LEASE_S)
        coming = asyncio.ensure_future(client.connect(lab.pods[1]))
        await lab.turns()
        role = lab.pods[1].keeper.rooms[lab.session].role
        order = PlaceOrder("again", "AAA", "buy", 1, "market")
        with pytest.raises(Refused) as refused:
            await role.carry_out(order)
        assert (refused.value.code, refused.value.retry_after_s) == ("unavailable", 0.5)
        may_list.set()
        assert await coming
        assert (await role.carry_out(order))["status"] == "filled"
        await lab.end()

    run(scenario())


def test_a_pod_that_leaves_takes_no_session_from_another_that_leaves(run):
    """It has begun to hand over what it had, and nobody would hand over this one."""

    async def scenario():
        lab = ExchangeLab()
        await lab.start()
        keeper = lab.pods[0].keeper
        keeper.is_draining = True
        answer = await lab.pods[0].commands.serve(lab.session, relay_wire.write(HandOver(2)))
        assert isinstance(relay_wire.read_answer(answer), NotOwner)
        assert not keeper.rooms
        await lab.end()

    run(scenario())


def test_leases_are_prolonged_a_few_in_each_turn_of_the_loop(run, monkeypatch):
    """Thousands at once would make everybody's ticks late; all of them are prolonged all the same."""

    async def scenario():
        monkeypatch.setattr(sessions, "RENEW_COUNT", 2)
        lab = ExchangeLab()
        await lab.store.start()
        bus, keeper = lab.pods[0].bus, lab.pods[0].keeper
        for number in range(5):
            opened = await lab.store.sessions.open(
                f"user-{number}", "d1", policy=REPLACE, timeouts=Timeouts()
            )
            await keeper.open(opened.row.id)
        lab.clock.advance(LEASE_S - 1)
        await keeper.renew()
        lab.clock.advance(LEASE_S - 1)
        assert (await bus.owners_of(tuple(keeper.owned))).keys() == keeper.owned.keys()
        assert len(keeper.owned) == 5
        await lab.end()

    run(scenario())
