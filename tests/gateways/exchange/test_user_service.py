"""What users may do over REST, on pods in one process: specification 5.2 and 5.3."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from exchange_service_lab import ANA, BOB, BUY, CALLER, FILLS, NO_SESSION, refused, service_lab

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.lifecycle import EndReason, SimulatorState
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.problems import Kind
from sojourn.gateways.exchange.rows import Observation, Page, SimulatorFilter

RUNNING, STOPPED = t.SimulatorWish(desired="running"), t.SimulatorWish(desired="stopped")


# Sessions


def test_a_session_is_made_once_and_joined_by_its_device(run):
    """201 for a new one, 200 for the same device; operators see where it comes from."""

    async def scenario():
        async with service_lab() as lab:
            service = lab.pods[0].service
            wish = t.CreateSession(device="d1", attributes={"app": "7", "address": "forged"})
            made, is_new = await service.create_session(ANA, wish, CALLER)
            assert is_new
            assert (made.subject, made.state, made.devices, made.simulator) == ("ana", "new", ("d1",), None)
            assert made.attributes == {"app": "7", "address": "192.0.2.7", "user_agent": "lab/1"}
            again = await service.create_session(ANA, wish, CALLER)
            assert (again.session.id, again.is_new) == (made.id, False)

    run(scenario())


def test_a_second_device_takes_the_session_over_whichever_pod_has_it(run):
    """Policy replace: the old device is told who has it and closed with 4003; the session and its simulator stay."""

    async def scenario():
        async with service_lab(3) as lab:
            session = await lab.running()
            links = [await lab.link(session, pod=number) for number in range(3)]
            assert await lab.make(device="d2", pod=1) == session
            await lab.turns(60)
            for number, link in enumerate(links):
                assert {"t": "replaced", "device": "d2"} in link.heard(), number
                assert link.closed == 4003, number
            for number in (1, 2, 0):
                newer = await lab.link(session, "d2", pod=number)
                await lab.turns()
                assert newer.outlet.closed is None
            older = await lab.link(session, "d1", pod=2)
            assert older.closed == 4003
            assert len(lab.simulators) == 1

    run(scenario())


def test_late_news_of_devices_change_nothing(run):
    """Of two changes that overtake each other on their way the later one holds."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.running()
            room = lab.pods[0].keeper.rooms[session]
            at_us = room.devices_at_us
            room.take_devices(("d3",), "d3", at_us + 2)
            room.take_devices(("d2",), "d2", at_us + 1)
            assert room.devices == ("d3",)

    run(scenario())


def test_a_device_that_joined_while_nobody_owned_the_session_is_known_to_the_next_owner(run):
    """What was told to nobody stands in the row."""

    async def scenario():
        async with service_lab(2, timeout_s=0.05) as lab:
            session = await lab.running()
            follower = await lab.link(session, pod=1)
            lab.pods[0].kill()
            await lab.make(device="d2", pod=1)
            lab.clock.advance(16.0)
            assert follower.closed == 4003
            newer = await lab.link(session, "d2", pod=1)
            await lab.turns(60)
            assert lab.pods[1].keeper.rooms[session].devices == ("d2",)
            assert newer.outlet.closed is None

    run(scenario())


@pytest.mark.parametrize(("policy", "reason"), [("reject", "other_device"), ("share:2", "devices_full")])
def test_who_may_not_join_is_told_why(run, policy, reason):
    """Device policy: reject, or a number of devices at once."""

    async def scenario():
        async with service_lab(1, policy=policy) as lab:
            await lab.make()
            if policy == "share:2":
                await lab.make(device="d2")
            with refused(Kind.DEVICE_MISMATCH, reason):
                await lab.make(device="d3")

    run(scenario())


def test_a_device_that_shares_the_session_may_come_to_any_pod_at_once(run):
    """share:N: the owner knows of it before it is answered, other pods with its next news."""

    async def scenario():
        async with service_lab(3, policy="share:2") as lab:
            session = await lab.running()
            first = await lab.link(session, pod=2)
            await lab.make(device="d2", pod=1)
            for number in range(3):
                link = await lab.link(session, "d2", pod=number)
                assert link.outlet.closed is None, number
            assert first.outlet.closed is None

    run(scenario())


