"""The REST interface on pods that keep real rooms, by a real HTTP client: one user's day, on two servers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import msgspec
from exchange_rest_lab import ADMIN, bearer, rest
from exchange_service_lab import service_lab

from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.problems import TYPE_PREFIX

ORDER = {"symbol": "AAA", "side": "buy", "quantity": 3, "type": "limit", "price": "1"}


class Client:
    """A user's client, at any of the servers."""

    def __init__(self, http, urls, **who):
        self.http, self.urls, self.headers = http, urls, bearer(**who)

    async def ask(self, method, path, body=None, *, at=0, of=None, key=""):
        """Return status and value: a problem's name, or an answer that must be of the documented type."""
        headers = self.headers | ({"Idempotency-Key": f'"{key}"'} if key else {})
        async with self.http.request(method, self.urls[at] + path, json=body, headers=headers) as answer:
            text = await answer.read()
            if answer.content_type == "application/problem+json":
                return answer.status, json.loads(text)["type"].removeprefix(TYPE_PREFIX)
            self.location = answer.headers.get("Location", "")
            if of is None:
                return answer.status, text
            return answer.status, msgspec.json.decode(text, type=of)


@contextlib.asynccontextmanager
async def servers():
    """Run two pods and an HTTP server on each; yields the lab and a maker of clients."""
    async with service_lab(2) as lab, contextlib.AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(rest(service=pod.service))).url for pod in lab.pods]
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def go_on():
            while True:
                await lab.turns(1)

        going = asyncio.ensure_future(go_on())
        stack.callback(going.cancel)
        yield lab, lambda **who: Client(http, urls, **who)


def test_a_users_day(run):
    """Session, simulator, orders, replay, end: at either server, and each answer is of its documented type."""

    async def go():
        async with servers() as (lab, client):
            ana = client(subject="ana")
            status, made = await ana.ask("POST", "/v1/sessions", {"device": "laptop-1"}, of=t.Session)
            assert (status, made.state, made.devices) == (201, "new", ("laptop-1",))
            path = ana.location
            assert (await ana.ask("POST", "/v1/sessions", {"device": "laptop-1"}, at=1))[0] == 200

            assert await ana.ask("GET", path + "/simulator") == (404, "not_found")
            assert await ana.ask("POST", path + "/orders", ORDER, key="o1") == (409, "conflict")
            wish = {"desired": "running"}
            status, simulator = await ana.ask("PUT", path + "/simulator", wish, at=1, of=t.Simulator)
            assert (status, simulator.desired) == (202, "running")
            status, text = await ana.ask("GET", path + "/simulator/progress")
            last = [line for line in text.decode().splitlines() if line.startswith("data: ")][-1]
            step = msgspec.json.decode(last.removeprefix("data: "), type=t.Progress)
            assert (status, step.state, step.done) == (200, "running", True)
            assert (await ana.ask("PUT", path + "/simulator", wish))[0] == 200
            heavy = {**wish, "spec": {"step_ms": 10}}
            assert await ana.ask("PUT", path + "/simulator", heavy) == (422, "invalid")

            status, placed = await ana.ask("POST", path + "/orders", ORDER, key="o1", of=t.Order)
            assert (status, placed.status, ana.location) == (201, "new", f"{path}/orders/{placed.order}")
            where = ana.location
            for at in (0, 1):
                assert await ana.ask("GET", where, at=at, of=t.Order) == (200, placed)
                again = await ana.ask("POST", path + "/orders", ORDER, key="o1", at=at, of=t.Order)
                assert again == (201, placed)
            change = {"quantity": 5, "price": "1.5"}
            status, changed = await ana.ask("PUT", where, change, at=1, of=t.Order)
            assert (status, changed.quantity, changed.price) == (200, 5, "1.5")
            status, gone = await ana.ask("DELETE", where, of=t.Order)
            assert (status, gone.status) == (200, "canceled")
            assert await ana.ask("PUT", where, change) == (422, "order_refused")
            status, page = await ana.ask("GET", path + "/orders", at=1, of=t.OrderPage)
            assert page.orders == (gone,)

            status, events = await ana.ask("GET", path + "/events", of=t.EventPage)
            assert [event.d["status"] for event in events.events] == ["new", "new", "canceled"]
            assert await ana.ask("GET", path + "/events?after=9") == (410, "events_gone")
            status, shown = await ana.ask("GET", path + "/snapshot", at=1, of=t.SessionSnapshot)
            assert (shown.epoch, shown.events, shown.simulator_state) == (events.epoch, 3, "running")
            assert (shown.rows[0]["s"], shown.orders[0]["status"]) == ("AAA", "canceled")
            assert (await ana.ask("POST", path + "/ticket", at=1, of=t.Ticket))[0] == 201

            assert (await ana.ask("DELETE", path, at=1))[0] == 204
            assert (await ana.ask("DELETE", path))[0] == 204
            for ask in (("GET", "/snapshot"), ("GET", "/orders"), ("POST", "/ticket")):
                assert await ana.ask(ask[0], path + ask[1]) == (410, "session_ended")
            status, ended = await ana.ask("GET", path, of=t.Session)
            assert (ended.state, ended.ended_reason) == ("ended", "user")
            await lab.turns(60)
            assert lab.simulators == {}

    run(go())


