"""``[exchange.http]``: HTTP as any gateway serves it, and how long the answer to an Idempotency-Key is kept."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from sojourn.web import config
from sojourn.web.config import RateSettings

__all__ = ["HttpSettings", "RateSettings"]


class HttpSettings(config.HttpSettings, frozen=True):
    """HTTP as it is served to clients: limits, deadlines, origins."""

    idempotency_hold_s: Annotated[
        float,
        Meta(
            gt=0,
            description="After which a request whose pod died may be begun again under its Idempotency-Key.",
        ),
    ] = 60.0
    idempotency_keep_s: Annotated[
        float, Meta(gt=0, description="How long the answer to an Idempotency-Key is kept.")
    ] = 86_400.0
