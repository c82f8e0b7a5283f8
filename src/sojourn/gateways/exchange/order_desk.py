"""OrderDesk: orders over REST, on the way that they take over a WebSocket, and with an answer that says it all.

A frame is answered with the order's number, and its event follows. A request has one answer: so it waits until the
event is durable and this pod has seen it, and who asks for the order next finds it. Should the log be away, what the
simulator has answered is the answer.

Knows no HTTP and no session's rules: rooms come from outside, checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec.structs import replace

from sojourn.gateways.exchange.answers import order_answer, refusal_of
from sojourn.gateways.exchange.links import Command, Refused
from sojourn.gateways.exchange.market.orders import Reject
from sojourn.gateways.exchange.market.settings import amount_e6, amount_text
from sojourn.gateways.exchange.messages import CancelOrder, PlaceOrder, ReplaceOrder
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.rest_types import NewOrder, Order, OrderChange, OrderPage
from sojourn.gateways.exchange.sim.desk import REQUEST_ID_CHARACTERS
from sojourn.gateways.exchange.trace_words import command_words
from sojourn.gateways.exchange.view import FINAL_STATUSES

if TYPE_CHECKING:
    from sojourn.gateways.exchange.room import SessionRoom

DURABLE_S: Final = 2.0
"""How long an answer waits for its event; while the log is away it would wait in vain."""
REST: Final = "REST"
"""Requests of the user over HTTP, as a party in the session's trace."""
ID_BYTES: Final = 16
"""Of the request id that a cancel or a replace gets; they have none of their client's."""


class _Told(msgspec.Struct, frozen=True):
    """What the simulator answers at once."""

    order: int
    status: Literal["new", "partially_filled", "filled", "canceled", "rejected"]
    filled: int

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    def is_in(self, order: Order) -> bool:
        """Say whether an order as it was seen has what was answered."""
        return order.filled >= self.filled and (not self.is_final or order.status in FINAL_STATUSES)

    def on(self, order: Order) -> Order:
        """Return an order with what was answered."""
        remaining = 0 if self.is_final else order.quantity - self.filled
        return replace(order, status=self.status, filled=self.filled, remaining=remaining)


class OrderDesk:
    """Takes orders to rooms.

    Args:
        timeout_s: for the simulator's answer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def place(self, room: SessionRoom, order: NewOrder, key: str) -> Order:
        """Place an order; the same key once more is the same order. Raises: Refusal, BackendUnavailable."""
        request = request_id(key)
        command = PlaceOrder(
            request, order.symbol, order.side, order.quantity, order.type, order.price, order.tif
        )
        after = room.view.log.last
        told = await self._do(room, command)
        seen = await self._seen(
            room, told.order, after, lambda found: found.request == request and told.is_in(found)
        )
        if seen is not None:
            return seen
        return told.on(
            Order(
                order=told.order,
                request=request,
                symbol=order.symbol,
                side=order.side,
                type=order.type,
                tif=order.tif or ("ioc" if order.type == "market" else "gtc"),
                quantity=order.quantity,
                filled=0,
                remaining=order.quantity,
                price=None if order.price is None else _price(order.price),
                status="new",
            )
        )

    async def cancel(self, room: SessionRoom, number: int) -> Order:
        """Take back what is left of an order; one that was canceled stays canceled.

        Raises: Refusal, BackendUnavailable.
        """
        after = room.view.log.last
        known = self._find(room, number)
        try:
            told = await self._do(room, CancelOrder(secrets.token_hex(ID_BYTES), number))
        except Refusal as refusal:
            known = self._find(room, number)
            if refusal.reason == Reject.ORDER_IS_FINAL and known is not None and known.status == "canceled":
                return known
            raise
        return await self._seen(room, number, after, told.is_in) or _completed(known, told)

    async def replace(self, room: SessionRoom, number: int, change: OrderChange) -> Order:
        """Change what is left of an order. Raises: Refusal, BackendUnavailable."""
        after = room.view.log.last
        known = self._find(room, number)
        command = ReplaceOrder(secrets.token_hex(ID_BYTES), number, change.quantity, change.price)
        told = await self._do(room, command)
        wanted = (change.quantity, amount_e6(change.price))

        def is_it(found: Order) -> bool:
            return told.is_in(found) and (found.quantity, amount_e6(found.price or "0")) == wanted

        seen = await self._seen(room, number, after, is_it)
        if seen is not None or known is None:
            return seen or _completed(None, told)
        return told.on(replace(known, quantity=change.quantity, price=_price(change.price)))

    def one(self, room: SessionRoom, number: int) -> Order:
        """Return one order. Raises: Refusal."""
        found = self._find(room, number)
        if found is None:
            raise Refusal(Kind.NOT_FOUND)
        return found

    def page(self, room: SessionRoom, limit_count: int, before: int) -> OrderPage:
        """Return orders, the newest first: open ones, and ended ones as far as the log goes back."""
        orders = room.view.known_orders()
        numbers = sorted((number for number in orders if not before or number < before), reverse=True)
        chosen = numbers[:limit_count]
        rest = chosen[-1] if len(numbers) > limit_count else 0
        return OrderPage(orders=tuple(order_answer(orders[number]) for number in chosen), next=rest)

    @staticmethod
    def _find(room: SessionRoom, number: int, after: int = 0) -> Order | None:
        body = room.view.order(number, after)
        return None if body is None else order_answer(body)

    async def _do(self, room: SessionRoom, command: Command) -> _Told:
        """Have the owner do it. Raises: Refusal, BackendUnavailable, LimitExceeded."""
        room.note_received(REST, *command_words(command))
        try:
            told = await self._told(room, command)
        except Refused as refused:
            room.note_sent(REST, refused.code, refused.detail)
            if refused.detail == Reject.UNKNOWN_ORDER:
                raise Refusal(Kind.NOT_FOUND) from None
            raise refusal_of(refused) from None
        except TimeoutError:
            room.note_sent(REST, "outcome unknown", "the simulator has not answered in time")
            raise Refusal(Kind.OUTCOME_UNKNOWN, "the simulator has not answered in time") from None
        room.note_sent(REST, told.status.replace("_", " "), f"order {told.order}")
        return told

    async def _told(self, room: SessionRoom, command: Command) -> _Told:
        async with asyncio.timeout(self._timeout_s):
            return msgspec.convert(await room.do(command), _Told)

    async def _seen(
        self, room: SessionRoom, number: int, after: int, is_it: Callable[[Order], bool]
    ) -> Order | None:
        """Return an order as soon as an event has told it so; None if none has in time."""
        try:
            async with asyncio.timeout(min(self._timeout_s, DURABLE_S)):
                while True:
                    found = self._find(room, number, after)
                    if found is not None and is_it(found):
                        return found
                    await room.view.change()
        except TimeoutError:
            return None


def request_id(key: str) -> str:
    """Return a key as simulators take it, who know no longer ones."""
    return key if len(key) <= REQUEST_ID_CHARACTERS else hashlib.sha256(key.encode()).hexdigest()


def _price(text: str) -> str:
    """Return a price as events tell it."""
    return amount_text(amount_e6(text))


def _completed(known: Order | None, told: _Told) -> Order:
    """Return an order with what was answered, where no event has told of it in time. Raises: Refusal."""
    if known is None:
        raise Refusal(Kind.OUTCOME_UNKNOWN, "it was done, and cannot be shown yet")
    return told.on(known)
