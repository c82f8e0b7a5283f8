"""The market in motion: determinism, numbered events, revisions of state, prices from a seed or a file."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import ConfigError
from sojourn.gateways.exchange.market.engine import Request
from sojourn.gateways.exchange.market.orders import OrderStatus, OrderType, Reject, Side, TimeInForce
from sojourn.gateways.exchange.market.prices import RandomWalk, read_replay
from sojourn.gateways.exchange.market.settings import (
    InstrumentSettings,
    MarketSettings,
    amount_e6,
    amount_text,
)
from sojourn.gateways.exchange.market.simulation import CATCH_UP_STEPS_COUNT, EVENTS_COUNT, Simulation

ONE = InstrumentSettings("AAA", "100", shares=50)
SMALL = MarketSettings(seed=7, instruments=(ONE,), step_ms=100)
BUY = Request("AAA", Side.BUY, 10, type=OrderType.MARKET, time_in_force=TimeInForce.IOC)
LOW = Request("AAA", Side.BUY, 1, 50_000_000)

TURNS = st.lists(
    st.integers(0, 700)
    | st.builds(
        Request,
        symbol=st.just("AAA"),
        side=st.sampled_from((Side.BUY, Side.SELL)),
        quantity=st.integers(1, 80),
        price_e6=st.integers(9_900, 10_100).map(lambda ticks: ticks * 10_000),
    ),
    max_size=25,
)


def ran(market, turns):
    """Let a market live through times and orders."""
    for turn in turns:
        if isinstance(turn, Request):
            market.submit(turn)
        else:
            market.advance(market.time_ms + turn)
    return market


@settings(max_examples=60, deadline=None)
@given(TURNS, st.integers(0, 2**53))
def test_the_same_seed_and_the_same_orders_give_the_same_market(turns, seed):
    """Events, prices and portfolio depend on the seed, the orders and their times, and on nothing else."""
    one, other = (
        ran(Simulation(MarketSettings(seed=seed, instruments=(ONE,), step_ms=100)), turns) for _ in range(2)
    )
    assert list(one.events) == list(other.events)
    assert one.rows_after(0) == other.rows_after(0)
    assert one.portfolio() == other.portfolio()


@settings(max_examples=60, deadline=None)
@given(TURNS)
def test_events_are_numbered_without_gaps_and_told_from_any_point(turns):
    """Whoever knows an event gets exactly those behind it."""
    market = ran(Simulation(SMALL), turns)
    numbers = [event.seq for event in market.events]
    assert numbers == list(range(1, market.seq + 1))
    for seq in range(market.seq + 1):
        assert [event.seq for event in market.events_after(seq)] == numbers[seq:]
    assert market.events_after(market.seq + 1) is None


@settings(max_examples=60, deadline=None)
@given(TURNS, st.integers(0, 25))
def test_rows_since_a_revision_make_an_old_view_the_present_one(turns, at):
    """A client that applies the changed rows has what a client has that gets all rows."""
    market = ran(Simulation(SMALL), turns[:at])
    view = {row.quote.symbol: row for row in market.rows_after(0)}
    revision = market.revision
    ran(market, turns[at:])
    view |= {row.quote.symbol: row for row in market.rows_after(revision)}
    assert all(market.engine.quote(symbol) == row.quote for symbol, row in view.items())


def test_another_seed_gives_another_walk_and_each_instrument_has_its_own():
    """A walk depends on the seed and the symbol alone."""
    one, same, other, another = (
        [RandomWalk(InstrumentSettings(symbol), seed).at(0, 0.0) for _ in range(3)]
        for symbol, seed in (("AAA", 1), ("AAA", 1), ("AAA", 2), ("BBB", 1))
    )
    assert one == same
    assert one != other
    assert one != another


def test_a_resting_order_is_filled_when_the_market_comes_to_it():
    """The price moves, and takes what rests."""
    wild = MarketSettings(seed=3, instruments=(InstrumentSettings("AAA", volatility_bps=100.0),), step_ms=100)
    market = Simulation(wild)
    order = market.submit(Request("AAA", Side.BUY, 10, market.engine.quote("AAA").bid_e6 - 500_000))
    assert order.status == OrderStatus.NEW
    for _ in range(1_000):
        market.advance(market.time_ms + 100)
        if order.is_final:
            break
    assert order.status == OrderStatus.FILLED
    assert market.portfolio().holdings[0].quantity == 10


def test_events_that_are_too_old_are_not_half_told():
    """Who is further behind than what is kept must take a snapshot: None, never a part."""
    market = Simulation(SMALL)
    for _ in range(EVENTS_COUNT // 2 + 1):
        order = market.submit(LOW)
        market.cancel(order.number)
    assert market.seq == EVENTS_COUNT + 2
    assert market.events_after(1) is None
    assert len(market.events_after(2)) == EVENTS_COUNT


def test_a_market_that_slept_makes_up_for_some_steps_only():
    """A process that was stopped for an hour must not be busy with the past."""
    market = Simulation(SMALL)
    before = market.step
    market.advance(3_600_000)
    assert market.step - before == CATCH_UP_STEPS_COUNT
    assert market.time_ms == 3_600_000


def test_time_does_not_go_back():
    """An earlier time changes nothing."""
    market = Simulation(SMALL)
    market.advance(500)
    step = market.step
    market.advance(100)
    assert (market.step, market.time_ms) == (step, 500)


def test_an_order_that_is_sent_again_is_the_same_order():
    """Same request id, same words: no second order; other words: refused, and the first one stays."""
    market = Simulation(SMALL)
    first = market.submit(BUY._replace(request_id="r-1"))
    assert market.submit(BUY._replace(request_id="r-1")) is first
    other = market.submit(BUY._replace(request_id="r-1", quantity=11))
    assert (other.status, other.reason) == (OrderStatus.REJECTED, Reject.REQUEST_ID_REUSED)
    assert market.submit(BUY._replace(request_id="r-1")) is first
    assert market.portfolio().holdings[0].quantity == 60


def test_an_order_is_the_same_after_it_was_replaced():
    """What was asked for first is what is compared."""
    market = Simulation(SMALL)
    order = market.submit(LOW._replace(request_id="r-2"))
    assert market.replace(order.number, 3, 51_000_000) is order
    assert market.submit(LOW._replace(request_id="r-2")) is order


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (LOW._replace(symbol="ZZZ"), Reject.UNKNOWN_SYMBOL),
        (LOW._replace(quantity=0), Reject.BAD_QUANTITY),
        (LOW._replace(quantity=-5), Reject.BAD_QUANTITY),
        (LOW._replace(quantity=10**30), Reject.BAD_QUANTITY),
        (LOW._replace(price_e6=0), Reject.BAD_PRICE),
        (LOW._replace(price_e6=-1), Reject.BAD_PRICE),
        (LOW._replace(price_e6=50_000_001), Reject.BAD_PRICE),
        (LOW._replace(price_e6=10**30), Reject.BAD_PRICE),
        (LOW._replace(price_e6=10**15, quantity=10**9), Reject.TOO_LARGE),
        (LOW._replace(type=9), Reject.BAD_TYPE),
        (LOW._replace(side=3), Reject.BAD_TYPE),
        (LOW._replace(time_in_force=0), Reject.BAD_TYPE),
        (BUY._replace(price_e6=10_000), Reject.BAD_PRICE),
        (LOW._replace(quantity=10_000), Reject.INSUFFICIENT_CASH),
        (BUY._replace(quantity=100_000, time_in_force=TimeInForce.FOK), Reject.NO_LIQUIDITY),
        (LOW._replace(side=Side.SELL, quantity=51), Reject.INSUFFICIENT_SHARES),
    ],
)
def test_an_order_that_cannot_be_is_refused_in_words_and_changes_nothing(request_, reason):
    """Each refusal says why; cash, shares and books are as before."""
    market = Simulation(SMALL)
    before = market.portfolio(), market.rows_after(0)
    order = market.submit(request_)
    assert (order.status, order.reason) == (OrderStatus.REJECTED, reason)
    assert (market.portfolio(), market.rows_after(0)) == before


def test_a_canceled_order_is_final():
    """A second cancel and a replace are refused; an order of nobody is unknown."""
    market = Simulation(SMALL)
    order = market.submit(LOW)
    assert market.cancel(order.number) is order
    assert market.cancel(order.number) == Reject.ORDER_IS_FINAL
    assert market.replace(order.number, 2, 50_000_000) == Reject.ORDER_IS_FINAL
    assert market.cancel(10**9) == Reject.UNKNOWN_ORDER


def test_gains_are_counted_by_average_cost_and_without_fees():
    """Bought at two prices, half sold: what was sold costs half of what all cost."""
    market = Simulation(SMALL)
    position = market.account.position("AAA")
    position.trade(50, 120_000_000)
    assert position.cost_e6 == 50 * 100_000_000 + 50 * 120_000_000
    position.trade(-50, 130_000_000)
    assert position.realized_e6 == 50 * (130_000_000 - 110_000_000)
    assert position.unrealized_e6(100_000_000) == 50 * -10_000_000
    position.trade(-80, 100_000_000)
    assert (position.quantity, position.cost_e6) == (-30, 30 * 100_000_000)
    assert position.unrealized_e6(90_000_000) == 30 * 10_000_000


def test_a_replayed_market_follows_its_file():
    """The quotes stand around the file's price of the time."""
    replay = read_replay(["time_s,symbol,price", "0,AAA,100", "1.0,AAA,90", "2,AAA,80.5"], "prices.csv")
    market = Simulation(SMALL, replay)
    for time_ms, price in ((900, 100), (1_000, 90), (5_000, 80.5)):
        market.advance(time_ms)
        quote = market.engine.quote("AAA")
        assert quote.bid_e6 / 1e6 == pytest.approx(price, rel=1e-3)
        assert quote.ask_e6 / 1e6 == pytest.approx(price, rel=1e-3)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["time,symbol,price"], "prices.csv:1: header: found 'time, symbol, price', wanted the columns"),
        (["time_s,symbol,price", "x,AAA,1"], "prices.csv:2: time_s: found 'x'"),
        (["time_s,symbol,price", "nan,AAA,1"], "prices.csv:2: time_s: found 'nan'"),
        (["time_s,symbol,price", "1,AAA,1", "0,AAA,1"], "prices.csv:3: time_s: found '0'"),
        (["time_s,symbol,price", "1,AAA,-3"], "prices.csv:2: price: found '-3'"),
        (["time_s,symbol,price", "1,AAA"], "prices.csv:2: price: found ''"),
    ],
)
def test_a_file_of_prices_that_is_wrong_is_refused_line_by_line(lines, told):
    """What was found, what was wanted, and where."""
    with pytest.raises(ConfigError) as caught:
        read_replay(lines, "prices.csv")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        MarketSettings(instruments=(ONE, ONE)),
        MarketSettings(instruments=(InstrumentSettings("AAA", "100.005"),)),
        MarketSettings(instruments=(InstrumentSettings("AAA", "0"),)),
        MarketSettings(maker_fee_ppm=2, taker_fee_ppm=1),
    ],
)
def test_settings_that_make_no_market_are_refused(wrong):
    """Before anything of it runs."""
    with pytest.raises(ValueError, match=r"twice|tick|fees"):
        Simulation(wrong)


@given(st.integers(0, 10**18 - 1))
def test_an_amount_and_its_text_are_the_same(value_e6):
    """No amount is rounded on its way through text."""
    assert amount_e6(amount_text(value_e6)) == value_e6


@pytest.mark.parametrize("text", ["", "-1", "1e5", "NaN", "1.", ".5", "1.1234567", "1" * 13, "\u0661"])
def test_what_is_no_amount_is_refused(text):
    """Decimal digits only, at most six places."""
    with pytest.raises(ValueError, match="wanted an amount"):
        amount_e6(text)
