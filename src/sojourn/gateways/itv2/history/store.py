"""The writer's side of the history: batches in one transaction each, pruning, and what a restart needs to know.

Everything here blocks and belongs to one thread. A batch is stored whole, or an error says that nothing of it was. A
damaged file is set aside and a new one begun within the same call, because what comes now matters more than what can't
be read. Knows nothing of asyncio, waiters or queries.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from sojourn.errors import BackendUnavailable
from sojourn.gateways.itv2.events import Kind, PanelEvent
from sojourn.gateways.itv2.history.config import HistorySettings
from sojourn.gateways.itv2.history.database import (
    BACKEND,
    FileLock,
    cause_of,
    is_damage,
    open_for_writing,
    set_aside,
)

T = TypeVar("T")

PRUNE_COUNT: Final = 500
"""Rows deleted in one transaction: what is stored meanwhile waits for no more than that."""

DAY_MS: Final = 86_400_000
_LARGEST: Final = 2**63 - 1
_COLUMNS: Final = frozenset({"partition_label", "zone_label", "user_label", "asker"})
"""Names in an event's detail that have columns of their own."""

_INSERT_EVENT: Final = (
    "INSERT INTO events (panel, at_ms, source, kind, partition, zone, user, partition_label, zone_label, user_label,"
    " asker, panel_time, is_approximate, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SET_PACKET: Final = "INSERT OR REPLACE INTO unproven_packets (panel, digest) VALUES (?, ?)"
_FORGET_PACKET: Final = "DELETE FROM unproven_packets WHERE panel = ?"
_SET_STATE: Final = "INSERT OR REPLACE INTO states (panel, saved_ms, state) VALUES (?, ?, ?)"

_BAD_ROW: Final = (
    OverflowError,
    TypeError,
    ValueError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
)
"""The file is well; this row is not for it."""

_encode = msgspec.json.Encoder().encode


class Batch(msgspec.Struct):
    """What is stored at once. ``packets``: the digest by panel, or None where it is proven."""

    events: Sequence[PanelEvent] = ()
    packets: Mapping[str, bytes | None] = {}
    states: Mapping[str, bytes] = {}
    at_ms: int = 0


class Outcome(NamedTuple):
    """What came of a batch that is stored.

    Shape: ``refused_count`` rows did not fit the file and are lost; ``set_aside`` is the new name of a damaged file and
    ``why`` it was; ``""`` where there was none.
    """

    refused_count: int = 0
    set_aside: str = ""
    why: str = ""


class Remembered(NamedTuple):
    """What an earlier process has left."""

    states: dict[str, bytes]
    unproven: dict[str, bytes]


class Store:
    """The one writer of a history's file.

    Life: made by ``History``, opened, used and closed in its thread. After any error the file is opened anew by the
    next call.
    """

    def __init__(self, settings: HistorySettings) -> None:
        self._settings = settings
        self._path = Path(settings.file)
        self._lock = FileLock(self._path)
        self._is_locked = False
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._set_aside = self._why = ""

    def open(self) -> tuple[Remembered, Outcome]:
        """Open the file and return what it remembers.

        Raises:
            ConfigError: the operator has to mend something first.
            BackendUnavailable: it can't be opened now.
        """
        try:
            return self._mending(self._remembered), self._told(0)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from None

    def write(self, batch: Batch) -> Outcome:
        """Store a batch in one transaction. Raises: ConfigError; BackendUnavailable: nothing of it is stored."""
        try:
            refused = self._mending(lambda: self._write(batch))
            if self._is_elsewhere():
                # Somebody moved the file away or deleted it: what went with it is stored for nobody.
                self._close()
                refused = self._mending(lambda: self._write(batch))
            return self._told(refused)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from None

    def prune(self, now_ms: int) -> int:
        """Delete some of what is too old or too much, and return how much; 0 = nothing is left to delete.

        Raises: ConfigError, BackendUnavailable.
        """
        try:
            return self._mending(lambda: self._prune(now_ms))
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from None

    def check(self) -> Outcome:
        """Read the whole file, for somebody met damage in it; set it aside if that is so.

        Raises: ConfigError, BackendUnavailable.
        """
        try:
            self._mending(self._check)
            return self._told(0)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from None

    def close(self) -> None:
        """Close the file and let others have it; what is stored stays stored."""
        self._close()
        if self._is_locked:
            self._is_locked = False
            self._lock.release()

    def _mending(self, work: Callable[[], T]) -> T:
        """Do some work on the open file; once more with a new one if this one is damaged."""
        try:
            return work()
        except sqlite3.Error as error:
            self._close()
            if not is_damage(error):
                raise
            self._set_aside, self._why = str(set_aside(self._path)), cause_of(error)
            return work()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self._is_locked:
                self._lock.take()
                self._is_locked = True
            self._connection = open_for_writing(self._path, self._settings.synchronous)
            self._identity = _identity(self._path)
        return self._connection

    def _remembered(self) -> Remembered:
        connection = self._opened()
        return Remembered(
            dict(connection.execute("SELECT panel, state FROM states")),
            dict(connection.execute("SELECT panel, digest FROM unproven_packets")),
        )

    def _write(self, batch: Batch) -> int:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            refused = _insert(connection, [_row(event) for event in batch.events])
            for panel, digest in batch.packets.items():
                if digest is None:
                    connection.execute(_FORGET_PACKET, (panel,))
                else:
                    connection.execute(_SET_PACKET, (panel, digest))
            for panel, state in batch.states.items():
                connection.execute(_SET_STATE, (panel, batch.at_ms, state))
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite rolls back by itself after some errors
                connection.execute("ROLLBACK")
            raise
        return refused

    def _prune(self, now_ms: int) -> int:
        settings = self._settings
        connection = self._opened()
        count = 0
        for keep_days, which in ((settings.keep_days, "<>"), (settings.keep_audit_days, "=")):
            if keep_days and count < PRUNE_COUNT:
                where = f"at_ms < ? AND kind {which} '{Kind.COMMAND}'"
                count += _delete(connection, where, (now_ms - int(keep_days * DAY_MS),), PRUNE_COUNT - count)
        if settings.keep_per_panel_count and count < PRUNE_COUNT:
            count += self._prune_surplus(connection, PRUNE_COUNT - count)
        return count

    def _prune_surplus(self, connection: sqlite3.Connection, limit_count: int) -> int:
        count = 0
        for panel in _panels(connection):
            # The first one behind those that stay; all the rest is behind it in the same index.
            first = connection.execute(
                f"SELECT at_ms, id FROM events WHERE panel = ? AND kind <> '{Kind.COMMAND}'"  # noqa: S608 - a word of ours
                " ORDER BY at_ms DESC, id DESC LIMIT 1 OFFSET ?",
                (panel, self._settings.keep_per_panel_count),
            ).fetchone()
            if first is not None and count < limit_count:
                where = f"panel = ? AND (at_ms, id) <= (?, ?) AND kind <> '{Kind.COMMAND}'"
                count += _delete(connection, where, (panel, *first), limit_count - count)
        return count

    def _check(self) -> None:
        found = self._opened().execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            error = sqlite3.DatabaseError(found[0])
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    def _is_elsewhere(self) -> bool:
        try:
            return _identity(self._path) != self._identity
        except FileNotFoundError:
            return True

    def _told(self, refused_count: int) -> Outcome:
        outcome = Outcome(refused_count, self._set_aside, self._why)
        self._set_aside = self._why = ""
        return outcome

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        self._close()
        return BackendUnavailable(f"{BACKEND} {self._path}", 0.0, cause_of(error))

    def _close(self) -> None:
        if self._connection is not None:
            old, self._connection = self._connection, None
            with contextlib.suppress(
                sqlite3.Error
            ):  # it may not be able to write its log back; nothing is lost
                old.close()


def _insert(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> int:
    """Insert rows and return how many of them do not fit; one that does not fit must not hold up the others."""
    if not rows:
        return 0
    connection.execute("SAVEPOINT rows")
    refused = 0
    try:
        connection.executemany(_INSERT_EVENT, rows)
    except _BAD_ROW:
        connection.execute("ROLLBACK TO rows")
        for row in rows:
            try:
                connection.execute(_INSERT_EVENT, row)
            except _BAD_ROW:
                refused += 1
    connection.execute("RELEASE rows")
    return refused


def _row(event: PanelEvent) -> tuple[Any, ...]:
    detail = event.detail
    label = detail.get
    rest = {name: value for name, value in detail.items() if name not in _COLUMNS} if detail else detail
    return (
        event.panel,
        event.at_ms,
        event.source,
        event.kind,
        _number(event.partition),
        _number(event.zone),
        _number(event.user),
        label("partition_label", ""),
        label("zone_label", ""),
        label("user_label", ""),
        label("asker", ""),
        event.panel_time,
        event.is_approximate,
        _json(rest) if rest else "{}",
    )


def _number(value: int | None) -> int | None:
    # A panel may send eight bytes for any number; SQLite's have a sign.
    return value if value is None or value <= _LARGEST else _LARGEST


def _json(detail: Any) -> str:
    try:
        return _encode(detail).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return "{}"


def _panels(connection: sqlite3.Connection) -> list[str]:
    """Return the panels that have events; each is one step in the index, however many events it has."""
    panels: list[str] = []
    row = connection.execute("SELECT min(panel) FROM events").fetchone()
    while row[0] is not None:
        panels.append(row[0])
        row = connection.execute("SELECT min(panel) FROM events WHERE panel > ?", row).fetchone()
    return panels


def _delete(connection: sqlite3.Connection, where: str, values: tuple[Any, ...], limit_count: int) -> int:
    """Delete at most so many events, the oldest; ``where`` is ours."""
    return connection.execute(
        f"DELETE FROM events WHERE id IN (SELECT id FROM events WHERE {where} ORDER BY at_ms, id LIMIT ?)",  # noqa: S608 - as above
        (*values, limit_count),
    ).rowcount


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