def test_sessions_are_bounded_and_a_pod_that_leaves_makes_none(run):
    """sessions_count is 429; draining is 503, and so is a pod that is not up."""

    async def scenario():
        async with service_lab(1, sessions_count=1) as lab:
            await lab.make()
            with refused(Kind.LIMIT, "sessions_limit"):
                await lab.make(BOB)
            pod = lab.pods[0]
            pod.face.is_ready = False
            with refused(Kind.UNAVAILABLE):
                await lab.make()
            pod.keeper.is_draining = True
            with refused(Kind.DRAINING):
                await lab.make()

    run(scenario())


def test_a_session_of_another_subject_is_as_if_it_never_was(run):
    """No method tells one from the other, nor whether the session is here, elsewhere or over."""

    async def scenario():
        async with service_lab(2) as lab:
            mine = await lab.running(BOB)
            over = await lab.make(BOB, pod=1)
            await lab.do(lab.pods[0].service.end_session(BOB, over))
            mine = await lab.running(BOB)
            for pod in lab.pods:
                for session in (mine, over, NO_SESSION):
                    for ask in _everything(pod.service, ANA, session):
                        with refused(Kind.NOT_FOUND):
                            await lab.do(ask)
            assert (await lab.pods[1].service.get_session(BOB, mine)).state != "ended"

    run(scenario())


def _everything(service, principal, session):
    """Yield each thing that can be asked of a session."""
    change = t.OrderChange(quantity=1, price="1")
    yield service.get_session(principal, session)
    yield service.end_session(principal, session)
    yield service.get_simulator(principal, session)
    yield service.snapshot(principal, session)
    yield anext(service.progress(principal, session))
    yield service.set_simulator(principal, session, RUNNING)
    yield service.submit_order(principal, session, BUY, "k")
    yield service.cancel_order(principal, session, 1)
    yield service.replace_order(principal, session, 1, change)
    yield service.get_order(principal, session, 1)
    yield service.list_orders(principal, session, 10, 0)
    yield service.events_after(principal, session, 0, 0, 10)


def test_sessions_are_listed_page_by_page(run):
    """``next`` of a page is ``before`` of the one behind it; the live one comes with its simulator."""

    async def scenario():
        async with service_lab(1) as lab:
            service = lab.pods[0].service
            ids = []
            for _ in range(3):
                ids.append(await lab.make())
                await lab.do(service.end_session(ANA, ids[-1]))
            ids.append(await lab.running())
            first = await service.list_sessions(ANA, 3, "")
            assert [one.id for one in first.sessions] == ids[:0:-1]
            assert [one.simulator is not None for one in first.sessions] == [True, False, False]
            last = await service.list_sessions(ANA, 3, first.next)
            assert ([one.id for one in last.sessions], last.next) == (ids[:1], "")
            assert (await service.list_sessions(BOB, 3, "")).sessions == ()

    run(scenario())


@pytest.mark.parametrize("ender", [0, 1])
def test_an_ended_session_is_told_and_its_simulator_stopped(run, ender):
    """Reason user, close code 4009 on every pod; ending it twice is ending it once; its story can still be read."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            await lab.do(lab.pods[0].service.submit_order(ANA, session, BUY, "k"))
            links = [await lab.link(session, pod=number) for number in range(2)]
            service = lab.pods[ender].service
            for _ in range(2):
                await lab.do(service.end_session(ANA, session))
            await lab.turns(60)
            for link in links:
                assert {"t": "ended", "reason": "user"} in link.heard()
                assert link.closed == 4009
            assert lab.simulators == {}
            assert not lab.pods[0].keeper.owned
            shown = await service.get_session(ANA, session)
            assert (shown.state, shown.ended_reason) == ("ended", "user")
            assert shown.simulator.state == "stopped"
            assert len((await service.events_after(ANA, session, 0, 0, 10)).events) == 1
            for ask in (
                service.snapshot(ANA, session),
                service.list_orders(ANA, session, 9, 0),
                service.submit_order(ANA, session, BUY, "j"),
                service.set_simulator(ANA, session, RUNNING),
            ):
                with refused(Kind.ENDED):
                    await lab.do(ask)

    run(scenario())


def test_the_owner_finds_out_by_itself_why_a_session_ended(run):
    """The announcement is best effort: who is fenced asks the row, and tells the reason."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.running()
            link = await lab.link(session)
            await lab.store.sessions.end(session, EndReason.EXPIRED)
            pod = lab.pods[0]
            pod.keeper.lost_ownership(pod.keeper.rooms[session], Owner("", 9))
            lab.hub.leases.clear()
            await lab.turns(60)
            assert {"t": "ended", "reason": "expired"} in link.heard()

    run(scenario())


