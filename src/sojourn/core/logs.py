"""Log lines: the view of events that goes to a file or to standard error, through structlog.

Knows nothing of who emits. Lines are made in batches after the answers are out; repetitions of the same event are
folded into one line with a count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import IO, Any

import msgspec
import structlog

from sojourn.core.events import Event, folded
from sojourn.core.settings import LogSettings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_encode_json = msgspec.json.Encoder(enc_hook=str).encode


class LogView:
    """Writes events as lines.

    Life: made by the application from ``[log]``; closed with it. Always true: one ``write`` per batch.
    """

    def __init__(self, settings: LogSettings, unix_time: Callable[[float], float], stream: IO[bytes] | None = None) -> None:
        self._unix_time = unix_time
        self._least = LEVELS[settings.level]
        self._owns_stream = stream is None and bool(settings.file)
        if stream is not None:
            self._stream = stream
        elif settings.file:
            self._stream = open(settings.file, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        else:
            self._stream = sys.stderr.buffer
        self._render = _render_json if settings.format == "json" else _console_renderer(self._stream)
        self._second = 0
        self._stamp = ""

    def __call__(self, batch: Sequence[Event]) -> None:
        """Write one line per event that is important enough."""
        least = self._least
        lines: list[bytes] = []
        for event, count in folded(batch):
            kind, at, session, values = event
            if LEVELS[kind.level] < least:
                continue
            line: dict[str, Any] = {"timestamp": self._time(at), "level": kind.level, "event": kind.name}
            if session is not None:
                line["session"] = session
            line.update(zip(kind.fields, values, strict=True))
            if count > 1:
                line["count"] = count
            lines.append(self._render(line))
        if lines:
            self._stream.write(b"".join(lines))
            self._stream.flush()

    def _time(self, at: float) -> str:
        """Return RFC 3339 with milliseconds; the part that changes once a second is made once a second."""
        unix = self._unix_time(at)
        second = int(unix)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._stamp}{int((unix - second) * 1000):03d}Z"

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._owns_stream:
            self._stream.close()


def _render_json(line: dict[str, Any]) -> bytes:
    return _encode_json(line) + b"\n"


def _console_renderer(stream: IO[bytes]) -> Callable[[dict[str, Any]], bytes]:
    """Return structlog's renderer for people, with colours where a terminal shows them."""
    render = structlog.dev.ConsoleRenderer(colors=stream.isatty())

    def to_bytes(line: dict[str, Any]) -> bytes:
        return (str(render(None, line["level"], line)) + "\n").encode()

    return to_bytes
