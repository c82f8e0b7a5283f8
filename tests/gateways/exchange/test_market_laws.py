"""The matching engine's laws, on random orders, and against a model that is too simple to be wrong."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.gateways.exchange.market.engine import Engine, Instrument, Limits, Request
from sojourn.gateways.exchange.market.orders import Order, OrderStatus, OrderType, Side, TimeInForce

CASH = 50_000_000_000
SHARES = 1_000
SYMBOLS = ("AAA", "BBB")
TICK = 10_000

REQUESTS = st.builds(
    Request,
    symbol=st.sampled_from(SYMBOLS),
    side=st.sampled_from((Side.BUY, Side.SELL)),
    quantity=st.integers(1, 60),
    price_e6=st.integers(95, 105).map(lambda ticks: ticks * TICK),
    type=st.just(OrderType.LIMIT),
    time_in_force=st.sampled_from((TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)),
) | st.builds(
    Request,
    symbol=st.sampled_from(SYMBOLS),
    side=st.sampled_from((Side.BUY, Side.SELL)),
    quantity=st.integers(1, 60),
    type=st.just(OrderType.MARKET),
    time_in_force=st.sampled_from((TimeInForce.IOC, TimeInForce.FOK)),
)
ACTIONS = st.lists(
    st.tuples(st.just("submit"), st.integers(0, 2), REQUESTS)
    | st.tuples(st.just("cancel"), st.integers(0, 2), st.integers(1, 60))
    | st.tuples(
        st.just("replace"),
        st.integers(0, 2),
        st.tuples(st.integers(1, 60), st.integers(1, 80), st.integers(95, 105).map(lambda one: one * TICK)),
    ),
    max_size=60,
)


class Market:
    """An engine with two users and a house, and all that it told."""

    def __init__(self, fees=(100, 250)):
        self.told = []
        self.engine = Engine(
            [(Instrument(symbol, TICK), 100 * TICK) for symbol in SYMBOLS],
            maker_fee_ppm=fees[0],
            taker_fee_ppm=fees[1],
            limits=Limits(open_orders_count=30, remembered_count=20),
            tell=self.told.append,
        )
        self.accounts = [
            self.engine.open_account("ana", CASH),
            self.engine.open_account("bo", CASH),
            self.engine.open_account("house", 0, has_no_limits=True),
        ]
        for account in self.accounts[:2]:
            for symbol in SYMBOLS:
                account.position(symbol).quantity = SHARES

    def do(self, action):
        verb, who, what = action
        account = self.accounts[who]
        if verb == "submit":
            return self.engine.submit(account, what)
        if verb == "cancel":
            return self.engine.cancel(account, what)
        return self.engine.replace(account, *what)


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_cash_and_shares_are_neither_made_nor_lost(actions):
    """Whatever is ordered, the sums over all accounts, the fees' among them, stay what they were."""
    market = Market()
    for action in actions:
        market.do(action)
        accounts = market.engine.accounts.values()
        assert sum(account.cash_e6 for account in accounts) == 2 * CASH
        for symbol in SYMBOLS:
            shares = sum(
                account.positions[symbol].quantity for account in accounts if symbol in account.positions
            )
            assert shares == 2 * SHARES


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_no_book_is_crossed_and_every_level_is_the_sum_of_its_orders(actions):
    """Between two orders the best bid is below the best ask, and nothing in the books is dead, lost or miscounted."""
    market = Market()
    for action in actions:
        market.do(action)
        resting = {}
        for account in market.accounts:
            for order in account.open.values():
                assert order.remaining > 0
                assert order.remaining + order.filled + order.canceled == order.quantity
                resting.setdefault((order.symbol, order.side, order.price_e6), []).append(order)
        for symbol, book in market.engine.books.items():
            bid, ask = book.bids.best_e6, book.asks.best_e6
            assert bid is None or ask is None or bid < ask
            for side in (Side.BUY, Side.SELL):
                for price, quantity, count in book.depth(side, 1000):
                    orders = resting.pop((symbol, side, price))
                    assert (sum(order.remaining for order in orders), len(orders)) == (quantity, count)
        assert not resting


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_nobody_spends_what_is_promised_to_another_order(actions):
    """An account with limits has at least what its resting orders need, fees included."""
    market = Market()
    for action in actions:
        market.do(action)
        for account in market.accounts[:2]:
            assert account.cash_e6 >= account.reserved_e6 >= 0
            assert account.reserved_e6 == sum(
                order.reserved_e6 for order in account.open.values() if order.side == Side.BUY
            )
            for symbol, position in account.positions.items():
                promised = sum(
                    order.remaining
                    for order in account.open.values()
                    if order.side == Side.SELL and order.symbol == symbol
                )
                assert position.quantity >= position.reserved == promised


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_the_same_orders_give_the_same_events(actions):
    """Nothing depends on anything but the orders and their order."""
    one, other = Market(), Market()
    for action in actions:
        one.do(action)
    for action in actions:
        other.do(action)
    assert one.told == other.told
    assert [one.engine.quote(symbol) for symbol in SYMBOLS] == [
        other.engine.quote(symbol) for symbol in SYMBOLS
    ]


class Model:
    """Price-time priority as a sentence: sort all that rests by price and arrival, take from the front."""

    def __init__(self):
        self.resting = []
        self.arrivals = 0

    def submit(self, side, quantity, price):
        trades = []
        sign = 1 if side == Side.BUY else -1
        others = sorted(
            (one for one in self.resting if one["side"] != side),
            key=lambda one: (sign * one["price"], one["arrival"]),
        )
        for one in others:
            if not quantity or sign * one["price"] > sign * price:
                break
            taken = min(quantity, one["quantity"])
            quantity -= taken
            one["quantity"] -= taken
            trades.append((one["number"], one["price"], taken))
        self.resting = [one for one in self.resting if one["quantity"]]
        return trades, quantity

    def rest(self, number, side, quantity, price):
        self.arrivals += 1
        self.resting.append(
            {"number": number, "side": side, "quantity": quantity, "price": price, "arrival": self.arrivals}
        )


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((Side.BUY, Side.SELL)), st.integers(1, 30), st.integers(97, 103))
        | st.tuples(st.just("cancel"), st.integers(0, 40), st.just(0)),
        max_size=80,
    )
)
def test_trades_are_those_of_price_time_priority(actions):
    """The same trades, in the same order, at the same prices as the model's."""
    fills = []
    engine = Engine([(Instrument("AAA", 1), 100)], tell=lambda _: None)
    house = engine.open_account("house", 0, has_no_limits=True, is_watched=True)
    settle = engine._on_fill
    engine._on_fill = lambda fill: (
        fills.append((fill.resting.number, fill.price_e6, fill.quantity)),
        settle(fill),
    )
    model = Model()
    for side, quantity, price in actions:
        if side == "cancel":
            canceled = engine.cancel(house, quantity)
            if isinstance(canceled, Order):
                model.resting = [one for one in model.resting if one["number"] != quantity]
            continue
        fills.clear()
        order = engine.submit(house, Request("AAA", side, quantity, price))
        trades, left = model.submit(side, quantity, price)
        assert fills == trades
        assert order.remaining == left
        if left:
            model.rest(order.number, side, left, price)
        assert order.status in (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED)
