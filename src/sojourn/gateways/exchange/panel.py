"""The gateway's page for operators: sessions and their market, simulators, pods, backends.

Sessions and markets are those of this pod; simulators and pods are everybody's. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.core.panel import AdminPanel, PanelOperation, PanelParameter
from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.rest_types import PodPage, Simulator, SimulatorPage

if TYPE_CHECKING:
    from sojourn.gateways.exchange.gateway import ExchangeGateway
    from sojourn.gateways.exchange.room import SessionRoom

SESSIONS_COUNT: Final = 500
"""How many sessions are told at once."""
ORDERS_COUNT: Final = 100
"""How many orders of a session are told, the newest."""
_OPERATOR: Final = Principal("an operator at the dashboard", frozenset(), 0.0, "")


class TradingSession(msgspec.Struct, frozen=True, kw_only=True):
    """One user's session on this pod.

    Shape: ``is_owner``: this pod drives its simulator; ``simulator`` is a state of simulators, or none; ``last_event``
    is the last event of its log; ``away`` is what its clients were told does not answer.
    """

    id: str
    subject: str
    is_owner: bool
    links: int
    devices: tuple[str, ...]
    simulator: str
    last_event: int
    orders: int
    away: tuple[str, ...]


class TradingSessions(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions of this pod that fit, connected ones first; ``more`` is how many did not fit."""

    pod: str
    sessions: tuple[TradingSession, ...]
    more: int = 0


class MarketView(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's user sees now: prices, portfolio and orders, as they are told to clients."""

    session: str
    subject: str
    simulator: str
    revision: int
    rows: tuple[dict[str, Any], ...]
    portfolio: dict[str, Any] | None
    orders: tuple[dict[str, Any], ...]


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """What the pod needs; ``state`` is ok, degraded or down."""

    name: str
    state: str


class PodState(msgspec.Struct, frozen=True, kw_only=True):
    """How this pod and its backends are, and how many of its simulators are in which phase; ``unused`` ones wait."""

    pod: str
    is_ready: bool
    backends: tuple[Backend, ...]
    driver: str
    phases: dict[str, int]
    unused: int


class ExchangePanel:
    """Serves the page's operations; every method is one of them.

    Life: as long as its gateway, of which it holds nothing but a reference.
    """

    def __init__(self, gateway: ExchangeGateway) -> None:
        self._gateway = gateway

    def panel(self) -> AdminPanel:
        """Return the page."""
        state = PanelParameter(
            "state",
            "Where the simulator stands; empty = anywhere.",
            words=("requested", "starting", "running", "stopping", "stopped", "failed"),
        )
        limit = PanelParameter(
            "limit", "At most so many.", is_number=True, lowest=1, highest=200, default=100
        )
        before = PanelParameter("before", "Only older ones than this, as the page before said.")
        search = PanelParameter("search", "Part of the id or the user.", longest=200)
        return AdminPanel(
            "Exchange",
            Path(__file__).with_name("panel.js"),
            (
                PanelOperation(
                    "GET", "/sessions", "view", "Sessions of this pod.", self.sessions, TradingSessions, query=(search,)
                ),
                PanelOperation(
                    "GET", "/sessions/{id}/market", "view", "What a session's user sees now.", self.market, MarketView
                ),
                PanelOperation(
                    "GET", "/simulators", "view", "Simulators of all pods, the newest first.", self.simulators,
                    SimulatorPage, query=(state, limit, before),
                ),
                PanelOperation(
                    "POST", "/simulators/{id}/stop", "operate", "Stop a session's simulator.", self.stop, Simulator
                ),
                PanelOperation("GET", "/pods", "view", "Pods that are alive.", self.pods, PodPage),
                PanelOperation("GET", "/pod", "view", "This pod, its backends and simulators.", self.pod, PodState),
            ),
        )  # fmt: skip

    async def sessions(self, asked: Mapping[str, Any], _body: Any) -> TradingSessions:
        """Return the sessions that fit."""
        keeper, wanted = self._gateway.keeper, asked["search"].casefold()
        rooms = [
            room for room in keeper.rooms.values() if wanted in f"{room.session_id} {room.subject}".casefold()
        ]
        rooms.sort(key=lambda room: (not room.view.links, room.subject))
        return TradingSessions(
            pod=self._gateway.pod,
            sessions=tuple(
                self._session(room, is_owner=room.session_id in keeper.owned)
                for room in rooms[:SESSIONS_COUNT]
            ),
            more=max(0, len(rooms) - SESSIONS_COUNT),
        )

    @staticmethod
    def _session(room: SessionRoom, *, is_owner: bool) -> TradingSession:
        view = room.view
        return TradingSession(
            id=room.session_id,
            subject=room.subject,
            is_owner=is_owner,
            links=len(view.links),
            devices=room.devices,
            simulator=view.simulator_state,
            last_event=view.log.last,
            orders=len(view.orders),
            away=tuple(view.degraded),
        )

    async def market(self, asked: Mapping[str, Any], _body: Any) -> MarketView | None:
        """Return what a session's user sees, None for a session that is not on this pod."""
        room = self._gateway.keeper.rooms.get(asked["id"])
        if room is None:
            return None
        view = room.view
        newest = list(view.orders.values())[-ORDERS_COUNT:]
        return MarketView(
            session=room.session_id,
            subject=room.subject,
            simulator=view.simulator_state,
            revision=view.feed.revision,
            rows=tuple(sorted((value for _, value, _ in view.feed.rows_after(-1)), key=lambda row: row["s"])),
            portfolio=view.portfolio,
            orders=tuple(msgspec.json.decode(body) for body in reversed(newest)),
        )

    async def simulators(self, asked: Mapping[str, Any], _body: Any) -> SimulatorPage:
        """Return simulators, the newest first. Raises: BackendUnavailable."""
        return await self._gateway.service.admin_simulators(asked["state"], asked["limit"], asked["before"])

    async def stop(self, asked: Mapping[str, Any], _body: Any) -> Simulator:
        """Want a simulator stopped. Raises: Refusal, BackendUnavailable."""
        return await self._gateway.service.admin_stop_simulator(_OPERATOR, asked["id"])

    async def pods(self, _asked: Mapping[str, Any], _body: Any) -> PodPage:
        """Return the pods, each as it describes itself. Raises: BackendUnavailable."""
        return await self._gateway.service.admin_pods()

    async def pod(self, _asked: Mapping[str, Any], _body: Any) -> PodState:
        """Return how this pod and its simulators are. Raises: BackendUnavailable."""
        gateway = self._gateway
        seen = await gateway.spawner.list() if gateway.is_ready else []
        phases: dict[str, int] = {}
        for one in seen:
            phases[one.status.phase] = phases.get(one.status.phase, 0) + 1
        return PodState(
            pod=gateway.pod,
            is_ready=gateway.is_ready,
            backends=tuple(Backend(name=name, state=state) for name, state in gateway.checks().items()),
            driver=gateway.config.simulators.driver,
            phases=phases,
            unused=sum(not one.handle.session and not one.status.is_final for one in seen),
        )