def test_a_stranger_an_administrator_and_the_originals_client(run):
    """404 for what is another's; /v1/admin for everybody's; /api as the seed's README says."""

    async def go():
        async with servers() as (lab, client):
            ana, eve, root = client(subject="ana"), client(subject="eve"), client(subject="root", scope=ADMIN)
            _, text = await ana.ask("POST", "/api/sessions", {"deviceId": "d"}, of=t.SeedSession)
            session = text.session_id
            assert (await ana.ask("POST", "/api/simulators", of=t.SeedSimulator, at=1))[0] == 202
            for at in (0, 1):
                for path in (
                    "",
                    "/simulator",
                    "/simulator/progress",
                    "/orders",
                    "/orders/1",
                    "/snapshot",
                    "/events",
                ):
                    found = await eve.ask("GET", f"/v1/sessions/{session}{path}", at=at)
                    assert found == (404, "not_found"), path
            link = await lab.link(session, "d", pod=1)
            _, pods = await root.ask("GET", "/v1/admin/pods", of=t.PodPage)
            assert [(pod.name, pod.sessions_count, pod.links_count) for pod in pods.pods] == [
                ("pod-0", 0, 0),
                ("pod-1", 1, 1),
            ]
            _, told = await root.ask("POST", "/v1/admin/disconnect", {"subject": "ana"}, of=t.Disconnected)
            assert (told.links_count, link.closed) == (1, 1012)
            status, leaves = await root.ask("POST", "/v1/admin/drain", {"pod": "pod-1"}, of=t.Draining)
            assert (status, leaves.pod, lab.pods[1].face.drains_count) == (202, "pod-1", 1)
            _, page = await root.ask("GET", "/v1/admin/simulators", of=t.SimulatorPage)
            assert [one.session for one in page.simulators] == [session]
            stop = f"/v1/admin/simulators/{page.simulators[0].id}"
            assert (await root.ask("DELETE", stop, of=t.Simulator))[1].desired == "stopped"
            assert (await root.ask("DELETE", f"/v1/admin/sessions/{session}"))[0] == 204
            _, seen = await root.ask("GET", "/v1/admin/sessions?subject=ana", of=t.SessionPage)
            assert seen.sessions[0].ended_reason == "admin"

    run(go())


def test_a_database_that_is_away_is_503_and_not_ready(run):
    """Readiness says degraded; nothing of what went wrong is told; recovery is automatic."""

    async def go():
        async with servers() as (lab, client):
            ana = client(subject="ana")
            await ana.ask("POST", "/v1/sessions", {"device": "d"})
            path = ana.location
            lab.store.go_away()
            lab.pods[0].face.parts["database"] = "down"
            assert await ana.ask("GET", path) == (503, "unavailable")
            status, ready = await ana.ask("GET", "/readyz", of=t.Readiness)
            assert (status, ready.ready, ready.parts["database"]) == (503, False, "down")
            assert (await ana.ask("GET", "/readyz", at=1))[0] == 200
            lab.store.come_back()
            assert (await ana.ask("GET", path))[0] == 200

    run(go())
