"""What every request goes through before a route sees it, and every answer before it leaves.

Request id, rate per address, problem+json for whatever goes wrong, CORS by a list of origins, headers that keep
browsers from guessing, metrics per route, a span. Knows no operation.
"""

from __future__ import annotations

import ipaddress
import math
import re
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from aiohttp import web

from sojourn.core.clock import Clock, monotonic
from sojourn.core.rate import TokenBucket
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.web.config import HttpSettings, RateSettings
from sojourn.web.problems import MEDIA_TYPE, Kind, Refusal, of_status
from sojourn.web.server import Forwarding, protocol_of
from sojourn.web.tracing import NO_TRACER, Tracer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OnFailure = Callable[[web.Request, Exception], None]

REQUEST_ID: Final = web.RequestKey("request_id", str)
BUCKETS_S: Final = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds of the durations that are counted."""
UNMATCHED: Final = "unmatched"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNRATED: Final = frozenset({"/healthz", "/readyz", "/health", "/readiness"})
"""Probes come from few addresses and must not be refused by a count."""
_CORS_HEADERS: Final = "Authorization, Content-Type, Idempotency-Key, X-Request-Id"
_CORS_EXPOSED: Final = "Location, Retry-After, X-Request-Id, Idempotency-Replayed"
_CORS_AGE_S: Final = "600"
_HSTS: Final = "max-age=31536000"
_UPGRADED: Final = 101
_CLIENT_GONE: Final = 499
"""What is counted for a request whose client did not wait for the answer; never sent."""
_ERROR_STATUS: Final = 400
_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What an answer has unless its handler said something else."""


class Rates:
    """One token bucket per key, for the keys that were seen last.

    A key that is pushed out comes back with a full bucket: the bound costs strictness, never memory.
    """

    def __init__(self, settings: RateSettings, clock: Clock = monotonic) -> None:
        self.refused_count = 0
        self._settings = settings
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str) -> None:
        """Count one request.

        Raises: Refusal with status 429.
        """
        settings = self._settings
        if not settings.requests_per_s:
            return
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= settings.tracked_count:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = TokenBucket(
                settings.requests_per_s, settings.burst_count, self._clock
            )
        else:
            self._buckets.move_to_end(key)
        if not bucket.take():
            self.refused_count += 1
            raise Refusal(Kind.TOO_MANY, retry_after_s=math.ceil(1.0 / settings.requests_per_s))


