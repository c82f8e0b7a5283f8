"""The bus between pods: one contract for both implementations, then what only a server can do to us."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bus_lab import (
    ANA,
    BOB,
    QUICK,
    SID,
    SMALL,
    TTL_S,
    Link,
    MemoryLab,
    comes_back,
    events,
    settings_for,
    stored_lab,
    until,
    valkey_lab,
)
from postgres_lab import running_lab
from redis import asyncio as redis

from sojourn.core.secret import Secret
from sojourn.core.settings import BreakerSettings
from sojourn.embedded.account import free_port
from sojourn.embedded.valkey import ValkeyServer
from sojourn.errors import BackendUnavailable, LimitExceeded, LocalProtocolError
from sojourn.gateways.exchange import valkey_connection
from sojourn.gateways.exchange.bus import (
    Ahead,
    Appended,
    Fenced,
    Gap,
    Gone,
    LogEnd,
    OtherEpoch,
    Owner,
    Page,
    Pod,
    Trimmed,
    chosen_pod,
)
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.memory_bus import MemoryHub, open_bus
from sojourn.gateways.exchange.valkey_bus import ValkeyBus
from sojourn.testing.clock import ManualClock
from sojourn.testing.fault_proxy import FaultProxy, Faults, Script


@pytest.fixture(scope="module")
def server():
    """One server for the whole contract: it is emptied for each test."""
    server = ValkeyServer()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node: it refuses every call that would not work in a larger one."""
    # On loopback: without a port of its own the nodes' own port would be 10000, on every interface.
    server = ValkeyServer(port=0, settings={"cluster-enabled": "yes", "cluster-port": str(free_port())})

    async def start():
        await server.start()
        async with redis.from_url(server.url()) as admin:
            await admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: is_ok(admin))

    async def is_ok(admin):
        return b"cluster_state:ok" in await admin.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)

    asyncio.run(start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def open_directory():
    """Give a directory that any user may enter: where we are root the server runs as another."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _maker(request):
    """Return a maker of labs, ``async with maker() as here``; its server is started first."""
    servers = {"valkey": "server", "cluster": "cluster"}
    server = request.getfixturevalue(servers[request.param]) if request.param in servers else None

    @asynccontextmanager
    async def make(**changes):
        if server is None:
            yield MemoryLab(ValkeySettings(**changes))
        else:
            async with valkey_lab(server, **changes) as made:
                yield made

    return make


@pytest.fixture(params=["memory", "valkey", "cluster"])
def lab(request):
    """Give a maker of labs."""
    return _maker(request)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A PostgreSQL for the logs of a gateway without a Valkey; each lab has a schema of its own."""
    with running_lab(tmp_path_factory.mktemp("logs")) as running:
        yield running.direct.dsn()


@pytest.fixture(params=["memory", "valkey", "cluster", "stored", "postgres"])
def log_lab(request):
    """Give a maker of labs for event logs, which may be in the database too."""
    if request.param in {"stored", "postgres"}:
        dsn = "" if request.param == "stored" else request.getfixturevalue("database")
        return lambda **changes: stored_lab(dsn, **changes)
    return _maker(request)


# The contract: leases


def test_a_lease_has_one_owner_until_it_expires(run, lab):
    """Session service 5.6: 15 s, then anybody may take it."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            assert await b.owner_of(SID) is None
            assert await a.acquire(SID, ANA, TTL_S) == ANA
            assert await a.acquire(SID, ANA, TTL_S) == ANA
            rival = Owner("pod-b", 3)
            assert await b.acquire(SID, rival, TTL_S) == ANA
            assert await b.owner_of(SID) == ANA
            assert await b.owners_of([SID, "other"]) == {SID: ANA}
            await here.pass_time(TTL_S + 1)
            assert await b.owner_of(SID) is None
            assert await b.acquire(SID, rival, TTL_S) == rival

    run(scenario())


def test_a_greater_epoch_takes_the_lease_and_a_smaller_one_never_does(run, lab):
    """The epoch comes from the session's row and fences: who has a smaller one was replaced."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            await a.acquire(SID, ANA, TTL_S)
            assert await b.acquire(SID, BOB, TTL_S) == BOB
            assert await a.acquire(SID, ANA, TTL_S) == BOB
            assert await a.renew({SID: ANA}, TTL_S) == {SID: BOB}
            assert await a.append(SID, ANA, 1, events(1, 1)) == Fenced(BOB)
            assert await b.append(SID, BOB, 1, events(1, 1)) == Appended(1)
            assert await b.release(SID, BOB)
            # Nobody has the lease, but the log was written under a greater epoch.
            assert await a.acquire(SID, ANA, TTL_S) == Owner("", 4)

    run(scenario())


def test_thousands_of_leases_are_renewed_and_the_lost_ones_named(run, lab):
    """One round trip; lost is what another has, and what nobody has."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            names = [f"s{number}" for number in range(2_000)]
            await asyncio.gather(*[a.acquire(name, ANA, TTL_S) for name in names])
            await a.release("s7", ANA)
            await b.acquire("s1900", BOB, TTL_S)
            await here.pass_time(TTL_S - 5)
            assert await a.renew(dict.fromkeys(names, ANA), TTL_S) == {"s7": None, "s1900": BOB}
            await here.pass_time(TTL_S - 5)
            assert len(await b.owners_of(names)) == 1_998
            await here.pass_time(5)
            assert await b.owners_of(names) == {}

    run(scenario())


def test_only_the_owner_can_give_a_lease_up_or_hand_it_over(run, lab):
    """Make before break: the other pod has the lease in the moment in which we lose it."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            await a.acquire(SID, ANA, TTL_S)
            assert not await b.release(SID, Owner("pod-b", 3))
            assert await b.transfer(SID, Owner("pod-b", 3), BOB, TTL_S) == ANA
            assert await a.transfer(SID, ANA, BOB, TTL_S) == BOB
            assert await a.transfer(SID, ANA, BOB, TTL_S) == BOB, "the answer may have been lost"
            assert await a.owner_of(SID) == BOB
            assert not await a.release(SID, ANA)
            assert await b.release(SID, BOB)
            assert await b.transfer(SID, BOB, ANA, TTL_S) is None

    run(scenario())


# The contract: event logs


def test_events_are_read_back_behind_a_cursor(run, log_lab):
    """Session service 5.4: offsets are contiguous per epoch, and a reader sees all of them or is told why not."""

    async def scenario():
        async with log_lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            assert await b.read_after(SID, 1, 0, 100) == Gone()
            assert await b.log_end(SID) is None
            await a.acquire(SID, ANA, TTL_S)
            written = [*events(1, 3, simulator="sim-1"), LogEvent(4, "note", '{"a":"é"}'.encode(), 17)]
            assert await a.append(SID, ANA, 1, written) == Appended(4)
            assert await b.read_after(SID, 1, 0, 100) == Page(tuple(written), 4)
            assert await b.read_after(SID, 1, 2, 1) == Page((written[2],), 4)
            assert await b.read_after(SID, 1, 4, 100) == Page((), 4)
            assert await b.read_after(SID, 1, 5, 100) == Ahead(1, 4)
            assert await b.read_after(SID, 2, 0, 100) == OtherEpoch(1, 4)
            assert await b.log_end(SID) == LogEnd(1, 1, 4, "sim-1", 30)

    run(scenario())


def test_an_append_that_is_repeated_writes_nothing_twice(run, log_lab):
    """Its answer may have been lost; then part of a larger batch may be there already."""

    async def scenario():
        async with log_lab() as here:
            a = await here.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            for _ in range(2):
                assert await a.append(SID, ANA, 1, events(1, 3)) == Appended(3)
            assert await a.append(SID, ANA, 1, events(2, 5)) == Appended(5)
            assert await a.read_after(SID, 1, 0, 100) == Page(tuple(events(1, 5)), 5)

    run(scenario())


def test_nothing_is_written_without_the_lease_or_with_a_gap(run, log_lab):
    """The comparison and the write are one step; each refusal says what is so instead."""

    async def scenario():
        async with log_lab() as here:
            a = await here.bus("pod-a")
            assert await a.append(SID, ANA, 1, events(1, 1)) == Fenced(None)
            await a.acquire(SID, ANA, TTL_S)
            assert await a.append(SID, ANA, 1, events(5, 6)) == Gap(0, 0)
            assert await a.append(SID, ANA, 1, events(1, 2)) == Appended(2)
            assert await a.append(SID, ANA, 1, events(4, 4)) == Gap(1, 2)
            assert await a.append(SID, ANA, 2, events(1, 1)) == Gap(1, 2)
            assert await a.reseed(SID, BOB, 2, []) == Fenced(ANA)
            with pytest.raises(LocalProtocolError):
                await a.append(SID, ANA, 1, [*events(3, 3), *events(5, 5)])
            with pytest.raises(LocalProtocolError):
                await a.reseed(SID, ANA, 1, events(5, 5))
            assert await a.read_after(SID, 1, 0, 100) == Page(tuple(events(1, 2)), 2)

    run(scenario())


def test_a_log_keeps_its_newest_events_by_number_and_by_bytes(run, log_lab):
    """Bounded in number (and a tenth more) and bytes; a cursor before the oldest one kept is told so."""

    async def scenario():
        async with log_lab(**SMALL) as here:
            a = await here.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            for offset in range(1, 201):
                assert await a.append(SID, ANA, 1, events(offset, offset)) == Appended(offset)
            end = await a.log_end(SID)
            assert 20 <= end.last - end.first + 1 <= 22
            assert await a.read_after(SID, 1, end.first - 2, 9) == Trimmed(1, end.first, 200)
            assert await a.read_after(SID, 1, end.first - 1, 99) == Page(tuple(events(end.first, 200)), 200)
            assert await a.append(SID, ANA, 1, events(201, 210, size=1000)) == Appended(210)
            assert await a.log_end(SID) == LogEnd(1, 207, 210, "", 0)
            assert await a.append(SID, ANA, 1, events(211, 211, size=9000)) == Appended(211)
            assert await a.log_end(SID) == LogEnd(1, 211, 211, "", 0)

    run(scenario())


def test_a_mirror_is_written_again_after_the_data_was_lost(run, log_lab):
    """The owner lives, so its memory proves that nothing is missing: same epoch, same offsets."""

    async def scenario():
        async with log_lab() as here:
            a = await here.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            await a.append(SID, ANA, 1, events(1, 9, simulator="sim-1"))
            await here.lose_data()
            assert await a.append(SID, ANA, 1, events(10, 10)) == Fenced(None)
            assert await a.renew({SID: ANA}, TTL_S) == {SID: None}
            assert await a.acquire(SID, ANA, TTL_S) == ANA
            assert await a.append(SID, ANA, 1, events(10, 10)) == Gap(0, 0)
            assert await a.reseed(SID, ANA, 1, events(5, 10), after=4, simulator="sim-1", seq=90) == Appended(
                10
            )
            assert await a.log_end(SID) == LogEnd(1, 5, 10, "sim-1", 90)
            assert await a.append(SID, ANA, 1, events(11, 11)) == Appended(11)
            assert await a.read_after(SID, 1, 3, 99) == Trimmed(1, 5, 11)
            assert await a.read_after(SID, 1, 4, 99) == Page(tuple(events(5, 11)), 11)

    run(scenario())


def test_another_epoch_begins_without_an_event(run, log_lab):
    """Where continuity cannot be proven the log begins anew, and knows which simulator event came before."""

    async def scenario():
        async with log_lab() as here:
            a = await here.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            await a.append(SID, ANA, 7, events(1, 9))
            assert await a.reseed(SID, ANA, 8, [], simulator="sim-1", seq=41) == Appended(0)
            assert await a.log_end(SID) == LogEnd(8, 1, 0, "sim-1", 41)
            assert await a.read_after(SID, 7, 9, 99) == OtherEpoch(8, 0)
            assert await a.append(SID, ANA, 8, events(1, 1)) == Appended(1)
            assert await a.read_after(SID, 8, 0, 99) == Page(tuple(events(1, 1)), 1)

    run(scenario())


def test_a_log_lives_as_long_as_its_owner_and_a_while_longer(run, lab):
    """socket.io#5282: a session that was silent for long can be resumed, because renewing keeps its log."""

    async def scenario():
        async with lab(log_keep_s=60.0) as here:
            a = await here.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            await a.append(SID, ANA, 1, events(1, 2))
            for _ in range(10):
                await here.pass_time(TTL_S - 1)
                assert await a.renew({SID: ANA}, TTL_S) == {}
            assert await a.read_after(SID, 1, 0, 9) == Page(tuple(events(1, 2)), 2)
            await here.pass_time(59)
            assert (await a.log_end(SID)).last == 2
            await here.pass_time(2)
            assert await a.read_after(SID, 1, 0, 9) == Gone()

    run(scenario())


def test_only_the_owner_can_delete_a_log(run, log_lab):
    """An ended session leaves nothing; a stale owner deletes nothing."""

    async def scenario():
        async with log_lab() as here:
            a = await here.bus("pod-a")
            await a.acquire(SID, BOB, TTL_S)
            await a.append(SID, BOB, 1, events(1, 2))
            assert not await a.forget(SID, ANA)
            assert await a.forget(SID, BOB)
            assert await a.read_after(SID, 1, 0, 9) == Gone()

    run(scenario())


def test_appends_of_many_sessions_of_one_turn_all_arrive(run, log_lab):
    """They are batched by themselves; each session has its own log."""

    async def scenario():
        async with log_lab() as here:
            a = await here.bus("pod-a")
            names = [f"s{number}" for number in range(1_000)]
            await asyncio.gather(*[a.acquire(name, ANA, TTL_S) for name in names])
            answers = await asyncio.gather(*[a.append(name, ANA, 1, events(1, 2)) for name in names])
            assert set(map(type, answers)) == {Appended}
            ends = await asyncio.gather(*[a.log_end(name) for name in names])
            assert {end.last for end in ends} == {2}

    run(scenario())


# The contract: pods


def test_pods_live_as_long_as_they_say_so(run, lab):
    """Names in order; who stops announcing is gone after its time, who retires at once."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            one, two = Pod("pod-a", "10.0.0.1:8443", load=3.5), Pod("pod-b", "10.0.0.2:8443")
            assert await b.announce(two, TTL_S) == (two,)
            assert await a.announce(one, TTL_S) == (one, two)
            await here.pass_time(TTL_S - 1)
            drains = Pod("pod-a", "10.0.0.1:8443", is_draining=True, load=2.0)
            assert await a.announce(drains, TTL_S) == (drains, two)
            await here.pass_time(2)
            assert await b.pods() == (drains,)
            await a.retire("pod-a")
            assert await b.pods() == ()

    run(scenario())


def test_who_watches_the_pods_hears_of_every_change_but_not_of_loads(run, lab):
    """A pod that comes, drains or goes moves sessions; one that is busier does not."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            seen = []
            stop = b.watch_pods(lambda pods: seen.append([(pod.name, pod.is_draining) for pod in pods]))
            await a.announce(Pod("pod-a", "x"), TTL_S)
            await until(lambda: seen == [[("pod-a", False)]])
            await a.announce(Pod("pod-a", "x", load=9.0), TTL_S)
            await a.announce(Pod("pod-a", "x", is_draining=True), TTL_S)
            await until(lambda: seen[1:] == [[("pod-a", True)]])
            await a.retire("pod-a")
            await until(lambda: seen[2:] == [[]])
            stop()
            stop()
            await b.announce(Pod("pod-b", "y"), TTL_S)
            assert len(seen) == 3

    run(scenario())


# The contract: relay


def test_frames_of_the_owner_reach_the_links_of_other_pods(run, lab):
    """In order, all of them, to every listener; nobody else's, and nothing after the end."""

    async def scenario():
        async with lab() as here:
            a, b, c = [await here.bus(f"pod-{name}") for name in "abc"]
            one, two, three, other = Link(), Link(), Link(), Link()
            assert await a.publish(SID, b"nobody listens") == 0
            first = await b.subscribe(SID, one)
            await b.subscribe(SID, two)
            await c.subscribe(SID, three)
            await c.subscribe("other", other)
            for number in range(100):
                assert await a.publish(SID, b"%d" % number) == 2
            await until(lambda: len(three.heard) == len(two.heard) == 100)
            assert one.heard == two.heard == three.heard == [b"%d" % number for number in range(100)]
            assert other.heard == []
            first.close()
            first.close()
            await a.publish(SID, b"last")
            await until(lambda: two.heard[-1] == b"last")
            assert one.heard[-1] == b"99"

    run(scenario())


def test_a_link_that_comes_back_at_once_misses_nothing(run, lab):
    """The order of unsubscribing and subscribing is kept, also when both are under way."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            link = Link()
            for number in range(20):
                subscription = await b.subscribe(SID, link)
                await a.publish(SID, b"%d" % number)
                await until(lambda number=number: link.heard[-1:] == [b"%d" % number])
                subscription.close()
            assert link.heard == [b"%d" % number for number in range(20)]

    run(scenario())


def test_frames_and_followed_sessions_are_bounded(run, lab):
    """Every queue has a bound; who asks for more is told the limit."""

    async def scenario():
        async with lab(frame_bytes=1024, channels_count=2) as here:
            a = await here.bus("pod-a")
            with pytest.raises(LimitExceeded):
                await a.publish(SID, b"x" * 1025)
            with pytest.raises(LimitExceeded):
                await a.ask("pod-b", SID, b"x" * 1025, 1.0)
            kept = [await a.subscribe(f"s{number}", Link()) for number in range(2)]
            with pytest.raises(LimitExceeded):
                await a.subscribe("s2", Link())
            kept[0].close()
            await a.subscribe("s2", Link())

    run(scenario())


def test_a_command_is_carried_out_by_the_owner_and_answered(run, lab):
    """A link's order on another pod goes to the owner and comes back with its answer."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")

            async def obey(session, command):
                return b"%b did %b" % (session.encode(), command)

            a.serve(obey)
            answers = await asyncio.gather(
                *[b.ask("pod-a", SID, b"%d" % number, 5.0) for number in range(50)]
            )
            assert answers == [b"%b did %d" % (SID.encode(), number) for number in range(50)]
            b.serve(obey)
            assert await b.ask("pod-b", SID, b"own", 5.0) == b"%b did own" % SID.encode()

    run(scenario())


def test_a_command_that_cannot_be_carried_out_says_so(run, lab):
    """No pod, no handler, a bug, too many, too late: each is told to who asked, and disturbs nobody else."""

    async def scenario():
        mistakes = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: mistakes.append(context["exception"])
        )
        async with lab(commands_count=1) as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            with pytest.raises(BackendUnavailable, match="does not listen"):
                await b.ask("pod-z", SID, b"", 5.0)
            with pytest.raises(BackendUnavailable, match="busy"):
                await b.ask("pod-a", SID, b"", 5.0)

            async def slip(session, command):
                raise KeyError(session)

            a.serve(slip)
            with pytest.raises(BackendUnavailable, match="failed"):
                await b.ask("pod-a", SID, b"", 5.0)
            (mistake,) = mistakes
            assert isinstance(mistake, KeyError)
            began, forever = asyncio.Event(), asyncio.Event()

            async def hang(session, command):
                began.set()
                await forever.wait()
                return b"done"

            a.serve(hang)
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(b.ask("pod-a", SID, b"", 5.0))
                await began.wait()
                with pytest.raises(BackendUnavailable, match="busy"):
                    await b.ask("pod-a", SID, b"", 5.0)
                forever.set()
            assert first.result() == b"done"
            forever.clear()
            with pytest.raises(BackendUnavailable, match="no answer in time"):
                await b.ask("pod-a", SID, b"", 0.05)

    run(scenario())


