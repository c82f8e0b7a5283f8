"""Desk: the simulation, and whom it obeys; owners and epochs, requests that come twice, what a reader still lacks.

Everything a simulator promises is kept here, without a socket: the service above only carries the messages. Time is
handed in as a clock and passes when somebody asks.
"""

from __future__ import annotations

import copy
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from sojourn.core.clock import Clock
from sojourn.errors import SojournError
from sojourn.gateways.exchange.market.engine import Request
from sojourn.gateways.exchange.market.orders import Order, Reject
from sojourn.gateways.exchange.market.simulation import Event, Simulation
from sojourn.gateways.exchange.sim.codec import (
    event_to,
    order_to,
    portfolio_to,
    result_to,
    row_to,
    snapshot_to,
)
from sojourn.gateways.exchange.sim.stubs import pb

REQUEST_ID_CHARACTERS: Final = 64
SYMBOL_CHARACTERS: Final = 12
REQUESTS_COUNT: Final = 10_000
"""Answers that are kept for who asks again; as many orders as the market remembers."""
SNAPSHOT_ENDED_COUNT: Final = 1_000
"""Ended orders in a snapshot, the last ones; open ones are all in it."""
EVENTS_PER_UPDATE_COUNT: Final = 500

RefusalCode = Literal["fenced", "foreign", "draining", "malformed"]
OrderRequest = pb.SubmitOrderRequest | pb.CancelOrderRequest | pb.ReplaceOrderRequest


