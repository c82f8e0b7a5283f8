"""Incidents of a cluster: the table of the incident machine, and the record of one time without a writable primary.

Pure: knows no node and no clock; moments are handed in, and :mod:`.failover` draws the conclusions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

NORMAL: Final = "NORMAL"
SUSPECT: Final = "SUSPECT"
BUFFERING: Final = "BUFFERING"
GIVEN_UP: Final = "GIVEN_UP"
SWITCHING: Final = "SWITCHING"
DRAINING: Final = "DRAINING"
STATES: Final = (NORMAL, SUSPECT, BUFFERING, GIVEN_UP, SWITCHING, DRAINING)

SUSPICION: Final = "suspicion"
ALIVE: Final = "the primary answers"
GONE: Final = "the primary is lost"
PLANNED: Final = "switchover begun"
FOUND: Final = "primary found"
ANSWERED: Final = "the new primary answers us"
SETTLED: Final = "nobody waits any more"
TIMED_OUT: Final = "time is up"

TRANSITIONS: Final[dict[tuple[str, str], str]] = {
    (NORMAL, SUSPICION): SUSPECT,
    (NORMAL, PLANNED): BUFFERING,
    (NORMAL, FOUND): SWITCHING,
    (SUSPECT, ALIVE): NORMAL,
    (SUSPECT, GONE): BUFFERING,
    (SUSPECT, FOUND): SWITCHING,
    (BUFFERING, FOUND): SWITCHING,
    (BUFFERING, TIMED_OUT): GIVEN_UP,
    (GIVEN_UP, FOUND): SWITCHING,
    (SWITCHING, ANSWERED): DRAINING,
    (SWITCHING, GONE): BUFFERING,
    (SWITCHING, FOUND): SWITCHING,
    (DRAINING, SETTLED): NORMAL,
}
"""The incident machine of specification 6.4, and GIVEN_UP: clients were held for as long as allowed and are refused
until a primary is found. A pair that is not here changes nothing."""

STEPS_COUNT: Final = 64
"""Steps kept of one incident: a cluster that flaps for days must not fill the memory."""


@dataclass(slots=True)
class Incident:
    """One time without a writable primary, from the first doubt to the last client served; kept for people to see.

    Units: ``began_at`` is wall time, ``began``, ``lost``, ``found`` and ``ended`` are on the monotonic clock, 0 for not
    yet. ``outcome`` is one of ``failover``, ``restart`` (the same node on the same timeline), ``switchover``,
    ``abandoned`` (a switchover that came to nothing), empty while it lasts. ``is_final``: the target of a switchover
    was told to promote itself, there is no way back. ``clients_held`` waited for a primary, and ``clients_refused`` of
    them in vain; whoever holds them counts.
    """

    number: int
    why: str
    began_at: datetime
    began: float
    old_primary: str
    old_timeline: int
    is_planned: bool = False
    is_hard: bool = True
    is_final: bool = False
    new_primary: str = ""
    new_timeline: int = 0
    lost: float = 0.0
    found: float = 0.0
    ended: float = 0.0
    outcome: str = ""
    clients_held: int = 0
    clients_refused: int = 0
    steps: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=STEPS_COUNT))

    @property
    def duration_s(self) -> float:
        """From the first doubt to the end; 0 while it lasts."""
        return self.ended - self.began if self.ended else 0.0

    @property
    def unwritable_s(self) -> float:
        """How long no primary was known; 0 if it always was, or is not yet again."""
        return max(0.0, self.found - self.began) if self.found else 0.0

    def close(self, now: float) -> None:
        """Say how it ended."""
        self.ended = now
        if self.new_primary == self.old_primary:
            self.outcome = "abandoned" if self.is_planned else "restart"
        else:
            self.outcome = "switchover" if self.is_planned else "failover"
