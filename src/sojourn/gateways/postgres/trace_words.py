"""One message in words, for ``sojourn decode postgres`` and the flight recorder.

What is shown is public: names, types, tags, SQL without what follows the word PASSWORD. Of values (bind parameters,
rows, COPY data, payloads), passwords, keys and SASL only the sizes are. Errors are shown without the parts in which a
server repeats values. Everything is printable ASCII or UTF-8 in one line. Knows nothing of sessions and terminals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sojourn.errors import WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import (
    Authentication,
    Backend,
    CancelRequest,
    Frontend,
    GSSENCRequest,
    SSLRequest,
    StartupPacket,
    name_of,
)

FROM_CLIENT = 0
FROM_SERVER = 1
"""Directions, by who speaks; on a client's connection they are the recorder's IN and OUT."""

SQL_CHARACTERS = 200
_SIZES_COUNT = 16
_COLUMNS_COUNT = 32
_MASK = "***"
_PASSWORD = re.compile(r"(?i)\bpassword\b")
_SECRET_NAME = re.compile(r"(?i)passw|secret|token")
_DATA_EXCEPTION = "22"
_ERROR_WORDS: Final = {
    "V": "severity",
    "C": "sqlstate",
    "M": "message",
    "H": "hint",
    "P": "position",
    "p": "internal_position",
    "s": "schema",
    "t": "table",
    "c": "column",
    "d": "data_type",
    "n": "constraint",
    "F": "file",
    "L": "line",
    "R": "routine",
}
_ERROR_SIZES: Final = {"D": "detail", "W": "where", "q": "internal_query"}
"""Fields in which a server may repeat values, such as ``Key (name)=(Ana) already exists``."""
_WITHOUT_NAME: Final = frozenset({"sql", "tag", "status", "kind", "severity", "sqlstate", "message"})
"""What a summary shows as it is; other fields are shown with their names."""
_REQUESTS: Final = {number: name for name, number in vars(Authentication).items() if name.isupper()}

Fields = Iterator[tuple[str, str]]


def words_of(direction: int, message: bytes) -> tuple[str, str]:
    """Return the name of one whole typed message, and a line about it that holds no secret.

    Args:
        direction: FROM_CLIENT or FROM_SERVER.
        message: with its header; if it breaks its format, the line says how.
    """
    kind = message[0] if message else 0
    try:
        fields = fields_of(direction, message)
    except WireError as error:
        return _kind_name(direction, kind), f"unreadable: {error}"
    return _kind_name(direction, kind), " ".join(
        value if name in _WITHOUT_NAME else f"{name}={value}" for name, value in fields
    )


def fields_of(direction: int, message: bytes) -> list[tuple[str, str]]:
    """Return the public fields of one whole typed message as names and texts, in order.

    Raises: WireError if it is not one whole message or breaks its format.
    """
    found, rest = wire.split(message)
    if len(found) != 1 or rest:
        raise WireError(f"{len(found)} messages and {len(rest)} bytes", "one whole message", "its length")
    ((kind, body),) = found
    read = (_FROM_SERVER if direction == FROM_SERVER else _FROM_CLIENT).get(kind)
    if read is None:
        return [("bytes", str(len(body)))]
    return list(read(body))


def is_known(direction: int, kind: int) -> bool:
    """Say whether the protocol has a message of this type in this direction."""
    return kind in (_FROM_SERVER if direction == FROM_SERVER else _FROM_CLIENT)


def startup_words(packet: StartupPacket) -> tuple[str, list[tuple[str, str]]]:
    """Return the name of a startup packet and its public fields."""
    name = type(packet).__name__
    if isinstance(packet, SSLRequest | GSSENCRequest):
        return name, []
    if isinstance(packet, CancelRequest):
        return name, [("pid", str(packet.pid)), ("key", f"{_MASK} ({len(packet.key)} bytes)")]
    parameters = [
        (shown(key), _MASK if _SECRET_NAME.search(key) else shown(value))
        for key, value in packet.parameters.items()
    ]
    return name, [("version", f"{packet.major}.{packet.minor}"), *parameters]


def shown(text: bytes | str, characters: int = SQL_CHARACTERS) -> str:
    """Return a text in one printable line of at most so many characters; the rest is told by its size."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    # Cut before it is decoded: a statement may be long, and one character has at most four bytes.
    head = data[: 4 * characters]
    line = " ".join(head.decode("utf-8", "backslashreplace").split())
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
    if len(line) <= characters and len(head) == len(data):
        return line
    return f"{line[:characters]}... ({len(data)} bytes)"


