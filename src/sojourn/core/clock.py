"""What time it is: two callables that everything which needs time takes as an argument.

Deadlines, ages and rates use the monotonic clock; only what people read uses the wall clock. Nobody below the
floor of the application calls ``time.time()``, so a test can move both by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds that only ever grow; the zero point means nothing."""

WallClock = Callable[[], datetime]
"""The date and time, always aware and always UTC."""

monotonic: Clock = time.monotonic
"""The clock of a running daemon."""


def utc_now() -> datetime:
    """Return the present date and time, aware, in UTC."""
    return datetime.now(UTC)
