"""Tickets: what a web page shows once when it opens its WebSocket, because it cannot send a header there.

A ticket says who its holder is and for which session; it is random, lives shortly, and is worthless once taken. Stores
see its hash only, so that who reads the store cannot use it. Knows nothing of sockets.

Source: exchange-session-service.md section 5.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.problems import Kind, Refusal
from sojourn.web.credentials import new_ticket, ticket_key

if TYPE_CHECKING:
    from sojourn.gateways.exchange.bus import Tickets

_LONGEST_TRIES_COUNT: Final = 2


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a ticket stands for."""

    session: str
    principal: Principal


class TicketDesk:
    """Gives tickets and takes them.

    Args:
        store: where they are between the two, the same for all pods.
        ttl_s: how long a ticket is good.
    """

    def __init__(self, store: Tickets, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._store = store

    async def give(self, principal: Principal, session: str) -> str:
        """Return a new ticket for a session of this principal.

        Raises: BackendUnavailable.
        """
        value = msgspec.json.encode(Grant(session, principal))
        for _ in range(_LONGEST_TRIES_COUNT):
            ticket, key = new_ticket()
            if await self._store.put_ticket(key, value, self.ttl_s):
                return ticket
        raise Refusal(Kind.UNAVAILABLE, "no ticket could be kept")

    async def take(self, ticket: str) -> Grant:
        """Return what a ticket stands for; it is worthless afterwards.

        Raises: Refusal, BackendUnavailable.
        """
        key = ticket_key(ticket)
        value = await self._store.take_ticket(key) if key is not None else None
        if value is None:
            raise Refusal(Kind.BAD_TICKET, "unknown, used or too old")
        return msgspec.json.decode(value, type=Grant)
