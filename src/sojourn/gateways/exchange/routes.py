"""The one list of what the REST interface offers; handlers and the OpenAPI document are made of it.

Knows no HTTP library. Metrics stay with the admin API of the daemon: they are of all gateways, and not for clients.
"""

from __future__ import annotations

from typing import Any, Final

from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.ids import ID_PATTERN
from sojourn.gateways.exchange.problems import Kind
from sojourn.web.operations import Operation, Parameter

LARGEST_PAGE_COUNT: Final = 500
LARGEST_OFFSET: Final = 2**53

_LIMIT: Final = Parameter(
    "limit", "At most so many.", is_number=True, lowest=1, highest=LARGEST_PAGE_COUNT, default=100
)
_BEFORE: Final = Parameter("before", "``next`` of the page before.", pattern=ID_PATTERN, wanted="an id")
_OF_SESSION: Final = (Kind.NOT_FOUND, Kind.ENDED)
_OF_SIMULATOR: Final = (*_OF_SESSION, Kind.CONFLICT, Kind.OUTCOME_UNKNOWN)
_SESSION_STATES: Final = ("new", "active", "detached", "ended")
_SIMULATOR_STATES: Final = ("requested", "starting", "running", "stopping", "stopped", "failed")
_SESSION: Final = "/v1/sessions/{id}"