def shown_sql(sql: bytes) -> str:
    """Return a statement in one line, shortened, and without what follows the word PASSWORD."""
    line = shown(sql)
    found = _PASSWORD.search(line)
    return line if found is None else f"{line[: found.end()]} {_MASK}"


def _kind_name(direction: int, kind: int) -> str:
    return name_of(Backend if direction == FROM_SERVER else Frontend, kind)


def _sizes(values: Iterable[bytes | None]) -> str:
    sizes = ["NULL" if value is None else str(len(value)) for value in values]
    more = f", {len(sizes) - _SIZES_COUNT} more" if len(sizes) > _SIZES_COUNT else ""
    return f"{len(sizes)}" + (f" ({', '.join(sizes[:_SIZES_COUNT])}{more} bytes)" if sizes else "")


def _named(name: bytes) -> str:
    return shown(name) or "unnamed"


def _nothing(body: bytes) -> Fields:
    if body:
        raise WireError(f"a body of {len(body)} bytes", "none", "PostgreSQL protocol, message formats")
    yield from ()


def _size(body: bytes) -> Fields:
    yield "bytes", str(len(body))


def _query(body: bytes) -> Fields:
    yield "sql", shown_sql(wire.query_text(body))


def _parse(body: bytes) -> Fields:
    name, sql, oids = wire.parse_fields(body)
    yield "statement", _named(name)
    if oids:
        yield "types", ",".join(map(str, oids))
    yield "sql", shown_sql(sql)


def _bind(body: bytes) -> Fields:
    found = wire.bind_fields(body)
    yield "portal", _named(found.portal)
    yield "statement", _named(found.statement)
    yield "values", _sizes(found.values)
    yield "formats", ",".join(map(str, found.formats)) or "text"
    yield "result_formats", ",".join(map(str, found.result_formats)) or "text"


def _target(body: bytes) -> Fields:
    kind, name = wire.target(body)
    yield "statement" if kind == wire.STATEMENT else "portal", _named(name)


def _execute(body: bytes) -> Fields:
    portal, rows = wire.execute_fields(body)
    yield "portal", _named(portal)
    yield "max_rows", str(rows) if rows else "all"


def _copy_fail(body: bytes) -> Fields:
    yield "bytes", str(len(wire.copy_failure(body)))


def _function_call(body: bytes) -> Fields:
    oid, values = wire.function_call_fields(body)
    yield "function", str(oid)
    yield "arguments", _sizes(values)


def _authentication(body: bytes) -> Fields:
    kind, data = wire.authentication(body)
    yield "kind", _REQUESTS.get(kind) or f"unknown {kind}"
    if kind == Authentication.SASL:
        yield "mechanisms", ",".join(map(shown, wire.sasl_mechanisms(data)))
    elif data:
        yield "bytes", str(len(data))


def _key_data(body: bytes) -> Fields:
    pid, key = wire.key_data(body)
    yield "pid", str(pid)
    yield "key", f"{_MASK} ({len(key)} bytes)"


def _parameter(body: bytes) -> Fields:
    name, value = wire.parameter(body)
    yield shown(name), _MASK if _SECRET_NAME.search(name) else shown(value)


def _negotiated(body: bytes) -> Fields:
    minor, options = wire.negotiated(body)
    yield "newest_minor", str(minor)
    if options:
        yield "unknown_options", ",".join(map(shown, options))


def _ready(body: bytes) -> Fields:
    yield "status", chr(wire.transaction_status(body))


