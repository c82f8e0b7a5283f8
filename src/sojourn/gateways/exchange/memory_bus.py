"""MemoryBus: the bus of one process, where nothing survives the process; the model that ``valkey_bus`` is tested by.

One :class:`MemoryHub` holds what is shared; each pod has its own :class:`MemoryBus` on it, so that several pods can
live in one test. The hub's clock moves leases and tickets; its switches make it fail, forget, answer late or not at
all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.exchange.bus import (
    Ahead,
    Appended,
    Bus,
    BusHealth,
    CommandHandler,
    Fenced,
    Gap,
    Gone,
    HealthListener,
    LogEnd,
    OtherEpoch,
    Owner,
    Page,
    Pod,
    PodWatcher,
    Read,
    RelayListener,
    Subscription,
    Trimmed,
    Written,
    check_contiguous,
)
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.event_log import LogEvent

_T = TypeVar("_T")

NAME: Final = "bus"

DEFAULTS: Final = ValkeySettings()
"""Bounds of a bus in memory are those of one in Valkey."""


class _Log:
    """One session's log; ``expires`` is on the hub's clock."""

    def __init__(self, epoch: int, last: int, simulator: str, seq: int) -> None:
        self.epoch = epoch
        self.last = last
        self.simulator = simulator
        self.seq = seq
        self.events: list[LogEvent] = []
        self.size_bytes = 0
        self.writer_epoch = 0
        self.expires = 0.0

    @property
    def first(self) -> int:
        return self.last - len(self.events) + 1


class MemoryHub:
    """What the pods of one process share.

    Life: made by the gateway or a test; :meth:`join` gives each pod its hand on it.

    Args:
        settings: the bounds.
        clock: monotonic seconds, moved by hand in tests.
    """

    def __init__(self, settings: ValkeySettings = DEFAULTS, clock: Clock = monotonic) -> None:
        self.settings = settings
        self.clock = clock
        self.away: set[str] = set()
        """Pods whose calls fail, without having done anything."""
        self.deaf: set[str] = set()
        """Pods whose calls are carried out, but whose answers are lost."""
        self.cut_off: set[str] = set()
        """Pods that no frame, command or answer reaches."""
        self.held: asyncio.Event | None = None
        """Calls wait for it before they are carried out; a call that waits too long fails without effect."""
        self.leases: dict[str, tuple[Owner, float]] = {}
        self.logs: dict[str, _Log] = {}
        self.live: dict[str, tuple[Pod, float]] = {}
        self.tickets: dict[str, tuple[bytes, float]] = {}
        self.listeners: dict[str, list[MemorySubscription]] = {}
        self.buses: dict[str, MemoryBus] = {}
        self._sweep_at = 0.0

    def join(self, pod: str) -> MemoryBus:
        """Return a pod's hand; the one before, if it had any, hears nothing any more."""
        bus = self.buses[pod] = MemoryBus(pod, self)
        return bus

    def heal(self) -> None:
        """Let all calls through again, and have every pod know that the outage is over."""
        self.away.clear()
        self.deaf.clear()
        if self.held is not None:
            self.held.set()
            self.held = None
        for bus in tuple(self.buses.values()):
            bus.end_outage()

    def lose_data(self) -> None:
        """Forget everything, as a server without persistence does when it restarts."""
        self.leases.clear()
        self.logs.clear()
        self.live.clear()
        self.tickets.clear()
        self.tell_of_pods()

    def lose_events(self, session: str, count: int) -> None:
        """Forget the newest events of a log, as a server does that kept only what it had written to its disk."""
        log = self.logs[session]
        log.size_bytes -= sum(len(event.body) for event in log.events[-count:])
        del log.events[-count:]
        log.last -= count

    def cut_off_pod(self, pod: str) -> None:
        """Let no frame, command or answer reach a pod until :meth:`reconnect_pod`."""
        self.cut_off.add(pod)

    def reconnect_pod(self, pod: str) -> None:
        """End what :meth:`cut_off_pod` began and tell the pod's listeners that there was a gap."""
        self.cut_off.discard(pod)
        for listeners in self.listeners.values():
            for each in listeners:
                if each.pod == pod:
                    each.listener.on_gap()

    def owner_of(self, session: str) -> Owner | None:
        """Return who holds a lease."""
        owner, until = self.leases.get(session, (None, 0.0))
        return owner if until > self.clock() else None

    def log_of(self, session: str) -> _Log | None:
        """Return a session's log, if it has not expired."""
        log = self.logs.get(session)
        return log if log is not None and log.expires > self.clock() else None

    def live_pods(self) -> tuple[Pod, ...]:
        """Return the pods that live, by name."""
        now = self.clock()
        return tuple(pod for _, (pod, until) in sorted(self.live.items()) if until > now)

    def sweep(self) -> None:
        """Now and then forget what has expired."""
        now = self.clock()
        if now < self._sweep_at:
            return
        self._sweep_at = now + self.settings.log_keep_s / 10
        for name in [name for name, (_, until) in self.leases.items() if until <= now]:
            del self.leases[name]
        for name in [name for name, log in self.logs.items() if log.expires <= now]:
            del self.logs[name]
        for name in [name for name, (_, until) in self.tickets.items() if until <= now]:
            del self.tickets[name]

    def tell_of_pods(self) -> None:
        """Have every pod look who lives."""
        for bus in tuple(self.buses.values()):
            bus.look_at_pods()


