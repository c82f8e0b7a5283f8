"""The screen of ``sojourn top``: gateways and problems above, sessions below, a session's trace behind Enter.

Owns textual with ``top_list`` and ``top_trace``. Four times a second what has changed is drawn; what there is to draw
is the board's, which a feed keeps up to date.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator, Sequence
from textwrap import wrap
from typing import Any, ClassVar, Final

import msgspec
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.filter import LineFilter, NoColor
from textual.screen import ModalScreen
from textual.widgets import Footer, Input
from textual.worker import Worker, WorkerState

from sojourn.admin.rendering import printable
from sojourn.admin.view import LONGEST_SEARCH_CHARACTERS, SessionRow, State
from sojourn.cli.control import ControlClient
from sojourn.cli.top_board import Board, Sort
from sojourn.cli.top_feed import Feed
from sojourn.cli.top_lines import (
    SESSION_COLUMNS,
    Line,
    cut_line,
    fitted,
    gateway_lines,
    head_line,
    headline,
    lost_line,
    problem_lines,
    session_line,
)
from sojourn.cli.top_list import LineList, Lines
from sojourn.cli.top_trace import TraceScreen
from sojourn.errors import SojournError

REDRAW_S: Final = 0.25
THEMES: Final = ("textual-dark", "textual-light", "ansi-dark", "ansi-light")
"""The last two are the terminal's own sixteen colours."""
_STATES: Final[tuple[State | str, ...]] = ("open", "failed", "finished", "")
_OF_THE_LIST: Final = frozenset(
    {"help", "open", "search", "gateway", "state", "sort", "close", "pause", "forget_search"}
)
_PADDING: Final = 2
_BOX_WIDTH: Final = 66
_HELP: Final = (
    ("enter", "what happens in the session, live"),
    ("/", "search ids, peers and what it is about; escape ends it"),
    ("g", "only the next gateway, then all again"),
    ("f", "open, failed, finished or all sessions"),
    ("s", "sort: newest, oldest, by gateway, peer or about"),
    ("x", "close the session, after a question"),
    ("p", "pause: what is on the screen stays"),
    ("t", "other colours"),
    ("q", "quit"),
)


