"""Settings back into TOML, with secrets masked: what is in force, defaults and overrides included."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from sojourn.config.origins import dotted, quoted
from sojourn.config.settings import SojournSettings
from sojourn.core.secret import Secret

_MASK = "***"


def show(settings: SojournSettings) -> str:
    """Write the settings in force as TOML; every secret is ``"***"``."""
    return "\n".join(_table(settings, "", "")).strip() + "\n"


def toml_value(value: Any) -> str:
    """Write one value as TOML; a secret as its mask.

    Args: value, of the kinds that settings have: text, number, boolean, date, list, table of values.
    """
    match value:
        case Secret():
            return json.dumps(_MASK)
        case str():
            return quoted(value)
        case bool() | int():
            return json.dumps(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case dict():
            pairs = [f"{dotted((name,))} = {toml_value(item)}" for name, item in value.items()]
            return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
        case _:
            return "[" + ", ".join(toml_value(item) for item in value) + "]"


def _table(struct: msgspec.Struct, name: str, header: str) -> Iterator[str]:
    """Write one table: its own values first, as TOML asks, then the tables inside it."""
    if header:
        yield from ("", header)
    inner: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, msgspec.Struct) or _is_list_of_structs(value):
            inner.append((field.encode_name, value))
        elif value is not None:
            yield f"{field.encode_name} = {toml_value(value)}"
    for key, value in inner:
        path = f"{name}.{key}" if name else key
        if isinstance(value, msgspec.Struct):
            yield from _table(value, path, f"[{path}]")
        else:
            for item in value:
                yield from _table(item, path, f"[[{path}]]")


def _is_list_of_structs(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | dict) and _has_struct(value)


def _has_struct(values: Iterable[object]) -> bool:
    return any(isinstance(item, msgspec.Struct) for item in values)
