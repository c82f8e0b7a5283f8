"""What a request shows of who sends it: a bearer token, a ticket of a web page, the page's origin.

A token in a URL is refused wherever it is found: URLs are logged by everything on the way. Knows nothing of whose a
token is, nor of where tickets are kept.

Source: RFC 6750; RFC 6455 section 10.2.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from sojourn.web.problems import Kind, Refusal

if TYPE_CHECKING:
    from aiohttp import web

TOKEN_PARAMETERS: Final = frozenset(
    {"token", "access_token", "jwt", "id_token", "bearer", "authorization", "auth", "api_key", "apikey"}
)
"""Names under which clients put tokens into URLs."""
TICKET_PARAMETER: Final = "ticket"
TICKET_PROTOCOL: Final = "ticket."
"""Begins the subprotocol that carries a ticket: no proxy logs it, and a web page's WebSocket can send nothing else."""
_TICKET_BYTES: Final = 32
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
"""Source: RFC 6750 section 2.1."""


def is_bearer(text: str) -> bool:
    """Say whether a text can stand behind ``Bearer``."""
    return _BEARER.match(text) is not None


def bearer_of(request: web.BaseRequest) -> str:
    """Return the token of the only Authorization header.

    Raises: Refusal.
    """
    given = request.headers.getall("Authorization", [])
    if not given:
        raise Refusal(Kind.NO_TOKEN)
    scheme, _, token = given[0].partition(" ")
    token = token.strip(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not is_bearer(token):
        raise Refusal(Kind.NO_TOKEN, "Authorization is not one Bearer token")
    return token


def refuse_token_in_url(request: web.BaseRequest, names: Collection[str] = TOKEN_PARAMETERS) -> None:
    """Refuse a token that came in the URL, good or not.

    Args:
        names: of the query's parameters, in lower case.
    Raises: Refusal.
    """
    if request.query_string and any(name.lower() in names for name in request.query):
        raise Refusal(Kind.TOKEN_IN_URL)


def check_origin(request: web.BaseRequest, origins: Collection[str]) -> None:
    """Let web pages in by their origin, and whatever is no browser, which sends none.

    Raises: Refusal.
    Source: RFC 6455 section 10.2: a WebSocket is not held by the same-origin policy.
    """
    given = request.headers.getall("Origin", [])
    if given and (len(given) > 1 or given[0] not in origins):
        raise Refusal(Kind.BAD_ORIGIN)


def offered_protocols(request: web.BaseRequest) -> tuple[str, ...]:
    """Return the subprotocols that a WebSocket's handshake offers, in their order."""
    lines = request.headers.getall("Sec-WebSocket-Protocol", [])
    return tuple(entry.strip() for line in lines for entry in line.split(","))


def ticket_of(request: web.BaseRequest) -> str | None:
    """Return the ticket among the subprotocols that a handshake offers, None if there is none."""
    for offered in offered_protocols(request):
        if offered.startswith(TICKET_PROTOCOL):
            return offered.removeprefix(TICKET_PROTOCOL)
    return None


def new_ticket() -> tuple[str, str]:
    """Return a ticket that nobody can guess, and the key under which it is kept."""
    ticket = secrets.token_urlsafe(_TICKET_BYTES)
    return ticket, _kept_under(ticket)


def ticket_key(ticket: str) -> str | None:
    """Return the key under which a ticket is kept, if it is one of ours; None for what cannot be."""
    return _kept_under(ticket) if _TICKET.match(ticket) else None


def _kept_under(ticket: str) -> str:
    """Return what is of no use to who reads it where tickets are kept."""
    return hashlib.sha256(ticket.encode()).hexdigest()
