"""Clients that break the WebSocket protocol, flood, fall silent or take nothing: they are closed, nobody else notices.

Source: exchange-session-service.md section 5.4; RFC 6455.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager

import pytest
from exchange_pod_lab import (
    LabClock,
    PodLab,
    beside_somebody,
    joined,
    new_session,
    running_postgres,
    soon,
    talking,
)

from sojourn.gateways.exchange.link_config import LinkSettings

ORDER = {"symbol": "AAA", "side": "buy", "quantity": 1, "type": "limit", "price": "1.5", "tif": "gtc"}


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


def frame(opcode, payload, *, fin=True, length=None, rsv=0):
    """Return a masked WebSocket frame; ``length`` is what its header says instead of the truth."""
    first = (0x80 if fin else 0) | rsv | opcode
    if length is None and len(payload) < 126:
        return bytes((first, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    size = struct.pack("!Q", len(payload) if length is None else length)
    return bytes((first, 0x80 | 127)) + size + b"\0\0\0\0" + payload


@asynccontextmanager
async def raw(lab, pod, session):
    """Open a WebSocket and give the bare connection behind its upgrade."""
    host, port = pod.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /v1/ws?session={session} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {lab.token()}\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.close()


async def heard(reader, is_last=lambda _opcode: False):
    """Return the frames that come until the last, or the end, as opcode and payload."""
    found = []
    async with asyncio.timeout(10):
        while not (found and is_last(found[-1][0])):
            try:
                first, size = await reader.readexactly(2)
                if size >= 126:
                    size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
                found.append((first & 0x0F, await reader.readexactly(size)))
            except (asyncio.IncompleteReadError, ConnectionError):
                return found
    return found


async def until_closed(reader):
    """Return the frames up to a close frame."""
    return await heard(reader, lambda opcode: opcode == 8)


HELLO = b'{"t":"hello","id":"1","device":"d1"}'
BROKEN = {
    "longer than allowed, by its header": (frame(1, b"x", length=65_537), 1009),
    "longer than anything": (frame(1, b"x", length=2**63 - 1), 1009),
    "longer than allowed, in fragments": (frame(1, b"x" * 40_000, fin=False) + frame(0, b"x" * 40_000), 1009),
    "a reserved bit": (frame(1, b"{}", rsv=0x40), 1002),
    "an unknown opcode": (frame(3, b"{}"), 1002),
    "a continuation of nothing": (frame(0, b"{}"), 1002),
    "a fragmented ping": (frame(9, b"", fin=False), 1002),
    "a text that is no UTF-8": (frame(1, b"\xff\xfe"), 1007),
}


@pytest.mark.parametrize("name", BROKEN)
def test_frames_that_break_the_websocket_protocol_close_it(lab, run, name):
    """RFC 6455 section 7.4: 1009, 1002 or 1007; nothing is sent behind the close frame."""

    async def scenario():
        data, code = BROKEN[name]
        async with beside_somebody(lab) as (pod, http):
            session = await new_session(http, pod)
            async with raw(lab, pod, session) as (reader, writer):
                writer.write(frame(1, HELLO) + frame(1, b'{"t":"sim","id":"s","action":"start"}'))
                await soon(lambda: pod.gateway.keeper.rooms[session].view.feed.revision)
                writer.write(data)
                frames = await heard(reader)
            closes = [number for number, (opcode, _) in enumerate(frames) if opcode == 8]
            assert closes == [len(frames) - 1]
            assert int.from_bytes(frames[-1][1][:2], "big") == code
            await soon(lambda: not pod.gateway.keeper.rooms[session].links)
            assert pod.gateway.door.closes[code] == 1

    run(scenario())


def test_there_is_one_close_frame(lab, run):
    """RFC 6455 section 5.5.1: whoever closes, each side sends one; browsers take a second one for a fault."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http:
            session = await new_session(http, pod)
            async with raw(lab, pod, session) as (reader, writer):
                writer.write(frame(1, HELLO))
                await soon(lambda: pod.gateway.keeper.rooms[session].links)
                await new_session(http, pod, device="d2")
                replaced = await until_closed(reader)
                writer.write(frame(8, struct.pack("!H", 4003)))
                assert [*replaced, *await heard(reader)] == replaced
                assert replaced[-1][1][:2] == struct.pack("!H", 4003)
            async with raw(lab, pod, session) as (reader, writer):
                writer.write(frame(1, HELLO.replace(b"d1", b"d2")) + frame(8, struct.pack("!H", 1000)))
                frames = await heard(reader)
                assert [opcode for opcode, _ in frames].count(8) == 1
                assert frames[-1] == (8, struct.pack("!H", 1000))

    run(scenario())


