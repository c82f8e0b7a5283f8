"""An OpenAPI 3.1 document, made of a list of operations, the structs that they name and the table of problems.

Knows no HTTP library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sojourn import __version__
from sojourn.web.operations import PLAIN_TEXT, Operation, Parameter
from sojourn.web.problems import MEDIA_TYPE, TYPE_PREFIX, Kind, Problem, ProblemType

OPENAPI_VERSION: Final = "3.1.0"
"""The first version whose schemas are plain JSON Schema, which is what msgspec makes."""

_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_OF_ALL: Final = (
    Kind.MALFORMED,
    Kind.TOO_MANY,
    Kind.LONG_HEADERS,
    Kind.INTERNAL,
    Kind.UNAVAILABLE,
    Kind.DRAINING,
)
_OF_TOKENS: Final = (
    Kind.TOKEN_IN_URL,
    Kind.NO_TOKEN,
    Kind.INVALID_TOKEN,
    Kind.FORBIDDEN,
    Kind.AUTH_UNAVAILABLE,
)
_OF_BODIES: Final = (Kind.BAD_JSON, Kind.TOO_SLOW, Kind.TOO_LARGE, Kind.BAD_MEDIA, Kind.INVALID)
_KEY_SCHEMA: Final = {
    "type": "string",
    "pattern": r'^("[!#-\[\]-~]{1,255}"|[A-Za-z0-9._~:-]{1,255})$',
    "examples": ['"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
}


class Interface(NamedTuple):
    """What a document is about.

    ``tags``: for each ``access`` of an operation its tag and the tag's description, "alias" for old paths.
    ``path_schemas``: the JSON schema of each name in a path. ``token_format``: of bearer tokens, for people.
    """

    title: str
    summary: str
    operations: Sequence[Operation]
    tags: Mapping[str, tuple[str, str]]
    path_schemas: Mapping[str, Mapping[str, Any]]
    token_format: str = "opaque"  # noqa: S105 - the name of a format


def document(interface: Interface) -> bytes:
    """Return the OpenAPI document as JSON."""
    return msgspec.json.format(msgspec.json.encode(description(interface)), indent=1)


def description(interface: Interface) -> dict[str, Any]:
    """Return the OpenAPI document."""
    operations = interface.operations
    answers = (kind for one in operations for kind in (one.answer, one.body) if kind is not None)
    kinds = list(dict.fromkeys((*answers, Problem)))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _described(operation, interface, schema_of)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    token = {"type": "http", "scheme": "bearer", "bearerFormat": interface.token_format}
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": interface.title, "version": __version__, "summary": interface.summary},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": token}},
        "tags": [{"name": name, "description": words} for name, words in interface.tags.values()],
    }


def refusals_of(operation: Operation) -> tuple[ProblemType, ...]:
    """Return every problem that an operation may answer with."""
    kinds = [*_OF_ALL, *operation.refusals]
    if operation.access != "open":
        kinds += _OF_TOKENS
    if operation.body is not None:
        kinds += _OF_BODIES
    if operation.query:
        kinds.append(Kind.INVALID)
    if operation.method != "GET":
        kinds.append(Kind.OUTCOME_UNKNOWN)
    if operation.key:
        kinds += (Kind.BAD_KEY, Kind.KEY_REUSED, Kind.IN_PROGRESS)
    if operation.key == "required":
        kinds.append(Kind.NO_KEY)
    return tuple(dict.fromkeys(kinds))


def _described(
    operation: Operation, interface: Interface, schema_of: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handler,
        "summary": operation.summary,
        "tags": [interface.tags["alias" if operation.alias_of else operation.access][0]],
        "parameters": list(_parameters(operation, interface.path_schemas)),
        "responses": _responses(operation, schema_of),
        "security": [] if operation.access == "open" else [{"token": []}],
    }
    if operation.alias_of:
        described["deprecated"] = True
        described["description"] = f"The same as {operation.alias_of}, for clients of the original."
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.may_be_absent,
            "content": {_JSON: {"schema": schema_of[operation.body]}},
        }
    return described


def _parameters(
    operation: Operation, path_schemas: Mapping[str, Mapping[str, Any]]
) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": path_schemas[name]}
    for parameter in operation.query:
        yield {
            "name": parameter.name,
            "in": "query",
            "schema": _schema(parameter),
            "description": parameter.description,
        }
    if operation.key:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": operation.key == "required",
            "schema": _KEY_SCHEMA,
            "description": "A string in quotes; the same key again gives the first one's answer.",
        }


def _schema(parameter: Parameter) -> dict[str, Any]:
    if parameter.is_number:
        return {
            "type": "integer",
            "minimum": parameter.lowest,
            "maximum": parameter.highest,
            "default": parameter.default,
        }
    if parameter.pattern:
        return {"type": "string", "pattern": f"^{parameter.pattern}$"}
    if parameter.words:
        return {"type": "string", "enum": list(parameter.words)}
    return {"type": "string", "maxLength": parameter.longest, "pattern": f"^{PLAIN_TEXT}*$"}


def _responses(operation: Operation, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        # What an event stream carries has no schema in OpenAPI 3.1; its events' data is told by the summary.
        is_stream = operation.media == "text/event-stream"
        texts = {media: {"schema": {"type": "string"}} for media in operation.more_media}
        schema = {} if is_stream else {"schema": schema_of[operation.answer]}
        content = {"content": {operation.media: schema, **texts}}
    responses: dict[str, Any] = {str(operation.status): {"description": operation.summary, **content}}
    if operation.status in {201, 202} and operation.method != "DELETE" and not operation.alias_of:
        responses[str(operation.status)]["headers"] = {"Location": {"schema": {"type": "string"}}}
    for status, words in operation.others:
        responses[str(status)] = {"description": words, **content}
    by_status: dict[int, list[ProblemType]] = {}
    for kind in refusals_of(operation):
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        problem = {MEDIA_TYPE: {"schema": schema_of[Problem]}}
        words = "; ".join(f"{TYPE_PREFIX}{kind.name}: {kind.title}" for kind in kinds)
        told = responses.get(str(status))
        if told is not None:  # such as a readiness of 503, which is an answer and may be a problem
            told["content"] = {**told.get("content", {}), **problem}
            continue
        responses[str(status)] = {"description": words, "content": problem}
        if status in {429, 503}:
            responses[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    return dict(sorted(responses.items()))
