"""PodService: what the REST interface offers, carried out on this pod or wherever the session's owner is.

A session of another subject and one that never was are the same. Every request about a live session is its user's
activity; it is written with what the session's owner notes, or for sessions without a room here by
:meth:`PodService.write_activities`.

Source: exchange-session-service.md sections 5.2 and 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange import rows
from sojourn.gateways.exchange.admin_service import Administration
from sojourn.gateways.exchange.answers import (
    event_answer,
    session_answer,
    simulator_answer,
    store_refusal_of,
)
from sojourn.gateways.exchange.bus import Ahead, Gone, OtherEpoch, Page, Trimmed
from sojourn.gateways.exchange.follower import FollowerRole
from sojourn.gateways.exchange.lifecycle import (
    FINAL_SIMULATOR_STATES,
    EndReason,
    PolicyKind,
    SimulatorState,
)
from sojourn.gateways.exchange.order_desk import OrderDesk
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.problems import FieldError, Kind, Refusal
from sojourn.gateways.exchange.rows import Activity, Desired, SessionFilter
from sojourn.gateways.exchange.service import Made

if TYPE_CHECKING:
    from sojourn.gateways.exchange.config import ExchangeSettings
    from sojourn.gateways.exchange.pod_commands import PodCommands
    from sojourn.gateways.exchange.principal import Principal
    from sojourn.gateways.exchange.readiness import PodSelf
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.rows import SessionRow, SimulatorRow
    from sojourn.gateways.exchange.service import Caller
    from sojourn.gateways.exchange.services import PodServices
    from sojourn.gateways.exchange.sessions import SessionKeeper

PROGRESS_S: Final = 300.0
"""Longest stream of a simulator's progress; a client that wants more asks again."""
LOOK_S: Final = 0.5
"""How often a simulator's row is read whose owner is another pod."""
MARKET_S: Final = 2.0
"""How long a snapshot waits for the market of a simulator that this pod has just begun to follow."""
ACTIVITIES_COUNT: Final = 50_000
"""Sessions without a room here whose activity waits to be written; more are not noted."""
PERCENT: Final = {
    SimulatorState.REQUESTED: 10,
    SimulatorState.STARTING: 50,
    SimulatorState.RUNNING: 100,
    SimulatorState.STOPPING: 50,
    SimulatorState.STOPPED: 100,
    SimulatorState.FAILED: 100,
}
"""How far a simulator is on its way, as far as that can be said."""


