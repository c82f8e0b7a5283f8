"""The history's file: whole batches, damage, migrations, pruning."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from history_lab import START_MS, event, stored

from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.history import HistorySettings
from sojourn.gateways.itv2.history.store import DAY_MS, Batch, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "itv2.sqlite3"


@pytest.fixture
def opened(path: Path) -> Iterator[Any]:
    stores = []

    def opened(**settings: Any) -> Store:
        store = Store(HistorySettings(file=str(path), **settings))
        stores.append(store)
        store.open()
        return store

    yield opened
    for store in stores:
        store.close()


def test_a_batch_is_there_for_other_processes_when_write_returns(opened: Any, path: Path) -> None:
    """Stored means committed; the daemon's file is read while it runs."""
    opened().write(Batch([event(zone=3, detail={"zone_label": "Door", "asker": "", "seconds": 5})]))
    (entry,) = stored(path)
    assert (entry.panel, entry.at_ms, entry.kind) == ("house", START_MS, Kind.ZONE_OPENED)
    assert (entry.zone, entry.zone_label, entry.partition, entry.detail) == (3, "Door", None, {"seconds": 5})


def test_the_file_is_for_its_owner_only(opened: Any, path: Path) -> None:
    """It tells when nobody is at home; what SQLite keeps beside it does too."""
    opened().write(Batch([event()]))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_what_a_restart_needs_is_remembered(opened: Any) -> None:
    """States and unproven packets are in the same transaction as the events."""
    store = opened()
    store.write(Batch([event()], {"house": b"1", "shop": b"2"}, {"house": b"old"}))
    store.write(Batch([], {"shop": None}, {"house": b"new"}))
    store.close()
    remembered, _ = store.open()
    assert remembered.states == {"house": b"new"}
    assert remembered.unproven == {"house": b"1"}


def test_numbers_and_texts_that_do_not_fit_do_not_hold_up_the_others(opened: Any, path: Path) -> None:
    """A panel may send eight bytes for any number, and halves of characters."""
    outcome = opened().write(
        Batch([event(zone=2**64 - 1), event(zone=1, detail={"zone_label": "\ud800"}), event(zone=2)])
    )
    assert outcome.refused_count == 1
    assert [entry.zone for entry in stored(path)] == [2**63 - 1, 2]


def test_a_second_daemon_on_the_same_file_is_refused(opened: Any, path: Path) -> None:
    """Both would take the other's panels for repeats."""
    opened()
    with pytest.raises(ConfigError, match="in use by another process"):
        Store(HistorySettings(file=str(path))).open()


def test_a_missing_folder_is_the_operators_problem(path: Path) -> None:
    """One line with the folder's name."""
    with pytest.raises(ConfigError, match="found a folder that does not exist"):
        Store(HistorySettings(file=str(path.parent / "no" / "file"))).open()


def test_a_migration_that_was_changed_is_refused(opened: Any, path: Path) -> None:
    """Numbered files are applied once and never changed."""
    opened().close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE migrations SET checksum = 'x'")
    connection.close()
    with pytest.raises(ConfigError, match=r"0001_history\.sql with checksum"):
        opened()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(opened: Any, path: Path) -> None:
    """Writing to a layout that we do not know would damage it."""
    opened().close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations (number, name, checksum) VALUES (99, '0099_x.sql', 'x')")
    connection.close()
    with pytest.raises(ConfigError, match="migration 99 of a newer version"):
        opened()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_file_that_is_none_is_set_aside_at_the_start(path: Path, content: bytes) -> None:
    """What comes now matters more than what can't be read; nothing is thrown away."""
    path.write_bytes(content)
    store = Store(HistorySettings(file=str(path)))
    _, outcome = store.open()
    assert Path(outcome.set_aside).read_bytes() == content
    assert outcome.why
    store.write(Batch([event()]))
    store.close()
    assert len(stored(path)) == 1


def test_damage_inside_is_found_by_a_check_and_the_file_set_aside(opened: Any, path: Path) -> None:
    """A reader meets it first, as a writer may not touch those pages for months."""
    store = opened()
    store.write(Batch([event(detail={"text": "x" * 500}) for _ in range(200)]))
    store.close()
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 4 * 4096))
    store.open()
    outcome = store.check()
    assert Path(outcome.set_aside).exists()
    assert stored(path) == ()
    store.write(Batch([event()]))
    assert len(stored(path)) == 1


def test_a_well_file_stays_where_it_is(opened: Any, path: Path) -> None:
    """A check of a well file changes nothing."""
    store = opened()
    store.write(Batch([event()]))
    assert store.check() == (0, "", "")
    assert len(stored(path)) == 1


def test_a_file_that_was_moved_away_is_begun_anew_with_the_batch_in_it(opened: Any, path: Path) -> None:
    """What was written to a file without a name would be stored for nobody."""
    store = opened()
    store.write(Batch([event(zone=1)]))
    shutil.move(path, path.with_name("old"))
    store.write(Batch([event(zone=2)]))
    assert [entry.zone for entry in stored(path)] == [2]


def test_a_full_disk_stores_nothing_of_the_batch_and_everything_later(opened: Any, path: Path) -> None:
    """A batch is stored whole, or an error says that nothing of it was."""
    store = opened()
    store.write(Batch([event(zone=1)]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As if the disk were full: the system refuses every byte that makes a file of this process longer.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        with pytest.raises(BackendUnavailable, match="disk"):
            store.write(Batch([event(zone=2, detail={"text": "x" * 1_000}) for _ in range(100)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.zone for entry in stored(path)] == [1]
    store.write(Batch([event(zone=3)]))
    assert [entry.zone for entry in stored(path)] == [1, 3]


def prune(store: Store, now_ms: int) -> int:
    total = 0
    while count := store.prune(now_ms):
        total += count
    return total


def test_events_are_deleted_by_age(opened: Any, path: Path) -> None:
    """Orders have an age of their own: who asked is wanted longer than when a door was open."""
    store = opened(keep_days=10, keep_audit_days=20)
    ages_days = (5, 15, 25)
    for kind in (Kind.ZONE_OPENED, Kind.COMMAND):
        store.write(
            Batch([event(at_ms=START_MS - days * DAY_MS, kind=kind, zone=days) for days in ages_days])
        )
    assert prune(store, START_MS) == 3
    assert [(entry.kind, entry.zone) for entry in stored(path)] == [
        (Kind.COMMAND, 15),
        (Kind.ZONE_OPENED, 5),
        (Kind.COMMAND, 5),
    ]


def test_events_are_deleted_by_count_of_each_panel(opened: Any, path: Path) -> None:
    """A panel that talks much does not push out what others said, nor what was ordered."""
    store = opened(keep_per_panel_count=3)
    store.write(Batch([event("shop", zone=1), event("house", kind=Kind.COMMAND)]))
    store.write(Batch([event("house", at_ms=START_MS + n, zone=n) for n in range(1_200)]))
    assert prune(store, START_MS) == 1_197
    assert [entry.zone for entry in stored(path, panels=("house",))] == [None, 1_197, 1_198, 1_199]
    assert len(stored(path, panels=("shop",))) == 1


def test_nothing_is_deleted_where_there_is_no_limit(opened: Any) -> None:
    """0 = never, 0 = no limit."""
    store = opened(keep_days=0, keep_audit_days=0, keep_per_panel_count=0)
    store.write(Batch([event(at_ms=0)]))
    assert prune(store, START_MS) == 0
