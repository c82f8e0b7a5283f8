"""The SQLite file itself: opened, brought up to date, locked, and set aside where it is damaged.

Everything here blocks: it belongs into a thread, or into a command of the command line. Knows no events and no queries.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from sojourn.core.migrations import Migration, read_migrations
from sojourn.errors import BackendUnavailable, ConfigError, Problem

BACKEND: Final = "history"
"""The name under which ``BackendUnavailable`` speaks of the file."""

MODE: Final = 0o600
"""Permissions of the file: it tells when nobody is at home. SQLite gives them to the files beside it too."""

BUSY_S: Final = 2.0
"""How long we wait for another process that has the file locked: a backup, or a person with ``sqlite3``."""

WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""What is kept of a write-ahead log that grew, behind a long reader say."""

CACHE_KIB: Final = 256
"""Of the file's pages that the writer keeps; what it has not, the system has. SQLite's own is eight times as much."""

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BESIDE: Final = ("-wal", "-shm")
_MAKE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""


def is_damage(error: BaseException) -> bool:
    """Tell whether the file's contents are at fault: not its disk, nor its permissions."""
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the error, what is above only says where it was met.
    return code is not None and code & 0xFF in _DAMAGED


def cause_of(error: BaseException) -> str:
    """Return why a file can't be used, in words for the operator."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def open_for_writing(path: Path, synchronous: Literal["full", "normal"]) -> sqlite3.Connection:
    """Open the file, make it if there is none, and apply the migrations that it lacks.

    Raises:
        ConfigError: a migration was changed after it had been applied, or a newer version wrote the file.
        sqlite3.Error, OSError: it can't be opened now; ``is_damage`` tells whether it ever can.
    """
    if not path.exists():
        # What an earlier file has left beside it must not be taken for changes of the new one.
        for suffix in _BESIDE:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        _migrate(connection, read_migrations(files(__package__) / "migrations"), str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the file without the right to change it; the daemon may be writing meanwhile.

    Raises: BackendUnavailable: it is not there, or can't be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        try:
            return _connect(uri)
        except sqlite3.OperationalError:
            if not path.is_file() or path.with_name(f"{path.name}-wal").exists():
                raise
            # Nobody writes, and we may not make the files that a reader shares with writers.
            return _connect(f"{uri}&immutable=1")
    except sqlite3.Error as error:
        why = cause_of(error) if path.exists() else "there is no such file"
        raise BackendUnavailable(f"{BACKEND} {path}", 0.0, why) from error


def set_aside(path: Path, now: datetime | None = None) -> Path:
    """Give a damaged file, and what is beside it, a new name that is returned. Raises: OSError."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    for suffix in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    path.rename(target)
    return target


class FileLock:
    """Keeps a second process from writing the same history; the system frees it however this process ends.

    The lock is on a file of its own: closing any descriptor of the SQLite file would drop SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._fd = -1

    def take(self) -> None:
        """Lock it. Raises: ConfigError if another process has it, or the folder does not exist; OSError."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except (FileNotFoundError, NotADirectoryError):
            raise _problem(str(self._path.parent), "a folder that does not exist", "a folder") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise _problem(
                str(self._path), "a file in use by another process", "one daemon per file"
            ) from None
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Unlock it; harmless when it is not ours."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM events LIMIT 1")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, migrations: tuple[Migration, ...], path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_MAKE_TABLE)
        applied = dict(connection.execute("SELECT number, checksum FROM migrations"))
        _check(migrations, applied, path)
        for migration in migrations:
            if migration.number not in applied:
                _run(connection, migration.sql)
                connection.execute(
                    "INSERT INTO migrations (number, name, checksum) VALUES (?, ?, ?)",
                    (migration.number, migration.name, migration.checksum),
                )
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _run(connection: sqlite3.Connection, sql: str) -> None:
    """Run statements inside the open transaction; ``executescript`` would commit it first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _check(migrations: tuple[Migration, ...], applied: dict[int, str], path: str) -> None:
    known = {migration.number: migration for migration in migrations}
    problems = []
    for number, checksum in applied.items():
        migration = known.get(number)
        if migration is None:
            found, wanted = (
                f"migration {number} of a newer version",
                "the version that wrote it, or a newer one",
            )
        elif migration.checksum != checksum:
            found = f"{migration.name} with checksum {migration.checksum[:12]}"
            wanted = f"the file that was applied, with checksum {checksum[:12]}"
        else:
            continue
        problems.append(Problem(path, 0, "itv2.history", "file", found, wanted))
    if problems:
        raise ConfigError(problems)


def _problem(path: str, found: str, wanted: str) -> ConfigError:
    return ConfigError([Problem(path, 0, "itv2.history", "file", found, wanted)])
