"""The long way of a server's answer: message by message, where one look was not enough.

Counts expected answers, drops those to messages that the client never sent, puts in those that the server was never
asked for, and tells the client's session state what has changed. Rows are never taken apart here: of a message that
passes only the header is read. Source: postgres-proxy.md sections 6.2, 6.3, 6.5 and 6.6.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import MAX_MESSAGE_BYTES, Backend, Frontend, TransactionStatus
from sojourn.gateways.postgres.replies import DROP, FORWARD, REFUSED, SYNTHETIC, Expect, Hidden
from sojourn.gateways.postgres.scan import ALL, QUIET, TAGS, last_start, next_stop
from sojourn.gateways.postgres.states import ServerState

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.statements import Statement

ROWS_SENT = 2
"""Bit of ``sent``: rows of the present answer went to the client; bit 1: anything did."""
ERROR_SENT = 4
"""Bit of ``sent``: the client has had the error, so that nothing but the end of the answer is missing."""
HELD_LIMIT_BYTES = 1 << 20
"""Largest message whose body is needed: an error, a notice of ours, a row of a query of ours."""

_PASSING = (Backend.DATA_ROW, Backend.COPY_DATA, Backend.NOTICE_RESPONSE)
TRACKED = bytes(0 if kind in _PASSING else 1 for kind in range(256))
"""Where a scan stops while answers are counted message by message: anywhere but at rows."""

_ANSWERS: dict[int, tuple[int, ...]] = {
    Frontend.PARSE: (Backend.PARSE_COMPLETE,),
    Frontend.BIND: (Backend.BIND_COMPLETE,),
    Frontend.CLOSE: (Backend.CLOSE_COMPLETE,),
    Frontend.DESCRIBE: (Backend.ROW_DESCRIPTION, Backend.NO_DATA),
    Frontend.EXECUTE: (Backend.COMMAND_COMPLETE, Backend.EMPTY_QUERY_RESPONSE, Backend.PORTAL_SUSPENDED),
    Frontend.SYNC: (Backend.READY_FOR_QUERY,),
    Frontend.QUERY: (Backend.READY_FOR_QUERY,),
    Frontend.FUNCTION_CALL: (Backend.READY_FOR_QUERY,),
}
"""Which message of the server ends the answer to which of the client."""

_BARE_BYTES, _TAG_BYTES = 4, 1_024
_LONGEST_BYTES = {
    value: MAX_MESSAGE_BYTES
    for name, value in vars(Backend).items()
    if isinstance(value, int) and not name.startswith("_")
} | {
    Backend.READY_FOR_QUERY: 5,
    Backend.PARSE_COMPLETE: _BARE_BYTES,
    Backend.BIND_COMPLETE: _BARE_BYTES,
    Backend.CLOSE_COMPLETE: _BARE_BYTES,
    Backend.NO_DATA: _BARE_BYTES,
    Backend.PORTAL_SUSPENDED: _BARE_BYTES,
    Backend.EMPTY_QUERY_RESPONSE: _BARE_BYTES,
    Backend.COMMAND_COMPLETE: _TAG_BYTES,
    Backend.BACKEND_KEY_DATA: _TAG_BYTES,
}
"""What a server may send, and the greatest length that is not garbage."""


_HELD_BACK_BYTES = 1 << 20
"""Longest message that is passed on whole only: a client that has a part of one cannot be told that the rest is lost.
A longer one streams: to end it with bytes of our own would be to tell values that nobody wrote."""


def held_start(data: bytes, low: int, end: int) -> int:
    """Return where the message begins whose end is still to come, -1 for one that is too long to be held back.

    Args:
        data: a chunk in which at least one message begins.
        low: where one of them does.
        end: where the last one will end.
    """
    pos = last_start(data, low, end)
    return pos if pos >= 0 and end - pos <= _HELD_BACK_BYTES else -1


_LAST_WORDS = re.compile(rb"[SV](?:FATAL|PANIC)\0")


def choose_table(server: ServerSession) -> None:
    """Set where the next scan stops, by what is expected next."""
    fifo = server.fifo
    if not fifo:
        server.table = ALL
        return
    head = fifo[0]
    if type(head) is bytes:
        client = server.client
        server.table = TAGS if client is not None and client.follows_tags else QUIET
    elif type(head) is Expect:
        server.table = TRACKED
    else:
        server.table = ALL


def walk(server: ServerSession, data: bytes) -> None:
    """Take a chunk of the server message by message; a bug, or garbage, costs this server and nothing else."""
    try:
        _Walk(server, data).run()
    except Exception as error:  # noqa: BLE001 - the loop would only log it, without a word of where
        server.pool.gateway.server_failed(server, error)
        server.abort(f"its answer could not be taken: {type(error).__name__}")


class _Walk:
    """One chunk on its way: what goes to the client, and how far it has been looked at.

    Always true: ``data[start:pos]`` has been looked at and is still to be passed on.
    """

    __slots__ = ("data", "end", "is_over", "out", "pos", "server", "size", "start")

    def __init__(self, server: ServerSession, data: bytes) -> None:
        if server.kept:
            data, server.kept = server.kept + data, b""
        self.server = server
        self.data = data
        self.size = len(data)
        self.out: list[bytes] = []
        self.start = self.pos = self.end = 0
        self.is_over = False

    def run(self) -> None:
        """Take message after message; what is not whole is kept for the next chunk."""
        server = self.server
        if server.skip:
            self.pos = min(server.skip, self.size)
            server.skip -= self.pos
            if server.drops:
                self.start = self.pos
                server.drops = server.skip > 0
        while self._finds_one():
            self._take()
            if self.is_over:
                return
        if not self.is_over:
            self._finish()

    def _finds_one(self) -> bool:
        """Go to the next message that has to be looked at; False: there is none any more in this chunk."""
        server, data, size = self.server, self.data, self.size
        low = self.pos
        if low < size:
            choose_table(server)
            self.pos = next_stop(data, low, server.table)
        pos = self.pos
        if pos >= size:
            self._hold_row(low)
            return False
        if size - pos < 5:  # noqa: PLR2004 - type and length
            server.kept = data[pos:]
            return False
        kind, length = data[pos], int.from_bytes(data[pos + 1 : pos + 5], "big")
        if length < 4 or length > _LONGEST_BYTES.get(kind, -1):  # noqa: PLR2004 - the length counts itself
            self._pass_on()  # what was answered was done: it must not seem to be unanswered
            self._abandon(f"the server sent garbage: type {kind:#04x}, length {length}")
            return False
        self.end = pos + 1 + length
        if self.end <= size:
            return True
        if length <= HELD_LIMIT_BYTES:
            server.kept = data[pos:]
        elif type(server.fifo[0] if server.fifo else None) is Hidden:
            self._abandon(f"an answer of {length} bytes to a query of ours")
        else:  # too large to be anything that matters
            self.pos = self.end
            self._hold_row(low)
        return False

    def _hold_row(self, low: int) -> None:
        """Let the rest of the last message pass when it comes; a short row waits until it is whole."""
        server, rest = self.server, self.pos - self.size
        if rest <= 0 or server.skip:
            return
        server.skip = rest
        head = server.fifo[0] if server.fifo else None
        begin = -1 if type(head) is Hidden or server.drops else held_start(self.data, low, self.pos)
        if begin >= 0:
            server.kept = self.data[begin:]
            server.skip = self.pos - begin

    def _abandon(self, why: str) -> None:
        self.is_over = True
        self.server.abort(why)

    def _pass_on(self) -> None:
        """Write what was gathered and what was looked at, in one write."""
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
            self.start = self.pos
        _flush(self.server, self.out)

    def _take(self) -> None:
        """Take the message at ``pos``, which is whole."""
        server, data, pos, end = self.server, self.data, self.pos, self.end
        kind = data[pos]
        if kind == Backend.ERROR_RESPONSE and _LAST_WORDS.search(data, pos, end):
            self._pass_on()  # as above
        passes = _take(server, kind, data, pos, end)
        if server.state == ServerState.CLOSED:
            self.is_over = True
            return
        if passes is False:
            # It is going to be answered anew: also what came before the error is not for the client.
            self.out.clear()
            self.start = end
        elif passes is not None and passes is not True:
            self.out.append(data[self.start : pos])
            self.out.append(passes)
            self.start = end
        self.pos = end
        self._put_in_ripe()
        if kind == Backend.READY_FOR_QUERY:
            self._ready(data[end - 1])

    def _put_in_ripe(self) -> None:
        """Put the answers in that need no server and whose turn has come."""
        synthetic = _ripe(self.server)
        if synthetic:
            self.out.append(self.data[self.start : self.pos])
            self.out.append(synthetic)
            self.start = self.pos

    def _ready(self, status: int) -> None:
        """End a request; behind it may come the next one's answer, or what nobody asked for."""
        server = self.server
        self._pass_on()
        _ready(server, status)
        if server.state == ServerState.CLOSED:
            self.is_over = True
        elif server.client is not None:
            self._put_in_ripe()

    def _finish(self) -> None:
        self.pos = self.size - len(self.server.kept)
        self._pass_on()
        server = self.server
        if server.fifo:
            choose_table(server)
        else:
            # What comes next is a plain request as a rule, which chooses no table; without one every chunk comes here.
            client = server.client
            server.table = TAGS if client is not None and client.follows_tags else QUIET


