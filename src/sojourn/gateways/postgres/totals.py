"""Totals: what server connections have done since the process started, those that are gone among them."""

from __future__ import annotations

from typing import Protocol


class Counted(Protocol):
    """What has done something: a server connection, or others together."""

    queries: int
    transactions: int
    bytes_in: int
    bytes_out: int
    busy_s: float
    xact_s: float


class Totals:
    """The sum of what several server connections have done.

    Units: ``bytes_in`` came from clients, ``bytes_out`` from servers; ``busy_s`` is the time in requests, ``xact_s``
    that in transactions.
    """

    __slots__ = ("busy_s", "bytes_in", "bytes_out", "queries", "transactions", "xact_s")

    def __init__(self) -> None:
        self.queries = self.transactions = self.bytes_in = self.bytes_out = 0
        self.busy_s = self.xact_s = 0.0

    def add(self, one: Counted) -> None:
        """Let these count too."""
        self.queries += one.queries
        self.transactions += one.transactions
        self.bytes_in += one.bytes_in
        self.bytes_out += one.bytes_out
        self.busy_s += one.busy_s
        self.xact_s += one.xact_s
