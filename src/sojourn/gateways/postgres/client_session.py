"""ClientSession: one client's login, whichever server answers it at the moment.

Theory of operation. Each chunk of the client is looked at once. If it is one whole request that hides no state, it is
written to a server as the same bytes object and waits in the server's queue. Everything else (parts of messages,
named statements that the server lacks, COPY, statements that change the session) goes through ``request_walk``. The
flags in ``busy`` send the next chunk there; the flags in ``holds`` make the next ReadyForQuery come to ``settle``,
which decides whether the server is given back. Its task exists only during login. The socket stays open whatever
happens to servers: ``recovery`` decides what a client is told. Source: postgres-proxy.md sections 6.2 to 6.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from sojourn.core.session import Reason, Session
from sojourn.gateways.postgres import (
    audit,
    client_routing,
    owed,
    recovery,
    request_walk,
    session_trace,
    statement_names,
    verified_replay,
)
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal, TransactionStatus
from sojourn.gateways.postgres.replies import Entry, Expect
from sojourn.gateways.postgres.reported import EMPTY_REPORT, Reported
from sojourn.gateways.postgres.scan import EXTENDED_NAMED, EXTENDED_UNNAMED, SIMPLE, bound_statement, classify
from sojourn.gateways.postgres.session_state import SessionState
from sojourn.gateways.postgres.statements import LongParse
from sojourn.gateways.postgres.states import Busy, ClientState, Holds
from sojourn.gateways.postgres.vector import EMPTY, Vector

if TYPE_CHECKING:
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.journal import Journal
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.routing import LsnFloor
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.statements import Statement

_IDLE: Final = TransactionStatus.IDLE


class ClientSession(Session, eq=False):
    """One client that is logged in.

    Life: made with its connection; logged in by ``login``; ended by Terminate, loss of the client, an operator or a
    limit, never by the loss of a server. Always true: ``vector`` is what the client's settings are outside of a
    transaction; ``prepared`` what it may bind by name; ``status`` the last transaction status that it was told.
    """

    gateway: PostgresGateway
    server: ServerSession | None = None
    pool: Pool = None  # type: ignore[assignment]  # set by login, before anything is relayed
    busy: int = 0
    holds: int = 0
    status: int = TransactionStatus.IDLE
    vector: Vector = EMPTY
    reported: Reported = EMPTY_REPORT
    holding: SessionState = None  # type: ignore[assignment]  # set by login
    prepared: dict[bytes, Statement] | None = None
    unnamed: bytes | None = None
    write: Callable[[bytes], None] = None  # type: ignore[assignment]  # set by login
    noteworthy_s: float = 0.0
    partial: bytes = b""
    skip: int = 0
    discards: bool = False
    skips_to_sync: bool = False
    is_batch_open: bool = False
    has_bound: bool = False
    kept: list[bytes] | None = None
    request: list[bytes] | None = None
    request_bytes: int = 0
    portals: dict[bytes, Statement] | None = None
    prefix: list[bytes] | None = None
    route: int = 0
    role: int | None = None
    first_role: int | None = None
    waits_since: float = 0.0
    wait_s: float = 0.0
    pid: int = 0
    secret: bytes = b""
    user: str = ""
    database: str = ""
    is_moving: bool = False
    """Its server was lost, and it has no other one yet."""
    lost_text: bytes = b""
    lost_told: Refusal | None = None
    lost_status: int = 0
    armed: Any = None
    needs_restore: bool = False
    is_route_forced: bool = False
    minor: int = 0
    login_waiter: asyncio.Future[None] | None = None
    has_data: bool = False
    beginnings_owed: int = 0
    has_long_statement: bool = False
    has_long_unnamed: bool = False
    floor: LsnFloor | None = None
    redefines: bool = False
    has_left: bool = False
    seen: float = 0.0
    application: str = ""
    journal: Journal | verified_replay.Replay | None = None

    # What the loop calls

    def data_received(self, data: bytes) -> None:  # noqa: C901, PLR0912 - a call costs 60 ns here
        """Send the client's bytes on their way."""
        if self.busy:
            request_walk.take(self, data)
            return
        code = classify(data)
        server = self.server
        is_first = server is None
        if code == SIMPLE:
            self.unnamed = None
            if server is None:
                server = self.pool.take(self)
                if server is None:
                    self.wait(data)
                    return
            server.unnamed = None  # a simple query drops it
        elif code == EXTENDED_NAMED:
            name = bound_statement(data)
            statement = None if self.prepared is None else self.prepared.get(name)
            if statement is None:
                request_walk.take(self, data)
                return
            if server is None:
                server = self.pool.take(self)
                if server is None:
                    self.wait(data)
                    return
            if server.prepared.get(name) is not statement:
                request_walk.take(self, data)
                return
        elif code == EXTENDED_UNNAMED:
            if data[0] == Frontend.PARSE:
                self.unnamed = data
                if server is None:
                    server = self.pool.take(self)
                    if server is None:
                        self.wait(data)
                        return
                server.unnamed = data
            elif server is None or self.unnamed is None or server.unnamed is not self.unnamed:
                request_walk.take(self, data)
                return
        else:
            request_walk.take(self, data)
            return
        fifo = server.fifo
        if not fifo:
            if is_first:
                server.began = server.attached  # a look at the clock costs 70 ns here
            else:
                server.began = monotonic()
                if server.status == _IDLE:  # a client that keeps its server begins another transaction
                    server.attached = server.began
            server.sent = 0
        server.bytes_in += len(data)
        fifo.append(data)
        server.write(data)

    def eof_received(self) -> bool:
        """End with the client: it can take no answer that it does not wait for."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Give back or close the server, then let the core know."""
        self.gateway.client_left(self)
        self.connection.connection_lost(error)

    def pause_writing(self) -> None:
        """Stop its server's answers: the client takes no more."""
        connection = self.connection
        connection.writable = False
        connection.blocked_since = connection.clock()
        self.holds |= Holds.BLOCKED
        self.pause_reading()  # what it asked for meanwhile would only be kept here
        if self.server is not None:
            self.server.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        connection = self.connection
        connection.writable = True
        if not connection.closed:
            connection.blocked_since = 0.0
        self.holds &= ~Holds.BLOCKED
        if self.server is not None:
            self.server.resume_reading()
        self.resume_reading()

    def pause_reading(self) -> None:
        """Stop reading from the client: somebody behind us takes no more."""
        if not self.connection.closed:
            self.connection.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on from the client, unless it or its server takes no more."""
        connection, server = self.connection, self.server
        if not connection.closed and connection.writable and not (server is not None and server.is_full):
            connection.transport.resume_reading()

    # Servers

    def wait(self, data: bytes) -> None:
        """Keep ``data`` until the pool has a server, which it was asked for."""
        self.busy |= Busy.WAITING
        self.state = ClientState.WAITING
        if self.kept is None:
            self.kept = []
        self.kept.append(data)
        if not self.waits_since:
            self.waits_since = monotonic()
        if sum(map(len, self.kept)) > self.gateway.limits.write_high_water_bytes:
            self.pause_reading()

    def attached(self, server: ServerSession) -> None:
        """Go on with a server that the pool found and fitted."""
        waited_s = 0.0
        if self.waits_since:
            waited_s = monotonic() - self.waits_since
            self.wait_s += waited_s
            self.waits_since = 0.0
        session_trace.lent(self, server, waited_s)
        self.busy &= ~Busy.WAITING
        self.state = ClientState.READY
        if server.reported is not self.reported:
            self.sees(server.reported)
        if self.server is not server:
            return  # it was lost meanwhile
        if not self.connection.writable:
            server.pause_reading()
        if self.needs_restore:
            recovery.restore(self, server)
            return
        if self.journal is not None and (replay := verified_replay.of(self)) is not None:
            replay.attached(server)
            return
        if self.login_waiter is not None:
            if not self.login_waiter.done():
                self.login_waiter.set_result(None)
            return
        kept, self.kept = self.kept, None
        self.resume_reading()
        for index, data in enumerate(kept or ()):
            if self.busy & Busy.WAITING or self.ended:
                self._keep((kept or [])[index:])
                return
            self.data_received(data)
        if not kept and self.server is server and not server.fifo:
            self.settle(server.status)  # what it waited for was cancelled meanwhile

    @property
    def asks_nothing(self) -> bool:
        """Say whether it waits for nothing but its session's state on a new server: there is nobody to refuse."""
        return self.kept is not None and not self.kept and self.login_waiter is None

    def _keep(self, rest: list[bytes]) -> None:
        self.kept = (self.kept or []) + rest

    def sees(self, reported: Reported) -> None:
        """Tell the client what its new server reports otherwise than the last one."""
        news = reported.news_for(self.reported)
        self.reported = reported
        if news and self.login_waiter is None:
            self.write(news)

    def settle(self, status: int) -> None:
        """Decide after a ReadyForQuery whether the server can be given back."""
        server = self.server
        if server is None:
            return
        if self.holds & Holds.UNSETTLED:
            self._settle_state(server, status)
            if self.server is None:
                return
        if self.busy & Busy.BEGINNING:
            if status != TransactionStatus.IN_TRANSACTION or (self.has_data and not self.beginnings_owed):
                self.end_beginning()
            elif self.beginnings_owed:
                self.beginnings_owed -= 1
        self.busy &= ~Busy.COPYING
        self.holds &= ~Holds.COPYING
        if status == TransactionStatus.IDLE:
            self.armed = None
            if self.portals:
                self.portals = None
        elif self.pool.mode == "statement" and not server.fifo:
            self.refuse(
                Refusal(
                    SQLSTATE.FEATURE_NOT_SUPPORTED,
                    "transaction blocks are not allowed in statement pooling",
                    severity="FATAL",
                )
            )
            return
        if server.fifo:
            return
        if not self.is_batch_open:
            self.busy &= ~Busy.TRACKED
            self.holds &= ~Holds.TRACKED
            self.request = None
        if self.holds & (Holds.NEXT | Holds.FLOOR) and client_routing.goes_on(self, server, status):
            return
        if status == TransactionStatus.IDLE and not self.is_batch_open:
            self._rest(server)

    def _rest(self, server: ServerSession) -> None:
        """Give the server back between transactions, unless something is held."""
        if self.has_long_unnamed and type(self.unnamed) is not LongParse:
            self.has_long_unnamed = False
            self.show_pins()
        if self.holds & Holds.DRAINING and self.is_idle:
            self.close(Reason.DRAINED)
        elif not self.holds & ~Holds.BLOCKED:
            self.detach(server)
        elif server.closing:
            recovery.part(self, server)
        elif server.vector is not self.vector:
            self.pool.fit(server, self)

    def _settle_state(self, server: ServerSession, status: int) -> None:
        """Let what this request changed count: settings, pins, doubts."""
        holding = self.holding
        holding.ready(status)
        if status != TransactionStatus.IDLE:
            server.vector = holding.current_vector
            return
        self.holds &= ~Holds.UNSETTLED
        if self.redefines:
            self.redefines = False
            self.gateway.statements.forget_all()  # what others parsed before the COMMIT is outdated by it
        self.vector = holding.vector
        server.vector = holding.server_vector
        holding.corrected()  # what differs is sent before anything else, here or by the next pool.take
        if holding.needs_snapshot and not server.fifo:
            recovery.take_snapshot(self, server)
            return
        self.show_pins()
        if self.pool.gateway.settings.audit != "off" and not server.fifo:
            audit.check(self, server)

    def show_pins(self) -> None:
        """Keep the server while the session holds what lives there only."""
        was_pinned = bool(self.holds & Holds.PINNED)
        if self.holding.pins or self.has_long_statement or self.has_long_unnamed:
            self.holds |= Holds.PINNED
        else:
            self.holds &= ~Holds.PINNED
        if was_pinned != bool(self.holds & Holds.PINNED) and self.server is not None:
            self.note_sent(self.server.node.name, "released" if was_pinned else "pinned to this session")

    def detach(self, server: ServerSession) -> None:
        """Give the server back; nothing is expected of it any more."""
        self.server = None
        server.client = None
        server.state = "idle"
        server.used = monotonic()
        server.resume_reading()
        if server.is_full:
            self.resume_reading()
        self.pool.give_back(server)

    def server_lost(self, server: ServerSession, entries: tuple[Entry, ...], cause: str) -> None:
        """Take note that the server is gone; what the client is told is decided by the retry table."""
        if self.server is server:
            self.server = None
            self.resume_reading()
            recovery.server_lost(self, server, entries, cause)

    # What the walk of replies tells

    @property
    def follows_tags(self) -> bool:
        """Say whether every command's tag matters: the session was changed in this transaction, or holds cursors."""
        return bool(self.holds & (Holds.UNSETTLED | Holds.PINNED))

    def completed(self, chunk: bytes, tag: bytes) -> None:
        """Take the tag of a plain request's command."""
        if chunk[0] == Frontend.QUERY:
            text = chunk[5:-1]
        elif chunk[0] == Frontend.PARSE:
            text = chunk[6 : chunk.index(0, 6)]
        else:
            statement = (self.prepared or {}).get(bound_statement(chunk))
            text = b"" if statement is None else statement.text
        self._note(tag, text)

    def completed_one(self, expect: Expect, tag: bytes) -> None:
        """Take the tag of a command in a request that is followed."""
        if expect.kind == Frontend.QUERY:
            text = request_walk.next_statement(expect)
        elif expect.statement is not None:
            text = expect.statement.text
        else:
            text = expect.text
        if expect.kind == Frontend.EXECUTE and self.server is not None:
            owed.note_command(self.server, tag, text)
        if self.holds & Holds.UNSETTLED or request_walk.may_change_session(tag, text):
            self._note(tag, text)

    def _note(self, tag: bytes, text: bytes) -> None:
        if tag == b"SHOW":
            return  # it changes nothing
        if tag in (b"SET", b"RESET", b"DISCARD ALL") and client_routing.completed(self, tag, text):
            return
        self.holding.completed(tag, text)
        self.holds |= Holds.UNSETTLED
        if tag in (b"DEALLOCATE", b"DEALLOCATE ALL", b"DISCARD ALL"):
            statement_names.forget(self, tag, text)
        elif tag.startswith((b"ALTER ", b"DROP ")):
            self.gateway.statements.forget_all()
            self.redefines = True

    def parameter_reported(self, name: str, value: str) -> None:
        """Take a parameter that the server reported during a request of this client."""
        if name == "application_name":
            self.application = value
        self.holding.reported(name, value)
        if self.holding.needs_snapshot:
            self.holds |= Holds.UNSETTLED

    def learn_statement(self, name: bytes, statement: Statement) -> None:
        """Register a name now that the server has parsed it."""
        if self.prepared is None:
            self.prepared = {}
        self.prepared[name] = statement

    def forget_statement(self, name: bytes) -> None:
        """Forget a name that was closed."""
        if self.prepared:
            self.prepared.pop(name, None)

    def expect_execute(self, chunk: bytes) -> Expect:
        """Return what is left to expect of a plain extended request whose Sync was swallowed by COPY."""
        return Expect(
            Frontend.EXECUTE, text=chunk[6 : chunk.index(0, 6)] if chunk[0] == Frontend.PARSE else b""
        )

    def copy_begins(self) -> None:
        """COPY FROM STDIN: the client's next messages are data."""
        self.busy |= Busy.COPYING | Busy.TRACKED
        self.holds |= Holds.COPYING | Holds.TRACKED

    def repeats(self, server: ServerSession, head: Entry, fields: dict[str, str]) -> bool:
        """Take an error that a repeat can mend; True: the client sees nothing of it."""
        return recovery.repeats(self, server, head, fields)

    def failed(self, head: Entry, fields: dict[str, str]) -> None:
        """Take an error of the client's statement: for the session's state, the log and the trace."""
        if self.holds & Holds.UNSETTLED:
            self.holding.failed()
        self.gateway.statement_failed(self, head, fields)

    def answered(self, head: Entry, took_s: float) -> None:
        """Offer an answered request to the log."""
        if took_s >= self.noteworthy_s:
            self.note_statement(head, took_s)

    def note_statement(self, head: Entry, took_s: float, answer: bytes = b"") -> None:
        """Offer a statement to the log: a slow one, or any where statements are sampled."""
        self.gateway.log_statement(self, head, took_s, "", answer)

    # The beginning of a transaction

    def end_beginning(self) -> None:
        """From here on the transaction cannot be begun again elsewhere."""
        self.busy &= ~Busy.BEGINNING
        self.holds &= ~Holds.BEGINNING
        self.prefix = None
        self.has_data = False
        self.beginnings_owed = 0

    # Draining

    @property
    def is_idle(self) -> bool:
        """Say whether the client is between two transactions, with nothing under way; or has not begun to log in."""
        if self.task is not None:
            return self.state == ClientState.CONSOLE or not self.user
        if self.status != TransactionStatus.IDLE or self.busy & ~Busy.ROUTED or self.is_batch_open:
            return False
        return self.server is None or not self.server.fifo

    def drain(self) -> None:
        """Let the end of the transaction be the end of the client."""
        if self.task is None:
            self.holds |= Holds.DRAINING

    # Ending

    def refuse(self, refusal: Refusal) -> None:
        """Tell the client why, and close it."""
        if not self.ended:
            self.fail(refusal)

    def leave(self) -> None:
        """Let go of the server: at once where it is idle, else by closing it, so that nothing of ours stays."""
        if self.busy & Busy.WAITING or self.needs_restore:
            self.pool.forget(self)
        if self.journal is not None:
            self.journal.drop()
        self.busy = Busy.CLOSING
        server, self.server = self.server, None
        if server is None:
            return
        server.client = None
        server.resume_reading()
        if server.fifo or server.status != TransactionStatus.IDLE or self.skip or self.is_batch_open:
            server.abort("its client went away in the midst of a request")
        else:
            self.pool.clean(server, is_dirty=bool(self.holds & (Holds.SESSION | Holds.PINNED)))

    def terminate(self) -> None:
        """End as the client asked."""
        self.leave()
        self.finish(reason=Reason.FINISHED)
