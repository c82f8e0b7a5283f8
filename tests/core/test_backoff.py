"""Exponential backoff with full jitter: every delay lies evenly between nothing and its bound."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.backoff import Backoff


@given(
    base_s=st.floats(0.001, 10),
    factor=st.floats(1, 1000),
    attempt=st.integers(0, 1_000_000),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_lies_between_nothing_and_the_bound(base_s, factor, attempt, drawn):
    """Full jitter: uniform in [0, min(cap, base * 2 ** attempt))."""
    backoff = Backoff(base_s, base_s * factor, random=lambda: drawn)
    assert 0 <= backoff.delay_s(attempt) <= backoff.bound_s(attempt) <= base_s * factor


def test_bounds_double_until_the_cap():
    """The bound is base, twice base, four times base, and so on, never more than the cap."""
    backoff = Backoff(0.5, 5.0)
    assert [backoff.bound_s(attempt) for attempt in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_delays_are_spread_evenly_over_the_whole_range():
    """A quarter of 4,000 delays falls into each quarter of the range, give or take a tenth."""
    source = random.Random(7)
    backoff = Backoff(1.0, 8.0, random=source.random)
    delays = [backoff.delay_s(3) for _ in range(4000)]
    for quarter in range(4):
        share = sum(quarter * 2 <= delay < quarter * 2 + 2 for delay in delays)
        assert share == pytest.approx(1000, rel=0.1)


def test_each_failure_moves_on_and_a_success_begins_anew():
    """``next`` counts failures, ``reset`` forgets them."""
    backoff = Backoff(1.0, 60.0, random=lambda: 0.5)
    assert list(islice(backoff, 4)) == [0.5, 1.0, 2.0, 4.0]
    backoff.reset()
    assert next(backoff) == 0.5


@pytest.mark.parametrize(("base_s", "cap_s"), [(0, 1), (-1, 1), (2, 1)])
def test_a_backoff_that_never_waits_is_refused(base_s, cap_s):
    """A base of zero would be a busy loop, a cap under the base a mistake."""
    with pytest.raises(ValueError, match="wanted 0 < base_s <= cap_s"):
        Backoff(base_s, cap_s)