def _flush(server: ServerSession, out: list[bytes]) -> None:
    """Write what was gathered in one write."""
    client = server.client
    if client is not None and out:
        whole = out[0] if len(out) == 1 else b"".join(out)
        if whole:
            server.sent |= 1
            client.write(whole)
    out.clear()


def _take(  # noqa: PLR0911 - one line per kind of message
    server: ServerSession, kind: int, data: bytes, pos: int, end: int
) -> bytes | bool | None:
    """Take one whole message; return True or None to pass it on, False to forget the answer so far.

    Returns: or other bytes to send instead of it.
    """
    fifo = server.fifo
    head = fifo[0] if fifo else None
    if kind == Backend.PARAMETER_STATUS:
        return _parameter(server, data[pos + 5 : end], is_hidden=type(head) is Hidden)
    if kind == Backend.NOTIFICATION_RESPONSE:
        return _notification(server, data[pos:end])
    if kind in (Backend.BACKEND_KEY_DATA, Backend.AUTHENTICATION, Backend.NEGOTIATE_PROTOCOL_VERSION):
        return b""
    if kind == Backend.ERROR_RESPONSE:
        return _error(server, data[pos + 5 : end])
    if type(head) is Hidden:
        _gather(head, kind, data[pos + 5 : end])
        return b""
    if head is None or server.client is None:
        if server.client is None and kind != Backend.NOTICE_RESPONSE:
            server.abort(f"a message of type {kind:#04x} that nobody asked for")
        return b""
    if kind == Backend.COMMAND_COMPLETE and type(head) is bytes:
        server.client.completed(head, data[pos + 5 : end - 1])
        return True
    if kind in (Backend.COPY_IN_RESPONSE, Backend.COPY_BOTH_RESPONSE):
        _copy_in_begins(server)
        return True
    if kind == Backend.DATA_ROW:
        server.sent |= ROWS_SENT
        return True
    if type(head) is Expect:
        if kind == Backend.COMMAND_COMPLETE and head.action != DROP:
            server.client.completed_one(head, data[pos + 5 : end - 1])
        return _expected(server, head, kind)
    return True


