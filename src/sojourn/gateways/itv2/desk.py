"""Where commands wait for their turn with a panel: scopes, request ids, a bounded queue with a deadline, the audit.

Knows nothing of how a command is carried out (:mod:`procedures` does).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from sojourn.core.events import EventKind
from sojourn.gateways.itv2 import procedures
from sojourn.gateways.itv2.commands import SCOPES, Asker, Outcome, PanelCommand, ReadSections, ReadUsers
from sojourn.gateways.itv2.events import Detail, Kind
from sojourn.gateways.itv2.tracker import Update

if TYPE_CHECKING:
    from sojourn.gateways.itv2.hub import PanelHub
    from sojourn.gateways.itv2.panels import Panel

COMMAND: Final = EventKind("itv2.command", ("panel", "asker", "command", "request_id", "result", "reason"))
"""A command of somebody is over."""
COMMAND_FAILED: Final = EventKind("itv2.command_failed", ("panel", "command", "problem"), level="error")
"""A bug in a procedure: nobody can say how far it came."""


class CommandDesk:
    """The commands of one panel. Life: its panel's.

    Always true: at most one of them is with the panel; each has exactly one outcome, and one line in the audit.
    """

    def __init__(self, panel: Panel, hub: PanelHub) -> None:
        self._panel = panel
        self._hub = hub
        self._waiting_count = 0
        self.requests: OrderedDict[tuple[str, str], tuple[float, asyncio.Future[Outcome]]] = OrderedDict()
        """Outcomes by asker and request id, each with the moment until which it is kept; the oldest in front."""

    async def carry_out(self, command: PanelCommand, asker: Asker, request_id: str) -> Outcome:
        """Carry a command out once, to its end even if the caller does not wait for it."""
        key = (asker.name, request_id)
        self._forget_requests()
        if key in self.requests:
            return await asyncio.shield(self.requests[key][1])
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.requests[key] = (self._hub.clock() + self._hub.settings.request_ids_keep_s, future)
        reason = self._why_not(command, asker)
        if reason is None and not self._hub.spawn(self._work(command, asker, request_id, future)):
            reason = "the gateway is not running"
        if reason is not None:
            self._over(command, asker, Outcome(request_id, "rejected", reason), future)
        return await asyncio.shield(future)

    def _forget_requests(self) -> None:
        now = self._hub.clock()
        limit = self._hub.settings.request_ids_count
        while self.requests:
            key, (until, future) = next(iter(self.requests.items()))
            if (until > now and len(self.requests) < limit) or not future.done():
                return
            del self.requests[key]

    def _why_not(self, command: PanelCommand, asker: Asker) -> str | None:
        missing = [scope for scope in SCOPES[type(command)] if scope not in asker.scopes]
        if missing and "admin" not in asker.scopes:
            return f"{asker.name} may not do this: it needs the scope {' and '.join(missing)}"
        if self._waiting_count >= self._hub.settings.commands_count:
            return "too many commands wait for this panel"
        return None

    async def _work(
        self, command: PanelCommand, asker: Asker, request_id: str, future: asyncio.Future[Outcome]
    ) -> None:
        outcome = Outcome(request_id, "unknown", "the gateway is being stopped")
        try:
            outcome = await self._in_turn(command, asker, request_id)
        except Exception as error:  # noqa: BLE001 - a bug in one procedure must not end the hub's work for all panels
            self._panel.emit(COMMAND_FAILED, procedures.name_of(command), type(error).__name__)
            outcome = Outcome(request_id, "unknown", "internal error of the gateway")
        finally:
            self._over(command, asker, outcome, future)

    async def _in_turn(self, command: PanelCommand, asker: Asker, request_id: str) -> Outcome:
        turn = self._panel.turn
        self._waiting_count += 1
        try:
            async with asyncio.timeout(self._hub.settings.command_within_s):
                await turn.acquire()
        except TimeoutError:
            return Outcome(request_id, "rejected", "the panel is busy with other commands")
        finally:
            self._waiting_count -= 1
        try:
            if self._hub.is_leaving:
                return Outcome(request_id, "rejected", "the gateway is being stopped")
            return await self._with_panel(command, asker, request_id)
        finally:
            turn.release()

    async def _with_panel(self, command: PanelCommand, asker: Asker, request_id: str) -> Outcome:
        """Carry a command out; the trace of the panel's session tells who has ordered it and what came of it."""
        link = self._panel.session
        if link is not None:
            details = ", ".join(f"{name} {value}" for name, value in _told_of(command).items())
            link.note_received(asker.party, procedures.name_of(command), details)
        outcome = await procedures.carry_out(self._panel, command, asker, request_id)
        if link is not None:
            link.note_sent(asker.party, outcome.result, outcome.reason)
        return outcome

    def _over(
        self, command: PanelCommand, asker: Asker, outcome: Outcome, future: asyncio.Future[Outcome]
    ) -> None:
        """Give the outcome to whoever waits, and to the audit."""
        if not future.done():
            future.set_result(outcome)
        if isinstance(command, (ReadUsers, ReadSections)):
            # It may be asked again without harm; what was read is kept nowhere.
            self.requests.pop((asker.name, outcome.request_id), None)
        name = procedures.name_of(command)
        self._panel.emit(COMMAND, asker.name, name, outcome.request_id, outcome.result, outcome.reason)
        partition: int | None = getattr(command, "partition", None)
        detail: Detail = {
            "asker": asker.name,
            "command": name,
            "request_id": outcome.request_id,
            "result": outcome.result,
            "reason": outcome.reason,
            **procedures.shown_of(command),
        }

        def audit(update: Update) -> None:
            update.happened(Kind.COMMAND, "partition" if partition else "panel", partition or 0, detail)

        self._panel.update(audit, source="live")


def _told_of(command: PanelCommand) -> Detail:
    """Return what of a command may be shown in a trace: never a code."""
    partition: int | None = getattr(command, "partition", None)
    return {**({"partition": partition} if partition else {}), **procedures.shown_of(command)}
