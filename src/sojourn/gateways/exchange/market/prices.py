"""Prices: where an instrument's fair price goes, step by step; from a seed, or from a file.

Pure but for reading a file's text, which is handed in. Units: millionths of the currency.
"""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, Protocol

from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.market.settings import InstrumentSettings, amount_e6

_BPS: Final = 1e-4
_MAX_E6: Final = 10**12
"""A walk stops there: a million a share."""


class Prices(Protocol):
    """One instrument's fair price."""

    def at(self, step: int, time_s: float) -> int:
        """Return the price at a step; steps come in order, each once."""


class RandomWalk:
    """A geometric random walk with normal steps.

    Args:
        settings: of the instrument.
        seed: of the market; each instrument has a walk of its own, which no other instrument changes.
    """

    def __init__(self, settings: InstrumentSettings, seed: int) -> None:
        self._random = random.Random(f"{seed}:{settings.symbol}:walk")  # noqa: S311 - a market, no secret
        self._price = float(amount_e6(settings.price))
        self._sigma = settings.volatility_bps * _BPS
        self._mean = settings.drift_bps * _BPS - self._sigma**2 / 2
        self._least = float(amount_e6(settings.tick))

    def at(self, step: int, time_s: float) -> int:
        """Go one step on."""
        del step, time_s
        price = self._price * math.exp(self._mean + self._sigma * self._random.gauss(0.0, 1.0))
        self._price = min(max(price, self._least), float(_MAX_E6))
        return round(self._price)


class Replay:
    """Prices of a file: the last one that is not later than now; the first one before that, the last one at the end."""

    def __init__(self, times_s: list[float], prices_e6: list[int]) -> None:
        self._times_s = times_s
        self._prices_e6 = prices_e6

    def at(self, step: int, time_s: float) -> int:
        """Return the price at a time since the start."""
        del step
        return self._prices_e6[max(bisect_right(self._times_s, time_s) - 1, 0)]


def read_replay(lines: Iterable[str], name: str) -> dict[str, Replay]:
    """Read prices from CSV with the columns ``time_s``, ``symbol`` and ``price``, times in order per symbol.

    Raises: ConfigError with every line that is wrong, up to twenty.
    """
    problems: list[Problem] = []
    found: dict[str, tuple[list[float], list[int]]] = {}

    def wrong(line: int, key: str, value: str, wanted: str) -> None:
        problems.append(Problem(name, line, "", key, repr(value[:32]), wanted))

    rows = csv.DictReader(lines)
    missing = {"time_s", "symbol", "price"} - set(rows.fieldnames or ())
    if missing:
        wrong(1, "header", ", ".join(rows.fieldnames or ()), "the columns time_s, symbol and price")
    for row in () if missing else rows:
        if len(problems) >= 20:  # noqa: PLR2004 - as the docstring says
            break
        line = rows.line_num
        times_s, prices_e6 = found.setdefault(row["symbol"] or "", ([], []))
        try:
            time_s = float(row["time_s"] or "")
        except ValueError:
            time_s = math.nan
        if not (math.isfinite(time_s) and time_s >= (times_s[-1] if times_s else 0.0)):
            wrong(line, "time_s", row["time_s"] or "", "seconds since the start, not before the line above")
            continue
        try:
            price_e6 = amount_e6(row["price"] or "")
        except ValueError:
            price_e6 = 0
        if not 0 < price_e6 <= _MAX_E6:
            wrong(line, "price", row["price"] or "", "a price such as 175.25")
            continue
        times_s.append(time_s)
        prices_e6.append(price_e6)
    if problems:
        raise ConfigError(problems)
    return {symbol: Replay(*columns) for symbol, columns in found.items()}
