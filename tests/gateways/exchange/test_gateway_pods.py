"""Several pods on one Valkey: clients anywhere, owners that crash, leave or are cut off; sessions do not notice.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager

import pytest
from exchange_pod_lab import (
    MARKET,
    QUICK_VALKEY,
    Cable,
    PodLab,
    Talk,
    becomes,
    crash,
    joined,
    kill,
    new_session,
    running_postgres,
    running_valkey,
    simulator_row,
    soon,
    told,
)
from exchange_sim_lab import serving

from sojourn.core.secret import Secret
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.config import SimulatorsSettings
from sojourn.gateways.exchange.follower import FollowerRole
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings
from sojourn.gateways.exchange.spawners.static import StaticSettings


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture
def lab(postgres, valkey, tmp_path):
    return PodLab(tmp_path, postgres.dsn(), valkey.url())


@asynccontextmanager
async def two_pods(lab, **of_the_first):
    """Run two pods and a simulator that somebody else runs, so that it outlives either; the first one owns a session.

    Yields the pods, an HTTP client, and that client's session with the simulator running, on the first pod.
    """
    async with serving(session="", simulator="", market=MARKET) as simulator, lab.client() as http:
        settings = {
            "simulators": SimulatorsSettings(driver="static", market=MARKET),
            "static": StaticSettings(endpoints=(simulator.address,)),
        }
        async with (
            lab.pod("pod-a", **settings, **of_the_first) as first,
            lab.pod("pod-b", **settings) as second,
        ):
            for pod in (first, second):
                await soon(lambda pod=pod: len(pod.gateway.housekeeping.pods) == 2)
            async with joined(http, first) as ana:
                await ana.start()
                await ana.buy(1)
                await ana.events(2)
                yield first, second, http, ana


def role(pod, session):
    room = pod.gateway.keeper.rooms.get(session)
    return None if room is None else type(room.role)


def test_a_client_on_another_pod_sees_and_does_the_same(lab, run):
    """The relay: events, market, portfolio and simulator come from the owner, orders and wishes go there."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            session = ana.welcome["session"]
            async with joined(http, second, session) as far:
                assert (role(first, session), role(second, session)) == (OwnerRole, FollowerRole)
                snapshot = await far.hear("snapshot", sim="running")
                assert snapshot["o"] == 2
                assert (await far.hear("md", full=1))["rows"][0]["s"] == "AAA"
                await far.hear("pf")
                assert (await far.buy(2))["d"]["status"] == "filled"
                assert await far.events(2) == await ana.events(2)
                assert (await ana.buy(3))["d"]["status"] == "filled"
                assert await far.events(2) == await ana.events(2)
                await far.hear("pf")
                await far.hear("md")
                assert (await far.ask("cancel", order=99))["code"] == "order_refused"
                await becomes(first, session, links_count=2)
                assert (await far.ask("sim", action="stop"))["t"] == "ok"
                for client in (far, ana):
                    await client.hear("sim", state="stopped")
                assert await new_session(http, second, device="d2") == session
                for client in (far, ana):
                    assert (await client.hear("replaced"))["device"] == "d2"
                    assert await client.end() == 4003

    run(scenario())


def test_a_session_ends_on_every_pod(lab, run):
    """Whichever pod is asked: all clients are told and closed with 4009, and the simulator is given back."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            session = ana.welcome["session"]
            async with joined(http, second, session) as far:
                async with http.delete(f"{second.url}/v1/sessions/{session}") as answer:
                    assert answer.status == 204
                for client in (far, ana):
                    assert (await client.hear("ended"))["reason"] == "user"
                    assert await client.end() == 4009
            await soon(lambda: not first.gateway.keeper.rooms and not second.gateway.keeper.rooms)
            assert await first.gateway.bus.owner_of(session) is None
            async with asyncio.timeout(20):
                while (await simulator_row(second, session)).state != "stopped":
                    pass

    run(scenario())


def test_the_owner_crashes_and_another_pod_goes_on(lab, run):
    """Its lease runs out, a pod with clients takes over: they notice nothing, the others resume; nothing is lost."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            session = ana.welcome["session"]
            before = await simulator_row(first, session)
            async with joined(http, second, session) as far:
                await becomes(first, session, links_count=2)
                await crash(first)
                assert await ana.end() == 1006
                await soon(lambda: role(second, session) is OwnerRole)
                assert (await far.insist(2))["d"]["status"] == "filled"
                async with joined(http, second, session, resume=ana.cursor()) as back:
                    assert back.welcome["resumed"] in ("full", "partial")
                    assert [event["o"] for event in await back.events(2)] == [3, 4]
                    assert [event["o"] for event in await far.events(2)] == [3, 4]
                    await back.hear("md")
                after = await simulator_row(second, session)
                assert (after.id, after.state) == (before.id, "running")

    run(scenario())


