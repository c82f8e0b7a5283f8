"""Prepared statements by what they say: one object per text and parameter types, whoever prepared it.

A client's name leads to a ``Statement``; a server has the statement under the client's own name where that is free
there, else under the statement's alias. So two clients that prepare the same text under the same name, which is what
drivers do, share one plan on a server and need no rewriting. Knows no sockets. Source: postgres-proxy.md section 6.6.
"""

from __future__ import annotations

import itertools
from weakref import WeakValueDictionary

from sojourn.gateways.postgres.messages import Frontend
from sojourn.gateways.postgres.vector import EMPTY, ROLE, Value, Vector

_numbers = itertools.count(1)
_LONG_TEXT_BYTES = 1_024
"""Beginning of a long text that is kept, to tell what statement it is."""


Names = tuple[Value | None, ...]
"""What decides which table a name in a statement means: two tenants may have different ones behind the same text."""


def names_in(vector: Vector) -> Names:
    """Return what a client's settings say about the meaning of names: its search_path, and whose ``$user`` is."""
    if vector is EMPTY:
        return ()
    path, role = vector.get("search_path"), vector.get(ROLE)
    return () if path is None is role else (path, role)


class Statement:
    """One text with its parameter types.

    Life: kept by the clients and servers that have it, forgotten with the last of them. Always true: two statements
    of the same body that were parsed with the same meaning of names are the same object, unless a change of tables has
    outdated the first. ``body`` is what follows the name in Parse: text, NUL, types.
    """

    __slots__ = ("__weakref__", "alias", "body", "names")

    def __init__(self, body: bytes, names: Names) -> None:
        self.body = body
        self.names = names
        self.alias = b"sojourn_%x" % next(_numbers)

    @property
    def text(self) -> bytes:
        """Return the SQL."""
        return self.body[: self.body.index(0)]

    def parse(self, name: bytes) -> bytes:
        """Return the Parse message that prepares it under ``name``."""
        return b"P%b%b\0%b" % ((len(name) + 5 + len(self.body)).to_bytes(4, "big"), name, self.body)


class StatementTable:
    """All statements that anybody has; entries go with their last holder."""

    def __init__(self) -> None:
        self._by_body: WeakValueDictionary[tuple[bytes, Names], Statement] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._by_body)

    def intern(self, body: bytes, names: Names = ()) -> Statement:
        """Return the statement of a Parse body, for clients with this meaning of names."""
        key = body, names
        statement = self._by_body.get(key)
        if statement is None:
            statement = self._by_body[key] = Statement(body, names)
        return statement

    def forget(self, statement: Statement) -> None:
        """Let the next Parse of the same body be another statement: what servers made of this one is outdated."""
        key = statement.body, statement.names
        if self._by_body.get(key) is statement:
            del self._by_body[key]

    def forget_all(self) -> None:
        """Do the same for every statement: what a table is has changed, and nobody knows who asks for it."""
        self._by_body.clear()


def rename_bind(message: bytes, portal_end: int, name_end: int, name: bytes) -> bytes:
    """Return the first part of a Bind, up to its statement's name, with another name.

    Args:
        message: bytes from the Bind's type on.
        portal_end: where the portal's NUL is.
        name_end: where the name's NUL is.
        name: the name to put there.
    """
    old = name_end - portal_end - 1
    length = int.from_bytes(message[1:5], "big") + len(name) - old
    return b"B%b%b%b\0" % (length.to_bytes(4, "big"), message[5 : portal_end + 1], name)


class LongParse(bytes):
    """The beginning of an unnamed Parse that was too long to be kept: it lives on its server only."""

    __slots__ = ()

    @classmethod
    def of(cls, part: bytes) -> LongParse:
        """Return what stands for it, given what of the message has come."""
        return cls(part[:5] + b"\0" + part[6:_LONG_TEXT_BYTES].partition(b"\0")[0] + b"\0")


def about_statement(kind: int, name: bytes) -> bytes:
    """Return a Describe or Close of the statement ``name``; ``kind`` is the message's type."""
    return b"%c%bS%b\0" % (kind, (len(name) + 6).to_bytes(4, "big"), name)


CLOSE_UNNAMED = about_statement(Frontend.CLOSE, b"")
