"""Lines of files in the form of pg_hba.conf and pg_ident.conf: fields, lists and quotes.

Knows what a field looks like and nothing of what it means.

Source: PostgreSQL documentation, "The pg_hba.conf File".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_PART: Final = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"|(?P<bare>[^\s,"#][^\s,"]*)|(?P<mark>,)|(?P<blank>\s+)')


class Word(NamedTuple):
    """One name or keyword; in quotes it is never a keyword."""

    text: str
    is_quoted: bool


Fields = list[list[Word]]
"""The fields of a line; each is a list of words that commas separate."""


class Line(NamedTuple):
    """One line with something on it, or what is wrong with it."""

    number: int
    fields: Fields
    mistake: str


def lines_of(text: str) -> Iterator[Line]:
    """Yield the lines that say something; a backslash at a line's end joins the next one to it."""
    start, held = 0, ""
    lines = text.removeprefix("\ufeff").split("\n")
    for number, raw in enumerate(lines, start=1):
        start = start or number
        whole = held + raw.removesuffix("\r")
        if whole.endswith("\\") and number < len(lines):
            held = whole[:-1]
            continue
        fields, mistake = _fields_of(whole)
        if fields or mistake:
            yield Line(start, fields, mistake)
        start, held = 0, ""


def _fields_of(text: str) -> tuple[Fields, str]:
    fields: Fields = []
    position, is_separate, awaits_word = 0, True, False
    while position < len(text) and text[position] != "#":
        part = _PART.match(text, position)
        if part is None:
            return [], "a double quote without its partner"
        position = part.end()
        if part["blank"]:
            is_separate = not awaits_word
        elif part["mark"]:
            # PostgreSQL and PgBouncer read a blank before a comma differently, so neither is followed.
            if awaits_word or not fields or is_separate:
                return [], "a comma that does not follow a name at once"
            awaits_word = True
        else:
            quoted = part["quoted"]
            word = Word(part["bare"] if quoted is None else quoted.replace('""', '"'), quoted is not None)
            if awaits_word:
                fields[-1].append(word)
            elif is_separate:
                fields.append([word])
            else:
                return [], "a quoted text that touches another one"
            is_separate = awaits_word = False
    if awaits_word:
        return [], "a comma with nothing behind it"
    return fields, ""
