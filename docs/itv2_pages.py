"""Writes the reference pages of the panels' API: its REST routes and its WebSockets, read off the code.

Made with the other pages by ``reference_pages.py``.
"""
# ruff: noqa: INP001 - Sphinx's folder is no package

from __future__ import annotations

import inspect as python_inspect
from typing import Any, get_args

from page_rows import (
    GROUPS,
    Groups,
    cell,
    fields_of,
    problems_section,
    refusals_of_its_own,
    request_of,
    row,
)

from sojourn.gateways.itv2.http import frames, neohub, problems
from sojourn.gateways.itv2.http.links import Close
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.routes import BASE, NEOHUB, OPERATIONS, WEBSOCKET
from sojourn.web.operations import Operation

_REST_HEAD = f"""\
# Panels: REST

Served by each listener of `[itv2.http]`, with JSON in both directions. The server's own description, with the schema of
every body, is OpenAPI 3.1 at `{BASE}/openapi.json`.

- **Who.** `Authorization: Bearer TOKEN`, one of `[[itv2.http.tokens]]`. What it may do are its scopes: `read`, `arm`,
  `disarm`, `bypass`; `admin` may do everything. A token with `panels` knows no other panel. A token in a URL is
  refused, as URLs are logged on the way.
- **Values.** Every value of a panel is an object: `value`, `since_ms` (unix ms, when we first heard of it), `source`
  (`live`: the panel told it; `pull`: we asked; `settings`: the operator says so) and `is_stale` (the panel was out of
  sight since). `null`: nobody has told yet. Answers may get new fields; fields that a request should not have are
  refused.
- **Codes.** A command brings the user's code as `code`; without one the panel's `default_code` is used, unless the
  token has `needs_code`. Wrong codes are counted per token and partition: after a few no more are sent for a while,
  before the panel locks its keypads.
- **Idempotency-Key.** A command that is sent again with its key, by the same token within ten minutes, gets the first
  one's outcome, and nothing is sent. The key is the command's `request_id`, here and in the history.
- **Outcomes.** Every command is answered by an outcome; its status says the same as its `result`: 200 `accepted`, 409
  `rejected`, 501 `unsupported`, 504 `unknown`. What is unknown is never sent again by itself.
- **No.** Everything that is refused is `application/problem+json` (RFC 9457): see [Problems](#problems).
"""
_ROUTES_HEAD = """\
| request | answers | refusals of its own |
|---|---|---|
"""
_SECTIONS = (
    ("State and history", "Scope `read`.", "read"),
    ("Commands", "The scope of each is in its row. Each is in the history with the token's name.", "command"),
    ("The gateway", "Scope `admin`, and not for tokens of some panels.", "admin"),
    ("Health", "Without a token. Metrics are the admin API's.", "open"),
)
_MEMBERS = """\
`detail` says what was found, `errors` names fields, and `request_id` is what the operator can look for."""
_GROUPS: Groups = (*GROUPS, ("every command also with", lambda one: bool(one.key)))
_LIVE_HEAD = f"""\
# Panels: WebSockets

## Live

At `{WEBSOCKET}`: one JSON object per text message; `type` says which it is. First comes a `snapshot`, then what is
new as it comes.

- **Who.** A program sends `Authorization: Bearer TOKEN`; the scope is `read`. A web page, which cannot, gets a ticket
  by `POST {BASE}/ws-ticket` and offers the subprotocols `itv2.v1` and `ticket.TICKET`; its origin must be in
  `http.origins`. Who is refused is refused before the upgrade, with a problem as over REST.
- **Values** are as over REST. A panel whose `phase` is not `connected` is out of sight: what was told of it is stale.
- **Too slow.** Messages wait for a client up to a bound; then it is closed, comes back and gets a new snapshot.
"""
_NEOHUB_HEAD = f"""\

## NeoHub's messages

At `{NEOHUB}`, for NeoHub's Home Assistant integration, with a token in `Authorization: Bearer`. `full_state` comes
after the connect, when it is asked for, and when panels, zones or partitions come, go or have other names. A command
that is carried out has no answer. A partition of a panel that is out of sight is `unknown`.
"""
_FRAMES_HEAD = "\n| message | fields | meaning |\n|---|---|---|\n"
_CODES = {
    Close.GOING_AWAY: "The server stops, or an operator has ended it: come back.",
    Close.TEXT_ONLY: "Text messages only.",
    Close.POLICY: "Too many messages, or the token is not what it was.",
    1009: "A message is longer than `links.message_bytes`.",
    Close.TOO_SLOW: "Too slow: come back and take everything anew.",
}


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {"itv2-rest.md": rest_page(), "itv2-websocket.md": websocket_page()}


# REST


def rest_page() -> str:
    """Return the routes and the table of problems."""
    parts = [_REST_HEAD]
    for title, text, access in _SECTIONS:
        parts += [f"\n## {title}\n\n{text}\n\n", _ROUTES_HEAD]
        parts += [_route_row(one) for one in OPERATIONS if one.access == access]
    parts.append(problems_section(problems.TABLE, OPERATIONS, _GROUPS, members=_MEMBERS))
    return "".join(parts)


def _route_row(operation: Operation) -> str:
    return row((request_of(operation), operation.summary, refusals_of_its_own(operation)))


# WebSockets


def websocket_page() -> str:
    """Return the messages of both WebSockets in both directions."""
    theirs = (
        neohub.FullState,
        neohub.SessionState,
        neohub.Partition,
        neohub.Zone,
        neohub.PartitionUpdate,
        neohub.ZoneUpdate,
        neohub.Error,
    )
    parts = [_LIVE_HEAD, "\n### From clients\n", _FRAMES_HEAD, *map(_row, get_args(frames.ClientFrame))]
    parts += ["\n`?` marks what may be left out. Commands, and what each names beside its panel:\n\n"]
    parts += [
        f"- `{one.name}`: {one.target if one.target != 'panel' else 'nothing'}; {' and '.join(one.scopes)}\n"
        for one in ORDERS.values()
    ]
    parts += ["\n### From the server\n", _FRAMES_HEAD, *map(_row, frames.SERVER_FRAMES)]
    parts += ["\n### Close codes\n\n| code | meaning |\n|---|---|\n"]
    parts += [f"| {code} | {words} |\n" for code, words in _CODES.items()]
    parts += [_NEOHUB_HEAD, "\n### From the integration\n", _FRAMES_HEAD]
    parts += [_row(one) for one in get_args(neohub.ClientMessage)]
    parts += ["\n### To the integration\n", _FRAMES_HEAD, *map(_row, theirs)]
    return "".join(parts)


def _row(struct: Any) -> str:  # noqa: ANN401 - msgspec's structs share no base with a tag
    tag = struct.__struct_config__.tag
    name = f"`{tag}`" if tag else f"part: {struct.__name__.removesuffix('State').lower()}"
    return f"| {name} | {fields_of(struct)} | {cell(python_inspect.getdoc(struct) or '')} |\n"