# The contract: tickets


def test_a_ticket_opens_once_and_for_a_short_time(run, lab):
    """Session service 5.3: single use, 30 s; of two who come at once, one gets in."""

    async def scenario():
        async with lab() as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            assert await a.put_ticket("t1", b"\x00who", 30.0)
            assert not await a.put_ticket("t1", b"other", 30.0)
            found = await asyncio.gather(a.take_ticket("t1"), b.take_ticket("t1"))
            assert sorted(found, key=bool) == [None, b"\x00who"]
            assert await a.put_ticket("t2", b"x", 30.0)
            await here.pass_time(31)
            assert await b.take_ticket("t2") is None
            assert await b.take_ticket("never was") is None

    run(scenario())


# Rendezvous hashing


def test_a_pod_that_goes_moves_only_its_own_sessions():
    """Every pod says the same, the load is even, and those that drain get nothing."""
    pods = [Pod(f"pod-{number}", "") for number in range(4)]
    names = [f"session-{number}" for number in range(4_000)]
    before = {name: chosen_pod(name, pods).name for name in names}
    assert before == {name: chosen_pod(name, reversed(pods)).name for name in names}
    assert all(900 < list(before.values()).count(pod.name) < 1_100 for pod in pods)
    drained = [*pods[:3], Pod("pod-3", "", is_draining=True)]
    after = {name: chosen_pod(name, drained).name for name in names}
    assert {before[name] for name in names if before[name] != after[name]} == {"pod-3"}
    assert "pod-3" not in after.values()
    assert chosen_pod("x", []) is None


