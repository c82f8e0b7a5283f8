"""The first login of a pool: it waits for the first server, which tells what servers report of themselves.

Looks every few milliseconds instead of being told: the hot path should know nothing of logins. Who logs in later
finds the answer in the pool.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres.messages import SQLSTATE, Refusal

if TYPE_CHECKING:
    from sojourn.gateways.postgres.place import Place
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.reported import Reported

LOOK_S: Final = 0.02
"""Time between two looks whether there is a primary, or room for a server."""
SOON_S: Final = 0.002
"""The same, while somebody else's login at the server is under way."""


async def first_report(pool: Pool) -> Reported:
    """Return what servers of a pool report of themselves, opening one if there is none.

    Raises: Refusal, where the server says no, or none can be had in time.
    """
    limit_s = pool.settings.queue_timeout_s or None
    is_full = False
    try:
        async with asyncio.timeout(limit_s):
            while pool.report is None:
                place = pool.primary
                if pool.room.is_given_up:
                    raise Refusal(SQLSTATE.CANNOT_CONNECT_NOW, "no primary server is available")
                if place is not None and _is_down(place) and _is_down_for_long(pool, place):
                    raise _unavailable()
                if place is None or pool.is_paused or _is_down(place):
                    await asyncio.sleep(LOOK_S)
                elif place.servers or place.connecting:
                    await _see_another_login(place)
                elif is_full := not pool.gateway.pools.has_room_for(pool):
                    pool.gateway.pools.make_room_for(pool)
                    await asyncio.sleep(LOOK_S)
                else:
                    place.connecting += 1
                    await pool.open_at(place)
                    if isinstance(place.last_error, Refusal):
                        raise place.last_error
    except TimeoutError as error:
        if is_full:
            message = f"no server became free within {limit_s:g} s (query_wait_timeout)"
            raise Refusal(SQLSTATE.TOO_MANY_CONNECTIONS, message) from error
        raise _unavailable() from error
    return pool.report


def _unavailable() -> Refusal:
    return Refusal(SQLSTATE.CANNOT_CONNECT_NOW, "the database server is not available")


def _is_down(place: Place) -> bool:
    """Say whether it is too early to try again.

    A server that said no is asked again by every login: the database may have been made meanwhile.
    """
    return monotonic() < place.retry_at and not isinstance(place.last_error, Refusal)


def _is_down_for_long(pool: Pool, place: Place) -> bool:
    """Say whether a server has been away for as long as clients are held; the monitor, if any, gives up by itself."""
    return monotonic() - place.failing_since > pool.gateway.settings.failover.buffering_timeout_s


async def _see_another_login(place: Place) -> None:
    """Wait a little for another's login at the server; what is refused to that one is refused to this one.

    Raises: Refusal.
    """
    failures = place.failures
    await asyncio.sleep(SOON_S)
    if place.failures != failures and isinstance(place.last_error, Refusal):
        raise Refusal(place.last_error.sqlstate, place.last_error.message)
