"""The gateway's storage: one set of tests for the one in memory and the one in PostgreSQL.

In PostgreSQL it is reached directly, and through our own postgres gateway in transaction mode without prepared
statements. Each test has a schema of its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from postgres_lab import DIRECT, TRANSACTION, Lab, running_lab

from sojourn.core.secret import Secret
from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import BackendUnavailable, LocalProtocolError
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.lifecycle import (
    REJECT,
    REPLACE,
    DevicePolicy,
    EndReason,
    PolicyKind,
    SessionState,
    SimulatorState,
    Timeouts,
)
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.rows import (
    Activity,
    Appended,
    Desired,
    Fenced,
    Fresh,
    InFlight,
    KeyConflict,
    LogBounds,
    LogGap,
    Observation,
    Opened,
    Owned,
    Page,
    PoolState,
    Refusal,
    RefusalReason,
    SessionFilter,
    SessionRow,
    SimulatorFilter,
    SimulatorRow,
    StoredResponse,
    Touch,
    Usage,
    Wanted,
)
from sojourn.gateways.exchange.storage import Storage, StoreBreakerSettings, StoreSettings
from sojourn.gateways.exchange.store.postgres import PostgresStore
from sojourn.testing.clock import ManualClock

TIMEOUTS = Timeouts(idle_timeout_s=600, detached_timeout_s=300, max_age_s=6000)
NOWHERE = "01990000-0000-7000-8000-000000000000"
SCHEMAS = itertools.count(1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("store")) as running:
        yield running


class Rig:
    """Opens stores that share one database, with a clock that the test moves."""

    def __init__(self, dsn: str, statement_cache_count: int, schema: str) -> None:
        self.clock = ManualClock()
        self.now = self.clock.wall_clock()
        self.dsn = dsn
        self._memory = MemoryStore(self.now)
        self._statement_cache_count = statement_cache_count
        self._schema = schema

    def settings(self, **more: Any) -> StoreSettings:
        given = {"schema": self._schema, "statement_cache_count": self._statement_cache_count, **more}
        return StoreSettings(dsn=Secret(self.dsn), singleton_poll_s=0.02, **given)

    def later(self, seconds: float) -> datetime:
        return self.now() + timedelta(seconds=seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Storage]:
        store = PostgresStore(self.settings(), self.now) if self.dsn else self._memory
        await store.start()
        try:
            yield store
        finally:
            await store.stop()


@pytest.fixture(params=["memory", DIRECT, TRANSACTION])
def rig(request: pytest.FixtureRequest) -> Rig:
    """A database, in memory and in PostgreSQL."""
    if request.param == "memory":
        return Rig("", 0, "")
    target = request.getfixturevalue("lab").target(request.param)
    return Rig(target.dsn(), 100 if request.param == DIRECT else 0, f"exchange_{next(SCHEMAS)}")


Scenario = Callable[[Storage], Coroutine[Any, Any, None]]


@pytest.fixture
def play(run, rig: Rig) -> Callable[[Scenario], None]:
    """Run a scenario with a started store."""

    def run_scenario(scenario: Scenario) -> None:
        async def body() -> None:
            async with rig.opened() as store:
                await scenario(store)

        run(body())

    return run_scenario


async def opened(
    store: Storage, subject: str = "ana", device: str = "phone", policy: DevicePolicy = REPLACE, **more: Any
) -> SessionRow:
    answer = await store.sessions.open(subject, device, policy=policy, timeouts=TIMEOUTS, **more)
    assert isinstance(answer, Opened), answer
    return answer.row


async def owned(store: Storage, subject: str = "ana", pod: str = "pod-a") -> tuple[str, int]:
    """Return a session that a pod owns, and the epoch."""
    row = await opened(store, subject)
    return row.id, (await store.sessions.take_over([row.id], pod))[row.id]


async def simulator(store: Storage, session_id: str, **more: Any) -> SimulatorRow:
    answer = await store.simulators.want(session_id, Desired.RUNNING, driver="process", **more)
    assert isinstance(answer, Wanted), answer
    assert answer.row is not None
    return answer.row


def events(first: int, last: int, body: bytes = b"{}", at_ms: int = 1000) -> list[LogEvent]:
    return [
        LogEvent(offset, "fill", body, at_ms + offset, "sim-1", offset) for offset in range(first, last + 1)
    ]


class TestSessions:
    """Section 5.2: lifecycle; 5.6: owners."""

    def test_a_session_is_what_it_was_made_of(self, play, rig) -> None:
        """Section 5.2: the columns of the table."""

        async def scenario(store: Storage) -> None:
            row = await opened(store, attributes={"user_agent": "curl/8 \U0001f600"})
            assert row == await store.sessions.get(row.id) == await store.sessions.find("ana")
            assert row.state is SessionState.NEW
            assert row.devices == ("phone",)
            assert row.attributes == {"user_agent": "curl/8 \U0001f600"}
            assert row.created_at == row.active_at == row.detached_at == rig.now()
            assert row.expires_at == rig.later(6000)
            assert (row.owner_pod, row.owner_epoch, row.policy) == ("", 0, "replace")
            assert await store.sessions.get(NOWHERE) is None
            assert await store.sessions.get("no\0id") is None
            assert await store.sessions.find("ben") is None

        play(scenario)

    def test_of_many_creations_at_once_one_makes_the_session_and_the_others_join(self, run, rig) -> None:
        """Section 5.2: one live session per subject, against the race of the original."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                answers = await asyncio.gather(
                    *(
                        store.sessions.open("ana", f"device-{n}", policy=REPLACE, timeouts=TIMEOUTS)
                        for n in range(8)
                        for store in (one, other)
                    )
                )
                assert sum(answer.is_new for answer in answers) == 1
                assert len({answer.row.id for answer in answers}) == 1
                (row,) = await one.sessions.list(SessionFilter(subject="ana"), Page())
                assert len(row.devices) == 1

        run(scenario())

    def test_a_second_device_replaces_the_first_and_keeps_the_session(self, play) -> None:
        """Section 5.2: `replace` is not a new session."""

        async def scenario(store: Storage) -> None:
            first = await opened(store)
            answer = await store.sessions.open("ana", "desk", policy=REPLACE, timeouts=TIMEOUTS)
            assert (answer.row.id, answer.is_new) == (first.id, False)
            assert (answer.row.devices, answer.replaced) == (("desk",), ("phone",))

        play(scenario)

    def test_reject_and_a_full_share_refuse_and_change_nothing(self, play) -> None:
        """Section 5.2: device policies reject and share:N; a refusal is an answer and no exception."""

        async def scenario(store: Storage) -> None:
            await opened(store)
            refused = await store.sessions.open("ana", "desk", policy=REJECT, timeouts=TIMEOUTS)
            assert refused == Refusal(RefusalReason.OTHER_DEVICE, 1)
            share = DevicePolicy(PolicyKind.SHARE, 2)
            row = await opened(store, device="desk", policy=share)
            assert (row.devices, row.policy) == (("phone", "desk"), "share:2")
            refused = await store.sessions.open("ana", "tablet", policy=share, timeouts=TIMEOUTS)
            assert refused == Refusal(RefusalReason.DEVICES_FULL, 2)
            assert await store.sessions.get(row.id) == row
            freed = await store.sessions.drop_device(row.id, "phone")
            assert freed is not None
            assert freed.devices == ("desk",)
            assert (await opened(store, device="tablet", policy=share)).devices == ("desk", "tablet")

        play(scenario)

    def test_beyond_the_limit_no_session_is_made_but_one_is_still_joined(self, play) -> None:
        """Every bound has its answer."""

        async def scenario(store: Storage) -> None:
            row = await opened(store, limit_count=1)
            refused = await store.sessions.open(
                "ben", "phone", policy=REPLACE, timeouts=TIMEOUTS, limit_count=1
            )
            assert refused == Refusal(RefusalReason.SESSIONS_LIMIT, 1)
            assert (await opened(store, limit_count=1)).id == row.id

        play(scenario)

    def test_a_session_ends_exactly_once_and_its_simulators_are_wanted_stopped(self, run, rig) -> None:
        """Section 5.1: the row is the desired state."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                row = await opened(one)
                running = await simulator(one, row.id)
                answers = await asyncio.gather(
                    *(
                        store.sessions.end(row.id, EndReason.USER, "bye")
                        for store in (one, other)
                        for _ in range(3)
                    )
                )
                (ended,) = [answer for answer in answers if answer]
                assert (ended.state, ended.ended_reason, ended.ended_detail) == (
                    SessionState.ENDED,
                    EndReason.USER,
                    "bye",
                )
                assert ended.ended_at == rig.now()
                stopped = await one.simulators.get(running.id)
                assert stopped is not None
                assert (stopped.desired, stopped.generation) == (Desired.STOPPED, 2)
                assert await one.sessions.find("ana") is None
                assert (await opened(one)).id != row.id

        run(scenario())

    def test_no_simulator_is_wanted_of_a_session_that_ends_at_the_same_time(self, run, rig) -> None:
        """Whoever is first, nothing runs on for a session that has ended."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                for number in range(10):
                    row = await opened(one, f"user-{number}")
                    await asyncio.gather(
                        other.simulators.want(row.id, Desired.RUNNING, driver="process"),
                        one.sessions.end(row.id, EndReason.USER),
                    )
                assert not await one.simulators.list(SimulatorFilter(desired=Desired.RUNNING), Page())

        run(scenario())

    def test_only_the_owner_attaches_and_detaches(self, play, rig) -> None:
        """Section 5.2: ACTIVE <-> DETACHED; 5.6: the epoch fences."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            assert await store.sessions.detach(session_id, epoch) is None
            rig.clock.advance(5)
            row = await store.sessions.attach(session_id, epoch)
            assert row is not None
            assert (row.state, row.detached_at, row.active_at) == (SessionState.ACTIVE, None, rig.now())
            assert await store.sessions.detach(session_id, epoch - 1) is None
            rig.clock.advance(5)
            row = await store.sessions.detach(session_id, epoch)
            assert row is not None
            assert (row.state, row.detached_at) == (SessionState.DETACHED, rig.now())
            await store.sessions.end(session_id, EndReason.ADMIN)
            assert await store.sessions.attach(session_id, epoch) is None

        play(scenario)

    def test_each_take_over_has_a_greater_epoch_and_an_ended_session_none(self, play) -> None:
        """Section 5.6: owner_epoch is incremented on each take-over."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            assert epoch == 1
            assert await store.sessions.take_over([session_id, NOWHERE], "pod-b") == {session_id: 2}
            assert await store.sessions.owned_by("pod-a") == ()
            assert await store.sessions.owned_by("pod-b") == (Owned(session_id, 2),)
            assert not await store.sessions.release(session_id, "pod-a", 1)
            assert not await store.sessions.release(session_id, "pod-b", 1)
            assert await store.sessions.release(session_id, "pod-b", 2)
            assert await store.sessions.owned_by("pod-b") == ()
            assert await store.sessions.owned_by("") == ()
            await store.sessions.end(session_id, EndReason.USER)
            assert await store.sessions.take_over([session_id], "pod-b") == {}

        play(scenario)

    def test_a_take_over_may_want_an_epoch_that_is_above_what_the_database_knows(self, play) -> None:
        """Section 5.6: a database out of a backup is behind, and simulators are not."""

        async def scenario(store: Storage) -> None:
            session_id, _ = await owned(store)
            take_over = store.sessions.take_over
            assert await take_over([session_id], "pod-a", least_epoch=1_000) == {session_id: 1_000}
            assert await take_over([session_id], "pod-a", least_epoch=1_000) == {session_id: 1_001}
            assert await take_over([session_id], "pod-a", least_epoch=7) == {session_id: 1_002}

        play(scenario)

    def test_take_overs_of_the_same_sessions_at_once_give_different_epochs(self, run, rig) -> None:
        """Of two pods that adopt the same orphans, one has the greater epoch of each."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                ids = [(await opened(one, f"user-{number}")).id for number in range(40)]
                taken = await asyncio.gather(
                    *(store.sessions.take_over(ids, pod) for store, pod in ((one, "a"), (other, "b"))),
                    *(store.sessions.take_over(ids[::-1], pod) for store, pod in ((one, "c"), (other, "d"))),
                )
                for session_id in ids:
                    assert sorted(epochs[session_id] for epochs in taken) == [1, 2, 3, 4]

        run(scenario())

    def test_a_session_that_nobody_has_come_to_cannot_be_left(self, play, rig) -> None:
        """No transition leads from NEW to DETACHED: its clock runs from when it was made."""

        async def scenario(store: Storage) -> None:
            session, epoch = await owned(store)
            made = await store.sessions.get(session)
            rig.clock.advance(5)
            gone = Touch(session, epoch, rig.now(), SessionState.DETACHED, 0, "")
            assert await store.sessions.touch([gone]) == frozenset()
            row = await store.sessions.get(session)
            assert row is not None
            assert made is not None
            assert (row.state, row.detached_at) == (SessionState.NEW, made.detached_at)

        play(scenario)

    def test_many_touches_are_one_statement_and_those_of_a_stale_owner_are_refused(self, play, rig) -> None:
        """Section 5.2: heartbeats are collected and written in one UPDATE."""

        async def scenario(store: Storage) -> None:
            mine, epoch = await owned(store, "ana")
            lost, stale = await owned(store, "ben")
            ended, last = await owned(store, "eva")
            await store.sessions.take_over([lost], "pod-b")
            await store.sessions.end(ended, EndReason.USER)
            touches = [
                Touch(mine, epoch, rig.later(7), SessionState.ACTIVE, 2, "good"),
                Touch(lost, stale, rig.later(7), SessionState.ACTIVE, 2, "good"),
                Touch(ended, last, rig.later(7), SessionState.ACTIVE, 2, "good"),
            ]
            assert await store.sessions.touch(touches) == {lost, ended}
            row = await store.sessions.get(mine)
            assert row is not None
            assert (row.state, row.links_count, row.quality) == (SessionState.ACTIVE, 2, "good")
            assert (row.active_at, row.detached_at) == (rig.later(7), None)
            untouched = await store.sessions.get(lost)
            assert untouched is not None
            assert (untouched.state, untouched.links_count) == (SessionState.NEW, 0)
            rig.clock.advance(10)
            gone = Touch(mine, epoch, rig.later(-99), SessionState.DETACHED, 0, "poor")
            assert await store.sessions.touch([gone]) == frozenset()
            rig.clock.advance(10)
            assert await store.sessions.touch([gone]) == frozenset()
            row = await store.sessions.get(mine)
            assert row is not None
            assert (row.state, row.detached_at) == (SessionState.DETACHED, rig.later(-10))
            assert row.active_at == rig.later(-13)
            assert await store.sessions.touch([]) == frozenset()

        play(scenario)

    def test_activity_that_any_pod_saw_never_goes_back(self, play, rig) -> None:
        """Section 5.2: a REST call is activity, on whichever pod it comes."""

        async def scenario(store: Storage) -> None:
            row = await opened(store)
            await store.sessions.note(
                [Activity(row.id, rig.later(9)), Activity(row.id, rig.later(5)), Activity(NOWHERE, rig.now())]
            )
            await store.sessions.note([Activity(row.id, rig.later(-5))])
            noted = await store.sessions.get(row.id)
            assert noted is not None
            assert noted.active_at == rig.later(9)

        play(scenario)

    def test_sessions_are_found_before_and_when_their_time_is_up(self, play, rig) -> None:
        """Section 5.2: idle, detached, maximum age; a warning 60 s before."""

        async def scenario(store: Storage) -> None:
            idle, epoch = await owned(store, "idle")
            await store.sessions.attach(idle, epoch)
            detached = await opened(store, "detached")

            async def due(within_s: float = 0.0, owner_pod: str | None = None) -> list[str]:
                rows = await store.sessions.due(TIMEOUTS, within_s=within_s, owner_pod=owner_pod)
                return [row.id for row in rows]

            rig.clock.advance(239)
            assert await due(60) == []
            rig.clock.advance(1)
            assert await due(60) == [detached.id]
            assert await due() == []
            assert await store.sessions.end_if_due(detached.id, TIMEOUTS) is None
            rig.clock.advance(60)
            assert await due() == [detached.id]
            ended = await store.sessions.end_if_due(detached.id, TIMEOUTS)
            assert ended is not None
            assert (ended.ended_reason, ended.ended_detail) == (EndReason.EXPIRED, "detached")
            rig.clock.advance(300)
            assert await due() == [idle]
            assert await due(owner_pod="pod-a") == [idle]
            assert await due(owner_pod="") == []
            await store.sessions.note([Activity(idle, rig.now())])
            assert await store.sessions.end_if_due(idle, TIMEOUTS) is None
            rig.clock.advance(5400)
            await store.sessions.note([Activity(idle, rig.now())])
            old = await store.sessions.end_if_due(idle, TIMEOUTS)
            assert old is not None
            assert old.ended_detail == "max_age"

        play(scenario)

    def test_lists_come_in_pages_and_can_be_narrowed(self, play) -> None:
        """Section 5.3: the admin's lists."""

        async def scenario(store: Storage) -> None:
            rows = [await opened(store, f"user-{number}", f"device-{number}") for number in range(5)]
            everything = SessionFilter()
            first = await store.sessions.list(everything, Page(limit_count=2))
            assert [row.subject for row in first] == ["user-4", "user-3"]
            second = await store.sessions.list(everything, Page(limit_count=9, before=first[-1].id))
            assert [row.subject for row in second] == ["user-2", "user-1", "user-0"]
            await store.sessions.take_over([rows[1].id], "pod-a")
            await store.sessions.end(rows[2].id, EndReason.USER)

            async def found(**where: Any) -> list[str]:
                return [row.subject for row in await store.sessions.list(SessionFilter(**where), Page())]

            assert await found(subject="user-3") == ["user-3"]
            assert await found(owner_pod="pod-a") == ["user-1"]
            assert await found(device="device-4") == ["user-4"]
            assert await found(states=frozenset({SessionState.ENDED})) == ["user-2"]
            assert await found(states=frozenset({SessionState.NEW}), owner_pod="pod-b") == []

        play(scenario)

    def test_what_has_ended_long_ago_is_forgotten_with_all_that_belongs_to_it(self, play, rig) -> None:
        """Every table is bounded in time."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            running = await simulator(store, session_id)
            await store.events.append(session_id, epoch, 1, events(1, 3))
            await store.sessions.end(session_id, EndReason.USER)
            live = await opened(store, "ben")
            assert await store.sessions.forget(rig.now()) == 0
            rig.clock.advance(1)
            assert await store.sessions.forget(rig.now()) == 1
            assert await store.sessions.get(session_id) is None
            assert await store.simulators.get(running.id) is None
            assert await store.events.last(session_id) is None
            assert await store.sessions.get(live.id) == live

        play(scenario)


class TestSimulators:
    """Section 5.2: the simulators' table; 5.5: desired and observed."""

    def test_what_is_wanted_twice_is_wanted_once(self, run, rig) -> None:
        """Section 5.3: PUT of the desired state is idempotent, from wherever it comes."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                row = await opened(one)
                spec = {"seed": 7, "symbols": ["AAPL"]}
                answers = await asyncio.gather(
                    *(
                        store.simulators.want(row.id, Desired.RUNNING, driver="process", spec=spec)
                        for store in (one, other)
                        for _ in range(4)
                    )
                )
                assert sum(answer.is_changed for answer in answers) == 1
                made = answers[0].row
                assert {answer.row.id for answer in answers} == {made.id}
                assert (made.state, made.generation, made.spec) == (SimulatorState.REQUESTED, 1, spec)
                assert await other.simulators.get(made.id) == made
                stop = [await one.simulators.want(row.id, Desired.STOPPED) for _ in range(2)]
                assert [answer.is_changed for answer in stop] == [True, False]
                assert [answer.row.generation for answer in stop] == [2, 2]

        run(scenario())

    def test_a_new_one_is_made_while_the_old_one_is_stopping(self, play) -> None:
        """A simulator that stops is not brought back."""

        async def scenario(store: Storage) -> None:
            row = await opened(store)
            old = await simulator(store, row.id)
            await store.simulators.want(row.id, Desired.STOPPED)
            new = await simulator(store, row.id)
            assert new.id > old.id
            assert await simulator(store, row.id) == new

        play(scenario)

    def test_a_session_has_no_more_simulators_than_it_may(self, play) -> None:
        """Section 5.2: one session has 0..n, by default 1."""

        async def scenario(store: Storage) -> None:
            row = await opened(store)
            await simulator(store, row.id)
            refused = await store.simulators.want(row.id, Desired.RUNNING, driver="process", name="second")
            assert refused == Refusal(RefusalReason.SIMULATORS_LIMIT, 1)
            second = await simulator(store, row.id, name="second", limit_count=2)
            assert second.name == "second"
            assert await store.simulators.want(row.id, Desired.STOPPED, name="third") == Wanted(None, False)
            await store.sessions.end(row.id, EndReason.USER)
            gone = Refusal(RefusalReason.SESSION_ENDED)
            assert await store.simulators.want(row.id, Desired.RUNNING, driver="process") == gone
            assert await store.simulators.want(NOWHERE, Desired.RUNNING, driver="process") == gone

        play(scenario)

    def test_what_was_seen_under_an_older_generation_does_not_hide_what_was_seen_later(
        self, play, rig
    ) -> None:
        """Section 5.2: generation and observed_generation."""

        async def scenario(store: Storage) -> None:
            session = await opened(store)
            row = await simulator(store, session.id)
            starting = Observation(state=SimulatorState.STARTING, handle={"pid": 7})
            assert await store.simulators.observe(row.id, 2, starting) is None
            assert await store.simulators.observe(row.id, 1, starting) is not None
            await store.simulators.want(session.id, Desired.STOPPED)
            rig.clock.advance(1)
            late = Observation(state=SimulatorState.RUNNING, endpoint="unix:/s")
            seen = await store.simulators.observe(row.id, 1, late)
            assert seen is not None
            assert (seen.observed_generation, seen.generation, seen.handle) == (1, 2, {"pid": 7})
            assert (seen.endpoint, seen.changed_at) == ("unix:/s", rig.now())
            stopping = Observation(state=SimulatorState.STOPPING)
            assert await store.simulators.observe(row.id, 2, stopping) is not None
            assert await store.simulators.observe(row.id, 1, late) is None
            assert await store.simulators.observe(row.id, 2, late) is None
            assert await store.simulators.claim(row.id, "pod-a", 30)
            failed = Observation(
                state=SimulatorState.FAILED, failure={"detail": "killed"}, is_unreachable=True
            )
            final = await store.simulators.observe(row.id, 2, failed)
            assert final is not None
            assert (final.failure, final.is_unreachable, final.claimed_by) == (
                {"detail": "killed"},
                True,
                "",
            )
            assert await store.simulators.observe(row.id, 2, failed) is None
            assert await store.simulators.observe(NOWHERE, 1, failed) is None

        play(scenario)

    def test_one_pod_at_a_time_works_on_a_simulator(self, play, rig) -> None:
        """Section 5.5: a reconciler per pod; who works on what is a claim that runs out."""

        async def scenario(store: Storage) -> None:
            session = await opened(store)
            row = await simulator(store, session.id)
            (work,) = await store.simulators.claim_work("pod-a", 30)
            assert (work.id, work.claimed_by, work.claimed_until) == (row.id, "pod-a", rig.later(30))
            assert await store.simulators.claim_work("pod-b", 30) == ()
            assert not await store.simulators.claim(row.id, "pod-b", 30)
            assert not await store.simulators.release_claim(row.id, "pod-b")
            assert await store.simulators.claim(row.id, "pod-a", 30)
            rig.clock.advance(30)
            assert await store.simulators.claim(row.id, "pod-b", 30)
            assert await store.simulators.release_claim(row.id, "pod-b")
            running = Observation(state=SimulatorState.RUNNING)
            assert await store.simulators.observe(row.id, 1, running) is not None
            assert await store.simulators.claim_work("pod-a", 30) == ()
            await store.simulators.want(session.id, Desired.STOPPED)
            assert len(await store.simulators.claim_work("pod-a", 30)) == 1

        play(scenario)

    def test_pods_that_look_for_work_at_once_share_it(self, run, rig) -> None:
        """SKIP LOCKED: nobody waits for another, nobody gets what another has."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                ids = {(await simulator(one, (await opened(one, f"u{n}")).id)).id for n in range(20)}
                shares = await asyncio.gather(
                    *(
                        store.simulators.claim_work(f"pod-{number}", 30, 5)
                        for number, store in enumerate([one, other] * 4)
                    )
                )
                claimed = [row.id for share in shares for row in share]
                assert len(claimed) == len(set(claimed))
                assert {*claimed} <= ids

        run(scenario())

    def test_simulators_are_listed_by_session_state_driver_and_wish(self, play, rig) -> None:
        """Section 5.3: the admin's list."""

        async def scenario(store: Storage) -> None:
            rows = [await simulator(store, (await opened(store, f"user-{n}")).id) for n in range(3)]
            await store.simulators.observe(rows[0].id, 1, Observation(state=SimulatorState.RUNNING))
            await store.simulators.want(rows[1].session_id, Desired.STOPPED)
            await store.simulators.beat([rows[0].id, NOWHERE])

            async def found(**where: Any) -> list[str]:
                return [row.id for row in await store.simulators.list(SimulatorFilter(**where), Page())]

            assert await found() == [row.id for row in rows[::-1]]
            assert await found(session_id=rows[2].session_id) == [rows[2].id]
            assert await found(states=frozenset({SimulatorState.RUNNING})) == [rows[0].id]
            assert await found(desired=Desired.STOPPED) == [rows[1].id]
            assert await found(driver="kubernetes") == []
            beaten = await store.simulators.get(rows[0].id)
            assert beaten is not None
            assert beaten.heartbeat_at == rig.now()

        play(scenario)


