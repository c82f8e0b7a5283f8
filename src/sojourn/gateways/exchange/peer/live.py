"""LiveSession: a session as its user's program has it: what is known of it, and what may be asked of it.

Whoever uses it notices little of connections that end: events come in order and once each, answers come to who asked.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from sojourn.errors import ConnectionLost, RemoteProtocolError
from sojourn.gateways.exchange.messages import (
    CancelOrder,
    PlaceOrder,
    QualityReport,
    ReplaceOrder,
    Resume,
    SideName,
    SimulatorCommand,
    SimulatorState,
    SnapshotRequest,
    Subscribe,
    TifName,
    TypeName,
    Unsubscribe,
    Welcome,
)
from sojourn.gateways.exchange.peer.asks import Wish
from sojourn.gateways.exchange.peer.calls import Declined
from sojourn.gateways.exchange.peer.conversation import Conversation, State
from sojourn.gateways.exchange.peer.mirror import LiveEvent
from sojourn.gateways.exchange.peer.stats import LiveStats

_RANDOM_BYTES: Final = 6


class Placed(msgspec.Struct, frozen=True):
    """What became of an order or of a change of one, so far; the rest comes as events."""

    order: int
    status: str
    filled: int = 0


class LiveSession:
    """One session, live; use as ``async with client.live(session.id) as live``.

    Life: connected when entered, gone when left; the session itself stays. Always true: ``rows``, ``portfolio``,
    ``orders`` and ``simulator`` are what the server has told up to ``resume``.

    Args:
        session_id: whose.
        conversation: with it, not begun yet.
    """

    def __init__(self, session_id: str, conversation: Conversation) -> None:
        self.session_id = session_id
        self._talk = conversation
        self._prefix = secrets.token_hex(_RANDOM_BYTES)
        self._ids_count = 0

    def __repr__(self) -> str:
        return f"<LiveSession {self.session_id} {self.state}>"

    async def __aenter__(self) -> Self:
        await self._talk.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._talk.stop()

    # What is known

    @property
    def state(self) -> State:
        """``connecting``, ``live``, ``waiting`` for the time to come back, or ``over``."""
        return self._talk.state

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The market: the latest row of each symbol."""
        return self._talk.mirror.rows

    @property
    def portfolio(self) -> Any:
        """What the user has; None while that is not known."""
        return self._talk.mirror.portfolio

    @property
    def orders(self) -> dict[int, dict[str, Any]]:
        """Orders by number, each as its last event told it; all open ones, and the last ended ones."""
        return self._talk.mirror.orders

    @property
    def simulator(self) -> SimulatorState:
        """Where the session's simulator stands."""
        return self._talk.mirror.simulator

    @property
    def resume(self) -> Resume | None:
        """How far this client has come; None before the first snapshot."""
        return self._talk.mirror.resume

    @property
    def welcome(self) -> Welcome | None:
        """How the server greeted us last."""
        return self._talk.welcome

    @property
    def quality(self) -> QualityReport | None:
        """How good the server finds the connection; None while it has not said."""
        return self._talk.quality

    @property
    def stats(self) -> LiveStats:
        """What the conversation has been through."""
        return self._talk.stats

    async def until(self, is_so: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait until something that the server tells is so.

        Args:
            is_so: is asked after each frame, such as ``lambda: live.simulator.state == "running"``.
        Raises: BackendUnavailable if it is not so in time; whatever the conversation ended with.
        """
        await self._talk.until(is_so, self._talk.timeout_s if timeout_s is None else timeout_s)

    async def events(self) -> AsyncIterator[LiveEvent]:
        """Yield every event, in order and once; of type ``snapshot`` is the first, and what stands for lost ones.

        Ends when the conversation is left. Raises: Dismissed, Declined or whatever else ended it; LimitExceeded if its
        consumer is so slow that more than ``events_count`` wait.
        """
        while (event := await self._talk.queue.get()) is not None:
            yield event

    async def next_event(self) -> LiveEvent:
        """Return the next event. Raises: as :meth:`events`; ConnectionLost if the conversation was left."""
        event = await self._talk.queue.get()
        if event is None:
            raise ConnectionLost("the conversation was left")
        return event

    # What is wanted

    async def order(
        self,
        symbol: str,
        side: SideName,
        quantity: int,
        price: str | None = None,
        *,
        tif: TifName | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Placed:
        """Place an order; without a price it is a market order.

        Args:
            request_id: of idempotency: the same id is the same order, also after a restart of this program.
        Raises: Declined; BackendUnavailable if no answer came in time, and then the order may stand.
        """
        kind: TypeName = "market" if price is None else "limit"
        frame = PlaceOrder(request_id or self._new_id(), symbol, side, quantity, kind, price, tif)
        return await self._placed(frame, timeout_s)

    async def cancel(self, order: int, *, timeout_s: float | None = None) -> Placed:
        """Take back what is left of an order. Raises: as :meth:`order`."""
        return await self._placed(CancelOrder(self._new_id(), order), timeout_s)

    async def replace(
        self, order: int, quantity: int, price: str, *, timeout_s: float | None = None
    ) -> Placed:
        """Give an order another quantity, what is filled included, and another price. Raises: as :meth:`order`."""
        return await self._placed(ReplaceOrder(self._new_id(), order, quantity, price), timeout_s)

    async def start_simulator(self, *, timeout_s: float | None = None) -> None:
        """Want a simulator, and wait until it runs. Raises: as :meth:`until`; Declined, also if it failed."""
        before = self.simulator
        await self._ask(SimulatorCommand(self._new_id(), "start"), timeout_s)
        await self.until(lambda: self.simulator.state == "running" or self._has_failed(before), timeout_s)
        if self._has_failed(before):
            raise Declined("simulator_failed", self.simulator.detail)

    async def stop_simulator(self, *, timeout_s: float | None = None) -> None:
        """Want none any more. Raises: as :meth:`order`."""
        await self._ask(SimulatorCommand(self._new_id(), "stop"), timeout_s)

    async def subscribe(self, *symbols: str) -> None:
        """See these symbols too. Raises: as :meth:`order`."""
        talk = self._talk
        if talk.symbols is not None:
            talk.symbols |= frozenset(symbols)
            talk.mirror.ask_rows()
            await self._ask(Subscribe(self._new_id(), symbols))

    async def unsubscribe(self, *symbols: str) -> None:
        """See these symbols no more. Raises: as :meth:`order`."""
        talk = self._talk
        seen = frozenset(self.rows) if talk.symbols is None else talk.symbols
        talk.symbols = seen - frozenset(symbols)
        talk.mirror.ask_rows()
        await self._ask(Unsubscribe(self._new_id(), symbols))

    async def refresh(self) -> None:
        """Ask for everything anew; it comes as a snapshot. Raises: as :meth:`order`."""
        await self._ask(SnapshotRequest(self._new_id()))

    def cut(self) -> None:
        """Lose the connection, as a network does; the conversation goes on over the next one."""
        self._talk.cut()

    def away(self) -> AbstractContextManager[None]:
        """Lose the connection for the length of a block, as a network does."""
        return self._talk.away()

    def _has_failed(self, before: SimulatorState) -> bool:
        """Say whether a simulator has failed since another state was told."""
        return self.simulator.state == "failed" and self.simulator is not before

    def _new_id(self) -> str:
        self._ids_count += 1
        return f"{self._prefix}-{self._ids_count}"

    async def _ask(self, frame: Wish, timeout_s: float | None = None) -> Any:
        return await self._talk.ask(frame, self._talk.timeout_s if timeout_s is None else timeout_s)

    async def _placed(self, frame: Wish, timeout_s: float | None) -> Placed:
        answer = await self._ask(frame, timeout_s)
        try:
            return msgspec.convert(answer, Placed)
        except msgspec.ValidationError as error:
            raise RemoteProtocolError(str(error), "what became of an order", "session.v1") from error
