"""The long way of a client's bytes: message by message, where one look was not enough.

Follows parts of messages, keeps the request for another server, sees to it that there is a server, and says what each
message of a client leads to. What prepared statements mean there is for ``statement_names`` to settle. Of a message
that passes only the header and the names are read.
Source: postgres-proxy.md sections 6.2, 6.3, 6.6; PostgreSQL's Message Formats.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import (
    beginnings,
    client_routing,
    commit_outcome,
    journal,
    lexer,
    lost_transaction,
    statement_names,
    wire,
)
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal, TransactionStatus
from sojourn.gateways.postgres.passage import Passage
from sojourn.gateways.postgres.replies import SYNTHETIC, Expect
from sojourn.gateways.postgres.states import Busy, Holds

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession

TEXT_LIMIT_BYTES = 65_536
"""Part of a query's text that is looked at; the rest streams."""
PARSE_LIMIT_BYTES = 1 << 20
"""Largest Parse that is kept for another server; a larger one passes, and keeps its server."""
NAME_LIMIT_BYTES = 8_192
"""Longest portal and statement names together; PostgreSQL itself has no limit but that of the message."""

_KINDS = frozenset(b"QPBDECSHdcfFXp")
_NEED_SERVER = frozenset(b"QPBDECSHF")
_OF_EXTENDED = frozenset(b"PBDEC")
_NAMING = (b"prepare", b"execute", b"deallocate")
"""Commands of SQL that name a prepared statement."""
_HAVE_STRINGS = frozenset(b"QPBDEC")
_DULL_TAG = re.compile(rb"(?:SELECT|INSERT|UPDATE|DELETE|BEGIN|COMMIT|FETCH|MOVE|MERGE|COPY)")
_MAY_CHANGE = re.compile(rb"set_config|advisory|temp|\binto\b", re.IGNORECASE)
_FIRST_WORDS = re.compile(
    rb"\s*(prepare|execute|deallocate|discard|begin|start|rollback|commit|end|abort)\b", re.IGNORECASE
)


def may_change_session(tag: bytes, text: bytes) -> bool:
    """Say whether a command with this tag and text can have changed what the session holds."""
    return _DULL_TAG.match(tag) is None or _MAY_CHANGE.search(text) is not None


def next_statement(expect: Expect) -> bytes:
    """Return the statement of a Query that the next CommandComplete belongs to."""
    statements = lexer.split_statements(expect.text)
    index, expect.index = expect.index, expect.index + 1
    return statements[index] if index < len(statements) else b""


def take(client: ClientSession, data: bytes) -> None:
    """Take a chunk of the client that the short way did not."""
    busy = client.busy
    if busy & Busy.CLOSING:
        return
    if busy & Busy.WAITING:
        client.wait(data)
        return
    if busy & Busy.LOST:
        lost_transaction.take(client, data)
        return
    if busy & Busy.ROUTED and client_routing.take(client, data):
        return
    if client.partial:
        data, client.partial = client.partial + data, b""
    walk(client, data)


def walk(client: ClientSession, data: bytes) -> None:
    """Take bytes that begin where the last ones ended, whatever the client waits for."""
    try:
        _Walk(client, data).run()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here ends this client, nothing else
        client.is_batch_open = True  # what was written is not known, so that nobody else gets this server
        client.fail(error)


