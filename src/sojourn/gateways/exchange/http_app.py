"""The HTTP application of the gateway: front, REST, and whatever else the gateway serves on the same port."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from sojourn.core.clock import Clock, monotonic
from sojourn.gateways.exchange.auth import Authenticator
from sojourn.gateways.exchange.http_config import HttpSettings
from sojourn.gateways.exchange.idempotency import Once
from sojourn.gateways.exchange.rest import Rest
from sojourn.gateways.exchange.service import Service
from sojourn.gateways.exchange.tickets import TicketDesk
from sojourn.web.front import Front, OnFailure
from sojourn.web.tracing import NO_TRACER, OtelTracer, Tracer


def build_app(
    service: Service,
    auth: Authenticator,
    desk: TicketDesk,
    settings: HttpSettings,
    *,
    once: Once | None = None,
    more: Iterable[web.AbstractRouteDef] = (),
    on_failure: OnFailure,
    tracer: Tracer | None = None,
    clock: Clock = monotonic,
) -> tuple[web.Application, Front]:
    """Make the application, and the front whose counters are the gateway's; before its server starts.

    Args:
        once: carries requests with an Idempotency-Key out once.
        more: other routes, such as the WebSocket; they go through the front too.
        tracer: by default OpenTelemetry's if ``settings.tracing`` wants it.
    Raises: ConfigError if tracing is wanted and cannot be had.
    """
    if tracer is None:
        tracer = OtelTracer("exchange") if settings.tracing else NO_TRACER
    app = web.Application(client_max_size=settings.body_limit_bytes)
    front = Front(settings, prefix="sojourn_exchange", on_failure=on_failure, tracer=tracer, clock=clock)
    front.install(app)
    app.add_routes(Rest(service, auth, desk, once=once, rates=front.subjects, settings=settings).routes())
    app.add_routes(more)
    return app, front