# The switches of the bus in memory


def test_a_bus_in_memory_fails_as_it_is_told(run):
    """Away does nothing, deaf does it without an answer, held does it later; the outage is told."""

    async def scenario():
        hub = MemoryHub(ValkeySettings(timeout_s=0.05), ManualClock())
        bus, other = hub.join("pod-a"), hub.join("pod-b")
        told = []
        bus.on_health = lambda health: told.append(health.is_up)
        hub.away.add("pod-a")
        with pytest.raises(BackendUnavailable):
            await bus.acquire(SID, ANA, TTL_S)
        assert await other.owner_of(SID) is None
        hub.away.clear()
        hub.deaf.add("pod-a")
        with pytest.raises(BackendUnavailable):
            await bus.acquire(SID, ANA, TTL_S)
        assert await other.owner_of(SID) == ANA
        assert bus.health().outage_since == 1_000.0
        hub.deaf.clear()
        hub.held = asyncio.Event()
        with pytest.raises(BackendUnavailable):
            await bus.append(SID, ANA, 1, events(1, 1))
        hub.held.set()
        assert await bus.append(SID, ANA, 1, events(1, 3)) == Appended(3)
        hub.lose_events(SID, 2)
        assert await bus.append(SID, ANA, 1, events(4, 4)) == Gap(1, 1)
        assert told == [False, True]
        hub.away.add("pod-a")
        with pytest.raises(BackendUnavailable):
            await bus.pods()
        hub.heal()
        assert told == [False, True, False, True]

    run(scenario())


