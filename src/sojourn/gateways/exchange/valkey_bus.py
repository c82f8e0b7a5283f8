"""ValkeyBus: the bus over one Valkey (7.2 or later) or Redis (6.2 or later).

Keys and channels of a session carry its name as hash tag, so that they live together in a cluster:

=================  ======================================================================================
``{sid}:own``      lease: ``pod:epoch``, expires by itself
``{sid}:ev``       stream of events, ids ``epoch-offset``; fields t, d, a, s, q as in :class:`LogEvent`
``{sid}:log``      hash about that stream, see ``lua/write.lua``
``{sid}:out``      channel of frames for other pods
``{pod.NAME}:in``  channel of commands and answers for a pod; ``:probe`` is a key that shows that writing works
``{pods}:live``    sorted set of pods by their expiry, with ``{pods}:facts`` and the channel ``{pods}:news``
``{DIGEST}:tkt``   ticket; only its digest, so that who may read keys cannot use one
=================  ======================================================================================

The connections are in ``valkey_line`` (commands) and ``valkey_relay`` (publish/subscribe). They go to the one address
of the settings: a cluster of several nodes needs a proxy that finds the node of a slot.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import (
    Ahead,
    Appended,
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
from sojourn.gateways.exchange.valkey_connection import ValkeyDoor
from sojourn.gateways.exchange.valkey_line import PUBLISH, CommandLine
from sojourn.gateways.exchange.valkey_relay import RelayLine

RENEW_COUNT: Final = 250
"""Leases renewed by one script call: about a millisecond in which the server does nothing else."""

_T = TypeVar("_T")

_pod_of: Final = msgspec.json.Decoder(Pod).decode


class ValkeyBus:
    """One pod's hand on the bus; see :class:`~sojourn.gateways.exchange.bus.Bus` for what each call means.

    Args:
        pod: this pod's name.
        settings: of ``[exchange.valkey]``, with an address.
        clock: monotonic seconds, for ``outage_since`` and the circuit.
    """

    def __init__(self, pod: str, settings: ValkeySettings, clock: Clock = monotonic) -> None:
        self.pod = pod
        self.on_health: HealthListener | None = None
        self._settings = settings
        self._prefix = settings.key_prefix
        self._watchers: list[PodWatcher] = []
        self._known_pods: tuple[Pod, ...] = ()
        self._has_news = asyncio.Event()
        door = ValkeyDoor(settings, pod)
        self._line = CommandLine(
            settings, door, f"{self._prefix}{{pod.{pod}}}:probe", self._health_changed, clock
        )
        self._relay = RelayLine(
            settings,
            door,
            self._publish,
            own_channel=self._pod_key(pod),
            news_channel=f"{self._prefix}{{pods}}:news",
            on_news=self._has_news.set,
        )

    async def run(self) -> None:
        """Carry calls, watch over connections, find back after an outage; ends only by being cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._line.run(), name="valkey calls")
            tasks.create_task(self._line.watch(), name="valkey watch")
            tasks.create_task(self._relay.run(), name="valkey relay")
            tasks.create_task(self._watch_pods(), name="valkey pods")

    def health(self) -> BusHealth:
        """Return how the backend is."""
        return BusHealth(
            is_up=self._line.outage_since is None,
            outage_since=self._line.outage_since,
            circuit=self._line.circuit.word,
            is_relay_up=self._relay.is_up,
            waiting_count=self._line.waiting_count,
            cause=self._line.cause or self._relay.cause,
        )

    # Leases

    async def acquire(self, session: str, owner: Owner, ttl_s: float) -> Owner:
        """Take a lease that is free, is already ours, or is held under a smaller epoch."""
        keys = (self._key(session, "own"), self._key(session, "log"))
        held = await self._line.script("acquire", keys, (str(owner), owner.epoch, _ms(ttl_s)))
        return Owner.of_text(held) or owner

    async def renew(self, owners: Mapping[str, Owner], ttl_s: float) -> dict[str, Owner | None]:
        """Prolong the leases of many sessions, and the life of their logs, in one round trip."""
        # In a cluster a script may touch one slot only.
        size = 1 if self._line.server.is_cluster else RENEW_COUNT
        groups = _groups(list(owners.items()), size)
        calls = [
            self._line.script(
                "renew",
                [self._key(session, what) for session, _ in group for what in ("own", "ev", "log")],
                (_ms(ttl_s), _ms(self._settings.log_keep_s), *(str(owner) for _, owner in group)),
            )
            for group in groups
        ]
        lost: dict[str, Owner | None] = {}
        for group, answer in zip(groups, await asyncio.gather(*calls), strict=True):
            for number, held in _groups(answer, 2):
                session, _ = group[number - 1]
                lost[session] = Owner.of_text(held)
        for session in lost:
            self._relay.end_publishing(self._key(session, "out"))
        return lost

    async def release(self, session: str, owner: Owner) -> bool:
        """Give a lease up; False if it was not ours."""
        lease = self._key(session, "own")
        self._relay.end_publishing(self._key(session, "out"))
        return bool(await self._line.script("delete", (lease, lease), (str(owner),)))

    async def transfer(self, session: str, owner: Owner, to: Owner, ttl_s: float) -> Owner | None:
        """Hand our lease to another pod in one step."""
        arguments = (str(owner), str(to), _ms(ttl_s))
        held = Owner.of_text(await self._line.script("transfer", (self._key(session, "own"),), arguments))
        if held != owner:
            self._relay.end_publishing(self._key(session, "out"))
        return held

    async def owner_of(self, session: str) -> Owner | None:
        """Return who holds a session's lease."""
        return Owner.of_text(await self._line.call("GET", self._key(session, "own")) or b"")

    async def owners_of(self, sessions: Sequence[str]) -> dict[str, Owner]:
        """Return who holds the leases of many; sessions without an owner are not in it."""
        found = await asyncio.gather(*[self._line.call("GET", self._key(each, "own")) for each in sessions])
        owners = {session: Owner.of_text(held or b"") for session, held in zip(sessions, found, strict=True)}
        return {session: owner for session, owner in owners.items() if owner is not None}

    # Event logs

    async def append(self, session: str, owner: Owner, epoch: int, events: Sequence[LogEvent]) -> Written:
        """Write contiguous events behind the last one, if the lease is ours."""
        if not events:
            raise ValueError("found no events, wanted some to append")
        check_contiguous(events)
        return await self._write(session, owner, epoch, events, before=("", "", 0))

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
        written = await self._write(session, owner, epoch, events, before=(str(after), simulator, seq))
        if isinstance(written, Gap):
            raise BackendUnavailable("Valkey", 0.0, "a replaced log has a gap")
        return written

    async def read_after(self, session: str, epoch: int, offset: int, limit_count: int) -> Read:
        """Return what is behind a cursor, or why that cannot be told."""
        keys = (self._key(session, "ev"), self._key(session, "log"))
        kind, *rest = await self._line.script("read", keys, (epoch, offset, limit_count))
        if kind == b"page":
            return Page(tuple(_event(*each) for each in rest[1]), int(rest[0]))
        if kind == b"gone":
            return Gone()
        numbers = [int(each) for each in rest]
        if kind == b"trimmed":
            return Trimmed(*numbers)
        return Ahead(*numbers) if kind == b"ahead" else OtherEpoch(*numbers)

    async def log_end(self, session: str) -> LogEnd | None:
        """Return where a session's log ends; None if there is none."""
        found = await self._line.call("HMGET", self._key(session, "log"), "e", "f", "o", "s", "q")
        epoch, first, last, simulator, seq = found
        if epoch is None:
            return None
        return LogEnd(int(epoch), int(first), int(last), simulator.decode(), int(seq))

    async def forget(self, session: str, owner: Owner) -> bool:
        """Delete a session's log, if the lease is ours; False if not."""
        keys = [self._key(session, what) for what in ("own", "ev", "log")]
        return bool(await self._line.script("delete", keys, (str(owner),)))

    # Pods

    async def announce(self, pod: Pod, ttl_s: float) -> tuple[Pod, ...]:
        """Say that a pod lives, for so long; return all that do, by name."""
        facts = msgspec.json.encode(msgspec.structs.replace(pod, load=0.0))
        return await self._pods(pod.name, facts, pod.load, _ms(ttl_s))

    async def retire(self, name: str) -> None:
        """Say that a pod is gone."""
        await self._pods(name, b"", 0.0, 0)

    async def pods(self) -> tuple[Pod, ...]:
        """Return all pods that live, by name."""
        return await self._pods("", b"", 0.0, 0)

    def watch_pods(self, watcher: PodWatcher) -> Callable[[], None]:
        """Call ``watcher`` whenever a pod comes, goes or drains; the returned function ends that."""
        self._watchers.append(watcher)
        self._has_news.set()
        if self._known_pods:
            watcher(self._known_pods)

        def stop() -> None:
            with suppress(ValueError):
                self._watchers.remove(watcher)

        return stop

    # Relay

    async def publish(self, session: str, frame: bytes) -> int:
        """Send a frame to all pods that follow the session; return how many took it."""
        return int(await self._relay.publish(self._key(session, "out"), frame))

    async def subscribe(self, session: str, listener: RelayListener) -> Subscription:
        """Follow a session; what is published after the return arrives, or ``on_gap`` is called."""
        return await self._relay.subscribe(self._key(session, "out"), listener)

    def serve(self, handler: CommandHandler | None) -> None:
        """Carry out the commands that other pods send to this one; None stops."""
        self._relay.handler = handler

    async def ask(self, pod: str, session: str, command: bytes, timeout_s: float) -> bytes:
        """Have another pod carry out a command and return its answer; carried out at most once."""
        return await self._relay.ask(self._pod_key(pod), pod, session, command, timeout_s)

    # Tickets

    async def put_ticket(self, ticket: str, value: bytes, ttl_s: float) -> bool:
        """Keep a value until the ticket is taken, for at most so long; False if the ticket exists."""
        answer = await self._line.call("SET", self._ticket_key(ticket), value, "PX", _ms(ttl_s), "NX")
        return answer is not None

    async def take_ticket(self, ticket: str) -> bytes | None:
        """Return a ticket's value and make it worthless; None if it is unknown, used or too old."""
        value: bytes | None = await self._line.call("GETDEL", self._ticket_key(ticket))
        return value

    async def _write(
        self,
        session: str,
        owner: Owner,
        epoch: int,
        events: Sequence[LogEvent],
        *,
        before: tuple[str, str, int],
    ) -> Written:
        settings = self._settings
        kind, *rest = await self._line.script(
            "write",
            [self._key(session, what) for what in ("own", "ev", "log")],
            (
                str(owner),
                owner.epoch,
                epoch,
                _ms(settings.log_keep_s),
                settings.log_keep_count,
                settings.log_keep_bytes,
                *before,
                *_fields(events),
            ),
        )
        if kind == b"fenced":
            return Fenced(Owner.of_text(rest[0]))
        if kind == b"gap":
            return Gap(int(rest[0]), int(rest[1]))
        return Appended(int(rest[0]))

    async def _pods(self, name: str, facts: bytes, load: float, ttl_ms: int) -> tuple[Pod, ...]:
        keys = [f"{self._prefix}{{pods}}:{what}" for what in ("live", "facts", "news")]
        answer = await self._line.script("pods", keys, (name, facts, load, ttl_ms))
        found = (
            msgspec.structs.replace(_pod_of(each), load=float(busy)) for each, busy in _groups(answer, 2)
        )
        pods = tuple(sorted(found, key=lambda pod: pod.name))
        before, self._known_pods = self._known_pods, pods
        if len(before) != len(pods) or not all(map(Pod.is_as_reachable_as, before, pods)):
            for watcher in tuple(self._watchers):
                watcher(pods)
        return pods

    async def _watch_pods(self) -> None:
        """Look at the pods when there is news, and now and then for those that expired."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.renew_every_s):
                    await self._has_news.wait()
            self._has_news.clear()
            if self._watchers:
                with suppress(BackendUnavailable):
                    await self.pods()

    def _publish(self, channel: str, message: bytes) -> asyncio.Future[Any]:
        return self._line.call(PUBLISH, channel, message)

    def _health_changed(self) -> None:
        if self.on_health is not None:
            self.on_health(self.health())

    def _key(self, session: str, what: str) -> str:
        return f"{self._prefix}{{{session}}}:{what}"

    def _pod_key(self, pod: str) -> str:
        return f"{self._prefix}{{pod.{pod}}}:in"

    def _ticket_key(self, ticket: str) -> str:
        return f"{self._prefix}{{{hashlib.sha256(ticket.encode()).hexdigest()}}}:tkt"


def _groups(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _fields(events: Sequence[LogEvent]) -> Iterator[str | bytes | int]:
    for event in events:
        yield from (event.offset, event.type, event.body, event.at_ms, event.simulator, event.seq)


def _event(place: bytes, fields: Sequence[bytes]) -> LogEvent:
    _, kind, _, body, _, at_ms, _, simulator, _, seq = fields
    offset = int(place.partition(b"-")[2])
    return LogEvent(offset, kind.decode(), body, int(at_ms), simulator.decode(), int(seq))
