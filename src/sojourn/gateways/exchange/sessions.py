"""SessionKeeper: the rooms of one pod, and which of them it owns.

Opens a room when somebody needs it, gives it a role, keeps its lease, finds it another role when it loses one, and
closes it when nobody needs it any more. Every pod has one; between them the lease and the epoch decide.

Theory of operation. A session's row has an epoch that only grows. To own it a pod raises the epoch, then takes the
lease under it; a lease of a smaller epoch yields. So two pods that both believe to be next cannot both write: one of
them is fenced at its first write, and follows.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sojourn.errors import BackendUnavailable, LimitExceeded, SojournError
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.follower import FollowerRole
from sojourn.gateways.exchange.messages import Degraded
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.room import SessionRoom, moment_us
from sojourn.gateways.exchange.view import EVENTS

if TYPE_CHECKING:
    from sojourn.gateways.exchange.rows import SessionRow
    from sojourn.gateways.exchange.services import PodServices

SETTLE_S: Final = 20.0
"""How long a room looks for a role: longer than a dead owner's lease."""
FORGET_S: Final = 600.0
"""How long it is known that a session's log is lost, or that its database is behind: many tries to settle."""
RENEW_COUNT: Final = 500
"""Leases that are prolonged in one turn of the loop: 5,000 make it late by 9 ms."""
LARGEST_EPOCH: Final = 2**53 - 1
"""Clients read epochs as JSON's numbers; one that is above is no owner's."""


