"""What a server says: messages of the backend, written and read.

Knows nothing of when they may be said.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", message formats and error and notice message fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

import msgspec

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.postgres.framing import BodyReader, cstring, decoded, encoded, message
from sojourn.gateways.postgres.frontend_wire import values_list
from sojourn.gateways.postgres.messages import PROTOCOL_MAJOR, Authentication, Backend, TransactionStatus
from sojourn.gateways.postgres.startup_wire import checked_key, read_key

FIELD_CODES: Final = {
    "position": "P",
    "internal_position": "p",
    "internal_query": "q",
    "where": "W",
    "schema": "s",
    "table": "t",
    "column": "c",
    "data_type": "d",
    "constraint": "n",
    "file": "F",
    "line": "L",
    "routine": "R",
}
"""The rarer fields of errors and notices: name to one-letter code."""

_U16 = Struct("!H")
_U32 = Struct("!I")
_SALT_BYTES = 4
_TEXT_OID = 25
# A column of no table, of type text, of any length, in text format.
_TEXT_COLUMN = Struct("!IHIhih").pack(0, 0, _TEXT_OID, -1, -1, 0)
_READY = {
    status: message(Backend.READY_FOR_QUERY, bytes((status,)))
    for status in (TransactionStatus.IDLE, TransactionStatus.IN_TRANSACTION, TransactionStatus.FAILED)
}
_AUTHENTICATION_OK = message(Backend.AUTHENTICATION, _U32.pack(Authentication.OK))
_PARSE_COMPLETE = message(Backend.PARSE_COMPLETE)
_BIND_COMPLETE = message(Backend.BIND_COMPLETE)
_CLOSE_COMPLETE = message(Backend.CLOSE_COMPLETE)
_NO_DATA = message(Backend.NO_DATA)
_EMPTY_QUERY = message(Backend.EMPTY_QUERY_RESPONSE)


class Column(msgspec.Struct, gc=False):
    """One column of a RowDescription."""

    name: str
    table_oid: int
    attribute: int
    type_oid: int
    type_bytes: int
    type_modifier: int
    format: int


def authentication_ok() -> bytes:
    """Say that the client is who it says."""
    return _AUTHENTICATION_OK


def authentication_cleartext() -> bytes:
    """Ask for the password itself."""
    return message(Backend.AUTHENTICATION, _U32.pack(Authentication.CLEARTEXT_PASSWORD))


def authentication_md5(salt: bytes) -> bytes:
    """Ask for the password hashed with a salt of four bytes."""
    if len(salt) != _SALT_BYTES:
        raise LocalProtocolError(f"a salt of {len(salt)} bytes", "4", "AuthenticationMD5Password")
    return message(Backend.AUTHENTICATION, _U32.pack(Authentication.MD5_PASSWORD), salt)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    """Offer SASL mechanisms, the preferred one first."""
    names = b"".join(map(cstring, mechanisms))
    return message(Backend.AUTHENTICATION, _U32.pack(Authentication.SASL), names, b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """Send a challenge."""
    return message(Backend.AUTHENTICATION, _U32.pack(Authentication.SASL_CONTINUE), data)


def authentication_sasl_final(data: bytes) -> bytes:
    """Send the outcome of SASL."""
    return message(Backend.AUTHENTICATION, _U32.pack(Authentication.SASL_FINAL), data)


def parameter_status(name: str, value: str) -> bytes:
    """Report a setting's value."""
    return message(Backend.PARAMETER_STATUS, cstring(name), cstring(value))


def backend_key_data(pid: int, key: bytes) -> bytes:
    """Give the client what it needs to cancel; keys of other than 4 bytes are for protocol 3.2 only.

    Raises: LocalProtocolError if the key is shorter than 4 or longer than 256 bytes, or ``pid`` no 32-bit number.
    """
    checked_key(pid, key)
    return message(Backend.BACKEND_KEY_DATA, _U32.pack(pid), key)


def ready_for_query(status: int = TransactionStatus.IDLE) -> bytes:
    """Say that the next cycle may begin."""
    return _READY[status]


