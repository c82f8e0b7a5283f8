"""Deadlines of clients: too long in a statement, in a transaction, idle in one, or idle altogether.

Nothing is stamped while bytes flow, except what the servers keep anyway: the sweep remembers what it saw of a client
and takes what has not changed since for silence. A deadline is therefore kept to one sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sojourn.gateways.postgres.client_session import ClientSession
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal, TransactionStatus
from sojourn.gateways.postgres.reported import Reported
from sojourn.gateways.postgres.states import Busy

if TYPE_CHECKING:
    from sojourn.gateways.postgres.config import TimeoutSettings
    from sojourn.gateways.postgres.server_session import ServerSession

_Seen = tuple[object, float]
"""What a client was like, and since when it has been."""


class ClientDeadlines:
    """The deadlines of one gateway's clients.

    Life: made with the gateway, asked at every sweep. Always true: nothing is kept of clients while no deadline is
    set; who has left is forgotten at the next sweep.
    """

    def __init__(self) -> None:
        self._seen: dict[ClientSession, _Seen] = {}

    def overdue(
        self, clients: Iterable[ClientSession], timeouts: TimeoutSettings, now: float
    ) -> Iterable[tuple[ClientSession, Refusal]]:
        """Return the clients that are too late, and what they are told."""
        if not (
            timeouts.query_timeout_s
            or timeouts.transaction_timeout_s
            or timeouts.idle_in_transaction_timeout_s
            or timeouts.client_idle_timeout_s
        ):
            self._seen.clear()
            return ()
        late = []
        seen: dict[ClientSession, _Seen] = {}
        for client in clients:
            if client.task is not None or client.ended:
                continue  # it logs in, or is an operator
            refusal = self._refusal(client, timeouts, now, seen)
            if refusal is not None:
                late.append((client, refusal))
        self._seen = seen
        return late

    def _refusal(
        self, client: ClientSession, timeouts: TimeoutSettings, now: float, seen: dict[ClientSession, _Seen]
    ) -> Refusal | None:
        server = client.server
        if server is not None:
            limit_s = timeouts.query_timeout_s
            if server.fifo and limit_s and now - server.began > limit_s:
                return Refusal(SQLSTATE.QUERY_CANCELED, f"query_timeout of {limit_s:g} s")
            limit_s = timeouts.transaction_timeout_s
            if server.status != TransactionStatus.IDLE and limit_s and now - server.attached > limit_s:
                return Refusal(SQLSTATE.TRANSACTION_TIMEOUT, f"transaction_timeout of {limit_s:g} s")
            if server.fifo:
                return None
        if client.busy & Busy.WAITING:
            return None  # it waits for us, not we for it
        is_in_transaction = client.status != TransactionStatus.IDLE
        limit_s = (
            timeouts.idle_in_transaction_timeout_s if is_in_transaction else timeouts.client_idle_timeout_s
        )
        if not limit_s or not (is_in_transaction or client.is_idle):
            return None
        since = self._quiet_since(client, server, now, seen)
        if now - since <= limit_s:
            return None
        if is_in_transaction:
            return Refusal(
                SQLSTATE.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                f"idle in transaction for more than {limit_s:g} s",
            )
        return Refusal(
            SQLSTATE.IDLE_SESSION_TIMEOUT, f"idle for more than {limit_s:g} s (client_idle_timeout)"
        )

    def _quiet_since(
        self,
        client: ClientSession,
        server: ServerSession | None,
        now: float,
        seen: dict[ClientSession, _Seen],
    ) -> float:
        """Return since when, as far as sweeps know, a client has asked nothing."""
        mark: object
        old, since = self._seen.get(client, (None, now))
        if server is not None:
            mark = (server.number, server.queries, server.began)
            is_same = mark == old
        else:
            # The pool replaces what a client has been told by its server's object when it lends that server: an object
            # of our own with the same values stays exactly as long as the client takes no server.
            is_same = client.reported is old
            if not is_same:
                client.reported = Reported(dict(client.reported.values))
            mark = client.reported
        if not is_same:
            since = now
        seen[client] = (mark, since)
        return since
