"""How a user's session is shared among devices, and how it ends, seen from real clients.

Source: exchange-session-service.md section 5.2.
"""

from __future__ import annotations

import pytest
from exchange_pod_lab import (
    LabClock,
    PodLab,
    becomes,
    joined,
    new_session,
    refused,
    running_postgres,
    soon,
    told,
)

from sojourn.gateways.exchange.config import SessionSettings
from sojourn.gateways.exchange.lifecycle import EndReason
from sojourn.gateways.exchange.rows import Page, SessionFilter

LONG_S = 1_000_000.0


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


def test_a_second_device_takes_the_session_over(lab, run):
    """Policy replace: the first device is told by whom and closed with 4003; session, simulator and events stay."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod, device="phone") as phone:
            await phone.start()
            await phone.buy(2)
            await phone.events(2)
            session = phone.welcome["session"]
            assert await new_session(http, pod, device="laptop") == session
            assert (await phone.hear("replaced"))["device"] == "laptop"
            assert await phone.end() == 4003
            async with joined(http, pod, session, device="laptop") as laptop:
                assert (await laptop.hear("snapshot", o=2))["sim"] == "running"
                assert (await laptop.buy())["d"]["status"] == "filled"
                async with http.ws_connect(f"{pod.url}/v1/ws?session={session}") as late:
                    await late.send_json({"t": "hello", "id": "1", "device": "phone"})
                    assert (await late.receive_json())["code"] == "wrong_device"
                    assert (await late.receive()).data == 4003
                assert (await laptop.buy())["d"]["status"] == "filled"

    run(scenario())


def test_devices_may_share_a_session(lab, run):
    """Policy share:2: two see the same; a third is refused with 409 while both are there."""

    async def scenario():
        shared = SessionSettings(policy="share:2")
        async with lab.pod(sessions=shared) as pod, lab.client() as http, joined(http, pod) as first:
            session = await new_session(http, pod, device="d2")
            async with joined(http, pod, session, device="d2") as second:
                await second.start()
                await first.buy(3)
                assert await first.events(2) == await second.events(2)
                async with http.post(f"{pod.url}/v1/sessions", json={"device": "d3"}) as answer:
                    assert answer.status == 409

    run(scenario())


def test_a_second_device_is_refused_while_the_first_is_there(lab, run):
    """Policy reject: 409 while there is a connection; when it has gone the other device may come."""

    async def scenario():
        strict = SessionSettings(policy="reject")
        async with lab.pod(sessions=strict) as pod, lab.client() as http:
            async with joined(http, pod) as first:
                session = first.welcome["session"]
                await becomes(pod, session, state="active")
                async with http.post(f"{pod.url}/v1/sessions", json={"device": "d2"}) as answer:
                    assert answer.status == 409
            await becomes(pod, session, state="detached")
            assert await new_session(http, pod, device="d2") == session

    run(scenario())


def test_a_session_ends_by_rest(lab, run):
    """Section 5.3: DELETE ends session and simulator; clients are told and closed with 4009, and find it no more."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.start()
            session = ana.welcome["session"]
            async with http.delete(f"{pod.url}/v1/sessions/{session}") as answer:
                assert answer.status == 204
            assert (await ana.hear("ended"))["reason"] == "user"
            assert await ana.end() == 4009
            await soon(lambda: not pod.gateway.spawner._services)
            async with http.get(f"{pod.url}/v1/sessions/{session}") as answer:
                row = await answer.json()
            assert (row["state"], row["ended_reason"]) == ("ended", "user")
            status, _ = await refused(http, f"{pod.url}/v1/ws?session={session}")
            assert status == 404
            await soon(lambda: not pod.gateway.keeper.rooms)
            assert not pod.manager.detached
            assert await new_session(http, pod) != session

    run(scenario())


