"""CSV and JSON lines of the history."""

from __future__ import annotations

import csv
import io
import json

import pytest

from sojourn.gateways.itv2.history.export import COLUMNS, header, lines, safe_cell, time_text
from sojourn.gateways.itv2.history.records import Entry

ENTRY = Entry(
    id=1,
    panel="house",
    at_ms=1_767_225_600_123,
    source="live",
    kind="zone_opened",
    partition=None,
    partition_label="",
    zone=3,
    zone_label='=HYPERLINK("http://evil","Door")',
    user=None,
    user_label="@ana",
    asker="",
    panel_time=None,
    is_approximate=False,
    detail={"seconds": 5},
)


def test_csv_has_a_column_for_everything_and_times_people_can_read() -> None:
    """RFC 4180, with a header."""
    rows = list(csv.reader(io.StringIO((header("csv") + lines([ENTRY], "csv")).decode(), newline="")))
    assert tuple(rows[0]) == COLUMNS
    row = dict(zip(*rows, strict=True))
    assert row["time"] == "2026-01-01T00:00:00.123Z"
    assert (row["zone"], row["partition"], row["is_approximate"]) == ("3", "", "no")
    assert json.loads(row["detail"]) == {"seconds": 5}


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_label_is_never_a_formula(begin: str) -> None:
    """OWASP, CSV injection: who names a zone must not run programs on the desk of who reads the history."""
    assert safe_cell(f"{begin}1+1") == f"'{begin}1+1"


def test_labels_in_csv_are_safe() -> None:
    """Every text of a row goes that way."""
    rows = list(csv.reader(io.StringIO(lines([ENTRY], "csv").decode(), newline="")))
    assert rows[0][COLUMNS.index("zone_label")].startswith("'=HYPER")
    assert rows[0][COLUMNS.index("user_label")] == "'@ana"


def test_json_lines_have_the_values_as_they_are() -> None:
    """Programs want the label, not its disguise."""
    line = json.loads(lines([ENTRY], "jsonl"))
    assert line["time"] == "2026-01-01T00:00:00.123Z"
    assert line["zone_label"] == ENTRY.zone_label
    assert line["detail"] == {"seconds": 5}


def test_a_time_that_no_calendar_has_is_a_number() -> None:
    """A clock of ours that ran away must not break an export."""
    assert time_text(10**17) == str(10**17)
