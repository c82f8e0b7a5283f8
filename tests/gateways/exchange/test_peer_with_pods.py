"""The client with pods of the gateway: real sockets that break, PostgreSQL, simulators; nothing lost, nothing twice.

Source: exchange-session-service.md sections 5.4 and 5.6.
"""

from __future__ import annotations

import asyncio

import pytest
from exchange_pod_lab import PodLab, becomes, running_postgres

from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings
from sojourn.embedded.valkey import ValkeyServer
from sojourn.gateways.exchange.config import SessionSettings, SimulatorsSettings
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.messages import Resume
from sojourn.gateways.exchange.peer import SNAPSHOT, Declined, Dismissed, ExchangeClient
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings
from sojourn.testing import FaultProxy

CUTS_COUNT = 10


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


def client_of(lab, *urls, device="d1", **options):
    """Return a client of the lab's user."""
    return ExchangeClient(urls, Secret(lab.token()), device=device, **options)


async def take(live, count):
    """Return the next so many events, all of the log."""
    events = [await live.next_event() for _ in range(count)]
    assert [event for event in events if event.type == SNAPSHOT] == []
    return events


@pytest.mark.parametrize("options", [{}, {"is_binary": True}, {"uses_tickets": True}], ids=str)
def test_a_session_from_its_beginning_to_its_end(lab, run, options):
    """Section 5.3 and 5.4, all of it once, in each encoding and with a ticket."""

    async def scenario():
        async with lab.pod() as pod, client_of(lab, pod.url) as client:
            session = await client.create_session({"app": "test"})
            async with client.live(session.id, **options) as live:
                assert (await live.next_event()).type == SNAPSHOT
                await live.start_simulator()
                await live.until(lambda: "AAA" in live.rows and live.portfolio is not None)
                bought = await live.order("AAA", "buy", 3)
                rests = await live.order("AAA", "buy", 5, "1.00")
                changed = await live.replace(rests.order, 4, "1.01")
                taken = await live.cancel(rests.order)
                assert (bought.status, bought.filled) == ("filled", 3)
                assert (rests.status, changed.status, taken.status) == ("new", "new", "canceled")
                events = await take(live, 5)
                assert [event.offset for event in events] == [1, 2, 3, 4, 5]
                assert live.orders[rests.order]["status"] == "canceled"
                over_rest = await client.submit_order(session.id, "AAA", "sell", 1, key="once")
                again = await client.submit_order(session.id, "AAA", "sell", 1, key="once")
                assert over_rest == again
                page = await client.events_after(session.id, 0)
                assert [(one.o, one.d) for one in page.events][:5] == [(e.offset, e.data) for e in events]
                with pytest.raises(Declined) as declined:
                    await live.order("NONE", "buy", 1)
                assert declined.value.code == "order_refused"
                await client.end_session(session.id)
                with pytest.raises(Dismissed) as dismissed:
                    await live.until(lambda: False)
                assert (dismissed.value.code, dismissed.value.reason) == (4009, "user")
            assert (await client.get_session(session.id)).state == "ended"

    run(scenario())


def test_a_line_that_breaks_again_and_again_loses_and_doubles_nothing(lab, run):
    """Orders and events on their way when it breaks: each order is placed once, each event told once, in order."""

    async def scenario():
        async with lab.pod() as pod:
            port = int(pod.url.rpartition(":")[2])
            async with FaultProxy("127.0.0.1", port) as proxy:
                through = f"http://127.0.0.1:{proxy.port}"
                async with client_of(lab, pod.url) as rest, client_of(lab, through) as client:
                    session = await rest.create_session()
                    await rest.start_simulator(session.id)
                    async with client.live(session.id) as live:
                        await live.next_event()
                        for number in range(CUTS_COUNT):
                            async with asyncio.TaskGroup() as group:
                                for _ in range(3):
                                    group.create_task(live.order("AAA", "buy", 1 + number))
                                await asyncio.sleep(0)
                                proxy.connections[-1].reset() if number % 2 else proxy.connections[-1].cut()
                        orders_count = 3 * CUTS_COUNT
                        events = await take(live, 2 * orders_count)
                        assert [event.offset for event in events] == list(range(1, 2 * orders_count + 1))
                        filled = [
                            event.data["quantity"] for event in events if event.data["status"] == "filled"
                        ]
                        assert sorted(filled) == sorted([1 + n for n in range(CUTS_COUNT)] * 3)
                        assert live.stats.reconnects_count >= 1
                        assert (live.stats.lost_count, live.stats.gaps_count) == (0, 0)

    run(scenario())


def test_a_pod_that_restarts_is_waited_for_and_the_conversation_goes_on(lab, run):
    """Section 5.7: one process, its log in PostgreSQL, simulators that outlive it; the next one takes all of it up."""

    async def scenario():
        simulators = SimulatorsSettings(driver="process", market=lab.settings().simulators.market)
        more = {"simulators": simulators, "process": ProcessSettings(dies_with_parent=False)}
        async with lab.pod(**more) as pod:
            address = pod.url.removeprefix("http://")
            client = client_of(lab, pod.url)
            await client.calls.open()
            session = await client.create_session()
            simulator = await client.start_simulator(session.id)
            live = client.live(session.id)
            await live.__aenter__()
            await live.next_event()
            await live.order("AAA", "buy", 1)
            await take(live, 2)
        await live.until(lambda: live.state != "live")
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(live.order("AAA", "buy", 2))
            async with lab.pod(listeners=(ListenerSettings(address=address),), **more):
                assert (await placing).filled == 2
                assert [event.offset for event in await take(live, 2)] == [3, 4]
                assert (live.stats.lost_count, live.stats.reconnects_count) == (0, 1)
                assert (await client.get_simulator(session.id)).id == simulator.id
                await client.end_session(session.id)
                with pytest.raises(Dismissed):
                    await live.until(lambda: False)
        await live.__aexit__(None, None, None)
        await client.calls.close()

    run(scenario())


