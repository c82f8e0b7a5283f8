"""What sessions are told wherever they are, and what a new owner takes up: specification 5.2 and 5.6."""

from __future__ import annotations

import pytest
from exchange_service_lab import ANA, BUY, NO_SESSION, service_lab

from sojourn.gateways.exchange.announcements import Announcer
from sojourn.gateways.exchange.lifecycle import EndReason


def announcer(lab, pod):
    where = lab.pods[pod]
    return Announcer(where.services, where.keeper, where.commands)


@pytest.mark.parametrize("pod", [0, 1, 2])
def test_a_warning_reaches_every_client_on_every_pod(run, pod):
    """Section 5.2: 60 s before the end of an idle session; whichever pod looks after expiry tells the owner."""

    async def scenario():
        async with service_lab(3) as lab:
            session = await lab.running()
            links = [await lab.link(session, pod=number) for number in range(2)]
            assert await lab.do(announcer(lab, pod).warn(session, "idle", 59.5))
            await lab.turns()
            for link in links:
                assert {"t": "warn", "reason": "idle", "in_s": 59.5} in link.heard()

    run(scenario())


def test_where_nobody_owns_a_session_nobody_need_be_told(run):
    """Its row has been written; whoever owns it next reads that."""

    async def scenario():
        async with service_lab(1) as lab:
            session = await lab.make()
            assert await announcer(lab, 0).warn(session, "idle", 9.0)
            assert await announcer(lab, 0).end(NO_SESSION, "admin")
            assert lab.pods[0].keeper.rooms == {}

    run(scenario())


def test_a_session_that_moves_is_told_at_its_new_place(run):
    """Between two pods neither is the owner for a moment; the announcement looks again."""

    async def scenario():
        async with service_lab(3) as lab:
            session = await lab.running()
            link = await lab.link(session, pod=1)
            owner = lab.pods[0].keeper.rooms[session]
            role, owner.role = owner.role, None  # on its way: it has the lease and does not act any more
            telling = lab.pods[2].spawn(announcer(lab, 2).end(session, "admin"))
            await lab.turns(30)
            assert not telling.done()
            owner.role = role
            await lab.do(telling)
            await lab.turns()
            assert link.closed == 4009

    run(scenario())


def test_who_cannot_be_told_is_no_error(run):
    """Best effort with a deadline: the bus is away, or the owner has died; the answer is that it was not done."""

    async def scenario():
        async with service_lab(2, timeout_s=0.05) as lab:
            session = await lab.running()
            link = await lab.link(session, pod=1)
            lab.pods[0].kill()
            assert not await lab.do(announcer(lab, 1).warn(session, "idle", 9.0))
            lab.hub.away.add("pod-1")
            assert not await lab.do(announcer(lab, 1).warn(session, "idle", 9.0))
            assert link.outlet.closed is None
            assert not await lab.do(announcer(lab, 1).end(session, "admin"))
            assert (link.closed, link.heard()[-1]) == (4009, {"t": "ended", "reason": "admin"})

    run(scenario())


def test_an_end_that_comes_twice_is_one_end(run):
    """Whoever was not sure says it again; links hear it once."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            link = await lab.link(session, pod=1)
            await lab.store.sessions.end(session, EndReason.ADMIN)
            for pod in (1, 0):
                assert await lab.do(announcer(lab, pod).end(session, "admin"))
            assert [frame["t"] for frame in link.heard()].count("ended") == 1
            await lab.turns(60)
            assert lab.simulators == {}
            assert not lab.pods[0].keeper.rooms
            assert not lab.pods[1].keeper.rooms

    run(scenario())


# What a new owner takes up


@pytest.mark.parametrize("has_stored_logs", [False, True])
def test_a_long_log_is_taken_over_to_its_last_event(run, has_stored_logs):
    """A backend keeps up to a tenth more than a mirror: the newest must not be what is left out."""

    async def scenario():
        async with service_lab(2, has_stored_logs=has_stored_logs) as lab:
            session = await lab.running()
            service = lab.pods[0].service
            for number in range(540):
                placed = await lab.do(service.submit_order(ANA, session, BUY, f"k{number}"))
                await lab.do(service.cancel_order(ANA, session, placed.order))
            before = lab.pods[0].keeper.rooms[session].view.log
            assert before.last == 1080
            lab.pods[0].kill()
            lab.clock.advance(16.0)
            other = lab.pods[1].service
            placed = await lab.do(other.submit_order(ANA, session, BUY, "last"))
            after = lab.pods[1].keeper.rooms[session].view.log
            assert (after.epoch, after.last) == (before.epoch, 1081)
            page = await other.events_after(ANA, session, 0, 1079, 10)
            assert [event.o for event in page.events] == [1080, 1081]
            assert await lab.do(other.get_order(ANA, session, placed.order)) == placed
            assert len(lab.truth()) == 1081

    run(scenario())


def test_an_order_is_told_to_other_pods_although_no_price_moves(run):
    """News go to followers because of the event itself, not with the next change of the market."""

    async def scenario():
        async with service_lab(2) as lab:
            session = await lab.running()
            link = await lab.link(session, pod=1)
            placed = await lab.do(lab.pods[0].service.submit_order(ANA, session, BUY, "k"))
            await lab.turns(5)
            assert [frame["d"]["order"] for frame in link.heard() if frame["t"] == "ev"] == [placed.order]

    run(scenario())
