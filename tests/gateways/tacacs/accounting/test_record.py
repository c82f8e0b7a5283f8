"""Records: words instead of numbers, the device's arguments untouched, ids that nobody else has."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from sojourn.gateways.tacacs.accounting import RecordMaker
from sojourn.gateways.tacacs.accounting.record import RecordIds, printable
from sojourn.gateways.tacacs.messages import AcctFlag


def test_numbers_of_the_wire_become_words(make_record) -> None:
    """RFC 8907 sections 5.1 and 7.1 name them."""
    record = make_record()
    assert (record.flags, record.authen_method, record.authen_type, record.authen_service) == (
        "stop", "tacacsplus", "ascii", "login",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (AcctFlag.START, "start"),
        (AcctFlag.STOP, "stop"),
        (AcctFlag.WATCHDOG, "watchdog"),
        (AcctFlag.WATCHDOG_UPDATE, "update"),
    ],
)
def test_each_valid_kind_of_record_has_a_word(make_record, flags: int, word: str) -> None:
    """RFC 8907 section 7.2 table 2: 2, 4, 8 and A."""
    assert make_record(flags=flags).flags == word


def test_arguments_keep_their_order_and_duplicates(make_record) -> None:
    """RFC 8907 section 6.1: order is the client's; the first of a name is lifted out."""
    args = ("cmd=copy", "cmd-arg=a", "task_id=2", "cmd-arg=b", "task_id=1", "x*y=z")
    record = make_record(*args)
    assert record.args == args
    assert record.task_id == "2"
    assert record.cmd == "copy a b"


def test_numbers_are_lifted_only_where_they_are_numbers(make_record) -> None:
    """A device's claim of any other form stays in the arguments alone."""
    no_numbers = ("bytes_in=many", "paks=" + "9" * 19, "bytes=٣")
    record = make_record("elapsed_time=31", "start_time*1700000000", *no_numbers)
    assert (record.elapsed_time, record.start_time) == (31, 1_700_000_000)
    assert record.bytes_in is record.paks is record.bytes is None


def test_the_first_separator_ends_the_name(make_record) -> None:
    """RFC 8907 section 6.1: the value may contain both separators."""
    record = make_record("reason*a=b", "event=c*d")
    assert (record.reason, record.event) == ("a=b", "c*d")


def test_what_is_not_printable_is_shown_as_its_number(make_record) -> None:
    """A line end must not forge a line, a NUL must not spoil a batch for PostgreSQL."""
    record = make_record("cmd=a\nb\x00\udcff", user="e\x1b[0mve")
    assert record.args == ("cmd=a\\x0ab\\x00\\xff",)
    assert record.user == "e\\x1b[0mve"
    assert printable("\u2028\ud800\U000e0001é") == "\\u2028\\ud800\\U000e0001é"
    msgspec.json.encode(record)


def test_absent_arguments_take_no_room_in_the_json_line(make_record) -> None:
    """Only what the device sent is there."""
    line = msgspec.json.decode(msgspec.json.encode(make_record("task_id=1")))
    assert "elapsed_time" not in line
    assert line["task_id"] == "1"
    assert line["stored_at"].endswith("Z")


def test_ids_grow_and_never_repeat_even_when_the_clock_goes_back() -> None:
    """RFC 9562 section 6.2: monotonic within a node; a step of the wall clock must not make duplicates."""
    ids = RecordIds()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    steps = [timedelta(milliseconds=step) for step in (0, 0, 1, -5000, 0, 2) for _ in range(500)]
    made = [ids.next(now + step) for step in steps]
    assert made == sorted(set(made))


def test_ids_are_uuids_of_version_seven() -> None:
    """RFC 9562 section 5.7: time, version, variant."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = uuid.UUID(RecordIds().next(now))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == int(now.timestamp() * 1000)


def test_records_are_stamped_by_the_clock_that_was_given(make_request) -> None:
    """Only the application's floor asks the system for the time."""
    noon = datetime(2026, 5, 17, 12, tzinfo=UTC)
    maker = RecordMaker("n", lambda: noon)
    record = maker.make(make_request(), device="d", device_address="::1", session_id=1)
    assert record.stored_at == noon
