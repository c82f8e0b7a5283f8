"""The client against a scripted server: what it sends, how it comes back, what it makes of every answer."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from exchange_peer_lab import SESSION, TICKET, scripted_exchange

from sojourn.core.secret import Secret
from sojourn.errors import (
    BackendUnavailable,
    ConnectionLost,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    SojournError,
    WireError,
)
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.messages import CLOSE_CODES, Resume
from sojourn.gateways.exchange.peer import SNAPSHOT, Declined, Dismissed, ExchangeClient
from sojourn.gateways.exchange.peer.frames import read_server_frame
from sojourn.gateways.exchange.peer.mirror import LiveEvent

TOKEN = "the-token-of-ana"
ENDING = pytest.mark.parametrize("row", [row for row in CLOSE_CODES if not row.comes_back], ids=str)
RETURNING = pytest.mark.parametrize("row", [row for row in CLOSE_CODES if row.comes_back], ids=str)


class Waits:
    """Stands for sleep: keeps how long a client would have waited."""

    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds):
        self.seconds.append(round(seconds, 6))
        await asyncio.sleep(0)


class Desk:
    """A client and the server that it talks to."""

    def __init__(self, server, client, waits):
        self.server, self.client, self.waits = server, client, waits
        self.live = None

    async def enter(self, **options):
        """Open a conversation and return it with the server's side of its connection."""
        self.live = self.client.live(SESSION, **options)
        async with asyncio.TaskGroup() as group:
            entering = group.create_task(self.live.__aenter__())
            link = await self.server.link()
            greeting = group.create_task(link.greet())
        del entering, greeting
        return self.live, link

    async def events(self, count):
        return [await self.live.next_event() for _ in range(count)]


def talking(run, story, **options):
    """Run a story with a desk."""

    async def main():
        waits = Waits()
        options_of_client = {"device": "d1", "random": lambda: 0.5, "sleep": waits, **options}
        token = options_of_client.pop("token", Secret(TOKEN))
        async with scripted_exchange() as server:
            endpoints = options_of_client.pop("endpoints", lambda url: [url])(server.url)
            async with ExchangeClient(endpoints, token, **options_of_client) as client:
                desk = Desk(server, client, waits)
                try:
                    await story(desk)
                finally:
                    if desk.live is not None:
                        await desk.live.__aexit__(None, None, None)

    run(main())


# What is told


def test_events_come_in_order_behind_a_snapshot_and_the_state_is_kept(run):
    """Section 5.4: a hello without a cursor gets a snapshot; then events, rows and portfolio go on from there."""

    async def story(desk):
        live, link = await desk.enter()
        await link.say("md", r=5, full=1, rows=[{"s": "AAPL", "last": "175"}, {"s": "TSLA", "last": "200"}])
        await link.say("md", r=6, rows=[{"s": "AAPL", "last": "176"}])
        await link.say("pf", r=3, d={"cash": "1000"})
        await link.say("sim", state="unreachable", simulator="s1")
        await link.say("a_frame_of_the_future", x=1)
        await link.event(1, {"order": 9, "status": "new"})
        await link.event(2, {"order": 9, "status": "filled"})
        snapshot, first, second = await desk.events(3)
        assert (snapshot.type, snapshot.epoch, snapshot.offset) == (SNAPSHOT, 1, 0)
        assert first == LiveEvent(1, 1, "order", {"order": 9, "status": "new"})
        assert second.resume == Resume(1, 2)
        assert live.rows == {"AAPL": {"s": "AAPL", "last": "176"}, "TSLA": {"s": "TSLA", "last": "200"}}
        assert live.portfolio == {"cash": "1000"}
        assert live.simulator.state == "unreachable"
        assert live.orders == {9: {"order": 9, "status": "filled"}}
        assert live.resume == Resume(1, 2, 6, 3)
        assert (live.state, live.stats.events_count, live.stats.lost_count) == ("live", 2, 0)

    talking(run, story)


def test_a_simulators_own_snapshot_replaces_the_orders(run):
    """An event of type ``orders`` has all of them: more has happened than was told one by one."""

    async def story(desk):
        live, link = await desk.enter()
        await link.event(1, {"order": 1, "status": "new"})
        await link.event(2, {"orders": [{"order": 2, "status": "new"}]}, "orders")
        await desk.events(3)
        assert live.orders == {2: {"order": 2, "status": "new"}}

    talking(run, story)


def test_ended_orders_are_kept_only_for_a_while(run):
    """A conversation of months does not grow: as many ended orders as a server keeps."""

    async def story(desk):
        live, link = await desk.enter()
        for number in range(1, 61):
            await link.event(number, {"order": number, "status": "filled"})
        await desk.events(61)
        assert list(live.orders) == list(range(11, 61))

    talking(run, story)


@pytest.mark.parametrize("is_binary", [False, True])
def test_both_encodings_say_the_same(run, is_binary):
    """The subprotocol decides: JSON in text frames, MessagePack in binary ones."""

    async def story(desk):
        live, link = await desk.enter(is_binary=is_binary)
        assert link.is_binary == is_binary
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(live.order("AAPL", "buy", 10, "175.25", tif="gtc"))
            order = await link.hear("order")
            await link.say("ok", ref=order["id"], d={"order": 1, "status": "new", "filled": 0})
        placed = placing.result()
        assert (placed.order, placed.status, placed.filled) == (1, "new", 0)
        assert {**order, "id": ""} == {
            "t": "order",
            "id": "",
            "symbol": "AAPL",
            "side": "buy",
            "quantity": 10,
            "type": "limit",
            "price": "175.25",
            "tif": "gtc",
        }
        await link.event(1)
        assert (await desk.events(2))[1].offset == 1

    talking(run, story)


