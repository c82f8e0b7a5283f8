"""ServerSession: one connection to a PostgreSQL server, and whose requests it is answering.

Theory of operation. A client's bytes are written to the server as they came; for each request one entry waits in
``fifo`` (see ``replies``). The usual reply, one chunk that ends with the ReadyForQuery of the only waiting request,
is found by one scan and written to the client as the same object. Anything else goes through ``reply_walk``.
A server is given back when nothing is expected any more, the transaction status is idle and the client holds
nothing. Knows nothing of logins, pools' limits or failover: it is made ready by ``dial``, and tells its pool.
Source: postgres-proxy.md sections 6.2 to 6.4.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres import reply_walk, wire
from sojourn.gateways.postgres.direct import writer_of
from sojourn.gateways.postgres.messages import SQLSTATE, Backend, Frontend, TransactionStatus
from sojourn.gateways.postgres.replies import Entry, Expect, Hidden, Naming
from sojourn.gateways.postgres.scan import QUIET, next_stop
from sojourn.gateways.postgres.states import ServerState
from sojourn.gateways.postgres.vector import EMPTY, Vector

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.nodes import Node
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.reported import Reported
    from sojourn.gateways.postgres.statements import Statement

_IDLE: Final = TransactionStatus.IDLE
_READY_FOR_QUERY: Final = Backend.READY_FOR_QUERY
"""Names of this module, because every answer passes by them: one look-up each."""
_READY_BYTES = 6


class ServerSession(asyncio.Protocol):
    """One connection to one node.

    Life: dialled by its pool, lent to one client at a time, closed by age, error, order or loss. Always true: while
    ``client`` is None and ``fifo`` is empty it owes nothing and holds nothing of anybody; ``vector`` and ``prepared``
    are what the server really has. Units: ``opened``, ``used``, ``began`` (of the request) and ``attached`` (to its
    client; of each later transaction of a client that keeps it, the beginning) are monotonic seconds.
    """

    __slots__ = (
        "attached",
        "began",
        "busy_s",
        "bytes_in",
        "bytes_out",
        "cancels",
        "client",
        "closing",
        "copy_in",
        "drops",
        "fatal",
        "fifo",
        "generation",
        "held_bytes",
        "home",
        "is_full",
        "is_paused",
        "kept",
        "key",
        "last_pid",
        "naming",
        "node",
        "number",
        "opened",
        "parts",
        "pid",
        "pool",
        "prepared",
        "queries",
        "repeat",
        "reported",
        "sent",
        "skip",
        "state",
        "status",
        "table",
        "transactions",
        "transport",
        "unnamed",
        "used",
        "vector",
        "write",
        "xact_s",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Pool, node: Node, number: int) -> None:
        self.pool = pool
        self.node = node
        self.number = number
        self.client: ClientSession | None = None
        self.state = ServerState.STARTUP
        self.fifo: deque[Entry] = deque()
        self.naming = Naming()
        self.skip = 0
        self.drops = False
        self.kept = b""
        self.parts: list[bytes] = []
        """What came of a row that is held back, behind ``kept``; ``held_bytes`` of both, 0 if there is none."""
        self.held_bytes = 0
        self.table = QUIET
        self.status = _IDLE
        self.vector: Vector = EMPTY
        self.home: Vector = EMPTY
        """The vector of a server that was just reset: the startup parameters that it was opened with."""
        self.reported: Reported
        self.prepared: dict[bytes, Statement] = {}
        self.unnamed: bytes | None = None
        self.pid = 0
        self.last_pid = 0
        self.key = b""
        self.copy_in = False
        self.cancels = 0
        self.closing = ""
        self.fatal: dict[str, str] | None = None
        self.repeat: bytes | None = None
        self.sent = 0
        self.is_full = self.is_paused = False
        self.generation = pool.generation
        self.opened = self.used = monotonic()
        self.began = self.attached = 0.0
        self.queries = self.transactions = self.bytes_in = self.bytes_out = 0
        self.busy_s = self.xact_s = 0.0

    def __repr__(self) -> str:
        return f"<ServerSession {self.number} pid {self.pid} at {self.node.name} {self.state}>"

    def take_over(self, transport: asyncio.Transport) -> None:
        """Begin to relay on ``transport``, whose login is done."""
        self.transport = transport
        self.write = writer_of(transport)
        self.state = ServerState.IDLE

    # What the loop calls

    def data_received(self, data: bytes) -> None:  # noqa: PLR0915 - a call costs 60 ns here
        """Forward what the server answers."""
        size = len(data)
        self.bytes_out += size
        client = self.client
        kept = self.kept
        if kept and self.skip:
            # A row of which a part was held back: joined once, in however many parts it comes.
            self.parts.append(data)
            size = self.held_bytes = (self.held_bytes or len(kept)) + size
            if self.skip > size:
                return
            data = kept + b"".join(self.parts)
            self.parts.clear()
            self.held_bytes = 0
            self.kept = kept = b""
        if not kept and client is not None:
            pos = next_stop(data, self.skip, self.table)
            fifo = self.fifo
            if (
                pos + _READY_BYTES == size
                and len(fifo) == 1
                and data[pos] == _READY_FOR_QUERY
                and type(fifo[0]) is bytes
            ):
                # One plain request, answered in full: a look-up of each name costs 40 ns here.
                self.skip = 0
                now = monotonic()
                took_s = now - self.began
                self.busy_s += took_s
                self.queries += 1
                client.write(data)
                if took_s >= client.noteworthy_s:
                    client.note_statement(fifo[0], took_s, data)
                fifo.clear()
                self.status = status = data[-1]
                if client.status != status:  # to set an attribute of a struct costs 40 ns here
                    client.status = status
                if status != _IDLE:
                    if client.holds:
                        client.settle(status)
                elif client.holds:
                    self.transactions += 1
                    self.xact_s += now - self.attached
                    client.settle(status)
                else:
                    self.transactions += 1
                    self.xact_s += now - self.attached
                    client.server = None
                    self.client = None
                    self.state = "idle"
                    self.used = now
                    self.pool.give_back(self)
                return
            if pos >= size and self.skip <= size and not self.drops and fifo and type(fifo[0]) is bytes:
                # The midst of a long result.
                self.sent = 3
                start = reply_walk.held_start(data, self.skip, pos) if pos > size else -1
                if start < 0:
                    self.skip = pos - size
                    client.write(data)
                    return
                self.skip = pos - start
                self.kept = data[start:]
                if start:
                    client.write(data[:start])
                return
        reply_walk.walk(self, data)

    def eof_received(self) -> bool:
        """End with the server: PostgreSQL never closes one half."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell pool and client; the only place where a server ends."""
        if self.state == ServerState.CLOSED:
            return
        self.state = ServerState.CLOSED
        cause = self.closing or (type(error).__name__ if error is not None else "closed by the server")
        client, self.client = self.client, None
        entries, self.fifo = tuple(self.fifo), deque()
        self.pool.lost(self, cause)
        for entry in entries:
            if isinstance(entry, Hidden):
                entry.error = {"S": "FATAL", "C": SQLSTATE.CONNECTION_FAILURE, "M": cause}
        if client is not None:
            client.server_lost(self, entries, cause)
        for entry in entries:
            if isinstance(entry, Hidden):
                entry.end()

    def pause_writing(self) -> None:
        """Let the client wait: the server takes no more at the moment."""
        self.is_full = True
        if self.client is not None:
            self.client.pause_reading()

    def resume_writing(self) -> None:
        """Let the client go on."""
        self.is_full = False
        if self.client is not None:
            self.client.resume_reading()

    # Backpressure from the client

    def pause_reading(self) -> None:
        """Stop reading: the client takes no more at the moment."""
        if not self.is_paused and self.state != ServerState.CLOSED:
            self.is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.is_paused and self.state != ServerState.CLOSED:
            self.is_paused = False
            self.transport.resume_reading()

    # What is expected

    def expect(self, one: Expect | Hidden) -> None:
        """Put an entry that may parse or close a statement into the queue."""
        self.fifo.append(one)
        if type(one) is Expect and one.kind in (Frontend.PARSE, Frontend.CLOSE):
            self.naming.add(one)

    def will_have(self, name: bytes) -> Statement | None:
        """Return the statement that has a name here once all that is under way is answered."""
        one = self.naming.at_server(name)
        if one is not None:
            return one.statement if one.kind == Frontend.PARSE else None
        return self.prepared.get(name)

    # Queries of our own

    def run(self, sql: bytes, hidden: Hidden) -> None:
        """Send a query of ours; ``hidden`` is told when it is answered."""
        self.send_hidden(wire.query(sql), hidden)

    def send_hidden(self, data: bytes, hidden: Hidden) -> None:
        """Write messages of ours that end with one ReadyForQuery."""
        if self.state == ServerState.CLOSED:
            hidden.error = {
                "S": "FATAL",
                "C": SQLSTATE.CONNECTION_FAILURE,
                "M": self.closing or "the server is gone",
            }
            hidden.end()
            return
        self.unnamed = None  # a query of ours replaces it, or drops it
        self.fifo.append(hidden)
        reply_walk.choose_table(self)
        self.write(data)

    async def query(self, sql: bytes | str) -> list[list[list[bytes | None]]]:
        """Run a query of ours and return its results, one list of rows a statement.

        Raises: BackendUnavailable with the server's SQLSTATE and message in its cause.
        """
        answered: asyncio.Future[Hidden] = asyncio.get_running_loop().create_future()
        began = monotonic()
        self.run(sql if isinstance(sql, bytes) else sql.encode(), Hidden(lambda one: _settle(answered, one)))
        hidden = await answered
        if hidden.error is not None:
            error = hidden.error
            raise BackendUnavailable(
                self.node.name, monotonic() - began, f"{error.get('C', '')} {error.get('M', '')}".strip()
            )
        return hidden.results

    async def ask(self, sql: bytes, *values: bytes) -> list[list[bytes | None]]:
        """Run one statement with parameters and return its rows.

        Raises: BackendUnavailable.
        """
        answered: asyncio.Future[Hidden] = asyncio.get_running_loop().create_future()
        message = wire.parse(b"", sql) + wire.bind(b"", b"", values) + wire.execute(b"") + wire.sync()
        self.send_hidden(message, Hidden(lambda one: _settle(answered, one)))
        hidden = await answered
        if hidden.error is not None:
            raise BackendUnavailable(self.node.name, 0.0, hidden.error.get("M", ""))
        return hidden.results[0] if hidden.results else []

    # Ending

    def close(self, why: str) -> None:
        """Say goodbye and close."""
        if self.state != ServerState.CLOSED:
            self.closing = self.closing or why
            self.write(wire.terminate())
            self.transport.close()

    def abort(self, why: str) -> None:
        """Close at once: what is under way is not wanted any more."""
        if self.state != ServerState.CLOSED:
            self.closing = self.closing or why
            self.transport.abort()

    # What operators see

    def snapshot(self) -> dict[str, Any]:
        """Return what the console shows of it."""
        return {
            "number": self.number,
            "state": self.state,
            "node": self.node.name,
            "pid": self.pid,
            "client": self.client.id if self.client is not None else "",
        }


def _settle(answered: asyncio.Future[Hidden], hidden: Hidden) -> None:
    if not answered.done():
        answered.set_result(hidden)
