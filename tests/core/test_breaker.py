"""Circuit breakers: closed, open, half-open, one probe; what is not the backend's fault does not count."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.breaker import JITTER, Breakers, CircuitState, is_failure
from sojourn.core.settings import BreakerSettings
from sojourn.errors import BackendUnavailable, LimitExceeded, RemoteProtocolError

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
LDAP = "ldap://one.example"


class Bench:
    """Breakers with a clock moved by hand, no jitter unless asked for, and a list of changes."""

    def __init__(self, jitter=0.0, endpoints_count=1024, **settings):
        self.now = 1000.0
        self.changes = []
        self.breakers = Breakers(
            BreakerSettings(**settings),
            lambda: self.now,
            lambda: jitter,
            on_change=lambda *change: self.changes.append(change),
            endpoints_count=endpoints_count,
        )

    def call(self, error=None, endpoint=LDAP):
        """Make one call that ends with the error, or well."""
        with contextlib.suppress(type(error) if error else ()), self.breakers.guard(endpoint):
            if error:
                raise error

    def fail(self, count=1, endpoint=LDAP):
        """Make calls that the backend fails."""
        for _ in range(count):
            self.call(ConnectionRefusedError(), endpoint)

    def is_refused(self, endpoint=LDAP):
        """Tell whether a call is refused without being made."""
        try:
            with self.breakers.guard(endpoint):
                return False
        except BackendUnavailable:
            return True

    @property
    def state(self):
        return self.breakers.state(LDAP)

    @property
    def snapshot(self):
        return self.breakers.snapshot()[0]


def test_failures_in_a_row_open_the_circuit():
    """The fifth failure in a row opens; four and a success do not."""
    bench = Bench()
    bench.fail(4)
    bench.call()
    bench.fail(4)
    assert bench.state == CLOSED
    bench.fail()
    assert bench.state == OPEN
    assert bench.changes == [(LDAP, CLOSED, OPEN)]


def test_an_open_circuit_refuses_without_calling():
    """The error names the backend, no time was spent, and the cause says how long it stays open."""
    bench = Bench(open_s=3.0)
    bench.fail(5)
    bench.now += 1.0
    with pytest.raises(BackendUnavailable) as refused, bench.breakers.guard(LDAP):
        pytest.fail("the call was made")
    assert refused.value.backend == LDAP
    assert refused.value.after_s == 0.0
    assert refused.value.cause == "circuit open for 2.0 s more"
    assert bench.snapshot.refused == 1


def test_a_failure_rate_opens_the_circuit_only_with_enough_calls():
    """Half of ten calls failing opens; half of eight does not yet."""
    bench = Bench(consecutive_failures_count=100)
    for _ in range(4):
        bench.call()
        bench.fail()
    assert bench.state == CLOSED
    assert bench.snapshot.failure_rate == 0.5
    bench.call()
    bench.fail()
    assert bench.state == OPEN


def test_the_window_slides():
    """A failure older than the window counts no more, a younger one does."""
    bench = Bench(consecutive_failures_count=100, window_s=30.0, min_calls_count=4)
    bench.fail(3)
    bench.now += 20.0
    assert bench.snapshot.window_failures == 3
    bench.now += 11.0
    assert bench.snapshot.window_failures == 0
    bench.call()
    bench.fail()
    assert (bench.snapshot.window_calls, bench.snapshot.window_failures, bench.state) == (2, 1, CLOSED)


def test_one_probe_at_a_time_goes_through_a_half_open_circuit():
    """While the probe is under way every other call is refused."""
    bench = Bench()
    bench.fail(5)
    bench.now += 1.0
    with bench.breakers.guard(LDAP):
        assert bench.state == HALF_OPEN
        assert bench.is_refused()
    assert bench.state == CLOSED
    assert [new for _, _, new in bench.changes] == [OPEN, HALF_OPEN, CLOSED]


def test_a_failed_probe_doubles_the_open_time_up_to_the_maximum():
    """1, 2, 4, 5, 5 seconds."""
    bench = Bench(open_s=1.0, open_max_s=5.0)
    bench.fail(5)
    lengths = []
    for _ in range(5):
        lengths.append(bench.snapshot.open_s)
        bench.now = bench.snapshot.until
        bench.fail()
    assert lengths == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert bench.snapshot.openings == 6


def test_a_successful_probe_begins_the_open_time_anew():
    """Closed means forgotten: failures, window and doubling."""
    bench = Bench()
    bench.fail(5)
    bench.now += 1.0
    bench.fail()
    bench.now += 2.0
    bench.call()
    assert (bench.state, bench.snapshot.window_calls, bench.snapshot.consecutive_failures) == (CLOSED, 0, 0)
    bench.fail(5)
    assert bench.snapshot.open_s == 1.0


@given(drawn=st.floats(0, 1, exclude_max=True), doublings=st.integers(0, 80))
def test_jitter_shortens_the_open_time_by_at_most_its_share(drawn, doublings):
    """Also at the maximum, so that many of us do not probe in step for ever."""
    bench = Bench(jitter=drawn, open_s=1.0, open_max_s=60.0)
    bench.fail(5)
    for _ in range(doublings):
        bench.now = bench.snapshot.until
        bench.fail()
    full_s = min(2.0**doublings, 60.0)
    assert full_s * (1 - JITTER) <= bench.snapshot.open_s <= full_s


@pytest.mark.parametrize(
    "error", [ValueError(), RemoteProtocolError("a", "b", "c"), LimitExceeded("q", 2, 1)]
)
def test_their_answers_and_our_bugs_count_neither_way(error):
    """Only what the predicate names is a failure; the others do not reset the row either."""
    bench = Bench()
    bench.fail(4)
    for _ in range(20):
        bench.call(error)
    assert (bench.state, bench.snapshot.ignored, bench.snapshot.consecutive_failures) == (CLOSED, 20, 4)
    bench.fail()
    assert bench.state == OPEN


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (BackendUnavailable("b", 1.0, "c"), True),
        (ExceptionGroup("g", [ValueError(), OSError()]), True),
        (ExceptionGroup("g", [ValueError()]), False),
        (KeyError(), False),
    ],
)
def test_what_counts_as_failure_by_default(error, counts):
    """OSError, TimeoutError and BackendUnavailable, also from inside a task group."""
    assert is_failure(error) is counts


def test_a_cancelled_call_does_not_count(run):
    """Cancellation says nothing about the backend."""
    bench = Bench(consecutive_failures_count=1)

    async def main():
        entered = asyncio.Event()

        async def call():
            with bench.breakers.guard(LDAP):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(call())
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])

    run(main())
    assert (bench.state, bench.snapshot.calls, bench.snapshot.ignored) == (CLOSED, 1, 1)


def test_a_cancelled_probe_frees_its_place():
    """The circuit stays half-open and the next call is the probe."""
    bench = Bench()
    bench.fail(5)
    bench.now += 1.0
    bench.call(asyncio.CancelledError())
    assert bench.state == HALF_OPEN
    bench.call()
    assert bench.state == CLOSED


def test_a_deadline_inside_the_guard_is_a_failure(run):
    """``asyncio.timeout`` turns its cancellation into TimeoutError before the guard sees it."""
    bench = Bench(consecutive_failures_count=1)

    async def main():
        with contextlib.suppress(TimeoutError), bench.breakers.guard(LDAP):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()

    run(main())
    assert bench.state == OPEN


def test_answers_that_were_under_way_when_the_circuit_changed_change_nothing():
    """Neither a late success closes nor a late failure reopens: only the probe decides."""
    bench = Bench(consecutive_failures_count=1)
    good, bad = bench.breakers.guard(LDAP), bench.breakers.guard(LDAP)
    good.__enter__()
    bad.__enter__()
    bench.fail()
    bench.now += 1.0
    with bench.breakers.guard(LDAP):
        good.__exit__(None, None, None)
        assert bench.state == HALF_OPEN
        bad.__exit__(OSError, OSError(), None)
        assert bench.state == HALF_OPEN
    assert bench.state == CLOSED
    assert (bench.snapshot.successes, bench.snapshot.failures) == (2, 2)


def test_the_call_may_say_itself_how_it_went():
    """A status of 503 is a failure without an exception, "no such user" an answer with one."""
    bench = Bench(consecutive_failures_count=1)
    with contextlib.suppress(OSError), bench.breakers.guard(LDAP) as call:
        call.succeeded()
        raise OSError
    assert (bench.state, bench.snapshot.successes) == (CLOSED, 1)
    with bench.breakers.guard(LDAP) as call:
        call.failed()
    assert bench.state == OPEN


def test_endpoints_have_circuits_of_their_own():
    """One dead directory does not take its neighbour with it."""
    bench = Bench()
    bench.fail(5, "ldap://dead")
    bench.call(endpoint="ldap://alive")
    assert {shot.endpoint: shot.state.word for shot in bench.breakers.snapshot()} == {
        "ldap://dead": "open",
        "ldap://alive": "closed",
    }


def test_the_number_of_circuits_is_bounded():
    """The closed one unused for longest goes first; an open one stays known."""
    bench = Bench(endpoints_count=3)
    bench.fail(5, "dead")
    for endpoint in ("a", "b", "a", "c"):
        bench.now += 0.1
        bench.call(endpoint=endpoint)
    assert {shot.endpoint for shot in bench.breakers.snapshot()} == {"dead", "a", "c"}


def test_a_circuit_with_a_call_under_way_is_not_forgotten():
    """Its outcome would be lost, so one more endpoint is refused instead."""
    bench = Bench(endpoints_count=1)
    with bench.breakers.guard("a"), pytest.raises(LimitExceeded):
        bench.breakers.guard("b")
    assert not bench.is_refused("b")


@given(st.lists(st.sampled_from(["ok", "fail", "ignore", "wait"]), max_size=60))
def test_counts_always_add_up(steps):
    """calls = successes + failures + ignored, and a circuit that nobody probes never gets stuck."""
    bench = Bench(consecutive_failures_count=3, open_max_s=4.0)
    for step in steps:
        if step == "wait":
            bench.now += 1.0
        else:
            error = {"ok": None, "fail": OSError(), "ignore": ValueError()}[step]
            with contextlib.suppress(BackendUnavailable):
                bench.call(error)
    for shot in bench.breakers.snapshot():
        assert shot.calls == shot.successes + shot.failures + shot.ignored
    bench.now += 4.0
    assert not bench.is_refused()


def test_settings_that_contradict_are_named():
    """The longest open time is not shorter than the first."""
    problems = list(BreakerSettings(open_s=10.0, open_max_s=5.0).problems())
    assert problems == [("open_max_s", "5.0", "at least open_s (10.0)")]
