"""Circuit breakers, one per endpoint: stop calling a backend that keeps failing, find out when it is back.

Theory of operation. A *closed* circuit lets every call through and watches how they end. Too many failures in
a row, or too large a share of them in the sliding window, *open* it: calls are refused without being made.
When the open time is over the next call becomes the *probe* of a *half-open* circuit; all others are still
refused. The probe's success closes the circuit; its failure opens it again for twice as long. A call counts
only for the period in which it began: an answer that was on its way while the circuit changed changes
nothing.

Neither success nor failure is what says nothing about the backend: a cancelled call, and an exception that
the predicate does not name (the backend refused *this* request, or we have a bug). A probe that ends so frees
its place.

Knows nothing of what is called or how; gives no deadline to a call: put one inside the guard, or a probe that
hangs keeps the circuit half-open. Everything here belongs to the loop's thread and takes no lock; guard work
in other threads from outside: ``with breakers.guard(name): await pool.run(...)``.
"""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import NamedTuple, Self

from sojourn.core.clock import Clock
from sojourn.core.settings import BreakerSettings
from sojourn.errors import BackendUnavailable, LimitExceeded

FAILURES = (OSError, TimeoutError, BackendUnavailable)
"""What counts as the backend's failure unless another predicate is given."""

JITTER = 0.25
"""The share of an open time that chance may take away, so that several of us do not probe in step."""

_BUCKETS_COUNT = 10


class CircuitState(IntEnum):
    """Where a circuit stands; the number is the value of the metric."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2

    @property
    def word(self) -> str:
        """The state in words, for people."""
        return self.name.lower().replace("_", "-")


OnChange = Callable[[str, CircuitState, CircuitState], None]
"""Called with the endpoint, the old and the new state, in the loop's thread; must not raise."""


class CircuitSnapshot(NamedTuple):
    """One circuit at one moment.

    Shape: ``window_calls`` and ``window_failures`` are what the failure rate is made of, and only of calls
    that count; ``calls``, ``successes``, ``failures``, ``ignored``, ``refused`` and ``openings`` only grow.
    Units: ``until`` is the point on the monotonic clock when an open circuit takes its probe, 0.0 when it is
    not open; ``open_s`` is the length of the present or last open time.
    """

    endpoint: str
    state: CircuitState
    consecutive_failures: int
    window_calls: int
    window_failures: int
    failure_rate: float
    until: float
    open_s: float
    calls: int
    successes: int
    failures: int
    ignored: int
    refused: int
    openings: int