def test_fragments_pings_and_slow_bytes_are_fine(lab, run):
    """RFC 6455 section 5.4: a message in pieces, with a ping between them, byte after byte, is one message."""

    async def scenario():
        async with beside_somebody(lab) as (pod, http):
            session = await new_session(http, pod)
            async with raw(lab, pod, session) as (reader, writer):
                pieces = frame(1, HELLO[:7], fin=False) + frame(9, b"there?") + frame(0, HELLO[7:])
                for number in range(len(pieces)):
                    writer.write(pieces[number : number + 1])
                    await writer.drain()
                writer.write(frame(8, struct.pack("!H", 1000)))
                frames = await heard(reader)
            assert (10, b"there?") in frames
            assert any(b'"t":"welcome"' in payload for _, payload in frames)

    run(scenario())


def test_a_flood_of_frames_closes_its_link_only(lab, run):
    """Section 5.4: a token bucket; rate_limited first, then 4029; the client comes back and resumes."""

    async def scenario():
        async with beside_somebody(lab) as (pod, http):
            async with joined(http, pod) as ana:
                await ana.start()
                await ana.buy()
                await ana.events(2)
                cursor, session = ana.cursor(), ana.welcome["session"]
                for number in range(1_000):
                    await ana.socket.send_str(f'{{"t":"hb","n":{number}}}')
                assert await ana.end() == 4029
                assert [f for f in ana.frames if f.get("code") == "rate_limited" and f["retry_after_s"]]
            async with joined(http, pod, session, resume=cursor) as ana:
                assert ana.welcome["resumed"] in ("full", "partial")
                assert (await ana.buy())["t"] == "ok"

    run(scenario())


def test_a_flood_of_pings_is_a_flood(lab, run):
    """Frames that a WebSocket library answers by itself count too: 4029."""

    async def scenario():
        async with beside_somebody(lab) as (pod, http):
            session = await new_session(http, pod)
            async with raw(lab, pod, session) as (reader, writer):
                writer.write(frame(1, HELLO) + frame(9, b"?") * 1_000)
                frames = await heard(reader)
            assert 150 < [opcode for opcode, _ in frames].count(10) < 400
            assert frames[-1][1][:2] == struct.pack("!H", 4029)

    run(scenario())


def test_a_session_has_so_many_connections_at_most(lab, run):
    """What one user costs has a bound: 4029, and a place is free again when one leaves."""

    async def scenario():
        links = LinkSettings(session_links_count=2)
        async with beside_somebody(lab, links=links) as (pod, http), joined(http, pod) as ana:
            session = ana.welcome["session"]
            async with joined(http, pod, session):
                async with talking(http, pod.url, session) as third:
                    await third.say("hello", id="1", device="d1")
                    assert (await third.hear("err"))["code"] == "rate_limited"
                    assert await third.end() == 4029
                assert (await ana.ask("snapshot"))["t"] == "ok"
            await soon(lambda: len(pod.gateway.keeper.rooms[session].links) == 1)
            async with joined(http, pod, session):
                assert (await ana.ask("snapshot"))["t"] == "ok"

    run(scenario())


