"""Who takes what a link to a simulator brings, and the words that both use."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from sojourn.gateways.exchange.market.simulation import Event, Portfolio, Row
from sojourn.gateways.exchange.sim.codec import SimulatorSnapshot


class LinkState(StrEnum):
    """Where a link stands. FENCED, FOREIGN, ENDED and CLOSED are final."""

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    FENCED = "fenced"
    FOREIGN = "foreign"
    ENDED = "ended"
    CLOSED = "closed"


class Ownership(NamedTuple):
    """As whom a link comes: the session, its owner's epoch, and the simulator that is meant."""

    session: str
    epoch: int
    simulator: str = ""


class SimulatorReader(Protocol):
    """Who takes what a link brings; all is called in the loop, in order, and must neither wait nor raise."""

    def on_link(self, state: LinkState, detail: str) -> None:
        """Take note of where the link stands, once per change; ``detail`` is for people."""

    def on_fenced(self, by_epoch: int) -> None:
        """Let go of the session: another process owns it; told once, and nothing comes after it."""

    def on_snapshot(self, snapshot: SimulatorSnapshot) -> None:
        """Replace all that is known of orders; events go on after ``snapshot.seq``."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Take what happened next."""

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Take the rows that have changed; all of them after each connect."""

    def on_portfolio(self, portfolio: Portfolio) -> None:
        """Take what the user has."""
