"""The reference pages that are made from the code miss nothing of it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import typer.main

from sojourn.admin import openapi as admin_openapi
from sojourn.admin import problems as admin_problems
from sojourn.cli.main import app
from sojourn.config import SojournSettings
from sojourn.core.events import EventKind
from sojourn.gateways.exchange import messages
from sojourn.gateways.exchange.problems import TABLE
from sojourn.gateways.exchange.routes import OPERATIONS

DOCS = Path(__file__).resolve().parents[2] / "docs"
MADE = {
    "admin-api.md",
    "command-line.md",
    "exchange-rest.md",
    "exchange-websocket.md",
    "itv2-rest.md",
    "itv2-values.md",
    "itv2-websocket.md",
    "metrics-and-events.md",
    "settings.md",
}


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """Return ``docs/reference_pages.py`` as a module."""
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as for a script of this folder
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(made: ModuleType) -> dict[str, str]:
    found: dict[str, str] = made.pages()
    return found


def commands(command: Any, name: str = "sojourn") -> list[str]:
    children = getattr(command, "commands", {})
    return [name] if not children else [
        found for child in children for found in commands(children[child], f"{name} {child}")
    ]  # fmt: skip


def test_every_command_has_its_section(pages: dict[str, str]) -> None:
    """House rule: each thing is declared once, and its page is made from that."""
    for name in commands(typer.main.get_command(app)):
        assert f"## `{name}`" in pages["command-line.md"]


def test_every_top_level_setting_has_its_row(pages: dict[str, str]) -> None:
    """The settings' page is what ``sojourn config reference`` prints."""
    for field in msgspec.structs.fields(SojournSettings):
        assert (
            f"`{field.encode_name}`" in pages["settings.md"]
            or f"[{field.encode_name}" in pages["settings.md"]
        )


def test_every_kind_of_event_is_there_and_means_something(pages: dict[str, str]) -> None:
    """A log line whose meaning nobody wrote down helps nobody."""
    for kind in EventKind.all:
        if f"| `{kind.name}` |" in pages["metrics-and-events.md"]:
            (row,) = re.findall(
                rf"^\| `{re.escape(kind.name)}` .*$", pages["metrics-and-events.md"], re.MULTILINE
            )
            assert not row.endswith("|  |"), f"{kind.name} says not what it means: a text below its constant"


def test_the_sources_hold_no_kind_of_event_that_the_page_misses(
    made: ModuleType, pages: dict[str, str]
) -> None:
    """Kinds are constants of modules; a module that the daemon does not load would be missed."""
    for name in made.event_words():
        assert f"| `{name}` |" in pages["metrics-and-events.md"]


def test_metrics_have_type_labels_and_meaning(pages: dict[str, str]) -> None:
    """No row is left at the words that its name is made of."""
    row = re.compile(r"^\| `(sojourn_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)
    rows = row.findall(pages["metrics-and-events.md"])
    assert len(rows) > 15
    for name, kind, _, meaning in rows:
        assert kind in {"counter", "gauge"}
        assert meaning.rstrip(".").replace(" ", "_") != name


def test_links_between_pages_lead_somewhere() -> None:
    """Sphinx checks its own pages; this one checks the README's as well, and needs no Sphinx."""
    for page in [
        DOCS.parent / "README.md",
        DOCS.parent / "CONTRIBUTING.md",
        *DOCS.glob("*/*.md"),
        DOCS / "index.md",
    ]:
        for link in re.findall(r"\]\(([^)#:]+\.md)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            assert target.exists() or target.name in MADE, f"{page.name}: {link}"


def test_the_script_writes_the_pages(
    tmp_path: Path, made: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``docs/conf.py`` calls it before each build."""
    monkeypatch.setattr(made, "FOLDER", tmp_path)
    made.write_pages()
    assert {page.name for page in tmp_path.iterdir()} == MADE


@pytest.mark.parametrize("gateway", ["exchange", "itv2"])
def test_every_metric_of_a_gateway_that_needs_clients_is_there(
    made: ModuleType, pages: dict[str, str], gateway: str
) -> None:
    """They are read off the sources: a name that is put together at run time would be missed."""
    sources = made.SOURCES / "gateways" / gateway
    texts = [file.read_text(encoding="utf-8") for file in sources.rglob("*.py")]
    named = {name for text in texts for name in re.findall(rf"[\"']sojourn_{gateway}_\w+", text)}
    rows = {name for name, *_ in made.metrics_of(gateway)}
    assert {name[1:] for name in named} == rows
    assert all(f"| `{name}` |" in pages["metrics-and-events.md"] for name in rows)
    assert not [text for text in texts if re.search(r"yield f[\"']", text) and "counters" in text]


# The admin API


def test_every_operation_of_the_admin_api_has_its_row_and_its_scope(pages: dict[str, str]) -> None:
    """The table is what the server serves; gateways' own operations are told with theirs."""
    page = pages["admin-api.md"]
    for operation in admin_openapi.OPERATIONS:
        title = "Everybody" if operation.access == "open" else f"Scope `{operation.access}`"
        section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert f"| `{operation.method} {operation.path}`" in section
    for gateway in ("tacacs", "postgres", "exchange", "itv2"):
        assert re.search(rf"^\| `GET {admin_openapi.PANELS}/{gateway}/.* \| `view` \|", page, re.MULTILINE)
    for kind in admin_problems.TABLE.values():
        assert f"| `{kind.name}` | {kind.status} |" in page


# The exchange gateway


def test_every_route_has_its_row(pages: dict[str, str]) -> None:
    """The routes are the table that the server serves."""
    page = pages["exchange-rest.md"]
    for operation in OPERATIONS:
        assert f"| `{operation.method} {operation.path}`" in page
    for kind in TABLE.values():
        assert f"| `{kind.name}` | {kind.status} |" in page


def test_every_frame_error_and_close_code_has_its_row(pages: dict[str, str]) -> None:
    """What clients are written by; a code without a meaning helps nobody."""
    page = pages["exchange-websocket.md"]
    frames = {one.__struct_config__.tag for one in vars(messages).values() if is_frame(one)}
    assert frames >= {"hello", "welcome", "err", "drain"}
    for tag in frames | {"ev", "md", "pf"}:
        assert f"| `{tag}` |" in page
    for name, code in vars(messages.Code).items():
        if name.isupper():
            (row,) = re.findall(rf"^\| `{code}` \| (.*) \|$", page, re.MULTILINE)
            assert row
    closed_with = {number for name, number in vars(messages.Close).items() if name.isupper()}
    assert closed_with == {one.code for one in messages.CLOSE_CODES}
    for one in messages.CLOSE_CODES:
        assert f"| {one.code} | `{one.name}` |" in page


def is_frame(one: Any) -> bool:
    """Say whether something of the module of messages is a frame."""
    is_struct = isinstance(one, type) and issubclass(one, msgspec.Struct)
    return is_struct and bool(one.__struct_config__.tag) and not one.__name__.startswith("_")
