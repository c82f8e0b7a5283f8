"""PodServices: what the rooms of one pod share, handed to each of them in one piece.

Holds references only; whoever made a part ends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sojourn.core.backoff import Backoff
from sojourn.gateways.exchange.event_log import EventLog

if TYPE_CHECKING:
    from sojourn.core.clock import Clock
    from sojourn.gateways.exchange.bus import Bus, EventLogs, Owner
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.room_simulators import RoomSimulators
    from sojourn.gateways.exchange.sim.link import Ownership, SimulatorLink, SimulatorReader
    from sojourn.gateways.exchange.storage import Storage


class RoomKeeper(Protocol):
    """Who keeps the rooms of a pod."""

    @property
    def is_bus_up(self) -> bool:
        """Say whether pods hear each other."""

    def has_news(self, room: SessionRoom) -> None:
        """Let the next tick look at a room."""

    def lost_ownership(self, room: SessionRoom, by: Owner | None) -> None:
        """Find a room its place again: another pod owns the session, or nobody does."""


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much of a session's log is kept in memory."""

    count: int = 1_000
    size_bytes: int = 1_048_576
    keep_s: float = 900.0

    def log(self, epoch: int, last: int) -> EventLog:
        """Return an empty log."""
        return EventLog(epoch, last, limit_count=self.count, limit_bytes=self.size_bytes, keep_s=self.keep_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodServices:
    """The parts of one pod.

    Args:
        pod: its name.
        bus: leases, relay and the like.
        logs: where sessions' events are durable: the bus, or the database.
        store: sessions and simulators.
        keeper: of the rooms.
        simulators: what sessions want of them.
        link: makes a link to a simulator.
        spawn: starts a task that is awaited at the end.
        clock: monotonic seconds.
        wall_ms: milliseconds since 1970.
        lease_s: how long a lease lasts.
        command_timeout_s: for a command that another pod carries out.
        waiting_events_count: events of one session that may wait for the log.
        random: a number in [0, 1).
    """

    pod: str
    bus: Bus
    logs: EventLogs
    store: Storage
    keeper: RoomKeeper
    simulators: RoomSimulators
    link: Callable[[str, Ownership, SimulatorReader, int, str], SimulatorLink]
    spawn: Callable[[Awaitable[None]], object]
    clock: Clock
    wall_ms: Callable[[], int]
    lease_s: float
    command_timeout_s: float
    waiting_events_count: int = 10_000
    random: Callable[[], float]
    log_bounds: LogBounds = field(default_factory=LogBounds)

    def backoff(self) -> Backoff:
        """Return waits between tries of what an outage interrupts."""
        return Backoff(0.05, 2.0, self.random)
