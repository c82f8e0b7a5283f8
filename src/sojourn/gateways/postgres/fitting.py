"""Fitting: a server gets the settings of the client that it is lent to, and what is done where it refuses them.

A setting that was right on one server may be wrong on the next: a role that is gone, a name that an extension has
claimed there. It is never dropped by us, because what comes next might run with rights or in a schema that it was not
meant for: each request gets the server's error, and nothing of it is executed, until the client itself sets or resets
what is refused. Knows no queues; who gets which server is for ``pool`` to say.
Source: postgres-proxy.md sections 6.5 and 6.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres import owed
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal, TransactionStatus
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.scan import OTHER, classify
from sojourn.gateways.postgres.states import HOLDS_PLACE, Busy, ServerState
from sojourn.gateways.postgres.vector import Vector, difference

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession

_HINT: Final = (
    "Nothing of this request was executed. SET or RESET what the server refuses, in a statement of its own."
)


def fit(pool: Pool, server: ServerSession, client: ClientSession, wanted: Vector | None = None) -> bool:
    """Give a server the client's settings; False: the client waits until the server has accepted them.

    Args:
        pool: of both.
        server: lent to the client.
        client: whose it is.
        wanted: other settings, which become the client's if the server accepts them.
    """
    if wanted is None:
        wanted = client.vector
    sql = b"" if server.vector is wanted else difference(server.vector, wanted)
    if not sql:
        _fitted(server, client, wanted)
        return True
    client.busy |= Busy.WAITING
    server.state = ServerState.DEPENDENCIES

    def answered(hidden: Hidden) -> None:
        if client.server is not server:
            return
        if hidden.error is None:
            server.state = ServerState.QUERY
            pool.keep_report(wanted, server.reported)
            _fitted(server, client, wanted)
            client.attached(server)
            return
        changed = _changed_by_request(client)
        if changed is None or changed is wanted or client.login_waiter is not None:
            _refused(pool, server, client, hidden.error)
        elif fit(pool, server, client, changed):
            server.state = ServerState.QUERY
            client.attached(server)

    server.run(sql, Hidden(answered))
    return False


def _fitted(server: ServerSession, client: ClientSession, wanted: Vector) -> None:
    server.vector = wanted
    if wanted is not client.vector:
        client.vector = client.holding.vector = wanted


def _changed_by_request(client: ClientSession) -> Vector | None:
    """Return the settings that a client asks for which waits with a single SET, RESET or DISCARD ALL."""
    if client.status != TransactionStatus.IDLE:
        return None  # they would go with the transaction
    request = b"".join(client.kept or ())
    return None if classify(request) == OTHER else client.holding.changed_by(owed.text_of(client, request))


def _refused(pool: Pool, server: ServerSession, client: ClientSession, error: dict[str, str]) -> None:
    """Take a server from a client whose settings it refuses, and tell the client if it has asked for something."""
    client.server = server.client = None
    is_login = client.login_waiter is not None
    if client.holds & HOLDS_PLACE and not is_login:
        client.needs_restore = True
    pool.clean(server, is_dirty=True)  # it is as good as before, and a login that fails must cost no server
    why = error.get("M", "")
    if client.route and not is_login:
        # A replica may not have yet what the primary has.
        client.route = 0
        pool.take_later(client)
        return
    pool.turn_away(
        client,
        Refusal(
            error.get("C", SQLSTATE.CONNECTION_FAILURE),
            why if is_login else f"the session's settings could not be restored: {why}",
            detail=error.get("D", ""),
            hint="" if is_login else _HINT,
        ),
    )
