"""A panel as Home Assistant's entities: one retained message for each, below ``<discovery_prefix>/<component>/``.

Single-component discovery and not one message for the whole device: a new label then costs one small message instead of
some hundred KiB, and every version of Home Assistant since 2023.8 (and who else reads these messages) takes it.

Source: Home Assistant, "MQTT": MQTT discovery, and the pages of the components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from sojourn import __version__
from sojourn.gateways.itv2.device_class import device_class_of
from sojourn.gateways.itv2.events import KINDS
from sojourn.gateways.itv2.mqtt.bodies import is_enabled, is_used
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.topics import OFFLINE, ONLINE, Topics
from sojourn.gateways.itv2.panels import Panel
from sojourn.gateways.itv2.state import Value
from sojourn.gateways.itv2.views import Phase

ORIGIN: Final = "Sojourn"
"""Who made an entity; only what bears this name is ever taken back."""

_D: Final = "diagnostic"
_PHASES: Final = list(Phase.__args__)  # type: ignore[attr-defined]  # a Literal's values
_COMMAND_TEMPLATE: Final = "{{ {'action': action, 'code': code} | to_json }}"
"""The code goes into JSON as it was typed, whatever it holds. Source: MQTT alarm control panel, command_template."""

_ON_OFF: Final = {"payload_on": "True", "payload_off": "False"}
"""A template shows JSON's true and false in Python's words."""

_ZONE_SENSORS: Final = (
    ("alarm", "alarm", "safety", None),
    ("tamper", "tamper", "tamper", _D),
    ("fault", "fault", "problem", _D),
    ("low_battery", "battery", "battery", _D),
)
"""Field, name behind the zone's, device class, category."""

_PARTITION_SENSORS: Final = (
    ("trouble", "trouble", "problem", _D),
    ("alarm_memory", "alarm memory", "safety", None),
    ("bypass", "zones bypassed", None, None),
)

_ZONE_ATTRIBUTES: Final = ("number", "alarm_memory", "delinquency", "partitions", "since_ms", "is_stale")
_PARTITION_ATTRIBUTES: Final = (
    "number",
    "mode",
    "ready",
    "changed_by",
    "alarm_zones",
    "exit_delay_until_ms",
    "entry_delay_until_ms",
    "chime",
    "is_stale",
)

_encode = msgspec.json.Encoder().encode


class Entity(NamedTuple):
    """One entity: where it is announced, and as what."""

    topic: str
    config: dict[str, Any]

    def body(self) -> bytes:
        """Return the message."""
        return _encode(self.config)


