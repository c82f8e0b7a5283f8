"""What operators ask and order over the admin API: how panels stand, what happened there, what is wrong, who calls.

Needs no ``[itv2.http]``, whose tokens are for programs, and uses its structs and orders. Knows no HTTP.

Codes come in the bodies of orders and go to the panel, nowhere else. Disarming and bypassing need one that a person has
typed, whatever the settings hold: who may operate sessions does not thereby have the key of a house.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.core.panel import AdminPanel, PanelOperation, PanelParameter
from sojourn.gateways.itv2.admin_stream import PanelNews, PanelWatch
from sojourn.gateways.itv2.findings import Finding, findings_of
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.carrying import Ask, Carrier
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.problems import Kind, Refusal
from sojourn.gateways.itv2.http.routes import FILTERS, PAGE, PATH_SCHEMAS
from sojourn.gateways.itv2.http.searching import listed, page_of, query_of
from sojourn.gateways.itv2.http.shown import learning_of, panel_of, summary_of
from sojourn.gateways.itv2.http.tokens import Holder

if TYPE_CHECKING:
    from sojourn.gateways.itv2.commands import Scope
    from sojourn.gateways.itv2.gateway import Itv2Gateway
    from sojourn.gateways.itv2.panels import Panel

PANELS: Final = "/panels"
LEARNING: Final = "/learning"
ASKER: Final = "dashboard"
"""Who gives orders here, for the history; which operator that was is in the server's audit log."""
ORDER_WITHIN_S: Final = 25.0
"""How long an order is waited for, below the 30 s that the admin API gives a request by default."""

_MAY: Final[frozenset[Scope]] = frozenset({"read", "arm", "disarm", "bypass"})
_WITHOUT_CODE: Final = frozenset({"arm", "refresh"})
"""What may be ordered without typing a code: nothing of it opens a door."""
_PARTITION: Final = f"{PANELS}/{{panel}}/partitions/{{partition}}"


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a panel, the gravest first, and which connections of it failed lately, the newest first."""

    findings: tuple[Finding, ...]
    failures: tuple[t.FailedHandshake, ...]


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Connections of anybody that came to nothing, the newest first."""

    failures: tuple[t.FailedHandshake, ...]


def admin_panel(gateway: Itv2Gateway) -> AdminPanel:
    """Return the page and its operations."""
    return PanelPage(gateway).panel()


