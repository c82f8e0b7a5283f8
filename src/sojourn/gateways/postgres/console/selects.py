"""The few SELECTs that drivers, pools and health checks send without being asked.

Constants and functions without arguments, nothing else: the console has no tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from sojourn.gateways.postgres.console.commands import MARK, Command, Token, refuse
from sojourn.gateways.postgres.console.results import Result
from sojourn.gateways.postgres.console.rows import INT8_OID, TEXT_OID, Column, Value
from sojourn.gateways.postgres.messages import SQLSTATE

_CALL: Final = ((MARK, "("), (MARK, ")"))
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
"""What is sure to fit into an int8."""
_HINT: Final = "The console has no tables; SHOW HELP lists its commands."


def select(command: Command, functions: Mapping[str, Value]) -> Result:
    """Answer a SELECT of constants and of ``functions``, by name.

    Raises: Refusal for every other one.
    """
    columns, values = [], []
    for item in _items(command.rest):
        tokens, name = _alias(item)
        column, value = _constant(tokens, functions)
        columns.append(Column(name or column, INT8_OID if isinstance(value, int) else TEXT_OID))
        values.append(value)
    return Result("SELECT 1", tuple(columns), [tuple(values)])


def _items(tokens: tuple[Token, ...]) -> Iterator[list[Token]]:
    item: list[Token] = []
    for token in tokens:
        if token == (MARK, ","):
            yield item
            item = []
        else:
            item.append(token)
    yield item


def _alias(item: list[Token]) -> tuple[list[Token], str]:
    match item:
        case [*tokens, Token(kind="word", text=word), Token(kind="word" | "name", text=name)] if (
            tokens and word.upper() == "AS"
        ):
            return tokens, name
    return item, ""


def _constant(tokens: list[Token], functions: Mapping[str, Value]) -> tuple[str, Value]:
    match tokens:
        case [Token(kind="string", text=text)]:
            return "?column?", text
        case [Token(kind="word", text=text)] if _NUMBER.fullmatch(text):
            return "?column?", int(text)
        case [Token(kind="word", text=text), *more] if tuple(more) in {(), _CALL}:
            name = text.lower().removeprefix("pg_catalog.")
            if name in functions:
                return name, functions[name]
    return refuse("the console answers SELECT for constants only", SQLSTATE.FEATURE_NOT_SUPPORTED, hint=_HINT)
