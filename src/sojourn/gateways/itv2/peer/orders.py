"""What a simulated panel can be told to do, in words: the same in scripts and at the prompt.

Small words may be left out: ``open zone 3`` is ``open 3``. Knows no files and no terminal.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from sojourn.gateways.itv2.messages import ArmingMethod, ArmingMode, ResponseCode
from sojourn.gateways.itv2.peer.faults import ALWAYS, Fault
from sojourn.gateways.itv2.peer.simulated import SimulatedPanel

MODES: Final = {
    "away": ArmingMode.AWAY,
    "stay": ArmingMode.STAY,
    "home": ArmingMode.STAY,
    "night": ArmingMode.NIGHT,
    "no-entry": ArmingMode.NO_ENTRY_DELAY,
}
REFUSALS: Final = {
    ResponseCode.FAILED_TO_ARM: "not ready, or armed already",
    ResponseCode.INVALID_PARTITION: "there is no such partition",
}
WRONG_CODE: Final = "nobody has this code"
_SMALL_WORDS: Final = re.compile(r"\b(?:zone|code|the)\s+")
_PARTITION: Final = r"(?: partition (?P<partition>\d+))?"
_FAULTS: Final = "|".join(sorted((re.escape(fault.value) for fault in Fault), key=len, reverse=True))


class Misread(NamedTuple):
    """Words that are no order: what was found, and what was wanted; never a code."""

    found: str
    wanted: str


class Order(NamedTuple):
    """One thing to do; ``do`` returns what came of it where that is worth a word."""

    words: str
    do: Callable[[SimulatedPanel], str]


Words = dict[str, str]
Act = Callable[[SimulatedPanel, Words], str | None]


class _Kind(NamedTuple):
    usage: str
    pattern: re.Pattern[str]
    act: Act


def _kind(usage: str, pattern: str, act: Act) -> _Kind:
    return _Kind(usage, re.compile(pattern), act)


def _zone(words: Words) -> int:
    return int(words["zone"])


def _partition(words: Words) -> int:
    return int(words.get("partition") or 1)


def _arm(panel: SimulatedPanel, words: Words) -> str:
    partition, user = _partition(words), 0
    if words.get("code"):
        holder = panel.house.user_of(words["code"], partition)
        if holder is None:
            return WRONG_CODE
        user = holder.number
    code = panel.arm(partition, MODES[words["mode"]], user=user)
    return REFUSALS.get(code, "")


def _disarm(panel: SimulatedPanel, words: Words) -> str:
    partition = _partition(words)
    holder = panel.house.user_of(words["code"], partition)
    if holder is None:
        return WRONG_CODE
    code = panel.house.disarm(partition, user=holder.number, method=ArmingMethod.ACCESS_CODE)
    return REFUSALS.get(code, "")


def _fault(panel: SimulatedPanel, words: Words) -> None:
    fault = Fault(words["fault"])
    panel.inject(fault, ALWAYS if words.get("always") else int(words.get("count") or 1))


def _set_clock(panel: SimulatedPanel, words: Words) -> None:
    panel.set_time(int(words["hour"]) % 24, int(words["minute"]) % 60)


KINDS: Final = (
    _kind("open ZONE", r"open (?P<zone>\d+)", lambda panel, words: panel.open_zone(_zone(words))),
    _kind(
        "restore ZONE",
        r"(?:restore|close) (?P<zone>\d+)",
        lambda panel, words: panel.restore_zone(_zone(words)),
    ),
    _kind(
        "arm away|stay|night|no-entry [CODE] [partition N]",
        rf"arm (?P<mode>{'|'.join(MODES)})(?: (?P<code>\d+))?{_PARTITION}",
        _arm,
    ),
    _kind("disarm CODE [partition N]", rf"disarm (?P<code>\d+){_PARTITION}", _disarm),
    _kind("bypass ZONE", r"bypass (?P<zone>\d+)", lambda panel, words: panel.bypass(_zone(words))),
    _kind(
        "unbypass ZONE",
        r"unbypass (?P<zone>\d+)",
        lambda panel, words: panel.bypass(_zone(words), is_bypassed=False),
    ),
    _kind(
        "tamper ZONE [over]",
        r"tamper (?P<zone>\d+)(?P<over> over)?",
        lambda panel, words: panel.house.set_tamper(_zone(words), has_tamper=not words.get("over")),
    ),
    _kind(
        "broken ZONE [over]",
        r"broken (?P<zone>\d+)(?P<over> over)?",
        lambda panel, words: panel.house.set_fault(_zone(words), has_fault=not words.get("over")),
    ),
    _kind(
        "battery ZONE low|good",
        r"battery (?P<zone>\d+) (?P<state>low|good)",
        lambda panel, words: panel.house.set_low_battery(_zone(words), is_low=words["state"] == "low"),
    ),
    _kind(
        "power trouble|restore",
        r"power (?P<state>trouble|restore)",
        lambda panel, words: panel.house.set_power(has_power=words["state"] == "restore"),
    ),
    _kind("cut line", r"cut line", lambda panel, _: panel.cut()),
    _kind("mend line", r"mend line", lambda panel, _: panel.mend()),
    _kind("end session", r"end session", lambda panel, _: panel.end_session()),
    _kind("clock HH:MM", r"clock (?P<hour>[0-2]?\d):(?P<minute>[0-5]\d)", _set_clock),
    _kind(
        "fault NAME [COUNT times|always]",
        rf"(?:fault )?(?P<fault>{_FAULTS})(?: (?:(?P<count>\d+) times|(?P<always>always)))?",
        _fault,
    ),
    _kind("heal NAME", rf"heal (?P<fault>{_FAULTS})", lambda panel, words: panel.heal(Fault(words["fault"]))),
)
"""Every kind of order, as it is to be written."""


def read_order(text: str, *, zones_count: int, partitions_count: int) -> Order | Misread:
    """Read an order for a panel with so many zones and partitions."""
    plain = _SMALL_WORDS.sub("", " ".join(text.lower().split()))
    for kind in KINDS:
        if matched := kind.pattern.fullmatch(plain):
            words = {name: value for name, value in matched.groupdict().items() if value is not None}
            return _out_of_range(words, zones_count, partitions_count) or _order(text, kind, words)
    return _misread(plain)


def _order(text: str, kind: _Kind, words: Words) -> Order:
    def do(panel: SimulatedPanel) -> str:
        return kind.act(panel, words) or ""

    return Order(text, do)


def _out_of_range(words: Words, zones_count: int, partitions_count: int) -> Misread | None:
    for name, count in (("zone", zones_count), ("partition", partitions_count)):
        if name in words and not 1 <= int(words[name]) <= count:
            return Misread(f"{name} {words[name]}", f"1 to {count}")
    return None


def _misread(plain: str) -> Misread:
    """Say what was meant, if only the first word tells; what follows it might be a code."""
    first = plain.partition(" ")[0]
    usages = {kind.usage.partition(" ")[0]: kind.usage for kind in KINDS}
    if first.isdigit() or not first:
        return Misread("no order", "one of: " + ", ".join(sorted(usages)))
    near = first if first in usages else next(iter(difflib.get_close_matches(first, usages)), "")
    if first == "fault" or not near:
        wanted = "one of: " + ", ".join(fault.value for fault in Fault) if first == "fault" else ""
        return Misread(repr(first), wanted or "one of: " + ", ".join(sorted(usages)))
    return Misread(f"{first!r} with something else behind it" if near == first else repr(first), usages[near])
