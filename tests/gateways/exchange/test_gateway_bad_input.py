"""Frames that a client should not send: each gets a published error or close code, and nobody else notices.

Source: exchange-session-service.md section 5.4; RFC 6455.
"""

from __future__ import annotations

import json

import msgspec
import pytest
from exchange_pod_lab import MSGPACK, PodLab, beside_somebody, joined, new_session, running_postgres, talking

from sojourn.gateways.exchange.link_config import LinkSettings

ORDER = {"symbol": "AAA", "side": "buy", "quantity": 1, "type": "limit", "price": "1.5", "tif": "gtc"}


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


BAD_FRAMES = {
    "not JSON": ("{", "bad_frame"),
    "empty": ("", "bad_frame"),
    "no object": ('["hb"]', "bad_frame"),
    "a number that is no JSON": ('{"t":"hb","n":NaN}', "bad_frame"),
    "two values": ('{"t":"hb","n":1} {"t":"hb","n":2}', "bad_frame"),
    "a lone surrogate": ('{"t":"sub","id":"1","symbols":["\\ud800"]}', "bad_frame"),
    "no type": ('{"id":"1"}', "unknown_type"),
    "an unknown type": ('{"t":"launch","id":"1"}', "unknown_type"),
    "a type of ours": ('{"t":"welcome","id":"1"}', "unknown_type"),
    "a type that is no text": ('{"t":7}', "unknown_type"),
    "no id": ('{"t":"snapshot"}', "bad_frame"),
    "an id that is too long": (json.dumps({"t": "snapshot", "id": "x" * 65}), "bad_frame"),
    "an id that is no text": ('{"t":"snapshot","id":17}', "bad_frame"),
    "deep nesting": ("[" * 20_000 + "]" * 20_000, "bad_frame"),
    "deep nesting inside": ('{"t":"hb","n":' + '{"a":' * 9_000 + "1" + "}" * 9_001, "bad_frame"),
    "too many symbols": (json.dumps({"t": "sub", "id": "1", "symbols": ["A"] * 501}), "bad_frame"),
    "a second hello": ('{"t":"hello","id":"1","device":"d1"}', "hello_twice"),
}


def test_frames_that_cannot_be_read_get_an_error_each(lab, run):
    """Section 5.4: bad_frame, unknown_type, hello_twice; the link stays until there are too many (4002)."""

    async def scenario():
        links = LinkSettings(bad_frames_count=len(BAD_FRAMES))
        async with beside_somebody(lab, links=links) as (pod, http), joined(http, pod) as ana:
            for name, (text, code) in BAD_FRAMES.items():
                await ana.socket.send_str(text)
                error = await ana.hear("err")
                assert error["code"] == code, (name, error)
                assert len(error["detail"]) < 300
            assert (await ana.ask("snapshot"))["t"] == "ok"
            for _ in range(3):
                await ana.socket.send_str("{")
            assert await ana.end() == 4002

    run(scenario())


BAD_ORDERS = {
    "NaN": '"quantity":NaN',
    "infinite": '"quantity":Infinity',
    "negative": '"quantity":-1',
    "zero": '"quantity":0',
    "huge": f'"quantity":{10**30}',
    "beyond a float": '"quantity":1e400',
    "a fraction": '"quantity":1.5',
    "a text": '"quantity":"7"',
    "a list": '"quantity":[1]',
    "null": '"quantity":null',
    "a float price": '"price":1.5',
    "a price of NaN": '"price":"NaN"',
    "a negative price": '"price":"-1"',
    "a price with an exponent": '"price":"1e400"',
    "a price that is too long": f'"price":"{"9" * 40}"',
    "a price with a newline": '"price":"1.5\\n"',
    "a price of many places": '"price":"1.1234567"',
    "a side of its own": '"side":"steal"',
    "a type of its own": '"type":"stop"',
    "no symbol": '"symbol":""',
    "a long symbol": f'"symbol":"{"A" * 4_000}"',
    "no price": '"price":null',
    "a market order with a price": '"type":"market"',
}


