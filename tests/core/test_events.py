"""What happened is an event first; log and metrics are views of it."""

from __future__ import annotations

import weakref
from datetime import UTC, datetime

import pytest

from sojourn.core.events import RECENT_COUNT, EventKind, Events
from sojourn.testing import ManualClock

HAPPENED = EventKind("test.happened", ("what",), level="debug")
FAILED = EventKind("test.failed", ("what",), level="error")


class _Named:
    """What an event needs of a session."""

    def __init__(self, name):
        self.id = name


@pytest.fixture
def events():
    return Events(ManualClock(), limit_count=1_000)


def test_every_view_sees_every_event_once_and_in_order(events):
    """In batches, at the flush; a view that is removed sees no more."""
    first, second = [], []
    events.add_view(first.extend)
    events.add_view(second.extend)
    events.emit(HAPPENED, None, 1)
    events.emit(HAPPENED, None, 2)
    assert not first
    events.flush()
    events.flush()
    events.remove_view(second.extend)
    events.emit(HAPPENED, None, 3)
    events.flush()
    assert [event.fields() for event in first] == [{"what": 1}, {"what": 2}, {"what": 3}]
    assert [event.values for event in second] == [(1,), (2,)]


def test_what_does_not_fit_is_counted(events):
    """Bounded between two flushes; kinds count all the same."""
    before = HAPPENED.count
    for number in range(1_100):
        events.emit(HAPPENED, None, number)
    assert events.dropped == 100
    assert HAPPENED.count - before == 1_100
    events.flush()
    assert len(events.recent) == RECENT_COUNT
    assert events.recent[-1].values == (999,)
    events.emit(HAPPENED, None, 0)
    assert events.dropped == 100


def test_an_error_that_is_kept_long_does_not_keep_its_session(events):
    """A session has a connection and a trace; of all that only its id stays, once newer events have pushed it out."""
    session = _Named("test-1")
    gone = weakref.ref(session)
    events.emit(FAILED, session, 1)
    for number in range(RECENT_COUNT):
        events.emit(HAPPENED, None, number)
    events.flush()
    del session
    assert gone() is None
    ((_, kept),) = [one for one in events.remembered(None) if one[1].kind is FAILED]
    assert (kept.session.id, kept.values) == ("test-1", (1,))


def test_a_view_that_fails_keeps_nothing_from_the_others(events):
    """Its batch is counted as lost to it."""

    def broken(_batch):
        raise OSError("disk full")

    seen = []
    events.add_view(broken)
    events.add_view(seen.extend)
    events.emit(HAPPENED, None, 1)
    events.flush()
    assert len(seen) == 1
    assert events.view_errors == 1


def test_a_moment_of_the_clock_can_be_told_as_wall_time():
    """Monotonic inside, UTC for people."""
    clock = ManualClock()
    events = Events(clock)
    clock.advance(90)
    ahead_s = events.unix_time(clock()) - datetime.now(UTC).timestamp()
    assert ahead_s == pytest.approx(90, abs=60)


def test_every_kind_is_known_for_the_metrics():
    """By name; its repr names it."""
    assert HAPPENED in EventKind.all
    assert repr(HAPPENED) == "EventKind(test.happened)"
