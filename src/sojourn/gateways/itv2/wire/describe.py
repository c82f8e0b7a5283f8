"""Messages in the specification's words: one line of a trace, and the lines of ``sojourn decode itv2``.

Secrets stay masked. Knows nothing of terminals and recorders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.messages import MASK, Message, PanelTime, Section
from sojourn.gateways.itv2.wire.word_names import word_name
from sojourn.sansio.names import flag_names, name_of

_ARMED_WORDS: Final = {
    m.PartitionFlag.ARMED: "armed",
    m.PartitionFlag.STAY: "stay",
    m.PartitionFlag.AWAY: "away",
    m.PartitionFlag.NIGHT: "night",
    m.PartitionFlag.NO_ENTRY_DELAY: "no entry delay",
    m.PartitionFlag.EXIT_DELAY: "exit delay",
    m.PartitionFlag.ENTRY_DELAY: "entry delay",
    m.PartitionFlag.QUICK_EXIT: "quick exit",
}
_DISARMED_WORDS: Final = _ARMED_WORDS | {
    m.PartitionFlag.READY: "ready",
    m.PartitionFlag.FORCE_READY: "ready to force-arm",
    m.PartitionFlag.NOT_READY: "not ready",
    m.PartitionFlag.WALK_TEST: "walk test",
}
_FIRE_PRE_ALERT: Final = 0x01
_LEFT_OUT: Final = frozenset({"tail", "command_sequence", "width"})


class _ProgrammingAccess:
    """How somebody programs: 0702."""

    INTERACTIVE_SERVICES = 0
    KEYPAD = 2
    DLS = 3
    C24 = 4


class _EncryptionWord:
    """Of 060A, as people say it."""

    NO_ENCRYPTION = 0
    ENCRYPTION_TYPE_1 = 1
    ENCRYPTION_TYPE_2 = 2
    ENCRYPTION_TYPE_3 = 3


_Show = Callable[[Any], str]


def _named(namespace: type) -> _Show:
    return lambda value: _plain(name_of(namespace, value))


def _flags(namespace: type) -> _Show:
    return lambda value: _plain(flag_names(namespace, value).replace("|", " + "))


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _version(value: int) -> str:
    """Return a version as its hexadecimal digits: 0x0543 is 5.43 (section 7.1)."""
    return f"{value >> 8:x}.{value & 0xFF:02x}"


def _time(time: PanelTime) -> str:
    day = f"{time.year:04}-{time.month:02}-{time.day:02}"
    return f"{day} {time.hour:02}:{time.minute:02}:{time.second:02}"


def _section(section: Section) -> str:
    address = "".join(f"[{word:03}]" for word in section.address)
    others = {"module": section.module, "index": section.index, "count": section.count or None}
    shown = "".join(f" {name} {value}" for name, value in others.items() if value is not None)
    return f"{address}{shown}{' virtual' if section.is_virtual else ''}"


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(map(repr, labels))


_DELAY: Final[dict[str, _Show]] = {"flags": _flags(m.DelayFlag)}
_WORDS: Final[dict[type[Message], dict[str, _Show]]] = {
    m.CommandError: {"nacked_word": word_name, "code": _named(m.NackCode)},
    m.CommandResponse: {"code": _named(m.ResponseCode)},
    m.OpenSession: {
        "device_type": lambda value: f"device {value:02X}",
        "device_id": lambda value: f"{value:04X}",
        "firmware": lambda value: f"firmware {_version(value)}",
        "protocol": lambda value: f"protocol {_version(value)}",
        "encryption_type": _named(_EncryptionWord),
    },
    m.ZoneLifestyle: {"state": _named(m.ZoneState)},
    m.DateTimeBroadcast: {"time": _time},
    m.ExitDelay: _DELAY,
    m.EntryDelay: _DELAY,
    m.Arming: {
        "mode": _named(m.ArmingMode),
        "method": lambda value: f"by {_plain(name_of(m.ArmingMethod, value))}",
    },
    m.ReadyStatus: {"status": _named(m.Ready)},
    m.ProgrammingLead: {
        "phase": _named(m.LeadPhase),
        "access": lambda value: f"by {_plain(name_of(_ProgrammingAccess, value))}",
        "mode": _named(m.ProgrammingMode),
        "time": _time,
    },
    m.ZoneBypass: {"is_bypassed": lambda value: "bypassed" if value else "not bypassed"},
    m.BypassZone: {"is_bypassed": lambda value: "bypass" if value else "restore"},
    m.Labels: {"collection": _named(m.Collection), "labels": _labels},
    m.RequestLabels: {"collection": _named(m.Collection)},
    m.Arm: {"mode": _named(m.ArmingMode)},
    m.EnterConfiguration: {
        "mode": _named(m.ProgrammingMode),
        "is_writing": lambda value: "to write" if value else "to read",
    },
    m.SectionRead: {"section": _section},
    m.SectionWrite: {"section": _section},
    m.SectionData: {"section": _section},
    m.CommandRequest: {"requested": word_name},
    m.WriteLabels: {"labels": _labels},
    m.Unknown: {"number": word_name},
}


def words_of_message(message: Message) -> str:
    """Return a message's fields in one line, secrets masked: ``partition 1 away code ***``."""
    return " ".join(_shown(message))


def _shown(message: Message) -> Iterator[str]:
    if isinstance(message, m.MultipleMessages):
        yield "; ".join(f"{type(sub).__name__} {words_of_message(sub)}".strip() for sub in message.messages)
    elif isinstance(message, m.ZoneStatus):
        yield from _zone_status(message)
    elif isinstance(message, m.PartitionStatus):
        yield from _partition_status(message)
    else:
        yield from _fields(message)
    if message.tail:
        yield f"tail {MASK if message.secret_fields else message.tail.hex()}"


def _fields(message: Message) -> Iterator[str]:
    words = _WORDS.get(type(message), {})
    for name in message.__struct_fields__:
        if name in _LEFT_OUT:
            continue
        value = getattr(message, name)
        if name in message.secret_fields:
            if value:
                yield f"{name} {MASK}"
        elif name in words:
            yield words[name](value)
        elif value or value == 0:
            yield f"{name.replace('_', ' ')} {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _zone_status(message: m.ZoneStatus) -> Iterator[str]:
    yield f"zones {message.first} to {message.first + len(message.statuses) - 1}"
    shown = _flags(m.ZoneFlag)
    eventful = (
        f"{zone} {shown(status)}" for zone, status in enumerate(message.statuses, message.first) if status
    )
    yield f"({', '.join(eventful) or 'nothing to report'})"


def _partition_status(message: m.PartitionStatus) -> Iterator[str]:
    yield f"partition {message.partition}"
    first, second, third = (*message.status[:3], 0, 0, 0)[:3]
    words = _ARMED_WORDS if first & m.PartitionFlag.ARMED else _DISARMED_WORDS
    shown = [word for bit, word in words.items() if first & bit]
    if second:
        shown.append(_flags(m.PartitionFlag2)(second))
    if third & _FIRE_PRE_ALERT:
        shown.append("fire pre-alert")
    yield " + ".join(shown) or "nothing to report"
