"""Accounting records as JSON lines in a file that is rotated by size.

"Stored" means: written to the file, and with ``fsync = "batch"`` also on the disk. Without it the operating
system has the lines: they survive any end of this process, but not of the machine.

A line is whole or it is not there. A batch that fails is cut off again; what a crash left of a line is moved
to ``PATH.torn`` at the next opening. The file is locked, so a second process with the same path is refused
instead of having its lines cut off. A file that was moved away (logrotate) or deleted is noticed after each
batch.

Knows nothing of threads, queues or waiters.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sojourn.errors import BackendUnavailable, LocalProtocolError
from sojourn.gateways.tacacs.accounting.record import Record
from sojourn.gateways.tacacs.config import FileSink

MODE = 0o600
"""Permissions of files that we make: records tell who did what."""

_BLOCK_BYTES = 65_536
_DIGITS = 8

TORN_MAX_BYTES = 16 * 1024 * 1024
"""A longer last line was not left by a crash: somebody named the wrong file."""

PROBE_BYTES = 4_096
"""Space that must be had again after a failed write."""


class FileLines:
    """The file of one ``[[tacacs.accounting.files]]``; blocking, so it belongs to a thread of its own."""

    kind = "file"

    def __init__(self, settings: FileSink) -> None:
        self.name: str = settings.name
        self.warning = ""
        self._settings = settings
        self._path = Path(settings.path)
        self._syncs = settings.fsync == "batch"
        self._encode = msgspec.json.Encoder().encode_lines
        self._fd = -1
        self._identity = (0, 0)
        self._size_bytes = 0
        self._has_failed = False

    def open(self) -> bool:
        """Open and lock the file, and close off what a crash left of its last line.

        Raises:
            OSError: it can't be opened, or there is no space although there was none at the last failure.
            BackendUnavailable: it is not a regular file, or another process has it.
        """
        self.close()
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            status = os.fstat(fd)
            self._take(fd, status.st_mode)
            self._close_off_torn_line(fd, status.st_size)
            if self._has_failed:
                _probe(fd)
            if self._syncs:
                _sync_directory(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._identity = status.st_dev, status.st_ino
        self._size_bytes = os.fstat(fd).st_size
        return True

    def store(self, records: Sequence[Record]) -> None:
        """Append one line for each record, all of them or none.

        Raises:
            OSError: nothing was stored.
            LocalProtocolError: a record can't be written as JSON.
        """
        try:
            lines = self._encode(records)
        except (ValueError, TypeError) as error:
            raise LocalProtocolError("a record that is no JSON", "text and numbers", "RFC 8259") from error
        if self._fd < 0:
            self.open()
        if 0 < self._settings.rotate_bytes <= self._size_bytes:
            self._rotate()
        self._append(lines)
        if self._is_elsewhere() and self._is_deleted():
            # The lines went down with the file; only in its successor are they stored.
            self.open()
            self._append(lines)
            if self._is_elsewhere() and self._is_deleted():
                raise BackendUnavailable(self.name, 0.0, "the file is deleted as often as it is made")

    def close(self) -> None:
        """Close the file; lines already stored stay stored."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _take(self, fd: int, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise BackendUnavailable(self.name, 0.0, "not a regular file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackendUnavailable(self.name, 0.0, "the file is in use by another process") from None

    def _append(self, lines: bytes) -> None:
        written = 0
        rest = memoryview(lines)
        try:
            while written < len(lines):
                written += os.write(self._fd, rest[written:])
            if self._syncs:
                os.fdatasync(self._fd)
        except OSError:
            self._roll_back(written)
            raise
        self._has_failed = False

    def _roll_back(self, written_bytes: int) -> None:
        """Cut off what a failed batch left; where even that fails, the next opening finds the torn line."""
        self._has_failed = True
        with contextlib.suppress(OSError):
            if written_bytes:
                os.ftruncate(self._fd, max(os.fstat(self._fd).st_size - written_bytes, 0))
            if self._syncs:
                os.fdatasync(self._fd)
        self.close()

    def _is_elsewhere(self) -> bool:
        """Tell whether the path names another file than ours by now; takes its size on the way."""
        try:
            status = self._path.stat()
        except OSError:
            return True
        self._size_bytes = status.st_size
        return (status.st_dev, status.st_ino) != self._identity

    def _is_deleted(self) -> bool:
        """Tell whether our file has no name any more; one that only has another name keeps its lines."""
        is_deleted = os.fstat(self._fd).st_nlink == 0
        self.close()
        return is_deleted

    def _close_off_torn_line(self, fd: int, size_bytes: int) -> None:
        """Move what follows the last line end to ``PATH.torn``: never acknowledged, but perhaps evidence."""
        if not size_bytes or os.pread(fd, 1, size_bytes - 1) == b"\n":
            return
        good_bytes = _end_of_last_line(fd, size_bytes)
        if size_bytes - good_bytes > TORN_MAX_BYTES:
            raise BackendUnavailable(self.name, 0.0, "not a file of lines")
        torn = os.pread(fd, size_bytes - good_bytes, good_bytes)
        # Path.open takes no opener, and only an opener can set the permissions.
        with open(f"{self._path}.torn", "ab", buffering=0, opener=_private) as side:
            side.write(torn + b"\n")
            os.fsync(side.fileno())
        os.ftruncate(fd, good_bytes)
        os.fsync(fd)

    def _rotate(self) -> None:
        """Rename the file to the next number and go on with a new one; growing numbers need one rename."""
        numbers = self._rotated_numbers()
        try:
            self._path.rename(self._rotated(numbers[-1] + 1 if numbers else 1))
            for number in numbers[: max(len(numbers) + 1 - self._settings.keep_files_count, 0)]:
                self._rotated(number).unlink()
        except OSError as error:
            # Growing beyond the limit is better than not storing.
            self.warning = f"rotation failed: {error.strerror}"
            if self._path.exists():
                return
        else:
            self.warning = ""
        self.open()

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number:0{_DIGITS}d}")

    def _rotated_numbers(self) -> list[int]:
        prefix = f"{self._path.name}."
        names = [entry.name for entry in self._path.parent.iterdir() if entry.name.startswith(prefix)]
        endings = [name.removeprefix(prefix) for name in names]
        return sorted(int(ending) for ending in endings if len(ending) == _DIGITS and ending.isdigit())


def _end_of_last_line(fd: int, size_bytes: int) -> int:
    """Return the offset behind the last line end; gives up after :data:`TORN_MAX_BYTES`."""
    end = size_bytes
    while end > 0 and size_bytes - end <= TORN_MAX_BYTES:
        begin = max(end - _BLOCK_BYTES, 0)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return end


def _probe(fd: int) -> None:
    """Ask for space, so that a disk that is still full is not called available.

    Raises: OSError: there is none.
    """
    size_bytes = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, size_bytes, PROBE_BYTES)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
    finally:
        os.ftruncate(fd, size_bytes)


def _sync_directory(folder: Path) -> None:
    """Make the file's name survive a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, MODE)
