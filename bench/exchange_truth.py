"""The truth, what simulators say that happened, and the law: each client was told just that, in order, once.

Simulators are asked at the end, over gRPC, under an epoch above every owner's. Pure but for that.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from exchange_traders import FINAL, Trader

from sojourn.core.breaker import Breakers
from sojourn.core.clock import monotonic
from sojourn.core.settings import BreakerSettings
from sojourn.gateways.exchange.bodies import order_value
from sojourn.gateways.exchange.market.simulation import Event, Portfolio, Row
from sojourn.gateways.exchange.peer import SNAPSHOT, LiveEvent
from sojourn.gateways.exchange.sim.codec import SimulatorSnapshot
from sojourn.gateways.exchange.sim.link import SimulatorLink, ask_status
from sojourn.gateways.exchange.sim.reader import LinkState, Ownership
from sojourn.gateways.exchange.view import ALL_ORDERS, ENDED_ORDERS_COUNT

ASK_S: Final = 30.0
EPOCH: Final = 2**40
"""Above all epochs: who asks for the truth is the last owner."""


class _Listener:
    """A reader that keeps the events, and nothing else."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.first = 0
        self.has_forgotten = False

    def on_link(self, state: LinkState, detail: str) -> None:
        """Nothing: the link tries again."""

    def on_fenced(self, by_epoch: int) -> None:
        """Nothing: nobody is above us."""

    def on_snapshot(self, snapshot: SimulatorSnapshot) -> None:
        """Take note that it does not remember all."""
        del snapshot
        self.has_forgotten = True

    def on_events(self, events: Sequence[Event]) -> None:
        """Keep them."""
        self.events += [order_value(event.update) for event in events]

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Nothing."""

    def on_portfolio(self, portfolio: Portfolio) -> None:
        """Nothing."""


class Truth(msgspec.Struct):
    """What one simulator says: who it is, and all that has happened, by number from 1."""

    run: str
    events: list[dict[str, Any]]


async def ask_run(endpoint: str) -> str:
    """Return which run of a simulator answers there. Raises: BackendUnavailable."""
    return (await ask_status(endpoint, timeout_s=ASK_S)).run


async def ask_truth(endpoint: str, session: str, simulator: str) -> Truth:
    """Return all that has happened in a simulator. Raises: BackendUnavailable, TimeoutError, AssertionError."""
    status = await ask_status(endpoint, timeout_s=ASK_S)
    listener = _Listener()
    link = SimulatorLink(
        endpoint,
        Ownership(session, EPOCH, simulator),
        listener,
        breakers=Breakers(BreakerSettings(), monotonic),
    )
    async with asyncio.TaskGroup() as following:
        following.create_task(link.run())
        try:
            async with asyncio.timeout(ASK_S):
                while len(listener.events) < status.seq:
                    assert not listener.has_forgotten, (
                        "the simulator remembers no more events: trade less, or shorter"
                    )
                    await asyncio.sleep(0.02)
        finally:
            link.close()
    return Truth(status.run, listener.events)


_COUNTS: Final = (
    "events",
    "lost",
    "doubled",
    "moved",
    "foreign",
    "broken",
    "executed_twice",
    "missing_orders",
    "orders",
)


@dataclass
class Verdict:
    """What the law says of one client, or of all together.

    ``lost``, ``doubled`` and ``moved`` count events; ``foreign`` are events that never happened.
    """

    events: int = 0
    lost: int = 0
    doubled: int = 0
    moved: int = 0
    foreign: int = 0
    broken: int = 0
    executed_twice: int = 0
    missing_orders: int = 0
    orders: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """The law is kept."""
        return not (
            self.lost
            or self.doubled
            or self.moved
            or self.foreign
            or self.broken
            or self.executed_twice
            or self.missing_orders
            or self.notes
        )

    def add(self, other: Verdict) -> None:
        """Add another client's."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes += other.notes