def _expected(server: ServerSession, head: Expect, kind: int) -> bytes | bool | None:
    """Match a message with the head of the queue."""
    client = server.client
    assert client is not None  # noqa: S101 - the caller looked
    if kind == Backend.READY_FOR_QUERY:
        # An error skips to here; what it skipped was taken out with it.
        if head.kind in (Frontend.SYNC, Frontend.QUERY, Frontend.FUNCTION_CALL):
            return b"" if head.action == DROP else True
        return True
    if head.kind in (Frontend.QUERY, Frontend.FUNCTION_CALL):
        return b"" if head.action == DROP else True
    if kind in _ANSWERS.get(head.kind, ()):
        server.fifo.popleft()
        if head.kind in (Frontend.PARSE, Frontend.CLOSE):
            server.naming.remove(head)
        if head.kind == Frontend.PARSE:
            _parsed(server, head)
            _leave_text(server, head.statement, b"")
        elif head.kind == Frontend.CLOSE and head.action == FORWARD and head.statement is not None:
            client.forget_statement(head.name)
        elif head.kind == Frontend.EXECUTE:
            _leave_text(server, head.statement, head.text)
    return b"" if head.action == DROP else True


def _parsed(server: ServerSession, head: Expect) -> None:
    """Register a statement now that the server has it, not before."""
    if head.statement is None:
        return
    server.prepared[head.text or head.name] = head.statement
    if head.action != DROP and server.client is not None and head.name:
        server.client.learn_statement(head.name, head.statement)


