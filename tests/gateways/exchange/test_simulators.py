"""Work on simulators: who may do it, and that the next pod can as soon as it is done or given up."""

from __future__ import annotations

import asyncio

import pytest
from exchange_lab import MARKET, MemorySpawner

from sojourn.core.backoff import Backoff
from sojourn.gateways.exchange.lifecycle import REPLACE, SimulatorState, Timeouts
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.rows import Desired
from sojourn.gateways.exchange.simulators import SimulatorKeeper, market_of
from sojourn.testing.clock import ManualClock


async def wanted_simulator():
    """Return a store, and the row of a simulator that a session in it wants."""
    store = MemoryStore()
    await store.start()
    opened = await store.sessions.open("ana", "d1", policy=REPLACE, timeouts=Timeouts())
    wanted = await store.simulators.want(
        opened.row.id, Desired.RUNNING, driver="memory", spec=market_of(None, MARKET)
    )
    return store, wanted.row


def keeper_of(store, spawner, pod):
    """Return a pod's."""
    return SimulatorKeeper(
        store,
        {"memory": spawner},
        pod=pod,
        owner_timeout_s=0,
        backoff=lambda: Backoff(0.001, 0.001, lambda: 0.0),
    )


def ignore(_row):
    """Take note of nothing."""


def test_a_simulator_that_runs_can_be_stopped_by_another_pod_at_once(run):
    """Section 5.5: the claim on it ends with the work, so a pod that is restarted holds up nobody."""

    async def scenario():
        store, row = await wanted_simulator()
        spawner = MemorySpawner({}, ManualClock(1000.0))
        row = await keeper_of(store, spawner, "pod-a").settle(row, ignore)
        assert (row.state, [*spawner.simulators]) == (SimulatorState.RUNNING, [row.id])
        wanted = await store.simulators.want(row.session_id, Desired.STOPPED)
        row = await keeper_of(store, spawner, "pod-b").settle(wanted.row, ignore)
        assert (row.state, spawner.simulators) == (SimulatorState.STOPPED, {})

    run(scenario())


@pytest.mark.parametrize("is_away", [False, True])
def test_work_that_a_pod_gives_up_is_gone_on_with_by_another_at_once(run, is_away):
    """A pod that ends in the middle of a start; unless the database is away, then the claim ends by itself."""

    async def scenario():
        store, row = await wanted_simulator()

        class SlowSpawner(MemorySpawner):
            async def poll(self, _handle):
                starting.set()
                await asyncio.get_running_loop().create_future()

        starting = asyncio.Event()
        spawner = SlowSpawner({}, ManualClock(1000.0))
        work = asyncio.ensure_future(keeper_of(store, spawner, "pod-a").settle(row, ignore))
        await starting.wait()
        if is_away:
            store.go_away()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        if is_away:
            store.come_back()
        assert await store.simulators.claim(row.id, "pod-b", 60.0) is not is_away

    run(scenario())
