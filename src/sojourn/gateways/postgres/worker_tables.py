"""Tables of several workers as those of one process: rows of the same thing summed, connections listed.

Pure: rows in, rows out. Who has which rows is :mod:`.workers_view`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from sojourn.gateways.postgres.console import incident_rows, rows
from sojourn.gateways.postgres.console.rows import Row, Value

R = TypeVar("R", bound=Row)


class Rule(NamedTuple):
    """How the rows of one table go together; a column that is not named is the first worker's word.

    Args:
        by: what tells that two rows are of the same thing; empty: no two are, all are listed.
        summed: columns that are added.
        largest: columns of which the largest value counts; several together are one value.
        joined: names with commas, of which every one counts once.
    """

    row_type: type[Row]
    by: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    largest: tuple[tuple[str, ...], ...] = ()
    joined: tuple[str, ...] = ()


_OF_POOLS: Final = tuple(name for name in rows.PoolRow.__struct_fields__ if name.startswith(("cl_", "sv_")))
_CURRENT: Final = ("current_connections", "current_client_connections")

RULES: Final[dict[str, Rule]] = {
    "pools": Rule(
        rows.PoolRow, ("database", "user"), _OF_POOLS, (("maxwait", "maxwait_us"),), joined=("node",)
    ),
    "clients": Rule(rows.ClientRow),
    "servers": Rule(rows.ServerRow),
    "databases": Rule(rows.DatabaseRow, ("name",), _CURRENT, (("paused",), ("disabled",))),
    "users": Rule(rows.UserRow, ("name",), _CURRENT),
    "stats": Rule(rows.TotalsRow, ("database",), rows.TotalsRow.__struct_fields__[1:]),
    "lists": Rule(rows.ListRow, ("list",), ("items",)),
    "memory": Rule(rows.MemoryRow, ("name",), ("used", "free", "memtotal"), (("size",),)),
    "clusters": Rule(incident_rows.ClusterRow, ("cluster",), ("held_clients", "held_bytes")),
    "nodes": Rule(incident_rows.NodeRow, ("cluster", "node"), ("servers",)),
    "failovers": Rule(incident_rows.FailoverRow),
    "losses": Rule(incident_rows.LossRow, ("situation",), ("count",), (("last",),)),
    "statements": Rule(incident_rows.StatementRow),
    "prepared": Rule(
        incident_rows.PreparedRow, ("database", "statement", "parameters"), ("clients", "servers", "uses")
    ),
}
"""By the method of the view that has the table."""

_DISTINCT: Final = ("databases", "users", "pools")
"""Kinds of ``SHOW LISTS`` that several workers have of the same."""
_ORDER: Final = {"failovers": "started", "statements": "time"}
"""Listed rows that have a place in time, the newest last."""


def plain(row: R) -> R:
    """Make a row's text valid UTF-8, as it is shown in any case; names of clients in another encoding are not."""
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, str) and not value.isascii():
            setattr(row, name, value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    return row


def read(table: str, found: Iterable[Sequence[Value]]) -> list[Row]:
    """Return what another worker told as rows; none where it has other columns than this one."""
    row_type: Any = RULES[table].row_type
    count = len(row_type.__struct_fields__)
    return [row_type(*values) for values in found if len(values) == count]


def merged(table: str, parts: Iterable[Iterable[Row]]) -> list[Row]:
    """Return the rows of all workers as those of one table; they are changed."""
    rule = RULES[table]
    if not rule.by:
        listed = [row for part in parts for row in part]
        order = _ORDER.get(table)
        return sorted(listed, key=lambda row: getattr(row, order)) if order else listed
    known: dict[tuple[Value, ...], Row] = {}
    for part in parts:
        for row in part:
            first = known.setdefault(_values(row, rule.by), row)
            if first is not row:
                _add(rule, first, row)
    return list(known.values())


def _add(rule: Rule, first: Row, row: Row) -> None:
    for name in rule.summed:
        setattr(first, name, getattr(first, name) + getattr(row, name))
    for names in rule.largest:
        for name, value in zip(names, max(_values(first, names), _values(row, names)), strict=True):
            setattr(first, name, value)
    for name in rule.joined:
        both = f"{getattr(first, name)},{getattr(row, name)}".split(",")
        setattr(first, name, ",".join(dict.fromkeys(filter(None, both))))


def _values(row: Row, names: Iterable[str]) -> Any:
    return tuple(getattr(row, name) for name in names)


def count_once(tables: dict[str, list[Row]]) -> None:
    """Let ``SHOW LISTS`` count databases, users and pools once that several workers have."""
    for row in tables.get("lists", ()):
        if isinstance(row, rows.ListRow) and row.list in _DISTINCT:
            row.items = len(tables[row.list])
