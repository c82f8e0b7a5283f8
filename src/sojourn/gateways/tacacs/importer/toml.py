"""A TOML writer for what the importer makes: tables, arrays of tables, texts, numbers, dates and lists.

Knows nothing of settings; every text is escaped so that a TOML reader gives it back as it was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

Value = str | int | bool | dt.date | Sequence["Value"] | Mapping[str, "Value"]

_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

_DELETE: Final = 0x7F


def text(value: str) -> str:
    """Return a basic string with its quotes.

    Source: TOML 1.0.0, "String".
    """
    return '"' + "".join(_ESCAPES.get(char) or _plain(char) for char in value) + '"'


def _plain(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04X}" if code < ord(" ") or code == _DELETE else char


def value(item: Value) -> str:
    """Return any value in TOML."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, str):
        return text(item)
    if isinstance(item, int):
        return str(item)
    if isinstance(item, dt.date):
        return item.isoformat()
    if isinstance(item, Mapping):
        return "{ " + ", ".join(f"{key} = {value(entry)}" for key, entry in item.items()) + " }"
    return "[" + ", ".join(map(value, item)) + "]"


def table(head: str, entries: Mapping[str, Value], remark: str = "") -> str:
    """Return a table with its head (``[a]`` or ``[[a]]``); empty texts and lists are left out."""
    lines = [f"# {comment(remark)}"] if remark else []
    lines.append(head)
    lines += [f"{key} = {value(item)}" for key, item in entries.items() if item not in ("", ())]
    return "\n".join(lines) + "\n"


def comment(words: str) -> str:
    """Return a text that is safe behind ``#``: control characters are not allowed there."""
    return "".join(char if char.isprintable() else "?" for char in words)
