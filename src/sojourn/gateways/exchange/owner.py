"""OwnerRole: this pod owns the session: it holds the simulator's stream and writes the log.

Brings what the simulator says into the log and the view, carries out commands, and tells the pods that follow. Is
fenced in three ways, each enough alone: by its lease when it writes the log, by its epoch in the database, and by its
epoch at the simulator.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sojourn.errors import BackendUnavailable, LimitExceeded, SojournError
from sojourn.gateways.exchange import relay_wire, wire
from sojourn.gateways.exchange.bodies import (
    STATUSES,
    order_body,
    order_terms,
    portfolio_value,
    row_value,
)
from sojourn.gateways.exchange.bus import Owner
from sojourn.gateways.exchange.links import Command, Refused
from sojourn.gateways.exchange.log_writer import LogWriter, PendingEvent
from sojourn.gateways.exchange.market.engine import OrderUpdate, Request
from sojourn.gateways.exchange.market.orders import OrderStatus
from sojourn.gateways.exchange.market.settings import amount_e6
from sojourn.gateways.exchange.messages import (
    CancelOrder,
    Code,
    Degraded,
    PlaceOrder,
    ReplaceOrder,
    Restored,
    SimulatorCommand,
    SimulatorState,
)
from sojourn.gateways.exchange.relay_wire import Follow, MarketNews, News, PortfolioNews, State
from sojourn.gateways.exchange.sim.channel import Fenced
from sojourn.gateways.exchange.sim.link import LinkState, Ownership, SimulatorLink
from sojourn.gateways.exchange.trace_words import SimulatorNews, command_words, result_words
from sojourn.gateways.exchange.view import ALL_ORDERS, EVENTS, ORDER, SIMULATOR

if TYPE_CHECKING:
    from sojourn.gateways.exchange.market.simulation import Event, Portfolio, Row
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.rows import Desired, Json, SimulatorRow
    from sojourn.gateways.exchange.sim.codec import OrderResult, SimulatorSnapshot

UNREACHABLE: Final = "unreachable"
"""What clients are told of a simulator whose line is lost; any other state after it ends the wait for it."""
_FAILED: Final = frozenset({UNREACHABLE, "failed"})
"""States that the trace shows as errors."""
NO_ORDERS: Final = b'{"orders":[]}'
_BASE_SHIFT: Final = 32
"""Revisions of a session's n-th simulator begin at n << 32: a cursor of an earlier one is below, and 2**53 is far."""


