"""Rates: what each gateway counts, sampled once a second into the last minute.

One pass over a gateway's connections per sample, nothing on the way of a packet. Knows no protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from sojourn.core.manager import ConnectionManager

SAMPLES_COUNT: Final = 60
"""How many samples are kept: the last minute."""


class Counts(msgspec.Struct, frozen=True, gc=False):
    """What one gateway has now, and what it has counted since its start; packets and bytes of all its connections."""

    sessions_open: int = 0
    connections: int = 0
    sessions_opened: int = 0
    sessions_failed: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Relayed(NamedTuple):
    """Packets and bytes that a gateway has moved past the core's connections since its start; they only grow."""

    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class PerSecond(msgspec.Struct, frozen=True, gc=False):
    """One second of one gateway: how many sessions were open at its end, and what happened in it, per second."""

    sessions_open: float = 0.0
    sessions_opened: float = 0.0
    sessions_failed: float = 0.0
    packets_in: float = 0.0
    packets_out: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0


class GatewayFigures(msgspec.Struct, frozen=True):
    """One gateway in figures; ``samples`` are the last minute's, oldest first."""

    name: str
    title: str
    counts: Counts
    samples: tuple[PerSecond, ...]


_GROWING: Final = tuple(name for name in PerSecond.__struct_fields__ if name != "sessions_open")


class Rates:
    """The last minute of every gateway.

    Life: one per server, sampled by its tick. Always true: costs one pass over the connections per sample.
    """

    def __init__(self, managers: Mapping[str, ConnectionManager]) -> None:
        self._managers = managers
        self._last: dict[str, Counts] = {}
        self._sampled_at = 0.0
        self._samples: dict[str, deque[PerSecond]] = {}

    def sample(self, now: float) -> None:
        """Note what was counted since the last call.

        Args: now, monotonic seconds.
        """
        length_s = now - self._sampled_at
        for name, manager in self._managers.items():
            counts = manager.counts()
            last = self._last.get(name)
            if last is not None and length_s > 0:
                ring = self._samples.setdefault(name, deque(maxlen=SAMPLES_COUNT))
                grown = {one: (getattr(counts, one) - getattr(last, one)) / length_s for one in _GROWING}
                ring.append(PerSecond(sessions_open=counts.sessions_open, **grown))
            self._last[name] = counts
        self._sampled_at = now

    def samples(self, name: str) -> tuple[PerSecond, ...]:
        """Return the last minute of one gateway, oldest first."""
        return tuple(self._samples.get(name, ()))

    def figures(self, titles: Mapping[str, str]) -> list[GatewayFigures]:
        """Return every gateway in figures, counted now."""
        return [
            GatewayFigures(name, titles.get(name, name), manager.counts(), self.samples(name))
            for name, manager in self._managers.items()
        ]


def together(figures: Iterable[GatewayFigures]) -> list[GatewayFigures]:
    """Return the figures of several processes as those of one: what has the same name is added up."""
    found: dict[str, GatewayFigures] = {}
    for one in figures:
        known = found.get(one.name)
        found[one.name] = one if known is None else _sum(known, one)
    return list(found.values())


def _sum(first: GatewayFigures, second: GatewayFigures) -> GatewayFigures:
    """Add figures up; samples are laid over each other at their newest ends."""
    counts = Counts(
        *(getattr(first.counts, one) + getattr(second.counts, one) for one in Counts.__struct_fields__)
    )
    longer, shorter = sorted((first.samples, second.samples), key=len, reverse=True)
    padded = (PerSecond(),) * (len(longer) - len(shorter)) + shorter
    samples = tuple(
        PerSecond(*(getattr(a, one) + getattr(b, one) for one in PerSecond.__struct_fields__))
        for a, b in zip(longer, padded, strict=True)
    )
    return GatewayFigures(first.name, first.title, counts, samples)
