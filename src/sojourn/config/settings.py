"""The root of ``sojourn.toml``: one table per part of the server.

The only place that knows which gateways there are to configure.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sojourn.admin.config import AdminSettings
from sojourn.core.settings import BreakerSettings, LogSettings, OffloadSettings, RecorderSettings, Settings
from sojourn.gateways.exchange.config import ExchangeSettings
from sojourn.gateways.itv2.config import Itv2Settings
from sojourn.gateways.postgres.config import PostgresSettings
from sojourn.gateways.tacacs.config import TacacsSettings


class SojournSettings(Settings, frozen=True):
    """All that one daemon is told; immutable, so that a session keeps the one that it began with."""

    secrets_may_be_world_readable: Annotated[
        bool,
        Meta(
            description="Take ${file:...} secrets that everybody may read, as containers often mount them.",
        ),
    ] = False
    log: LogSettings = LogSettings()
    admin: AdminSettings = AdminSettings()
    recorder: RecorderSettings = RecorderSettings()
    offload: OffloadSettings = OffloadSettings()
    breaker: BreakerSettings = BreakerSettings()
    tacacs: TacacsSettings | None = None
    postgres: PostgresSettings | None = None
    exchange: ExchangeSettings | None = None
    itv2: Itv2Settings | None = None