class TestEvents:
    """Section 5.4: the durable log of the embedded mode."""

    def test_events_come_back_as_they_were(self, play) -> None:
        """The body is kept byte by byte: it was encoded once."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            batch = events(1, 5, '{"é": 1.50}'.encode())
            assert await store.events.last(session_id) is None
            assert await store.events.bounds(session_id) is None
            assert await store.events.append(session_id, epoch, 9, batch) == Appended(5)
            assert await store.events.read(session_id, 9, 0) == tuple(batch)
            assert await store.events.read(session_id, 9, 2, limit_count=2) == tuple(batch[2:4])
            assert await store.events.read(session_id, 8, 0) == ()
            assert await store.events.last(session_id) == (9, batch[-1])
            assert await store.events.bounds(session_id) == LogBounds(9, 1, 5)

        play(scenario)

    def test_a_batch_whose_answer_was_lost_is_stored_once(self, play) -> None:
        """0 lost, 0 duplicated."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            await store.events.append(session_id, epoch, 1, events(1, 3))
            assert await store.events.append(session_id, epoch, 1, events(1, 3)) == Appended(3)
            assert await store.events.append(session_id, epoch, 1, events(2, 4)) == Appended(4)
            assert [event.offset for event in await store.events.read(session_id, 1, 0)] == [1, 2, 3, 4]

        play(scenario)

    def test_a_batch_that_does_not_fit_is_not_stored(self, play) -> None:
        """Offsets are contiguous per epoch: who reads behind a cursor sees all, and what was trimmed stays away."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            append, read = store.events.append, store.events.read
            assert await append(session_id, epoch, 1, events(2, 3)) == LogGap(0, 0)
            assert await append(session_id, epoch, 1, events(1, 3)) == Appended(3)
            assert await append(session_id, epoch, 1, events(5, 6)) == LogGap(1, 3)
            for other in (0, 2):
                assert await append(session_id, epoch, other, events(1, 1)) == LogGap(1, 3)
            assert await append(session_id, epoch, 1, events(2, 2)) == Appended(3)
            assert await store.events.trim([session_id], keep_count=1, keep_bytes=1000, after_ms=0) == 2
            assert await append(session_id, epoch, 1, events(1, 2)) == Appended(3)
            assert await append(session_id, epoch, 1, events(2, 5)) == Appended(5)
            assert await read(session_id, 1, 0) == tuple(events(3, 5))

        play(scenario)

    def test_a_log_is_replaced_or_deleted_as_a_whole_by_its_owner(self, play) -> None:
        """Where continuity cannot be proven a log begins anew; an ended session's log can still be deleted."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            replace, forget = store.events.replace, store.events.forget
            await store.events.append(session_id, epoch, 7, events(1, 3))
            assert await replace(session_id, epoch, 7, events(3, 9)) == Appended(9)
            assert await store.events.bounds(session_id) == LogBounds(7, 3, 9)
            assert await replace(session_id, epoch, 2, events(0, 0)) == Appended(0)
            assert await store.events.bounds(session_id) == LogBounds(2, 0, 0)
            with pytest.raises(LocalProtocolError):
                await replace(session_id, epoch, 2, [])
            assert await replace(session_id, epoch - 1, 2, events(1, 1)) == Fenced(epoch, is_ended=False)
            assert not await forget(session_id, epoch - 1)
            assert not await forget(NOWHERE, 1)
            await store.sessions.end(session_id, EndReason.USER)
            assert await replace(session_id, epoch, 2, events(1, 1)) == Fenced(epoch, is_ended=True)
            assert await store.events.last(session_id) == (2, events(0, 0)[0])
            assert await forget(session_id, epoch)
            assert await store.events.last(session_id) is None

        play(scenario)

    def test_a_stale_owner_writes_nothing(self, play) -> None:
        """Section 5.6: the fencing epoch."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            await store.sessions.take_over([session_id], "pod-b")
            answer = await store.events.append(session_id, epoch, 1, events(1, 3))
            assert answer == Fenced(epoch + 1, is_ended=False)
            await store.sessions.end(session_id, EndReason.USER)
            answer = await store.events.append(session_id, epoch + 1, 1, events(1, 3))
            assert answer == Fenced(epoch + 1, is_ended=True)
            assert await store.events.append(NOWHERE, 1, 1, events(1, 3)) == Fenced(0, is_ended=True)
            assert await store.events.last(session_id) is None

        play(scenario)

    def test_nothing_of_an_old_owner_appears_after_the_new_one_has_read_the_last(self, run, rig) -> None:
        """Section 5.6: the new owner goes on from the last event, so nothing may come in between."""

        async def scenario() -> None:
            async with rig.opened() as old, rig.opened() as new:
                for number in range(15):
                    session_id, epoch = await owned(old, f"user-{number}")

                    async def write(session_id: str = session_id, epoch: int = epoch) -> int:
                        last = 0
                        while True:
                            answer = await old.events.append(session_id, epoch, 1, events(last + 1, last + 1))
                            if isinstance(answer, Fenced):
                                return last
                            assert isinstance(answer, Appended)
                            last = answer.last
                            await asyncio.sleep(0)  # the memory answers without a turn of the loop

                    async def take(session_id: str = session_id) -> int:
                        while await new.events.last(session_id) is None:  # noqa: ASYNC110 - a database rings no event
                            await asyncio.sleep(0)
                        await new.sessions.take_over([session_id], "pod-b")
                        last = await new.events.last(session_id)
                        assert last is not None
                        return last[1].offset

                    written, read = await asyncio.gather(write(), take())
                    assert written == read

        run(scenario())

    def test_a_gap_inside_a_batch_is_a_bug_of_ours(self, play) -> None:
        """The offsets of a log are contiguous."""

        async def scenario(store: Storage) -> None:
            session_id, epoch = await owned(store)
            for batch in ([], [*events(1, 1), *events(3, 3)]):
                with pytest.raises(LocalProtocolError):
                    await store.events.append(session_id, epoch, 1, batch)

        play(scenario)

    @pytest.mark.parametrize(
        ("limits", "first"),
        [
            ({"keep_count": 4}, 7),
            ({"keep_bytes": 35}, 8),
            ({"after_ms": 1005}, 5),
            ({"keep_count": 0}, 10),
            ({"after_ms": 9999}, 10),
            ({}, 1),
        ],
    )
    def test_a_log_is_trimmed_by_number_bytes_and_age_and_keeps_its_last_event(
        self, play, limits, first
    ) -> None:
        """Section 5.4: bounded by events, minutes and bytes; a new owner goes on from the last event."""

        async def scenario(store: Storage) -> None:
            trimmed, epoch = await owned(store)
            other, other_epoch = await owned(store, "ben")
            await store.events.append(trimmed, epoch, 2, events(1, 10, b"0123456789"))
            await store.events.append(other, other_epoch, 2, events(1, 10))
            keep = {"keep_count": 1000, "keep_bytes": 1000, "after_ms": 0} | limits
            assert await store.events.trim([trimmed, NOWHERE], **keep) == first - 1
            assert await store.events.bounds(trimmed) == LogBounds(2, first, 10)
            assert await store.events.bounds(other) == LogBounds(2, 1, 10)

        play(scenario)


class TestRequests:
    """Section 5.3: Idempotency-Key."""

    def test_a_repeated_request_has_the_same_answer_and_another_one_a_conflict(self, play) -> None:
        """The same key with another request is refused."""

        async def scenario(store: Storage) -> None:
            response = StoredResponse(201, b'{"id": 1}', {"Location": "/v1/sessions/1"})
            assert await store.requests.begin("ana", "k", b"1", 30) == Fresh(1)
            assert isinstance(await store.requests.begin("ana", "k", b"1", 30), InFlight)
            assert isinstance(await store.requests.begin("ana", "k", b"2", 30), KeyConflict)
            assert await store.requests.begin("ben", "k", b"2", 30) == Fresh(1)
            assert await store.requests.finish("ana", "k", 1, response)
            assert await store.requests.finish("ana", "k", 1, response)
            assert await store.requests.begin("ana", "k", b"1", 30) == response
            assert isinstance(await store.requests.begin("ana", "k", b"2", 30), KeyConflict)
            assert not await store.requests.abandon("ana", "k", 1)

        play(scenario)

    def test_a_request_whose_worker_died_may_be_made_again_and_the_dead_ones_answer_is_refused(
        self, play, rig
    ) -> None:
        """A key is held for so long and no longer."""

        async def scenario(store: Storage) -> None:
            await store.requests.begin("ana", "k", b"1", 30)
            rig.clock.advance(30)
            assert await store.requests.begin("ana", "k", b"1", 30) == Fresh(2)
            assert not await store.requests.finish("ana", "k", 1, StoredResponse(200, b"late"))
            assert not await store.requests.abandon("ana", "k", 1)
            assert await store.requests.abandon("ana", "k", 2)
            assert await store.requests.begin("ana", "k", b"2", 30) == Fresh(1)

        play(scenario)

    def test_of_the_same_request_many_times_at_once_one_is_done(self, run, rig) -> None:
        """The answer of the first is the answer of all."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                answers = await asyncio.gather(
                    *(store.requests.begin("ana", "k", b"1", 30) for store in (one, other) for _ in range(5))
                )
                assert sum(isinstance(answer, Fresh) for answer in answers) == 1
                assert sum(isinstance(answer, InFlight) for answer in answers) == 9

        run(scenario())

    def test_old_keys_are_forgotten(self, play, rig) -> None:
        """Every table is bounded in time."""

        async def scenario(store: Storage) -> None:
            for key in "abc":
                await store.requests.begin("ana", key, b"1", 30)
                rig.clock.advance(1)
            assert await store.requests.forget(rig.later(-1), limit_count=1) == 1
            assert await store.requests.forget(rig.later(-1)) == 1
            assert isinstance(await store.requests.begin("ana", "c", b"1", 30), InFlight)

        play(scenario)


