"""What one simulated market is made of; the ``spec`` of a simulator, as REST clients and files give it.

Units: prices and cash are decimal strings in the currency, to a millionth; ``_ppm`` is a millionth of a notional,
``_bps`` a hundredth of a percent of a price.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

E6: Final = 1_000_000
_AMOUNT: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?\Z")

Symbol = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9.]{0,11}$(?!\n)", title="a symbol (A-Z, 0-9, . )")]
Amount = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$(?!\n)", title="an amount such as 175.25", examples=["175.25"]
    ),
]


class InstrumentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instrument and how its price moves."""

    symbol: Annotated[Symbol, Meta(description="Its name.", examples=["AAPL"])]
    price: Annotated[Amount, Meta(description="What it costs at the start.")] = "100"
    tick: Annotated[Amount, Meta(description="Smallest step of its price.")] = "0.01"
    volatility_bps: Annotated[
        float, Meta(ge=0, le=500, description="Standard deviation of one step of the price.")
    ] = 5.0
    drift_bps: Annotated[float, Meta(ge=-50, le=50, description="Mean of one step of the price.")] = 0.0
    shares: Annotated[
        int, Meta(ge=0, le=1_000_000_000, description="What the user has of it at the start.")
    ] = 0


STOCKS: Final = (
    InstrumentSettings("AAPL", "175"),
    InstrumentSettings("MSFT", "350"),
    InstrumentSettings("GOOGL", "140"),
    InstrumentSettings("AMZN", "130"),
    InstrumentSettings("TSLA", "200", volatility_bps=12.0),
)


class MarketSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A market with one user, some market makers and a crowd."""

    seed: Annotated[int, Meta(ge=0, le=2**53, description="The same seed gives the same market.")] = 1
    instruments: Annotated[tuple[InstrumentSettings, ...], Meta(min_length=1, max_length=200)] = STOCKS
    cash: Annotated[Amount, Meta(description="What the user has at the start.")] = "100000"
    maker_fee_ppm: Annotated[
        int, Meta(ge=0, le=100_000, description="Fee of who was in the book first; at most the taker's.")
    ] = 0
    taker_fee_ppm: Annotated[int, Meta(ge=0, le=100_000, description="Fee of who came.")] = 0
    makers_count: Annotated[int, Meta(ge=1, le=10, description="Market makers.")] = 2
    maker_levels_count: Annotated[int, Meta(ge=1, le=10, description="Prices that each quotes per side.")] = 3
    maker_quantity: Annotated[int, Meta(ge=1, le=1_000_000, description="Shares at each of them.")] = 200
    spread_bps: Annotated[float, Meta(ge=0.1, le=1_000, description="Between best bid and best ask.")] = 4.0
    crowd_orders_per_step: Annotated[
        float, Meta(ge=0, le=100, description="Market orders of others, on average per instrument and step.")
    ] = 0.2
    step_ms: Annotated[int, Meta(ge=10, le=60_000, description="Time between two steps of the market.")] = 200
    open_orders_count: Annotated[
        int, Meta(ge=1, le=10_000, description="The user's orders that may rest.")
    ] = 200
    replay_file: Annotated[
        str, Meta(max_length=256, description="CSV of prices that are followed instead of a random walk.")
    ] = ""

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield ``(key, found, wanted)`` for what makes no market: a simulation refuses the first of them."""
        if self.maker_fee_ppm > self.taker_fee_ppm:
            yield "maker_fee_ppm", str(self.maker_fee_ppm), f"at most taker_fee_ppm ({self.taker_fee_ppm})"
        symbols: set[str] = set()
        for index, one in enumerate(self.instruments):
            tick_e6, price_e6 = amount_e6(one.tick), amount_e6(one.price)
            if one.symbol in symbols:
                yield f"instruments[{index}].symbol", f"{one.symbol!r} again", "a symbol that is used once"
            elif not tick_e6:
                yield f"instruments[{index}].tick", repr(one.tick), "an amount above 0"
            elif not price_e6 or price_e6 % tick_e6:
                yield f"instruments[{index}].price", repr(one.price), f"a multiple of the tick ({one.tick})"
            symbols.add(one.symbol)


def amount_e6(text: str) -> int:
    """Return a decimal amount in millionths.

    Raises: ValueError if it is none, is negative, or has more than six places.
    """
    match = _AMOUNT.match(text)
    if match is None:
        raise ValueError(f"found {text[:32]!r}, wanted an amount such as 175.25 with at most six places")
    whole, places = match[1], match[2] or ""
    return int(whole) * E6 + int(places.ljust(6, "0"))


def amount_text(value_e6: int) -> str:
    """Return an amount in millionths as a decimal, without needless zeros."""
    sign, value_e6 = ("-", -value_e6) if value_e6 < 0 else ("", value_e6)
    whole, places = divmod(value_e6, E6)
    return f"{sign}{whole}.{places:06d}".rstrip("0").rstrip(".") if places else f"{sign}{whole}"