class Top(App[None]):
    """The whole screen of one server.

    ``failure`` is a bug that ended it: for the caller to raise, as textual would show a traceback with local variables,
    and so perhaps a secret.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Keys", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("enter", "open", "Trace", key_display="⏎"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("g", "gateway", "Gateway"),
        Binding("f", "state", "State"),
        Binding("s", "sort", "Sort"),
        Binding("x", "close", "Close"),
        Binding("p", "pause", "Pause"),
        Binding("t", "theme", "Theme", show=False),
        Binding("escape", "forget_search", "All", show=False),
    ]

    def __init__(self, server: ControlClient, board: Board, *, may_close: bool) -> None:
        super().__init__()
        self.server = server
        self.board = board
        self.failure: BaseException | None = None
        self._may_close = may_close
        self._feed = Feed(server, board)
        self._rows: list[SessionRow] = []
        self._is_paused = False

    def compose(self) -> ComposeResult:
        """Make the parts, from top to bottom."""
        yield Lines("head")
        yield Lines("banner")
        yield Lines("problems")
        yield Lines("gateways")
        yield Lines("chosen")
        yield LineList("sessions")
        yield Input(
            id="search",
            placeholder="part of an id, a peer or what it is about",
            max_length=LONGEST_SEARCH_CHARACTERS,
            compact=True,
        )
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to listen and to draw."""
        self.query_one("#search").display = False
        self.query_one("#sessions").focus()
        self.work(self._feed.run())
        self.set_interval(REDRAW_S, self.redraw)
        self.redraw()  # before the first layout, which asks for the lines' heights

    def work(self, task: Coroutine[Any, Any, None]) -> Worker[None]:
        """Run a task as long as the screen; a bug in it ends the screen."""
        return self.run_worker(task, exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """End with whatever a task ended with."""
        if event.state is WorkerState.ERROR:
            self.failure = event.worker.error
            self.exit(return_code=1)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - textual's own
        """Say which keys count: those of the list only where it is seen, and closing only for those who may."""
        if action == "close" and not self._may_close:
            return None
        return action not in _OF_THE_LIST or len(self.screen_stack) == 1

    # Drawing

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return what changes lines before they are drawn; with NO_COLOR textual alone would leave shades of grey."""
        return [NoColor()] if self.no_color else super().get_line_filters()

    def redraw(self) -> None:
        """Draw what has changed."""
        screen = self.screen_stack[0]
        if not screen.query("#head"):  # it is being taken down, and the timer has not ended yet
            return
        width = max(1, self.size.width - _PADDING)
        screen.query_one("#head", Lines).show([self._head(width)])
        lost = self.board.lost
        banner = screen.query_one("#banner", Lines)
        banner.show([lost_line(lost, self.server.who, time.monotonic(), width)] if lost else [])
        if self._is_paused:
            return
        overview = self.board.overview
        screen.query_one("#problems", Lines).show(list(problem_lines(overview, width)))
        screen.query_one("#gateways", Lines).show(list(gateway_lines(overview, width)))
        self._rows = rows = self.board.rows()
        columns = fitted(SESSION_COLUMNS, width)
        screen.query_one("#chosen", Lines).show([self._chosen(width), headline(columns)])
        screen.query_one("#sessions", LineList).show(
            [row.id for row in rows], lambda index: session_line(rows[index], columns, overview.now)
        )

    def _head(self, width: int) -> Line:
        line = head_line(self.board.overview, width)
        return cut_line([*line, (" · ", "dim"), ("paused", "warn")], width) if self._is_paused else line

    def _chosen(self, width: int) -> Line:
        """Say which sessions these are."""
        board, wanted = self.board, self.board.filter
        count = f"{len(self._rows)}{'+' if board.has_more else ''}"
        line: Line = [("sessions ", "strong"), (f"{count} {wanted.state or 'of all states'}", "plain")]
        line += [(f" · {printable(wanted.gateway) or 'all gateways'} · {board.sort.value}", "dim")]
        if wanted.search:
            line += [(" · ", "dim"), (f"with {printable(wanted.search)}", "warn")]
        return cut_line(line, width)

    @property
    def chosen(self) -> SessionRow | None:
        """Return the session at the cursor."""
        cursor = self.screen_stack[0].query_one("#sessions", LineList).cursor
        return self._rows[cursor] if cursor < len(self._rows) else None

    # Choosing

    def _choose(self, **changes: str) -> None:
        self.board.choose(msgspec.structs.replace(self.board.filter, **changes))
        self._feed.want()
        self.redraw()

    def action_gateway(self) -> None:
        """Show sessions of the next gateway."""
        names = ["", *self.board.gateways]
        self._choose(gateway=_next(names, self.board.filter.gateway))

    def action_state(self) -> None:
        """Show sessions in the next state."""
        self._choose(state=_next(_STATES, self.board.filter.state))

    def action_sort(self) -> None:
        """Show sessions in the next order."""
        self.board.sort = _next(tuple(Sort), self.board.sort)
        self.redraw()

    def action_search(self) -> None:
        """Ask what to search for."""
        search = self.query_one("#search", Input)
        search.display = True
        search.focus()

    def action_forget_search(self) -> None:
        """Search for nothing any more."""
        search = self.query_one("#search", Input)
        search.value = ""
        search.display = False
        self.query_one("#sessions").focus()
        self._choose(search="")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while somebody types."""
        if event.value != self.board.filter.search:
            self._choose(search=event.value)

    def on_input_submitted(self) -> None:
        """Go to what was found."""
        self.query_one("#search").display = False
        self.query_one("#sessions").focus()

    # Doing

    def on_line_list_picked(self) -> None:
        """Open what is at the cursor."""
        self.action_open()

    def action_open(self) -> None:
        """Show what happens in the session at the cursor."""
        row = self.chosen
        if row is not None:
            self.push_screen(TraceScreen(self.server, row))

    def action_close(self) -> None:
        """Ask whether to end the session at the cursor, and end it."""
        row = self.chosen
        if row is None or row.state != "open":
            self.notify("choose an open session", markup=False)
            return

        def decide(is_sure: bool | None) -> None:
            if is_sure:
                self.work(self._close(row))

        self.push_screen(Question(row), decide)

    async def _close(self, row: SessionRow) -> None:
        try:
            is_told = await self.server.close_session(row.id)
        except SojournError as error:
            self.notify(printable(str(error)), severity="error", markup=False)
            return
        words = "was told to end" if is_told else "has ended already"
        self.notify(printable(f"session {row.id} {words}"), markup=False)

    def action_pause(self) -> None:
        """Leave what is on the screen, or go on."""
        self._is_paused = not self._is_paused
        self.redraw()

    def action_theme(self) -> None:
        """Take the next colours."""
        self.theme = _next(THEMES, self.theme)

    def action_help(self) -> None:
        """Show what the keys do."""
        self.push_screen(Help())


class Box(ModalScreen[bool]):
    """A box in the middle; any of its keys takes it away."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n,enter,question_mark", "dismiss(False)", "Back", key_display="esc")
    ]

    def compose(self) -> ComposeResult:
        """Make the box."""
        with VerticalScroll(id="box"):
            yield Lines("words")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Say it."""
        width = min(_BOX_WIDTH, self.app.size.width - 8)
        self.query_one(Lines).show([cut_line(line, width) for line in self.words(width)])

    def words(self, width: int) -> Iterator[Line]:
        """Yield what it says, in so many cells."""
        raise NotImplementedError


class Help(Box):
    """What the keys do."""

    def words(self, width: int) -> Iterator[Line]:
        """Yield each key's lines."""
        for key, what in _HELP:
            for number, text in enumerate(wrap(what, max(8, width - 8))):
                yield [(("" if number else key).rjust(6) + "  ", "strong"), (text, "plain")]


class Question(Box):
    """Whether to end a session; only ``y`` does, so that no key pressed for something else can."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "dismiss(True)", "Close it")]

    def __init__(self, row: SessionRow) -> None:
        super().__init__()
        self._row = row

    def words(self, width: int) -> Iterator[Line]:  # noqa: ARG002 - what is too long is cut
        """Yield the session and the question."""
        row = self._row
        yield [("Close this session?", "strong")]
        yield [("", "plain")]
        yield [(printable(f"{row.gateway} {row.id}"), "plain")]
        yield [(printable(f"{row.peer} {row.about}"), "plain")]
        yield [("", "plain")]
        yield [("It ends with its protocol's own farewell. ", "dim")]
        yield [("y", "strong"), (" closes it, ", "dim"), ("n", "strong"), (" leaves it", "dim")]


def _next(values: Any, value: Any) -> Any:
    """Return what comes behind a value, in a circle; the first one for what is not among them."""
    return values[(values.index(value) + 1) % len(values)] if value in values else values[0]
