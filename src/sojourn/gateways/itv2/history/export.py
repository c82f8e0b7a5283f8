"""Entries as CSV and as JSON lines, for files and for other programs.

CSV is opened by spreadsheets, which run what looks like a formula: a label that begins like one gets an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from sojourn.gateways.itv2.history.records import PAGE_LIMIT_COUNT, Entry, HistoryQuery, Page

ExportFormat = Literal["csv", "jsonl"]

COLUMNS: Final = (
    "time",
    "panel",
    "kind",
    "source",
    "partition",
    "partition_label",
    "zone",
    "zone_label",
    "user",
    "user_label",
    "asker",
    "panel_time",
    "is_approximate",
    "detail",
)
FORMULA_BEGINS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet calculate. Source: OWASP, CSV Injection."""

CONTENT_TYPES: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


def time_text(at_ms: int) -> str:
    """Return a moment as ISO 8601 in UTC, to the millisecond; the bare number where no calendar has it."""
    try:
        moment = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return str(at_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA_BEGINS) else text


def header(form: ExportFormat) -> bytes:
    """Return what stands in front of the entries."""
    return _csv([COLUMNS]) if form == "csv" else b""


def lines(entries: Sequence[Entry], form: ExportFormat) -> bytes:
    """Return entries as lines."""
    if form == "csv":
        return _csv([_cells(entry) for entry in entries])
    return b"".join(
        _encode({"time": time_text(entry.at_ms), **msgspec.structs.asdict(entry)}) + b"\n"
        for entry in entries
    )


def export_pages(
    search: Callable[[HistoryQuery], Page], query: HistoryQuery, form: ExportFormat
) -> Iterator[bytes]:
    """Yield everything that a query finds, a page at a time; ``limit_count`` is not a limit here.

    Between two pages nothing is held open, so an export of hours keeps no log from being cut.
    """
    yield header(form)
    query = msgspec.structs.replace(query, limit_count=PAGE_LIMIT_COUNT)
    while True:
        page = search(query)
        if page.entries:
            yield lines(page.entries, form)
        if not page.cursor:
            return
        query = msgspec.structs.replace(query, cursor=page.cursor)


def _cells(entry: Entry) -> list[Any]:
    values = msgspec.structs.asdict(entry)
    values["time"] = time_text(entry.at_ms)
    values["is_approximate"] = "yes" if entry.is_approximate else "no"
    values["detail"] = _encode(entry.detail).decode() if entry.detail else ""
    return [safe_cell(value) if isinstance(value, str) else value for value in map(values.get, COLUMNS)]


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
