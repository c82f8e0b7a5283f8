"""Scripts of a simulated panel's day: what happens in its house, and when, as TOML.

A script is read as a whole before anything happens; every mistake in it is told with its line. Scripts that come with
the product lie in ``scripts/`` and are known by their names.

Shape:
    title = "..."
    speed = 10.0                  # how many seconds of the panel pass in one
    [panel]
    zones = 16
    exit_delay_s = 40.0
    [[step]]
    at = 5.0                      # seconds of the panel since the beginning
    do = "open zone 3"            # or several in a list
    say = "somebody comes home"   # for who watches
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from sojourn.errors import ConfigError, Problem
from sojourn.gateways.itv2.peer.orders import Misread, Order, read_order
from sojourn.gateways.itv2.peer.programme import PanelProgramme, house
from sojourn.gateways.itv2.peer.simulated import SimulatedPanel

SHIPPED: Final = Path(__file__).parent / "scripts"
QUIET_S: Final = 3.0
"""Before a script begins, whatever its speed: a server takes what a panel says before a pause for its replay.

Source: the two seconds of itv2-users-and-history.md section 3, row 10, and one more.
"""
MAX_BYTES: Final = 1_000_000
_HEADER: Final = re.compile(r"\s*\[\[\s*step\s*\]\]")
_TABLE: Final = re.compile(r"\s*\[")
_WHERE: Final = re.compile(r"(?P<text>.*) - at `\$\.?(?P<path>.*)`")
_WANTED: Final = re.compile(r"Expected `(?P<wanted>.*?)`(?:, got `(?P<found>.*)`)?")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_WORDS: Final = {"int": "a whole number", "float": "a number", "str": "text", "array": "a list"}


class _Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    zones: int = 16
    partitions: tuple[str, ...] = ("House",)
    exit_delay_s: float = 40.0
    entry_delay_s: float = 30.0
    urgent_s: float = 10.0
    siren_s: float = 240.0
    clock_every_s: float = 240.0
    has_one_touch: bool = True


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: float
    do: str | tuple[str, ...] = ()
    say: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str = ""
    speed: float = 1.0
    panel: _Panel = _Panel()
    step: tuple[_Step, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """What is done at one moment. Units: seconds of the panel since the beginning."""

    at_s: float
    orders: tuple[Order, ...]
    say: str = ""


class Script(msgspec.Struct, frozen=True):
    """A script that was understood as a whole."""

    title: str
    speed: float
    programme: PanelProgramme
    steps: tuple[Step, ...]

    @property
    def length_s(self) -> float:
        """Return when its last step happens, on the panel's clock."""
        return self.steps[-1].at_s if self.steps else 0.0


def shipped_scripts() -> list[str]:
    """Return the names of the scripts that come with the product."""
    return sorted(file.name for file in SHIPPED.glob("*.toml"))


def find_script(name: str) -> Path:
    """Return a file of this name, or else the script that comes with the product.

    Raises: ConfigError if there is neither.
    """
    for path in (Path(name), SHIPPED / name, SHIPPED / f"{name}.toml"):
        if path.is_file():
            return path
    wanted = f"a file, or one of: {', '.join(shipped_scripts())}"
    raise ConfigError([Problem(name, 0, "", "script", "no such file", wanted)])


def load_script(path: Path, *, zones_count: int | None = None) -> Script:
    """Read a script; ``zones_count`` overrides its own.

    Raises: ConfigError with every mistake that was found.
    """
    try:
        data = path.read_bytes()[:MAX_BYTES]
        return read_script(data.decode(), str(path), zones_count=zones_count)
    except OSError as error:
        raise ConfigError([Problem(str(path), 0, "", "script", str(error.strerror), "a file")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(str(path), 0, "", "script", "other bytes", "UTF-8")]) from None


def read_script(text: str, file: str, *, zones_count: int | None = None) -> Script:
    """Read a script's text. Raises: ConfigError."""
    try:
        told = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_toml_problem(str(error), file)]) from None
    except msgspec.ValidationError as error:
        raise ConfigError([_shape_problem(str(error), text, file)]) from None
    reader = _Reader(text, file)
    panel = told.panel
    if zones_count is not None:
        panel = msgspec.structs.replace(panel, zones=zones_count)
    reader.check(told, panel)
    steps = tuple(reader.step(index, step, panel) for index, step in enumerate(told.step))
    if reader.problems:
        raise ConfigError(reader.problems)
    programme = PanelProgramme(
        zones=house(panel.zones, len(panel.partitions)),
        **{name: getattr(panel, name) for name in _Panel.__struct_fields__ if name != "zones"},
    )
    return Script(told.title, told.speed, programme, steps)


