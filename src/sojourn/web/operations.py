"""How an interface over HTTP is listed: one row per operation; handlers and the OpenAPI document are made of the list.

Knows no HTTP library.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from sojourn.web.problems import ProblemType

PLAIN_TEXT: Final = r"[^\x00-\x1f\x7f]"
"""A character of a query's text: anything but control characters."""


class Parameter(NamedTuple):
    """One parameter of a query.

    An integer with bounds; or a text with a longest length, a list of words, or a pattern that all of it must fit, with
    ``wanted`` in words for people.
    """

    name: str
    description: str
    is_number: bool = False
    lowest: int = 0
    highest: int = 0
    default: int = 0
    longest: int = 64
    words: tuple[str, ...] = ()
    pattern: str = ""
    wanted: str = ""


class Operation(NamedTuple):
    """One thing that can be asked or ordered.

    ``access`` is who may: "open" is everybody. ``handler`` is the name of the method that serves it; ``others`` are
    more statuses of success; ``key`` says whether an Idempotency-Key is wanted; ``alias_of`` names the operation of
    ours that an old path stands for. A body that ``may_be_absent`` has only fields with defaults. ``more_media`` are
    other types, all of them texts, that the answer may have.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    handler: str
    summary: str
    access: str = "user"
    status: int = 200
    answer: Any = None
    body: Any = None
    others: tuple[tuple[int, str], ...] = ()
    query: tuple[Parameter, ...] = ()
    refusals: tuple[ProblemType, ...] = ()
    key: Literal["", "optional", "required"] = ""
    media: str = "application/json"
    alias_of: str = ""
    may_be_absent: bool = False
    more_media: tuple[str, ...] = ()
