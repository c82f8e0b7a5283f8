"""What a client is told when its request is not carried out: ``application/problem+json`` (RFC 9457).

One table of types; whoever refuses names one and says what was found in words of ours. Nothing else reaches a client:
no text of an exception, no name of a host behind us. Knows no HTTP library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sojourn.errors import SojournError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "tag:sojourn,2026:problem:"
"""The types are names, not addresses: nothing is to be fetched. Source: RFC 9457 section 3.1.1."""


class ProblemType(NamedTuple):
    """One row of the table.

    ``hint`` tells the client's author what to do; ``challenge`` is the error of a WWW-Authenticate header, where the
    answer needs one (RFC 6750 section 3.1).
    """

    name: str
    status: int
    title: str
    hint: str
    challenge: str | None = None


class Kind:
    """The reasons for which any request may be refused; who serves more adds rows in a subclass."""

    MALFORMED = ProblemType("malformed_request", 400, "This is no HTTP request", "Mend the client.")
    BAD_REQUEST = ProblemType("bad_request", 400, "The request makes no sense", "See detail.")
    INVALID = ProblemType("invalid", 422, "Some fields are wrong", "See errors: each names its field.")
    BAD_JSON = ProblemType("bad_json", 400, "The body is no JSON", "Send one JSON value in UTF-8.")
    NO_TOKEN = ProblemType("no_token", 401, "Who are you?", "Send Authorization: Bearer TOKEN.", challenge="")
    INVALID_TOKEN = ProblemType(
        "invalid_token",
        401,
        "The token is not good",
        "Get a new token, then repeat.",
        challenge="invalid_token",
    )
    BAD_TICKET = ProblemType(
        "bad_ticket",
        401,
        "The ticket is not good",
        "Tickets work once and shortly: get a new one.",
        challenge="",
    )
    TOKEN_IN_URL = ProblemType(
        "token_in_url",
        400,
        "A token does not belong into a URL",
        "URLs are logged on the way: send it as Authorization, and take this one as lost.",
    )
    FORBIDDEN = ProblemType(
        "forbidden", 403, "Not for you", "The token lacks a scope.", challenge="insufficient_scope"
    )
    BAD_ORIGIN = ProblemType("bad_origin", 403, "Not from this web page", "The operator lists the origins.")
    NOT_FOUND = ProblemType("not_found", 404, "There is no such thing", "It may have ended, or be another's.")
    BAD_METHOD = ProblemType("bad_method", 405, "Not with this method", "See the header Allow.")
    TOO_SLOW = ProblemType("too_slow", 408, "The body took too long", "Repeat.")
    CONFLICT = ProblemType("conflict", 409, "Not in this state", "Look at the state, then decide.")
    IN_PROGRESS = ProblemType(
        "in_progress",
        409,
        "The same request is being carried out",
        "Repeat after Retry-After, with the same key.",
    )
    TOO_LARGE = ProblemType("too_large", 413, "The body is too large", "Send less at once.")
    LONG_URL = ProblemType("long_url", 414, "The URL is too long", "Send less in it.")
    BAD_MEDIA = ProblemType(
        "bad_media_type", 415, "Not this media type", "Send Content-Type: application/json, not compressed."
    )
    NO_KEY = ProblemType(
        "no_idempotency_key",
        400,
        "Idempotency-Key is missing",
        'Send one, such as a UUID in quotes: "8e03978e".',
    )
    BAD_KEY = ProblemType(
        "bad_idempotency_key",
        400,
        "Idempotency-Key is not good",
        "One to 255 printable characters in quotes.",
    )
    KEY_REUSED = ProblemType(
        "idempotency_key_reused", 422, "The key was used for another request", "A new request has a new key."
    )
    TOO_MANY = ProblemType("too_many_requests", 429, "Too many requests", "Wait as Retry-After says.")
    LIMIT = ProblemType("limit", 429, "More than is allowed", "See detail; end something first.")
    LONG_HEADERS = ProblemType("long_headers", 431, "The headers are too large", "Send less in them.")
    INTERNAL = ProblemType(
        "internal", 500, "We have made a mistake", "Tell the operator the request id; a repeat may help."
    )
    UNAVAILABLE = ProblemType("unavailable", 503, "Not possible now", "Repeat as Retry-After says.")
    AUTH_UNAVAILABLE = ProblemType(
        "auth_unavailable", 503, "Tokens cannot be checked now", "The token may be good: repeat with it."
    )
    OUTCOME_UNKNOWN = ProblemType(
        "outcome_unknown",
        504,
        "Nobody knows whether it was done",
        "Repeat with the same Idempotency-Key.",
    )
    DRAINING = ProblemType("draining", 503, "This server is going away", "Connect again: another takes over.")


def table_of(kinds: type[Kind]) -> Mapping[str, ProblemType]:
    """Return every type by name; reference pages and OpenAPI documents are made of it."""
    rows = (row for one in reversed(kinds.__mro__) for row in vars(one).values())
    return {row.name: row for row in rows if isinstance(row, ProblemType)}


BY_STATUS: Final[Mapping[int, ProblemType]] = {
    400: Kind.BAD_REQUEST,
    404: Kind.NOT_FOUND,
    405: Kind.BAD_METHOD,
    408: Kind.TOO_SLOW,
    411: Kind.BAD_REQUEST,
    413: Kind.TOO_LARGE,
    414: Kind.LONG_URL,
    415: Kind.BAD_MEDIA,
    431: Kind.LONG_HEADERS,
}
"""What the HTTP library's own refusals become; any other is INTERNAL."""