class Discovery:
    """Makes the entities of panels.

    Args:
        settings: of MQTT.
        topics: where everything is.
        device_class: a zone's device class by panel name and number that the operator chose; empty = by definition.
    """

    def __init__(
        self, settings: MqttSettings, topics: Topics, device_class: Callable[[str, int], str]
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._device_class = device_class
        self._has_bypass_switches = settings.may_use_default_code and "bypass" in settings.allow

    def entities(self, panel: Panel) -> Iterator[Entity]:
        """Yield every entity of a panel as it is configured now."""
        make = _Maker(self._settings, self._topics, panel)
        yield from self._panel(make)
        for number, partition in sorted(panel.state.partitions.items()):
            if is_enabled(partition):
                label = _label(partition.label, f"Partition {number}")
                yield from self._partition(make, number, label)
        for number, zone in sorted(panel.state.zones.items()):
            if is_used(zone):
                definition = None if zone.definition is None else zone.definition.value
                chosen = self._device_class(panel.name, number)
                kind = chosen or device_class_of(definition)
                yield from self._zone(make, number, _label(zone.label, f"Zone {number}"), kind)

    def _panel(self, make: _Maker) -> Iterator[Entity]:
        topic = self._topics.panel(make.panel.name)
        yield make.flag(topic, "trouble", "trouble", "Trouble", device_class="problem", category=_D)
        yield make.flag(
            topic,
            "is_connected",
            "connected",
            "Connection",
            device_class="connectivity",
            category=_D,
            is_always=True,
        )
        yield make.flag(
            topic, "is_stale", "stale", "State outdated", device_class="problem", category=_D, is_always=True
        )
        yield make.value(
            topic,
            "phase",
            "phase",
            "Phase",
            is_always=True,
            device_class="enum",
            options=_PHASES,
            json_attributes_topic=topic,
            json_attributes_template=_attributes(("diagnosis", "connected_since")),
        )
        yield make.value(
            topic, "last_heard", "last_heard", "Last heard", is_always=True, device_class="timestamp"
        )
        yield make.value(topic, "firmware", "firmware", "Firmware", is_always=True)
        yield make.value(
            topic,
            "clock_drift_s",
            "clock_drift",
            "Clock drift",
            device_class="duration",
            unit_of_measurement="s",
        )
        yield make.entity(
            "event",
            "event",
            name="Event",
            state_topic=self._topics.event(make.panel.name),
            event_types=list(KINDS),
        )

    def _partition(self, make: _Maker, number: int, label: str) -> Iterator[Entity]:
        topic = self._topics.partition(make.panel.name, number)
        key = f"partition_{number}"
        yield make.entity("alarm_control_panel", key, **self._keypad(make, number, label, topic))
        for field, words, kind, category in _PARTITION_SENSORS:
            yield make.flag(
                topic, field, f"{key}_{field}", f"{label} {words}", device_class=kind, category=category
            )
        yield make.value(
            topic,
            "ready",
            f"{key}_ready",
            f"{label} ready",
            category=None,
            device_class="enum",
            options=["ready", "force", "not_ready"],
        )

    def _keypad(self, make: _Maker, number: int, label: str, topic: str) -> dict[str, Any]:
        settings = self._settings
        can_arm = "arm" in settings.allow
        is_code_asked = settings.arming_needs_code or not settings.may_use_default_code
        return {
            "name": label,
            "state_topic": topic,
            "value_template": "{{ value_json.state }}",
            "command_topic": self._topics.partition_command(make.panel.name, number),
            "command_template": _COMMAND_TEMPLATE,
            "supported_features": ["arm_home", "arm_away", "arm_night"] if can_arm else [],
            # REMOTE_CODE: Home Assistant asks for digits and passes them on; it knows no code itself.
            **({"code": "REMOTE_CODE"} if is_code_asked else {}),
            "code_arm_required": settings.arming_needs_code,
            "code_disarm_required": not settings.may_use_default_code,
            "retain": False,
            "json_attributes_topic": topic,
            "json_attributes_template": _attributes(_PARTITION_ATTRIBUTES),
        }

    def _zone(self, make: _Maker, number: int, label: str, device_class: str) -> Iterator[Entity]:
        topic = self._topics.zone(make.panel.name, number)
        key = f"zone_{number}"
        yield make.flag(
            topic,
            "open",
            key,
            label,
            device_class=device_class,
            json_attributes_topic=topic,
            json_attributes_template=_attributes(_ZONE_ATTRIBUTES),
        )
        for field, words, kind, category in _ZONE_SENSORS:
            yield make.flag(
                topic, field, f"{key}_{field}", f"{label} {words}", device_class=kind, category=category
            )
        if not self._has_bypass_switches:
            yield make.flag(topic, "bypassed", f"{key}_bypassed", f"{label} bypassed")
            return
        yield make.entity(
            "switch",
            f"{key}_bypass",
            name=f"{label} bypass",
            state_topic=topic,
            value_template="{{ value_json.bypassed }}",
            state_on="True",
            state_off="False",
            command_topic=self._topics.bypass_command(make.panel.name, number),
            payload_on="ON",
            payload_off="OFF",
            retain=False,
            entity_category="config",
        )


class _Maker:
    """Makes entities of one panel: all that they have in common is here."""

    def __init__(self, settings: MqttSettings, topics: Topics, panel: Panel) -> None:
        self.panel = panel
        self._topics = topics
        self._device = topics.node_of(panel.name)
        firmware = panel.state.firmware
        self._gateway_only = [_available_at(topics.status)]
        self._common = {
            "availability": [*self._gateway_only, _available_at(topics.availability(panel.name))],
            "availability_mode": "all",
            "qos": settings.qos,
            "device": {
                "identifiers": [self._device],
                "name": panel.name,
                "manufacturer": "DSC",
                "model": "PowerSeries Neo",
                **({} if firmware is None else {"sw_version": firmware.value}),
            },
            "origin": {"name": ORIGIN, "sw_version": __version__},
        }

    def entity(self, component: str, key: str, *, is_always: bool = False, **config: Any) -> Entity:
        """Make one; ``is_always``: it is available without the panel."""
        whole = {**self._common, "unique_id": f"{self._device}_{key}", **config}
        if is_always:
            whole["availability"] = self._gateway_only
        return Entity(self._topics.config(component, self.panel.name, key), whole)

    def flag(
        self,
        topic: str,
        field: str,
        key: str,
        name: str,
        *,
        device_class: str | None = None,
        category: str | None = None,
        is_always: bool = False,
        **config: Any,
    ) -> Entity:
        """Make a binary sensor of a value that is true, false or null."""
        extra = {"device_class": device_class, "entity_category": category}
        return self.entity(
            "binary_sensor",
            key,
            is_always=is_always,
            name=name,
            state_topic=topic,
            value_template=f"{{{{ value_json.{field} }}}}",
            **_ON_OFF,
            **{key: value for key, value in extra.items() if value is not None},
            **config,
        )

    def value(
        self,
        topic: str,
        field: str,
        key: str,
        name: str,
        *,
        category: str | None = _D,
        is_always: bool = False,
        **config: Any,
    ) -> Entity:
        """Make a sensor of a value."""
        return self.entity(
            "sensor",
            key,
            is_always=is_always,
            name=name,
            state_topic=topic,
            value_template=f"{{{{ value_json.{field} }}}}",
            **({} if category is None else {"entity_category": category}),
            **config,
        )


def _available_at(topic: str) -> dict[str, str]:
    return {"topic": topic, "payload_available": ONLINE, "payload_not_available": OFFLINE}


def _label(value: Value[str] | None, otherwise: str) -> str:
    return value.value if value is not None and value.value else otherwise


def _attributes(names: tuple[str, ...]) -> str:
    """Return a template of some values; all of them would fill the recorder of Home Assistant."""
    pairs = ", ".join(f"'{name}': value_json.{name}" for name in names)
    return f"{{{{ {{{pairs}}} | to_json }}}}"


def is_ours(payload: bytes) -> bool:
    """Say whether an announcement was made by us, in whatever run; other programs announce entities too."""
    try:
        config = msgspec.json.decode(payload, type=_Config)
    except msgspec.DecodeError:
        return False
    return config.origin is not None and config.origin.name == ORIGIN


class _Origin(msgspec.Struct, frozen=True):
    name: str = ""


class _Config(msgspec.Struct, frozen=True):
    origin: _Origin | None = None