class UnknownSession(SojournError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """There is no such session, or it has ended."""


class SessionKeeper:
    """All rooms of one pod.

    Life: made with the gateway. Always true: ``owned`` has exactly the sessions whose rooms are owners here.

    Args:
        recorder_of: returns what puts lines of a session into the flight recorder.
        on_closed: is told of each room that is closed, and why.
    """

    services: PodServices

    def __init__(
        self,
        recorder_of: Callable[[SessionRow], Callable[[int, int, Any], None]],
        on_closed: Callable[[str, str], None] = lambda _session, _why: None,
    ) -> None:
        self.rooms: dict[str, SessionRoom] = {}
        self.owned: dict[str, Owner] = {}
        self.is_draining = False
        self._recorder_of = recorder_of
        self._on_closed = on_closed
        self._with_news: set[SessionRoom] = set()
        self.news = asyncio.Event()
        """Set while a room has something that somebody lacks."""
        self._opening: dict[str, asyncio.Future[SessionRoom]] = {}
        self._settling: set[str] = set()
        self.bus_up_at = -math.inf
        """When the bus came back last; infinite while it is away."""
        self._lost_since: dict[str, float] = {}
        """When it was first seen of sessions that neither lease nor log is there any more."""
        self._epochs: dict[str, tuple[int, float]] = {}
        """By which epochs sessions were last taken from us or kept from us, and when."""

    # Rooms

    async def open(self, session_id: str, subject: str | None = None) -> SessionRoom:
        """Return the room of a session, with a role.

        Args:
            session_id: of the session.
            subject: whose it has to be; to anybody else it is unknown, and nothing is done for them. None = anybody's.
        Raises: UnknownSession, or BackendUnavailable if no role is to be had in time.
        """
        while True:
            room = await self._open_once(session_id, subject)
            # Nobody was in it yet, so that a sweep may have closed it meanwhile.
            if self.rooms.get(session_id) is room:
                return room

    async def _open_once(self, session_id: str, subject: str | None) -> SessionRoom:
        """Return the room of a session as soon as it has a role. Raises: as ``open``."""
        room = self.rooms.get(session_id)
        if room is None and subject is not None:
            row = await self.services.store.sessions.get(session_id)
            if row is None or row.subject != subject:
                raise UnknownSession("there is no such session")
            room = self.rooms.get(session_id)
        if room is not None and (room.ended or subject not in (None, room.subject)):
            raise UnknownSession("there is no such session")
        if room is not None and room.role is not None:
            return room
        opening = self._opening.get(session_id)
        if opening is None:
            opening = asyncio.get_running_loop().create_future()
            self._opening[session_id] = opening
            self.services.spawn(self._open(session_id, opening))
        return await asyncio.shield(opening)

    def enter(self, room: SessionRoom) -> None:
        """Let a room stay while a client is on its way in, or in; in the same step in which it was opened."""
        room.visitors_count += 1

    def depart(self, room: SessionRoom) -> None:
        """Take note that a client who has entered is gone."""
        room.visitors_count -= 1
        if room.ended:
            self._close_if_idle(room.session_id)

    async def _open(self, session_id: str, opening: asyncio.Future[SessionRoom]) -> None:
        try:
            room = await self._room(session_id)
            await self._settle(room)
        except SojournError as error:
            self._close_if_idle(session_id)
            opening.set_exception(error)
            opening.exception()  # retrieved, should nobody wait any more
        except BaseException:
            opening.cancel()
            raise
        else:
            opening.set_result(room)
        finally:
            del self._opening[session_id]

    async def _room(self, session_id: str) -> SessionRoom:
        """Return a session's room, made if there is none. Raises: UnknownSession, BackendUnavailable."""
        row = None
        if session_id not in self.rooms:
            row = await self.services.store.sessions.get(session_id)
            if row is None or not row.is_live:
                raise UnknownSession("there is no such session")
        room = self.rooms.get(session_id)
        if room is None and row is not None:
            room = self.rooms[session_id] = SessionRoom(row, self.services, self._recorder_of(row))
        if room is None:
            raise UnknownSession("it has just ended")
        return room

    async def _settle(self, room: SessionRoom) -> None:
        """Give a room a role: the owner's where nobody else has it.

        Raises: UnknownSession if it has ended; BackendUnavailable if no role is to be had in time, or none any more as
            the pod leaves.
        """
        backoff = self.services.backoff()
        try:
            async with asyncio.timeout(SETTLE_S):
                while True:
                    async with room.changing:
                        if room.role is not None or await self._try_to_settle(room):
                            return
                    if self.is_draining:
                        raise BackendUnavailable("the session's owner", 0.0, "this pod leaves")
                    await asyncio.sleep(next(backoff))
        except TimeoutError:
            raise BackendUnavailable("the session's owner", SETTLE_S, "it does not answer") from None

    async def _try_to_settle(self, room: SessionRoom) -> bool:
        bus, session = self.services.bus, room.session_id
        try:
            holder = await bus.owner_of(session)
            if holder is not None and holder.pod != self.services.pod:
                return await self._follow(room, holder.pod)
            if self.is_draining or await self._may_be_owned(room):
                return False
            return await self._own(room)
        except BackendUnavailable:
            return False

    async def _may_be_owned(self, room: SessionRoom) -> bool:
        """Say whether a session that nobody has the lease of may have an owner all the same.

        Where the log is gone too, the bus has lost its data; where the bus has just come back, leases may have run out
        meanwhile. An owner that lives has all of it in memory, and says what is its own as soon as it hears of that; so
        long as a lease would have lasted nobody takes the session from it.
        Raises: BackendUnavailable.
        """
        session, services = room.session_id, self.services
        if services.logs is not services.bus:
            return False  # one pod, with its logs in the database
        is_back = services.clock() - self.bus_up_at < services.lease_s
        if not is_back and await services.logs.log_end(session) is not None:
            return False
        row = await services.store.sessions.get(session)
        if row is None or row.owner_pod in ("", services.pod):
            return False
        now = services.clock()
        if now - self._lost_since.setdefault(session, now) < services.lease_s:
            return True
        del self._lost_since[session]
        return False

    async def _follow(self, room: SessionRoom, pod: str) -> bool:
        role = FollowerRole(room, pod)
        try:
            await role.start()
        except (BackendUnavailable, LimitExceeded):
            await role.stop()
            return False
        room.role = role
        room.record_state(f"follows {pod}")
        return True

    async def _own(self, room: SessionRoom) -> bool:
        """Become the owner. Raises: UnknownSession, BackendUnavailable."""
        services, session = self.services, room.session_id
        known, _ = self._epochs.get(session, (0, 0.0))
        epochs = await services.store.sessions.take_over((session,), services.pod, least_epoch=known + 1)
        if session not in epochs:
            row = await services.store.sessions.get(session)
            room.end(row.ended_reason.value if row is not None and row.ended_reason is not None else "ended")
            raise UnknownSession("the session has ended")
        owner = Owner(services.pod, epochs[session])
        holder = await services.bus.acquire(session, owner, services.lease_s)
        if holder != owner:
            self._note_epoch(session, holder)
            return False
        await self._begin_to_own(room, owner)
        return True

    def _note_epoch(self, session: str, by: Owner) -> None:
        """Remember an epoch that ours must be above, which the database need not know if it is out of a backup."""
        known, _ = self._epochs.get(session, (0, 0.0))
        if known < by.epoch < LARGEST_EPOCH:
            self._epochs[session] = by.epoch, self.services.clock()

    async def take_hand_over(self, session_id: str, epoch: int) -> bool:
        """Take a session from a pod that leaves, which has given us the lease; False if we leave ourselves.

        Raises: UnknownSession, BackendUnavailable.
        """
        if self.is_draining:
            return False  # or two pods that leave would hand it to each other
        room = await self._room(session_id)
        async with room.changing:
            if isinstance(room.role, OwnerRole):
                return True
            role, room.role = room.role, None
            if role is not None:
                await role.stop()
            await self._begin_to_own(room, Owner(self.services.pod, epoch))
        return True

    async def _begin_to_own(self, room: SessionRoom, owner: Owner) -> None:
        row = await self.services.store.sessions.get(room.session_id)
        if row is not None and row.devices:  # it may have been told to nobody while there was no owner
            room.take_devices(row.devices, row.devices[-1], moment_us(row))
        role = OwnerRole(room, owner)
        await role.start()
        room.role = role
        self.owned[room.session_id] = owner
        room.record_state(f"owned here, epoch {owner.epoch}")
        await self.services.simulators.take_up(room, role)

    def lost_ownership(self, room: SessionRoom, by: Owner | None) -> None:
        """Find a room another role.

        Args:
            room: of the session.
            by: who has it now, without a name if only the epoch is known; None if the lease is lost.
        """
        session = room.session_id
        self.owned.pop(session, None)
        if by is not None:
            self._note_epoch(session, by)
        taken = "the lease is lost" if by is None else by.pod or f"by an owner of epoch {by.epoch}"
        room.record_state(f"not ours any more: {taken}")
        if session not in self._settling:
            self._settling.add(session)
            self.services.spawn(self._resettle(room))

    async def _resettle(self, room: SessionRoom) -> None:
        try:
            async with room.changing:
                role, room.role = room.role, None
                if role is not None:
                    await role.stop()
            if not room.links and not room.visitors_count:
                self._close_if_idle(room.session_id)
                return
            await self._settle(room)
        except SojournError as error:
            room.give_up(str(error))
            self._close_if_idle(room.session_id)
        finally:
            self._settling.discard(room.session_id)

    def _close_if_idle(self, session_id: str) -> None:
        """Forget a room that nobody needs."""
        room = self.rooms.get(session_id)
        if room is None or room.changing.locked():
            return  # whoever changes it may be making it ours; the sweep looks again
        if not room.links and not room.visitors_count and session_id not in self.owned:
            del self.rooms[session_id]
            self._with_news.discard(room)
            if room.role is not None:
                role, room.role = room.role, None
                self.services.spawn(role.stop())
            self._on_closed(session_id, room.ended or "released")

    # Ticks

    def has_news(self, room: SessionRoom) -> None:
        """Let the next tick look at a room."""
        room.view.due_ms = 0.0
        self._with_news.add(room)
        self.news.set()

    def tick(self, now_s: float) -> None:
        """Send what is new, to every link whose time has come, and to followers."""
        rooms, self._with_news = self._with_news, set()
        now_ms = now_s * 1000
        try:
            while rooms:
                room = rooms.pop()
                view = room.view
                if now_ms < view.due_ms:
                    self._with_news.add(room)
                    continue
                view.tick(now_s)
                if room.role is not None and room.role.tick(now_s):
                    view.due_ms = 0.0
                if view.due_ms != math.inf:
                    self._with_news.add(room)
        finally:
            self._with_news |= rooms  # a bug met in one of them must not cost the others their news
            if not self._with_news:
                self.news.clear()

    @property
    def is_bus_up(self) -> bool:
        """Say whether pods hear each other, as far as this one knows."""
        return self.bus_up_at != math.inf

    def bus_changed(self, *, is_up: bool) -> None:
        """Take note that the bus is away, or back; where another pod owns a session nothing moves meanwhile."""
        self.bus_up_at = self.services.clock() if is_up else math.inf
        for room in self.rooms.values():
            if isinstance(room.role, FollowerRole) and is_up:
                room.role.on_gap()  # its links are told when the owner's state is here
            elif not isinstance(room.role, OwnerRole) and not is_up and EVENTS not in room.view.degraded:
                room.view.tell(Degraded(EVENTS))

    def sweep(self, now_s: float, rooms: Iterable[SessionRoom]) -> None:
        """Enforce the deadlines of some rooms' links; forget rooms that nobody needs."""
        now_ms = self.services.wall_ms()
        for room in rooms:
            session_id = room.session_id
            for link in room.links:
                link.sweep(now_s)
            room.view.log.trim(now_ms)
            if session_id not in self._opening and session_id not in self._settling:
                self._close_if_idle(session_id)

    def forget(self, now_s: float) -> None:
        """Forget what is known of sessions that nobody has asked for since."""
        for session_id in [one for one, at_s in self._lost_since.items() if now_s - at_s > FORGET_S]:
            del self._lost_since[session_id]
        for session_id in [one for one, (_, at_s) in self._epochs.items() if now_s - at_s > FORGET_S]:
            del self._epochs[session_id]

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield what ``Gateway.counters`` yields."""
        states: Counter[str] = Counter()
        waiting = 0
        for room in self.rooms.values():
            role = room.role
            if isinstance(role, OwnerRole):
                states[room.view.simulator_state] += 1
                waiting += role.writer.waiting_count
        yield "sojourn_exchange_events_waiting", {}, waiting
        for state, count in states.items():
            yield "sojourn_exchange_simulators", {"state": state}, count

    # Leases

    async def renew(self) -> None:
        """Prolong the leases of all sessions that are owned here. Raises: BackendUnavailable."""
        owned = tuple(self.owned.items())
        for begin in range(0, len(owned), RENEW_COUNT):
            await self._renew(dict(owned[begin : begin + RENEW_COUNT]))
            await asyncio.sleep(0)

    async def _renew(self, owned: dict[str, Owner]) -> None:
        lost = await self.services.bus.renew(owned, self.services.lease_s)
        for session, by in lost.items():
            room, owner = self.rooms.get(session), owned[session]
            if room is None or self.owned.get(session) != owner:
                continue
            holder = by or await self.services.bus.acquire(session, owner, self.services.lease_s)
            if holder != owner:
                self.lost_ownership(room, holder)
            elif isinstance(room.role, OwnerRole):
                room.role.lease_regained()

    # The end of a session

    async def end_room(self, room: SessionRoom, reason: str) -> None:
        """Tell every link, on every pod, that the session is over, and let it go."""
        session, role = room.session_id, room.role
        room.end(reason)
        if isinstance(role, OwnerRole):
            role.announce_end()
            await self.services.simulators.end(room)
        owner = self.owned.pop(session, None)
        self._close_if_idle(session)
        if owner is not None:
            with suppress(BackendUnavailable):
                await self.services.bus.release(session, owner)
