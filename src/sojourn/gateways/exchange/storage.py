"""Storage: what the gateway asks of a database, whichever it is.

One interface, two implementations that obey the same tests: :class:`~.store.postgres.PostgresStore`, and
:class:`~.memory_store.MemoryStore` for tests of everything else. Every method may raise BackendUnavailable; then it is
not known whether the change was made, and all of them may be repeated: a repetition finds what the first attempt did.

Two kinds of guard. What only a session's owner may write carries its ``owner_epoch``; one that is not the owner any
more changes nothing. What is observed of a simulator carries the generation under which it was looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Literal, Protocol

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import BreakerSettings, Seconds, Settings
from sojourn.errors import LocalProtocolError
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.lifecycle import DevicePolicy, EndReason, Timeouts
from sojourn.gateways.exchange.rows import (
    Activity,
    Appended,
    Desired,
    Fenced,
    Fresh,
    InFlight,
    Json,
    KeyConflict,
    LogBounds,
    LogGap,
    Observation,
    Opened,
    Owned,
    Page,
    PoolRow,
    Refusal,
    SessionFilter,
    SessionRow,
    SimulatorFilter,
    SimulatorRow,
    StoredResponse,
    Touch,
    Usage,
    Wanted,
)

PAGE_MAX_COUNT = 1000
"""Rows of one page at most, whatever was asked for."""


def check_offsets(events: Sequence[LogEvent]) -> None:
    """Refuse a batch that no log can have.

    Raises: LocalProtocolError
    """
    wanted = range(events[0].offset, events[0].offset + len(events)) if events else range(1)
    found = [event.offset for event in events]
    if found != [*wanted]:
        raise LocalProtocolError(
            f"offsets {found[:3]}...", "offsets that follow each other", "a session's log"
        )


class StoreBreakerSettings(BreakerSettings, frozen=True):
    """The database's circuit: every pod waits for it, so it is asked again soon; one probe costs it nothing."""

    open_s: Annotated[float, Meta(gt=0, description="First open time; doubles with every failed probe.")] = (
        0.5
    )
    open_max_s: Annotated[float, Meta(gt=0, description="Longest open time.")] = 5.0


class StoreSettings(Settings, frozen=True):
    """The PostgreSQL that holds sessions and simulators."""

    dsn: Annotated[
        Secret,
        Meta(
            description="Where the database is: postgresql://user:password@host/database.",
            examples=["${file:/etc/sojourn/exchange.dsn}"],
        ),
    ]
    schema: Annotated[
        str, Meta(pattern=r"^[a-z_][a-z0-9_]*$", description="Schema that holds the tables.")
    ] = "exchange"
    connections_count: Annotated[int, Meta(ge=1, le=1000, description="Connections to the database.")] = 8
    deadline_s: Annotated[
        Seconds, Meta(description="One operation, including the wait for a free connection.")
    ] = 5.0
    statement_cache_count: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Prepared statements per connection; 0 = none, for a pooler in transaction mode.",
        ),
    ] = 100
    singleton_hold_s: Annotated[
        Seconds,
        Meta(description="A cluster-wide task whose process is silent for so long is free for others."),
    ] = 15.0
    singleton_poll_s: Annotated[
        Seconds, Meta(description="How often the others look whether a cluster-wide task is free.")
    ] = 5.0
    breaker: Annotated[
        StoreBreakerSettings, Meta(description="When calls are refused at once because the last ones failed.")
    ] = StoreBreakerSettings()

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield an address of something else; none of it is shown, as it may hold a password."""
        if self.dsn.reveal().partition("://")[0] not in {"postgresql", "postgres"}:
            yield "dsn", "an address of another kind", "postgresql://user:password@host/database"


class SessionTable(Protocol):
    """The sessions."""

    async def open(
        self,
        subject: str,
        device: str,
        *,
        policy: DevicePolicy,
        timeouts: Timeouts,
        limit_count: int = 0,
        attributes: Mapping[str, str] | None = None,
    ) -> Opened | Refusal:
        """Return the subject's live session, joined by this device, or a new one.

        However many ask at once, one session is made and the others join it.

        Args:
            limit_count: live sessions of everybody, beyond which none is made (0 = no limit); what is made at the very
                same moment may exceed it.
        """

    async def get(self, session_id: str) -> SessionRow | None:
        """Return a session, ended ones too; None if there is none."""

    async def find(self, subject: str) -> SessionRow | None:
        """Return the live session of a subject; None if it has none."""

    async def list(self, where: SessionFilter, page: Page) -> tuple[SessionRow, ...]:
        """Return a page of the sessions that match, the newest first."""

    async def attach(self, session_id: str, owner_epoch: int) -> SessionRow | None:
        """Note that a connection has come, which is activity too; None if it has ended or is not the owner's."""

    async def detach(self, session_id: str, owner_epoch: int) -> SessionRow | None:
        """Note that the last connection has gone; None if there was none, it has ended or is not the owner's."""

    async def drop_device(self, session_id: str, device: str) -> SessionRow | None:
        """Free the place of a device in a live session; None if there is no such session."""

    async def end(self, session_id: str, reason: EndReason, detail: str = "") -> SessionRow | None:
        """End a session and want its simulators stopped; of all who ask exactly one gets the row, the others None."""

    async def end_if_due(self, session_id: str, timeouts: Timeouts) -> SessionRow | None:
        """End a session whose time is up, as expired, unless something has happened in it meanwhile."""

    async def due(
        self,
        timeouts: Timeouts,
        *,
        within_s: float = 0.0,
        owner_pod: str | None = None,
        limit_count: int = 500,
    ) -> tuple[SessionRow, ...]:
        """Return live sessions whose time will be up within so many seconds: to be ended (0), or to be warned.

        Args:
            owner_pod: only those of this pod, ``""`` for those of nobody; None for all.
        """

    async def take_over(
        self, session_ids: Collection[str], pod: str, *, least_epoch: int = 0
    ) -> dict[str, int]:
        """Make a pod the owner of sessions and return their new epochs; those that have ended are left out.

        Args:
            session_ids: of the sessions.
            pod: their new owner.
            least_epoch: that they get; a database out of a backup knows smaller ones than there have been.
        """

    async def release(self, session_id: str, pod: str, owner_epoch: int) -> bool:
        """Leave a session without an owner, if the pod still is the owner under that epoch."""

    async def owned_by(self, pod: str) -> tuple[Owned, ...]:
        """Return the live sessions of a pod."""

    async def touch(self, touches: Sequence[Touch]) -> frozenset[str]:
        """Write many owners' notes in one statement and return the sessions that were not theirs, or have ended.

        DETACHED leaves a session NEW that no connection has ever come to.
        """

    async def note(self, activities: Sequence[Activity]) -> None:
        """Write activity that was seen by any pod; activity never goes back in time."""

    async def forget(self, ended_before: datetime, limit_count: int = 500) -> int:
        """Delete what has ended before a moment, with its simulators and events; return how many sessions."""


