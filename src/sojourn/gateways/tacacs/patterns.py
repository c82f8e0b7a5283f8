"""Regular expressions of the policy: whether one can take exponential time.

Judges the expression only, by a rule of thumb that errs to the safe side; knows nothing of rules or requests.
"""

from __future__ import annotations

import importlib
import string
from collections.abc import Callable, Iterator
from typing import Any, Final

_ALPHABET: Final = frozenset(map(chr, range(32, 127)))

_CATEGORIES: Final[dict[str, frozenset[str]]] = {
    "CATEGORY_DIGIT": frozenset(string.digits),
    "CATEGORY_SPACE": frozenset(" "),
    "CATEGORY_WORD": frozenset(string.ascii_letters + string.digits + "_"),
}

_REPEATS: Final = ("MAX_REPEAT", "MIN_REPEAT")


def can_explode(pattern: str) -> bool:
    """Tell whether matching may take time exponential in the length of the line: ``(a+)+``, ``(.*,)*``.

    A repetition inside a repetition is taken as harmless only if every round must pass a character that the
    inner one cannot take, as the space in ``( [a-z]+)*``.

    Raises: re.error: if the expression is not valid.
    """
    # The standard library's own parser: private, but the alternative is a second grammar of the same.
    parse: Callable[[str], Any] = importlib.import_module("re._parser").parse
    return _explodes(list(parse(pattern)))


def _explodes(items: list[Any]) -> bool:
    for op, argument in items:
        if str(op) in _REPEATS and _is_endless(argument):
            inner = _endless_chars(list(argument[2]))
            if inner and not any(chars.isdisjoint(inner) for chars in _mandatory(list(argument[2]))):
                return True
        if any(_explodes(body) for body in _bodies(str(op), argument)):
            return True
    return False


def _is_endless(argument: Any) -> bool:
    return bool(str(argument[1]) == "MAXREPEAT")


def _bodies(op: str, argument: Any) -> Iterator[list[Any]]:
    """Yield the item lists inside a node."""
    if op in {*_REPEATS, "POSSESSIVE_REPEAT"}:
        yield list(argument[2])
    elif op == "SUBPATTERN":
        yield list(argument[3])
    elif op == "BRANCH":
        yield from map(list, argument[1])
    elif op in {"ASSERT", "ASSERT_NOT"}:
        yield list(argument[1])
    elif op == "ATOMIC_GROUP":
        yield list(argument)
    elif op == "GROUPREF_EXISTS":
        yield from (list(body) for body in argument[1:] if body is not None)


def _endless_chars(items: list[Any]) -> frozenset[str]:
    """Return what the endless repetitions among the items, at any depth, may take."""
    found: frozenset[str] = frozenset()
    for op, argument in items:
        for body in _bodies(str(op), argument):
            is_endless = str(op) in _REPEATS and _is_endless(argument)
            found |= _all_chars(body) if is_endless else _endless_chars(body)
    return found


def _all_chars(items: list[Any]) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    for op, argument in items:
        found |= _chars(str(op), argument) or frozenset()
        for body in _bodies(str(op), argument):
            found |= _all_chars(body)
    return found


def _mandatory(items: list[Any]) -> Iterator[frozenset[str]]:
    """Yield the characters of every item that one round cannot do without."""
    for op, argument in items:
        chars = _chars(str(op), argument)
        if chars is not None:
            yield chars
        elif str(op) == "SUBPATTERN" or (str(op) in _REPEATS and argument[0] > 0):
            for body in _bodies(str(op), argument):
                yield from _mandatory(body)


def _chars(op: str, argument: Any) -> frozenset[str] | None:
    """Return the printable characters that a one-character node takes, None for any other node."""
    if op == "LITERAL":
        return frozenset(chr(argument))
    if op == "NOT_LITERAL":
        return _ALPHABET - {chr(argument)}
    if op == "ANY":
        return _ALPHABET
    if op != "IN":
        return None
    found: frozenset[str] = frozenset()
    for kind, value in argument:
        name = str(kind)
        if name == "LITERAL":
            found |= {chr(value)}
        elif name == "RANGE":
            found |= {char for char in _ALPHABET if value[0] <= ord(char) <= value[1]}
        elif name == "CATEGORY":
            category = str(value)
            plain = _CATEGORIES.get(category.replace("_NOT_", "_"), _ALPHABET)
            found |= _ALPHABET - plain if "_NOT_" in category else plain
    return _ALPHABET - found if str(argument[0][0]) == "NEGATE" else found
