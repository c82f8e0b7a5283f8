"""Token bucket: no more than burst + rate x time, whatever the pattern of takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.rate import TokenBucket


class HandClock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_burst_passes_and_then_the_rate_holds():
    """The bucket starts full, empties, and refills evenly."""
    clock = HandClock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [bucket.take(), bucket.take()] == [True, False]
    assert bucket.refused_count == 2


def test_zero_means_no_limit():
    """A rate of 0 switches the bucket off."""
    bucket = TokenBucket(0, 1, HandClock())
    assert all(bucket.take() for _ in range(1000))


@given(per_s=st.floats(0.1, 1000), burst=st.integers(1, 100), steps=st.lists(st.floats(0, 2), max_size=200))
def test_never_more_than_burst_and_rate_allow(per_s, burst, steps):
    """What passed in any run is at most the burst and what flowed in since."""
    clock = HandClock()
    bucket = TokenBucket(per_s, burst, clock)
    passed = 0
    for step in steps:
        clock.now += step
        passed += bucket.take()
    assert passed <= burst + per_s * sum(steps) + 1e-6


@pytest.mark.parametrize(("per_s", "burst"), [(-1, 1), (1, 0)])
def test_a_bucket_that_lets_nothing_pass_is_refused(per_s, burst):
    """A negative rate or an empty bucket is a mistake of the configuration."""
    with pytest.raises(ValueError, match="wanted >= 0 and >= 1"):
        TokenBucket(per_s, burst)