OPERATIONS: Final = (
    Operation(
        "POST", "/v1/sessions", "create_session", "Open a session, or come back to the one of this device.",
        status=201, others=((200, "It was there already."),), answer=t.Session, body=t.CreateSession,
        refusals=(Kind.DEVICE_MISMATCH, Kind.LIMIT), key="optional",
    ),
    Operation(
        "GET", "/v1/sessions", "list_sessions", "The caller's sessions, the newest first.",
        answer=t.SessionPage, query=(_LIMIT, _BEFORE),
    ),
    Operation("GET", _SESSION, "get_session", "One session.", answer=t.Session, refusals=(Kind.NOT_FOUND,)),
    Operation(
        "DELETE", _SESSION, "end_session", "End a session and its simulator.", status=204, refusals=(Kind.NOT_FOUND,)
    ),
    Operation(
        "POST", _SESSION + "/ticket", "give_ticket", "A ticket that opens one WebSocket.",
        status=201, answer=t.Ticket, refusals=_OF_SESSION,
    ),
    Operation(
        "PUT", _SESSION + "/simulator", "set_simulator", "Want a simulator, or want none.",
        status=202, others=((200, "Nothing changed by it."),), answer=t.Simulator, body=t.SimulatorWish,
        refusals=(*_OF_SESSION, Kind.CONFLICT, Kind.LIMIT), key="optional",
    ),
    Operation(
        "GET", _SESSION + "/simulator", "get_simulator", "Where the simulator stands; starts nothing.",
        answer=t.Simulator, refusals=_OF_SESSION,
    ),
    Operation(
        "GET", _SESSION + "/simulator/progress", "progress", "Server-sent events while a simulator starts or stops.",
        answer=t.Progress, refusals=_OF_SESSION, media="text/event-stream",
    ),
    Operation(
        "POST", _SESSION + "/orders", "submit_order", "Place an order.",
        status=201, answer=t.Order, body=t.NewOrder, refusals=(*_OF_SIMULATOR, Kind.ORDER_REFUSED), key="required",
    ),
    Operation(
        "GET", _SESSION + "/orders", "list_orders", "Orders, the newest first.", answer=t.OrderPage,
        query=(_LIMIT, Parameter("before", "``next`` of the page before.", is_number=True, highest=LARGEST_OFFSET)),
        refusals=_OF_SESSION,
    ),
    Operation(
        "GET", _SESSION + "/orders/{order}", "get_order", "One order.", answer=t.Order, refusals=_OF_SESSION
    ),
    Operation(
        "PUT", _SESSION + "/orders/{order}", "replace_order", "Change what is left of an order.",
        answer=t.Order, body=t.OrderChange, refusals=(*_OF_SIMULATOR, Kind.ORDER_REFUSED), key="optional",
    ),
    Operation(
        "DELETE", _SESSION + "/orders/{order}", "cancel_order", "Take back what is left of an order.",
        answer=t.Order, refusals=(*_OF_SIMULATOR, Kind.ORDER_REFUSED),
    ),
    Operation(
        "GET", _SESSION + "/events", "events_after", "Events behind an offset, as the WebSocket would replay them.",
        answer=t.EventPage,
        query=(
            Parameter("after", "Offset of the last event that is known.", is_number=True, highest=LARGEST_OFFSET),
            Parameter("epoch", "Of that offset; 0 = the present one.", is_number=True, highest=LARGEST_OFFSET),
            _LIMIT,
        ),
        refusals=(Kind.NOT_FOUND, Kind.GONE_EVENTS),
    ),
    Operation(
        "GET", _SESSION + "/snapshot", "snapshot", "Everything as it stands.",
        answer=t.SessionSnapshot, refusals=_OF_SESSION,
    ),
    Operation(
        "GET", "/v1/admin/sessions", "admin_sessions", "Everybody's sessions.", access="admin", answer=t.SessionPage,
        query=(
            Parameter("subject", "Only of this subject.", longest=255),
            Parameter("state", "Only in this state.", words=_SESSION_STATES),
            Parameter("pod", "Only of this pod.", longest=253),
            _LIMIT,
            _BEFORE,
        ),
    ),
    Operation(
        "GET", "/v1/admin/sessions/{id}", "admin_session", "Anybody's session.",
        access="admin", answer=t.Session, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "DELETE", "/v1/admin/sessions/{id}", "admin_end_session", "End anybody's session.",
        access="admin", status=204, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", "/v1/admin/simulators", "admin_simulators", "Everybody's simulators.",
        access="admin", answer=t.SimulatorPage,
        query=(Parameter("state", "Only in this state.", words=_SIMULATOR_STATES), _LIMIT, _BEFORE),
    ),
    Operation(
        "DELETE", "/v1/admin/simulators/{id}", "admin_stop_simulator", "Want anybody's simulator stopped.",
        access="admin", status=202, answer=t.Simulator, refusals=(Kind.NOT_FOUND,),
    ),
    Operation("GET", "/v1/admin/pods", "admin_pods", "Pods that are alive.", access="admin", answer=t.PodPage),
    Operation(
        "POST", "/v1/admin/drain", "admin_drain", "Let a pod hand its sessions over.",
        access="admin", status=202, answer=t.Draining, body=t.DrainOrder, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "POST", "/v1/admin/disconnect", "admin_disconnect", "Close connections of a session or a subject.",
        access="admin", answer=t.Disconnected, body=t.DisconnectOrder, refusals=(Kind.NOT_FOUND,),
    ),
    Operation("GET", "/healthz", "healthz", "Does the process work?", access="open", answer=t.Health),
    Operation(
        "GET", "/readyz", "readyz", "Are new sessions welcome?", access="open",
        answer=t.Readiness, others=((503, "They are not."),),
    ),
    Operation("GET", "/openapi.json", "openapi", "This document.", access="open", answer=dict[str, Any]),
    # What the original's clients ask for
    Operation(
        "POST", "/api/sessions", "seed_create", "Open a session.", status=201,
        others=((200, "It was there already."),), answer=t.SeedSession, body=t.SeedCreate,
        refusals=(Kind.DEVICE_MISMATCH, Kind.LIMIT), alias_of="create_session",
    ),
    Operation(
        "DELETE", "/api/sessions", "seed_end", "End a session.", answer=t.SeedDone, body=t.SeedEnd,
        refusals=(Kind.NOT_FOUND,), alias_of="end_session",
    ),
    Operation(
        "GET", "/api/sessions", "seed_list", "The caller's sessions.", answer=t.SessionPage,
        query=(_LIMIT, _BEFORE), alias_of="list_sessions",
    ),
    Operation(
        "GET", "/api/sessions/{id}", "seed_get", "One session.", answer=t.Session,
        refusals=(Kind.NOT_FOUND,), alias_of="get_session",
    ),
    Operation(
        "DELETE", "/api/sessions/{id}", "seed_end_one", "End a session.", answer=t.SeedDone,
        refusals=(Kind.NOT_FOUND,), alias_of="end_session",
    ),
    Operation(
        "POST", "/api/simulators", "seed_start", "Start the simulator of the caller's session.", status=202,
        others=((200, "It was wanted already."),), answer=t.SeedSimulator,
        refusals=(*_OF_SESSION, Kind.CONFLICT, Kind.LIMIT), alias_of="set_simulator",
    ),
    Operation(
        "GET", "/api/simulators", "seed_simulator", "Where that simulator stands; starts nothing.",
        answer=t.SeedSimulator, refusals=_OF_SESSION, alias_of="get_simulator",
    ),
    Operation(
        "DELETE", "/api/simulators", "seed_stop", "Stop it.", answer=t.SeedSimulator,
        refusals=(*_OF_SESSION, Kind.CONFLICT, Kind.LIMIT), alias_of="set_simulator",
    ),
    Operation(
        "GET", "/health", "seed_health", "Does the process work?", access="open",
        answer=t.SeedHealth, alias_of="healthz",
    ),
    Operation(
        "GET", "/readiness", "seed_readiness", "Are new sessions welcome?", access="open",
        answer=t.SeedReadiness, others=((503, "They are not."),), alias_of="readyz",
    ),
)  # fmt: skip
