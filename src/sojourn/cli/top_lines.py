"""The lines of ``sojourn top``: a server's figures, problems and sessions in words, cut to a terminal's width.

Shape: a line is a sequence of pairs of a text and its tone; what tones look like is the theme's, and plain text has
none. Whatever a peer sent is without control characters here. Knows no terminal. Units: widths are in cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from rich.cells import cell_len, set_cell_size

from sojourn.admin.rendering import printable
from sojourn.admin.values import GatewayRow, Overview
from sojourn.admin.view import SessionRow
from sojourn.cli.top_board import Lost
from sojourn.core.report import TroubleRow

Tone = Literal["plain", "dim", "strong", "good", "warn", "bad", "spark"]
Span = tuple[str, Tone]
Line = list[Span]

PROBLEMS_COUNT: Final = 4
"""Problems that are shown; the rest are counted."""
BARS: Final = "▁▂▃▄▅▆▇█"
PLAIN_CHARACTERS: Final = str.maketrans("▁▂▃▄▅▆▇█…·", "_.:-=+*#~,")
"""What stands for ours where the output has ASCII only."""
_STATE_TONES: Final[dict[str, Tone]] = {"open": "good", "failed": "bad"}
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_THOUSAND: Final = 1_000
_TEN: Final = 10


class Column(NamedTuple):
    """A column: ``rank`` says how soon it leaves where there is no room, 0 never; ``most`` is how wide it may grow."""

    title: str
    width: int
    most: int
    rank: int = 0
    is_right: bool = False


_SPARK: Final = Column("last minute", 11, 60, rank=3, is_right=True)
GATEWAY_COLUMNS: Final = (
    Column("gateway", 10, 14),
    _SPARK,
    Column("open", 6, 8, is_right=True),
    Column("new/s", 6, 8, is_right=True),
    Column("packets/s", 9, 10, rank=1, is_right=True),
    Column("bytes/s", 8, 10, rank=2, is_right=True),
    Column("failed", 6, 8, is_right=True),
)
SESSION_COLUMNS: Final = (
    Column("state", 8, 8),
    Column("age", 7, 9, is_right=True),
    Column("gateway", 8, 10, rank=2),
    Column("peer", 21, 24, rank=1),
    Column("about", 16, 60),
    Column("id", 12, 30, rank=4),
    Column("reason", 10, 30, rank=5),
)


# Words


def count_words(number: float) -> str:
    """Write a count in at most six characters: ``9,999``, ``12.3k``, ``4.5M``."""
    if number < _TEN * _THOUSAND:
        return f"{number:,.0f}"
    for unit in "kM":
        number /= _THOUSAND
        if number < _THOUSAND:
            return f"{number:.1f}{unit}"
    return f"{number / _THOUSAND:.1f}G"


def rate_words(per_s: float) -> str:
    """Write a rate; a slow one keeps its first digit behind the point."""
    return f"{per_s:.1f}" if 0 < per_s < _TEN else count_words(per_s)


def bytes_words(amount: float) -> str:
    """Write bytes: ``0 B``, ``1.2 kB``, ``3.4 MB``."""
    for unit in ("B", "kB", "MB"):
        if amount < _THOUSAND:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _THOUSAND
    return f"{amount:.1f} GB"


def lasting_words(seconds: float) -> str:
    """Write a length in its two largest units: ``5 s``, ``3 min``, ``2 h 5 min``, ``4 d 3 h``."""
    whole = int(max(seconds, 0.0))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def age_words(row: SessionRow, now: float) -> str:
    """Write how long a session lasts or lasted, as a clock has it; what took less than a second in milliseconds."""
    age_s = max((row.ended or now) - row.started, 0.0)
    if row.ended and age_s < 1:
        return f"{age_s * 1000:.0f} ms"
    minutes, seconds = divmod(int(age_s), _MINUTE_S)
    if minutes < _MINUTE_S:
        return f"{minutes}:{seconds:02}"
    hours, minutes = divmod(minutes, _MINUTE_S)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours < 100 else f"{hours // 24} d"  # noqa: PLR2004 - still fits


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw the newest values, one character each, against the largest of them; at the right where there are fewer."""
    shown = values[-width:]
    top = max(shown, default=0.0) or 1.0
    last = len(BARS) - 1
    # What is there at all is never drawn as nothing.
    heights = (0 if value <= 0 else max(1, round(value / top * last)) for value in shown)
    return "".join(BARS[height] for height in heights).rjust(width)


def cut(text: str, width: int, *, is_right: bool = False) -> str:
    """Return a text without controls, exactly so wide; what was cut off ends with an ellipsis."""
    text = printable(text)
    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return " " * missing + text if is_right else text + " " * missing


def cut_line(line: Line, width: int) -> Line:
    """Return a line of at most this width."""
    left = width
    found: Line = []
    for text, tone in line:
        if cell_len(text) > left:
            return [*found, (cut(text, left), tone)] if left > 0 else found
        found.append((text, tone))
        left -= cell_len(text)
    return found


