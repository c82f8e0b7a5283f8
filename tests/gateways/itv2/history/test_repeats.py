"""Which packet of a returning panel is stored already."""

from __future__ import annotations

import pytest

from sojourn.gateways.itv2.history.repeats import RepeatWatch, packet_digest
from sojourn.testing.clock import ManualClock

OPENED, CLOSED, CLOCK = (
    packet_digest(bytes.fromhex(text)) for text in ("0504021003", "0604021000", "07040220")
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(clock: ManualClock) -> RepeatWatch:
    return RepeatWatch(clock, window_s=60)


def test_the_digest_is_of_word_and_body() -> None:
    """Protocol section 5.1: sequence numbers begin anew with each connection."""
    assert packet_digest(bytes.fromhex("0504 0210 0301")) == packet_digest(bytes.fromhex("0009 0210 0301"))
    assert packet_digest(bytes.fromhex("0504 0210 0301")) != packet_digest(bytes.fromhex("0504 0210 0300"))


def test_the_last_packet_of_the_session_before_is_a_repeat_once(watch: RepeatWatch) -> None:
    """A panel takes the packet from its queue that it never saw acknowledged; it does so once per session."""
    watch.stored("house", OPENED)
    watch.session_began("house")
    assert watch.is_repeat("house", OPENED)
    assert not watch.is_repeat("house", OPENED)
    watch.session_began("house")
    assert watch.is_repeat("house", OPENED)


def test_nothing_is_a_repeat_inside_a_session(watch: RepeatWatch) -> None:
    """A door that is opened twice was opened twice."""
    watch.stored("house", OPENED)
    assert not watch.is_repeat("house", OPENED)


def test_whatever_follows_in_the_session_proves_the_acknowledgement(watch: RepeatWatch) -> None:
    """Stop and wait: a panel sends nothing before the packet before is acknowledged."""
    watch.stored("house", OPENED)
    assert watch.followed("house")
    assert not watch.followed("house")
    watch.session_began("house")
    assert not watch.is_repeat("house", OPENED)


def test_only_the_last_packet_is_expected(watch: RepeatWatch) -> None:
    """The one before it was acknowledged."""
    watch.stored("house", OPENED)
    watch.stored("house", CLOSED)
    watch.session_began("house")
    assert not watch.is_repeat("house", OPENED)


def test_what_a_panel_says_before_it_empties_its_queue_proves_nothing(watch: RepeatWatch) -> None:
    """A clock broadcast at its return does not come from the queue."""
    watch.stored("house", OPENED)
    watch.session_began("house")
    assert not watch.is_repeat("house", CLOCK)
    assert not watch.followed("house")
    assert watch.is_repeat("house", OPENED)


def test_other_events_first_mean_that_the_queue_began_behind_it(watch: RepeatWatch) -> None:
    """A queue keeps its order: had the packet been in it, it would have come first."""
    watch.stored("house", OPENED)
    watch.session_began("house")
    watch.stored("house", CLOSED)
    assert not watch.is_repeat("house", OPENED)


def test_a_repeat_is_expected_for_a_while_only(watch: RepeatWatch, clock: ManualClock) -> None:
    """A replay begins when the handshake is done."""
    watch.stored("house", OPENED)
    watch.session_began("house")
    clock.advance(61)
    assert not watch.is_repeat("house", OPENED)
    assert watch.followed("house")


def test_panels_are_not_mixed_up(watch: RepeatWatch) -> None:
    """Two houses may say the same."""
    watch.stored("house", OPENED)
    watch.session_began("shop")
    watch.session_began("house")
    assert not watch.is_repeat("shop", OPENED)


def test_what_an_earlier_process_left_is_expected_unless_there_is_newer(watch: RepeatWatch) -> None:
    """A file that could be opened late only must not undo what happened since."""
    watch.stored("house", CLOSED)
    watch.restore({"house": OPENED, "shop": OPENED})
    watch.session_began("house")
    watch.session_began("shop")
    assert not watch.is_repeat("house", OPENED)
    assert watch.is_repeat("shop", OPENED)
