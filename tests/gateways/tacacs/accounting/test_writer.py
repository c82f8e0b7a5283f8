"""Group commit: batches while the sink is busy, refusals that are quick, nobody left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from sojourn.core.backoff import Backoff
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.tacacs.accounting import Record, sinks
from sojourn.gateways.tacacs.accounting.sinks import Accounting
from sojourn.gateways.tacacs.config import Accounting as AccountingSettings
from sojourn.gateways.tacacs.config import FileSink


class Shelf:
    """A sink in memory with a door: stores only while the door is open, fails while it is broken."""

    kind = "shelf"
    warning = ""

    def __init__(self, name: str, *, proves: bool = True) -> None:
        self.name = name
        self.batches: list[list[str]] = []
        self.door = asyncio.Event()
        self.door.set()
        self.is_broken = self.is_absent = False
        self.failures_left = 0
        self.asked = asyncio.Event()
        self.is_open = False
        self.poison = ""
        self._proves = proves

    @property
    def ids(self) -> list[str]:
        return [record_id for batch in self.batches for record_id in batch]

    async def open(self) -> bool:
        if self.is_absent:
            raise OSError(2, "No such file or directory")
        self.is_open = True
        return self._proves

    async def store(self, records: Sequence[Record]) -> None:
        self.asked.set()
        await self.door.wait()
        if self.failures_left or self.is_broken:
            self.failures_left = max(self.failures_left - 1, 0)
            raise OSError(28, "No space left on device")
        if any(self.poison and record.user == self.poison for record in records):
            raise LimitExceeded("bytes of a message", 9, 8)
        self.batches.append([record.record_id for record in records])

    async def close(self) -> None:
        self.is_open = False


@pytest.fixture
def shelves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[AccountingSettings, dict[str, Shelf]]]:
    """Settings whose file sinks are shelves, found by their names; reopened without a pause."""
    made: dict[str, Shelf] = {}
    monkeypatch.setattr(sinks, "sink_for", lambda one: made.setdefault(one.name, Shelf(one.name)))
    monkeypatch.setattr(sinks, "Backoff", lambda *_: Backoff(0.001, 0.002))

    def make(*names: str, **values: object) -> tuple[AccountingSettings, dict[str, Shelf]]:
        files = tuple(FileSink(name=name, path=f"/nowhere/{name}") for name in names)
        return AccountingSettings(files=files, **values), made

    return make


def started(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


async def store_all(accounting: Accounting, records: Sequence[Record]) -> list[object]:
    return await asyncio.gather(*[accounting.store(one) for one in records], return_exceptions=True)


def test_records_that_arrive_while_the_sink_is_busy_are_its_next_batch(run, make_record, shelves) -> None:
    """One write for all that waits: batches grow just when storing is slow."""

    async def scenario() -> None:
        settings, made = shelves("a")
        async with Accounting(settings) as accounting:
            shelf = made["a"]
            shelf.door.clear()
            records = [make_record() for _ in range(101)]
            async with asyncio.TaskGroup() as group:
                group.create_task(accounting.store(records[0]))
                await shelf.asked.wait()
                for record in records[1:]:
                    group.create_task(accounting.store(record))
                await asyncio.sleep(0)
                shelf.door.set()
            assert [len(batch) for batch in shelf.batches] == [1, 100]
            assert shelf.ids == [record.record_id for record in records]
            assert accounting.snapshot()[0].stored_count == 101
        assert not shelf.is_open

    run(scenario())


def test_store_returns_only_when_every_sink_has_the_record(run, make_record, shelves) -> None:
    """RFC 8907 section 7.2: SUCCESS says that the record was stored."""

    async def scenario() -> None:
        settings, made = shelves("fast", "slow")
        async with Accounting(settings) as accounting:
            made["slow"].door.clear()
            storing = started(accounting.store(make_record()))
            await made["slow"].asked.wait()
            await made["fast"].asked.wait()
            assert not storing.done()
            made["slow"].door.set()
            await storing
            assert made["fast"].ids == made["slow"].ids

    run(scenario())


def test_a_batch_that_fails_once_costs_nobody_an_error(run, make_record, shelves, alarms) -> None:
    """A server that restarted is reached by the second attempt over a fresh opening."""

    async def scenario() -> None:
        settings, made = shelves("a")
        async with Accounting(settings, on_alarm=alarms) as accounting:
            made["a"].failures_left = 1
            assert await store_all(accounting, [make_record() for _ in range(20)]) == [None] * 20
        assert alarms.heard == []
        assert len(set(made["a"].ids)) == 20

    run(scenario())


def test_a_dead_sink_refuses_at_once_and_rings_one_alarm_each_way(run, make_record, shelves, alarms) -> None:
    """A device must not wait for a timeout when we know; an operator must not drown in alarms."""

    async def scenario() -> None:
        settings, made = shelves("good", "bad", timeout_s=1000.0)
        async with Accounting(settings, on_alarm=alarms) as accounting:
            made["bad"].is_broken = made["bad"].is_absent = True
            records = [make_record() for _ in range(40)]
            for half in (records[:20], records[20:]):
                for outcome in await store_all(accounting, half):
                    assert isinstance(outcome, BackendUnavailable)
                    assert outcome.backend == "bad"
            snapshot = accounting.snapshot()[1]
            assert snapshot.health == "down"
            assert "No s" in snapshot.last_error
            assert made["bad"].ids == []
            made["bad"].is_broken = made["bad"].is_absent = False
            await alarms.wait_for("bad", "available again")
            late = make_record()
            await accounting.store(late)
            assert made["bad"].ids == [late.record_id]
        assert alarms.heard == [("bad", "unavailable: No such file or directory"), ("bad", "available again")]
        # What could be kept was kept: the healthy sink has them all.
        assert set(made["good"].ids) == {record.record_id for record in (*records, late)}

    run(scenario())


def test_a_sink_that_is_dead_at_the_start_does_not_stop_the_others(run, make_record, shelves, alarms) -> None:
    """The daemon starts, says what is wrong, and mends it without being told."""

    async def scenario() -> None:
        settings, made = shelves("a")
        accounting = Accounting(settings, on_alarm=alarms)
        made["a"].is_absent = True
        await accounting.start()
        with pytest.raises(BackendUnavailable):
            await accounting.store(make_record())
        made["a"].is_absent = False
        await alarms.wait_for("a", "available again")
        await accounting.store(make_record())
        await accounting.close()
        assert len(made["a"].ids) == 1

    run(scenario())


@pytest.mark.parametrize("proves", [False, True])
def test_an_opening_that_proves_nothing_is_on_trial_until_something_is_stored(
    run, make_record, shelves, alarms, until, *, proves: bool
) -> None:
    """Otherwise a dead UDP collector, or a table without space, would ring twice for each pause."""

    async def scenario() -> None:
        settings, made = shelves("udp")
        made["udp"] = Shelf("udp", proves=proves)
        async with Accounting(settings, on_alarm=alarms) as accounting:
            made["udp"].is_broken = True
            for _ in range(5):
                with pytest.raises(BackendUnavailable):
                    await accounting.store(make_record())
                await until(lambda: accounting.snapshot()[0].health == "trial")
            assert alarms.heard == [("udp", "unavailable: No space left on device")]
            made["udp"].is_broken = False
            await accounting.store(make_record())
            assert alarms.heard[1:] == [("udp", "available again")]

    run(scenario())


def test_a_full_queue_refuses_the_record_that_is_too_many(run, make_record, shelves) -> None:
    """Every queue is bounded, and says so."""

    async def scenario() -> None:
        settings, made = shelves("a", queue_count=10)
        async with Accounting(settings) as accounting:
            made["a"].door.clear()
            first = started(accounting.store(make_record()))
            await made["a"].asked.wait()
            storing = started(store_all(accounting, [make_record() for _ in range(11)]))
            await asyncio.sleep(0)
            made["a"].door.set()
            *stored, refused = await storing
            assert stored == [None] * 10
            assert isinstance(refused, LimitExceeded)
            assert (refused.amount, refused.limit) == (11, 10)
            await first

    run(scenario())


def test_a_sink_that_hangs_is_answered_with_an_error_in_time_and_heals(
    run, make_record, shelves, alarms
) -> None:
    """The deadline holds for what is being stored and for what waits behind it; the hang is then known."""

    async def scenario() -> None:
        settings, made = shelves("a", timeout_s=0.05)
        async with Accounting(settings, on_alarm=alarms) as accounting:
            made["a"].door.clear()
            first = started(accounting.store(make_record()))
            await made["a"].asked.wait()
            outcomes = await asyncio.gather(first, accounting.store(make_record()), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 2
            with pytest.raises(BackendUnavailable, match="no answer in time"):
                await accounting.store(make_record())
            made["a"].door.set()
            await alarms.wait_for("a", "available again")
            await accounting.store(make_record())

    run(scenario())


def test_a_sink_that_answers_late_with_a_refusal_is_back_all_the_same(
    run, make_record, shelves, alarms
) -> None:
    """It had been called down for its silence; nobody would offer it a record to prove itself."""

    async def scenario() -> None:
        settings, made = shelves("a", timeout_s=0.05)
        async with Accounting(settings, on_alarm=alarms) as accounting:
            made["a"].poison = "eve"
            made["a"].door.clear()
            with pytest.raises(BackendUnavailable, match="no answer in time"):
                await accounting.store(make_record(user="eve"))
            made["a"].door.set()
            await alarms.wait_for("a", "available again")
            await accounting.store(make_record())

    run(scenario())


def test_every_record_of_a_batch_that_hangs_has_its_own_deadline(run, make_record, shelves) -> None:
    """A batch holds records of different ages: the younger ones are not forgotten behind the oldest."""

    async def scenario() -> None:
        settings, made = shelves("a", timeout_s=0.2)
        now = [0.0]
        async with Accounting(settings, clock=lambda: now[0]) as accounting:
            made["a"].door.clear()
            older = started(accounting.store(make_record()))
            asyncio.get_running_loop().call_soon(now.__setitem__, 0, 0.1)
            younger = started(accounting.store(make_record()))
            await made["a"].asked.wait()
            assert accounting.snapshot()[0].in_flight_count == 2
            now[0] = 0.25
            assert isinstance((await asyncio.gather(older, return_exceptions=True))[0], BackendUnavailable)
            assert not younger.done()
            now[0] = 0.35
            assert isinstance((await asyncio.gather(younger, return_exceptions=True))[0], BackendUnavailable)
            made["a"].door.set()

    run(scenario())


def test_one_record_that_the_sink_cannot_take_fails_alone(run, make_record, shelves, alarms) -> None:
    """A device that sends one monster must not deny accounting to all others."""

    async def scenario() -> None:
        settings, made = shelves("a")
        async with Accounting(settings, on_alarm=alarms) as accounting:
            made["a"].poison = "eve"
            records = [make_record(user="eve" if number in {3, 17} else "ana") for number in range(30)]
            outcomes = await store_all(accounting, records)
            assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [3, 17]
            assert isinstance(outcomes[3], LimitExceeded)
            assert made["a"].ids == [record.record_id for record in records if record.user == "ana"]
        assert alarms.heard == []

    run(scenario())


def test_closing_stores_what_waits(run, make_record, shelves) -> None:
    """An accepted record is never dropped by an orderly end."""

    async def scenario() -> None:
        settings, made = shelves("a")
        accounting = Accounting(settings)
        await accounting.start()
        made["a"].door.clear()
        storing = started(store_all(accounting, [make_record() for _ in range(30)]))
        await made["a"].asked.wait()
        asyncio.get_running_loop().call_soon(made["a"].door.set)
        await accounting.close()
        assert await storing == [None] * 30
        with pytest.raises(BackendUnavailable):
            await accounting.store(make_record())

    run(scenario())


def test_an_error_of_the_server_passes_as_it_is_and_closes_the_sinks(run, make_record, shelves) -> None:
    """The block that runs the server may fail for reasons of its own."""

    async def scenario() -> None:
        settings, made = shelves("a")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with Accounting(settings) as accounting:
                made["a"].door.clear()
                storing = started(accounting.store(make_record()))
                await made["a"].asked.wait()
                asyncio.get_running_loop().call_soon(made["a"].door.set)
                raise ZeroDivisionError
        await storing
        assert not made["a"].is_open

    run(scenario())


def test_a_cancelled_server_still_stores_what_it_accepted(run, make_record, shelves) -> None:
    """Cancelling is how a server is told to end; it is no reason to lose a record."""

    async def scenario() -> None:
        settings, made = shelves("a")
        is_up = asyncio.Event()

        async def serve() -> None:
            async with Accounting(settings) as accounting:
                made["a"].door.clear()
                waiting.append(started(accounting.store(make_record())))
                await made["a"].asked.wait()
                is_up.set()
                await asyncio.Event().wait()

        waiting: list[asyncio.Task[None]] = []
        serving = started(serve())
        await is_up.wait()
        serving.cancel()
        asyncio.get_running_loop().call_soon(made["a"].door.set)
        with pytest.raises(asyncio.CancelledError):
            await serving
        await waiting[0]
        assert len(made["a"].ids) == 1

    run(scenario())


def test_a_sink_that_hangs_does_not_keep_us_from_ending(run, make_record, shelves) -> None:
    """Closing takes no longer than it may, and everyone who waits is told."""

    async def scenario() -> None:
        settings, made = shelves("a", timeout_s=0.05)
        async with Accounting(settings) as accounting:
            made["a"].door.clear()
            storing = started(store_all(accounting, [make_record()]))
            await made["a"].asked.wait()
        assert isinstance((await storing)[0], BackendUnavailable)

    run(scenario())


def test_a_caller_that_is_cancelled_takes_nobody_with_it(run, make_record, shelves) -> None:
    """Sessions end at any time; their batch goes on."""

    async def scenario() -> None:
        settings, made = shelves("a")
        async with Accounting(settings) as accounting:
            made["a"].door.clear()
            storing = [started(accounting.store(make_record())) for _ in range(3)]
            await made["a"].asked.wait()
            storing[1].cancel()
            await asyncio.wait([storing[1]])
            made["a"].door.set()
            await asyncio.gather(storing[0], storing[2])
            assert len(made["a"].ids) == 3

    run(scenario())


def test_a_change_of_sinks_loses_nothing(run, make_record, shelves) -> None:
    """Reload: unchanged sinks go on, old ones store what they have, new ones take what comes."""

    async def scenario() -> None:
        before, made = shelves("kept", "old")
        after, _ = shelves("kept", "new")
        async with Accounting(before) as accounting:
            kept = made["kept"]
            made["old"].door.clear()
            early = started(store_all(accounting, [make_record() for _ in range(5)]))
            await made["old"].asked.wait()
            changing = started(accounting.reconfigure(after))
            await asyncio.sleep(0)
            late = started(store_all(accounting, [make_record() for _ in range(5)]))
            await asyncio.sleep(0)
            made["old"].door.set()
            await changing
            assert await early == await late == [None] * 5
            assert (len(made["old"].ids), len(made["new"].ids), len(kept.ids)) == (5, 5, 10)
            assert (made["old"].is_open, made["new"].is_open, kept.is_open) == (False, True, True)
            assert [one.name for one in accounting.snapshot()] == ["kept", "new"]

    run(scenario())


def test_without_a_sink_nothing_is_ever_called_stored(run, make_record) -> None:
    """SUCCESS with nowhere to store would be a lie."""

    async def scenario() -> None:
        async with Accounting(AccountingSettings()) as accounting:
            with pytest.raises(BackendUnavailable, match="no sink"):
                await accounting.store(make_record())

    run(scenario())
