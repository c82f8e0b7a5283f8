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
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sojourn.errors import BackendUnavailable, LimitExceeded, SojournError, WireError
from sojourn.gateways.exchange import messages, relay_wire
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.follower import FollowerRole
from sojourn.gateways.exchange.lifecycle import SimulatorState
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import Code
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.relay_wire import (
    Answer,
    Describe,
    Devices,
    Disconnect,
    Do,
    Done,
    End,
    Failed,
    Follow,
    HandOver,
    Leave,
    NotOwner,
    Want,
    Warn,
)
from sojourn.gateways.exchange.room import SessionRoom, moment_us
from sojourn.gateways.exchange.rows import (
    Desired,
    Page,
    Refusal,
    RefusalReason,
    SimulatorFilter,
    SimulatorRow,
    Wanted,
)
from sojourn.gateways.exchange.sim.reader import LinkState

if TYPE_CHECKING:
    from sojourn.gateways.exchange.rows import Json, SessionRow
    from sojourn.gateways.exchange.services import PodServices
    from sojourn.gateways.exchange.simulators import SimulatorKeeper

SETTLE_S: Final = 20.0
"""How long a room looks for a role: longer than a dead owner's lease."""
LOOK_S: Final = 30.0
"""How long it is looked what has become of a simulator, each time that its line is lost."""
FORGET_S: Final = 600.0
"""How long it is known since when a session's log is lost: many tries to settle."""
UNSETTLED: Final = frozenset({SimulatorState.REQUESTED, SimulatorState.STARTING, SimulatorState.STOPPING})


