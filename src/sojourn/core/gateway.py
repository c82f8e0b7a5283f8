"""Gateway: what a protocol hands to the core.

A gateway names its framing, its codec, its sessions and its router, and answers the few questions that only the
protocol can answer. Everything here has a sensible default, so that a small protocol states only what is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sized
from typing import TYPE_CHECKING, Any, ClassVar

from sojourn.core.events import EventKind
from sojourn.core.rates import Relayed
from sojourn.core.recorder import Direction, Leg, summary
from sojourn.core.router import Router
from sojourn.core.session import Session, in_words, raised_at
from sojourn.core.settings import LimitSettings
from sojourn.core.table import Mode
from sojourn.errors import SojournError
from sojourn.sansio.codec import NullCodec

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.panel import AdminPanel, Trouble
    from sojourn.core.peer import Peer
    from sojourn.core.server import Server
    from sojourn.sansio.codec import Codec
    from sojourn.sansio.framing import Framing

SESSION_FAILED = EventKind("session.failed", ("reason", "error", "peer", "about"), level="warning")
"""A session ended because of an error; the error says what was found, what was wanted and the section."""
HANDLER_FAILED = EventKind("session.handler_failed", ("error", "where", "peer", "about"), level="error")
"""A bug of ours: a handler raised what it should not."""
CONNECTION_FAILED = EventKind("connection.failed", ("error", "peer"), level="warning")
"""The bytes of a connection broke a rule; it was closed."""


def _itself(packet: Any) -> Any:
    return packet


class Gateway:
    """One protocol on the core; one instance per server.

    Life: made by the application, started and stopped with the server. Subclasses set the class attributes and
    override what they need; the methods are called in the loop's thread and must not block.
    """

    name: ClassVar[str] = "gateway"
    router: Router
    framing: Framing[Any]
    session_class: type[Session] = Session
    limits: LimitSettings = LimitSettings()
    config: Any = None
    """The snapshot that sessions capture when they open; swapped as a whole by ``reload``."""
    inbox_limit_count: int = 16
    trace_limit_count: int = 4_096
    """Last happenings kept of one session at most, whatever the recorder's settings allow."""
    pauses_when_full: bool = True
    """A full inbox stops reading the connection; False: it is the peer's protocol error."""
    session_timeout_s: float = 0.0
    """Longest life of a session; 0 = as long as its connection."""
    max_sessions_per_connection_count: int = 1
    first_mode: str = Mode.MULTI
    """How a connection begins; SINGLE closes it with its first session."""
    session_key: Callable[[Any], Hashable] | None = None
    """Which session a packet belongs to; None: the connection is the session."""

    body_of: Callable[[Any], Sized] = staticmethod(_itself)
    """What of a packet is counted as its size in the flight recorder; an attrgetter is fastest."""

    find_session: Callable[[Connection, Hashable], Session | None] | None = None
    """Finds a session that outlived its connection and goes on here; None: every key opens a new one."""

    server: Server

    async def start(self, server: Server) -> None:
        """Open what the gateway needs besides its listeners; called before the first accept."""
        self.server = server

    async def leave(self, timeout_s: float) -> None:
        """Take leave before anything is closed: the listeners still accept, connections and sessions are as they were.

        For protocols that hand sessions over to other processes first. Cut short after ``timeout_s``, and by a second
        signal.
        """

    async def stop(self) -> None:
        """Close it again; called when the last session has ended."""

    def reload(self, config: Any) -> None:
        """Swap the snapshot: sessions that are open keep theirs, the next ones get the new one."""
        self.config = config

    # Questions about connections

    def admit(self, peer: Peer) -> None:
        """Let ``peer`` in, before a byte of it is read; may set ``peer.context``.

        Raises: SojournError to refuse; it is logged, the connection closed.
        """

    def readmit(self, connection: Connection) -> bool:
        """Say after a reload whether the connection may stay; False drains it."""
        try:
            self.admit(connection.peer)
        except SojournError:
            return False
        return True

    def codec(self, connection: Connection) -> Codec:  # noqa: ARG002 - for subclasses
        """Return the codec of a new connection."""
        return NullCodec()

    def connected(self, connection: Connection) -> None:
        """Take note of a new connection: the moment to greet in protocols where the server speaks first."""

    def disconnected(self, connection: Connection) -> None:
        """Take note that a connection is gone; its sessions have been told."""

    def broken(self, connection: Connection, error: SojournError) -> bytes | None:
        """Return last bytes for a connection whose framing is broken; it is closed afterwards."""
        self.server.events.emit(CONNECTION_FAILED, None, str(error), str(connection.peer))
        return None

    def refuse(self, connection: Connection, packet: Any, why: str) -> bytes | None:
        """Return the answer to a packet that asked for a session which may not open, or None for silence."""

    # Questions about sessions

    def farewell(self, session: Session, error: BaseException) -> Any:
        """Return the message, or ready bytes, that ends a session which ``error`` hit; None for silence."""

    def session_failed(self, session: Session, error: BaseException, reason: str) -> None:
        """Tell the operator; called before the farewell."""
        where = str(session.connection.peer)
        if isinstance(error, (SojournError, TimeoutError)):
            self.server.events.emit(SESSION_FAILED, session, reason, in_words(error), where, session.about)
        else:
            self.server.events.emit(
                HANDLER_FAILED, session, type(error).__name__, raised_at(error), where, session.about
            )

    def words_for(self, entry: Any) -> tuple[str, str]:
        """Return name and one-line summary of a flight recorder entry, secrets absent."""
        return summary(entry)

    def leg(self, what: Any) -> Leg | None:
        """Return what an entry holds as a leg to a party other than the peer, or None where it is none.

        For gateways that keep something cheaper than words where a leg is on their hot path.
        """
        return what if isinstance(what, Leg) else None

    def parties(self, session: Session, direction: int) -> tuple[str, str]:  # noqa: ARG002 - for subclasses
        """Return from whom to whom an entry of this direction goes in the sequence diagram of ``session``."""
        if direction == Direction.IN:
            return "peer", self.name
        if direction == Direction.OUT:
            return self.name, "peer"
        return self.name, self.name

    # What the operator sees

    def dependencies(self) -> Iterable[tuple[str, str]]:
        """Yield what the gateway depends on and how that is, in words, such as ``("history", "ok")``.

        None of it makes a server unready: a gateway that cannot serve without it refuses by itself.
        """
        return ()

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield ``(name, labels, value)`` of the gateway's own metrics; called at each scrape."""
        return ()

    def relayed(self) -> Relayed:
        """Return what the gateway has moved past the core's connections, by its own counters; asked once a second.

        For gateways whose data path is their own; what the connections have counted comes on top.
        """
        return Relayed()

    def panel(self) -> AdminPanel | None:
        """Return the gateway's own page for operators, if it has one; asked once, when the gateway has started."""
        return None

    def troubles(self) -> Iterable[Trouble]:
        """Yield what is wrong now, such as a backend that is away; asked once a second while somebody looks."""
        return ()

    def on_send_error(self, connection: Connection, session: Session, error: SojournError) -> None:
        """Take note that ``session`` could not send: the hook of the connection's layer."""
