"""Carries commands out for whoever came in, over REST or a WebSocket: checks, request ids, what is told of refusals.

Wrong codes are counted by the panel, per token, and no more are sent before it locks its keypads.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from sojourn.core.events import EventKind, Events
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.orders import Order, command_of
from sojourn.gateways.itv2.http.problems import Kind, Refusal
from sojourn.gateways.itv2.http.shown import outcome_of
from sojourn.web.idempotency import fingerprint

if TYPE_CHECKING:
    from sojourn.gateways.itv2.http.tokens import Holder
    from sojourn.gateways.itv2.hub import PanelHub
    from sojourn.gateways.itv2.panels import Panel

COMMAND_REFUSED: Final = EventKind(
    "itv2.api_command_refused", ("token", "panel", "command", "why"), level="warning"
)
"""A command that came over HTTP did not get as far as the panel; those that do are told by ``itv2.command``."""

REQUEST_ID_BYTES: Final = 8


class Ask(NamedTuple):
    """What somebody wants of a panel.

    ``number`` is of the partition or user, 0 for the panel itself. The same ``request_id`` again gives the first
    outcome; None: a new one. ``way`` is the interface that it came by, for traces.
    """

    panel: Panel
    order: Order
    number: int
    body: t.Body | None
    request_id: str | None
    way: str = ""


class Carrier:
    """Carries commands out, once per request id.

    Args:
        hub: the panels.
        events: where refusals are told.
        requests_count: request ids that are remembered with what they were for.
    """

    def __init__(self, hub: PanelHub, events: Events, requests_count: int) -> None:
        self._hub = hub
        self._events = events
        self._requests_count = requests_count
        self._requests: OrderedDict[tuple[str, str, str | None], bytes] = OrderedDict()

    def panel(self, holder: Holder, name: str) -> Panel:
        """Return a panel by its name. Raises: Refusal where there is none for this token."""
        panel = self._hub.panels.get(name)
        if panel is None or not holder.sees(name):
            raise Refusal(Kind.NOT_FOUND)
        return panel

    async def carry_out(self, holder: Holder, ask: Ask) -> t.CommandOutcome:
        """Carry a command out to its end, whether or not its client waits.

        Raises: Refusal if it is not for this token, or the request id was used for something else.
        """
        panel, order = ask.panel, ask.order
        try:
            command = command_of(order, holder, ask.number, ask.body)
            if ask.request_id is not None:
                self._check(holder, ask)
        except Refusal as refusal:
            why = refusal.detail or refusal.kind.title
            self._events.emit(COMMAND_REFUSED, None, holder.name, panel.name, order.name, why)
            raise
        request_id = ask.request_id or secrets.token_hex(REQUEST_ID_BYTES)
        return outcome_of(panel.name, await panel.carry_out(command, holder.asker(ask.way), request_id))

    def _check(self, holder: Holder, ask: Ask) -> None:
        """Note what a request id is for. Raises: Refusal if it was for something else."""
        key = (holder.name, ask.panel.name, ask.request_id)
        digest = _digest(ask)
        if self._requests.setdefault(key, digest) != digest:
            raise Refusal(Kind.KEY_REUSED)
        self._requests.move_to_end(key)
        if len(self._requests) > self._requests_count:
            self._requests.popitem(last=False)


def _digest(ask: Ask) -> bytes:
    """Return what two requests for the same have in common, however they were written."""
    body = b"" if ask.body is None else msgspec.json.encode(ask.body)
    return fingerprint(ask.order.name, str(ask.number), body)