# Coming back


def test_after_a_cut_it_resumes_where_it_was(run):
    """Section 5.4: epoch, last event and both revisions; what was missed is replayed, nothing else changes."""

    async def story(desk):
        live, link = await desk.enter()
        await link.event(1)
        await link.say("md", r=7, full=1, rows=[])
        await link.say("pf", r=4, d={})
        await live.until(lambda: live.resume == Resume(1, 1, 7, 4))
        link.cut()
        link = await desk.server.link()
        hello = await link.regreet(missed=[None, None])
        assert hello["resume"] == {"epoch": 1, "events": 1, "md": 7, "pf": 4}
        assert hello["device"] == "d1"
        assert [event.offset for event in await desk.events(4)] == [0, 1, 2, 3]
        stats = live.stats
        assert (stats.reconnects_count, stats.recovered_count, stats.lost_count) == (1, 2, 0)
        assert stats.longest_away_s > 0

    talking(run, story)


def test_the_program_may_cut_the_connection_itself(run):
    """``cut`` does what networks do: no close frame, and the conversation goes on."""

    async def story(desk):
        live, link = await desk.enter()
        live.cut()
        assert await link.gone() == 1006
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)

    talking(run, story)


def test_the_program_may_stay_away_for_as_long_as_it_likes(run):
    """``away`` loses the connection, and tries no other before its block ends: one begun later comes first."""

    async def story(desk):
        live, link = await desk.enter()
        with live.away():
            assert await link.gone() == 1006
            async with asyncio.TaskGroup() as group:
                entering = group.create_task(desk.client.live(SESSION).__aenter__())
                hello = await (await desk.server.link()).greet()
            assert hello.get("resume") is None
        await entering.result().__aexit__(None, None, None)
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)

    talking(run, story)


def test_a_new_epoch_is_adopted_only_with_its_offset(run):
    """Section 5.4, lesson of centrifuge-go#160: cut between welcome and snapshot, the old cursor is said again."""

    async def story(desk):
        live, link = await desk.enter()
        await link.event(1)
        await live.until(lambda: live.stats.events_count == 1)
        link.cut()
        link = await desk.server.link()
        await link.hear("hello")
        await link.welcome(epoch=5, events=40)
        link.cut()
        link = await desk.server.link()
        hello = await link.greet(epoch=5, events=41, orders=[{"order": 3, "status": "new"}])
        assert hello["resume"] == {"epoch": 1, "events": 1, "md": 0, "pf": 0}
        await link.event(42)
        types = [(event.type, event.epoch, event.offset) for event in await desk.events(4)]
        assert types[2:] == [(SNAPSHOT, 5, 41), ("order", 5, 42)]
        assert (live.stats.lost_count, live.orders.keys()) == (1, {3, 42})

    talking(run, story)


def test_a_snapshot_that_was_asked_for_loses_nothing(run):
    """It stands behind the very event that we have."""

    async def story(desk):
        live, link = await desk.enter()
        await link.event(1)
        await link.say("md", r=2, full=1, rows=[{"s": "A", "last": "1"}])
        async with asyncio.TaskGroup() as group:
            group.create_task(live.refresh())
            await link.say("ok", ref=(await link.hear("snapshot"))["id"])
        await link.say("snapshot", epoch=1, o=1, sim="running", orders=[])
        assert [event.type for event in await desk.events(3)] == [SNAPSHOT, "order", SNAPSHOT]
        assert (live.stats.lost_count, live.resume, live.rows) == (
            0,
            Resume(1, 1, 2),
            {"A": {"s": "A", "last": "1"}},
        )

    talking(run, story)


@pytest.mark.parametrize("offset", [3, 1, 0])
def test_an_event_that_is_not_the_next_one_is_refused_and_asked_for_again(run, offset):
    """A gap or a repetition is an error of the server: close with 4002, come back, resume. Nobody is told of it."""

    async def story(desk):
        live, link = await desk.enter()
        await link.event(1)
        await link.event(offset)
        assert await link.gone() == 4002
        hello = await (await desk.server.link()).regreet(missed=[None])
        assert hello["resume"]["events"] == 1
        assert [event.offset for event in await desk.events(3)] == [0, 1, 2]
        assert live.stats.gaps_count == 1

    talking(run, story)


@pytest.mark.parametrize("resumed", ["full", "partial"])
def test_a_welcome_that_continues_something_else_is_refused(run, resumed):
    """Its epoch and offset are those of our hello, or it is none of ours."""

    async def story(desk):
        _, link = await desk.enter()
        link.cut()
        link = await desk.server.link()
        await link.regreet(events=7, resumed=resumed)
        assert await link.gone() == 4002
        await (await desk.server.link()).regreet()

    talking(run, story)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"x"',
        '{"t":"ev","o":"1"}',
        '{"t":"ev","o":1,"y":"order","d":{}}',
        '{"t":"md","r":1,"rows":[{}]}',
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_protocol(run, text):
    """Close with 4002 and come back; the conversation goes on."""

    async def story(desk):
        live, link = await desk.enter()
        await link.socket.send_str(text)
        assert await link.gone() == 4002
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.gaps_count == 1)

    talking(run, story)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x81\x02\xff\xfe", b"\x81\x7f\x00\x00\x00\x00\x7f\xff\xff\xff"]
)
def test_bytes_that_are_no_websocket_are_a_line_that_broke(run, data):
    """They are damage on the way, or a server that is mad: what we close with is not what a server has closed with."""

    async def story(desk):
        live, link = await desk.enter()
        link.request.transport.write(data)
        await link.gone()
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)
        assert "broke" in live.stats.last_why

    talking(run, story)


