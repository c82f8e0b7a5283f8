"""Asking a panel for what it has and how it is: each question fits the panel's buffer, and other commands go between.

Knows nothing of when to ask (:mod:`panels` does) nor of what an answer changes (:mod:`tracker` does).

Source: itv2-protocol.md sections 9.3, 11, 12 and 15 point 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from sojourn.gateways.itv2.answers import Done, Rejected, UnknownOutcome
from sojourn.gateways.itv2.messages import (
    Collection,
    Command,
    Labels,
    NackCode,
    PartitionStatus,
    RequestCapabilities,
    RequestLabels,
    RequestPartitionStatus,
    RequestZoneStatus,
)

if TYPE_CHECKING:
    from sojourn.gateways.itv2.panels import Panel

BUFFER_BYTES: Final = 512
"""What a panel can send at once if it does not say; all that are known say 512. Section 7.1."""
OVERHEAD_BYTES: Final = 64
"""Of a buffer: frame, sequences, word, the answer's first fields, padding, and what stuffing doubles of them."""
LABEL_BYTES: Final = 56
"""28 characters. Section 9.3."""
ZONES_AT_ONCE: Final = 255
LABELS_AT_ONCE: Final = 4
USER_LABELS_AT_ONCE: Final = 8


class Incomplete(Exception):  # noqa: N818 - it is no error: the panel is gone, or does not answer now
    """A question was not answered; what comes after it is not asked."""


async def ask(panel: Panel, command: Command, *, in_turn: bool = False) -> Done | Rejected:
    """Ask one question, between the commands of others; what is answered is in the panel's state.

    Args:
        in_turn: the caller has the panel for itself already.
    Raises: Incomplete.
    """
    answer = await (panel.execute(command) if in_turn else panel.ask(command))
    if isinstance(answer, UnknownOutcome):
        raise Incomplete(answer.why)
    return answer


async def read_configuration(panel: Panel, *, in_turn: bool = False) -> None:
    """Read how much of everything the panel has, and what its zones are called.

    Raises: Incomplete.
    """
    await ask(panel, RequestCapabilities(), in_turn=in_turn)
    numbers = panel.tracker.zone_numbers()
    has_labels = await _read_labels(panel, Collection.ZONES, numbers, LABELS_AT_ONCE, in_turn=in_turn)
    # Zones without any name at all are better than no zones.
    panel.keep_zones(numbers, add=bool(panel.settings.zones) or not has_labels)


async def read_statuses(panel: Panel, *, in_turn: bool = False) -> None:
    """Read the status of everything, and which partitions are in use.

    Raises: Incomplete.
    """
    there = []
    for number in panel.tracker.partition_numbers():
        answer = await ask(panel, RequestPartitionStatus(partition=number), in_turn=in_turn)
        status = answer.message if isinstance(answer, Done) else None
        if isinstance(status, PartitionStatus) and any(status.status):
            there.append(number)
    panel.keep_partitions(there)
    await _read_labels(
        panel, Collection.PARTITIONS, sorted(panel.state.partitions), LABELS_AT_ONCE, in_turn=in_turn
    )
    await read_zones(panel, in_turn=in_turn)


async def refresh(panel: Panel, *, in_turn: bool = False) -> None:
    """Read the status of what is known to be there.

    Raises: Incomplete.
    """
    for number in sorted(panel.state.partitions):
        await ask(panel, RequestPartitionStatus(partition=number), in_turn=in_turn)
    await read_zones(panel, in_turn=in_turn)


async def read_partition(panel: Panel, number: int, *, in_turn: bool = False) -> None:
    """Read the status of one partition.

    Raises: Incomplete.
    """
    await ask(panel, RequestPartitionStatus(partition=number), in_turn=in_turn)


async def read_zones(panel: Panel, *, in_turn: bool = False) -> None:
    """Read the status of all zones; a panel that does not like the form of the question gets the other one.

    Raises: Incomplete.
    """
    at_once = min(ZONES_AT_ONCE, _room(panel))
    for first, last in _runs(sorted(panel.state.zones), at_once, gap=at_once):
        count = last - first + 1
        question = RequestZoneStatus(first=first, count=count, width=panel.zone_width)
        answer = await ask(panel, question, in_turn=in_turn)
        if isinstance(answer, Rejected) and answer.is_nack and answer.code == NackCode.INVALID_LENGTH:
            panel.zone_width = 1 - panel.zone_width
            question = RequestZoneStatus(first=first, count=count, width=panel.zone_width)
            await ask(panel, question, in_turn=in_turn)


async def read_user_labels(panel: Panel, numbers: Iterable[int], *, in_turn: bool = False) -> None:
    """Read the names of users, in the order of their numbers.

    Raises: Incomplete.
    """
    await _read_labels(panel, Collection.USERS, sorted(numbers), USER_LABELS_AT_ONCE, in_turn=in_turn)


async def _read_labels(
    panel: Panel, collection: int, numbers: Sequence[int], at_once: int, *, in_turn: bool
) -> bool:
    """Read names; say whether the panel has any."""
    has_any = False
    at_once = max(1, min(at_once, _room(panel) // LABEL_BYTES))
    for first, last in _runs(numbers, at_once, gap=1):
        answer = await ask(
            panel, RequestLabels(collection=collection, first=first, last=last), in_turn=in_turn
        )
        if isinstance(answer, Rejected):
            return has_any
        if isinstance(answer.message, Labels):
            has_any = has_any or any(answer.message.labels)
    return has_any


def _room(panel: Panel) -> int:
    """Return how many bytes of data the panel can send at once."""
    opening = panel.session.opening if panel.session is not None else None
    buffer_bytes = opening.tx_buffer_bytes if opening is not None else BUFFER_BYTES
    return max(LABEL_BYTES, min(buffer_bytes or BUFFER_BYTES, BUFFER_BYTES) - OVERHEAD_BYTES)


def _runs(numbers: Sequence[int], at_once: int, *, gap: int) -> Iterator[tuple[int, int]]:
    """Cut ascending numbers into runs of at most ``at_once`` in which no step is longer than ``gap``."""
    first = last = 0
    for number in numbers:
        if first and (number - first >= at_once or number - last > gap):
            yield first, last
            first = 0
        first, last = first or number, number
    if first:
        yield first, last
