"""POSIX extended regular expressions over a command's arguments, as expressions over our whole command line.

The old daemon searches in the arguments only and leaves the closing ``<cr>`` in them; our line begins with
the command and has no ``<cr>``. So ``^`` becomes "behind the command", and ``<cr>`` the end of the line.
"""

from __future__ import annotations

import re
from typing import Final

from sojourn.gateways.tacacs.patterns import can_explode

_CLASSES: Final = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "space": r"\s",
    "blank": " \\t", "punct": r"!-/:-@\[-`{-~", "xdigit": "0-9A-Fa-f", "print": " -~", "graph": "!-~",
}  # fmt: skip

_GNU_ESCAPES: Final = {
    "w": r"\w", "W": r"\W", "s": r"\s", "S": r"\S", "b": r"\b", "B": r"\B", "<": r"\b", ">": r"\b",
}  # fmt: skip

_QUANTIFIERS: Final = "*+?{"


class NotConvertible(ValueError):  # noqa: N818 - says what the expression is
    """The expression cannot be said in ours; the text says why."""


def line_pattern(command: str, pattern: str) -> str:
    """Return a rule's command entry for a command whose arguments match a pattern.

    Returns: the bare command where the pattern takes every argument, else ``/.../``.
    Raises: NotConvertible: nothing in our expressions means the same.
    """
    words = re.fullmatch(r"\^([\w-]+(?: [\w-]+)*) \.\*\$?", pattern)
    if words is not None:
        return f"{command} {words[1]}"
    inner = re.sub(r" ?<cr>\$?", "$", pattern)
    if inner in {"", "^", ".*", "^.*", ".*$", "^.*$", ".+", "^.+", "^.+$"}:
        return command
    start = re.escape(command)
    is_anchored = inner.startswith("^")
    body, anchors = _convert(inner[1:] if is_anchored else inner, start)
    if inner == pattern:
        # The blank before <cr> is not in our line: what could match it must match the end as well.
        body = re.sub(r" \.([*+])(\$?)$", r"(?: .\1|$)\2", body)
    if is_anchored and not anchors and "|" not in inner:
        is_plain = body[:1].isalnum() and body[1:2] not in {*_QUANTIFIERS}
        line = f"^{start} {body}" if is_plain else f"^{start}(?: |$){body}"
    elif is_anchored:
        line = f"^{start}(?: |$).*(?:{_here(start)}{body})"
    elif "|" in inner or anchors:
        line = f"^{start}(?: |$).*(?:{body})"
    else:
        line = f"^{start}(?: |$).*{body.removeprefix('.*')}"
    try:
        re.compile(line)
        explodes = can_explode(line)
    except re.error as error:
        raise NotConvertible(str(error)) from error
    if explodes:
        raise NotConvertible("its time could grow exponentially")
    return f"/{line}/"


def _here(start: str) -> str:
    """Return what matches nothing but the place where the arguments begin."""
    return f"(?:(?<=^{start} )|(?<=^{start})$)"


def _convert(pattern: str, start: str) -> tuple[str, int]:
    """Turn POSIX syntax into Python's; return it and how many ``^`` became "where the arguments begin"."""
    out: list[str] = []
    anchors = position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "[":
            piece, position = _bracket(pattern, position)
            out.append(piece)
            continue
        if char == "\\":
            out.append(_escape(pattern[position + 1 : position + 2]))
            position += 2
            continue
        if char == "^":
            anchors += 1
            out.append(_here(start))
        elif char in _QUANTIFIERS and char != "{" and pattern[position + 1 : position + 2] in {"*", "+", "?"}:
            raise NotConvertible("one repetition sign follows another")
        elif char == "(" and pattern[position + 1 : position + 2] == "?":
            raise NotConvertible("'(?' means nothing in a POSIX expression")
        else:
            out.append(char)
        position += 1
    return "".join(out), anchors


def _escape(char: str) -> str:
    if not char:
        raise NotConvertible("it ends in a backslash")
    if char in _GNU_ESCAPES:
        return _GNU_ESCAPES[char]
    # As in the daemon: \d is the letter d, which nobody meant; refusing it is kinder than either reading.
    if char.isalnum():
        raise NotConvertible(f"'\\{char}' means the letter {char} to tac_plus; write what was meant")
    return re.escape(char)


def _bracket(pattern: str, position: int) -> tuple[str, int]:
    """Turn a bracket expression; a backslash in it is itself, and ``]`` may come first."""
    end = position + 1
    negated = pattern[end : end + 1] == "^"
    end += negated
    items: list[str] = []
    while True:
        char = pattern[end : end + 1]
        if not char:
            raise NotConvertible("a '[' is not closed")
        if char == "]" and items:
            return f"[{'^' if negated else ''}{''.join(items)}]", end + 1
        if char == "[" and pattern[end + 1 : end + 2] in {":", ".", "="}:
            close = pattern.find(":]", end)
            name = pattern[end + 2 : close]
            if close < 0 or name not in _CLASSES:
                raise NotConvertible("a character class that is not known")
            items.append(_CLASSES[name])
            end = close + 2
            continue
        items.append(char if char.isalnum() or char == "-" else "\\" + char)
        end += 1
