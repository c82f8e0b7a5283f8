"""ExchangeClient: a user's side of the exchange gateway, for ``sojourn probe exchange``, demos, measurements and tests.

REST for what is asked once, a live session for all the rest. It asks and reports; it decides nothing.
What it does not know on purpose: configuration, terminals, and how a server decides.

::

    async with ExchangeClient(["http://127.0.0.1:8090"], Secret(token), device="laptop-1") as client:
        session = await client.create_session()
        async with client.live(session.id) as live:
            await live.start_simulator()
            print(await live.order("AAPL", "buy", 10, "175.25"))
            async for event in live.events():
                print(event)

Source: exchange-session-service.md sections 5.3 and 5.4.
"""

from __future__ import annotations

import asyncio
import random as _random
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, RemoteProtocolError
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.messages import (
    SUBPROTOCOL_JSON,
    SUBPROTOCOL_MSGPACK,
    Resume,
    SideName,
    TifName,
    TypeName,
)
from sojourn.gateways.exchange.peer.calls import Calls, Declined, Sleep, Socket, Token
from sojourn.gateways.exchange.peer.conversation import Conversation
from sojourn.gateways.exchange.peer.live import LiveSession
from sojourn.gateways.exchange.peer.returning import Verdict
from sojourn.gateways.exchange.problems import TYPE_PREFIX, Problem

_WEBSOCKET: Final = "/v1/ws"
_TICKET_PROTOCOL: Final = "ticket."
_KEY_BYTES: Final = 12
_PAGE_COUNT: Final = 100