# Activity


def test_a_request_is_activity_wherever_it_comes(run):
    """Section 5.2: a REST call counts; being there does not, and it is not written per call."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            elsewhere = lab.pods[1].service
            before = (await elsewhere.get_session(ANA, session)).active_at
            lab.clock.advance(100.0)
            at = lab.wall()
            await elsewhere.get_session(ANA, session)
            assert (await lab.store.sessions.get(session)).active_at == before
            await elsewhere.write_activities()
            assert (await lab.store.sessions.get(session)).active_at == at
            lab.clock.advance(100.0)
            await lab.pods[0].service.get_session(ANA, session)
            owned = lab.pods[0].keeper.rooms[session]
            assert datetime.fromtimestamp(owned.active_ms / 1000, UTC) == lab.wall()
            lab.store.go_away()
            with pytest.raises(BackendUnavailable):
                await lab.pods[1].service.get_session(ANA, session)

    run(scenario())


def test_activity_that_could_not_be_written_is_written_later(run):
    """The database may be away for a moment."""

    async def scenario():
        async with service_lab(1) as lab:
            service, session = lab.pods[0].service, await lab.make()
            lab.clock.advance(10.0)
            await service.get_session(ANA, session)
            lab.store.go_away()
            with pytest.raises(BackendUnavailable):
                await service.write_activities()
            lab.store.come_back()
            await service.write_activities()
            await service.write_activities()
            assert (await lab.store.sessions.get(session)).active_at == lab.wall()

    run(scenario())


# Simulators


@pytest.mark.parametrize("pod", [0, 1])
def test_a_simulator_is_wanted_from_any_pod(run, pod):
    """PUT is idempotent: what is wanted goes to the owner, who begins at once; its market is what was asked for."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.make()
            link = await lab.link(session)
            service = lab.pods[pod].service
            market = MarketSettings(seed=9, instruments=(InstrumentSettings("ZZZ", "10"),), step_ms=100)
            wish = t.SimulatorWish(desired="running", spec=market)
            with refused(Kind.NOT_FOUND):
                await lab.do(service.set_simulator(ANA, session, STOPPED))
            first, is_changed = await lab.do(service.set_simulator(ANA, session, wish))
            assert (first.session, first.desired, is_changed) == (session, "running", True)
            await lab.turns(60)
            again, is_changed = await lab.do(service.set_simulator(ANA, session, wish))
            assert (again.id, again.state, is_changed) == (first.id, "running", False)
            assert (await lab.do(service.set_simulator(ANA, session, RUNNING)))[1] is False
            other = msgspec.structs.replace(wish, spec=msgspec.structs.replace(market, seed=10))
            with refused(Kind.CONFLICT, "other_spec"):
                await lab.do(service.set_simulator(ANA, session, other))
            shown = await lab.do(service.snapshot(ANA, session))
            assert [row["s"] for row in shown.rows] == ["ZZZ"]
            assert lab.pods[0].keeper.owned.keys() == {session}
            stopped, is_changed = await lab.do(service.set_simulator(ANA, session, STOPPED))
            assert (stopped.desired, is_changed) == ("stopped", True)
            await lab.turns(60)
            assert (await service.get_simulator(ANA, session)).state == "stopped"
            assert (await lab.do(service.set_simulator(ANA, session, STOPPED)))[1] is False
            assert [frame["state"] for frame in link.heard() if frame["t"] == "sim"][-1] == "stopped"

    run(scenario())


