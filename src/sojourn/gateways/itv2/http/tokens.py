"""Tokens: who asks, and what they may do.

Only digests are kept here, and every one is compared, in constant time. Knows nothing of panels and of what is asked.

Source: RFC 6750 sections 2.1 and 3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.gateways.itv2.commands import Asker, Scope
from sojourn.gateways.itv2.http.problems import Kind, Refusal
from sojourn.web.credentials import (
    TICKET_PARAMETER,
    TOKEN_PARAMETERS,
    bearer_of,
    new_ticket,
    refuse_token_in_url,
    ticket_key,
)

if TYPE_CHECKING:
    from aiohttp import web

    from sojourn.core.clock import Clock
    from sojourn.gateways.itv2.http.config import TokenSettings

OnRefused = Callable[["web.BaseRequest", str], None]

REFUSED_PARAMETERS: Final = TOKEN_PARAMETERS | {TICKET_PARAMETER}
"""What URLs may not carry; a ticket comes as a subprotocol."""
TICKETS_COUNT: Final = 1_000
"""Tickets that were given and not taken; then the oldest are forgotten."""


class Holder(msgspec.Struct, frozen=True):
    """Who has shown a token. ``panels``: names, empty = all. ``digest`` tells two versions of a token apart."""

    name: str
    scopes: frozenset[Scope]
    panels: frozenset[str]
    needs_code: bool
    digest: bytes

    def asker(self, way: str) -> Asker:
        """Return who asks, and by which interface, for the audit and for traces."""
        return Asker(self.name, self.scopes, way)

    def may(self, *scopes: Scope) -> bool:
        """Say whether it may do something that needs all of ``scopes``."""
        return "admin" in self.scopes or self.scopes.issuperset(scopes)

    def sees(self, panel: str) -> bool:
        """Say whether there is such a panel for it."""
        return not self.panels or panel in self.panels


class TokenTable:
    """The tokens of the configuration. Always true: who is found is in the configuration that was read last.

    Args:
        tokens: of the configuration.
        on_refused: is told the request and the problem's name of whoever is not let in.
    """

    def __init__(
        self, tokens: Sequence[TokenSettings], on_refused: OnRefused = lambda _request, _why: None
    ) -> None:
        self._holders: tuple[Holder, ...] = ()
        self._on_refused = on_refused
        self.refused_count = 0
        self.use(tokens)

    def use(self, tokens: Sequence[TokenSettings]) -> None:
        """Take the tokens of a configuration that was read again."""
        self._holders = tuple(_holder(one) for one in tokens)

    def is_good(self, holder: Holder) -> bool:
        """Say whether somebody who was found before would be found now, with the same rights."""
        return holder in self._holders

    def find(self, token: str) -> Holder | None:
        """Return whose token it is; takes as long whoever it is."""
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, digest):
                found = holder
        return found

    def authenticate(self, request: web.BaseRequest) -> Holder:
        """Return who asks.

        Raises: Refusal.
        """
        try:
            return self._authenticated(request)
        except Refusal as refusal:
            self.refused_count += 1
            self._on_refused(request, refusal.kind.name)
            raise

    def _authenticated(self, request: web.BaseRequest) -> Holder:
        refuse_token_in_url(request, REFUSED_PARAMETERS)
        holder = self.find(bearer_of(request))
        if holder is None:
            raise Refusal(Kind.INVALID_TOKEN)
        return holder


class TicketDesk:
    """Gives tickets, and takes each once. A ticket is worth its holder's token for one WebSocket.

    Args:
        ttl_s: returns how long a ticket that is given now is good.
        clock: monotonic seconds.
    """

    def __init__(self, ttl_s: Callable[[], float], clock: Clock) -> None:
        self.ttl_s = ttl_s
        self._clock = clock
        self._given: OrderedDict[str, tuple[float, Holder]] = OrderedDict()

    def give(self, holder: Holder) -> str:
        """Return a new ticket."""
        ticket, key = new_ticket()
        self._given[key] = (self._clock() + self.ttl_s(), holder)
        if len(self._given) > TICKETS_COUNT:
            self._given.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> Holder:
        """Return whose ticket it is; it is worthless from now on.

        Raises: Refusal.
        """
        until, holder = self._given.pop(ticket_key(ticket) or "", (0.0, None))
        if holder is None or until < self._clock():
            raise Refusal(Kind.BAD_TICKET)
        return holder


def _holder(settings: TokenSettings) -> Holder:
    digest = (
        bytes.fromhex(settings.sha256)
        if settings.token is None
        else hashlib.sha256(settings.token.reveal().encode()).digest()
    )
    return Holder(
        settings.name,
        frozenset(settings.scopes),
        frozenset(settings.panels),
        settings.needs_code,
        digest,
    )
