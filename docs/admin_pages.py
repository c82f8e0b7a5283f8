"""Writes the reference page of the admin API: what can be asked and ordered, by whom, read off the code.

Made with the other pages by ``reference_pages.py``.
"""
# ruff: noqa: INP001 - Sphinx's folder is no package

from __future__ import annotations

import inspect as python_inspect
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from page_rows import GROUPS, Groups, cell, fields_of, problems_section, refusals_of_its_own, request_of, row

from sojourn.admin import values
from sojourn.admin.openapi import BASE, OPERATIONS, PANELS, described
from sojourn.admin.problems import TABLE
from sojourn.core.panel import AdminPanel
from sojourn.gateways.exchange.panel import ExchangePanel
from sojourn.gateways.itv2.admin_panel import PanelPage
from sojourn.gateways.postgres.panel import PostgresPanel
from sojourn.gateways.tacacs.panel import TacacsPanel
from sojourn.web.operations import Operation

_HEAD = f"""\
# Admin API

What the dashboard, `sojourn top` and the command line are made of. Served at `[admin] address`, and on the control
socket, where the file system says who may come in and who is there may do everything. The server's own description,
with the schema of every body, is OpenAPI 3.1 at `{BASE}/openapi.json`.

- **Who.** A program sends `Authorization: Bearer TOKEN`, one of `[[admin.tokens]]` or `[admin] token`. A browser has
  the cookie that a login link got it, and sends with whatever is no GET the header `X-CSRF-Token`, whose value
  `GET {BASE}/session` tells; its Origin must be ours. How to make tokens and links: [Let people into the
  dashboard](../howto/let-people-into-the-dashboard.md).
- **What they may.** Each scope may what those before it may: `view` reads, `operate` acts on sessions and gateways and
  reads the configuration, `admin` acts on the server.
- **Values.** Moments are seconds since 1970, UTC; what ends with `_per_s` is the rate of the last second. Answers may
  get new fields; fields that a request should not have are refused.
- **Pages.** `limit`, and `cursor` with what `next_cursor` of the page before says.
- **Orders** are whatever is no GET. Each is in the audit log, with who gave it and what came of it.
- **No.** Everything that is refused is `application/problem+json` (RFC 9457): see [Problems](#problems).
"""
_TABLE_HEAD = """\
| request | answers | refusals of its own |
|---|---|---|
"""
_SECTIONS = (
    ("Everybody", "Needs no token; says nothing about what is behind it.", "open"),
    ("Scope `view`", "", "view"),
    ("Scope `operate`", "", "operate"),
    ("Scope `admin`", "", "admin"),
)
_STREAMS_HEAD = """\

## Streams

Server-sent events; `data` is one JSON object. A reader that is too slow is dropped and may come again. A comment comes
when nothing else does, so that a dead connection is found.

| event of | event | fields | meaning |
|---|---|---|---|
"""
_STREAMS = (
    ("/stream", "overview", values.OverviewTick),
    ("/stream", "session", values.SessionTick),
    ("/stream", "more", values.MoreTick),
    ("/stream", "event", values.EventRow),
    ("/stream", "dropped", values.DroppedTick),
    ("/sessions/{id}/trace/stream", "entries", values.TraceTick),
    ("/sessions/{id}/trace/stream", "ended", values.EndedTick),
)
_PANELS_HEAD = f"""\

## Gateways' pages

Served below `{PANELS}/GATEWAY` where the gateway is configured; `GET {PANELS}` tells which are. They are what a
gateway's page in the dashboard asks and orders.
"""
_PANEL_TABLE_HEAD = """
| request | scope | answers |
|---|---|---|
"""
_TOLD = re.compile(r"^Event `\w+`(?: of `[^`]+`)?[:,] ")
_MEMBERS = "`detail` says what was found, `errors` names fields."
_GROUPS: Groups = GROUPS
_NOBODY: Any = SimpleNamespace(hub=None, server=SimpleNamespace(events=None))
"""In the place of a gateway: what a page offers does not depend on it."""


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {"admin-api.md": admin_page()}


def admin_page() -> str:
    """Return the operations by scope, the streams, those of the gateways' pages, and the problems."""
    parts = [_HEAD]
    for title, text, access in _SECTIONS:
        parts += [f"\n## {title}\n\n", f"{text}\n\n" if text else "", _TABLE_HEAD]
        parts += [_row_of(one) for one in OPERATIONS if one.access == access]
    parts.append(_STREAMS_HEAD)
    parts += [
        row((f"`{BASE}{path}`", f"`{name}`", fields_of(kind), _words(kind))) for path, name, kind in _STREAMS
    ]
    parts.append(_PANELS_HEAD)
    for name, panel in panels():
        parts += [f"\n### {panel.title}\n", _PANEL_TABLE_HEAD]
        parts += [_panel_row(described(name, one)) for one in panel.operations]
    parts.append(problems_section(TABLE, OPERATIONS, _GROUPS, members=_MEMBERS))
    return "".join(parts)


def panels() -> Iterator[tuple[str, AdminPanel]]:
    """Yield the page of every gateway that comes with the product."""
    yield "tacacs", TacacsPanel(_NOBODY, _NOBODY).panel()
    yield "postgres", PostgresPanel(_NOBODY).panel()
    yield "exchange", ExchangePanel(_NOBODY).panel()
    yield "itv2", PanelPage(_NOBODY).panel()


def _row_of(operation: Operation) -> str:
    answers = [f"{operation.status}: {operation.summary}"]
    answers += [f"{status}: {words}" for status, words in operation.others]
    return row((request_of(operation), " ".join(answers), refusals_of_its_own(operation)))


def _panel_row(operation: Operation) -> str:
    is_stream = operation.media == "text/event-stream"
    answer = f"{operation.status}: {operation.summary}" + (" As server-sent events." if is_stream else "")
    return row((request_of(operation), f"`{operation.access}`", answer))


def _words(kind: type) -> str:
    """Return what a struct's docstring says, without what the columns before say already."""
    text = cell(python_inspect.getdoc(kind) or "")
    text = _TOLD.sub("", text)
    return text[:1].upper() + text[1:]