def test_a_pod_that_was_cut_off_hears_of_a_gap(run):
    """The switch for the relay: nothing arrives, and afterwards every listener knows."""

    async def scenario():
        hub = MemoryHub()
        a, b = hub.join("pod-a"), hub.join("pod-b")
        link = Link()
        await b.subscribe(SID, link)
        hub.cut_off_pod("pod-b")
        await a.publish(SID, b"lost")
        with pytest.raises(BackendUnavailable):
            await b.ask("pod-a", SID, b"", 1.0)
        with pytest.raises(BackendUnavailable):
            await a.ask("pod-b", SID, b"", 1.0)
        hub.reconnect_pod("pod-b")
        await a.publish(SID, b"next")
        assert link.heard == ["gap", b"next"]

    run(scenario())


def test_the_settings_say_which_bus(server):
    """No address: one process, nothing to install."""
    assert type(open_bus("pod-a", ValkeySettings())).__name__ == "MemoryBus"
    assert type(open_bus("pod-a", settings_for(server))).__name__ == "ValkeyBus"


def test_unsound_settings_are_named():
    """What only several fields together can show."""
    wrong = ValkeySettings(url=Secret("http://x"), lease_s=5.0, reconnect_s=9.0)
    assert [key for key, _, _ in wrong.problems()] == ["url", "lease_s", "reconnect_max_s"]
    assert list(ValkeySettings(url=Secret("rediss://x")).problems()) == []
    assert not any("word" in str(part) for part in ValkeySettings(url=Secret("redis://:word@x")).problems())


