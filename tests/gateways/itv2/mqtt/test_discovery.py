"""Entities as Home Assistant documents them: no key that it does not know, none missing that it needs."""

from __future__ import annotations

import json
import re

import pytest
from home_assistant import ALARM_STATES, faults
from mqtt_lab import LabPanel, value

from sojourn.gateways.itv2.events import KINDS
from sojourn.gateways.itv2.mqtt.bodies import panel_body, partition_body, zone_body
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.discovery import Discovery, is_ours
from sojourn.gateways.itv2.mqtt.topics import Topics
from sojourn.gateways.itv2.state import Status


def entities(panel, *, device_class=lambda _panel, _zone: "", **more):
    """Return a panel's entities by topic."""
    settings = MqttSettings(url="mqtt://broker", **more)
    topics = Topics(settings.topic_prefix, settings.discovery_prefix)
    found = list(Discovery(settings, topics, device_class).entities(panel))
    assert len({entity.topic for entity in found}) == len(found)
    assert len({entity.config["unique_id"] for entity in found}) == len(found)
    return {entity.topic: json.loads(entity.body()) for entity in found}


def config(panel, component, key, **more):
    """Return one entity."""
    return entities(panel, **more)[f"homeassistant/{component}/sojourn_house/{key}/config"]


@pytest.fixture
def panel():
    return LabPanel("house", zones=3)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"may_use_default_code": True},
        {"arming_needs_code": True},
        {"allow": ()},
        {"topic_prefix": "a/b", "qos": 2},
    ],
)
def test_every_entity_is_as_documented(panel, more):
    """Home Assistant drops an entity with an unknown key or a missing one, and says so in its log only."""
    found = entities(panel, **more)
    assert [fault for topic, one in found.items() for fault in faults(topic, one)] == []


def test_there_is_an_alarm_panel_per_partition_and_a_sensor_per_zone(panel):
    """With their labels; the panel's name is the device's, which Home Assistant puts before them."""
    panel.state.zones[2].definition = value(5)
    panel.state.zones[3].label = None
    assert config(panel, "alarm_control_panel", "partition_1")["name"] == "House"
    assert config(panel, "binary_sensor", "zone_1")["device_class"] == "door"
    assert config(panel, "binary_sensor", "zone_2")["device_class"] == "motion"
    assert config(panel, "binary_sensor", "zone_3")["name"] == "Zone 3"
    for field in ("alarm", "tamper", "fault", "low_battery"):
        assert (
            config(panel, "binary_sensor", f"zone_1_{field}")["value_template"]
            == f"{{{{ value_json.{field} }}}}"
        )
    assert config(panel, "event", "event")["event_types"] == list(KINDS)


def test_the_operator_may_choose_another_device_class(panel):
    """What the panel calls a door may be a garage's."""
    chosen = config(
        panel, "binary_sensor", "zone_1", device_class=lambda _panel, zone: "garage_door" if zone == 1 else ""
    )
    assert chosen["device_class"] == "garage_door"


def test_zones_and_partitions_that_are_not_used_are_not_announced(panel):
    """128 zones that nobody wired would bury the four that somebody did."""
    panel.state.zones[2].definition = value(0)
    panel.state.partitions[1].is_enabled = value(False)
    found = entities(panel)
    assert not [topic for topic in found if "zone_2" in topic or "partition_1" in topic]
    assert zone_body(panel, 2) == partition_body(panel, 1) == b""


def test_bypass_is_a_switch_only_where_no_code_is_needed(panel):
    """A switch of Home Assistant has no place to type one."""
    assert config(panel, "binary_sensor", "zone_1_bypassed")
    switch = config(panel, "switch", "zone_1_bypass", may_use_default_code=True)
    assert switch["command_topic"] == "sojourn/house/zone/1/bypass/set"
    assert "homeassistant/switch/sojourn_house/zone_1_bypass/config" not in entities(
        panel, may_use_default_code=True, allow=("arm",)
    )


