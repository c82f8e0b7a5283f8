"""FollowerRole: another pod owns the session, and this one has links of it.

Shows what the owner tells, fills gaps from the durable log, and takes clients' commands to the owner. A state for
transitions: balancers send clients to owners where they can.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.errors import BackendUnavailable, WireError
from sojourn.gateways.exchange import relay_wire
from sojourn.gateways.exchange.links import Command, Refused
from sojourn.gateways.exchange.messages import (
    Code,
    Degraded,
    Restored,
    SimulatorCommand,
    SimulatorState,
    Warn,
)
from sojourn.gateways.exchange.relay_wire import (
    Answer,
    Ask,
    Do,
    Done,
    Failed,
    Follow,
    MarketNews,
    News,
    NotOwner,
    State,
    Want,
)
from sojourn.gateways.exchange.trace_words import command_words
from sojourn.gateways.exchange.view import EVENTS

if TYPE_CHECKING:
    from sojourn.gateways.exchange.bus import Subscription
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.rows import Desired, Json

FOLLOW_S: Final = 15.0
"""For how long the owner tells us news without being asked again."""
RENEW_S: Final = 5.0
AGAIN_S: Final = 0.1
"""Until the log is looked at again that is behind what its owner has told."""


_read_told: Final = msgspec.json.Decoder(SimulatorState | Degraded | Restored | Warn).decode
"""What owners tell every link of a session; see ``OwnerRole.tell``."""


class FollowerRole:
    """The follower's part of a room.

    Life: started when another pod has the lease, ended by ``stop``. What it cannot follow it hands back to the keeper
    of rooms, who finds out who owns the session.

    Args:
        room: the session here.
        owner_pod: who owns it.
    """

    def __init__(self, room: SessionRoom, owner_pod: str) -> None:
        self.room = room
        self.owner_pod = owner_pod
        self._services = room.services
        self._subscription: Subscription | None = None
        self._is_stopped = False
        self._wants_state = True
        self._wake = asyncio.Event()

    # Life

    async def start(self) -> None:
        """Subscribe, then take the owner's state.

        Raises: BackendUnavailable, also while the log is behind what the owner has told, since a client that came now
            would miss what the log has lost; or LimitExceeded. Then ``stop`` is to be called all the same.
        """
        self._subscription = await self._services.bus.subscribe(self.room.session_id, self)
        await self.room.catch_up()
        self.room.note_sent(
            f"pod {self.owner_pod}", "follow", f"{len(self.room.view.links)} connections here"
        )
        if not await self._follow():
            raise BackendUnavailable("the session's log", 0.0, "its owner has not written it again yet")
        self._services.spawn(self._keep_following())

    async def stop(self) -> None:
        """Follow no more."""
        self._is_stopped = True
        if self._subscription is not None:
            self._subscription.close()
        self._wake.set()

    async def _keep_following(self) -> None:
        """Ask for the state when something is missing, and for news before they would end."""
        while True:
            try:
                async with asyncio.timeout(RENEW_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._is_stopped:
                return
            try:
                if self._wants_state:
                    await self.room.catch_up()
                if not await self._follow():
                    await asyncio.sleep(AGAIN_S)
                    self.on_gap()
            except BackendUnavailable:
                if not self._is_stopped:
                    self._services.keeper.lost_ownership(self.room, None)
                return

    async def _follow(self) -> bool:
        """Ask the owner for its news, and for its state if that is needed; False if the log is behind that.

        Raises: BackendUnavailable.
        """
        wants_state, self._wants_state = self._wants_state, False
        active_ms, self.room.active_ms = self.room.active_ms, 0
        ask = Follow(
            pod=self.room.pod,
            links_count=len(self.room.view.links),
            for_s=FOLLOW_S,
            is_active=bool(active_ms),
            wants_state=wants_state,
        )
        try:
            answer = await self._ask(ask)
        except BackendUnavailable:
            self._wants_state = wants_state
            raise
        return not isinstance(answer, State) or await self._take_state(answer)

    async def _ask(self, ask: Ask) -> Answer:
        """Put a question to the owner. Raises: BackendUnavailable, also where it is the owner no more."""
        session, timeout_s = self.room.session_id, self._services.command_timeout_s
        data = await self._services.bus.ask(self.owner_pod, session, relay_wire.write(ask), timeout_s)
        try:
            answer = relay_wire.read_answer(data)
        except WireError as error:
            raise BackendUnavailable(self.owner_pod, 0.0, "an answer of another version") from error
        if isinstance(answer, NotOwner):
            raise BackendUnavailable(self.owner_pod, 0.0, "it does not own the session any more")
        return answer

    # What the owner says

    def on_frame(self, frame: bytes) -> None:
        """Take news."""
        try:
            news = relay_wire.read_news(frame)
        except WireError:
            self.on_gap()
            return
        self._take_news(news)

    def on_gap(self) -> None:
        """Ask for everything: something may be missing."""
        self._wants_state = True
        self._wake.set()

    def _take_news(self, news: News) -> None:
        view = self.room.view
        if news.epoch != view.log.epoch:
            self.on_gap()
            return
        for event in news.events:
            if event.offset == view.log.last + 1:
                view.publish(event)
            elif event.offset > view.log.last:
                self.on_gap()
        if news.devices is not None and news.devices != self.room.devices:
            newest = news.devices[-1] if news.devices else ""
            self.room.take_devices(news.devices, newest, news.devices_at_us)
        view.take_simulator(news.simulator, news.simulator_state)
        for frame in news.frames:
            view.tell(_read_told(frame))
        if news.market is not None:
            self._take_market(news.market)
        if news.portfolio is not None:
            view.take_portfolio(news.portfolio.value, news.portfolio.revision)
        if news.ended:
            self.room.end(news.ended)
        self._services.keeper.has_news(self.room)

    def _take_market(self, market: MarketNews) -> None:
        feed = self.room.view.feed
        if market.base == feed.base and market.since <= feed.revision:
            if market.revision > feed.revision:
                feed.merge(market.rows, market.revision)
        elif market.since <= market.base:
            feed.reset(market.rows, market.revision, base=market.base)
        else:
            self.on_gap()

    async def _take_state(self, state: State) -> bool:
        """Take the owner's state when the log is as far, which it may not be where its backend has lost it."""
        view = self.room.view
        if (view.log.epoch, view.log.last) < (state.epoch, state.last):
            await self.room.catch_up()
        if (view.log.epoch, view.log.last) < (state.epoch, state.last):
            return False
        market = state.market
        if (market.base, market.revision) >= (view.feed.base, view.feed.revision):
            view.feed.reset(market.rows, market.revision, base=market.base)
        if state.portfolio is not None:
            view.take_portfolio(state.portfolio.value, state.portfolio.revision)
        if (view.simulator, view.simulator_state) != (state.simulator, state.simulator_state):
            view.take_simulator(state.simulator, state.simulator_state)
            view.tell(SimulatorState(state.simulator_state, state.simulator))
        view.take_orders(state.orders)
        words = f"event {state.last} of epoch {state.epoch}, {len(state.orders)} orders"
        self.room.note_received(f"pod {self.owner_pod}", "state", words)
        self._take_outages(state)
        if state.devices != self.room.devices:
            newest = state.devices[-1] if state.devices else ""
            self.room.take_devices(state.devices, newest, state.devices_at_us)
        self._services.keeper.has_news(self.room)
        return True

    def _take_outages(self, state: State) -> None:
        """Tell the links what is away or back since they were told last: news of it may not have come here."""
        view, away = self.room.view, dict.fromkeys(state.degraded)
        if not self._services.keeper.is_bus_up:
            away[EVENTS] = None
        for what in tuple(view.degraded):
            if what not in away:
                view.tell(Restored(what))
        for what in away:
            if what not in view.degraded:
                view.tell(Degraded(what))

    # What clients say

    async def carry_out(self, command: Command) -> Any:
        """Have the owner do it. Raises: Refused."""
        is_order = not isinstance(command, SimulatorCommand)
        return await self._obtain(Do(command), Code.OUTCOME_UNKNOWN if is_order else Code.UNAVAILABLE)

    async def want(self, desired: Desired, spec: Json | None) -> Any:
        """Have the owner want a simulator, or none. Raises: Refused."""
        return await self._obtain(Want(desired, spec), Code.UNAVAILABLE)

    async def _obtain(self, ask: Do | Want, code: str) -> Any:
        """Have the owner do something; without an answer the code says what that means. Raises: Refused."""
        room, party = self.room, f"pod {self.owner_pod}"
        room.note_sent(party, *_ask_words(ask))
        try:
            answer = await self._ask(ask)
        except BackendUnavailable as error:
            room.note_received(party, "no answer", str(error), is_error=True)
            self.on_gap()  # which finds out whether there is an owner
            raise Refused(code, "no answer in time; the same id sent again is the same order", 0.5) from error
        match answer:
            case Done(value):
                room.note_received(party, "done")
                return value
            case Failed(code=code, detail=detail, retry_after_s=retry_after_s):
                room.note_received(party, code, detail)
                raise Refused(code, detail, retry_after_s)
        raise Refused(Code.INTERNAL, "an answer that fits no command")

    def links_changed(self) -> None:
        """Tell the owner soon how many links there are."""
        self._wake.set()

    def tick(self, now_s: float) -> bool:
        """Nothing: only owners tell."""
        del now_s
        return False


def _ask_words(ask: Do | Want) -> tuple[str, str]:
    """Return what is asked of the owner, as the trace of the session tells it."""
    return (
        command_words(ask.command) if isinstance(ask, Do) else ("simulator", f"is to be {ask.desired.value}")
    )
