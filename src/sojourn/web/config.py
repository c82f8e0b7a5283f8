"""What one HTTP connection and one request may cost, and which browsers may come: the table ``http`` of a gateway.

Declares names, units, defaults and help; knows nothing of listeners, which are the core's, nor of tokens.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from sojourn.core.settings import Settings

ORIGIN: Final = re.compile(r"https?://[a-z0-9.\-\[\]:]+(?::[0-9]{1,5})?\Z")
"""Scheme and host, with a port where it is not the scheme's own; no path. Source: RFC 6454 section 6.2."""


class RateSettings(Settings, frozen=True):
    """How many requests are served before anything is done for them."""

    requests_per_s: Annotated[
        float, Meta(ge=0, description="Requests per second, refilled evenly; 0 = no limit.")
    ] = 20.0
    burst_count: Annotated[int, Meta(ge=1, description="Requests at once, after a quiet time.")] = 100
    tracked_count: Annotated[
        int, Meta(ge=1, description="Subjects or addresses whose requests are counted at once.")
    ] = 50_000


class AddressRateSettings(RateSettings, frozen=True):
    """The same for an address, behind which there may be many users."""

    requests_per_s: Annotated[
        float, Meta(ge=0, description="Requests per second, refilled evenly; 0 = no limit.")
    ] = 100.0
    burst_count: Annotated[int, Meta(ge=1, description="Requests at once, after a quiet time.")] = 500


class HttpSettings(Settings, frozen=True):
    """HTTP as it is served to clients: limits, deadlines, origins."""

    keep_alive_timeout_s: Annotated[
        float, Meta(gt=0, description="Silence between two requests of one connection.")
    ] = 75.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, description="From a request's headers to the last byte of its body.")
    ] = 10.0
    request_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest work on one request; streams and WebSockets have none.")
    ] = 30.0
    linger_timeout_s: Annotated[
        float,
        Meta(ge=0, description="How long a body is read that nobody wanted, so that its sender hears why."),
    ] = 2.0
    stop_timeout_s: Annotated[
        float, Meta(gt=0, description="How long requests whose client is gone may go on at the end.")
    ] = 5.0
    body_limit_bytes: Annotated[int, Meta(ge=1_024, description="Longest body of a request.")] = 65_536
    line_limit_bytes: Annotated[int, Meta(ge=256, description="Longest request line.")] = 4_096
    header_limit_bytes: Annotated[int, Meta(ge=256, description="Longest single header.")] = 8_190
    headers_count: Annotated[int, Meta(ge=8, le=1_000, description="Headers of one request.")] = 64
    keep_alive_comment_s: Annotated[
        float, Meta(gt=0, description="Silence on an event stream before a comment shows that it lives.")
    ] = 15.0
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of web pages that may use the API and the WebSocket; never a wildcard.",
            examples=[["https://desk.example.net"]],
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="Networks whose X-Forwarded-For is believed.", examples=[["10.0.0.0/8"]]),
    ] = ()
    per_subject: RateSettings = RateSettings()
    per_address: AddressRateSettings = AddressRateSettings()
    tracing: Annotated[
        bool,
        Meta(description="One OpenTelemetry span per request; needs the extra otel and its OTEL_* settings."),
    ] = False

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield origins and networks that are none."""
        for origin in self.origins:
            if not ORIGIN.match(origin):
                yield "origins", repr(origin), "scheme and host such as https://desk.example.net, no path"
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                yield "trusted_proxies", repr(network), "a network such as 10.0.0.0/8"
