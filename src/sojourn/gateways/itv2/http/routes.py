"""The one list of what the panels' REST interface offers; handlers and the OpenAPI document are made of it.

Knows no HTTP library.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sojourn.gateways.itv2.events import KINDS
from sojourn.gateways.itv2.history.records import DIGITS, PAGE_LIMIT_COUNT
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.problems import Kind
from sojourn.web.operations import Operation, Parameter

BASE: Final = "/api/v1/itv2"
WEBSOCKET: Final = f"{BASE}/ws"
NEOHUB: Final = "/api/ws"

LARGEST_MS: Final = 2**53
LISTED_COUNT: Final = 64
"""Words in one parameter at most."""

PATH_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "panel": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,63}$"},
    "partition": {"type": "integer", "minimum": 1, "maximum": 32},
    "zone": {"type": "integer", "minimum": 1, "maximum": 255},
    "user": {"type": "integer", "minimum": 1, "maximum": 1_000},
}
"""The JSON schema of each name in a path."""

_PANEL: Final = f"{BASE}/panels/{{panel}}"
_PARTITION: Final = f"{_PANEL}/partitions/{{partition}}"


def _any_of(words: tuple[str, ...]) -> str:
    """Return the pattern of a list of words with commas between them."""
    one = f"(?:{'|'.join(words)})"
    return f"{one}(?:,{one}){{0,{LISTED_COUNT - 1}}}"


def _number(name: str, description: str, highest: int) -> Parameter:
    return Parameter(name, f"{description}; 0 = any.", is_number=True, highest=highest)


FILTERS: Final = (
    Parameter(
        "panels",
        "Only of these panels, with commas between them.",
        pattern=r"[A-Za-z0-9_-]{1,63}(?:,[A-Za-z0-9_-]{1,63}){0,63}",
        wanted="names of panels with commas between them",
    ),
    Parameter("kinds", "Only these kinds.", pattern=_any_of(KINDS), wanted="kinds with commas between them"),
    Parameter(
        "sources",
        "Only events told in these ways: live, pull (we asked) or replay (it was in an outage).",
        pattern=_any_of(("live", "pull", "replay")),
        wanted="live, pull and replay with commas between them",
    ),
    _number("since_ms", "Not before this moment, unix ms", LARGEST_MS),
    _number("until_ms", "Before this moment, unix ms", LARGEST_MS),
    _number("partition", "Only of this partition", 32),
    _number("zone", "Only of this zone", 255),
    _number("user", "Only of this user", 1_000),
    Parameter("partition_label", "Only of the partition that had this name then.", longest=64),
    Parameter("zone_label", "Only of the zone that had this name then.", longest=64),
    Parameter("user_label", "Only of the user that had this name then.", longest=64),
    Parameter("asker", "Only commands of the token with this name.", longest=64),
    Parameter("order", "newest (the default) or oldest first.", words=("newest", "oldest")),
)
"""What of a history is asked for."""
_NUMBER: Final = f"[0-9]{{1,{DIGITS - 1}}}"
PAGE: Final = (
    Parameter("limit", "Entries of a page.", is_number=True, lowest=1, highest=PAGE_LIMIT_COUNT, default=100),
    Parameter(
        "cursor",
        "``cursor`` of the page before.",
        pattern=rf"{_NUMBER}\.{_NUMBER}",
        wanted="the cursor of the page before",
    ),
)
"""How much of it at once, and from where on."""
_OF_HISTORY: Final = (Kind.HISTORY_UNAVAILABLE,)
_OUTCOMES: Final = (
    (409, "``rejected``: the panel refused, or nothing was sent; ``reason`` says why."),
    (501, "``unsupported``: no public layout exists for it."),
    (
        504,
        "``unknown``: nobody can say whether it was done; it is not sent again, and the state is read anew.",
    ),
)


class _Place(NamedTuple):
    """Where an order is given, and what it is for."""

    path: str
    summary: str
    method: Any = "POST"


_PLACES: Final = {
    "arm": _Place(f"{_PARTITION}/arm", "Arm a partition."),
    "disarm": _Place(f"{_PARTITION}/disarm", "Disarm a partition."),
    "bypass": _Place(f"{_PARTITION}/bypass", "Bypass zones, or restore them."),
    "bypass_and_arm": _Place(
        f"{_PARTITION}/bypass-and-arm",
        "Bypass zones, by default all that are open, then arm; nothing is armed if one cannot be bypassed.",
    ),
    "clear_bypasses": _Place(f"{_PARTITION}/clear-bypasses", "Restore all bypassed zones of a partition."),
    "refresh": _Place(f"{_PANEL}/refresh", "Read all statuses anew."),
    "read_labels": _Place(f"{_PANEL}/read-labels", "Read all names anew."),
    "read_users": _Place(f"{_PANEL}/read-users", "Read users, without their codes."),
    "write_user": _Place(
        f"{_PANEL}/users/{{user}}", "Change a user; only where the panel's user_writes is on.", "PUT"
    ),
    "read_sections": _Place(
        f"{_PANEL}/read-sections", "Read programming; makes partitions not ready for a moment."
    ),
    "send_raw": _Place(f"{_PANEL}/raw", "Send a word as it is, for experts."),
    "unsupported": _Place(f"{_PANEL}/unsupported", "Ask for something that there is no public layout for."),
}


def _command(name: str) -> Operation:
    order, place = ORDERS[name], _PLACES[name]
    return Operation(
        place.method,
        place.path,
        name,
        f"{place.summary} Needs the scope {' and '.join(order.scopes)}.",
        access="command",
        answer=t.CommandOutcome,
        body=order.body,
        others=_OUTCOMES,
        refusals=(Kind.NOT_FOUND,),
        key="optional",
        may_be_absent=order.body is t.CodeBody,
    )


OPERATIONS: Final = (
    Operation("GET", f"{BASE}/panels", "list_panels", "All panels.", access="read", answer=t.Panels),
    Operation(
        "GET", _PANEL, "get_panel", "One panel and everything that is known of it.",
        access="read", answer=t.PanelDetail, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", f"{_PANEL}/zones", "list_zones", "Its zones.",
        access="read", answer=t.Zones, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", f"{_PANEL}/zones/{{zone}}", "get_zone", "One zone.",
        access="read", answer=t.Zone, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", f"{_PANEL}/partitions", "list_partitions", "Its partitions.",
        access="read", answer=t.Partitions, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", _PARTITION, "get_partition", "One partition.",
        access="read", answer=t.Partition, refusals=(Kind.NOT_FOUND,),
    ),
    Operation(
        "GET", f"{BASE}/history", "search_history", "What happened, a page at a time.",
        access="read", answer=t.HistoryPage, query=(*FILTERS, *PAGE), refusals=_OF_HISTORY,
    ),
    Operation(
        "GET", f"{BASE}/history.csv", "export_csv", "The same as one CSV file, without a limit.",
        access="read", answer=str, query=FILTERS, refusals=_OF_HISTORY, media="text/csv",
    ),
    Operation(
        "GET", f"{BASE}/history.jsonl", "export_jsonl", "The same as JSON lines, without a limit.",
        access="read", answer=str, query=FILTERS, refusals=_OF_HISTORY, media="application/jsonl",
    ),
    Operation(
        "GET", f"{BASE}/unsupported", "list_unsupported",
        "What panels can do and nobody can ask for, as no public layout exists.",
        access="read", answer=t.UnsupportedCommands,
    ),
    Operation(
        "GET", f"{BASE}/token", "get_token", "Whose token this is, and what it may do.",
        access="read", answer=t.TokenInfo,
    ),
    Operation(
        "POST", f"{BASE}/ws-ticket", "give_ticket", "A ticket with which a web page opens one WebSocket.",
        access="read", answer=t.Ticket,
    ),
    *map(_command, _PLACES),
    Operation(
        "GET", f"{BASE}/doctor", "get_doctor", "How every connection stands, and what failed lately.",
        access="admin", answer=t.Doctor,
    ),
    Operation(
        "GET", f"{BASE}/learning", "get_learning", "Which panels called that are not configured.",
        access="admin", answer=t.Learning,
    ),
    Operation(
        "PUT", f"{BASE}/learning", "start_learning",
        "Begin to remember panels that call and are not configured; they get no answer.",
        access="admin", answer=t.Learning, body=t.LearnBody, may_be_absent=True,
    ),
    Operation(
        "DELETE", f"{BASE}/learning", "stop_learning", "End that; forgets who has called.",
        access="admin", status=204,
    ),
    Operation("GET", "/healthz", "healthz", "Does the process work?", access="open", answer=t.Health),
    Operation(
        "GET", f"{BASE}/openapi.json", "openapi", "This document.", access="open", answer=dict[str, Any]
    ),
)  # fmt: skip
