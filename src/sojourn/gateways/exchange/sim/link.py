"""SimulatorLink: how the owner of a session follows its simulator, for as long as both live.

Theory of operation. A link attaches where its owner says that it stands and hands on what comes: events exactly once
and in order, rows and the portfolio as they are last. When the connection is lost it makes another, and attaches after
the last event that it has handed on; the simulator sends the rest from its log. Nothing is queued here: what is not
read stays in the simulator, which keeps events and forgets prices.

Beside the stream goes a heartbeat. It keeps the simulator alive, finds a connection that is dead without having been
closed, finds a stream that stands still although things happen, and learns that another process has taken over. It has
no circuit breaker, because it is what finds out that a simulator is back. Orders have one for each endpoint; they are
idempotent by their request ids, so one whose answer was lost is asked again until its deadline.

What it does not know on purpose: sessions' clients, where events are kept, and which library speaks gRPC.
"""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import Callable
from typing import Any, Final

from sojourn.core.backoff import Backoff
from sojourn.core.breaker import Breakers, CircuitState
from sojourn.core.clock import Clock, monotonic
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, RemoteProtocolError
from sojourn.gateways.exchange.market.engine import OrderUpdate, Request
from sojourn.gateways.exchange.sim.channel import Connect, Fenced, Foreign, GrpcioChannel, SimulatorChannel
from sojourn.gateways.exchange.sim.codec import (
    OrderResult,
    SimulatorReport,
    SimulatorSnapshot,
    event_from,
    order_from,
    portfolio_from,
    report_from,
    result_from,
    row_from,
    snapshot_from,
)
from sojourn.gateways.exchange.sim.reader import LinkState, Ownership, SimulatorReader
from sojourn.gateways.exchange.sim.settings import NO_TOKEN, SimulatorLinkSettings
from sojourn.gateways.exchange.sim.stubs import pb

_AGAIN_MIN_S: Final = 0.02
_AGAIN_MAX_S: Final = 0.5
"""Between two attempts of one order."""
_FINAL: Final = frozenset({LinkState.FENCED, LinkState.FOREIGN, LinkState.ENDED, LinkState.CLOSED})

DEFAULT_SETTINGS: Final = SimulatorLinkSettings()


