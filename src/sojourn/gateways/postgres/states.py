"""Where clients and servers stand: their states, and the bits that send a client's bytes or server the long way.

Plain strings and ints in small namespaces, because every message passes by them. Decides nothing.
"""

from __future__ import annotations


class ClientState:
    """Where a client stands."""

    STARTUP = "startup"
    READY = "ready"
    WAITING = "waiting"
    CONSOLE = "console"
    """An operator at the admin console."""


class Busy:
    """Why the next chunk of a client needs the long way: bits."""

    WAITING = 1
    """For a server; input is kept."""
    INPUT = 2
    """A message has come in part."""
    TRACKED = 4
    """A request is followed message by message."""
    LOST = 8
    """The server died in a transaction; nothing but ROLLBACK helps."""
    COPYING = 16
    """The server takes COPY data."""
    BEGINNING = 32
    """A transaction has only begun: what was sent can be sent again elsewhere."""
    ROUTED = 64
    """Statements are looked at for where they may go."""
    DEFERRED = 128
    """BEGIN was answered by us and no server knows of it yet."""
    CLOSING = 256
    """It has left, or is told to."""
    JOURNAL = 512
    """Its transaction is kept, so that it can be run again."""


class Holds:
    """Why a server may not be given back without a closer look: bits."""

    SESSION = 1
    """Session mode, or the audit found what cannot be followed."""
    PINNED = 2
    """The session has what lives on this server only."""
    INPUT = 4
    """A message has come in part."""
    TRACKED = 8
    """A request is followed message by message."""
    COPYING = 16
    """The server takes COPY data."""
    UNSETTLED = 32
    """A statement of this request changed the session."""
    BEGINNING = 64
    """A transaction has only begun."""
    NEXT = 256
    """A write waits for the reads before it, which a replica answers."""
    FLOOR = 512
    """How far the log is has to be asked after this transaction."""
    DRAINING = 1024
    """The client is closed when its transaction has ended."""
    BLOCKED = 2048
    """The client takes no bytes: its server may go, but not before it is read from again."""


HOLDS_PLACE = Holds.SESSION | Holds.PINNED
"""Bits that keep a server between transactions too."""


class ServerState:
    """Where a server stands; the seed's DEPENDENCIES, QUERY and RESET are kept."""

    STARTUP = "startup"
    IDLE = "idle"
    """Nobody has it."""
    QUERY = "query"
    """A client has it."""
    DEPENDENCIES = "dependencies"
    """A client has it and waits until it has the client's settings."""
    RESET = "reset"
    """It forgets what a client held."""
    BEING_CANCELED = "being_canceled"
    """Nobody has it, and nobody gets it while a cancel request is on its way to it."""
    CLOSED = "closed"


TRANSITIONS = frozenset(
    {
        (ServerState.STARTUP, ServerState.IDLE),
        (ServerState.IDLE, ServerState.QUERY),
        (ServerState.QUERY, ServerState.DEPENDENCIES),
        (ServerState.DEPENDENCIES, ServerState.QUERY),
        (ServerState.DEPENDENCIES, ServerState.RESET),
        (ServerState.QUERY, ServerState.RESET),
        (ServerState.QUERY, ServerState.IDLE),
        (ServerState.RESET, ServerState.IDLE),
        (ServerState.IDLE, ServerState.BEING_CANCELED),
        (ServerState.BEING_CANCELED, ServerState.IDLE),
        (ServerState.STARTUP, ServerState.CLOSED),
        (ServerState.IDLE, ServerState.CLOSED),
        (ServerState.DEPENDENCIES, ServerState.CLOSED),
        (ServerState.QUERY, ServerState.CLOSED),
        (ServerState.RESET, ServerState.CLOSED),
        (ServerState.BEING_CANCELED, ServerState.CLOSED),
    }
)
"""Every change of state that may happen; its test watches servers at work."""