class UnknownSession(SojournError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """There is no such session, or it has ended."""


class SessionKeeper:
    """All rooms of one pod.

    Life: made with the gateway. Always true: ``owned`` has exactly the sessions whose rooms are owners here.

    Args:
        simulators: brings them up and down.
        driver: of new simulators.
        market: of a new simulator for which none is given.
        recorder_of: returns what puts lines of a session into the flight recorder.
        simulators_count: that a session may have at once.
        on_closed: is told of each room that is closed, and why.
    """

    services: PodServices

    def __init__(
        self,
        simulators: SimulatorKeeper,
        *,
        driver: str,
        market: Json,
        recorder_of: Callable[[SessionRow], Callable[[int, int, Any], None]],
        simulators_count: int = 1,
        on_closed: Callable[[str, str], None] = lambda _session, _why: None,
    ) -> None:
        self.rooms: dict[str, SessionRoom] = {}
        self.owned: dict[str, Owner] = {}
        self.is_draining = False
        self.on_pod_ask: Callable[[relay_wire.PodAsk], Awaitable[Answer]] = _nobody_answers
        """Answers what is asked of the pod, and not of a session."""
        self._simulators = simulators
        self._driver = driver
        self._market = market
        self._recorder_of = recorder_of
        self._simulators_count = simulators_count
        self._on_closed = on_closed
        self._with_news: set[SessionRoom] = set()
        self.news = asyncio.Event()
        """Set while a room has something that somebody lacks."""
        self._opening: dict[str, asyncio.Future[SessionRoom]] = {}
        self._settling: set[str] = set()
        self.bus_up_at = float("-inf")
        """When the bus came back last; infinite while it is away."""
        self._lost_since: dict[str, float] = {}
        """When it was first seen of sessions that neither lease nor log is there any more."""
        self._working: set[str] = set()

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
        epochs = await services.store.sessions.take_over((session,), services.pod)
        if session not in epochs:
            row = await services.store.sessions.get(session)
            room.end(row.ended_reason.value if row is not None and row.ended_reason is not None else "ended")
            raise UnknownSession("the session has ended")
        owner = Owner(services.pod, epochs[session])
        holder = await services.bus.acquire(session, owner, services.lease_s)
        if holder != owner:
            return False
        await self._begin_to_own(room, owner)
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
        try:
            await self._take_up_simulators(room)
        except BackendUnavailable:
            self.services.spawn(self._take_up_later(room, role))

    async def _take_up_later(self, room: SessionRoom, role: OwnerRole) -> None:
        """Try again until the database answers, or somebody else owns the session."""
        backoff = self.services.backoff()
        while room.role is role:
            await asyncio.sleep(next(backoff))
            with suppress(BackendUnavailable):
                await self._take_up_simulators(room)
                return

    async def _take_up_simulators(self, room: SessionRoom) -> None:
        """Go on with the session's simulators where their rows say. Raises: BackendUnavailable."""
        where = SimulatorFilter(session_id=room.session_id)
        for row in await self.services.store.simulators.list(where, Page(limit_count=5)):
            self._told(room, row)
            if row.state in UNSETTLED:
                self.work_on(room, row)
        if isinstance(room.role, OwnerRole):
            room.role.has_looked = True

    def lost_ownership(self, room: SessionRoom, by: Owner | None) -> None:
        """Find a room another role."""
        session = room.session_id
        self.owned.pop(session, None)
        room.record_state(f"not ours any more: {by.pod if by else 'the lease is lost'}")
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

    def tell_followers(self, frame: Any) -> None:
        """Send a control frame to the links of sessions that are not owned here."""
        for room in self.rooms.values():
            if not isinstance(room.role, OwnerRole):
                room.view.tell(frame)

    def sweep(self, now_s: float) -> None:
        """Enforce the links' deadlines; forget followers' rooms without links."""
        for session_id in [one for one, at_s in self._lost_since.items() if now_s - at_s > FORGET_S]:
            del self._lost_since[session_id]
        now_ms = self.services.wall_ms()
        for session_id, room in tuple(self.rooms.items()):
            for link in room.links:
                link.sweep(now_s)
            room.view.log.trim(now_ms)
            if session_id not in self._opening and session_id not in self._settling:
                self._close_if_idle(session_id)

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
        owned = dict(self.owned)
        if not owned:
            return
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

    # Simulators

    async def want_simulator(self, room: SessionRoom, *, is_wanted: bool) -> dict[str, Any]:
        """Want a session's simulator, or want none. Raises: Refused, BackendUnavailable."""
        row = (await self.want(room, Desired.RUNNING if is_wanted else Desired.STOPPED)).row
        return {"state": "none"} if row is None else {"simulator": row.id, "state": row.state.value}

    async def want(self, room: SessionRoom, desired: Desired, spec: Json | None = None) -> Wanted:
        """Say what the session's simulator is to be, and begin to make it so.

        Raises: Refused, BackendUnavailable.
        """
        wanted = await self.services.store.simulators.want(
            room.session_id,
            desired,
            driver=self._driver,
            spec=spec or self._market,
            limit_count=self._simulators_count,
        )
        if isinstance(wanted, Refusal):
            is_limit = wanted.reason is RefusalReason.SIMULATORS_LIMIT
            raise Refused(Code.SIMULATOR_LIMIT if is_limit else Code.FORBIDDEN, wanted.reason.value)
        if wanted.row is not None:
            self._told(room, wanted.row)
            self.work_on(room, wanted.row)
        return wanted

    def work_on(self, room: SessionRoom | None, row: SimulatorRow) -> None:
        """Bring a simulator to what is wanted of it; its session need not be here, and may be over."""
        if row.id not in self._working:
            self._working.add(row.id)
            self.services.spawn(self._work(room, row))

    async def _work(self, room: SessionRoom | None, row: SimulatorRow) -> None:
        try:
            while True:
                settled = await self._simulators.settle(row, lambda seen: self._told(room, seen))
                self._told(room, settled)
                fresh = await self.services.store.simulators.get(row.id)
                if fresh is None or fresh.generation == settled.generation:
                    return
                row = fresh
        except BackendUnavailable:
            return  # the next look at the session's simulators goes on
        finally:
            self._working.discard(row.id)

    def _told(self, room: SessionRoom | None, row: SimulatorRow) -> None:
        """Let the owner know where a simulator stands."""
        role = None if room is None else room.role
        if not isinstance(role, OwnerRole):
            return
        current = role.simulator
        if row.state == SimulatorState.RUNNING and row.desired == Desired.RUNNING:
            role.use_simulator(row)
        elif current is None or current.id == row.id or row.generation > current.generation:
            detail = str((row.failure or {}).get("detail", ""))
            if row.state in (SimulatorState.STOPPED, SimulatorState.FAILED):
                role.drop_simulator(row.state.value, detail)
            else:
                role.set_state(row.state.value, detail)

    def attached(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Take note that a session's owner follows its simulator."""
        self.services.spawn(self._attached(room, row))

    async def _attached(self, room: SessionRoom, row: SimulatorRow) -> None:
        await self._simulators.attached(row, lambda seen: self._told(room, seen))

    def look_at(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Find out what has become of a simulator that does not answer."""
        if row.id not in self._working:
            self._working.add(row.id)
            self.services.spawn(self._look_at(room, row))

    async def _look_at(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Look until it is known: that it has gone, or that its owner follows it again."""
        backoff, is_noted = self.services.backoff(), False
        try:
            async with asyncio.timeout(LOOK_S):
                while _is_unreached(room, row):
                    with suppress(BackendUnavailable):
                        await self._simulators.look(
                            row, lambda seen: self._told(room, seen), is_noted=is_noted
                        )
                        is_noted = True
                    await asyncio.sleep(next(backoff))
        except TimeoutError:
            return  # the link goes on trying, and tells again
        finally:
            self._working.discard(row.id)

    def simulator_ended(self, simulator: str) -> None:
        """Look at the session of a simulator whose driver says that it has gone."""
        for session in self.owned:
            room = self.rooms.get(session)
            role = None if room is None else room.role
            if room is None or not isinstance(role, OwnerRole) or role.simulator is None:
                continue
            if simulator in (role.simulator.id, role.simulator.handle.get("simulator")):
                self.look_at(room, role.simulator)
                return

    # What other pods want

    async def serve(self, session: str, command: bytes) -> bytes:
        """Carry out a command of another pod."""
        try:
            ask = relay_wire.read_ask(command)
        except WireError:
            return relay_wire.write(Failed(code=Code.INTERNAL, detail="a command of another version"))
        return relay_wire.write(await self.obey(session, ask))

    async def obey(self, session: str, ask: relay_wire.Ask) -> Answer:
        """Carry out what a pod wants, this one or another."""
        if isinstance(ask, HandOver):
            return await self._take_hand_over(session, ask.epoch)
        if isinstance(ask, Describe | Leave):
            return await self.on_pod_ask(ask)
        room = self.rooms.get(session)
        if isinstance(ask, Disconnect):
            return Done(0 if room is None else room.disconnect())
        if room is None or not isinstance(room.role, OwnerRole):
            return NotOwner()
        return await self._obey_as_owner(room, room.role, ask)

    async def _obey_as_owner(self, room: SessionRoom, role: OwnerRole, ask: relay_wire.OwnerAsk) -> Answer:
        match ask:
            case Follow():
                return role.follow(ask) or Done()
            case Do(command=command):
                return await _answered(role.carry_out(command))
            case Want(desired=desired, spec=spec):
                return await _answered(role.want(desired, spec))
            case Devices(devices=devices, newest=newest, at_us=at_us):
                room.take_devices(devices, newest, at_us)
                await role.announce_devices()
            case Warn(reason=reason, in_s=in_s):
                role.tell(messages.Warn(reason, in_s))
            case End(reason=reason):
                await self.end_room(room, reason)
        return Done()

    async def _take_hand_over(self, session: str, epoch: int) -> Answer:
        """Take a session from a pod that leaves: it has given us the lease."""
        if self.is_draining:
            return NotOwner()  # or two pods that leave would hand it to each other
        try:
            room = await self._room(session)
            async with room.changing:
                if isinstance(room.role, OwnerRole):
                    return Done()
                role, room.role = room.role, None
                if role is not None:
                    await role.stop()
                await self._begin_to_own(room, Owner(self.services.pod, epoch))
        except UnknownSession:
            return NotOwner()
        except BackendUnavailable as error:
            return Failed(code=Code.UNAVAILABLE, detail=error.backend, retry_after_s=1.0)
        return Done()

    # The end of a session

    async def end_room(self, room: SessionRoom, reason: str) -> None:
        """Tell every link, on every pod, that the session is over, and let it go."""
        session, role = room.session_id, room.role
        room.end(reason)
        if isinstance(role, OwnerRole):
            role.announce_end()
            for row in await self._rows(session):
                if row.state in UNSETTLED or row.state == SimulatorState.RUNNING:
                    self.work_on(room, row)
        owner = self.owned.pop(session, None)
        self._close_if_idle(session)
        if owner is not None:
            with suppress(BackendUnavailable):
                await self.services.bus.release(session, owner)

    async def _rows(self, session: str) -> tuple[SimulatorRow, ...]:
        try:
            return await self.services.store.simulators.list(
                SimulatorFilter(session_id=session), Page(limit_count=5)
            )
        except BackendUnavailable:
            return ()  # who looks for orphans finds them


def _is_unreached(room: SessionRoom, row: SimulatorRow) -> bool:
    """Say whether this pod owns the session, and its simulator is this one and does not answer."""
    role = room.role
    if not isinstance(role, OwnerRole) or role.simulator is None or role.simulator.id != row.id:
        return False
    return role.link is None or role.link.state != LinkState.UP


async def _nobody_answers(_ask: relay_wire.PodAsk) -> Answer:
    return Failed(code=Code.UNAVAILABLE, detail="the pod is not up yet", retry_after_s=1.0)


async def _answered(work: Awaitable[Any]) -> Answer:
    """Return what came of a command, in the words of the relay."""
    try:
        return Done(await work)
    except Refused as refused:
        return Failed(code=refused.code, detail=refused.detail, retry_after_s=refused.retry_after_s)
    except LimitExceeded as error:
        return Failed(code=Code.RATE_LIMITED, detail=error.what, retry_after_s=1.0)
    except BackendUnavailable as error:
        return Failed(code=Code.UNAVAILABLE, detail=error.backend, retry_after_s=1.0)