def rated_address(address: str) -> str:
    """Return what is counted as one address: one host of IPv4, one customer's /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:  # noqa: PLR2004 - the version of IP
        return address
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


class RequestMetrics:
    """Requests by method, route and status, and how long they took; the labels are words of ours."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self.in_flight_count = 0

    def note(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one request."""
        self._counts[method if method in _METHODS else "other", route, status] += 1
        if status == _UPGRADED:
            return  # how long a WebSocket was open is no response time
        buckets = self._durations.setdefault(route, [0] * (len(BUCKETS_S) + 1))
        for index, bound in enumerate(BUCKETS_S):
            if took_s <= bound:
                buckets[index] += 1
        buckets[-1] += 1
        self._seconds[route] += took_s  # type: ignore[assignment]  # a Counter adds floats as well

    def rows(self, prefix: str) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield what ``Gateway.counters`` yields, under names that begin with ``prefix``."""
        yield f"{prefix}_http_requests_in_flight", {}, self.in_flight_count
        for (method, route, status), count in self._counts.items():
            yield (
                f"{prefix}_http_requests_total",
                {"method": method, "route": route, "status": str(status)},
                count,
            )
        for route, buckets in self._durations.items():
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
                yield f"{prefix}_http_request_seconds_bucket", {"route": route, "le": bound}, count
        for route, seconds in self._seconds.items():
            yield f"{prefix}_http_request_seconds_sum", {"route": route}, seconds
            yield f"{prefix}_http_request_seconds_count", {"route": route}, self._durations[route][-1]


class Front:
    """The middleware of one application.

    Args:
        prefix: of the names of its metrics, such as ``sojourn_exchange``.
        on_failure: is told of a bug of ours, with the exception.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        prefix: str,
        on_failure: OnFailure,
        tracer: Tracer = NO_TRACER,
        clock: Clock = monotonic,
    ) -> None:
        self.metrics = RequestMetrics()
        self.addresses = Rates(settings.per_address, clock)
        self.subjects = Rates(settings.per_subject, clock)
        self._prefix = prefix
        self._origins = frozenset(settings.origins)
        self._forwarding = Forwarding(settings.trusted_proxies)
        self._on_failure = on_failure
        self._tracer = tracer
        self._clock = clock

    def install(self, app: web.Application) -> None:
        """Put the middleware in front of an application."""

        @web.middleware
        async def front(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._serve(request, handler)

        app.middlewares.append(front)
        app.on_response_prepare.append(self._prepare)

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield what ``Gateway.counters`` yields."""
        prefix = self._prefix
        yield from self.metrics.rows(prefix)
        for kind, rates in (("address", self.addresses), ("subject", self.subjects)):
            yield f"{prefix}_http_rate_refused_total", {"per": kind}, rates.refused_count

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve one request, whatever happens; exactly one answer, counted once."""
        began = self._clock()
        route = _route_of(request)
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _REQUEST_ID.match(given) else secrets.token_hex(8)
        self.metrics.in_flight_count += 1
        status = _CLIENT_GONE
        try:
            with self._tracer.request(request.headers) as span:
                span.set("http.request.method", request.method)
                span.set("http.route", route)
                span.set("sojourn.request_id", request[REQUEST_ID])
                response = await self._answered(request, handler, route)
                status = response.status
                span.set("http.response.status_code", status)
                if status >= Kind.INTERNAL.status:
                    span.failed(f"status {status}")
                return response
        except web.HTTPException as redirect:
            status = redirect.status
            raise
        finally:
            self.metrics.in_flight_count -= 1
            self.metrics.note(request.method, route, status, self._clock() - began)

    async def _answered(self, request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
        """Return the handler's answer or a problem."""
        try:
            if route not in _UNRATED:
                self.addresses.take(rated_address(self._forwarding.address_of(request)))
            if _is_preflight(request):
                return self._preflight(request)
            return await handler(request)
        except Refusal as error:
            refusal = error
        except web.HTTPException as error:
            if error.status < _ERROR_STATUS:
                raise
            refusal = of_status(error.status, allow=error.headers.get("Allow", ""))
        except BackendUnavailable:
            refusal = Refusal(Kind.UNAVAILABLE)
        except LimitExceeded:
            refusal = Refusal(Kind.LIMIT)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: told, and the client gets no word of it
            self._on_failure(request, error)
            refusal = Refusal(Kind.INTERNAL)
        if request.writer.output_size:
            raise ConnectionError("the answer was under way already")
        return problem_response(refusal, request[REQUEST_ID])

    def _preflight(self, request: web.Request) -> web.Response:
        """Answer what a browser asks before it sends a request of another origin.

        Source: Fetch standard, "CORS-preflight request".
        """
        if request.headers.get("Origin") not in self._origins:
            raise Refusal(Kind.BAD_ORIGIN)
        failure = request.match_info.http_exception
        if not isinstance(failure, web.HTTPMethodNotAllowed):
            raise Refusal(Kind.NOT_FOUND)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": ", ".join(sorted(failure.allowed_methods)),
                "Access-Control-Allow-Headers": _CORS_HEADERS,
                "Access-Control-Max-Age": _CORS_AGE_S,
            },
        )

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Complete the headers of any answer, also of a stream and of an upgrade."""
        headers = response.headers
        headers["X-Request-Id"] = request[REQUEST_ID]
        headers["Server"] = "sojourn"
        for name, value in _SECURITY.items():
            headers.setdefault(name, value)
        protocol = protocol_of(request)
        if protocol.connection.peer.is_tls:
            headers.setdefault("Strict-Transport-Security", _HSTS)
        if self._origins:
            headers.add("Vary", "Origin")
            origin = request.headers.get("Origin")
            if origin in self._origins:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = _CORS_EXPOSED
                headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if protocol.is_last and response.status != _UPGRADED:  # which keeps its own Connection header
            response.force_close()
            headers["Connection"] = "close"


def problem_response(refusal: Refusal, request_id: str = "") -> web.Response:
    """Return a refusal as an answer."""
    return web.Response(
        status=refusal.kind.status,
        body=refusal.body(request_id),
        content_type=MEDIA_TYPE,
        headers=refusal.headers(),
    )


def _route_of(request: web.Request) -> str:
    """Return the template of the route, which is one of few, and never the path, which may be anything."""
    resource: Any = request.match_info.route.resource
    return UNMATCHED if resource is None else str(resource.canonical)


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )
