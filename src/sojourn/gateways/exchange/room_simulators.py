"""RoomSimulators: what sessions want of simulators on one pod, and what their owners are told of it.

Begins the work on a simulator, looks after one that does not answer, and brings each change of its row to the session's
owner. Knows neither how one is brought up and down, which :mod:`~.simulators` does, nor whose a session is.

Source: exchange-session-service.md sections 5.2 and 5.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.lifecycle import SimulatorState
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import Code
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.rows import (
    Desired,
    Observation,
    Page,
    Refusal,
    RefusalReason,
    SimulatorFilter,
    SimulatorRow,
    Wanted,
)
from sojourn.gateways.exchange.sim.reader import LinkState

if TYPE_CHECKING:
    from sojourn.core.backoff import Backoff
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.rows import Json
    from sojourn.gateways.exchange.simulators import SimulatorKeeper
    from sojourn.gateways.exchange.storage import Storage

LOOK_S: Final = 30.0
"""How long it is looked what has become of a simulator, each time that its line is lost."""
FOREIGN: Final = (
    "the simulator that answers there belongs to another session, or to an earlier start of this one; "
    "start again when whoever runs it has restarted it"
)
"""What a user is told of a simulator that is not theirs."""
NEWEST: Final = Page(limit_count=5)
"""Simulators of a session that are looked at; those before are final."""
UNSETTLED: Final = frozenset({SimulatorState.REQUESTED, SimulatorState.STARTING, SimulatorState.STOPPING})


class RoomSimulators:
    """The simulators of the sessions of one pod.

    Life: made with the gateway; its work ends with it. Always true: one piece of work on a simulator at a time.

    Args:
        simulators: brings them up and down.
        store: of their rows.
        driver: of new simulators.
        market: of a new simulator for which none is given.
        spawn: starts a task that is awaited at the end.
        backoff: makes waits between tries.
        per_session_count: that a session may have at once.
    """

    def __init__(
        self,
        simulators: SimulatorKeeper,
        store: Storage,
        *,
        driver: str,
        market: Json,
        spawn: Callable[[Awaitable[None]], object],
        backoff: Callable[[], Backoff],
        per_session_count: int = 1,
    ) -> None:
        self._simulators = simulators
        self._store = store
        self._driver = driver
        self._market = market
        self._spawn = spawn
        self._backoff = backoff
        self._per_session_count = per_session_count
        self._working: set[str] = set()

    # What a session wants

    async def want_by_client(self, room: SessionRoom, *, is_wanted: bool) -> dict[str, Any]:
        """Want a session's simulator, or want none; return what its client is told.

        Raises: Refused, BackendUnavailable.
        """
        row = (await self.want(room, Desired.RUNNING if is_wanted else Desired.STOPPED)).row
        return {"state": "none"} if row is None else {"simulator": row.id, "state": row.state.value}

    async def want(self, room: SessionRoom, desired: Desired, spec: Json | None = None) -> Wanted:
        """Say what the session's simulator is to be, and begin to make it so.

        Raises: Refused, BackendUnavailable.
        """
        wanted = await self._store.simulators.want(
            room.session_id,
            desired,
            driver=self._driver,
            spec=spec or self._market,
            limit_count=self._per_session_count,
        )
        if isinstance(wanted, Refusal):
            is_limit = wanted.reason is RefusalReason.SIMULATORS_LIMIT
            raise Refused(Code.SIMULATOR_LIMIT if is_limit else Code.FORBIDDEN, wanted.reason.value)
        if wanted.row is not None:
            self._told(room, wanted.row)
            self.work_on(room, wanted.row)
        return wanted

    async def take_up(self, room: SessionRoom, role: OwnerRole) -> None:
        """Go on with a session's simulators where their rows say; as soon as the database answers."""
        try:
            await self._take_up(room)
        except BackendUnavailable:
            self._spawn(self._take_up_later(room, role))

    async def _take_up_later(self, room: SessionRoom, role: OwnerRole) -> None:
        """Try again until the database answers, or somebody else owns the session."""
        backoff = self._backoff()
        while room.role is role:
            await asyncio.sleep(next(backoff))
            with suppress(BackendUnavailable):
                await self._take_up(room)
                return

    async def _take_up(self, room: SessionRoom) -> None:
        rows = await self._rows(room)
        current = next((row for row in rows if _is_to_run(row)), next(iter(rows), None))
        if current is not None:
            self._told(room, current)
        for row in rows:
            if row.state in UNSETTLED:
                self.work_on(room, row)
        if isinstance(room.role, OwnerRole):
            room.role.has_looked = True

    async def end(self, room: SessionRoom) -> None:
        """Stop what a session that is over has."""
        rows: tuple[SimulatorRow, ...] = ()
        with suppress(BackendUnavailable):  # who looks for orphans finds them
            rows = await self._rows(room)
        for row in rows:
            if row.state in UNSETTLED or row.state == SimulatorState.RUNNING:
                self.work_on(room, row)

    async def _rows(self, room: SessionRoom) -> tuple[SimulatorRow, ...]:
        return await self._store.simulators.list(SimulatorFilter(session_id=room.session_id), NEWEST)

    # The work

    def work_on(self, room: SessionRoom | None, row: SimulatorRow) -> None:
        """Bring a simulator to what is wanted of it; its session need not be here, and may be over."""
        if row.id not in self._working:
            self._working.add(row.id)
            self._spawn(self._work(room, row))

    async def _work(self, room: SessionRoom | None, row: SimulatorRow) -> None:
        try:
            while True:
                settled = await self._simulators.settle(row, lambda seen: self._told(room, seen))
                self._told(room, settled)
                fresh = await self._store.simulators.get(row.id)
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
        if _is_to_run(row):
            role.use_simulator(row)
        elif current is None or current.id == row.id or row.generation > current.generation:
            role.meet(row.id)
            detail = str((row.failure or {}).get("detail", ""))
            if row.state in (SimulatorState.STOPPED, SimulatorState.FAILED):
                role.drop_simulator(row.state.value, detail)
            else:
                role.set_state(row.state.value, detail)

    # What its line tells

    def attached(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Take note that a session's owner follows its simulator."""
        self._spawn(self._simulators.attached(row, lambda seen: self._told(room, seen)))

    def look_at(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Find out what has become of a simulator that does not answer."""
        if row.id not in self._working:
            self._working.add(row.id)
            self._spawn(self._look_at(room, row))

    async def _look_at(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Look until it is known: that it has gone, or that its owner follows it again."""
        backoff, is_noted = self._backoff(), False
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

    def give_up(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Fail a simulator that answers, but is not the session's; its driver takes the place back."""
        self._spawn(self._give_up(room, row))

    async def _give_up(self, room: SessionRoom, row: SimulatorRow) -> None:
        """Write it down as soon as the database answers, unless the session has another simulator or owner by then."""
        failed = Observation(state=SimulatorState.FAILED, endpoint="", failure={"detail": FOREIGN})
        backoff = self._backoff()
        while _is_unreached(room, row):
            with suppress(BackendUnavailable):
                fresh = await self._store.simulators.observe(row.id, row.generation, failed)
                if fresh is not None:
                    self._told(room, fresh)
                return
            await asyncio.sleep(next(backoff))

    def ended(self, simulator: str, rooms: Iterable[SessionRoom]) -> None:
        """Look at the session of a simulator whose driver says that it has gone, if one of these rooms owns it."""
        for room in rooms:
            role = room.role
            if not isinstance(role, OwnerRole) or role.simulator is None:
                continue
            if simulator in (role.simulator.id, role.simulator.handle.get("simulator")):
                self.look_at(room, role.simulator)
                return


def _is_to_run(row: SimulatorRow) -> bool:
    """Say whether a session follows this simulator."""
    return row.state == SimulatorState.RUNNING and row.desired == Desired.RUNNING


def _is_unreached(room: SessionRoom, row: SimulatorRow) -> bool:
    """Say whether this pod owns the session, and its simulator is this one and does not answer."""
    role = room.role
    if not isinstance(role, OwnerRole) or role.simulator is None or role.simulator.id != row.id:
        return False
    return role.link is None or role.link.state != LinkState.UP
