"""The law of the mirror: wherever a line is cut, a client ends with what the server shows, each event told once."""

from __future__ import annotations

import functools
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from link_room import LabRoom

from sojourn.gateways.exchange.event_log import EventLog
from sojourn.gateways.exchange.messages import Welcome
from sojourn.gateways.exchange.peer.frames import (
    EventFrame,
    MarketFrame,
    PortfolioFrame,
    SnapshotFrame,
    read_server_frame,
)
from sojourn.gateways.exchange.peer.mirror import SNAPSHOT, Mirror
from sojourn.gateways.exchange.peer.stats import LiveStats

SYMBOLS = ("A", "B", "C")
KEPT_COUNT = 6
ACTIONS = st.one_of(
    st.tuples(st.just("event"), st.sampled_from((1, 2, KEPT_COUNT + 2))),
    st.tuples(st.just("market"), st.sets(st.sampled_from(SYMBOLS), min_size=1)),
    st.tuples(st.just("portfolio"), st.integers(0, 9)),
    st.tuples(st.just("want"), st.sets(st.sampled_from(SYMBOLS))),
    st.tuples(st.just("refresh"), st.none()),
    st.tuples(st.just("begin_anew"), st.none()),
    st.tuples(st.just("cut"), st.tuples(st.integers(0, 3), st.sampled_from((0, 1, KEPT_COUNT + 2)))),
    st.tuples(st.just("read"), st.none()),
)


class Client:
    """A mirror on one link after the other; frames on their way may be lost with their link, from the end."""

    def __init__(self, room, *, is_binary):
        self.room, self.is_binary = room, is_binary
        self.stats = LiveStats()
        self.mirror = Mirror(self.stats)
        self.told = []
        self.symbols = None
        self.link = None
        self.coming = []
        self.come_back()

    def come_back(self):
        self.link = self.room.client(is_binary=self.is_binary)
        resume = self.mirror.say_hello()
        hello = {
            "resume": None if resume is None else {n: getattr(resume, n) for n in resume.__struct_fields__}
        }
        if self.symbols is not None:
            hello["symbols"] = sorted(self.symbols)
        self.coming = self.link.hello(**hello)

    def want(self, symbols):
        """Want these rows only; from all to some is a matter of unsubscribing."""
        seen = set(SYMBOLS) if self.symbols is None else self.symbols
        for name, these in (("sub", symbols - seen), ("unsub", seen - symbols)):
            if name == "unsub" or self.symbols is not None:
                self.mirror.ask_rows()
                self.coming += self.link.say(name, id=f"about-{name}", symbols=sorted(these))
        self.symbols = set(symbols)

    def read(self, count=None):
        """Take what has come, or the first so many frames of it."""
        self.coming += self.link.heard()
        for frame in self.coming[:count]:
            self.take(frame)
        self.coming = []

    def take(self, frame):
        mirror = self.mirror
        if frame["t"] == "ok" and frame["ref"].startswith("about"):
            mirror.rows_granted()
        read = read_server_frame(json.dumps(frame))
        match read:
            case Welcome():
                mirror.take_welcome(read)
            case EventFrame():
                self.told.append(mirror.take_event(read))
            case SnapshotFrame():
                self.told.append(mirror.take_snapshot(read))
            case MarketFrame():
                mirror.take_market(read)
            case PortfolioFrame():
                mirror.take_portfolio(read)

    def cut(self, count, happens=lambda: None):
        """Lose the link, and all but the first frames that were on their way; then something happens."""
        self.read(count)
        self.link.link.lost()
        happens()
        self.come_back()


def happen(room, count):
    """Let some events happen."""
    for _ in range(count):
        last = room.view.log.last
        room.event({"order": last, "status": "new"})


def check(room, client):
    """Let everything come, and compare what the client knows with what the server shows."""
    view, mirror = room.view, client.mirror
    view.tick(room.clock())
    client.read()
    assert (mirror.resume.epoch, mirror.resume.events) == (view.log.epoch, view.log.last)
    seen = set(SYMBOLS) if client.symbols is None else client.symbols
    rows = {symbol: value for symbol, value, _ in view.feed.rows_after(-1)}
    assert mirror.rows == {symbol: rows[symbol] for symbol in seen}
    assert mirror.portfolio == view.portfolio
    assert {number: json.loads(body) for number, body in view.orders.items()} == mirror.orders


@settings(max_examples=300, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=20, max_size=60), is_binary=st.booleans())
def test_a_client_ends_with_what_the_server_shows(actions, is_binary):
    """Section 5.4: resume, snapshot and cursors together, against the server's own link and view."""
    room = LabRoom()
    room.view.log = EventLog(1, 0, limit_count=KEPT_COUNT, limit_bytes=10**6, keep_s=900)
    room.market(1, A=0, B=0, C=0)
    room.view.take_portfolio({"cash": "0"}, 1)
    client = Client(room, is_binary=is_binary)
    begun_anew = 0
    for number, (action, value) in enumerate(actions, 2):
        room.clock.advance(1.0)
        match action:
            case "event":
                happen(room, value)
            case "market":
                room.market(number, **dict.fromkeys(value, number))
            case "portfolio":
                room.view.take_portfolio({"cash": str(value)}, number)
            case "want":
                client.want(value)
            case "refresh":
                client.coming += client.link.say("snapshot", id="about-all")
                client.mirror.ask_rows()
            case "begin_anew":
                begun_anew += 1
                last = room.view.log.last
                fresh = EventLog(number, last, limit_count=KEPT_COUNT, limit_bytes=10**6, keep_s=900)
                room.view.restart(fresh)
            case "cut":
                count, missed_count = value
                client.cut(count, functools.partial(happen, room, missed_count))
            case "read":
                check(room, client)
        room.view.tick(room.clock())
    client.cut(0)
    room.clock.advance(1.0)
    check(room, client)
    place = None
    for event in client.told:
        if event.type != SNAPSHOT:
            assert (event.epoch, event.offset) == (place[0], place[1] + 1)
        place = event.epoch, event.offset
    assert client.told[0].type == SNAPSHOT
    snapshots = sum(event.type == SNAPSHOT for event in client.told)
    assert client.stats.lost_count <= snapshots - 1
    if not begun_anew and room.view.log.last <= KEPT_COUNT:
        assert client.stats.lost_count == 0
        offsets = [event.offset for event in client.told if event.type != SNAPSHOT]
        assert len(offsets) == len(set(offsets))