@RETURNING
def test_codes_that_let_it_come_back(run, row):
    """The published table: these say yes."""
    tokens = iter("abc")

    async def another():
        return Secret(next(tokens))

    async def story(desk):
        live, link = await desk.enter()
        await link.close(row.code)
        link = await desk.server.link()
        await link.regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)
        shown = link.request.headers["Authorization"]
        assert shown == ("Bearer b" if row.name == "auth" else "Bearer a")
        assert row.name in live.stats.last_why

    talking(run, story, token=another)


@ENDING
def test_codes_that_forbid_it_end_the_conversation(run, row):
    """The published table: these say no. Whoever waits is told so, each in their place."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(caught(live.order("AAPL", "buy", 1)))
            waiting = group.create_task(caught(live.until(lambda: False)))
            await link.hear("order")
            await link.event(1)
            await link.close(row.code, b"because")
        for error in (asking.result(), waiting.result()):
            assert isinstance(error, Dismissed)
            assert (error.code, error.name, error.reason) == (row.code, row.name, "because")
        told = []
        assert isinstance(await caught(take_all(live, told)), Dismissed)
        assert told == [0, 1]
        with pytest.raises(Dismissed):
            await live.cancel(1)
        assert (live.state, desk.waits.seconds) == ("over", [])

    talking(run, story)


async def caught(work):
    """Return what came of some work, an error of ours too."""
    try:
        return await work
    except SojournError as error:
        return error


async def take_all(live, told):
    """Put the offsets of all events into a list."""
    async for event in live.events():
        told.append(event.offset)


@pytest.mark.parametrize(
    ("frame", "fields", "code", "said"),
    [
        ("ended", {"reason": "expired"}, 4009, "expired"),
        ("replaced", {"device": "phone"}, 4003, "by phone"),
        (
            "err",
            {"ref": "hello", "code": "wrong_device", "detail": "not yours"},
            4003,
            "wrong_device: not yours",
        ),
    ],
)
def test_the_reason_for_an_end_is_what_was_said_before_it(run, frame, fields, code, said):
    """Frames say more than a close frame's text."""

    async def story(desk):
        live, link = await desk.enter()
        await link.say(frame, **fields)
        await link.close(code, b"short")
        with pytest.raises(Dismissed) as ended:
            await live.until(lambda: False)
        assert ended.value.reason == said

    talking(run, story)


def test_waits_grow_and_begin_anew_after_a_welcome(run):
    """The welcome's terms with full jitter: here half of 0.2 s, 0.4 s, 0.8 s, and so on up to the longest."""

    async def story(desk):
        live, link = await desk.enter()
        link.cut()
        for _ in range(12):
            link = await desk.server.link()
            await link.hear("hello")
            link.cut()
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)
        expected = [min(30.0, 0.2 * 2**number) / 2 for number in range(13)]
        assert desk.waits.seconds == pytest.approx(expected)

    talking(run, story)


def test_before_the_first_welcome_the_first_wait_is_between_a_fifth_and_one_second(run):
    """Section 5.6: 0.2 to 1 s first, then twice as long."""

    async def story(desk):
        desk.live = desk.client.live(SESSION)
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.live.__aenter__())
            for _ in range(2):
                (await desk.server.link()).cut()
            await (await desk.server.link()).greet()
        assert desk.waits.seconds == pytest.approx([0.6, 1.2])

    talking(run, story)


def test_a_welcome_does_not_shorten_the_waits_of_who_is_over_the_limit(run):
    """4029: wait, twice as long each time; or welcome and farewell would follow each other without end."""

    async def story(desk):
        _, link = await desk.enter()
        for _ in range(3):
            await link.close(4029)
            link = await desk.server.link()
            await link.regreet()
        assert desk.waits.seconds == pytest.approx([0.1, 0.2, 0.4])

    talking(run, story)


def test_who_is_sent_away_asks_nothing_more_here_and_comes_back_when_told(run):
    """Section 5.6: a drain says when to come back and with what; requests wait for the next server."""

    async def story(desk):
        live, link = await desk.enter()
        await link.say("md", r=3, full=1, rows=[])
        resume = {"epoch": 1, "events": 0, "md": 9, "pf": 2}
        await link.say("drain", reconnect_after_ms=50, resume=resume)
        await live.until(lambda: live.resume == Resume(1, 0, 9, 2))
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(live.order("AAPL", "sell", 1))
            assert await link.gone() == 1000
            assert link.frames.empty()
            link = await desk.server.link()
            assert (await link.regreet())["resume"] == resume
            await link.say(
                "ok", ref=(await link.hear("order"))["id"], d={"order": 1, "status": "filled", "filled": 1}
            )
        assert placing.result().filled == 1
        assert len(desk.waits.seconds) == 1
        assert desk.waits.seconds[0] <= 0.05

    talking(run, story)


def test_a_server_that_closes_before_that_is_not_returned_to_earlier(run):
    """The rest of the time that was asked for is waited all the same."""

    async def story(desk):
        live, link = await desk.enter()
        await link.say("drain", reconnect_after_ms=5_000, resume={"epoch": 1, "events": 0})
        await link.close(1012)
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)
        assert 4.0 < desk.waits.seconds[0] <= 5.0

    talking(run, story)


# Heartbeats


def test_heartbeats_are_answered_with_how_far_it_has_come(run):
    """Section 5.4: the same ``n``, and the highest event up to which all are here."""

    async def story(desk):
        _, link = await desk.enter()
        await link.event(1)
        await link.say("hb", n=7)
        assert await link.hear() == {"t": "hb_ack", "n": 7, "o": 1}

    talking(run, story)


