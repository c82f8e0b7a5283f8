"""What a simulated panel is made of and how it is programmed: settings only, with the defaults of an HS2032.

Knows no state and no connection. Units are in the names; panel times pass at the panel's speed, times of the line do
not.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sojourn.core.secret import Secret

DELAY: Final = frozenset({1, 2, 6})
"""Zone definitions that begin an entry delay."""
INTERIOR: Final = frozenset({4, 5, 10})
"""Quiet while an entry or exit delay runs."""
INSTANT: Final = frozenset({3, 9, 12})
AROUND_THE_CLOCK: Final = frozenset(
    {7, 8, 17, 18, 23, 24, 25, 27, 40, 41, 42, 43, 45, 46, 47, 48, 49, 51, 56, 57, 60}
)
"""In alarm whether the partition is armed or not."""
AWAY_ONLY: Final = frozenset({5, 6, 9, 10})
"""Left out while armed stay or night."""
FIRE: Final = frozenset({7, 8, 25, 27})

AUDIBLE: Final = 0x01
CHIME: Final = 0x04
BYPASS_ALLOWED: Final = 0x08
FORCE_ALLOWED: Final = 0x10
_USUAL: Final = AUDIBLE | BYPASS_ALLOWED
_DOOR: Final = _USUAL | CHIME | FORCE_ALLOWED


class ZoneProgramme(msgspec.Struct, frozen=True):
    """How a zone is programmed. ``definition`` and ``functions``: itv2-protocol.md sections 10.8 and 10.9."""

    label: str
    definition: int
    functions: int = _USUAL
    physical: int = 0x02
    partition: int = 1


class UserProgramme(msgspec.Struct, frozen=True):
    """A user; without a code the slot is disabled. ``attributes``: itv2-protocol.md section 9.6."""

    label: str = ""
    code: str = ""
    attributes: int = 0x0C
    partitions: int = 0x01


_HOUSE: Final = (
    ZoneProgramme("Front Door", 1, _DOOR),
    ZoneProgramme("Back Door", 1, _DOOR),
    ZoneProgramme("Living Room", 5, _USUAL | FORCE_ALLOWED),
    ZoneProgramme("Hall", 5, _USUAL | FORCE_ALLOWED),
    ZoneProgramme("Kitchen Window", 3),
    ZoneProgramme("Bedroom Window", 3),
    ZoneProgramme("Smoke Upstairs", 8, AUDIBLE),
    ZoneProgramme("CO Boiler", 41, AUDIBLE),
    ZoneProgramme("Garage", 2, _DOOR),
    ZoneProgramme("Cellar Leak", 49, AUDIBLE),
)
_PEOPLE: Final = (
    UserProgramme("Master", "1234", 0x0D, 0xFF),
    UserProgramme("Ana", "2345"),
    UserProgramme("Ben", "3456"),
)


def house(count: int, partitions_count: int = 1) -> tuple[ZoneProgramme, ...]:
    """Return so many zones, a usual house first, spread over the partitions in equal rows."""
    zones = [
        _HOUSE[index] if index < len(_HOUSE) else ZoneProgramme(f"Window {index + 1}", 3)
        for index in range(count)
    ]
    rows = max(1, -(-count // partitions_count))
    return tuple(
        msgspec.structs.replace(zone, partition=index // rows + 1) for index, zone in enumerate(zones)
    )


class PanelProgramme(msgspec.Struct, frozen=True):
    """How a panel is programmed.

    Units: seconds of the panel's own time. ``urgent_s``: so much before its end a delay becomes urgent.
    ``code_digits``: 4, 6 or 8. ``lockout_count``: so many wrong codes in a row lock the panel for ``lockout_s``.
    """

    zones: tuple[ZoneProgramme, ...] = house(16)
    partitions: tuple[str, ...] = ("House",)
    users: tuple[UserProgramme, ...] = _PEOPLE
    users_count: int = 95
    installer_code: str = "5555"
    code_digits: int = 4
    has_one_touch: bool = True
    takes_raw_digits: bool = False
    refuses_zero_width: bool = False
    exit_delay_s: float = 40.0
    entry_delay_s: float = 30.0
    urgent_s: float = 10.0
    siren_s: float = 240.0
    programming_s: float = 1200.0
    clock_every_s: float = 240.0
    lockout_count: int = 5
    lockout_s: float = 300.0


class LineSettings(msgspec.Struct, frozen=True):
    """How a panel's communicator behaves; seconds of real time, but the panel's own for ``reconnect_s``.

    ``queue_count``: the oldest so many notifications are kept while there is no connection.
    ``handshake_retry_s``: without progress for so long, the handshake begins anew on the same connection.
    ``tail``: what newer firmware appends to OpenSession. ``offers_type_3``: first, before the real type.
    Source: itv2-protocol.md sections 7.5, 11 and 13.
    """

    device_id: int = 0x0329
    firmware: int = 0x0543
    protocol: int = 0x0223
    buffer_bytes: int = 512
    tail: bytes = b""
    offers_type_3: bool = False
    ignores_access: bool = False
    dial_s: float = 10.0
    handshake_retry_s: float = 16.0
    length_retry_s: float = 15.0
    type_3_s: float = 0.55
    retransmit_s: float = 5.0
    retransmits_count: int = 3
    silence_s: float = 120.0
    late_answer_s: float = 20.0
    reconnect_s: tuple[float, float] = (8.0, 10.0)
    queue_count: int = 70


class PanelIdentity(msgspec.Struct, frozen=True):
    """Who a panel is, and with which code it encrypts; ``None`` for the code means the panel's factory code.

    ``integration_id``: 12 digits. Codes: 8 hex digits for Type 1, 32 for Type 2.
    """

    integration_id: str
    encryption_type: int = 2
    type_1_code: Secret = Secret("12345678")
    type_2_code: Secret = Secret("12345678" * 4)
