"""Feed: the latest value of each row, sent as what has changed since a client's cursor, encoded once per group.

A revision is one change of one or more rows. Every client has a cursor, the revision that it has seen; a client that is
passed over simply keeps its cursor, and its next frame covers more. Most clients have the same one: their frame is
made once. Pure.

Measured: see ``bench/exchange.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sojourn.gateways.exchange import wire

Symbols = frozenset[str] | None
"""What a client wants to see; None for all."""


class _Row(msgspec.Struct):
    revision: int
    value: Any
    json: bytes = b""
    msgpack: bytes = b""


class Feed:
    """The rows of one market.

    Always true: ``_rows`` is in the order of the rows' revisions, the latest last; none is above ``revision`` or, but
    for rows that never changed, below ``base``.
    """

    __slots__ = ("_common", "_common_cursor", "_frames", "_rows", "base", "revision")

    def __init__(self) -> None:
        self.base = self.revision = 0
        self._rows: dict[str, _Row] = {}
        self._frames: dict[tuple[int, Symbols, bool], bytes] = {}
        self._common, self._common_cursor = b"", -1
        """Of the frames in JSON with all symbols, nearly everybody's, the one that was asked for last."""

    def __len__(self) -> int:
        return len(self._rows)

    def symbols(self) -> Iterable[str]:
        """Return what there is."""
        return self._rows.keys()

    def update(self, rows: Iterable[tuple[str, Any]], revision: int) -> None:
        """Take new values, which make the market that of a later revision."""
        self.merge(((symbol, value, revision) for symbol, value in rows), revision)

    def reset(self, rows: Iterable[tuple[str, Any, int]], revision: int, *, base: int = 0) -> None:
        """Take a whole market.

        Args:
            rows: symbol, value and revision of each.
            revision: of the market.
            base: clients with a cursor below it saw another market, and get this one as a whole.
        """
        self.base = base
        self._rows = {
            symbol: _Row(changed, value) for symbol, value, changed in sorted(rows, key=lambda row: row[2])
        }
        self.update((), revision)

    def rows_after(self, revision: int) -> list[tuple[str, Any, int]]:
        """Return symbol, value and revision of what has changed since a revision, the oldest change first."""
        found = []
        for symbol, row in reversed(self._rows.items()):
            if row.revision <= revision:
                break
            found.append((symbol, row.value, row.revision))
        found.reverse()
        return found

    def merge(self, rows: Iterable[tuple[str, Any, int]], revision: int) -> None:
        """Take rows that changed in different revisions up to a later one, the oldest change first."""
        self.revision = revision
        self._frames.clear()
        self._common_cursor = -1
        for symbol, value, changed in rows:
            self._rows.pop(symbol, None)
            self._rows[symbol] = _Row(changed, value)

    def frame(self, cursor: int, symbols: Symbols = None, *, is_binary: bool = False) -> bytes:
        """Return the WebSocket message that brings a client from its cursor to ``revision``.

        Args:
            cursor: the client's; 0 for one that has nothing.
            symbols: that it wants.
            is_binary: MessagePack.
        Returns: empty if nothing that it wants has changed. A cursor below ``base``, or 0, gets a full frame.
        """
        is_common = symbols is None and not is_binary
        if is_common and cursor == self._common_cursor:
            return self._common
        if cursor < self.base:
            cursor = 0
        if cursor == self.revision and cursor:
            return b""
        key = (cursor, symbols, is_binary)
        made = self._frames.get(key)
        if made is None:
            made = self._frames[key] = self._make(cursor, symbols, is_binary=is_binary)
        if is_common:
            self._common, self._common_cursor = made, cursor
        return made

    def _make(self, cursor: int, symbols: Symbols, *, is_binary: bool) -> bytes:
        rows = []
        for symbol, row in reversed(self._rows.items()):
            if row.revision <= cursor:
                break
            if symbols is None or symbol in symbols:
                rows.append(_encoded(row, is_binary=is_binary))
        if not rows and cursor:
            return b""
        rows.reverse()
        payload = wire.market(self.revision, rows, is_full=not cursor, is_binary=is_binary)
        return wire.websocket(payload, is_binary=is_binary)


def _encoded(row: _Row, *, is_binary: bool) -> bytes:
    """Return a row's bytes, made when they are first wanted."""
    if is_binary:
        if not row.msgpack:
            row.msgpack = wire.value(row.value, is_binary=True)
        return row.msgpack
    if not row.json:
        row.json = wire.value(row.value)
    return row.json
