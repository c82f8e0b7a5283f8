"""What a zone's definition says about the thing that it watches, in the words of Home Assistant's binary sensors.

Source: itv2-protocol.md section 10.8; Home Assistant, "Binary sensor", device classes.
"""

from __future__ import annotations

from typing import Final

UNUSED: Final = 0
"""The definition of a zone that the installer has not put to use."""

DEFAULT: Final = "opening"

_BY_CLASS: Final = {
    "door": (1, 2, 6),
    "window": (3, 9),
    "motion": (4, 5, 10, 12),
    "smoke": (7, 8, 25, 27),
    "heat": (45, 56),
    "cold": (57,),
    "gas": (40,),
    "carbon_monoxide": (41,),
    "moisture": (48, 49),
    "safety": (42, 43, 46, 47),
    "tamper": (51, 60),
    "problem": (23, 24),
}
_BY_DEFINITION: Final = {number: name for name, numbers in _BY_CLASS.items() for number in numbers}

CLASSES: Final = (*_BY_CLASS, DEFAULT)
"""Every class that a definition can lead to."""


def device_class_of(definition: int | None) -> str:
    """Return the device class of a zone with this definition; ``opening`` where that says nothing."""
    return _BY_DEFINITION.get(definition or UNUSED, DEFAULT)
