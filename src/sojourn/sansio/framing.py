"""Framing: cut a stream of bytes into packets, and refuse one that is too long from its header alone.

Knows nothing of sockets, sessions or what a packet means. ``None`` never stands for an error: a framing either
gives packets, or says how many bytes it wants, or raises :class:`~sojourn.errors.WireError`.
"""

from __future__ import annotations

from struct import Struct
from typing import Protocol, TypeVar

import msgspec

from sojourn.errors import WireError

PacketT = TypeVar("PacketT")


class Framing(Protocol[PacketT]):
    """The contract: any cutting of the same bytes gives the same packets (``sojourn.testing`` has the law)."""

    def split(self, data: bytes) -> tuple[list[PacketT], int, int]:
        """Split whole packets off the front of ``data``.

        Returns:
            The packets in order, how many bytes they took, and how many bytes the next packet needs in all,
            counted from there (more than are left; a lower bound while its header is incomplete).
        Raises:
            WireError: the *first* packet of ``data`` breaks a rule. One that comes after good packets is left
                in place, so that those are served first; the next call raises.
        """
        ...


class Packet(msgspec.Struct, gc=False):
    """What :class:`HeaderFraming` cuts: the header's fields, the session it names, the body's bytes."""

    header: tuple[int, ...]
    session_id: int
    body: bytes


class HeaderFraming:
    """A fixed header of integers, one of which is the body's length, another the session's number.

    Args:
        layout: a :mod:`struct` format such as ``"!HHI"``.
        length: index of the body's length among the header's fields.
        session: index of the session's number, or None where the connection is the session.
        max_length_bytes: longest body; a header that promises more is refused before the body arrives.
    """

    def __init__(
        self, layout: str, *, length: int, session: int | None = None, max_length_bytes: int = 65_536
    ) -> None:
        self._struct = Struct(layout)
        self._length = length
        self._session = session
        self._max_length = max_length_bytes

    def split(self, data: bytes) -> tuple[list[Packet], int, int]:
        """Split as :meth:`Framing.split` says."""
        unpack, size = self._struct.unpack_from, self._struct.size
        length_at, session_at, most = self._length, self._session, self._max_length
        packets: list[Packet] = []
        at, end, wanted = 0, len(data), size
        if end >= size:  # one packet that came alone is the usual case, and worth 0.06 us
            header = unpack(data)
            if header[length_at] == end - size <= most:
                return (
                    [Packet(header, header[session_at] if session_at is not None else 0, data[size:])],
                    end,
                    size,
                )
        while end - at >= size:
            header = unpack(data, at)
            length = header[length_at]
            if length > most:
                if packets:
                    break
                raise WireError(f"a body of {length} bytes", f"at most {most}", "the length in the header")
            wanted = size + length
            if end - at < wanted:
                return packets, at, wanted
            packets.append(
                Packet(header, 0 if session_at is None else header[session_at], data[at + size : at + wanted])
            )
            at += wanted
            wanted = size
        return packets, at, wanted

    def encode(self, *header: int, body: bytes) -> bytes:
        """Return one packet; the length field in ``header`` is overwritten with the body's length."""
        fields = list(header)
        fields[self._length] = len(body)
        return self._struct.pack(*fields) + body


class LineFraming:
    """Lines that end with a delimiter; a line longer than the limit is refused as soon as that is certain."""

    def __init__(self, delimiter: bytes = b"\n", *, max_length_bytes: int = 65_536) -> None:
        self._delimiter = delimiter
        self._max_length = max_length_bytes

    def split(self, data: bytes) -> tuple[list[bytes], int, int]:
        """Split as :meth:`Framing.split` says; a packet is a line without its delimiter."""
        *lines, rest = data.split(self._delimiter)
        most = self._max_length
        good: list[bytes] = []
        at = 0
        for line in lines:
            if len(line) > most:
                break
            good.append(line)
            at += len(line) + len(self._delimiter)
        else:
            # The end of the rest may be the first part of a delimiter.
            if len(rest) < most + len(self._delimiter):
                return good, at, len(rest) + 1
        if good:
            return good, at, 1
        raise WireError(
            f"a line of more than {most} bytes", f"a line end within {most} bytes", "the line limit"
        )
