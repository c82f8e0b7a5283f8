"""Tokens and tickets: who is found, and who is not."""

from __future__ import annotations

import hmac

import pytest
from itv2_api_lab import TOKENS, word

from sojourn.gateways.itv2.http import tokens
from sojourn.gateways.itv2.http.problems import Refusal
from sojourn.gateways.itv2.http.tokens import TICKETS_COUNT, TicketDesk, TokenTable
from sojourn.testing.clock import ManualClock


def test_every_token_is_compared_whoever_it_is(monkeypatch):
    """The time that it takes tells nothing of how much of a token is right, nor whose it is."""
    table = TokenTable(TOKENS)
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(
        tokens.hmac, "compare_digest", lambda one, other: compared.append(one) or compare(one, other)
    )
    for text in (word("reader"), word("hashed"), "nobody's"):
        compared.clear()
        found = table.find(text)
        assert (found.name if found else "nobody's") in text
        assert len(compared) == len(TOKENS)


def test_a_ticket_works_once_and_shortly():
    """What a web page shows may be seen on the way to it; a reload brings another lifetime for new tickets."""
    clock = ManualClock()
    lifetimes = [30.0]
    (holder,) = TokenTable(TOKENS[:1])._holders
    desk = TicketDesk(lambda: lifetimes[-1], clock)
    ticket = desk.give(holder)
    assert desk.take(ticket) is holder
    with pytest.raises(Refusal):
        desk.take(ticket)
    late = desk.give(holder)
    lifetimes.append(60.0)
    longer = desk.give(holder)
    clock.advance(31.0)
    with pytest.raises(Refusal):
        desk.take(late)
    assert desk.take(longer) is holder


def test_tickets_are_bounded():
    """Whoever asks for tickets and never comes costs no memory."""
    (holder,) = TokenTable(TOKENS[:1])._holders
    desk = TicketDesk(lambda: 30.0, ManualClock())
    first = desk.give(holder)
    for _ in range(TICKETS_COUNT):
        desk.give(holder)
    with pytest.raises(Refusal):
        desk.take(first)
