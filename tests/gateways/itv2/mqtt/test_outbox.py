"""What waits for the broker is bounded: one message per topic, and so many events."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.gateways.itv2.mqtt.outbox import BULK_ROOM_COUNT, Outbox
from sojourn.testing.clock import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def outbox(clock):
    return Outbox(3, 60.0, clock)


def taken(run, outbox):
    """Take all that waits, as (topic, body)."""

    async def take():
        found = []
        while len(outbox):
            before = outbox.dropped_count
            try:
                async with asyncio.timeout(0.05):
                    one = await outbox.take()
            except TimeoutError:
                assert outbox.dropped_count > before
                break
            found.append((one.topic, one.make()))
        return found

    return run(take())


def test_of_a_topic_only_the_newest_state_waits(run, outbox):
    """However fast a zone changes, the broker hears of it as fast as it can take it."""
    for number in range(1000):
        outbox.put_state("zone/1", lambda number=number: b"%d" % number)
    assert len(outbox) == 1
    assert taken(run, outbox) == [("zone/1", b"999")]


def test_changes_go_before_events_and_events_before_the_rest(run, outbox):
    """A connect has thousands of messages; an alarm does not wait behind them."""
    outbox.put_bulk("config/1", lambda: b"config")
    outbox.put_event("event", b"event")
    outbox.put_state("zone/1", lambda: b"open")
    assert [topic for topic, _ in taken(run, outbox)] == ["zone/1", "event", "config/1"]


def test_a_state_that_waits_with_the_rest_moves_up_when_it_changes(run, outbox):
    """It is sent once."""
    outbox.put_bulk("config/1", lambda: b"config")
    outbox.put_bulk("zone/1", lambda: b"closed")
    outbox.put_state("zone/1", lambda: b"open")
    outbox.put_bulk("zone/1", lambda: b"open, said again")
    assert taken(run, outbox) == [("zone/1", b"open, said again"), ("config/1", b"config")]


def test_what_must_come_last_goes_behind_what_waits(run, outbox):
    """A panel is available only when its states are there."""
    outbox.put_state("availability", lambda: b"offline")
    outbox.put_state("zone/1", lambda: b"open")
    outbox.put_state("availability", lambda: b"online", is_last=True)
    assert taken(run, outbox) == [("zone/1", b"open"), ("availability", b"online")]


def test_the_oldest_events_are_dropped_and_counted(run, outbox):
    """A broker that is away for a night must not cost the memory."""
    for number in range(5):
        outbox.put_event("event", b"%d" % number)
    assert outbox.dropped_count == 2
    assert [body for _, body in taken(run, outbox)] == [b"2", b"3", b"4"]


def test_an_event_that_waited_too_long_is_not_news_any_more(run, outbox, clock):
    """It would start automations hours later."""
    outbox.put_event("event", b"old")
    clock.advance(61)
    outbox.put_event("event", b"new")
    assert taken(run, outbox) == [("event", b"new")]
    assert outbox.dropped_count == 1


def test_events_that_could_not_be_sent_go_first_and_in_order(run, outbox):
    """Several are on their way when a connection is lost."""

    async def scenario():
        for number in range(3):
            outbox.put_event("event", b"%d" % number)
        lost = [await outbox.take() for _ in range(2)]
        for one in lost:
            outbox.put_back(one)

    run(scenario())
    assert [body for _, body in taken(run, outbox)] == [b"0", b"1", b"2"]


def test_a_state_that_could_not_be_sent_gives_way_to_a_newer_one(run, outbox):
    """Its body is made anew, so it would be the same."""

    async def scenario():
        outbox.put_state("zone/1", lambda: b"open")
        lost = await outbox.take()
        outbox.put_state("zone/1", lambda: b"closed")
        outbox.put_back(lost)

    run(scenario())
    assert taken(run, outbox) == [("zone/1", b"closed")]


def test_who_fills_the_last_lane_waits_for_room(run, outbox):
    """Announcements of 500 panels are never all in memory at once."""

    async def scenario():
        for number in range(BULK_ROOM_COUNT):
            outbox.put_bulk(f"config/{number}", bytes)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(outbox.room())
            await asyncio.sleep(0)
            assert not waiting.done()
            await outbox.take()

    run(scenario())
