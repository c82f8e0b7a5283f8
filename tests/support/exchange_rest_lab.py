# ruff: noqa: ARG002 - a fake takes whatever the interface gives
"""The REST interface over a service in memory: what a client may meet, without database and simulator."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from types import SimpleNamespace

import msgspec
from core_lab import address
from exchange_auth_lab import AUDIENCE, ISSUER, MemoryTickets, token

from sojourn.core.clock import utc_now
from sojourn.core.gateway import Gateway
from sojourn.core.router import Router
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings, ListenerSettings
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.auth import Authenticator
from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.http_app import build_app
from sojourn.gateways.exchange.http_config import HttpSettings
from sojourn.gateways.exchange.idempotency import Once
from sojourn.gateways.exchange.ids import IdMaker
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.rows import Fresh, InFlight, KeyConflict, StoredResponse
from sojourn.gateways.exchange.service import Made
from sojourn.gateways.exchange.tickets import TicketDesk
from sojourn.web.server import HttpServer, NoFraming

SECRET = Secret("s" * 32)
HOUR_S = 3_600


def bearer(subject="ana", scope="exchange", lifetime_s=HOUR_S):
    """Return the headers of a user."""
    now = utc_now().timestamp()
    text = token(
        SECRET.reveal(),
        "HS256",
        None,
        sub=subject,
        scope=scope,
        iat=now,
        exp=now + lifetime_s,
        jti=f"of-{subject}",
    )
    return {"Authorization": f"Bearer {text}"}


ADMIN = "exchange exchange.admin"


class MemoryRequests:
    """Answers by key, as the database keeps them."""

    def __init__(self):
        self.kept = {}
        self.abandoned = 0
        self.forgets = False

    async def begin(self, subject, key, digest, hold_s):
        if self.forgets:
            self.kept.clear()
        found = self.kept.get((subject, key))
        if found is None:
            self.kept[subject, key] = (digest, None)
            return Fresh(1)
        if found[0] != digest:
            return KeyConflict()
        return found[1] or InFlight(utc_now() + dt.timedelta(seconds=hold_s))

    async def finish(self, subject, key, attempt, response):
        assert isinstance(response, StoredResponse)
        self.kept[subject, key] = (self.kept[subject, key][0], response)
        return True

    async def abandon(self, subject, key, attempt):
        self.abandoned += 1
        del self.kept[subject, key]
        return True

    async def forget(self, created_before, limit_count=5000):
        return 0


class MemoryService:
    """Sessions, simulators and orders in dicts; ``trouble`` is raised by the next call, ``gate`` holds orders."""

    def __init__(self):
        self.sessions = {}
        self.orders = {}
        self.started = 0
        self.trouble = None
        self.is_ready = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.steps = [
            t.Progress(state="starting", percent=50),
            t.Progress(state="running", percent=100, done=True),
        ]
        self.step_taken = asyncio.Event()
        self.closed_progress = 0
        self.callers = []
        self._make_id = IdMaker(utc_now)

    def _raise_trouble(self):
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble

    def _of(self, principal, session_id):
        self._raise_trouble()
        found = self.sessions.get(session_id)
        if found is None or found.subject != principal.subject:
            raise Refusal(Kind.NOT_FOUND)
        return found

    def _live(self, principal, session_id):
        found = self._of(principal, session_id)
        if found.state == "ended":
            raise Refusal(Kind.ENDED)
        return found

    def _put(self, session, **changed):
        self.sessions[session.id] = changed = msgspec.structs.replace(session, **changed)
        return changed

    async def create_session(self, principal, wish, caller):
        self._raise_trouble()
        self.callers.append(caller)
        for session in self.sessions.values():
            if session.subject == principal.subject and session.state != "ended":
                if wish.device not in session.devices:
                    raise Refusal(Kind.DEVICE_MISMATCH)
                return Made(session, False)
        now = utc_now()
        made = t.Session(
            id=self._make_id(),
            subject=principal.subject,
            state="new",
            devices=(wish.device,),
            attributes=wish.attributes,
            created_at=now,
            active_at=now,
        )
        self.sessions[made.id] = made
        return Made(made, True)

    def _page(self, sessions, limit_count, before):
        newest = sorted((one for one in sessions if not before or one.id < before), key=lambda one: one.id)[
            ::-1
        ]
        page = newest[:limit_count]
        return t.SessionPage(sessions=tuple(page), next=page[-1].id if len(newest) > limit_count else "")

    async def list_sessions(self, principal, limit_count, before):
        self._raise_trouble()
        mine = [one for one in self.sessions.values() if one.subject == principal.subject]
        return self._page(mine, limit_count, before)

    async def get_session(self, principal, session_id):
        return self._of(principal, session_id)

    async def end_session(self, principal, session_id):
        self._put(self._of(principal, session_id), state="ended", ended_at=utc_now(), ended_reason="user")

    async def set_simulator(self, principal, session_id, wish):
        session = self._live(principal, session_id)
        before = session.simulator
        if before is not None and before.desired == wish.desired:
            return before, False
        self.started += wish.desired == "running"
        now = utc_now()
        simulator = t.Simulator(
            id=self._make_id(),
            session=session_id,
            desired=wish.desired,
            state="starting" if wish.desired == "running" else "stopped",
            created_at=now,
            changed_at=now,
        )
        self._put(session, simulator=simulator)
        return simulator, True

    async def get_simulator(self, principal, session_id):
        simulator = self._of(principal, session_id).simulator
        if simulator is None:
            raise Refusal(Kind.NOT_FOUND)
        return simulator

    async def progress(self, principal, session_id):
        self._of(principal, session_id)
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                yield step
                if not step.done:
                    await self.gate.wait()
        finally:
            self.closed_progress += 1

    def _order(self, session_id, order):
        found = self.orders.get((session_id, order))
        if found is None:
            raise Refusal(Kind.NOT_FOUND)
        return found

    async def submit_order(self, principal, session_id, order, request_id):
        self._live(principal, session_id)
        await self.gate.wait()
        if order.symbol == "NONE":
            raise Refusal(Kind.ORDER_REFUSED, reason="unknown_symbol")
        placed = t.Order(
            order=len(self.orders) + 1,
            request=request_id,
            symbol=order.symbol,
            side=order.side,
            type=order.type,
            tif=order.tif or "gtc",
            quantity=order.quantity,
            filled=0,
            remaining=order.quantity,
            price=order.price,
            status="new",
        )
        self.orders[session_id, placed.order] = placed
        return placed

    async def cancel_order(self, principal, session_id, order):
        self._live(principal, session_id)
        found = msgspec.structs.replace(self._order(session_id, order), status="canceled", remaining=0)
        self.orders[session_id, order] = found
        return found

    async def replace_order(self, principal, session_id, order, change):
        self._live(principal, session_id)
        found = msgspec.structs.replace(
            self._order(session_id, order),
            quantity=change.quantity,
            remaining=change.quantity,
            price=change.price,
        )
        self.orders[session_id, order] = found
        return found

    async def get_order(self, principal, session_id, order):
        self._of(principal, session_id)
        return self._order(session_id, order)

    async def list_orders(self, principal, session_id, limit_count, before):
        self._of(principal, session_id)
        mine = [one for (of, _), one in self.orders.items() if of == session_id]
        newest = [one for one in mine if one.order < before or not before]
        newest.sort(key=lambda one: -one.order)
        page = newest[:limit_count]
        return t.OrderPage(orders=tuple(page), next=page[-1].order if len(newest) > limit_count else 0)

    async def events_after(self, principal, session_id, epoch, after, limit_count):
        self._of(principal, session_id)
        if epoch not in {0, 1} or after > 3:
            raise Refusal(Kind.GONE_EVENTS)
        events = [t.SessionEvent(o=o, y="order", d={"order": o}, at_ms=o) for o in range(after + 1, 4)]
        return t.EventPage(epoch=1, last=3, events=tuple(events[:limit_count]))

    async def snapshot(self, principal, session_id):
        self._of(principal, session_id)
        return t.SessionSnapshot(epoch=1, events=3, md=7, pf=2)

    async def admin_sessions(self, where, limit_count, before):
        self._raise_trouble()
        found = [
            one
            for one in self.sessions.values()
            if one.subject == (where.subject or one.subject) and one.state == (where.state or one.state)
        ]
        return self._page(found, limit_count, before)

    async def admin_session(self, session_id):
        if session_id not in self.sessions:
            raise Refusal(Kind.NOT_FOUND)
        return self.sessions[session_id]

    async def admin_end_session(self, principal, session_id):
        self._put(await self.admin_session(session_id), state="ended", ended_reason="admin")

    async def admin_simulators(self, state, limit_count, before):
        found = [one.simulator for one in self.sessions.values() if one.simulator is not None]
        return t.SimulatorPage(simulators=tuple(found[:limit_count]))

    async def admin_stop_simulator(self, principal, simulator_id):
        for session in self.sessions.values():
            if session.simulator is not None and session.simulator.id == simulator_id:
                return session.simulator
        raise Refusal(Kind.NOT_FOUND)

    async def admin_pods(self):
        return t.PodPage(pods=(t.PodRow(name="pod-1"),))

    async def admin_drain(self, principal, pod):
        if pod not in {"", "pod-1"}:
            raise Refusal(Kind.NOT_FOUND)
        return "pod-1", len(self.sessions)

    async def admin_disconnect(self, principal, order):
        return 0

    def health(self):
        return t.Health(pod="pod-1")

    def readiness(self):
        return t.Readiness(ready=self.is_ready, parts={"database": "ok"}, pod="pod-1")


class RestGateway(Gateway):
    """REST on the core."""

    name = "exchange"
    framing = NoFraming()

    def __init__(self, service, http, auth, more=(), **options):
        self.router = Router()
        self.limits = LimitSettings()
        self.service, self.http_settings, self.auth_settings = service, http, auth
        self.more, self.options = more, options
        self.failures = []

    async def start(self, server):
        await super().start(server)
        self.auth = Authenticator(self.auth_settings, server)
        await self.auth.start()
        self.tickets = MemoryTickets(server.clock)
        self.requests = MemoryRequests()
        self.desk = TicketDesk(self.tickets, 30.0)
        app, self.front = build_app(
            self.service,
            self.auth,
            self.desk,
            self.http_settings,
            once=Once(self.requests, 30.0),
            more=self.more,
            on_failure=lambda request, error: self.failures.append((request.match_info.route.name, error)),
            **self.options,
        )
        self.http = HttpServer(app, self.http_settings)
        await self.http.start()

    def connected(self, connection):
        self.http.welcome(connection)

    async def stop(self):
        await self.http.stop()
        await self.auth.stop()

    def counters(self):
        yield from self.front.counters()
        yield from self.auth.counters()


@contextlib.asynccontextmanager
async def rest(*, http=None, auth=None, service=None, more=(), listener=None, **options):
    """Run the interface; yields server, gateway, service and url."""
    service = service or MemoryService()
    auth = auth or AuthSettings(issuer=ISSUER, audience=AUDIENCE, dev_secret=SECRET)
    gateway = RestGateway(service, http or HttpSettings(), auth, more, **options)
    server = Server()
    server.add(gateway, [listener or ListenerSettings(address="127.0.0.1:0")])
    await server.start()
    server.manager = server.managers["exchange"]
    try:
        host, port = address(server)
        yield SimpleNamespace(server=server, gateway=gateway, service=service, url=f"http://{host}:{port}")
    finally:
        await server.stop(timeout_s=0)
        assert not server.manager.connections
