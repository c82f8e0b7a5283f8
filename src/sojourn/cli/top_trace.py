"""One session's trace in ``sojourn top``: its sequence diagram, which grows while the session is open."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final

from rich.cells import chop_cells
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from sojourn.admin.rendering import entry_text, printable
from sojourn.admin.view import SessionRow
from sojourn.cli.control import ControlClient
from sojourn.cli.top_diagram import Diagram, Row, rows_of
from sojourn.cli.top_feed import TraceFeed
from sojourn.cli.top_lines import Line, Tone, cut_line, lost_line
from sojourn.cli.top_list import LineList, Lines

if TYPE_CHECKING:
    from sojourn.cli.top_screen import Top

DETAIL_LINES_COUNT: Final = 3
REDRAW_S: Final = 0.25
_PADDING: Final = 2
_TONES: Final[dict[str, Tone]] = {"open": "good", "failed": "bad"}


class TraceScreen(Screen[None]):
    """A session's diagram. Life: from Enter to Escape; its feed ends with it."""

    app: Top
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "dismiss", "Back", key_display="esc"),
        Binding("end", "newest", "Newest"),
    ]

    def __init__(self, server: ControlClient, session: SessionRow) -> None:
        super().__init__()
        self._who = server.who
        self._feed = TraceFeed(server, session)
        self._rows: list[Row] = []
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        """Make the parts, from top to bottom."""
        yield Lines("head")
        yield Lines("banner")
        yield Lines("parties")
        yield LineList("entries")
        yield Lines("detail")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to listen and to draw."""
        self._work = self.app.work(self._feed.run())
        self.query_one(LineList).focus()
        self.set_interval(REDRAW_S, self.redraw)
        self.redraw()

    def on_unmount(self) -> None:
        """Listen no more."""
        self._work.cancel()

    def action_newest(self) -> None:
        """Go to what came last, and stay there."""
        self.query_one(LineList).action_move(len(self._feed.entries) * 2)

    def redraw(self) -> None:
        """Draw what has changed."""
        feed, width = self._feed, max(1, self.app.size.width - _PADDING)
        self.query_one("#head", Lines).show([self._head(width)])
        self.query_one("#banner", Lines).show(self._banner(width))
        newest = feed.entries[-1] if feed.entries else None
        state = (width, len(feed.entries), newest, feed.session)
        if state != self._drawn:
            self._drawn = state
            self._draw(width)
        self._tell()

    def on_line_list_moved(self) -> None:
        """Tell of the entry at the cursor."""
        self._tell()

    def _draw(self, width: int) -> None:
        feed = self._feed
        diagram = Diagram(feed.session, feed.entries, width)
        self._rows = rows = rows_of(feed.session, feed.entries)
        shown = self.query_one(LineList)
        is_following = shown.is_at_end
        self.query_one("#parties", Lines).show([diagram.head()])
        shown.show([str(number) for number in range(len(rows))], lambda index: diagram.line(rows[index]))
        if is_following:
            shown.cursor = max(0, len(rows) - 1)

    def _head(self, width: int) -> Line:
        session = self._feed.session
        line: Line = [(f"{session.state} ", _TONES.get(session.state, "dim"))]
        line += [(printable(f"{session.gateway} {session.id}"), "strong")]
        line += [(printable(f" · {session.peer}"), "dim")]
        line += [(printable(f" · {session.about}"), "plain")] if session.about else []
        return cut_line(line, width)

    def _banner(self, width: int) -> list[Line]:
        feed = self._feed
        if feed.is_forgotten:
            return [cut_line([("the server no longer remembers this session", "bad")], width)]
        return [lost_line(feed.lost, self._who, time.monotonic(), width)] if feed.lost else []

    def _tell(self) -> None:
        """Write the entry at the cursor in full, as far as there is room."""
        cursor, width = self.query_one(LineList).cursor, max(1, self.app.size.width - _PADDING)
        entry = self._rows[cursor].entry if cursor < len(self._rows) else None
        text = entry_text(entry, self._feed.session.started).strip() if entry else ""
        pieces = chop_cells(text, width)[:DETAIL_LINES_COUNT]
        self.query_one("#detail", Lines).show([[(piece, "plain")] for piece in pieces])
