"""A client's link: hello, resume, commands, limits, heartbeats, slow readers and every way it ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_room import LabRoom

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import Close, Err

ORDER = {"symbol": "AAPL", "side": "buy", "quantity": 5, "price": "175.25"}


def kinds(frames):
    """Name frames."""
    return [frame["t"] for frame in frames]


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_hello_is_answered_by_welcome_snapshot_and_all_rows(is_binary):
    """Specification 5.4: the snapshot says after which event it stands, the rows which revision they make."""
    room = LabRoom()
    room.event()
    room.event({"order": 1, "status": "filled"})
    room.market(7, AAA=1, BBB=2)
    room.view.take_portfolio({"cash": "10"}, 7)
    frames = room.client(is_binary=is_binary).hello()
    assert kinds(frames) == ["welcome", "snapshot", "md", "pf"]
    welcome, snapshot, market, portfolio = frames
    assert (welcome["resumed"], welcome["epoch"], welcome["events"], welcome["session"]) == (
        "none",
        1,
        2,
        "s-1",
    )
    assert (snapshot["epoch"], snapshot["o"], snapshot["orders"]) == (
        1,
        2,
        [{"order": 1, "status": "filled"}],
    )
    assert (market["r"], market["full"], len(market["rows"])) == (7, 1, 2)
    assert (portfolio["r"], portfolio["d"]) == (7, {"cash": "10"})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(("event", "market", "portfolio", "tick", "cut")), max_size=40), st.booleans())
def test_a_client_that_comes_back_has_every_event_once_and_the_last_of_all_state(turns, is_binary):
    """Whenever it was cut: events 1, 2, 3 without gap or double; the rows and the portfolio of now."""
    room = LabRoom()
    state = {"events": [], "rows": {}, "pf": None, "md_r": 0, "pf_r": 0}
    truth, portfolio = {}, None

    def take(frames):
        for frame in frames:
            match frame["t"]:
                case "ev":
                    assert frame["o"] == len(state["events"]) + 1
                    state["events"].append(frame["o"])
                case "md":
                    if frame.get("full"):
                        state["rows"].clear()
                    state["rows"] |= {row["s"]: row["v"] for row in frame["rows"]}
                    state["md_r"] = frame["r"]
                case "pf":
                    state["pf"], state["pf_r"] = frame["d"], frame["r"]

    client = room.client(is_binary=is_binary)
    take(client.hello())
    for number, turn in enumerate(turns, 1):
        match turn:
            case "event":
                room.event()
            case "market":
                symbol = "ABC"[number % 3]
                truth[symbol] = number
                room.market(number, **{symbol: number})
            case "portfolio":
                portfolio = {"cash": number}
                room.view.take_portfolio(portfolio, number)
            case "tick":
                room.clock.advance(0.3)
                room.view.tick(room.clock())
            case "cut":
                client.link.lost()
                client.outlet.data = b""  # what was on its way is lost
                client = room.client(is_binary=is_binary)
                resume = {
                    "epoch": 1,
                    "events": len(state["events"]),
                    "md": state["md_r"],
                    "pf": state["pf_r"],
                }
                frames = client.hello(resume=resume)
                assert frames[0]["resumed"] in ("full", "partial")
                take(frames)
        if turn != "cut" and number % 2:
            take(client.heard())
    room.clock.advance(2.0)
    room.view.tick(room.clock())
    take(client.heard())
    assert state["events"] == list(range(1, room.view.log.last + 1))
    assert (state["rows"], state["pf"]) == (truth, portfolio)


def test_a_resume_of_another_epoch_gets_a_snapshot_and_its_epoch():
    """Continuity cannot be proven: the client is told so, and adopts the epoch with the offset that comes with it."""
    room = LabRoom()
    room.event()
    frames = room.client().hello(resume={"epoch": 9, "events": 1})
    assert (frames[0]["resumed"], frames[0]["epoch"], frames[0]["events"]) == ("none", 1, 1)
    assert kinds(frames)[1] == "snapshot"


def test_a_resume_behind_what_is_kept_gets_a_snapshot():
    """Never a part of what is missing."""
    room = LabRoom()
    for _ in range(150):
        room.event()
    assert room.client().hello(resume={"epoch": 1, "events": 49})[0]["resumed"] == "none"
    frames = room.client().hello(resume={"epoch": 1, "events": 50})
    assert (frames[0]["resumed"], frames[0]["recovered"], frames[1]["o"]) == ("full", 100, 51)


def test_a_cursor_of_the_future_is_looked_for_in_the_durable_log_first(run):
    """A pod that lags is no reason to doubt a client; the log decides."""

    async def scenario():
        room = LabRoom()
        room.event()
        room.news = [None, None]
        client = room.client()
        assert client.hello(resume={"epoch": 1, "events": 2}) == []
        await room.settle()
        frames = client.heard()
        assert (frames[0]["resumed"], frames[0]["recovered"], kinds(frames)[1]) == ("full", 1, "ev")

    run(scenario())


def test_a_cursor_that_was_never_given_out_is_told_and_gets_a_snapshot(run):
    """``bad_cursor``, and the session goes on from what is."""

    async def scenario():
        room = LabRoom()
        room.event()
        client = room.client()
        client.hello(resume={"epoch": 1, "events": 99})
        await room.settle()
        frames = client.heard()
        assert kinds(frames)[:3] == ["err", "welcome", "snapshot"]
        assert (frames[0]["code"], frames[1]["resumed"]) == ("bad_cursor", "none")

    run(scenario())


def test_a_client_that_has_seen_more_than_we_can_know_now_comes_back_later(run):
    """An older snapshot would make it hear events twice: 1012, so that it resumes where the log can be read."""

    async def scenario():
        room = LabRoom()
        room.event()
        room.is_log_away = True
        client = room.client()
        client.hello(resume={"epoch": 1, "events": 2})
        await room.settle()
        (frame,) = client.heard()
        assert frame["code"] == "unavailable"
        assert client.closed == Close.RESTART

    run(scenario())


def test_a_session_has_so_many_links_at_most():
    """The one too many is told, and closed with 4029."""
    room = LabRoom(session_links_count=2)
    for _ in range(2):
        assert room.client().hello()[0]["t"] == "welcome"
    third = room.client()
    assert third.hello()[0]["code"] == "rate_limited"
    assert third.closed == Close.LIMIT


def test_pings_are_counted_like_frames():
    """What a WebSocket library answers by itself is no way around the limit."""
    room = LabRoom(frames_per_s=1.0, frames_burst_count=3, bad_frames_count=2)
    client = room.client()
    client.hello()
    assert [client.link.pinged() for _ in range(3)] == [True, True, False]
    for _ in range(3):
        assert not client.link.pinged()
    assert client.closed == Close.LIMIT


def test_market_data_of_another_market_is_not_continued():
    """The revisions of a simulator that is gone: events are replayed, the market comes as a whole."""
    room = LabRoom()
    room.view.feed.reset([("AAA", {"s": "AAA", "v": 1}, 2**32 + 3)], 2**32 + 3, base=2**32)
    room.view.take_portfolio({}, 2**32 + 3)
    frames = room.client().hello(resume={"epoch": 1, "events": 0, "md": 900, "pf": 900})
    assert frames[0]["resumed"] == "partial"
    assert next(frame for frame in frames if frame["t"] == "md")["full"] == 1


def test_a_resume_of_a_session_that_never_had_a_portfolio_is_full():
    """Nothing is missing: prices go on where they were, and of the other there is nothing."""
    room = LabRoom()
    room.market(7, AAA=1)
    room.event()
    frames = room.client().hello(resume={"epoch": 1, "events": 0, "md": 7, "pf": 0})
    assert (frames[0]["resumed"], kinds(frames)) == ("full", ["welcome", "ev", "sim"])
    room.view.take_portfolio({}, 8)
    assert room.client().hello(resume={"epoch": 1, "events": 1, "md": 7, "pf": 0})[0]["resumed"] == "partial"


def test_a_client_sees_the_symbols_that_it_asked_for():
    """At hello, and as it changes its mind."""
    room = LabRoom()
    room.market(1, AAA=1, BBB=1, CCC=1)
    client = room.client()

    def rows(frames):
        return sorted(row["s"] for frame in frames if frame["t"] == "md" for row in frame["rows"])

    assert rows(client.hello(symbols=["AAA"])) == ["AAA"]
    assert kinds(client.say("sub", id="1", symbols=["BBB"])) == ["ok"]
    room.clock.advance(1.0)
    room.view.tick(room.clock())
    assert rows(client.heard()) == ["AAA", "BBB"]
    client.say("unsub", id="2", symbols=["AAA"])
    room.market(2, AAA=2, BBB=2, CCC=2)
    room.clock.advance(1.0)
    room.view.tick(room.clock())
    assert rows(client.heard()) == ["BBB"]


# Commands


def test_commands_are_carried_out_in_order_and_answered_by_their_id(run):
    """One after the other; heartbeats do not wait behind them."""

    async def scenario():
        room = LabRoom()
        gate = asyncio.Event()

        async def do(command):
            await gate.wait()
            return {"n": len(room.commands)}

        room.do = do
        client = room.client()
        client.hello()
        client.say("order", id="a", **ORDER)
        client.say("cancel", id="b", order=1)
        assert client.say("hb", n=5) == [{"t": "hb_ack", "n": 5, "time": 100_000}]
        gate.set()
        await room.settle()
        assert client.heard() == [
            {"t": "ok", "ref": "a", "d": {"n": 1}},
            {"t": "ok", "ref": "b", "d": {"n": 2}},
        ]
        assert room.active_count == 2

    run(scenario())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("order_refused", "insufficient_cash"), "order_refused"),
        (BackendUnavailable("simulator", 0.0, "circuit open"), "unavailable"),
        (TimeoutError(), "outcome_unknown"),
    ],
)
def test_a_command_that_fails_is_answered_by_a_code_and_the_next_one_is_done(run, error, code):
    """Each failure has its code; nothing else is lost by it, and nothing of the inside is told."""

    async def scenario():
        room = LabRoom()

        async def do(command):
            if command.id == "bad":
                raise error

        room.do = do
        client = room.client()
        client.hello()
        client.say("order", id="bad", **ORDER)
        client.say("order", id="good", **ORDER)
        await room.settle()
        first, second = client.heard()
        assert (first["t"], first["ref"], first["code"]) == ("err", "bad", code)
        assert "circuit" not in first["detail"]
        assert second == {"t": "ok", "ref": "good"}

    run(scenario())


def test_commands_beyond_the_bound_are_refused_and_those_before_are_done(run):
    """A bounded queue."""

    async def scenario():
        room = LabRoom(commands_count=3)
        client = room.client()
        client.hello()
        for number in range(5):
            client.link.receive(f'{{"t":"cancel","id":"{number}","order":1}}')
        await room.settle()
        frames = client.heard()
        assert [(frame["ref"], frame["t"]) for frame in frames] == [
            ("3", "err"),
            ("4", "err"),
            ("0", "ok"),
            ("1", "ok"),
            ("2", "ok"),
        ]

    run(scenario())


def test_a_client_that_leaves_amid_a_command_leaves_nothing_behind(run):
    """The order is carried out; what waited behind it is not; nobody is answered."""

    async def scenario():
        room = LabRoom()
        gate = asyncio.Event()

        async def do(command):
            await gate.wait()

        room.do = do
        client = room.client()
        client.hello()
        client.say("order", id="a", **ORDER)
        client.say("order", id="b", **ORDER)
        await asyncio.sleep(0)
        client.link.lost()
        gate.set()
        await room.settle()
        assert len(room.commands) == 1
        assert client.heard() == []
        assert (room.left_count, room.view.links) == (1, set())

    run(scenario())


# Bad input


def test_frames_that_cannot_be_read_are_answered_and_too_many_end_the_link():
    """Each is told; after ten the link is closed with 4002."""
    room = LabRoom()
    client = room.client()
    client.hello()
    for bad in ("{", '{"t":"fly"}', '{"t":"order","id":"x","quantity":NaN}'):
        client.link.receive(bad)
    assert [frame["code"] for frame in client.heard()] == ["bad_frame", "unknown_type", "bad_frame"]
    for _ in range(8):
        client.link.receive("{")
    assert client.closed == Close.PROTOCOL
    assert room.left_count == 1
    client.link.receive("{")


def test_a_flood_is_refused_and_then_closed():
    """A bucket per link; who goes on is closed with 4029."""
    room = LabRoom(frames_per_s=1.0, frames_burst_count=3)
    client = room.client()
    client.hello()
    frames = [frame for number in range(5) for frame in client.say("hb", n=number)]
    assert [frame.get("code") for frame in frames] == [
        None,
        None,
        "rate_limited",
        "rate_limited",
        "rate_limited",
    ]
    for _ in range(10):
        client.link.receive('{"t":"bye"}')
    assert client.closed == Close.LIMIT


def test_what_comes_before_hello_ends_the_link():
    """It may be anything; the session sees nothing of it."""
    room = LabRoom()
    client = room.client()
    assert client.say("order", id="a", **ORDER)[0]["code"] == "hello_first"
    assert client.closed == Close.PROTOCOL
    assert not room.commands


def test_a_second_hello_is_refused():
    """And the link goes on."""
    room = LabRoom()
    client = room.client()
    client.hello()
    assert client.hello(id="again")[0]["code"] == "hello_twice"
    assert client.closed is None


def test_a_client_that_the_session_refuses_is_told_and_closed():
    """Another device has it."""
    room = LabRoom()
    room.refusal = Err("wrong_device", "the session is another device's")
    client = room.client()
    assert [frame["code"] for frame in client.hello()] == ["wrong_device"]
    assert client.closed == Close.REPLACED
    assert room.view.links == set()


def test_a_client_of_a_session_that_is_over_is_sent_away_for_good():
    """The table of close codes: 4009, after which it does not come back."""
    room = LabRoom()
    room.refusal = Err("forbidden", "the session has ended: user")
    client = room.client()
    assert [frame["code"] for frame in client.hello()] == ["forbidden"]
    assert client.closed == Close.SESSION_ENDED


# Time


def test_a_link_without_a_hello_is_closed():
    """Five seconds; with a code that lets it come back, as a network that clogs holds a hello up too."""
    room = LabRoom()
    client = room.client()
    client.link.sweep(room.clock() + 5.0)
    assert client.closed is None
    client.link.sweep(room.clock() + 5.1)
    assert client.closed == Close.HEARTBEAT_TIMEOUT


def test_heartbeats_are_sent_and_a_silent_client_is_closed():
    """Every ten seconds; after 35 without a word the link ends with 4000, which says come back."""
    room = LabRoom()
    client = room.client()
    client.hello()
    start = room.clock()
    numbers = []
    for second in range(1, 37):
        client.link.sweep(start + second)
        if client.closed is None:
            numbers += [frame["n"] for frame in client.heard() if frame["t"] == "hb"]
    assert numbers == [1, 2, 3]
    assert client.closed == Close.HEARTBEAT_TIMEOUT


def test_quality_is_told_when_it_changes():
    """By our own clock: the round trip of our heartbeat."""
    room = LabRoom()
    client = room.client()
    client.hello()
    room.clock.advance(10.0)
    client.link.sweep(room.clock())
    assert kinds(client.heard()) == ["hb"]
    room.clock.advance(0.8)
    (report,) = client.say("hb_ack", n=1, o=0)
    assert (report["t"], report["grade"], report["rtt_ms"]) == ("quality", "degraded", 800.0)


def test_what_a_client_has_is_known_from_its_heartbeats():
    """The highest contiguous event, never more than there is."""
    room = LabRoom()
    client = room.client()
    client.hello()
    room.event()
    client.say("hb_ack", n=0, o=1)
    assert client.link.acked == 1
    client.say("hb_ack", n=0, o=77)
    assert client.link.acked == 1


# Slow readers


def test_a_slow_client_misses_ticks_and_then_gets_the_latest_rows():
    """Its cursor stays; others are sent every tick meanwhile."""
    room = LabRoom()
    slow, fast = room.client(), room.client()
    slow.hello()
    fast.hello()
    slow.outlet.waits_bytes = 100_000
    for revision in range(1, 5):
        room.market(revision, AAA=revision)
        room.clock.advance(0.06)
        room.view.tick(room.clock())
    assert kinds(slow.heard()) == []
    assert kinds(fast.heard()) == ["md"] * 4
    room.event()
    assert kinds(slow.heard()) == ["ev"]
    slow.outlet.waits_bytes = 0
    room.clock.advance(1.1)
    room.view.tick(room.clock())
    (frame,) = slow.heard()
    assert (frame["r"], frame["rows"]) == (4, [{"s": "AAA", "v": 4}])


def test_a_client_that_takes_nothing_is_closed_and_can_come_back():
    """4008, at 1 MiB or after ten seconds; the session and the others do not notice."""
    room = LabRoom()
    slow, fast = room.client(), room.client()
    slow.hello()
    fast.hello()
    slow.outlet.waits_bytes = 1_048_576
    room.event()
    assert slow.closed == Close.SLOW_CONSUMER
    assert kinds(fast.heard()) == ["ev"]
    back = room.client()
    assert back.hello(resume={"epoch": 1, "events": 0})[0]["recovered"] == 1


def test_a_long_replay_does_not_make_a_client_slow():
    """What it is sent to catch up is not held against it."""
    room = LabRoom()
    for _ in range(90):
        room.event({"order": 1, "status": "new", "text": "x" * 9_000})
    client = room.client()
    frames = client.hello(resume={"epoch": 1, "events": 0})
    assert frames[0]["recovered"] == 90
    client.outlet.waits_bytes = 90 * 9_050
    room.event()
    assert client.closed is None


def test_everything_that_matters_is_recorded_and_prices_are_not():
    """The flight recorder gets frames, events and answers, never ticks."""
    room = LabRoom()
    room.market(1, AAA=1)
    client = room.client()
    client.hello()
    room.event()
    assert room.recorded == [(0, "Hello"), (1, "Welcome"), (1, "LogEvent")]
