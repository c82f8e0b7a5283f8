"""A trace as a sequence diagram of characters: parties as lifelines, an arrow or a note a line, for a terminal's width.

Pure; what has no room for lifelines is told as ``sojourn trace`` tells it. Units: widths are in cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Final, NamedTuple

from rich.cells import cell_len

from sojourn.admin.rendering import ends, entry_text, outcome, parties_of, printable
from sojourn.admin.view import SessionRow, TraceEntry
from sojourn.cli.top_lines import Line, Tone, cut, cut_line, lasting_words

PARTIES_COUNT: Final = 6
"""Lifelines at most; a session has two or three, a forged trace could have thousands."""
LEAST_GAP: Final = 22
"""Between two lifelines; nearer, their arrows would have no room for words."""
MOST_GAP: Final = 56
PAUSE_S: Final = 1.0
"""A wait that is worth a line of its own."""
_TIME: Final = 12
_MARGIN: Final = 8


class Row(NamedTuple):
    """One line of a diagram: an entry, or how long nothing came; neither is how the session ended."""

    entry: TraceEntry | None = None
    waited_s: float = 0.0


class Canvas:
    """One line of cells, drawn from left to right or over each other; what does not fit is cut off."""

    def __init__(self, width: int) -> None:
        self._cells: list[tuple[str, Tone]] = [(" ", "plain")] * width

    def put(self, at: int, text: str, tone: Tone) -> None:
        """Draw a text; its characters may be two cells wide, or none."""
        for character in text:
            size = cell_len(character)
            if at < 0 or at + size > len(self._cells):
                return
            if size == 0:
                before, known = self._cells[max(at - 1, 0)]
                self._cells[max(at - 1, 0)] = before + character, known
                continue
            self._cells[at : at + size] = [(character, tone), *[("", tone)] * (size - 1)]
            at += size

    def line(self) -> Line:
        """Return what was drawn, neighbours of one tone together."""
        return [
            ("".join(text for text, _ in cells), tone)
            for tone, cells in groupby(self._cells, key=lambda cell: cell[1])
        ]


class Diagram:
    """A session's diagram at one width. Life: made anew whenever the parties or the width change."""

    def __init__(self, session: SessionRow, entries: Iterable[TraceEntry], width: int) -> None:
        self._session = session
        self._width = width
        self._parties = _few(parties_of(entries, session), session.gateway)
        count = len(self._parties)
        gap = (width - _TIME - 2 * _MARGIN) // max(1, count - 1)
        self._has_lifelines = gap >= LEAST_GAP
        gap = min(gap, MOST_GAP)
        self._places = {name: _TIME + _MARGIN + index * gap for index, name in enumerate(self._parties)}

    def head(self) -> Line:
        """Return the names over the lifelines; the session's own line where there is no room for them."""
        session = self._session
        if not self._has_lifelines:
            return cut_line([(printable(f"{session.peer} and {session.gateway}"), "strong")], self._width)
        canvas = Canvas(self._width)
        room = 2 * _MARGIN + 4
        for name, place in self._places.items():
            text = cut(name, min(cell_len(printable(name)), room))
            canvas.put(max(0, place - cell_len(text) // 2), text, "strong")
        return canvas.line()

    def line(self, row: Row) -> Line:
        """Return the line of a row."""
        if row.entry is not None:
            return self._entry(row.entry)
        if row.waited_s:
            return self._note(None, f"{lasting_words(row.waited_s)} pass", "dim")
        session = self._session
        words = (
            f"ended after {(session.ended or session.started) - session.started:.3f} s: {outcome(session)}"
        )
        return self._note(None, words, "bad" if session.state == "failed" else "good")

    def _entry(self, entry: TraceEntry) -> Line:
        tone: Tone = "bad" if entry.kind == "error" else "plain"
        if not self._has_lifelines:
            return cut_line([(entry_text(entry, self._session.started).strip(), tone)], self._width)
        source, target = (self._places.get(name) for name in ends(entry, self._session))
        words = printable(f"{entry.name} {entry.text}".strip())
        at = f"{entry.at - self._session.started:+.3f} s"
        if entry.kind not in {"in", "out"} or source is None or target is None or source == target:
            return self._note(source, words, "bad" if entry.kind == "error" else "warn", at)
        canvas = self._lifelines(at)
        left, right = sorted((source, target))
        room = right - left - 1
        is_forward = source < target
        canvas.put(left + 1, "─" * room, "spark")
        canvas.put(right - 1 if is_forward else left + 1, "▶" if is_forward else "◀", "spark")
        label = cut(words, min(cell_len(words), room - 6))
        canvas.put(left + 1 + (room - cell_len(label) - 2) // 2, f" {label} ", tone)
        return canvas.line()

    def _note(self, place: int | None, words: str, tone: Tone, at: str = "") -> Line:
        """Write words beside a lifeline, on whichever side there is more room."""
        words = printable(words)
        if not self._has_lifelines:
            return cut_line([(words, tone)], self._width)
        canvas = self._lifelines(at)
        where = _TIME + _MARGIN if place is None else place
        right, left = self._width - where - 2, where - _TIME - 2
        if right >= min(left, cell_len(words)):
            canvas.put(where + 2, cut(words, min(cell_len(words), right)), tone)
        else:
            text = cut(words, min(cell_len(words), left))
            canvas.put(where - 1 - cell_len(text), text, tone)
        return canvas.line()

    def _lifelines(self, at: str) -> Canvas:
        canvas = Canvas(self._width)
        canvas.put(0, at.rjust(_TIME - 1), "dim")
        for place in self._places.values():
            canvas.put(place, "│", "dim")
        return canvas


def _few(parties: list[str], gateway: str) -> list[str]:
    """Return as many parties as have room, the gateway among them."""
    place = parties.index(gateway)
    return [*parties[: min(place, PARTIES_COUNT - 2)], *parties[place:]][:PARTIES_COUNT]


def rows_of(session: SessionRow, entries: Iterable[TraceEntry]) -> list[Row]:
    """Return a diagram's rows; drawing them is the expensive part, so only those that are seen are drawn."""
    rows = []
    last: TraceEntry | None = None
    for entry in entries:
        if last is not None and entry.at - last.at >= PAUSE_S:
            rows.append(Row(waited_s=entry.at - last.at))
        rows.append(Row(entry))
        last = entry
    return rows if session.ended is None else [*rows, Row()]
