"""Captured bytes of one direction in words, for ``sojourn decode postgres``.

Shows every message with its public fields, startup packets too. Knows nothing of terminals: it returns lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.errors import WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import MAX_MESSAGE_BYTES, Backend, Frontend, name_of
from sojourn.gateways.postgres.trace_words import (
    FROM_CLIENT,
    FROM_SERVER,
    fields_of,
    is_known,
    startup_words,
)

_SPEAKERS = {FROM_CLIENT: "client", FROM_SERVER: "server"}
_ENCRYPTION_ANSWERS = {ord("S"): "accepted (TLS)", ord("G"): "accepted (GSSAPI)", ord("N"): "refused"}
_STARTUP_BYTES = 1 << 20
"""More than any startup packet has; a capture is not an attack."""


def bytes_from_hex(text: str) -> bytes:
    """Read bytes written as hexadecimal digits; spaces, line ends and colons between them do not matter.

    Raises: WireError if there is anything else, or nothing.
    """
    try:
        data = bytes.fromhex(text.replace(":", " "))
    except ValueError:
        raise WireError("other characters", "hexadecimal digits, two for each byte", "the input") from None
    if not data:
        raise WireError("nothing", "the bytes of at least one message", "the input")
    return data


def speaker_of(data: bytes) -> int:
    """Say whose bytes these are, FROM_CLIENT or FROM_SERVER: whoever can say more of them, else the client's."""
    readable = {}
    for direction in (FROM_CLIENT, FROM_SERVER):
        count = 0
        try:
            for _ in described(data, direction):
                count += 1
        except WireError:
            readable[direction] = (False, count)
        else:
            readable[direction] = (True, count)
    return max(readable, key=lambda direction: readable[direction])


def described(data: bytes, direction: int) -> Iterator[list[str]]:
    """Yield every message in words, one field a line.

    Args:
        data: whole messages, from the beginning of one.
        direction: FROM_CLIENT or FROM_SERVER.
    Raises: WireError at the first bytes that are no message, after the messages before them; it says at which offset.
    """
    at = 0
    while at < len(data):
        try:
            taken, lines = _next(data, at, direction)
        except WireError as error:
            raise WireError(error.found, error.wanted, f"{error.source}; message at offset {at}") from None
        yield [f"offset       {at}", *lines]
        at += taken


def _next(data: bytes, at: int, direction: int) -> tuple[int, list[str]]:
    kind, left = data[at], len(data) - at
    if direction == FROM_SERVER and at == 0 and _is_answer(data):
        return 1, [
            "message      answer to SSLRequest or GSSENCRequest",
            f"  answer        {_ENCRYPTION_ANSWERS[kind]}",
        ]
    # A startup packet begins with a length, whose first byte is 0; a typed message with a letter or digit.
    if direction == FROM_CLIENT and kind == 0:
        startup_bytes = wire.startup_length(data[at : at + 4], _STARTUP_BYTES)
        if startup_bytes is None or startup_bytes > left:
            raise _cut_short(left, startup_bytes or 4)
        name, fields = startup_words(wire.startup_packet(data[at : at + startup_bytes]))
        return startup_bytes, _lines(name, direction, startup_bytes, fields)
    if not is_known(direction, kind):
        wanted = f"a message type of the {_SPEAKERS[direction]}"
        raise WireError(f"type {kind:#04x}", wanted, "PostgreSQL protocol, message formats")
    if left < wire.HEADER_BYTES:
        raise _cut_short(left, wire.HEADER_BYTES)
    size = 1 + int.from_bytes(data[at + 1 : at + wire.HEADER_BYTES], "big")
    if left < size <= MAX_MESSAGE_BYTES:
        raise _cut_short(left, size)
    fields = fields_of(direction, data[at : at + max(size, wire.HEADER_BYTES)])
    return size, _lines(name_of(Backend if direction else Frontend, kind), direction, size, fields)


def _is_answer(data: bytes) -> bool:
    if data[0] not in _ENCRYPTION_ANSWERS:
        return False
    # 'S' and 'N' are message types as well; then a plausible length follows.
    return len(data) == 1 or int.from_bytes(data[1:5], "big") > MAX_MESSAGE_BYTES


def _cut_short(found_bytes: int, wanted_bytes: int) -> WireError:
    return WireError(f"{found_bytes} bytes at the end", f"{wanted_bytes} bytes of a message", "its length")


def _lines(name: str, direction: int, size_bytes: int, fields: list[tuple[str, str]]) -> list[str]:
    return [
        f"message      {name} ({_SPEAKERS[direction]})",
        f"length       {size_bytes} bytes",
        *(f"  {key:<14}{value}" if len(key) < 14 else f"  {key} {value}" for key, value in fields),  # noqa: PLR2004
    ]
