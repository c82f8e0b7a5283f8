"""The reasons for which a request of this gateway is refused, besides those of any request."""

from __future__ import annotations

from typing import Final

from sojourn.web import problems
from sojourn.web.problems import (
    MEDIA_TYPE,
    TYPE_PREFIX,
    FieldError,
    Problem,
    ProblemType,
    Refusal,
    of_status,
    table_of,
)

__all__ = [
    "MEDIA_TYPE",
    "TABLE",
    "TYPE_PREFIX",
    "FieldError",
    "Kind",
    "Problem",
    "ProblemType",
    "Refusal",
    "of_status",
]


class Kind(problems.Kind):
    """The table: every reason for which a request is refused."""

    DEVICE_MISMATCH = ProblemType(
        "device_mismatch", 409, "The session is on another device", "End it there, or use its device id."
    )
    ENDED = ProblemType("session_ended", 410, "The session has ended", "Create a new one.")
    ORDER_REFUSED = ProblemType("order_refused", 422, "The market refuses the order", "See reason.")
    GONE_EVENTS = ProblemType(
        "events_gone",
        410,
        "Events before these are not kept any more",
        "Take a snapshot and go on from its offset.",
    )


TABLE: Final = table_of(Kind)
"""Every type by name; the reference page and the OpenAPI document are made of it."""
