"""What the database has, as frozen structs, and the typed answers to what is asked of it.

Times are dates and times in UTC, made by the clock of the pod that writes; pods' clocks must agree to within a second
or two, as NTP keeps them. What has to be exact (one session per subject, one owner, one claim) does not rest on clocks.

Knows nothing of SQL.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from sojourn.gateways.exchange.lifecycle import (
    EndReason,
    Expiry,
    SessionState,
    SimulatorState,
    Timeouts,
    expiry,
)

Json = dict[str, Any]


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table, as it was when it was read."""


class SessionRow(_Row, frozen=True, kw_only=True):
    """One user's sitting.

    Shape: ``devices`` has the newest last; ``policy`` is what :func:`~.lifecycle.device_policy` reads; ``detached_at``
    is None exactly while there is a connection; ``owner_pod`` is empty while nobody owns it; ``owner_epoch`` only
    grows; ``attributes`` is what the creator wanted to remember, such as the user agent; ``ended_*`` are empty while it
    lives.
    """

    id: str
    subject: str
    state: SessionState
    devices: tuple[str, ...]
    policy: str
    attributes: dict[str, str]
    links_count: int
    quality: str
    created_at: datetime
    active_at: datetime
    detached_at: datetime | None
    expires_at: datetime | None
    owner_pod: str
    owner_epoch: int
    ended_at: datetime | None
    ended_reason: EndReason | None
    ended_detail: str

    @property
    def is_live(self) -> bool:
        """It has not ended."""
        return self.state is not SessionState.ENDED

    def expiry(self, timeouts: Timeouts) -> Expiry | None:
        """Return when its time is up; None if it has ended or may stay for ever."""
        if not self.is_live:
            return None
        return expiry(
            timeouts, active_at=self.active_at, detached_at=self.detached_at, expires_at=self.expires_at
        )


class Desired(StrEnum):
    """What a simulator is to be."""

    RUNNING = "running"
    STOPPED = "stopped"


class SimulatorRow(_Row, frozen=True, kw_only=True):
    """One simulator: what is wanted of it, and what has been seen.

    Shape: ``generation`` grows with what is wanted, also from one simulator of a session to the next;
    ``observed_generation`` is the one under which somebody last looked; ``name`` tells those of one session apart;
    ``handle`` is what its driver needs to find it again; ``claimed_by`` is the pod that works on it until
    ``claimed_until``; ``failure`` says why it FAILED; ``is_unreachable`` is a condition.
    """

    id: str
    session_id: str
    name: str
    driver: str
    desired: Desired
    state: SimulatorState
    endpoint: str
    spec: Json
    handle: Json
    failure: Json | None
    is_unreachable: bool
    generation: int
    observed_generation: int
    created_at: datetime
    changed_at: datetime
    claimed_by: str
    claimed_until: datetime | None
    heartbeat_at: datetime | None


class PoolState(StrEnum):
    """Where a simulator of the pool stands: free, held for a session that has yet to attach, or gone to it."""

    READY = "ready"
    HELD = "held"
    TAKEN = "taken"


class PoolRow(_Row, frozen=True, kw_only=True):
    """A simulator of the warm pool. ``flavour`` says what is the same for all that may stand in for each other."""

    id: str
    driver: str
    flavour: str
    state: PoolState
    endpoint: str
    handle: Json
    created_at: datetime
    session_id: str
    claim_token: str
    held_until: datetime | None


class Touch(msgspec.Struct, frozen=True, gc=False):
    """What an owner has to write about one of its sessions, as often as it likes: many go in one statement.

    Shape: ``state`` is ACTIVE or DETACHED, or None to leave it.
    """

    session_id: str
    owner_epoch: int
    active_at: datetime
    state: SessionState | None = None
    links_count: int = 0
    quality: str = ""


class Activity(msgspec.Struct, frozen=True, gc=False):
    """A user did something, seen by a pod that need not be the owner."""

    session_id: str
    active_at: datetime


class Owned(msgspec.Struct, frozen=True, gc=False):
    """A live session of a pod, and the epoch under which it has it."""

    session_id: str
    owner_epoch: int


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions; empty fields do not matter. ``device`` is one of its devices."""

    subject: str = ""
    states: frozenset[SessionState] = frozenset()
    owner_pod: str = ""
    device: str = ""


class SimulatorFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which simulators; empty fields do not matter."""

    session_id: str = ""
    states: frozenset[SimulatorState] = frozenset()
    driver: str = ""
    desired: Desired | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list, the newest first: at most ``limit_count`` rows that are older than the row ``before``.

    Then: the next page is ``before`` the id of the last row of this one; a short page is the last.
    """

    limit_count: int = 100
    before: str = ""


class RefusalReason(StrEnum):
    """Why nothing was made."""

    OTHER_DEVICE = "other_device"
    DEVICES_FULL = "devices_full"
    SESSIONS_LIMIT = "sessions_limit"
    SIMULATORS_LIMIT = "simulators_limit"
    SESSION_ENDED = "session_ended"


class Refusal(msgspec.Struct, frozen=True):
    """No; ``limit`` is the number that was reached, 0 where none was."""

    reason: RefusalReason
    limit: int = 0


class Opened(msgspec.Struct, frozen=True):
    """A session, made or joined. ``replaced`` are the devices that have to leave it."""

    row: SessionRow
    is_new: bool
    replaced: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True):
    """The simulator of that name, if there is one, and whether what is wanted of it changed."""

    row: SimulatorRow | None
    is_changed: bool


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a simulator; None leaves a field as it is."""

    state: SimulatorState
    endpoint: str | None = None
    handle: Json | None = None
    failure: Json | None = None
    is_unreachable: bool | None = None


class Appended(msgspec.Struct, frozen=True):
    """The events are stored; ``last`` is the offset of the newest of them."""

    last: int


class Fenced(msgspec.Struct, frozen=True):
    """Nothing was written: somebody else owns the session, or it has ended. ``owner_epoch`` is 0 if it is unknown."""

    owner_epoch: int
    is_ended: bool


class LogGap(msgspec.Struct, frozen=True):
    """Nothing was written: the log ends at ``last`` of ``log_epoch``, not before the events; 0 if there is no log."""

    log_epoch: int
    last: int


class LogBounds(msgspec.Struct, frozen=True):
    """The newest epoch of a session's log, and its oldest and newest offset that are kept."""

    log_epoch: int
    first: int
    last: int


class StoredResponse(msgspec.Struct, frozen=True):
    """What a request was answered, for when it is repeated."""

    status: int
    body: bytes
    headers: dict[str, str] = {}


class Fresh(msgspec.Struct, frozen=True):
    """The request has not been made before: do it, then finish or abandon this attempt."""

    attempt: int


class InFlight(msgspec.Struct, frozen=True):
    """The same request is being worked on, and will not be given to anybody else before ``until``."""

    until: datetime


class KeyConflict(msgspec.Struct, frozen=True):
    """The key was used for another request."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """How many there are, by state: live sessions, simulators that are not final by driver and state, pool members."""

    sessions: dict[str, int]
    simulators: dict[tuple[str, str], int]
    pool: dict[tuple[str, str], int]
