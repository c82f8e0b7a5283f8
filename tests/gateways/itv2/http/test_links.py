"""The live WebSocket: a snapshot, what is new, commands with their outcomes, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest
from core_lab import until
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from itv2_api_lab import BASE, CODE, TOKENS, api, http_settings, links, token, word
from itv2_hub_lab import ARMED_AWAY

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Rejected
from sojourn.gateways.itv2.http.links import Close

FIELDS = (
    "type",
    "request_id",
    "panel",
    "command",
    "partition",
    "user",
    "body",
    "id",
    "session_id",
    "partition_number",
    "zone_number",
    "bypass",
    "code",
    "mode",
    "zones",
)
TYPES = ("command", "ping", "get_snapshot", "get_full_state", "arm_away", "disarm", "bypass_zone", "else")


def opened(lab, zone, state=1, panel="house"):
    """Let a zone open."""
    message = m.ZoneLifestyle(zone=zone, state=state)
    lab.gateway.hub.panels[panel].take(message, "live", lab.gateway.wall_ms())


def test_a_link_begins_with_everything_and_goes_on_with_what_is_new(run, tmp_path):
    """Snapshot, changes with their age, events with names."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("reader") as talk:
                snapshot = await talk.hear()
                assert (snapshot["type"], [one["name"] for one in snapshot["panels"]]) == (
                    "snapshot",
                    ["house", "shed"],
                )
                opened(lab, 1)
                changes = await talk.hear("changes")
                (change,) = changes["changes"]
                assert (changes["panel"], change["scope"], change["number"], change["field"]) == (
                    "house",
                    "zone",
                    1,
                    "open",
                )
                assert (change["value"]["value"], change["value"]["source"]) == (True, "live")
                events = await talk.hear("events")
                (event,) = events["events"]
                assert (event["kind"], event["zone"], event["detail"]["zone_label"]) == (
                    "zone_opened",
                    1,
                    "Front Door",
                )

    run(go())


def test_modes_are_told_in_words(run, tmp_path):
    """The same words as over REST."""

    async def go():
        async with api(tmp_path) as lab:
            (await lab.connect()).partitions[1] = ARMED_AWAY
            async with lab.link("reader") as talk:
                lab.panel.take(m.Arming(partition=1, mode=2, method=1, user=2), "live", lab.gateway.wall_ms())
                changes = {one["field"]: one["value"] for one in (await talk.hear("changes"))["changes"]}
                assert changes["mode"]["value"] == "away"
                assert changes["changed_by"]["value"]["method"] == "access code"

    run(go())


def test_a_panel_that_is_lost_is_told_as_stale(run, tmp_path):
    """The phase, then everything with is_stale: nobody takes an old value for true."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("reader") as talk:
                await talk.hear("snapshot")
                lab.panel.lost("the line is cut")
                assert (await talk.hear("phase"))["phase"] == "disconnected"
                panel = (await talk.hear("panel"))["panel"]
                assert panel["is_stale"]
                assert panel["partitions"][0]["status"]["is_stale"]

    run(go())


def test_a_panel_that_is_not_configured_any_more_is_gone(run, tmp_path):
    """Clients forget it."""

    async def go():
        async with api(tmp_path) as lab, lab.link("reader") as talk:
            await talk.hear("snapshot")
            lab.gateway.hub.remove("shed")
            assert (await talk.hear("gone"))["panel"] == "shed"

    run(go())


def test_a_command_is_answered_by_its_outcome(run, tmp_path):
    """Accepted and rejected, each with the request id; the same id again gives the first outcome, over REST too."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            session.refuse[m.Word.DISARM] = [Rejected(17)]
            async with lab.link("ana") as talk:
                arm = {
                    "type": "command",
                    "panel": "house",
                    "command": "arm",
                    "partition": 1,
                    "body": {"mode": "away"},
                }
                await talk.say(**arm, request_id="a1")
                outcome = await talk.hear("outcome")
                assert (outcome["request_id"], outcome["result"], outcome["panel"]) == (
                    "a1",
                    "accepted",
                    "house",
                )
                await talk.say(type="command", panel="house", command="disarm", partition=1, request_id="a2")
                outcome = await talk.hear("outcome")
                assert (outcome["request_id"], outcome["result"], outcome["reason"]) == (
                    "a2",
                    "rejected",
                    "wrong access code",
                )
                await lab.ask(
                    "POST",
                    "/panels/house/partitions/1/arm",
                    "ana",
                    json={"mode": "away"},
                    headers={"Idempotency-Key": "a1"},
                )
                assert len(session.of(m.Arm)) == 1

    run(go())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"panel": "barn", "command": "arm", "partition": 1}, "not_found"),
        ({"panel": "house", "command": "explode"}, "invalid"),
        ({"panel": "house", "command": "arm"}, "invalid"),
        ({"panel": "house", "command": "arm", "partition": 99, "body": {"mode": "away"}}, "invalid"),
        (
            {"panel": "house", "command": "arm", "partition": 1, "body": {"mode": "up", "code": CODE}},
            "invalid",
        ),
        ({"panel": "house", "command": "disarm", "partition": 1}, "forbidden"),
        ({"panel": "house", "command": "send_raw", "body": {"word": "0902"}}, "forbidden"),
    ],
)
def test_a_command_that_cannot_be_is_an_error(run, tmp_path, fields, problem):
    """The problem's name as over REST, with the request id, and nothing of what was sent."""

    async def go():
        async with api(tmp_path) as lab:
            asked = len((await lab.connect()).asked)
            async with lab.link("guard") as talk:
                await talk.say(type="command", request_id="r1", **fields)
                error = await talk.hear("error")
                assert (error["problem"], error["request_id"]) == (problem, "r1")
                assert CODE not in json.dumps(error)
            assert len(lab.house.asked) == asked

    run(go())


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"type":"x"}', '{"type":"command"}', "[" * 5_000])
def test_a_message_that_is_none_is_an_error_and_the_link_goes_on(run, tmp_path, text):
    """Bad input gets one clear line."""

    async def go():
        async with api(tmp_path) as lab, lab.link("reader") as talk:
            await talk.ws.send_str(text)
            assert (await talk.hear("error"))["problem"] == "bad_request"
            await talk.say(type="ping", id="7")
            assert (await talk.hear("pong"))["id"] == "7"
            await talk.say(type="get_snapshot")
            await talk.hear("snapshot")

    run(go())


SENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=12,
)


@pytest.mark.parametrize("path", [f"{BASE}/ws", "/api/ws"])
def test_nothing_that_is_sent_breaks_anything(run, tmp_path, path):
    """Whatever JSON comes is a command, an error or nothing; the operator is never told of a bug."""

    async def go(messages):
        bounds = links(messages_per_s=10_000.0, messages_burst_count=10_000)
        async with api(tmp_path, http_settings(links=bounds)) as lab:
            await lab.connect()
            async with lab.link("root", path) as talk:
                for message in messages:
                    await talk.ws.send_str(json.dumps(message))
                await talk.ws.ping()
                await until(lambda: next(iter(lab.api.door.links)).received_count >= len(messages))
            assert not [kind for kind, _ in lab.told if kind.endswith(("failed", "broke"))]

    found = []

    @hypothesis_settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(SENT, st.sampled_from(TYPES))
    def collect(message, kind):
        found.append({**message, "type": kind} if isinstance(message, dict) else message)

    collect()
    run(go(found))


def test_silence_is_broken_by_heartbeats(run, tmp_path):
    """Web pages see no pings."""

    async def go():
        async with (
            api(tmp_path, http_settings(links=links(heartbeat_s=0.05))) as lab,
            lab.link("reader") as talk,
        ):
            assert (await talk.hear("heartbeat"))["at_ms"] > 0

    run(go())


def test_each_change_is_encoded_once_for_all(run, tmp_path, monkeypatch):
    """The cost of a change does not grow with who watches."""
    from sojourn.gateways.itv2.http import frames  # noqa: PLC0415 - to count

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("reader") as one, lab.link("ana") as two, lab.link("shed") as other:
                for talk in (one, two, other):
                    await talk.hear("snapshot")
                made = []
                encode = frames.encode
                monkeypatch.setattr(frames, "encode", lambda frame: made.append(frame) or encode(frame))
                opened(lab, 1)
                assert await one.hear("changes") == await two.hear("changes")
                assert [type(one) for one in made] == [frames.Changes, frames.Events]
                opened(lab, 1, panel="shed")
                assert (await other.hear("changes"))["panel"] == "shed"

    run(go())


def test_a_client_that_takes_nothing_is_closed_and_disturbs_nobody(run, tmp_path):
    """Bounded queue: whoever is too slow comes back for a snapshot."""

    async def go():
        settings = http_settings(links=links(waiting_count=16, waiting_bytes=65_536, close_timeout_s=0.1))
        async with api(tmp_path, settings) as lab:
            await lab.connect()
            async with lab.link("ana") as good:
                await good.hear("snapshot")
                async with lab.link("reader", timeout=aiohttp.ClientWSTimeout(ws_close=0.1)) as slow:
                    await until(lambda: len(lab.api.door.links) == 2)
                    (lagging,) = (one for one in lab.api.door.links if one.holder.name == "reader")
                    slow.ws._response.connection.transport.pause_reading()
                    while not lagging.is_ending:  # the kernel takes some megabytes first
                        lagging.put(b"x" * 60_000)
                        await asyncio.sleep(0)
                    await until(lambda: lagging not in lab.api.door.links)
                    opened(lab, 2)
                    await good.hear("events")

    run(go())


@pytest.mark.parametrize(
    ("settings", "messages", "code"),
    [
        (links(messages_per_s=0.01, messages_burst_count=3), ["{}"] * 5, Close.POLICY),
        (links(message_bytes=256), ["x" * 300], aiohttp.WSCloseCode.MESSAGE_TOO_BIG),
        (links(), [b"binary"], Close.TEXT_ONLY),
    ],
)
def test_a_client_that_breaks_a_bound_is_closed(run, tmp_path, settings, messages, code):
    """RFC 6455 section 7.4.1: the code says which."""

    async def go():
        async with api(tmp_path, http_settings(links=settings)) as lab, lab.link("reader") as talk:
            for message in messages:
                await (talk.ws.send_bytes if isinstance(message, bytes) else talk.ws.send_str)(message)
            assert await talk.end() == code

    run(go())


