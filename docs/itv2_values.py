"""Writes the reference page with the words of the panels' gateway: kinds, statuses, reasons and the doctor's sentences.

Made with the other pages by ``reference_pages.py``.
"""
# ruff: noqa: INP001 - Sphinx's folder is no package

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from sojourn.gateways.itv2 import words
from sojourn.gateways.itv2.commands import UNSUPPORTED
from sojourn.gateways.itv2.doctor import SENTENCES, Case, Symptom, sentence_of
from sojourn.gateways.itv2.events import KINDS
from sojourn.gateways.itv2.messages import NackCode, ResponseCode
from sojourn.gateways.itv2.sections import sections_of

_HEAD = """\
# Panels: values

The words that REST, the WebSockets, MQTT, the history and the log have in common.

## The doctor's sentences

When a connection of a panel comes to nothing, the log has `itv2.handshake_failed` with one of these sentences; so has
the panel's `diagnosis`, and `GET /api/v1/itv2/doctor`. `symptom` is the label of
`sojourn_itv2_handshake_failures_total`. The sections are those of the panel's integration group; here, of the first.

| symptom | sentence |
|---|---|
"""
_KINDS_HEAD = """
## Kinds of events

Of the history, of `event` messages and of the MQTT topics of events. Those that say it all:

"""
_REASONS_HEAD = """
## Reasons of the panel

`reason` of an outcome that is `rejected`; the number is its `panel_code`.

"""
_UNSUPPORTED_HEAD = """
## What is not possible

No public layout exists for these, and nothing is guessed on an alarm panel: the outcome is `unsupported`. An
administrator may send a word as raw bytes, at their own risk.

| name | word | what |
|---|---|---|
"""
_CASE = Case(
    panel="house",
    integration_id="123456789012",
    peer="192.0.2.7:3096",
    sections=sections_of(),
    encryption_type=2,
    firmware=0x0543,
    detail="...",
)
"""What a sentence is about on the page."""
_UNNAMED = frozenset(
    {Symptom.UNKNOWN_ID, Symptom.NOT_A_PANEL, Symptom.SAID_NOTHING, Symptom.TOO_MANY_FAILURES}
)
_NEW_FIRMWARE = frozenset({Symptom.UNKNOWN_ENCRYPTION, Symptom.REFUSES_LENGTH, Symptom.UNREADABLE_FIRMWARE})
_TYPED = re.compile(r"\[+[\w.]+\]+(?:\[\w+\](?: 55)?)?|-+\d+-+|\b\w+_\w+\b")
"""Sections, options and settings in a sentence: what somebody types."""
_KINDS = {
    "chime": "A door chime, in bytes that nobody can read yet.",
    "clock_right": "The panel's clock is right again.",
    "clock_wrong": "The panel's clock is off by `drift_s`.",
    "command": "Somebody asked for something through us: `asker`, `command`, `result`, `reason`.",
    "configuration_changed": "Zones, partitions or their names are others than before.",
    "exit_delay_ended": "The time to leave is over, by our own clock: the panel says nothing then.",
    "fire_pre_alert": "A fire alarm that may still be cancelled.",
    "ready_to_force": "Zones are open, and the panel may be armed all the same.",
    "text": "The panel sent a text.",
    "unknown_message": "A message without a public layout; its body is not stored.",
    "users_changed": "Codes, rights or names of users were changed.",
    "zone_delinquent": "The zone was not opened for longer than it should be.",
    "zone_unknown": "The panel does not know whether the zone is open.",
}
"""What a kind's own words do not say."""


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {"itv2-values.md": values_page()}


def values_page() -> str:
    """Return the page."""
    return "".join(
        (
            _HEAD,
            *(f"| `{symptom}` | {_sentence(symptom)} |\n" for symptom in SENTENCES),
            _KINDS_HEAD,
            ", ".join(f"`{kind}`" for kind in KINDS if kind not in _KINDS),
            ".\n\n| kind | meaning |\n|---|---|\n",
            *(f"| `{kind}` | {_KINDS[kind]} |\n" for kind in KINDS if kind in _KINDS),
            "\n## Arming modes\n\nNot every panel has each.\n\n| mode | number on the wire |\n|---|---|\n",
            *(f"| `{name}` | {number} |\n" for name, number in words.ARMABLE.items()),
            _REASONS_HEAD,
            *_reasons("The panel's responses (0502)", ResponseCode, words.response_words),
            "\n",
            *_reasons("The communicator's refusals (0501)", NackCode, words.nack_words),
            _UNSUPPORTED_HEAD,
            *(f"| `{name}` | {number:04X} | {what} |\n" for name, (number, what) in UNSUPPORTED.items()),
        )
    )


def _sentence(symptom: str) -> str:
    case = msgspec.structs.replace(_CASE, panel="") if symptom in _UNNAMED else _CASE
    if symptom in _NEW_FIRMWARE:
        case = msgspec.structs.replace(case, encryption_type=3, firmware=0x0563)
    return _TYPED.sub(r"`\g<0>`", sentence_of(symptom, case))


def _reasons(title: str, codes: type, words_of: Callable[[int], str]) -> Iterator[str]:
    yield f"{title}:\n\n| number | reason |\n|---|---|\n"
    numbers = sorted(number for name, number in vars(codes).items() if name.isupper())
    yield from (f"| {number} | {words_of(number)} |\n" for number in numbers)
