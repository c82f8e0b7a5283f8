"""Housekeeping: what a pod does again and again, besides serving: ticks, leases, notes, expiry, orphans, forgetting.

One loop each; what fails because a backend is away is tried again in the next round, what fails because of a bug is
told and tried again too. What only one pod of all may do at a time runs inside the store's singletons.

Source: exchange-session-service.md sections 5.2, 5.5 and 5.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sojourn.core.events import EventKind
from sojourn.core.session import raised_at
from sojourn.errors import BackendUnavailable, LimitExceeded, SojournError
from sojourn.gateways.exchange.bus import Pod, chosen_pod
from sojourn.gateways.exchange.lifecycle import EndReason, SessionState, SimulatorState
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.rows import Desired, Page, SimulatorFilter, SimulatorRow, Touch
from sojourn.gateways.exchange.sim.reader import LinkState

if TYPE_CHECKING:
    from sojourn.core.events import Events
    from sojourn.gateways.exchange.announcements import Announcer
    from sojourn.gateways.exchange.config import ExchangeSettings
    from sojourn.gateways.exchange.lifecycle import Timeouts
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.rows import SessionRow
    from sojourn.gateways.exchange.services import PodServices
    from sojourn.gateways.exchange.sessions import SessionKeeper
    from sojourn.gateways.exchange.spawners.spawner import Spawner
    from sojourn.gateways.exchange.storage import SingletonName
    from sojourn.gateways.exchange.websocket import WebSocketDoor

HOUSEKEEPING_FAILED: Final = EventKind(
    "exchange.housekeeping_failed", ("work", "error", "where"), level="error"
)
"""A bug of ours met in a loop; the next round tries again."""
SESSION_EXPIRED: Final = EventKind("exchange.session_expired", ("session", "detail"))
"""A session's time was up."""
SESSION_ADOPTED: Final = EventKind("exchange.session_adopted", ("session", "pod"))
"""A session whose pod is gone, and whose simulator runs, is owned by this pod now."""

LOOK_S: Final = 0.005
"""Between two ticks; what is new in between shares a turn of the loop. Ticks as far apart as the frames of a link
would be late by as much: ``bench/exchange.py`` wants p99 below 25 ms."""
SWEEP_S: Final = 1.0
TOUCH_S: Final = 1.0
ACTIVITY_S: Final = 5.0
"""How often activity alone is worth a write."""
BEAT_S: Final = 5.0
RECONCILE_S: Final = 15.0
ORPHANS_S: Final = 5.0
PAGE_COUNT: Final = 500
BATCH_COUNT: Final = 500
TURN_COUNT: Final = 100
"""Sessions that are looked at in one turn of the loop: thousands at once make everybody's ticks late by 10 us each."""
ANNOUNCED_COUNT: Final = 64
"""Sessions that are ended at the same time: an owner that has just died does not answer, and the others wait."""
ADOPTIONS_COUNT: Final = 16
"""Sessions that are adopted at the same time."""
WRITTEN_S: Final = 3.0
"""What happens in a session is written after so long: nobody is ended who has come in the last moment."""
GRACE_ROUNDS: Final = 2.0
"""Nobody is ended for being idle until owners could write for so many rounds what they had to keep."""


ItemT = TypeVar("ItemT")


class Noted(NamedTuple):
    """What was last written about a session."""

    owner_epoch: int
    state: SessionState
    links_count: int
    quality: str
    at_s: float


