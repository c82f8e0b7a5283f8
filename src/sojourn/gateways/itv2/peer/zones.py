"""The parts of a simulated panel that have a state: zones, partitions and users.

They hold what is so and say it in the bits of ITv2; what follows from it is the panel's affair.

Source: itv2-protocol.md sections 10.6 and 10.7.
"""

from __future__ import annotations

import math
from typing import Final

from sojourn.gateways.itv2.messages import ArmingMode, PartitionFlag, PartitionFlag2, Ready, ZoneFlag
from sojourn.gateways.itv2.peer.programme import BYPASS_ALLOWED, FORCE_ALLOWED, UserProgramme, ZoneProgramme

NEVER: Final = math.inf
STAY_MODES: Final = frozenset(
    {
        ArmingMode.STAY,
        ArmingMode.STAY_NO_ENTRY_DELAY,
        ArmingMode.GLOBAL_STAY,
        ArmingMode.INSTANT_STAY,
    }
)
NIGHT_MODES: Final = frozenset({ArmingMode.NIGHT, ArmingMode.NIGHT_NO_ENTRY_DELAY})
INSTANT_MODES: Final = frozenset(
    {
        ArmingMode.NO_ENTRY_DELAY,
        ArmingMode.STAY_NO_ENTRY_DELAY,
        ArmingMode.AWAY_NO_ENTRY_DELAY,
        ArmingMode.NIGHT_NO_ENTRY_DELAY,
        ArmingMode.INSTANT_STAY,
    }
)


class Zone:
    """One zone: how it is programmed, and what its sensor says."""

    __slots__ = (
        "definition",
        "functions",
        "has_alarm_memory",
        "has_fault",
        "has_low_battery",
        "has_tamper",
        "in_alarm",
        "is_bypassed",
        "is_delinquent",
        "is_open",
        "label",
        "number",
        "partitions",
        "physical",
    )

    def __init__(self, number: int, programme: ZoneProgramme) -> None:
        self.number = number
        self.label = programme.label
        self.definition = programme.definition
        self.functions = programme.functions
        self.physical = programme.physical
        self.partitions = {programme.partition}
        self.is_open = self.is_bypassed = self.in_alarm = self.has_alarm_memory = False
        self.has_tamper = self.has_fault = self.has_low_battery = self.is_delinquent = False

    @property
    def may_be_bypassed(self) -> bool:
        """Whether its programming allows a bypass."""
        return bool(self.functions & BYPASS_ALLOWED)

    @property
    def may_be_forced(self) -> bool:
        """Whether its partition may be armed while it is open."""
        return bool(self.functions & FORCE_ALLOWED)

    @property
    def has_trouble(self) -> bool:
        """Whether something is wrong with it."""
        return self.has_tamper or self.has_fault or self.has_low_battery

    @property
    def status(self) -> int:
        """The bits of 0811."""
        return (
            ZoneFlag.OPEN * self.is_open
            | ZoneFlag.TAMPER * self.has_tamper
            | ZoneFlag.FAULT * self.has_fault
            | ZoneFlag.LOW_BATTERY * self.has_low_battery
            | ZoneFlag.DELINQUENCY * self.is_delinquent
            | ZoneFlag.ALARM * self.in_alarm
            | ZoneFlag.ALARM_MEMORY * self.has_alarm_memory
            | ZoneFlag.BYPASSED * self.is_bypassed
        )


class Partition:
    """One partition: whether it is armed, what runs, and what its keypads were last told of it."""

    __slots__ = (
        "entry_ends_s",
        "exit_ends_s",
        "has_alarm_memory",
        "has_bypass",
        "has_chime",
        "has_trouble",
        "in_alarm",
        "is_enabled",
        "label",
        "mode",
        "number",
        "ready",
        "siren_ends_s",
        "urgent_s",
    )

    def __init__(self, number: int, label: str) -> None:
        self.number = number
        self.label = label
        self.mode: int = ArmingMode.DISARM
        self.ready: int = Ready.READY
        self.exit_ends_s = self.entry_ends_s = self.urgent_s = self.siren_ends_s = NEVER
        self.is_enabled = True
        self.has_chime = False
        self.in_alarm = self.has_alarm_memory = self.has_trouble = self.has_bypass = False

    @property
    def is_armed(self) -> bool:
        """Whether it is armed, or about to be while the exit delay runs."""
        return self.mode != ArmingMode.DISARM

    @property
    def is_leaving(self) -> bool:
        """Whether the exit delay runs."""
        return self.exit_ends_s < NEVER

    @property
    def is_entered(self) -> bool:
        """Whether the entry delay runs."""
        return self.entry_ends_s < NEVER

    def status(self, *, in_programming: bool) -> bytes:
        """Return the three bytes of 0812."""
        first = PartitionFlag.EXIT_DELAY * self.is_leaving | PartitionFlag.ENTRY_DELAY * self.is_entered
        if self.is_armed:
            first |= PartitionFlag.ARMED | self._mode_flags()
        else:
            first |= {
                Ready.READY: PartitionFlag.READY,
                Ready.FORCE: PartitionFlag.FORCE_READY,
                Ready.NOT_READY: PartitionFlag.NOT_READY,
            }[self.ready]
        second = (
            PartitionFlag2.ALARM * self.in_alarm
            | PartitionFlag2.TROUBLE * self.has_trouble
            | PartitionFlag2.BYPASS * self.has_bypass
            | PartitionFlag2.PROGRAMMING * in_programming
            | PartitionFlag2.ALARM_MEMORY * self.has_alarm_memory
            | PartitionFlag2.CHIME * self.has_chime
            | PartitionFlag2.SIREN * (self.siren_ends_s < NEVER)
        )
        return bytes((first, second, 0))

    def _mode_flags(self) -> int:
        if self.mode in STAY_MODES:
            flags = PartitionFlag.STAY
        elif self.mode in NIGHT_MODES:
            flags = PartitionFlag.NIGHT
        else:
            flags = PartitionFlag.AWAY
        return flags | PartitionFlag.NO_ENTRY_DELAY * (self.mode in INSTANT_MODES)


class User:
    """One slot of a user; without a code it is disabled."""

    __slots__ = ("attributes", "code", "label", "number", "partitions")

    def __init__(self, number: int, programme: UserProgramme) -> None:
        self.number = number
        self.label = programme.label
        self.code = programme.code
        self.attributes = programme.attributes
        self.partitions = programme.partitions