@pytest.mark.parametrize(
    ("more", "is_asked", "for_arming", "for_disarming"),
    [
        ({}, True, False, True),
        ({"arming_needs_code": True}, True, True, True),
        ({"may_use_default_code": True}, False, False, False),
        ({"may_use_default_code": True, "arming_needs_code": True}, True, True, False),
    ],
)
def test_home_assistant_asks_for_a_code_where_we_do(panel, more, is_asked, for_arming, for_disarming):
    """MQTT alarm control panel: REMOTE_CODE asks for digits and leaves checking them to us."""
    keypad = config(panel, "alarm_control_panel", "partition_1", **more)
    assert (keypad.get("code") == "REMOTE_CODE") is is_asked
    assert keypad["code_arm_required"] is for_arming
    assert keypad["code_disarm_required"] is for_disarming
    assert keypad["supported_features"] == ["arm_home", "arm_away", "arm_night"]


def test_what_needs_the_panel_is_unavailable_without_it_and_diagnostics_are_not(panel):
    """Availability lists with mode all: the gateway's status, and the panel's."""
    needs = config(panel, "binary_sensor", "zone_1")
    assert [one["topic"] for one in needs["availability"]] == ["sojourn/status", "sojourn/house/availability"]
    assert needs["availability_mode"] == "all"
    for component, key in (("sensor", "phase"), ("sensor", "last_heard"), ("binary_sensor", "stale")):
        assert [one["topic"] for one in config(panel, component, key)["availability"]] == ["sojourn/status"]


def test_templates_name_only_what_the_bodies_have(panel):
    """A template of a key that is not there shows nothing, and warns at every message."""
    bodies = {
        "sojourn/house/zone/1": json.loads(zone_body(panel, 1)),
        "sojourn/house/partition/1": json.loads(partition_body(panel, 1)),
        "sojourn/house/panel": json.loads(panel_body(panel)),
    }
    named = set()
    for one in entities(panel, may_use_default_code=True).values():
        for template, topic in (
            ("value_template", "state_topic"),
            ("json_attributes_template", "json_attributes_topic"),
        ):
            for key in re.findall(r"value_json\.(\w+)", one.get(template, "")):
                if one[topic] in bodies:
                    assert key in bodies[one[topic]], (one["name"], key)
                    named.add(key)
    assert {"open", "state", "phase", "bypassed", "alarm_zones", "changed_by"} <= named


def test_every_status_but_unknown_is_a_state_of_home_assistant(panel):
    """An unknown one is null, which Home Assistant shows as unknown."""
    for status in (one for name, one in vars(Status).items() if name.isupper()):
        panel.state.partitions[1].status = value(status)
        state = json.loads(partition_body(panel, 1))["state"]
        assert state in ALARM_STATES or (state is None and status == Status.UNKNOWN)


def test_only_what_we_announced_is_ours_to_take_back(panel):
    """Other programs announce entities too, some even below our node."""
    discovery = Discovery(MqttSettings(url="mqtt://b"), Topics("sojourn", "homeassistant"), lambda *_: "")
    assert all(is_ours(entity.body()) for entity in discovery.entities(panel))
    for other in (b"", b"{}", b"no JSON", b'{"origin":{"name":"zigbee2mqtt"}}'):
        assert not is_ours(other)


def test_all_that_the_broker_may_hold_of_a_panel_is_asked_for(panel):
    """A component that is forgotten there would leave entities behind."""
    topics = Topics("a/b", "homeassistant")
    wanted = [pattern for patterns in topics.kept_of("house") for pattern in patterns]
    for topic in (*entities(panel, topic_prefix="a/b"), topics.zone("house", 1), topics.panel("house")):
        assert any(re.fullmatch(one.replace("+", "[^/]+"), topic) for one in wanted), topic
    assert topics.config_of(topics.config("sensor", "house_2", "phase")) == "house_2"
    assert topics.config_of("homeassistant/sensor/other_house/phase/config") == ""