def is_failure(error: Exception) -> bool:
    """Tell whether the exception, or one inside an exception group, means that the backend failed."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(FAILURES) is not None
    return isinstance(error, FAILURES)


class _Window:
    """Calls and failures of the last ``window_s`` seconds: ten counts, however many calls."""

    __slots__ = ("_bucket_s", "_calls", "_failures", "_last", "calls", "failures")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / _BUCKETS_COUNT
        self._last = 0
        self.clear()

    def clear(self) -> None:
        self._calls = [0] * _BUCKETS_COUNT
        self._failures = [0] * _BUCKETS_COUNT
        self.calls = self.failures = 0

    def forget(self, now: float) -> None:
        """Drop what is older than the window."""
        number = int(now // self._bucket_s)
        if number - self._last >= _BUCKETS_COUNT:
            self.clear()
        else:
            for old in range(self._last + 1, number + 1):
                index = old % _BUCKETS_COUNT
                self.calls -= self._calls[index]
                self.failures -= self._failures[index]
                self._calls[index] = self._failures[index] = 0
        self._last = max(self._last, number)

    def add(self, now: float, *, failed: bool) -> None:
        self.forget(now)
        index = self._last % _BUCKETS_COUNT
        self._calls[index] += 1
        self._failures[index] += failed
        self.calls += 1
        self.failures += failed

    @property
    def failure_rate(self) -> float:
        return self.failures / self.calls if self.calls else 0.0


class CircuitBreaker:
    """The circuit of one endpoint; made and forgotten by :class:`Breakers`."""

    __slots__ = (
        "_breakers",
        "_consecutive",
        "_doublings",
        "_failures",
        "_ignored",
        "_openings",
        "_probing",
        "_refused",
        "_successes",
        "_window",
        "calls",
        "endpoint",
        "in_flight",
        "last_used",
        "open_s",
        "period",
        "state",
        "until",
    )

    def __init__(self, endpoint: str, breakers: Breakers) -> None:
        self.endpoint = endpoint
        self.state = CircuitState.CLOSED
        self.period = 0
        self.in_flight = 0
        self.last_used = 0.0
        self.until = self.open_s = 0.0
        self._breakers = breakers
        self._window = _Window(breakers.settings.window_s)
        self._probing = False
        self._consecutive = self._doublings = 0
        self.calls = self._successes = self._failures = 0
        self._ignored = self._refused = self._openings = 0

    def snapshot(self, now: float) -> CircuitSnapshot:
        """Return the circuit as it stands."""
        self._window.forget(now)
        return CircuitSnapshot(
            endpoint=self.endpoint,
            state=self.state,
            consecutive_failures=self._consecutive,
            window_calls=self._window.calls,
            window_failures=self._window.failures,
            failure_rate=self._window.failure_rate,
            until=self.until if self.state == CircuitState.OPEN else 0.0,
            open_s=self.open_s,
            calls=self.calls,
            successes=self._successes,
            failures=self._failures,
            ignored=self._ignored,
            refused=self._refused,
            openings=self._openings,
        )

    def begin(self, now: float) -> int:
        """Let a call through and return the period in which it began.

        Raises:
            BackendUnavailable: the circuit is open, or half-open with a probe under way.
        """
        self.last_used = now
        if self.state == CircuitState.OPEN:
            if now < self.until:
                self._refuse(f"circuit open for {self.until - now:.1f} s more")
            self._change(CircuitState.HALF_OPEN)
        if self.state == CircuitState.HALF_OPEN:
            if self._probing:
                self._refuse("circuit half-open, its probe is under way")
            self._probing = True
        self.calls += 1
        self.in_flight += 1
        return self.period

    def end(self, period: int, now: float, *, failed: bool | None) -> None:
        """Take note of how a call ended; ``failed`` is None for one that does not count."""
        self.in_flight -= 1
        self._successes += failed is False
        self._failures += failed is True
        self._ignored += failed is None
        if period != self.period:
            return
        if self.state == CircuitState.HALF_OPEN:
            self._probing = False
            if failed:
                self._open(now)
            elif failed is False:
                self._doublings = 0
                self._change(CircuitState.CLOSED)
        elif failed is not None:
            self._count(now, failed=failed)

    def _count(self, now: float, *, failed: bool) -> None:
        """Add a call to what a closed circuit remembers, and open it when that is too bad."""
        settings, window = self._breakers.settings, self._window
        window.add(now, failed=failed)
        if not failed:
            self._consecutive = 0
            return
        self._consecutive += 1
        if self._consecutive >= settings.consecutive_failures_count or (
            window.calls >= settings.min_calls_count and window.failure_rate >= settings.failure_rate
        ):
            self._open(now)

    def _open(self, now: float) -> None:
        settings = self._breakers.settings
        # The exponent is bounded because a float overflows at 2 ** 1024.
        full_s = min(settings.open_s * 2.0 ** min(self._doublings, 64), settings.open_max_s)
        self.open_s = full_s * (1.0 - JITTER * self._breakers.random())
        self.until = now + self.open_s
        self._doublings += 1
        self._openings += 1
        self._change(CircuitState.OPEN)

    def _refuse(self, cause: str) -> None:
        self._refused += 1
        raise BackendUnavailable(self.endpoint, 0.0, cause)

    def _change(self, state: CircuitState) -> None:
        old, self.state = self.state, state
        self.period += 1
        self._probing = False
        if state == CircuitState.CLOSED:
            self._consecutive = 0
            self._window.clear()
        if self._breakers.on_change is not None:
            self._breakers.on_change(self.endpoint, old, state)


class Guard:
    """One call under a circuit; the target of ``with breakers.guard(endpoint) as call``; used once.

    How the block ends says how the call went; :meth:`succeeded` and :meth:`failed` say it where the end of
    the block cannot, and what they say wins.
    """

    __slots__ = ("_breakers", "_circuit", "_failed", "_period")

    def __init__(self, breakers: Breakers, circuit: CircuitBreaker) -> None:
        self._breakers = breakers
        self._circuit = circuit
        self._period = 0
        self._failed: bool | None = None

    def succeeded(self) -> None:
        """Say that the backend answered, although an exception will leave the block ("no such user")."""
        self._failed = False

    def failed(self) -> None:
        """Say that the backend failed, although no exception will leave the block (a status of 503)."""
        self._failed = True

    def __enter__(self) -> Self:
        self._period = self._circuit.begin(self._breakers.clock())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self._failed
        if failed is None:
            if error is None:
                failed = False
            elif isinstance(error, Exception) and self._breakers.counts(error):
                failed = True
        self._circuit.end(self._period, self._breakers.clock(), failed=failed)


class Breakers:
    """The circuits of all endpoints of one kind of backend, made as they are first used.

    The owner of the backend's client makes one, and keeps it through reloads so that a dead backend stays
    known.

    Args:
        settings: when circuits open, and for how long.
        clock: monotonic seconds.
        random: a number in [0, 1) for the jitter.
        counts: tells which exceptions are the backend's failure; cancellations never are.
        on_change: is told of every change of state.
        endpoints_count: circuits kept at most; beyond it the one unused for longest goes, closed ones first.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        clock: Clock = time.monotonic,
        random: Callable[[], float] = _random.random,
        *,
        counts: Callable[[Exception], bool] = is_failure,
        on_change: OnChange | None = None,
        endpoints_count: int = 1024,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.random = random
        self.counts = counts
        self.on_change = on_change
        self._endpoints_count = endpoints_count
        self._circuits: dict[str, CircuitBreaker] = {}

    def guard(self, endpoint: str) -> Guard:
        """Return a context manager around one call to ``endpoint``; the block may await.

        Raises:
            BackendUnavailable: on entering, when the circuit is open; the call is not to be made.
            LimitExceeded: more endpoints are being called at this moment than circuits may be kept.
        """
        circuit = self._circuits.get(endpoint)
        if circuit is None:
            if len(self._circuits) >= self._endpoints_count:
                self._forget_one()
            circuit = self._circuits[endpoint] = CircuitBreaker(endpoint, self)
            circuit.last_used = self.clock()
        return Guard(self, circuit)

    def state(self, endpoint: str) -> CircuitState:
        """Return where the endpoint's circuit stands; an unknown one is closed."""
        circuit = self._circuits.get(endpoint)
        return CircuitState.CLOSED if circuit is None else circuit.state

    def snapshot(self) -> tuple[CircuitSnapshot, ...]:
        """Return every circuit as it stands, in order of first use."""
        now = self.clock()
        return tuple(circuit.snapshot(now) for circuit in self._circuits.values())

    def _forget_one(self) -> None:
        """Drop the circuit that is missed least; never one with a call under way."""
        idle = [circuit for circuit in self._circuits.values() if not circuit.in_flight]
        if not idle:
            raise LimitExceeded(
                "endpoints under circuit breakers", len(self._circuits) + 1, self._endpoints_count
            )
        least = min(idle, key=lambda circuit: (circuit.state != CircuitState.CLOSED, circuit.last_used))
        del self._circuits[least.endpoint]
