"""Simulators that die, cannot be reached, or outlive the daemon: sessions stay, and no event is lost.

Source: exchange-session-service.md sections 5.1 and 5.5.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import pytest
from exchange_pod_lab import (
    MARKET,
    Cable,
    PodLab,
    joined,
    new_session,
    running_postgres,
    simulator_row,
    soon,
)
from exchange_sim_lab import channel_to, serving, submit_of, taking
from msgspec.structs import replace

from sojourn.gateways.exchange.config import SimulatorsSettings
from sojourn.gateways.exchange.room_simulators import FOREIGN
from sojourn.gateways.exchange.sim.settings import SimulatorLinkSettings
from sojourn.gateways.exchange.sim.stubs import pb
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings
from sojourn.gateways.exchange.spawners.static import StaticSettings

QUICK = SimulatorLinkSettings(
    heartbeat_s=0.2, heartbeat_timeout_s=0.5, reconnect_min_s=0.02, reconnect_max_s=0.1
)


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


@pytest.fixture
def processes():
    """Settings for simulators that are processes, and go on without us."""
    with tempfile.TemporaryDirectory(prefix="sims-") as directory:
        yield {
            "simulators": SimulatorsSettings(driver="process", market=MARKET, owner_timeout_s=60.0),
            "process": ProcessSettings(directory=directory, dies_with_parent=False),
            "simulator_link": QUICK,
        }


async def behind_our_back(row, session, epoch, request_id):
    """Place an order at a simulator itself, as if it had come through a daemon that is gone by now."""
    async with channel_to(row.endpoint) as channel:
        order = submit_of(taking(request_id, "AAA"), epoch)
        order.owner.CopyFrom(pb.Owner(session=session, epoch=epoch, simulator=row.id))
        return await channel.call("SubmitOrder", order, 5.0)


def test_a_simulator_outlives_the_daemon_and_nothing_is_lost(lab, run, processes):
    """Section 5.1: the next daemon takes it over; what happened meanwhile comes as events, each once, and in order."""

    async def scenario():
        async with lab.client() as http:
            async with lab.pod(**processes) as pod, joined(http, pod) as ana:
                await ana.start()
                await ana.buy()
                await ana.events(2)
                session, cursor = ana.welcome["session"], ana.cursor()
                row = await simulator_row(pod, session)
                epoch = pod.gateway.keeper.owned[session].epoch
            pid = row.handle["place"]["pid"]
            os.kill(pid, 0)
            await behind_our_back(row, session, epoch, "while you were out")
            async with lab.pod("pod-2", **processes) as pod:
                await soon(lambda: pod.gateway.is_ready)
                async with joined(http, pod, session, resume=cursor) as ana:
                    assert ana.welcome["resumed"] in ("full", "partial")
                    missed = await ana.events(2)
                    assert [event["o"] for event in missed] == [3, 4]
                    assert {event["d"]["id"] for event in missed} == {"while you were out"}
                    await ana.hear("md")
                    assert (await ana.buy())["d"]["status"] == "filled"
                    assert [event["o"] for event in await ana.events(2)] == [5, 6]
                    assert (await simulator_row(pod, session)).handle["place"]["pid"] == pid
                    async with http.delete(f"{pod.url}/v1/sessions/{session}") as answer:
                        assert answer.status == 204
                    await soon(lambda: not _is_alive(pid))

    run(scenario())


def _is_alive(pid):
    """Say whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_simulator_that_is_killed_has_failed_and_can_be_started_again(lab, run, processes):
    """Clients are told why it failed; the session and its events stay, and a new one goes on in the same log."""

    async def scenario():
        async with lab.pod(**processes) as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.start()
            await ana.buy(2)
            await ana.events(2)
            session = ana.welcome["session"]
            row = await simulator_row(pod, session)
            os.kill(row.handle["place"]["pid"], signal.SIGKILL)
            failed = await ana.hear("sim", state="failed")
            assert "signal 9" in failed["detail"]
            assert (await ana.buy())["code"] == "no_simulator"
            assert (await simulator_row(pod, session)).state == "failed"
            await ana.start()
            assert (await ana.hear("md", full=1))["rows"]
            assert (await ana.buy(3))["d"]["status"] == "filled"
            begun, *events = await ana.events(3)
            assert (begun["o"], begun["y"], begun["d"]) == (3, "orders", {"orders": []})
            assert [(event["o"], event["d"]["quantity"]) for event in events] == [(4, 3), (5, 3)]
            assert (await simulator_row(pod, session)).id != row.id
            async with joined(http, pod, session, resume={"epoch": 1, "events": 0}) as again:
                events = [event["d"] for event in await again.events(5)]
                assert [event.get("quantity", "new") for event in events] == [2, 2, "new", 3, 3]
            await ana.ask("sim", action="stop")
            await ana.hear("sim", state="stopped")

    run(scenario())


