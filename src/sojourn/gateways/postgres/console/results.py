"""What a command answers with, and the bytes of it.

Knows no command and no connection. Text format and, for those who ask for it, binary format of the two types that
columns have.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from struct import Struct
from typing import Final

import msgspec

from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded, SojournError, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console.rows import INT8_OID, Column, Row, Value, columns_of
from sojourn.gateways.postgres.framing import cstring, message
from sojourn.gateways.postgres.messages import SQLSTATE, Backend, Refusal

BINARY: Final = 1

_I16 = Struct("!h")
_I64 = Struct("!q")
_COLUMN = Struct("!IHIhih")
_VARIABLE = -1
_INT8_BYTES = 8
PORTAL_SUSPENDED: Final = message(Backend.PORTAL_SUSPENDED)


class Result(msgspec.Struct, gc=False, frozen=True):
    """The answer to one command: the tag that ends it, and rows where it has columns."""

    tag: str
    columns: tuple[Column, ...] | None = None
    rows: Sequence[tuple[Value, ...]] = ()
    notice: bytes = b""

    def messages(self) -> bytes:
        """Return the answer to a simple query: everything but ReadyForQuery."""
        parts = [self.notice]
        if self.columns is not None:
            parts.append(row_description(self.columns))
            parts += (data_row(row) for row in self.rows)
        parts.append(wire.command_complete(self.tag))
        return b"".join(parts)


def table(row_type: type[Row], rows: Sequence[Row], tag: str = "SHOW") -> Result:
    """Return rows of one class as a result."""
    return Result(tag, columns_of(row_type), [row.values() for row in rows])


def with_notice(result: Result, text: str) -> Result:
    """Return a result with a notice before it; without one where there is nothing to say."""
    if not text:
        return result
    return msgspec.structs.replace(result, notice=wire.notice_response("01000", text, severity="NOTICE"))


def row_description(columns: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """Describe columns; ``formats`` as in Bind: none is text, one is for all."""
    parts = [_I16.pack(len(columns))]
    for (name, oid), form in zip(columns, spread(formats, len(columns)), strict=True):
        size = _INT8_BYTES if oid == INT8_OID else _VARIABLE
        parts += (cstring(name), _COLUMN.pack(0, 0, oid, size, -1, form))
    return message(Backend.ROW_DESCRIPTION, *parts)


def data_row(row: Sequence[Value], formats: Sequence[int] = ()) -> bytes:
    """Send one row; ``formats`` as in :func:`row_description`."""
    forms = spread(formats, len(row))
    return wire.data_row([_value(value, form) for value, form in zip(row, forms, strict=True)])


def spread(formats: Sequence[int], count: int) -> Sequence[int]:
    """Return one format for each of ``count`` columns.

    Raises: Refusal if there are neither none, one, nor as many.
    """
    if len(formats) == count:
        return formats
    if len(formats) > 1:
        text = f"bind message has {len(formats)} result formats but query has {count} columns"
        raise Refusal(SQLSTATE.PROTOCOL_VIOLATION, text, severity="ERROR")
    return tuple(formats or (0,)) * count


def failure(error: SojournError | TimeoutError) -> bytes:
    """Return the ErrorResponse to a command that failed; only a Refusal's own words are told."""
    match error:
        case Refusal():
            return wire.error_response(error.sqlstate, error.message, detail=error.detail, hint=error.hint)
        case WireError():
            return wire.error_response(SQLSTATE.PROTOCOL_VIOLATION, "invalid message format")
        case ConfigError():
            count = len(error.problems)
            return wire.error_response(
                SQLSTATE.CONFIG_FILE,
                f"the configuration has {count} problem{'s'[: count > 1]}; nothing was changed",
                hint="The log names them, and so does: sojourn check.",
            )
        case LimitExceeded():
            return wire.error_response(SQLSTATE.CONFIGURATION_LIMIT, "the command needs more than configured")
        case BackendUnavailable() | TimeoutError():
            return wire.error_response(SQLSTATE.CONNECTION_FAILURE, "what the command needs did not answer")
        case _:
            return wire.error_response(SQLSTATE.INTERNAL_ERROR, "the command failed")


def _value(value: Value, form: int) -> bytes | None:
    match value:
        case None:
            return None
        case int() if form == BINARY:
            return _I64.pack(value)
        case int():
            return b"%d" % value
        case float():
            return _instant(value)
        case _:
            # Names and statements of a client in another encoding: readable where they can be, valid in any case.
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


def _instant(moment: float) -> bytes:
    if not moment:
        return b""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC").encode()