def negotiate_protocol_version(minor: int, options: Sequence[str]) -> bytes:
    """Say which minor version will be spoken, and which ``_pq_.`` options are not known.

    The number on the wire has the major version in its upper half, as servers send it and libpq reads it.
    """
    version, count = _U32.pack(PROTOCOL_MAJOR << 16 | minor), _U32.pack(len(options))
    return message(Backend.NEGOTIATE_PROTOCOL_VERSION, version, count, *map(cstring, options))


def error_response(
    sqlstate: str,
    message: str,
    *,
    severity: str = "ERROR",
    detail: str = "",
    hint: str = "",
    **more: str | int,
) -> bytes:
    """Report an error; ``more`` are fields by the names in :data:`FIELD_CODES`."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message, "D": detail, "H": hint}
    return _report(Backend.ERROR_RESPONSE, fields, more)


def notice_response(
    sqlstate: str,
    message: str,
    *,
    severity: str = "WARNING",
    detail: str = "",
    hint: str = "",
    **more: str | int,
) -> bytes:
    """Report what is no error; ``more`` as in :func:`error_response`."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message, "D": detail, "H": hint}
    return _report(Backend.NOTICE_RESPONSE, fields, more)


def notification_response(pid: int, channel: str, payload: str = "") -> bytes:
    """Deliver a notification."""
    return message(Backend.NOTIFICATION_RESPONSE, _U32.pack(pid), cstring(channel), cstring(payload))


def command_complete(tag: bytes | str) -> bytes:
    """Say that a statement is done."""
    return message(Backend.COMMAND_COMPLETE, cstring(tag))


def row_description(names: Sequence[str]) -> bytes:
    """Describe columns that are all text."""
    columns = b"".join(cstring(name) + _TEXT_COLUMN for name in names)
    return message(Backend.ROW_DESCRIPTION, _U16.pack(len(names)), columns)


def data_row(values: Sequence[bytes | str | None]) -> bytes:
    """Send one row."""
    return message(Backend.DATA_ROW, values_list(values))


def empty_query_response() -> bytes:
    """Say that there was no statement."""
    return _EMPTY_QUERY


def parse_complete() -> bytes:
    """Say that Parse is done."""
    return _PARSE_COMPLETE


def bind_complete() -> bytes:
    """Say that Bind is done."""
    return _BIND_COMPLETE


def close_complete() -> bytes:
    """Say that Close is done."""
    return _CLOSE_COMPLETE


def no_data() -> bytes:
    """Say that there will be no rows."""
    return _NO_DATA


def parameter_description(oids: Sequence[int]) -> bytes:
    """Describe a statement's parameters."""
    return message(Backend.PARAMETER_DESCRIPTION, _U16.pack(len(oids)), *map(_U32.pack, oids))


def authentication(body: bytes) -> tuple[int, bytes]:
    """Read an Authentication: one of the numbers of :class:`Authentication`, and what follows it.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "Authentication")
    kind = reader.u32("the kind")
    if kind in {Authentication.OK, Authentication.CLEARTEXT_PASSWORD}:
        reader.expect_end()
    elif kind == Authentication.MD5_PASSWORD and reader.remaining != _SALT_BYTES:
        raise WireError(f"a salt of {reader.remaining} bytes", "4", "AuthenticationMD5Password")
    return kind, reader.rest()


def sasl_mechanisms(data: bytes) -> list[str]:
    """Read what follows the number in an AuthenticationSASL: the mechanisms offered.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(data, "AuthenticationSASL")
    names = []
    while name := reader.cstring("a mechanism"):
        names.append(name.decode("ascii", "replace"))
    reader.expect_end()
    return names