class MemorySubscription:
    """One listener of one session."""

    def __init__(self, hub: MemoryHub, pod: str, session: str, listener: RelayListener) -> None:
        self.pod = pod
        self.listener = listener
        self._hub = hub
        self._session = session

    def close(self) -> None:
        """End it; does nothing the second time."""
        listeners = self._hub.listeners.get(self._session, [])
        with suppress(ValueError):
            listeners.remove(self)
        if not listeners:
            self._hub.listeners.pop(self._session, None)


class MemoryBus:
    """One pod's hand on a hub; see :class:`~sojourn.gateways.exchange.bus.Bus` for what each call means."""

    def __init__(self, pod: str, hub: MemoryHub) -> None:
        self.pod = pod
        self.on_health: HealthListener | None = None
        self.handler: CommandHandler | None = None
        self._hub = hub
        self._outage_since: float | None = None
        self._watchers: list[PodWatcher] = []
        self._known_pods: tuple[Pod, ...] = ()
        self._carried_out = 0

    async def run(self) -> None:
        """Do nothing until cancelled: there is nothing to carry."""
        await asyncio.Event().wait()

    def health(self) -> BusHealth:
        """Return how the hub is to this pod."""
        return BusHealth(
            is_up=self._outage_since is None,
            outage_since=self._outage_since,
            circuit="closed",
            is_relay_up=self.pod not in self._hub.cut_off,
            waiting_count=0,
            cause="" if self._outage_since is None else "it fails as it was told",
        )

    # Leases

    async def acquire(self, session: str, owner: Owner, ttl_s: float) -> Owner:
        """Take a lease that is free, is already ours, or is held under a smaller epoch."""
        await self._begin()
        hub = self._hub
        held, log = hub.owner_of(session), hub.log_of(session)
        if held is not None and held != owner and held.epoch >= owner.epoch:
            return self._end(held)
        if log is not None and log.writer_epoch > owner.epoch:
            return self._end(Owner("", log.writer_epoch))
        hub.leases[session] = owner, hub.clock() + ttl_s
        return self._end(owner)

    async def renew(self, owners: Mapping[str, Owner], ttl_s: float) -> dict[str, Owner | None]:
        """Prolong the leases of many sessions, and the life of their logs."""
        await self._begin()
        hub, lost = self._hub, {}
        for session, owner in owners.items():
            held = hub.owner_of(session)
            if held == owner:
                hub.leases[session] = owner, hub.clock() + ttl_s
                if (log := hub.log_of(session)) is not None:
                    log.expires = hub.clock() + hub.settings.log_keep_s
            else:
                lost[session] = held
        return self._end(lost)

    async def release(self, session: str, owner: Owner) -> bool:
        """Give a lease up; False if it was not ours."""
        await self._begin()
        is_ours = self._hub.owner_of(session) == owner
        if is_ours:
            del self._hub.leases[session]
        return self._end(is_ours)

    async def transfer(self, session: str, owner: Owner, to: Owner, ttl_s: float) -> Owner | None:
        """Hand our lease to another pod in one step."""
        await self._begin()
        held = self._hub.owner_of(session)
        if held in (owner, to):
            self._hub.leases[session] = to, self._hub.clock() + ttl_s
            held = to
        return self._end(held)

    async def owner_of(self, session: str) -> Owner | None:
        """Return who holds a session's lease."""
        await self._begin()
        return self._end(self._hub.owner_of(session))

    async def owners_of(self, sessions: Sequence[str]) -> dict[str, Owner]:
        """Return who holds the leases of many; sessions without an owner are not in it."""
        await self._begin()
        owners = {session: self._hub.owner_of(session) for session in sessions}
        return self._end({session: owner for session, owner in owners.items() if owner is not None})

    # Event logs

    async def append(self, session: str, owner: Owner, epoch: int, events: Sequence[LogEvent]) -> Written:
        """Write contiguous events behind the last one, if the lease is ours."""
        if not events:
            raise ValueError("found no events, wanted some to append")
        check_contiguous(events)
        await self._begin()
        held, log = self._hub.owner_of(session), self._hub.log_of(session)
        if held != owner:
            return self._end(Fenced(held))
        if log is None:
            if events[0].offset != 1:
                return self._end(Gap(0, 0))
            log = self._hub.logs[session] = _Log(epoch, 0, "", 0)
        if log.epoch != epoch or events[0].offset > log.last + 1:
            return self._end(Gap(log.epoch, log.last))
        self._put(log, owner, events)
        return self._end(Appended(log.last))

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
        """Replace the whole log, if the lease is ours: write a mirror again, or begin another epoch."""
        check_contiguous(events, after)
        await self._begin()
        held = self._hub.owner_of(session)
        if held != owner:
            return self._end(Fenced(held))
        log = self._hub.logs[session] = _Log(epoch, after, simulator, seq)
        self._put(log, owner, events)
        return self._end(Appended(log.last))

    async def read_after(self, session: str, epoch: int, offset: int, limit_count: int) -> Read:
        """Return what is behind a cursor, or why that cannot be told."""
        await self._begin()
        log = self._hub.log_of(session)
        if log is None:
            return self._end(Gone())
        if log.epoch != epoch:
            return self._end(OtherEpoch(log.epoch, log.last))
        if offset > log.last:
            return self._end(Ahead(log.epoch, log.last))
        if offset + 1 < log.first:
            return self._end(Trimmed(log.epoch, log.first, log.last))
        start = offset + 1 - log.first
        return self._end(Page(tuple(log.events[start : start + limit_count]), log.last))

    async def log_end(self, session: str) -> LogEnd | None:
        """Return where a session's log ends; None if there is none."""
        await self._begin()
        log = self._hub.log_of(session)
        if log is None:
            return self._end(None)
        return self._end(LogEnd(log.epoch, log.first, log.last, log.simulator, log.seq))

    async def forget(self, session: str, owner: Owner) -> bool:
        """Delete a session's log, if the lease is ours; False if not."""
        await self._begin()
        is_ours = self._hub.owner_of(session) == owner
        if is_ours:
            self._hub.logs.pop(session, None)
        return self._end(is_ours)

    def _put(self, log: _Log, owner: Owner, events: Sequence[LogEvent]) -> None:
        settings = self._hub.settings
        for event in events:
            if event.offset > log.last:
                log.events.append(event)
                log.size_bytes += len(event.body)
                log.last = event.offset
                if event.simulator:
                    log.simulator, log.seq = event.simulator, event.seq
        if len(log.events) > settings.log_keep_count * 1.1 or log.size_bytes > settings.log_keep_bytes:
            gone = 0
            while len(log.events) - gone > 1 and (
                len(log.events) - gone > settings.log_keep_count or log.size_bytes > settings.log_keep_bytes
            ):
                log.size_bytes -= len(log.events[gone].body)
                gone += 1
            del log.events[:gone]
        log.writer_epoch = owner.epoch
        log.expires = self._hub.clock() + settings.log_keep_s

    # Pods

    async def announce(self, pod: Pod, ttl_s: float) -> tuple[Pod, ...]:
        """Say that a pod lives, for so long; return all that do, by name."""
        await self._begin()
        self._hub.live[pod.name] = pod, self._hub.clock() + ttl_s
        self._hub.tell_of_pods()
        return self._end(self._hub.live_pods())

    async def retire(self, name: str) -> None:
        """Say that a pod is gone."""
        await self._begin()
        self._hub.live.pop(name, None)
        self._hub.tell_of_pods()
        self._end(None)

    async def pods(self) -> tuple[Pod, ...]:
        """Return all pods that live, by name."""
        await self._begin()
        self.look_at_pods()
        return self._end(self._hub.live_pods())

    def watch_pods(self, watcher: PodWatcher) -> Callable[[], None]:
        """Call ``watcher`` whenever a pod comes, goes or drains; the returned function ends that."""
        self._watchers.append(watcher)
        if self._known_pods:
            watcher(self._known_pods)

        def stop() -> None:
            with suppress(ValueError):
                self._watchers.remove(watcher)

        return stop

    def look_at_pods(self) -> None:
        """Tell the watchers if another pod lives than before."""
        before, self._known_pods = self._known_pods, self._hub.live_pods()
        if len(before) != len(self._known_pods) or not all(
            map(Pod.is_as_reachable_as, before, self._known_pods)
        ):
            for watcher in tuple(self._watchers):
                watcher(self._known_pods)

    # Relay

    async def publish(self, session: str, frame: bytes) -> int:
        """Send a frame to all pods that follow the session; return how many took it."""
        self._check_size(frame)
        await self._begin()
        hub = self._hub
        reached = [each for each in hub.listeners.get(session, ()) if each.pod not in hub.cut_off]
        for each in reached:
            each.listener.on_frame(frame)
        return self._end(len({each.pod for each in reached}))

    async def subscribe(self, session: str, listener: RelayListener) -> Subscription:
        """Follow a session; what is published after the return arrives, or ``on_gap`` is called."""
        hub = self._hub
        followed = {
            name for name, all_of in hub.listeners.items() if any(each.pod == self.pod for each in all_of)
        }
        if len(followed | {session}) > hub.settings.channels_count:
            raise LimitExceeded("sessions of other pods", len(followed) + 1, hub.settings.channels_count)
        await self._begin()
        self._check_relay()
        subscription = MemorySubscription(hub, self.pod, session, listener)
        hub.listeners.setdefault(session, []).append(subscription)
        return self._end(subscription)

    def serve(self, handler: CommandHandler | None) -> None:
        """Carry out the commands that other pods send to this one; None stops."""
        self.handler = handler

    async def ask(self, pod: str, session: str, command: bytes, timeout_s: float) -> bytes:
        """Have another pod carry out a command and return its answer; carried out at most once."""
        self._check_size(command)
        await self._begin()
        self._check_relay()
        other = self._hub.buses.get(pod)
        if other is None or pod in self._hub.cut_off:
            raise BackendUnavailable(f"pod {pod}", 0.0, "it does not listen")
        try:
            async with asyncio.timeout(timeout_s):
                answer = await other.carry_out(session, command)
        except TimeoutError as error:
            raise BackendUnavailable(f"pod {pod}", timeout_s, "no answer in time") from error
        if self.pod in self._hub.cut_off:
            raise BackendUnavailable(NAME, 0.0, "the relay's connection was lost")
        return self._end(answer)

    async def carry_out(self, session: str, command: bytes) -> bytes:
        """Carry out another pod's command here.

        Raises: BackendUnavailable if it is refused or fails.
        """
        outcome = "busy"
        if self.handler is not None and self._carried_out < self._hub.settings.commands_count:
            self._carried_out += 1
            try:
                return await self.handler(session, command)
            except TimeoutError:
                raise
            except Exception as error:  # noqa: BLE001  one command's bug is not the asker's
                context = {"message": "a command of another pod failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
                outcome = "failed"
            finally:
                self._carried_out -= 1
        raise BackendUnavailable(f"pod {self.pod}", 0.0, f"the command was not carried out: {outcome}")

    # Tickets

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        """Keep a value until the ticket is taken, for at most so long; False if the ticket exists."""
        await self._begin()
        now, tickets = self._hub.clock(), self._hub.tickets
        _, until = tickets.get(ticket, (b"", now))
        is_new = until <= now
        if is_new:
            tickets[ticket] = value, now + ttl_s
        return self._end(is_new)

    async def take_ticket(self, ticket: str) -> bytes | None:
        """Return a ticket's value and make it worthless; None if it is unknown, used or too old."""
        await self._begin()
        value, until = self._hub.tickets.pop(ticket, (None, 0.0))
        return self._end(value if until > self._hub.clock() else None)

    def end_outage(self) -> None:
        """Take note that calls succeed again."""
        self._note(is_up=True)

    async def _begin(self) -> None:
        """Wait as long as the hub is held; fail if it is away."""
        hub = self._hub
        hub.sweep()
        try:
            if hub.held is not None:
                async with asyncio.timeout(hub.settings.timeout_s):
                    await hub.held.wait()
        except TimeoutError:
            self._note(is_up=False)
            raise BackendUnavailable(NAME, hub.settings.timeout_s, "no answer in time") from None
        if self.pod in hub.away:
            self._note(is_up=False)
            raise BackendUnavailable(NAME, 0.0, "it is switched off")

    def _end(self, answer: _T) -> _T:
        """Return the answer, or lose it."""
        if self.pod in self._hub.deaf:
            self._note(is_up=False)
            raise BackendUnavailable(NAME, 0.0, "the answer was lost")
        self._note(is_up=True)
        return answer

    def _note(self, *, is_up: bool) -> None:
        if is_up != (self._outage_since is None):
            self._outage_since = None if is_up else self._hub.clock()
            if self.on_health is not None:
                self.on_health(self.health())

    def _check_relay(self) -> None:
        if self.pod in self._hub.cut_off:
            raise BackendUnavailable(NAME, 0.0, "the relay is away")

    def _check_size(self, body: bytes) -> None:
        limit = self._hub.settings.frame_bytes
        if len(body) > limit:
            raise LimitExceeded("bytes of a frame for other pods", len(body), limit)


def open_bus(pod: str, settings: ValkeySettings, clock: Clock = monotonic) -> Bus:
    """Return the bus that the settings ask for: over Valkey if they have an address, else of this process alone."""
    if settings.url is None:
        return MemoryHub(settings, clock).join(pod)
    from sojourn.gateways.exchange.valkey_bus import ValkeyBus  # noqa: PLC0415  redis-py is an extra

    return ValkeyBus(pod, settings, clock)