def _tag(body: bytes) -> Fields:
    yield "tag", shown(wire.command_tag(body))


def _error(body: bytes) -> Fields:
    found = wire.error_fields(body)
    if "S" in found:
        found.setdefault("V", found["S"])
    for code, name in _ERROR_WORDS.items():
        if code in found:
            text = found[code]
            if code == "M" and found.get("C", "").startswith(_DATA_EXCEPTION):
                # 'invalid input syntax for type integer: "..."' repeats the value.
                before, quote, _ = text.partition('"')
                text = before + (f'"{_MASK}"' if quote else "")
            yield name, shown(text)
    for code, name in _ERROR_SIZES.items():
        if code in found:
            yield name, f"{_MASK} ({len(found[code])} characters)"


def _row_description(body: bytes) -> Fields:
    found = wire.columns(body)
    yield "columns", str(len(found))
    names = [shown(f"{column.name}:{column.type_oid}") for column in found[:_COLUMNS_COUNT]]
    if names:
        yield "names", ",".join(names) + (",..." if len(found) > _COLUMNS_COUNT else "")


def _data_row(body: bytes) -> Fields:
    yield "columns", str(len(wire.row_values(body)))
    yield "bytes", str(len(body))


def _parameter_description(body: bytes) -> Fields:
    yield "types", ",".join(map(str, wire.parameter_oids(body))) or "none"


def _copy_response(body: bytes) -> Fields:
    overall, formats = wire.copy_formats(body)
    yield "format", "binary" if overall else "text"
    yield "columns", str(len(formats))


def _notification(body: bytes) -> Fields:
    pid, channel, payload = wire.notification(body)
    yield "pid", str(pid)
    yield "channel", shown(channel)
    yield "payload", f"{len(payload)} characters"


_Reader = Callable[[bytes], Fields]
_FROM_CLIENT: Final[dict[int, _Reader]] = {
    Frontend.BIND: _bind,
    Frontend.CLOSE: _target,
    Frontend.COPY_DATA: _size,
    Frontend.COPY_DONE: _nothing,
    Frontend.COPY_FAIL: _copy_fail,
    Frontend.DESCRIBE: _target,
    Frontend.EXECUTE: _execute,
    Frontend.FLUSH: _nothing,
    Frontend.FUNCTION_CALL: _function_call,
    Frontend.PARSE: _parse,
    Frontend.PASSWORD: _size,
    Frontend.QUERY: _query,
    Frontend.SYNC: _nothing,
    Frontend.TERMINATE: _nothing,
}
_FROM_SERVER: Final[dict[int, _Reader]] = {
    Backend.AUTHENTICATION: _authentication,
    Backend.BACKEND_KEY_DATA: _key_data,
    Backend.BIND_COMPLETE: _nothing,
    Backend.CLOSE_COMPLETE: _nothing,
    Backend.COMMAND_COMPLETE: _tag,
    Backend.COPY_BOTH_RESPONSE: _copy_response,
    Backend.COPY_DATA: _size,
    Backend.COPY_DONE: _nothing,
    Backend.COPY_IN_RESPONSE: _copy_response,
    Backend.COPY_OUT_RESPONSE: _copy_response,
    Backend.DATA_ROW: _data_row,
    Backend.EMPTY_QUERY_RESPONSE: _nothing,
    Backend.ERROR_RESPONSE: _error,
    Backend.FUNCTION_CALL_RESPONSE: _size,
    Backend.NEGOTIATE_PROTOCOL_VERSION: _negotiated,
    Backend.NO_DATA: _nothing,
    Backend.NOTICE_RESPONSE: _error,
    Backend.NOTIFICATION_RESPONSE: _notification,
    Backend.PARAMETER_DESCRIPTION: _parameter_description,
    Backend.PARAMETER_STATUS: _parameter,
    Backend.PARSE_COMPLETE: _nothing,
    Backend.PORTAL_SUSPENDED: _nothing,
    Backend.READY_FOR_QUERY: _ready,
    Backend.ROW_DESCRIPTION: _row_description,
}
