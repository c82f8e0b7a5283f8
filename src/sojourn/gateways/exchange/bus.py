"""Bus: what the pods of one gateway share, as interfaces: leases, event logs, who lives, the relay, tickets.

Theory of operation. A session has one owner; :class:`Leases` say who, and every writing call of :class:`EventLogs`
compares the lease first, in the same step, so that a pod that was replaced without noticing writes nothing. The owner's
epoch comes from the session's row and only grows: a greater one takes the lease of a smaller one, never the reverse.
Everything is bounded in time, and everything raises :class:`~sojourn.errors.BackendUnavailable` when the backend is
away; then it is *not known* whether the call was carried out, and every call here may safely be made again.

Knows nothing of sessions beyond their names, of frames beyond their bytes, and of what carries them:
``memory_bus`` is one process, ``valkey_bus`` is Valkey or Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol, Self

import msgspec

from sojourn.errors import LocalProtocolError
from sojourn.gateways.exchange.event_log import LogEvent


class Owner(msgspec.Struct, frozen=True, gc=False):
    """A pod, and the epoch of the session's row under which it owns the session; as text ``pod:epoch``.

    ``pod`` is empty where only the epoch is known.
    """

    pod: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.pod}:{self.epoch}"

    @classmethod
    def of_text(cls, text: bytes) -> Self | None:
        """Return the owner that a text names; None for the empty text and for what is none."""
        pod, _, epoch = text.decode("utf-8", "replace").rpartition(":")
        return cls(pod, int(epoch)) if epoch.isascii() and epoch.isdigit() else None


class Pod(msgspec.Struct, frozen=True, gc=False):
    """One process of the gateway: its name, where clients reach it, whether it is leaving, and its load (sessions)."""

    name: str
    address: str
    is_draining: bool = False
    load: float = 0.0

    def is_as_reachable_as(self, other: Pod) -> bool:
        """Say whether nothing but the load differs."""
        return (self.name, self.address, self.is_draining) == (other.name, other.address, other.is_draining)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The events are in the log; ``last`` is its highest offset."""

    last: int


class Fenced(msgspec.Struct, frozen=True, gc=False):
    """Nothing was written: the lease is not ours; ``owner`` has it, or nobody.

    Then: with an owner, let the session go; with None, acquire the lease again and write again.
    """

    owner: Owner | None


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Nothing was written: the log does not end where the events begin, but at ``epoch`` and ``last``.

    Both are 0 if there is no log. Then: write the mirror with :meth:`EventLogs.reseed`.
    """

    epoch: int
    last: int


class Page(msgspec.Struct, frozen=True, gc=False):
    """All events behind the offset, or the first of them; ``last`` is the log's highest offset."""

    events: tuple[LogEvent, ...]
    last: int


class Trimmed(msgspec.Struct, frozen=True, gc=False):
    """The log still has ``first`` to ``last``, but not all behind the offset."""

    epoch: int
    first: int
    last: int


class OtherEpoch(msgspec.Struct, frozen=True, gc=False):
    """The log is of another epoch: offsets of the one asked for mean nothing in it."""

    epoch: int
    last: int


class Ahead(msgspec.Struct, frozen=True, gc=False):
    """The offset is beyond the end: a cursor from the future, or the backend lost what it had."""

    epoch: int
    last: int


class Gone(msgspec.Struct, frozen=True, gc=False):
    """There is no log of this session: it never was, it expired, or the backend lost it."""


class LogEnd(msgspec.Struct, frozen=True, gc=False):
    """Where a log ends: its epoch, oldest and highest offset, and the last event that came from a simulator.

    ``simulator`` is empty and ``seq`` 0 if none did.
    """

    epoch: int
    first: int
    last: int
    simulator: str
    seq: int


Written = Appended | Fenced | Gap
Read = Page | Trimmed | OtherEpoch | Ahead | Gone


class BusHealth(msgspec.Struct, frozen=True, gc=False):
    """How the backend is.

    ``outage_since`` is monotonic seconds, None while calls succeed; ``circuit`` is closed, open or half-open;
    ``waiting_count`` calls have not been sent; ``is_relay_up`` says whether frames and commands of others arrive.
    ``cause`` says in words why not, empty while all is well; it never has a secret in it.
    """

    is_up: bool
    outage_since: float | None
    circuit: str
    is_relay_up: bool
    waiting_count: int
    cause: str = ""


class Leases(Protocol):
    """Who owns a session."""

    async def acquire(self, session: str, owner: Owner, ttl_s: float) -> Owner:
        """Take a lease that is free, is already ours, or is held under a smaller epoch.

        Returns: who holds it now: ``owner`` if it was granted. A pod without a name means that nobody does, but
        that a greater epoch has written to the log.
        """

    async def renew(self, owners: Mapping[str, Owner], ttl_s: float) -> dict[str, Owner | None]:
        """Prolong the leases of many sessions, and the life of their logs, in one round trip.

        Returns: only those that were lost: to another owner, or to nobody (expired, or the backend lost its data).
        """

    async def release(self, session: str, owner: Owner) -> bool:
        """Give a lease up; False if it was not ours."""

    async def transfer(self, session: str, owner: Owner, to: Owner, ttl_s: float) -> Owner | None:
        """Hand our lease to another pod in one step.

        Returns: who holds it now: ``to`` if it was handed over; None if nobody does.
        """

    async def owner_of(self, session: str) -> Owner | None:
        """Return who holds a session's lease."""

    async def owners_of(self, sessions: Sequence[str]) -> dict[str, Owner]:
        """Return who holds the leases of many; sessions without an owner are not in it."""


