"""Settings of one session as an interned value, and the SQL that turns one session's settings into another's.

Two sessions with the same settings share one :class:`Vector`, so that the engine compares by identity whether
a server already suits a client. A value is ``bytes`` where it is SQL text that follows ``SET name TO``, and
``str`` where it is plain text as in a startup packet: a list given as one text (``search_path=a, b``) is right
for ``set_config`` only. Knows nothing of connections, transactions or what a setting means, but for the few
whose order matters.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Self
from weakref import WeakValueDictionary

from sojourn.gateways.postgres.lexer import (
    DOLLAR,
    QUOTED,
    STRING,
    WORD,
    Token,
    identifier,
    quoted,
    string_value,
    tokens,
)
from sojourn.gateways.postgres.messages import OPTION_PREFIX

Value = bytes | str

ROLE: Final = "role"
SESSION_AUTHORIZATION: Final = "session_authorization"
_IDENTITY: Final = frozenset((ROLE, SESSION_AUTHORIZATION))
_NOT_SETTINGS: Final = frozenset(("user", "database", "replication", "options"))
_DIFFERENCES_KEPT_COUNT: Final = 1024
_LARGE_BYTES: Final = 4096
"""Vectors with longer values are not kept for the sake of their differences."""
_SIMPLE_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_OPTION: Final = re.compile(r"(?:\\.|[^\s\\]|\\$)+", re.DOTALL)
_WINDOWS: Final = re.compile(r"win(\d+)")
_CODECS: Final = {
    "unicode": "utf-8",
    "sqlascii": "utf-8",
    "koi8": "koi8_r",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "uhc": "cp949",
    "mskanji": "cp932",
    "sjis": "cp932",
    "euccn": "gb2312",
}


class Vector:
    """An immutable map from setting names, in lower case, to values.

    Made by :meth:`of` and the ``with``/``without`` methods, which give the same object for the same content; it
    ends when nobody holds it. Equal content means ``is``.
    """

    __slots__ = ("__weakref__", "is_large", "items")

    items: tuple[tuple[str, Value], ...]
    is_large: bool

    def __repr__(self) -> str:
        return f"Vector({', '.join(name for name, _ in self.items)})"  # values may be anybody's data

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, name: object) -> bool:
        return any(known == name for known, _ in self.items)

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Vector:
        """Return the vector with this content."""
        return _interned(tuple(sorted(values.items())))

    @classmethod
    def _make(cls, items: tuple[tuple[str, Value], ...]) -> Self:
        vector = cls.__new__(cls)
        vector.items = items
        vector.is_large = sum(len(name) + len(value) for name, value in items) > _LARGE_BYTES
        return vector

    def get(self, name: str) -> Value | None:
        """Return the value of a setting, None where it has its server's default."""
        for known, value in self.items:
            if known == name:
                return value
        return None

    def startup_texts(self) -> dict[str, str]:
        """Return the settings that came as plain text, as a startup packet has them."""
        return {name: value for name, value in self.items if isinstance(value, str)}

    def with_value(self, name: str, value: Value) -> Vector:
        """Return this vector with one setting changed."""
        others = [item for item in self.items if item[0] != name]
        others.append((name, value))
        others.sort(key=_name_of)
        return _interned(tuple(others))

    def without(self, name: str) -> Vector:
        """Return this vector with one setting at its server's default."""
        if name not in self:
            return self
        return _interned(tuple(item for item in self.items if item[0] != name))


def _name_of(item: tuple[str, Value]) -> str:
    return item[0]


# A million vectors that nobody holds any more leave nothing behind.
_VECTORS: Final[WeakValueDictionary[tuple[tuple[str, Value], ...], Vector]] = WeakValueDictionary()


def _interned(items: tuple[tuple[str, Value], ...]) -> Vector:
    known = _VECTORS.get(items)
    if known is None:
        known = _VECTORS[items] = Vector._make(items)
    return known


EMPTY: Final = Vector.of({})


def difference(old: Vector, new: Vector) -> bytes:
    """Return the text of one simple Query that makes a server with the settings ``old`` have ``new``.

    Returns: empty if they are the same. The text is ASCII unless a value could not be made so; it may hold a
        SELECT, whose rows the caller drops. If any part fails, the server undoes all of it.
    """
    if old is new:
        return b""
    return _difference(old, new) if old.is_large or new.is_large else _kept_difference(old, new)


@lru_cache(maxsize=_DIFFERENCES_KEPT_COUNT)
def _kept_difference(old: Vector, new: Vector) -> bytes:
    return _difference(old, new)


