"""Typed messages: one byte of type, four of length, a body; and the cursor that reads a body.

Knows nothing of what any body means. Text is UTF-8 where it is UTF-8; other bytes survive reading and writing as
lone surrogates (``surrogateescape``), because a server in another encoding is no reason to lose its words.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", message flow and message data types.
"""

from __future__ import annotations

from struct import Struct

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.postgres.messages import MAX_MESSAGE_BYTES
from sojourn.sansio.fields import FieldReader

SOURCE = "PostgreSQL protocol, message formats"
HEADER_BYTES = 5
LENGTH_BYTES = 4

HEADER = Struct("!BI")
_Bytes = bytes


def message(kind: int, *parts: bytes) -> bytes:
    """Return one typed message whose body is ``parts``.

    Raises: LocalProtocolError if it is longer than any PostgreSQL accepts.
    """
    body = b"".join(parts)
    length = len(body) + LENGTH_BYTES
    if length > MAX_MESSAGE_BYTES:
        raise LocalProtocolError(f"a message of {length} bytes", f"at most {MAX_MESSAGE_BYTES}", SOURCE)
    return HEADER.pack(kind, length) + body


def encoded(text: bytes | str) -> bytes:
    """Return the bytes of a text."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def decoded(data: bytes) -> str:
    """Return the text of bytes; what is not UTF-8 becomes lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def cstring(text: bytes | str) -> bytes:
    """Return a text with the NUL that ends it.

    Raises: LocalProtocolError if a NUL is inside; the text itself is not told, it may be a password.
    """
    data = encoded(text)
    if 0 in data:
        raise LocalProtocolError(f"a NUL at offset {data.index(0)} of a text", "none", SOURCE)
    return data + b"\0"


def split(data: bytes, limit_bytes: int = MAX_MESSAGE_BYTES) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split whole typed messages off the front of ``data``.

    Returns: messages as (type, body), and what is left.
    Then: what is left belongs in front of the next bytes. If whole messages came out, it may begin with a bad
        header: those before it are served first, and the next call raises.
    Raises: WireError if the *first* length is impossible or more than ``limit_bytes``; its body is not waited for.
    """
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while end - at >= HEADER_BYTES:
        kind, length = HEADER.unpack_from(data, at)
        if not LENGTH_BYTES <= length <= limit_bytes:
            if found:
                break
            raise WireError(
                f"a length of {length} in a message of type {kind:#04x}",
                f"{LENGTH_BYTES} to {limit_bytes}",
                SOURCE,
            )
        after = at + 1 + length
        if after > end:
            break
        found.append((kind, data[at + HEADER_BYTES : after]))
        at = after
    return found, data[at:]


class BodyReader(FieldReader):
    """Reads one body from its front to its end, with the field types of this protocol.

    Life: one per body; the reader of a message asks for :meth:`expect_end` when it has all fields.
    """

    __slots__ = ()

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, f"PostgreSQL protocol, message format of {name}")

    def i16(self, name: str = "a 16-bit integer") -> int:
        """Read a signed integer of two bytes."""
        return int.from_bytes(self.bytes(2, name), "big", signed=True)

    def i32(self, name: str = "a 32-bit integer") -> int:
        """Read a signed integer of four bytes."""
        return int.from_bytes(self.bytes(4, name), "big", signed=True)

    def count(self, item_bytes: int, name: str) -> int:
        """Read how many items follow, each of at least ``item_bytes``.

        Raises: WireError if the rest of the body cannot hold so many.
        """
        start = self.position
        count = self.u16(name)
        if count * item_bytes > self.remaining:
            self.position = start
            raise WireError(
                f"{count} as the number of {name} at offset {start}",
                f"no more than {self.remaining - 2} bytes hold",
                self._source,
            )
        return count

    def cstring(self, name: str = "a text") -> _Bytes:
        """Read bytes up to a NUL, which is read as well and not returned.

        Raises: WireError if there is no NUL.
        """
        end = self._data.find(0, self.position)
        if end < 0:
            raise WireError(f"no NUL from offset {self.position}", f"the end of {name}", self._source)
        start, self.position = self.position, end + 1
        return self._data[start:end]

    def sized(self, name: str = "a value") -> _Bytes | None:
        """Read a value behind its length; a length of -1 is NULL.

        Raises: WireError if the length is any other negative number or the value is cut short.
        """
        start = self.position
        length = self.i32(f"the length of {name}")
        if length < -1:
            self.position = start
            raise WireError(f"a length of {length} at offset {start}", f"-1 or more for {name}", self._source)
        return None if length < 0 else self.bytes(length, name)
