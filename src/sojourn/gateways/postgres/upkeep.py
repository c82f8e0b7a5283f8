"""Upkeep: what time does to a pool: servers age, checks come due, clients have waited too long.

Called twice a second with the present time. Knows nothing of who gets which server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.states import ServerState

if TYPE_CHECKING:
    from sojourn.gateways.postgres.place import Place
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.verified_replay import Replay


class Upkeep:
    """The deadlines of one pool.

    Life: made with its pool. Always true: a server that is being tried is lent to nobody; one that does not answer
    within ``server_connect_timeout_s`` is closed.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._checked: dict[ServerSession, float] = {}
        """When free servers were last tried."""
        self._checking: set[ServerSession] = set()
        """Servers that have not answered that yet."""
        self.replays: set[Replay] = set()
        """Transactions that are run again."""

    def forget(self, server: ServerSession) -> None:
        """Forget a server that is gone."""
        self._checked.pop(server, None)
        self._checking.discard(server)

    def sweep(self, now: float) -> None:
        """Enforce what depends on time: ages of free servers, the queue's timeout, replays, the minimum."""
        pool = self._pool
        self._end_waits(now)
        for replay in tuple(self.replays):
            replay.tick(now)
        for server in tuple(self._checking):
            if now - self._checked[server] > pool.settings.server_connect_timeout_s:
                server.abort("it did not answer the check")
        for place in pool.places.values():
            for vector in [vector for vector, servers in place.idle.items() if not servers]:
                del place.idle[vector]  # left by ``take``, and never more than one client's settings each
            for servers in tuple(place.idle.values()):
                for server in tuple(servers):
                    self._look_at(place, server, now)
            if place.waiting or (pool.missing(place) and place is pool.primary):
                pool.grow(place)

    def _end_waits(self, now: float) -> None:
        pool = self._pool
        limit_s = pool.settings.queue_timeout_s
        if not limit_s:
            return
        for client in tuple(pool.waiting()):
            if client.asks_nothing:
                continue
            if client.waits_since and now - client.waits_since > limit_s:
                refusal = _no_primary(limit_s) if client in pool.homeless else _no_server(limit_s)
                pool.forget_waiting(client)
                pool.reject(client, refusal)

    def _look_at(self, place: Place, server: ServerSession, now: float) -> None:
        """Close a free server that is too old or too many, or try one that was not used for long."""
        settings = self._pool.settings
        why = self._too_much(place, server, now)
        if why:
            place.drop_idle(server)
            server.close(why)
            return
        looked_at = max(server.used, self._checked.get(server, 0.0))
        if settings.server_check_delay_s and now - looked_at > settings.server_check_delay_s:
            place.drop_idle(server)
            self._try(server, now)

    def _too_much(self, place: Place, server: ServerSession, now: float) -> str:
        """Return why a free server has to go, empty if it may stay."""
        pool = self._pool
        settings = pool.settings
        if now - server.opened > settings.server_lifetime_s:
            return "server_lifetime_s"
        idle_s = settings.server_idle_timeout_s
        if idle_s and now - server.used > idle_s and len(place.servers) > pool.minimum:
            return "server_idle_timeout_s"
        return "more than the pool's size" if len(place.servers) > pool.size + pool.reserve else ""

    def _try(self, server: ServerSession, now: float) -> None:
        def checked(hidden: Hidden) -> None:
            self._checking.discard(server)
            if server.state == ServerState.CLOSED:
                return
            if hidden.error is None:
                self._pool.give_back(server)
            else:
                server.close("it did not pass the check")

        self._checked[server] = now
        self._checking.add(server)
        server.run(b"", Hidden(checked))


def _no_server(limit_s: float) -> Refusal:
    return Refusal(
        SQLSTATE.TOO_MANY_CONNECTIONS,
        f"no server became free within {limit_s:g} s (query_wait_timeout)",
        hint="Nothing of this request was executed; raise pool.size_count or try again.",
    )


def _no_primary(limit_s: float) -> Refusal:
    return Refusal(
        SQLSTATE.CANNOT_CONNECT_NOW,
        f"no primary server was found within {limit_s:g} s (query_wait_timeout)",
        hint="Nothing of this request was executed; try again later.",
    )