class SimulatorTable(Protocol):
    """The simulators, live and final."""

    async def want(
        self,
        session_id: str,
        desired: Desired,
        *,
        driver: str = "",
        spec: Json | None = None,
        name: str = "main",
        limit_count: int = 1,
    ) -> Wanted | Refusal:
        """Say what the simulator of that name is to be; saying it twice is saying it once.

        RUNNING makes one, with the driver and the spec, unless one is wanted already; one that is stopping is not
        brought back. STOPPED raises the generation of the one that is wanted.

        Args:
            limit_count: simulators that may be wanted at once in the session.
        """

    async def get(self, simulator_id: str) -> SimulatorRow | None:
        """Return a simulator; None if there is none."""

    async def list(self, where: SimulatorFilter, page: Page) -> tuple[SimulatorRow, ...]:
        """Return a page of the simulators that match, the newest first."""

    async def observe(
        self, simulator_id: str, generation: int, observation: Observation
    ) -> SimulatorRow | None:
        """Write what was seen under a generation; None if it is out of date, or no step that a simulator can take.

        Out of date is what was seen under an older generation than what is written. A final state ends the claim.
        """

    async def beat(self, simulator_ids: Collection[str]) -> None:
        """Note that these simulators have answered."""

    async def claim(self, simulator_id: str, pod: str, hold_s: float) -> bool:
        """Give the work on a simulator to a pod for a while, or for a while longer; False if another one has it."""

    async def claim_work(self, pod: str, hold_s: float, limit_count: int = 50) -> tuple[SimulatorRow, ...]:
        """Claim simulators with which something is to be done, and that nobody works on; the oldest first.

        That is: nobody has looked since what is wanted changed, or it is on its way to RUNNING or STOPPED.
        """

    async def release_claim(self, simulator_id: str, pod: str) -> bool:
        """Give a claim back; False if the pod has none."""