class PanelPage:
    """Serves the page's operations; every method is one of them.

    Life: as long as its gateway, of which it holds nothing but a reference.
    """

    def __init__(self, gateway: Itv2Gateway) -> None:
        self._gateway = gateway
        self._carrier = Carrier(gateway.hub, gateway.server.events, requests_count=1)

    def panel(self) -> AdminPanel:
        """Return the page."""
        one = f"{PANELS}/{{panel}}"
        return AdminPanel(
            "Alarm panels",
            Path(__file__).with_name("panel.js"),
            (
                PanelOperation("GET", PANELS, "view", "How every panel stands.", self.panels, t.Panels),
                PanelOperation(
                    "GET", one, "view", "Everything that is known of a panel.", self.one, t.PanelDetail
                ),
                PanelOperation(
                    "GET", "/live", "view", "How panels stand, and one of them in full, as it changes.",
                    self.live, PanelNews,
                    query=(PanelParameter("panel", "The one that is told in full; empty = none.", longest=63),),
                    is_stream=True,
                ),
                PanelOperation(
                    "GET", f"{one}/diagnosis", "view", "What is wrong with a panel, and what to do.",
                    self.diagnosis, Diagnosis,
                ),
                PanelOperation(
                    "GET", "/history", "view", "What happened at panels, a page at a time.", self.history,
                    t.HistoryPage, query=tuple(PanelParameter(*parameter) for parameter in (*FILTERS, *PAGE)),
                ),
                PanelOperation(
                    "POST", f"{_PARTITION}/arm", "operate", "Arm a partition.", self.arm, t.CommandOutcome,
                    t.ArmBody, outcome=_outcome,
                ),
                PanelOperation(
                    "POST", f"{_PARTITION}/disarm", "operate", "Disarm a partition; needs a code.", self.disarm,
                    t.CommandOutcome, t.CodeBody, outcome=_outcome,
                ),
                PanelOperation(
                    "POST", f"{_PARTITION}/bypass", "operate", "Bypass zones, or restore them; needs a code.",
                    self.bypass, t.CommandOutcome, t.BypassBody, outcome=_outcome,
                ),
                PanelOperation(
                    "POST", f"{one}/refresh", "operate", "Read all statuses of a panel anew.", self.refresh,
                    t.CommandOutcome, outcome=_outcome,
                ),
                PanelOperation(
                    "GET", "/failures", "view", "Connections that came to nothing lately.", self.failures, Failed
                ),
                PanelOperation(
                    "GET", LEARNING, "view", "Which panels called that are not configured.", self.learning,
                    t.Learning,
                ),
                PanelOperation(
                    "PUT", LEARNING, "admin",
                    "Begin to remember panels that are not configured; they get no answer.", self.learn,
                    t.Learning, t.LearnBody,
                ),
                PanelOperation(
                    "DELETE", LEARNING, "admin", "End that; forgets who has called.", self.forget
                ),
            ),
        )  # fmt: skip

    def _found(self, asked: Mapping[str, Any]) -> Panel:
        panel = self._gateway.hub.panels.get(asked["panel"])
        if panel is None:
            raise Refusal(Kind.NOT_FOUND, "no panel has this name")
        return panel

    # How panels stand

    async def panels(self, _asked: Mapping[str, Any], _body: Any) -> t.Panels:
        """Return every panel, by name."""
        return t.Panels(tuple(summary_of(panel) for _, panel in sorted(self._gateway.hub.panels.items())))

    async def one(self, asked: Mapping[str, Any], _body: Any) -> t.PanelDetail:
        """Return one panel in full. Raises: Refusal if there is none of this name."""
        return panel_of(self._found(asked))

    async def live(self, asked: Mapping[str, Any], _body: Any) -> AsyncIterator[PanelNews]:
        """Return what tells everything and then what changes; a panel that is not there is told of when it is."""
        return PanelWatch(self._gateway.hub, asked["panel"]).news()

    async def diagnosis(self, asked: Mapping[str, Any], _body: Any) -> Diagnosis:
        """Return what is wrong with a panel. Raises: Refusal if there is none of this name."""
        panel = self._found(asked)
        names = {panel.name, panel.id}
        failures = (one for one in self._gateway.failures.newest_first() if one.panel in names)
        return Diagnosis(findings=findings_of(panel, _asker(asked)), failures=tuple(failures))

    async def history(self, asked: Mapping[str, Any], _body: Any) -> t.HistoryPage:
        """Return a page of what happened; what the page was just told of is in it.

        Raises: Refusal for a cursor that is none, and where nothing can be searched now.
        """
        history = self._gateway.history
        stored = None if history is None else history.when_stored()
        if stored is not None and history is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(history.settings.ack_wait_s):
                    await stored
        return await page_of(history, query_of(asked, listed(asked["panels"])))

    # Orders

    async def arm(self, asked: Mapping[str, Any], body: t.ArmBody) -> t.CommandOutcome:
        """Arm; without a code the panel's configured one is sent, if any, else it is one-touch arming."""
        return await self._order("arm", asked, body)

    async def disarm(self, asked: Mapping[str, Any], body: t.CodeBody) -> t.CommandOutcome:
        """Disarm with a code. Raises: Refusal without one."""
        return await self._order("disarm", asked, body)

    async def bypass(self, asked: Mapping[str, Any], body: t.BypassBody) -> t.CommandOutcome:
        """Leave zones out or take them in again, with a code. Raises: Refusal without one."""
        return await self._order("bypass", asked, body)

    async def refresh(self, asked: Mapping[str, Any], _body: Any) -> t.CommandOutcome:
        """Ask the panel for all statuses."""
        return await self._order("refresh", asked, None)

    async def _order(self, name: str, asked: Mapping[str, Any], body: t.Body | None) -> t.CommandOutcome:
        """Have an order carried out; one that takes too long goes on, and its outcome is in the history.

        Raises: Refusal for a panel or a partition that cannot be, and where a code is missing.
        """
        panel, order = self._found(asked), ORDERS[name]
        number = 0 if order.target == "panel" else _partition(asked["partition"])
        holder = Holder(_asker(asked), _MAY, frozenset(), needs_code=name not in _WITHOUT_CODE, digest=b"")
        try:
            async with asyncio.timeout(ORDER_WITHIN_S):
                return await self._carrier.carry_out(holder, Ask(panel, order, number, body, None))
        except TimeoutError:
            reason = "the panel has not answered yet; the history will tell how it ended"
            return t.CommandOutcome(request_id="", panel=panel.name, result="unknown", reason=reason)

    # Who calls

    async def failures(self, _asked: Mapping[str, Any], _body: Any) -> Failed:
        """Return what the doctor said lately."""
        return Failed(failures=self._gateway.failures.newest_first())

    async def learning(self, _asked: Mapping[str, Any], _body: Any) -> t.Learning:
        """Return who has called while the gateway learns."""
        return learning_of(self._gateway.learning_left_s, self._gateway.learnt)

    async def learn(self, asked: Mapping[str, Any], body: t.LearnBody) -> t.Learning:
        """Begin to learn."""
        self._gateway.learn(body.for_s)
        return await self.learning(asked, None)

    async def forget(self, _asked: Mapping[str, Any], _body: Any) -> None:
        """Learn no more."""
        self._gateway.learn(0)


def _partition(text: str) -> int:
    """Return a partition's number. Raises: Refusal: there is none with such a number."""
    most = PATH_SCHEMAS["partition"]["maximum"]
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise Refusal(Kind.NOT_FOUND, "no partition has this number")
    return int(text)


def _asker(asked: Mapping[str, Any]) -> str:
    """Return who gives an order, as history and lock-out know them: each operator for themselves."""
    return f"{ASKER}: {asked['operator']}"


def _outcome(answer: t.CommandOutcome) -> str:
    return ": ".join(filter(None, (answer.result, answer.reason)))
