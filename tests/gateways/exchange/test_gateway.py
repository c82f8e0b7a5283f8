"""The exchange gateway as its clients meet it: real HTTP and WebSockets, PostgreSQL and simulators over gRPC.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from exchange_pod_lab import MSGPACK, PodLab, joined, running_postgres, soon

from sojourn.gateways.exchange.config import SimulatorsSettings
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings

TWO = MarketSettings(
    seed=3, instruments=(InstrumentSettings("AAA", "100"), InstrumentSettings("BBB", "50")), step_ms=50
)


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


def test_a_user_trades_over_one_websocket(lab, run):
    """Section 5.4: hello, a simulator over gRPC, market data, an order, its events, the portfolio."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            assert ana.welcome["resumed"] == "none"
            assert ana.welcome["pod"] == "pod-1"
            running = await ana.start()
            full = await ana.hear("md", full=1)
            assert [row["s"] for row in full["rows"]] == ["AAA"]
            before = (await ana.hear("pf"))["d"]
            answer = await ana.buy(5)
            assert answer["d"]["status"] == "filled"
            new, filled = await ana.events(2)
            assert [new["o"], filled["o"]] == [1, 2]
            assert [new["d"]["status"], filled["d"]["status"]] == ["new", "filled"]
            assert filled["d"]["order"] == answer["d"]["order"]
            after = (await ana.hear("pf"))["d"]
            paid = Decimal(before["cash"]) - Decimal(after["cash"])
            assert paid == 5 * Decimal(filled["d"]["average_price"]) + Decimal(after["fees"])
            assert (await ana.ask("sim", action="stop"))["t"] == "ok"
            stopped = await ana.hear("sim", state="stopped")
            assert "simulator" not in stopped
            assert running["simulator"]
            assert (await ana.buy())["code"] == "no_simulator"

    run(scenario())


def test_a_client_that_comes_back_gets_what_it_missed_and_nothing_twice(lab, run):
    """Section 5.4: the same epoch and an offset that is kept are continued: "full", and every event once."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http:
            async with joined(http, pod) as ana:
                await ana.start()
                await ana.hear("md")
                await ana.hear("pf")
                await ana.buy(1)
                seen = await ana.events(2)
                cursor, session = ana.cursor(), ana.welcome["session"]
            # Orders go on without any WebSocket.
            room = pod.gateway.keeper.rooms[session]
            await soon(lambda: not room.links)
            async with joined(http, pod, session) as second:
                await second.buy(2)
                await second.events(2)
            async with joined(http, pod, session, resume=cursor) as ana:
                assert ana.welcome["resumed"] == "full"
                assert ana.welcome["recovered"] == 2
                seen += await ana.events(2)
                assert [event["o"] for event in seen] == [1, 2, 3, 4]
                assert [event["d"]["quantity"] for event in seen] == [1, 1, 2, 2]
                market = await ana.hear("md")
                assert "full" not in market
            async with joined(http, pod, session, resume={"epoch": 1, "events": 4}) as ana:
                assert (ana.welcome["resumed"], ana.welcome["recovered"]) == ("partial", 0)
                assert (await ana.hear("md"))["full"] == 1
            async with joined(http, pod, session, resume={"epoch": 77, "events": 4}) as ana:
                assert ana.welcome["resumed"] == "none"
                snapshot = await ana.hear("snapshot")
                assert (snapshot["epoch"], snapshot["o"], snapshot["sim"]) == (1, 4, "running")
                assert [order["quantity"] for order in snapshot["orders"]] == [1, 2]

    run(scenario())


def test_the_same_order_sent_again_is_the_same_order(lab, run):
    """Section 5.4: a client that lost the answer sends its order again under its id, on whichever connection."""

    async def scenario():
        order = {"symbol": "AAA", "side": "buy", "quantity": 3, "type": "market", "tif": "ioc"}
        async with lab.pod() as pod, lab.client() as http:
            async with joined(http, pod) as ana:
                await ana.start()
                await ana.say("order", id="mine", **order)
                first = await ana.hear("ok", ref="mine")
                session = ana.welcome["session"]
            async with joined(http, pod, session) as ana:
                await ana.say("order", id="mine", **order)
                assert await ana.hear("ok", ref="mine") == first
                await ana.buy(1)
                snapshot = await ana.hear("snapshot")
                orders, last = snapshot.get("orders", []), snapshot["o"]
                while last < 4:
                    event = await ana.hear("ev")
                    last = event["o"]
                    orders.append(event["d"])
                assert {order["quantity"] for order in orders} == {3, 1}
                assert len({order["order"] for order in orders}) == 2

    run(scenario())


def test_orders_rest_are_replaced_and_canceled(lab, run):
    """Section 5.4: order, replace and cancel over one link, each told by an event."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.start()
            placed = await ana.buy(10, type="limit", tif="gtc", price="1.00")
            assert placed["d"]["status"] == "new"
            number = placed["d"]["order"]
            replaced = await ana.ask("replace", order=number, quantity=4, price="2.00")
            assert replaced["t"] == "ok", replaced
            assert (await ana.ask("cancel", order=number))["d"]["status"] == "canceled"
            assert (await ana.ask("cancel", order=number))["code"] == "order_refused"
            events = await ana.events(3)
            assert [event["d"]["quantity"] for event in events] == [10, 4, 4]
            assert events[-1]["d"]["status"] == "canceled"

    run(scenario())


def test_a_client_may_speak_messagepack(lab, run):
    """Section 5.4: the subprotocol decides; two clients of one session may differ, and get the same."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as text:
            session = text.welcome["session"]
            async with joined(http, pod, session, protocol=MSGPACK) as binary:
                await binary.start()
                await binary.buy(2)
                assert await binary.events(2) == await text.events(2)
                await soon(lambda: text.frames)
                rows = (await binary.hear("md", full=1))["rows"]
                assert rows[0]["s"] == (await text.hear("md", full=1))["rows"][0]["s"]
                assert (await binary.hear("pf"))["d"].keys() == (await text.hear("pf"))["d"].keys()

    run(scenario())


def test_a_client_sees_the_symbols_that_it_wants(lab, run):
    """Section 5.4: hello names symbols or none for all; sub and unsub change them."""

    async def scenario():
        simulators = SimulatorsSettings(driver="inproc", market=TWO, step_min_ms=10)
        async with (
            lab.pod(simulators=simulators) as pod,
            lab.client() as http,
            joined(http, pod, symbols=["BBB"]) as ana,
        ):
            await ana.start()
            assert [row["s"] for row in (await ana.hear("md", full=1))["rows"]] == ["BBB"]
            assert (await ana.ask("sub", symbols=["AAA"]))["t"] == "ok"
            ana.unread.clear()
            assert [row["s"] for row in (await ana.hear("md", full=1))["rows"]] == ["AAA", "BBB"]
            assert (await ana.ask("unsub", symbols=["BBB"]))["t"] == "ok"
            ana.unread.clear()
            for _ in range(3):
                assert [row["s"] for row in (await ana.hear("md"))["rows"]] == ["AAA"]

    run(scenario())


def test_a_client_may_ask_whether_we_are_there_and_is_asked(lab, run):
    """Section 5.4: heartbeats both ways, answered at once; a snapshot when it wants one; bye closes with 1000."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.say("hb", n=7)
            assert (await ana.hear("hb_ack", n=7))["time"] > 0
            assert (await ana.ask("snapshot"))["t"] == "ok"
            await ana.hear("snapshot", o=0)
            await ana.say("bye")
            assert await ana.end() == 1000

    run(scenario())