def test_the_next_simulator_of_a_session_shows_its_own_market_and_orders(run):
    """Revisions and order numbers begin again: nothing of the simulator before is taken for the new one's."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            service = lab.pods[0].service
            link = await lab.link(session, pod=1)
            for _ in range(5):
                lab.clock.advance(0.1)
                lab.simulator.desk.advance()
                lab.simulator.tell()
                await lab.turns(5)
            old = await lab.do(service.submit_order(ANA, session, BUY, "one"))
            market = (await lab.do(service.snapshot(ANA, session))).md
            await lab.do(service.set_simulator(ANA, session, STOPPED))
            await lab.turns(60)
            await lab.running()
            await lab.turns(60)
            for pod in lab.pods:
                shown = await lab.do(pod.service.snapshot(ANA, session))
                assert shown.md > market
                assert (shown.orders, len(shown.rows)) == ((), 1)
                assert (await pod.service.list_orders(ANA, session, 9, 0)).orders == ()
            new = await lab.do(lab.pods[1].service.submit_order(ANA, session, BUY, "two"))
            assert new.request == "two"
            assert [one.request for one in (await service.list_orders(ANA, session, 9, 0)).orders] == ["two"]
            if new.order != old.order:
                with refused(Kind.NOT_FOUND):
                    await service.get_order(ANA, session, old.order)
            told = [frame for frame in link.heard() if frame["t"] == "ev"]
            assert [(frame["y"], frame["o"]) for frame in told] == [("order", 1), ("orders", 2), ("order", 3)]

    run(scenario())


@pytest.mark.parametrize(
    ("market", "field"),
    [
        ({"replay_file": "/etc/passwd"}, "$.spec.replay_file"),
        ({"step_ms": 10}, "$.spec.step_ms"),
        ({"instruments": tuple(InstrumentSettings(f"A{n}") for n in range(21))}, "$.spec.instruments"),
        ({"instruments": (InstrumentSettings("A"), InstrumentSettings("A"))}, "$.spec.instruments[1].symbol"),
        ({"maker_fee_ppm": 5}, "$.spec.maker_fee_ppm"),
    ],
)
def test_a_market_that_is_too_much_or_none_is_refused_field_by_field(run, market, field):
    """Limits of the operator: instruments_count, step_min_ms, and files are the operator's."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.make()
            wish = t.SimulatorWish(desired="running", spec=MarketSettings(**market))
            with refused(Kind.INVALID, field=field):
                await lab.do(lab.pods[0].service.set_simulator(ANA, session, wish))
            assert not lab.pods[0].keeper.rooms

    run(scenario())


@pytest.mark.parametrize("pod", [0, 1])
def test_progress_tells_each_step_and_ends(run, pod):
    """Specification 5.3: server-sent events while it starts; done on the last one."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.make()
            service = lab.pods[pod].service
            with refused(Kind.NOT_FOUND):
                await anext(service.progress(ANA, session))
            await lab.do(lab.pods[0].service.set_simulator(ANA, session, RUNNING))
            steps = await lab.do(_all(service.progress(ANA, session)))
            assert [step.state for step in steps[-1:]] == ["running"]
            assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
            assert (await lab.do(_all(service.progress(ANA, session))))[-1].percent == 100

    run(scenario())


def test_progress_says_why_a_simulator_failed_and_does_not_go_on_for_ever(run):
    """A failure is a last step with words for its user; a start that takes too long ends the stream."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.make()
            service = lab.pods[0].service
            row = (await lab.store.simulators.want(session, "running", driver="none")).row
            steps = service.progress(ANA, session)
            assert (await anext(steps)).state == "requested"
            lab.clock.advance(301.0)
            assert [step async for step in steps] == []
            steps = service.progress(ANA, session)
            await anext(steps)
            failed = Observation(state=SimulatorState.FAILED, failure={"detail": "no room"})
            await lab.store.simulators.observe(row.id, row.generation, failed)
            assert [(step.detail, step.done) async for step in steps] == [("no room", True)]

    run(scenario())


async def _all(steps):
    return [step async for step in steps]


# Orders