def test_a_server_that_is_silent_for_too_long_is_left(run):
    """The welcome says how long to wait for a heartbeat."""

    async def story(desk):
        live = desk.live = desk.client.live(SESSION)
        async with asyncio.TaskGroup() as group:
            group.create_task(live.__aenter__())
            link = await desk.server.link()
            await link.greet(heartbeat={"every_s": 0.02, "timeout_s": 0.05})
        await link.gone()
        await (await desk.server.link()).regreet()
        await live.until(lambda: live.stats.reconnects_count == 1)
        assert "silent" in live.stats.last_why

    talking(run, story)


# Requests


def test_an_order_without_an_answer_is_sent_again_with_its_id(run):
    """Its id is the idempotency key: the same id is the same order, so asking again does no harm."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(live.order("AAPL", "buy", 5, "10", request_id="mine"))
            first = await link.hear("order")
            link.cut()
            link = await desk.server.link()
            await link.regreet()
            again = await link.hear("order")
            await link.say("ok", ref="mine", d={"order": 4, "status": "new"})
        assert first == again
        assert first["id"] == "mine"
        assert placing.result().order == 4
        assert live.stats.repeated_count == 1
        link.cut()
        link = await desk.server.link()
        await link.regreet()
        await link.say("hb", n=1)
        assert (await link.hear())["t"] == "hb_ack"  # what was answered is not said again

    talking(run, story)


def test_requests_that_were_not_sent_yet_wait_for_the_connection_and_keep_their_order(run):
    """Between two connections nothing is refused."""

    async def story(desk):
        live, link = await desk.enter()
        link.cut()
        await live.until(lambda: live.state != "live")
        async with asyncio.TaskGroup() as group:
            for number in range(1, 4):
                group.create_task(live.cancel(number))
                await asyncio.sleep(0)
            link = await desk.server.link()
            await link.regreet()
            for number in range(1, 4):
                asked = await link.hear("cancel")
                assert asked["order"] == number
                await link.say("ok", ref=asked["id"], d={"order": number, "status": "canceled"})

    talking(run, story)


@pytest.mark.parametrize("ref", ["named", None])
def test_what_may_succeed_later_is_sent_again_when_the_server_says(run, ref):
    """rate_limited, unavailable, simulator_unavailable and outcome_unknown carry ``retry_after_s``; one without ``ref``
    may mean any request that waits."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(live.replace(3, 10, "12.5"))
            asked = await link.hear("replace")
            code = {"code": "outcome_unknown", "ref": asked["id"]} if ref else {"code": "rate_limited"}
            await link.say("err", **code, retry_after_s=0.01)
            assert await link.hear("replace") == asked
            await link.say("ok", ref=asked["id"], d={"order": 3, "status": "new"})
        assert placing.result().status == "new"

    talking(run, story)


def test_a_refusal_is_told_to_who_asked(run):
    """An error with another code is final; its words are the server's."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(caught(live.order("XXX", "buy", 1)))
            asked = await link.hear("order")
            assert (asked["type"], asked["price"]) == ("market", None)
            await link.say("err", ref=asked["id"], code="order_refused", detail="unknown_symbol")
            await link.say("err", ref="of nobody", code="internal")
        error = placing.result()
        assert isinstance(error, Declined)
        assert (error.code, error.detail, str(error)) == (
            "order_refused",
            "unknown_symbol",
            "order_refused: unknown_symbol",
        )

    talking(run, story)


def test_a_frame_that_no_server_would_take_is_not_sent(run):
    """It is declined here, at once and in the same words."""

    async def story(desk):
        live, link = await desk.enter()
        for wrong in (("AAPL", "buy", -1), ("AAPL", "hold", 1), ("AAPL", "buy", 1, "1e5")):
            with pytest.raises(Declined, match="bad_frame"):
                await live.order(*wrong)
        await link.say("hb", n=1)
        assert (await link.hear())["t"] == "hb_ack"

    talking(run, story)


def test_no_answer_in_time_is_an_error_and_says_what_to_do(run):
    """Every wait has a deadline; what the server said last is told, if it said anything."""

    async def story(desk):
        live, link = await desk.enter()
        with pytest.raises(BackendUnavailable, match="the same id"):
            await live.order("AAPL", "buy", 1, timeout_s=0.01)
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(caught(live.order("AAPL", "buy", 1, timeout_s=0.2, request_id="x")))
            while (await link.hear("order"))["id"] != "x":
                pass
            await link.say("err", ref="x", code="simulator_unavailable", retry_after_s=60)
        assert placing.result().code == "simulator_unavailable"
        with pytest.raises(BackendUnavailable):
            await live.until(lambda: False, timeout_s=0.01)

    talking(run, story)


def test_one_id_has_one_request_at_a_time(run):
    """Two requests with one id would share an answer."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            group.create_task(live.order("AAPL", "buy", 1, request_id="x"))
            await link.hear("order")
            with pytest.raises(LocalProtocolError):
                await live.order("AAPL", "buy", 1, request_id="x")
            await link.say("ok", ref="x", d={"order": 1, "status": "new"})

    talking(run, story)


def test_it_sends_no_faster_than_the_server_takes(run):
    """The welcome's limits: a burst of half of theirs, then so many per second."""

    async def story(desk):
        live = desk.live = desk.client.live(SESSION)
        limits = {"frame_bytes": 65_536, "frames_per_s": 100.0, "frames_burst_count": 4}
        async with asyncio.TaskGroup() as group:
            group.create_task(live.__aenter__())
            link = await desk.server.link()
            await link.greet(limits=limits)
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for number in range(1, 9):
                group.create_task(live.cancel(number))
            for number in range(1, 9):
                ask = await link.hear("cancel")
                await link.say("ok", ref=ask["id"], d={"order": number, "status": "canceled"})
        assert asyncio.get_running_loop().time() - began > 6 / 100 * 0.9

    talking(run, story)


