"""Failures in a sliding window, and locks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sojourn.gateways.tacacs.config import Lockout
from sojourn.gateways.tacacs.lockout import LockoutTable

LIMITS = Lockout(failures_count=3, window_s=60.0, lock_s=600.0, tracked_users_count=16)


class HandClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def fail(table, user, times=1, limits=LIMITS):
    return [table.record_failure(user, limits) for _ in range(times)]


def test_the_failure_that_completes_the_count_locks():
    """``failures_count`` failures within ``window_s`` lock the user, and only that user."""
    table = LockoutTable(HandClock())
    assert fail(table, "ana", 3) == [False, False, True]
    assert table.is_locked("ana")
    assert not table.is_locked("ben")


def test_a_lock_ends_after_its_time_and_counting_begins_anew():
    """A lock lasts ``lock_s``; knocking in between does not prolong it."""
    clock = HandClock()
    table = LockoutTable(clock)
    fail(table, "ana", 3)
    clock.now += 599.9
    assert fail(table, "ana") == [False]
    assert table.is_locked("ana")
    clock.now += 0.1
    assert not table.is_locked("ana")
    assert fail(table, "ana", 3) == [False, False, True]


def test_failures_older_than_the_window_do_not_count():
    """The window slides."""
    clock = HandClock()
    table = LockoutTable(clock)
    fail(table, "ana", 2)
    clock.now += 60.0
    assert fail(table, "ana", 2) == [False, False]
    clock.now += 59.0
    assert fail(table, "ana") == [True]


def test_a_success_forgets_the_failures_but_ends_no_lock():
    """A right password resets the count; a lock runs its time."""
    table = LockoutTable(HandClock())
    fail(table, "ana", 2)
    table.record_success("ana")
    assert fail(table, "ana", 2) == [False, False]
    fail(table, "ana")
    table.record_success("ana")
    assert table.is_locked("ana")


def test_no_failures_count_means_never():
    """``failures_count = 0`` turns the lock-out off and keeps nothing."""
    table = LockoutTable(HandClock())
    assert not any(fail(table, "ana", 100, Lockout(failures_count=0)))
    assert table.tracked_count() == 0


def test_the_operator_sees_locks_until_they_end():
    """The metrics count who is locked now."""
    clock = HandClock()
    table = LockoutTable(clock)
    fail(table, "ana", 3)
    clock.now += 100
    fail(table, "ben", 3)
    locks = table.locked()
    assert [(lock.user, lock.remaining_s) for lock in locks] == [("ana", 500.0), ("ben", 600.0)]
    clock.now += 500
    assert [lock.user for lock in table.locked()] == ["ben"]
    clock.now += 100
    assert table.locked() == ()


def test_a_flood_of_names_does_not_unlock_anybody():
    """Counting failures of invented names never touches the locks."""
    table = LockoutTable(HandClock())
    fail(table, "ana", 3)
    for number in range(10_000):
        fail(table, f"invented{number}")
    assert table.is_locked("ana")
    assert table.tracked_count() <= LIMITS.tracked_users_count + 1


def test_a_flood_of_single_failures_does_not_wash_out_a_count():
    """Of the oldest entries the one with the fewest failures leaves: the guessed-at user's count stays."""
    table = LockoutTable(HandClock())
    fail(table, "ana", 2)
    for number in range(10_000):
        fail(table, f"invented{number}")
    assert fail(table, "ana") == [True]


def test_outdated_entries_leave_first():
    """What is older than the window is worth nothing, however many failures it holds."""
    clock = HandClock()
    table = LockoutTable(clock)
    fail(table, "old", 2)
    clock.now += 61
    for number in range(15):
        fail(table, f"user{number}")
    fail(table, "new")
    assert "old" not in table._failures
    assert table.tracked_count() == 16


def test_a_full_table_of_locks_gives_up_the_one_that_ends_first():
    """Locks are bounded too; shortening one costs three failures for every place in the table."""
    clock = HandClock()
    table = LockoutTable(clock)
    for number in range(17):
        fail(table, f"user{number}", 3)
        clock.now += 1
    assert [lock.user for lock in table.locked()] == [f"user{number}" for number in range(1, 17)]


@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.floats(0, 30), st.booleans())))
def test_the_table_never_grows_beyond_its_bound(events):
    """Whatever comes, at most ``tracked_users_count`` entries of each kind."""
    clock = HandClock()
    table = LockoutTable(clock)
    for user, wait_s, is_success in events:
        clock.now += wait_s
        if is_success:
            table.record_success(user)
        else:
            table.record_failure(user, LIMITS)
        assert len(table._failures) <= 16
        assert len(table.locked_until) <= 16
        assert all(len(times) < LIMITS.failures_count for times in table._failures.values())