class _Walk(Passage):
    """One chunk on its way, and how far it has been looked at: up to ``pos``."""

    __slots__ = ()

    def run(self) -> None:
        """Take message after message; what has to wait for a server is kept."""
        client, data = self.client, self.data
        size = len(data)
        if client.skip:
            self._skip(size)
        while self.pos < size and not client.ended:
            if size - self.pos < 5:  # noqa: PLR2004 - type and length
                break
            kind = data[self.pos]
            length = int.from_bytes(data[self.pos + 1 : self.pos + 5], "big")
            if kind not in _KINDS or length < 4 or length > client.config.max_packet_bytes:  # noqa: PLR2004 - the length counts itself
                self.write()
                client.refuse(
                    Refusal(
                        SQLSTATE.PROTOCOL_VIOLATION,
                        f"invalid frontend message type {kind} or length {length}",
                        severity="FATAL",
                    )
                )
                return
            end = self.pos + 1 + length
            known = _known_bytes(kind, data, self.pos, end)
            if (
                kind == Frontend.QUERY
                and known
                and (beginnings.answers(client, known[0]) or client_routing.answers(client, known[0]))
            ):
                self.start = self.pos = end
                continue
            if known is None:
                if size - self.pos > _held_limit(kind):
                    self.write()
                    client.refuse(
                        Refusal(SQLSTATE.PROGRAM_LIMIT, "names in a message are too long", severity="FATAL")
                    )
                    return
                break
            if kind in _NEED_SERVER and client.server is None and not self._gets_server(kind, known):
                return
            if not self._message(kind, end, min(end, size), known):
                return
            self.pos = end
        self._finish(size)

    def _skip(self, size: int) -> None:
        """Pass or drop the rest of a message."""
        client = self.client
        rest = min(client.skip, size)
        client.skip -= rest
        self.pos = rest
        if client.discards:
            self.start = rest
            client.discards = client.skip > 0
            return
        if client.request is not None:
            client.request = [b""]  # a part of a message is gone by that was not kept
        if client.journal is not None:
            client.journal.keep_rest(self.data[:rest], is_whole=not client.skip)

    def _gets_server(self, kind: int, known: tuple[bytes, ...]) -> bool:
        """Have a server, or keep what is left until there is one."""
        client = self.client
        if (known or kind not in _HAVE_STRINGS) and client_routing.concerns(client, kind, known):
            client_routing.decide(client, self.data[self.pos :])
        if client.pool.take(client) is not None:
            return True
        if not client.ended:
            client.wait(self.data[self.pos :])
        return False

    def _finish(self, size: int) -> None:
        """Write what is due, and remember where the next chunk goes on."""
        client = self.client
        if client.ended:
            return
        if self.pos > size:
            client.skip = self.pos - size
            client.discards = self.start > size
            self.pos = size
        if self.pos < size:
            client.partial = self.data[self.pos :]
        self.write()
        if client.partial or client.skip:
            client.busy |= Busy.INPUT
            client.holds |= Holds.INPUT
        else:
            client.busy &= ~Busy.INPUT
            client.holds &= ~Holds.INPUT
        server = client.server
        if server is not None and not server.fifo and not client.partial and not client.skip:
            client.settle(server.status)

    # One message

    def _message(self, kind: int, end: int, stop: int, known: tuple[bytes, ...]) -> bool:
        """Take one message; False: the walk is over."""
        client = self.client
        if kind in _NEED_SERVER:
            server = self.server
            if not server.fifo:
                server.naming.clear()
                self._begin(server)
            if client.busy & Busy.DEFERRED:
                for message, expect in beginnings.deferred(client):
                    self.insert(message, expect)
            client.busy |= Busy.TRACKED
            client.holds |= Holds.TRACKED
            if client.skips_to_sync:
                # An error was told: the server skips this too, and nothing is expected for it.
                if kind != Frontend.SYNC:
                    return True
                client.skips_to_sync = False
            if server.copy_in and kind not in (Frontend.SYNC, Frontend.FLUSH):
                # PostgreSQL fails the COPY and takes the message for answered. If the COPY has failed there already,
                # it would carry the message out: so it gets another that it drops in that case.
                server.copy_in = False
                self.replace(end, wire.copy_fail("unexpected message during COPY from stdin"))
                return True
            self._retain(stop)
            if client.journal is not None:
                client.journal.keep(kind, self.data[self.pos : stop], is_whole=stop == end)
            if kind in _OF_EXTENDED:
                if known and client.config.failover.arms_commit_outcome and not client.is_batch_open:
                    self._arm_extended(kind, known)
                client.is_batch_open = True
                client.has_bound |= kind in (Frontend.BIND, Frontend.EXECUTE)
                client.has_data = True  # counts in the beginning of a transaction only
            elif kind in (Frontend.QUERY, Frontend.FUNCTION_CALL):
                # Both have a ReadyForQuery of their own, also without a Sync before them.
                client.is_batch_open = False
                client.has_data |= kind == Frontend.FUNCTION_CALL
            self._to_server(server, kind, end, known)
            return True
        if kind == Frontend.TERMINATE:
            self.write()
            client.terminate()
            return False
        if kind in (Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL):
            self._copy(kind, end)
            return True
        self.write()
        problem = f"message type {chr(kind)!r} is out of place"
        client.refuse(Refusal(SQLSTATE.PROTOCOL_VIOLATION, problem, severity="FATAL"))
        return False

    def _begin(self, server: ServerSession) -> None:
        """Take note that all that was sent is answered.

        Within a batch that goes for Parse and Describe only: what is left of it can be done by another server, which
        gets the Parse first.
        """
        client = self.client
        if not client.is_batch_open:
            client.has_bound = False
        elif client.has_bound or client.request == [b""]:
            return
        else:
            client.request = None
        server.began = monotonic()
        if server.status == TransactionStatus.IDLE:
            server.attached = server.began
        server.sent = 0

    def _to_server(self, server: ServerSession, kind: int, end: int, known: tuple[bytes, ...]) -> None:
        client, fifo = self.client, server.fifo
        if not known and kind in _HAVE_STRINGS:
            # Malformed: the server says so better than we could.
            fifo.append(Expect(kind))
            return
        match kind:
            case Frontend.QUERY:
                self._query(server, end, known[0])
            case Frontend.PARSE:
                self._parse(end, *known)
            case Frontend.BIND:
                statement_names.bind(self, *known)
            case Frontend.DESCRIBE:
                statement_names.describe(self, end, known[0])
            case Frontend.EXECUTE:
                statement = (client.portals or {}).get(known[0])
                text = b"" if statement is not None or client.unnamed is None else _text_of(client.unnamed)
                sql = text if statement is None else statement.text
                if journal.executes(client, server, sql):
                    done = wire.command_complete(journal.begin_tag(sql))
                    self.answer(end, Expect(kind, SYNTHETIC, data=done))
                else:
                    fifo.append(Expect(kind, statement=statement, text=text))
            case Frontend.CLOSE:
                statement_names.close(self, end, known[0])
            case Frontend.SYNC:
                self._bare(end)
                client.is_batch_open = False
                if not server.copy_in:
                    fifo.append(Expect(kind))
            case Frontend.FUNCTION_CALL:
                fifo.append(Expect(kind))
            case _:
                self._bare(end)

    def _bare(self, end: int) -> None:
        """Send a Sync or Flush without what a client may have put into it: an error would come out of turn."""
        if end > self.pos + 5:
            self.replace(end, self.data[self.pos : self.pos + 1] + b"\0\0\0\4")

    def _retain(self, stop: int) -> None:
        """Keep the request, so that it can be sent again; without parts, up to a limit."""
        client = self.client
        limit = client.config.failover.retained_request_bytes
        if client.request is None:
            client.request = []
            client.request_bytes = 0
        client.request_bytes += stop - self.pos
        if client.request_bytes > limit:
            client.request = [b""]  # too long to be sent again: an empty part says so
        elif client.request != [b""]:
            client.request.append(self.data[self.pos : stop])

    def _query(self, server: ServerSession, end: int, text: bytes) -> None:
        client = self.client
        client.unnamed = None
        server.unnamed = None
        first = _FIRST_WORDS.match(text)
        if first is not None:
            word = first[1].lower()
            if word in _NAMING:
                statement_names.in_sql(self, text)
            elif word in (b"begin", b"start"):
                beginnings.opens(client, self.data[self.pos : end], text)
            elif word in (b"commit", b"end") and client.config.failover.arms_commit_outcome:
                self.insert(*commit_outcome.probe(client))
            if word not in (b"begin", b"start"):
                client.has_data = True
        elif client.busy & Busy.BEGINNING:
            beginnings.goes_on(client, self.data[self.pos : end], text)
        server.fifo.append(Expect(Frontend.QUERY, text=text))

    def _parse(self, end: int, name: bytes, body: bytes) -> None:
        if name:
            statement_names.parse(self, end, name, body)
            return
        sql_name = b""
        if end <= len(self.data) and (first := _FIRST_WORDS.match(body)) and first[1].lower() in _NAMING:
            sql_name = statement_names.name_in_sql(body[: body.index(0)])
        statement_names.parse_unnamed(self, end, sql_name)

    def _arm_extended(self, kind: int, known: tuple[bytes, ...]) -> None:
        """Put the question for the transaction's id before a COMMIT of the extended query."""
        if kind == Frontend.PARSE:
            text = known[1][: known[1].find(0)]
        elif kind == Frontend.BIND and known[1]:
            statement = (self.client.prepared or {}).get(known[1])
            text = b"" if statement is None else statement.text
        elif kind == Frontend.BIND and self.client.unnamed is not None:
            text = _text_of(self.client.unnamed)
        else:
            return
        first = _FIRST_WORDS.match(text)
        if first is not None and first[1].lower() in (b"commit", b"end"):
            self.insert(*commit_outcome.probe(self.client))

    def _copy(self, kind: int, end: int) -> None:
        """COPY data goes to a server that takes it; what comes late, after an error, is nobody's."""
        client, server = self.client, self.client.server
        if server is None or not (server.copy_in or server.fifo):
            self.replace(end, b"")
            if end > len(self.data):
                client.discards = True
            return
        client.request = [b""]  # the data are not kept, and without them nothing is sent again
        if client.journal is not None:
            client.journal.drop()
        client.busy |= Busy.TRACKED
        client.holds |= Holds.TRACKED
        if kind != Frontend.COPY_DATA:
            if server.copy_in:
                server.copy_in = False
            else:
                server.fifo.append(Expect(Frontend.COPY_DONE, SYNTHETIC))


