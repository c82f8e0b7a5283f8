"""The HTTP API's table of operations, and the OpenAPI document that is made of it.

The one list of what there is: ``api`` serves exactly these. Knows nothing of HTTP libraries.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from sojourn import __version__
from sojourn.admin.view import (
    LARGEST_PAGE_COUNT,
    LONGEST_ID_CHARACTERS,
    LONGEST_SEARCH_CHARACTERS,
    Health,
    Page,
    SessionRow,
    Trace,
)

OPENAPI_VERSION: Final = "3.1.0"
"""The first version whose schemas are plain JSON Schema, which is what msgspec makes."""

_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"


class Parameter(NamedTuple):
    """One parameter of a query string."""

    name: str
    schema: dict[str, Any]
    description: str


class Operation(NamedTuple):
    """One thing that can be asked or ordered; ``handler`` is the name of the method that serves it."""

    method: str
    path: str
    handler: str
    summary: str
    status: int = 200
    answer: Any = None
    media: tuple[str, ...] = (_JSON,)
    query: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = ()


class Drained(msgspec.Struct, frozen=True):
    """The server has begun to stop."""

    draining: bool


class Reloaded(msgspec.Struct, frozen=True):
    """The configuration was read again and is in force."""

    reloaded: bool


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was not carried out, as ``application/problem+json`` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[dict[str, Any]] = []


_SEARCH: Final = (
    Parameter("gateway", {"type": "string", "maxLength": 64}, "Only of this gateway."),
    Parameter("state", {"enum": ["open", "finished", "failed"]}, "Only in this state."),
    Parameter(
        "search",
        {"type": "string", "maxLength": LONGEST_SEARCH_CHARACTERS},
        "Part of id, peer or about, in any case.",
    ),
    Parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE_COUNT, "default": 100},
        "At most so many.",
    ),
    Parameter("cursor", {"type": "string", "maxLength": 256}, "next_cursor of the page before."),
)
_FORMAT: Final = (
    Parameter("format", {"enum": ["json", "mermaid", "text"], "default": "json"}, "How it is written."),
)

OPERATIONS: Final = (
    Operation("GET", "/healthz", "healthz", "Does the process work?", answer=Health, refusals=(503,)),
    Operation("GET", "/readyz", "readyz", "Are new sessions welcome?", answer=Health, refusals=(503,)),
    Operation("GET", "/metrics", "metrics", "Metrics for Prometheus.", media=("text/plain",), answer=str),
    Operation("GET", "/api/v1/openapi.json", "openapi", "This document.", answer=dict[str, Any]),
    Operation(
        "GET", "/api/v1/sessions", "list_sessions", "Sessions, page by page.",
        answer=Page, query=_SEARCH, refusals=(400,),
    ),
    Operation("GET", "/api/v1/sessions/{id}", "find_session", "One session.", answer=SessionRow, refusals=(404,)),
    Operation(
        "DELETE", "/api/v1/sessions/{id}", "close_session", "End an open session.", status=204, refusals=(404,)
    ),
    Operation(
        "GET", "/api/v1/sessions/{id}/trace", "trace", "What happened in a session.",
        answer=Trace, media=(_JSON, "text/plain"), query=_FORMAT, refusals=(400, 404),
    ),
    Operation("POST", "/api/v1/drain", "drain", "Take nothing new, finish, stop.", status=202, answer=Drained),
    Operation(
        "POST", "/api/v1/reload", "reload", "Read the configuration again.", answer=Reloaded, refusals=(422,)
    ),
)  # fmt: skip

_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})


def document() -> dict[str, Any]:
    """Return the OpenAPI document of all operations."""
    answers = dict.fromkeys(one.answer for one in OPERATIONS if one.answer is not None)
    kinds = [*answers, Refusal]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schema_of)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "Sojourn", "version": __version__, "summary": "Sessions of a running server."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": one.name, "in": "query", "schema": one.schema, "description": one.description}
        for one in operation.query
    ]
    for name in re.findall(r"\{(\w+)\}", operation.path):
        limits = {"type": "string", "maxLength": LONGEST_ID_CHARACTERS}
        parameters.insert(0, {"name": name, "in": "path", "required": True, "schema": limits})
    answer: dict[str, Any] = {"description": operation.summary}
    if operation.answer is not None:
        texts = {"schema": {"type": "string"}}
        values = {"schema": schema_of[operation.answer]}
        answer["content"] = {media: values if media == _JSON else texts for media in operation.media}
    refusal = {
        "description": "Refused.",
        "content": {"application/problem+json": {"schema": schema_of[Refusal]}},
    }
    refusals = operation.refusals if operation.path in _OPEN_PATHS else (*operation.refusals, 401, 403)
    return {
        "operationId": operation.handler,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {str(operation.status): answer, **{str(status): refusal for status in sorted(refusals)}},
        "security": [] if operation.path in _OPEN_PATHS else [{"token": []}],
    }
