"""The settings of the ways in for operators, ``[admin]`` in ``sojourn.toml``.

Declares names, defaults and help; knows nothing of how they are served.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Settings
from sojourn.web.config import ORIGIN, AddressRateSettings, RateSettings

_LARGEST_PORT = 65_535
_SHORTEST_TOKEN_CHARACTERS = 16


class TokenSettings(Settings, frozen=True):
    """One bearer token of the HTTP API, and what it may."""

    name: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9._-]{1,64}$",
            description="Whose it is, as the audit log calls them.",
            examples=["grafana"],
        ),
    ]
    token: Annotated[
        Secret,
        Meta(
            description="The token itself, of at least 16 characters.",
            examples=["${file:/etc/sojourn/grafana.token}"],
        ),
    ]
    scope: Annotated[
        Literal["view", "operate", "admin"],
        Meta(
            description="view reads; operate also closes sessions, acts on gateways and reads the configuration; "
            "admin also reloads, drains, lets browsers in and reads the audit log.",
        ),
    ] = "view"

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield that the token is too short."""
        if found := _too_short(self.token):
            yield "token", *found


class AttemptSettings(RateSettings, frozen=True):
    """How often one address may show a login link or a token that is not good."""

    requests_per_s: Annotated[
        float, Meta(ge=0, description="Attempts per second, refilled evenly; 0 = no limit.")
    ] = 1.0
    burst_count: Annotated[int, Meta(ge=1, description="Attempts at once, after a quiet time.")] = 20
    tracked_count: Annotated[int, Meta(ge=1, description="Addresses whose attempts are counted at once.")] = (
        1_000
    )


class BrowserSettings(Settings, frozen=True):
    """Browsers that were let in by a one-time link."""

    link_lifetime_s: Annotated[
        float, Meta(gt=0, description="How long a login link that nobody has used is good.")
    ] = 300.0
    links_count: Annotated[
        int, Meta(ge=1, description="Links that wait to be used; a new one makes the oldest invalid.")
    ] = 16
    lifetime_s: Annotated[
        float, Meta(gt=0, description="How long a browser stays logged in, whatever it does.")
    ] = 43_200.0
    idle_timeout_s: Annotated[
        float, Meta(gt=0, description="How long a browser that asks nothing stays logged in.")
    ] = 3_600.0
    sessions_count: Annotated[
        int, Meta(ge=1, description="Browsers logged in at once; a new one logs the oldest out.")
    ] = 64
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of the dashboard besides the address itself, behind a proxy with TLS for example; "
            "never a wildcard.",
            examples=[["https://sojourn.example.net"]],
        ),
    ] = ()
    attempts: AttemptSettings = AttemptSettings()

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield origins that are none."""
        for origin in self.origins:
            if not ORIGIN.match(origin):
                yield "origins", repr(origin), "scheme and host such as https://sojourn.example.net, no path"


class StreamSettings(Settings, frozen=True):
    """Live streams: what happens, told as it happens."""

    streams_count: Annotated[int, Meta(ge=1, description="Streams open at once; more are refused.")] = 64
    queue_count: Annotated[
        int, Meta(ge=8, description="Messages that wait for one reader; a slower one is dropped.")
    ] = 512
    write_timeout_s: Annotated[
        float, Meta(gt=0, description="A reader that takes no bytes for this long is dropped.")
    ] = 15.0
    sessions_per_s: Annotated[
        int, Meta(ge=1, description="Sessions told one by one per second; more are only counted.")
    ] = 200
    events_per_s: Annotated[
        int, Meta(ge=1, description="Events told one by one per second; more are only counted.")
    ] = 200
    comment_s: Annotated[
        float, Meta(gt=0, description="Silence on a stream before a comment shows that it lives.")
    ] = 15.0


class AdminSettings(Settings, frozen=True):
    """The HTTP API, dashboard, metrics and health checks, and the local control socket of the command line."""

    address: Annotated[
        str,
        Meta(
            description="host:port or [v6]:port of the dashboard, HTTP API, health checks and metrics; empty = none.",
        ),
    ] = "127.0.0.1:9300"
    socket: Annotated[
        str,
        Meta(
            description="Unix socket of the sojourn command, open to this server's own user only; empty = "
            "$XDG_RUNTIME_DIR/sojourn.sock; without that variable /run/sojourn/control.sock for root and "
            "/tmp/sojourn-UID/control.sock for others.",
            examples=["/run/sojourn/control.sock"],
        ),
    ] = ""
    token: Annotated[
        Secret | None,
        Meta(
            description="Bearer token that may do everything over the HTTP API; without any token it answers health "
            "checks, and browsers that sojourn login-link let in.",
            examples=["${file:/etc/sojourn/admin.token}"],
        ),
    ] = None
    metrics_without_token: Annotated[bool, Meta(description="/metrics needs no token.")] = False
    request_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest work on one request; streams have none.")
    ] = 30.0
    connections_count: Annotated[
        int,
        Meta(
            ge=1,
            description="Connections at once; more are closed. The control socket has as many of its own.",
        ),
    ] = 256
    head_timeout_s: Annotated[
        float, Meta(gt=0, description="From a connection's beginning to the last byte of its first headers.")
    ] = 10.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, description="From a request's headers to the last byte of its body.")
    ] = 10.0
    audit_entries_count: Annotated[
        int, Meta(ge=1, description="Last orders that are kept in memory; all of them are in the log.")
    ] = 1_000
    requests: AddressRateSettings = AddressRateSettings()
    browsers: BrowserSettings = BrowserSettings()
    streams: StreamSettings = StreamSettings()
    tokens: Annotated[
        tuple[TokenSettings, ...], Meta(description="More bearer tokens, each with what it may.")
    ] = ()

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is wrong with the address, the tokens, or both together."""
        host, colon, port = self.address.rpartition(":")
        if self.address and not (
            colon and host and port.isascii() and port.isdigit() and int(port) <= _LARGEST_PORT
        ):
            yield "address", repr(self.address), "host:port or [v6]:port"
        elif self.address and self.token is None and not self.tokens and not is_loopback(host):
            yield "address", f"{self.address!r} and no token", "a loopback address, or a token"
        if self.token is not None and (found := _too_short(self.token)):
            yield "token", *found
        for name, count in Counter(one.name for one in self.tokens).items():
            if count > 1:
                yield "tokens", f"{count} tokens named {name!r}", "a name of its own for each"
        values = [one.token for one in self.tokens] + ([self.token] if self.token is not None else [])
        if len(set(values)) < len(values):
            yield "tokens", "the same token twice", "a token of its own for each"


def _too_short(token: Secret) -> tuple[str, str] | None:
    """Return what was found and wanted of a token that could be guessed."""
    length = len(token.reveal())
    if length >= _SHORTEST_TOKEN_CHARACTERS:
        return None
    return f"{length} characters", f"at least {_SHORTEST_TOKEN_CHARACTERS} characters"


def is_loopback(host: str) -> bool:
    """Tell whether a host, as it stands before ``:port``, can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
