"""The numbers of ITv2 in words: for people, and for topics and paths.

Source: itv2-protocol.md section 10.
"""

from __future__ import annotations

from typing import Final

from sojourn.gateways.itv2.messages import ArmingMethod, ArmingMode, NackCode, ResponseCode, Word

MODES: Final[dict[int, str]] = {
    ArmingMode.DISARM: "disarm",
    ArmingMode.STAY: "stay",
    ArmingMode.AWAY: "away",
    ArmingMode.NO_ENTRY_DELAY: "no_entry_delay",
    ArmingMode.NIGHT: "night",
    ArmingMode.QUICK: "quick",
    ArmingMode.USER: "user",
    ArmingMode.STAY_NO_ENTRY_DELAY: "stay_no_entry_delay",
    ArmingMode.AWAY_NO_ENTRY_DELAY: "away_no_entry_delay",
    ArmingMode.NIGHT_NO_ENTRY_DELAY: "night_no_entry_delay",
    ArmingMode.GLOBAL_STAY: "global_stay",
    ArmingMode.GLOBAL_AWAY: "global_away",
    ArmingMode.CUSTOM_A: "custom_a",
    ArmingMode.CUSTOM_B: "custom_b",
    ArmingMode.CUSTOM_C: "custom_c",
    ArmingMode.CUSTOM_D: "custom_d",
    ArmingMode.INSTANT_STAY: "instant_stay",
    ArmingMode.HIDDEN: "hidden",
    ArmingMode.UNKNOWN: "unknown",
}
"""Section 10.1."""

ARMABLE: Final[dict[str, int]] = {
    name: mode for mode, name in MODES.items() if mode not in {ArmingMode.DISARM, ArmingMode.UNKNOWN}
}
"""The modes that one may ask for, by name."""

METHODS: Final[dict[int, str]] = {
    ArmingMethod.UNKNOWN: "unknown",
    ArmingMethod.ACCESS_CODE: "access code",
    ArmingMethod.FUNCTION_KEY: "function key",
}
ACCESS: Final[dict[int, str]] = {0: "interactive services", 2: "keypad", 3: "DLS", 4: "C24"}
"""Who is in programming: 0702."""
KEYPAD_ACCESS: Final = 2
DLS_ACCESS: Final = 3
USER_KINDS: Final[dict[int, str]] = {0: "none", 1: "pin", 2: "tag"}
"""473C."""

