"""The table ``[exchange.valkey]``: what the pods share, how long a call may take and how much may wait.

Declares names, units, defaults and help; knows nothing of files, lines or how the values are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import BreakerSettings, Seconds, Settings

SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys", "unix")
"""What an address may begin with; the doubled s means TLS."""

_RENEWALS_COUNT: Final = 2
"""A lease must outlive so many renewals, or one lost answer would lose the session."""


class ValkeyBreakerSettings(BreakerSettings, frozen=True):
    """The Valkey's circuit: leases hang on it, so it opens and is asked again sooner than others."""

    consecutive_failures_count: Annotated[
        int, Meta(ge=1, description="Failures in a row that open the circuit.")
    ] = 3
    open_s: Annotated[float, Meta(gt=0, description="First open time; doubles with every failed probe.")] = (
        0.2
    )
    open_max_s: Annotated[float, Meta(gt=0, description="Longest open time.")] = 5.0


class ValkeySettings(Settings, frozen=True):
    """The Valkey (7.2 or later) or Redis (6.2 or later) that connects the pods; none = one pod, all in memory."""

    url: Annotated[
        Secret | None,
        Meta(
            description="redis://, rediss:// or unix:// address with user and password; none = in this process.",
            examples=["${file:/etc/sojourn/valkey.url}"],
        ),
    ] = None
    ca_file: Annotated[
        str,
        Meta(
            description="PEM certificates that sign the server of a rediss:// address; empty = the system's."
        ),
    ] = ""
    key_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.:-]{0,64}$",
            description="Begins every key and channel, for a server that others use too.",
        ),
    ] = ""
    timeout_s: Annotated[Seconds, Meta(description="One call, its wait and a reconnect included.")] = 2.0
    ping_every_s: Annotated[
        Seconds, Meta(description="A connection silent for so long is asked whether it lives.")
    ] = 2.0
    reconnect_s: Annotated[Seconds, Meta(description="First wait after a lost connection; it doubles.")] = 0.1
    reconnect_max_s: Annotated[Seconds, Meta(description="Longest wait between two connects.")] = 5.0
    breaker: Annotated[
        ValkeyBreakerSettings,
        Meta(description="When calls are refused at once because the last ones failed."),
    ] = ValkeyBreakerSettings()
    waiting_count: Annotated[
        int,
        Meta(
            ge=100,
            description="Calls that may wait to be sent, and commands for their answers; more are refused.",
        ),
    ] = 20_000
    waiting_bytes: Annotated[
        int, Meta(ge=1_048_576, description="Bytes of all calls that wait to be sent; more are refused.")
    ] = 67_108_864
    batch_count: Annotated[int, Meta(ge=1, le=10_000, description="Calls sent in one go.")] = 512
    lease_s: Annotated[
        Seconds, Meta(description="How long a pod owns a session, or is known to live, without renewing.")
    ] = 15.0
    renew_every_s: Annotated[
        Seconds, Meta(description="How often leases are renewed and pods announced.")
    ] = 5.0
    log_keep_count: Annotated[
        int, Meta(ge=10, le=100_000, description="Events kept per session, and up to a tenth more.")
    ] = 1_000
    log_keep_bytes: Annotated[int, Meta(ge=1024, description="Bodies of events kept per session.")] = (
        1_048_576
    )
    log_keep_s: Annotated[
        Seconds, Meta(description="How long events are kept after the session's owner wrote or renewed last.")
    ] = 900.0
    frame_bytes: Annotated[
        int, Meta(ge=1024, description="Largest frame or command passed on to another pod.")
    ] = 1_048_576
    channels_count: Annotated[
        int, Meta(ge=1, description="Sessions of other pods that links of this one may follow.")
    ] = 20_000
    commands_count: Annotated[
        int, Meta(ge=1, description="Commands of other pods carried out at once; more are refused.")
    ] = 1_000

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what only several fields together can show to be wrong."""
        if self.url is not None and self.url.reveal().partition("://")[0] not in SCHEMES:
            yield "url", "an address of another kind", "redis://..., rediss://... or unix://..."
        least_s = _RENEWALS_COUNT * self.renew_every_s + self.timeout_s
        if self.lease_s < least_s:
            yield (
                "lease_s",
                str(self.lease_s),
                f"at least {least_s} ({_RENEWALS_COUNT} x renew_every_s + timeout_s)",
            )
        if self.reconnect_max_s < self.reconnect_s:
            yield "reconnect_max_s", str(self.reconnect_max_s), f"at least reconnect_s ({self.reconnect_s})"
        for key, _, wanted in self.breaker.problems():
            yield "breaker", f"an unsound {key}", wanted
