"""The words for declared types and found values, in problems and in documents.

Never puts a value into words that may be a secret.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect

_SHOWN_CHARACTERS_COUNT = 60
SECRET_WANTED = "a text, ${file:/path} or ${env:NAME}"  # noqa: S105 - words, no secret

_PLAIN: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.DateType: "a date (2026-12-31)",
    inspect.TimeType: "a time of day (23:59:00)",
    inspect.DateTimeType: "a date and time (2026-12-31T23:59:00Z)",
    inspect.CustomType: SECRET_WANTED,
    inspect.StructType: "a table",
}
_UNITS = {"_per_s": "per second", "_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes", "_days": "days"}


def wanted_text(kind: inspect.Type) -> str:
    """Say what a declared type takes, bounds included."""
    match kind:
        case inspect.Metadata(type=inner):
            return str((kind.extra_json_schema or {}).get("title") or wanted_text(inner))
        case inspect.UnionType(types=types):
            return " or ".join(wanted_text(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(json.dumps(value) for value in values)
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            return _join(noun, _number_bounds(kind))
        case inspect.StrType():
            return _join("a text", _text_bounds(kind))
        case inspect.ListType() | inspect.VarTupleType():
            each = f"with each item {wanted_text(kind.item_type)}"
            return _join("a list", [*_length_bounds(kind, "items"), each])
        case inspect.DictType(value_type=value_type):
            return f"a table with each value {wanted_text(value_type)}"
        case _:
            return _PLAIN[type(kind)]


def found_text(value: object, *, may_show: bool) -> str:
    """Say what a value is; with ``may_show`` false, only of which kind."""
    match value:
        case bool() | int() | float() | datetime.date() | datetime.time() if may_show:
            return _plain(value)
        case str() if may_show:
            rest = "..." if len(value) > _SHOWN_CHARACTERS_COUNT else ""
            return json.dumps(value[:_SHOWN_CHARACTERS_COUNT] + rest, ensure_ascii=False)
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return "a date or time"


def unit_text(name: str) -> str:
    """Say the unit that a setting's name ends in; empty if it has none."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def first_sentence(docstring: str | None) -> str:
    """Return the first paragraph of a docstring as one line, without its markup."""
    paragraph = (docstring or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "")


def metadata_of(kind: inspect.Type) -> dict[str, Any]:
    """Return what ``Meta(...)`` declares beside a type: ``description``, ``examples``."""
    if isinstance(kind, inspect.Metadata):
        return {**(kind.extra_json_schema or {}), **metadata_of(kind.type)}
    return {}


def declared_type(kind: inspect.Type) -> inspect.Type:
    """Return the type without its metadata and its ``None``; a union of several others stays one."""
    if isinstance(kind, inspect.Metadata):
        return declared_type(kind.type)
    if isinstance(kind, inspect.UnionType):
        others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return declared_type(others[0]) if len(others) == 1 else kind
    return kind


def default_of(field: inspect.Field) -> object:
    """Return the default of a field that is not required."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _join(noun: str, bounds: Iterable[str]) -> str:
    return " ".join([noun, *bounds])


def _number_bounds(kind: inspect.IntType | inspect.FloatType) -> Iterable[str]:
    if kind.ge is not None and kind.le is not None:
        yield f"from {kind.ge} to {kind.le}"
        return
    bounds = {"above": kind.gt, "of at least": kind.ge, "below": kind.lt, "of at most": kind.le}
    yield from (f"{words} {bound}" for words, bound in bounds.items() if bound is not None)


def _length_bounds(
    kind: inspect.StrType | inspect.ListType | inspect.VarTupleType, noun: str
) -> Iterable[str]:
    least, most = kind.min_length, kind.max_length
    if least and most is not None:
        yield f"of {least} to {most} {noun}"
    elif least:
        yield f"of at least {least} {noun if least > 1 else noun.removesuffix('s')}"
    elif most is not None:
        yield f"of at most {most} {noun}"


def _text_bounds(kind: inspect.StrType) -> Iterable[str]:
    yield from _length_bounds(kind, "characters")
    if kind.pattern:
        yield f"that matches {kind.pattern}"