class TestPool:
    """Section 5.5: the warm pool."""

    def test_a_simulator_is_claimed_by_one_session_however_many_ask(self, run, rig) -> None:
        """Compare-and-swap with a claim token."""

        async def scenario() -> None:
            async with rig.opened() as one, rig.opened() as other:
                for number in range(4):
                    await one.pool.add(f"s{number}", "process", "default", "unix:/s", {"pid": number})
                await one.pool.add("s0", "process", "default", "unix:/again", {})
                answers = await asyncio.gather(
                    *(
                        store.pool.claim("process", "default", session_id="x", token=f"t{n}-{m}", hold_s=30)
                        for m, store in enumerate((one, other))
                        for n in range(4)
                    )
                )
                claimed = sorted(row.id for row in answers if row)
                assert claimed == ["s0", "s1", "s2", "s3"]
                members = await other.pool.list("process")
                assert {row.state for row in members} == {PoolState.HELD}
                assert members[0].handle == {"pid": 0}

        run(scenario())

    def test_a_claim_whose_answer_was_lost_is_the_same_claim(self, play, rig) -> None:
        """agones#607: the allocation succeeded but the answer was lost."""

        async def scenario(store: Storage) -> None:
            await store.pool.add("s1", "process", "default", "unix:/s", {})
            await store.pool.add("s2", "process", "default", "unix:/s", {})
            claims = [
                await store.pool.claim("process", "default", session_id="x", token="t", hold_s=30)
                for _ in range(2)
            ]
            assert claims[0] == claims[1]
            assert claims[0] is not None
            assert (claims[0].session_id, claims[0].held_until) == ("x", rig.later(30))
            assert await store.pool.claim("process", "other", session_id="x", token="u", hold_s=30) is None

        play(scenario)

    def test_a_simulator_comes_back_if_its_session_does_not_attach_in_time(self, play, rig) -> None:
        """Section 5.5: returned to the pool if the session never attaches."""

        async def scenario(store: Storage) -> None:
            for name in ("s1", "s2", "s3"):
                await store.pool.add(name, "process", "default", "unix:/s", {})
            for token in ("t1", "t2", "t3"):
                await store.pool.claim("process", "default", session_id="x", token=token, hold_s=30)
            assert await store.pool.confirm("s1", "t1")
            assert await store.pool.confirm("s1", "t1")
            assert await store.pool.give_back("s2", "t2")
            assert not await store.pool.give_back("s2", "t2")
            assert await store.pool.release_overdue() == 0
            rig.clock.advance(30)
            assert await store.pool.release_overdue() == 1
            assert not await store.pool.confirm("s3", "t3")
            assert not await store.pool.confirm("s3", "")
            states = {row.id: row.state for row in await store.pool.list()}
            assert states == {"s1": PoolState.TAKEN, "s2": PoolState.READY, "s3": PoolState.READY}
            assert await store.pool.withdraw("s2")
            assert not await store.pool.withdraw("s1")
            assert await store.pool.remove("s1")
            assert not await store.pool.remove("s1")
            assert [row.id for row in await store.pool.list()] == ["s3"]

        play(scenario)