class _Reader:
    """Understands what has the right shape, and gathers what it does not understand."""

    def __init__(self, text: str, file: str) -> None:
        self.problems: list[Problem] = []
        self._lines = _Lines(text)
        self._file = file

    def check(self, told: _File, panel: _Panel) -> None:
        for name, value, low, high in (
            ("speed", told.speed, 0.01, 10_000.0),
            ("panel.zones", panel.zones, 1, 248),
            ("panel.partitions", len(panel.partitions), 1, 8),
            ("panel.exit_delay_s", panel.exit_delay_s, 0, 3600),
            ("panel.entry_delay_s", panel.entry_delay_s, 1, 3600),
            ("panel.siren_s", panel.siren_s, 1, 86_400),
            ("panel.clock_every_s", panel.clock_every_s, 1, 86_400),
        ):
            if not low <= value <= high:
                table, _, key = name.rpartition(".")
                self._complain(self._lines.of(table, key), table, key, f"{value:g}", f"{low:g} to {high:g}")
        for index, (before, after) in enumerate(pairwise(told.step), 1):
            if after.at < before.at:
                self._complain_of_step(index, "at", f"{after.at:g}", f"{before.at:g} or later")

    def step(self, index: int, step: _Step, panel: _Panel) -> Step:
        orders = []
        for words in (step.do,) if isinstance(step.do, str) else step.do:
            order = read_order(words, zones_count=panel.zones, partitions_count=len(panel.partitions))
            if isinstance(order, Misread):
                self._complain_of_step(index, "do", order.found, order.wanted)
            else:
                orders.append(order)
        if step.at < 0:
            self._complain_of_step(index, "at", f"{step.at:g}", "0 or more")
        return Step(step.at, tuple(orders), step.say)

    def _complain_of_step(self, index: int, key: str, found: str, wanted: str) -> None:
        self._complain(self._lines.of_step(index, key), f"step[{index}]", key, found, wanted)

    def _complain(self, line: int, table: str, key: str, found: str, wanted: str) -> None:
        self.problems.append(Problem(self._file, line, table, key, found, wanted))


class _Lines:
    """Where things stand in a text; lines count from 1."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._headers = [number for number, line in enumerate(self._lines, 1) if _HEADER.match(line)]

    def of_step(self, index: int, key: str) -> int:
        """Return the line of a step's key, or of the step."""
        if index >= len(self._headers):
            return 0
        return self._key_below(self._headers[index], key) or self._headers[index]

    def of(self, table: str, key: str) -> int:
        """Return the line of a key in a table, or of the table; 0 if it is not in the text."""
        if not table:
            return self._key_below(0, key)
        for number, line in enumerate(self._lines, 1):
            if re.match(rf"\s*\[\s*{re.escape(table)}\s*\]", line):
                return self._key_below(number, key) or number
        return 0

    def _key_below(self, header: int, key: str) -> int:
        for number, line in enumerate(self._lines[header:], header + 1):
            if _TABLE.match(line):
                return 0
            if key and re.match(rf"\s*{re.escape(key)}\s*=", line):
                return number
        return 0


def _toml_problem(error: str, file: str) -> Problem:
    where = re.search(r"\(at line (\d+),.*\)|\(at end of document\)", error)
    line = int(where[1]) if where is not None and where[1] else 0
    return Problem(file, line, "", "", error.partition(" (at")[0].lower(), "TOML")


def _shape_problem(error: str, text: str, file: str) -> Problem:
    """Say where a value of the wrong type stands."""
    matched = _WHERE.fullmatch(error)
    told, path = (matched["text"], matched["path"]) if matched is not None else (error, "")
    table, _, key = path.rpartition(".")
    if unknown := _UNKNOWN.fullmatch(told):
        table, key = path, unknown["name"]
        found, wanted = "an unknown key", "one of: " + ", ".join(_keys_of(table))
    elif expected := _WANTED.match(told):
        found, wanted = _in_words(expected["found"] or "something else"), _in_words(expected["wanted"])
    else:
        missing = re.fullmatch(r"Object missing required field `(.*)`", told)
        table, key = path, missing[1] if missing is not None else ""
        found, wanted = "nothing", "a value"
    lines = _Lines(text)
    index = re.match(r"step\[(\d+)\]", path)
    line = lines.of_step(int(index[1]), key) if index is not None else lines.of(table, key)
    return Problem(file, line, table, key, found, wanted)


def _keys_of(table: str) -> tuple[str, ...]:
    kind = _Step if table.startswith("step") else _Panel if table == "panel" else _File
    return kind.__struct_fields__


def _in_words(types: str) -> str:
    return " or ".join(_WORDS.get(kind.strip(), kind.strip()) for kind in types.split("|"))


async def ready(panel: SimulatedPanel, within_s: float, quiet_s: float = QUIET_S) -> None:
    """Wait until the panel is connected, and until the server takes what follows for live.

    Raises: TimeoutError if it is not connected within ``within_s``.
    """
    await panel.connected(within_s)
    await asyncio.sleep(quiet_s)


async def play(panel: SimulatedPanel, script: Script, say: Callable[[str], None] = lambda _: None) -> None:
    """Do what a script says, at the panel's speed; returns after its last step.

    Args:
        say: hears what each step says, and what did not work.
    """
    begins_s = panel.now_s()
    for step in script.steps:
        await asyncio.sleep(max(0.0, (begins_s + step.at_s - panel.now_s()) / panel.speed))
        if step.say:
            say(step.say)
        for order in step.orders:
            problem = order.do(panel)
            if problem:
                say(f"{order.words.split()[0]}: {problem}")