def test_orders_of_impossible_numbers_are_refused_and_reach_no_simulator(lab, run):
    """bad_frame for what no order can be, order_refused for what this market refuses; the next good one is taken."""

    async def scenario():
        links = LinkSettings(bad_frames_count=len(BAD_ORDERS) + 5)
        async with beside_somebody(lab, links=links) as (pod, http), joined(http, pod) as ana:
            await ana.start()
            for name, part in BAD_ORDERS.items():
                fields = {"t": "order", "id": f"bad {name}", **ORDER}
                (key,) = part.partition(":")[:1]
                text = json.dumps(fields).replace(f"{key}: {json.dumps(fields[key.strip(chr(34))])}", part)
                assert part in text
                await ana.socket.send_str(text)
                error = await ana.hear("err")
                assert error["code"] == "bad_frame", (name, error)
            unknown = await ana.ask("order", **{**ORDER, "symbol": "ZZZ"})
            assert unknown["code"] == "order_refused"
            rich = await ana.ask("order", **{**ORDER, "quantity": 1_000_000_000, "price": "999999999999"})
            assert rich["code"] in ("order_refused", "bad_frame")
            for number in (0, -1, 2**53 + 1, 10**30):
                await ana.socket.send_str(json.dumps({"t": "cancel", "id": "c", "order": number}))
                assert (await ana.hear("err"))["code"] == "bad_frame"
            assert (await ana.ask("cancel", order=2**53))["code"] == "order_refused"
            assert (await ana.ask("order", **ORDER))["d"]["status"] == "new"
            assert (await ana.events(1))[0]["o"] in (1, 2, 3)

    run(scenario())


def test_a_cursor_from_the_future_gets_a_snapshot(lab, run):
    """bad_cursor for an event that the session has never had; what stands in its place can be relied on."""

    async def scenario():
        async with beside_somebody(lab) as (pod, http), joined(http, pod) as ana:
            await ana.start()
            await ana.buy()
            await ana.events(2)
            session = ana.welcome["session"]
            async with talking(http, pod.url, session) as late:
                await late.say("hello", id="h", device="d1", resume={"epoch": 1, "events": 1_000_000})
                assert (await late.hear("err"))["code"] == "bad_cursor"
                assert (await late.hear("welcome"))["resumed"] == "none"
                assert (await late.hear("snapshot"))["o"] == 2
                await ana.buy()
                assert [event["o"] for event in await late.events(2)] == [3, 4]
            for resume in ({"epoch": -1, "events": 1}, {"epoch": 1}, {"epoch": 1, "events": 2**60}, "x"):
                async with talking(http, pod.url, session) as late:
                    await late.say("hello", id="h", device="d1", resume=resume)
                    assert (await late.hear("err"))["code"] == "bad_frame"

    run(scenario())


def test_what_comes_before_hello_is_refused(lab, run):
    """A link begins with a hello of a device of the session's: otherwise 4002, or 4003."""

    async def scenario():
        async with beside_somebody(lab) as (pod, http):
            session = await new_session(http, pod)
            for frame in (
                {"t": "order", "id": "1", **ORDER},
                {"t": "hb", "n": 1},
                {"t": "sim", "id": "1", "action": "start"},
            ):
                async with talking(http, pod.url, session) as ana:
                    await ana.socket.send_json(frame)
                    assert (await ana.hear("err"))["code"] == "hello_first"
                    assert await ana.end() == 4002
            async with talking(http, pod.url, session) as ana:
                await ana.say("hello", id="1", device="another")
                assert (await ana.hear("err"))["code"] == "wrong_device"
                assert await ana.end() == 4003
            assert not pod.gateway.keeper.rooms[session].view.simulator

    run(scenario())


def test_messages_of_the_other_kind_are_refused(lab, run):
    """A link that speaks JSON takes text, one that speaks MessagePack takes binary messages."""

    async def scenario():
        async with beside_somebody(lab) as (pod, http), joined(http, pod) as ana:
            session = ana.welcome["session"]
            await ana.socket.send_bytes(b'{"t":"hb","n":1}')
            assert (await ana.hear("err"))["code"] == "bad_frame"
            async with joined(http, pod, session, protocol=MSGPACK) as packed:
                await packed.socket.send_str('{"t":"hb","n":1}')
                assert (await packed.hear("err"))["code"] == "bad_frame"
                for data in (
                    b"",
                    b"\xc1",
                    b"\xdd\xff\xff\xff\xff",
                    b"\x81" * 3_000,
                    msgspec.msgpack.encode([1]),
                ):
                    await packed.socket.send_bytes(data)
                    assert (await packed.hear("err"))["code"] == "bad_frame"
                assert (await packed.ask("snapshot"))["t"] == "ok"
            assert (await ana.ask("snapshot"))["t"] == "ok"

    run(scenario())
