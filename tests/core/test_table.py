"""How many sessions a connection carries, and when it closes."""

from __future__ import annotations

import pytest

from sojourn.core.table import Mode, SessionTable


def opened(mode, limit=2, *keys):
    table = SessionTable(mode, limit)
    for key in keys:
        table.live[key] = object()
        table.opened += 1
    return table


def test_a_multi_table_opens_up_to_its_limit():
    """And again when one has ended."""
    table = opened(Mode.MULTI, 2, 1, 2)
    assert table.refusal() == "2 sessions are open, the limit"
    del table.live[1]
    assert table.refusal() is None


def test_a_single_table_opens_one_in_its_life():
    """Also after that one has ended."""
    table = opened(Mode.SINGLE)
    assert table.refusal() is None
    table = opened(Mode.SINGLE, 2, 1)
    assert table.refusal() == "the connection carries a single session"
    table.live.clear()
    assert table.refusal() == "the connection carries a single session"


@pytest.mark.parametrize(("multi", "mode"), [(True, Mode.MULTI), (False, Mode.SINGLE)])
def test_a_negotiating_table_opens_one_until_the_first_reply_has_said_more(multi, mode):
    """RFC 8907 section 4.3: single-connect is agreed on in the first exchange."""
    table = opened(Mode.NEGOTIATING, 2, 1)
    assert table.refusal() == "a second session came before the first reply"
    table.negotiated(multi=multi)
    assert table.mode == mode
    assert (table.refusal() is None) == multi


def test_negotiation_happens_once():
    """Whoever asks later asks in vain."""
    table = opened(Mode.SINGLE, 2, 1)
    table.negotiated(multi=True)
    assert table.mode == Mode.SINGLE
    table.drain()
    table.negotiated(multi=True)
    assert table.mode == Mode.DRAINING


def test_a_draining_table_opens_nothing_and_says_when_nothing_runs():
    """So that the connection can close at once."""
    assert opened(Mode.MULTI).drain()
    table = opened(Mode.MULTI, 2, 1)
    assert not table.drain()
    assert table.refusal() == "the connection is draining"
