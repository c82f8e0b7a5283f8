"""A trace of the exchange gateway is read by people: orders and events in words, one printable line each."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from sojourn.core.recorder import Direction, redactor_for
from sojourn.gateways.exchange import messages as m
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.trace_words import words_of

FILLED = {
    "order": 7,
    "id": "r-1",
    "symbol": "AAA",
    "side": "buy",
    "quantity": 10,
    "filled": 10,
    "status": "partially_filled",
    "last": {"quantity": 4, "price": "100.25", "fee": "0.1"},
}
RESTING = {"order": 8, "symbol": "AAA", "side": "sell", "quantity": 5, "status": "new", "price": "101"}
REFUSED = {**RESTING, "status": "rejected", "price": "", "reason": "no_cash"}


def event(kind, body, offset=12):
    return LogEvent(offset, kind, msgspec.json.encode(body), 1_000, "a-simulator/run", 3)


WORDS = [
    (event("order", FILLED), "OrderEvent", "buy 10 AAA partially filled 4 at 100.25, order 7, event 12"),
    (event("order", RESTING), "OrderEvent", "sell 5 AAA new at 101, order 8, event 12"),
    (event("order", REFUSED), "OrderEvent", "sell 5 AAA rejected, no_cash, order 8, event 12"),
    (event("orders", {"orders": [FILLED, RESTING]}), "OrdersEvent", "2 orders, event 12"),
    (event("orders", {"orders": [{}]}, 1), "OrdersEvent", "1 order, event 1"),
    (event("order", {"order": "seven"}), "LogEvent", "order, 17 bytes, event 12"),
    (event("from a newer version", {}), "LogEvent", "from a newer version, 2 bytes, event 12"),
    (m.Hello("h", "d1"), "Hello", "device d1"),
    (m.Hello("h", "d1", m.Resume(2, 9), ("AAA",)), "Hello", "device d1, has event 9 of epoch 2, AAA"),
    (m.Heartbeat(4), "Heartbeat", "4"),
    (m.HeartbeatAck(4, 12), "HeartbeatAck", "4, has event 12"),
    (m.Subscribe("s", ("AAA", "BBB")), "Subscribe", "AAA BBB"),
    (m.Subscribe("s", tuple("ABCDEFGHIJ")), "Subscribe", "A B C D E F G H and 2 more"),
    (m.Unsubscribe("s", ("AAA",)), "Unsubscribe", "AAA"),
    (m.PlaceOrder("r-1", "AAA", "buy", 10, "market", None, "ioc"), "PlaceOrder", "buy 10 AAA market ioc, r-1"),
    (m.PlaceOrder("r-2", "AAA", "sell", 1, "limit", "99.5"), "PlaceOrder", "sell 1 AAA limit 99.5, r-2"),
    (m.CancelOrder("r-3", 7), "CancelOrder", "order 7, r-3"),
    (m.ReplaceOrder("r-4", 7, 20, "99"), "ReplaceOrder", "order 7 to 20 at 99, r-4"),
    (m.SimulatorCommand("r-5", "start"), "SimulatorCommand", "start, r-5"),
    (m.SnapshotRequest("r-6"), "SnapshotRequest", "r-6"),
    (m.Bye(), "Bye", ""),
    (
        m.Snapshot(epoch=1, o=12, sim="running", orders=(msgspec.Raw(b"{}"),)),
        "Snapshot",
        "event 12 of epoch 1, 1 order, simulator running",
    ),
    (
        m.Welcome(
            session="s",
            conn="c",
            pod="pod-1",
            epoch=1,
            events=9,
            md=0,
            pf=0,
            resumed="full",
            recovered=3,
            heartbeat=m.HeartbeatTerms(1, 2),
            limits=m.LinkLimits(1, 1, 1),
            reconnect=m.ReconnectTerms(1, 2, 0.5),
            server_time=1,
        ),
        "Welcome",
        "resumed full, event 9 of epoch 1, 3 more follow, pod pod-1",
    ),
    (m.Ok("r-1", {"order": 7, "status": "filled", "filled": 10}), "Ok", "r-1, order 7, status filled, filled 10"),
    (m.Ok("r-5"), "Ok", "r-5"),
    (m.Err("order_refused", "no_cash", "r-1"), "Err", "order_refused: no_cash, r-1"),
    (m.Err("bad_frame"), "Err", "bad_frame"),
    (m.ServerHeartbeat(3), "ServerHeartbeat", "3"),
    (m.ServerHeartbeatAck(n=3, time=1), "ServerHeartbeatAck", "3"),
    (m.SimulatorState("failed", "id", "no memory"), "SimulatorState", "failed, no memory"),
    (m.QualityReport(grade="poor", rtt_ms=812.5, p95_ms=900, missed=2), "QualityReport", "poor, 812.5 ms, 2 missed"),
    (m.Warn("idle", 30.0), "Warn", "idle in 30 s"),
    (m.Degraded("events"), "Degraded", "events"),
    (m.Restored("events"), "Restored", "events"),
    (m.Drain(100, m.Resume(1, 12)), "Drain", "come back in 100 ms, has event 12"),
    (m.Replaced("d2"), "Replaced", "by device d2"),
    (m.Ended("expired"), "Ended", "expired"),
]  # fmt: skip


def words(what):
    redact = redactor_for(type(what))
    return words_of((0.0, Direction.IN, 1, what if redact is None else redact(what)))


@pytest.mark.parametrize(("what", "name", "line"), WORDS, ids=lambda one: one if isinstance(one, str) else "")
def test_what_is_recorded_is_told_in_words(what, name, line):
    """A frame has its own name; an event of the log that of what it tells."""
    assert words(what) == (name, line)


def test_every_frame_has_words():
    """Whatever a client may send, and whatever is sent to it."""
    told = {type(what) for what, _, _ in WORDS}
    ours = set(m._FromServer.__subclasses__())
    assert {*get_args(m.ClientFrame), *ours} <= told


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\u202e", "\x00"])
def test_what_a_client_made_up_stays_in_one_printable_line(text):
    """Ids and symbols may hold any character."""
    for frame in (
        m.PlaceOrder(text, text, "buy", 1),
        m.Subscribe("s", (text,)),
        m.Err("x", text, text),
        m.Ok(text),
    ):
        assert words(frame)[1].isprintable()
    assert words(event("order", {**RESTING, "symbol": text, "reason": text}))[1].isprintable()
    assert words(LogEvent(1, text, b"", 0))[1].isprintable()


def test_a_line_of_text_is_itself():
    """What happens to the session on this pod is recorded as text."""
    assert words_of((0.0, Direction.STATE, 0, "it owns the session")) == ("it owns the session", "")
