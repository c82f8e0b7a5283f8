"""Averages of traffic over the last whole minute, from totals that are looked at now and then.

Knows no clock: moments are handed in. Nothing else is kept than two copies of the totals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from sojourn.gateways.postgres.console.rows import StatsRow, SumRow, TotalsRow

PERIOD_S: Final = 60.0
"""PgBouncer's ``stats_period``."""

_TIMES: Final = {
    "xact_time": "xact_count",
    "query_time": "query_count",
    "wait_time": "server_assignment_count",
}
"""A time is averaged over what took it, everything else over seconds."""
_COUNTERS: Final = TotalsRow.__struct_fields__[1:]
_SUM_NAMES: Final = {"bytes_received": "client_bytes", "bytes_sent": "server_bytes"}
"""SHOW TOTALS has names of its own for two figures."""


class Averages:
    """The totals at the beginning and the end of the last whole period.

    Life: made with the console, kept as long as it. Always true: averages are 0 until the first period is over, and
    a total that went down has not grown.
    """

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self._period_s = period_s
        self._began: float | None = None
        self._length_s = 0.0
        self._before: Mapping[str, TotalsRow] = {}
        self._last: Mapping[str, TotalsRow] = {}

    def is_due(self, now: float) -> bool:
        """Say whether ``tick`` would take the totals; for a sweep that comes by more often."""
        return self._began is None or now - self._began >= self._period_s

    def tick(self, now: float, totals: Iterable[TotalsRow]) -> None:
        """Take the totals of this moment if a period is over."""
        if not self.is_due(now):
            return
        self._length_s = 0.0 if self._began is None else now - self._began
        self._began = now
        self._before, self._last = self._last, {row.database: row for row in totals}

    def of(self, database: str) -> TotalsRow:
        """Return the averages of one database, as a row of ``SHOW STATS_AVERAGES``."""
        nothing = TotalsRow(database=database)
        return self._average(self._before.get(database, nothing), self._last.get(database, nothing))

    def stats(self, totals: Iterable[TotalsRow]) -> list[StatsRow]:
        """Return the rows of ``SHOW STATS``: these totals and their averages."""
        names = StatsRow.__struct_fields__
        return [
            StatsRow(**dict(zip(names, row.values() + self.of(row.database).values()[1:], strict=True)))  # type: ignore[arg-type]  # the fields are the same ones, side by side
            for row in totals
        ]

    def sums(self, totals: Iterable[TotalsRow]) -> list[SumRow]:
        """Return the rows of ``SHOW TOTALS``: all databases together."""
        whole = _sum(totals)
        average = self._average(_sum(self._before.values()), _sum(self._last.values()))
        return [
            SumRow(name=f"{prefix}_{_SUM_NAMES.get(name, name)}", value=getattr(row, name))
            for prefix, row in (("total", whole), ("avg", average))
            for name in _COUNTERS
        ]

    def _average(self, before: TotalsRow, last: TotalsRow) -> TotalsRow:
        if not self._length_s:
            return TotalsRow(database=last.database)
        grown = {name: max(getattr(last, name) - getattr(before, name), 0) for name in _COUNTERS}
        for name in _COUNTERS:
            if name not in _TIMES:
                continue
            grown[name] //= max(grown[_TIMES[name]], 1)
        for name in _COUNTERS:
            if name not in _TIMES:
                grown[name] = int(grown[name] / self._length_s)
        return TotalsRow(database=last.database, **grown)


def _sum(rows: Iterable[TotalsRow]) -> TotalsRow:
    whole = dict.fromkeys(_COUNTERS, 0)
    for row in rows:
        for name in _COUNTERS:
            whole[name] += getattr(row, name)
    return msgspec.structs.replace(TotalsRow(database=""), **whole)
