"""Fields that layouts are made of: each reads its part of a body into values by name, and writes it from a message.

Knows scalars and nothing of words. A message's values are read in order, so that a field can stand on one before it.
Source: itv2-protocol.md sections 6 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sojourn.errors import WireError
from sojourn.gateways.itv2.messages import Section
from sojourn.gateways.itv2.wire.scalars import (
    SOURCE,
    cut_short,
    does_not_fit,
    number,
    read_compact,
    read_counted,
    read_digits,
    read_label,
    read_text,
    read_time,
    take,
    write_compact,
    write_counted,
    write_digits,
    write_label,
    write_text,
    write_time,
)

CODE_LENGTHS = frozenset({0, 4, 6, 8})
"""Digits of a code; 0 is one-touch arming. Five could not be told from six with a 0 at the end (section 9.4)."""

Values = dict[str, Any]


class Field(Protocol):
    """One field, or several that cannot be read apart."""

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read into ``values`` from offset ``at``; return the offset behind.

        Raises: WireError.
        """
        ...

    def write(self, message: Any) -> bytes:
        """Return the field's bytes.

        Raises: LocalProtocolError if a value does not fit.
        """
        ...


class Byte:
    """An unsigned byte."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        try:
            values[self._name] = data[at]
        except IndexError:
            raise cut_short(data, at, 1) from None
        return at + 1

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        return number(getattr(message, self._name), 1)


class Compact:
    """A compact integer; ``min_size_bytes``: what real panels use although less would do."""

    def __init__(self, name: str, *, min_size_bytes: int = 1) -> None:
        self._name = name
        self._min_size = min_size_bytes

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        values[self._name], at = read_compact(data, at)
        return at

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        return write_compact(getattr(message, self._name), self._min_size)


class Scalar:
    """A field that a pair of functions reads and writes."""

    def __init__(
        self, name: str, read: Callable[[bytes, int], tuple[Any, int]], write: Callable[[Any], bytes]
    ) -> None:
        self._name = name
        self._read = read
        self._write = write

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        values[self._name], at = self._read(data, at)
        return at

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        return self._write(getattr(message, self._name))


def u16(name: str) -> Scalar:
    """Return an unsigned number of two bytes."""
    return Scalar(name, _read_u16, lambda value: number(value, 2))


def flag(name: str) -> Scalar:
    """Return a byte that is 0 or, for true, 1."""
    return Scalar(name, _read_flag, lambda value: b"\1" if value else b"\0")


def time4(name: str) -> Scalar:
    """Return a panel's local time."""
    return Scalar(name, read_time, write_time)


def bytes1(name: str) -> Scalar:
    """Return bytes behind one byte with their number."""
    return Scalar(name, read_counted, write_counted)


def rest(name: str) -> Scalar:
    """Return all bytes to the end of the message."""
    return Scalar(name, lambda data, at: (data[at:], max(at, len(data))), bytes)


def str1(name: str) -> Scalar:
    """Return text behind one byte with the number of its bytes."""
    return Scalar(name, _read_str1, lambda value: write_counted(write_text(value)))


def code(name: str) -> Scalar:
    """Return the digits of a code to the end of the message."""
    return Scalar(
        name,
        lambda data, at: (read_digits(data[at:]), max(at, len(data))),
        lambda value: write_digits(_checked(value)),
    )


def counted_code(name: str) -> Scalar:
    """Return the digits of a code behind the number of their bytes."""
    return Scalar(name, _read_counted_code, lambda value: write_counted(write_digits(_checked(value))))


def raw_digits(name: str) -> Scalar:
    """Return the digits of a code, one a byte, behind their number: the other reading of section 9.4."""
    return Scalar(name, _read_raw_digits, _write_raw_digits)


