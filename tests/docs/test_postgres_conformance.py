"""``docs/reference/postgres-conformance.md`` says what the PostgreSQL gateway says: rows, messages and codes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.gateways.postgres import messages, retry
from sojourn.gateways.postgres.messages import SQLSTATE, Backend, Frontend

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "postgres-conformance.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "src" / "sojourn" / "gateways" / "postgres").rglob("*.py"))
CODES = {name: code for name, code in vars(SQLSTATE).items() if name.isupper()}
SPEAKERS = {"Refusal", "refuse", "error_response", "notice_response", "Row", "Decision"}
"""What makes an error or a notice for a client."""

_SITUATION = re.compile(r"^\| `(\w+)` \| ([0-9A-Z]{5})? ?\|", re.MULTILINE)
_CODE = re.compile(r"\b(?:[0-9][0-9A-Z]{4}|F0000|XX000)\b")


def codes_said() -> Iterator[str]:
    """Yield the SQLSTATEs that the sources give to what makes an error or a notice."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in SPEAKERS:
                for part in (*node.args, *(keyword.value for keyword in node.keywords)):
                    yield from codes_in(part)
            elif isinstance(node, ast.FunctionDef) and node.name in SPEAKERS:
                for part in node.args.defaults:
                    yield from codes_in(part)


def codes_in(part: ast.expr) -> Iterator[str]:
    """Yield the SQLSTATEs in one argument."""
    for node in ast.walk(part):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "SQLSTATE":
            yield CODES[node.attr]
        elif isinstance(node, ast.Constant) and node.value in CODES.values():
            yield str(node.value)


SAID = sorted(set(codes_said()) - {SQLSTATE.SUCCESSFUL_COMPLETION})


def test_the_rows_of_the_retry_table_are_those_of_the_page() -> None:
    """Same situations, same order, same SQLSTATEs."""
    rows = _SITUATION.findall(PAGE)
    assert rows[: len(retry.TABLE)] == [(row.situation, row.sqlstate) for row in retry.TABLE]


@pytest.mark.parametrize("is_committed", [True, False])
def test_the_page_says_what_follows_the_new_primary_s_answer(is_committed: bool) -> None:
    """The outcomes of an armed COMMIT are not in the table."""
    for alone in (True, False):
        loss = retry.Loss(
            bytes_written_count=1,
            in_transaction=True,
            is_commit=True,
            is_commit_alone=alone,
            is_outcome_armed=True,
        )
        found = retry.resolved(loss, is_committed)
        assert (found.situation, found.sqlstate) in _SITUATION.findall(PAGE)


@pytest.mark.parametrize("namespace", [Frontend, Backend])
def test_every_message_of_the_protocol_is_on_the_page(namespace: type) -> None:
    """A message that is not mentioned is one that nobody has thought of."""
    for name in messages.message_names(namespace).values():
        assert re.search(rf"\b{name}\b", PAGE), name


@pytest.mark.parametrize("code", SAID)
def test_every_sqlstate_that_is_said_is_on_the_page(code: str) -> None:
    """What a client may be told is to be looked up here."""
    assert code in _CODE.findall(PAGE)


def test_the_page_has_no_sqlstate_that_nobody_says() -> None:
    """25006 is a server's own; the page says what becomes of it."""
    assert set(_CODE.findall(PAGE)) - set(SAID) == {SQLSTATE.READ_ONLY_SQL_TRANSACTION}