class TestStore:
    """The database as a whole."""

    def test_it_counts_what_there_is(self, play) -> None:
        """What metrics show."""

        async def scenario(store: Storage) -> None:
            assert await store.usage() == Usage(sessions={}, simulators={}, pool={})
            session_id, epoch = await owned(store)
            await store.sessions.attach(session_id, epoch)
            await simulator(store, session_id)
            await opened(store, "ben")
            await store.sessions.end((await opened(store, "eva")).id, EndReason.USER)
            await store.pool.add("s1", "kubernetes", "default", "10.0.0.1:1", {})
            assert await store.usage() == Usage(
                sessions={"active": 1, "new": 1},
                simulators={("process", "requested"): 1},
                pool={("kubernetes", "ready"): 1},
            )
            assert store.is_up
            await store.check()

        play(scenario)

    def test_one_at_a_time_is_in_a_singletons_block(self, run, rig) -> None:
        """Section 5.5: cluster-wide singletons under an advisory lock."""

        async def scenario() -> None:
            inside = most = turns = 0

            async def work(store: Storage) -> None:
                nonlocal inside, most, turns
                async with store.singleton("expiry"):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0)
                    await store.check()
                    inside -= 1
                    turns += 1

            async with rig.opened() as one, rig.opened() as other:
                async with asyncio.TaskGroup() as tasks:
                    for store in (one, other, one, other):
                        tasks.create_task(work(store))
                async with one.singleton("expiry"), other.singleton("pool"):
                    pass
            assert (most, turns) == (1, 4)

        run(scenario())

    def test_what_leaves_a_singletons_block_leaves_it_unchanged(self, play) -> None:
        """An exception of the block is its own; the lock is free again."""

        async def scenario(store: Storage) -> None:
            for error in (KeyError("x"), TimeoutError("mine"), ExceptionGroup("g", [ValueError()])):
                with pytest.raises(type(error)) as caught:
                    async with store.singleton("expiry"):
                        raise error
                assert caught.value is error
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), store.singleton("expiry"):
                    await asyncio.Event().wait()
            async with store.singleton("expiry"):
                pass

        play(scenario)