# Valkey only: servers that go, come back and say nothing


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_server_that_saved_its_data_loses_nothing(run, open_directory, ending):
    """The append-only file, also after kill -9: all is as it was, and the pod finds back by itself."""

    async def scenario():
        server = ValkeyServer(directory=open_directory / "valkey", port=0, password=Secret("word"))
        async with server:
            port = server.port
            async with FaultProxy("127.0.0.1", port) as proxy, asyncio.TaskGroup() as tasks:
                url = f"redis://:word@127.0.0.1:{proxy.port}/0"
                bus = ValkeyBus("pod-a", settings_for(url, **QUICK))
                told = []
                bus.on_health = lambda health: told.append(health.is_up)
                running = tasks.create_task(bus.run())
                await bus.acquire(SID, ANA, TTL_S)
                await bus.append(SID, ANA, 1, events(1, 5))
                await bus.put_ticket("t", b"v", 60.0)
                os.kill(server.pid, ending)
                await until(lambda: not server.is_running and not bus.health().is_up)
                assert bus.health().outage_since is not None
                server._wished_port = port
                await server.start()
                await until(lambda: bus.health().is_up and bus.health().is_relay_up)
                assert told == [False, True]
                assert await bus.owner_of(SID) == ANA
                assert await bus.append(SID, ANA, 1, events(6, 6)) == Appended(6)
                assert await bus.read_after(SID, 1, 0, 9) == Page(tuple(events(1, 6)), 6)
                assert await bus.take_ticket("t") == b"v"
                running.cancel()

    run(scenario())


