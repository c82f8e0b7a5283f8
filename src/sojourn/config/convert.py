"""Values into declared structs, collecting every problem on the way instead of stopping at the first.

Knows the declared types through ``msgspec.inspect`` and nothing of any gateway.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
from typing import Any, TypeVar, final

from msgspec import inspect

from sojourn.config.environment import EnvText, read_toml_value
from sojourn.config.origins import Origins, split_dotted
from sojourn.config.positions import Keys
from sojourn.config.references import References, Trouble
from sojourn.config.wording import SECRET_WANTED, declared_type, found_text, wanted_text
from sojourn.core.secret import Secret
from sojourn.core.settings import Settings
from sojourn.errors import Problem

S = TypeVar("S", bound=Settings)

_WRONG = object()
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True} | {
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_MOMENTS: dict[type[inspect.Type], type] = {
    inspect.DateType: datetime.date,
    inspect.TimeType: datetime.time,
    inspect.DateTimeType: datetime.datetime,
}


@final
class Conversion:
    """One reading of one configuration; :attr:`problems` holds all that was wrong.

    What is wrong is left out of the result, and a table with anything wrong inside is not checked as a whole:
    :meth:`convert` returns ``None`` then, so nobody can use half a configuration.
    """

    def __init__(self, origins: Origins, references: References) -> None:
        self.problems: list[Problem] = []
        self._origins = origins
        self._references = references

    def convert(self, struct: type[S], data: dict[str, Any]) -> S | None:
        """Return the struct, or ``None`` after collecting problems."""
        result = self._value(inspect.type_info(struct), data, ())
        return result if isinstance(result, struct) else None

    def _wrong(self, keys: Keys, found: str, wanted: str) -> object:
        self.problems.append(self._origins.problem(keys, found, wanted))
        return _WRONG

    def _value(self, declared: inspect.Type, value: Any, keys: Keys) -> Any:
        kind = declared_type(declared)
        if isinstance(value, EnvText):
            value = _from_environment(kind, value)
        match kind:
            case inspect.StructType():
                return self._struct(kind, value, keys)
            case inspect.ListType() | inspect.VarTupleType():
                return self._list(kind, value, keys)
            case inspect.DictType():
                return self._dict(kind, value, keys)
            case inspect.CustomType(cls=cls) if cls is Secret:
                return self._secret(value, keys)
            case inspect.UnionType():
                return self._union(kind, value, keys)
            case _:
                return self._leaf(kind, value, keys)

    def _struct(self, kind: inspect.StructType, value: Any, keys: Keys) -> Any:
        if not isinstance(value, dict):
            return self._wrong(keys, found_text(value, may_show=False), "a table")
        before = len(self.problems)
        fields = {field.encode_name: field for field in kind.fields}
        for name in value:
            if name not in fields:
                self._wrong((*keys, name), "an unknown key", _suggestion(name, list(fields)))
        arguments: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                arguments[field.name] = self._value(field.type, value[name], (*keys, name))
            elif field.required:
                self._wrong((*keys, name), "nothing", wanted_text(field.type))
        if len(self.problems) > before:
            return _WRONG
        return self._checked(kind.cls, arguments, keys)

    def _checked(self, struct: type[Any], arguments: dict[str, Any], keys: Keys) -> Any:
        """Make the struct and let it look at its fields together."""
        try:
            result = struct(**arguments)
        except ValueError as error:
            return self._wrong(keys, "values that do not fit together", str(error))
        before = len(self.problems)
        if isinstance(result, Settings):
            for key, found, wanted in result.problems():
                self._wrong((*keys, *split_dotted(key)), found, wanted)
        return _WRONG if len(self.problems) > before else result

    def _list(self, kind: inspect.ListType | inspect.VarTupleType, value: Any, keys: Keys) -> Any:
        if not isinstance(value, list):
            return self._wrong(keys, found_text(value, may_show=False), wanted_text(kind))
        items = [self._value(kind.item_type, item, (*keys, index)) for index, item in enumerate(value)]
        if len(items) < (kind.min_length or 0) or len(items) > (kind.max_length or math.inf):
            return self._wrong(keys, f"{len(items)} items", wanted_text(kind))
        if any(item is _WRONG for item in items):
            return _WRONG
        return items if isinstance(kind, inspect.ListType) else tuple(items)

    def _dict(self, kind: inspect.DictType, value: Any, keys: Keys) -> Any:
        if not isinstance(value, dict):
            return self._wrong(keys, found_text(value, may_show=False), wanted_text(kind))
        items = {name: self._value(kind.value_type, item, (*keys, name)) for name, item in value.items()}
        return _WRONG if any(item is _WRONG for item in items.values()) else items

    def _union(self, kind: inspect.UnionType, value: Any, keys: Keys) -> Any:
        for one in kind.types:
            if isinstance(one, inspect.NoneType):
                continue
            trial = Conversion(self._origins, self._references)
            result = trial._value(one, value, keys)
            if not trial.problems:
                return result
        return self._wrong(keys, found_text(value, may_show=False), wanted_text(kind))

    def _secret(self, value: Any, keys: Keys) -> Any:
        if not isinstance(value, str):
            return self._wrong(keys, found_text(value, may_show=False), SECRET_WANTED)
        text = self._references.resolve_secret(value)
        return self._wrong(keys, *text) if isinstance(text, Trouble) else Secret(text)

    def _leaf(self, kind: inspect.Type, value: Any, keys: Keys) -> Any:
        may_show = True
        if isinstance(value, str):
            text = self._references.resolve_text(value)
            if isinstance(text, Trouble):
                return self._wrong(keys, *text)
            # What a reference stands for may be secret, even where it does not belong.
            may_show = text == value
            value = str(text)
        if not _fits(kind, value):
            return self._wrong(keys, found_text(value, may_show=may_show), wanted_text(kind))
        return float(value) if isinstance(kind, inspect.FloatType) else value


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{near[0]!r}, perhaps" if near else "one of " + ", ".join(sorted(known))


def _from_environment(kind: inspect.Type, text: EnvText) -> Any:
    """Read an environment variable's text as the type that is wanted; what does not fit stays a text."""
    plain = str(text)
    match kind:
        case inspect.StrType() | inspect.CustomType():
            return plain
        case inspect.LiteralType(values=values) if plain in values:
            return plain
        case inspect.BoolType():
            return _BOOLEANS.get(plain.lower(), plain)
        case inspect.ListType() | inspect.VarTupleType() if not plain.lstrip().startswith("["):
            return [EnvText(item.strip()) for item in plain.split(",") if item.strip()]
    try:
        return read_toml_value(plain)
    except (ValueError, RecursionError):
        return plain


def _fits(kind: inspect.Type, value: Any) -> bool:
    """Tell whether a single value is what a declared type takes."""
    match kind:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _within(kind, value)
        case inspect.FloatType():
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            return math.isfinite(value) and _within(kind, value)
        case inspect.StrType():
            return isinstance(value, str) and _is_text(kind, value)
        case inspect.LiteralType(values=values):
            return not isinstance(value, bool) and value in values
        case _:
            return type(value) is _MOMENTS[type(kind)]


def _within(kind: inspect.IntType | inspect.FloatType, value: float) -> bool:
    return (
        (kind.gt is None or value > kind.gt)
        and (kind.ge is None or value >= kind.ge)
        and (kind.lt is None or value < kind.lt)
        and (kind.le is None or value <= kind.le)
    )


def _is_text(kind: inspect.StrType, value: str) -> bool:
    if len(value) < (kind.min_length or 0) or len(value) > (kind.max_length or math.inf):
        return False
    return kind.pattern is None or re.search(kind.pattern, value) is not None
