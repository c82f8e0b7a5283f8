"""Messages on command topics: what they may ask for, what needs a code, and that none is ever shown."""

from __future__ import annotations

import pytest
from mqtt_lab import LabPanel, value

from sojourn.core.secret import Secret
from sojourn.gateways.itv2.commands import (
    ArmPartition,
    BypassAndArm,
    BypassZones,
    ClearBypasses,
    DisarmPartition,
    Refresh,
)
from sojourn.gateways.itv2.mqtt import asks
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.topics import Target, Topics

CODE = Secret("4711")
PARTITION = Target("house", "partition", 1)
ZONE = Target("house", "zone", 2)
PANEL = Target("house", "panel")


def ask(payload, target=PARTITION, panel=None, **more):
    """Return the command that a message leads to."""
    settings = MqttSettings(url="mqtt://broker", **more)
    read = asks.read(payload.encode(), settings.command_bytes)
    return asks.command(read, target, panel or LabPanel("house"), settings)


@pytest.mark.parametrize(
    ("payload", "target", "wanted"),
    [
        ("ARM_AWAY", PARTITION, ArmPartition(1, 2)),
        ('{"action":"ARM_HOME"}', PARTITION, ArmPartition(1, 1)),
        ('{"action":"ARM_NIGHT","code":null}', PARTITION, ArmPartition(1, 4)),
        ('{"action":"ARM_NIGHT","code":"None"}', PARTITION, ArmPartition(1, 4)),
        ('{"action":"ARM_AWAY_NO_ENTRY","code":""}', PARTITION, ArmPartition(1, 8)),
        ('{"action":"ARM_AWAY","code":"4711"}', PARTITION, ArmPartition(1, 2, CODE)),
        ('{"action":"DISARM","code":"4711"}', PARTITION, DisarmPartition(1, CODE)),
        ('{"action":"DISARM","code":4711}', PARTITION, DisarmPartition(1, CODE)),
        ('{"action":"CLEAR_BYPASSES","code":"4711"}', PARTITION, ClearBypasses(1, CODE)),
        ('{"action":"ARM_AWAY","zones":[2],"code":"4711"}', PARTITION, BypassAndArm(1, 2, (2,), CODE)),
        ('{"action":"ARM_AWAY","zones":[],"code":"4711"}', PARTITION, BypassAndArm(1, 2, (), CODE)),
        ('{"action":"ON","code":"4711"}', ZONE, BypassZones(1, (2,), is_bypassed=True, code=CODE)),
        (
            '{"action":"OFF","code":"4711","partition":3}',
            ZONE,
            BypassZones(3, (2,), is_bypassed=False, code=CODE),
        ),
        ("REFRESH", PANEL, Refresh()),
    ],
)
def test_a_message_leads_to_a_command(payload, target, wanted):
    """The actions are Home Assistant's, and ours beside them."""
    assert ask(payload, target) == wanted


@pytest.mark.parametrize(
    ("payload", "target", "more", "reason"),
    [
        ("DISARM", PARTITION, {}, "a code is needed"),
        ('{"action":"DISARM","code":null}', PARTITION, {}, "a code is needed"),
        ("ON", ZONE, {}, "a code is needed"),
        ("CLEAR_BYPASSES", PARTITION, {}, "a code is needed"),
        ('{"action":"ARM_AWAY","zones":[2]}', PARTITION, {}, "a code is needed"),
        ("ARM_AWAY", PARTITION, {"arming_needs_code": True}, "a code is needed"),
        ('{"action":"DISARM","code":"4711"}', PARTITION, {"allow": ("arm",)}, "disarm is not in allow"),
        ("ON", ZONE, {"allow": ("arm",)}, "bypass is not in allow"),
        ("ARM_AWAY", PARTITION, {"allow": ()}, "arm is not in allow"),
        ('{"action":"DISARM","code":"47110"}', PARTITION, {}, "4, 6 or 8 digits"),
        ('{"action":"DISARM","code":"47a1"}', PARTITION, {}, "4, 6 or 8 digits"),
        ("OPEN_THE_DOOR", PARTITION, {}, "wanted one of ARM_AWAY"),
        ("DISARM", ZONE, {}, "wanted one of ON, OFF"),
        ("4711", PARTITION, {}, "wanted an action"),
        ("", PARTITION, {}, "wanted an action"),
        ('{"action":"DISARM","code":"47114711471147114711"}', PARTITION, {}, "wanted JSON"),
        ('{"action":"DISARM","code":["4711"]}', PARTITION, {}, "wanted JSON"),
        ('{"action":"DISARM","code":"4711"', PARTITION, {}, "wanted JSON"),
        ('{"action":"DISARM","request_id":"no spaces"}', PARTITION, {}, "wanted JSON"),
        ('{"action":"ARM_AWAY"' + " " * 3000 + "}", PARTITION, {}, "longer than 2048 bytes"),
    ],
)
def test_what_leads_to_none_is_refused_in_words_that_hold_nothing_of_it(payload, target, more, reason):
    """The reason goes to a topic that anybody may read."""
    with pytest.raises(asks.RefusedError, match=reason) as caught:
        ask(payload, target, **more)
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "payload", ["DISARM", '{"action":"CLEAR_BYPASSES"}', '{"action":"ARM_HOME","zones":[]}']
)
def test_the_default_code_stands_in_only_where_the_operator_said_so(payload):
    """Who may publish at the broker can then switch the alarm off."""
    assert ask(payload, may_use_default_code=True).code is None
    with pytest.raises(asks.RefusedError):
        ask(payload)


def test_a_zone_is_bypassed_in_a_partition_of_its_own():
    """Bypassing goes by partition: itv2-protocol.md section 12."""
    panel = LabPanel("house")
    panel.state.zones[2].partitions = value((3, 4))
    assert ask('{"action":"ON","code":"4711"}', ZONE, panel).partition == 3


def test_what_a_result_says_of_its_command_is_not_the_code():
    """Nor a word of the sender's that is no action."""
    read = asks.read(b'{"action":"DISARM","code":"4711"}', 100)
    assert asks.asked(read, PARTITION) == {"action": "DISARM", "partition": 1}
    assert asks.asked(asks.Ask("4711 4711"), ZONE) == {"action": None, "zone": 2}
    assert "4711" not in repr(ask('{"action":"DISARM","code":"4711"}'))


@pytest.mark.parametrize(
    ("topic", "wanted"),
    [
        ("a/b/house/set", Target("house", "panel")),
        ("a/b/house/partition/2/set", Target("house", "partition", 2)),
        ("a/b/house/zone/12/bypass/set", Target("house", "zone", 12)),
        ("a/b/house/zone/12/set", None),
        ("a/b/house/partition/two/set", None),
        ("a/house/set", None),
        ("house/set", None),
        ("x/a/b/house/set", None),
    ],
)
def test_a_topic_names_what_is_commanded(topic, wanted):
    """A prefix may have several levels."""
    assert Topics("a/b", "homeassistant").target(topic) == wanted
