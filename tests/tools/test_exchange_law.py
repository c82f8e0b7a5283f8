"""The judge of ``bench/exchange_resume.py``: it must see each way in which the law can be broken."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sojourn.gateways.exchange.peer import LiveEvent


@pytest.fixture
def law(monkeypatch):
    """The module, which is a part of a program and in no package."""
    bench = str(Path(__file__).resolve().parents[2] / "bench")
    monkeypatch.syspath_prepend(bench)
    yield importlib.import_module("exchange_truth")
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(bench):
            del sys.modules[name]


BODIES = [
    {
        "order": number // 2,
        "id": f"u-{number // 2}",
        "status": "filled" if number % 2 else "new",
        "at": number,
    }
    for number in range(2, 22)
]


def told(bodies, epoch=1):
    """Events as a client gets them from the beginning of a log."""
    return [LiveEvent(epoch, offset, "order", body) for offset, body in enumerate(bodies, 1)]


def snapshot(bodies, epoch=1):
    """A snapshot, of the type that is given: what each order's last event told."""
    orders = {body["order"]: body for body in bodies}
    return LiveEvent(epoch, 0, "snapshot", {"orders": list(orders.values())})


def judged(law, events, placed=(), breaches_count=0):
    """Judge what a client was told."""
    live = SimpleNamespace(stats=SimpleNamespace(gaps_count=breaches_count))
    trader = SimpleNamespace(
        name="u", events=events, placed=dict(placed), live=live, error="", contradictions=[]
    )
    return law.judge(trader, law.Truth("run", BODIES))


def test_what_was_told_as_it_happened_is_right(law):
    """Each once, in order."""
    verdict = judged(law, [snapshot(()), *told(BODIES)], {"u-3": 3})
    assert verdict.is_kept
    assert verdict.events == len(BODIES)


@pytest.mark.parametrize(
    ("choose", "broken"),
    [
        (lambda all_of: all_of[:-1], {"lost": 1}),
        (lambda all_of: all_of[:4] + all_of[6:], {"lost": 2}),
        (lambda all_of: all_of[:4] + all_of[3:], {"doubled": 1}),
        (lambda all_of: [*all_of[:4], all_of[5], all_of[4], *all_of[6:]], {"moved": 1}),
        (
            lambda all_of: [*all_of[:-1], LiveEvent(1, 20, "order", {"order": 99})],
            {"foreign": 20, "lost": 20},
        ),
    ],
)
def test_an_event_that_is_missing_or_twice_or_in_another_place_or_made_up_is_seen(law, choose, broken):
    """And counted."""
    verdict = judged(law, [snapshot(()), *choose(told(BODIES))])
    assert not verdict.is_kept
    assert {name: getattr(verdict, name) for name in broken} == broken


def test_a_snapshot_stands_for_what_was_missed_if_it_is_right(law):
    """It has each order as its last event told it, and the next event is the next one."""
    begun = [snapshot(()), *told(BODIES[:6])]
    after = told(BODIES[10:], epoch=2)
    assert judged(law, [*begun, snapshot(BODIES[:10], epoch=2), *after]).is_kept
    assert judged(law, [*begun, snapshot(BODIES[:8], epoch=2), *after]).lost == 4
    assert judged(law, [*begun, snapshot((), epoch=2), *after]).lost == 4


def test_what_is_told_again_behind_a_snapshot_is_doubled(law):
    """A session goes on without gap and without overlap."""
    verdict = judged(law, [snapshot(()), *told(BODIES[:6]), snapshot((), epoch=2), *told(BODIES, epoch=2)])
    assert verdict.doubled == 6


def test_orders_are_there_once(law):
    """What was acknowledged exists, under the number that was told, and an id is one order."""
    verdict = judged(law, [snapshot(()), *told(BODIES)], {"u-3": 4, "u-99": 7})
    assert verdict.missing_orders == 2
    twice = [*BODIES, {"order": 50, "id": "u-3", "status": "filled", "at": 0}]
    live = SimpleNamespace(stats=SimpleNamespace(gaps_count=0))
    trader = SimpleNamespace(name="u", events=told(twice), placed={}, live=live, error="", contradictions=[])
    assert law.judge(trader, law.Truth("run", twice)).executed_twice == 1


def test_a_breach_of_the_protocol_counts(law):
    """The client's own checks saw it first."""
    assert not judged(law, [snapshot(()), *told(BODIES)], breaches_count=1).is_kept