class Refused(SojournError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """The caller may not, or not so; nothing has changed.

    Args:
        code: why: a smaller epoch, another session's or another simulator's, no orders any more, or against the rules.
        why: in words for people.
    """

    def __init__(self, code: RefusalCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Cursor:
    """How far one reader is; made by :meth:`Desk.attach`."""

    __slots__ = ("has_begun", "portfolio_revision", "revision", "seq")

    def __init__(self, seq: int | None) -> None:
        self.seq = seq
        """None = to begin with a snapshot."""
        self.revision = self.portfolio_revision = -1
        self.has_begun = False


class Desk:
    """One simulation and its owner.

    Life: the service makes one and keeps it to its end. Always true: ``owner_epoch`` only grows; no call of a smaller
    epoch has an effect.

    Args:
        simulation: just made.
        simulator: its name; empty = whatever an owner calls it.
        session: whose it is; empty = the first owner says, and what it is called from then on.
        clock: monotonic seconds.
        speed: milliseconds of the market per millisecond of the clock; 0 = only orders move it.
    """

    def __init__(
        self, simulation: Simulation, *, simulator: str, session: str, clock: Clock, speed: float = 1.0
    ) -> None:
        self.simulation = simulation
        self.simulator = simulator
        self.session = session
        self.speed = speed
        self.run = secrets.token_hex(8)
        self.owner_epoch = 0
        self.is_draining = False
        self._clock = clock
        self._began = self._heard = clock()
        self._answers: OrderedDict[str, tuple[bytes, pb.OrderReply]] = OrderedDict()

    # Time

    def advance(self) -> None:
        """Let the market run until now."""
        self.simulation.advance(int((self._clock() - self._began) * 1000 * self.speed))

    @property
    def next_step_s(self) -> float | None:
        """How long until the market moves next; None if it does not by itself."""
        if not self.speed:
            return None
        due_s = self.simulation.next_step_ms / self.speed / 1000
        return max(0.0, self._began + due_s - self._clock())

    @property
    def silent_s(self) -> float:
        """How long the owner has not been heard of."""
        return self._clock() - self._heard

    # Owners

    def obey(self, owner: pb.Owner) -> None:
        """Take note of who calls.

        Raises: Refused if the caller is not the owner, or is none any more.
        """
        if not owner.session or not owner.epoch:
            raise Refused("malformed", "owner: wanted a session and an epoch above 0")
        if self.session and (
            owner.session != self.session or (self.simulator and owner.simulator not in ("", self.simulator))
        ):
            raise Refused("foreign", "this simulator belongs to another session")
        if owner.epoch < self.owner_epoch:
            raise Refused("fenced", f"epoch {owner.epoch} is behind {self.owner_epoch}")
        if not self.session:
            self.session = owner.session
            self.simulator = owner.simulator or self.simulator
        self.owner_epoch = owner.epoch
        self._heard = self._clock()

    # Orders

    def submit(self, request: pb.SubmitOrderRequest) -> pb.OrderReply:
        """Take an order. Raises: Refused."""
        if not 0 < len(request.symbol) <= SYMBOL_CHARACTERS:
            raise Refused("malformed", f"symbol: wanted 1 to {SYMBOL_CHARACTERS} characters")
        wanted = Request(
            request.symbol,
            int(request.side),
            request.quantity,
            request.price_e6,
            int(request.type),
            int(request.time_in_force),
            request.request_id,
        )
        return self._answer(request, lambda: self.simulation.submit(wanted))

    def cancel(self, request: pb.CancelOrderRequest) -> pb.OrderReply:
        """Take the rest of an order back. Raises: Refused."""
        return self._answer(request, lambda: self.simulation.cancel(request.number))

    def replace(self, request: pb.ReplaceOrderRequest) -> pb.OrderReply:
        """Change an order. Raises: Refused."""
        return self._answer(
            request, lambda: self.simulation.replace(request.number, request.quantity, request.price_e6)
        )

    def list_orders(self, request: pb.ListOrdersRequest) -> pb.ListOrdersReply:
        """Return the orders that a snapshot has. Raises: Refused."""
        self.obey(request.owner)
        return pb.ListOrdersReply(orders=map(order_to, self._orders()), seq=self.simulation.seq)

    def _answer(self, request: OrderRequest, act: Callable[[], Order | str]) -> pb.OrderReply:
        """Do what is asked, unless it has been asked before; then give the same answer."""
        self.obey(request.owner)
        if not 0 < len(request.request_id) <= REQUEST_ID_CHARACTERS:
            raise Refused("malformed", f"request_id: wanted 1 to {REQUEST_ID_CHARACTERS} characters")
        asked = _fingerprint(request)
        known = self._answers.get(request.request_id)
        if known is not None:
            self._answers.move_to_end(request.request_id)
            if known[0] == asked:
                return known[1]
            return result_to(None, Reject.REQUEST_ID_REUSED, self.simulation.seq)
        if self.is_draining:
            raise Refused("draining", "no more orders: the simulator ends")
        self.advance()
        result = act()
        order, refusal = (None, result) if isinstance(result, str) else (result, "")
        reply = result_to(order, refusal, self.simulation.seq)
        self._answers[request.request_id] = asked, reply
        if len(self._answers) > REQUESTS_COUNT:
            self._answers.popitem(last=False)
        return reply

    def _orders(self) -> list[Order]:
        orders = self.simulation.orders()
        ended = sum(order.is_final for order in orders) - SNAPSHOT_ENDED_COUNT
        if ended <= 0:
            return orders
        old = itertools.islice((order for order in orders if order.is_final), ended)
        numbers = {order.number for order in old}
        return [order for order in orders if order.number not in numbers]

    # Readers

    def attach(self, request: pb.AttachRequest) -> Cursor:
        """Begin to tell an owner what happens. Raises: Refused."""
        self.obey(request.owner)
        is_ours = request.run in ("", self.run)
        return Cursor(request.after_seq if is_ours and not request.wants_snapshot else None)

    def update(self, cursor: Cursor) -> pb.Update | None:
        """Return what a reader lacks and move its cursor there; None if it has everything.

        Rows and the portfolio come as they are now. Events come all, by so many at a time; a reader that is further
        behind than the simulation remembers gets a snapshot.
        """
        simulation = self.simulation
        if cursor.has_begun and cursor.seq == simulation.seq and cursor.revision == simulation.revision:
            return None
        update = pb.Update(time_ms=simulation.time_ms, revision=simulation.revision)
        if not cursor.has_begun:
            cursor.has_begun = True
            update.run = self.run
        events = None if cursor.seq is None else self._events(cursor.seq)
        if events is None:
            update.snapshot.CopyFrom(snapshot_to(self._orders()))
            cursor.seq = simulation.seq
        elif events:
            update.events.extend(map(event_to, events))
            cursor.seq = events[-1].seq
        update.seq = cursor.seq or 0
        if cursor.revision != simulation.revision:
            update.rows.extend(map(row_to, simulation.rows_after(cursor.revision)))
            cursor.revision = simulation.revision
        portfolio = simulation.portfolio()
        if cursor.portfolio_revision != portfolio.revision:
            update.portfolio.CopyFrom(portfolio_to(portfolio))
            cursor.portfolio_revision = portfolio.revision
        return update

    def _events(self, seq: int) -> list[Event] | None:
        """Return the next events after one; None if they are not remembered, or it has not happened."""
        events = self.simulation.events
        start = len(events) - (self.simulation.seq - seq)
        if start < 0 or seq > self.simulation.seq:
            return None
        return list(itertools.islice(events, start, start + EVENTS_PER_UPDATE_COUNT))

    # What it says of itself

    def beat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatReply:
        """Hear that the owner lives. Raises: Refused."""
        self.obey(request.owner)
        simulation = self.simulation
        return pb.HeartbeatReply(seq=simulation.seq, revision=simulation.revision, time_ms=simulation.time_ms)

    def drain(self, request: pb.DrainRequest) -> pb.DrainReply:
        """Take no more orders. Raises: Refused."""
        self.obey(request.owner)
        self.is_draining = True
        return pb.DrainReply(seq=self.simulation.seq)

    def report(self, *, is_attached: bool) -> pb.StatusReply:
        """Describe the simulator."""
        simulation = self.simulation
        return pb.StatusReply(
            simulator=self.simulator,
            session=self.session,
            run=self.run,
            owner_epoch=self.owner_epoch,
            seq=simulation.seq,
            revision=simulation.revision,
            time_ms=simulation.time_ms,
            uptime_ms=int((self._clock() - self._began) * 1000),
            silent_ms=int(self.silent_s * 1000),
            is_attached=is_attached,
            is_draining=self.is_draining,
        )


def _fingerprint(request: OrderRequest) -> bytes:
    """Return what is asked for, whoever asks."""
    asked = copy.deepcopy(request)
    asked.ClearField("owner")
    return asked.DESCRIPTOR.name.encode() + asked.SerializeToString(deterministic=True)
