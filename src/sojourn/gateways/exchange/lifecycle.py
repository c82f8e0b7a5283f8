"""How sessions and simulators live and end: states, who may join on which device, when time is up.

Tables and pure functions; the stores obey them in SQL and in memory, the owner of a session in what it tells clients.

Theory of time. A session has three clocks. *Idle*: since the user last did something, which is a client's message other
than a heartbeat, or a REST call; being connected is not doing something. *Detached*: since no connection is left, or
since it was made while none has come. *Age*: a moment that is fixed when it is made. The first that runs out ends it.

Knows nothing of databases, frames and tasks; the present moment is handed in.

Source: exchange-session-service.md sections 5.2 and 5.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from sojourn.errors import ConfigError, Problem


class SessionState(StrEnum):
    """Where a session stands. DETACHED has had a connection and has none; ENDED is final."""

    NEW = "new"
    ACTIVE = "active"
    DETACHED = "detached"
    ENDED = "ended"


class SessionEvent(StrEnum):
    """What happens to a session: its first connection came, its last one went, it is over."""

    ATTACH = "attach"
    DETACH = "detach"
    END = "end"


SESSION_TRANSITIONS: Final[Mapping[tuple[SessionState, SessionEvent], SessionState]] = {
    (SessionState.NEW, SessionEvent.ATTACH): SessionState.ACTIVE,
    (SessionState.NEW, SessionEvent.END): SessionState.ENDED,
    (SessionState.ACTIVE, SessionEvent.ATTACH): SessionState.ACTIVE,
    (SessionState.ACTIVE, SessionEvent.DETACH): SessionState.DETACHED,
    (SessionState.ACTIVE, SessionEvent.END): SessionState.ENDED,
    (SessionState.DETACHED, SessionEvent.ATTACH): SessionState.ACTIVE,
    (SessionState.DETACHED, SessionEvent.DETACH): SessionState.DETACHED,
    (SessionState.DETACHED, SessionEvent.END): SessionState.ENDED,
}
"""What is not here does not happen: nothing leaves ENDED, and NEW has no connection that could go."""

LIVE_SESSION_STATES: Final = frozenset(SessionState) - {SessionState.ENDED}


class EndReason(StrEnum):
    """Why a session ended."""

    USER = "user"
    EXPIRED = "expired"
    REPLACED = "replaced"
    ADMIN = "admin"
    POLICY = "policy"


class SimulatorState(StrEnum):
    """Where a simulator stands. STOPPED and FAILED are final; being unreachable is a condition and no state."""

    REQUESTED = "requested"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


SIMULATOR_TRANSITIONS: Final[Mapping[SimulatorState, frozenset[SimulatorState]]] = {
    # RUNNING at once: it came out of a warm pool, or was always there. STOPPED at once: it was never begun.
    SimulatorState.REQUESTED: frozenset(SimulatorState),
    SimulatorState.STARTING: frozenset(SimulatorState) - {SimulatorState.REQUESTED},
    SimulatorState.RUNNING: frozenset(
        {SimulatorState.RUNNING, SimulatorState.STOPPING, SimulatorState.STOPPED, SimulatorState.FAILED}
    ),
    SimulatorState.STOPPING: frozenset(
        {SimulatorState.STOPPING, SimulatorState.STOPPED, SimulatorState.FAILED}
    ),
    SimulatorState.STOPPED: frozenset(),
    SimulatorState.FAILED: frozenset(),
}
"""State -> states that may be observed next. A state that is not final may be observed again."""

FINAL_SIMULATOR_STATES: Final = frozenset({SimulatorState.STOPPED, SimulatorState.FAILED})


def simulator_sources(state: SimulatorState) -> frozenset[SimulatorState]:
    """Return the states in which ``state`` may be observed."""
    return frozenset(source for source, targets in SIMULATOR_TRANSITIONS.items() if state in targets)


def session_sources(event: SessionEvent) -> frozenset[SessionState]:
    """Return the states in which ``event`` may happen."""
    return frozenset(state for state, possible in SESSION_TRANSITIONS if possible is event)


class PolicyKind(StrEnum):
    """What happens when a user with a live session comes on another device."""

    REPLACE = "replace"
    SHARE = "share"
    REJECT = "reject"


class DevicePolicy(NamedTuple):
    """A policy; written ``replace``, ``share:3`` or ``reject``. ``devices_count`` is how many may share."""

    kind: PolicyKind
    devices_count: int = 1

    def __str__(self) -> str:
        return f"share:{self.devices_count}" if self.kind is PolicyKind.SHARE else self.kind.value


REPLACE: Final = DevicePolicy(PolicyKind.REPLACE)
REJECT: Final = DevicePolicy(PolicyKind.REJECT)
DEVICES_MAX_COUNT: Final = 100
"""More devices than this in one session are a mistake in the configuration."""


def device_policy(text: str) -> DevicePolicy:
    """Return the policy that a text names.

    Raises: ConfigError if it names none.
    """
    kind, _, count = text.partition(":")
    if text in {REPLACE.kind.value, REJECT.kind.value}:
        return DevicePolicy(PolicyKind(text))
    if kind == PolicyKind.SHARE and count.isascii() and count.isdecimal():
        devices_count = int(count[:6])
        if 1 <= devices_count <= DEVICES_MAX_COUNT:
            return DevicePolicy(PolicyKind.SHARE, devices_count)
    wanted = f"replace, reject, or share:N with N from 1 to {DEVICES_MAX_COUNT}"
    raise ConfigError([Problem("", 0, "", "device_policy", repr(text[:32]), wanted)])


class Admitted(NamedTuple):
    """A device may join: the session's devices from now on, the newest last, and which of them had to leave."""

    devices: tuple[str, ...]
    replaced: tuple[str, ...]