@pytest.mark.parametrize("pod", [0, 1])
def test_an_order_goes_its_way_from_any_pod(run, pod):
    """Place, see, change, take back: each answer is what the next request finds, on every pod."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            await lab.link(session, pod=1)
            service = lab.pods[pod].service
            placed = await lab.do(service.submit_order(ANA, session, BUY, "key-1"))
            assert (placed.request, placed.symbol, placed.side, placed.tif) == ("key-1", "AAA", "buy", "gtc")
            assert (placed.status, placed.filled, placed.remaining, placed.price) == ("new", 0, 3, "1")
            for one in lab.pods:
                assert await lab.do(one.service.get_order(ANA, session, placed.order)) == placed
            change = t.OrderChange(quantity=2, price="1.50")
            changed = await lab.do(service.replace_order(ANA, session, placed.order, change))
            assert (changed.quantity, changed.price, changed.remaining) == (2, "1.5", 2)
            gone = await lab.do(service.cancel_order(ANA, session, placed.order))
            assert (gone.status, gone.remaining) == ("canceled", 0)
            assert await lab.do(service.cancel_order(ANA, session, placed.order)) == gone
            filled = await lab.do(service.submit_order(ANA, session, FILLS, "key-2"))
            assert (filled.status, filled.filled, filled.type) == ("filled", 3, "market")
            assert float(filled.average_price) > 0
            for one in lab.pods:
                page = await lab.do(one.service.list_orders(ANA, session, 1, 0))
                assert page.orders == (filled,)
                last = await lab.do(one.service.list_orders(ANA, session, 1, page.next))
                assert (last.orders, last.next) == ((gone,), 0)

    run(scenario())


def test_an_order_is_durable_when_it_is_answered(run):
    """Who asks for events behind the answer finds the order's own."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            service = lab.pods[1].service
            placed = await lab.do(service.submit_order(ANA, session, FILLS, "k"))
            page = await service.events_after(ANA, session, 0, 0, 10)
            bodies = [msgspec.json.decode(event.d) for event in page.events]
            assert [body["status"] for body in bodies] == ["new", "filled"]
            assert {body["order"] for body in bodies} == {placed.order}

    run(scenario())


def test_the_same_request_id_is_the_same_order(run):
    """A repeat after an unknown outcome finds the first order; so does one under a key that is longer than ids are."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.running()
            service = lab.pods[0].service
            for key in ("k", "k" * 255):
                first = await lab.do(service.submit_order(ANA, session, BUY, key))
                assert await lab.do(service.submit_order(ANA, session, BUY, key)) == first
                assert len(first.request) <= 64
            other = msgspec.structs.replace(BUY, quantity=4)
            with refused(Kind.ORDER_REFUSED, "request_id_reused"):
                await lab.do(service.submit_order(ANA, session, other, "k"))
            assert len((await service.list_orders(ANA, session, 9, 0)).orders) == 2

    run(scenario())


def test_what_the_market_refuses_says_why(run):
    """422 with one word; an order that is not there is 404."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.make()
            service = lab.pods[0].service
            with refused(Kind.CONFLICT, "no_simulator"):
                await lab.do(service.submit_order(ANA, session, BUY, "k"))
            await lab.running()
            for change, reason in (
                ({"symbol": "NONE"}, "unknown_symbol"),
                ({"price": "1.0001"}, "bad_price"),
                ({"quantity": 1_000_000_000}, "insufficient_cash"),
                ({"side": "sell", "quantity": 101}, "insufficient_shares"),
            ):
                order = msgspec.structs.replace(BUY, **change)
                with refused(Kind.ORDER_REFUSED, reason):
                    await lab.do(service.submit_order(ANA, session, order, str(change)))
            with refused(Kind.INVALID):
                order = t.NewOrder(symbol="AAA", side="buy", quantity=1, type="market", tif="gtc")
                await lab.do(service.submit_order(ANA, session, order, "waits"))
            change = t.OrderChange(quantity=1, price="1")
            for ask in (
                service.get_order(ANA, session, 10**9),
                service.cancel_order(ANA, session, 10**9),
                service.replace_order(ANA, session, 10**9, change),
            ):
                with refused(Kind.NOT_FOUND):
                    await lab.do(ask)
            filled = await lab.do(service.submit_order(ANA, session, FILLS, "fills"))
            for ask in (service.cancel_order(ANA, session, filled.order),
                        service.replace_order(ANA, session, filled.order, change)):  # fmt: skip
                with refused(Kind.ORDER_REFUSED, "order_is_final"):
                    await lab.do(ask)

    run(scenario())