class SimulatorLink:
    """One owner's line to one simulator.

    Life: the owner makes it, lets :meth:`run` run in a task of its own, and ends it by :meth:`close` or by canceling
    the task. Orders may be sent meanwhile, from any task of the loop. Always true: the reader has been handed every
    event up to ``seq``, each once, or a snapshot in place of it.

    Args:
        endpoint: a gRPC target.
        owner: as whom it comes.
        reader: takes what it brings.
        settings: of links.
        breakers: of the simulators' endpoints, shared by all links of the process.
        after_seq: the last event that the owner has; 0 = none.
        run: of which run of the simulator that event is; empty = it is not known.
        wants_snapshot: begin with a snapshot instead of events; for an owner that has lost its log.
        token: that the simulator wants.
        connect: makes a channel.
        clock: monotonic seconds.
        random: a number in [0, 1), for the jitter.
    """

    def __init__(
        self,
        endpoint: str,
        owner: Ownership,
        reader: SimulatorReader,
        settings: SimulatorLinkSettings = DEFAULT_SETTINGS,
        *,
        breakers: Breakers,
        after_seq: int = 0,
        run: str = "",
        wants_snapshot: bool = False,
        token: Secret = NO_TOKEN,
        connect: Connect = GrpcioChannel,
        clock: Clock = monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.endpoint = endpoint
        self.owner = owner
        self.settings = settings
        self.seq = after_seq
        self.run_id = run
        self.state = LinkState.CONNECTING
        self.reconnects = 0
        """Times that it has attached again."""
        self._owner = pb.Owner(session=owner.session, epoch=owner.epoch, simulator=owner.simulator)
        self._reader = reader
        self._breakers = breakers
        self._wants_snapshot = wants_snapshot
        self._token = token
        self._connect = connect
        self._clock = clock
        self._random = random
        self._channel: SimulatorChannel | None = None
        self._is_up = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closing = asyncio.Event()
        self._updates = 0
        self._fenced: Fenced | None = None

    # Life

    async def run(self) -> None:
        """Follow the simulator until it ends, is another session's, another owner comes, or the link is closed."""
        backoff = Backoff(self.settings.reconnect_min_s, self.settings.reconnect_max_s, self._random)
        try:
            while not self.is_over:
                trouble = await self._follow(backoff)
                if trouble and not self.is_over:
                    self._become(LinkState.DOWN, trouble)
                    await self._closed_within(next(backoff))
        finally:
            self._closing.set()
            self._is_up.set()  # for who waits to ask, and will see that it is over
            self._become(LinkState.CLOSED, "")

    def close(self) -> None:
        """Let :meth:`run` return soon; nothing more is handed on but that the link is closed. The simulator goes on."""
        self._closing.set()

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""
        return self._closing.is_set()

    def begin_with_snapshot(self) -> None:
        """Ask for all orders as they stand in place of events; only before :meth:`run`."""
        self._wants_snapshot = True

    def pause(self) -> None:
        """Read no more for now: the reader cannot keep what comes. Heartbeats and orders go on."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read again; no event is missing, prices are the last ones."""
        self._may_read.set()

    # Following

    async def _follow(self, backoff: Backoff) -> str:
        """Attach once and follow until that ends; return what went wrong, for people."""
        channel = self._connect(self.endpoint, self._token)
        trouble: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat(channel), name=f"simulator heartbeat {self.endpoint}")
                await self._read(channel, backoff)
        except* _Over:
            pass
        except* Fenced as group:
            self._fence(_first(group))
        except* Foreign as group:
            self._become(LinkState.FOREIGN, str(_first(group)))
            self._closing.set()
        except* (BackendUnavailable, RemoteProtocolError) as group:
            trouble.append(str(_first(group)))
        finally:
            self._channel = None
            self._is_up.clear()
            await channel.close()
        return "".join(trouble)

    async def _read(self, channel: SimulatorChannel, backoff: Backoff) -> None:
        """Read the stream to its end.

        Raises: BackendUnavailable, Foreign, Fenced, or RemoteProtocolError if the simulator skips an event.
        """
        request = pb.AttachRequest(
            owner=self._owner, after_seq=self.seq, run=self.run_id, wants_snapshot=self._wants_snapshot
        )
        async with channel.attach(request) as updates:
            within_s = self.settings.attach_timeout_s
            try:
                async with asyncio.timeout(within_s):
                    update = await anext(updates, None)
            except TimeoutError:
                raise BackendUnavailable(self.endpoint, within_s, "it did not answer") from None
            backoff.reset()
            if self.state == LinkState.DOWN:
                self.reconnects += 1
            if self.is_over:
                return
            self._channel = channel
            self._is_up.set()
            self._become(LinkState.UP, "")
            while update is not None:
                await self._may_read.wait()
                if self._closing.is_set():
                    return
                self._take(update)
                if update.is_last:
                    self._become(LinkState.ENDED, "the simulator has ended")
                    self._closing.set()
                    return
                update = await anext(updates, None)
        raise BackendUnavailable(self.endpoint, 0.0, "it has ended the stream")

    def _take(self, update: pb.Update) -> None:
        """Hand on what an update brings.

        Raises: RemoteProtocolError if an event is missing before it.
        """
        reader = self._reader
        self._updates += 1
        if update.run:
            self.run_id = update.run
        if update.HasField("snapshot"):
            self.seq = update.seq
            self._wants_snapshot = False
            reader.on_snapshot(snapshot_from(update, self.run_id))
        if update.events:
            events = [event_from(event) for event in update.events if event.seq > self.seq]
            for number, event in enumerate(events, self.seq + 1):
                if event.seq != number:
                    raise RemoteProtocolError(f"event {event.seq}", f"event {number}", "simulator.proto")
            if events:
                self.seq = events[-1].seq
                reader.on_events(events)
        if update.rows:
            reader.on_rows([row_from(row) for row in update.rows])
        if update.HasField("portfolio"):
            reader.on_portfolio(portfolio_from(update.portfolio))

    async def _beat(self, channel: SimulatorChannel) -> None:
        """Tell the simulator that we live, and see that it does.

        Raises: BackendUnavailable when it has not answered often enough, or its stream stands still; Fenced; _Over.
        """
        settings = self.settings
        missed = 0
        request = pb.HeartbeatRequest(owner=self._owner)
        awaited, updates = 0, -1
        while not await self._closed_within(settings.heartbeat_s):
            try:
                reply = await channel.call("Heartbeat", request, settings.heartbeat_timeout_s)
            except BackendUnavailable:
                missed += 1
                if missed >= settings.heartbeat_misses_count:
                    raise
                continue
            missed = 0
            if awaited > self.seq and updates == self._updates and self._may_read.is_set():
                raise BackendUnavailable(
                    self.endpoint, settings.heartbeat_s, f"its stream stands still before event {awaited}"
                )
            awaited, updates = reply.seq, self._updates
        raise _Over

    async def _closed_within(self, seconds: float) -> bool:
        """Wait for so long, or until the link is closed; say whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    def _fence(self, fenced: Fenced) -> None:
        if self.state == LinkState.FENCED:
            return
        self._become(LinkState.FENCED, str(fenced))
        self._fenced = fenced
        self._closing.set()
        self._reader.on_fenced(fenced.by_epoch)

    def _become(self, state: LinkState, detail: str) -> None:
        if state == self.state or self.state in _FINAL:
            return
        self.state = state
        self._reader.on_link(state, detail)

    # Asking

    async def submit(self, order: Request) -> OrderResult:
        """Send an order; its ``request_id`` makes it the same one however often it is sent.

        Raises: BackendUnavailable if there is no answer by the deadline: it may have been taken, the events will tell,
            and the same order may be sent again; Fenced; LocalProtocolError if it breaks the rules.
        """
        request = pb.SubmitOrderRequest(
            owner=self._owner,
            request_id=order.request_id,
            symbol=order.symbol,
            side=order.side,  # type: ignore[arg-type]  # protoc's types want a member, protobuf takes the number
            type=order.type,  # type: ignore[arg-type]  # as above
            time_in_force=order.time_in_force,  # type: ignore[arg-type]  # as above
            quantity=order.quantity,
            price_e6=order.price_e6,
        )
        return result_from(await self._ask("SubmitOrder", request))

    async def cancel(self, request_id: str, number: int) -> OrderResult:
        """Take the rest of an order back. Raises: as :meth:`submit`."""
        request = pb.CancelOrderRequest(owner=self._owner, request_id=request_id, number=number)
        return result_from(await self._ask("CancelOrder", request))

    async def replace(self, request_id: str, number: int, quantity: int, price_e6: int) -> OrderResult:
        """Change an order's quantity, what is filled of it included, and price. Raises: as :meth:`submit`."""
        request = pb.ReplaceOrderRequest(
            owner=self._owner, request_id=request_id, number=number, quantity=quantity, price_e6=price_e6
        )
        return result_from(await self._ask("ReplaceOrder", request))

    async def list_orders(self) -> tuple[int, list[OrderUpdate]]:
        """Return the orders that are known, and the event as of which. Raises: as :meth:`submit`."""
        reply = await self._ask("ListOrders", pb.ListOrdersRequest(owner=self._owner))
        return reply.seq, [order_from(order) for order in reply.orders]

    async def status(self) -> SimulatorReport:
        """Ask the simulator how it is. Raises: as :meth:`submit`."""
        return report_from(await self._ask("Status", pb.StatusRequest()))

    async def drain(self) -> int:
        """Let the simulator take no more orders and end; return its last event. Raises: as :meth:`submit`."""
        return int((await self._ask("Drain", pb.DrainRequest(owner=self._owner))).seq)

    async def _ask(self, method: str, request: Any) -> Any:
        """Ask until there is an answer, the deadline has come, or the circuit is open."""
        until = self._clock() + self.settings.order_timeout_s
        backoff = Backoff(_AGAIN_MIN_S, _AGAIN_MAX_S, self._random)
        while True:
            try:
                with self._breakers.guard(self.endpoint):
                    return await self._call(method, request, until - self._clock())
            except Fenced as fenced:
                self._fence(fenced)
                raise
            except BackendUnavailable:
                wait_s = next(backoff)
                is_open = self._breakers.state(self.endpoint) != CircuitState.CLOSED
                if is_open or self.is_over or self._clock() + wait_s >= until:
                    raise
                await asyncio.sleep(wait_s)

    async def _call(self, method: str, request: Any, left_s: float) -> Any:
        """Ask once, as soon as there is a connection."""
        if self._fenced is not None:
            raise self._fenced
        began = self._clock()
        try:
            async with asyncio.timeout(left_s):
                await self._is_up.wait()
        except TimeoutError:
            raise BackendUnavailable(self.endpoint, left_s, "it is not connected") from None
        channel = self._channel
        if channel is None:
            raise BackendUnavailable(
                self.endpoint, 0.0, "the link is over" if self.is_over else "it was just lost"
            )
        return await channel.call(method, request, max(0.001, left_s - (self._clock() - began)))


class _Over(Exception):  # noqa: N818 - never leaves this file: it ends the tasks of one connection
    """The link is to end."""


def _first(group: BaseExceptionGroup[Any]) -> Any:
    """Return one of the errors of a group; each says enough."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def ask_status(
    endpoint: str, *, token: Secret = NO_TOKEN, timeout_s: float = 5.0, connect: Connect = GrpcioChannel
) -> SimulatorReport:
    """Ask a simulator how it is, without owning it.

    Raises: BackendUnavailable if it does not answer.
    """
    channel = connect(endpoint, token)
    try:
        return report_from(await channel.call("Status", pb.StatusRequest(), timeout_s))
    finally:
        await channel.close()


__all__ = [
    "Fenced",
    "LinkState",
    "OrderResult",
    "Ownership",
    "SimulatorLink",
    "SimulatorLinkSettings",
    "SimulatorReader",
    "SimulatorReport",
    "SimulatorSnapshot",
    "ask_status",
]
