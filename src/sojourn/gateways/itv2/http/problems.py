"""The reasons for which a request of the panels' API is refused, besides those of any request."""

from __future__ import annotations

from typing import Final

from sojourn.web import problems
from sojourn.web.problems import FieldError, ProblemType, Refusal, table_of

__all__ = ["TABLE", "FieldError", "Kind", "Refusal"]


class Kind(problems.Kind):
    """The table: every reason for which a request is refused."""

    HISTORY_UNAVAILABLE = ProblemType(
        "history_unavailable",
        503,
        "The history cannot be searched now",
        "Ask for less at once, or later; the state of panels is not concerned.",
    )


TABLE: Final = table_of(Kind)
"""Every type by name; the reference page and the OpenAPI document are made of it."""
