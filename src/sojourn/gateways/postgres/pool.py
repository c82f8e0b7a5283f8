"""Pool: the servers of one database and user, and the clients that wait for one.

Taking a server that is free and already has the client's settings costs two look-ups; everything else waits in a
queue, in order of arrival. Knows limits; which node is the primary it is told by the cluster.
Source: postgres-proxy.md sections 6.6 and 6.9.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sojourn.errors import LimitExceeded, SojournError
from sojourn.gateways.postgres import dial, fitting, lost_transaction, recovery, verified_replay
from sojourn.gateways.postgres.config import split_address
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal, TransactionStatus
from sojourn.gateways.postgres.place import Place
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.reported import Reported
from sojourn.gateways.postgres.server_session import ServerSession
from sojourn.gateways.postgres.states import Busy, ClientState, ServerState
from sojourn.gateways.postgres.totals import Totals
from sojourn.gateways.postgres.upkeep import Upkeep
from sojourn.gateways.postgres.vector import EMPTY, Vector

if TYPE_CHECKING:
    from sojourn.gateways.postgres.auth import Credentials
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.config import Database, PostgresSettings
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.nodes import Node

_RETRY_MAX_FACTOR = 16
_CONNECTING_COUNT = 16
"""Logins under way at a node at once: with more of them the first one only comes later."""


class Pool:
    """All servers for one database and user.

    Life: made at the first login for it, removed by the sweep when it has neither clients nor servers, so that nobody
    fills the memory with names. Always true: at most
    ``size`` servers a node, ``size + reserve`` when clients have waited too long; clients get servers in the order in
    which they asked.
    """

    def __init__(
        self,
        gateway: PostgresGateway,
        room: ClusterRoom,
        database: Database,
        *,
        name: str,
        user: str,
        server_user: str,
        mode: str,
        credentials: Credentials,
    ) -> None:
        settings = gateway.settings.pool
        self.gateway = gateway
        self.room = room
        self.database = database
        self.name = name
        self.dbname = database.dbname or name
        self.user = user
        self.server_user = server_user
        self.mode = mode
        self.credentials = credentials
        self.is_paused = False
        self.generation = 0
        self.clients = 0
        self.joined_count = 0
        """Clients that were ever here."""
        self.places: dict[Node, Place] = {}
        self.primary: Place | None = None
        self.homeless: deque[ClientSession] = deque()
        """Clients that wait while no primary is known."""
        self._parted: set[ClientSession] = set()
        """Clients that lost a server of their own and wait for no other: they get one with the next primary."""
        self.closed = Totals()
        self.wait_s = 0.0
        self.size, self.reserve, self.minimum = gateway.pools.sizes(database, user)
        self.settings = settings
        self.upkeep = Upkeep(self)
        self.report: Reported | None = None
        self._reports: WeakKeyDictionary[Vector, Reported] = WeakKeyDictionary()
        self.on_lost: Callable[[], None] | None = None
        self.primary_changed()

    def reload(self, settings: PostgresSettings) -> None:
        """Take new sizes and timeouts; servers beyond them go when they are free."""
        self.settings = settings.pool
        self.database = self.gateway.find_database(self.name) or self.database
        self.size, self.reserve, self.minimum = self.gateway.pools.sizes(self.database, self.user)

    def report_of(self, vector: Vector) -> Reported | None:
        """Return what a server reports that has a client's settings, if that is known."""
        return self._reports.get(vector)

    def keep_report(self, vector: Vector, reported: Reported) -> Reported:
        """Remember what a server with these settings reports, as long as somebody has them."""
        self._reports[vector] = reported
        return reported

    # Taking and giving back: the hot path

    def take(self, client: ClientSession) -> ServerSession | None:
        """Lend a server to ``client`` at once, or put it into the queue and return None."""
        place = self.primary if not client.route else self._replica(client)
        if place is not None and not place.waiting and not self.is_paused:
            servers = place.idle.get(client.vector)
            if servers:
                server = servers.pop()
                server.client = client
                client.server = server
                server.state = "query"
                server.attached = monotonic()
                server.last_pid = client.pid
                if server.reported is not client.reported:
                    client.sees(server.reported)
                return server
            if self.mode != "session":
                found = place.any_idle()
                if found is not None:
                    self._lend(found, client)
                    if not self.fit(found, client):
                        return None
                    if found.reported is not client.reported:
                        client.sees(found.reported)
                    return found
        self._queue(place, client)
        return None

    def take_later(self, client: ClientSession) -> None:
        """Lend a server to a client that waits already; it is told by ``attached``."""
        if not client.waits_since:
            client.waits_since = monotonic()
        server = self.take(client)
        if server is not None:
            client.attached(server)

    def give_back(self, server: ServerSession) -> None:
        """Take a server back that owes nothing; the next client in the queue gets it."""
        place = self.places[server.node]
        if server.generation != self.generation or server.closing or server.cancels:
            self._retire(server)
            return
        if place.waiting and not self.is_paused:
            self._hand(server, place.waiting.popleft())
            return
        servers = place.idle.get(server.vector)
        if servers is None:
            place.idle[server.vector] = [server]
        else:
            servers.append(server)

    def _retire(self, server: ServerSession) -> None:
        """Close a server that is old; one that a cancel request is under way to waits for that."""
        if server.cancels and server.generation == self.generation and not server.closing:
            server.state = ServerState.BEING_CANCELED
            return
        server.close(server.closing or "replaced by a new connection")

    def cancel_done(self, server: ServerSession) -> None:
        """Give a server out again, now that no cancel request can hit the wrong statement."""
        if server.state == ServerState.BEING_CANCELED and not server.cancels:
            server.state = ServerState.IDLE
            self.give_back(server)

    def _lend(self, server: ServerSession, client: ClientSession) -> None:
        server.client = client
        client.server = server
        server.state = ServerState.QUERY
        server.attached = server.began = monotonic()
        server.last_pid = client.pid

    def _hand(self, server: ServerSession, client: ClientSession) -> None:
        """Lend a server to a client that waits, fitted first where its settings differ."""
        if self.mode == "session" and server.home is not client.holding.startup:
            # A RESET would go back to another client's startup parameters; its loss opens one with this client's.
            self.places[server.node].waiting.appendleft(client)
            server.close("room for other startup parameters")
            return
        self._lend(server, client)
        if self.fit(server, client):
            client.attached(server)

    def fit(self, server: ServerSession, client: ClientSession) -> bool:
        """Give a server the client's settings; False: the client waits until the server has accepted them."""
        return server.vector is client.vector or fitting.fit(self, server, client)

    def clean(self, server: ServerSession, *, is_dirty: bool) -> None:
        """Take back the server of a client that has left; one that may hold things of it is reset first."""
        if not is_dirty:
            server.state = ServerState.IDLE
            server.used = monotonic()
            self.give_back(server)
            return
        query = self.settings.server_reset_query
        if not query:
            server.close("its client held things and server_reset_query is empty")
            return
        server.state = ServerState.RESET

        def cleaned(hidden: Hidden) -> None:
            if server.state == ServerState.CLOSED:
                return
            if hidden.error is not None or server.status != TransactionStatus.IDLE:
                server.close("it could not be reset")
                return
            server.prepared.clear()
            server.unnamed = None
            server.vector = server.home
            server.state = ServerState.IDLE
            server.used = monotonic()
            self.give_back(server)

        server.run(query.encode(), Hidden(cleaned))

    # The queue

    def _queue(self, place: Place | None, client: ClientSession) -> None:
        queue = self.homeless if place is None else place.waiting
        limit = self.settings.queue_limit_count
        if place is None:
            limit = min(limit, self.gateway.settings.failover.buffered_clients_count)
        if len(queue) >= limit and not client.asks_nothing:
            if place is None and client.login_waiter is None:
                self.gateway.loop.call_soon(self._overflows, client)
                return
            error = LimitExceeded("clients waiting for a server", len(queue) + 1, limit)
            client.refuse(Refusal(SQLSTATE.TOO_MANY_CONNECTIONS, str(error)))
            return
        if place is None and self.room.is_given_up:
            queue.append(client)
            self.gateway.loop.call_soon(self.give_up, self.room.given_up_why)
            return
        queue.append(client)
        if place is not None:
            self.grow(place)

    def _overflows(self, client: ClientSession) -> None:
        """Tell a client that too many wait for a primary already; it stays, for when there is one."""
        if client.ended or client.server is not None or not client.busy & Busy.WAITING:
            return
        if client.needs_restore:
            self._parted.add(client)
        self.reject(
            client,
            Refusal(
                SQLSTATE.CANNOT_CONNECT_NOW,
                "no primary server is available, and too many clients wait for one",
                hint="Nothing of this request was executed; try again later.",
            ),
        )

    def forget_waiting(self, client: ClientSession) -> bool:
        """Take a client out of the queue that it is in; return whether it was in one."""
        for queue in (self.homeless, *(place.waiting for place in self.places.values())):
            with suppress(ValueError):
                queue.remove(client)
                return True
        return False

    def forget(self, client: ClientSession) -> None:
        """Expect nothing more of a client that leaves."""
        self._parted.discard(client)
        self.forget_waiting(client)

    def waiting(self) -> Iterator[ClientSession]:
        """Yield the clients that wait."""
        yield from self.homeless
        for place in self.places.values():
            yield from place.waiting

    def give_up(self, why: str) -> None:
        """Tell those who wait for a primary that there is none."""
        homeless, self.homeless = self.homeless, deque()
        for client in homeless:
            self.turn_away(
                client,
                Refusal(
                    SQLSTATE.CANNOT_CONNECT_NOW,
                    "no primary server is available",
                    detail=why,
                    hint="Nothing of this request was executed; try again later.",
                ),
            )

    def turn_away(self, client: ClientSession, refusal: Refusal) -> None:
        """Let a client go without a server; it hears of it if it asked for something.

        A session that is to be rebuilt is, when there is another primary, or when the client asks.
        """
        if client.needs_restore and client.login_waiter is None:
            self._parted.add(client)
        replay = verified_replay.of(client)
        if replay is not None:
            replay.give_up(refusal.message)
            return
        if client.login_waiter is None and not client.kept:
            client.busy &= ~Busy.WAITING
            client.state = ClientState.READY
            client.waits_since = 0.0
            client.kept = None
            client.resume_reading()
            return
        self.reject(client, refusal)

    def reject(self, client: ClientSession, refusal: Refusal) -> None:
        """Answer what a client waits with by an error; it stays connected."""
        replay = verified_replay.of(client)
        if replay is not None:
            replay.give_up(refusal.message)
            return
        client.busy &= ~Busy.WAITING
        client.waits_since = 0.0
        kept, client.kept = client.kept, None
        if client.login_waiter is not None:
            client.refuse(refusal)
            return
        client.state = ClientState.READY
        lost_transaction.reject(client, refusal, b"".join(kept or ()))
        client.resume_reading()

    # Nodes

    def primary_changed(self) -> None:
        """Take note of which node is the primary now, None while there is none."""
        node = self.room.writable()
        self.primary = None if node is None else self.place(node)
        if self.primary is None:
            return
        self.primary.retry_at = self.primary.failures = 0
        parted, self._parted = self._parted, set()
        for client in parted:
            recovery.rebuild(client)
        while self.homeless:
            self.primary.waiting.append(self.homeless.popleft())
        self.serve_waiting(self.primary)

    def place(self, node: Node) -> Place:
        """Return the servers at a node."""
        place = self.places.get(node)
        if place is None:
            place = self.places[node] = Place(node)
        return place

    def _replica(self, client: ClientSession) -> Place | None:
        node = self.room.replica_for(client)
        if node is not None:
            return self.place(node)
        client.route = 0  # so that a loss is not taken for that of a reader
        return self.primary

    def serve_waiting(self, place: Place) -> None:
        """Give free servers to those who wait, and open more."""
        while place.waiting and not self.is_paused:
            server = place.any_idle()
            if server is None:
                break
            self._hand(server, place.waiting.popleft())
        if place.waiting:
            self.grow(place)

    def node_lost(self, node: Node, why: str) -> None:
        """Close what is open at a node that is not to be used any more, and let its waiting clients go elsewhere."""
        place = self.places.get(node)
        if place is None:
            return
        if self.primary is place:
            self.primary = None
        waiting, place.waiting = place.waiting, deque()
        for client in waiting:
            client.route = 0
        self.homeless.extend(waiting)
        for server in tuple(place.servers):
            server.abort(why)
            server.connection_lost(None)
        if self.room.writable() is not None:
            self.primary_changed()

    def leave(self, node: Node) -> int:
        """Let nobody begin anything new at a node; return how many clients still have a transaction there."""
        place = self.places[node]
        busy = 0
        for server in tuple(place.servers):
            server.closing = server.closing or f"{node.name} is being left"
            client = server.client
            if place.drop_idle(server):
                server.close(server.closing)
            elif client is not None and client.is_idle:
                recovery.part(client, server)
            elif client is not None:
                busy += 1
        return busy

    # Opening

    def grow(self, place: Place) -> None:
        """Open one more server where clients wait and limits allow it."""
        if self.mode == "session" and place.waiting and not self._has_room(place):
            spare = place.any_idle()  # it was opened with other startup parameters
            if spare is not None:
                spare.close("room for other startup parameters")
        while (
            not self.is_paused
            and place.connecting < min(_CONNECTING_COUNT, len(place.waiting) + self.missing(place))
            and self._has_room(place)
            and monotonic() >= place.retry_at
        ):
            asking = None
            if self.mode == "session" and place.connecting < len(place.waiting):
                asking = place.waiting[place.connecting]
            place.connecting += 1
            self.gateway.server.spawn(self.open_at(place, asking))
        if place.waiting and not place.connecting and not self.gateway.pools.has_room_for(self):
            self.gateway.pools.make_room_for(self)

    def room_was_made(self) -> None:
        """Take note that another pool has one server less."""
        for place in self.places.values():
            if place.waiting:
                self.grow(place)

    def missing(self, place: Place) -> int:
        """Return how many servers are wanted there although nobody waits."""
        return max(0, self.minimum - len(place.servers))

    def _has_room(self, place: Place) -> bool:
        count = len(place.servers) + place.connecting
        limit = self.size
        if self.reserve and place.waiting:
            waited_s = monotonic() - (place.waiting[0].waits_since or monotonic())
            if waited_s >= self.settings.reserve_timeout_s:
                limit += self.reserve
        return count < limit and self.gateway.pools.has_room_for(self)

    async def open_at(self, place: Place, asking: ClientSession | None = None) -> None:
        """Open a server, and give it to who waits, first of all to whom it is opened for."""
        try:
            server = await self.connect(place, asking)
        except Refusal as refusal:
            place.connecting -= 1
            self._failed(place, refusal)
            # No for this user or database, or for what one asked for: waiting longer changes nothing.
            for client in tuple(place.waiting) if asking is None else (asking,):
                with suppress(ValueError):
                    place.waiting.remove(client)
                self.turn_away(client, refusal)
            return
        except asyncio.CancelledError:
            place.connecting -= 1
            raise
        except dial.FAILURES as error:
            place.connecting -= 1
            self._failed(place, error)
            self.room.connect_failed(place.node, error)
            return
        place.connecting -= 1
        place.failures = 0
        place.last_error = None
        self._admit(place, server, asking)
        self.room.served()
        self.grow(place)

    def _admit(self, place: Place, server: ServerSession, asking: ClientSession | None) -> None:
        """Put a new server to use."""
        if not self.room.is_usable(place.node):
            server.close("its node is not to be used any more")
        elif asking is not None and not self.is_paused and asking in place.waiting:
            place.waiting.remove(asking)
            self._hand(server, asking)
        else:
            self.give_back(server)

    def _failed(self, place: Place, error: BaseException) -> None:
        if not place.failures:
            place.failing_since = monotonic()
        place.failures += 1
        factor = min(2 ** (place.failures - 1), _RETRY_MAX_FACTOR)
        place.retry_at = monotonic() + self.settings.server_login_retry_s * factor
        place.last_error = error if isinstance(error, SojournError) else None
        self.gateway.connect_failed(self, place.node, error)

    async def connect(self, place: Place, asking: ClientSession | None = None) -> ServerSession:
        """Open a connection to a node and log in.

        Args:
            place: where.
            asking: whose startup parameters the server gets as its own, so that RESET means the same there.
        Raises: Refusal, or one of ``dial.FAILURES``.
        """
        gateway = self.gateway
        home = asking.holding.startup if asking is not None else EMPTY
        timeout_s = self.settings.server_connect_timeout_s
        server = ServerSession(self, place.node, gateway.next_server_number())
        async with asyncio.timeout(timeout_s):
            talk = await dial.connect(
                split_address(place.node.address),
                tls=self.room.tls,
                is_tls_required=self.room.is_tls_required,
                timeout_s=timeout_s,
            )
            try:
                server.vector = server.home = home
                await dial.log_in(
                    server,
                    talk,
                    user=self.server_user,
                    database=self.dbname,
                    credentials=self.credentials,
                    parameters={**self.database.parameters, **home.startup_texts()},
                )
                place.servers.add(server)
                server.opened = server.used = monotonic()
                server.generation = self.generation
                if self.database.connect_query:
                    await server.query(self.database.connect_query)
            except BaseException:
                place.servers.discard(server)
                talk.abort()
                raise
        self.report = server.reported
        gateway.server_opened(server)
        return server

    def lost(self, server: ServerSession, cause: str) -> None:
        """Take note that a server is gone."""
        place = self.places[server.node]
        place.servers.discard(server)
        place.drop_idle(server)
        self.upkeep.forget(server)
        self.closed.add(server)
        self.gateway.server_closed(server, cause)
        if self.on_lost is None:
            self.room.server_lost(server)
        else:
            self.on_lost()
        if place.waiting:
            self.grow(place)

    def role_reported(self, server: ServerSession, *, is_standby: bool) -> None:
        """Take note that a server said whether it is a standby (``in_hot_standby``, PostgreSQL 14 and later)."""
        self.room.role_reported(server.node, is_standby=is_standby)

    # What operators order

    def pause(self) -> None:
        """Lend no server any more; those in use come back when their clients are done."""
        self.is_paused = True

    def resume(self) -> None:
        """Lend again."""
        self.is_paused = False
        for place in self.places.values():
            self.serve_waiting(place)

    def reconnect(self, why: str = "RECONNECT") -> None:
        """Replace every server by a new one, each when it is free."""
        self.generation += 1
        for place in self.places.values():
            for servers in tuple(place.idle.values()):
                for server in tuple(servers):
                    place.drop_idle(server)
                    server.close(why)

    def servers(self) -> Iterator[ServerSession]:
        """Yield all servers."""
        for place in self.places.values():
            yield from tuple(place.servers)

    def count(self) -> int:
        """Return how many servers there are, those that are about to be included."""
        return sum(len(place.servers) + place.connecting for place in self.places.values())

    def totals(self) -> Totals:
        """Return what its servers have done, those that are gone among them."""
        found = Totals()
        found.add(self.closed)
        for server in self.servers():
            found.add(server)
        return found

    @property
    def assignments(self) -> int:
        """Return how often a client got a server."""
        return self.joined_count if self.mode == "session" else self.totals().transactions

    @property
    def is_unused(self) -> bool:
        """Say whether nothing is lost with it: no client, no server, and none that is to be kept open."""
        return not (self.clients or self.minimum or self.count() or any(True for _ in self.waiting()))

    @property
    def busy_count(self) -> int:
        """Return how many servers somebody uses."""
        return sum(len(place.servers) - place.idle_count for place in self.places.values())
