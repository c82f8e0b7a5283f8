"""Wrong codes: no more are sent before the panel locks its keypads, and none after it did.

Counts per partition, per asker and per panel. Knows nothing of codes themselves, nor of what was refused.

Source: itv2-protocol.md section 10.3 (code 9).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from sojourn.core.clock import Clock
from sojourn.gateways.itv2.hub_config import LockoutSettings

ASKERS_COUNT: Final = 256
"""Askers that are remembered for wrong codes, per panel; the one that was wrong longest ago is forgotten first."""


class Lockout:
    """The wrong codes of one panel. Life: as long as the panel's; through reconnections."""

    __slots__ = ("_clock", "_failures", "_locked_until", "_settings")

    def __init__(self, settings: LockoutSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._locked_until: dict[tuple[str, str], float] = {}

    def locked_for_s(self, partition: int, asker: str) -> int:
        """Return for how many seconds no code of this asker may be sent to this partition; 0 = now it may."""
        now = self._clock()
        for key in [key for key, until in self._locked_until.items() if until <= now]:
            del self._locked_until[key]
        return max(
            (
                math.ceil(self._locked_until[key] - now)
                for key in _keys(partition, asker)
                if key in self._locked_until
            ),
            default=0,
        )

    def failed(self, partition: int, asker: str) -> bool:
        """Count a wrong code; say whether it locked something."""
        now = self._clock()
        settings = self._settings
        has_locked = False
        for key in _keys(partition, asker):
            recent = [at for at in self._failures.pop(key, ()) if at > now - settings.window_s]
            recent.append(now)
            limit = settings.panel_failures_count if key == _PANEL else settings.failures_count
            if len(recent) >= limit:
                self._locked_until[key] = now + settings.lock_s
                has_locked = True
            else:
                self._failures[key] = recent
        while len(self._failures) > ASKERS_COUNT:
            self._failures.popitem(last=False)
        return has_locked

    def panel_locked(self) -> None:
        """Send no code at all for a while: the panel said that it is locked."""
        self._locked_until[_PANEL] = self._clock() + self._settings.panel_lock_s

    def succeeded(self, partition: int, asker: str) -> None:
        """Forget the wrong codes before a right one; ends no lock."""
        for key in _keys(partition, asker):
            self._failures.pop(key, None)


_PANEL: Final = ("panel", "")


def _keys(partition: int, asker: str) -> tuple[tuple[str, str], ...]:
    return _PANEL, ("partition", str(partition)), ("asker", asker)