def judge(trader: Trader, truth: Truth) -> Verdict:
    """Compare what a client was told with what has happened."""
    verdict = Verdict(orders=len(trader.placed), broken=trader.live.stats.gaps_count)
    told: Counter[int] = Counter()
    covered: set[int] = set()
    """What a snapshot has stood for."""
    segments = _segments(trader.events)
    for number, (snapshot, events) in enumerate(segments):
        seqs = _places(events, truth.events)
        if seqs is None:
            verdict.foreign += len(events)
            continue
        is_last = number == len(segments) - 1
        if number and (seqs or is_last):
            begin = seqs[0] if seqs else len(truth.events) + 1
            since = max(told, default=0)
            if _is_right(snapshot, truth.events, since, begin):
                covered |= set(range(since + 1, begin))
        for seq in seqs:
            verdict.doubled += told[seq] > 0
            told[seq] += 1
        verdict.events += len(events)
        verdict.moved += sum(b < a for a, b in itertools.pairwise(seqs))
    verdict.lost = sum(not told[seq] and seq not in covered for seq in range(1, len(truth.events) + 1))
    _judge_orders(trader, truth, verdict)
    if trader.error:
        verdict.notes.append(f"{trader.name}: {trader.error}")
    verdict.notes += [f"{trader.name}: {one}" for one in trader.contradictions]
    return verdict


def _segments(events: Iterable[LiveEvent]) -> list[tuple[LiveEvent | None, list[LiveEvent]]]:
    """Cut what was told at each snapshot that does not merely repeat where the client stands, and at events ``orders``.

    Those are in the log of an owner who knew no better: they stand for what the simulator had told before.
    """
    segments: list[tuple[LiveEvent | None, list[LiveEvent]]] = []
    for event in events:
        if event.type == ALL_ORDERS:
            segments.append((event, []))
        elif event.type == SNAPSHOT:
            last = segments[-1][1][-1] if segments and segments[-1][1] else None
            if last is None or (last.epoch, last.offset) != (event.epoch, event.offset):
                segments.append((event, []))
        else:
            if not segments:
                segments.append((None, []))
            segments[-1][1].append(event)
    return segments


def _places(events: Sequence[LiveEvent], truth: Sequence[dict[str, Any]]) -> list[int] | None:
    """Return the number of each event in the truth; None if one is not of it.

    Offsets of a log and numbers of a simulator differ by a constant; the first event says which.
    """
    if not events:
        return []
    first = events[0]
    for start, body in enumerate(truth, 1):
        if body != first.data:
            continue
        shift = start - first.offset
        seqs = [event.offset + shift for event in events]
        if all(
            seq <= len(truth) and truth[seq - 1] == event.data
            for seq, event in zip(seqs, events, strict=True)
        ):
            return seqs
    return None


def _is_right(snapshot: LiveEvent | None, truth: Sequence[dict[str, Any]], since: int, begin: int) -> bool:
    """Say whether a snapshot stands for the events behind ``since`` and before ``begin``.

    What it says of an order is what the last event said; it names every open order, and those of the missed events.
    """
    if snapshot is None:
        return False
    latest: dict[int, dict[str, Any]] = {}
    for body in truth[: begin - 1]:
        latest[body["order"]] = body
    named = {order["order"]: order for order in snapshot.data["orders"]}
    wanted = {number for number, body in latest.items() if body["status"] not in FINAL}
    missed = {body["order"] for body in truth[since : begin - 1]}
    if len(missed) < ENDED_ORDERS_COUNT:
        wanted |= missed
    return named.keys() >= wanted and all(
        _whole(latest.get(number, {})) == _whole(order) for number, order in named.items()
    )


def _whole(order: dict[str, Any]) -> dict[str, Any]:
    """Return an order without the fill that its last event told, which a simulator's own snapshot does not repeat."""
    return {key: value for key, value in order.items() if key != "last"}


def _judge_orders(trader: Trader, truth: Truth, verdict: Verdict) -> None:
    """See that every order that was acknowledged exists, and that no id is two orders."""
    numbers: dict[str, set[int]] = {}
    for body in truth.events:
        numbers.setdefault(body["id"], set()).add(body["order"])
    for name, found in numbers.items():
        if len(found) > 1:
            verdict.executed_twice += 1
            verdict.notes.append(f"{name} was executed as {sorted(found)}")
    for name, number in trader.placed.items():
        if numbers.get(name) != {number}:
            verdict.missing_orders += 1
            verdict.notes.append(f"{name}, acknowledged as {number}, is {numbers.get(name)}")