def test_a_flood_of_orders_waits_in_a_bounded_queue(lab, run):
    """More commands than may wait are refused at once, each with its ref; the others are all answered, in order."""

    async def scenario():
        links = LinkSettings(commands_count=5, frames_burst_count=1_000)
        async with beside_somebody(lab, links=links) as (pod, http), joined(http, pod) as ana:
            await ana.start()
            for number in range(100):
                await ana.say("order", id=f"o{number}", **ORDER)
            answers = {}
            while len(answers) < 100:
                frame_ = await ana.hear_any("ok", "err")
                answers[frame_["ref"]] = frame_.get("code", "ok")
            assert set(answers.values()) == {"ok", "rate_limited"}
            taken = [ref for ref, answer in answers.items() if answer == "ok"]
            events = [(await ana.hear("ev"))["d"]["id"] for _ in taken]
            assert events == taken

    run(scenario())


def test_a_client_that_says_no_hello_is_closed(lab, run):
    """Section 5.4: hello within 5 s; the network may have held it up, so the client is to come back (4000)."""

    async def scenario():
        clock = LabClock()
        async with beside_somebody(lab, clock) as (pod, http):
            session = await new_session(http, pod)
            async with talking(http, pod.url, session) as ana:
                await soon(lambda: pod.gateway.door.greeting)
                clock.ahead_s += 6
                assert await ana.end() == 4000
            await soon(lambda: not pod.gateway.door.greeting)

    run(scenario())


def test_a_client_that_vanished_is_found_by_its_silence(lab, run):
    """Section 5.4: no frame for the heartbeat timeout is 4000; who answers stays, and the other one resumes."""

    async def scenario():
        clock = LabClock()
        links = LinkSettings(heartbeat_every_s=20.0, heartbeat_timeout_s=35.0)
        async with lab.pod(clock=clock, links=links) as pod, lab.client() as http:
            async with joined(http, pod) as ana, joined(http, pod) as second:
                await ana.start()
                await ana.buy()
                await ana.events(2)
                for _ in range(2):
                    clock.ahead_s += 21
                    beat = await second.hear("hb")
                    await second.say("hb_ack", n=beat["n"], o=2)
                assert await ana.end() == 4000
                assert (await second.ask("snapshot"))["t"] == "ok"
            async with joined(http, pod, ana.welcome["session"], resume=ana.cursor()) as ana:
                assert ana.welcome["recovered"] == 0

    run(scenario())


def test_a_client_that_takes_nothing_is_closed_and_resumes(lab, run):
    """Section 5.4: market data waits first, then the link is closed with 4008; no event is lost to its client."""

    async def scenario():
        clock = LabClock()
        links = LinkSettings(skip_bytes=1_024, events_only_bytes=2_048, close_bytes=4_096)
        async with beside_somebody(lab, clock, links=links) as (pod, http), joined(http, pod) as trader:
            session = trader.welcome["session"]
            await trader.start()
            async with raw(lab, pod, session) as (reader, writer):
                slow = writer.transport.get_extra_info("socket")
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                writer.write(frame(1, HELLO))
                room = pod.gateway.keeper.rooms[session]
                await soon(lambda: len(room.links) == 2)
                (link,) = [one for one in room.links if one.conn != trader.welcome["conn"]]
                link.outlet._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096
                )
                writer.transport.pause_reading()
                bought = 0
                while not link.closed:
                    clock.ahead_s += 0.1  # of the token bucket
                    assert (await trader.buy())["t"] == "ok"
                    bought += 1
                assert link.closed == 4008
                writer.transport.resume_reading()
                frames = await heard(reader)
                assert int.from_bytes(frames[-1][1][:2], "big") == 4008
            offsets = [json.loads(payload) for opcode, payload in frames if opcode == 1]
            offsets = [one["o"] for one in offsets if one["t"] == "ev"]
            assert offsets == list(range(1, len(offsets) + 1))
            resume = {"epoch": trader.welcome["epoch"], "events": len(offsets)}
            async with joined(http, pod, session, resume=resume) as back:
                missing = 2 * bought - len(offsets)
                assert back.welcome["recovered"] == missing
                assert [event["o"] for event in await back.events(missing)][-1] == 2 * bought

    run(scenario())