def test_a_session_without_clients_is_adopted(lab, run):
    """A simulator that runs is never without an owner for long: what happens in it is written down."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            session = ana.welcome["session"]
            await becomes(first, session, state="active")
            await crash(first)
            async with asyncio.timeout(20):
                while session not in second.gateway.keeper.owned:
                    await second.gateway.housekeeping.adopt()
            assert told(second, "session_adopted") == [{"session": session, "pod": "pod-b"}]
            room = second.gateway.keeper.rooms[session]
            await soon(lambda: room.view.simulator_state == "running")
            assert not room.links
            # Nobody has come to the new owner, so the database hears that nobody is there.
            await becomes(second, session, state="detached", links_count=0, owner_pod="pod-b")
            async with joined(http, second, session, resume=ana.cursor()) as back:
                assert back.welcome["resumed"] in ("full", "partial")
                assert (await back.buy())["d"]["status"] == "filled"
                assert [event["o"] for event in await back.events(2)] == [3, 4]

    run(scenario())


def test_a_pod_leaves_and_hands_its_sessions_over_first(lab, run):
    """Make before break: another pod follows the simulator before clients are told to go; they come back and resume."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            session = ana.welcome["session"]
            before = await simulator_row(first, session)
            async with joined(http, second, session) as far:
                leaving = asyncio.ensure_future(first.gateway.leave(10.0))
                advice = await ana.hear("drain")
                assert role(second, session) is OwnerRole
                assert advice["resume"] == ana.cursor() | {k: advice["resume"][k] for k in ("md", "pf")}
                assert 0 <= advice["reconnect_after_ms"] <= 1_000
                await ana.say("bye")
                assert await ana.end() == 1000
                await leaving
                assert told(first, "pod_left") == [{"pod": "pod-a", "handed_over": 1, "left_alone": 0}]
                assert not first.gateway.keeper.owned
                assert (await far.buy(2))["d"]["status"] == "filled"
                async with joined(http, second, session, resume=advice["resume"]) as back:
                    assert back.welcome["resumed"] in ("full", "partial")
                    assert await back.events(2) == await far.events(2)
                after = await simulator_row(second, session)
                assert (after.id, after.state, after.generation) == (before.id, "running", before.generation)
                row = await second.gateway.store.sessions.get(session)
                assert (row.owner_pod, row.owner_epoch) == ("pod-b", 2)

    run(scenario())


def test_clients_that_do_not_leave_are_sent_away(lab, run):
    """A link that is told to go and stays is closed with 1012."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            del http
            leaving = asyncio.ensure_future(first.gateway.leave(10.0))
            await ana.hear("drain")
            assert await ana.end() == 1012
            await leaving
            assert ana.welcome["session"] in second.gateway.keeper.owned

    run(scenario())


def test_a_session_that_is_handed_over_is_swept_by_nobody(lab, run):
    """The room that the new owner makes has no client yet; a sweep at any moment leaves it alone."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            del http
            keeper = second.gateway.keeper

            async def sweep():
                while True:
                    keeper.sweep(second.clock(), tuple(keeper.rooms.values()))
                    await asyncio.sleep(0)

            sweeping = asyncio.ensure_future(sweep())
            leaving = asyncio.ensure_future(first.gateway.leave(10.0))
            await ana.hear("drain")
            assert keeper.owned.keys() <= keeper.rooms.keys()
            assert ana.welcome["session"] in keeper.owned
            sweeping.cancel()
            await ana.say("bye")
            await leaving

    run(scenario())


