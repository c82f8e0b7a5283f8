"""``examples/echo.py``: the README's gateway in 40 lines."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from socket import socket

EXAMPLE = "echo.py"
SOURCE = Path(__file__).resolve().parents[2] / "examples" / EXAMPLE


def test_every_line_comes_back_and_quit_ends_it(dial: Callable[[], socket]) -> None:
    """SINGLE mode: the end of the session is the end of the connection."""
    with dial().makefile("rwb", 0) as lines:
        lines.write(b"hello\nwor")
        assert lines.readline() == b"hello\n"
        lines.write(b"ld\nquit\n")
        assert lines.readline() == b"world\n"
        assert lines.readline() == b"bye\n"
        assert lines.read() == b""


def test_a_line_above_the_limit_closes_that_connection_and_no_other(dial: Callable[[], socket]) -> None:
    """The framing refuses it as soon as that is certain; nobody else notices."""
    with dial().makefile("rwb", 0) as greedy, dial().makefile("rwb", 0) as other:
        greedy.write(b"x" * 1_001)
        assert greedy.read() == b""
        other.write(b"still here\n")
        assert other.readline() == b"still here\n"


def test_a_gateway_of_your_own_takes_forty_lines() -> None:
    """The README says 40: lines of code, without blank ones, comments and docstrings."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    assert len(ast.unparse(tree).split("\n")) - ast.unparse(tree).count("\n\n") <= 40
