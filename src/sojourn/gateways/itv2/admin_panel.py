"""What operators ask of the gateway over the admin API: how each panel stands, and who calls while it learns.

Needs no ``[itv2.http]``, whose tokens are for programs. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sojourn.core.panel import AdminPanel, PanelOperation
from sojourn.gateways.itv2.http.rest_types import LearnBody, Learning, Panels
from sojourn.gateways.itv2.http.shown import learning_of, summary_of

if TYPE_CHECKING:
    from sojourn.gateways.itv2.gateway import Itv2Gateway

PANELS: Final = "/panels"
LEARNING: Final = "/learning"


def admin_panel(gateway: Itv2Gateway) -> AdminPanel:
    """Return the operations."""
    return AdminPanel(
        "Alarm panels",
        Path(__file__).with_name("panel.js"),
        (
            PanelOperation(
                "GET", PANELS, "view", "How every panel stands.", partial(_panels, gateway), Panels
            ),
            PanelOperation(
                "GET", LEARNING, "view", "Which panels called that are not configured.",
                partial(_learning, gateway), Learning,
            ),
            PanelOperation(
                "PUT", LEARNING, "admin", "Begin to remember panels that are not configured; they get no answer.",
                partial(_learn, gateway), Learning, LearnBody,
            ),
            PanelOperation(
                "DELETE", LEARNING, "admin", "End that; forgets who has called.", partial(_forget, gateway)
            ),
        ),
    )  # fmt: skip


async def _panels(gateway: Itv2Gateway, _asked: Mapping[str, Any], _body: Any) -> Panels:
    return Panels(tuple(summary_of(panel) for _, panel in sorted(gateway.hub.panels.items())))


async def _learning(gateway: Itv2Gateway, _asked: Mapping[str, Any], _body: Any) -> Learning:
    return learning_of(gateway.learning_left_s, gateway.learnt)


async def _learn(gateway: Itv2Gateway, asked: Mapping[str, Any], body: LearnBody) -> Learning:
    gateway.learn(body.for_s)
    return await _learning(gateway, asked, None)


async def _forget(gateway: Itv2Gateway, _asked: Mapping[str, Any], _body: Any) -> None:
    gateway.learn(0)