def test_a_restarted_server_that_lost_its_data_is_filled_again(run):
    """Without a directory nothing stays: the lease is nobody's, the log is gone, the owner writes both again."""

    async def scenario():
        server = ValkeyServer(port=0, password=Secret("word"))
        async with server, asyncio.TaskGroup() as tasks:
            bus = ValkeyBus("pod-a", settings_for(server, **QUICK))
            running = tasks.create_task(bus.run())
            link = Link()
            await bus.acquire(SID, ANA, TTL_S)
            await bus.append(SID, ANA, 1, events(1, 5))
            await until(lambda: bus.health().is_relay_up)
            await bus.subscribe(SID, link)
            port = server.port
            await server.stop()
            with pytest.raises(BackendUnavailable):
                await bus.append(SID, ANA, 1, events(6, 6))
            server._wished_port = port
            await server.start()
            assert await comes_back(lambda: bus.renew({SID: ANA}, TTL_S)) == {SID: None}
            assert await bus.append(SID, ANA, 1, events(6, 6)) == Fenced(None)
            assert await bus.acquire(SID, ANA, TTL_S) == ANA
            assert await bus.append(SID, ANA, 1, events(6, 6)) == Gap(0, 0)
            assert await bus.reseed(SID, ANA, 1, events(1, 6)) == Appended(6)
            await until(lambda: link.heard == ["gap"])
            await bus.publish(SID, b"after")
            await until(lambda: link.heard == ["gap", b"after"])
            running.cancel()

    run(scenario())


def test_a_stopped_server_costs_a_deadline_and_blocks_nobody(run):
    """SIGSTOP: the connection stands, nothing answers. Calls fail in time, later ones at once; the loop goes on."""

    async def scenario():
        async with ValkeyServer() as server, asyncio.TaskGroup() as tasks:
            bus = ValkeyBus("pod-a", settings_for(server, **QUICK))
            running = tasks.create_task(bus.run())
            await bus.acquire(SID, ANA, TTL_S)
            await until(lambda: bus.health().is_relay_up)
            link = Link()
            await bus.subscribe(SID, link)
            loop = asyncio.get_running_loop()
            os.kill(server.pid, signal.SIGSTOP)
            try:
                began = loop.time()
                calls = [bus.append(SID, ANA, 1, events(1, 1)) for _ in range(100)]
                answers = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(answer, BackendUnavailable) for answer in answers)
                assert loop.time() - began < 1.0
                await until(lambda: bus.health().circuit != "closed" and not bus.health().is_relay_up)
                with pytest.raises(BackendUnavailable):
                    await bus.subscribe("other", Link())
                with pytest.raises(BackendUnavailable):
                    await bus.ask("pod-a", SID, b"", 5.0)
                assert bus.health().cause == "no answer in time"
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await until(lambda: bus.health().is_up and bus.health().is_relay_up)
            assert await bus.append(SID, ANA, 1, events(1, 1)) == Appended(1)
            assert link.heard == ["gap"]
            running.cancel()

    run(scenario())


