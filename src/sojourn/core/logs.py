"""Log lines: the view of events that goes to a file or to standard error.

Knows nothing of who emits. Lines are made in batches after the answers are out; repetitions of the same event that
concern no session are folded into one line with a count. JSON lines are encoded by msgspec in one call per batch
(1.3 us a line; structlog's chain of processors costs 4 us), lines for people are structlog's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

from sojourn.core.events import Event, EventKind
from sojourn.core.settings import LogSettings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_EPOCH = datetime.fromtimestamp(0, UTC)
_encode_lines = msgspec.json.Encoder(enc_hook=str).encode_lines


class LogView:
    """Writes events as lines.

    Life: made by the application from ``[log]``; closed with it. Always true: one ``write`` per batch.

    Args:
        settings: ``[log]``.
        unix_time: makes seconds since 1970 of an event's moment.
        stream: where lines go instead of what the settings say.
        worker: which of several processes this is that write to one log; each of its lines says so.
    """

    def __init__(
        self,
        settings: LogSettings,
        unix_time: Callable[[float], float],
        stream: IO[bytes] | None = None,
        *,
        worker: int | None = None,
    ) -> None:
        self._unix_time = unix_time
        self._least = LEVELS[settings.level]
        self._file = settings.file if stream is None else ""
        if stream is not None:
            self._stream = stream
        elif settings.file:
            self._stream = _opened(settings.file)
        else:
            self._stream = sys.stderr.buffer
        self._render = _encode_lines if settings.format == "json" else _console_renderer(self._stream)
        self._shapes = _Shapes(worker)

    def __call__(self, batch: Sequence[Event]) -> None:
        """Write one line per event that is important enough."""
        offset = self._unix_time(0.0)
        shapes, least = self._shapes, self._least
        lines: list[msgspec.Struct] = []
        last: Event | None = None
        tick, at = -1, _EPOCH
        for event in batch:
            kind, session = event.kind, event.session
            level, line_of = shapes[kind]
            if level < least:
                continue
            if session is None:
                if last is not None and last.kind is kind and last.values == event.values:
                    lines[-1].count += 1  # type: ignore[attr-defined]  # every shape has it
                    continue
                last = event
                name = ""
            else:
                last = None
                name = session.id
            if int(event.at * 1000) != tick:  # events of one millisecond share its stamp
                tick = int(event.at * 1000)
                at = datetime.fromtimestamp(event.at + offset, UTC)
            lines.append(line_of(at, kind.level, kind.name, *event.values, name))
        if lines:
            try:
                data = self._render(lines)
            except UnicodeEncodeError:
                data = self._render([_encodable(line) for line in lines])
            self._stream.write(data)
            self._stream.flush()

    def reopen(self) -> None:
        """Go on in a new file of the same name, where somebody has moved ours away.

        Raises: OSError if there cannot be one; lines then go on into the old one.
        """
        if self._file:
            before, self._stream = self._stream, _opened(self._file)
            before.close()

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._file:
            self._stream.close()


def _opened(file: str) -> IO[bytes]:
    return Path(file).open("ab", buffering=0)


class _Shapes(dict[EventKind, tuple[int, Callable[..., msgspec.Struct]]]):
    """Per kind of event its level as a number and the struct of its line, whose tag is the worker."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._tag: dict[str, Any] = {} if worker is None else {"tag_field": "worker", "tag": worker}

    def __missing__(self, kind: EventKind) -> tuple[int, Callable[..., msgspec.Struct]]:
        shape = msgspec.defstruct(
            "Line",
            [
                ("timestamp", datetime),
                ("level", str),
                ("event", str),
                *((name, Any) for name in kind.fields),
                ("session", str, ""),
                ("count", int, 1),
            ],
            omit_defaults=True,
            gc=False,
            **self._tag,
        )
        self[kind] = (LEVELS[kind.level], _masking(kind, shape) if kind.shown else shape)
        return self[kind]


def _masking(kind: EventKind, shape: Callable[..., msgspec.Struct]) -> Callable[..., msgspec.Struct]:
    """Return what makes a line whose values are as they may be shown."""
    changes = [(kind.fields[index], show) for index, show in kind.shown]

    def line_of(*values: Any) -> msgspec.Struct:
        # Changed in place: a changed copy of the values costs twice as much.
        line = shape(*values)
        for name, show in changes:
            setattr(line, name, show(getattr(line, name)))
        return line

    return line_of


def _encodable(line: msgspec.Struct) -> msgspec.Struct:
    """Return a line without the halves of characters that a peer's bytes may have left in it."""
    texts = {
        name: value.encode(errors="backslashreplace").decode()
        for name, value in msgspec.structs.asdict(line).items()
        if isinstance(value, str)
    }
    return msgspec.structs.replace(line, **texts)


def _console_renderer(stream: IO[bytes]) -> Callable[[Sequence[Any]], bytes]:
    """Return structlog's renderer for people, with colours where a terminal shows them."""
    render = structlog.dev.ConsoleRenderer(colors=stream.isatty())

    def to_bytes(lines: Sequence[Any]) -> bytes:
        texts = []
        for line in lines:
            fields = msgspec.structs.asdict(line)
            fields["timestamp"] = line.timestamp.isoformat(timespec="milliseconds")
            for name, default in (("session", ""), ("count", 1)):
                if fields[name] == default:
                    del fields[name]
            if line.__struct_config__.tag is not None:
                fields["worker"] = line.__struct_config__.tag
            for name, value in fields.items():
                # What a peer sent must not steer the terminal of whoever watches.
                if isinstance(value, str) and not value.isprintable():
                    fields[name] = ascii(value)[1:-1]
            texts.append(str(render(None, line.level, fields)) + "\n")
        return "".join(texts).encode()

    return to_bytes
