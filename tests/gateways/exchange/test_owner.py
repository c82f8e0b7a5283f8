"""Owners: behind a database out of a backup, at a simulator that is another's, and what they tell of outages."""

from __future__ import annotations

import asyncio

import pytest
from exchange_lab import LEASE_S, ExchangeLab, MemoryChannel, began, run_in_turns

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import PlaceOrder
from sojourn.gateways.exchange.room_simulators import FOREIGN
from sojourn.gateways.exchange.rows import Page, SimulatorFilter

ORDER = PlaceOrder("again", "AAA", "buy", 1, "market")


@pytest.fixture
def takes(monkeypatch):
    """The epochs that owners have got since the test looks."""
    taken = []

    def look(lab):
        take_over = lab.store.sessions.take_over

        async def noted(*asked, **more):
            epochs = await take_over(*asked, **more)
            taken.extend(epochs.values())
            return epochs

        monkeypatch.setattr(lab.store.sessions, "take_over", noted)
        return taken

    return look


def test_a_database_that_is_behind_the_simulator_catches_up_in_one_step(takes):
    """Section 5.6, after a backup is put back: a take for each epoch would be one every few milliseconds."""

    async def scenario():
        lab = ExchangeLab()
        client = await began(lab)
        taken = takes(lab)
        lab.simulator.desk.owner_epoch = 1_000
        lab.simulator.cut()
        await lab.turns(100)
        assert taken == [1_001]
        assert (await lab.store.sessions.get(lab.session)).owner_epoch == 1_001
        client.say("order", symbol="AAA", side="buy", quantity=1, type="market", tif="ioc")
        await lab.turns()
        client.hear()
        assert client.bodies == lab.truth() != []
        await lab.end()

    run_in_turns(scenario())


def test_so_it_does_where_nobody_is_connected_and_the_room_closes_in_between(takes):
    """The session is adopted again a moment later; what its simulator has said is known still."""

    async def scenario():
        lab = ExchangeLab()
        client = await began(lab)
        taken, keeper = takes(lab), lab.pods[0].keeper
        client.cut()
        lab.simulator.desk.owner_epoch = 1_000
        lab.simulator.cut()
        await lab.turns(100)
        assert not keeper.rooms
        lab.clock.advance(LEASE_S)
        await keeper.open(lab.session)
        await lab.turns(100)
        assert taken == [1_001]
        assert keeper.rooms[lab.session].view.simulator_state == "running"
        await lab.end()

    run_in_turns(scenario())


def test_a_database_that_is_behind_the_bus_catches_up_in_one_step(takes):
    """The lease, or the log, knows a greater epoch than the one that was taken."""

    async def scenario():
        lab = ExchangeLab()
        await began(lab)
        bus, taken = lab.pods[1].bus, takes(lab)
        lab.pods[0].kill()
        lab.clock.advance(LEASE_S)
        ahead = Owner("pod-x", 500)
        await bus.acquire(lab.session, ahead, LEASE_S)
        await bus.reseed(lab.session, ahead, 500, ())
        await bus.release(lab.session, ahead)
        await lab.pods[1].keeper.open(lab.session)
        assert taken == [2, 501]
        await lab.end()

    run_in_turns(scenario())


def test_an_epoch_that_no_owner_can_have_is_not_heeded(takes):
    """Clients read epochs as JSON's numbers, and the database has 64 bits."""

    async def scenario():
        lab = ExchangeLab()
        await began(lab)
        taken, keeper = takes(lab), lab.pods[0].keeper
        keeper.lost_ownership(keeper.rooms[lab.session], Owner("", 2**64 - 1))
        await lab.turns(100)
        assert taken == [2]
        await lab.end()

    run_in_turns(scenario())


async def belongs_to_another(lab):
    """Let the simulator be another session's from now on, as one that somebody else runs may be."""
    lab.simulator.desk.session = "another"
    lab.simulator.cut()
    await lab.turns(100)


def test_a_simulator_of_another_session_fails_with_what_was_found_and_what_to_do():
    """Section 5.5, driver static: it never becomes ours by trying, and a user must not wait for it."""

    async def scenario():
        lab = ExchangeLab()
        client = await began(lab)
        await belongs_to_another(lab)
        client.hear()
        told = {"t": "sim", "state": "failed", "simulator": "", "detail": FOREIGN}
        assert told in [frame | {"simulator": ""} for frame in client.told]
        (row,) = await lab.store.simulators.list(SimulatorFilter(session_id=lab.session), Page(limit_count=2))
        assert (row.state, row.failure) == ("failed", {"detail": FOREIGN})
        role = lab.pods[0].keeper.rooms[lab.session].role
        with pytest.raises(Refused) as refused:
            await role.carry_out(ORDER)
        assert refused.value.code == "no_simulator"
        client.say("sim", action="start")
        await lab.turns(100)
        client.hear()
        assert client.told[-1]["state"] == "running"
        assert not lab.bugs
        await lab.end()

    run_in_turns(scenario())


