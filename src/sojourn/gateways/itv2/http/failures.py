"""The newest handshakes of panels that failed, for those who have no log at hand: a view of the core's events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from sojourn.gateways.itv2.doctor import HANDSHAKE_FAILED
from sojourn.gateways.itv2.http.rest_types import FailedHandshake

if TYPE_CHECKING:
    from sojourn.core.events import Event

FAILURES_COUNT: Final = 100
"""Failed handshakes that are kept, the newest."""


class Failures:
    """What the doctor said lately. ``unix_time`` turns monotonic seconds into those since 1970."""

    def __init__(self, unix_time: Callable[[float], float]) -> None:
        self._unix_time = unix_time
        self._kept: deque[FailedHandshake] = deque(maxlen=FAILURES_COUNT)

    def __call__(self, events: Sequence[Event]) -> None:
        """Take a batch of events."""
        for event in events:
            if event.kind is HANDSHAKE_FAILED:
                panel, peer, sentence = event.values
                at_ms = int(self._unix_time(event.at) * 1000)
                self._kept.append(FailedHandshake(at_ms, str(panel), str(peer), str(sentence)))

    def newest_first(self) -> tuple[FailedHandshake, ...]:
        """Return them."""
        return tuple(reversed(self._kept))