def test_a_pod_that_leaves_hands_over_and_nobody_loses_anything(postgres, tmp_path, run):
    """Section 5.6: make before break; the client is told when to come back, and finds the other pod ready."""

    async def scenario():
        async with ValkeyServer() as valkey:
            lab = PodLab(tmp_path, postgres.dsn(), valkey.url())
            simulators = SimulatorsSettings(driver="process", market=lab.settings().simulators.market)
            async with (
                lab.pod("pod-1", simulators=simulators) as first,
                lab.pod("pod-2", simulators=simulators) as second,
                client_of(lab, first.url, second.url) as client,
            ):
                session = await client.create_session()
                simulator = await client.start_simulator(session.id)
                async with client.live(session.id) as live:
                    await live.next_event()
                    await live.until(lambda: bool(live.rows))
                    await live.order("AAA", "buy", 1)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(first.gateway.leave(10.0))
                        for number in range(20):
                            await live.order("AAA", "buy", 2 + number)
                        await live.until(lambda: live.welcome.pod == "pod-2")
                    await live.order("AAA", "buy", 1)
                    events = await take(live, 44)
                    assert [event.offset for event in events] == list(range(1, 45))
                    assert (live.stats.lost_count, live.stats.gaps_count) == (0, 0)
                    assert live.welcome.resumed == "full"
                    assert (await client.get_simulator(session.id)).id == simulator.id
                    await client.end_session(session.id)

    run(scenario())


def test_another_device_takes_over_and_this_one_does_not_come_back(lab, run):
    """4003: who was replaced and came back would take over in its turn, and so on without end."""

    async def scenario():
        async with (
            lab.pod() as pod,
            client_of(lab, pod.url) as laptop,
            client_of(lab, pod.url, device="d2") as phone,
        ):
            session = await laptop.create_session()
            async with laptop.live(session.id) as live:
                assert (await phone.create_session()).id == session.id
                with pytest.raises(Dismissed) as dismissed:
                    await live.until(lambda: False)
            assert (dismissed.value.code, dismissed.value.reason) == (4003, "by d2")
            async with phone.live(session.id) as live:
                assert live.state == "live"

    run(scenario())


def test_a_program_that_restarts_goes_on_with_its_own_cursor(lab, run):
    """What happened while it was away is told first; then it goes on live."""

    async def scenario():
        async with lab.pod() as pod, client_of(lab, pod.url) as client:
            session = await client.create_session()
            async with client.live(session.id) as live:
                await live.start_simulator()
                await live.order("AAA", "buy", 1)
                await live.next_event()
                seen = (await take(live, 2))[-1].resume
            await becomes(pod, session.id, links_count=0)
            await client.submit_order(session.id, "AAA", "buy", 2)
            async with client.live(session.id, resume=seen) as live:
                assert live.welcome.recovered == 2
                assert [event.offset for event in await take(live, 2)] == [3, 4]
                assert (await live.next_event()).type == SNAPSHOT
                assert (len(live.orders), live.simulator.state) == (2, "running")
            async with client.live(session.id, resume=Resume(99, 1)) as live:
                snapshot = await live.next_event()
                assert (snapshot.type, snapshot.offset, live.stats.lost_count) == (SNAPSHOT, 4, 1)
                assert len(snapshot.data["orders"]) == 2

    run(scenario())


def test_more_orders_at_once_than_a_link_takes_are_all_placed(lab, run):
    """The client keeps to the welcome's limits, and says again what did not fit."""

    async def scenario():
        links = LinkSettings(frames_per_s=200.0, frames_burst_count=20, commands_count=4)
        async with lab.pod(links=links) as pod, client_of(lab, pod.url) as client:
            session = await client.create_session()
            async with client.live(session.id) as live:
                await live.start_simulator()
                async with asyncio.TaskGroup() as group:
                    orders = [group.create_task(live.order("AAA", "buy", 1)) for _ in range(60)]
                numbers = {order.result().order for order in orders}
                assert len(numbers) == 60
                assert live.stats.reconnects_count == 0

    run(scenario())


def test_a_user_who_may_have_one_device_only_is_told_by_rest(lab, run):
    """The problem's type is the error's code."""

    async def scenario():
        sessions = SessionSettings(policy="reject")
        async with lab.pod(sessions=sessions) as pod, client_of(lab, pod.url) as client:
            session = await client.create_session()
            async with client.live(session.id), client_of(lab, pod.url, device="d2") as other:
                with pytest.raises(Declined) as declined:
                    await other.create_session()
        assert (declined.value.code, declined.value.status) == ("device_mismatch", 409)

    run(scenario())
