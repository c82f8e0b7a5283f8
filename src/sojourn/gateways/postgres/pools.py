"""Pools: the pools of a gateway by database and user: who gets which, what limits they share, and which are let go.

Knows no client and no login; what a pool does with its servers is :mod:`.pool`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres.auth import Credentials
from sojourn.gateways.postgres.config import Database
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.pool import Pool
from sojourn.gateways.postgres.totals import Totals

if TYPE_CHECKING:
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.config import User
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.server_session import ServerSession

ROOM_WANTED: Final = "room for another pool"


@dataclass(slots=True)
class Past:
    """What the pools of one database have done that are gone; ``wait_s`` their clients waited for servers."""

    totals: Totals = field(default_factory=Totals)
    wait_s: float = 0.0
    assignments: int = 0


class Pools(Mapping[tuple[str, str], Pool]):
    """The pools that clients have asked for, by database and user.

    Life: made with the gateway, kept as long. Always true: a pool is here from the first login of its user to its last
    client, server or wish for servers, whichever is last.
    """

    def __init__(self, gateway: PostgresGateway) -> None:
        self._gateway = gateway
        self._pools: dict[tuple[str, str], Pool] = {}
        self.past: dict[str, Past] = {}
        """By database that the settings name, what its pools have done that are gone."""
        self._gone = Totals()
        """What all pools have done that are gone."""

    def __getitem__(self, key: tuple[str, str]) -> Pool:
        return self._pools[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pools)

    def __len__(self) -> int:
        return len(self._pools)

    def of(self, database: Database, name: str, user: str, credentials: Credentials) -> Pool:
        """Return the pool of a database and user; the newest login's credentials are used for new servers.

        Args:
            database: the entry that is meant by ``name``.
            name: what the client calls the database.

        Raises: Refusal for a database that is disabled.
        """
        gateway = self._gateway
        if name in gateway.disabled:
            raise Refusal(SQLSTATE.CANNOT_CONNECT_NOW, f'database "{name}" is disabled')
        pool = self._pools.get((name, user))
        if pool is None:
            known = self._user(user)
            mode = (known.pool_mode if known else "") or database.pool_mode or gateway.settings.pool.mode
            room = gateway.rooms[database.cluster]
            pool = Pool(
                gateway,
                room,
                database,
                name=name,
                user=user,
                server_user=database.user or user,
                mode=mode,
                credentials=credentials,
            )
            pool.is_paused = bool({name, "*"} & gateway.paused)
            self._pools[name, user] = pool
            room.pools.append(pool)
        if database.password is not None or database.user:
            secret = database.password or gateway.access.known.get(pool.server_user)
            pool.credentials = Credentials.of(pool.server_user, secret)
        elif not credentials.is_empty:
            pool.credentials = credentials
        return pool

    def for_monitor(self, room: ClusterRoom, on_lost: Callable[[], None]) -> Pool:
        """Return a pool of its own, which is not kept here, for a connection of the monitoring role."""
        settings = room.settings
        pool = Pool(
            self._gateway,
            room,
            Database(name=settings.monitor_database, cluster=room.name),
            name=settings.monitor_database,
            user=settings.monitor_user,
            server_user=settings.monitor_user,
            mode="session",
            credentials=Credentials.of(settings.monitor_user, settings.monitor_password),
        )
        pool.on_lost = on_lost
        return pool

    def forget_unused(self) -> None:
        """Let go of the pools that nobody uses: who names databases and users may name millions.

        What they have done still counts for a database that the settings name.
        """
        unused = {key: pool for key, pool in self._pools.items() if pool.is_unused}
        if not unused:
            return
        gone = set(unused.values())
        configured = {database.name for database in self._gateway.settings.databases}
        for (name, user), pool in unused.items():
            del self._pools[name, user]
            self._gone.add(pool.closed)
            if name in configured:
                past = self.past.setdefault(name, Past())
                past.totals.add(pool.closed)
                past.wait_s += pool.wait_s
                past.assignments += pool.assignments
        for room in self._gateway.rooms.values():
            room.pools[:] = [pool for pool in room.pools if pool not in gone]

    def totals(self) -> Totals:
        """Return what all servers have done since the start, whichever pool they were of."""
        found = Totals()
        found.add(self._gone)
        for pool in self._pools.values():
            found.add(pool.totals())
        return found

    # Limits

    def sizes(self, database: Database, user: str) -> tuple[int, int, int]:
        """Return size, reserve and minimum of a pool; several workers share them."""
        settings = self._gateway.settings.pool
        known = self._user(user)
        size = (known.pool_size_count if known else 0) or database.pool_size_count or settings.size_count
        reserve = database.reserve_pool_size_count or settings.reserve_size_count
        minimum = database.min_pool_size_count or settings.min_size_count
        workers = self._gateway.settings.workers_count
        return max(1, size // workers), -(-reserve // workers), min(-(-minimum // workers), size)

    def has_room_for(self, pool: Pool) -> bool:
        """Say whether the limits of database and user allow one more server."""
        return not any(self._reached(pool))

    def make_room_for(self, pool: Pool) -> None:
        """Close the free server that was unused longest, where those of others reach a limit of this pool."""
        others = {one for sharing in self._reached(pool) for one in sharing if one is not pool}
        if any(server.closing for one in others for server in one.servers()):
            return
        free = [
            (server.used, server.number, place, server)
            for one in others
            for place in one.places.values()
            if not place.waiting
            for servers in place.idle.values()
            for server in servers
        ]
        if free:
            _, _, place, server = min(free, key=lambda one: one[:2])
            place.drop_idle(server)
            server.close(ROOM_WANTED)

    def closed(self, server: ServerSession) -> None:
        """Take note of the end of a server: if it made room, somebody waits for that."""
        if server.closing == ROOM_WANTED:
            for pool in tuple(self._pools.values()):
                pool.room_was_made()

    def _reached(self, pool: Pool) -> Iterator[list[Pool]]:
        """Yield for each limit that is reached the pools that share it with ``pool``, itself included."""
        settings = self._gateway.settings.pool
        known = self._user(pool.user)
        of_database = pool.database.max_connections_count or settings.max_database_connections_count
        of_user = (known.max_connections_count if known else 0) or settings.max_user_connections_count
        if of_database:
            sharing = [one for one in self._pools.values() if one.name == pool.name]
            if sum(map(Pool.count, sharing)) >= of_database:
                yield sharing
        if of_user:
            sharing = [one for one in self._pools.values() if one.user == pool.user]
            if sum(map(Pool.count, sharing)) >= of_user:
                yield sharing

    def _user(self, name: str) -> User | None:
        return next((one for one in self._gateway.settings.users if one.name == name), None)
