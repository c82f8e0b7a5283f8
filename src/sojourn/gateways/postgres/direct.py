"""Direct: write to a socket at once, past the event loop's queue, wherever nothing waits there.

uvloop queues every write for the end of the loop's turn; the relay has one write to make and makes it. Measured: 4
to 5 of 29 us of a transaction's CPU (``bench/postgres.py``), and one more with the compiled twin in ``_direct.pyx``,
which is used where the build could make it. What the socket does not take goes the usual way, and so does everything
while something waits: order and backpressure stay the transport's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

COMPILED_WRITER: Callable[..., Callable[[bytes], None]] | None
"""The twin of :func:`pure_writer`; None in a build without a compiler."""

try:
    from sojourn.gateways.postgres import _direct
except ImportError:
    COMPILED_WRITER = None
else:

    def _compiled_writer(*parts: Any) -> Callable[[bytes], None]:
        write: Callable[[bytes], None] = _direct.Writer(*parts).write
        return write

    COMPILED_WRITER = _compiled_writer


def writer_of(transport: asyncio.Transport) -> Callable[[bytes], None]:
    """Return the quickest function that writes to ``transport``, of the same meaning as its own ``write``."""
    sock = transport.get_extra_info("socket")
    is_queueing = type(transport).__module__.startswith("uvloop")
    if sock is None or not is_queueing or transport.get_extra_info("ssl_object") is not None:
        return transport.write
    parts = sock.fileno(), transport.get_write_buffer_size, transport.is_closing, transport.write
    return (COMPILED_WRITER or pure_writer)(*parts)


def pure_writer(
    number: int,
    waiting_bytes: Callable[[], int],
    is_closing: Callable[[], bool],
    queue: Callable[[bytes], None],
) -> Callable[[bytes], None]:
    """Return a function that writes to the descriptor ``number`` what does not have to queue."""
    send = os.write

    def write(data: bytes) -> None:
        # A closing transport's descriptor may be somebody else's already.
        if waiting_bytes() or is_closing():
            queue(data)
            return
        try:
            sent = send(number, data)
        except OSError:  # it takes nothing now, or is broken: the transport finds out which
            queue(data)
            return
        if sent != len(data):
            queue(data[sent:])

    return write
