"""Settings of client links, ``[exchange.links]``: heartbeats, limits, ticks and the slow-consumer ladder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from sojourn.core.settings import Seconds, Settings
from sojourn.gateways.exchange.ladder import LadderSettings
from sojourn.gateways.exchange.quality import QualitySettings


class LinkSettings(Settings, frozen=True):
    """What a client's WebSocket may do and gets."""

    hello_timeout_s: Annotated[Seconds, Meta(description="From the upgrade to the hello frame.")] = 5.0
    heartbeat_every_s: Annotated[Seconds, Meta(description="Between two of our heartbeats.")] = 10.0
    heartbeat_timeout_s: Annotated[
        Seconds, Meta(description="Without any frame of the client for so long its link is closed (4000).")
    ] = 35.0
    frame_bytes: Annotated[int, Meta(ge=1024, le=1_048_576, description="Longest frame of a client.")] = (
        65_536
    )
    frames_per_s: Annotated[float, Meta(gt=0, description="Frames of one client, refilled evenly.")] = 50.0
    frames_burst_count: Annotated[int, Meta(ge=1, description="Frames at once, after a quiet time.")] = 200
    bad_frames_count: Annotated[
        int, Meta(ge=0, description="Frames that cannot be read before the link is closed (4002).")
    ] = 10
    session_links_count: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Connections of one session at one pod; more are closed (4029)."),
    ] = 32
    commands_count: Annotated[
        int, Meta(ge=1, le=1_000, description="Orders and other commands of one link that may wait.")
    ] = 64
    command_timeout_s: Annotated[
        Seconds, Meta(description="One command; later its outcome is unknown to the client.")
    ] = 10.0
    tick_ms: Annotated[
        int, Meta(ge=20, le=1000, description="Between two frames of market data to one client.")
    ] = 50
    reconnect_min_s: Annotated[Seconds, Meta(description="A client's first wait before it comes back.")] = 0.2
    reconnect_max_s: Annotated[Seconds, Meta(description="Its longest.")] = 30.0
    reconnect_jitter: Annotated[float, Meta(ge=0, le=1, description="Part of a wait that is random.")] = 1.0
    skip_bytes: Annotated[
        int, Meta(ge=1024, description="Unsent bytes above which a client gets no market data.")
    ] = 65_536
    events_only_bytes: Annotated[
        int, Meta(ge=1024, description="Unsent bytes above which it gets events only.")
    ] = 262_144
    close_bytes: Annotated[
        int, Meta(ge=1024, description="Unsent bytes at which its link is closed (4008).")
    ] = 1_048_576
    stalled_s: Annotated[Seconds, Meta(description="The same after so long above skip_bytes.")] = 10.0
    degraded_rtt_ms: Annotated[
        float, Meta(gt=0, description="Round trips longer than this make a connection degraded.")
    ] = 500.0
    poor_missed_count: Annotated[
        int, Meta(ge=1, description="Missed heartbeats that make a connection poor.")
    ] = 3
    advice_every_s: Annotated[
        Seconds, Meta(description="At most so often a poor connection is advised to reconnect.")
    ] = 300.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what only several fields together can show to be wrong."""
        if not self.skip_bytes <= self.events_only_bytes <= self.close_bytes:
            yield (
                "events_only_bytes",
                str(self.events_only_bytes),
                "skip_bytes <= events_only_bytes <= close_bytes",
            )
        if self.heartbeat_timeout_s <= self.heartbeat_every_s:
            yield "heartbeat_timeout_s", str(self.heartbeat_timeout_s), "more than heartbeat_every_s"
        if self.reconnect_max_s < self.reconnect_min_s:
            yield "reconnect_max_s", str(self.reconnect_max_s), "at least reconnect_min_s"

    def ladder(self) -> LadderSettings:
        """Return the slow-consumer ladder."""
        steps = (self.tick_ms, *(one for one in (100, 250, 1000) if one > self.tick_ms))
        return LadderSettings(
            self.skip_bytes, self.events_only_bytes, self.close_bytes, self.stalled_s, steps
        )

    def quality(self) -> QualitySettings:
        """Return when a connection is what."""
        return QualitySettings(
            degraded_rtt_ms=self.degraded_rtt_ms,
            poor_missed_count=self.poor_missed_count,
            advice_every_s=self.advice_every_s,
        )