def test_symbols_are_said_again_and_rows_asked_for_as_a_whole_until_they_are_here(run):
    """Who has asked for other symbols and was cut before the full frame has rows that are not whole."""

    async def story(desk):
        live, link = await desk.enter(symbols=["B", "A"])
        await link.say("md", r=5, full=1, rows=[{"s": "A"}, {"s": "B"}])
        async with asyncio.TaskGroup() as group:
            group.create_task(live.subscribe("C"))
            asked = await link.hear("sub")
            assert asked["symbols"] == ["C"]
            link.cut()
            link = await desk.server.link()
            hello = await link.regreet(resumed="partial")
        assert (hello["symbols"], hello["resume"]["md"]) == (["A", "B", "C"], 0)
        await link.say("md", r=6, full=1, rows=[{"s": "A"}, {"s": "B"}, {"s": "C"}])
        await live.until(lambda: len(live.rows) == 3)
        async with asyncio.TaskGroup() as group:
            group.create_task(live.unsubscribe("A"))
            await link.say("ok", ref=(await link.hear("unsub"))["id"])
        await link.say("md", r=7, full=1, rows=[{"s": "B"}, {"s": "C"}])
        await live.until(lambda: live.rows.keys() == {"B", "C"})
        link.cut()
        hello = await (await desk.server.link()).regreet()
        assert (hello["symbols"], hello["resume"]["md"]) == (["B", "C"], 7)

    talking(run, story)


def test_symbols_asked_for_between_hello_and_welcome_are_asked_for_on_their_own(run):
    """The hello has not said them, so its welcome does not answer them."""

    async def story(desk):
        live, link = await desk.enter(symbols=["A"])
        link.cut()
        link = await desk.server.link()
        hello = await link.hear("hello")
        async with asyncio.TaskGroup() as group:
            group.create_task(live.subscribe("B"))
            await asyncio.sleep(0)
            await link.welcome(resumed="full")
            await link.say("ok", ref=(await link.hear("sub"))["id"])
        assert hello["symbols"] == ["A"]
        link.cut()
        hello = await (await desk.server.link()).regreet()
        assert (hello["symbols"], hello["resume"]["md"]) == (["A", "B"], 0)

    talking(run, story)


def test_a_simulator_that_fails_is_told_as_such(run):
    """``start_simulator`` ends when it runs or has failed."""

    async def story(desk):
        live, link = await desk.enter()
        await link.say("sim", state="failed", detail="of the last time")
        await live.until(lambda: live.simulator.state == "failed")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(caught(live.start_simulator()))
            asked = await link.hear("sim")
            await link.say("ok", ref=asked["id"], d={"state": "requested"})
            await link.say("sim", state="failed", detail="no memory left")
        assert (asked["action"], str(starting.result())) == ("start", "simulator_failed: no memory left")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(caught(live.start_simulator()))
            await link.say("ok", ref=(await link.hear("sim"))["id"], d={"state": "requested"})
            await link.say("sim", state="running")
        assert starting.result() is None

    talking(run, story)


# Whoever consumes


def test_a_consumer_that_is_too_slow_is_told_so_behind_what_was_kept(run):
    """Every queue has a bound; nothing is left out in silence, and the conversation goes on."""

    async def story(desk):
        live, link = await desk.enter(events_count=3)
        for offset in range(1, 6):
            await link.event(offset)
        await live.until(lambda: live.stats.events_count == 5)
        told = []
        error = await caught(take_all(live, told))
        assert isinstance(error, LimitExceeded)
        assert "events_count" in str(error)
        assert told == [0, 1, 2]
        assert live.state == "live"

    talking(run, story)


def test_leaving_says_goodbye_and_ends_the_events(run):
    """Close code 1000; what was heard is still told, and then it ends without an error."""

    async def story(desk):
        live, link = await desk.enter()
        await link.event(1)
        await live.until(lambda: live.stats.events_count == 1)
        await live.__aexit__(None, None, None)
        desk.live = None
        assert await link.gone() == 1000
        assert [event.offset async for event in live.events()] == [0, 1]
        with pytest.raises(ConnectionLost):
            await live.next_event()
        with pytest.raises(ConnectionLost):
            await live.order("AAPL", "buy", 1)

    talking(run, story)


def test_leaving_while_it_waits_to_come_back_does_not_wait(run):
    """The task ends at once."""

    async def story(desk):
        asleep = asyncio.Event()

        async def sleep(_seconds):
            asleep.set()
            await asyncio.Event().wait()

        desk.client.calls.sleep = sleep
        _, link = await desk.enter()
        link.cut()
        await asleep.wait()

    talking(run, story)


# Who we are, and where


def test_a_token_is_in_a_header_only(run):
    """Section 5.4: Authorization for programs, and the session's id in the query; URLs are logged by everybody."""

    async def story(desk):
        _, link = await desk.enter()
        assert link.request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert link.request.query == {"session": SESSION}

    talking(run, story)


def test_with_tickets_each_connection_shows_a_new_one_and_no_token(run):
    """As web pages do it: a ticket by REST, shown as a subprotocol; in no URL either."""

    async def story(desk):
        _, link = await desk.enter(uses_tickets=True)
        link.cut()
        await (await desk.server.link()).regreet()
        upgrades = desk.server.seen("/v1/ws")
        assert len(upgrades) == len(desk.server.seen(f"/v1/sessions/{SESSION}/ticket")) == 2
        for request in upgrades:
            assert "Authorization" not in request.headers
            assert request.headers["Sec-WebSocket-Protocol"] == f"session.v1.json,ticket.{TICKET}"
        assert not [one for one in desk.server.requests if TOKEN in str(one.url) or TICKET in str(one.url)]

    talking(run, story)