def test_an_operator_ends_a_session(lab, run):
    """The registry's close ends the user's session, not only this pod's part of it; the trace stays to be read."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            (live,) = pod.registry.snapshots(gateway="exchange", state="live")
            assert live.about == f"ana {ana.welcome['session']}"
            assert pod.registry.close(live.id)
            assert (await ana.hear("ended"))["reason"] == "admin"
            assert await ana.end() == 4009
            await soon(lambda: not pod.gateway.keeper.rooms)
            (row,) = await pod.gateway.store.sessions.list(SessionFilter(), Page())
            assert (row.state, row.ended_reason) == ("ended", "admin")
            names = [entry.name for entry in pod.registry.trace(live.id)]
            assert {"Hello", "Welcome", "Ended"} <= set(names)

    run(scenario())


def test_a_client_that_is_told_late_is_let_go_all_the_same(lab, run):
    """A session that ended in the database without a word to its owner is let go when the owner looks."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            store = pod.gateway.store
            await store.sessions.end(ana.welcome["session"], EndReason.USER)
            await pod.gateway.housekeeping.reconcile()
            assert (await ana.hear("ended"))["reason"] == "user"
            assert await ana.end() == 4009

    run(scenario())


def test_an_idle_user_is_warned_and_then_the_session_ends(lab, run):
    """Section 5.2: a heartbeat is no activity, anything else is; a warning comes 60 s before the end."""

    async def scenario():
        clock = LabClock()
        async with (
            lab.pod(clock=clock) as pod,
            lab.client(lifetime_s=LONG_S) as http,
            joined(http, pod) as ana,
        ):
            await becomes(pod, ana.welcome["session"], state="active")
            clock.ahead_s += 11  # owners have had time to write what they kept
            clock.wall_ahead_s += 3_550
            await ana.say("hb", n=1)
            warning = await ana.hear("warn")
            assert warning["reason"] == "idle"
            assert 0 < warning["in_s"] <= 60
            await ana.ask("sub", symbols=["AAA"])
            store, session = pod.gateway.store, ana.welcome["session"]
            await soon(lambda: not pod.gateway.keeper.rooms[session].active_ms)
            assert (await store.sessions.get(session)).state == "active"
            clock.wall_ahead_s += 3_545
            assert (await ana.hear("warn"))["in_s"] <= 60  # of another end: it lives on
            await ana.say("hb", n=2)
            clock.wall_ahead_s += 60
            assert (await ana.hear("ended"))["reason"] == "expired"
            assert await ana.end() == 4009
            assert len([frame for frame in ana.frames if frame["t"] == "warn"]) == 2
            assert [event["detail"] for event in told(pod, "session_expired")] == ["idle"]

    run(scenario())


def test_a_session_without_connection_ends_after_a_while_and_its_simulator_with_it(lab, run):
    """Section 5.2: detached for 900 s is the end; the simulator is stopped by whoever is there."""

    async def scenario():
        clock = LabClock()
        async with lab.pod(clock=clock) as pod, lab.client() as http:
            async with joined(http, pod) as ana:
                await ana.start()
                session = ana.welcome["session"]
            store, spawner = pod.gateway.store, pod.gateway.spawner
            await becomes(pod, session, state="detached")
            clock.ahead_s += 11
            clock.wall_ahead_s += 890
            await pod.gateway.housekeeping.expire()
            assert (await store.sessions.get(session)).state == "detached"
            assert spawner._services
            clock.wall_ahead_s += 14
            await soon(lambda: not spawner._services)
            await soon(lambda: not pod.gateway.keeper.rooms)
            assert (await store.sessions.get(session)).ended_detail == "detached"

    run(scenario())


def test_a_token_that_expires_closes_its_links(lab, run):
    """Section 5.4: 4001 says: a new token first; with one the client resumes."""

    async def scenario():
        clock = LabClock()
        async with (
            lab.pod(clock=clock) as pod,
            lab.client(lifetime_s=600) as http,
            lab.client(lifetime_s=LONG_S) as later,
            joined(http, pod) as ana,
            joined(later, pod, ana.welcome["session"]) as other,
        ):
            await ana.start()
            clock.wall_ahead_s += 700
            assert await ana.end() == 4001
            assert (await other.buy())["t"] == "ok"
            async with joined(later, pod, ana.welcome["session"], resume=ana.cursor()) as back:
                assert back.welcome["resumed"] in ("full", "partial")
                await back.events(2)

    run(scenario())
