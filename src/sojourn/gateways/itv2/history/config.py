"""Settings of the history: table ``[itv2.history]``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from sojourn.core.settings import Settings


class HistorySettings(Settings, frozen=True):
    """The file with every event, the orders that were given and the last known state of each panel."""

    file: Annotated[
        str,
        Meta(
            min_length=1,
            description="SQLite file, made with mode 0600; its folder must exist.",
            examples=["/var/lib/sojourn/itv2.sqlite3"],
        ),
    ] = "itv2.sqlite3"
    synchronous: Annotated[
        Literal["full", "normal"],
        Meta(
            description="full: what is stored survives a power cut. normal: it survives the end of this process, "
            "and a power cut takes the last seconds."
        ),
    ] = "full"
    ack_wait_s: Annotated[
        float,
        Meta(gt=0, le=8, description="A panel's packet is acknowledged after this long though not stored."),
    ] = 1.0
    commit_pause_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Shortest time between two commits: what comes meanwhile shares the next one, so a busy hour "
            "costs little of disk and processor. A packet is acknowledged that much later at most.",
        ),
    ] = 0.02
    waiting_limit_count: Annotated[
        int, Meta(ge=100, description="Events kept in memory while the file can't be written; the oldest go.")
    ] = 10_000
    retry_max_s: Annotated[
        float, Meta(ge=0.5, description="Longest pause before a file that failed is tried again.")
    ] = 30.0
    state_every_s: Annotated[
        float, Meta(gt=0, description="How often the states of panels are written while they change.")
    ] = 5.0
    repeat_window_s: Annotated[
        float,
        Meta(gt=0, description="How long after its return a panel may send its unacknowledged packet again."),
    ] = 60.0
    keep_days: Annotated[float, Meta(ge=0, description="Age at which events are deleted; 0 = never.")] = 730.0
    keep_per_panel_count: Annotated[
        int, Meta(ge=0, description="Events kept of one panel, the newest, orders not counted; 0 = no limit.")
    ] = 500_000
    keep_audit_days: Annotated[
        float, Meta(ge=0, description="As keep_days, of the orders that were given through us; 0 = never.")
    ] = 730.0
    prune_every_s: Annotated[
        float, Meta(ge=1, description="How often it is looked for what is too old or too much.")
    ] = 600.0
    search_timeout_s: Annotated[float, Meta(gt=0, description="Longest search for one page.")] = 5.0
    searches_limit_count: Annotated[
        int, Meta(ge=1, description="Searches that may wait for their turn; more are refused.")
    ] = 32
    close_timeout_s: Annotated[
        float, Meta(gt=0, description="How long the last events and states may take at the end.")
    ] = 5.0
