"""Followers: what clients at a pod that does not own their session are told when the bus is away."""

from __future__ import annotations

from exchange_lab import ExchangeLab, began, run_in_turns

from sojourn.gateways.exchange.follower import FollowerRole
from sojourn.gateways.exchange.messages import Degraded


def told(client):
    """Return what a client was told of outages."""
    client.hear()
    return [(frame["t"], frame["what"]) for frame in client.told if "what" in frame]


async def followed(lab):
    """Start a session, and join it at a pod that follows its owner."""
    near = await began(lab)
    far = await lab.joined(lab.pods[1])
    assert isinstance(far.link.room.role, FollowerRole)
    return near, far


def go_away(lab, pod):
    """Let a pod lose the bus, and know it."""
    lab.hub.away.add(pod.name)
    pod.keeper.bus_changed(is_up=False)


def come_back(lab, pod):
    """Let a pod have the bus again, and know it."""
    lab.hub.heal()
    pod.keeper.bus_changed(is_up=True)


def test_clients_are_told_that_the_bus_is_away_and_that_it_is_back():
    """Section 5.6: a market that stands still looks like a quiet one; they hear the same as clients of the owner."""

    async def scenario():
        lab = ExchangeLab()
        _, far = await followed(lab)
        go_away(lab, lab.pods[1])
        await lab.turns()
        assert told(far) == [("degraded", "events")]
        await lab.turns(600)  # it looks for the owner now
        come_back(lab, lab.pods[1])
        await lab.turns(100)
        assert told(far) == [("degraded", "events"), ("restored", "events")]
        assert isinstance(far.link.room.role, FollowerRole)
        await lab.end()

    run_in_turns(scenario())


def test_a_client_that_comes_while_the_bus_is_away_is_told_so():
    """It may resume at a pod that still has the room."""

    async def scenario():
        lab = ExchangeLab()
        await followed(lab)
        go_away(lab, lab.pods[1])
        late = await lab.joined(lab.pods[1])
        assert told(late) == [("degraded", "events")]
        await lab.end()

    run_in_turns(scenario())


def test_clients_of_the_owner_are_told_by_the_log_and_not_twice():
    """The owner goes on without the bus, until there is an event to write."""

    async def scenario():
        lab = ExchangeLab()
        near, _ = await followed(lab)
        go_away(lab, lab.pods[0])
        await lab.turns(100)
        assert told(near) == []
        come_back(lab, lab.pods[0])
        await lab.end()

    run_in_turns(scenario())


def test_a_short_outage_ends_when_the_owners_state_is_here():
    """Nothing else may have been lost; what clients were told is taken back all the same."""

    async def scenario():
        lab = ExchangeLab()
        _, far = await followed(lab)
        pod = lab.pods[1]
        pod.keeper.bus_changed(is_up=False)
        await lab.turns(10)
        pod.keeper.bus_changed(is_up=True)
        await lab.turns(100)
        assert told(far) == [("degraded", "events"), ("restored", "events")]
        await lab.end()

    run_in_turns(scenario())


def test_what_the_owner_still_lacks_is_not_restored():
    """The bus is back, but the owner has not written what waited."""

    async def scenario():
        lab = ExchangeLab()
        _, far = await followed(lab)
        pod = lab.pods[1]
        lab.pods[0].keeper.rooms[lab.session].view.tell(Degraded("events"))
        pod.keeper.bus_changed(is_up=False)
        await lab.turns(10)
        pod.keeper.bus_changed(is_up=True)
        await lab.turns(100)
        assert told(far) == [("degraded", "events")]
        await lab.end()

    run_in_turns(scenario())
