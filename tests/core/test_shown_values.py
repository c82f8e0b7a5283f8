"""What an event carries and what of it is shown are two things."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.core.events import EventKind, Events
from sojourn.core.logs import LogView
from sojourn.core.settings import LogSettings


@pytest.fixture
def kind() -> Iterator[EventKind]:
    """Give a kind of event whose second value must not be shown as it is."""
    one = EventKind("test.shown", ("user", "request"), shown={"request": lambda value: value[:1] + "***"})
    yield one
    EventKind.all.remove(one)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_shows_what_may_be_shown(kind: EventKind, form: str) -> None:
    """The renderer of a field is applied by whoever shows it; the event keeps what happened."""
    events, stream = Events(lambda: 0.0), io.BytesIO()
    events.add_view(LogView(LogSettings(format=form), events.unix_time, stream))  # type: ignore[arg-type]
    events.emit(kind, None, "ana", "secret")
    events.flush()
    line = stream.getvalue().decode()
    assert "s***" in line
    assert "secret" not in line
    assert events.recent[0].values == ("ana", "secret")
    assert events.recent[0].fields() == {"user": "ana", "request": "s***"}


def test_what_a_peer_sent_does_not_steer_the_terminal(kind: EventKind) -> None:
    """Control characters in a value become escapes."""
    events, stream = Events(lambda: 0.0), io.BytesIO()
    events.add_view(LogView(LogSettings(format="console"), events.unix_time, stream))
    events.emit(kind, None, "\x1b[2Jana", "x")
    events.flush()
    assert b"\x1b[2J" not in stream.getvalue()
    assert b"\\x1b[2Jana" in stream.getvalue()


def test_a_log_that_was_moved_away_goes_on_in_a_new_file(kind: EventKind, tmp_path: Path) -> None:
    """As after logrotate: the lines before are in the old file, those after in the new one."""
    file, moved = tmp_path / "log", tmp_path / "log.1"
    events = Events(lambda: 0.0)
    view = LogView(LogSettings(format="json", file=str(file)), events.unix_time)
    events.add_view(view)
    for user in ("ana", "ben"):
        events.emit(kind, None, user, "x")
        events.flush()
        if user == "ana":
            file.rename(moved)
            view.reopen()
    view.close()
    assert [json.loads(one.read_text())["user"] for one in (moved, file)] == ["ana", "ben"]