class Housekeeping:
    """The loops of one pod.

    Life: made with the gateway, which runs each of ``loops`` in a task and cancels it at the end.

    Args:
        services: of the pod.
        keeper: of its rooms.
        spawner: where simulators run.
        announcer: tells sessions of their end.
        door: of WebSockets.
        settings: of the gateway; returns the present ones.
        events: of the daemon.
        pod: returns how this pod presents itself.
        write_activities: writes which sessions without a room here were active.
        look_at_bus: sees how the bus is; not all that changes of it is told.
        sleep: waits.
    """

    def __init__(
        self,
        services: PodServices,
        keeper: SessionKeeper,
        spawner: Spawner,
        *,
        announcer: Announcer,
        door: WebSocketDoor,
        settings: Callable[[], ExchangeSettings],
        events: Events,
        pod: Callable[[], Pod],
        write_activities: Callable[[], Awaitable[None]],
        look_at_bus: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._services = services
        self._store = services.store
        self._keeper = keeper
        self._spawner = spawner
        self._announcer = announcer
        self._door = door
        self._settings = settings
        self._events = events
        self._pod = pod
        self._write_activities = write_activities
        self._look_at_bus = look_at_bus
        self._sleep = sleep
        self._noted: dict[str, Noted] = {}
        self._warned: dict[str, datetime] = {}
        self.pods: tuple[Pod, ...] = ()
        self.expired_count = self.adopted_count = 0

    def loops(self) -> Iterable[Awaitable[None]]:
        """Return every loop, once."""
        settings = self._settings()
        yield self._ticks()
        yield self._every(SWEEP_S, self._sweep)
        yield self._every(settings.valkey.renew_every_s, self.renew)
        yield self._every(TOUCH_S, self.touch)
        yield self._every(ACTIVITY_S, self._write_activities)
        yield self._every(BEAT_S, self.beat)
        yield self._every(RECONCILE_S, self.reconcile)
        yield self._every(ORPHANS_S, self.adopt)
        yield self._every(ORPHANS_S, self._go_on)
        yield self._every(settings.sessions.forget_every_s, self._trim)
        yield self._alone("expiry", settings.sessions.expiry_every_s, self.expire)
        yield self._alone("pool", ORPHANS_S, self._upkeep)
        yield self._alone("retention", settings.sessions.forget_every_s, self._forget)
        yield self._every(SWEEP_S, self._watch)

    async def _every(self, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._sleep(every_s)
            await self._guarded(work)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it; what is away comes back, and a bug must not end the loop."""
        try:
            await work()
        except (BackendUnavailable, LimitExceeded):
            return
        except Exception as error:  # noqa: BLE001 - told, and the next round tries again
            name = getattr(work, "__name__", "work").strip("_")
            self._events.emit(HOUSEKEEPING_FAILED, None, name, type(error).__name__, raised_at(error))

    async def _alone(self, name: SingletonName, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again while no other pod does."""
        while True:

            async def hold() -> None:
                async with self._store.singleton(name):
                    while True:
                        await self._guarded(work)
                        await self._sleep(every_s)

            hold.__name__ = name
            await self._guarded(hold)
            await self._sleep(every_s)

    async def begin(self) -> None:
        """Be known to the other pods, and know them, before the first round."""
        await self._guarded(self.renew)

    async def bus_is_back(self) -> None:
        """Say again at once who we are and what is ours: the bus may have forgotten, and others may think it free."""
        await self._guarded(self.renew)

    # Rooms

    async def _ticks(self) -> None:
        """Tick as soon as there is news, and then not again for a moment; links have an interval each of their own."""
        while True:
            await self._keeper.news.wait()
            await self._guarded(self._tick)
            await self._sleep(LOOK_S)

    async def _tick(self) -> None:
        self._keeper.tick(self._services.clock())

    async def _sweep(self) -> None:
        clock = self._services.clock
        for rooms in _batches(tuple(self._keeper.rooms.values()), TURN_COUNT):
            self._keeper.sweep(clock(), rooms)
            await asyncio.sleep(0)
        self._keeper.forget(clock())
        self._door.sweep(clock())
        self._look_at_bus()

    async def renew(self) -> None:
        """Prolong the pod's presence and its leases; at once where the bus may have forgotten them.

        Raises: BackendUnavailable.
        """
        self.pods = await self._services.bus.announce(self._pod(), self._services.lease_s)
        await self._keeper.renew()

    # Notes

    async def touch(self) -> None:
        """Write what has changed about the sessions that are owned here. Raises: BackendUnavailable."""
        due = []
        for rooms in _batches(tuple(self._keeper.rooms.values()), TURN_COUNT):
            due += [noting for room in rooms if (noting := self._touch_of(room)) is not None]
            await asyncio.sleep(0)
        for batch in _batches(due, BATCH_COUNT):
            lost = await self._store.sessions.touch([touch for _, touch, _ in batch])
            for room, touch, active_ms in batch:
                session = touch.session_id
                if session in lost:
                    self._noted.pop(session, None)
                    self._let_go(session)
                    continue
                state = touch.state or SessionState.DETACHED
                now_s = self._services.clock()
                self._noted[session] = Noted(
                    touch.owner_epoch, state, touch.links_count, touch.quality, now_s
                )
                if room.active_ms == active_ms:
                    room.active_ms = 0
                room.has_been_joined &= state is not SessionState.ACTIVE
        for gone in self._noted.keys() - self._keeper.rooms.keys():
            del self._noted[gone]

    def _touch_of(self, room: SessionRoom) -> tuple[SessionRoom, Touch, int] | None:
        """Return what is to be written about a session, and the activity that is in it; None if nothing is.

        Who has just become the owner writes in any case: the one before may not have come to it.
        """
        role, session = room.role, room.session_id
        if not isinstance(role, OwnerRole):
            return None
        count, quality = role.links_count, _worst(link.quality.grade for link in room.links)
        known, active_ms = self._noted.get(session), room.active_ms
        # Who came and went since the last note was here all the same, and has now gone.
        state = SessionState.ACTIVE if count or room.has_been_joined else SessionState.DETACHED
        if known is not None and known[:4] == (role.owner.epoch, state, count, quality):
            is_recent = self._services.clock() - known.at_s < ACTIVITY_S
            if is_recent or not active_ms:
                return None
        active_at = datetime.fromtimestamp(active_ms / 1000, UTC)  # of 0: long ago, which changes nothing
        return room, Touch(session, role.owner.epoch, active_at, state, count, quality), active_ms

    def _let_go(self, session: str) -> None:
        """Act on the database's word that a session is not ours, or has ended."""
        room = self._keeper.rooms.get(session)
        if room is not None and isinstance(room.role, OwnerRole):
            self._keeper.lost_ownership(room, None)

    async def reconcile(self) -> None:
        """Let go of sessions that have ended or are another pod's, if nobody could tell us.

        Raises: BackendUnavailable.
        """
        owned = dict(self._keeper.owned)
        if not owned:
            return
        found = {
            one.session_id: one.owner_epoch for one in await self._store.sessions.owned_by(self._services.pod)
        }
        for session, owner in owned.items():
            if found.get(session) != owner.epoch and self._keeper.owned.get(session) == owner:
                self._let_go(session)

    async def beat(self) -> None:
        """Note which simulators have answered. Raises: BackendUnavailable."""
        alive: list[str] = []
        for rooms in _batches(tuple(self._keeper.rooms.values()), TURN_COUNT):
            alive += [
                role.simulator.id
                for room in rooms
                if isinstance(role := room.role, OwnerRole)
                and role.simulator is not None
                and role.link is not None
                and role.link.state == LinkState.UP
            ]
            await asyncio.sleep(0)
        for batch in _batches(alive, BATCH_COUNT):
            await self._store.simulators.beat(batch)

    # Time that is up

    async def expire(self) -> None:
        """End sessions whose time is up, and warn those whose time is nearly up. Raises: BackendUnavailable."""
        settings = self._settings().sessions
        up_since = self._store.up_since
        if not up_since or self._services.clock() - up_since < GRACE_ROUNDS * ACTIVITY_S:
            return
        timeouts = settings.timeouts()
        due = await self._store.sessions.due(timeouts, within_s=-WRITTEN_S)
        for group in _batches(due, ANNOUNCED_COUNT):
            await asyncio.gather(*(self._expire(row.id, timeouts) for row in group))
        if settings.warning_s:
            await self._warn(await self._store.sessions.due(timeouts, within_s=settings.warning_s))

    async def _expire(self, session: str, timeouts: Timeouts) -> None:
        """End a session unless something has happened in it meanwhile. Raises: BackendUnavailable."""
        ended = await self._store.sessions.end_if_due(session, timeouts)
        if ended is not None:
            self.expired_count += 1
            self._events.emit(SESSION_EXPIRED, None, session, ended.ended_detail)
            await self._announcer.end(session, EndReason.EXPIRED.value)

    async def _warn(self, rows: Sequence[SessionRow]) -> None:
        """Warn each session once of each end that it comes near to."""
        timeouts = self._settings().sessions.timeouts()
        now = self._now()
        near: dict[str, datetime] = {}
        for row in rows:
            expiry = row.expiry(timeouts)
            if expiry is None or not row.links_count:
                continue
            near[row.id] = expiry.at
            if self._warned.get(row.id) != expiry.at:
                left_s = max(0.0, (expiry.at - now).total_seconds())
                await self._announcer.warn(row.id, expiry.cause.value, left_s)
        self._warned = near

    # Simulators

    async def adopt(self) -> None:
        """Own the sessions whose pod is gone and that belong here now. Raises: BackendUnavailable."""
        if self._keeper.is_draining or not self.pods:
            return
        grace_s = GRACE_ROUNDS * self._settings().valkey.renew_every_s
        if self._services.clock() - self._keeper.bus_up_at < grace_s:
            return  # pods need a moment to say what is theirs
        wanted = {row.session_id for row in await self._wanted() if row.session_id}
        wanted -= self._keeper.owned.keys()
        for batch in _batches(sorted(wanted), BATCH_COUNT):
            owners = await self._services.bus.owners_of(batch)
            mine = [session for session in batch if session not in owners and self._is_mine(session)]
            for group in _batches(mine, ADOPTIONS_COUNT):
                await asyncio.gather(*(self._adopt(session) for session in group))

    def _is_mine(self, session: str) -> bool:
        chosen = chosen_pod(session, self.pods)
        return chosen is not None and chosen.name == self._services.pod

    async def _adopt(self, session: str) -> None:
        try:
            await self._keeper.open(session)
        except SojournError:
            return  # it has ended, or the next round tries again
        if session in self._keeper.owned:
            self.adopted_count += 1
            self._events.emit(SESSION_ADOPTED, None, session, self._services.pod)

    async def _wanted(self) -> list[SimulatorRow]:
        """Return all simulators that are to run. Raises: BackendUnavailable."""
        states = frozenset(SimulatorState) - {SimulatorState.STOPPED, SimulatorState.FAILED}
        where = SimulatorFilter(states=states, desired=Desired.RUNNING)
        found: list[SimulatorRow] = []
        before = ""
        while True:
            rows = await self._store.simulators.list(where, Page(limit_count=PAGE_COUNT, before=before))
            found += rows
            if len(rows) < PAGE_COUNT:
                return found
            before = rows[-1].id

    async def _go_on(self) -> None:
        """Go on with simulators that nobody works on: those of sessions that have ended. Raises: BackendUnavailable."""
        for row in await self._store.simulators.claim_work(self._services.pod, self._services.lease_s):
            room = self._keeper.rooms.get(row.session_id)
            self._services.simulators.work_on(room, row)

    async def _upkeep(self) -> None:
        """Let the driver remove what nobody wants. Raises: BackendUnavailable, LimitExceeded."""
        wanted = await self._wanted()
        names = {row.id for row in wanted} | {str(row.handle.get("simulator") or row.id) for row in wanted}
        await self._spawner.upkeep(names)

    async def _watch(self) -> None:
        """Look at a simulator as soon as its driver says that it has gone. Raises: BackendUnavailable."""
        async for seen in self._spawner.watch():
            if seen.status.is_final:
                rooms = self._keeper.rooms.values()
                self._services.simulators.ended(seen.handle.simulator, rooms)

    # Old things

    async def _trim(self) -> None:
        """Keep the logs of the sessions that are owned here within their bounds, where the database has them."""
        if self._services.logs is self._services.bus or not self._keeper.owned:
            return
        bounds = self._services.log_bounds
        after_ms = self._services.wall_ms() - int(bounds.keep_s * 1000)
        for batch in _batches(tuple(self._keeper.owned), BATCH_COUNT):
            await self._store.events.trim(
                batch, keep_count=bounds.count, keep_bytes=bounds.size_bytes, after_ms=after_ms
            )

    async def _forget(self) -> None:
        """Delete sessions and answers that are older than anybody asks for. Raises: BackendUnavailable."""
        settings, now = self._settings(), self._now()
        await self._store.sessions.forget(now - timedelta(seconds=settings.sessions.keep_ended_s))
        await self._store.requests.forget(now - timedelta(seconds=settings.http.idempotency_keep_s))
        await self._store.pool.release_overdue()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._services.wall_ms() / 1000, UTC)


def _batches(items: Sequence[ItemT], count: int) -> Iterator[Sequence[ItemT]]:
    """Yield the items in parts of at most so many."""
    for begin in range(0, len(items), count):
        yield items[begin : begin + count]


def _worst(grades: Iterable[str]) -> str:
    """Return the worst of the grades of a session's connections; empty if it has none."""
    found = set(grades)
    return next((grade for grade in ("poor", "degraded", "good") if grade in found), "")