def test_a_pod_that_leaves_may_find_nobody_to_take_over(lab, run):
    """A target that has just died leaves the session free at once, and not when a lease would have run out."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            del http
            await crash(second)
            leaving = asyncio.ensure_future(first.gateway.leave(10.0))
            await ana.hear("drain")
            assert await first.gateway.bus.owner_of(ana.welcome["session"]) is None
            await ana.say("bye")
            await leaving
            assert told(first, "pod_left") == [{"pod": "pod-a", "handed_over": 0, "left_alone": 1}]

    run(scenario())


def test_the_only_pod_restarts(lab, run):
    """Without another pod the session is left free; the next one has it at once, with the simulator as it was."""

    async def scenario():
        async with serving(session="", simulator="", market=MARKET) as simulator, lab.client() as http:
            settings = {
                "simulators": SimulatorsSettings(driver="static", market=MARKET),
                "static": StaticSettings(endpoints=(simulator.address,)),
            }
            async with lab.pod("pod-a", stop_s=10, **settings) as first:
                ana = await _stays(http, first)
                await ana.buy(1)
                await ana.events(2)
                ending = asyncio.ensure_future(ana.end())
            assert await ending == 1012
            assert (await ana.hear("drain"))["resume"]["events"] == 2
            async with (
                lab.pod("pod-b", **settings) as second,
                asyncio.timeout(1.9),
                joined(http, second, ana.welcome["session"], resume=ana.cursor()) as back,
            ):
                assert back.welcome["resumed"] in ("full", "partial")
                await back.insist(2)
                assert [event["o"] for event in await back.events(2)] == [3, 4]

    run(scenario())


async def _stays(http, pod):
    """Join, and stay until the pod ends."""
    socket = await http.ws_connect(f"{pod.url}/v1/ws?device=d1", protocols=("session.v1.json",))
    ana = Talk(socket)
    await ana.greet()
    await ana.start()
    return ana


def test_a_pod_that_is_cut_off_loses_its_sessions_and_follows(lab, valkey, run):
    """Its lease runs out while it lives: it is fenced at the simulator, writes nothing more, and its client goes on."""

    async def scenario():
        host, _, rest = valkey.url().rpartition("@")[2].partition(":")
        async with Cable(f"{host}:{rest.partition('/')[0]}") as line:
            url = valkey.url().replace(f":{rest}", f":{line.address.partition(':')[2]}/0")
            apart = {"valkey": ValkeySettings(url=Secret(url), **QUICK_VALKEY)}
            async with two_pods(lab, **apart) as (first, second, http, ana):
                session = ana.welcome["session"]
                line.cut()
                async with asyncio.timeout(20):
                    while session not in second.gateway.keeper.owned:
                        await second.gateway.housekeeping.adopt()
                await soon(lambda: session not in first.gateway.keeper.owned)
                async with joined(http, second, session, resume=ana.cursor()) as far:
                    assert (await far.buy(2))["d"]["status"] == "filled"
                    seen = await far.events(2)
                    assert not [frame for frame in ana.unread if frame["t"] == "ev"]
                    line.mend()
                    await soon(lambda: role(first, session) is FollowerRole)
                    assert await ana.events(2) == seen
                    assert (await ana.buy(3))["d"]["status"] == "filled"
                    assert await ana.events(2) == await far.events(2)
                    assert [frame["o"] for frame in ana.frames if frame["t"] == "ev"] == [1, 2, 3, 4, 5, 6]

    run(scenario())


def test_the_valkey_of_two_pods_loses_everything(lab, valkey, run):
    """Owners and followers stay what they are; at either pod clients are told that events come later."""

    async def scenario():
        async with two_pods(lab) as (first, second, http, ana):
            session = ana.welcome["session"]
            async with joined(http, second, session) as far:
                await kill(valkey)
                assert (await far.hear("degraded"))["what"] == "events"
                assert (await ana.buy(2))["d"]["status"] == "filled"
                await ana.hear("degraded", what="events")
                await valkey.start()
                await ana.hear("restored", what="events")
                await far.hear("restored", what="events")
                assert await ana.events(2) == await far.events(2)
                await far.insist(3)
                assert await ana.events(2) == await far.events(2)
                assert (role(first, session), role(second, session)) == (OwnerRole, FollowerRole)
                row = await first.gateway.store.sessions.get(session)
                assert (row.owner_pod, row.owner_epoch) == ("pod-a", 1)

    run(scenario())


def test_a_simulator_of_a_session_that_ends_without_its_owner_is_stopped(lab, run):
    """Section 5.5: whichever pod is there does what the database wants; nothing goes on for nobody."""

    async def scenario():
        with tempfile.TemporaryDirectory(prefix="sims-") as directory:
            settings = {
                "simulators": SimulatorsSettings(driver="process", market=MARKET),
                "process": ProcessSettings(directory=directory),
            }
            async with (
                lab.pod("pod-a", **settings) as first,
                lab.pod("pod-b", **settings) as second,
                lab.client() as http,
            ):
                async with joined(http, first) as ana:
                    await ana.start()
                    session = ana.welcome["session"]
                    await soon(lambda: len(second.gateway.housekeeping.pods) == 2)
                    await crash(first)
                async with http.delete(f"{second.url}/v1/sessions/{session}") as answer:
                    assert answer.status == 204
                async with asyncio.timeout(20):
                    while (await simulator_row(second, session)).state != "stopped":
                        pass
                assert not second.gateway.keeper.rooms

    run(scenario())