def plain(lines: Sequence[Line]) -> str:
    """Write lines as text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


# The server


def head_line(overview: Overview, width: int) -> Line:
    """Say which server it is, and how it is."""
    line: Line = [("sojourn ", "strong"), (printable(overview.version), "strong")]
    workers = "1 worker" if overview.workers == 1 else f"{overview.workers} workers"
    line += [(f" · up {lasting_words(overview.uptime_s)} · {workers}", "dim")]
    if overview.is_draining:
        line += [(" · ", "dim"), ("draining", "warn")]
    return cut_line(line, width)


def problem_lines(overview: Overview, width: int) -> Iterator[Line]:
    """Yield what is wrong, the worst first, or that nothing is."""
    problems = overview.problems
    if not problems:
        yield cut_line([("ok ", "good"), ("all is well", "dim")], width)
    for problem in problems[:PROBLEMS_COUNT]:
        yield _problem_line(problem, overview.now, width)
    if len(problems) > PROBLEMS_COUNT:
        yield cut_line([(f"and {len(problems) - PROBLEMS_COUNT} more", "dim")], width)


def _problem_line(problem: TroubleRow, now: float, width: int) -> Line:
    tone: Tone = "bad" if problem.severity == "error" else "warn"
    line: Line = [(f"{problem.severity} ", tone)]
    if problem.gateway:
        line += [(f"{printable(problem.gateway)} ", "strong")]
    line += [(printable(problem.text), "plain")]
    if problem.since is not None:
        line += [(f" · for {lasting_words(now - problem.since)}", "dim")]
    return cut_line(line, width)


def lost_line(lost: Lost, who: str, now: float, width: int) -> Line:
    """Say that nobody answers, and when the next attempt is; ``now`` is on the monotonic clock."""
    left_s = max(0, round(lost.retry_at - now))
    when = f"trying again in {left_s} s" if left_s else "trying again"
    return cut_line(
        [(printable(f"no answer from {who} - {when}"), "bad"), (printable(f" · {lost.why}"), "plain")], width
    )


def gateway_lines(overview: Overview, width: int) -> Iterator[Line]:
    """Yield a headline and a line for each gateway."""
    columns = fitted(GATEWAY_COLUMNS, width)
    yield headline(columns)
    for row in overview.gateways:
        yield _row(_gateway_cells(row, dict(columns).get(_SPARK, 0)), columns)


def _gateway_cells(row: GatewayRow, spark_width: int) -> dict[str, Span]:
    packets_per_s = row.packets_in_per_s + row.packets_out_per_s
    bytes_per_s = row.bytes_in_per_s + row.bytes_out_per_s
    is_failing = any(row.series.failed_per_s)
    return {
        "gateway": (row.name, "strong"),
        "last minute": (sparkline(row.series.packets_per_s, spark_width), "spark"),
        "open": (count_words(row.sessions_open), "plain"),
        "new/s": (rate_words(row.opened_per_s), "plain"),
        "packets/s": (rate_words(packets_per_s), "plain"),
        "bytes/s": (bytes_words(bytes_per_s), "plain"),
        "failed": (count_words(row.sessions_failed), "bad" if is_failing else "dim"),
    }


def session_line(row: SessionRow, columns: Sequence[tuple[Column, int]], now: float) -> Line:
    """Write a session."""
    cells: dict[str, Span] = {
        "state": (row.state, _STATE_TONES.get(row.state, "dim")),
        "age": (age_words(row, now), "plain"),
        "gateway": (row.gateway, "dim"),
        "peer": (row.peer, "plain"),
        "about": (row.about or "-", "strong" if row.about else "dim"),
        "id": (row.id, "dim"),
        "reason": (row.reason, "dim"),
    }
    return _row(cells, columns)


# Columns


def fitted(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """Return the columns for which there is room, each with its width; what is left over lets them grow."""
    kept = list(columns)
    while sum(one.width + 1 for one in kept) - 1 > width and any(one.rank for one in kept):
        kept.remove(max(kept, key=lambda one: one.rank))
    left = max(0, width + 1 - sum(one.width + 1 for one in kept))
    widths = {}
    for column in sorted(
        kept, key=lambda one: one.width - one.most
    ):  # the one that has most to tell comes first
        more = min(column.most - column.width, left)
        widths[column] = column.width + more
        left -= more
    return [(column, widths[column]) for column in kept]


def headline(columns: Sequence[tuple[Column, int]]) -> Line:
    """Write the columns' titles."""
    return _row({column.title: (column.title, "dim") for column, _ in columns}, columns)


def _row(cells: dict[str, Span], columns: Sequence[tuple[Column, int]]) -> Line:
    line: Line = []
    for column, width in columns:
        text, tone = cells[column.title]
        line += [(cut(text, width, is_right=column.is_right), tone), (" ", "plain")]
    return line[:-1]
