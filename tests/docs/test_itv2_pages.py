"""What the pages about the panels' gateway list by hand is what the code has: files, tests, names and settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from sojourn.gateways.itv2 import messages
from sojourn.gateways.itv2.commands import Result
from sojourn.gateways.itv2.config import Itv2Settings, Timing
from sojourn.gateways.itv2.doctor import SENTENCES, Symptom
from sojourn.gateways.itv2.events import KINDS
from sojourn.gateways.itv2.history import HistorySettings
from sojourn.gateways.itv2.hub_config import StateSettings
from sojourn.gateways.itv2.peer import LineSettings
from sojourn.gateways.itv2.peer.faults import Fault

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "src/sojourn/gateways/itv2"
README = (ROOM / "README.md").read_text(encoding="utf-8")
PAGES = (
    "explanation/itv2-sessions.md",
    "howto/capture-a-panel.md",
    "howto/connect-a-panel.md",
    "howto/read-the-history.md",
    "tutorial/first-panel.md",
)
FAULTS_COUNT = 32
OURS = re.sub(r"^\| [^|]+ \|", "|", README, flags=re.MULTILINE)
"""Without the first cells of tables: what others call their things."""
NAMES = sorted(set(re.findall(r"`(?:\w+\.)?([A-Z]\w*[a-z]\w*|_[a-z]\w+)[.(`]", OURS)))
"""Classes and private functions in code style, the last part of a dotted name."""
OF_OTHERS = {"ConfigLock", "Lock"}
"""NeoHub's, asyncio's."""


def sources() -> str:
    """Return the code of this room and of the core below it."""
    files = [*ROOM.rglob("*.py"), *(ROOT / "src/sojourn/core").glob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def names_of_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}


def told(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_test_that_the_readme_names_is_there() -> None:
    """A fault whose test was renamed is a fault without one."""
    named = set(re.findall(r"`(test_\w+)`", README))
    files = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    assert named - names_of_tests() - files == set()


def test_every_known_fault_has_a_row_with_a_test() -> None:
    """itv2-users-and-history.md section 4."""
    rows = re.findall(r"^\| (\d+) \| .+ \| (.*`test_\w+`.*) \|$", README, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, FAULTS_COUNT + 1))


def test_every_file_has_its_line() -> None:
    """Whoever looks for something finds where it is."""
    table = README[README.index("## Files") :]
    for part in ROOM.iterdir():
        if part.name.startswith("__") or part.suffix not in {".py", ""}:
            continue
        name = part.name if part.is_file() else f"{part.name}/"
        assert f"`{name}`" in table, name


def test_the_names_that_the_readme_uses_are_in_the_code() -> None:
    """The table of the seed is worth as much as its names."""
    text = sources()
    for name in NAMES:
        is_there = re.search(rf"\b(?:class|def) {name}\b|^ *(?:self\.)?{name}\b.*=", text, re.MULTILINE)
        assert is_there or name in OF_OTHERS or hasattr(messages, name), name


def paths(struct: Any, prefix: str = "") -> set[str]:
    """Return every setting of a table as ``table.key``, and its tables."""
    found: set[str] = set()
    for field in msgspec.structs.fields(struct):
        found.add(prefix + field.name)
        for kind in (field.type, *get_args(field.type)):
            for part in (kind, *get_args(kind)):
                if isinstance(part, type) and issubclass(part, msgspec.Struct):
                    found |= paths(part, f"{prefix}{field.name}.")
    return found


TABLES = {field.name for field in msgspec.structs.fields(Itv2Settings)}


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_a_page_names_exist(page: str) -> None:
    """A setting by another name helps nobody."""
    known = paths(Itv2Settings)
    for name in re.findall(r"`(?:itv2\.)?((?:\w+\.)+\w+)(?: = [^`]+)?`", told(page)):
        assert name.partition(".")[0] not in TABLES or name in known, name


def test_kinds_and_results_are_those_of_the_code() -> None:
    """What people type, and what they get."""
    for page in PAGES:
        for kind in re.findall(r"--kind (\w+)", told(page)):
            assert kind in KINDS
    results = set(
        re.findall(r"^\| `(\w+)` \| (?!the panel said|it was so|the operator)", told(PAGES[0]), re.MULTILINE)
    )
    assert results == set(get_args(Result))


def test_every_symptom_has_a_sentence_on_the_page_of_values() -> None:
    """The page is made from the table; the table must have them all."""
    assert set(SENTENCES) == {value for name, value in vars(Symptom).items() if name.isupper()}


def test_numbers_that_the_pages_tell_are_those_of_the_code() -> None:
    """Numbers in prose get old first."""
    timing, history = Timing(), HistorySettings()
    assert (timing.ack_timeout_s, timing.answer_timeout_s, timing.replay_quiet_s) == (10, 30, 2)
    assert timing.poll_every_s == 45
    assert (history.ack_wait_s, history.keep_days, history.keep_audit_days) == (1, 730, 730)
    assert history.keep_per_panel_count == 500_000
    assert StateSettings().refresh_every_s == 300
    assert LineSettings().queue_count == 70
    assert len(Fault) == 20