def test_an_order_is_answered_while_the_log_is_away(run):
    """Valkey down: sessions stay; the simulator's word is the answer, the event comes when the log is back."""

    async def scenario():
        async with service_lab(1, timeout_s=0.1) as lab:
            session = await lab.running()
            service = lab.pods[0].service
            known = await lab.do(service.submit_order(ANA, session, BUY, "before"))
            lab.hub.away.add("pod-0")
            placed = await lab.do(service.submit_order(ANA, session, BUY, "k"))
            assert (placed.request, placed.status, placed.remaining) == ("k", "new", 3)
            filled = await lab.do(service.submit_order(ANA, session, FILLS, "f"))
            assert (filled.status, filled.filled, filled.remaining, filled.tif) == ("filled", 3, 0, "ioc")
            change = t.OrderChange(quantity=2, price="1.5")
            changed = await lab.do(service.replace_order(ANA, session, known.order, change))
            assert (changed.quantity, changed.price, changed.remaining) == (2, "1.5", 2)
            gone = await lab.do(service.cancel_order(ANA, session, known.order))
            assert (gone.status, gone.remaining) == ("canceled", 0)
            with refused(Kind.OUTCOME_UNKNOWN):
                await lab.do(service.cancel_order(ANA, session, placed.order))
            lab.hub.heal()
            await lab.turns(60)
            for _ in range(200):
                if lab.pods[0].keeper.rooms[session].role.writer.waiting_count == 0:
                    break
                await lab.turns(1)
            assert (await service.get_order(ANA, session, placed.order)).status == "canceled"

    run(scenario())


def test_an_order_whose_simulator_does_not_answer_has_an_unknown_outcome(run):
    """504: repeated with the same key when the simulator is back, it is one order."""

    async def scenario():
        async with service_lab(2, timeout_s=0.2) as lab:
            session = await lab.running()
            await lab.link(session, pod=1)
            desk = lab.simulator.desk

            def refuse(_request):
                raise BackendUnavailable("simulator", 0.0, "it is stuck")

            desk.attach = refuse
            lab.simulator.cut()
            await lab.turns(10)
            for pod in lab.pods:
                with refused(Kind.OUTCOME_UNKNOWN):
                    await lab.do(pod.service.submit_order(ANA, session, BUY, "k"))
            del desk.attach
            await lab.do(lab.is_up(0, session))
            placed = [await lab.do(pod.service.submit_order(ANA, session, BUY, "k")) for pod in lab.pods]
            assert placed[0] == placed[1]
            assert len(lab.truth()) == 1

    run(scenario())


def test_old_orders_are_found_as_long_as_the_log_has_them(run):
    """A snapshot tells the last 50 that ended; the list goes back as far as the log."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.running()
            service = lab.pods[0].service
            placed = [await lab.do(service.submit_order(ANA, session, FILLS, f"k{n}")) for n in range(60)]
            assert len((await lab.do(service.snapshot(ANA, session))).orders) == 50
            page = await service.list_orders(ANA, session, 100, 0)
            assert page.orders == tuple(reversed(placed))
            assert await service.get_order(ANA, session, placed[0].order) == placed[0]

    run(scenario())


def test_a_database_that_is_away_disturbs_no_order(run):
    """Database down: sessions that are here go on; what needs the database says so."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.running()
            service = lab.pods[0].service
            lab.store.go_away()
            placed = await lab.do(service.submit_order(ANA, session, BUY, "k"))
            assert await lab.do(service.get_order(ANA, session, placed.order)) == placed
            assert (await lab.do(service.snapshot(ANA, session))).orders
            for ask in (service.get_session(ANA, session), service.create_session(
                ANA, t.CreateSession(device="d1"), CALLER)):  # fmt: skip
                with pytest.raises(BackendUnavailable):
                    await lab.do(ask)

    run(scenario())


# Replay