class OwnerRole:
    """The owner's part of a room.

    Life: made when the lease is held, ended by ``stop`` or by being fenced. Always true: what its links and followers
    are told of events is durable.
    """

    def __init__(self, room: SessionRoom, owner: Owner) -> None:
        self.room = room
        self.owner = owner
        self.simulator: SimulatorRow | None = None
        self.link: SimulatorLink | None = None
        self.has_looked = False
        """The session's simulators are known, so that none means that there is none."""
        services = room.services
        self._services = services
        self.writer = LogWriter(
            room.session_id,
            owner,
            services.logs,
            room.view,
            limit_count=services.waiting_events_count,
            backoff=services.backoff(),
            regain=self._regain,
            on_outage=self._on_outage,
            on_written=lambda: services.keeper.has_news(room),
            on_room=self._on_room,
        )
        self._is_done = asyncio.Event()
        self._is_done.set()
        self._followers: dict[str, tuple[float, int]] = {}
        self._frames: list[bytes] = []
        self._told_last = 0
        self._told_revision = 0
        self._told_portfolio = 0
        self._is_publishing = False
        self._is_market_new = True
        self._met = ""
        self._met_count = 0

    @property
    def party(self) -> str:
        """How the trace calls the simulator of the moment; each one that follows has a lifeline of its own."""
        return SIMULATOR if self._met_count < 2 else f"{SIMULATOR} {self._met_count}"  # noqa: PLR2004 - a second one

    def meet(self, simulator: str) -> None:
        """Take note which simulator is spoken of from now on."""
        if simulator != self._met:
            self._met = simulator
            self._met_count += 1

    # Life

    async def start(self) -> None:
        """Take up the log where it ends.

        Raises: BackendUnavailable.
        """
        room, logs = self.room, self._services.logs
        view = room.view
        end = await logs.log_end(room.session_id)
        if end is None and not view.log.epoch:
            await logs.reseed(room.session_id, self.owner, self.owner.epoch, ())
            view.log = self._services.log_bounds.log(self.owner.epoch, 0)
        elif end is not None:
            await room.catch_up()
        if end is None or (end.epoch, end.last) < (view.log.epoch, view.log.last):
            self.writer.doubt()  # the backend has lost what the mirror has
        if EVENTS in view.degraded:  # an owner before us has told, and the log answers
            self.tell(Restored(EVENTS))
        self._told_last = view.log.last
        self._is_done.clear()
        self._services.spawn(self._write())

    async def stop(self) -> None:
        """Let the simulator go on without us, and end when everything that it said is durable or another's."""
        self._drop_link()
        self.writer.stop()
        await self._is_done.wait()

    async def mend(self) -> None:
        """Write what the backend has lost since ``stop``, unless another owner came meanwhile."""
        await self._is_done.wait()
        self.writer.doubt()
        await self.writer.run()

    async def _write(self) -> None:
        try:
            await self.writer.run()
        finally:
            self._is_done.set()
        if self.writer.is_fenced:
            self._drop_link()
            self._lose(self.writer.fenced_by)

    def _lose(self, by: Owner | None) -> None:
        """Let the room find another role, unless it has done so before we noticed."""
        if self.room.role in (self, None):
            self._services.keeper.lost_ownership(self.room, by)

    async def _regain(self) -> bool:
        holder = await self._services.bus.acquire(self.room.session_id, self.owner, self._services.lease_s)
        return holder == self.owner

    def lease_regained(self) -> None:
        """Take note that the lease was lost, and nobody had it: its backend may have lost the log too."""
        self.writer.doubt()

    def _on_outage(self, is_out: bool) -> None:
        self.tell(Degraded(EVENTS) if is_out else Restored(EVENTS))

    def _on_room(self) -> None:
        if self.link is not None:
            self.link.resume()

    # The simulator

    def use_simulator(self, row: SimulatorRow) -> None:
        """Follow a simulator that runs, from the last event of it that the log has."""
        known, link = self.simulator, self.link
        if known is not None and known.id == row.id and link is not None and not link.is_over:
            return
        self._drop_link()
        self.simulator = row
        self.meet(row.id)
        view = self.room.view
        simulator, _, run = view.last_simulator.partition("/")
        after_seq, run = (view.last_seq, run) if simulator == row.id else (0, "")
        if simulator not in ("", row.id):
            self._put(ALL_ORDERS, NO_ORDERS, "", 0)  # what was open in the market before is gone with it
        name = str(row.handle.get("simulator") or row.id)  # one out of a pool has a name of its own
        ownership = Ownership(self.room.session_id, self.owner.epoch, name)
        self._is_market_new = True
        self.room.note_sent(self.party, "follow", f"from its event {after_seq}")
        self.link = self._services.link(row.endpoint, ownership, self, after_seq, run)
        if not simulator and view.log.epoch > 1:
            # The log is not the session's first: what the simulator told before is lost, and not told again.
            self.link.begin_with_snapshot()
        self._services.spawn(self.link.run())

    def drop_simulator(self, state: str, detail: str = "") -> None:
        """Follow none any more."""
        self._drop_link()
        self.simulator = None
        self.set_state(state, detail)

    def _drop_link(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.close()

    def set_state(self, state: str, detail: str = "") -> None:
        """Tell where the simulator stands."""
        view = self.room.view
        simulator = self.simulator.id if self.simulator is not None else ""
        if (view.simulator, view.simulator_state) != (simulator, state):
            view.take_simulator(simulator, state)
            if state != "none":
                self.room.note_received(self.party, state, detail, is_error=state in _FAILED)
            self.tell(SimulatorState(state, simulator, detail))
        is_away = state == UNREACHABLE
        if is_away != (SIMULATOR in view.degraded):  # an owner before us may have told
            self.tell((Degraded if is_away else Restored)(SIMULATOR))

    # What the simulator says

    def on_link(self, state: LinkState, detail: str) -> None:
        """Take note of where the line to it stands."""
        match state:
            case LinkState.UP:
                self.set_state("running")
                if self.simulator is not None:
                    self._services.simulators.attached(self.room, self.simulator)
                self._services.spawn(self._complete_orders())
            case LinkState.DOWN:
                self.set_state(UNREACHABLE)
                self._look()
            case LinkState.ENDED:
                self.set_state("ended", detail)
                self._look()
                self._services.keeper.has_news(self.room)
            case LinkState.FOREIGN if self.simulator is not None:
                self._services.simulators.give_up(self.room, self.simulator)

    def _look(self) -> None:
        if self.simulator is not None:
            self._services.simulators.look_at(self.room, self.simulator)

    async def _complete_orders(self) -> None:
        """Learn of orders that are older than the log: who took the session over knows only what the log has."""
        view, link = self.room.view, self.link
        if link is None or view.log.first <= 1:
            return
        try:
            _, orders = await link.list_orders()
        except BackendUnavailable:
            return  # asked again when the line is up again
        if link is self.link:
            view.add_orders([(update.number, order_body(update)) for update in orders])

    def on_fenced(self, by_epoch: int) -> None:
        """Let go: another pod owns the session, or did before the database was put back to a backup."""
        self._lose(Owner("", by_epoch))

    def on_snapshot(self, snapshot: SimulatorSnapshot) -> None:
        """Take all orders anew: more has happened than the simulator remembers one by one, or than the log."""
        if not (snapshot.seq or self.room.view.last_simulator):
            return  # it is as new as the log
        bodies = [order_body(update) for update in snapshot.orders]
        body = b'{"orders":[%b]}' % b",".join(bodies)
        self._put(ALL_ORDERS, body, snapshot.run, snapshot.seq)

    def on_events(self, events: Sequence[Event]) -> None:
        """Bring events to the log."""
        run = "" if self.link is None else self.link.run_id
        for event in events:
            self._put(ORDER, order_body(event.update), run, event.seq)
        if events:
            self.room.note_news(SimulatorNews(self.party, events[-1].update, len(events)))
        if self.writer.waiting_count * 2 > self._services.waiting_events_count and self.link is not None:
            self.link.pause()

    def _put(self, kind: str, body: bytes, run: str, seq: int) -> None:
        simulator = "" if self.simulator is None else f"{self.simulator.id}/{run}"
        self.writer.put(PendingEvent(kind, body, self._services.wall_ms(), simulator, seq))

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Show prices."""
        feed, base = self.room.view.feed, self._base
        changed = [(row.quote.symbol, row_value(row.quote), base + row.revision) for row in rows]
        revision = max(revision for _, _, revision in changed)
        if self._is_market_new or feed.base != base:
            self._is_market_new = False
            feed.reset(changed, max(revision, feed.revision if feed.base == base else 0), base=base)
        else:
            changed.sort(key=lambda row: row[2])
            feed.merge(changed, revision)
        self._services.keeper.has_news(self.room)

    def on_portfolio(self, portfolio: Portfolio) -> None:
        """Show what the user has."""
        self.room.view.take_portfolio(portfolio_value(portfolio), self._base + portfolio.revision)
        self._services.keeper.has_news(self.room)

    @property
    def _base(self) -> int:
        return (0 if self.simulator is None else self.simulator.generation) << _BASE_SHIFT

    # Commands

    async def carry_out(self, command: Command) -> Any:
        """Do what a client wants. Raises: Refused, BackendUnavailable, LimitExceeded."""
        if isinstance(command, SimulatorCommand):
            is_wanted = command.action == "start"
            return await self._services.simulators.want_by_client(self.room, is_wanted=is_wanted)
        link = self.link
        if link is None or link.is_over:
            if not self.has_looked or (link is not None and link.state == LinkState.FENCED):
                raise Refused(Code.UNAVAILABLE, "the session is moving to another server", 0.5)
            raise Refused(Code.NO_SIMULATOR, "the session has no simulator that runs")
        was_up = link.state == LinkState.UP
        try:
            result = await self._asked(link, command)
        except Fenced as error:
            raise Refused(Code.UNAVAILABLE, "the session is moving to another server", 0.5) from error
        except LimitExceeded:
            raise
        except BackendUnavailable as error:
            if link.state == LinkState.FOREIGN:
                raise Refused(Code.NO_SIMULATOR, "the session has no simulator that runs") from error
            code = Code.OUTCOME_UNKNOWN if was_up else Code.SIMULATOR_UNAVAILABLE
            detail = "no answer in time; the same id sent again is the same order"
            raise Refused(code, detail, 1.0) from error
        return _told(result)

    async def _asked(
        self, link: SimulatorLink, command: PlaceOrder | CancelOrder | ReplaceOrder
    ) -> OrderResult:
        """Ask the simulator; question and answer go into the trace. Raises: as ``_ask``."""
        room, party = self.room, self.party
        room.note_sent(party, *command_words(command))
        try:
            result = await _ask(link, command)
        except Refused as refused:
            room.record_state(f"not sent to the {party}: {refused.detail}")
            raise
        except SojournError as error:
            room.note_received(party, "no answer", str(error), is_error=True)
            raise
        room.note_received(party, *result_words(result))
        return result

    async def want(self, desired: Desired, spec: Json | None) -> tuple[str, bool]:
        """Want a simulator, or want none. Raises: Refused, BackendUnavailable."""
        wanted = await self._services.simulators.want(self.room, desired, spec)
        return ("" if wanted.row is None else wanted.row.id), wanted.is_changed

    # Links and followers

    @property
    def links_count(self) -> int:
        """How many links the session has, on all pods."""
        now = self._services.clock()
        self._followers = {pod: one for pod, one in self._followers.items() if one[0] > now}
        return len(self.room.view.links) + sum(count for _, count in self._followers.values())

    def links_changed(self) -> None:
        """Nothing: the count is written with the next touch."""

    def follow(self, ask: Follow) -> State | None:
        """Let a pod follow, or not any more; return what it lacks."""
        if not ask.for_s:
            self._followers.pop(ask.pod, None)
            return None
        if ask.wants_state:
            self.room.note_received(f"pod {ask.pod}", "follow", f"{ask.links_count} connections there")
        self._followers[ask.pod] = (self._services.clock() + ask.for_s, ask.links_count)
        if ask.is_active:
            self.room.active_ms = self._services.wall_ms()
        if not ask.wants_state:
            return None
        self.writer.doubt()  # whoever asks needs the log besides, and may have found that it is lost
        self.room.note_sent(f"pod {ask.pod}", "state", f"event {self.room.view.log.last}")
        return self.state()

    @property
    def asking_party(self) -> str:
        """How the trace calls the pod that has a command for us: which one is known where only one follows."""
        return f"pod {next(iter(self._followers))}" if len(self._followers) == 1 else "other pods"

    def state(self) -> State:
        """Return all that a follower needs."""
        view = self.room.view
        feed = view.feed
        portfolio = None
        if view.portfolio is not None:
            portfolio = PortfolioNews(view.portfolio_revision, view.portfolio)
        return State(
            epoch=view.log.epoch,
            last=view.log.last,
            market=MarketNews(feed.base, 0, feed.revision, tuple(feed.rows_after(-1))),
            portfolio=portfolio,
            simulator=view.simulator,
            simulator_state=view.simulator_state,
            orders=tuple(view.orders.values()),
            devices=self.room.devices,
            devices_at_us=self.room.devices_at_us,
            degraded=tuple(view.degraded),
        )

    def tell(self, frame: Any) -> None:
        """Send a control frame to every link, on every pod."""
        self.room.view.tell(frame)
        if self._followers:
            self._frames.append(wire.write_frame(frame))
            self._services.keeper.has_news(self.room)

    async def announce_devices(self) -> None:
        """Tell followers of the session's devices at once: the new one may come to any pod as soon as it is told."""
        if not self._followers:
            return
        self._frames.append(b"")
        if self._is_publishing:
            self._services.keeper.has_news(self.room)
            return
        news = self._news()
        if news is not None:
            self._is_publishing = True
            await self._publish(relay_wire.write(news))

    def announce_end(self) -> None:
        """Tell followers at once that the session is over, and let go of the simulator."""
        self._drop_link()
        self.writer.stop()
        if self._followers:
            self._frames.append(b"")
            news = self._news()
            if news is not None:
                self._services.spawn(self._publish(relay_wire.write(news)))

    def tick(self, now_s: float) -> bool:
        """Tell followers what is new."""
        del now_s
        if not self._followers:
            view = self.room.view
            self._told_last = view.log.last
            self._told_revision, self._told_portfolio = view.feed.revision, view.portfolio_revision
            return False
        if self._is_publishing:
            return True
        news = self._news()
        if news is not None:
            self._is_publishing = True
            self._services.spawn(self._publish(relay_wire.write(news)))
        return False

    def _news(self) -> News | None:
        view = self.room.view
        feed = view.feed
        market = portfolio = None
        if feed.revision != self._told_revision:
            rows = tuple(feed.rows_after(self._told_revision))
            market = MarketNews(feed.base, self._told_revision, feed.revision, rows)
        if view.portfolio_revision != self._told_portfolio:
            portfolio = PortfolioNews(view.portfolio_revision, view.portfolio)
        events = tuple(view.log.after(self._told_last)) if view.log.last != self._told_last else ()
        has_frames, frames = bool(self._frames), tuple(frame for frame in self._frames if frame)
        self._frames = []
        if not (market or portfolio or events or has_frames):
            return None
        self._told_last = view.log.last
        self._told_revision, self._told_portfolio = feed.revision, view.portfolio_revision
        return News(
            epoch=view.log.epoch,
            events=events,
            market=market,
            portfolio=portfolio,
            simulator=view.simulator,
            simulator_state=view.simulator_state,
            devices=self.room.devices,
            devices_at_us=self.room.devices_at_us,
            frames=frames,
            ended=self.room.ended,
        )

    async def _publish(self, data: bytes) -> None:
        try:
            await self._services.bus.publish(self.room.session_id, data)
        except (BackendUnavailable, LimitExceeded):
            return  # followers notice the gap, and ask
        finally:
            self._is_publishing = False
            self._services.keeper.has_news(self.room)


async def _ask(link: SimulatorLink, command: PlaceOrder | CancelOrder | ReplaceOrder) -> OrderResult:
    match command:
        case PlaceOrder():
            try:
                terms = order_terms(command)
            except ValueError as error:
                raise Refused(Code.BAD_FRAME, str(error)) from None
            return await link.submit(
                Request(
                    terms.symbol,
                    terms.side,
                    terms.quantity,
                    terms.price_e6,
                    terms.type,
                    terms.time_in_force,
                    command.id,
                )
            )
        case CancelOrder():
            return await link.cancel(command.id, command.order)
        case ReplaceOrder():
            return await link.replace(command.id, command.order, command.quantity, amount_e6(command.price))


def _told(result: OrderResult) -> dict[str, Any]:
    """Return what a client is told of its command. Raises: Refused."""
    if result.refusal or result.order is None:
        raise Refused(Code.ORDER_REFUSED, result.refusal)
    order: OrderUpdate = result.order
    if order.status == OrderStatus.REJECTED:
        raise Refused(Code.ORDER_REFUSED, order.reason)
    return {"order": order.number, "status": STATUSES[order.status], "filled": order.filled}
