"""What a notification says happened, as an event: the same for what is live and for what is replayed.

Pure; changes nothing (:mod:`effects` does).

Source: itv2-protocol.md section 9.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sojourn.gateways.itv2 import words
from sojourn.gateways.itv2.events import Detail, Kind
from sojourn.gateways.itv2.messages import (
    AccessCodeUpdated,
    AlarmMemory,
    Arming,
    ArmingMode,
    BypassStatus,
    Chime,
    DelayFlag,
    EntryDelay,
    ExitDelay,
    LeadPhase,
    ProgrammingLead,
    Ready,
    ReadyStatus,
    Text,
    TroubleStatus,
    Unknown,
    ZoneBypass,
    ZoneLifestyle,
)
from sojourn.gateways.itv2.messages import ZoneState as Lifestyle
from sojourn.gateways.itv2.state import Scope

READY_NAMES: Final = {Ready.READY: "ready", Ready.FORCE: "force", Ready.NOT_READY: "not_ready"}
_READY_KINDS: Final = {
    "ready": Kind.READY,
    "force": Kind.READY_TO_FORCE,
    "not_ready": Kind.NOT_READY,
}
KINDS_OF: Final[dict[tuple[Scope, str], tuple[str, str]]] = {
    ("zone", "open"): (Kind.ZONE_OPENED, Kind.ZONE_CLOSED),
    ("zone", "tamper"): (Kind.ZONE_TAMPER, Kind.ZONE_TAMPER_RESTORED),
    ("zone", "fault"): (Kind.ZONE_FAULT, Kind.ZONE_FAULT_RESTORED),
    ("zone", "low_battery"): (Kind.ZONE_LOW_BATTERY, Kind.ZONE_LOW_BATTERY_RESTORED),
    ("zone", "delinquency"): (Kind.ZONE_DELINQUENT, Kind.ZONE_DELINQUENT_RESTORED),
    ("zone", "alarm"): (Kind.ZONE_ALARM, Kind.ZONE_ALARM_RESTORED),
    ("zone", "alarm_memory"): (Kind.ZONE_ALARM_MEMORY, Kind.ZONE_ALARM_MEMORY_CLEARED),
    ("zone", "bypassed"): (Kind.ZONE_BYPASSED, Kind.ZONE_UNBYPASSED),
    ("partition", "exit_delay"): (Kind.EXIT_DELAY_STARTED, Kind.EXIT_DELAY_ENDED),
    ("partition", "entry_delay"): (Kind.ENTRY_DELAY_STARTED, Kind.ENTRY_DELAY_ENDED),
    ("partition", "alarm"): (Kind.ALARM, Kind.ALARM_RESTORED),
    ("partition", "alarm_memory"): (Kind.ALARM_MEMORY, Kind.ALARM_MEMORY_CLEARED),
    ("partition", "trouble"): (Kind.TROUBLE, Kind.TROUBLE_RESTORED),
    ("partition", "bypass"): (Kind.BYPASS, Kind.BYPASS_CLEARED),
    ("partition", "programming"): (Kind.PROGRAMMING_STARTED, Kind.PROGRAMMING_ENDED),
    ("partition", "chime"): (Kind.CHIME_ON, Kind.CHIME_OFF),
    ("partition", "siren"): (Kind.SIREN_STARTED, Kind.SIREN_ENDED),
    ("partition", "fire_pre_alert"): (Kind.FIRE_PRE_ALERT, Kind.FIRE_PRE_ALERT_ENDED),
}
"""The events of a value that was found to be another, when it begins and when it ends."""

Told = tuple[str, Scope, int, Detail]
"""Kind, what it is about, its number, and what else there is to say."""


def _zone_told(message: ZoneLifestyle) -> list[Told]:
    kinds = {Lifestyle.OPEN: Kind.ZONE_OPENED, Lifestyle.RESTORED: Kind.ZONE_CLOSED}
    return [(kinds.get(message.state, Kind.ZONE_UNKNOWN), "zone", message.zone, {})]


def _delay_told(message: ExitDelay | EntryDelay) -> list[Told]:
    is_exit = isinstance(message, ExitDelay)
    if not message.flags & DelayFlag.ACTIVE:
        return [
            (Kind.EXIT_DELAY_ENDED if is_exit else Kind.ENTRY_DELAY_ENDED, "partition", message.partition, {})
        ]
    detail: Detail = {
        "seconds": message.seconds,
        "is_audible": bool(message.flags & DelayFlag.AUDIBLE),
        "is_urgent": bool(message.flags & DelayFlag.URGENT),
        "is_restarted": bool(message.flags & DelayFlag.RESTARTED),
    }
    return [
        (
            Kind.EXIT_DELAY_STARTED if is_exit else Kind.ENTRY_DELAY_STARTED,
            "partition",
            message.partition,
            detail,
        )
    ]


def _arming_told(message: Arming) -> list[Told]:
    detail: Detail = {
        "mode": words.mode_words(message.mode),
        "method": words.method_words(message.method),
        "user": message.user,
    }
    kind = Kind.ARMED if message.mode != ArmingMode.DISARM else Kind.DISARMED
    return [(kind, "partition", message.partition, detail)]


def _ready_told(message: ReadyStatus) -> list[Told]:
    ready = READY_NAMES.get(message.status)
    return [(_READY_KINDS[ready], "partition", message.partition, {})] if ready else []


def _flag_told(message: AlarmMemory | TroubleStatus | BypassStatus) -> list[Told]:
    on, off = KINDS_OF["partition", FLAG_FIELDS[type(message)]]
    return [(on if message.flag else off, "partition", message.partition, {})]


def _bypass_told(message: ZoneBypass) -> list[Told]:
    return [(Kind.ZONE_BYPASSED if message.is_bypassed else Kind.ZONE_UNBYPASSED, "zone", message.zone, {})]


def _lead_told(message: ProgrammingLead) -> list[Told]:
    kind = Kind.PROGRAMMING_STARTED if message.phase == LeadPhase.IN else Kind.PROGRAMMING_ENDED
    detail: Detail = {
        "access": words.ACCESS.get(message.access, f"access {message.access}"),
        "mode": message.mode,
        "user": message.user,
    }
    return [(kind, "partition", message.partition, detail)]


def _users_told(message: AccessCodeUpdated) -> list[Told]:
    detail: Detail = {
        "what": message.what,
        "records": message.records,
        "first": message.first,
        "last": message.last,
        "user": message.first,
    }
    return [(Kind.USERS_CHANGED, "panel", 0, detail)]


def _text_told(message: Text) -> list[Told]:
    return [(Kind.TEXT, "panel", 0, {"text": message.text})]


def _chime_told(message: Chime) -> list[Told]:
    return [(Kind.CHIME, "panel", 0, {"body": message.body.hex()})]


def _unknown_told(message: Unknown) -> list[Told]:
    # Not its body: a word that nobody knows may carry a code.
    detail: Detail = {"word": f"{message.number:04x}", "bytes": len(message.body), "why": message.why}
    return [(Kind.UNKNOWN_MESSAGE, "panel", 0, detail)]


FLAG_FIELDS: Final[dict[type, str]] = {
    AlarmMemory: "alarm_memory",
    TroubleStatus: "trouble",
    BypassStatus: "bypass",
}
DESCRIBE: Final[dict[type, Callable[[Any], list[Told]]]] = {
    ZoneLifestyle: _zone_told,
    ExitDelay: _delay_told,
    EntryDelay: _delay_told,
    Arming: _arming_told,
    ReadyStatus: _ready_told,
    AlarmMemory: _flag_told,
    TroubleStatus: _flag_told,
    BypassStatus: _flag_told,
    ZoneBypass: _bypass_told,
    ProgrammingLead: _lead_told,
    AccessCodeUpdated: _users_told,
    Text: _text_told,
    Chime: _chime_told,
    Unknown: _unknown_told,
}