def pg_rig(lab: Lab) -> Rig:
    return Rig(lab.direct.dsn(), 100, f"exchange_{next(SCHEMAS)}")


def test_a_singleton_that_loses_its_connection_loses_itself(run, lab) -> None:
    """Its block is cancelled, it is told why, and another process takes over."""

    async def scenario() -> None:
        rig = pg_rig(lab)
        async with rig.opened() as one, rig.opened() as other:
            admin = await asyncpg.connect(rig.dsn)
            inside = asyncio.Event()
            was_cancelled = False

            async def hold() -> None:
                nonlocal was_cancelled
                async with one.singleton("expiry"):
                    inside.set()
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        was_cancelled = True
                        raise

            async def cut() -> None:
                await inside.wait()
                (holder,) = await admin.fetch(
                    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                assert await admin.fetchval("SELECT pg_terminate_backend($1)", holder["pid"])

            # Not in the block itself: it may be cancelled before the answer to the command that cuts it.
            held, _ = await asyncio.gather(hold(), cut(), return_exceptions=True)
            assert isinstance(held, BackendUnavailable)
            assert "singleton" in held.cause
            assert was_cancelled
            async with other.singleton("expiry"):
                pass
            await admin.close()

    run(scenario())


def test_the_server_frees_the_singleton_of_a_process_that_stands_still(run, lab) -> None:
    """A holder that does not beat does not keep the lock, and finds out when it moves again."""

    async def scenario() -> None:
        rig = pg_rig(lab)
        settings = rig.settings(singleton_hold_s=0.3)
        still, heir = PostgresStore(settings), PostgresStore(settings)
        await still.start()
        await heir.start()

        async def stand_still() -> None:
            async with still.singleton("expiry"):
                wait_until_nobody_holds_a_lock(rig.dsn)  # the loop does not turn meanwhile
                async with heir.singleton("expiry"):
                    await asyncio.Event().wait()

        with pytest.raises(BackendUnavailable, match="singleton"):
            await stand_still()
        async with heir.singleton("expiry"):
            pass
        await still.stop()
        await heir.stop()

    run(scenario())


def wait_until_nobody_holds_a_lock(dsn: str) -> None:
    """Block, at most 30 seconds, until the server has freed every advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(1500):
            if connection.execute(query).fetchone() == (0,):
                return
            connection.execute("SELECT pg_sleep(0.02)")
    pytest.fail("the server has not freed the lock")


def test_a_database_that_dies_is_unavailable_at_once_and_found_again_by_itself(run) -> None:
    """Bad input of issue 4: database down: breakers open, recovery is automatic."""

    async def scenario() -> None:
        async with PostgresServer() as server:
            breaker = StoreBreakerSettings(consecutive_failures_count=2, open_s=0.01, open_max_s=0.02)
            store = PostgresStore(StoreSettings(dsn=Secret(server.dsn()), breaker=breaker))
            with pytest.raises(BackendUnavailable, match="not started"):
                await store.check()
            await store.start()
            row = await opened(store)
            first_up = store.up_since
            await server.crash()
            refused = [error async for error in failures(store, until="circuit")]
            assert len(refused) == 3
            assert not store.is_up
            assert store.up_since == 0.0
            await server.start()
            async for _ in failures(store):
                pass
            assert await store.sessions.get(row.id) == row
            assert store.is_up
            assert store.up_since > first_up
            await store.stop()

    run(scenario())


async def failures(store: Storage, until: str = "") -> AsyncIterator[str]:
    """Ask until the database answers, or until it fails for a certain reason."""
    async with asyncio.timeout(20):
        while True:
            try:
                await store.check()
            except BackendUnavailable as error:
                yield error.cause
                if until and until in error.cause:
                    return
            else:
                return
            await asyncio.sleep(0)


def test_a_running_store_reconnects_without_being_started_again(run, lab) -> None:
    """Connections that the server ends are replaced as they are needed; the breaker stays closed."""

    async def scenario() -> None:
        rig = pg_rig(lab)
        async with rig.opened() as store:
            row = await opened(store)
            admin = await asyncpg.connect(rig.dsn)
            for _ in range(3):
                await admin.fetch(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'sojourn exchange%'"
                )
                answers = await asyncio.gather(
                    *(store.sessions.get(row.id) for _ in range(4)), return_exceptions=True
                )
                assert await store.sessions.get(row.id) == row
                assert all(isinstance(one, BackendUnavailable | SessionRow) for one in answers)
            await admin.close()

    run(scenario())


def test_a_server_that_does_not_answer_is_given_up_at_the_deadline(run, lab) -> None:
    """Every wait has a deadline, also the one for another transaction's lock."""

    async def scenario() -> None:
        rig = pg_rig(lab)
        async with rig.opened() as store:
            row = await opened(store)
            hasty = PostgresStore(rig.settings(deadline_s=0.2), rig.now)
            await hasty.start()
            admin = await asyncpg.connect(rig.dsn)
            async with admin.transaction():
                await admin.execute(f'LOCK TABLE "{rig.settings().schema}".sessions')
                with pytest.raises(BackendUnavailable, match="no answer in time"):
                    await hasty.sessions.end(row.id, EndReason.USER)
            assert await store.sessions.get(row.id) == row
            assert await hasty.sessions.get(row.id) == row
            await admin.close()
            await hasty.stop()

    run(scenario())


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:hunter2@127.0.0.1:1/x", "nonsense hunter2", "postgresql://u:hunter2@h:x/"]
)
def test_an_address_that_leads_nowhere_is_never_quoted(run, dsn: str) -> None:
    """An error never carries a secret."""

    async def scenario() -> None:
        store = PostgresStore(StoreSettings(dsn=Secret(dsn), deadline_s=2.0))
        with pytest.raises(BackendUnavailable) as caught:
            await store.start()
        assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
        assert not store.is_up

    run(scenario())


