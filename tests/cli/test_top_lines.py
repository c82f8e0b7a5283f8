"""The lines of ``sojourn top`` without a terminal: words, columns, diagrams, and what is kept of a server."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sojourn.admin.values import GatewayRow, Overview, OverviewTick, SecondRow, Series
from sojourn.admin.view import Page, SessionRow, TraceEntry
from sojourn.cli import top_feed
from sojourn.cli import top_lines as lines
from sojourn.cli.top_board import SERIES_COUNT, SESSIONS_COUNT, Board, Filter, Lost, Sort
from sojourn.cli.top_diagram import Diagram, rows_of
from sojourn.core.report import TroubleRow
from sojourn.errors import BackendUnavailable

FIGURES = {
    "sessions_open": 12_345,
    "sessions_opened": 99_999,
    "sessions_failed": 7,
    "connections": 3,
    "packets_in": 1,
    "packets_out": 1,
    "bytes_in": 1,
    "bytes_out": 1,
    "opened_per_s": 0.25,
    "failed_per_s": 0.0,
    "packets_in_per_s": 1_000.0,
    "packets_out_per_s": 234.0,
    "bytes_in_per_s": 40_000.0,
    "bytes_out_per_s": 2_000.0,
}
GATEWAY = GatewayRow(name="echo", title="Echo", series=Series(packets_per_s=(0.0, 1.0, 8.0)), **FIGURES)
OVERVIEW = Overview(
    now=1_000.0, version="1.2", uptime_s=90.0, is_draining=False, workers=1, gateways=(GATEWAY,), problems=()
)
ROW = SessionRow(id="1", gateway="echo", peer="192.0.2.1:5", about="ana", state="open", started=100.0)


def text(made) -> str:
    return lines.plain([made])


def row(number: int, **more) -> SessionRow:
    return msgspec.structs.replace(ROW, id=str(number), started=float(number), **more)


@pytest.mark.parametrize(
    ("write", "value", "words"),
    [
        (lines.count_words, 9_999, "9,999"),
        (lines.count_words, 12_345, "12.3k"),
        (lines.count_words, 4_500_000, "4.5M"),
        (lines.count_words, 7e9, "7.0G"),
        (lines.rate_words, 0, "0"),
        (lines.rate_words, 0.25, "0.2"),
        (lines.rate_words, 12.4, "12"),
        (lines.bytes_words, 0, "0 B"),
        (lines.bytes_words, 42_000, "42.0 kB"),
        (lines.bytes_words, 3.4e12, "3400.0 GB"),
        (lines.lasting_words, 59.9, "59 s"),
        (lines.lasting_words, 7_500, "2 h 5 min"),
        (lines.lasting_words, 356_400, "4 d 3 h"),
        (lines.lasting_words, -1, "0 s"),
    ],
)
def test_figures_are_short(write, value, words) -> None:
    """A column keeps its width whatever a server counts."""
    assert write(value) == words


def test_ages_are_clocks() -> None:
    """Of an open session until now; one that is over keeps its own."""
    assert lines.age_words(ROW, 165.0) == "1:05"
    assert lines.age_words(ROW, 3_865.0) == "1:02:45"
    assert lines.age_words(msgspec.structs.replace(ROW, ended=100.033), 5_000.0) == "33 ms"


def test_a_sparkline_is_as_wide_as_asked_and_shows_the_newest() -> None:
    """Against its largest value; what is there at all is seen, nothing is the lowest bar."""
    assert lines.sparkline((0.0, 1.0, 800.0), 5) == "  ▁▂█"
    assert lines.sparkline((9.0, 0.0, 8.0), 2) == "▁█"
    assert lines.sparkline((0.0, 0.0), 2) == "▁▁"
    assert lines.sparkline((), 3) == "   "


@given(st.text(max_size=60), st.integers(1, 40))
def test_any_text_is_cut_to_its_width_without_controls(given_text, width) -> None:
    """Two cells for a wide character, none for a mark; a column is never wider or narrower than it should be."""
    shown = lines.cut(given_text, width)
    assert cell_len(shown) == width
    assert shown.isprintable()


@pytest.mark.parametrize("width", [10, 40, 60, 80, 132, 300])
def test_lines_are_never_wider_than_the_terminal(width) -> None:
    """Columns leave by their rank; those of rank 0 stay, and are cut where even they have no room."""
    trouble = TroubleRow(severity="error", gateway="echo", text="x" * 400, since=1.0)
    overview = msgspec.structs.replace(OVERVIEW, problems=(trouble,) * 9)
    found = [
        lines.head_line(overview, width),
        *lines.problem_lines(overview, width),
        *lines.gateway_lines(overview, width),
        lines.session_line(ROW, lines.fitted(lines.SESSION_COLUMNS, width), 200.0),
        lines.lost_line(Lost("gone " * 40, 5.0), "the server", 2.0, width),
    ]
    least = 34  # the narrowest of a list's columns
    assert all(cell_len(text(one)) <= max(width, least) for one in found)


def test_the_overview_is_told_in_words() -> None:
    """Problems first and bounded, then a line for each gateway."""
    trouble = TroubleRow(severity="error", gateway="echo", text="the disk is full", since=880.0)
    overview = msgspec.structs.replace(OVERVIEW, is_draining=True, workers=2, problems=(trouble,) * 6)
    assert text(lines.head_line(overview, 80)) == "sojourn 1.2 · up 1 min · 2 workers · draining"
    problems = list(lines.problem_lines(overview, 80))
    assert text(problems[0]) == "error echo the disk is full · for 2 min"
    assert text(problems[-1]) == "and 2 more"
    headline, gateway = lines.gateway_lines(overview, 80)
    assert text(headline).split() == [
        "gateway",
        "last",
        "minute",
        "open",
        "new/s",
        "packets/s",
        "bytes/s",
        "failed",
    ]
    assert text(gateway).split() == ["echo", "▁▂█", "12.3k", "0.2", "1,234", "42.0", "kB", "7"]


def test_a_lost_server_is_told_with_the_seconds_to_wait() -> None:
    """Issue 6: one line, who does not answer and when the next attempt is."""
    told = text(lines.lost_line(Lost("Connection refused", 105.0), "the server", 102.0, 120))
    assert told == "no answer from the server - trying again in 3 s · Connection refused"


def test_a_second_is_added_to_the_last_minute() -> None:
    """A series stays a minute long; a gateway that nobody knows is told, so that the whole is asked for again."""
    board = Board(OVERVIEW)
    second = SecondRow(name="echo", **{**FIGURES, "sessions_open": 5})
    tick = OverviewTick(now=1_001.0, uptime_s=91.0, is_draining=True, gateways=(second,), problems=())
    for _ in range(SERIES_COUNT + 5):
        assert board.tick(tick)
    (gateway,) = board.overview.gateways
    assert gateway.series.packets_per_s == (1_234.0,) * SERIES_COUNT
    assert (gateway.sessions_open, gateway.title, board.overview.is_draining) == (5, "Echo", True)
    stranger = msgspec.structs.replace(second, name="another")
    assert not board.tick(msgspec.structs.replace(tick, gateways=(second, stranger)))


def test_sessions_are_kept_as_they_are_wanted_and_bounded() -> None:
    """The newest are kept; what ended leaves the open ones; other wishes take effect at once."""
    board = Board(OVERVIEW)
    for number in range(SESSIONS_COUNT + 10):
        board.session(row(number))
    assert [one.id for one in board.rows()][:2] == [str(SESSIONS_COUNT + 9), str(SESSIONS_COUNT + 8)]
    assert (len(board.rows()), board.has_more) == (SESSIONS_COUNT, True)
    board.session(row(300, state="failed"))
    assert "300" not in [one.id for one in board.rows()]
    board.choose(Filter(search="ANA"))
    assert len(board.rows()) == SESSIONS_COUNT - 1
    board.choose(Filter(search="nobody"))
    assert board.rows() == []
    board.page(Page(sessions=(row(1, peer="b"), row(2, peer="a"))))
    assert not board.has_more
    orders = {}
    for board.sort in Sort:
        orders[board.sort] = "".join(one.id for one in board.rows())
    assert orders == {
        Sort.NEWEST: "21",
        Sort.OLDEST: "12",
        Sort.GATEWAY: "21",
        Sort.PEER: "21",
        Sort.ABOUT: "21",
    }


def entry(kind: str, name: str, at: float, **more) -> TraceEntry:
    return TraceEntry(at=at, kind=kind, name=name, **more)


ENTRIES = (
    entry("in", "Query", 100.0, text="SELECT 1", source="client", target="echo"),
    entry("out", "Query", 100.1, text="SELECT 1", source="echo", target="server", is_leg=True),
    entry("state", "waits", 105.0, source="echo", target="echo"),
    entry("error", "lost", 105.2, text="\x1b[2J日本", source="server", target="server", is_leg=True),
)


def drawn(width: int, session: SessionRow = ROW) -> list[str]:
    diagram = Diagram(session, ENTRIES, width)
    rows = rows_of(session, ENTRIES)
    return [text(one) for one in (diagram.head(), *(diagram.line(made) for made in rows))]


def test_a_trace_is_drawn_between_its_parties() -> None:
    """Who says what to whom, waits and errors in their places, the end last."""
    over = msgspec.structs.replace(ROW, state="failed", ended=105.5, reason="lost")
    head, first, second, wait, state, error, end = drawn(100, over)
    assert head.split() == ["client", "echo", "server"]
    assert first.startswith("   +0.000 s")
    assert " Query SELECT 1 " in first
    assert first.index("▶") < second.index("Query")
    assert wait.split("│")[1].strip() == "4 s pass"
    assert "│ waits" in state
    assert "lost \\x1b[2J日本" in error
    assert "ended after 5.500 s: failed, lost" in end


@pytest.mark.parametrize("width", [1, 20, 40, 66, 80, 200])
def test_a_diagram_is_never_wider_than_the_terminal(width) -> None:
    """Where lifelines have no room, the words of ``sojourn trace`` are cut."""
    over = msgspec.structs.replace(ROW, state="finished", ended=105.5)
    assert all(cell_len(line) <= width for line in drawn(width, over))


def test_a_trace_of_thousands_of_parties_has_a_few_lifelines() -> None:
    """What is forged into a trace costs no more than its lines; the gateway keeps its own."""
    forged = [entry("in", "M", 100.0, source=f"client-{number}", target="echo") for number in range(3_000)]
    diagram = Diagram(ROW, forged, 300)
    names = text(diagram.head()).split()
    assert len(names) == 5
    assert "echo" in names
    assert all(cell_len(text(diagram.line(one))) <= 300 for one in rows_of(ROW, forged)[::100])


def test_waits_grow_while_nobody_answers(run, monkeypatch) -> None:
    """1, 2, 4 ... seconds up to 15; a line that held for long begins anew; nothing to say is the end."""
    now, waits, told = [0.0], [], []

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)
        now[0] += wait_s

    async def listen() -> str:
        if len(waits) == 7:
            now[0] += top_feed.STEADY_S + 1
        if len(waits) == 8:
            return ""
        raise BackendUnavailable("the server", 0.0, "Connection refused")

    monkeypatch.setattr(top_feed.asyncio, "sleep", sleep)
    monkeypatch.setattr(top_feed.time, "monotonic", lambda: now[0])
    run(top_feed.keep(listen, told.append))
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 1.0]
    assert told[0] == Lost("Connection refused", 1.0)
