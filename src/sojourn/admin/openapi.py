"""The one list of what the HTTP API offers; handlers and the OpenAPI document are made of it.

``access`` is the least scope of a token; "open" is everybody. What gateways add for their pages is described beside.
Knows no HTTP library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sojourn.admin import values as v
from sojourn.admin.problems import Kind
from sojourn.admin.view import (
    LARGEST_PAGE_COUNT,
    LONGEST_ID_CHARACTERS,
    LONGEST_SEARCH_CHARACTERS,
    Health,
    Page,
    SessionRow,
    Trace,
)
from sojourn.core.panel import AdminPanel, PanelOperation
from sojourn.web.openapi import Interface, description
from sojourn.web.operations import Operation, Parameter

BASE: Final = "/api/v1"
PANELS: Final = BASE + "/panels"
FORMATS: Final = {
    "json": "application/json",
    "mermaid": "text/plain",
    "text": "text/plain",
    "jsonl": "application/jsonl",
    "svg": "image/svg+xml",
}
"""How a trace may be written, and the media type of each."""

_SESSION: Final = BASE + "/sessions/{id}"
_LIMIT: Final = Parameter(
    "limit", "At most so many.", is_number=True, lowest=1, highest=LARGEST_PAGE_COUNT, default=100
)
_GATEWAY: Final = Parameter("gateway", "Only of this gateway.")
_SEARCH: Final = (
    _GATEWAY,
    Parameter("state", "Only in this state.", words=("open", "finished", "failed")),
    Parameter("search", "Part of id, peer or about, in any case.", longest=LONGEST_SEARCH_CHARACTERS),
    _LIMIT,
    Parameter("cursor", "next_cursor of the page before.", pattern="[0-9]{1,9}", wanted="what a page gave"),
)
_EVENTS: Final = (
    Parameter("level", "The least important level.", words=("debug", "info", "warning", "error")),
    Parameter("kind", "How the kind's name begins, such as session."),
    Parameter("search", "Part of kind, values or session, in any case.", longest=LONGEST_SEARCH_CHARACTERS),
    _LIMIT,
)
_PEERS: Final = (
    _GATEWAY,
    Parameter("search", "Part of the address, in any case.", longest=LONGEST_SEARCH_CHARACTERS),
    _LIMIT,
)
_FORMAT: Final = (Parameter("format", "How it is written; json if not said.", words=tuple(FORMATS)),)
_STREAM: Final = "text/event-stream"

OPERATIONS: Final = (
    Operation(
        "GET", "/healthz", "healthz", "Does the process work?", access="open", answer=Health,
        others=((503, "It does not."),),
    ),
    Operation(
        "GET", "/readyz", "readyz", "Are new sessions welcome?", access="open", answer=Health,
        others=((503, "They are not."),),
    ),
    Operation("GET", "/metrics", "metrics", "Metrics for Prometheus.", access="view", answer=str, media="text/plain"),
    Operation(
        "GET", BASE + "/openapi.json", "openapi", "This document.", access="view", answer=dict[str, Any]
    ),
    # Who asks
    Operation(
        "POST", BASE + "/login", "login", "Use a login link up; the answer sets the session's cookie.",
        access="open", answer=v.Visitor, body=v.Login, refusals=(Kind.BAD_LINK, Kind.BAD_ORIGIN),
    ),
    Operation("GET", BASE + "/session", "visitor", "Who asks, and what they may.", access="view", answer=v.Visitor),
    Operation("POST", BASE + "/logout", "logout", "End the browser's session.", access="view", status=204),
    Operation(
        "POST", BASE + "/login-links", "new_login_link", "Make a link that lets a browser in, once.",
        access="admin", answer=v.LoginLink, body=v.LinkOrder,
    ),
    # What there is
    Operation("GET", BASE + "/overview", "overview", "Every gateway in figures, and what is wrong.",
              access="view", answer=v.Overview),
    Operation(
        "GET", BASE + "/stream", "stream", "Server-sent events: overview, session, more, event, dropped.",
        access="view", answer=str, media=_STREAM, refusals=(Kind.LIMIT,),
    ),
    Operation(
        "GET", BASE + "/sessions", "list_sessions", "Sessions, page by page.",
        access="view", answer=Page, query=_SEARCH,
    ),
    Operation(
        "GET", _SESSION, "find_session", "One session.", access="view", answer=SessionRow, refusals=(Kind.NOT_FOUND,)
    ),
    Operation(
        "DELETE", _SESSION, "close_session", "End an open session.",
        access="operate", status=204, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", _SESSION + "/trace", "trace", "What happened in a session.", access="view", answer=Trace,
        query=_FORMAT, refusals=(Kind.NOT_FOUND,),
        more_media=tuple(dict.fromkeys(media for name, media in FORMATS.items() if name != "json")),
    ),
    Operation(
        "GET", _SESSION + "/trace/stream", "follow", "Server-sent events: entries, then ended.",
        access="view", answer=str, media=_STREAM, refusals=(Kind.NOT_FOUND, Kind.LIMIT),
    ),
    Operation("GET", BASE + "/gateways", "gateways", "Every gateway in figures.", access="view", answer=v.Gateways),
    Operation("GET", BASE + "/listeners", "listeners", "Addresses that are listened on.",
              access="view", answer=v.Listeners),
    Operation("GET", BASE + "/peers", "peers", "Who is connected.", access="view", answer=v.PeerPage, query=_PEERS),
    Operation("GET", BASE + "/breakers", "breakers", "Circuit breakers of backends.",
              access="view", answer=v.Breakers),
    Operation("GET", BASE + "/limits", "limits", "Limits, and what is used of them.", access="view", answer=v.Limits),
    Operation("GET", BASE + "/events", "events", "What happened last.",
              access="view", answer=v.EventPage, query=_EVENTS),
    Operation("GET", PANELS, "panels", "Gateways' own pages.", access="view", answer=v.Panels),
    Operation("GET", BASE + "/config", "configuration", "The configuration in force, secrets masked.",
              access="operate", answer=v.Configuration),
    Operation("GET", BASE + "/audit", "audit", "Who ordered what.",
              access="admin", answer=v.AuditPage, query=(_LIMIT,)),
    # What can be ordered of the server
    Operation("POST", BASE + "/drain", "drain", "Take nothing new, finish, stop.",
              access="admin", status=202, answer=v.Drained),
    Operation(
        "POST", BASE + "/reload", "reload", "Read the configuration again.",
        access="admin", answer=v.Reloaded, refusals=(Kind.BAD_CONFIG,),
    ),
)  # fmt: skip

_TAGS: Final = {
    "open": ("Everybody", "Needs no token."),
    "view": ("view", "Reads."),
    "operate": ("operate", "Acts on sessions and gateways."),
    "admin": ("admin", "Acts on the server."),
}
_ID: Final = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID_CHARACTERS}


def document(panels: Mapping[str, AdminPanel]) -> dict[str, Any]:
    """Return the OpenAPI document of all operations, those of the gateways' pages among them."""
    operations = (*OPERATIONS, *(one for name, panel in panels.items() for one in _of_panel(name, panel)))
    names = {name for one in operations for name in re.findall(r"\{(\w+)\}", one.path)}
    return description(
        Interface(
            title="Sojourn",
            summary="What a running server does, and orders to it.",
            operations=operations,
            tags=_TAGS,
            path_schemas=dict.fromkeys(sorted(names), _ID),
        )
    )


def described(gateway: str, operation: PanelOperation) -> Operation:
    """Return an operation of a gateway's page as the API has it."""
    words = "_".join(re.findall(r"\w+", operation.path))
    answer = operation.answer
    return Operation(
        operation.method,
        f"{PANELS}/{gateway}{operation.path}",
        f"{gateway}_{operation.method.lower()}_{words}",
        operation.summary,
        access=operation.scope,
        status=204 if answer is None else 200,
        answer=answer,
        body=operation.body,
        query=tuple(Parameter(*one) for one in operation.query),
        refusals=(Kind.NOT_FOUND, Kind.CONFLICT, Kind.LIMIT),
        media=_STREAM if operation.is_stream else "application/json",
    )


def _of_panel(gateway: str, panel: AdminPanel) -> Iterator[Operation]:
    for operation in panel.operations:
        yield described(gateway, operation)