def parameter(body: bytes) -> tuple[str, str]:
    """Read a ParameterStatus: name and value.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "ParameterStatus")
    name, value = reader.cstring("the name"), reader.cstring("the value")
    reader.expect_end()
    return decoded(name), decoded(value)


def key_data(body: bytes) -> tuple[int, bytes]:
    """Read a BackendKeyData: process id and key, which is a secret.

    Raises: WireError if it breaks the format or the key is not of 4 to 256 bytes.
    """
    reader = BodyReader(body, "BackendKeyData")
    return reader.u32("the process id"), read_key(reader)


def transaction_status(body: bytes) -> int:
    """Read a ReadyForQuery: one of :class:`TransactionStatus`.

    Raises: WireError if it breaks the format.
    """
    if len(body) != 1 or body[0] not in _READY:
        raise WireError(f"{len(body)} bytes {body[:4].hex()}", "one of I, T, E", "ReadyForQuery")
    return body[0]


def negotiated(body: bytes) -> tuple[int, list[str]]:
    """Read a NegotiateProtocolVersion: the newest minor version, and the options that are not known.

    Raises: WireError if it breaks the format or speaks of another major version.
    """
    reader = BodyReader(body, "NegotiateProtocolVersion")
    version, count = reader.u32("the version"), reader.u32("the number of options")
    # The documentation says "minor version", servers send both halves.
    if version >> 16 not in {0, PROTOCOL_MAJOR}:
        raise WireError(f"version {version >> 16}.{version & 0xFFFF}", "3.x", "NegotiateProtocolVersion")
    if count > reader.remaining:
        raise WireError(f"{count} options", f"at most {reader.remaining}", "NegotiateProtocolVersion")
    options = [decoded(reader.cstring("an option")) for _ in range(count)]
    reader.expect_end()
    return version & 0xFFFF, options


def error_fields(body: bytes) -> dict[str, str]:
    """Read an ErrorResponse or NoticeResponse: fields by their one-letter codes.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "ErrorResponse")
    fields: dict[str, str] = {}
    while code := reader.u8("a field's code"):
        fields[chr(code)] = decoded(reader.cstring("a field"))
    reader.expect_end()
    return fields


def command_tag(body: bytes) -> bytes:
    """Read a CommandComplete: its tag.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "CommandComplete")
    tag = reader.cstring("the tag")
    reader.expect_end()
    return tag


def columns(body: bytes) -> list[Column]:
    """Read a RowDescription.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "RowDescription")
    found = [
        Column(
            decoded(reader.cstring("a column's name")),
            reader.u32("a table's OID"),
            reader.i16("a column's number"),
            reader.u32("a type's OID"),
            reader.i16("a type's size"),
            reader.i32("a type's modifier"),
            reader.i16("a format"),
        )
        for _ in range(reader.count(19, "columns"))
    ]
    reader.expect_end()
    return found


def column_names(body: bytes) -> list[str]:
    """Read the names of a RowDescription's columns.

    Raises: WireError if it breaks the format.
    """
    return [column.name for column in columns(body)]


def row_values(body: bytes) -> list[bytes | None]:
    """Read a DataRow.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "DataRow")
    values = [reader.sized("a value") for _ in range(reader.count(4, "columns"))]
    reader.expect_end()
    return values


def parameter_oids(body: bytes) -> tuple[int, ...]:
    """Read a ParameterDescription.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "ParameterDescription")
    oids = tuple(reader.u32("a type OID") for _ in range(reader.count(4, "parameters")))
    reader.expect_end()
    return oids


def copy_formats(body: bytes) -> tuple[int, tuple[int, ...]]:
    """Read a CopyInResponse, CopyOutResponse or CopyBothResponse: overall format and each column's.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "CopyInResponse")
    overall = reader.u8("the format")
    formats = tuple(reader.i16("a format") for _ in range(reader.count(2, "columns")))
    reader.expect_end()
    return overall, formats


def notification(body: bytes) -> tuple[int, str, str]:
    """Read a NotificationResponse: the sender's process id, channel, payload.

    Raises: WireError if it breaks the format.
    """
    reader = BodyReader(body, "NotificationResponse")
    pid = reader.u32("the process id")
    channel, payload = reader.cstring("the channel"), reader.cstring("the payload")
    reader.expect_end()
    return pid, decoded(channel), decoded(payload)


def _report(kind: int, fields: dict[str, str], more: dict[str, str | int]) -> bytes:
    for name, value in more.items():
        if name not in FIELD_CODES:
            raise LocalProtocolError(f"a field {name}", f"one of {', '.join(FIELD_CODES)}", "FIELD_CODES")
        fields[FIELD_CODES[name]] = str(value)
    # A user's words may be in our text, and a NUL would end it there.
    parts = [
        code.encode() + encoded(value).replace(b"\0", b"?") + b"\0" for code, value in fields.items() if value
    ]
    return message(kind, *parts, b"\0")
