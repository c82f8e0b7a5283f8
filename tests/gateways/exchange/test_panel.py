"""The exchange gateway's page through the admin API, over a real pod with simulators that are child processes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from decimal import Decimal

import pytest
from exchange_pod_lab import MARKET, PodLab, joined, running_postgres, simulator_row, soon
from panel_lab import UNKNOWN, panel_api

from sojourn.core.clock import utc_now
from sojourn.gateways.exchange import panel
from sojourn.gateways.exchange.config import SimulatorsSettings
from sojourn.gateways.exchange.ids import IdMaker
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def asking(postgres, tmp_path):
    """Return what runs a pod and its API; yields laboratory, pod, API and a user's HTTP client."""
    lab = PodLab(tmp_path, postgres.dsn())

    @contextlib.asynccontextmanager
    async def run_pod(subject="ana"):
        with tempfile.TemporaryDirectory(prefix="sims-") as directory:
            settings = {
                "simulators": SimulatorsSettings(driver="process", market=MARKET),
                "process": ProcessSettings(directory=directory, dies_with_parent=True),
            }
            async with (
                lab.pod(**settings) as pod,
                panel_api(pod, "exchange", tmp_path) as api,
                lab.client(subject) as http,
            ):
                yield lab, pod, api, http

    return run_pod


def test_sessions_are_told_connected_ones_first(run, asking):
    """Whose they are, over how many links, and where their simulators stand; names are whatever users are called."""

    async def scenario():
        async with asking(SCRIPT) as (lab, pod, api, http), lab.client("ana") as other:
            async with joined(other, pod) as gone:
                away = gone.welcome["session"]
            await soon(lambda: not pod.gateway.keeper.rooms[away].links)
            async with joined(http, pod) as talk:
                await talk.start()
                told = await api.get("/sessions")
                assert told["pod"] == "pod-1"
                mine = told["sessions"][0]
                assert (mine["subject"], mine["links"], mine["simulator"], mine["is_owner"]) == (
                    SCRIPT,
                    1,
                    "running",
                    True,
                )
                assert mine["devices"] == ["d1"]
                assert mine["away"] == []
                assert [(row["subject"], row["links"]) for row in told["sessions"][1:]] == [("ana", 0)]
                found = await api.get("/sessions", search="SCRIPT")
                assert [row["id"] for row in found["sessions"]] == [mine["id"]]
                assert (await api.get("/sessions", search=UNKNOWN))["sessions"] == []
                assert await api.status("GET", "/sessions", params={"search": "x" * 201}) == 400

    run(scenario())


def test_no_list_is_longer_than_its_bound(run, asking, monkeypatch):
    """Sessions that do not fit are counted; of orders the newest are told."""
    monkeypatch.setattr(panel, "SESSIONS_COUNT", 1)
    monkeypatch.setattr(panel, "ORDERS_COUNT", 2)

    async def scenario():
        async with (
            asking() as (lab, pod, api, http),
            lab.client("ben") as other,
            joined(http, pod) as ana,
            joined(other, pod),
        ):
            told = await api.get("/sessions")
            assert (len(told["sessions"]), told["more"]) == (1, 1)
            await ana.start()
            for quantity in (1, 2, 3):
                await ana.insist(quantity)
            await soon(lambda: len(pod.gateway.keeper.rooms[ana.welcome["session"]].view.orders) == 3)
            market = await api.get(f"/sessions/{ana.welcome['session']}/market")
            assert [order["quantity"] for order in market["orders"]] == [3, 2]

    run(scenario())


def test_a_market_is_told_as_its_user_sees_it(run, asking):
    """Prices, what the user has, and orders with the newest first."""

    async def scenario():
        async with asking() as (_, pod, api, http), joined(http, pod) as ana:
            session = ana.welcome["session"]
            empty = await api.get(f"/sessions/{session}/market")
            assert (empty["rows"], empty["portfolio"], empty["orders"]) == ([], None, [])
            await ana.start()
            await ana.insist(5)
            await ana.hear("pf")
            view = pod.gateway.keeper.rooms[session].view
            await soon(lambda: view.portfolio is not None and view.portfolio["positions"] and view.orders)
            market = await api.get(f"/sessions/{session}/market")
            assert (market["session"], market["subject"], market["simulator"]) == (session, "ana", "running")
            (row,) = market["rows"]
            assert row["s"] == "AAA"
            assert Decimal(row["bid"]) <= Decimal(row["ask"])
            assert market["revision"] > 0
            (order,) = market["orders"]
            assert (order["symbol"], order["side"], order["filled"], order["status"]) == (
                "AAA",
                "buy",
                5,
                "filled",
            )
            (position,) = market["portfolio"]["positions"]
            assert (position["symbol"], position["quantity"]) == ("AAA", 1005)
            assert await api.status("GET", f"/sessions/{UNKNOWN}/market") == 404

    run(scenario())


