"""Writes the reference pages of the exchange gateway: its REST routes and its WebSocket protocol, read off the code.

Made with the other pages by ``reference_pages.py``.
"""
# ruff: noqa: INP001 - Sphinx's folder is no package

from __future__ import annotations

import ast
import inspect as python_inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from msgspec import inspect
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

from sojourn.gateways.exchange import messages, problems
from sojourn.gateways.exchange.routes import OPERATIONS
from sojourn.web.operations import Operation

_REST_HEAD = """\
# Exchange: REST

Served by each listener of `[exchange]`, with JSON in both directions. The server's own description, with the schema of
every body, is OpenAPI 3.1 at `/openapi.json`.

- **Who.** `Authorization: Bearer TOKEN`. A user's token has the scope `auth.user_scope`, an administrator's
  `auth.admin_scope`. A token in a URL is refused, as URLs are logged on the way.
- **Values.** Prices and cash are decimal strings (`"175.25"`), quantities integers, times RFC 3339 strings. Fields that
  a request should not have are refused; answers may get new ones.
- **Idempotency-Key.** A string in quotes. A request that is sent again with its key gets the first one's answer and
  does nothing. Where it is required, a request without one is refused.
- **Pages.** `limit`, and `before` with what `next` of the page before says.
- **No.** Everything that is refused is `application/problem+json` (RFC 9457): see [Problems](#problems).
"""
_ROUTES_HEAD = """\
| request | key | answers | refusals of its own |
|---|---|---|---|
"""
_HEALTH = """\
Without a token. `/readyz` is 503 while this pod takes no new sessions; an issuer that is away makes it degraded, not
unready. Metrics are the admin API's."""
_REST_SECTIONS = (
    ("Sessions, simulators, orders", "A session that is somebody else's is one that there is not.", "user"),
    ("Administrators", "The same for everybody's sessions, and what pods do.", "admin"),
    ("Health", _HEALTH, "open"),
)
_ALIASES_HEAD = """\

## Paths of the original

For clients that were written for the service before this one; each stands for an operation above.

| request | is | meaning |
|---|---|---|
"""
_MEMBERS = """\
`detail` says what was found, `reason` is a word for programs, `errors` names fields, and `request_id` is what the
operator can look for."""
_GROUPS: Groups = (
    *GROUPS,
    ("every route with an Idempotency-Key also with", lambda one: bool(one.key)),
    ("every route that requires one also with", lambda one: one.key == "required"),
)
_LINK_HEAD = f"""\
# Exchange: WebSocket

`session.v1`, at `/v1/ws`. The subprotocol is `{messages.SUBPROTOCOL_JSON}`, one JSON object per text message, or
`{messages.SUBPROTOCOL_MSGPACK}`, one MessagePack map per binary message.

- **Who.** A program sends `Authorization: Bearer TOKEN`. A web page, which cannot, gets a ticket by
  `POST /v1/sessions/{{id}}/ticket` and shows it as a further subprotocol, `ticket.TICKET`; its origin must be in
  `http.origins`. What is refused is refused before the upgrade, with a problem as over REST.
- **Which session.** The ticket's; with a token `?session=ID`, or `?device=NAME` for the caller's session, which is made
  if there is none.
- **Frames.** The field `t` says which frame it is. One with an `id` is answered by `ok` or `err` with it as `ref`.
  Fields that are not known are ignored. Prices are decimal strings, quantities integers, times milliseconds since 1970.
- **Events** (`ev`) are numbered without gaps within an `epoch`, none is ever left out, and what a link has missed is
  replayed to the next. **Market data** (`md`) and the **portfolio** (`pf`) are the latest values: what was in between
  may be missing, the last one never is.
- **Values** and what they mean: [Exchange: values](exchange-values.md). How to use all this: [Write a session
  client](../howto/write-a-session-client.md).
- **Resuming.** A client remembers `epoch` and the numbers of the last `ev`, `md` and `pf`, and says them in its next
  `hello`. With `resumed` `none` it throws away what it had and takes the snapshot.
"""
_CODES_HEAD = """\

## Errors

The `code` of an `err`. An error concerns the frame that it answers, and nothing else, unless it says so.

| code | means |
|---|---|
"""
_CLOSE_HEAD = """\

## Close codes

How a link ends. *Reconnect* says whether the client should come back by itself: after the times that `welcome` named,
or that of a `drain` frame.

| code | name | reconnect | meaning |
|---|---|---|---|
"""
_FRAMES_HEAD = "\n| frame | fields | meaning |\n|---|---|---|\n"
_MARKET = """\
Rows that have changed since the client's last revision; `r` is the one that they make complete. With `full` they are
all there are. A row has `s` (symbol), `bid`, `bid_size`, `ask`, `ask_size`, `last`, `last_size` and `volume`, each only
if there is one."""
_EVENT = """\
Event number `o` of the epoch. `y` is `order`, and `d` the order as it stands then; or `orders`, and `d` has all there
are in `orders`: of another simulator, or after more has happened than it remembers one by one."""
_ENCODED_ONCE = (
    (
        "ev",
        "`o`, `y`, `d`",
        _EVENT,
    ),
    ("md", "`r`, `full`?, `rows`", _MARKET),
    ("pf", "`r`, `d`", "The portfolio of revision `r`: `cash`, `reserved`, `fees`, `value` and `positions`."),
)
"""Frames that are no structs, since their bytes are put together once for many clients: wire.py."""


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {"exchange-rest.md": rest_page(), "exchange-websocket.md": websocket_page()}


