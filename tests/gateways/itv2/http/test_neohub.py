"""NeoHub's messages, field by field: what its Home Assistant integration is written for.

Source: itv2-users-and-history.md section 2 and, for bug 20 there, the discriminator in every message.
"""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import pytest
from core_lab import until
from itv2_api_lab import CODE, HOUSE_ID, SHED_ID, api, http_settings, word
from itv2_hub_lab import ARMED_AWAY, IN_ALARM

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Rejected, UnknownOutcome
from sojourn.gateways.itv2.http import neohub

PATH = "/api/ws"
STATUSES = {
    "unknown",
    "disarmed",
    "armed_away",
    "armed_home",
    "armed_night",
    "arming",
    "pending",
    "triggered",
}


def test_the_full_state_has_neohubs_fields_and_no_others(run, tmp_path):
    """``full_state``: sessions, partitions, zones; the session's id is the Integration ID."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("ana", PATH) as talk:
                state = await talk.hear()
                assert list(state) == ["type", "sessions"]
                assert state["type"] == "full_state"
                house, shed = state["sessions"]
                assert house == {
                    "session_id": HOUSE_ID,
                    "name": "house",
                    "partitions": [{"partition_number": 1, "name": "House", "status": "disarmed"}],
                    "zones": [
                        {
                            "zone_number": number,
                            "name": name,
                            "device_class": device_class,
                            "open": False,
                            "bypassed": False,
                            "partitions": [1],
                        }
                        for number, name, device_class in (
                            (1, "Front Door", "door"),
                            (2, "Hall", "door"),
                            (3, "Kitchen", "motion"),
                        )
                    ],
                }
                assert (shed["session_id"], shed["partitions"], shed["zones"]) == (SHED_ID, [], [])

    run(go())


def test_it_is_sent_again_when_asked_for(run, tmp_path):
    """The integration asks right after it has connected."""

    async def go():
        async with api(tmp_path) as lab, lab.link("ana", PATH) as talk:
            first = await talk.hear()
            await talk.say(type="get_full_state")
            assert await talk.hear() == first

    run(go())


def test_a_zone_is_told_with_open_and_bypassed(run, tmp_path):
    """``zone_update``."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("ana", PATH) as talk:
                await talk.hear("full_state")
                lab.panel.take(m.ZoneLifestyle(zone=2, state=1), "live", lab.gateway.wall_ms())
                update = await talk.hear("zone_update")
                assert list(update.items()) == [
                    ("type", "zone_update"),
                    ("session_id", HOUSE_ID),
                    ("zone_number", 2),
                    ("open", True),
                    ("bypassed", False),
                ]

    run(go())


def test_an_alarm_is_told_as_triggered(run, tmp_path):
    """``partition_update``; alarms are live here, the gravest gap of NeoHub (section 1)."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("ana", PATH) as talk:
                await talk.hear("full_state")
                lab.panel.take(
                    m.PartitionStatus(partition=1, status=ARMED_AWAY), "live", lab.gateway.wall_ms()
                )
                update = await talk.hear("partition_update")
                assert list(update.items()) == [
                    ("type", "partition_update"),
                    ("session_id", HOUSE_ID),
                    ("partition_number", 1),
                    ("status", "armed_away"),
                ]
                lab.panel.take(m.PartitionStatus(partition=1, status=IN_ALARM), "live", lab.gateway.wall_ms())
                assert (await talk.hear("partition_update"))["status"] == "triggered"

    run(go())


def test_a_panel_that_is_lost_is_unknown_and_stays(run, tmp_path):
    """Faults 28 and 32 of section 4: entities do not vanish, and no old status passes for the present one."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("ana", PATH) as talk:
                await talk.hear("full_state")
                lab.panel.lost("the line is cut")
                house = (await talk.hear("full_state"))["sessions"][0]
                assert [one["status"] for one in house["partitions"]] == ["unknown"]
                assert len(house["zones"]) == 3
                await lab.connect()
                while (await talk.hear("full_state"))["sessions"][0]["partitions"][0]["status"] != "disarmed":
                    pass

    run(go())


@pytest.mark.parametrize(
    ("kind", "mode"), [("arm_away", 2), ("arm_home", 1), ("arm_night", 4)], ids=["away", "home", "night"]
)
def test_arming_is_carried_out_and_not_answered(run, tmp_path, kind, mode):
    """``arm_*``: a code of null is the default code; success has no answer."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            async with lab.link("ana", PATH) as talk:
                await talk.hear("full_state")
                await talk.say(type=kind, session_id=HOUSE_ID, partition_number=1, code=None)
                await until(lambda: session.of(m.Arm))
                (arm,) = session.of(m.Arm)
                assert (arm.partition, arm.mode, arm.code) == (1, mode, CODE)
                await talk.say(type="get_full_state")
                assert (await talk.hear())["type"] == "full_state"

    run(go())


def test_disarming_takes_the_code_that_was_typed(run, tmp_path):
    """``disarm``."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            async with lab.link("ana", PATH) as talk:
                await talk.say(type="disarm", session_id=HOUSE_ID, partition_number=1, code="1234")
                await until(lambda: session.of(m.Disarm))
                assert session.of(m.Disarm)[0].code == "1234"

    run(go())


