"""The screen of ``sojourn simulate panel``: zones and partitions as they are, and a line for orders.

The terminal's own line editing is off while the screen is drawn, since both would write into the same lines.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sojourn.cli.simulate_panel_lines import carry_out
from sojourn.gateways.itv2.messages import Ready
from sojourn.gateways.itv2.peer import SimulatedPanel
from sojourn.gateways.itv2.peer.orders import KINDS
from sojourn.gateways.itv2.peer.script import Script, play, ready
from sojourn.gateways.itv2.peer.zones import NIGHT_MODES, STAY_MODES, Partition, Zone

REDRAW_S: Final = 0.2
SAID_COUNT: Final = 8
"""Of the last lines that were said, on the screen."""
COLUMNS_COUNT: Final = 2
LINE_LENGTH: Final = 200
BACKSPACE: Final = "\x7f\b"
KILL_LINE: Final = "\x15"
END_OF_INPUT: Final = "\x04"
_READY: Final = {Ready.READY: "ready", Ready.FORCE: "ready to force", Ready.NOT_READY: "not ready"}


class Prompt:
    """A line that is being typed. Life: as long as the screen; ``orders`` are the lines that are finished."""

    def __init__(self) -> None:
        self.line = ""
        self.is_over = False
        self.orders: deque[str] = deque()

    def type(self, text: str) -> None:
        """Take what was typed."""
        for one in text:
            if one in "\r\n":
                self.orders.append(self.line.strip())
                self.line = ""
            elif one in BACKSPACE:
                self.line = self.line[:-1]
            elif one == KILL_LINE:
                self.line = ""
            elif one == END_OF_INPUT:
                self.is_over = True
            elif one.isprintable() and len(self.line) < LINE_LENGTH:
                self.line += one


class PanelScreen:
    """What a person sees of a panel, and does to it."""

    def __init__(self, panel: SimulatedPanel, prompt: Prompt) -> None:
        self.said: deque[str] = deque(maxlen=SAID_COUNT)
        self._panel = panel
        self._prompt = prompt

    def say(self, text: str) -> None:
        """Show a line."""
        self.said.append(text)

    def obey(self) -> None:
        """Carry out the orders that were typed."""
        while self._prompt.orders:
            self._obey(self._prompt.orders.popleft())

    def _obey(self, text: str) -> None:
        if text in {"quit", "exit", "q"}:
            self._prompt.is_over = True
        elif text in {"help", "?"}:
            self.say(", ".join(kind.usage for kind in KINDS) + ", quit")
        elif text:
            self.say(carry_out(self._panel, text))

    def draw(self) -> Group:
        """Return what is to be seen now."""
        return Group(
            self._partitions(),
            Text(),
            self._zones(),
            Text(f"\n{self._line_words()}\n", "dim"),
            *(Text(line, overflow="fold") for line in self.said),
            Text(f"> {self._prompt.line}_", "bold"),
        )

    def _line_words(self) -> str:
        record, outbox = self._panel.record, self._panel.outbox
        counts = f"{record.acknowledged_count} acknowledged, {len(outbox)} waiting, {outbox.lost_count} lost"
        return f"panel {self._panel.identity.integration_id}: {record.words or 'dialing'}; {counts}"

    def _partitions(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("partition", "", "state", ""):
            table.add_column(column)
        for one in self._panel.house.partitions.values():
            table.add_row(str(one.number), one.label, *_partition_cells(one, self._panel.now_s()))
        return table

    def _zones(self) -> Table:
        zones = list(self._panel.house.zones.values())
        rows = -(-len(zones) // COLUMNS_COUNT)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for _ in range(COLUMNS_COUNT):
            for column in ("zone", "", "state"):
                table.add_column(column)
        for index in range(rows):
            row = [zones[at] for at in range(index, len(zones), rows)]
            table.add_row(*(cell for zone in row for cell in _zone_cells(zone)))
        return table


def _partition_cells(one: Partition, now_s: float) -> tuple[Text, str]:
    if one.in_alarm:
        state = Text("ALARM", "bold red")
    elif one.is_entered:
        state = Text(f"entry delay, {one.entry_ends_s - now_s:.0f} s", "yellow")
    elif one.is_leaving:
        state = Text(f"exit delay, {one.exit_ends_s - now_s:.0f} s", "yellow")
    elif one.is_armed:
        kind = "stay" if one.mode in STAY_MODES else "night" if one.mode in NIGHT_MODES else "away"
        state = Text(f"armed {kind}", "cyan")
    else:
        state = Text(_READY[one.ready], "green" if one.ready == Ready.READY else "")
    more = (
        ("trouble", one.has_trouble),
        ("bypass", one.has_bypass),
        ("alarm in memory", one.has_alarm_memory),
    )
    return state, ", ".join(word for word, is_so in more if is_so)


def _zone_cells(zone: Zone) -> tuple[str, str, Text]:
    words = [
        word
        for word, is_so in (
            ("ALARM", zone.in_alarm),
            ("open", zone.is_open),
            ("bypassed", zone.is_bypassed),
            ("tamper", zone.has_tamper),
            ("broken", zone.has_fault),
            ("low battery", zone.has_low_battery),
        )
        if is_so
    ]
    style = "bold red" if zone.in_alarm else "yellow" if words else "dim"
    return str(zone.number), zone.label, Text(", ".join(words) or "closed", style)


async def show_panel(
    console: Console, panel: SimulatedPanel, script: Script | None, *, connect_s: float
) -> None:
    """Draw the panel again and again and take orders, until ``quit`` or the end of input.

    Args: connect_s, how long a script waits for the panel's connection; then it is not played.
    """
    prompt = Prompt()
    screen = PanelScreen(panel, prompt)
    screen.say("type an order, or: help, quit")
    async with asyncio.TaskGroup() as tasks:
        playing = None if script is None else tasks.create_task(_played(panel, script, screen, connect_s))
        with _typing(prompt), Live(screen.draw(), console=console, auto_refresh=False) as live:
            try:
                while not prompt.is_over:
                    screen.obey()
                    live.update(screen.draw(), refresh=True)
                    await asyncio.sleep(REDRAW_S)
            finally:
                if playing is not None:
                    playing.cancel()


async def _played(panel: SimulatedPanel, script: Script, screen: PanelScreen, connect_s: float) -> None:
    try:
        await ready(panel, connect_s)
    except TimeoutError:
        screen.say(f"the script is not played: not connected within {connect_s:g} s")
        return
    await play(panel, script, screen.say)


@contextmanager
def _typing(prompt: Prompt) -> Iterator[None]:
    """Read keys as they are typed, without echo; Ctrl-C stays what it is."""
    import termios  # noqa: PLC0415 - no such thing on Windows, where everything else of this works
    import tty  # noqa: PLC0415 - as termios

    descriptor = sys.stdin.fileno()
    if not sys.stdin.isatty():
        yield  # nobody types; the screen is to look at
        return
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        text = os.read(descriptor, 1024).decode("utf-8", "replace")
        prompt.type(text or END_OF_INPUT)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
