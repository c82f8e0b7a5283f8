"""A cursor over the fields of a message, and its opposite that writes them; big-endian.

For messages off the hot path: it says exactly which field was cut short. Hot paths unpack their header with
one ``struct.Struct``. Knows nothing of any protocol.
"""

from __future__ import annotations

from typing import Self

from sojourn.errors import LocalProtocolError, WireError

# The methods are called as the fields are, so inside the classes ``bytes`` is one of them.
_Bytes = bytes


class FieldReader:
    """Reads one message from its front to its end; every read moves on, or raises and stays.

    Args:
        data: the whole message.
        source: the section of the specification that says how it is laid out, for error texts.
    """

    __slots__ = ("_data", "_source", "position")

    def __init__(self, data: _Bytes, source: str) -> None:
        self._data = data
        self._source = source
        self.position = 0

    @property
    def remaining(self) -> int:
        """The number of bytes not read yet."""
        return len(self._data) - self.position

    def u8(self, name: str = "an unsigned byte") -> int:
        """Read an unsigned integer of one byte."""
        return int.from_bytes(self.bytes(1, name), "big")

    def u16(self, name: str = "a 16-bit number") -> int:
        """Read an unsigned integer of two bytes."""
        return int.from_bytes(self.bytes(2, name), "big")

    def u32(self, name: str = "a 32-bit number") -> int:
        """Read an unsigned integer of four bytes."""
        return int.from_bytes(self.bytes(4, name), "big")

    def u64(self, name: str = "a 64-bit number") -> int:
        """Read an unsigned integer of eight bytes."""
        return int.from_bytes(self.bytes(8, name), "big")

    def bytes(self, length: int, name: str = "a field") -> _Bytes:
        """Read ``length`` bytes.

        Raises:
            WireError: fewer are left; the error says where and of which field.
        """
        if not 0 <= length <= self.remaining:
            raise WireError(
                f"{self.remaining} bytes at offset {self.position}", f"{length} bytes of {name}", self._source
            )
        start, self.position = self.position, self.position + length
        return self._data[start : self.position]

    def text(self, length: int, name: str = "a text", encoding: str = "utf-8") -> str:
        """Read ``length`` bytes of text.

        Raises:
            WireError: fewer are left, or they are no text in ``encoding``.
        """
        start = self.position
        raw = self.bytes(length, name)
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            self.position = start
            # The bytes themselves stay out of the text: a field of this kind may be a password. The cause
            # would carry them along, so it is cut off.
            at = start + error.start
            raise WireError(
                f"a byte at offset {at} that is not {encoding}", f"text in {name}", self._source
            ) from None

    def rest(self) -> _Bytes:
        """Read all that is left, which may be nothing."""
        return self.bytes(self.remaining)

    def expect_end(self) -> None:
        """Make sure that nothing is left.

        Raises:
            WireError: there is.
        """
        if self.remaining:
            raise WireError(
                f"{self.remaining} bytes at offset {self.position}", "the end of the message", self._source
            )


class FieldWriter:
    """Writes one message; every method returns the writer, so that a message reads as a chain.

    Args:
        source: the section of the specification that says how it is laid out, for error texts.
    """

    __slots__ = ("_data", "_source")

    def __init__(self, source: str) -> None:
        self._data = bytearray()
        self._source = source

    def __len__(self) -> int:
        return len(self._data)

    def u8(self, value: int, name: str = "an unsigned byte") -> Self:
        """Write an unsigned integer of one byte."""
        return self._number(value, 1, name)

    def u16(self, value: int, name: str = "a 16-bit number") -> Self:
        """Write an unsigned integer of two bytes."""
        return self._number(value, 2, name)

    def u32(self, value: int, name: str = "a 32-bit number") -> Self:
        """Write an unsigned integer of four bytes."""
        return self._number(value, 4, name)

    def u64(self, value: int, name: str = "a 64-bit number") -> Self:
        """Write an unsigned integer of eight bytes."""
        return self._number(value, 8, name)

    def bytes(self, value: _Bytes) -> Self:
        """Write bytes as they are."""
        self._data += value
        return self

    def text(self, value: str, encoding: str = "utf-8") -> Self:
        """Write a text.

        Raises:
            LocalProtocolError: it cannot be written in ``encoding``.
        """
        try:
            self._data += value.encode(encoding)
        except UnicodeEncodeError:
            raise LocalProtocolError(
                "a character outside the encoding", f"text in {encoding}", self._source
            ) from None
        return self

    def finish(self) -> _Bytes:
        """Return the message."""
        return _Bytes(self._data)

    def _number(self, value: int, length: int, name: str) -> Self:
        if not 0 <= value < 1 << 8 * length:
            raise LocalProtocolError(f"{value} for {name}", f"0 to {(1 << 8 * length) - 1}", self._source)
        self._data += value.to_bytes(length, "big")
        return self