def test_a_refused_token_is_replaced_by_a_new_one(run):
    """Whoever gives tokens is asked again, for REST and for WebSockets; and not for ever."""
    tokens = iter(f"t{number}" for number in range(100))

    async def another():
        return Secret(next(tokens))

    async def story(desk):
        desk.server.answer("/v1/sessions", 401, {"type": "tag:sojourn,2026:problem:invalid_token"})
        assert (await desk.client.create_session()).id == SESSION
        desk.server.answer("/v1/ws", 401)
        _, link = await desk.enter()
        assert link.request.headers["Authorization"] == "Bearer t2"
        for _ in range(9):
            desk.server.answer("/v1/ws", 401)
        link.cut()
        with pytest.raises(Declined) as declined:
            await desk.live.until(lambda: False)
        assert (declined.value.code, declined.value.status) == ("invalid_token", 401)
        assert next(tokens) == "t5"

    talking(run, story, token=another)


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_token"), (403, "refused"), (404, "not_found")])
def test_an_upgrade_that_is_refused_for_good_ends_it(run, status, code):
    """Another try would meet the same."""

    async def story(desk):
        desk.server.answer("/v1/ws", status)
        with pytest.raises(Declined) as declined:
            await desk.client.live(SESSION).__aenter__()
        assert (declined.value.code, declined.value.status) == (code, status)
        assert desk.waits.seconds == []

    talking(run, story)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_is_asked_again_not_before(run, status):
    """Retry-After, and a random wait on top of it: not everybody at the same moment."""

    async def story(desk):
        desk.server.answer("/v1/ws", status, **{"Retry-After": "3"})
        await desk.enter()
        assert desk.waits.seconds == pytest.approx([3.6])

    talking(run, story)


def test_a_server_that_cannot_be_reached_is_passed_over(run):
    """Several base URLs: the next one on failure, for REST and for WebSockets."""

    async def story(desk):
        assert (await desk.client.create_session()).id == SESSION
        desk.client.calls.go_elsewhere()
        _, link = await desk.enter()
        await link.close(1012)
        await (await desk.server.link()).regreet()  # over the one that is not there
        assert len(desk.waits.seconds) == 4

    talking(run, story, endpoints=lambda url: ["http://127.0.0.1:1", url + "/"])


def test_nobody_there_is_told_when_the_time_is_over(run):
    """The last cause is in the error."""

    async def story(desk):
        with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:1"):
            await desk.client.get_session(SESSION)
        live = desk.client.live(SESSION, timeout_s=0.05)
        with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:1"):
            await live.__aenter__()

    talking(run, story, endpoints=lambda _: ["http://127.0.0.1:1"], timeout_s=0.05)


def test_no_endpoint_is_a_mistake_of_the_program():
    """Found at once, not at the first request."""
    with pytest.raises(ValueError, match="no endpoint"):
        ExchangeClient([], Secret(TOKEN))


def test_a_server_of_another_protocol_is_told_as_such(run):
    """A server that does not choose our subprotocol does not speak it."""

    async def story(desk):
        async def mute(*_, **__):
            return await dial("/v1/ws", query={}, protocols=("other",), with_token=True)

        dial, desk.client.calls.dial = desk.client.calls.dial, mute
        with pytest.raises(Declined, match="other"):
            await desk.client.live(SESSION).__aenter__()

    talking(run, story)


# REST


def test_a_request_that_may_have_been_carried_out_is_repeated_with_its_key(run):
    """504 and 503: the same Idempotency-Key, so that it is done once."""

    async def story(desk):
        path = f"/v1/sessions/{SESSION}/orders"
        problem = {
            "type": "tag:sojourn,2026:problem:outcome_unknown",
            "title": "t",
            "status": 504,
            "hint": "h",
        }
        desk.server.answer(path, 504, problem)
        desk.server.answer(path, 503, None, **{"Retry-After": "2"})
        order = await desk.client.submit_order(SESSION, "AAPL", "buy", 3, "175.25")
        assert (order.order, order.price) == (1, "175.25")
        keys = {request.headers["Idempotency-Key"] for request in desk.server.seen(path)}
        assert len(desk.server.seen(path)) == 3
        assert len(keys) == 1
        assert desk.waits.seconds == pytest.approx([0.6, 3.2])

    talking(run, story)


def test_a_post_without_a_key_is_not_repeated(run):
    """Nobody knows whether it was carried out."""

    async def story(desk):
        path = f"/v1/sessions/{SESSION}/ticket"
        desk.server.answer(path, 503)
        with pytest.raises(Declined):
            await desk.client.ticket(SESSION)
        assert len(desk.server.seen(path)) == 1

    talking(run, story)


def test_a_problem_is_told_in_its_own_words(run):
    """RFC 9457: its type, title, detail and fields."""

    async def story(desk):
        problem = {
            "type": "tag:sojourn,2026:problem:invalid",
            "title": "Some fields are wrong",
            "status": 422,
            "hint": "h",
            "errors": [{"field": "$.quantity", "problem": "at least 1"}],
            "reason": "r",
        }
        desk.server.answer("/v1/sessions", 422, problem)
        with pytest.raises(Declined) as declined:
            await desk.client.create_session()
        assert declined.value.code == "invalid"
        assert str(declined.value) == (
            "invalid (422): Some fields are wrong; $.quantity: at least 1; reason r"
        )
        desk.server.answer("/v1/sessions", 418, "short and stout")
        with pytest.raises(Declined, match="418"):
            await desk.client.create_session()

    talking(run, story)


