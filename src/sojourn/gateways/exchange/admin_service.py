"""Administration: what may be done with anybody's session and with pods; users' rights are the next floor's affair.

Every pod answers for all of them: what belongs to another pod is asked of it through the relay.

Source: exchange-session-service.md section 5.3.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.errors import BackendUnavailable, LimitExceeded, WireError
from sojourn.gateways.exchange import relay_wire
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.announcements import Announcer
from sojourn.gateways.exchange.answers import refusal_of, session_answer, simulator_answer
from sojourn.gateways.exchange.lifecycle import (
    FINAL_SIMULATOR_STATES,
    EndReason,
    SessionState,
    SimulatorState,
)
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.order_desk import REST
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.readiness import PodSelf, readiness
from sojourn.gateways.exchange.relay_wire import Answer, Describe, Disconnect, Done, Leave, PodAsk, PodReport
from sojourn.gateways.exchange.rows import Desired, Page, SessionFilter, SimulatorFilter
from sojourn.gateways.exchange.sessions import UnknownSession

if TYPE_CHECKING:
    from sojourn.gateways.exchange.pod_commands import PodCommands
    from sojourn.gateways.exchange.principal import Principal
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.rows import SessionRow, SimulatorRow
    from sojourn.gateways.exchange.service import SessionSearch
    from sojourn.gateways.exchange.services import PodServices
    from sojourn.gateways.exchange.sessions import SessionKeeper

DESCRIBE_S: Final = 2.0
"""How long a pod may take to say how it is; the registry knows the rest."""


class Administration:
    """What administrators may do; see :class:`~.service.AdminService` and :class:`~.service.HealthService`.

    Life: made with the gateway, of whose parts it holds references. From then on it answers what other pods ask of
    this one.
    """

    def __init__(
        self, services: PodServices, keeper: SessionKeeper, commands: PodCommands, pod: PodSelf
    ) -> None:
        self._services = services
        self._keeper = keeper
        self._commands = commands
        self._pod = pod
        self._announcer = Announcer(services, keeper, commands)
        commands.on_pod_ask = self.answer_pod

    # Sessions

    async def admin_sessions(self, where: SessionSearch, limit_count: int, before: str) -> t.SessionPage:
        """Return sessions of everybody, the newest first. Raises: BackendUnavailable."""
        states = frozenset({SessionState(where.state)}) if where.state else frozenset()
        chosen = SessionFilter(subject=where.subject, states=states, owner_pod=where.pod)
        rows, rest = await self._page(chosen, limit_count, before)
        return t.SessionPage(sessions=tuple(map(session_answer, rows)), next=rest)

    async def _page(
        self, where: SessionFilter, limit_count: int, before: str
    ) -> tuple[tuple[SessionRow, ...], str]:
        """Return a page, and ``before`` of the next one. Raises: BackendUnavailable."""
        page = Page(limit_count=limit_count + 1, before=before)
        rows = await self._services.store.sessions.list(where, page)
        return rows[:limit_count], rows[limit_count - 1].id if len(rows) > limit_count else ""

    async def admin_session(self, session_id: str) -> t.Session:
        """Return one of anybody's. Raises: Refusal, BackendUnavailable."""
        row = await self._row(session_id)
        return session_answer(row, await self._newest_simulator(session_id))

    async def admin_end_session(self, principal: Principal, session_id: str) -> None:
        """End one of anybody's. Raises: Refusal, BackendUnavailable."""
        row = await self._row(session_id)
        room = self._keeper.rooms.get(session_id)
        if room is not None:
            room.record_state(f"an administrator ends it: {principal.subject}")
        await self._end(row, EndReason.ADMIN)

    async def _row(self, session_id: str) -> SessionRow:
        row = await self._services.store.sessions.get(session_id)
        if row is None:
            raise Refusal(Kind.NOT_FOUND)
        return row

    async def _end(self, row: SessionRow, reason: EndReason) -> None:
        """End a session; an ended one is told again, should its pod not have heard it. Raises: BackendUnavailable."""
        sessions = self._services.store.sessions
        ended = await sessions.end(row.id, reason) or await sessions.get(row.id)
        if ended is not None and ended.ended_reason is not None:
            await self._announcer.end(row.id, ended.ended_reason.value)

    async def _open(self, session_id: str) -> SessionRoom:
        """Return the room of a live session, with a role. Raises: Refusal, BackendUnavailable."""
        try:
            async with asyncio.timeout(self._services.command_timeout_s):
                return await self._keeper.open(session_id)
        except UnknownSession:
            raise Refusal(Kind.ENDED) from None
        except TimeoutError:
            raise Refusal(Kind.UNAVAILABLE, "the session is moving to another server") from None

    # Simulators

    async def admin_simulators(self, state: str, limit_count: int, before: str) -> t.SimulatorPage:
        """Return simulators of everybody, the newest first. Raises: BackendUnavailable."""
        where = SimulatorFilter(states=frozenset({SimulatorState(state)}) if state else frozenset())
        page = Page(limit_count=limit_count + 1, before=before)
        rows = await self._services.store.simulators.list(where, page)
        rest = rows[limit_count - 1].id if len(rows) > limit_count else ""
        return t.SimulatorPage(simulators=tuple(map(simulator_answer, rows[:limit_count])), next=rest)

    async def admin_stop_simulator(self, principal: Principal, simulator_id: str) -> t.Simulator:
        """Want a simulator stopped. Raises: Refusal, BackendUnavailable."""
        row = await self._services.store.simulators.get(simulator_id)
        if row is None:
            raise Refusal(Kind.NOT_FOUND)
        if row.state in FINAL_SIMULATOR_STATES or row.desired is Desired.STOPPED:
            return simulator_answer(row)
        room = await self._open(row.session_id)
        room.record_state(f"an administrator stops its simulator: {principal.subject}")
        return (await self._want(room, Desired.STOPPED, None))[0]

    async def _want(
        self, room: SessionRoom, desired: Desired, market: MarketSettings | None
    ) -> tuple[t.Simulator, bool]:
        """Have the owner want a simulator, or none. Raises: Refusal, BackendUnavailable."""
        spec = None if market is None else msgspec.to_builtins(market)
        room.note_received(REST, "simulator", f"is to be {desired.value}")
        try:
            async with asyncio.timeout(self._services.command_timeout_s):
                simulator, is_changed = await room.want(desired, spec)
        except Refused as refused:
            room.note_sent(REST, refused.code, refused.detail)
            raise refusal_of(refused) from None
        except TimeoutError:
            room.note_sent(REST, "no answer", "the session's owner does not answer")
            raise Refusal(Kind.UNAVAILABLE, "the session's owner does not answer") from None
        room.note_sent(REST, "wanted" if is_changed else "as it is")
        row = await self._services.store.simulators.get(simulator) if simulator else None
        if row is None:
            raise Refusal(Kind.NOT_FOUND, "the session has no simulator")
        if market is not None and not is_changed and msgspec.convert(row.spec, MarketSettings) != market:
            raise Refusal(
                Kind.CONFLICT, "a simulator of another market runs: stop it first", reason="other_spec"
            )
        return simulator_answer(row), is_changed

    async def _newest_simulator(self, session_id: str) -> SimulatorRow | None:
        where = SimulatorFilter(session_id=session_id)
        found = await self._services.store.simulators.list(where, Page(limit_count=1))
        return found[0] if found else None

    # Pods

    async def answer_pod(self, ask: PodAsk) -> Answer:
        """Answer what is asked of this pod."""
        report = self._own_report()
        if isinstance(ask, Leave):
            await self._pod.ask_to_drain()
        return Done(report)

    def _own_report(self) -> PodReport:
        keeper = self._keeper
        links_count = sum(len(room.links) for room in keeper.rooms.values())
        return PodReport(len(keeper.owned), links_count, self._pod.version)

    async def admin_pods(self) -> t.PodPage:
        """Return the pods that are alive, each as it describes itself. Raises: BackendUnavailable."""
        pods = await self._services.bus.pods()
        reports = await asyncio.gather(*(self._report(pod.name) for pod in pods))
        rows = [
            t.PodRow(
                name=pod.name,
                address=pod.address,
                is_draining=pod.is_draining,
                sessions_count=int(pod.load) if report is None else report.sessions_count,
                links_count=0 if report is None else report.links_count,
                version="" if report is None else report.version,
            )
            for pod, report in zip(pods, reports, strict=True)
        ]
        return t.PodPage(pods=tuple(rows))

    async def _report(self, pod: str) -> PodReport | None:
        try:
            return msgspec.convert(await self._ask(pod, "", Describe(), DESCRIBE_S), PodReport)
        except (BackendUnavailable, LimitExceeded):
            return None

    async def admin_drain(self, principal: Principal, pod: str) -> tuple[str, int]:
        """Begin to drain a pod, this one if none is named. Raises: Refusal, BackendUnavailable."""
        del principal
        name = pod or self._services.pod
        if name != self._services.pod and name not in {one.name for one in await self._services.bus.pods()}:
            raise Refusal(Kind.NOT_FOUND, "there is no such pod")
        answer = await self._ask(name, "", Leave(), self._services.command_timeout_s)
        return name, msgspec.convert(answer, PodReport).sessions_count

    async def admin_disconnect(self, principal: Principal, order: t.DisconnectOrder) -> int:
        """Close the connections of a session, or of a subject's, on all pods, and return how many there were.

        Raises: Refusal, BackendUnavailable.
        """
        del principal
        sessions = self._services.store.sessions
        row = await (sessions.get(order.session) if order.session else sessions.find(order.subject or ""))
        if row is None:
            raise Refusal(Kind.NOT_FOUND)
        names = {pod.name for pod in await self._services.bus.pods()} | {self._services.pod}
        return sum(await asyncio.gather(*(self._disconnect(name, row.id) for name in names)))

    async def _disconnect(self, pod: str, session_id: str) -> int:
        try:
            return int(await self._ask(pod, session_id, Disconnect(), self._services.command_timeout_s))
        except (BackendUnavailable, LimitExceeded):
            return 0  # a pod that does not answer has no connections that are worth closing

    async def _ask(self, pod: str, session_id: str, ask: PodAsk | Disconnect, timeout_s: float) -> Any:
        """Have a pod do something and return what it answers. Raises: BackendUnavailable, LimitExceeded."""
        if pod == self._services.pod:
            answer = await self._commands.obey(session_id, ask)
        else:
            data = await self._services.bus.ask(pod, session_id, relay_wire.write(ask), timeout_s)
            try:
                answer = relay_wire.read_answer(data)
            except WireError as error:
                raise BackendUnavailable(pod, 0.0, "an answer of another version") from error
        if not isinstance(answer, Done):
            raise BackendUnavailable(pod, 0.0, "it is not up yet")
        return answer.value

    # Health

    def health(self) -> t.Health:
        """Say that the process works."""
        return t.Health(pod=self._services.pod)

    def readiness(self) -> t.Readiness:
        """Say whether new sessions are welcome."""
        return readiness(self._pod, self._services.pod)
