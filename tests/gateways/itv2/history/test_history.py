"""The history as the gateway uses it: groups, waiting, failing, going on."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest
from history_lab import QUICK, HistoryRoom, event, room, stored, until

from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.itv2.history import HistoryQuery
from sojourn.gateways.itv2.history.repeats import packet_digest

FIRST, SECOND = packet_digest(b"\0\0first"), packet_digest(b"\0\0second")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "itv2.sqlite3"


def test_who_waits_is_told_after_the_commit(run: Any, path: Path) -> None:
    """Then the packet may be acknowledged."""

    async def scenario() -> None:
        async with room(path) as one:
            waiter = one.history.append("house", [event(zone=1)], FIRST)
            assert waiter is not None
            assert await waiter
            assert [entry.zone for entry in stored(path)] == [1]

    run(scenario())


def test_all_that_wait_share_a_commit(run: Any, path: Path) -> None:
    """500 panels must not wait for 500 flushes of the disk."""

    async def scenario() -> None:
        async with room(path) as one:
            waiters = [one.history.append(f"p{n}", [event(f"p{n}")], FIRST) for n in range(500)]
            assert all(await asyncio.gather(*filter(None, waiters)))
            assert one.history.snapshot().batches_count == 1
            assert one.history.snapshot().stored_count == 500

    run(scenario())


def test_what_comes_soon_after_a_commit_shares_the_next_one(run: Any, path: Path) -> None:
    """A busy hour costs one flush of the disk for each pause, not one for each packet."""

    async def scenario() -> None:
        async with room(path, commit_pause_s=0.05) as one:
            waiters = [one.history.append("house", [event(zone=1)], FIRST)]
            for zone in range(2, 12):
                await asyncio.sleep(0)  # each in a turn of its own, and the first on its way to the disk
                waiters.append(one.history.append("house", [event(zone=zone)], FIRST))
            assert all(await asyncio.gather(*filter(None, waiters)))
            assert one.history.snapshot().batches_count == 2

    run(scenario())


def test_a_packet_without_events_waits_only_where_it_proves_something(run: Any, path: Path) -> None:
    """The proof must be as durable as what it proves, or a crash would make the next equal event a repeat."""

    async def scenario() -> None:
        async with room(path) as one:
            history = one.history
            assert history.append("house", [], FIRST) is None
            stored_packet = history.append("house", [event()], FIRST)
            assert stored_packet is not None
            proof = history.append("house", [], SECOND)
            assert proof is not None
            assert await proof
            assert history.append("house", [], SECOND) is None
        async with room(path) as one:
            one.history.session_began("house")
            assert not one.history.is_repeat("house", FIRST)

    run(scenario())


def test_a_restart_knows_the_packet_that_may_come_again(run: Any, path: Path) -> None:
    """Stored and never proven to be acknowledged: the panel sends it first when it is back."""

    async def scenario() -> None:
        async with room(path) as one:
            one.history.append("house", [event()], FIRST)
        async with room(path) as one:
            one.history.session_began("house")
            assert one.history.is_repeat("house", FIRST)
            assert not one.history.is_repeat("house", FIRST)
        assert len(stored(path)) == 1

    run(scenario())


def test_states_are_written_now_and_then_and_at_the_end(run: Any, path: Path) -> None:
    """A state that changes often is made when it is written, not at each change."""
    made = []

    def make(state: bytes) -> bytes:
        made.append(state)
        return state

    async def scenario() -> None:
        async with room(path, state_every_s=3_600) as one:
            for number in range(100):
                one.history.save_state("house", lambda number=number: make(b"%d" % number))
            one.history.save_state("shop", b"resting", at_once=True)
            await one.history.flush()
            assert made == []
        async with room(path) as one:
            assert one.history.load_states() == {"house": b"99", "shop": b"resting"}

    run(scenario())
    assert made == [b"99"]


def test_states_are_written_while_they_change(run: Any, path: Path) -> None:
    """A kill -9 takes the last seconds of a state at most; it is stale after a restart anyway."""

    async def scenario() -> None:
        async with room(path, state_every_s=0.01) as one:
            one.history.save_state("house", b"1")
            await until(lambda: one.history.snapshot().batches_count > 0)

    run(scenario())


def test_a_history_that_fails_lets_nobody_wait_and_catches_up(run: Any, path: Path) -> None:
    """Alarms matter more than their record: the gateway goes on, says so, and stores it all when it can."""

    async def scenario() -> None:
        async with room(path, **QUICK) as one:
            await one.history.flush()
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
            try:
                waiter = one.history.append("house", [event(zone=1)], FIRST)
                assert waiter is not None
                assert not await waiter
                assert one.history.is_degraded
                assert one.history.append("house", [event(zone=2)], SECOND) is None
                await one.until_told("itv2.history_unavailable")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            told = await one.until_told("itv2.history_available")
            assert told.fields() == {"stored_count": 2, "lost_count": 0}
            assert not one.history.is_degraded
            assert [entry.zone for entry in stored(path)] == [1, 2]
            assert one.names() == ["itv2.history_unavailable", "itv2.history_available"]

    run(scenario())


def test_what_waits_for_a_file_that_fails_is_bounded(run: Any, path: Path) -> None:
    """The oldest go first; how many is told."""

    async def scenario() -> None:
        async with room(path, waiting_limit_count=100, **QUICK) as one:
            one.history._fail(BackendUnavailable("history", 0.0, "the disk is full"))
            for number in range(250):
                one.history.append("house", [event(zone=number)])
            assert one.history.snapshot().waiting_count == 100
            told = await one.until_told("itv2.history_available")
            assert told.fields() == {"stored_count": 100, "lost_count": 150}
            assert [entry.zone for entry in stored(path)] == list(range(150, 250))

    run(scenario())


def test_a_file_that_can_not_be_opened_yet_is_opened_later(run: Any, path: Path) -> None:
    """A full or read-only disk at the start must not keep panels out."""

    path.mkdir()  # what can't be opened for a reason that may pass
    make_room = path.rmdir

    async def scenario() -> None:
        async with room(path, **QUICK) as one:
            assert one.history.is_degraded
            one.history.append("house", [event(zone=7)], FIRST)
            make_room()
            await one.until_told("itv2.history_available")
            assert await one.history.flush()
            assert [entry.zone for entry in stored(path)] == [7]

    run(scenario())


def test_a_damaged_file_is_told_with_its_new_name(run: Any, path: Path) -> None:
    """Whoever wants what is left of it must know where it is."""

    path.write_bytes(b"no database, but bytes enough to be looked at" * 100)

    async def scenario() -> str:
        async with room(path) as one:
            told = await one.until_told("itv2.history_set_aside")
            assert not one.history.is_degraded
            return str(told.fields()["file"])

    assert Path(run(scenario())).exists()


def test_damage_that_a_search_meets_sets_the_file_aside(run: Any, path: Path) -> None:
    """A writer may not touch those pages for months."""

    async def scenario() -> None:
        async with room(path) as one:
            await one.history.append("house", [event(detail={"text": "x" * 500}) for _ in range(500)])
        with path.open("r+b") as file:
            file.seek(20 * 4096)
            file.write(b"\xff" * 40 * 4096)
        async with room(path) as one:
            with pytest.raises(BackendUnavailable):
                await one.history.search(HistoryQuery(limit_count=1_000))
            await one.until_told("itv2.history_set_aside")
            page = await one.history.search(HistoryQuery())
            assert page.entries == ()

    run(scenario())


def test_a_problem_of_the_operator_stops_the_start(run: Any, path: Path) -> None:
    """Two daemons on one file, or no folder for it."""

    async def scenario() -> None:
        async with room(path):
            second = HistoryRoom(path)
            with pytest.raises(ConfigError):
                await second.history.open()

    run(scenario())


def test_nobody_waits_for_a_closed_history(run: Any, path: Path) -> None:
    """What comes after the end is not stored, and nobody hangs."""

    async def scenario() -> None:
        async with room(path) as one:
            pass
        assert one.history.append("house", [event()], FIRST) is None
        assert not await one.history.flush()
        await one.history.close()

    run(scenario())


def test_the_end_is_one_more_try(run: Any, path: Path) -> None:
    """What was kept in memory would be lost with it."""

    async def scenario() -> None:
        async with room(path, retry_max_s=3_600) as one:
            one.history._fail(BackendUnavailable("history", 0.0, "the disk is full"))
            one.history.append("house", [event(zone=1)], FIRST)
        assert [entry.zone for entry in stored(path)] == [1]

    run(scenario())


def test_too_old_events_go_by_themselves(run: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention needs no cron job."""
    monkeypatch.setattr("sojourn.gateways.itv2.history.history.FIRST_PRUNE_S", 0.01)

    async def scenario() -> None:
        async with room(path, keep_days=1) as one:
            await one.history.append(
                "house", [event(at_ms=0, zone=n) for n in range(1_100)] + [event(zone=-1)]
            )
            await until(lambda: len(stored(path)) == 1)

    run(scenario())


def test_an_export_is_the_whole_history_page_by_page(run: Any, path: Path) -> None:
    """More than one page, in order, each entry once."""

    async def scenario() -> None:
        async with room(path) as one:
            await one.history.append("house", [event(at_ms=n, zone=n) for n in range(2_500)])
            query = HistoryQuery(is_oldest_first=True)
            text = b"".join([part async for part in one.history.export(query, "jsonl")])
            assert text.count(b"\n") == 2_500
            table = b"".join([part async for part in one.history.export(query, "csv")])
            assert table.count(b"\r\n") == 2_501

    run(scenario())
