"""Cut SQL text into tokens and statements, and undo the quoting of identifiers and strings.

The rules are those of the server's own scanner: strings with ``''``, ``E''``, ``U&''``, dollar quotes, quoted
identifiers, ``--`` comments and nested block comments. ``standard_conforming_strings`` is taken to be on, and
every character set to be a superset of ASCII. Text that ends inside a quote or a comment is not an error: the
server will say so. Knows nothing of sessions, messages or what a statement means.
Source: PostgreSQL manual, section 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

STRING: Final = 3
QUOTED: Final = 4
DOLLAR: Final = 5
PARAMETER: Final = 6
WORD: Final = 7
NUMBER: Final = 8
SYMBOL: Final = 9
"""Kinds of tokens: the numbers of the groups below. A symbol is always one character."""

_SPACE: Final = 1
_BLOCK_COMMENT: Final = 2

# Nothing here may make the scanner try twice: alternatives inside a repeated group begin differently, and what follows
# it matches anything. Only single characters repeat possessively; Python 3.11.0 to 3.11.4 get possessive groups wrong.
# The closing quotes are optional, so that text which ends inside a quote stays one token. An E'' string may go on
# after white space with a line break.
_TOKEN: Final = re.compile(
    rb"""
      ([ \t\n\r\f\v]++ | --[^\n\r]*+)
    | (/\*)
    | ( [eE]'(?:[^'\\]++|\\.?|'')*'?
          (?:(?:[ \t\f\v]++|--[^\n\r]*+)*[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+[\n\r])*'(?:[^'\\]++|\\.?|'')*'?)*
      | (?:[bBxXnN]|[uU]&)?'[^']*+(?:''[^']*+)*'? )
    | ((?:[uU]&)?"[^"]*+(?:""[^"]*+)*"?)
    | (\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)
    | (\$[0-9]++)
    | ([A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)
    | (\.?[0-9](?:[eE][+-][0-9]|[0-9A-Za-z_.])*)
    | (.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(rb"/\*|\*/")
_IDENTIFIER_BYTES: Final = 63
"""NAMEDATALEN - 1: the server cuts longer identifiers."""

_ESCAPE: Final = re.compile(
    rb"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|''|'[ \t\n\r\f\v]++'", re.DOTALL
)
_UNICODE_ESCAPE: Final = re.compile(rb"\\(\\|\+[0-9A-Fa-f]{6}|[0-9A-Fa-f]{4})")
_CONTROLS: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class Token(NamedTuple):
    """One token: its kind, its text as sent, and where it starts."""

    kind: int
    text: bytes
    start: int

    @property
    def end(self) -> int:
        """Where the text behind it starts."""
        return self.start + len(self.text)

    @property
    def keyword(self) -> bytes:
        """The word in upper case, empty for anything that cannot be a keyword."""
        return self.text.upper() if self.kind == WORD else b""


def tokens(sql: bytes) -> Iterator[Token]:
    """Yield the tokens of a text, without white space and comments."""
    match_at = _TOKEN.match
    position, size = 0, len(sql)
    while position < size:
        match = match_at(sql, position)
        if match is None or match.lastindex is None:  # cannot be: the last alternative takes any byte
            return
        kind, end = match.lastindex, match.end()
        if kind == _BLOCK_COMMENT:
            end = _end_of_comment(sql, end)
        elif kind == DOLLAR:
            close = sql.find(match.group(), end)
            end = size if close < 0 else close + len(match.group())
            yield Token(DOLLAR, sql[position:end], position)
        elif kind != _SPACE:
            yield Token(kind, sql[position:end], position)
        position = end


def split_statements(sql: bytes) -> list[bytes]:
    """Cut a query string into its statements, without those that are empty.

    The n-th completion that the server sends belongs to the n-th of them. A semicolon inside parentheses
    (``CREATE RULE``) or inside the ``BEGIN ATOMIC`` body of a function ends no statement.

    Returns: each from its first token to its last, without the semicolon.
    """
    text = sql.strip()
    if text.endswith(b";"):
        text = text[:-1].rstrip()
    if b";" not in text and b"--" not in text and b"/*" not in text:
        return [text] if text else []
    statements: list[bytes] = []
    start = end = -1
    parentheses = 0
    head: list[bytes] = []
    body = _AtomicBody()
    for token in tokens(text):
        symbol = token.text if token.kind == SYMBOL else b""
        if symbol == b";" and not parentheses and not body.depth:
            if start >= 0:
                statements.append(text[start:end])
            start, head, body = -1, [], _AtomicBody()
            continue
        if start < 0:
            start = token.start
        end = token.end
        if symbol == b"(":
            parentheses += 1
        elif symbol == b")":
            parentheses = max(0, parentheses - 1)
        elif token.kind == WORD:
            body.see(token.keyword, head)
        if len(head) < _HEAD_WORDS_COUNT:
            head.append(token.keyword)
    if start >= 0:
        statements.append(text[start:end])
    return statements


def words(statement: bytes, limit: int) -> list[bytes]:
    """Return the first tokens of a statement: words in upper case, everything else as sent."""
    found: list[bytes] = []
    for token in tokens(statement):
        if len(found) >= limit:
            break
        found.append(token.text.upper() if token.kind == WORD else token.text)
    return found


def identifier(token: Token) -> bytes:
    """Return the name that a word, a quoted identifier or a string stands for, folded and cut as the server does.

    Returns: empty for any other token.
    """
    if token.kind == WORD:
        name = token.text.lower()
    elif token.kind == QUOTED:
        text = token.text
        if text[:1] == b'"':
            name = text[1:].removesuffix(b'"').replace(b'""', b'"')
        else:
            name = _from_unicode(text[3:].removesuffix(b'"').replace(b'""', b'"'))
    elif token.kind in (STRING, DOLLAR):
        name = string_value(token)
    else:
        return b""
    return name if len(name) <= _IDENTIFIER_BYTES else _cut(name)


def string_value(token: Token) -> bytes:
    """Return what a string or dollar-quoted string stands for; any other token as sent."""
    text = token.text
    if token.kind == DOLLAR:
        tag = text[: text.index(b"$", 1) + 1]
        return text[len(tag) :].removesuffix(tag)
    if token.kind != STRING:
        return text
    first = text[:1].upper()
    if first == b"E":
        return _ESCAPE.sub(_unescaped, text[2:].removesuffix(b"'"))
    body = text[text.index(b"'") + 1 :].removesuffix(b"'").replace(b"''", b"'")
    return _from_unicode(body) if first == b"U" else body


def quoted(name: bytes) -> bytes:
    """Return an identifier in double quotes."""
    return b'"' + name.replace(b'"', b'""') + b'"'


_HEAD_WORDS_COUNT: Final = 4
_ROUTINES: Final = frozenset((b"FUNCTION", b"PROCEDURE"))


class _AtomicBody:
    """Follows the words of one statement and says whether they are inside a ``BEGIN ATOMIC`` body."""

    __slots__ = ("_last", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self._last = b""

    def see(self, keyword: bytes, head: list[bytes]) -> None:
        """Take the next word; ``head`` are the first words of the statement."""
        if self.depth:
            if keyword == b"CASE":
                self.depth += 1
            elif keyword == b"END":
                self.depth -= 1
        elif keyword == b"ATOMIC" and self._last == b"BEGIN" and head[:1] == [b"CREATE"]:
            self.depth = 1 if _ROUTINES.intersection(head) else 0
        self._last = keyword


def _end_of_comment(sql: bytes, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, position)
        if edge is None:
            return len(sql)
        depth += 1 if edge.group() == b"/*" else -1
        position = edge.end()
    return position


def _unescaped(match: re.Match[bytes]) -> bytes:
    """Undo one backslash escape of an E'' string."""
    code = match.group(1)
    if code is None:
        return b"'" if match.group() == b"''" else b""
    first = code[:1]
    if first in b"01234567":
        return bytes((int(code, 8) & 0xFF,))
    if len(code) > 1:
        number = int(code[1:], 16)
        return bytes((number,)) if first == b"x" else _character(number)
    return _CONTROLS.get(code, code)


def _from_unicode(text: bytes) -> bytes:
    """Undo the escapes of a U& string; those with another UESCAPE character stay as they are."""
    return _UNICODE_ESCAPE.sub(
        lambda match: b"\\" if match.group(1) == b"\\" else _character(int(match.group(1).lstrip(b"+"), 16)),
        text,
    )


def _character(number: int) -> bytes:
    return chr(min(number, 0x10FFFF)).encode("utf-8", "surrogatepass")


def _cut(name: bytes) -> bytes:
    """Cut a long name without leaving part of a UTF-8 character."""
    end = _IDENTIFIER_BYTES
    while end and name[end] & 0xC0 == 0x80:  # noqa: PLR2004  a continuation byte
        end -= 1
    return name[:end]