_RESPONSES: Final[dict[int, str]] = {
    ResponseCode.SUCCESS: "done",
    ResponseCode.CANNOT_EXIT_CONFIGURATION: "the panel cannot do this now",
    ResponseCode.INVALID_PROGRAMMING_TYPE: "the panel does not know this kind of programming",
    ResponseCode.UNSUPPORTED_MODULE: "unsupported module, or walk test is active",
    ResponseCode.FAILED_TO_ARM: "the panel could not do all of it",
    ResponseCode.NOT_IN_PROGRAMMING: "the panel is not in the right programming mode, or walk test is active",
    ResponseCode.INVALID_ACCESS_CODE: "wrong access code",
    ResponseCode.ACCESS_CODE_REQUIRED: "an access code is required",
    ResponseCode.BUSY: "the panel or the partition is busy",
    ResponseCode.INVALID_PARTITION: "there is no such partition",
    ResponseCode.FUNCTION_NOT_AVAILABLE: "the function is not available",
    ResponseCode.INTERNAL_ERROR: "internal error of the panel",
    ResponseCode.COMMAND_TIMEOUT: "the panel could not do it in time",
    ResponseCode.NO_TROUBLES: "there is no trouble of this kind",
    ResponseCode.NO_ALARMS: "there are no alarms",
    ResponseCode.INVALID_DEVICE: "there is no such device or module",
    ResponseCode.INVALID_TROUBLE_TYPE: "there is no such kind of trouble",
}
"""Section 10.2."""
_RESPONSES_TO: Final[dict[tuple[int, int], str]] = {
    (Word.ARM, ResponseCode.FAILED_TO_ARM): "not ready: some or all partitions failed to arm",
    (Word.EXIT_CONFIGURATION, ResponseCode.CANNOT_EXIT_CONFIGURATION): "the panel cannot leave programming",
    (Word.ENTER_CONFIGURATION, ResponseCode.CANNOT_EXIT_CONFIGURATION): "the panel cannot enter programming",
}
"""Where the same number means something else to a certain command."""
_NACKS: Final[dict[int, str]] = {
    NackCode.UNKNOWN: "the communicator refuses, and does not say why",
    NackCode.INVALID_LENGTH: "the communicator finds the command's length wrong",
    NackCode.INVALID_COMMAND: "the communicator does not know the command",
    NackCode.INVALID_SEQUENCE: "the communicator finds the command's sequence wrong",
    NackCode.PANEL_NOT_RESPONDING: "the panel does not respond to its communicator",
    NackCode.INVALID_PASS_THROUGH: "invalid pass-through",
    NackCode.INVALID_DESTINATION: "invalid destination",
    NackCode.INVALID_SESSION: "invalid session",
    NackCode.BUFFER_TOO_SMALL: "the communicator's buffer is too small",
    NackCode.LOCK_OUT: "the panel is locked out after wrong codes",
    NackCode.UNSUPPORTED_SUB_COMMAND: "the communicator does not support this",
    NackCode.POWER_UP_SHUNT: "the panel has just been powered up",
    NackCode.INVALID_PROGRAMMING_MODE: "the panel is not in the right programming mode",
    NackCode.INVALID_ACCESS_CODE: "wrong access code",
    NackCode.ACCESS_CODE_REQUIRED: "an access code is required",
    NackCode.BUSY: "the panel or the partition is busy",
    NackCode.INVALID_PARTITION: "there is no such partition",
    NackCode.FUNCTION_NOT_AVAILABLE: "the function is not available",
    NackCode.INTERNAL_ERROR: "internal error of the panel",
    NackCode.COMMAND_TIMEOUT: "the panel could not do it in time",
    NackCode.INVALID_MODULE: "there is no such module",
    NackCode.INVALID_TROUBLE_TYPE: "there is no such kind of trouble",
    NackCode.TAG_OR_CODE_REQUIRED: "a tag or an access code is required",
    NackCode.TAG_REQUIRED: "a tag is required",
}
"""Section 10.3."""

DEFINITIONS: Final[dict[int, str]] = {
    0: "unused",
    1: "delay 1",
    2: "delay 2",
    3: "instant",
    4: "interior",
    5: "interior stay/away",
    6: "delay stay/away",
    7: "24 h fire, delayed",
    8: "24 h fire",
    9: "instant stay/away",
    10: "interior delay",
    11: "day",
    12: "night",
    17: "24 h burglary",
    18: "24 h bell/buzzer",
    23: "24 h supervisory",
    24: "24 h supervisory buzzer",
    25: "auto-verified fire",
    27: "fire supervisory",
    40: "gas",
    41: "carbon monoxide",
    42: "hold-up",
    43: "panic",
    45: "heat",
    46: "medical",
    47: "emergency",
    48: "sprinkler",
    49: "flood",
    51: "latching tamper",
    52: "24 h non-alarm",
    53: "quick bypass",
    56: "high temperature",
    57: "low temperature",
    60: "non-latching tamper",
    66: "momentary key arm",
    67: "maintained key arm",
    68: "momentary key disarm",
    69: "maintained key disarm",
    71: "door bell",
}
"""What ``[001][zone]`` says a zone is. Section 10.8."""
UNUSED: Final = 0
"""The definition of a zone that is not there."""


def mode_words(mode: int) -> str:
    """Return the name of an arming mode, ``mode 10`` for one without."""
    return MODES.get(mode, f"mode {mode}")


def method_words(method: int) -> str:
    """Return by what a partition was armed or disarmed."""
    return METHODS.get(method, f"method {method}")


def response_words(code: int, word: int = 0) -> str:
    """Return what the response ``code`` means, to the command ``word`` if it matters."""
    return _RESPONSES_TO.get((word, code)) or _RESPONSES.get(code, f"the panel refuses with code {code}")


def nack_words(code: int) -> str:
    """Return why the communicator refused."""
    return _NACKS.get(code, f"the communicator refuses with code {code}")


def definition_words(definition: int) -> str:
    """Return what a zone is."""
    return DEFINITIONS.get(definition, f"definition {definition}")


def version_words(version: int) -> str:
    """Return a version as people write it: its hex digits, 0x0543 is 5.43. Section 7.1."""
    return f"{version >> 8:x}.{version & 0xFF:02x}"
