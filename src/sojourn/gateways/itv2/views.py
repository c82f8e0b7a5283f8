"""What panels need of a session, and what those who look at panels are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from sojourn.gateways.itv2.answers import Answer
from sojourn.gateways.itv2.events import PanelEvent
from sojourn.gateways.itv2.messages import Command, OpenSession, Unknown
from sojourn.gateways.itv2.state import Change

if TYPE_CHECKING:
    from sojourn.gateways.itv2.panels import Panel

Phase = Literal["disconnected", "handshake", "replay", "reading configuration", "reading status", "connected"]


class PanelLink(Protocol):
    """The session that a panel has now, as far as panels need it."""

    @property
    def opening(self) -> OpenSession | None:
        """What the panel said of itself."""

    def note_sent(self, party: str, name: str, text: str = "") -> None:
        """Write into the session's trace what somebody else than the panel was told; never a secret."""

    def note_received(self, party: str, name: str, text: str = "", *, is_error: bool = False) -> None:
        """Write into the session's trace what somebody else than the panel has asked for; never a secret."""

    async def execute(self, command: Command | Unknown, *, within_s: float | None = None) -> Answer:
        """Send a command and wait for its answer; never raises for what the panel or the network does."""


class PanelView(Protocol):
    """Somebody who is told; plain calls that must not block. What one raises reaches no other."""

    def changed(self, panel: Panel, changes: Sequence[Change]) -> None:
        """Values are new, or known anew."""

    def happened(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Something happened, and not in a replay."""

    def phase_changed(self, panel: Panel) -> None:
        """``panel.phase`` or ``panel.diagnosis`` is another."""

    def configuration_changed(self, panel: Panel) -> None:
        """Zones or partitions came, went or have other names; or the panel itself did."""
