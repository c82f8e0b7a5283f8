"""What was on the wire can be written down and read again."""

from __future__ import annotations

import io

import pytest

from sojourn.errors import ConfigError, WireError
from sojourn.sansio.framing import HeaderFraming, LineFraming
from sojourn.testing import CaptureWriter, ManualClock, read_capture, replay


def capture_of(tmp_path, *pieces):
    path, clock = tmp_path / "connection.jsonl", ManualClock()
    with path.open("wb") as stream:
        writer = CaptureWriter(stream, clock)
        for direction, data in pieces:
            writer.note(direction, data)
            clock.advance(0.5)
    return path


def test_a_capture_is_read_as_it_was_written(tmp_path):
    """JSON lines of at_s, direction and hex."""
    path = capture_of(tmp_path, ("in", b"\x00\xff"), ("out", b"ok"))
    assert path.read_text().splitlines() == [
        '{"at_s":0.0,"direction":"in","hex":"00ff"}',
        '{"at_s":0.5,"direction":"out","hex":"6f6b"}',
    ]
    lines = read_capture(path)
    assert [(line.at_s, line.direction, line.data) for line in lines] == [
        (0.0, "in", b"\x00\xff"),
        (0.5, "out", b"ok"),
    ]


def test_a_replay_cuts_each_direction_by_itself(tmp_path):
    """A packet ends where its own direction completes it; its time is that of its last piece."""
    path = capture_of(tmp_path, ("in", b"he"), ("out", b"wel"), ("in", b"llo\nand"), ("out", b"come\n"))
    replayed = list(replay(read_capture(path), LineFraming))
    assert [(row.at_s, row.direction, row.message) for row in replayed] == [
        (1.0, "in", b"hello"),
        (1.5, "out", b"welcome"),
    ]


def test_a_replay_reads_messages_and_yields_errors_in_their_place(tmp_path):
    """A bad message is shown and the next is read; bad bytes end their direction."""

    def framing():
        return HeaderFraming("!B", length=0, max_length_bytes=9)

    def read(direction, packet):
        if packet.body == b"bad":
            raise WireError("bad", "good", "the test")
        return direction, packet.body

    path = capture_of(tmp_path, ("in", b"\3bad\2ok\xff"), ("in", b"\2no"), ("out", b"\1x"))
    messages = [row.message for row in replay(read_capture(path), framing, read)]
    assert isinstance(messages[0], WireError)
    assert messages[1] == ("in", b"ok")
    assert isinstance(messages[2], WireError)
    assert messages[3:] == [("out", b"x")]


def test_every_bad_line_is_told_with_its_number(tmp_path):
    """All problems at once, never the first only."""
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"at_s":0,"direction":"in","hex":"00"}\n{"at_s":0}\n\n{"at_s":0,"direction":"in","hex":"0"}\n'
    )
    with pytest.raises(ConfigError) as error:
        read_capture(path)
    assert [problem.line for problem in error.value.problems] == [2, 4]


def test_the_writer_leaves_the_stream_open():
    """Whoever opened it closes it."""
    stream = io.BytesIO()
    CaptureWriter(stream, ManualClock()).note("out", memoryview(b"abc"))
    assert stream.getvalue().endswith(b'"hex":"616263"}\n')