def test_what_the_tables_refuse_is_a_bug_of_ours_and_no_failure_of_the_database(run, lab) -> None:
    """A breaker counts what says something about the backend."""

    async def scenario() -> None:
        async with pg_rig(lab).opened() as store:
            for _ in range(10):
                with pytest.raises(LocalProtocolError):
                    await opened(store, "a\0b")
            assert store.is_up

    run(scenario())


def test_touching_thousands_of_sessions_is_one_statement_that_fits_its_deadline(run, lab) -> None:
    """Section 5.2: never a write per heartbeat; 5,000 in one statement."""

    async def scenario() -> None:
        rig = pg_rig(lab)
        async with rig.opened() as store:
            admin = await asyncpg.connect(rig.dsn)
            await admin.execute(
                f"""INSERT INTO "{rig.settings().schema}".sessions
                (id, subject, state, devices, policy, attributes, created_at, active_at, owner_epoch)
                SELECT 'id-' || n, 'user-' || n, 'active', ARRAY['d'], 'replace', '{{}}', now(), now(), 1
                FROM generate_series(1, 5000) n"""
            )
            touches = [
                Touch(f"id-{n}", 1, rig.later(86_400 * 3650), SessionState.ACTIVE, 1, "good")
                for n in range(1, 5001)
            ]
            assert await store.sessions.touch(touches) == frozenset()
            assert await store.sessions.touch(touches[::-1]) == frozenset()
            await admin.close()

    run(scenario())
