"""Where each table and key of a TOML text stands: ``tomllib`` gives values, this gives their lines.

Knows nothing of declared settings, and checks no syntax: it reads only texts that ``tomllib`` has accepted.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import final

Keys = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def find_positions(text: str) -> dict[Keys, int]:
    """Return the line of the first mention of every table, key and list item.

    Shape: ``("tacacs", "devices", 2, "name") -> 41``; items of arrays and of arrays of tables are numbers.
    Units: lines count from 1.
    Args: text, which ``tomllib.loads`` has accepted.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan()
    return scanner.lines


@final
class _Scanner:
    """One pass over one text; :attr:`lines` is complete after :meth:`scan`."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Keys, int] = {}
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._items_count: dict[Keys, int] = {}

    def scan(self) -> None:
        table: Keys = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._array_header()
            elif self._text[self._at] == "[":
                table = self._table_header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Move behind what the pattern matches here; return the new place."""
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at

    def _note(self, keys: Keys) -> None:
        self.lines.setdefault(keys, bisect_left(self._newlines, self._at) + 1)

    def _table_header(self) -> Keys:
        line_start = self._at
        self._at += 1
        table: Keys = ()
        for part in self._dotted_key():
            table = self._inside((*table, part))
            self._note(table)
        # A table that an earlier, longer header only implied is better found at its own header.
        self.lines[table] = bisect_left(self._newlines, line_start) + 1
        self._at += 1
        return table

    def _array_header(self) -> Keys:
        self._at += 2
        *parents, last = self._dotted_key()
        table: Keys = ()
        for part in parents:
            table = self._inside((*table, part))
            self._note(table)
        array: Keys = (*table, last)
        self._note(array)
        index = self._items_count.get(array, 0)
        self._items_count[array] = index + 1
        table = (*array, index)
        self._note(table)
        self._at += 2
        return table

    def _inside(self, keys: Keys) -> Keys:
        """Return where a header that names these keys leads: into the last item of an array of tables."""
        count = self._items_count.get(keys)
        return keys if count is None else (*keys, count - 1)

    def _dotted_key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            start = self._at
            raw = self._text[start : self._skip(_KEY_PART)]
            parts.append(raw if raw[:1] not in {'"', "'"} else tomllib.loads(f"key = {raw}")["key"])
            self._skip(_SPACE)
            if self._text[self._at : self._at + 1] != ".":
                return parts
            self._at += 1

    def _pair(self, table: Keys) -> None:
        start = self._at
        parts = self._dotted_key()
        end, self._at = self._at, start
        keys = table
        for part in parts:
            keys = (*keys, part)
            self._note(keys)
        self._at = end + 1  # the "="
        self._skip(_SPACE)
        self._value(keys)

    def _value(self, keys: Keys) -> None:
        match self._text[self._at : self._at + 1]:
            case "[":
                self._array(keys)
            case "{":
                self._inline_table(keys)
            case '"' | "'":
                self._skip(_STRING)
            case _:
                self._skip(_SCALAR)

    def _array(self, keys: Keys) -> None:
        self._at += 1
        index = 0
        while self._text[self._skip(_BLANK)] != "]":
            item = (*keys, index)
            self._note(item)
            self._value(item)
            index += 1
            if self._text[self._skip(_BLANK)] == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, keys: Keys) -> None:
        self._at += 1
        while self._text[self._skip(_BLANK)] != "}":
            self._pair(keys)
            if self._text[self._skip(_BLANK)] == ",":
                self._at += 1
        self._at += 1
