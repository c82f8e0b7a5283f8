"""REST: from a request to a call of the service, and from what it returns to an answer.

Everything that is the same for all operations is done once, driven by the routes table: who asks, what may be asked,
the body, the Idempotency-Key. The handlers only translate. A GET starts nothing. Knows no database and no simulator.

Source: exchange-session-service.md sections 1.4 and 5.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from sojourn.core.clock import utc_now
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.auth import Authenticator
from sojourn.gateways.exchange.event_stream import stream_progress
from sojourn.gateways.exchange.http_config import HttpSettings
from sojourn.gateways.exchange.idempotency import Once, fingerprint, with_request_id
from sojourn.gateways.exchange.ids import is_id
from sojourn.gateways.exchange.openapi import document
from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.gateways.exchange.routes import LARGEST_OFFSET, OPERATIONS
from sojourn.gateways.exchange.rows import StoredResponse
from sojourn.gateways.exchange.service import Caller, Service, SessionSearch
from sojourn.gateways.exchange.tickets import TicketDesk
from sojourn.web.front import REQUEST_ID, Rates
from sojourn.web.operations import Operation
from sojourn.web.server import Forwarding
from sojourn.web.serving import in_time, read_request

_USER_AGENT_CHARACTERS: Final = 256
_NOBODY: Final = Principal("", frozenset(), 0.0, "")


class Call(NamedTuple):
    """One request, read and checked; ``path`` has the parameters of its path."""

    request: web.Request
    principal: Principal
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any
    key: str | None

    @property
    def session(self) -> str:
        """The session's id in the path; one that cannot be is of no session.

        Raises: Refusal.
        """
        return _id(self.path["id"])

    @property
    def order(self) -> int:
        """The order's number in the path.

        Raises: Refusal.
        """
        text = self.path["order"]
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_OFFSET))):
            raise Refusal(Kind.NOT_FOUND)
        return int(text)


class Answer(NamedTuple):
    """What an operation answers; a value of None has no body."""

    value: Any
    status: int = 200
    location: str = ""


Handler = Callable[[Call], Awaitable[Answer]]


class Rest:
    """The handlers of one application.

    Args:
        once: carries requests with a key out once; none = the key is only handed on.
        rates: counts requests per subject.
    """

    def __init__(
        self,
        service: Service,
        auth: Authenticator,
        desk: TicketDesk,
        *,
        once: Once | None,
        rates: Rates,
        settings: HttpSettings,
    ) -> None:
        self._handlers = _Handlers(service, auth, desk, settings)
        self._auth = auth
        self._once = once
        self._rates = rates
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Return every operation as a route."""
        return [web.route(one.method, one.path, self._serving(one), name=one.handler) for one in OPERATIONS]

    def _serving(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        handler: Handler = getattr(self._handlers, operation.handler)

        async def serve(request: web.Request) -> web.StreamResponse:
            principal = await self._principal(request, operation)
            query, key, raw, body = await read_request(request, operation, self._settings)
            if body is not None and (errors := tuple(body.problems())):
                raise Refusal(Kind.INVALID, errors=errors)
            call = Call(request, principal, request.match_info, query, body, key)
            if operation.media == "text/event-stream":
                return await self._handlers.progress(call)
            work = self._worked(operation, handler, call, raw)
            return await in_time(operation, work, self._settings.request_timeout_s)

        return serve

    async def _worked(self, operation: Operation, handler: Handler, call: Call, raw: bytes) -> web.Response:
        """Do the work, and once where there is a key.

        Raises: Refusal; whatever the service raises.
        """

        async def work() -> StoredResponse:
            return _stored(await handler(call))

        if call.key is None or self._once is None:
            return _response(await work())
        digest = fingerprint(operation.method, call.request.path, raw)
        stored = await self._once.run(call.principal.subject, call.key, digest, work)
        return _response(with_request_id(stored, call.request[REQUEST_ID]))

    async def _principal(self, request: web.Request, operation: Operation) -> Principal:
        """Return who asks, having counted the request as one of theirs.

        Raises: Refusal.
        """
        if operation.access == "open":
            return _NOBODY
        principal = await self._auth.authenticate(request)
        self._rates.take(principal.subject)
        scopes = self._auth.settings
        self._auth.require(
            principal, scopes.admin_scope if operation.access == "admin" else scopes.user_scope
        )
        return principal


class _Handlers:
    """One method per operation of the routes table, which says what each is for."""

    def __init__(
        self, service: Service, auth: Authenticator, desk: TicketDesk, settings: HttpSettings
    ) -> None:
        self._service = service
        self._auth = auth
        self._desk = desk
        self._settings = settings
        self._forwarding = Forwarding(settings.trusted_proxies)

    # Sessions

    async def create_session(self, call: Call) -> Answer:
        session, is_new = await self._create(call, call.body)
        return Answer(session, 201 if is_new else 200, f"/v1/sessions/{session.id}")

    async def _create(self, call: Call, wish: t.CreateSession) -> tuple[t.Session, bool]:
        agent = call.request.headers.get("User-Agent", "")[:_USER_AGENT_CHARACTERS]
        caller = Caller(self._forwarding.address_of(call.request), agent if agent.isprintable() else "")
        return await self._service.create_session(call.principal, wish, caller)

    async def list_sessions(self, call: Call) -> Answer:
        return Answer(
            await self._service.list_sessions(call.principal, call.query["limit"], call.query["before"])
        )

    async def get_session(self, call: Call) -> Answer:
        return Answer(await self._service.get_session(call.principal, call.session))

    async def end_session(self, call: Call) -> Answer:
        await self._service.end_session(call.principal, call.session)
        return Answer(None, 204)

    async def give_ticket(self, call: Call) -> Answer:
        session = await self._service.get_session(call.principal, call.session)
        if session.state == "ended":
            raise Refusal(Kind.ENDED)
        ticket = await self._desk.give(call.principal, session.id)
        return Answer(t.Ticket(ticket=ticket, expires_in_s=self._desk.ttl_s), 201)

    # Simulators

    async def set_simulator(self, call: Call) -> Answer:
        simulator, is_changed = await self._service.set_simulator(call.principal, call.session, call.body)
        return Answer(simulator, 202 if is_changed else 200, f"/v1/sessions/{call.session}/simulator")

    async def get_simulator(self, call: Call) -> Answer:
        return Answer(await self._service.get_simulator(call.principal, call.session))

    async def progress(self, call: Call) -> web.StreamResponse:
        steps = self._service.progress(call.principal, call.session)
        return await stream_progress(call.request, steps, self._settings.keep_alive_comment_s)

    # Orders

    async def submit_order(self, call: Call) -> Answer:
        placed = await self._service.submit_order(call.principal, call.session, call.body, call.key or "")
        return Answer(placed, 201, f"/v1/sessions/{call.session}/orders/{placed.order}")

    async def list_orders(self, call: Call) -> Answer:
        query = call.query
        return Answer(
            await self._service.list_orders(call.principal, call.session, query["limit"], query["before"])
        )

    async def get_order(self, call: Call) -> Answer:
        return Answer(await self._service.get_order(call.principal, call.session, call.order))

    async def cancel_order(self, call: Call) -> Answer:
        return Answer(await self._service.cancel_order(call.principal, call.session, call.order))

    async def replace_order(self, call: Call) -> Answer:
        return Answer(await self._service.replace_order(call.principal, call.session, call.order, call.body))

    # Replay

    async def events_after(self, call: Call) -> Answer:
        query = call.query
        return Answer(
            await self._service.events_after(
                call.principal, call.session, query["epoch"], query["after"], query["limit"]
            )
        )

    async def snapshot(self, call: Call) -> Answer:
        return Answer(await self._service.snapshot(call.principal, call.session))

    # Administrators

    async def admin_sessions(self, call: Call) -> Answer:
        query = call.query
        where = SessionSearch(query["subject"], query["state"], query["pod"])
        return Answer(await self._service.admin_sessions(where, query["limit"], query["before"]))

    async def admin_session(self, call: Call) -> Answer:
        return Answer(await self._service.admin_session(call.session))

    async def admin_end_session(self, call: Call) -> Answer:
        await self._service.admin_end_session(call.principal, call.session)
        return Answer(None, 204)

    async def admin_simulators(self, call: Call) -> Answer:
        query = call.query
        return Answer(await self._service.admin_simulators(query["state"], query["limit"], query["before"]))

    async def admin_stop_simulator(self, call: Call) -> Answer:
        return Answer(await self._service.admin_stop_simulator(call.principal, call.session), 202)

    async def admin_pods(self, _call: Call) -> Answer:
        return Answer(await self._service.admin_pods())

    async def admin_drain(self, call: Call) -> Answer:
        pod, count = await self._service.admin_drain(call.principal, call.body.pod)
        return Answer(t.Draining(pod=pod, sessions_count=count), 202)

    async def admin_disconnect(self, call: Call) -> Answer:
        count = await self._service.admin_disconnect(call.principal, call.body)
        return Answer(t.Disconnected(links_count=count))

    # Health

    async def healthz(self, _call: Call) -> Answer:
        return Answer(self._service.health())

    async def readyz(self, _call: Call) -> Answer:
        readiness = self._readiness()
        return Answer(readiness, 200 if readiness.ready else 503)

    def _readiness(self) -> t.Readiness:
        """Return the service's readiness; an issuer that is away makes nobody unready, since known tokens go on."""
        readiness = self._service.readiness()
        auth = "degraded" if self._auth.health().is_degraded else "ok"
        return msgspec.structs.replace(readiness, parts={**readiness.parts, "auth": auth})

    async def openapi(self, _call: Call) -> Answer:
        return Answer(msgspec.Raw(document()))

    # What the original's clients ask for

    async def seed_create(self, call: Call) -> Answer:
        session, is_new = await self._create(call, t.CreateSession(device=call.body.device))
        body = t.SeedSession(success=True, session_id=session.id, is_new=is_new)
        return Answer(body, 201 if is_new else 200)

    async def seed_end(self, call: Call) -> Answer:
        await self._service.end_session(call.principal, call.body.session)
        return Answer(t.SeedDone())

    async def seed_list(self, call: Call) -> Answer:
        return await self.list_sessions(call)

    async def seed_get(self, call: Call) -> Answer:
        return await self.get_session(call)

    async def seed_end_one(self, call: Call) -> Answer:
        await self._service.end_session(call.principal, call.session)
        return Answer(t.SeedDone())

    async def seed_start(self, call: Call) -> Answer:
        return await self._seed_want(call, t.SimulatorWish(desired="running"))

    async def seed_stop(self, call: Call) -> Answer:
        answer = await self._seed_want(call, t.SimulatorWish(desired="stopped"))
        return answer._replace(status=200)

    async def _seed_want(self, call: Call, wish: t.SimulatorWish) -> Answer:
        session = await self._present_session(call.principal)
        simulator, is_changed = await self._service.set_simulator(call.principal, session, wish)
        return Answer(_seed_simulator(simulator), 202 if is_changed else 200)

    async def seed_simulator(self, call: Call) -> Answer:
        session = await self._present_session(call.principal)
        return Answer(_seed_simulator(await self._service.get_simulator(call.principal, session)))

    async def _present_session(self, principal: Principal) -> str:
        """Return the newest session of the caller that has not ended: these paths name none.

        Raises: Refusal.
        """
        for session in (await self._service.list_sessions(principal, 100, "")).sessions:
            if session.state != "ended":
                return session.id
        raise Refusal(Kind.NOT_FOUND, "there is no session")

    async def seed_health(self, _call: Call) -> Answer:
        pod = self._service.health().pod
        return Answer(t.SeedHealth(status="UP", timestamp=utc_now(), pod=pod))

    async def seed_readiness(self, _call: Call) -> Answer:
        found = self._readiness()
        body = t.SeedReadiness(
            status="READY" if found.ready else "NOT READY",
            timestamp=utc_now(),
            pod=found.pod,
            checks=dict(found.parts),
        )
        return Answer(body, 200 if found.ready else 503)


def _stored(answer: Answer) -> StoredResponse:
    headers = {"Location": answer.location} if answer.location else {}
    if answer.value is None:
        return StoredResponse(answer.status, b"", headers)
    body = msgspec.json.encode(answer.value)
    return StoredResponse(answer.status, body, {**headers, "Content-Type": "application/json"})


def _response(stored: StoredResponse) -> web.Response:
    return web.Response(status=stored.status, body=stored.body or None, headers=stored.headers)


def _id(text: str) -> str:
    if not is_id(text):
        raise Refusal(Kind.NOT_FOUND)
    return text


def _seed_simulator(simulator: t.Simulator) -> t.SeedSimulator:
    return t.SeedSimulator(
        success=True,
        status=simulator.state.upper(),
        session_id=simulator.session,
        simulator_id=simulator.id,
    )
