"""Feeds, logs, ladders and quality: what each client gets, and when it gets less."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import LocalProtocolError
from sojourn.gateways.exchange.event_log import EventLog, LogEvent
from sojourn.gateways.exchange.feed import Feed
from sojourn.gateways.exchange.ladder import Ladder, LadderSettings, Rung
from sojourn.gateways.exchange.quality import Quality, QualitySettings

SYMBOLS = ("AAA", "BBB", "CCC")
UPDATES = st.lists(
    st.dictionaries(st.sampled_from(SYMBOLS), st.integers(0, 9), min_size=1), min_size=1, max_size=20
)


def read(message):
    """Return the frame inside a short WebSocket message."""
    skip = {126: 4, 127: 10}.get(message[1], 2)
    return json.loads(message[skip:])


class Client:
    """A client that applies what it gets."""

    def __init__(self, symbols=None):
        self.symbols = None if symbols is None else frozenset(symbols)
        self.cursor = 0
        self.view = {}

    def take(self, feed):
        message = feed.frame(self.cursor, self.symbols)
        self.cursor = feed.revision
        if message:
            frame = read(message)
            assert frame["r"] == feed.revision
            if frame.get("full"):
                self.view.clear()
            self.view |= {row["s"]: row["v"] for row in frame["rows"]}


@settings(max_examples=200)
@given(UPDATES, st.sets(st.integers(0, 19)), st.sets(st.sampled_from(SYMBOLS)))
def test_a_client_may_miss_intermediate_values_but_never_the_last(updates, taken, wanted):
    """Specification 5.4: whichever ticks a client was passed over in, in the end it has what is."""
    feed, eager, lazy, picky = Feed(), Client(), Client(), Client(wanted)
    truth = {}
    for index, update in enumerate(updates):
        truth |= update
        feed.update([(symbol, {"s": symbol, "v": value}) for symbol, value in update.items()], index + 1)
        eager.take(feed)
        assert eager.view == truth
        if index in taken:
            lazy.take(feed)
            picky.take(feed)
    lazy.take(feed)
    picky.take(feed)
    assert lazy.view == truth
    assert picky.view == {symbol: value for symbol, value in truth.items() if symbol in wanted}


def test_clients_with_one_cursor_get_one_and_the_same_bytes():
    """A frame is made once per group."""
    feed = Feed()
    feed.update([("AAA", {"s": "AAA", "v": 1})], 1)
    assert feed.frame(0) is feed.frame(0)
    feed.update([("BBB", {"s": "BBB", "v": 1})], 2)
    assert feed.frame(1) is feed.frame(1)
    assert feed.frame(1) != feed.frame(0)
    assert feed.frame(2) == b""


def test_another_market_is_sent_as_a_whole():
    """A cursor of the old market, however high, says nothing of the new one."""
    feed, client = Feed(), Client()
    feed.reset([("AAA", {"s": "AAA", "v": 1}, 5)], 7)
    client.take(feed)
    feed.reset([("BBB", {"s": "BBB", "v": 2}, 101)], 101, base=100)
    client.take(feed)
    assert client.view == {"BBB": 2}


def test_rows_keep_their_revisions_through_a_reset_of_the_same_market():
    """A pod that takes over sends a resumed client only what it lacks."""
    feed = Feed()
    feed.reset([("AAA", {"s": "AAA", "v": 1}, 3), ("BBB", {"s": "BBB", "v": 1}, 9)], 9, base=1)
    assert [row["s"] for row in read(feed.frame(5))["rows"]] == ["BBB"]


# The log


def entry(offset, size=10, at_ms=0):
    """An event of so many bytes."""
    return LogEvent(offset, "order", b"x" * size, at_ms)


def log(**limits):
    """A log that keeps much."""
    return EventLog(1, 0, **{"limit_count": 100, "limit_bytes": 10_000, "keep_s": 60.0} | limits)


def test_a_log_takes_the_next_event_and_no_other():
    """Contiguous, whatever happens."""
    events = log()
    events.append(entry(1))
    for wrong in (1, 3, 0):
        with pytest.raises(LocalProtocolError):
            events.append(entry(wrong))


@pytest.mark.parametrize(
    ("limits", "kept"), [({"limit_count": 3}, [8, 9, 10]), ({"limit_bytes": 25}, [9, 10])]
)
def test_a_log_keeps_the_last_events_within_its_bounds(limits, kept):
    """By number and by bytes; what is asked for behind the bounds is not all there."""
    events = log(**limits)
    for offset in range(1, 11):
        events.append(entry(offset))
    assert [one.offset for one in events.after(0)] == kept
    assert events.has_all_after(1, kept[0] - 1)
    assert not events.has_all_after(1, kept[0] - 2)


def test_a_log_forgets_what_is_old_and_still_counts_on():
    """An empty log knows its last offset."""
    events = log(keep_s=1.0)
    events.append(entry(1, at_ms=1_000))
    events.append(entry(2, at_ms=2_500))
    events.trim(2_600)
    assert [one.offset for one in events.after(0)] == [2]
    events.trim(10_000)
    assert (len(events), events.first, events.last) == (0, 3, 2)
    assert events.has_all_after(1, 2)
    events.append(entry(3))


def test_a_cursor_of_the_future_or_of_another_epoch_is_not_continued():
    """It was made by another log."""
    events = log()
    events.append(entry(1))
    assert events.has_all_after(1, 1)
    assert not events.has_all_after(1, 2)
    assert not events.has_all_after(2, 0)


# The ladder


def test_a_slow_client_gets_less_step_by_step():
    """Specification 5.4: under 64 KiB all, then no market, then events only, at 1 MiB the end."""
    ladder = Ladder(LadderSettings())
    rungs = [ladder.look(size, 1.0) for size in (0, 65_535, 65_536, 262_143, 262_144, 1_048_575, 1_048_576)]
    assert rungs == [
        Rung.ALL,
        Rung.ALL,
        Rung.NO_MARKET,
        Rung.NO_MARKET,
        Rung.EVENTS_ONLY,
        Rung.EVENTS_ONLY,
        Rung.CLOSE,
    ]


def test_a_client_that_takes_nothing_for_long_is_closed():
    """Ten seconds above the first rung; whoever empties its buffer begins anew."""
    ladder = Ladder(LadderSettings())
    assert ladder.look(70_000, 1.0) == Rung.NO_MARKET
    assert ladder.look(70_000, 10.9) == Rung.NO_MARKET
    assert ladder.look(0, 10.95) == Rung.ALL
    assert ladder.look(70_000, 11.0) == Rung.NO_MARKET
    assert ladder.look(70_000, 21.0) == Rung.CLOSE


def test_each_skipped_tick_makes_the_next_ones_rarer_and_calm_makes_them_frequent_again():
    """50, 100, 250, 1000 ms, and back, one step after twenty calm ticks."""
    ladder = Ladder(LadderSettings())
    intervals = []
    for _ in range(5):
        ladder.skip()
        intervals.append(ladder.interval_ms)
    assert intervals == [100, 250, 1000, 1000, 1000]
    for tick in range(Ladder.CALM_COUNT):
        ladder.sent(float(tick))
    assert ladder.interval_ms == 250


# Quality


def beats(quality, times_ms):
    """Send a heartbeat for each time, answered after it; None is not answered."""
    grades = []
    for number, took_ms in enumerate(times_ms):
        now = number * 10.0 + 1.0
        sent = quality.beat(now)
        if took_ms is not None:
            assert quality.answered(sent, now + took_ms / 1000)
        quality.judge()
        grades.append(quality.grade)
    return grades


def test_missed_heartbeats_make_a_connection_degraded_then_poor():
    """Section 1.6: any missed one degrades, three are poor; and it is better only after two good ones."""
    grades = beats(Quality(QualitySettings()), [20, None, None, None, None, 20, 20, 20, 20])
    assert grades == ["good", "good", "degraded", "degraded", "poor", "poor", "good", "good", "good"]


def test_long_round_trips_degrade_a_connection():
    """More than 500 ms on average, the newest counting most."""
    quality = Quality(QualitySettings())
    assert beats(quality, [100, 900, 900, 900, 900, 900])[-1] == "degraded"
    assert quality.rtt_ms > 500
    assert quality.p95_ms == pytest.approx(900)


def test_an_answer_to_another_heartbeat_counts_for_nothing():
    """Late, doubled or made up."""
    quality = Quality(QualitySettings())
    number = quality.beat(1.0)
    assert not quality.answered(number + 1, 1.1)
    assert quality.answered(number, 1.1)
    assert not quality.answered(number, 1.2)


def test_a_poor_connection_is_advised_to_reconnect_seldom():
    """Once in five minutes."""
    quality = Quality(QualitySettings())
    beats(quality, [None] * 5)
    assert quality.grade == "poor"
    assert [quality.advises_reconnect(now) for now in (100.0, 200.0, 399.0, 400.0)] == [
        True,
        False,
        False,
        True,
    ]
