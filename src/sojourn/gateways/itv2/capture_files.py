"""Captures that the daemon writes: one file per connection in a folder, anonymised, within bounds of size and age.

For bug reports, off unless configured. A capture must not disturb what it looks at: whatever fails here is told once
and ends that capture, and the panel is served as if there were none. Files are written where the loop runs, as a panel
says a few packets per second at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sojourn.core.clock import Clock, WallClock
from sojourn.core.events import EventKind, Events
from sojourn.errors import LimitExceeded, SojournError
from sojourn.gateways.itv2.capture import Anonymiser, CaptureSink, CapturingCodec, Direction

if TYPE_CHECKING:
    from sojourn.gateways.itv2.config import CaptureSettings
    from sojourn.gateways.itv2.messages import Packet

CAPTURE_FAILED: Final = EventKind("itv2.capture_failed", ("file", "cause"), level="warning")
"""A connection is not captured any further; its panel is served all the same."""

_DAY_S: Final = 86_400.0
_NAMES: Final = "itv2-*.jsonl"
_SAME_SECOND_COUNT: Final = 1_000


class CaptureFolder:
    """The folder with the captures of all connections; all that it remembers is in the folder.

    Always true: when a file has been begun, there are at most ``files_count``, and none was last written to more than
    ``keep_days`` ago. No file is longer than ``file_bytes``.
    """

    def __init__(
        self,
        settings: CaptureSettings,
        events: Events,
        *,
        clock: Clock,
        wall_clock: WallClock,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._events = events
        self._wall_clock = wall_clock

    def codec(self, is_wanted: Callable[[bytes], bool]) -> CapturingCodec:
        """Return a connection's codec that writes a file of its own, once there is something to write.

        Args:
            is_wanted: says of a packet's header if it is of a panel to capture.
        """
        return _FileCodec(CaptureFile(self), is_wanted)

    def begin(self) -> Path:
        """Make room and return a new file, which only this user may read. Raises: OSError; LimitExceeded."""
        folder = Path(self.settings.directory)
        now = self._wall_clock()
        self._make_room(folder, now.timestamp())
        for number in range(1, _SAME_SECOND_COUNT):
            # No name and no id of a panel: the file is made to be shown.
            file = folder / f"itv2-{now:%Y%m%dT%H%M%SZ}-{number}.jsonl"
            with suppress(FileExistsError):
                file.touch(mode=0o600, exist_ok=False)
                return file
        raise LimitExceeded("captures begun in one second", _SAME_SECOND_COUNT, _SAME_SECOND_COUNT - 1)

    def _make_room(self, folder: Path, now_s: float) -> None:
        oldest_s = now_s - self.settings.keep_days * _DAY_S
        files = sorted((file.stat().st_mtime, file) for file in folder.glob(_NAMES))
        spare = max(0, len(files) + 1 - self.settings.files_count)
        for index, (written_s, file) in enumerate(files):
            if index < spare or written_s < oldest_s:
                file.unlink(missing_ok=True)

    def failed(self, file: Path | None, error: Exception) -> None:
        """Tell why a connection is not captured any further; never shows what was to be written."""
        is_told = isinstance(error, (OSError, SojournError))
        cause = str(getattr(error, "strerror", None) or error) if is_told else type(error).__name__
        self._events.emit(CAPTURE_FAILED, None, str(file or self.settings.directory), cause)


class CaptureFile:
    """The file of one connection, begun with its first line and open for one line at a time.

    Life: as the connection's, of whose end nobody tells. Always true: after a failure nothing more is written.
    """

    def __init__(self, folder: CaptureFolder) -> None:
        self._folder = folder
        self._file: Path | None = None
        self._writer: CaptureSink | None = None
        self._left_bytes = folder.settings.file_bytes
        self._is_over = False

    def note(self, direction: Direction, data: bytes) -> None:
        """Write a line. Raises: OSError; LimitExceeded if the file would get too long."""
        if self._is_over:
            return
        if self._writer is None:
            from sojourn.testing.capture import CaptureWriter  # noqa: PLC0415 - loaded by who captures, by no other

            self._file = self._folder.begin()
            self._writer = CaptureWriter(self, self._folder.clock)  # type: ignore[arg-type]  # it does nothing but write
        self._writer.note(direction, data)

    def write(self, line: bytes) -> None:
        """Append what is a line. Raises: as ``note``."""
        assert self._file is not None  # noqa: S101 - begun before its first line
        limit_bytes = self._folder.settings.file_bytes
        if len(line) > self._left_bytes:
            raise LimitExceeded("bytes of a capture", limit_bytes - self._left_bytes + len(line), limit_bytes)
        self._left_bytes -= len(line)
        with open(self._file, "ab", opener=_open_if_there) as stream:
            stream.write(line)

    def fail(self, error: Exception) -> None:
        """Tell of a failure, once."""
        if not self._is_over:
            self._is_over = True
            self._folder.failed(self._file, error)


def _open_if_there(path: str, flags: int) -> int:
    """Open a file that may have been deleted to make room: it must not come back, and not with other rights."""
    return os.open(path, flags & ~os.O_CREAT)


class _FileCodec(CapturingCodec):
    """A connection's codec that writes a capture as long as nothing fails."""

    __slots__ = ("_capture", "_is_wanted")

    def __init__(self, capture: CaptureFile, is_wanted: Callable[[bytes], bool]) -> None:
        super().__init__(capture, Anonymiser())
        self._capture = capture
        self._is_wanted = is_wanted

    def _note(self, direction: Direction, header: bytes, packet: Packet) -> None:
        if not self._is_wanted(header):
            return
        try:
            super()._note(direction, header, packet)
        except Exception as error:  # noqa: BLE001 - see the module: the panel is served all the same
            self._capture.fail(error)
