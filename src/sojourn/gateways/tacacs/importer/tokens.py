"""Words of a classic ``tac_plus.conf``, each with its line.

Cuts exactly as the original daemon does: a word ends at a blank, a tab, ``=`` or the end of the line, so that
``.*}`` is one word. Knows nothing of what the words mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

END: Final = "end"
WORD: Final = "word"
STRING: Final = "string"
SIGN: Final = "sign"

_BLANK: Final = " \t\r\f\v"

PASSWORD_WORDS: Final = frozenset(("login", "pap", "opap", "arap", "chap", "ms-chap", "global", "enable"))

PASSWORD_KINDS: Final = frozenset(("cleartext", "des", "file", "PAM", "nopassword", "skey", "aceclnt"))

SECRET_WORDS: Final = frozenset(("cleartext", "des", "key", "password"))
"""What comes behind one of these is never shown."""


class Token(msgspec.Struct, frozen=True):
    """One word, quoted string or sign; ``line`` counts from 1."""

    kind: str
    text: str
    line: int


def tokenize(text: str) -> Iterator[Token]:
    """Yield the tokens of a configuration, closed by one of kind ``END``.

    A quoted string that is not closed ends with the file. Inside quotes a backslash before a quote or a
    backslash is taken away, any other stays (the daemon refuses it).
    """
    position, line, size = 0, 1, len(text)
    while position < size:
        char = text[position]
        if char == "\n":
            line += 1
            position += 1
        elif char in _BLANK:
            position += 1
        elif char in "={}":
            yield Token(SIGN, char, line)
            position += 1
        elif char == "#":
            end = text.find("\n", position)
            position = size if end < 0 else end
        elif char == '"':
            value, end = _quoted(text, position + 1)
            yield Token(STRING, value, line)
            line += text.count("\n", position, end)
            position = end
        else:
            start = position
            while position < size and text[position] not in "\n= \t\r":
                position += 1
            yield Token(WORD, text[start:position], line)
    yield Token(END, "", line)


def _quoted(text: str, position: int) -> tuple[str, int]:
    """Return the value of a quoted string and where the text goes on behind its closing quote."""
    value: list[str] = []
    while position < len(text) and text[position] != '"':
        if text[position] == "\\" and text[position + 1 : position + 2] in ('"', "\\"):
            position += 1
        value.append(text[position])
        position += 1
    return "".join(value), position + 1


def shown(tokens: Sequence[Token]) -> str:
    """Put tokens together for a person to read, with every secret replaced by ``***``."""
    words: list[str] = []
    before = ""
    for token in tokens:
        if token.kind == SIGN:
            words.append(token.text)
            continue
        if before in SECRET_WORDS or (before in PASSWORD_WORDS and token.text not in PASSWORD_KINDS):
            words.append("***")
        elif token.kind == STRING:
            words.append(f'"{token.text}"')
        elif token.kind != END:
            words.append(token.text)
        before = token.text
    return " ".join(words)
