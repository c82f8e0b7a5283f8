"""``sojourn simulate panel --lines``: orders from a pipe or a file, a line each, and what the server orders in words.

Never reads a terminal: a panel in the background would be stopped by it.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from typing import Final

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.peer import SimulatedPanel
from sojourn.gateways.itv2.peer.orders import KINDS, Misread, read_order
from sojourn.gateways.itv2.wire import words_of_message

LINE_BYTES: Final = 4_096
"""Of one order, at most."""
ENDS: Final = frozenset({"quit", "exit", "q"})
_ORDERS: Final = (
    m.Arm,
    m.Disarm,
    m.BypassZone,
    m.EnterConfiguration,
    m.ExitConfiguration,
    m.SectionWrite,
    m.WriteCodes,
    m.WriteAttributes,
    m.WritePartitions,
    m.WriteLabels,
    m.Unknown,
)
"""What a server has a panel do; the rest are questions."""


def order_words(message: m.Message) -> str:
    """Return what the server orders, codes masked; nothing if it only asks."""
    if not isinstance(message, _ORDERS):
        return ""
    return f"{type(message).__name__} {words_of_message(message)}".rstrip()


def carry_out(panel: SimulatedPanel, text: str) -> str:
    """Do what an order says; return what came of it, or why it is none."""
    house = panel.house
    order = read_order(text, zones_count=len(house.zones), partitions_count=len(house.partitions))
    if isinstance(order, Misread):
        return f"found {order.found}, wanted {order.wanted}"
    return order.do(panel) or f"{text.split(maxsplit=1)[0]}: done"


async def take_orders(panel: SimulatedPanel, say: Callable[[str], None]) -> None:
    """Carry out the lines of standard input until its end or ``quit``; what is no pipe and no file has none."""
    async for line in _lines():
        text = line.strip()
        if text in ENDS:
            return
        if text == "help":
            say(", ".join(kind.usage for kind in KINDS) + ", quit")
        elif text:
            say(carry_out(panel, text))


async def _lines() -> AsyncIterator[str]:
    source = sys.stdin.buffer
    mode = os.fstat(source.fileno()).st_mode
    if stat.S_ISREG(mode):  # what no loop can wait for is there at once
        while line := source.readline(LINE_BYTES):
            yield line.decode("utf-8", "replace")
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        await asyncio.Event().wait()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), source
    )
    try:
        while line := await _line(reader):
            yield line.decode("utf-8", "replace")
    finally:
        transport.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line, empty at the end; one that is too long is cut into several, which are no orders."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(error.consumed or LINE_BYTES)