def test_a_simulator_of_another_session_fails_as_soon_as_the_database_answers():
    """Until then there is none to send orders to either; nothing is tried at the simulator any more."""

    async def scenario():
        lab = ExchangeLab()
        await began(lab)
        lab.store.go_away()
        await belongs_to_another(lab)
        room = lab.pods[0].keeper.rooms[lab.session]
        with pytest.raises(Refused) as refused:
            await room.role.carry_out(ORDER)
        assert refused.value.code == "no_simulator"
        lab.store.come_back()
        await lab.turns(100)
        assert (room.view.simulator_state, room.role.link) == ("failed", None)
        await lab.end()

    run_in_turns(scenario())


def test_an_order_that_waits_for_a_simulator_that_turns_out_to_be_anothers_is_refused_for_good(monkeypatch):
    """It need not be sent again: there is no simulator that could know it."""

    async def scenario():
        lab = ExchangeLab()
        await began(lab)
        role = lab.pods[0].keeper.rooms[lab.session].role
        with monkeypatch.context() as cut:
            cut.setattr(MemoryChannel, "check", _unreachable)
            lab.simulator.desk.session = "another"
            lab.simulator.cut()
            await lab.turns()
            ordering = asyncio.ensure_future(role.carry_out(ORDER))
            await lab.turns()
        with pytest.raises(Refused) as refused:
            await ordering
        assert refused.value.code == "no_simulator"
        await lab.end()

    run_in_turns(scenario())


def outages(client):
    """Return what a client was told of outages of the simulator, in a row."""
    return [frame["t"] for frame in client.told if frame.get("what") == "simulator"]


def test_a_simulator_that_is_gone_for_good_is_not_waited_for():
    """What has failed is not away any more, and neither is the next one."""

    async def scenario():
        lab = ExchangeLab()
        client = await began(lab)
        gone = lab.simulator
        lab.simulators.clear()
        gone.cut()
        await lab.turns(60)
        client.say("sim", action="start")
        await lab.turns(100)
        client.hear()
        assert client.told[-1]["state"] == "running"
        assert outages(client) == ["degraded", "restored"]
        await lab.end()

    run_in_turns(scenario())


@pytest.mark.parametrize("fate", ["lives", "gone"])
def test_a_client_is_told_that_the_simulator_is_back_by_whoever_owns_the_session_then(fate, monkeypatch):
    """Section 5.6: the owner that told of the outage dies with it; the next one, or who follows it, tells its end."""

    async def scenario():
        lab = ExchangeLab()
        await began(lab)
        far = await lab.joined(lab.pods[1])
        with monkeypatch.context() as cut:
            cut.setattr(MemoryChannel, "check", _unreachable)
            lab.simulator.cut()
            await lab.turns(60)
        far.hear()
        assert outages(far) == ["degraded"]
        if fate == "gone":
            lab.simulators.clear()
        lab.pods[0].kill()
        lab.clock.advance(LEASE_S)
        assert await lab.joined(lab.pods[2])
        await lab.turns(1_000)
        far.hear()
        assert outages(far) == ["degraded", "restored"]
        last = [frame["state"] for frame in far.told if frame["t"] == "sim"][-1]
        assert last == {"lives": "running", "gone": "failed"}[fate]
        assert not lab.bugs
        await lab.end()

    run_in_turns(scenario())


def _unreachable(channel):
    raise BackendUnavailable(channel.endpoint, 0.0, "the network is away")


def test_an_outage_of_the_log_that_an_owner_told_of_before_it_died_ends_with_the_next_one():
    """Section 5.4: the next owner has read the log, and its clients are told that it is there."""

    async def scenario():
        lab = ExchangeLab()
        await began(lab)
        far = await lab.joined(lab.pods[1])
        role = lab.pods[0].keeper.rooms[lab.session].role
        role._on_outage(True)
        await lab.turns()
        lab.pods[0].kill()
        lab.clock.advance(LEASE_S)
        await lab.turns(1_000)
        far.hear()
        assert [frame["t"] for frame in far.told if frame.get("what") == "events"] == ["degraded", "restored"]
        await lab.end()

    run_in_turns(scenario())


def test_the_newest_simulator_is_the_one_that_a_new_owner_tells_of():
    """One that was stopped before it is no news any more."""

    async def scenario():
        lab = ExchangeLab()
        client = await began(lab)
        client.say("sim", action="stop")
        await lab.turns(60)
        client.say("sim", action="start")
        await lab.turns(60)
        gone = lab.simulator
        lab.simulators.clear()
        gone.cut()
        await lab.turns(60)
        lab.pods[0].kill()
        lab.clock.advance(LEASE_S)
        far = await lab.joined(lab.pods[1])
        await lab.turns(60)
        assert far.link.room.view.simulator_state == "failed"
        await lab.end()

    run_in_turns(scenario())
