"""How settings are declared: one frozen struct per table, unit in the name, default and help beside it.

Knows nothing of files, environment or command lines; ``sojourn.config`` reads those into these structs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of every declared table; values are immutable, so that a snapshot can be shared."""

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield ``(key, found, wanted)`` for what only several fields together can show to be wrong."""
        return iter(())


class TlsSettings(Settings, frozen=True):
    """TLS of one listener."""

    certificate_file: Annotated[
        str, Meta(description="PEM chain of this server.", examples=["/etc/sojourn/server.pem"])
    ]
    private_key_file: Annotated[
        str,
        Meta(description="PEM key; must not be readable by others.", examples=["/etc/sojourn/server.key"]),
    ]
    client_ca_file: Annotated[
        str, Meta(description="PEM certificates that sign clients; set = clients must have one.")
    ] = ""
    crl_file: Annotated[
        str, Meta(description="PEM revocation lists, checked for the client's certificate.")
    ] = ""
    min_version: Annotated[Literal["1.2", "1.3"], Meta(description="Oldest version that is accepted.")] = (
        "1.3"
    )
    session_tickets_count: Annotated[
        int, Meta(ge=0, le=16, description="Resumption tickets per handshake; 0 = no resumption.")
    ] = 2
    handshake_timeout_s: Annotated[Seconds, Meta(description="From accept to the end of the handshake.")] = (
        10.0
    )


class ListenerSettings(Settings, frozen=True):
    """One address on which a gateway listens."""

    address: Annotated[
        str,
        Meta(description="host:port, [v6]:port, or unix:/path; port 0 takes a free one."),
    ] = "127.0.0.1:0"
    tls: TlsSettings | None = None
    proxy_protocol: Annotated[
        bool,
        Meta(
            description="Every connection must begin with a PROXY v1 or v2 header; only for trusted_proxies."
        ),
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...], Meta(description="Networks whose PROXY headers are believed.")
    ] = ()
    backlog_count: Annotated[
        int, Meta(ge=1, description="Connections that the kernel holds until we take them.")
    ] = 1024
    reuse_port: Annotated[bool, Meta(description="SO_REUSEPORT: several processes share the address.")] = (
        False
    )
    unix_mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$", description="Permissions of a unix socket.")] = (
        "600"
    )


class LimitSettings(Settings, frozen=True):
    """What the core takes from peers of one gateway before it refuses."""

    connections_count: Annotated[int, Meta(ge=1, description="Connections at once.")] = 20_000
    connections_per_peer_count: Annotated[
        int, Meta(ge=1, description="Connections at once of one address.")
    ] = 1_000
    accepts_per_s: Annotated[
        float, Meta(ge=0, description="New connections per second, refilled evenly; 0 = no limit.")
    ] = 0.0
    accepts_burst_count: Annotated[
        int, Meta(ge=1, description="New connections at once, after a quiet time.")
    ] = 2_000
    first_byte_timeout_s: Annotated[float, Meta(gt=0, description="Silence before the first byte.")] = 15.0
    packet_timeout_s: Annotated[float, Meta(gt=0, description="From a packet's first byte to its last.")] = (
        15.0
    )
    idle_timeout_s: Annotated[float, Meta(gt=0, description="Silence between sessions.")] = 300.0
    write_timeout_s: Annotated[
        float, Meta(gt=0, description="A peer that takes no bytes for this long is closed.")
    ] = 30.0
    write_high_water_bytes: Annotated[
        int, Meta(ge=1024, description="Above it senders wait and reading stops.")
    ] = 262_144
    drain_timeout_s: Annotated[
        float, Meta(gt=0, description="How long sessions in flight may finish at shutdown.")
    ] = 30.0


class BreakerSettings(Settings, frozen=True):
    """When calls to a backend are refused for a while because the last ones failed."""

    consecutive_failures_count: Annotated[
        int, Meta(ge=1, description="Failures in a row that open the circuit.")
    ] = 5
    failure_rate: Annotated[
        float, Meta(gt=0, le=1, description="Share of failed calls that opens the circuit.")
    ] = 0.5
    window_s: Annotated[float, Meta(gt=0, description="How far back the failure rate looks.")] = 30.0
    min_calls_count: Annotated[
        int, Meta(ge=1, description="Calls in the window before the rate means anything.")
    ] = 10
    open_s: Annotated[float, Meta(gt=0, description="First open time; doubles with every failed probe.")] = (
        1.0
    )
    open_max_s: Annotated[float, Meta(gt=0, description="Longest open time.")] = 60.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what only several fields together can show to be wrong."""
        if self.open_max_s < self.open_s:
            yield "open_max_s", str(self.open_max_s), f"at least open_s ({self.open_s})"


class LogSettings(Settings, frozen=True):
    """What is written about what happens, and where."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least important line that is written."),
    ] = "info"
    format: Annotated[
        Literal["json", "console"],
        Meta(description="json: one object per line; console: coloured text for people."),
    ] = "console"
    file: Annotated[str, Meta(description="Append to this file; empty = standard error.")] = ""


class RecorderSettings(Settings, frozen=True):
    """The flight recorder: what is kept in memory about each session, for ``sojourn trace`` and the API."""

    entries_per_session_count: Annotated[
        int, Meta(ge=0, le=4096, description="Last happenings kept of one session; 0 = the recorder is off.")
    ] = 64
    finished_sessions_count: Annotated[int, Meta(ge=0, description="Finished sessions kept.")] = 2_000
    finished_sessions_per_s: Annotated[
        int,
        Meta(
            ge=1,
            description="Finished sessions kept per second at most; keeping more than anybody looks at is slow.",
        ),
    ] = 100
    failed_sessions_count: Annotated[
        int,
        Meta(
            ge=0,
            description="Failed sessions kept; apart, so that a flood of good ones does not push them out.",
        ),
    ] = 500
    finished_keep_s: Annotated[float, Meta(ge=0, description="How long a finished session is kept.")] = 300.0
    failed_keep_s: Annotated[float, Meta(ge=0, description="How long a failed session is kept.")] = 3_600.0


class OffloadSettings(Settings, frozen=True):
    """The pool of threads for slow work: password hashes and directories."""

    threads_count: Annotated[int, Meta(ge=1, le=256, description="Threads.")] = 4
    queue_count: Annotated[
        int, Meta(ge=1, description="Calls that may wait for a thread; more are refused.")
    ] = 256
    timeout_s: Annotated[float, Meta(gt=0, description="One call, its wait for a thread included.")] = 10.0