def _leave_text(server: ServerSession, statement: Statement | None, text: bytes) -> None:
    """Let the Sync that ends a request know what was parsed or executed: the log of slow statements asks it."""
    fifo = server.fifo
    if fifo and type(fifo[0]) is Expect and fifo[0].kind == Frontend.SYNC:
        fifo[0].statement, fifo[0].text = statement, text


def _ripe(server: ServerSession) -> bytes:
    """Return the answers that need no server and whose turn has come."""
    fifo = server.fifo
    if not fifo or type(fifo[0]) is not Expect or fifo[0].action != SYNTHETIC:
        return b""
    ripe = []
    while fifo:
        head = fifo[0]
        if type(head) is not Expect or head.action != SYNTHETIC:
            break
        fifo.popleft()
        if head.kind in (Frontend.PARSE, Frontend.CLOSE):
            server.naming.remove(head)
        ripe.append(head.data)
        client = server.client
        if client is not None:
            if head.kind == Frontend.PARSE and head.statement is not None:
                client.learn_statement(head.name, head.statement)
            elif head.kind == Frontend.CLOSE:
                client.forget_statement(head.name)
    return b"".join(ripe)


def _gather(hidden: Hidden, kind: int, body: bytes) -> None:
    """Keep the rows of a query of ours."""
    if kind == Backend.DATA_ROW:
        hidden.rows.append(wire.row_values(body))
    elif kind in (Backend.COMMAND_COMPLETE, Backend.EMPTY_QUERY_RESPONSE):
        hidden.results.append(hidden.rows)
        hidden.rows = []


def _error(server: ServerSession, body: bytes) -> bytes | bool | None:
    """Take an ErrorResponse: of a query of ours, of the client's, or the server's last words."""
    fields = wire.error_fields(body)
    fifo = server.fifo
    head = fifo[0] if fifo else None
    if fields.get("V", fields.get("S")) in ("FATAL", "PANIC"):
        # The socket closes behind it; what that means for the client is decided there.
        server.fatal = fields
        server.closing = server.closing or f"{fields.get('C', '')} {fields.get('M', '')}".strip()
        server.abort(server.closing)
        server.connection_lost(None)
        return b""
    if type(head) is Hidden:
        head.error = head.error or fields
        return b""
    client = server.client
    if head is None or client is None:
        return b""
    if client.repeats(server, head, fields):
        return False
    server.copy_in = False
    if type(head) is not Expect:
        server.sent |= ERROR_SENT
        client.failed(head, fields)
        return True
    if head.kind in (Frontend.SYNC, Frontend.QUERY, Frontend.FUNCTION_CALL):
        is_ours = head.action == DROP
    else:
        is_ours = _skip_to_sync(server, client)
    if is_ours:
        return b""
    if head.action == REFUSED:
        fields = wire.error_fields(head.data[5:])
    server.sent |= ERROR_SENT
    client.failed(head, fields)
    return head.data if head.action == REFUSED else True