def test_an_answer_that_is_none_is_an_error_of_the_protocol(run):
    """What was promised is checked."""

    async def story(desk):
        desk.server.answer(f"/v1/sessions/{SESSION}", 200, {"id": 5})
        with pytest.raises(RemoteProtocolError):
            await desk.client.get_session(SESSION)

    talking(run, story)


def test_a_simulator_is_followed_until_it_runs(run):
    """Section 5.3: the wish by PUT, the steps as server-sent events."""

    async def story(desk):
        steps = []
        spec = MarketSettings(seed=7)
        simulator = await desk.client.start_simulator(SESSION, spec, on_progress=steps.append)
        assert simulator.state == "running"
        assert [(step.state, step.percent, step.done) for step in steps] == [
            ("starting", 50, False),
            ("running", 100, True),
        ]

    talking(run, story)


def test_a_session_is_ended_by_rest(run):
    """204 has no body."""

    async def story(desk):
        await desk.client.end_session(SESSION)
        assert [request.method for request in desk.server.requests] == ["DELETE"]

    talking(run, story)


def test_a_program_goes_on_where_an_earlier_one_was(run):
    """An event knows the cursor behind it. First comes what was missed, then how things stand, once."""

    async def story(desk):
        desk.live = desk.client.live(SESSION, resume=Resume(3, 12))
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.live.__aenter__())
            link = await desk.server.link()
            hello = await link.regreet(missed=[None])
        assert hello["resume"] == {"epoch": 3, "events": 12, "md": 0, "pf": 0}
        assert (await desk.live.next_event()).resume == Resume(3, 13)
        asked = await link.hear("snapshot")
        await link.say("ok", ref=asked["id"])
        await link.say("snapshot", epoch=3, o=13, sim="running", orders=[{"order": 1, "status": "new"}])
        assert (await desk.live.next_event()).type == SNAPSHOT
        assert (desk.live.orders.keys(), desk.live.simulator.state) == ({1}, "running")
        link.cut()
        link = await desk.server.link()
        await link.regreet()
        await link.say("hb", n=1)
        assert (await link.hear())["t"] == "hb_ack"  # now it knows all
        assert desk.live.stats.lost_count == 0

    talking(run, story)


def test_nothing_shows_the_token():
    """Neither the client's text nor its headers are in what people print."""
    assert TOKEN not in repr(ExchangeClient(["http://x"], Secret(TOKEN)).__dict__)
    assert TOKEN not in json.dumps(msgspec.to_builtins({"token": str(Secret(TOKEN))}))


# Corners


def test_a_session_is_asked_about_and_changed_by_rest(run):
    """Section 5.3: each operation by its method and path, with a key where a repetition must not be another request."""

    async def story(desk):
        client, server = desk.client, desk.server
        session = f"/v1/sessions/{SESSION}"
        order = {"order": 4, "symbol": "A", "side": "buy", "type": "limit", "tif": "gtc", "status": "new"}
        order |= {"quantity": 2, "filled": 0, "remaining": 2}
        server.answer("/v1/sessions", 200, {"sessions": [], "next": ""})
        assert (await client.list_sessions(limit_count=3, before=SESSION)).sessions == ()
        server.answer("/readyz", 200, {"ready": True, "parts": {"database": "ok"}})
        assert (await client.readiness()).ready
        server.answer(f"{session}/snapshot", 200, {"epoch": 1, "events": 2, "md": 3, "pf": 4})
        assert (await client.snapshot(SESSION)).events == 2
        server.answer(f"{session}/events", 200, {"epoch": 1, "last": 2, "events": []})
        assert (await client.events_after(SESSION, 1)).last == 2
        server.answer(f"{session}/orders", 200, {"orders": [order]})
        assert (await client.list_orders(SESSION)).orders[0].order == 4
        for method in ("replace", "cancel"):
            server.answer(f"{session}/orders/4", 200, order)
            arguments = (2, "1.5") if method == "replace" else ()
            assert (await getattr(client, f"{method}_order")(SESSION, 4, *arguments)).quantity == 2
        assert (await client.get_session(SESSION)).subject == "ana"
        asked = [(one.method, one.path_qs, "Idempotency-Key" in one.headers) for one in server.requests]
        assert asked == [
            ("GET", f"/v1/sessions?limit=3&before={SESSION}", False),
            ("GET", "/readyz", False),
            ("GET", f"{session}/snapshot", False),
            ("GET", f"{session}/events?after=1&epoch=0&limit=100", False),
            ("GET", f"{session}/orders?limit=100&before=0", False),
            ("PUT", f"{session}/orders/4", True),
            ("DELETE", f"{session}/orders/4", False),
            ("GET", session, False),
        ]

    talking(run, story)


def test_a_connection_that_breaks_under_a_request_is_no_reason_to_do_it_twice(run):
    """With a key it is repeated at the next server; without one nobody knows, and so it is told."""

    async def story(desk):
        for path in ("/v1/sessions", f"/v1/sessions/{SESSION}/ticket"):
            desk.server.answer(path, 0)
        assert (await desk.client.create_session()).id == SESSION
        with pytest.raises(BackendUnavailable):
            await desk.client.ticket(SESSION)

    talking(run, story)


