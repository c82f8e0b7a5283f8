"""Who takes part in a user's session, as its trace tells it: connections, REST, simulators, the pod that owns it."""

from __future__ import annotations

import pytest
from exchange_pod_lab import (
    PodLab,
    joined,
    new_session,
    running_postgres,
    running_valkey,
    soon,
)

from sojourn.gateways.exchange.config import SessionSettings


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


def trace(pod, session):
    """Return what the flight recorder of a pod has of a user's session."""
    server = pod.gateway.server
    (found,) = [one for one in server.registry.live() if one.key == session]
    return server.registry.in_words(found, found.trace)


def arrows(pod, session, *parties):
    """Return the entries that come from or go to some parties."""
    return [
        (one.source, one.target, one.name)
        for one in trace(pod, session)
        if {one.source, one.target} & set(parties)
    ]


def test_an_order_goes_on_to_the_simulator_and_its_fill_comes_back(lab, run):
    """Started, followed, asked, answered, filled: each in its place; prices are not in it."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.start()
            await ana.buy(2)
            await ana.events(2)
            session = ana.welcome["session"]
            with_simulator = arrows(pod, session, "simulator")
            assert ("exchange", "simulator", "follow") in with_simulator
            assert ("simulator", "exchange", "running") in with_simulator
            begun = with_simulator.index(("exchange", "simulator", "PlaceOrder"))
            answer, fill = sorted(with_simulator[begun + 1 :])  # which comes first is the network's affair
            assert answer == ("simulator", "exchange", "filled")
            assert fill[:2] == ("simulator", "exchange")
            assert fill[2].startswith("filled 2 at ")
            names = [one.name for one in trace(pod, session)]
            assert names.index("PlaceOrder") < names.index("OrderEvent")
            assert not {"MarketNews", "Row"} & set(names)

    run(scenario())


def test_each_connection_of_a_session_has_its_lifeline_and_keeps_it(lab, run):
    """The second one is told from the first; who comes when one has left takes the place that is free."""

    async def scenario():
        shared = SessionSettings(policy="share:3")
        async with lab.pod(sessions=shared) as pod, lab.client() as http, joined(http, pod) as first:
            session = await new_session(http, pod, device="d2")
            async with joined(http, pod, session, device="d2"):
                assert arrows(pod, session, "ana (2)")[:2] == [
                    ("ana (2)", "exchange", "Hello"),
                    ("exchange", "ana (2)", "Welcome"),
                ]
            room = pod.gateway.keeper.rooms[session]
            await soon(lambda: len(room.links) == 1)
            before = len(arrows(pod, session, "ana (2)"))
            async with joined(http, pod, session, device="d2"):
                assert len(arrows(pod, session, "ana (2)")) > before
                await first.say("bye", id="bye")
            assert not arrows(pod, session, "ana (3)")

    run(scenario())


def test_a_request_over_rest_is_a_party_of_the_session_that_it_concerns(lab, run):
    """What was asked, and what it was answered, between the session's other messages."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.start()
            session = ana.welcome["session"]
            order = {"symbol": "AAA", "side": "buy", "type": "market", "quantity": 3}
            url = f"{pod.url}/v1/sessions/{session}/orders"
            async with http.post(url, json=order, headers={"Idempotency-Key": "k1"}) as answer:
                assert answer.status == 201, await answer.text()
            assert arrows(pod, session, "REST") == [
                ("REST", "exchange", "PlaceOrder"),
                ("exchange", "REST", "filled"),
            ]

    run(scenario())


def test_a_pod_that_follows_asks_the_one_that_owns(postgres, valkey, tmp_path, run):
    """The same order in the traces of both pods: handed on by one, carried out for it by the other."""

    async def scenario():
        both = PodLab(tmp_path, postgres.dsn(), valkey.url())
        async with (
            both.pod("pod-1") as one,
            both.pod("pod-2") as two,
            both.client() as http,
            joined(http, one) as ana,
        ):
            await ana.start()
            session = ana.welcome["session"]
            async with joined(http, two, session) as again:
                await again.buy()
                handed_on = arrows(two, session, "pod pod-1")
                assert handed_on[:2] == [
                    ("exchange", "pod pod-1", "follow"),
                    ("pod pod-1", "exchange", "state"),
                ]
                assert handed_on[-2:] == [
                    ("exchange", "pod pod-1", "PlaceOrder"),
                    ("pod pod-1", "exchange", "done"),
                ]
                assert arrows(one, session, "pod pod-2")[-2:] == [
                    ("pod pod-2", "exchange", "PlaceOrder"),
                    ("exchange", "pod pod-2", "done"),
                ]

    run(scenario())
