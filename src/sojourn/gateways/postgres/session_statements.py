"""Read from one statement what it changes in its session.

There is no grammar here: every function reads a statement that the server has already completed with the tag
that belongs to it, and answers "not recognized" (empty, or None where that means something else) to the rest.
Names of settings come back in lower case, as text; names of other things as the server folds them, in bytes.
Knows nothing of what a session holds.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sojourn.gateways.postgres.lexer import (
    DOLLAR,
    STRING,
    SYMBOL,
    Token,
    identifier,
    string_value,
    tokens,
)

ALL: Final = "all"
"""What :func:`reset_name` returns for ``RESET ALL``."""

_OLD_NAMES: Final = {"sort_mem": "work_mem", "vacuum_mem": "maintenance_work_mem"}
_TRANSACTION_WORDS: Final = (
    ((b"ISOLATION", b"LEVEL", b"READ", b"COMMITTED"), "isolation", b"'read committed'"),
    ((b"ISOLATION", b"LEVEL", b"READ", b"UNCOMMITTED"), "isolation", b"'read uncommitted'"),
    ((b"ISOLATION", b"LEVEL", b"REPEATABLE", b"READ"), "isolation", b"'repeatable read'"),
    ((b"ISOLATION", b"LEVEL", b"SERIALIZABLE"), "isolation", b"'serializable'"),
    ((b"READ", b"ONLY"), "read_only", b"on"),
    ((b"READ", b"WRITE"), "read_only", b"off"),
    ((b"NOT", b"DEFERRABLE"), "deferrable", b"off"),
    ((b"DEFERRABLE",), "deferrable", b"on"),
)
_TOKENS_A_CALL_COUNT: Final = 9
_TRUE: Final = frozenset((b"true", b"t", b"on", b"yes", b"y", b"1"))
_CUSTOM_NAME: Final = re.compile(
    rb"(?:set\s+(?:session\s+)?|set_config\s*\(\s*'+)([a-z_][\w$]*(?:\.[a-z_][\w$]*)+)", re.IGNORECASE
)


class SetStatement(NamedTuple):
    """One assignment: ``value`` is the SQL text as sent, None for DEFAULT."""

    name: str
    value: bytes | None
    is_local: bool


class SetConfigCall(NamedTuple):
    """One call of ``set_config``; None for an argument that is not a constant."""

    name: str | None
    value: bytes | None
    is_local: bool | None


class Declaration(NamedTuple):
    """A cursor that was declared."""

    name: bytes
    is_holdable: bool


class TemporaryRelation(NamedTuple):
    """A temporary table, view or sequence that was created."""

    name: bytes
    is_dropped_at_commit: bool


class _Reader:
    """The tokens of one statement and a position in them."""

    __slots__ = ("_position", "_sql", "_tokens")

    def __init__(self, sql: bytes) -> None:
        self._sql = sql
        self._tokens = [token for token in tokens(sql) if token.text != b";" or token.kind != SYMBOL]
        self._position = 0

    def take(self, *keywords: bytes) -> bool:
        """Step over these words if they come next."""
        end = self._position + len(keywords)
        if tuple(token.keyword for token in self._tokens[self._position : end]) != keywords:
            return False
        self._position = end
        return True

    def take_any(self, *keywords: bytes) -> bytes:
        """Step over the next word if it is one of these, and return it."""
        token = self.peek()
        if token is None or token.keyword not in keywords:
            return b""
        self._position += 1
        return token.keyword

    def take_symbol(self, symbols: bytes) -> bool:
        """Step over the next token if it is one of these characters."""
        token = self.peek()
        if token is None or token.kind != SYMBOL or token.text not in symbols:
            return False
        self._position += 1
        return True

    def peek(self) -> Token | None:
        """Return the next token without stepping over it."""
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def name(self) -> bytes:
        """Step over one identifier or string and return the name."""
        token = self.peek()
        found = b"" if token is None else identifier(token)
        if found:
            self._position += 1
        return found

    def dotted_name(self) -> list[bytes]:
        """Step over a name and return its parts."""
        parts = [self.name()]
        while self.take_symbol(b"."):
            parts.append(self.name())
        return parts if all(parts) else []

    def rest(self) -> bytes:
        """Return the text from here to the last token."""
        token = self.peek()
        return b"" if token is None else self._sql[token.start : self._tokens[-1].end]

    def last_name(self) -> bytes:
        """Return the name that the last token stands for."""
        return identifier(self._tokens[-1]) if self._tokens else b""

    def remaining(self) -> list[Token]:
        """Return the tokens from here on."""
        return self._tokens[self._position :]


def set_statements(sql: bytes) -> tuple[SetStatement, ...]:
    """Return what a SET changes: one assignment, or several for SESSION CHARACTERISTICS.

    ``SET TRANSACTION`` assigns ``transaction_isolation`` and the like, locally; SCHEMA, NAMES and XML OPTION
    come back under the names of their settings.
    """
    reader = _Reader(sql)
    if not reader.take(b"SET"):
        return ()
    if reader.take(b"SESSION", b"CHARACTERISTICS", b"AS", b"TRANSACTION"):
        return _transaction_modes(reader, "default_transaction_", is_local=False)
    if reader.take(b"TRANSACTION"):
        return _transaction_modes(reader, "transaction_", is_local=True)
    is_local = False
    if not _is_session_authorization(reader):
        is_local = reader.take_any(b"SESSION", b"LOCAL") == b"LOCAL"
    name = _special_name(reader)
    if not name:
        name = setting_name(b".".join(reader.dotted_name()))
        if not name or not (reader.take(b"TO") or reader.take_symbol(b"=")):
            return ()
    value: bytes | None = reader.rest()
    if not value and name != "client_encoding":
        return ()
    is_default = value == b"" or (value is not None and value.upper() == b"DEFAULT")
    if is_default or (name == "timezone" and value is not None and value.upper() == b"LOCAL"):
        value = None
    return (SetStatement(name, value, is_local),)


def reset_name(sql: bytes) -> str:
    """Return the setting that a RESET names, ``"all"`` for ALL, empty if it is none."""
    reader = _Reader(sql)
    if not reader.take(b"RESET"):
        return ""
    if reader.take(b"TRANSACTION", b"ISOLATION", b"LEVEL"):
        return "transaction_isolation"
    return _special_name(reader) or setting_name(b".".join(reader.dotted_name()))


def setting_name(name: bytes) -> str:
    """Return the name of a setting as we keep it: lower case, and today's name for an old one."""
    text = name.decode("utf-8", "backslashreplace").lower()
    return _OLD_NAMES.get(text, text)