class Constant:
    """Bytes that are always the same and mean nothing to us."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def read(self, data: bytes, at: int, values: Values) -> int:  # noqa: ARG002 - as of Field
        """Read as :meth:`Field.read` says."""
        found, at = take(data, at, len(self._value))
        if found != self._value:
            raise WireError(f"{found.hex()}", f"{self._value.hex()}", "itv2-protocol.md section 9")
        return at

    def write(self, message: Any) -> bytes:  # noqa: ARG002 - as of Field
        """Write as :meth:`Field.write` says."""
        return self._value


class Rows:
    """Values of consecutive zones or users: how many, the bytes of each, and the values.

    Shape: compact count, byte ``width``, count times ``width`` bytes.
    """

    def __init__(self, name: str, read: Callable[[bytes], Any], write: Callable[[Any, int], bytes]) -> None:
        self._name = name
        self._read = read
        self._write = write

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        count, at = read_compact(data, at)
        (width,), at = take(data, at, 1)
        if not width and count:
            raise WireError(f"{count} values of 0 bytes", "1 byte or more each", SOURCE)
        raw, end = take(data, at, count * width)
        values["width"] = width
        values[self._name] = tuple(
            self._read(raw[start : start + width]) for start in range(0, len(raw), width or 1)
        )
        return end

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        rows = getattr(message, self._name)
        width = message.width
        if rows and not width:
            raise does_not_fit("a value of some bytes", "a width of 1 or more")
        cells = (self._write(row, width) for row in rows)
        return b"".join((write_compact(len(rows)), number(width, 1), *cells))


def bit_rows(name: str) -> Rows:
    """Return rows of bits, the first byte of each being the lowest (as 4738 and 0812 have it)."""
    return Rows(name, _read_bits, _write_bits)


def code_rows(name: str) -> Rows:
    """Return rows of access codes in BCD."""
    return Rows(name, read_digits, _write_code)


class LabelArray:
    """Labels of one width to the end of the message.

    Shape: compact ``width`` in bytes, then so many bytes each; what is left is no whole label.
    """

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        width, at = read_compact(data, at)
        end = len(data) - (len(data) - at) % width if width else at
        values["width"] = width
        values["labels"] = tuple(
            read_label(data[start : start + width]) for start in range(at, end, width or 1)
        )
        return end

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        labels = (write_label(label, message.width) for label in message.labels)
        return b"".join((write_compact(message.width), *labels))


class UserLabels:
    """Labels of consecutive users as 0750 writes them.

    Shape: compact count, byte 03, then each label as 1C and 14 characters, filled with spaces.
    """

    FORMAT = 3
    WIDTH = 28

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        count, at = read_compact(data, at)
        (form,), at = take(data, at, 1)
        if form != self.FORMAT:
            raise WireError(
                f"labels of format {form}", f"format {self.FORMAT}", "itv2-protocol.md section 9.6"
            )
        if count > len(data) - at:
            raise cut_short(data, at, count)
        labels = []
        for _ in range(count):
            raw, at = read_counted(data, at)
            labels.append(read_label(raw))
        values["labels"] = tuple(labels)
        return at

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        labels = (write_counted(write_label(label, self.WIDTH)) for label in message.labels)
        return b"".join((write_compact(len(message.labels)), number(self.FORMAT, 1), *labels))


class SectionAddress:
    """Where a programming section is.

    Shape: flags, module where flag 04 is set, 1 to 8 words of 16 bits, index where flag 01 is set, count where flag 02
    is set. The layout of a mask (flag 80) is unknown.
    Source: itv2-protocol.md section 9.5.
    """

    INDEX = 0x01
    COUNT = 0x02
    MODULE = 0x04
    VIRTUAL = 0x08
    WORDS_SHIFT = 4
    MASK = 0x80
    MAX_WORDS = 8

    def read(self, data: bytes, at: int, values: Values) -> int:
        """Read as :meth:`Field.read` says."""
        (flags,), at = take(data, at, 1)
        if flags & self.MASK:
            raise WireError("a section with a mask", "one without", "itv2-protocol.md section 9.5")
        module = index = None
        count = 0
        if flags & self.MODULE:
            (module,), at = take(data, at, 1)
        words, at = take(data, at, 2 * ((flags >> self.WORDS_SHIFT) + 1))
        if flags & self.INDEX:
            (index,), at = take(data, at, 1)
        if flags & self.COUNT:
            (count,), at = take(data, at, 1)
        values["section"] = Section(
            tuple(words[start] << 8 | words[start + 1] for start in range(0, len(words), 2)),
            count if count > 1 else 0,
            module,
            index,
            bool(flags & self.VIRTUAL),
        )
        return at

    def write(self, message: Any) -> bytes:
        """Write as :meth:`Field.write` says."""
        section: Section = message.section
        if not 1 <= len(section.address) <= self.MAX_WORDS:
            raise does_not_fit("a section address", f"1 to {self.MAX_WORDS} words")
        flags = len(section.address) - 1 << self.WORDS_SHIFT
        pieces = [number(word, 2) for word in section.address]
        if section.is_virtual:
            flags |= self.VIRTUAL
        if section.module is not None:
            flags |= self.MODULE
            pieces.insert(0, number(section.module, 1))
        if section.index is not None:
            flags |= self.INDEX
            pieces.append(number(section.index, 1))
        if section.count > 1:
            flags |= self.COUNT
            pieces.append(number(section.count, 1))
        return b"".join((number(flags, 1), *pieces))


def _read_u16(data: bytes, at: int) -> tuple[int, int]:
    raw, at = take(data, at, 2)
    return raw[0] << 8 | raw[1], at


def _read_flag(data: bytes, at: int) -> tuple[bool, int]:
    raw, at = take(data, at, 1)
    return raw != b"\0", at


def _read_str1(data: bytes, at: int) -> tuple[str, int]:
    raw, at = read_counted(data, at)
    return read_text(raw), at


def _checked(digits: str) -> str:
    if len(digits) not in CODE_LENGTHS:
        raise does_not_fit("a code", "4, 6 or 8 digits")
    return digits


def _read_counted_code(data: bytes, at: int) -> tuple[str, int]:
    raw, at = read_counted(data, at)
    return read_digits(raw), at


def _read_raw_digits(data: bytes, at: int) -> tuple[str, int]:
    raw, at = read_counted(data, at)
    if any(digit > 0xF for digit in raw):  # noqa: PLR2004 - a nibble
        raise WireError("a byte that is no digit", "one digit a byte", "itv2-protocol.md section 9.4")
    return "".join(f"{digit:X}" for digit in raw), at


def _write_raw_digits(digits: str) -> bytes:
    try:
        return write_counted(bytes(int(digit, 16) for digit in _checked(digits)))
    except ValueError:
        raise does_not_fit("a code", "decimal digits") from None


def _read_bits(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _write_bits(bits: int, width: int) -> bytes:
    try:
        return bits.to_bytes(width, "little")
    except OverflowError:
        raise does_not_fit("bits", f"{width} bytes") from None


def _write_code(digits: str, width: int) -> bytes:
    raw = write_digits(digits)
    if len(digits) != 2 * width:
        raise does_not_fit("a code", f"{2 * width} digits")
    return raw
