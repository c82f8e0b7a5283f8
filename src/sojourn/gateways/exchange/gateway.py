"""ExchangeGateway: user sessions over HTTP and WebSocket on the core; puts the parts of a pod together.

The order of the start is that of what needs what: servers of our own, bus, database, drivers of simulators, auth, HTTP.
A backend that is away delays readiness and nothing else: the gateway starts, says 503 to new sessions, and goes on when
it is there. Boring on purpose: every decision is another module's.

Source: exchange-session-service.md section 5.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import sojourn
from sojourn.core.events import EventKind
from sojourn.core.gateway import Gateway
from sojourn.core.panel import AdminPanel, Trouble
from sojourn.core.recorder import Direction, Leg
from sojourn.core.router import Router
from sojourn.core.session import raised_at
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import trace_words
from sojourn.gateways.exchange.announcements import Announcer
from sojourn.gateways.exchange.auth import Authenticator
from sojourn.gateways.exchange.backends import Backends
from sojourn.gateways.exchange.browser import browser_routes
from sojourn.gateways.exchange.bus import BusHealth, Pod
from sojourn.gateways.exchange.drain import Drain
from sojourn.gateways.exchange.housekeeping import Housekeeping
from sojourn.gateways.exchange.http_app import build_app
from sojourn.gateways.exchange.idempotency import Once
from sojourn.gateways.exchange.lifecycle import EndReason
from sojourn.gateways.exchange.memory_bus import open_bus
from sojourn.gateways.exchange.messages import Close
from sojourn.gateways.exchange.panel import ExchangePanel
from sojourn.gateways.exchange.pod_commands import PodCommands
from sojourn.gateways.exchange.room_simulators import RoomSimulators
from sojourn.gateways.exchange.services import LogBounds, PodServices
from sojourn.gateways.exchange.session import UserSession
from sojourn.gateways.exchange.sessions import SessionKeeper
from sojourn.gateways.exchange.sim.link import SimulatorLink
from sojourn.gateways.exchange.simulators import SimulatorKeeper, market_of
from sojourn.gateways.exchange.spawners.inproc import InprocSpawner
from sojourn.gateways.exchange.spawners.process import ProcessSpawner
from sojourn.gateways.exchange.spawners.static import StaticSpawner
from sojourn.gateways.exchange.store.postgres import PostgresStore
from sojourn.gateways.exchange.stored_logs import StoredLogs
from sojourn.gateways.exchange.tickets import TicketDesk
from sojourn.gateways.exchange.trace_words import SimulatorNews
from sojourn.gateways.exchange.user_service import PodService
from sojourn.gateways.exchange.websocket import WebSocketDoor
from sojourn.web.server import HttpServer, NoFraming

if TYPE_CHECKING:
    from aiohttp import web

    from sojourn.core.backoff import Backoff
    from sojourn.core.connection import Connection
    from sojourn.core.recorder import Entry
    from sojourn.core.server import Server
    from sojourn.core.session import Session
    from sojourn.gateways.exchange.bus import Bus, EventLogs
    from sojourn.gateways.exchange.config import ExchangeSettings
    from sojourn.gateways.exchange.rows import SessionRow
    from sojourn.gateways.exchange.sim.reader import Ownership, SimulatorReader
    from sojourn.gateways.exchange.spawners.spawner import Spawner
    from sojourn.gateways.exchange.storage import Storage
    from sojourn.web.front import Front

POD_READY: Final = EventKind("exchange.pod_ready", ("pod",))
"""Database and simulators' driver answer: sessions are welcome."""
BACKEND_AWAY: Final = EventKind("exchange.backend_away", ("backend", "error"), level="warning")
"""A backend does not answer at the start; it is tried again."""
BUS_CHANGED: Final = EventKind("exchange.bus", ("state", "cause"), level="warning")
"""What connects the pods is away, or back."""
POD_LEAVING: Final = EventKind("exchange.pod_leaving", ("pod", "sessions"))
POD_LEFT: Final = EventKind("exchange.pod_left", ("pod", "handed_over", "left_alone"))
"""The drain is over: sessions that other pods own now, and sessions that wait for whoever comes."""
END_FAILED: Final = EventKind("exchange.end_failed", ("session", "error"), level="error")
"""An operator wanted a session to end, and the database could not be told: it goes on."""
REQUEST_BROKE: Final = EventKind("exchange.request_broke", ("route", "error", "where"), level="error")
"""A bug of ours met in a handler; the client got status 500 and no word about it."""