class EventLogs(Protocol):
    """The durable end of every session's events; bounded in number, bytes and time."""

    async def append(self, session: str, owner: Owner, epoch: int, events: Sequence[LogEvent]) -> Written:
        """Write contiguous events behind the last one, if the lease is ours.

        What is already there is not written again, so a call whose answer was lost may be made again.

        Raises: LocalProtocolError if the events are not contiguous.
        """

    async def reseed(
        self,
        session: str,
        owner: Owner,
        epoch: int,
        events: Sequence[LogEvent],
        *,
        after: int = 0,
        simulator: str = "",
        seq: int = 0,
    ) -> Appended | Fenced:
        """Replace the whole log, if the lease is ours: write a mirror again, or begin another epoch.

        Args:
            after: the offset before the first event; the only one there is if there are no events.
            simulator: whose event was the last one before ``events``.
            seq: its number.
        """

    async def read_after(self, session: str, epoch: int, offset: int, limit_count: int) -> Read:
        """Return what is behind a cursor, or why that cannot be told."""

    async def log_end(self, session: str) -> LogEnd | None:
        """Return where a session's log ends; None if there is none."""

    async def forget(self, session: str, owner: Owner) -> bool:
        """Delete a session's log, if the lease is ours; False if not."""


class PodRegistry(Protocol):
    """Which pods live."""

    async def announce(self, pod: Pod, ttl_s: float) -> tuple[Pod, ...]:
        """Say that a pod lives, for so long; return all that do, by name."""

    async def retire(self, name: str) -> None:
        """Say that a pod is gone."""

    async def pods(self) -> tuple[Pod, ...]:
        """Return all pods that live, by name."""

    def watch_pods(self, watcher: PodWatcher) -> Callable[[], None]:
        """Call ``watcher`` whenever a pod comes, goes or drains; the returned function ends that."""


class RelayListener(Protocol):
    """A link's view of a session that another pod owns; both are called in the loop and must not raise."""

    def on_frame(self, frame: bytes) -> None:
        """Take the next frame of the session."""

    def on_gap(self) -> None:
        """Take note that frames may be missing before the next one: read from the log, or take a snapshot."""


class Subscription(Protocol):
    """One listener of one session."""

    def close(self) -> None:
        """End it; nothing is delivered any more. Does nothing the second time."""


class Relay(Protocol):
    """Frames from the owner to other pods, commands from other pods to the owner."""

    async def publish(self, session: str, frame: bytes) -> int:
        """Send a frame to all pods that follow the session; return how many took it.

        Raises: LimitExceeded for a frame larger than configured.
        """

    async def subscribe(self, session: str, listener: RelayListener) -> Subscription:
        """Follow a session; what is published after the return arrives, or ``on_gap`` is called.

        Raises: LimitExceeded if this pod follows as many sessions as configured.
        """

    def serve(self, handler: CommandHandler | None) -> None:
        """Carry out the commands that other pods send to this one; None stops."""

    async def ask(self, pod: str, session: str, command: bytes, timeout_s: float) -> bytes:
        """Have another pod carry out a command and return its answer; carried out at most once.

        Raises: LimitExceeded for a command larger than configured; BackendUnavailable if the pod is not there, is
            overloaded or did not answer in time; then it may have been carried out.
        """


class Tickets(Protocol):
    """Passes that open one WebSocket, once."""

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        """Keep a value until the ticket is taken, for at most so long; False if the ticket exists."""

    async def take_ticket(self, ticket: str) -> bytes | None:
        """Return a ticket's value and make it worthless; None if it is unknown, used or too old."""


class Bus(Leases, EventLogs, PodRegistry, Relay, Tickets, Protocol):
    """All that pods share, as one of them sees it.

    Life: made with the gateway; its owner keeps :meth:`run` running from start to end and cancels it to end it.
    """

    pod: str
    """The name of the pod whose hand this is."""

    on_health: HealthListener | None
    """Called in the loop with each beginning and end of an outage; must not raise."""

    async def run(self) -> None:
        """Carry calls, watch over connections, find back after an outage; ends only by being cancelled."""

    def health(self) -> BusHealth:
        """Return how the backend is."""


PodWatcher = Callable[[tuple[Pod, ...]], None]
CommandHandler = Callable[[str, bytes], Awaitable[bytes]]
"""Takes a session and a command, returns the answer."""
HealthListener = Callable[[BusHealth], None]


def chosen_pod(session: str, pods: Iterable[Pod]) -> Pod | None:
    """Return the pod that a session belongs to: rendezvous hashing over those that are not draining.

    Every pod with the same list says the same, and a pod that comes or goes moves only its own sessions. None if there
    is no pod to choose.
    """
    return max(
        (pod for pod in pods if not pod.is_draining), key=lambda pod: _weight(session, pod.name), default=None
    )


def check_contiguous(events: Sequence[LogEvent], after: int | None = None) -> None:
    """Do nothing if every offset is one more than the last.

    Args:
        after: what the first is one more than; None = whatever it is.
    Raises: LocalProtocolError if they are not contiguous.
    """
    wanted = events[0].offset if after is None else after + 1
    for event in events:
        if event.offset != wanted:
            raise LocalProtocolError(f"event {event.offset}", f"event {wanted}", "a session's log")
        wanted += 1


def _weight(session: str, pod: str) -> tuple[bytes, str]:
    return blake2b(f"{session}\0{pod}".encode(), digest_size=8).digest(), pod