def test_a_simulator_that_cannot_be_reached_is_found_again(lab, run):
    """The client is told "degraded" and "restored"; what happened behind the cut comes when the line is mended."""

    async def scenario():
        async with (
            serving(session="", simulator="", market=MARKET) as simulator,
            Cable(simulator.address) as line,
        ):
            settings = {
                "simulators": SimulatorsSettings(driver="static", market=MARKET),
                "static": StaticSettings(endpoints=(line.address,)),
                "simulator_link": QUICK,
            }
            async with lab.pod(**settings) as pod, lab.client() as http, joined(http, pod) as ana:
                await ana.start()
                await ana.buy()
                await ana.events(2)
                session = ana.welcome["session"]
                row = await simulator_row(pod, session)
                line.cut()
                assert (await ana.hear("degraded"))["what"] == "simulator"
                await ana.hear("sim", state="unreachable")
                async with asyncio.timeout(20):
                    while not (await simulator_row(pod, session)).is_unreachable:
                        pass
                epoch = pod.gateway.keeper.owned[session].epoch
                await behind_our_back(replace(row, endpoint=simulator.address), session, epoch, "behind")
                line.mend()
                assert (await ana.hear("restored"))["what"] == "simulator"
                await ana.hear("sim", state="running")
                await pod.gateway.housekeeping.beat()
                assert not (await simulator_row(pod, session)).is_unreachable
                assert [event["d"]["id"] for event in await ana.events(2)] == ["behind"] * 2
                assert (await ana.buy())["d"]["status"] == "filled"
                assert [frame["o"] for frame in ana.frames if frame["t"] == "ev"] == [1, 2, 3, 4]
                assert await new_session(http, pod) == session

    run(scenario())


def test_a_simulator_that_still_is_the_last_users_fails_for_the_next_one(lab, run):
    """Driver static: who runs it must restart it; the next user is told so, and waits for nothing."""

    async def scenario():
        async with serving(session="", simulator="", market=MARKET) as simulator:
            settings = {
                "simulators": SimulatorsSettings(driver="static", market=MARKET),
                "static": StaticSettings(endpoints=(simulator.address,)),
                "simulator_link": QUICK,
            }
            async with lab.pod(**settings) as pod, lab.client() as http, lab.client("bob") as bobs:
                async with joined(http, pod) as ana:
                    await ana.start()
                    async with http.delete(f"{pod.url}/v1/sessions/{ana.welcome['session']}") as answer:
                        assert answer.status == 204
                async with joined(bobs, pod) as bob:
                    await bob.ask("sim", action="start")
                    assert (await bob.hear("sim", state="failed"))["detail"] == FOREIGN
                    assert (await bob.buy())["code"] == "no_simulator"
                    row = await simulator_row(pod, bob.welcome["session"])
                    assert (row.state, row.failure) == ("failed", {"detail": FOREIGN})

    run(scenario())