State = Literal["ok", "degraded", "down"]
DATABASE: Final = "database"
SIMULATORS: Final = "simulators"
_BACKENDS: Final = {
    "database": "The database of sessions",
    "bus": "What connects the pods",
    "auth": "The check of tokens",
    "simulators": "The place where simulators run",
}
RETIRE_S: Final = 1.0
"""How long it may take to tell the other pods that this one is gone."""
LEAVE_MARGIN_S: Final = 4.0
"""What is left of the drain's time for links that do not leave, and for the end itself."""


def _never(_packet: Any) -> None:
    """Stand for a key of packets: there are none, and a connection with a session on it is not idle."""


class ExchangeGateway(Gateway):
    """User sessions that own simulated exchanges.

    Args:
        settings: ``[exchange]``, without problems.
        wall: unix seconds, for what is stored, told and compared with tokens.
    """

    name: ClassVar[str] = "exchange"
    router = Router()
    framing = NoFraming()
    session_class = UserSession
    session_key = staticmethod(_never)
    config: ExchangeSettings

    bus: Bus
    store: PostgresStore
    keeper: SessionKeeper
    commands: PodCommands
    services: PodServices
    housekeeping: Housekeeping
    door: WebSocketDoor
    auth: Authenticator
    http: HttpServer
    front: Front
    service: PodService
    spawner: Spawner

    def __init__(self, settings: ExchangeSettings, wall: Callable[[], float] = time.time) -> None:
        self.config = settings
        self._wall = wall
        self.limits = settings.limits
        self.version = sojourn.__version__
        self.pod = settings.pod.name or f"{socket.gethostname()}-{os.getpid()}"
        self.is_leaving = False
        self._is_up = False
        self._is_bus_up = True
        self._opened: set[str] = set()
        self._works: set[asyncio.Task[Any]] = set()
        self._sessions: dict[str, UserSession] = {}

    # Life

    async def start(self, server: Server) -> None:
        """Put the parts together and begin. Raises: ConfigError, BackendUnavailable for servers of our own."""
        await super().start(server)
        settings = self.config
        self.backends = Backends(settings, server.events)
        await self.backends.start()
        self.bus = open_bus(self.pod, self.backends.valkey(), server.clock)
        self.bus.on_health = self._on_bus
        self.store = PostgresStore(
            self.backends.store(), lambda: datetime.fromtimestamp(self._wall(), UTC), server.clock
        )
        self.spawner = _make_spawner(settings, self.store)
        self._put_together()
        self.spawn(self.bus.run())
        await self.auth.start()
        await self._open_all()
        self._build_http()
        await self.http.start()
        if settings.embedded.directory:
            self.spawn(self.backends.tend())
        self.spawn(self._begin())

    def _put_together(self) -> None:
        """Make keeper, services and what serves clients; nothing runs yet."""
        settings, server = self.config, self.server
        backends = self.backends
        simulator_keeper = SimulatorKeeper(
            self.store,
            {settings.simulators.driver: self.spawner},
            pod=self.pod,
            owner_timeout_s=settings.simulators.owner_timeout_s,
            backoff=self._backoff,
        )
        simulators = RoomSimulators(
            simulator_keeper,
            self.store,
            driver=settings.simulators.driver,
            market=market_of(None, settings.simulators.market),
            spawn=self.spawn,
            backoff=self._backoff,
            per_session_count=settings.simulators.per_session_count,
        )
        self.keeper = SessionKeeper(self._open_session, self._close_session)
        self.commands = PodCommands(self.keeper)
        valkey = backends.valkey()
        bounds = LogBounds(valkey.log_keep_count, valkey.log_keep_bytes, valkey.log_keep_s)
        logs: EventLogs = self.bus
        if valkey.url is None:
            logs = StoredLogs(
                self.bus, self.store.events, keep_count=bounds.count, keep_bytes=bounds.size_bytes
            )
        self.services = self.keeper.services = PodServices(
            pod=self.pod,
            bus=self.bus,
            logs=logs,
            store=self.store,
            keeper=self.keeper,
            simulators=simulators,
            link=self._make_link,
            spawn=self.spawn,
            clock=server.clock,
            wall_ms=lambda: int(self._wall() * 1000),
            lease_s=valkey.lease_s,
            command_timeout_s=settings.links.command_timeout_s,
            random=random.random,
            log_bounds=bounds,
        )
        self.auth = Authenticator(settings.auth, server, clock=server.clock, wall=self._wall)
        self.desk = TicketDesk(self.bus, settings.auth.ticket_ttl_s)
        self.service = PodService(self.services, self.keeper, self.commands, settings, self)
        announcer = Announcer(self.services, self.keeper, self.commands)
        self.door = WebSocketDoor(
            self.keeper,
            self.service,
            self.auth,
            self.desk,
            settings=lambda: self.config.links,
            origins=lambda: self.config.http.origins,
            session_of=lambda room: self._sessions[room.session_id],
            spawn=self.spawn,
            clock=server.clock,
            wall_ms=self.services.wall_ms,
        )
        self.housekeeping = Housekeeping(
            self.services,
            self.keeper,
            self.spawner,
            announcer=announcer,
            door=self.door,
            settings=lambda: self.config,
            events=server.events,
            pod=self._presented,
            write_activities=self.service.write_activities,
            look_at_bus=lambda: self._on_bus(self.bus.health()),
        )
        self._announcer = announcer

    def _build_http(self) -> None:
        settings = self.config
        app, self.front = build_app(
            self.service,
            self.auth,
            self.desk,
            settings.http,
            once=Once(self.store.requests, settings.http.idempotency_hold_s),
            more=(*self.door.routes(), *browser_routes()),
            on_failure=self._on_failure,
            clock=self.server.clock,
        )
        self.http = HttpServer(app, settings.http)

    async def _open(self, what: str, opening: Callable[[], Awaitable[None]]) -> None:
        """Open a backend unless that is done; one that does not answer is tried again later. Raises: ConfigError."""
        if what in self._opened:
            return
        try:
            await opening()
        except BackendUnavailable as error:
            self.server.events.emit(BACKEND_AWAY, None, what, str(error))
        else:
            self._opened.add(what)

    async def _open_all(self) -> None:
        """Open database and driver. Raises: ConfigError."""
        await self._open(DATABASE, self.store.start)
        await self._open(SIMULATORS, self.spawner.open)

    async def _begin(self) -> None:
        """Wait for what is away, then do what a pod does."""
        backoff = self.services.backoff()
        while not {DATABASE, SIMULATORS} <= self._opened:
            await asyncio.sleep(next(backoff))
            await self._open_all()
        self.bus.serve(self.commands.serve)
        await self.housekeeping.begin()
        self._is_up = True
        self.server.events.emit(POD_READY, None, self.pod)
        for loop in self.housekeeping.loops():
            self.spawn(loop)

    async def leave(self, timeout_s: float) -> None:
        """Hand every session over and send every client away, in good order. Source: section 5.6."""
        self.is_leaving = self.keeper.is_draining = True
        self.server.events.emit(POD_LEAVING, None, self.pod, len(self.keeper.owned))
        settings = self.config.pod
        others = [pod for pod in self.housekeeping.pods if pod.name != self.pod and not pod.is_draining]
        try:
            self.housekeeping.pods = await self.bus.announce(self._presented(), self.services.lease_s)
        except BackendUnavailable:
            others = []
        window_s = 0.0
        if others:
            await asyncio.sleep(settings.drain_wait_s)
            window_s = max(
                0.0, min(settings.drain_window_s, timeout_s - settings.drain_wait_s - LEAVE_MARGIN_S)
            )
        drain = Drain(self.keeper, window_s=window_s, pods=lambda: self.housekeeping.pods)
        try:
            await drain.run()
        finally:
            self.server.events.emit(POD_LEFT, None, self.pod, drain.handed_over, drain.left_alone)

    async def stop(self) -> None:
        """End everything that ``start`` began."""
        if hasattr(self, "http"):
            await self.http.stop()
        if hasattr(self, "keeper"):
            for room in tuple(self.keeper.rooms.values()):
                room.give_up("the pod ends")
            with suppress(BackendUnavailable, TimeoutError):
                async with asyncio.timeout(RETIRE_S):
                    await self.bus.retire(self.pod)
        while works := tuple(self._works):  # what is canceled may begin something at its end
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
        if SIMULATORS in self._opened:
            await self.spawner.close()
        for part in ("auth", "store", "backends"):
            if hasattr(self, part):
                await getattr(self, part).stop()

    def reload(self, config: ExchangeSettings) -> None:
        """Put new settings in force for what asks for them at each use: links, sessions, limits."""
        super().reload(config)
        self.limits = config.limits
        self.service.settings = config

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[Any]:
        """Run work that ends with the gateway."""
        task = self.server.spawn(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return task

    # Connections and sessions

    def connected(self, connection: Connection) -> None:
        """Let a client speak HTTP."""
        self.http.welcome(connection)

    def _open_session(self, row: SessionRow) -> Callable[[int, int, Any], None]:
        """Let the core know of a session that has a room here; return what records for it."""
        session = self.server.managers[self.name].open_detached(row.id)
        assert isinstance(session, UserSession)  # noqa: S101 - session_class
        session.about = f"{row.subject} {row.id}"
        self._sessions[row.id] = session
        return session.record

    def _close_session(self, session_id: str, why: str) -> None:
        """Let the core know that a room is closed."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.over(why)

    def send_away(self, session_id: str) -> None:
        """Close the links of a session: they come back elsewhere, and resume."""
        room = self.keeper.rooms.get(session_id)
        for link in room.links if room is not None else ():
            link.close(Close.RESTART, "the server restarts")

    def end_by_operator(self, session_id: str) -> None:
        """End a user's session."""
        self.spawn(self._end(session_id))

    async def _end(self, session_id: str) -> None:
        try:
            row = await self.store.sessions.end(session_id, EndReason.ADMIN, "closed by an operator")
        except BackendUnavailable as error:
            self.server.events.emit(END_FAILED, None, session_id, str(error))
            return
        if row is not None:
            await self._announcer.end(session_id, EndReason.ADMIN.value)

    def _make_link(
        self, endpoint: str, ownership: Ownership, reader: SimulatorReader, after_seq: int, run: str
    ) -> SimulatorLink:
        return SimulatorLink(
            endpoint,
            ownership,
            reader,
            self.config.simulator_link,
            breakers=self.server.breakers,
            after_seq=after_seq,
            run=run,
            clock=self.server.clock,
        )

    def _backoff(self) -> Backoff:
        return self.services.backoff()

    # What the pod says of itself

    @property
    def is_ready(self) -> bool:
        """Say whether new sessions are welcome, as far as this process is concerned."""
        return self._is_up and not self.is_leaving

    def checks(self) -> dict[str, State]:
        """Return how each backend is."""
        health = self.bus.health()
        return {
            "database": "ok" if self.store.is_up else "down",
            "bus": "ok" if health.is_up and health.is_relay_up else "down",
            "auth": "degraded" if self.auth.health().is_degraded else "ok",
            "simulators": "ok" if SIMULATORS in self._opened else "down",
        }

    async def ask_to_drain(self) -> None:
        """Begin to stop."""
        self.server.ask_to_stop("asked over REST")

    def _presented(self) -> Pod:
        settings = self.config
        address = settings.pod.address or settings.listeners[0].address
        return Pod(self.pod, address, self.is_leaving, float(len(self.keeper.owned)))

    def _on_bus(self, health: BusHealth) -> None:
        is_up = health.is_up and health.is_relay_up
        if is_up == self._is_bus_up:
            return
        self._is_bus_up = is_up
        self.server.events.emit(BUS_CHANGED, None, "up" if is_up else "away", health.cause)
        self.keeper.bus_changed(is_up=is_up)
        if is_up and self._is_up:
            self.spawn(self.housekeeping.bus_is_back())

    def _on_failure(self, request: web.Request, error: Exception) -> None:
        route: Any = request.match_info.route.resource
        name = "unmatched" if route is None else str(route.canonical)
        self.server.events.emit(REQUEST_BROKE, None, name, type(error).__name__, raised_at(error))

    # What the operator sees

    def parties(self, session: Session, direction: int) -> tuple[str, str]:
        """Return from whom to whom an entry goes."""
        client = session.about.partition(" ")[0] or "client"
        return {Direction.IN: (client, self.name), Direction.OUT: (self.name, client)}.get(
            direction, (self.name, self.name)
        )

    def leg(self, what: Any) -> Leg | None:
        """Return what a simulator told in words, as other legs have them already."""
        return trace_words.news_leg(what) if isinstance(what, SimulatorNews) else super().leg(what)

    def words_for(self, entry: Entry) -> tuple[str, str]:
        """Return an entry in the words of ``session.v1``."""
        return trace_words.words_of(entry)

    def panel(self) -> AdminPanel:
        """Return the page with sessions, markets, simulators and pods."""
        return ExchangePanel(self).panel()

    def troubles(self) -> Iterable[Trouble]:
        """Yield backends that are away."""
        if not hasattr(self, "front"):
            return
        for name, state in self.checks().items():
            if state != "ok":
                severity: Literal["error", "warning"] = "error" if state == "down" else "warning"
                yield Trouble(severity, f"{_BACKENDS[name]} is {state}", link="#/gateways/exchange")

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield figures of sessions, links, backends, requests and tokens."""
        if not hasattr(self, "front"):
            return
        keeper, housekeeping = self.keeper, self.housekeeping
        yield "sojourn_exchange_rooms", {}, len(keeper.rooms)
        yield "sojourn_exchange_sessions_owned", {}, len(keeper.owned)
        yield "sojourn_exchange_sessions_expired_total", {}, housekeeping.expired_count
        yield "sojourn_exchange_sessions_adopted_total", {}, housekeeping.adopted_count
        yield "sojourn_exchange_pods", {}, len(housekeeping.pods)
        yield "sojourn_exchange_ready", {}, float(self.is_ready)
        for name, state in self.checks().items():
            yield "sojourn_exchange_backend_up", {"backend": name}, float(state == "ok")
        yield from keeper.counters()
        yield from self.door.counters()
        yield from self.front.counters()
        yield from self.auth.counters()


def _make_spawner(settings: ExchangeSettings, store: Storage) -> Spawner:
    """Return the driver of simulators. Raises: ConfigError."""
    driver = settings.simulators.driver
    if driver == "kubernetes" and settings.kubernetes is not None:
        from sojourn.gateways.exchange.spawners.kubernetes import KubernetesSpawner  # noqa: PLC0415  an extra

        return KubernetesSpawner(settings.kubernetes)
    if driver == "static" and settings.static is not None:
        return StaticSpawner(settings.static, store.pool)
    if driver == "inproc":
        return InprocSpawner()
    return ProcessSpawner(settings.process)
