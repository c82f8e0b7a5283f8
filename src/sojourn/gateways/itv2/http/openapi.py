"""The OpenAPI 3.1 document of the panels' REST interface."""

from __future__ import annotations

from functools import cache
from typing import Final

from sojourn.gateways.itv2.http.routes import NEOHUB, OPERATIONS, PATH_SCHEMAS, WEBSOCKET
from sojourn.web import openapi

INTERFACE: Final = openapi.Interface(
    title="Sojourn panel gateway",
    summary=f"DSC PowerSeries Neo panels. What happens is told live at {WEBSOCKET}; NeoHub's messages are at {NEOHUB}.",
    operations=OPERATIONS,
    tags={
        "read": ("state", "How panels stand, and what happened; scope read."),
        "command": ("commands", "What may be asked of a panel; the summaries name the scope."),
        "admin": ("gateway", "Connections that fail, panels that are not configured; scope admin."),
        "open": ("health", "Without a token."),
    },
    path_schemas=PATH_SCHEMAS,
)


@cache
def document() -> bytes:
    """Return the OpenAPI document as JSON; made once."""
    return openapi.document(INTERFACE)
