"""What a client says: messages of the frontend, written and read.

Knows nothing of when they may be said. Names and texts are bytes, as they came; bind values are never looked at.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", message formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import msgspec

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.postgres.framing import BodyReader, cstring, encoded, message
from sojourn.gateways.postgres.messages import Frontend

_I16 = Struct("!H")
_I32 = Struct("!i")
_U32 = Struct("!I")
_NULL = _I32.pack(-1)
_SYNC = message(Frontend.SYNC)
_FLUSH = message(Frontend.FLUSH)
_TERMINATE = message(Frontend.TERMINATE)
_COPY_DONE = message(Frontend.COPY_DONE)
STATEMENT = 0x53  # S
PORTAL = 0x50  # P


class Bind(msgspec.Struct, gc=False):
    """What a Bind message says; ``values`` may be anything secret and are shown by nobody."""

    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Bind(portal={self.portal!r}, statement={self.statement!r}, values={len(self.values)})"


def query(sql: bytes | str) -> bytes:
    """Run one or more statements, simply."""
    return message(Frontend.QUERY, cstring(sql))


def parse(name: bytes, sql: bytes, oids: Sequence[int] = ()) -> bytes:
    """Prepare a statement; an empty name is the unnamed one."""
    types = b"".join(map(_U32.pack, oids))
    return message(Frontend.PARSE, cstring(name), cstring(sql), _count(oids), types)


def bind(portal: bytes, statement: bytes, values: Sequence[bytes | None] = ()) -> bytes:
    """Make a portal of a statement; values and results in text format."""
    parts = [cstring(portal), cstring(statement), b"\0\0", values_list(values), b"\0\0"]
    return message(Frontend.BIND, *parts)


def describe_statement(name: bytes) -> bytes:
    """Ask for a statement's parameters and columns."""
    return message(Frontend.DESCRIBE, b"S", cstring(name))


def describe_portal(name: bytes) -> bytes:
    """Ask for a portal's columns."""
    return message(Frontend.DESCRIBE, b"P", cstring(name))


def execute(portal: bytes, max_rows: int = 0) -> bytes:
    """Run a portal; 0 rows means all."""
    return message(Frontend.EXECUTE, cstring(portal), _I32.pack(max_rows))


def close_statement(name: bytes) -> bytes:
    """Forget a statement."""
    return message(Frontend.CLOSE, b"S", cstring(name))


def close_portal(name: bytes) -> bytes:
    """Forget a portal."""
    return message(Frontend.CLOSE, b"P", cstring(name))


def sync() -> bytes:
    """End a batch of extended messages."""
    return _SYNC


def flush() -> bytes:
    """Ask for what has been answered so far."""
    return _FLUSH


def terminate() -> bytes:
    """Say goodbye."""
    return _TERMINATE


def copy_data(data: bytes) -> bytes:
    """Send a piece of COPY data; a server sends the same."""
    return message(Frontend.COPY_DATA, data)


def copy_done() -> bytes:
    """End COPY data well; a server sends the same."""
    return _COPY_DONE


def copy_fail(text: bytes | str) -> bytes:
    """End COPY data with an error."""
    return message(Frontend.COPY_FAIL, cstring(text))


def password_message(data: bytes) -> bytes:
    """Answer a request for a password, in the clear or hashed as asked."""
    return message(Frontend.PASSWORD, cstring(data))


def sasl_initial_response(mechanism: str, data: bytes | None) -> bytes:
    """Choose a SASL mechanism and say its first word, if it has one."""
    sized = _NULL if data is None else _I32.pack(len(data)) + data
    return message(Frontend.PASSWORD, cstring(mechanism), sized)


def sasl_response(data: bytes) -> bytes:
    """Go on with SASL."""
    return message(Frontend.PASSWORD, data)


def query_text(body: bytes) -> bytes:
    """Read a Query: its statements.

    Raises: WireError if it breaks the format.
    """
    return _only_text(body, "Query")


def copy_failure(body: bytes) -> bytes:
    """Read a CopyFail: its reason.

    Raises: WireError if it breaks the format.
    """
    return _only_text(body, "CopyFail")


def password(body: bytes) -> bytes:
    """Read a PasswordMessage: the password or its hash, a secret.

    Raises: WireError if it breaks the format.
    """
    return _only_text(body, "PasswordMessage")


def sasl_choice(body: bytes) -> tuple[str, bytes | None]:
    """Read a SASLInitialResponse: mechanism and first word.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "SASLInitialResponse")
    mechanism = reader.cstring("the mechanism").decode("ascii", "replace")
    data = reader.sized("the initial response")
    reader.expect_end()
    return mechanism, data


def parse_fields(body: bytes) -> tuple[bytes, bytes, tuple[int, ...]]:
    """Read a Parse: name, statement, type OIDs of the parameters.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "Parse")
    name, sql = reader.cstring("the statement's name"), reader.cstring("the statement")
    oids = tuple(reader.u32("a type OID") for _ in range(reader.count(4, "parameter types")))
    reader.expect_end()
    return name, sql, oids


def bind_fields(body: bytes) -> Bind:
    """Read a Bind.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "Bind")
    portal, statement = reader.cstring("the portal's name"), reader.cstring("the statement's name")
    formats = tuple(reader.i16("a format") for _ in range(reader.count(2, "parameter formats")))
    values = tuple(reader.sized("a parameter") for _ in range(reader.count(4, "parameters")))
    results = tuple(reader.i16("a format") for _ in range(reader.count(2, "result formats")))
    reader.expect_end()
    return Bind(portal, statement, formats, values, results)


def target(body: bytes) -> tuple[int, bytes]:
    """Read a Describe or Close: STATEMENT or PORTAL, and the name.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "Describe and Close")
    kind = reader.u8("the kind")
    if kind not in {STATEMENT, PORTAL}:
        raise WireError(f"kind {kind:#04x}", "S or P", "PostgreSQL protocol, message format of Describe")
    name = reader.cstring("the name")
    reader.expect_end()
    return kind, name


def execute_fields(body: bytes) -> tuple[bytes, int]:
    """Read an Execute: portal and the most rows wanted.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "Execute")
    portal, rows = reader.cstring("the portal's name"), reader.i32("the number of rows")
    reader.expect_end()
    return portal, rows


def function_call_fields(body: bytes) -> tuple[int, tuple[bytes | None, ...]]:
    """Read a FunctionCall: the function's OID and its arguments.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "FunctionCall")
    oid = reader.u32("the function's OID")
    for _ in range(reader.count(2, "argument formats")):
        reader.i16("a format")
    values = tuple(reader.sized("an argument") for _ in range(reader.count(4, "arguments")))
    reader.i16("the result's format")
    reader.expect_end()
    return oid, values


def values_list(values: Sequence[bytes | str | None]) -> bytes:
    """Return a count and values behind their lengths, as Bind and DataRow have them."""
    parts = [_count(values)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            data = encoded(value)
            parts += (_I32.pack(len(data)), data)
    return b"".join(parts)


def _count(items: Sequence[object]) -> bytes:
    if len(items) > 0xFFFF:  # noqa: PLR2004 - a 16-bit number
        raise LocalProtocolError(
            f"{len(items)} items", "at most 65535", "PostgreSQL protocol, message formats"
        )
    return _I16.pack(len(items))


def _only_text(body: bytes, name: str) -> bytes:
    reader = BodyReader(body, name)
    text = reader.cstring("the text")
    reader.expect_end()
    return text
