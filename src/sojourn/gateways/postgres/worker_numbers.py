"""Numbers of sessions, servers and incidents that no two workers share: what is above 40 bits is the worker's index.

Knows no worker. One process alone is worker 0, whose numbers are the small ones.
"""

from __future__ import annotations

from typing import Final

_BITS: Final = 40
"""More logins than a worker sees in its life, at 1,000 a second for 34 years; and all of it fits into an int8."""


def first_number(index: int) -> int:
    """Return where the numbers of a worker begin."""
    return (index << _BITS) + 1


def worker_of(number: int) -> int:
    """Return the index of the worker that gave a number."""
    return number >> _BITS
