"""ConnectionManager: who may connect, who is connected, and the one sweep for all deadlines.

One per gateway of a server. Knows no protocol: whether a peer is known is the gateway's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any

from sojourn.core.connection import Connection
from sojourn.core.events import EventKind
from sojourn.core.peer import Peer
from sojourn.core.rate import TokenBucket
from sojourn.core.rates import Counts
from sojourn.core.session import Reason, raised_at
from sojourn.errors import LimitExceeded, SojournError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sojourn.core.clock import Clock
    from sojourn.core.gateway import Gateway
    from sojourn.core.session import Session

CONNECTION_REFUSED = EventKind("connection.refused", ("peer", "error"), level="warning")
"""A peer was not let in; not a byte of it was read."""
CONNECTION_NOT_STARTED = EventKind("connection.not_started", ("peer", "error", "where"), level="error")
"""A bug of ours: a gateway's admission, codec or greeting raised what it should not; the connection was closed."""
CONNECTION_BUG = EventKind("connection.bug", ("peer", "error", "where"), level="error")
"""A bug of ours met outside of any packet: in a sweep, a flush or a reload; the connection was closed."""
DRAIN_CUT_SHORT = EventKind("drain.cut_short", ("gateway", "connections", "sessions"), level="warning")
"""The drain's deadline passed; what was left was ended."""

CLOSE_TIMEOUT_S = 1.0
"""How long a peer has to take the last bytes before its connection is aborted."""