def test_too_many_commands_at_once_are_refused(run, tmp_path):
    """One client cannot fill a panel's queue."""

    async def go():
        async with api(tmp_path, http_settings(links=links(commands_count=1))) as lab:
            session = await lab.connect()
            session.gate = asyncio.Event()
            async with lab.link("ana") as talk:
                arm = {
                    "type": "command",
                    "panel": "house",
                    "command": "arm",
                    "partition": 1,
                    "body": {"mode": "away"},
                }
                await talk.say(**arm, request_id="1")
                await talk.say(**arm, request_id="2")
                error = await talk.hear("error")
                assert (error["problem"], error["request_id"]) == ("limit", "2")
                session.gate.set()
                assert (await talk.hear("outcome"))["request_id"] == "1"

    run(go())


async def _refused(lab, path=f"{BASE}/ws", **more):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await lab.http.ws_connect(lab.url + path, **more)
    return caught.value.status


def test_nobody_is_let_in_and_closed_afterwards(run, tmp_path):
    """Whoever may not come gets an HTTP answer: no token, a bad one, one in the URL, one without read, an origin."""

    async def go():
        tokens = (*TOKENS, token("armer", "arm"))
        async with api(tmp_path, http_settings(tokens=tokens, links=links(links_count=1))) as lab:
            good = {"Authorization": f"Bearer {word('ana')}"}
            assert await _refused(lab) == 401
            assert await _refused(lab, headers={"Authorization": "Bearer no"}) == 401
            assert await _refused(lab, f"{BASE}/ws?token={word('ana')}") == 400
            assert await _refused(lab, headers={"Authorization": f"Bearer {word('armer')}"}) == 403
            assert await _refused(lab, headers=good, origin="https://evil.example") == 403
            async with lab.link("ana"):
                assert await _refused(lab, headers=good) == 429
            status, problem = await lab.ask("GET", "/ws", "ana")
            assert (status, problem["type"].rpartition(":")[2]) == (400, "bad_request")

    run(go())


def test_a_web_page_comes_with_a_ticket(run, tmp_path):
    """Browsers can send no header: a ticket works once, and as a subprotocol."""

    async def go():
        settings = http_settings(origins=("https://desk.example.net",))
        async with api(tmp_path, settings) as lab:
            _, given = await lab.ask("POST", "/ws-ticket", "reader")
            shown = {
                "protocols": ("itv2.v1", f"ticket.{given['ticket']}"),
                "origin": "https://desk.example.net",
            }
            async with lab.link(None, **shown) as talk:
                assert talk.ws.protocol == "itv2.v1"
                await talk.hear("snapshot")
            assert await _refused(lab, **shown) == 401

    run(go())


def test_a_token_that_is_gone_closes_its_links(run, tmp_path):
    """A reload is in force at once."""

    async def go():
        async with api(tmp_path) as lab, lab.link("reader") as gone, lab.link("ana") as stays:
            await gone.hear("snapshot")
            lab.api.reload(http_settings(tokens=TOKENS[1:]))
            assert await gone.end() == Close.POLICY
            await stays.say(type="ping")
            await stays.hear("pong")

    run(go())


def test_a_server_that_stops_says_so(run, tmp_path):
    """RFC 6455: 1001, so that clients come back."""

    async def go():
        async with api(tmp_path) as lab, lab.link("reader") as talk:
            await talk.hear("snapshot")
            await lab.api.leave(1.0)
            assert await talk.end() == Close.GOING_AWAY

    run(go())


def test_a_drain_does_not_wait_for_links(run, tmp_path):
    """Clients are sent away at once, and the drain is over when they have answered."""

    async def go():
        async with api(tmp_path) as lab, lab.link("reader") as talk:
            await talk.hear("snapshot")
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(lab.server.stop(timeout_s=30))
                assert await talk.end() == Close.GOING_AWAY

    run(go())


def test_an_operator_sees_links_and_can_end_one(run, tmp_path):
    """A link is a session of the core, called by its token and path."""

    async def go():
        async with api(tmp_path) as lab, lab.link("reader") as talk:
            await talk.hear("snapshot")
            (session,) = lab.server.managers["itv2-api"].sessions()
            assert session.about == f"reader {BASE}/ws"
            session.close()
            assert await talk.end() == Close.GOING_AWAY
            await until(lambda: not lab.api.door.links)

    run(go())


def test_a_change_is_heard_within_milliseconds(run, tmp_path):
    """Must show 3: state changes within 200 ms of the panel's packet; the way to a WebSocket is the shorter one."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            async with lab.link("reader") as talk:
                await talk.hear("snapshot")
                began = time.perf_counter()
                opened(lab, 1)
                await talk.hear("changes")
                assert time.perf_counter() - began < 0.2

    run(go())