@pytest.mark.parametrize(("after", "wait"), [("soon", 1.6), ("-3", 0.6), ("nan", 0.6)])
def test_a_retry_after_that_is_no_number_is_taken_with_care(run, after, wait):
    """A date counts as one second, and nonsense as nothing."""

    async def story(desk):
        desk.server.answer(f"/v1/sessions/{SESSION}", 429, {}, **{"Retry-After": after})
        desk.server.answer(f"/v1/sessions/{SESSION}", 200, {"sessions": []})
        with pytest.raises((Declined, RemoteProtocolError)):
            await desk.client.get_session(SESSION)
        desk.server.answer("/v1/ws", 429, **{"Retry-After": after})
        await desk.enter()
        assert desk.waits.seconds[-1] == pytest.approx(wait)

    talking(run, story)


def test_steps_of_a_simulator_that_end_too_early_are_asked_for_again(run):
    """A stream may end with its server: the next one says where the simulator stands."""

    async def story(desk):
        path = f"/v1/sessions/{SESSION}/simulator"
        desk.server.answer(f"{path}/progress", 200, "no event at all")
        desk.server.answer(f"{path}/progress", 0)
        assert (await desk.client.start_simulator(SESSION)).state == "running"
        desk.server.answer(f"{path}/progress", 404, {"type": "tag:sojourn,2026:problem:not_found"})
        with pytest.raises(Declined, match="404"):
            await desk.client.start_simulator(SESSION)
        desk.server.events = [b'event: problem\ndata: {"type":"t","title":"no","status":1,"hint":""}\n\n']
        with pytest.raises(Declined, match="no"):
            await desk.client.start_simulator(SESSION)
        desk.server.events = [b"event: progress\ndata: 5\n\n"]
        with pytest.raises(RemoteProtocolError):
            await desk.client.start_simulator(SESSION)

    talking(run, story)


def test_a_simulator_that_does_not_run_in_the_end_is_an_error(run):
    """Failed, with its own words; or not there in time."""

    async def story(desk):
        path = f"/v1/sessions/{SESSION}/simulator"
        simulator = {
            "id": "s1",
            "session": SESSION,
            "desired": "running",
            "state": "failed",
            "failure": "no room",
        }
        simulator |= {"created_at": "2026-11-21T20:00:00Z", "changed_at": "2026-11-21T20:00:00Z"}
        for _ in range(2):
            desk.server.answer(path, 200, simulator)
        with pytest.raises(Declined, match="simulator_failed: no room"):
            await desk.client.start_simulator(SESSION)
        desk.server.events = [asyncio.Event()]
        with pytest.raises(BackendUnavailable, match="does not run yet"):
            await desk.client.start_simulator(SESSION, timeout_s=0.05)

    talking(run, story)


def test_a_token_that_is_refused_on_the_line_and_cannot_be_renewed_ends_it(run):
    """4001 wants a new token first; a program that has one only cannot give another."""

    async def story(desk):
        live, link = await desk.enter()
        await link.close(4001)
        with pytest.raises(Declined, match="no other token"):
            await live.until(lambda: False)
        with pytest.raises(Declined):
            await live.until(lambda: False)

    talking(run, story)


def test_a_second_welcome_is_an_error_of_the_protocol(run):
    """A connection has one."""

    async def story(desk):
        _, link = await desk.enter()
        await link.welcome()
        assert await link.gone() == 4002
        await (await desk.server.link()).regreet()

    talking(run, story)


def test_an_answer_that_tells_nothing_of_an_order_is_an_error_of_the_protocol(run):
    """Told to who asked; the conversation goes on."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            placing = group.create_task(caught(live.order("A", "buy", 1)))
            await link.say("ok", ref=(await link.hear("order"))["id"], d={"of": "something else"})
        assert isinstance(placing.result(), RemoteProtocolError)
        assert live.state == "live"

    talking(run, story)


def test_more_requests_at_once_than_may_wait_are_refused_here(run):
    """Every queue has a bound."""

    async def story(desk):
        live, link = await desk.enter()
        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(caught(live.cancel(1, timeout_s=5))) for _ in range(1001)]
            await link.hear("cancel")
            await link.close(4009)
        assert sum(isinstance(ask.result(), LimitExceeded) for ask in asks) == 1

    talking(run, story)


def test_what_the_server_finds_of_the_connection_is_kept(run):
    """Quality, and errors that answer nothing."""

    async def story(desk):
        live, link = await desk.enter()
        assert live.quality is None
        await link.say("quality", grade="degraded", rtt_ms=600.0, p95_ms=700.0, missed=1)
        await link.say("err", code="bad_frame", detail="something")
        await live.until(lambda: live.stats.last_why == "bad_frame: something")
        assert live.quality.grade == "degraded"
        assert repr(live) == f"<LiveSession {SESSION} live>"

    talking(run, story)


def test_all_symbols_need_no_subscription_and_none_is_given_up_as_a_whole(run):
    """Who sees all asks for nothing; who gives something up sees the rest."""

    async def story(desk):
        live, link = await desk.enter()
        await link.say("md", r=1, full=1, rows=[{"s": "A"}, {"s": "B"}])
        await live.until(lambda: len(live.rows) == 2)
        await live.subscribe("C")
        async with asyncio.TaskGroup() as group:
            group.create_task(live.unsubscribe("A"))
            await link.say("ok", ref=(await link.hear("unsub"))["id"])
        link.cut()
        assert (await (await desk.server.link()).regreet())["symbols"] == ["B"]

    talking(run, story)


@pytest.mark.parametrize("data", [b"\xc1", b"\x81\xa1t\xa2ev", b"\x81\xa1t\xa6future", b"\x01"])
def test_binary_frames_are_read_by_the_same_rules(data):
    """An unknown type is left alone; all else that is no frame is an error that names what was wanted."""
    if data.endswith(b"future"):
        assert read_server_frame(data, is_binary=True) is None
    else:
        with pytest.raises(WireError):
            read_server_frame(data, is_binary=True)