class EventTable(Protocol):
    """The logs of sessions' events, where no Valkey has them."""

    async def append(
        self, session_id: str, owner_epoch: int, log_epoch: int, events: Sequence[LogEvent]
    ) -> Appended | Fenced | LogGap:
        """Store events behind the last one, if the session lives and its owner still has this epoch.

        A log begins with event 1. The same events again are stored once.

        Raises: LocalProtocolError if there are none, or their offsets leave a gap among themselves.
        """

    async def replace(
        self, session_id: str, owner_epoch: int, log_epoch: int, events: Sequence[LogEvent]
    ) -> Appended | Fenced:
        """Store events in the place of all that there are, of any epoch, on the conditions of ``append``.

        Raises: LocalProtocolError if there are none, or their offsets leave a gap among themselves.
        """

    async def forget(self, session_id: str, owner_epoch: int) -> bool:
        """Delete a session's events, ended or not; False if its owner has another epoch."""

    async def read(
        self, session_id: str, log_epoch: int, after: int, limit_count: int = 1000
    ) -> tuple[LogEvent, ...]:
        """Return what is kept behind an offset, the oldest first."""

    async def last(self, session_id: str) -> tuple[int, LogEvent] | None:
        """Return the newest log epoch and its last event; None if nothing was ever stored."""

    async def bounds(self, session_id: str) -> LogBounds | None:
        """Return what is kept of the newest log epoch; None if nothing was ever stored."""

    async def trim(
        self, session_ids: Collection[str], *, keep_count: int, keep_bytes: int, after_ms: int
    ) -> int:
        """Delete the oldest events of sessions and return how many.

        The last event stays in any case: a new owner goes on from it.

        Args:
            keep_count: events that may stay.
            keep_bytes: of bodies that may stay.
            after_ms: unix time; older ones go.
        """


class RequestTable(Protocol):
    """What requests with an idempotency key were answered. Keys belong to a subject."""

    async def begin(
        self, subject: str, key: str, digest: bytes, hold_s: float
    ) -> Fresh | StoredResponse | InFlight | KeyConflict:
        """Begin a request, or learn that it was made before.

        Args:
            digest: of the request; the same key with another one is a conflict.
            hold_s: a request that is not finished by then may be begun again.
        """

    async def finish(self, subject: str, key: str, attempt: int, response: StoredResponse) -> bool:
        """Store the answer; False if the attempt was overtaken by another one."""

    async def abandon(self, subject: str, key: str, attempt: int) -> bool:
        """Forget an attempt that failed in a way that may be tried again; False if it was overtaken or finished."""

    async def forget(self, created_before: datetime, limit_count: int = 5000) -> int:
        """Delete old keys, finished or not, and return how many."""


class PoolTable(Protocol):
    """The warm pool: simulators that run and belong to no session yet."""

    async def add(self, simulator_id: str, driver: str, flavour: str, endpoint: str, handle: Json) -> None:
        """Put a simulator that is ready into the pool; one that is there already stays as it is."""

    async def claim(
        self, driver: str, flavour: str, *, session_id: str, token: str, hold_s: float
    ) -> PoolRow | None:
        """Hold the oldest free simulator for a session; None if none is free.

        Args:
            token: made for this one claim; claiming again with it gives the same simulator.
        """

    async def confirm(self, simulator_id: str, token: str) -> bool:
        """Note that the session has attached; False if the hold was over and the simulator is somebody else's now."""

    async def give_back(self, simulator_id: str, token: str) -> bool:
        """Make a held simulator free again, one that no session has attached to; False if the hold was over."""

    async def release_overdue(self) -> int:
        """Make the simulators free whose sessions have not attached in time, and return how many."""

    async def withdraw(self, simulator_id: str) -> bool:
        """Take a free simulator out, to stop it; False if it is not free."""

    async def remove(self, simulator_id: str) -> bool:
        """Take a simulator out that is no more; False if it is not there."""

    async def list(self, driver: str = "") -> tuple[PoolRow, ...]:
        """Return all members, of one driver or of all, the oldest first."""


SingletonName = Literal["expiry", "orphans", "pool", "retention"]
"""What only one process of the cluster does at a time."""


class Storage(Protocol):
    """A database; its owner starts and stops it. It finds its way back by itself after each failure."""

    @property
    def sessions(self) -> SessionTable:
        """The sessions."""

    @property
    def simulators(self) -> SimulatorTable:
        """The simulators."""

    @property
    def events(self) -> EventTable:
        """The logs of events."""

    @property
    def requests(self) -> RequestTable:
        """The idempotency keys."""

    @property
    def pool(self) -> PoolTable:
        """The warm pool."""

    @property
    def is_up(self) -> bool:
        """It is started, and answered when it was asked last."""

    @property
    def up_since(self) -> float:
        """The monotonic second of the first answer after the last failure; 0.0 while it is down.

        Then: who ends what has been idle waits until owners could write what they kept meanwhile.
        """

    async def start(self) -> None:
        """Connect and bring the schema up to date; may be tried again after a failure.

        Raises: BackendUnavailable; ConfigError if the migrations do not fit what was applied.
        """

    async def stop(self) -> None:
        """Close every connection."""

    async def check(self) -> None:
        """Ask for nothing, to learn whether it answers.

        Raises: BackendUnavailable if it does not.
        """

    async def usage(self) -> Usage:
        """Return how many there are of everything, for metrics."""

    def singleton(self, name: SingletonName) -> AbstractAsyncContextManager[None]:
        """Return a block that only one process of the cluster is in at a time; entering waits for our turn.

        Raises: BackendUnavailable on entering if the database does not answer; out of the block, which is cancelled,
            as soon as it is not certain any more that we are the only one.
        """
