"""Laws that every framing and every codec keeps, tried on made-up input.

Each law is a function that a gateway's tests call with what is theirs: the framing, valid bytes, a way to read them.
A law that is broken raises AssertionError with the smallest input that hypothesis could find. Needs the package
``hypothesis``, which is imported only when a law is tried: a server never loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast

from sojourn.errors import WireError
from sojourn.sansio.buffer import ReceiveBuffer

if TYPE_CHECKING:
    from types import ModuleType

    from hypothesis.strategies import SearchStrategy

    from sojourn.sansio.framing import Framing

MessageT = TypeVar("MessageT")
PacketT = TypeVar("PacketT")

Some = Union[Sequence[MessageT], "SearchStrategy[MessageT]"]
"""Examples: a list of them, or a hypothesis strategy that makes them up."""

EXAMPLES_COUNT = 100
"""How often a law is tried, unless told otherwise."""


def packets_of(framing: Framing[PacketT], pieces: Sequence[bytes]) -> list[PacketT]:
    """Return the packets in bytes that arrive in ``pieces``, read as a connection reads them.

    Raises: WireError, and then the packets before it are lost; see :func:`outcome_of`.
    """
    packets, error = outcome_of(framing, pieces)
    if error is not None:
        raise error
    return packets


def outcome_of(framing: Framing[PacketT], pieces: Sequence[bytes]) -> tuple[list[PacketT], WireError | None]:
    """Return the packets in ``pieces`` and the error that stopped the reading, or None."""
    packets: list[PacketT] = []
    buffer: ReceiveBuffer | None = None
    for piece in pieces:
        data: bytes | None = piece
        while data is not None:
            if buffer is not None:
                data = buffer.feed(data)
                if data is None:
                    break
                buffer = None
            try:
                found, consumed, wanted = framing.split(data)
            except WireError as error:
                return packets, error
            packets += found
            rest = data[consumed:]
            data = None
            if rest:
                assert wanted > 0, "a framing that has bytes left must want some"  # noqa: S101 - a law
                buffer = ReceiveBuffer(rest, wanted)
                # Enough is there already: a bad packet behind good ones, which is now the first.
                data = b"" if found and len(rest) >= wanted else None
    return packets, None


def any_cutting_gives_the_same_packets(
    framing: Framing[PacketT], streams: Some[bytes], *, examples_count: int = EXAMPLES_COUNT
) -> None:
    """Try the first law of framing: where the bytes are cut changes nothing.

    Cut into single bytes, and at made-up places. Streams may be good, bad, or good with a bad end.

    Args:
        framing: the one to try.
        streams: bytes as they come from a peer, several packets each.
        examples_count: how many cuttings to try.
    """
    hypothesis = _hypothesis()
    strategies = hypothesis.strategies

    def law(stream: bytes, places: list[int]) -> None:
        whole = _comparable(outcome_of(framing, [stream]))
        cuts = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
        pieces = [stream[start:end] for start, end in pairwise(cuts)]
        assert _comparable(outcome_of(framing, pieces)) == whole, f"cut at {cuts[1:-1]}"  # noqa: S101
        single = [stream[at : at + 1] for at in range(len(stream))]
        assert _comparable(outcome_of(framing, single)) == whole, "cut into single bytes"  # noqa: S101

    places = strategies.lists(strategies.integers(0, 1 << 20), max_size=8)
    _try(law, examples_count, stream=_strategy(streams), places=places)


def random_bytes_give_packets_or_a_wire_error(
    framing: Framing[PacketT],
    read: Callable[[PacketT], object] | None = None,
    *,
    prefix: bytes = b"",
    examples_count: int = EXAMPLES_COUNT,
) -> None:
    """Try that no bytes whatever make framing or codec raise anything but WireError.

    Args:
        framing: the one to try.
        read: what turns a packet into a message, if that shall be tried too.
        prefix: bytes in front of the made-up ones, to get past a magic number.
        examples_count: how many streams to try.
    """
    hypothesis = _hypothesis()

    def law(data: bytes) -> None:
        packets, _ = outcome_of(framing, [prefix + data])
        _read_all(packets, read)

    _try(law, examples_count, data=hypothesis.strategies.binary(max_size=512))


def damage_gives_a_message_or_a_wire_error(
    framing: Framing[PacketT],
    valid: Some[bytes],
    read: Callable[[PacketT], object] | None = None,
    *,
    examples_count: int = EXAMPLES_COUNT,
) -> None:
    """Try that a valid packet with one damaged byte gives a message or WireError, nothing else.

    Args:
        framing: the one to try.
        valid: bytes of whole packets, each with its header.
        read: what turns a packet into a message.
        examples_count: how many damages to try.
    """
    hypothesis = _hypothesis()
    strategies = hypothesis.strategies

    def law(data: bytes, place: int, value: int) -> None:
        hypothesis.assume(data)
        damaged = bytearray(data)
        damaged[place % len(data)] ^= value
        packets, _ = outcome_of(framing, [bytes(damaged)])
        _read_all(packets, read)

    _try(
        law,
        examples_count,
        data=_strategy(valid),
        place=strategies.integers(0, 1 << 20),
        value=strategies.integers(1, 255),
    )


def oversize_is_refused_from_its_header(framing: Framing[PacketT], header: bytes) -> None:
    """Try that a header which promises too much is refused before a byte of its body is there.

    Args:
        framing: the one to try.
        header: a header, nothing more, that promises one byte more than allowed, or 4 GiB.
    """
    packets, error = outcome_of(framing, [header])
    if error is None:
        raise AssertionError(f"{header.hex()} was not refused; {len(packets)} packets were found")
    _, behind = outcome_of(framing, [header[:-1]])
    if behind is not None and len(header) > 1:
        raise AssertionError(f"{header[:-1].hex()} was refused before its header was complete")


def what_is_encoded_is_read_back(
    encode: Callable[[MessageT], bytes],
    read: Callable[[PacketT], MessageT],
    framing: Framing[PacketT],
    messages: Some[MessageT],
    *,
    examples_count: int = EXAMPLES_COUNT,
) -> None:
    """Try that what the encoder writes, framing and decoder of the other side read as the same message.

    Args:
        encode: a message to the bytes of one whole packet.
        read: a packet to its message.
        framing: what cuts the bytes.
        messages: what to write.
        examples_count: how many messages to try.
    """

    def law(message: MessageT) -> None:
        data = encode(message)
        packets, error = outcome_of(framing, [data])
        assert error is None, f"our own bytes were refused: {error}"  # noqa: S101
        assert len(packets) == 1, f"{len(packets)} packets in the bytes of one"  # noqa: S101
        found = read(packets[0])
        assert found == message, f"wrote {message!r}, read {found!r}"  # noqa: S101

    _hypothesis()
    _try(law, examples_count, message=_strategy(messages))


def _read_all(packets: Sequence[PacketT], read: Callable[[PacketT], object] | None) -> None:
    for packet in packets if read is not None else ():
        try:
            read(packet)  # type: ignore[misc]  # not None, by the line above
        except WireError:
            return  # the first bad packet ends a conversation


def _comparable(outcome: tuple[list[PacketT], WireError | None]) -> tuple[list[PacketT], bool]:
    """Return what must not depend on the cutting; *when* an error is certain may, and so may its words."""
    return outcome[0], outcome[1] is not None


def _strategy(some: Some[MessageT]) -> SearchStrategy[MessageT]:
    strategies = _hypothesis().strategies
    if isinstance(some, strategies.SearchStrategy):
        return some  # type: ignore[no-any-return]  # a lazily imported module has no types
    return strategies.sampled_from(list(cast("Sequence[MessageT]", some)))  # type: ignore[no-any-return]


def _try(law: Callable[..., None], examples_count: int, **strategies: Any) -> None:  # noqa: ANN401 - strategies
    hypothesis = _hypothesis()
    settings = hypothesis.settings(
        max_examples=examples_count,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        # A law is called from a test that has a name; what failed is printed and need not be kept in a folder.
        database=None,
    )
    settings(hypothesis.given(**strategies)(law))()


def _hypothesis() -> ModuleType:
    try:
        import hypothesis  # noqa: PLC0415 - a test's dependency, not a server's
        import hypothesis.strategies  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ImportError("the laws of sojourn.testing need hypothesis: pip install hypothesis") from error
    return hypothesis


def cuttings(data: bytes) -> Iterator[list[bytes]]:
    """Yield ``data`` cut in two at every place, then into single bytes: for tests that want no hypothesis."""
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
    yield [data[at : at + 1] for at in range(len(data))]