def _skip_to_sync(server: ServerSession, client: ClientSession) -> bool:
    """Take out what the server skips after an error; True: up to a Sync of ours, and the client sees none of it."""
    fifo = server.fifo
    is_told = True  # the one that failed comes first
    while fifo:
        one = fifo[0]
        if type(one) is not Expect:
            return False
        if one.kind == Frontend.SYNC:
            return one.action == DROP
        fifo.popleft()
        if one.kind in (Frontend.PARSE, Frontend.CLOSE):
            server.naming.remove(one)
        if one.kind == Frontend.CLOSE and one.action != SYNTHETIC and one.statement is not None:
            server.prepared.setdefault(one.name, one.statement)  # the server did not come to it
        elif one.kind == Frontend.PARSE and not one.name:
            # A Parse that failed has dropped the unnamed statement; one that was skipped has left it.
            if one.action == FORWARD and server.unnamed is not None:
                client.unnamed = None if is_told else one.text or None
            server.unnamed = None
        is_told = False
    # The Sync is still to come; till then the server takes nothing.
    client.skips_to_sync = client.is_batch_open = True
    return False


def _parameter(server: ServerSession, body: bytes, *, is_hidden: bool) -> bytes | bool | None:
    name, value = wire.parameter(body)
    server.reported = server.reported.with_value(name, value)
    client = server.client
    if client is None:
        return b""
    if name == "in_hot_standby":
        server.pool.role_reported(server, is_standby=value == "on")
    if is_hidden:
        return b""
    client.reported = server.reported
    client.parameter_reported(name, value)
    return True


def _notification(server: ServerSession, message: bytes) -> bytes | bool | None:
    """Put the public PID of the sender in, where the sender is a client of ours."""
    client = server.client
    if client is None:
        return b""
    pid = int.from_bytes(message[5:9], "big")
    public = server.pool.gateway.public_pid(server.node, pid)
    if public == pid:
        return True
    return message[:5] + public.to_bytes(4, "big") + message[9:]


def _copy_in_begins(server: ServerSession) -> None:
    """COPY FROM STDIN: a Sync that was sent ahead of the data is swallowed by the server."""
    server.copy_in = True
    client = server.client
    assert client is not None  # noqa: S101 - the caller looked
    client.copy_begins()
    fifo = server.fifo
    head = fifo[0]
    if type(head) is not Expect or head.kind == Frontend.QUERY:
        if type(head) is bytes and head[0] != Frontend.QUERY:
            # A plain request P B E S: its Sync is gone, what is left is to be followed one by one.
            fifo[0] = client.expect_execute(head)
        for index, one in enumerate(fifo):
            if type(one) is Expect and one.kind == Frontend.COPY_DONE:
                server.copy_in = False  # the data and its end were sent ahead
                del fifo[index]
                break
        return
    kept = []
    is_before_end = True
    for one in list(fifo)[1:]:
        if type(one) is Expect:
            if one.kind == Frontend.COPY_DONE:
                is_before_end = server.copy_in = False
            elif is_before_end and one.kind == Frontend.SYNC:
                continue
        kept.append(one)
    fifo.clear()
    fifo.append(head)
    fifo.extend(kept)


def _ready(server: ServerSession, status: int) -> None:
    """ReadyForQuery: one request is answered."""
    now = monotonic()
    fifo = server.fifo
    server.status = status
    server.copy_in = False
    if not fifo:
        return
    head = fifo.popleft()
    while fifo and type(fifo[0]) is Expect and fifo[0].kind == Frontend.COPY_DONE:
        fifo.popleft()  # the end of a COPY that has failed, or was none
    choose_table(server)
    if type(head) is Hidden:
        head.end()
        return
    client = server.client
    took_s = now - server.began
    server.busy_s += took_s
    server.queries += 1
    server.began = now
    server.sent = 0
    if status == TransactionStatus.IDLE:
        server.transactions += 1
        server.xact_s += now - server.attached
        server.attached = now
    if client is None:
        return
    client.status = status
    client.answered(head, took_s)
    if client.journal is not None and not (type(head) is Expect and head.action == DROP):
        client.journal.answered(status)
    if server.client is client:
        client.settle(status)