def test_a_connection_that_dies_silently_is_noticed_and_replaced(run):
    """redis-py #2089, #2417: no FIN, no RST, just silence; the watchdog finds it and the listener hears of a gap."""

    async def scenario():
        server = ValkeyServer(port=0, password=Secret("word"))
        await server.start()
        try:
            async with FaultProxy("127.0.0.1", server.port) as proxy, asyncio.TaskGroup() as tasks:
                away = ValkeyBus("pod-b", settings_for(f"redis://:word@127.0.0.1:{proxy.port}/0", **QUICK))
                near = ValkeyBus("pod-a", settings_for(server, **QUICK))
                running = [tasks.create_task(each.run()) for each in (away, near)]
                await until(lambda: away.health().is_relay_up and near.health().is_relay_up)
                link = Link()
                await away.subscribe(SID, link)
                await near.publish(SID, b"1")
                await until(lambda: link.heard == [b"1"])
                for connection in tuple(proxy.connections):
                    connection.stall()
                await near.publish(SID, b"never arrives")
                await until(lambda: link.heard == [b"1", "gap"])
                await until(lambda: away.health().is_up)
                await near.publish(SID, b"3")
                await until(lambda: link.heard == [b"1", "gap", b"3"])
                for each in running:
                    each.cancel()
        finally:
            await server.stop()

    run(scenario())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_appends_through_a_network_that_cuts_lose_and_repeat_nothing(run, seed):
    """An owner that repeats what was not answered: every event is in the log once, wherever the cut was."""
    chance = random.Random(seed)
    cuts = [Script(to_client=Faults(cut_after_bytes=chance.randrange(300, 2_500))) for _ in range(40)]
    cuts += [Script(to_server=Faults(reset_after_bytes=chance.randrange(8_000, 16_000))) for _ in range(20)]
    chance.shuffle(cuts)
    always = BreakerSettings(
        consecutive_failures_count=1_000_000, failure_rate=1.0, min_calls_count=1_000_000
    )

    async def scenario():
        server = ValkeyServer(port=0, password=Secret("word"))
        await server.start()
        try:
            async with (
                FaultProxy("127.0.0.1", server.port, *cuts, Script()) as proxy,
                asyncio.TaskGroup() as tasks,
            ):
                url = f"redis://:word@127.0.0.1:{proxy.port}/0"
                bus = ValkeyBus("pod-a", settings_for(url, breaker=always, **QUICK))
                running = tasks.create_task(bus.run())
                await comes_back(lambda: bus.acquire(SID, ANA, 60.0))
                last, sent = 0, 0
                while last < 300 or len(proxy.connections) <= len(cuts):
                    sent += chance.randrange(1, 4)
                    batch = events(last + 1, sent)
                    answer = await comes_back(lambda batch=batch: bus.append(SID, ANA, 1, batch))
                    assert answer == Appended(sent)
                    last = sent
                kept = await comes_back(lambda: bus.read_after(SID, 1, max(0, last - 1_000), 2_000))
                assert [event.offset for event in kept.events] == list(
                    range(max(0, last - 1_000) + 1, last + 1)
                )
                running.cancel()
        finally:
            await server.stop()

    run(scenario())


def test_a_frame_that_the_server_dropped_is_noticed_at_the_next_one(run, server):
    """Frames are numbered: what was lost between publisher and listener shows."""

    async def scenario():
        async with valkey_lab(server) as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            link = Link()
            await b.subscribe(SID, link)
            await a.publish(SID, b"1")
            a._relay._published[f"{{{SID}}}:out"] += 1
            await a.publish(SID, b"3")
            await until(lambda: link.heard == [b"1", "gap", b"3"])

    run(scenario())


def test_a_server_that_takes_no_writes_is_an_outage_until_it_does(run):
    """A replica answers reads; the outage is told once and ends when writing works, not with the next read."""

    async def scenario():
        async with (
            ValkeyServer() as server,
            redis.from_url(server.url()) as admin,
            asyncio.TaskGroup() as tasks,
        ):
            bus = ValkeyBus("pod-a", settings_for(server, **QUICK))
            told = []
            bus.on_health = lambda health: told.append(health.is_up)
            running = tasks.create_task(bus.run())
            await bus.acquire(SID, ANA, TTL_S)
            await admin.execute_command("REPLICAOF", "127.0.0.1", 1)
            with pytest.raises(BackendUnavailable, match="READONLY"):
                await bus.append(SID, ANA, 1, events(1, 1))
            assert (await comes_back(lambda: bus.owner_of(SID))) == ANA
            assert told == [False]
            await admin.execute_command("REPLICAOF", "NO", "ONE")
            await until(lambda: bus.health().is_up)
            assert await bus.append(SID, ANA, 1, events(1, 1)) == Appended(1)
            assert told == [False, True]
            running.cancel()

    run(scenario())