def test_simulators_are_paged_and_found_by_state(run, asking):
    """The newest first; what is no state, no number of rows and no id is refused."""

    async def scenario():
        async with (
            asking() as (lab, pod, api, http),
            lab.client("ben") as other,
            joined(http, pod) as ana,
            joined(other, pod) as ben,
        ):
            await ana.start()
            await ben.start()
            newest = (await simulator_row(pod, ben.welcome["session"])).id
            page = await api.get("/simulators", limit="1")
            assert [row["id"] for row in page["simulators"]] == [newest]
            rest = await api.get("/simulators", before=page["next"])
            assert len(rest["simulators"]) == 1
            assert rest["next"] == ""
            running = await api.get("/simulators", state="running")
            assert len(running["simulators"]) == 2
            assert (await api.get("/simulators", state="failed"))["simulators"] == []
            for wrong in ({"state": "tired"}, {"limit": "0"}, {"limit": "201"}, {"before": "x" * 65}):
                assert await api.status("GET", "/simulators", params=wrong) == 400
            for odd in (UNKNOWN, SCRIPT, "'; DROP TABLE simulators", "\x00"):
                assert await api.status("GET", "/simulators", params={"before": odd}) in {200, 400}

    run(scenario())


def test_a_simulator_is_stopped_by_who_may_operate(run, asking):
    """Its process ends, its session stays; it is stopped once however often it is asked for."""

    async def scenario():
        async with asking() as (_, pod, api, http), joined(http, pod) as ana:
            await ana.start()
            row = await simulator_row(pod, ana.welcome["session"])
            pid = row.handle["place"]["pid"]
            path = f"/simulators/{row.id}/stop"
            assert await api.status("POST", path) == 403
            os.kill(pid, 0)
            status, told = await api.ask("POST", path, "operate")
            assert (status, told["id"], told["desired"]) == (200, row.id, "stopped")
            await ana.hear("sim", state="stopped")
            assert await api.status("POST", path, "operate") == 200
            assert (await api.get("/sessions"))["sessions"][0]["simulator"] == "stopped"
            assert (await api.get("/simulators", state="stopped"))["simulators"][0]["id"] == row.id
            for unknown in (UNKNOWN, IdMaker(utc_now)()):
                assert await api.status("POST", f"/simulators/{unknown}/stop", "operate") == 404

    run(scenario())


def test_the_pod_tells_its_backends_and_the_pods_beside_it(run, asking):
    """How many simulators it sees, in which phase; a pod counts its own sessions and links."""

    async def scenario():
        async with asking() as (_, pod, api, http), joined(http, pod) as ana:
            await ana.start()
            mine = await api.get("/pod")
            assert (mine["pod"], mine["is_ready"], mine["driver"]) == ("pod-1", True, "process")
            assert {one["name"]: one["state"] for one in mine["backends"]} == {
                "database": "ok",
                "bus": "ok",
                "auth": "ok",
                "simulators": "ok",
            }
            assert (sum(mine["phases"].values()), mine["unused"]) == (1, 0)
            (row,) = (await api.get("/pods"))["pods"]
            assert (row["name"], row["sessions_count"], row["links_count"]) == ("pod-1", 1, 1)

    run(scenario())


def test_a_database_that_is_away_is_said_so(run, asking, postgres, tmp_path):
    """What needs it answers 503 with a problem; the rest of the page goes on."""

    async def scenario():
        async with asking() as (_, pod, api, _):
            await pod.gateway.store.stop()
            status, problem = await api.ask("GET", "/simulators")
            assert (status, problem["status"]) == (503, 503)
            assert {one["name"]: one["state"] for one in (await api.get("/pod"))["backends"]}[
                "database"
            ] == "down"
            assert (await api.get("/sessions"))["sessions"] == []

    run(scenario())
