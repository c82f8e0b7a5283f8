"""What the pages that are read off the code have in common: cells, fields of structs, tables of problems.

Knows no page.
"""
# ruff: noqa: INP001 - Sphinx's folder is no package

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sojourn.web.openapi import refusals_of
from sojourn.web.operations import Operation
from sojourn.web.problems import TYPE_PREFIX, ProblemType

Groups = tuple[tuple[str, Callable[[Operation], bool]], ...]
"""Words, and which operations they are about."""

GROUPS: Groups = (
    ("Every route may answer with", lambda _: True),
    ("every route that needs a token also with", lambda one: one.access != "open"),
    ("every route that changes something also with", lambda one: one.method != "GET"),
    ("every route with a body also with", lambda one: one.body is not None),
)
_PROBLEMS_HEAD = f"""\

## Problems

`type` is `{TYPE_PREFIX}` and the name; `title` and `hint` are as below. Statuses 429 and 503 have `Retry-After`.
%s

"""
_PROBLEMS_TABLE_HEAD = """
| name | status | means | what to do |
|---|---|---|---|
"""


def cell(text: str) -> str:
    """Return a text as it can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def row(cells: Iterable[str]) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(map(cell, cells)) + " |\n"


def request_of(operation: Operation) -> str:
    """Return what is sent: method, path, and the names in the query."""
    query = "".join(f", `?{one.name}=`" for one in operation.query)
    return f"`{operation.method} {operation.path}`{query}"


def refusals_of_its_own(operation: Operation) -> str:
    """Return the problems that an operation has and not every one."""
    return _names(one for one in refusals_of(operation) if one in operation.refusals)


def fields_of(struct: Any) -> str:  # noqa: ANN401 - msgspec's structs share no base
    """Return a struct's fields; ``?`` marks what may be left out."""
    fields = msgspec.structs.fields(struct)
    return ", ".join(f"`{one.encode_name}`{'' if one.required else '?'}" for one in fields)


def problems_section(
    table: Mapping[str, ProblemType], operations: Sequence[Operation], groups: Groups, *, members: str
) -> str:
    """Return what many operations may be refused for, and every problem there is.

    Args:
        members: sentences on the other members of a problem.
    """
    shared = (f"- {words}: {_names(kinds)}\n" for words, kinds in _shared(table, operations, groups))
    rows = (row((f"`{one.name}`", str(one.status), one.title, one.hint)) for one in table.values())
    return "".join((_PROBLEMS_HEAD % members, *shared, _PROBLEMS_TABLE_HEAD, *rows))


def _shared(
    table: Mapping[str, ProblemType], operations: Sequence[Operation], groups: Groups
) -> Iterator[tuple[str, list[ProblemType]]]:
    """Yield which problems many operations have in common."""
    told: set[ProblemType] = set()
    for words, is_member in groups:
        members = [set(refusals_of(one)) - set(one.refusals) for one in operations if is_member(one)]
        common = set.intersection(*members) - told
        told |= common
        yield words, [one for one in table.values() if one in common]


def _names(kinds: Iterable[ProblemType]) -> str:
    return ", ".join(f"`{one.name}`" for one in kinds)