def test_events_are_read_behind_a_cursor_or_it_is_said_why_not(run):
    """410 with a word: trimmed, another epoch, a cursor from the future, or gone."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.make()
            service = lab.pods[1].service
            empty = await service.events_after(ANA, session, 0, 0, 10)
            assert (empty.epoch, empty.last, empty.events) == (0, 0, ())
            with refused(Kind.GONE_EVENTS, "gone"):
                await service.events_after(ANA, session, 1, 0, 10)
            owner = Owner("pod-9", 7)
            await lab.hub.buses["pod-0"].acquire(session, owner, 15.0)
            events = [LogEvent(offset, "note", b'{"n":%d}' % offset, offset) for offset in range(3, 7)]
            await lab.hub.buses["pod-0"].reseed(session, owner, 7, events, after=2)
            page = await service.events_after(ANA, session, 7, 3, 2)
            assert (page.epoch, page.last) == (7, 6)
            assert msgspec.json.encode(page.events[0]) == b'{"o":4,"y":"note","d":{"n":4},"at_ms":4}'
            assert len(page.events) == 2
            assert (await service.events_after(ANA, session, 0, 6, 2)).events == ()
            for epoch, after, reason in (
                (7, 1, "trimmed"),
                (0, 0, "trimmed"),
                (8, 4, "other_epoch"),
                (7, 9, "ahead"),
            ):
                with refused(Kind.GONE_EVENTS, reason):
                    await service.events_after(ANA, session, epoch, after, 10)

    run(scenario())


@pytest.mark.parametrize("pod", [0, 1])
def test_a_snapshot_is_of_one_moment(run, pod):
    """It says behind which event it stands, so that events go on without gap or overlap."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            service = lab.pods[pod].service
            placed = await lab.do(service.submit_order(ANA, session, FILLS, "k"))
            shown = await lab.do(service.snapshot(ANA, session))
            assert shown.events == 2
            assert shown.simulator_state == "running"
            (row,) = shown.rows
            assert row["s"] == "AAA"
            assert shown.md > 0
            assert shown.portfolio["positions"][0]["symbol"] == "AAA"
            (order,) = msgspec.json.decode(msgspec.json.encode(shown.orders))
            assert (order["order"], order["status"]) == (placed.order, "filled")
            page = await service.events_after(ANA, session, shown.epoch, shown.events, 10)
            assert page.events == ()

    run(scenario())


def test_a_snapshot_waits_for_the_market_of_a_session_that_was_just_taken_over(run):
    """A client that only knows REST sees no empty market because its request came first."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            lab.pods[0].kill()
            lab.clock.advance(16.0)
            shown = await lab.do(lab.pods[1].service.snapshot(ANA, session))
            assert len(shown.rows) == 1
            assert shown.portfolio is not None

    run(scenario())


def test_a_session_that_no_pod_can_own_now_says_so_in_time(run):
    """503 within the deadline of a command, and not after the twenty seconds that a WebSocket would wait."""

    async def scenario():
        async with service_lab(2, timeout_s=0.05) as lab:
            session = await lab.running()
            lab.pods[0].kill()
            with refused(Kind.UNAVAILABLE):
                await lab.do(lab.pods[1].service.snapshot(ANA, session))
            await asyncio.sleep(0)

    run(scenario())


def test_one_session_has_one_simulator_whoever_asks_at_the_same_time(run):
    """Section 1.9: of two starts at once the original made two."""

    async def scenario():
        async with service_lab(3) as lab:
            session = await lab.make()
            wishes = [pod.service.set_simulator(ANA, session, RUNNING) for pod in lab.pods for _ in range(3)]
            found = await lab.do(asyncio.gather(*wishes))
            assert len({simulator.id for simulator, _ in found}) == 1
            assert sum(is_changed for _, is_changed in found) == 1
            await lab.turns(60)
            rows = await lab.store.simulators.list(SimulatorFilter(session_id=session), Page())
            assert len(rows) == len(lab.simulators) == 1

    run(scenario())


def test_a_session_that_has_just_ended_takes_no_wish(run):
    """Ended in the database and not yet told here: 410, as everywhere."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            await lab.link(session, pod=1)
            await lab.store.sessions.end(session, EndReason.ADMIN)
            for pod in lab.pods:
                with refused(Kind.ENDED):
                    await lab.do(pod.service.set_simulator(ANA, session, STOPPED))

    run(scenario())


def test_an_owner_that_does_not_answer_is_not_waited_for(run):
    """503 by the deadline of a command; wanting the same again is harmless."""

    async def scenario():
        async with service_lab(2, timeout_s=0.05) as lab:
            session = await lab.running()
            await lab.link(session, pod=1)
            lab.hub.cut_off_pod("pod-0")
            with refused(Kind.UNAVAILABLE):
                await lab.do(lab.pods[1].service.set_simulator(ANA, session, STOPPED))
            lab.hub.reconnect_pod("pod-0")

    run(scenario())
