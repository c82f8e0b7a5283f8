"""Searching by what people remember, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from history_lab import START_MS, event

from sojourn.errors import BackendUnavailable, RemoteProtocolError
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.history import HistoryQuery, HistorySettings
from sojourn.gateways.itv2.history.search import HistoryReader, statement
from sojourn.gateways.itv2.history.store import Batch, Store

EVENTS = [
    event(at_ms=START_MS, zone=1, detail={"zone_label": "Front Door"}),
    event(at_ms=START_MS + 1, zone=2, detail={"zone_label": "Cellar"}),
    event(
        "shop",
        START_MS + 2,
        Kind.ARMED,
        partition=1,
        user=4,
        detail={"user_label": "Ana", "partition_label": "All"},
    ),
    event(
        at_ms=START_MS + 3, kind=Kind.COMMAND, partition=1, detail={"asker": "phone", "result": "accepted"}
    ),
    event(at_ms=START_MS + 4, source="replay", kind=Kind.ZONE_CLOSED, zone=1, is_approximate=True),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "itv2.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(HistorySettings(file=str(path)))
    store.open()
    store.write(Batch(EVENTS))
    yield store
    store.close()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"is_oldest_first": True}, [0, 1, 2, 3, 4]),
        ({"since_ms": START_MS + 1, "until_ms": START_MS + 3}, [2, 1]),
        ({"zone": 1}, [4, 0]),
        ({"zone_label": "front door"}, [0]),
        ({"partition": 1}, [3, 2]),
        ({"partition_label": "ALL"}, [2]),
        ({"user": 4}, [2]),
        ({"user_label": "ana"}, [2]),
        ({"kinds": (Kind.ARMED, Kind.ZONE_CLOSED)}, [4, 2]),
        ({"sources": ("replay",)}, [4]),
        ({"panels": ("shop",)}, [2]),
        ({"panels": ("shop", "house"), "zone": 2}, [1]),
        ({"asker": "phone"}, [3]),
        ({"zone_label": "x' OR '1'='1"}, []),
    ],
)
def test_a_search_finds_what_was_asked(
    store: Store, path: Path, query: dict[str, Any], found: list[int]
) -> None:
    """By time, zone, partition, user, kind, source and asker; names as they were at the time."""
    with HistoryReader(path) as reader:
        entries = reader.search(HistoryQuery(**query)).entries
    assert [entry.at_ms - START_MS for entry in entries] == found


@pytest.mark.parametrize("is_oldest_first", [True, False])
def test_pages_have_each_entry_once_whatever_comes_meanwhile(
    store: Store, path: Path, is_oldest_first: bool
) -> None:
    """The cursor is the last entry: several may share a millisecond."""
    store.write(Batch([event(at_ms=START_MS + 7, zone=n) for n in range(50)]))
    seen: list[int] = []
    query = HistoryQuery(limit_count=7, is_oldest_first=is_oldest_first)
    with HistoryReader(path) as reader:
        while True:
            page = reader.search(query)
            seen += [entry.id for entry in page.entries]
            store.write(Batch([event(at_ms=START_MS + 6 if is_oldest_first else START_MS + 8, zone=99)]))
            if not page.cursor:
                break
            query = HistoryQuery(limit_count=7, is_oldest_first=is_oldest_first, cursor=page.cursor)
    assert len(seen) == len(set(seen))
    assert set(seen) >= set(range(1, 56))


@pytest.mark.parametrize("cursor", ["x", "1", "1.", ".1", "-1.2", "1.2.3", "9" * 30 + ".1", "٣.1"])
def test_a_cursor_that_is_none_is_refused(store: Store, path: Path, cursor: str) -> None:
    """It comes from outside."""
    with HistoryReader(path) as reader, pytest.raises(RemoteProtocolError):
        reader.search(HistoryQuery(cursor=cursor))


def test_a_search_that_takes_too_long_is_ended(store: Store, path: Path) -> None:
    """Somebody's question must not take the machine from those who ring alarms."""
    store.write(Batch([event(at_ms=n) for n in range(30_000)]))
    with (
        HistoryReader(path, timeout_s=1e-9) as reader,
        pytest.raises(BackendUnavailable, match="ask for less"),
    ):
        reader.search(HistoryQuery(zone_label="nowhere"))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "events_by_time"),
        ({"since_ms": 5, "cursor": "7.1"}, "events_by_time"),
        ({"panels": ("house",)}, "events_by_panel"),
        ({"zone": 3}, "events_by_zone"),
        ({"user": 3}, "events_by_user"),
        ({"asker": "phone"}, "events_by_asker"),
    ],
)
def test_a_page_is_read_from_an_index_in_its_order(
    store: Store, path: Path, query: dict[str, Any], index: str
) -> None:
    """The first page of a million events costs as much as of a hundred."""
    sql, values = statement(HistoryQuery(**query), 100)
    with HistoryReader(path) as reader:
        plan = " ".join(row[3] for row in reader._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
    assert index in plan
    assert "TEMP B-TREE" not in plan


def test_a_reader_needs_no_right_to_write(store: Store, path: Path) -> None:
    """The command line reads the file of a running daemon, and of one that was ended."""
    with HistoryReader(path) as reader:
        assert len(reader.search(HistoryQuery()).entries) == len(EVENTS)
    store.close()
    assert not path.with_name(f"{path.name}-wal").exists()
    with HistoryReader(path) as reader:
        assert len(reader.search(HistoryQuery()).entries) == len(EVENTS)


def test_no_file_is_one_clear_line(path: Path) -> None:
    """Nothing is made by looking for it."""
    with pytest.raises(BackendUnavailable, match="there is no such file"):
        HistoryReader(path)
    assert not path.exists()