def _held_limit(kind: int) -> int:
    return PARSE_LIMIT_BYTES if kind in (Frontend.PARSE, Frontend.QUERY) else NAME_LIMIT_BYTES


def _known_bytes(  # noqa: PLR0911 - one way per kind of message
    kind: int, data: bytes, pos: int, end: int
) -> tuple[bytes, ...] | None:
    """Return what has to be known of a message before it goes on, or None while that has not come.

    Returns: Query: its text; Parse: name and body; Bind: portal and name; Describe, Close: target; Execute: portal;
        nothing for one whose strings do not end within it.
    """
    size = len(data)
    is_whole = end <= size
    body = pos + 5
    if kind == Frontend.QUERY:
        if is_whole:
            return (data[body : end - 1],) if end > body and not data[end - 1] else ()
        return (data[body : body + TEXT_LIMIT_BYTES],) if size - body >= TEXT_LIMIT_BYTES else None
    if kind == Frontend.PARSE:
        if not is_whole and size - body < PARSE_LIMIT_BYTES:
            return None
        name_end = data.find(0, body, min(end, size))
        if name_end < 0 or (is_whole and data.find(0, name_end + 1, end) < 0):
            return ()
        return data[body:name_end], data[name_end + 1 : end]
    if kind == Frontend.BIND:
        portal_end = data.find(0, body, min(end, size))
        name_end = data.find(0, portal_end + 1, min(end, size)) if portal_end >= 0 else -1
        if name_end >= 0:
            return data[body:portal_end], data[portal_end + 1 : name_end]
    elif kind in (Frontend.DESCRIBE, Frontend.CLOSE):
        if is_whole:
            is_good = end - body >= 2 and data[body] in b"SP" and data.find(0, body, end) == end - 1  # noqa: PLR2004 - letter and NUL
            return (data[body : end - 1],) if is_good else ()
    elif kind == Frontend.EXECUTE:
        portal_end = data.find(0, body, min(end, size))
        if portal_end >= 0:
            return (data[body:portal_end],)
    else:
        return ()
    return () if is_whole else None


def _text_of(parse: bytes) -> bytes:
    """Return the SQL of an unnamed Parse at the beginning of a chunk."""
    return parse[6 : parse.index(0, 6)]