def test_flushed_scripts_are_loaded_again(run, server):
    """NOSCRIPT means that nothing was carried out, so the call is repeated without anybody noticing."""

    async def scenario():
        async with valkey_lab(server) as here:
            bus = await here.bus("pod-a")
            await bus.acquire(SID, ANA, TTL_S)
            await here.admin.script_flush()
            answers = await asyncio.gather(
                bus.append(SID, ANA, 1, events(1, 1)),
                bus.append(SID, ANA, 1, events(2, 2)),
                bus.owner_of(SID),
            )
            assert answers == [Appended(1), Appended(2), ANA]

    run(scenario())


def test_a_wrong_password_is_told_without_telling_it(run):
    """The operator can see what is wrong; nobody can see the secret."""

    async def scenario():
        async with ValkeyServer(port=0, password=Secret("word")) as server, asyncio.TaskGroup() as tasks:
            bus = ValkeyBus("pod-a", settings_for(f"redis://:guess@127.0.0.1:{server.port}/0", **QUICK))
            running = tasks.create_task(bus.run())
            with pytest.raises(BackendUnavailable, match="refuses our user or password") as failure:
                await bus.owner_of(SID)
            assert "guess" not in repr(failure.value)
            await until(lambda: bus.health().cause == "it refuses our user or password")
            running.cancel()

    run(scenario())


def test_more_calls_than_may_wait_are_refused(run, server):
    """A bound in number and in bytes: a server that is away must not fill our memory."""

    async def scenario():
        async with valkey_lab(server, waiting_count=100, waiting_bytes=1_048_576) as here:
            bus = await here.bus("pod-a")
            answers = await asyncio.gather(*[bus.owner_of(SID) for _ in range(150)], return_exceptions=True)
            assert [isinstance(answer, BackendUnavailable) for answer in answers].count(True) == 50
            with pytest.raises(BackendUnavailable):
                await bus.put_ticket("t", b"x" * 1_048_577, 1.0)
            assert await bus.owner_of(SID) is None

    run(scenario())


def test_a_call_that_waits_when_the_pod_ends_fails_and_does_not_hang(run, server):
    """Nothing waits for an answer that nobody will bring."""

    async def scenario():
        async with valkey_lab(server) as here:
            bus = await here.bus("pod-a")
            os.kill(server.pid, signal.SIGSTOP)
            try:
                calls = [asyncio.ensure_future(bus.owner_of(SID)) for _ in range(3)]
                await asyncio.sleep(0)
                here.running[0].cancel()
                answers = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(answer, BackendUnavailable) for answer in answers)
            finally:
                os.kill(server.pid, signal.SIGCONT)

    run(scenario())


def test_what_others_send_wrong_disturbs_nobody(run, server):
    """A message of another version, a frame without its head, a listener with a bug: the relay goes on."""

    async def scenario():
        mistakes = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: mistakes.append(context["exception"])
        )
        async with valkey_lab(server) as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")

            class Clumsy(Link):
                def on_frame(self, frame):
                    raise KeyError(frame)

            link = Link()
            await b.subscribe(SID, Clumsy())
            await b.subscribe(SID, link)
            for channel in ("{pod.pod-b}:in", f"{{{SID}}}:out"):
                await here.admin.execute_command("SPUBLISH", channel, b"\xc1 nonsense")
            await here.admin.execute_command("SPUBLISH", f"{{{SID}}}:out", b"short")
            await a.publish(SID, b"1")
            await until(lambda: b"1" in link.heard)
            assert {type(mistake) for mistake in mistakes} == {KeyError}
            b.serve(lambda _, command: asyncio.sleep(0, command))
            assert await a.ask("pod-b", SID, b"still there", 5.0) == b"still there"

    run(scenario())


def test_a_server_without_sharded_channels_gets_plain_ones(run, server, monkeypatch):
    """Redis 6.2 has no SPUBLISH; publisher and listener find that out by themselves and agree."""
    monkeypatch.setattr(valkey_connection, "SHARDED_SINCE", (99, 0))

    async def scenario():
        async with valkey_lab(server) as here:
            a, b = await here.bus("pod-a"), await here.bus("pod-b")
            link = Link()
            await b.subscribe(SID, link)
            assert await here.admin.pubsub_numsub(f"{{{SID}}}:out") == [(f"{{{SID}}}:out".encode(), 1)]
            await a.publish(SID, b"1")
            await until(lambda: link.heard == [b"1"])

    run(scenario())