DEFAULT_RETRY_AFTER_S: Final = 1.0


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field: where (``$.quantity``, ``query.limit``, ``header.Idempotency-Key``) and why."""

    field: str
    problem: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not carried out (RFC 9457)."""

    type: str
    title: str
    status: int
    hint: str
    detail: str = ""
    request_id: str = ""
    reason: str = ""
    retry_after_s: float = 0.0
    errors: tuple[FieldError, ...] = ()


class Refusal(SojournError):  # noqa: N818 - named for what happened, as all classes of errors.py
    """A client is told no: holds what it may read, and so never a secret.

    Args:
        kind: a row of :class:`Kind`.
        detail: what was found, in words of ours; never what an exception or another server said.
        reason: one word for programs, where a type has several, such as why the market refuses an order.
        retry_after_s: when a repeat may work; statuses 429 and 503 always say something.
        errors: field by field.
        allow: methods, for 405.
    """

    def __init__(
        self,
        kind: ProblemType,
        detail: str = "",
        *,
        reason: str = "",
        retry_after_s: float = 0.0,
        errors: Sequence[FieldError] = (),
        allow: str = "",
    ) -> None:
        super().__init__(f"{kind.status} {kind.name}{': ' if detail else ''}{detail}")
        self.kind = kind
        self.detail = detail
        self.reason = reason
        self.errors = tuple(errors)
        self.allow = allow
        if not retry_after_s and kind.status in {429, 503}:
            retry_after_s = DEFAULT_RETRY_AFTER_S
        self.retry_after_s = retry_after_s

    def problem(self, request_id: str = "") -> Problem:
        """Return what the client reads."""
        kind = self.kind
        return Problem(
            type=TYPE_PREFIX + kind.name,
            title=kind.title,
            status=kind.status,
            hint=kind.hint,
            detail=self.detail,
            request_id=request_id,
            reason=self.reason,
            retry_after_s=self.retry_after_s,
            errors=self.errors,
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the status: Retry-After, WWW-Authenticate, Allow."""
        headers = {}
        if self.retry_after_s:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.kind.challenge is not None:
            error = f', error="{self.kind.challenge}"' if self.kind.challenge else ""
            headers["WWW-Authenticate"] = f'Bearer realm="sojourn"{error}'
        if self.allow:
            headers["Allow"] = self.allow
        return headers

    def body(self, request_id: str = "") -> bytes:
        """Return the problem as JSON."""
        return msgspec.json.encode(self.problem(request_id))


def of_status(status: int, **more: Any) -> Refusal:
    """Return the refusal that stands for a bare status of the HTTP library."""
    return Refusal(BY_STATUS.get(status, Kind.INTERNAL), **more)
