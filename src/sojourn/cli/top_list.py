"""Widgets of ``sojourn top`` that show lines: some that stand, and a list with a cursor that costs what is visible.

Texts are drawn as they are: nothing in them is read as markup. What the tones look like is the style sheet's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from sojourn.cli.top_lines import Line

TONES: Final = {"tone--dim", "tone--strong", "tone--good", "tone--warn", "tone--bad", "tone--spark"}


def _strip(widget: Widget, line: Line, width: int, ground: Style | None = None) -> Strip:
    """Return a line as textual draws it, over all of a width."""
    base = widget.rich_style + ground if ground else widget.rich_style
    segments = []
    for text, tone in line:
        style = base
        if tone != "plain":
            style = widget.get_component_rich_style(f"tone--{tone}")
            style = style + ground if ground else style
        segments.append(Segment(text, style))
    return Strip(segments).adjust_cell_length(width, base)


class Lines(Widget):
    """Lines that stand; as high as there are some."""

    COMPONENT_CLASSES = TONES

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self.lines: list[Line] = []

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; the same ones cost nothing."""
        lines = list(lines)
        if lines == self.lines:
            return
        is_as_high = len(lines) == len(self.lines)
        self.lines = lines
        self.refresh(layout=not is_as_high)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - textual's own
        """Return how many lines there are."""
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        return _strip(self, self.lines[y] if y < len(self.lines) else [], self.size.width)


class LineList(ScrollView, can_focus=True):
    """A list of lines of which one is chosen; a line is made when it is drawn.

    Shape: ``keys`` name the lines, so that the cursor stays with its line while others come and go.
    """

    COMPONENT_CLASSES = TONES | {"cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown,space", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
    ]
    cursor = reactive(0)

    class Picked(Message):
        """Somebody wants to see what stands behind the line at the cursor."""

    class Moved(Message):
        """The cursor stands on another line."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self.keys: list[str] = []
        self._line_of: Callable[[int], Line] = lambda _: []
        self._seen: dict[int, Line] = {}

    @property
    def is_at_end(self) -> bool:
        """Say whether the cursor stands on the last line."""
        return self.cursor >= len(self.keys) - 1

    def show(self, keys: Sequence[str], line_of: Callable[[int], Line]) -> None:
        """Show other lines; the cursor stays on the line with its key, or at its place if that has gone."""
        chosen = self.keys[self.cursor] if self.cursor < len(self.keys) else ""
        self.keys, self._line_of = list(keys), line_of
        size = Size(max(1, self.size.width), len(self.keys))
        if size != self.virtual_size:
            self.virtual_size = size
        place = self.keys.index(chosen) if chosen in self.keys else self.cursor
        self.cursor = min(place, max(0, len(self.keys) - 1))
        self._redraw()

    def _redraw(self) -> None:
        """Draw the visible lines that have changed: what is sent to a terminal far away is what has happened."""
        top = self.scroll_offset.y
        places = range(top, top + self.size.height)
        seen = {place: self._line_of(place) if place < len(self.keys) else [] for place in places}
        for place, line in seen.items():
            if self._seen.get(place) != line:
                self.refresh_line(place)
        self._seen = seen

    def render_line(self, y: int) -> Strip:
        """Draw one of the visible lines."""
        index = y + self.scroll_offset.y
        if index >= len(self.keys):
            return Strip.blank(self.size.width, self.rich_style)
        ground = None
        if index == self.cursor:
            chosen = self.get_component_rich_style("cursor")
            ground = Style(bgcolor=chosen.bgcolor, reverse=chosen.reverse)
        return _strip(self, self._line_of(index), self.size.width, ground)

    def watch_cursor(self, before: int, now: int) -> None:
        """Keep the cursor's line visible."""
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)
        self.refresh_line(before)
        self.refresh_line(now)
        self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        """Go so many lines on."""
        self.cursor = min(max(0, self.cursor + by), max(0, len(self.keys) - 1))

    def action_page(self, by: int) -> None:
        """Go so many pages on."""
        self.action_move(by * max(1, self.size.height - 1))

    def on_click(self, event: Click) -> None:
        """Choose the line; twice asks for what stands behind it."""
        index = event.y + self.scroll_offset.y
        if index < len(self.keys):
            self.cursor = index
            if event.chain > 1:
                self.post_message(self.Picked())