class ConnectionManager:
    """The set of a gateway's connections, its limits and its tasks.

    Life: made by the server with the gateway, drained at its end. Always true: a connection is in ``connections``
    from its admission to ``connection_lost``; a task is in ``tasks`` until it is done.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        next_number: Callable[[], int],
    ) -> None:
        self.gateway = gateway
        self.loop = loop
        self.clock = clock
        self.next_number = next_number
        server = gateway.server
        self.events = server.events
        self.redactors = server.recorder.redactors
        self.trace_limit = min(server.recorder.entries_limit, gateway.trace_limit_count)
        self.recorder = server.recorder
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.detached: set[Session] = set()
        """Sessions that outlive their connection and have none at the moment."""
        self.is_draining = False
        self._packets_in = self._packets_out = 0
        self._bytes_in = self._bytes_out = 0
        self._sessions_opened = self.sessions_refused = self.sessions_failed = 0
        self.connections_opened = self.connections_refused = self.send_errors = 0
        self._per_peer: Counter[str] = Counter()
        self._reserved_count = 0
        self._to_flush: list[Connection] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._nowhere: Connection | None = None
        self._detached_opened = 0
        self._rate, self._rate_limits = self._bucket()

    def _bucket(self) -> tuple[TokenBucket, tuple[float, int]]:
        """Return a full bucket by the present limits, and those limits."""
        limits = self.gateway.limits.accepts_per_s, self.gateway.limits.accepts_burst_count
        return TokenBucket(*limits, self.clock), limits

    # Admission

    def refusal_by_limits(self, peer: Peer, *, has_token: bool = False) -> SojournError | None:
        """Return which limit keeps ``peer`` out, or None; connections that are in their handshake count as well.

        Args:
            peer: who wants to come in.
            has_token: the accept rate was asked before.
        """
        limits = self.gateway.limits
        amount = len(self.connections) + self._reserved_count
        if self.is_draining:
            return LimitExceeded("connections while draining", 1, 0)
        if amount >= limits.connections_count:
            return LimitExceeded("connections", amount + 1, limits.connections_count)
        if self._per_peer[peer.address] >= limits.connections_per_peer_count:
            return LimitExceeded(
                f"connections of {peer.address}",
                self._per_peer[peer.address] + 1,
                limits.connections_per_peer_count,
            )
        if not has_token and not self._rate.take():
            return LimitExceeded("accepts per second", limits.accepts_per_s, limits.accepts_per_s)
        return None

    def reserve(self, address: str) -> None:
        """Keep a place for a connection that is in its handshake."""
        self._reserved_count += 1
        self._per_peer[address] += 1

    def release(self, address: str) -> None:
        """Give a reserved place back."""
        self._reserved_count -= 1
        self._leave(address)

    def _leave(self, address: str) -> None:
        left = self._per_peer[address] - 1
        if left > 0:
            self._per_peer[address] = left
        else:
            del self._per_peer[address]

    def refused(self, peer: Peer, error: SojournError) -> None:
        """Tell that ``peer`` was not let in."""
        self.connections_refused += 1
        self.events.emit(CONNECTION_REFUSED, None, peer.address, str(error))

    def admit(self, connection: Connection) -> bool:
        """Let a new connection in, or say why not; called before its first read."""
        peer = connection.peer
        error = None
        if not connection.is_checked or self.is_draining:
            error = self.refusal_by_limits(peer, has_token=connection.has_token)
        if error is None:
            try:
                self.gateway.admit(peer)
            except SojournError as refusal:
                error = refusal
            except Exception as bug:  # noqa: BLE001 - a bug in admission lets nobody in, and ends nothing else
                self.failed(connection, bug)
                return False
        if error is not None:
            self.refused(peer, error)
            return False
        connection.is_admitted = True
        self.connections_opened += 1
        self.connections.add(connection)
        self._per_peer[peer.address] += 1
        self._empty.clear()
        return True

    def failed(self, connection: Connection, error: Exception) -> None:
        """Tell of a bug that kept a connection from its start."""
        self.events.emit(
            CONNECTION_NOT_STARTED, None, str(connection.peer), type(error).__name__, raised_at(error)
        )

    def forget(self, connection: Connection) -> None:
        """Take a lost connection out."""
        self.connections.discard(connection)
        self._sessions_opened += connection.table.opened
        self._packets_in += connection.packets_in
        self._packets_out += connection.packets_out
        self._bytes_in += connection.bytes_in
        self._bytes_out += connection.bytes_out
        self._leave(connection.peer.address)
        if not self.connections:
            self._empty.set()

    # Sessions without a connection

    def open_detached(self, key: Hashable) -> Session:
        """Open a session that has no connection (yet); it lives until it is ended, with whatever is attached to it."""
        if self._nowhere is None:
            self._nowhere = Connection.nowhere(self)
        self._nowhere.now = self.clock()
        session = self._nowhere.new_session(key)
        session.outlives_connection = True
        self._nowhere.table.live.clear()
        self.detached.add(session)
        self._detached_opened += 1
        return session

    # Tasks

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` that is no session's, such as a handshake; it must not raise."""
        self.adopt(self.loop.create_task(work))

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Own a task until it is done: one of nobody, or of a session that has ended before it.

        A live session owns its task itself: entering and leaving a set costs 0.1 us per message, a done callback 0.5.
        """
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def flush_soon(self, connection: Connection) -> None:
        """Flush ``connection`` in the next turn of the loop, with one callback for all that have something to say."""
        if not self._to_flush:
            self.loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        to_flush, self._to_flush = self._to_flush, []
        for connection in to_flush:
            try:
                connection.flush()
            except Exception as error:  # noqa: BLE001 - the others of this turn have something to say too
                self.give_up(connection, error)

    def on_send_error(self, connection: Connection, session: Session, error: SojournError) -> None:  # noqa: ARG002
        """Count what could not be sent: the outermost hook of the send path."""
        self.send_errors += 1

    # Views

    def sessions(self) -> Iterator[Session]:
        """Yield every live session once."""
        seen: set[int] = set()
        for connection in tuple(self.connections):
            for session in tuple(connection.table.live.values()):
                if session.number not in seen:
                    seen.add(session.number)
                    yield session
        yield from tuple(self.detached)

    def sessions_after(self, number: int) -> list[Session]:
        """Return live sessions with a higher number, each once; cheaper than ``sessions`` where most are older."""
        found = {
            session.number: session
            for connection in self.connections
            for session in connection.table.live.values()
            if session.number > number
        }
        found |= {session.number: session for session in self.detached if session.number > number}
        return list(found.values())

    @property
    def sessions_opened(self) -> int:
        """Return how many sessions were opened."""
        opened = sum(connection.table.opened for connection in self.connections)
        return self._sessions_opened + self._detached_opened + opened

    @property
    def packets_in(self) -> int:
        """Return how many packets arrived."""
        return self.counts().packets_in

    @property
    def packets_out(self) -> int:
        """Return how many packets were written."""
        return self.counts().packets_out

    def counts(self) -> Counts:
        """Return all that is counted, in one pass over the connections; what the gateway relays by itself is added."""
        live, opened = len(self.detached), self._sessions_opened + self._detached_opened
        packets_in, packets_out, bytes_in, bytes_out = self.gateway.relayed()
        packets_in += self._packets_in
        packets_out += self._packets_out
        bytes_in += self._bytes_in
        bytes_out += self._bytes_out
        for connection in self.connections:
            table = connection.table
            live += len(table.live)
            opened += table.opened
            packets_in += connection.packets_in
            packets_out += connection.packets_out
            bytes_in += connection.bytes_in
            bytes_out += connection.bytes_out
        return Counts(
            sessions_open=live,
            connections=len(self.connections),
            sessions_opened=opened,
            sessions_failed=self.sessions_failed,
            packets_in=packets_in,
            packets_out=packets_out,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )

    @property
    def connections_per_peer_count(self) -> int:
        """Return how many connections the address has that has most."""
        return max(self._per_peer.values(), default=0)

    @property
    def task_count(self) -> int:
        """Return how many tasks there are: sessions that wait, and work of nobody."""
        return len(self.tasks) + sum(session.task is not None for session in self.sessions())

    @property
    def session_count(self) -> int:
        """Return how many sessions are live, counted per connection that carries them."""
        return sum(len(connection.table.live) for connection in self.connections) + len(self.detached)

    # Sweep, reload, drain

    def sweep(self, now: float) -> None:
        """Enforce all deadlines that have passed."""
        for connection in tuple(self.connections):
            try:
                connection.sweep(now)
            except Exception as error:  # noqa: BLE001 - a gateway's bug must not stop the deadlines of the others
                self.give_up(connection, error)
        for session in tuple(self.detached):
            try:
                session.sweep(now)
            except Exception as error:  # noqa: BLE001 - the same
                self.give_up(session.connection, error)
                self.detached.discard(session)

    def reload(self) -> None:
        """Put new limits in force, and ask for each connection whether it may stay; those that may not are drained."""
        limits = self.gateway.limits
        if (limits.accepts_per_s, limits.accepts_burst_count) != self._rate_limits:
            self._rate, self._rate_limits = self._bucket()
        for connection in tuple(self.connections):
            try:
                if not self.gateway.readmit(connection):
                    connection.drain()
            except Exception as error:  # noqa: BLE001 - whether it may stay is not known, and the others are asked too
                self.give_up(connection, error)

    def give_up(self, connection: Connection, error: Exception) -> None:
        """Tell of a bug and end the connection that met it."""
        self.events.emit(CONNECTION_BUG, None, str(connection.peer), type(error).__name__, raised_at(error))
        connection.abort("internal error")

    async def drain(self, timeout_s: float) -> None:
        """Let sessions in flight finish for ``timeout_s`` seconds, then end them; returns when all is gone."""
        self.is_draining = True
        for connection in tuple(self.connections):
            connection.drain()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            self.events.emit(
                DRAIN_CUT_SHORT, None, self.gateway.name, len(self.connections), self.session_count
            )
        await self.abort()

    async def abort(self) -> None:
        """End everything now: sessions get the gateway's farewell, tasks are cancelled and awaited."""
        self.is_draining = True
        for connection in tuple(self.connections):
            for session in tuple(connection.table.live.values()):
                session.close(Reason.DRAINED)
            connection.close("drained")
        for session in tuple(self.detached):
            session.close(Reason.DRAINED)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._empty.wait()
        except TimeoutError:
            for connection in tuple(self.connections):
                connection.abort("the peer took no bytes in time")
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._empty.wait()  # an abort is told in a later turn of the loop
