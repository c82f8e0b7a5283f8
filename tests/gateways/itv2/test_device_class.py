"""What a zone's definition says of the thing that it watches: itv2-protocol.md section 10.8."""

from __future__ import annotations

import pytest

from sojourn.gateways.itv2.device_class import CLASSES, device_class_of

HOME_ASSISTANT = {
    "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door", "garage_door", "gas", "heat",
    "light", "lock", "moisture", "motion", "moving", "occupancy", "opening", "plug", "power", "presence", "problem",
    "running", "safety", "smoke", "sound", "tamper", "update", "vibration", "window",
}  # fmt: skip
"""Source: Home Assistant, "Binary sensor", device class."""


def test_every_class_is_one_of_home_assistants():
    """Home Assistant refuses an entity with another."""
    assert set(CLASSES) <= HOME_ASSISTANT


@pytest.mark.parametrize(
    ("definition", "wanted"),
    [
        (1, "door"),
        (3, "window"),
        (5, "motion"),
        (8, "smoke"),
        (41, "carbon_monoxide"),
        (49, "moisture"),
        (57, "cold"),
    ],
)
def test_a_definition_says_what_the_zone_watches(definition, wanted):
    """Section 10.8, the last paragraph."""
    assert device_class_of(definition) == wanted


@pytest.mark.parametrize("definition", [None, 0, 17, 66, 255])
def test_what_says_nothing_is_an_opening(definition):
    """A door would be a guess; an opening is true of every loop."""
    assert device_class_of(definition) == "opening"
