"""What Home Assistant documents about its MQTT entities: which keys each takes, and which it must have.

Source: home-assistant.io, "MQTT" (discovery payload) and the pages of the MQTT components' configuration variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

DEVICE = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name",
    "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
ORIGIN = {"name", "sw_version", "support_url"}
AVAILABILITY = {"payload_available", "payload_not_available", "topic", "value_template"}
COMMON = {
    "availability", "availability_mode", "availability_template", "availability_topic", "default_entity_id", "device",
    "enabled_by_default", "encoding", "entity_category", "entity_picture", "icon", "json_attributes_template",
    "json_attributes_topic", "name", "origin", "payload_available", "payload_not_available", "platform", "qos",
    "unique_id", "value_template",
}  # fmt: skip


class Component(NamedTuple):
    """One component's keys beside the common ones."""

    required: set[str]
    optional: set[str]
    device_classes: set[str]


COMPONENTS = {
    "alarm_control_panel": Component(
        {"command_topic", "state_topic"},
        {
            "code", "code_arm_required", "code_disarm_required", "code_trigger_required", "command_template",
            "payload_arm_away", "payload_arm_custom_bypass", "payload_arm_home", "payload_arm_night",
            "payload_arm_vacation", "payload_disarm", "payload_trigger", "retain", "supported_features",
        },
        set(),
    ),
    "binary_sensor": Component(
        {"state_topic"},
        {"device_class", "expire_after", "force_update", "off_delay", "payload_off", "payload_on"},
        {
            "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door", "garage_door", "gas",
            "heat", "light", "lock", "moisture", "motion", "moving", "occupancy", "opening", "plug", "power",
            "presence", "problem", "running", "safety", "smoke", "sound", "tamper", "update", "vibration", "window",
        },
    ),
    "switch": Component(
        {"command_topic"},
        {
            "command_template", "device_class", "optimistic", "payload_off", "payload_on", "retain", "state_off",
            "state_on", "state_topic",
        },
        {"outlet", "switch"},
    ),
    "sensor": Component(
        {"state_topic"},
        {
            "device_class", "expire_after", "force_update", "last_reset_value_template", "options", "state_class",
            "suggested_display_precision", "unit_of_measurement",
        },
        {"enum", "timestamp", "duration"},
    ),
    "event": Component({"event_types", "state_topic"}, {"device_class"}, {"button", "doorbell", "motion"}),
}  # fmt: skip

ALARM_STATES = {
    "disarmed", "armed_home", "armed_away", "armed_night", "armed_vacation", "armed_custom_bypass", "pending",
    "triggered", "arming", "disarming",
}  # fmt: skip
ALARM_FEATURES = {"arm_home", "arm_away", "arm_night", "arm_vacation", "arm_custom_bypass", "trigger"}
CATEGORIES = {"config", "diagnostic"}
TOPIC = re.compile(r"homeassistant/(\w+)/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
"""Source: Home Assistant core, mqtt/discovery.py, as the documentation says in words."""


def faults(topic: str, config: dict[str, Any]) -> Iterator[str]:
    """Yield what Home Assistant would refuse, or not understand."""
    match = TOPIC.fullmatch(topic)
    if match is None or match[1] not in COMPONENTS:
        yield f"{topic}: no discovery topic"
        return
    component = COMPONENTS[match[1]]
    keys = set(config)
    for key in sorted(component.required - keys):
        yield f"{topic}: {key} is missing"
    for key in sorted(keys - component.required - component.optional - COMMON):
        yield f"{topic}: {key} is not known"
    yield from (f"{topic}: {fault}" for fault in _values(match[1], component, config))


def _values(name: str, component: Component, config: dict[str, Any]) -> Iterator[str]:
    device, origin = config.get("device", {}), config.get("origin", {})
    if not device.get("identifiers") or set(device) - DEVICE or not config.get("unique_id"):
        yield "device or unique_id"
    if not origin.get("name") or set(origin) - ORIGIN:
        yield "origin"
    for one in config.get("availability", []):
        if set(one) - AVAILABILITY or not one.get("topic"):
            yield "availability"
    if config.get("availability_mode", "latest") not in {"all", "any", "latest"}:
        yield "availability_mode"
    if "device_class" in config and config["device_class"] not in component.device_classes:
        yield f"device_class {config['device_class']}"
    if config.get("entity_category", "diagnostic") not in CATEGORIES:
        yield "entity_category"
    if config.get("entity_category") == "config" and name in {"binary_sensor", "sensor"}:
        yield "entity_category config is not for what cannot be set"
    if config.get("device_class") == "enum" and not config.get("options"):
        yield "an enum without options"
    if set(config.get("supported_features", ())) - ALARM_FEATURES:
        yield "supported_features"
    if config.get("retain", False):
        yield "commands that the broker keeps"
    for key, value in config.items():
        if key.endswith("_topic") and (not value or "+" in value or "#" in value):
            yield f"{key} {value}"