def test_a_zone_is_bypassed(run, tmp_path):
    """``bypass_zone`` enters programming, writes, and leaves; here the panel does not let us in."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            session.refuse[m.Word.ENTER_CONFIGURATION] = [Rejected(17)]
            async with lab.link("ana", PATH) as talk:
                await talk.say(
                    type="bypass_zone",
                    session_id=HOUSE_ID,
                    partition_number=1,
                    zone_number=2,
                    bypass=True,
                    code=CODE,
                )
                error = await talk.hear("error")
                assert error["message"].startswith("wrong access code")
            assert session.of(m.EnterConfiguration)

    run(go())


ARM = {"type": "arm_away", "session_id": HOUSE_ID, "partition_number": 1, "code": None}


@pytest.mark.parametrize(
    ("sent", "pattern"),
    [
        ("nonsense", "Invalid JSON"),
        ("null", "Invalid message"),
        ('{"type":"explode"}', "Unknown message type"),
        ('{"type":"arm_away"}', "Invalid message"),
        (json.dumps({**ARM, "session_id": "000000000000"}), "Session not found"),
        (json.dumps({**ARM, "code": "12345"}), "4, 6 or 8 digits"),
        (json.dumps({**ARM, "partition_number": 300, "code": "123456"}), "Invalid message"),
    ],
)
def test_what_comes_to_nothing_is_an_error(run, tmp_path, sent, pattern):
    """``error`` has a message and nothing else, and never what was sent (fault 29: it was logged with the code)."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("ana", PATH) as talk:
                await talk.hear("full_state")
                await talk.ws.send_str(sent)
                error = await talk.hear("error")
                assert list(error) == ["type", "message"]
                assert re.search(pattern, error["message"])
                assert "12345" not in error["message"]

    run(go())


def test_a_command_that_fails_is_an_error_in_words(run, tmp_path):
    """Rejected with the panel's reason; unknown outcomes are said to be unknown."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            session.refuse[m.Word.ARM] = [Rejected(4), UnknownOutcome("no answer within 30 s")]
            async with lab.link("ana", PATH) as talk:
                await talk.say(**ARM)
                assert (await talk.hear("error"))["message"].startswith("not ready")
                await talk.say(**ARM)
                assert "Nobody can say" in (await talk.hear("error"))["message"]

    run(go())


def test_a_token_without_the_scope_cannot_disarm(run, tmp_path):
    """NeoHub has no authentication at all (fault 29)."""

    async def go():
        async with api(tmp_path) as lab:
            asked = len((await lab.connect()).asked)
            async with lab.link("guard", PATH) as talk:
                await talk.say(type="disarm", session_id=HOUSE_ID, partition_number=1, code=CODE)
                assert "scope disarm" in (await talk.hear("error"))["message"]
            assert len(lab.house.asked) == asked
            assert lab.events("itv2.api_command_refused")[0]["token"] == "guard"

    run(go())


def test_the_integration_comes_with_its_token_as_it_sends_it(run, tmp_path):
    """``Authorization: Bearer`` and a ping each 30 s; without a token it is refused before the upgrade."""

    async def go():
        async with api(tmp_path) as lab:
            headers = {"Authorization": f"Bearer {word('ana')}"}
            async with lab.http.ws_connect(lab.url + PATH, headers=headers, heartbeat=30) as ws:
                await ws.send_json({"type": "get_full_state"})
                async with asyncio.timeout(5):
                    assert (await ws.receive_json())["type"] == "full_state"
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await lab.http.ws_connect(lab.url + PATH, heartbeat=30)

    run(go())


def test_a_token_of_one_panel_sees_that_one(run, tmp_path):
    """Updates of other panels never reach it."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("shed", PATH) as talk:
                assert [one["name"] for one in (await talk.hear())["sessions"]] == ["shed"]
                lab.panel.take(m.ZoneLifestyle(zone=2, state=1), "live", lab.gateway.wall_ms())
                await talk.say(**ARM)
                assert (await talk.hear())["message"] == "Session not found"

    run(go())


def test_it_can_be_switched_off(run, tmp_path):
    """``neohub = false``."""

    async def go():
        async with api(tmp_path, http_settings(neohub=False)) as lab:
            assert (await lab.ask("GET", PATH, "ana"))[0] == 404

    run(go())


def test_every_message_has_its_discriminator_first():
    """Fault 20 of section 4: without it the integration sees nothing."""
    samples = (
        neohub.FullState(()),
        neohub.PartitionUpdate("1", 1, "disarmed"),
        neohub.ZoneUpdate("1", 1, open=True, bypassed=False),
        neohub.Error("x"),
    )
    for sample in samples:
        found = json.loads(neohub._encode(sample))
        assert next(iter(found)) == "type"
        assert found["type"] == re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(sample).__name__).lower()


def test_statuses_are_neohubs():
    """The integration maps these words; one that it does not know shows as unknown."""
    from sojourn.gateways.itv2.state import Status  # noqa: PLC0415 - used here only

    assert {value for name, value in vars(Status).items() if name.isupper()} == STATUSES
