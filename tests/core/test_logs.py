"""Log lines: one per event, for machines or for people, and never a way to forge another."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from sojourn.core.events import EventKind, Events
from sojourn.core.logs import LogView
from sojourn.core.settings import LogSettings
from sojourn.testing import ManualClock

NOTED = EventKind("test.noted", ("peer", "error"))
SERIOUS = EventKind("test.serious", ("error",), level="error")
SESSION = SimpleNamespace(id="lab-1f")


@pytest.fixture
def log():
    """Return events, and what reads the lines that they became."""

    def make(worker=None, **settings):
        events, stream = Events(ManualClock()), io.BytesIO()
        events.add_view(LogView(LogSettings(**settings), events.unix_time, stream, worker=worker))

        def lines():
            events.flush()
            return stream.getvalue().decode().splitlines()

        return events, lines

    return make


def test_a_json_line_has_time_level_event_session_and_values(log):
    """One object per line; RFC 3339 in UTC."""
    events, lines = log(format="json")
    events.emit(NOTED, SESSION, "192.0.2.1", "found a, wanted b")
    (line,) = map(json.loads, lines())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "test.noted",
        "session": "lab-1f",
        "peer": "192.0.2.1",
        "error": "found a, wanted b",
    }


def test_each_line_of_a_worker_says_which_one_wrote_it(log):
    """Several processes write to one log, and their sessions have the same numbers."""
    events, lines = log(worker=0, format="json")
    events.emit(NOTED, SESSION, "192.0.2.1", "found a\udcff, wanted b")
    events.emit(SERIOUS, None, "c")
    assert [json.loads(line)["worker"] for line in lines()] == [0, 0]
    events, lines = log(worker=3)
    events.emit(SERIOUS, None, "c")
    (line,) = lines()
    assert "worker=3" in line


def test_less_important_lines_are_left_out(log):
    """``level`` is the least that is written."""
    events, lines = log(format="json", level="warning")
    events.emit(NOTED, None, "a", "b")
    events.emit(SERIOUS, None, "c")
    assert [json.loads(line)["event"] for line in lines()] == ["test.serious"]


def test_a_flood_of_the_same_is_one_line_with_a_count(log):
    """Only where no session is concerned: those are told one by one."""
    events, lines = log(format="json")
    for _ in range(1_000):
        events.emit(NOTED, None, "192.0.2.1", "refused")
    events.emit(NOTED, None, "192.0.2.2", "refused")
    for _ in range(2):
        events.emit(NOTED, SESSION, "192.0.2.2", "refused")
    counts = [json.loads(line).get("count", 1) for line in lines()]
    assert counts == [1_000, 1, 1, 1]


@pytest.mark.parametrize("kind", ["json", "console"])
def test_nothing_that_a_peer_sent_can_forge_a_line_or_steer_a_terminal(log, kind):
    """Line ends, escapes and half characters are shown, not obeyed."""
    events, lines = log(format=kind)
    events.emit(NOTED, None, "\x1b[31m\n2026 [error] forged", "\udcff surrogate")
    written = lines()
    assert len(written) == 1
    assert "\x1b[31m" not in written[0]
    assert "forged" in written[0]


def test_a_console_line_is_for_people(log):
    """Level, event and values, without colours where there is no terminal."""
    events, lines = log(format="console")
    events.emit(NOTED, SESSION, "192.0.2.1", "refused")
    (line,) = lines()
    for word in ("info", "test.noted", "session=lab-1f", "peer=192.0.2.1", "error=refused"):
        assert word in line
    assert "\x1b" not in line


def test_a_file_is_appended_to(tmp_path):
    """And closed with the view."""
    path = tmp_path / "sojourn.log"
    for number in range(2):
        events = Events(ManualClock())
        view = LogView(LogSettings(file=str(path), format="json"), events.unix_time)
        events.add_view(view)
        events.emit(NOTED, None, "a", number)
        events.flush()
        view.close()
    assert [json.loads(line)["error"] for line in path.read_text().splitlines()] == [0, 1]
