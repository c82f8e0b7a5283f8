"""Wrong codes: itv2-protocol.md section 10.3 code 9, users-and-history section 6 point 10."""

from __future__ import annotations

from sojourn.gateways.itv2.hub_config import LockoutSettings
from sojourn.gateways.itv2.lockout import ASKERS_COUNT, Lockout
from sojourn.testing.clock import ManualClock

LIMITS = LockoutSettings(failures_count=3, panel_failures_count=5, window_s=600, lock_s=300, panel_lock_s=900)


def test_a_partition_is_locked_for_everybody_and_the_asker_everywhere():
    """Whoever guesses next guesses for the same keypads; whoever guessed goes on elsewhere."""
    lockout = Lockout(LIMITS, ManualClock())
    assert [lockout.failed(1, "phone") for _ in range(3)] == [False, False, True]
    assert lockout.locked_for_s(1, "phone") == 300
    assert lockout.locked_for_s(1, "tablet") == 300
    assert lockout.locked_for_s(2, "phone") == 300
    assert lockout.locked_for_s(2, "tablet") == 0


def test_all_partitions_together_have_a_limit():
    """Eight partitions are no eight times as many guesses."""
    lockout = Lockout(LIMITS, ManualClock())
    for number in range(1, 6):
        lockout.failed(number, f"asker {number}")
    assert lockout.locked_for_s(8, "somebody else") == 300


def test_a_lock_ends_and_old_failures_do_not_count():
    """Both by the clock."""
    clock = ManualClock()
    lockout = Lockout(LIMITS, clock)
    lockout.failed(1, "phone")
    lockout.failed(1, "phone")
    clock.advance(600)
    assert not lockout.failed(1, "phone")
    clock.advance(1)
    lockout.failed(1, "phone")
    assert lockout.failed(1, "phone")
    clock.advance(299.5)
    assert lockout.locked_for_s(1, "phone") == 1
    clock.advance(0.5)
    assert lockout.locked_for_s(1, "phone") == 0


def test_a_right_code_forgets_the_wrong_ones_before_it():
    """People mistype."""
    lockout = Lockout(LIMITS, ManualClock())
    for _ in range(10):
        assert not lockout.failed(1, "phone")
        assert not lockout.failed(1, "phone")
        lockout.succeeded(1, "phone")


def test_a_panels_own_lock_is_respected_for_all_of_it():
    """NACK 9: no code at all for a while."""
    clock = ManualClock()
    lockout = Lockout(LIMITS, clock)
    lockout.panel_locked()
    assert lockout.locked_for_s(5, "anybody") == 900
    clock.advance(900)
    assert lockout.locked_for_s(5, "anybody") == 0


def test_nobody_fills_the_table_with_names():
    """Bounded; the partition's own count is not pushed out by it."""
    lockout = Lockout(LockoutSettings(failures_count=1_000, panel_failures_count=1_000), ManualClock())
    for number in range(ASKERS_COUNT * 2):
        lockout.failed(1, f"asker {number}")
    assert len(lockout._failures) <= ASKERS_COUNT
    assert len(lockout._failures["partition", "1"]) == ASKERS_COUNT * 2
