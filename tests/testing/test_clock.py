"""Time passes when a test says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sojourn.core.server import Server
from sojourn.testing import ManualClock, drive


def test_the_clock_stands_still_until_it_is_moved():
    """A Clock is a callable that gives seconds."""
    clock = ManualClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(2.5)
    assert clock() == 7.5


def test_the_clock_never_goes_back():
    """Monotonic clocks only ever grow."""
    with pytest.raises(ValueError, match="go back"):
        ManualClock().advance(-1)


def test_whoever_watches_is_called_after_each_move():
    """Deadlines are enforced at the new time, not at the old one."""
    clock, seen = ManualClock(1.0), []
    clock.watch(lambda: seen.append(clock()))
    clock.advance(1)
    clock.advance(3)
    assert seen == [2.0, 5.0]


def test_the_wall_clock_moves_along():
    """What people read follows the same hand."""
    clock = ManualClock()
    wall_clock = clock.wall_clock()
    before = wall_clock()
    clock.advance(90)
    assert wall_clock() - before == timedelta(seconds=90)
    assert before.tzinfo is not None


def test_driving_a_server_sweeps_its_deadlines(run):
    """``drive``: one move, one sweep."""

    async def main():
        server = Server(clock=ManualClock())
        swept = []
        server.sweep = lambda: swept.append(server.clock())
        drive(server).advance(10)
        assert swept == [1010.0]

    run(main())


def test_a_server_with_a_real_clock_cannot_be_driven(run):
    """The mistake is told where it is made."""

    async def main():
        with pytest.raises(TypeError, match="ManualClock"):
            drive(Server())

    run(main())
