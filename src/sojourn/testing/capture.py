"""Captures: the bytes of a connection as JSON lines, to be read by people and replayed against a codec.

::

    {"at_s":0.0,"direction":"in","hex":"c1010200..."}

``at_s`` counts from the beginning; ``in`` is from the peer to the server. A capture holds whatever was on the wire,
passwords included; who writes one says where it goes, and nothing here writes one unasked. Knows no protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from sojourn.core.clock import Clock
from sojourn.errors import ConfigError, Problem, WireError
from sojourn.sansio.buffer import ReceiveBuffer

if TYPE_CHECKING:
    from sojourn.sansio.framing import Framing

PacketT = TypeVar("PacketT")

Direction = Literal["in", "out"]


class CaptureLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that were read or written at once.

    Units: ``at_s`` is seconds since the capture began.
    """

    at_s: float
    direction: Direction
    hex: str

    @property
    def data(self) -> bytes:
        """Return the bytes themselves."""
        return bytes.fromhex(self.hex)


_decode = msgspec.json.Decoder(CaptureLine).decode
_encode = msgspec.json.Encoder().encode


class CaptureWriter:
    """Writes what passes into a stream of bytes, one line per piece.

    Life: made and closed by whoever captures; the stream stays theirs.
    """

    def __init__(self, stream: IO[bytes], clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started = clock()

    def note(self, direction: Direction, data: bytes) -> None:
        """Write down ``data``."""
        line = CaptureLine(round(self._clock() - self._started, 6), direction, bytes(data).hex())
        self._stream.write(_encode(line) + b"\n")


def read_capture(path: Path | str) -> list[CaptureLine]:
    """Return the lines of a capture.

    Raises: ConfigError with every line that is none.
    """
    lines: list[CaptureLine] = []
    problems: list[Problem] = []
    wanted = '{"at_s": seconds, "direction": "in" or "out", "hex": bytes}'
    for number, raw in enumerate(Path(path).read_bytes().splitlines(), 1):
        if not raw.strip():
            continue
        try:
            line = _decode(raw)
            _ = line.data
        except (msgspec.MsgspecError, ValueError) as error:
            found = str(error) if isinstance(error, msgspec.MsgspecError) else "hex that is none"
            problems.append(Problem(str(path), number, "", "", found, wanted))
        else:
            lines.append(line)
    if problems:
        raise ConfigError(problems)
    return lines


class Replayed(msgspec.Struct, frozen=True):
    """What one packet of a capture was: ``message`` is what ``read`` made of it, or the error that it met."""

    at_s: float
    direction: Direction
    message: Any


def replay(
    lines: Iterable[CaptureLine],
    framing: Callable[[], Framing[PacketT]],
    read: Callable[[Direction, PacketT], object] | None = None,
) -> Iterator[Replayed]:
    """Yield the packets of a capture, or what ``read`` makes of them; both directions, in their order.

    Args:
        lines: the capture.
        framing: makes a framing, one for each direction.
        read: turns a packet into a message; the packet itself when absent.
    Returns: an iterator; a direction whose bytes break a rule yields the WireError and then nothing more.
    """
    ways: dict[Direction, _Way[PacketT]] = {"in": _Way(framing()), "out": _Way(framing())}
    for line in lines:
        way = ways[line.direction]
        for packet in way.feed(line.data):
            message: object = packet
            if read is not None and not isinstance(packet, WireError):
                try:
                    message = read(line.direction, packet)
                except WireError as error:
                    message = error
            yield Replayed(line.at_s, line.direction, message)


class _Way(Generic[PacketT]):
    """One direction of a capture: what is left of it between two lines."""

    def __init__(self, framing: Framing[PacketT]) -> None:
        self._framing = framing
        self._buffer: ReceiveBuffer | None = None
        self._is_broken = False

    def feed(self, data: bytes) -> Iterator[PacketT | WireError]:
        """Yield the packets that are complete with ``data``."""
        while not self._is_broken:
            if self._buffer is not None:
                whole = self._buffer.feed(data)
                if whole is None:
                    return
                self._buffer, data = None, whole
            try:
                packets, consumed, wanted = self._framing.split(data)
            except WireError as error:
                self._is_broken = True
                yield error
                return
            yield from packets
            rest = data[consumed:]
            if rest:
                self._buffer = ReceiveBuffer(rest, wanted)
            if not (packets and rest and len(rest) >= wanted):
                return
            data = b""  # a bad packet came behind good ones: now it is the first