def _difference(old: Vector, new: Vector) -> bytes:
    before, after = dict(old.items), dict(new.items)
    statements: list[bytes] = []
    # Whoever the session logged in as may change what it set before it became somebody else.
    is_other_user = before.get(SESSION_AUTHORIZATION) != after.get(SESSION_AUTHORIZATION)
    is_other_role = is_other_user or before.get(ROLE) != after.get(ROLE)
    others = [name for name in before.keys() | after.keys() if name not in _IDENTITY]
    changed = sorted(name for name in others if before.get(name) != after.get(name))
    is_returning = bool(changed) and bool(_IDENTITY & before.keys())
    if ROLE in before and (is_other_role or is_returning):
        statements.append(b"RESET ROLE")
    if SESSION_AUTHORIZATION in before and (is_other_user or is_returning):
        statements.append(b"RESET SESSION AUTHORIZATION")
    calls: list[bytes] = []
    for name in changed:
        value = after.get(name)
        if value is None:
            statements.append(b"RESET " + _sql_name(name))
        elif isinstance(value, str):
            calls.append(b"pg_catalog.set_config(%b, %b, false)" % (literal(name), literal(value)))
        elif name == "timezone":
            statements.append(b"SET TIME ZONE " + value)
        else:
            statements.append(b"SET %b TO %b" % (_sql_name(name), value))
    if calls:
        statements.append(b"SELECT " + b", ".join(calls))
    if SESSION_AUTHORIZATION in after and (is_other_user or is_returning):
        value = after[SESSION_AUTHORIZATION]
        statements.append(
            b"SET SESSION AUTHORIZATION " + (literal(value) if isinstance(value, str) else value)
        )
    if ROLE in after and (is_other_role or is_returning):
        value = after[ROLE]
        statements.append(b"SET ROLE " + (literal(value) if isinstance(value, str) else value))
    return b"; ".join(statements)


def literal(value: str) -> bytes:
    """Return a string constant that means the same whatever the session's settings are, in ASCII only."""
    if value.isascii() and "\\" not in value:
        return b"'" + value.replace("'", "''").encode() + b"'"
    characters = []
    for character in value:
        code = ord(character)
        if character in "'\\":
            characters.append(character * 2)
        elif code < 0x80:  # noqa: PLR2004  ASCII
            characters.append(character)
        else:
            characters.append(f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}")  # noqa: PLR2004  the plane
    return b"E'" + "".join(characters).encode() + b"'"


def portable(value: bytes, client_encoding: str = "UTF8") -> bytes:
    """Return the SQL text of a value so that it means the same under any client_encoding.

    Names and strings that are not plain ASCII become ``E''`` constants, which a SET takes in place of a name.

    Args:
        client_encoding: in which the client sent the text, by the server's name for it.
    """
    if value.isascii() and b"\\" not in value:
        return value
    parts: list[bytes] = []
    end = 0
    for token in tokens(value):
        parts.append(value[end : token.start])
        parts.append(_portable_token(token, client_encoding))
        end = token.end
    return b"".join(parts)


def decoded(value: bytes, client_encoding: str) -> str | None:
    """Return text that a client sent, None if it is not right in the client's character set."""
    try:
        return value.decode(_codec(client_encoding))
    except UnicodeDecodeError:
        return None


def from_startup(parameters: Mapping[str, str]) -> Vector:
    """Return the settings that a startup packet asks for; those in ``options`` give way to the others.

    Source: PostgreSQL manual section 55.7, StartupMessage.
    """
    values: dict[str, Value] = {}
    values.update(split_options(parameters.get("options", ""))[0])
    for name, value in parameters.items():
        key = name.lower()
        if key not in _NOT_SETTINGS and not key.startswith(OPTION_PREFIX):
            values[key] = value
    return Vector.of(values) if values else EMPTY


def split_options(options: str) -> tuple[dict[str, str], list[str]]:
    """Read the ``options`` of a startup packet: ``-c name=value`` and ``--name=value``.

    Returns: the settings, and the arguments that are no such switch, which a server would take for others.
    Source: PostgreSQL manual section 55.7; a backslash keeps the white space behind it.
    """
    arguments = [re.sub(r"\\(.)|\\$", r"\1", word, flags=re.DOTALL) for word in _OPTION.findall(options)]
    settings: dict[str, str] = {}
    unknown: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if argument == "-c" and arguments:
            assignment = arguments.pop(0)
        elif argument.startswith(("-c", "--")):
            assignment = argument[2:]
        else:
            unknown.append(argument)
            continue
        name, equals, value = assignment.partition("=")
        if equals and name:
            settings[name.replace("-", "_").lower()] = value
        else:
            unknown.append(argument)
    return settings, unknown


def _sql_name(name: str) -> bytes:
    """Return a setting's name as SQL; the parts of a custom one may be words of the grammar."""
    if _SIMPLE_NAME.fullmatch(name):
        return name.encode()
    return b".".join(quoted(part.encode()) for part in name.split("."))


def _portable_token(token: Token, client_encoding: str) -> bytes:
    if token.text.isascii() and b"\\" not in token.text:
        return token.text
    if token.kind in (STRING, DOLLAR):
        found = string_value(token)
    elif token.kind in (WORD, QUOTED):
        found = identifier(token)
    else:
        return token.text
    text = decoded(found, client_encoding)
    return token.text if text is None else literal(text)


def _codec(client_encoding: str) -> str:
    """Return Python's name for a character set of the server; UTF-8 for one that it does not know."""
    plain = "".join(character for character in client_encoding.lower() if character.isalnum())
    name = _CODECS.get(plain) or _WINDOWS.sub(r"cp\1", plain)
    if name.startswith("iso8859") and name[7:].isdigit():
        name = f"iso8859_{name[7:]}"
    for candidate in (name, name.replace("euc", "euc_", 1)):
        try:
            return codecs.lookup(candidate).name
        except LookupError:
            continue
    return "utf-8"
