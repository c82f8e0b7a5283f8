"""Nothing lost, nothing twice, nothing out of order, whatever happens to pods, lines, clients and the bus."""

from __future__ import annotations

from exchange_lab import TURN_S, ExchangeLab, began, run_in_turns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def order(client, quantity=1):
    """Place an order that makes two events."""
    client.say("order", symbol="AAA", side="buy", quantity=quantity, type="market", tif="ioc")


def test_an_order_is_told_to_its_client_as_the_simulator_told_it(run):
    """The way of one event: simulator, log, view, link."""

    async def scenario():
        lab = ExchangeLab()
        client = await began(lab)
        order(client)
        await lab.turns()
        client.hear()
        assert client.bodies == lab.truth()
        assert len(client.bodies) == 2
        assert client.rows.keys() == {"AAA"}
        assert not lab.bugs
        await lab.end()

    run(scenario())


class World:
    """Pods, a client, and what can go wrong."""

    def __init__(self, **options):
        self.lab = ExchangeLab(flush_s=200 * TURN_S, **options)
        self.orders_count = 0

    async def act(self, action, number):
        lab, client = self.lab, self.client
        index = number % len(lab.pods)
        pod = lab.pods[index]
        match action:
            case "order":
                order(client, 1 + number % 3)
            case "time":
                lab.clock.advance(0.1)
                lab.simulator.desk.advance()
                lab.simulator.tell()
            case "cut":
                client.cut()
            case "connect":
                await client.connect(pod)
            case "kill":
                pod.kill()
                if client.link is not None and client.link.room.services is pod.services:
                    client.cut()
                for _ in range(2):
                    lab.clock.advance(8.0)
                    await lab.renew()
                lab.replace_pod(index)
            case "drain":
                await pod.drain()
                client.hear()
                lab.replace_pod(index)
            case "cut_simulator":
                lab.simulator.cut()
            case "slow":
                if client.outlet is not None:
                    client.outlet.waits_bytes = 2_000_000
            case "renew":
                lab.clock.advance(5.0)
                await lab.renew()
            case _:
                self.change_backends(action)
        await lab.turns(number)
        if number % 4:
            client.hear()

    def change_backends(self, action):
        """Take the bus or the database away, or give it back."""
        hub, store = self.lab.hub, self.lab.store
        names = {pod.name for pod in self.lab.pods}
        match action:
            case "outage":
                hub.away |= names
            case "deaf":
                hub.deaf |= names
            case "heal":
                hub.heal()
            case "lose_data":
                hub.lose_data()
            case "no_database":
                store.go_away()
            case "database":
                store.come_back()

    async def check(self):
        """Let everything mend; then the client has what the simulator has told."""
        lab, client = self.lab, self.client
        lab.hub.heal()
        lab.store.come_back()
        await lab.renew()
        for attempt in range(60):
            if client.link is None:
                await client.connect(lab.pods[attempt % len(lab.pods)])
            await lab.turns(20)
            client.hear()
            if client.link is not None and client.bodies == lab.truth():
                break
            lab.clock.advance(1.0)
            await lab.renew()
        assert client.errors == []
        assert client.losses == 0
        assert client.bodies == lab.truth()
        assert lab.bugs == []
        await lab.end()


FAULTS = ("cut", "connect", "kill", "drain", "outage", "deaf", "heal", "cut_simulator", "slow", "renew")
DATABASE_FAULTS = (*FAULTS, "no_database", "database", "lose_data")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(("order", "order", "time", *FAULTS)), st.integers(0, 12)),
        max_size=30,
    )
)
def test_no_event_is_lost_doubled_or_moved_whatever_fails(actions):
    """Issue 4, must show 2: clients cut and slow, pods killed and drained, the bus away, the simulator's line cut."""

    async def scenario():
        world = World()
        world.client = await began(world.lab)
        for action, number in actions:
            await world.act(action, number)
        await world.check()

    run_in_turns(scenario())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(("order", "order", "time", *DATABASE_FAULTS)), st.integers(0, 12)),
        max_size=30,
    )
)
def test_no_event_is_lost_doubled_or_moved_where_the_database_has_them(actions):
    """Section 5.7, without a Valkey: leases go with the processes, the log is as safe as the database."""

    async def scenario():
        world = World(has_stored_logs=True)
        world.client = await began(world.lab)
        for action, number in actions:
            await world.act(action, number)
        await world.check()

    run_in_turns(scenario())
