"""A trace as an SVG sequence diagram: parties as lifelines, messages as arrows, errors and waits in their places.

For documents and bug reports; the dashboard draws its own. Pure text of the trace: every word in it is escaped, no
script is in it, and it asks for nothing from outside. Repetition is folded, so that a diagram stays as long as its
story.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

from sojourn.admin.rendering import ends, outcome, parties_of, printable
from sojourn.admin.view import SessionRow, Trace, TraceEntry

_COLUMN: Final = 260
_MARGIN: Final = 150
_TIME: Final = 84
_ROW: Final = 34
_HEAD: Final = 64
_BOX: Final = (180, 34)
_CHARACTER: Final = 6.6
"""Width of a character of the labels, near enough to cut them."""
_GAP_S: Final = 1.0
"""A wait that is worth a row of its own."""
_LONGEST_FOLD_COUNT: Final = 8
_LEAST_TIMES_COUNT: Final = 3
_STYLE: Final = """
svg { color-scheme: light dark; font: 12px ui-sans-serif, system-ui, sans-serif; background: #ffffff; }
text { fill: #1c2330; } .dim { fill: #667085; } .bad { fill: #b42318; } .life { stroke: #c3cad5; }
.box { fill: #eef2f7; stroke: #98a2b3; } .arrow { stroke: #2f5bd0; fill: none; }
.note { fill: #fff7e0; stroke: #e0c060; }
.tip { fill: #2f5bd0; } .arrow.error { stroke: #d92d20; } .tip.error { fill: #d92d20; }
.err { fill: #fee4e2; stroke: #d92d20; } .gap { stroke: #98a2b3; stroke-dasharray: 2 4; }
@media (prefers-color-scheme: dark) {
svg { background: #12161d; } text { fill: #e4e8ef; } .dim { fill: #98a2b3; } .bad { fill: #fda29b; }
.life { stroke: #3a4352; } .box { fill: #1f2733; stroke: #667085; } .arrow { stroke: #84a9ff; }
.note { fill: #2b2615; stroke: #8a6d1d; } .tip { fill: #84a9ff; }
.arrow.error { stroke: #f97066; } .tip.error { fill: #f97066; } .err { fill: #3a1614; stroke: #f97066; } }
"""


class _Row(NamedTuple):
    """One line of the diagram; ``times`` is how often it and its neighbours of one fold were repeated."""

    entry: TraceEntry
    times: int = 1
    waited_s: float = 0.0


def trace_svg(trace: Trace) -> str:
    """Write a trace as an SVG image."""
    session = trace.session
    rows = list(_rows(trace.entries))
    parties = parties_of(trace.entries, session)
    columns = {name: _TIME + _MARGIN + index * _COLUMN for index, name in enumerate(parties)}
    width = _TIME + 2 * _MARGIN + (len(parties) - 1) * _COLUMN
    body: list[str] = []
    y = _HEAD + _ROW
    for row in rows:
        if row.waited_s >= _GAP_S:
            body.append(_wait(row.waited_s, y, width))
            y += _ROW
        body.append(_line(row, session, columns, y))
        y += _ROW
    if session.ended is not None:
        body.append(
            _note(f"{outcome(session)} after {session.ended - session.started:.3f} s", width / 2, y, "note")
        )
        y += _ROW
    title = escape(printable(f"session {session.id} of {session.gateway}, {session.peer}, {session.about}"))
    size = f'width="{width}" height="{y + 16}" viewBox="0 0 {width} {y + 16}"'
    head = [_party(name, session, x, y) for name, x in columns.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            *head,
            *body,
            "</svg>\n",
        ]
    )


def _rows(entries: Sequence[TraceEntry]) -> Iterator[_Row]:
    """Fold what is repeated: the shortest pattern of up to eight entries that comes three times or more."""
    index = 0
    last: TraceEntry | None = None
    while index < len(entries):
        length, times = _repetition(entries, index)
        for entry in entries[index : index + length]:
            waited_s = entry.at - last.at if last is not None else 0.0
            yield _Row(entry, times, waited_s)
            last = entry
        index += length * times
        last = entries[index - 1]


def _repetition(entries: Sequence[TraceEntry], start: int) -> tuple[int, int]:
    """Return how long the pattern is that begins here, and how often it comes."""
    for length in range(1, _LONGEST_FOLD_COUNT + 1):
        pattern = [_shape(one) for one in entries[start : start + length]]
        times = 1
        while [
            _shape(one) for one in entries[start + times * length : start + (times + 1) * length]
        ] == pattern:
            times += 1
        if times >= _LEAST_TIMES_COUNT:
            return length, times
    return 1, 1


def _shape(entry: TraceEntry) -> tuple[str, ...]:
    return entry.kind, entry.name, entry.source, entry.target


def _party(name: str, session: SessionRow, x: float, bottom: float) -> str:
    width, height = _BOX
    label = _cut(f"{name} {session.id}" if name == session.gateway else name, width)
    return (
        f'<line class="life" x1="{x}" y1="{_HEAD - 14}" x2="{x}" y2="{bottom}"/>'
        f'<rect class="box" x="{x - width / 2}" y="16" width="{width}" height="{height}" rx="6"/>'
        f'<text x="{x}" y="38" text-anchor="middle" font-weight="600">{label}</text>'
    )


def _line(row: _Row, session: SessionRow, columns: Mapping[str, float], y: float) -> str:
    """Draw one entry: an arrow, or a note over who it concerns; the whole summary is its hover."""
    entry = row.entry
    source, target = (columns[name] for name in ends(entry, session))
    label = f"{entry.name}{f'  x{row.times}' if row.times > 1 else ''}"
    size = f" ({entry.size_bytes} bytes)" if entry.size_bytes else ""
    hover = escape(printable(f"{entry.name} {entry.text}{size}"))
    time = f'<text class="dim" x="8" y="{y}">{entry.at - session.started:+.3f} s</text>'
    if entry.kind != "state" and source != target:
        tip = target - 8 if target > source else target + 8
        middle = (source + target) / 2
        error = " error" if entry.kind == "error" else ""
        drawn = (
            f'<line class="arrow{error}" x1="{source}" y1="{y}" x2="{target}" y2="{y}"/>'
            f'<polygon class="tip{error}" points="{target},{y} {tip},{y - 4} {tip},{y + 4}"/>'
            f'<text x="{middle}" y="{y - 6}" text-anchor="middle">{_cut(label, abs(target - source) - 24)}</text>'
        )
    else:
        words = f"{label} {entry.text}".strip()
        drawn = _note(words, source, y, "err" if entry.kind == "error" else "note")
    return f"<g><title>{hover}</title>{time}{drawn}</g>"


def _note(words: str, x: float, y: float, kind: str) -> str:
    text = _cut(words, _COLUMN - 20)
    bad = ' class="bad"' if kind == "err" else ""
    width = min(_COLUMN - 16, max(60.0, len(words) * _CHARACTER + 20))
    return (
        f'<rect class="{kind}" x="{x - width / 2}" y="{y - 17}" width="{width}" height="24" rx="4"/>'
        f'<text x="{x}" y="{y}" text-anchor="middle"{bad}>{text}</text>'
    )


def _wait(waited_s: float, y: float, width: float) -> str:
    return (
        f'<line class="gap" x1="{_TIME}" y1="{y - 4}" x2="{width - 16}" y2="{y - 4}"/>'
        f'<text class="dim" x="8" y="{y}">{waited_s:.1f} s pass</text>'
    )


def _cut(words: str, width: float) -> str:
    """Return words as they fit, escaped; a character that would steer a terminal is told as its code."""
    plain = printable(words)
    limit = max(4, int(width / _CHARACTER))
    return escape(plain if len(plain) <= limit else plain[: limit - 1] + "…")
