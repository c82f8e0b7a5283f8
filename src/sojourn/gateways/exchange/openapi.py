"""The OpenAPI 3.1 document of the REST interface."""

from __future__ import annotations

from functools import cache
from typing import Final

import msgspec

from sojourn.gateways.exchange.rest_types import SessionId
from sojourn.gateways.exchange.routes import LARGEST_OFFSET, OPERATIONS
from sojourn.web import openapi

INTERFACE: Final = openapi.Interface(
    title="Sojourn exchange gateway",
    summary="Sessions, their simulators and orders. The stream is the WebSocket at /v1/ws.",
    operations=OPERATIONS,
    tags={
        "user": ("sessions", "What users do."),
        "admin": ("admin", "What administrators do."),
        "open": ("health", "How it goes."),
        "alias": ("aliases", "Paths of the original, for its clients."),
    },
    path_schemas={
        "id": msgspec.json.schema(SessionId),
        "order": {"type": "integer", "minimum": 1, "maximum": LARGEST_OFFSET},
    },
    token_format="JWT",  # noqa: S106 - the name of a format
)


@cache
def document() -> bytes:
    """Return the OpenAPI document as JSON; made once."""
    return openapi.document(INTERFACE)
