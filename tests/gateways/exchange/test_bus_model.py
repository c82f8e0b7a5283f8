"""The bus in memory and the one over Valkey give the same answers to any sequence of calls."""

from __future__ import annotations

import asyncio

import pytest
from bus_lab import SID, MemoryLab, events, stored_lab, valkey_lab
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_lab import running_lab

from sojourn.embedded.valkey import ValkeyServer
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.bus_config import ValkeySettings

BOUNDS = {"log_keep_count": 10, "log_keep_bytes": 1024, "log_keep_s": 30.0}
owners = st.builds(Owner, st.sampled_from(["pod-a", "pod-b"]), st.integers(1, 3))
epochs = st.integers(1, 2)
simulators = st.sampled_from(["", "sim-1"])
# No sum of the times falls on an expiry: the server's own clock goes on by milliseconds.
calls = st.one_of(
    st.tuples(st.just("acquire"), owners),
    st.tuples(st.just("renew"), owners),
    st.tuples(st.just("release"), owners),
    st.tuples(st.just("transfer"), owners, owners),
    st.tuples(st.just("append"), owners, epochs, st.integers(1, 15), st.integers(0, 12), simulators),
    st.tuples(st.just("append on"), st.integers(1, 12), simulators, st.integers(1, 200)),
    st.tuples(st.just("reseed"), owners, epochs, st.integers(0, 9), st.integers(0, 12), simulators),
    st.tuples(st.just("read"), epochs, st.integers(0, 20), st.integers(1, 12)),
    st.tuples(st.just("forget"), owners),
    st.tuples(st.just("pass"), st.sampled_from([4.3, 9.3, 31.3])),
    st.tuples(st.just("lose")),
)


async def answers(lab, script):
    """Make the calls and return what they answered, with the lease and the log's end after each."""
    bus = await lab.bus("pod-a")
    said = []
    for what, *how in script:
        said += [(what, await answer(lab, bus, what, *how)), await bus.owner_of(SID), await bus.log_end(SID)]
    return said


async def answer(lab, bus, what, *how):
    """Make one call."""
    match what, *how:
        case "append", owner, epoch, first, more, simulator:
            batch = events(first, first + more, simulator=simulator, size=50)
            return await bus.append(SID, owner, epoch, batch)
        case "append on", count, simulator, size:
            end = await bus.log_end(SID)
            owner = await bus.owner_of(SID) or Owner("pod-a", 3)
            await bus.acquire(SID, owner, 10.0)
            epoch, last = (end.epoch, end.last) if end else (1, 0)
            batch = events(last + 1, last + count, simulator=simulator, size=size)
            return await bus.append(SID, owner, epoch, batch)
        case "reseed", owner, epoch, after, count, simulator:
            batch = events(after + 1, after + count)
            return await bus.reseed(SID, owner, epoch, batch, after=after, simulator=simulator, seq=after)
        case "read", epoch, offset, limit:
            return await bus.read_after(SID, epoch, offset, limit)
        case "renew", owner:
            return await bus.renew({SID: owner}, 10.0)
        case ("acquire", _) | ("transfer", _, _):
            return await getattr(bus, what)(SID, *how, 10.0)
        case ("pass", _) | ("lose",):
            act = lab.pass_time if what == "pass" else lab.lose_data
            return await act(*how)
    return await getattr(bus, what)(SID, *how)


@pytest.fixture(scope="module")
def server():
    """One server for all examples."""
    server = ValkeyServer()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@settings(max_examples=80, deadline=None)
@given(script=st.lists(calls, max_size=25))
def test_both_give_the_same_answers(server, script):
    """What is proven of the gateway on the bus in memory holds on a server."""

    async def on_valkey():
        async with valkey_lab(server, **BOUNDS) as lab:
            return await answers(lab, script)

    expected = asyncio.run(answers(MemoryLab(ValkeySettings(**BOUNDS)), script))
    assert asyncio.run(on_valkey()) == expected


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One PostgreSQL for all examples."""
    with running_lab(tmp_path_factory.mktemp("model")) as running:
        yield running.direct.dsn()


async def stored_answers(script, dsn=""):
    """Make the calls where event logs are in a database."""
    async with stored_lab(dsn, **UNBOUNDED) as lab:
        return await answers(lab, script)


UNBOUNDED = {"log_keep_count": 10_000, "log_keep_bytes": 10_000_000, "log_keep_s": 1e6}
"""Logs in a database end with their sessions and are trimmed in larger steps."""


@settings(max_examples=150, deadline=None)
@given(script=st.lists(calls, max_size=25))
def test_logs_in_a_database_give_the_same_answers(script):
    """What is proven of the gateway on the bus in memory holds for one without a Valkey."""
    expected = asyncio.run(answers(MemoryLab(ValkeySettings(**UNBOUNDED)), script))
    assert asyncio.run(stored_answers(script)) == expected


@settings(max_examples=30, deadline=None)
@given(script=st.lists(calls, max_size=25))
def test_logs_in_postgresql_give_the_same_answers(database, script):
    """The statements do what the tables in memory do."""
    expected = asyncio.run(answers(MemoryLab(ValkeySettings(**UNBOUNDED)), script))
    assert asyncio.run(stored_answers(script, database)) == expected