class DeviceRefusal(StrEnum):
    """Why a device may not join."""

    OTHER_DEVICE = "other_device"
    DEVICES_FULL = "devices_full"


def admit_device(
    policy: DevicePolicy, state: SessionState, devices: tuple[str, ...], device: str
) -> Admitted | DeviceRefusal:
    """Decide whether a device may join a live session.

    A device that is in it already always may. ``reject`` and a full ``share:N`` protect only who may be there: when
    all have gone (DETACHED) the oldest makes room, or a user whose phone has died would be locked out of the session.
    """
    others = tuple(one for one in devices if one != device)
    if len(others) < len(devices):
        return Admitted((*others, device), ())
    if policy.kind is PolicyKind.REPLACE:
        return Admitted((device,), others)
    room = policy.devices_count - 1
    if len(others) <= room:
        return Admitted((*others, device), ())
    if state is not SessionState.DETACHED:
        full = policy.kind is PolicyKind.SHARE
        return DeviceRefusal.DEVICES_FULL if full else DeviceRefusal.OTHER_DEVICE
    kept = others[len(others) - room :]
    return Admitted((*kept, device), others[: len(others) - room])


class ExpiryCause(StrEnum):
    """Which clock ran out."""

    IDLE = "idle"
    DETACHED = "detached"
    MAX_AGE = "max_age"


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long a session may be idle, without connections, and there at all; 0 is for ever."""

    idle_timeout_s: float = 3600.0
    detached_timeout_s: float = 900.0
    max_age_s: float = 43_200.0

    def cutoffs(self, at: datetime) -> tuple[datetime | None, datetime | None]:
        """Return the activity and the detachment before which a session has timed out at a moment; None for never."""
        idle, detached = self.idle_timeout_s, self.detached_timeout_s
        return (
            at - timedelta(seconds=idle) if idle else None,
            at - timedelta(seconds=detached) if detached else None,
        )

    def expires_at(self, created_at: datetime) -> datetime | None:
        """Return when a session that is made at a moment is too old; None for never."""
        return created_at + timedelta(seconds=self.max_age_s) if self.max_age_s else None


class Expiry(NamedTuple):
    """When time is up, and which clock says so."""

    at: datetime
    cause: ExpiryCause

    def is_due(self, now: datetime) -> bool:
        """Time is up."""
        return self.at <= now

    def warning_s(self, now: datetime, warning_s: float) -> float | None:
        """Return how many seconds are left, if that is to be told now; None before the warning and after the end."""
        left_s = (self.at - now).total_seconds()
        return left_s if 0 < left_s <= warning_s else None


def expiry(
    timeouts: Timeouts, *, active_at: datetime, detached_at: datetime | None, expires_at: datetime | None
) -> Expiry | None:
    """Return when a live session's time is up; None if it may stay for ever.

    Args:
        active_at: when the user last did something.
        detached_at: since when there is no connection; None while there is one.
        expires_at: when it is too old.
    """
    found = []
    if timeouts.idle_timeout_s:
        found.append(Expiry(active_at + timedelta(seconds=timeouts.idle_timeout_s), ExpiryCause.IDLE))
    if timeouts.detached_timeout_s and detached_at is not None:
        moment = detached_at + timedelta(seconds=timeouts.detached_timeout_s)
        found.append(Expiry(moment, ExpiryCause.DETACHED))
    if expires_at is not None:
        found.append(Expiry(expires_at, ExpiryCause.MAX_AGE))
    return min(found, default=None)