def prepared_name(sql: bytes) -> bytes:
    """Return the name that PREPARE gives."""
    reader = _Reader(sql)
    return reader.name() if reader.take(b"PREPARE") else b""


def deallocated_name(sql: bytes) -> bytes | None:
    """Return the name that DEALLOCATE ends, None for ALL."""
    reader = _Reader(sql)
    if not reader.take(b"DEALLOCATE"):
        return b""
    if len(reader.remaining()) > 1:
        reader.take(b"PREPARE")
    return None if reader.take(b"ALL") else reader.name()


def executed_name(sql: bytes) -> bytes:
    """Return the prepared statement that EXECUTE names."""
    reader = _Reader(sql)
    return reader.name() if reader.take(b"EXECUTE") else b""


def channel(sql: bytes) -> bytes | None:
    """Return the channel of LISTEN or UNLISTEN, None for ``UNLISTEN *``."""
    reader = _Reader(sql)
    if not reader.take_any(b"LISTEN", b"UNLISTEN"):
        return b""
    return None if reader.take_symbol(b"*") else reader.name()


def declared_cursor(sql: bytes) -> Declaration | None:
    """Return the cursor of a DECLARE."""
    reader = _Reader(sql)
    name = reader.name() if reader.take(b"DECLARE") else b""
    if not name:
        return None
    while reader.take_any(b"BINARY", b"ASENSITIVE", b"INSENSITIVE", b"SCROLL", b"NO"):
        pass
    return Declaration(name, reader.take(b"CURSOR", b"WITH", b"HOLD"))


def closed_cursor(sql: bytes) -> bytes | None:
    """Return the cursor of a CLOSE, None for ALL."""
    reader = _Reader(sql)
    if not reader.take(b"CLOSE"):
        return b""
    return None if reader.take(b"ALL") else reader.name()


def fetched_cursor(sql: bytes) -> bytes:
    """Return the cursor of a FETCH or MOVE: its name comes last."""
    reader = _Reader(sql)
    return reader.last_name() if reader.take_any(b"FETCH", b"MOVE") else b""


def loaded_library(sql: bytes) -> bytes:
    """Return the library of a LOAD."""
    reader = _Reader(sql)
    return reader.name() if reader.take(b"LOAD") else b""


def savepoint_name(sql: bytes) -> bytes:
    """Return the name in SAVEPOINT, RELEASE or ROLLBACK TO; empty for a ROLLBACK of everything."""
    reader = _Reader(sql)
    first = reader.take_any(b"SAVEPOINT", b"RELEASE", b"ROLLBACK")
    if not first:
        return b""
    if first == b"ROLLBACK":
        reader.take_any(b"WORK", b"TRANSACTION")
        if not reader.take(b"TO"):
            return b""
    if first != b"SAVEPOINT" and len(reader.remaining()) > 1:
        reader.take(b"SAVEPOINT")
    return reader.name()


