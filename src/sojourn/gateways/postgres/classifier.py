"""Whether a statement only reads, read off PostgreSQL's own parse tree: the optional evidence for routing.

Owns ``pglast``, the parser of PostgreSQL as a library, which comes with the extra ``sojourn[routing]``. Without it
no statement counts as reading. It sees one text and no catalog: it does not know what a view, an operator or a cast
calls, nor whether a name means a temporary table. Therefore its word is never the last one: a replica refuses writes
with SQLSTATE 25006, and a session with temporary objects is pinned before anyone asks here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

CACHED_STATEMENTS_COUNT: Final = 8_192
"""Texts remembered in each of the two generations; a miss costs about 20 microseconds for a statement of 150 bytes.

The fingerprint of the parser is no key: it costs as much as the verdict, and gives EXPLAIN (ANALYZE) and
EXPLAIN (ANALYZE false) the same value. [measured]
"""

LARGEST_STATEMENT_BYTES: Final = 16_384
"""Longer texts go to the primary unread: parsing blocks everybody for a time that grows with the text."""

LARGEST_CACHED_BYTES: Final = 2_048
"""Longer texts are judged and not remembered; it bounds the cache together with the count."""

FUNCTIONS_FILE: Final = "read_only_functions.txt"
"""One name per line: functions of ``pg_catalog`` of PostgreSQL 16 and 18 that are immutable or stable in every form.

Without those that tell one server, connection or transaction from another, or that SQL cannot call. Its test in
``tests/gateways/postgres/test_classifier.py`` holds the rule and makes the file anew.
"""

NODE_SETTINGS: Final = frozenset(
    {
        "all",
        "data_directory",
        "default_transaction_read_only",
        "hot_standby",
        "in_hot_standby",
        "primary_conninfo",
        "primary_slot_name",
        "transaction_read_only",
    }
)
"""Settings that drivers ask to learn whether they may write: a replica's answer would be true and wrong."""

CATALOG: Final = "pg_catalog"
_FORBIDDEN_FIELDS: Final = frozenset({"intoClause", "lockingClause"})
_OPERATOR_FIELDS: Final = frozenset({"operName", "useOp"})
_CALL: Final = "FuncCall"
_SETTING_FUNCTION: Final = "current_setting"


def is_available() -> bool:
    """Tell whether the parser is installed."""
    return importlib.util.find_spec("pglast") is not None


@cache
def read_only_functions() -> frozenset[str]:
    """Return the built-in functions that may run on a replica."""
    text = Path(__file__).with_name(FUNCTIONS_FILE).read_text(encoding="ascii")
    return frozenset(text.split())


class Classifier:
    """The verdicts of one configuration on statements; lives as long as the configuration's snapshot.

    Always true: True is said only of one statement (SELECT, VALUES, TABLE, SHOW, EXPLAIN that does not execute) that
    locks no row, creates nothing, names no relation of the system or of ``pg_temp``, and calls only functions that
    are known to read. Whatever cannot be parsed counts as writing.

    Args:
        allowed_functions: more functions, written as in SQL without quotes: ``total`` or ``app.total``.
    """

    __slots__ = ("_allowed", "_old", "_parse", "_young")

    def __init__(self, allowed_functions: Iterable[str] = ()) -> None:
        names = {tuple(name.lower().split(".")) for name in allowed_functions}
        for name in read_only_functions():
            names |= {(name,), (CATALOG, name)}
        self._allowed = frozenset(names)
        self._parse = _load_parser()
        # Two generations make a cheap LRU: what is asked for again moves up, the older one is dropped as a whole.
        self._young: dict[bytes, bool] = {}
        self._old: dict[bytes, bool] = {}

    def is_read_only(self, sql: bytes) -> bool:
        """Tell whether the text is one statement that is known to only read; never raises."""
        verdict = self._young.get(sql)
        if verdict is not None:
            return verdict
        verdict = self._old.get(sql)
        if verdict is None:
            verdict = self._judge(sql)
            if len(sql) > LARGEST_CACHED_BYTES:
                return verdict
        if len(self._young) >= CACHED_STATEMENTS_COUNT:
            self._old, self._young = self._young, {}
        self._young[sql] = verdict
        return verdict

    def _judge(self, sql: bytes) -> bool:
        # A NUL would hide the rest of the text from a parser written in C.
        if self._parse is None or len(sql) > LARGEST_STATEMENT_BYTES or b"\0" in sql:
            return False
        try:
            statements = msgspec.json.decode(self._parse(sql.decode()))["stmts"]
            return len(statements) == 1 and self._is_read_only_statement(statements[0]["stmt"])
        except Exception:  # noqa: BLE001 - syntax, depth, encoding or a tree we do not know: not known to only read
            return False

    def _is_read_only_statement(self, statement: dict[str, Any]) -> bool:
        ((kind, body),) = statement.items()
        match kind:
            case "SelectStmt":
                return self._is_harmless(body)
            case "ExplainStmt":
                ((inner, _),) = body["query"].items()
                options = {option["DefElem"]["defname"].lower() for option in body.get("options", ())}
                return inner == "SelectStmt" and "analyze" not in options and self._is_harmless(body["query"])
            case "VariableShowStmt":
                return body["name"].lower() not in NODE_SETTINGS
            case _:
                return False

    def _is_harmless(self, tree: Any) -> bool:
        """Look at every node under a SELECT; a loop, because a tree may be deeper than our stack."""
        waiting: list[Any] = [tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, list):
                waiting.extend(node)
            elif isinstance(node, dict):
                for key, value in node.items():
                    if not self._is_harmless_field(key, value):
                        return False
                waiting.extend(node.values())
        return True

    def _is_harmless_field(self, key: str, value: Any) -> bool:
        if key in _FORBIDDEN_FIELDS:
            return False
        if key == _CALL:
            return self._is_allowed_call(value)
        if key == "RangeVar":
            return not _is_of_system(value)
        if key == "A_Expr":
            return _is_builtin_operator(value["name"])
        if key in _OPERATOR_FIELDS:
            return _is_builtin_operator(value)
        # INSERT, UPDATE, DELETE and MERGE inside WITH; nothing else may stand inside a SELECT.
        return not key.endswith("Stmt") or key == "SelectStmt"

    def _is_allowed_call(self, call: dict[str, Any]) -> bool:
        name = tuple(part["String"]["sval"] for part in call["funcname"])
        if name not in self._allowed:
            return False
        if name[-1] != _SETTING_FUNCTION:
            return True
        constant = call["args"][0]["A_Const"]["sval"][
            "sval"
        ]  # anything but a constant raises: not known to only read
        return constant.lower() not in NODE_SETTINGS


def _is_of_system(relation: dict[str, Any]) -> bool:
    """Tell whether a relation shows the state of one server or session, such as pg_locks and pg_temp.t."""
    schema = relation.get("schemaname", "")
    name = relation["relname"]
    return (
        schema.startswith("pg_") or schema == "information_schema" or (not schema and name.startswith("pg_"))
    )


def _is_builtin_operator(parts: list[Any]) -> bool:
    """Tell whether an operator is written without a schema, or with that of the built-in ones."""
    return len(parts) == 1 or parts[0]["String"]["sval"] == CATALOG


def _load_parser() -> Callable[[str], str] | None:
    """Return PostgreSQL's parser as a function from SQL to a tree in JSON, or None if it is not installed."""
    try:
        from pglast.parser import parse_sql_json  # noqa: PLC0415 - optional, and costs memory where nobody routes
    except ImportError:
        return None
    parse: Callable[[str], str] = parse_sql_json
    return parse
