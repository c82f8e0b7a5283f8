"""Queries of the history as SQL, and their rows as entries; what blocks belongs into a thread or a command."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from sojourn.errors import BackendUnavailable
from sojourn.gateways.itv2.events import Detail
from sojourn.gateways.itv2.history.database import BACKEND, cause_of, open_for_reading
from sojourn.gateways.itv2.history.records import PAGE_LIMIT_COUNT, Cursor, Entry, HistoryQuery, Page

STEPS_COUNT: Final = 20_000
"""Instructions of SQLite between two looks at the clock: about a millisecond."""

_FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(Entry))
_SELECT: Final = f"SELECT {', '.join(_FIELDS)} FROM events"  # noqa: S608 - names of ours
_decode_detail = msgspec.json.Decoder(Detail).decode


class HistoryReader:
    """The history's file, open for searching; several readers and the one writer do not disturb each other.

    Life: whoever makes it closes it, or uses it as a context. Raises: BackendUnavailable if it can't be read.
    """

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._connection = open_for_reading(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def search(self, query: HistoryQuery) -> Page:
        """Return one page.

        Raises:
            RemoteProtocolError: the cursor is none.
            BackendUnavailable: it takes longer than ``timeout_s``, or the file can't be read.
        """
        limit_count = max(1, min(query.limit_count, PAGE_LIMIT_COUNT))
        sql, values = statement(query, limit_count + 1)
        deadline = time.monotonic() + self._timeout_s
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_COUNT)
        try:
            rows = self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise BackendUnavailable(
                    BACKEND, self._timeout_s, "too much to search; ask for less"
                ) from None
            raise BackendUnavailable(f"{BACKEND} {self._path}", 0.0, cause_of(error)) from error
        finally:
            self._connection.set_progress_handler(None, 0)
        try:
            entries = tuple(_entry(row) for row in rows[:limit_count])
        except msgspec.MsgspecError as error:
            raise BackendUnavailable(f"{BACKEND} {self._path}", 0.0, "a row that can't be read") from error
        has_more = len(rows) > limit_count
        return Page(entries, str(Cursor(entries[-1].at_ms, entries[-1].id)) if has_more else "")


def statement(query: HistoryQuery, limit_count: int) -> tuple[str, list[Any]]:
    """Return the SQL of a query and its values. Raises: RemoteProtocolError: the cursor is none."""
    where: list[str] = []
    values: list[Any] = []

    def wants(condition: str, *wanted: Any) -> None:
        where.append(condition)
        values.extend(wanted)

    if query.since_ms is not None:
        wants("at_ms >= ?", query.since_ms)
    if query.until_ms is not None:
        wants("at_ms < ?", query.until_ms)
    for name, number in (("partition", query.partition), ("zone", query.zone), ("user", query.user)):
        if number is not None:
            wants(f"{name} = ?", number)
    for name, label in (
        ("partition_label", query.partition_label),
        ("zone_label", query.zone_label),
        ("user_label", query.user_label),
    ):
        if label:
            wants(f"{name} = ? COLLATE NOCASE", label)
    for name, one_of in (("panel", query.panels), ("kind", query.kinds), ("source", query.sources)):
        if one_of:
            wants(f"{name} IN ({', '.join('?' * len(one_of))})", *one_of)
    if query.asker:
        # The second half lets SQLite use the index of orders.
        wants("asker = ? AND kind = 'command'", query.asker)
    if query.cursor:
        wants(f"(at_ms, id) {'>' if query.is_oldest_first else '<'} (?, ?)", *Cursor.of(query.cursor))
    order = "ASC" if query.is_oldest_first else "DESC"
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    return f"{_SELECT}{condition} ORDER BY at_ms {order}, id {order} LIMIT ?", [*values, limit_count]


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_FIELDS, row, strict=True))
    values["is_approximate"] = bool(values["is_approximate"])
    values["detail"] = _decode_detail(values["detail"])
    return Entry(**values)
