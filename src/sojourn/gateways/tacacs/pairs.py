"""Attribute-value pairs of an authorization: what a request asks for, and what a reply grants of it.

Attributes of a session authorization follow what devices have met for thirty years in the tac_plus family:
the device's mandatory pair (``=``) must be granted by the rule, or the answer is FAIL; its optional pair
(``*``) may be dropped or replaced, which is said with PASS_REPL; everything else is PASS_ADD.
Knows nothing of rules, users or the bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PASS_ADD: Final = 0x01
PASS_REPL: Final = 0x02
FAIL: Final = 0x10

_IDENTIFYING: Final = frozenset(("service", "protocol", "cmd", "cmd-arg"))


def service_of(args: Sequence[str]) -> str:
    """Return the value of the first ``service`` pair, empty where there is none."""
    for arg in args:
        if arg.startswith(("service=", "service*")):
            return arg[8:]
    return ""


def split_pair(arg: str) -> tuple[str, str, str]:
    """Cut a pair at its first ``=`` or ``*`` into name, separator and value.

    Returns: an empty separator where the argument has none.
    Source: RFC 8907 section 6.1.
    """
    for index, char in enumerate(arg):
        if char in "=*":
            return arg[:index], char, arg[index + 1 :]
    return arg, "", ""


def command_line(args: Sequence[str]) -> str | None:
    """Return the command of a request as one line, or None for a session authorization.

    Source: RFC 8907 section 6.1, ``cmd`` and ``cmd-arg``.
    """
    command = ""
    words: list[str] = []
    for arg in args:
        name, _, value = split_pair(arg)
        if name == "cmd" and not command:
            command = value
        elif name == "cmd-arg":
            words.append(value)
    if not command:
        return None
    if words and words[-1].lower() == "<cr>":
        words.pop()
    # One space between words: else "configure  terminal" would pass a rule that denies "configure terminal".
    return " ".join(" ".join((command, *words)).split())


def merge_pairs(asked: Sequence[str], granted: tuple[str, ...]) -> tuple[int, tuple[str, ...], str]:
    """Weigh the device's pairs against those that a rule adds.

    A pair ``name*value`` in ``granted`` also says that the device's own mandatory value is fine. An optional
    pair of the device with an empty value is a question, not a claim, and needs no answer.

    Returns: status, pairs of the REPLY, and a mandatory attribute that is not granted ("" = all are).
    Source: RFC 8907 sections 6.1 and 6.2.
    """
    grants = [(*split_pair(pair), pair) for pair in granted]
    kept: list[str] = []
    settled: set[str] = set()
    is_changed = False
    for arg in asked:
        name, separator, value = split_pair(arg)
        if name in _IDENTIFYING or not separator:
            kept.append(arg)
            continue
        own = [(sign, wanted) for grant, sign, wanted, _ in grants if grant == name]
        if separator == "=":
            if ("=", value) not in own and not any(sign == "*" for sign, _ in own):
                return FAIL, (), name
            settled.add(name)
            kept.append(arg)
        elif not value:
            kept.append(arg)
        elif any(wanted == value for _, wanted in own):
            settled.add(name)
            kept.append(arg)
        else:
            is_changed = True
    added = tuple(pair for name, _, _, pair in grants if name not in settled)
    if is_changed:
        return PASS_REPL, (*kept, *added), ""
    return PASS_ADD, added, ""
