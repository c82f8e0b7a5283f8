"""``docs/explanation/message-flow.md`` names classes and methods; they are there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sojourn.core
import sojourn.errors
import sojourn.gateways.postgres
import sojourn.gateways.tacacs
import sojourn.sansio

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "message-flow.md"
PLACES = (sojourn.core, sojourn.sansio, sojourn.gateways.tacacs, sojourn.gateways.postgres)
_CODE = re.compile(r"`([A-Z]\w+)(?:\.(\w+))?`")
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PARTICIPANT = re.compile(r"participant (\w+) as (\w+)")
_CALL = re.compile(r"^\s*\w+ ->> (\w+): (.+)$", re.MULTILINE)
_METHOD = re.compile(r"(?:^|or )(\w+)[(\[]")


def classes() -> dict[str, type]:
    """Return every public class of the core, of sansio and of the gateways by its name."""
    found: dict[str, type] = {}
    modules = [sojourn.errors]
    for place in PLACES:
        names = [info.name for info in pkgutil.walk_packages(place.__path__, f"{place.__name__}.")]
        modules += [importlib.import_module(name) for name in names if not name.endswith("postgres")]
    for module in modules:
        for name, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__:
                found.setdefault(name, value)
    return found


CLASSES = classes()


def has(kind: type, name: str) -> bool:
    """Say whether objects of a class have something of this name: a method, a field, or what __init__ sets."""
    if hasattr(kind, name) or any(name in vars(base).get("__annotations__", {}) for base in kind.__mro__):
        return True
    return f"self.{name} = " in inspect.getsource(kind) or f"self.{name}: " in inspect.getsource(kind)


def references() -> Iterator[tuple[str, str]]:
    """Yield class and member of everything in backquotes that looks like one, and of each call in a diagram."""
    text = PAGE.read_text(encoding="utf-8")
    for match in _CODE.finditer(text):
        yield match[1], match[2] or ""
    for diagram in _DIAGRAM.findall(text):
        names = dict(_PARTICIPANT.findall(diagram))
        for target, label in _CALL.findall(diagram):
            if names.get(target) in CLASSES:
                for method in _METHOD.findall(label):
                    yield names[target], method


@pytest.mark.parametrize(("kind", "member"), sorted(set(references())))
def test_what_the_page_names_is_there(kind: str, member: str) -> None:
    """A method that is renamed is renamed on the page too."""
    assert kind in CLASSES, f"no class {kind}"
    assert not member or has(CLASSES[kind], member), f"{kind} has no {member}"


def test_the_page_has_its_diagrams() -> None:
    """Receive, send with its exception path, and the end of a session: each call in them is checked above."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(_DIAGRAM.findall(text)) >= 4
    assert len(set(references())) > 60