def temporary_relation(sql: bytes) -> TemporaryRelation | None:
    """Return what CREATE TEMPORARY TABLE, VIEW or SEQUENCE creates."""
    reader = _Reader(sql)
    if not reader.take(b"CREATE"):
        return None
    reader.take(b"OR", b"REPLACE")
    reader.take_any(b"GLOBAL", b"LOCAL")
    if not reader.take_any(b"TEMP", b"TEMPORARY"):
        return None
    reader.take(b"RECURSIVE")
    if not reader.take_any(b"TABLE", b"VIEW", b"SEQUENCE"):
        return None
    reader.take(b"IF", b"NOT", b"EXISTS")
    name = reader.dotted_name()
    rest = [token.keyword for token in reader.remaining()]
    drops = any(rest[at : at + 3] == [b"ON", b"COMMIT", b"DROP"] for at in range(len(rest)))
    return TemporaryRelation(name[-1], drops) if name else None


def set_config_calls(sql: bytes) -> list[SetConfigCall]:
    """Return every call of ``set_config`` in a statement."""
    found = list(tokens(sql))
    return [
        _call(found[index + 2 :])
        for index, token in enumerate(found[:-1])
        if identifier(token) == b"set_config" and found[index + 1].text == b"("
    ]


def is_only_set_config(sql: bytes) -> bool:
    """Say whether a statement is a SELECT of calls of ``set_config`` with constants, and nothing else."""
    reader = _Reader(sql)
    if not reader.take(b"SELECT"):
        return False
    calls = set_config_calls(sql)
    beside = sum(token.keyword in (b"PG_CATALOG", b"AS") for token in reader.remaining())
    # SELECT, n times eight tokens, n - 1 commas; a schema or an alias is two more.
    is_alone = len(reader.remaining()) + 1 == _TOKENS_A_CALL_COUNT * len(calls) + 2 * beside
    return is_alone and bool(calls) and all(None not in call for call in calls)


def custom_names(sql: bytes) -> set[str]:
    """Return the names of custom settings (with a dot) that a DO block or a function call seems to set."""
    return {setting_name(name) for name in _CUSTOM_NAME.findall(sql)}


def _is_session_authorization(reader: _Reader) -> bool:
    following = [token.keyword for token in reader.remaining()[:2]]
    return following == [b"SESSION", b"AUTHORIZATION"]


def _special_name(reader: _Reader) -> str:
    """Step over a setting that has words of its own instead of a name and TO."""
    if reader.take(b"SESSION", b"AUTHORIZATION"):
        return "session_authorization"
    if reader.take(b"TIME", b"ZONE"):
        return "timezone"
    if reader.take(b"XML", b"OPTION"):
        return "xmloption"
    following = reader.remaining()[1:2]
    if following and (following[0].keyword == b"TO" or following[0].text in (b"=", b".")):
        return ""
    if reader.take(b"ROLE"):
        return "role"
    if reader.take(b"NAMES"):
        return "client_encoding"
    if reader.take(b"SCHEMA"):
        return "search_path"
    return ""


def _transaction_modes(reader: _Reader, prefix: str, *, is_local: bool) -> tuple[SetStatement, ...]:
    found: list[SetStatement] = []
    while reader.peek() is not None:
        for keywords, name, value in _TRANSACTION_WORDS:
            if reader.take(*keywords):
                found.append(SetStatement(prefix + name, value, is_local))
                break
        else:
            if not reader.take_symbol(b","):
                return ()
    return tuple(found)


def _call(following: list[Token]) -> SetConfigCall:
    """Read the arguments behind the opening parenthesis."""
    arguments: list[list[Token]] = [[]]
    depth = 0
    for token in following:
        if token.text in (b"(", b"["):
            depth += 1
        elif token.text in (b")", b"]"):
            depth -= 1
            if depth < 0:
                break
        if token.text == b"," and not depth:
            arguments.append([])
        else:
            arguments[-1].append(token)
    if len(arguments) != len(SetConfigCall._fields):
        return SetConfigCall(None, None, None)
    name, value, local = (_constant(argument) for argument in arguments)
    is_local = None if local is None else local.strip().lower() in _TRUE
    return SetConfigCall(None if name is None else setting_name(name), value, is_local)


def _constant(argument: list[Token]) -> bytes | None:
    """Return the text of a literal, also with a cast to text behind it."""
    if not argument:
        return None
    first, cast = argument[0], [token.keyword or token.text for token in argument[1:]]
    if cast not in ([], [b":", b":", b"TEXT"], [b":", b":", b"BOOL"], [b":", b":", b"BOOLEAN"]):
        return None
    if first.kind in (STRING, DOLLAR) or first.keyword in (b"TRUE", b"FALSE"):
        return string_value(first)
    return None