# REST


def rest_page() -> str:
    """Return the routes, those of the original, and the table of problems."""
    own = [one for one in OPERATIONS if not one.alias_of]
    parts = [_REST_HEAD]
    for title, text, access in _REST_SECTIONS:
        parts += [f"\n## {title}\n\n{text}\n\n", _ROUTES_HEAD]
        parts += [_route_row(one) for one in own if one.access == access]
    parts.append(_ALIASES_HEAD)
    by_handler = {one.handler: one for one in own}
    parts += [_alias_row(one, by_handler[one.alias_of]) for one in OPERATIONS if one.alias_of]
    parts.append(problems_section(problems.TABLE, own, _GROUPS, members=_MEMBERS))
    return "".join(parts)


def _route_row(operation: Operation) -> str:
    answers = [f"{operation.status}: {operation.summary}"]
    answers += [f"{status}: {words}" for status, words in operation.others]
    return row((request_of(operation), operation.key, " ".join(answers), refusals_of_its_own(operation)))


def _alias_row(alias: Operation, own: Operation) -> str:
    return f"| `{alias.method} {alias.path}` | `{own.method} {own.path}` | {cell(alias.summary)} |\n"


# WebSocket


def websocket_page() -> str:
    """Return the frames of both directions, the errors and the close codes."""
    server = [one for one in vars(messages).values() if _is_frame_of(one, messages._FromServer)]  # noqa: SLF001 - as below
    parts = [_LINK_HEAD, "\n## From clients\n", _FRAMES_HEAD]
    parts += [_frame_row(one) for one in get_args(messages.ClientFrame)]
    parts += ["\n`?` marks what may be left out.\n", "\n## From the server\n", _FRAMES_HEAD]
    parts += [_frame_row(one) for one in server]
    parts += [f"| `{name}` | {fields} | {cell(meaning)} |\n" for name, fields, meaning in _ENCODED_ONCE]
    parts += ["\n## Parts of frames\n", _FRAMES_HEAD]
    parts += [_part_row(one) for one in _parts((*get_args(messages.ClientFrame), *server))]
    parts.append(_CODES_HEAD)
    parts += [f"| `{code}` | {cell(meaning)} |\n" for code, meaning in code_words().items()]
    parts.append(_CLOSE_HEAD)
    parts += [
        f"| {one.code} | `{one.name}` | {'yes' if one.comes_back else 'no'} | {cell(one.advice)} |\n"
        for one in messages.CLOSE_CODES
    ]
    return "".join(parts)


def _is_frame_of(one: Any, base: type) -> bool:  # noqa: ANN401 - anything that a module holds
    return isinstance(one, type) and issubclass(one, base) and one is not base


def _frame_row(frame: Any) -> str:  # noqa: ANN401 - msgspec's structs share no base with a tag
    return f"| `{frame.__struct_config__.tag}` | {fields_of(frame)} | {cell(_words(frame))} |\n"


def _part_row(part: type) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part.__name__).lower()
    return f"| {name} | {fields_of(part)} | {cell(_words(part))} |\n"


def _words(of: type) -> str:
    return python_inspect.getdoc(of) or ""


def _parts(frames: tuple[Any, ...]) -> Iterator[type]:
    """Yield the structs that fields of frames are made of, each once."""
    seen: set[type] = set()
    for frame in frames:
        kind = inspect.type_info(frame)
        for field in kind.fields if isinstance(kind, inspect.StructType) else ():
            options = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
            for one in options:
                if isinstance(one, inspect.StructType) and one.cls not in seen:
                    seen.add(one.cls)
                    yield one.cls


def code_words() -> dict[str, str]:
    """Return what stands in the source below each error code."""
    tree = ast.parse(Path(messages.__file__).read_text(encoding="utf-8"))
    (codes,) = (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "Code")
    found: dict[str, str] = {}
    code = ""
    for statement in codes.body:
        match statement:
            case ast.AnnAssign(value=ast.Constant(value=str(code))):
                found[code] = ""
            case ast.Expr(value=ast.Constant(value=str(text))) if code:
                found[code] = " ".join(text.split())
    return found
