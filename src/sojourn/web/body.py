"""What a request brings: its body as a struct, its query as values; whatever is wrong is told by the field's name.

Nothing that the client sent is repeated but the name of a field that is not known. Knows no operation.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from sojourn.web.config import HttpSettings
from sojourn.web.operations import PLAIN_TEXT, Parameter
from sojourn.web.problems import FieldError, Kind, Refusal

_PLACE: Final = re.compile(r" - at `(.+)`\Z")
_QUOTED_BY_PEER: Final = re.compile(r"^(Object contains unknown field|Invalid enum value) .*", re.DOTALL)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `([A-Za-z_][A-Za-z0-9_]{0,63})`")
"""Names a field as a programmer writes one: whoever misspelt it wants to see it, and it is no code or key."""
_PLAIN: Final = re.compile(rf"{PLAIN_TEXT}*\Z")
_PLACE_CHARACTERS: Final = 64
_DEEPEST: Final = 32
"""How deep a body may nest; what we take is four deep."""


async def read_body(request: web.Request, kind: type, settings: HttpSettings) -> tuple[bytes, Any]:
    """Return a request's body, as it is and as a struct.

    Raises: Refusal.
    """
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() not in {
        "utf-8",
        "us-ascii",
    }:
        raise Refusal(Kind.BAD_MEDIA)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(Kind.BAD_MEDIA)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            raw = await request.read()
    except TimeoutError:
        raise Refusal(Kind.TOO_SLOW) from None
    if not raw.strip():
        raise Refusal(Kind.BAD_JSON, "the body is empty")
    if _is_deep(raw):
        raise Refusal(Kind.BAD_JSON, f"nested deeper than {_DEEPEST}")
    try:
        return raw, msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise Refusal(Kind.INVALID, errors=(field_error(str(error)),)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(Kind.BAD_JSON) from None


def field_error(text: str) -> FieldError:
    """Return what msgspec says of a value, without what the client had written there; a plain field's name stays."""
    found = _PLACE.search(text)
    place = found[1] if found is not None else "$"
    words = _PLACE.sub("", text)
    # A key of a mapping is the client's own word.
    place = re.sub(r"\[\.\.\.\].*|\[[^0-9\]].*", "[...]", place)[:_PLACE_CHARACTERS]
    if not _UNKNOWN_FIELD.fullmatch(words):
        words = _QUOTED_BY_PEER.sub(r"\1", words)
    return FieldError(place, words.replace("`", ""))


def read_query(request: web.Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values of a query, defaults where nothing is said.

    Raises: Refusal naming each parameter that is unknown, repeated or out of its bounds.
    """
    known = {parameter.name: parameter for parameter in parameters}
    errors = []
    if request.query_string and any(name not in known for name in request.query):
        errors.append(FieldError("query", f"wanted only: {', '.join(known) or 'nothing'}"))
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        given = request.query.getall(name, [])
        value = _default(parameter) if not given else _value(parameter, given[0])
        if len(given) > 1 or value is None:
            errors.append(FieldError(f"query.{name}", f"wanted once: {_wanted(parameter)}"))
        values[name] = value
    if errors:
        raise Refusal(Kind.INVALID, errors=errors)
    return values


def _default(parameter: Parameter) -> int | str:
    return parameter.default if parameter.is_number else ""


def _value(parameter: Parameter, text: str) -> int | str | None:
    """Return the value, None if it is not allowed."""
    if parameter.is_number:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(parameter.highest))):
            return None
        number = int(text)
        return number if parameter.lowest <= number <= parameter.highest else None
    if parameter.pattern:
        return text if re.fullmatch(parameter.pattern, text) else None
    if parameter.words:
        return text if text in parameter.words else None
    return text if len(text) <= parameter.longest and _PLAIN.match(text) else None


def _wanted(parameter: Parameter) -> str:
    if parameter.is_number:
        return f"an integer from {parameter.lowest} to {parameter.highest}"
    if parameter.wanted:
        return parameter.wanted
    if parameter.words:
        return f"one of {', '.join(parameter.words)}"
    return f"at most {parameter.longest} characters"


def _is_deep(raw: bytes) -> bool:
    """Say whether brackets nest too deep; the walk costs only where there are many, and knows what is a string."""
    if raw.count(b"[") + raw.count(b"{") <= _DEEPEST:
        return False
    depth = 0
    is_text = False
    is_escaped = False
    for byte in raw:
        if is_text:
            if is_escaped:
                is_escaped = False
            elif byte == 0x5C:  # noqa: PLR2004 - a backslash
                is_escaped = True
            elif byte == 0x22:  # noqa: PLR2004 - a quote
                is_text = False
        elif byte == 0x22:  # noqa: PLR2004 - a quote
            is_text = True
        elif byte in b"[{":
            depth += 1
            if depth > _DEEPEST:
                return True
        elif byte in b"]}":
            depth -= 1
    return False
