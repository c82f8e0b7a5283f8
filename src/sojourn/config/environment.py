"""Environment overrides: ``SOJOURN__TACACS__LIMITS__IDLE_TIMEOUT_S=60`` lies over the file's value.

Knows nothing of declared types: it puts texts into the tree, and the conversion reads them as what is wanted.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, final

from sojourn.config.origins import Origins
from sojourn.config.positions import Keys
from sojourn.config.references import is_utf8
from sojourn.errors import Problem

PREFIX = "SOJOURN__"

_INDEX = re.compile(r"[0-9]{1,6}")


@final
class EnvText(str):
    """A text out of the environment, not yet read as the type that its setting has."""

    __slots__ = ()


def read_toml_value(text: str) -> Any:
    """Read one TOML value.

    Raises: ValueError if the text is anything else.
    """
    document = tomllib.loads(f"value = {text}")
    if set(document) != {"value"}:
        found = f"{len(document)} values"
        raise ValueError(found)
    return document["value"]


def apply_environment(data: dict[str, Any], origins: Origins, environ: Mapping[str, str]) -> list[Problem]:
    """Put every ``SOJOURN__...`` variable into ``data`` and its name into ``origins``.

    Shape: names are case-insensitive, ``__`` separates them, a number is an item of a list; the number just
    behind a list's last item adds one.
    Returns: what could not be placed.
    """
    problems: list[Problem] = []
    overrides = [(_keys(name), name) for name in environ if name.startswith(PREFIX)]
    # Whole tables and lists come before their items, items in their order.
    for keys, name in sorted(overrides, key=_order):
        trouble = _place(data, keys, EnvText(environ[name]), name, origins)
        if trouble is not None:
            problems.append(Problem(f"environment variable {name}", 0, "", "", *trouble))
    return problems


def _order(override: tuple[Keys, str]) -> tuple[int, list[str]]:
    keys = override[0]
    return len(keys), [f"{key:06}" if isinstance(key, int) else key for key in keys]


def _keys(name: str) -> Keys:
    parts = name.removeprefix(PREFIX).lower().split("__")
    return tuple(int(part) if _INDEX.fullmatch(part) else part for part in parts)


def _place(
    data: dict[str, Any], keys: Keys, text: EnvText, name: str, origins: Origins
) -> tuple[str, str] | None:
    """Put one text at its keys; return found and wanted if it has no place there."""
    if "" in keys:
        return "an empty name between underscores", "names separated by exactly two underscores"
    if not is_utf8(text):
        return "bytes that are not UTF-8", "UTF-8"
    here: Any = data
    path: Keys = ()
    for depth, part in enumerate(keys):
        # A table's own keys are texts, whatever they look like.
        key = str(part) if isinstance(here, dict) else part
        path = (*path, key)
        if (trouble := _no_place(here, key)) is not None:
            return trouble
        if depth == len(keys) - 1:
            _set(here, key, text)
            origins.variables[path] = name
            return None
        if path not in origins.lines:
            origins.variables.setdefault(path, name)
        here = _enter(here, key, [] if isinstance(keys[depth + 1], int) else {})
    return None


def _no_place(here: object, key: str | int) -> tuple[str, str] | None:
    """Return found and wanted if a value can have no such name in it."""
    if isinstance(here, list) and isinstance(key, int):
        if key > len(here):
            return f"item {key} of a list of {len(here)}", f"an item from 0 to {len(here)}"
        return None
    if isinstance(here, dict):
        return None
    kind = "a list" if isinstance(here, list) else "a single value"
    return f"a name inside {kind}", "a name inside a table, or a number inside a list"


def _set(here: Any, key: str | int, value: object) -> None:
    if isinstance(here, list) and key == len(here):
        here.append(value)
    else:
        here[key] = value


def _enter(here: Any, key: str | int, otherwise: list[Any] | dict[str, Any]) -> Any:
    """Return what is at the key, put there first if nothing is; a variable's text is read as TOML for it."""
    present = key in here if isinstance(here, dict) else isinstance(key, int) and key < len(here)
    if not present:
        _set(here, key, otherwise)
    elif isinstance(here[key], EnvText):
        with contextlib.suppress(ValueError):
            here[key] = read_toml_value(here[key])
    return here[key]
