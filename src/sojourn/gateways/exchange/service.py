"""Service: what the REST interface asks of the gateway, as a protocol.

Whoever implements it decides; the handlers only translate. A session belongs to its subject: of a session of somebody
else, and of one that never was, the same is said.

Raises, everywhere: Refusal, which the client is told; BackendUnavailable and LimitExceeded, which become 503 and 429.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.rest_types import (
    CreateSession,
    DisconnectOrder,
    EventPage,
    Health,
    NewOrder,
    Order,
    OrderChange,
    OrderPage,
    PodPage,
    Progress,
    Readiness,
    Session,
    SessionPage,
    SessionSnapshot,
    Simulator,
    SimulatorPage,
    SimulatorWish,
)


class Made(NamedTuple):
    """A session, and whether it is a new one."""

    session: Session
    is_new: bool


class Caller(NamedTuple):
    """Where a request comes from, for the session's attributes and the audit."""

    address: str
    user_agent: str


class SessionSearch(NamedTuple):
    """Which sessions an administrator wants to see; an empty text is any."""

    subject: str = ""
    state: str = ""
    pod: str = ""


class UserService(Protocol):
    """What users may do with their own sessions."""

    async def create_session(self, principal: Principal, wish: CreateSession, caller: Caller) -> Made:
        """Open a session or join the one that is there, as the device policy says."""

    async def list_sessions(self, principal: Principal, limit_count: int, before: str) -> SessionPage:
        """Return the subject's sessions, the newest first."""

    async def get_session(self, principal: Principal, session_id: str) -> Session:
        """Return one, ended or not."""

    async def end_session(self, principal: Principal, session_id: str) -> None:
        """End it; ending it twice is ending it once."""

    async def set_simulator(
        self, principal: Principal, session_id: str, wish: SimulatorWish
    ) -> tuple[Simulator, bool]:
        """Want a simulator or none; return it, and whether that changed anything."""

    async def get_simulator(self, principal: Principal, session_id: str) -> Simulator:
        """Return the newest simulator of the session; nothing is started."""

    def progress(self, principal: Principal, session_id: str) -> AsyncGenerator[Progress, None]:
        """Yield where the simulator stands, at once and at each change, until it is ``done``."""

    async def submit_order(
        self, principal: Principal, session_id: str, order: NewOrder, request_id: str
    ) -> Order:
        """Place an order; the same request id once more gives the first one's answer."""

    async def cancel_order(self, principal: Principal, session_id: str, order: int) -> Order:
        """Take back what is left of an order."""

    async def replace_order(
        self, principal: Principal, session_id: str, order: int, change: OrderChange
    ) -> Order:
        """Change what is left of an order."""

    async def get_order(self, principal: Principal, session_id: str, order: int) -> Order:
        """Return one order."""

    async def list_orders(
        self, principal: Principal, session_id: str, limit_count: int, before: int
    ) -> OrderPage:
        """Return orders, the newest first; ``before`` is 0 for the first page."""

    async def events_after(
        self, principal: Principal, session_id: str, epoch: int, after: int, limit_count: int
    ) -> EventPage:
        """Return events behind an offset; ``epoch`` is 0 for the present one."""

    async def snapshot(self, principal: Principal, session_id: str) -> SessionSnapshot:
        """Return everything as it stands."""


class AdminService(Protocol):
    """What administrators may do with everybody's."""

    async def admin_sessions(self, where: SessionSearch, limit_count: int, before: str) -> SessionPage:
        """Return sessions of everybody, the newest first."""

    async def admin_session(self, session_id: str) -> Session:
        """Return one of anybody's."""

    async def admin_end_session(self, principal: Principal, session_id: str) -> None:
        """End one of anybody's."""

    async def admin_simulators(self, state: str, limit_count: int, before: str) -> SimulatorPage:
        """Return simulators of everybody, the newest first."""

    async def admin_stop_simulator(self, principal: Principal, simulator_id: str) -> Simulator:
        """Want a simulator stopped."""

    async def admin_pods(self) -> PodPage:
        """Return the pods that are alive."""

    async def admin_drain(self, principal: Principal, pod: str) -> tuple[str, int]:
        """Begin to drain a pod, the one that answers if none is named; return its name and how many sessions it has."""

    async def admin_disconnect(self, principal: Principal, order: DisconnectOrder) -> int:
        """Close connections and return how many."""


class HealthService(Protocol):
    """How it goes; both answer at once."""

    def health(self) -> Health:
        """Say that the process works."""

    def readiness(self) -> Readiness:
        """Say whether new sessions are welcome; an issuer that is away is degraded, not down."""


class Service(UserService, AdminService, HealthService, Protocol):
    """All of it."""
