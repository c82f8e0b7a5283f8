"""Clocks: one for deadlines, one for people."""

from __future__ import annotations

from datetime import UTC

from sojourn.core.clock import monotonic, utc_now


def test_the_wall_clock_is_aware_and_in_utc():
    """A time without a zone means something else on every machine."""
    assert utc_now().tzinfo is UTC


def test_the_monotonic_clock_never_goes_back():
    """Deadlines are points on a clock that only grows."""
    stamps = [monotonic() for _ in range(1000)]
    assert stamps == sorted(stamps)