class PodService(Administration):
    """Everything that REST clients may do; see :class:`~.service.Service`.

    Life: made with the gateway, after ``services`` and ``keeper`` know each other. ``settings`` may be replaced at any
    time by others without problems.
    """

    def __init__(
        self,
        services: PodServices,
        keeper: SessionKeeper,
        commands: PodCommands,
        settings: ExchangeSettings,
        pod: PodSelf,
    ) -> None:
        super().__init__(services, keeper, commands, pod)
        self.settings = settings
        self._orders = OrderDesk(services.command_timeout_s)
        self._activities: dict[str, int] = {}

    # Sessions

    async def create_session(self, principal: Principal, wish: t.CreateSession, caller: Caller) -> Made:
        """Open a session or join the one that is there, as the device policy says.

        Raises: Refusal, BackendUnavailable.
        """
        if not self._pod.is_ready:
            raise Refusal(Kind.DRAINING if self._keeper.is_draining else Kind.UNAVAILABLE)
        settings = self.settings.sessions
        policy = settings.device_policy()
        opened = await self._services.store.sessions.open(
            principal.subject,
            wish.device,
            policy=policy,
            timeouts=settings.timeouts(),
            limit_count=settings.sessions_count,
            attributes={**wish.attributes, "address": caller.address, "user_agent": caller.user_agent},
        )
        if isinstance(opened, rows.Refusal):
            raise store_refusal_of(opened)
        row = opened.row
        if opened.is_new:
            return Made(session_answer(row), is_new=True)
        if opened.replaced or policy.kind is PolicyKind.SHARE:
            await self._announcer.devices(row)
        return Made(session_answer(row, await self._newest_simulator(row.id)), is_new=False)

    async def list_sessions(self, principal: Principal, limit_count: int, before: str) -> t.SessionPage:
        """Return the subject's sessions, the newest first. Raises: BackendUnavailable."""
        found, rest = await self._page(SessionFilter(subject=principal.subject), limit_count, before)
        # At most one lives, so this is no query per row.
        shown = [
            session_answer(row, await self._newest_simulator(row.id) if row.is_live else None)
            for row in found
        ]
        return t.SessionPage(sessions=tuple(shown), next=rest)

    async def get_session(self, principal: Principal, session_id: str) -> t.Session:
        """Return one, ended or not. Raises: Refusal, BackendUnavailable."""
        row = await self._own(principal, session_id)
        return session_answer(row, await self._newest_simulator(session_id))

    async def end_session(self, principal: Principal, session_id: str) -> None:
        """End it; ending it twice is ending it once. Raises: Refusal, BackendUnavailable."""
        await self._end(await self._own(principal, session_id), EndReason.USER)

    async def _own(self, principal: Principal, session_id: str) -> SessionRow:
        """Return the row of a session of the caller's. Raises: Refusal, BackendUnavailable."""
        row = await self._services.store.sessions.get(session_id)
        if row is None or row.subject != principal.subject:
            raise Refusal(Kind.NOT_FOUND)
        if row.is_live:
            self._note(session_id)
        return row

    async def _own_room(self, principal: Principal, session_id: str) -> SessionRoom:
        """Return the room of a live session of the caller's; one that is here needs no database.

        Raises: Refusal, BackendUnavailable.
        """
        room = self._keeper.rooms.get(session_id)
        if room is None or room.role is None:
            if not (await self._own(principal, session_id)).is_live:
                raise Refusal(Kind.ENDED)
            room = await self._open(session_id)
        if room.subject != principal.subject:
            raise Refusal(Kind.NOT_FOUND)
        if room.ended:
            raise Refusal(Kind.ENDED)
        self._note(session_id)
        return room

    # Activity

    def _note(self, session_id: str) -> None:
        """Take note that the user of a session has done something."""
        room, now_ms = self._keeper.rooms.get(session_id), self._services.wall_ms()
        if room is not None:
            room.active_ms = now_ms
            self._activities.pop(session_id, None)
        elif session_id in self._activities or len(self._activities) < ACTIVITIES_COUNT:
            self._activities[session_id] = now_ms

    async def write_activities(self) -> None:
        """Write which sessions without a room here were active; to be called every few seconds.

        Raises: BackendUnavailable; then it is written the next time.
        """
        noted, self._activities = self._activities, {}
        if not noted:
            return
        moments = [Activity(session, datetime.fromtimestamp(ms / 1000, UTC)) for session, ms in noted.items()]
        try:
            await self._services.store.sessions.note(moments)
        except BackendUnavailable:
            self._activities = noted | self._activities
            raise

    # Simulators

    async def set_simulator(
        self, principal: Principal, session_id: str, wish: t.SimulatorWish
    ) -> tuple[t.Simulator, bool]:
        """Want a simulator or none; return it, and whether that changed anything.

        Raises: Refusal, BackendUnavailable.
        """
        if errors := tuple(self._wish_problems(wish)):
            raise Refusal(Kind.INVALID, errors=errors)
        room = await self._own_room(principal, session_id)
        desired = Desired(wish.desired)
        return await self._want(room, desired, wish.spec if desired is Desired.RUNNING else None)

    def _wish_problems(self, wish: t.SimulatorWish) -> list[FieldError]:
        """Return what no client may want, and what makes no market; what was sent is not repeated."""
        found, market, limits = list(wish.problems()), wish.spec, self.settings.simulators
        if market is None:
            return found
        if len(market.instruments) > limits.instruments_count:
            found.append(FieldError("$.spec.instruments", f"wanted: at most {limits.instruments_count}"))
        if market.step_ms < limits.step_min_ms:
            found.append(FieldError("$.spec.step_ms", f"wanted: at least {limits.step_min_ms}"))
        found += (FieldError(f"$.spec.{key}", f"wanted: {wanted}") for key, _, wanted in market.problems())
        return found

    async def get_simulator(self, principal: Principal, session_id: str) -> t.Simulator:
        """Return the newest simulator of the session; nothing is started. Raises: Refusal, BackendUnavailable."""
        return simulator_answer(await self._own_simulator(principal, session_id))

    async def _own_simulator(self, principal: Principal, session_id: str) -> SimulatorRow:
        await self._own(principal, session_id)
        row = await self._newest_simulator(session_id)
        if row is None:
            raise Refusal(Kind.NOT_FOUND, "the session has no simulator")
        return row

    async def progress(self, principal: Principal, session_id: str) -> AsyncGenerator[t.Progress, None]:
        """Yield where the simulator stands, at once and at each change, until it is ``done`` or it takes too long.

        Raises: Refusal, BackendUnavailable.
        """
        row = await self._own_simulator(principal, session_id)
        until = self._services.clock() + PROGRESS_S
        told: t.Progress | None = None
        while True:
            step = self._step(row)
            if told is None or (step.state, step.detail, step.done) != (told.state, told.detail, told.done):
                told = step
                yield step
            if step.done or self._services.clock() >= until:
                return
            await self._change(session_id)
            row = await self._services.store.simulators.get(row.id) or row

    async def _change(self, session_id: str) -> None:
        """Return when the session's view has news, or it is time to look."""
        room = self._keeper.rooms.get(session_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await (asyncio.sleep(LOOK_S) if room is None else room.view.change())

    def _step(self, row: SimulatorRow) -> t.Progress:
        is_there = row.state is SimulatorState.RUNNING and row.desired is Desired.RUNNING
        return t.Progress(
            state=row.state.value,
            detail=str((row.failure or {}).get("detail", "")),
            percent=PERCENT[row.state],
            done=is_there or row.state in FINAL_SIMULATOR_STATES,
            at_ms=self._services.wall_ms(),
        )

    # Orders

    async def submit_order(
        self, principal: Principal, session_id: str, order: t.NewOrder, request_id: str
    ) -> t.Order:
        """Place an order; the same request id once more gives the first one's answer.

        Raises: Refusal, BackendUnavailable, LimitExceeded.
        """
        return await self._orders.place(await self._own_room(principal, session_id), order, request_id)

    async def cancel_order(self, principal: Principal, session_id: str, order: int) -> t.Order:
        """Take back what is left of an order. Raises: as :meth:`submit_order`."""
        return await self._orders.cancel(await self._own_room(principal, session_id), order)

    async def replace_order(
        self, principal: Principal, session_id: str, order: int, change: t.OrderChange
    ) -> t.Order:
        """Change what is left of an order. Raises: as :meth:`submit_order`."""
        return await self._orders.replace(await self._own_room(principal, session_id), order, change)

    async def get_order(self, principal: Principal, session_id: str, order: int) -> t.Order:
        """Return one order. Raises: Refusal, BackendUnavailable."""
        return self._orders.one(await self._fresh_room(principal, session_id), order)

    async def list_orders(
        self, principal: Principal, session_id: str, limit_count: int, before: int
    ) -> t.OrderPage:
        """Return orders, the newest first; ``before`` is 0 for the first page. Raises: Refusal, BackendUnavailable."""
        return self._orders.page(await self._fresh_room(principal, session_id), limit_count, before)

    async def _fresh_room(self, principal: Principal, session_id: str) -> SessionRoom:
        """Return a room that has seen all that is durable: another pod may have answered the request before.

        Raises: Refusal, BackendUnavailable.
        """
        room = await self._own_room(principal, session_id)
        if isinstance(room.role, FollowerRole):
            await room.catch_up()
        return room

    # Replay

    async def events_after(
        self, principal: Principal, session_id: str, epoch: int, after: int, limit_count: int
    ) -> t.EventPage:
        """Return events behind an offset; ``epoch`` is 0 for the present one. Raises: Refusal, BackendUnavailable."""
        await self._own(principal, session_id)
        logs, log_epoch = self._services.logs, epoch
        if not epoch:
            end = await logs.log_end(session_id)
            log_epoch = 0 if end is None else end.epoch
        match await logs.read_after(session_id, log_epoch, after, limit_count):
            case Page(events, last):
                return t.EventPage(epoch=log_epoch, last=last, events=tuple(map(event_answer, events)))
            case Gone() if not epoch and not after:
                return t.EventPage(epoch=0, last=0, events=())
            case Gone():
                raise Refusal(Kind.GONE_EVENTS, "no events of this session are kept", reason="gone")
            case Trimmed(_, first, _):
                raise Refusal(Kind.GONE_EVENTS, f"the oldest that is kept is event {first}", reason="trimmed")
            case OtherEpoch(epoch=present):
                detail = f"the log is of epoch {present}: offsets of another one mean nothing in it"
                raise Refusal(Kind.GONE_EVENTS, detail, reason="other_epoch")
            case Ahead(last=last):
                raise Refusal(Kind.GONE_EVENTS, f"the newest is event {last}", reason="ahead")

    async def snapshot(self, principal: Principal, session_id: str) -> t.SessionSnapshot:
        """Return everything as it stands. Raises: Refusal, BackendUnavailable."""
        room = await self._fresh_room(principal, session_id)
        await self._market_of(room)
        view = room.view
        snapshot, feed = view.snapshot(), view.feed
        return t.SessionSnapshot(
            epoch=snapshot.epoch,
            events=snapshot.o,
            md=feed.revision,
            pf=view.portfolio_revision,
            simulator=snapshot.simulator,
            simulator_state=snapshot.sim,
            orders=snapshot.orders,
            rows=tuple(value for _, value, _ in feed.rows_after(-1)),
            portfolio=view.portfolio,
        )

    async def _market_of(self, room: SessionRoom) -> None:
        """Wait for the market of a simulator that is there, where this pod has just begun to follow it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(MARKET_S):
                while _lacks_market(room):
                    await room.view.change()


def _lacks_market(room: SessionRoom) -> bool:
    """Say whether a simulator runs of which nothing has come yet; its portfolio comes behind the market."""
    role = room.role
    follows = isinstance(role, OwnerRole) and role.link is not None and not role.link.is_over
    return follows and room.view.portfolio is None