class ExchangeClient:
    """A user on a device, towards one or several servers of a gateway.

    Use as ``async with ExchangeClient(...) as client``: on leaving, its connections are closed.

    Args:
        endpoints: base URLs, such as ``http://127.0.0.1:8090``; the next one is tried when one fails.
        token: who we are; or a function that returns a new one, asked first and whenever the old one is refused.
        device: the same for each visit of one device.
        tls: a context of :func:`sojourn.core.tls.client_context`; None for the system's.
        timeout_s: of one call, repetitions included.
        random: a number in [0, 1), for waits.
        sleep: waits before something is tried again.
        clock: monotonic seconds.
    Raises: out of every method: Declined if the server says no, BackendUnavailable if no server answered in time,
        RemoteProtocolError if what came is no answer.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        token: Token,
        *,
        device: str = "python",
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        random: Callable[[], float] = _random.random,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = monotonic,
    ) -> None:
        self.device = device
        self.calls = Calls(endpoints, token, tls=tls, timeout_s=timeout_s, random=random, sleep=sleep)
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self.calls.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.calls.close()

    # Sessions

    async def create_session(self, attributes: Mapping[str, str] | None = None) -> t.Session:
        """Open a session on our device, or come back to the one that is there."""
        wish = t.CreateSession(device=self.device, attributes=dict(attributes or {}))
        return await self.calls.ask("POST", "/v1/sessions", t.Session, body=wish, key=_new_key())

    async def list_sessions(self, *, limit_count: int = _PAGE_COUNT, before: str = "") -> t.SessionPage:
        """Return our sessions, the newest first, ended ones too."""
        query: dict[str, str | int] = {"limit": limit_count, **({"before": before} if before else {})}
        return await self.calls.ask("GET", "/v1/sessions", t.SessionPage, query=query)

    async def readiness(self) -> t.Readiness:
        """Return what a server says of itself; Declined if it takes no new sessions."""
        return await self.calls.ask("GET", "/readyz", t.Readiness)

    async def get_session(self, session_id: str) -> t.Session:
        """Return a session of ours, ended or not."""
        return await self.calls.ask("GET", f"/v1/sessions/{session_id}", t.Session)

    async def end_session(self, session_id: str) -> None:
        """End a session and its simulator; ending it twice is ending it once."""
        await self.calls.ask("DELETE", f"/v1/sessions/{session_id}", type(None))

    async def ticket(self, session_id: str) -> t.Ticket:
        """Return a ticket, which opens one WebSocket."""
        return await self.calls.ask("POST", f"/v1/sessions/{session_id}/ticket", t.Ticket)

    async def snapshot(self, session_id: str) -> t.SessionSnapshot:
        """Return everything as it stands."""
        return await self.calls.ask("GET", f"/v1/sessions/{session_id}/snapshot", t.SessionSnapshot)

    async def events_after(
        self, session_id: str, after: int, *, epoch: int = 0, limit_count: int = _PAGE_COUNT
    ) -> t.EventPage:
        """Return events behind an offset; ``epoch`` is 0 for the present one."""
        query = {"after": after, "epoch": epoch, "limit": limit_count}
        return await self.calls.ask("GET", f"/v1/sessions/{session_id}/events", t.EventPage, query=query)

    # Simulators

    async def set_simulator(
        self, session_id: str, desired: Literal["running", "stopped"], spec: MarketSettings | None = None
    ) -> t.Simulator:
        """Want a simulator or none; returns at once, whatever becomes of it."""
        wish = t.SimulatorWish(desired=desired, spec=spec)
        return await self.calls.ask("PUT", f"/v1/sessions/{session_id}/simulator", t.Simulator, body=wish)

    async def get_simulator(self, session_id: str) -> t.Simulator:
        """Return where the session's simulator stands."""
        return await self.calls.ask("GET", f"/v1/sessions/{session_id}/simulator", t.Simulator)

    async def progress(self, session_id: str) -> AsyncGenerator[t.Progress, None]:
        """Yield where the simulator stands, at once and at each change, until it is ``done``."""
        path = f"/v1/sessions/{session_id}/simulator/progress"
        async with aclosing(self.calls.stream(path)) as stream:
            async for name, data in stream:
                try:
                    if name == "problem":
                        problem = msgspec.json.decode(data, type=Problem)
                        raise Declined(
                            problem.type.removeprefix(TYPE_PREFIX), problem.detail or problem.title
                        )
                    step = msgspec.json.decode(data, type=t.Progress)
                except msgspec.DecodeError as error:
                    raise RemoteProtocolError(str(error), "a step of progress", path) from error
                yield step
                if step.done:
                    return

    async def start_simulator(
        self,
        session_id: str,
        spec: MarketSettings | None = None,
        *,
        on_progress: Callable[[t.Progress], object] = lambda _: None,
        timeout_s: float = 60.0,
    ) -> t.Simulator:
        """Want a simulator, and wait until it runs.

        Raises: Declined with the code ``simulator_failed`` and why, if it does not come to that.
        """
        await self.set_simulator(session_id, "running", spec)
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._follow(session_id, on_progress):
                    await self.calls.sleep(self.calls.random())
        except TimeoutError:
            raise BackendUnavailable("the simulator", timeout_s, "it does not run yet") from None
        simulator = await self.get_simulator(session_id)
        if simulator.state != "running":
            raise Declined("simulator_failed", simulator.failure or f"it is {simulator.state}")
        return simulator

    async def _follow(self, session_id: str, on_progress: Callable[[t.Progress], object]) -> bool:
        """Follow the steps to the last one; False if the stream ends before."""
        try:
            async with aclosing(self.progress(session_id)) as steps:
                async for step in steps:
                    on_progress(step)
                    if step.done:
                        return True
        except BackendUnavailable:
            self.calls.go_elsewhere()
        return False

    # Orders

    async def submit_order(
        self,
        session_id: str,
        symbol: str,
        side: SideName,
        quantity: int,
        price: str | None = None,
        *,
        tif: TifName | None = None,
        key: str = "",
    ) -> t.Order:
        """Place an order; without a price it is a market order. The same key is the same order."""
        kind: TypeName = "market" if price is None else "limit"
        order = t.NewOrder(symbol=symbol, side=side, quantity=quantity, type=kind, price=price, tif=tif)
        path = f"/v1/sessions/{session_id}/orders"
        return await self.calls.ask("POST", path, t.Order, body=order, key=key or _new_key())

    async def replace_order(self, session_id: str, order: int, quantity: int, price: str) -> t.Order:
        """Give an order another quantity, what is filled of it included, and another price."""
        change = t.OrderChange(quantity=quantity, price=price)
        path = f"/v1/sessions/{session_id}/orders/{order}"
        return await self.calls.ask("PUT", path, t.Order, body=change, key=_new_key())

    async def cancel_order(self, session_id: str, order: int) -> t.Order:
        """Take back what is left of an order."""
        return await self.calls.ask("DELETE", f"/v1/sessions/{session_id}/orders/{order}", t.Order)

    async def list_orders(
        self, session_id: str, *, limit_count: int = _PAGE_COUNT, before: int = 0
    ) -> t.OrderPage:
        """Return orders, the newest first."""
        query = {"limit": limit_count, "before": before}
        return await self.calls.ask("GET", f"/v1/sessions/{session_id}/orders", t.OrderPage, query=query)

    # Live

    def live(
        self,
        session_id: str,
        *,
        symbols: Iterable[str] | None = None,
        resume: Resume | None = None,
        is_binary: bool = False,
        uses_tickets: bool = False,
        timeout_s: float = 30.0,
        events_count: int = 10_000,
    ) -> LiveSession:
        """Return a conversation with a session, to be entered with ``async with``.

        Args:
            symbols: whose rows are wanted; None for all.
            resume: where an earlier conversation ended, such as ``LiveEvent.resume``; what was missed comes first, then
                a snapshot of how things stand.
            is_binary: MessagePack instead of JSON.
            uses_tickets: open WebSockets as web pages do, without an Authorization header.
            timeout_s: of a request, and of everything until the first greeting.
            events_count: events that may wait for whoever takes them.
        """
        protocol = SUBPROTOCOL_MSGPACK if is_binary else SUBPROTOCOL_JSON

        async def dial() -> Socket | Verdict:
            return await self._dial(session_id, protocol, uses_tickets=uses_tickets)

        conversation = Conversation(
            self.calls,
            dial,
            device=self.device,
            symbols=None if symbols is None else frozenset(symbols),
            resume=resume,
            is_binary=is_binary,
            timeout_s=timeout_s,
            events_count=events_count,
            clock=self._clock,
        )
        return LiveSession(session_id, conversation)

    async def _dial(self, session_id: str, protocol: str, *, uses_tickets: bool) -> Socket | Verdict:
        """Open a WebSocket. Raises: Declined."""
        if not uses_tickets:
            query = {"session": session_id}
            return await self.calls.dial(_WEBSOCKET, query=query, protocols=(protocol,), with_token=True)
        try:
            ticket = await self.ticket(session_id)
        except BackendUnavailable as error:
            return Verdict(str(error), is_elsewhere=True)
        protocols = (protocol, _TICKET_PROTOCOL + ticket.ticket)
        return await self.calls.dial(ticket.path, query={}, protocols=protocols, with_token=False)


def _new_key() -> str:
    return secrets.token_hex(_KEY_BYTES)
