"""The long way of a client's bytes: message by message, where one look was not enough.

Follows parts of messages, gives prepared statements the names that the server knows them by, puts in the Parse that a
server lacks, answers what needs no server, and writes all of it in one joined write. Of a message that passes only
the header and the names are read. Source: postgres-proxy.md sections 6.2, 6.3, 6.6; PostgreSQL's Message Formats.
"""

from __future__ import annotations

import re
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import (
    beginnings,
    client_routing,
    commit_outcome,
    lexer,
    lost_transaction,
    session_statements,
    wire,
)
from sojourn.gateways.postgres.messages import Frontend, Refusal
from sojourn.gateways.postgres.replies import DROP, FORWARD, REFUSED, SYNTHETIC, Expect, Hidden
from sojourn.gateways.postgres.statements import CLOSE_UNNAMED, about_statement, rename_bind

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.statements import Statement

WAITING, INPUT, TRACKED, LOST, BEGINNING, ROUTED, DEFERRED, CLOSING = 1, 2, 4, 8, 32, 64, 128, 256
"""The bits of ``Busy`` that matter here."""

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
_FAILING = wire.describe_portal(b"sojourn: refused")
"""Fails wherever it is sent: no client has a portal of that name."""
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
    if busy & CLOSING:
        return
    if busy & WAITING:
        client.wait(data)
        return
    if busy & LOST:
        lost_transaction.take(client, data)
        return
    if busy & ROUTED and client_routing.take(client, data):
        return
    if client.partial:
        data, client.partial = client.partial + data, b""
    try:
        _Walk(client, data).run()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here ends this client, nothing else
        client.is_batch_open = True  # what was written is not known, so that nobody else gets this server
        client.fail(error)


class _Walk:
    """One chunk on its way: what is to be written, and how far it has been looked at."""

    __slots__ = ("client", "data", "out", "pos", "start")

    def __init__(self, client: ClientSession, data: bytes) -> None:
        self.client = client
        self.data = data
        self.out: list[bytes] = []
        self.start = self.pos = 0

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
                self._write()
                client.refuse(
                    Refusal(
                        "08P01", f"invalid frontend message type {kind} or length {length}", severity="FATAL"
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
                    self._write()
                    client.refuse(Refusal("54000", "names in a message are too long", severity="FATAL"))
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
        elif client.request is not None:
            client.request = [b""]  # a part of a message is gone by that was not kept

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
        self._write()
        if client.partial or client.skip:
            client.busy |= INPUT
            client.holds |= 4
        else:
            client.busy &= ~INPUT
            client.holds &= ~4
        server = client.server
        if server is not None and not server.fifo and not client.partial and not client.skip:
            client.settle(server.status)

    def _write(self) -> None:
        """Write all that was looked at: a server must never be left in the midst of a message."""
        server = self.client.server
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
            self.start = self.pos
        if self.out and server is not None:
            whole = self.out[0] if len(self.out) == 1 else b"".join(self.out)
            if whole:
                server.bytes_in += len(whole)
                server.write(whole)
        self.out.clear()

    # One message

    def _message(self, kind: int, end: int, stop: int, known: tuple[bytes, ...]) -> bool:
        """Take one message; False: the walk is over."""
        client = self.client
        if kind in _NEED_SERVER:
            server = client.server
            assert server is not None  # noqa: S101 - the caller looked
            if not server.fifo:
                self._begin(server)
            if client.busy & DEFERRED:
                for message, expect in beginnings.deferred(client):
                    self._insert(message, expect)
            client.busy |= TRACKED
            client.holds |= 8
            if client.skips_to_sync:
                # An error was told: the server skips this too, and nothing is expected for it.
                if kind != Frontend.SYNC:
                    return True
                client.skips_to_sync = False
            if server.copy_in and kind not in (Frontend.SYNC, Frontend.FLUSH):
                # PostgreSQL fails the COPY and takes the message for answered. If the COPY has failed there already,
                # it would carry the message out: so it gets another that it drops in that case.
                server.copy_in = False
                self._replace(end, wire.copy_fail("unexpected message during COPY from stdin"))
                return True
            self._retain(stop)
            if kind in _OF_EXTENDED:
                if known and client.config.failover.arms_commit_outcome and not client.is_batch_open:
                    self._arm_extended(kind, known)
                client.is_batch_open = True
                client.has_bound |= kind in (Frontend.BIND, Frontend.EXECUTE)
                client.has_data = True  # counts in the beginning of a transaction only
            elif kind in (Frontend.QUERY, Frontend.FUNCTION_CALL):
                client.is_batch_open = (
                    False  # both have a ReadyForQuery of their own, also without a Sync before them
                )
                client.has_data |= kind == Frontend.FUNCTION_CALL
            self._to_server(server, kind, end, known)
            return True
        if kind == Frontend.TERMINATE:
            self._write()
            client.terminate()
            return False
        if kind in (Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL):
            self._copy(kind, end)
            return True
        self._write()
        client.refuse(Refusal("08P01", f"message type {chr(kind)!r} is out of place", severity="FATAL"))
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
                self._parse(server, end, *known)
            case Frontend.BIND:
                self._bind(server, *known)
            case Frontend.DESCRIBE:
                described = self._named(server, kind, end, known[0])
                fifo.append(Expect(kind, name=known[0][:1], statement=described))
            case Frontend.EXECUTE:
                statement = (client.portals or {}).get(known[0])
                text = b"" if statement is not None or client.unnamed is None else _text_of(client.unnamed)
                fifo.append(Expect(kind, statement=statement, text=text))
            case Frontend.CLOSE:
                self._close(server, end, known[0])
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
            self._replace(end, self.data[self.pos : self.pos + 1] + b"\0\0\0\4")

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
                self._sql_statement(server, text)
            elif word in (b"begin", b"start"):
                beginnings.opens(client, self.data[self.pos : end], text)
            elif word in (b"commit", b"end") and client.config.failover.arms_commit_outcome:
                self._insert(*commit_outcome.probe(client))
            if word not in (b"begin", b"start"):
                client.has_data = True
        elif client.busy & BEGINNING:
            beginnings.goes_on(client, self.data[self.pos : end], text)
        server.fifo.append(Expect(Frontend.QUERY, text=text))

    def _sql_statement(self, server: ServerSession, text: bytes) -> None:
        """PREPARE, EXECUTE, DEALLOCATE: let the name mean on this server what it means to the client."""
        client = self.client
        name = _statement_name(text)
        if not name:
            return
        statement = (client.prepared or {}).get(name)
        there = server.prepared.get(name)
        if there is statement:
            return
        self._own(server, name, statement)
        if not client.is_batch_open:  # else the Query would be skipped with what fails before it
            self._insert(wire.sync(), Expect(Frontend.SYNC, DROP))

    def _own(self, server: ServerSession, name: bytes, statement: Statement | None) -> None:
        """Let ``name`` on this server be exactly what it is to the client: ``statement``, or nothing."""
        there = self._there(server, name)
        if there is statement:
            return
        if there is not None:
            server.prepared.pop(name, None)
            self._insert(
                about_statement(Frontend.CLOSE, name),
                Expect(Frontend.CLOSE, DROP, name=name, statement=there),
            )
        if statement is not None:
            self._insert(
                statement.parse(name), Expect(Frontend.PARSE, DROP, name=name, text=name, statement=statement)
            )

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
            self._insert(*commit_outcome.probe(self.client))

    def _insert(self, message: bytes, expect: Expect | Hidden) -> None:
        """Put a message of ours before the present one."""
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
            self.start = self.pos
        self.out.append(message)
        server = self.client.server
        assert server is not None  # noqa: S101 - the caller looked
        _expect(server, expect)

    def _parse(self, server: ServerSession, end: int, name: bytes, body: bytes) -> None:
        client = self.client
        whole = end <= len(self.data)
        if not name:
            if whole and (first := _FIRST_WORDS.match(body)) and first[1].lower() in _NAMING:
                statement_name = _statement_name(body[: body.index(0)])
                if statement_name:
                    self._own(server, statement_name, self._find(server, statement_name))
            server.fifo.append(Expect(Frontend.PARSE, text=client.unnamed or b""))
            client.unnamed = server.unnamed = self.data[self.pos : end] if whole else None
            return
        known = self._find(server, name)
        if known is not None:
            # PostgreSQL's own answer; it needs the name to be there.
            self._own(server, name, known)
            _expect(server, Expect(Frontend.PARSE, name=name, text=name, statement=known))
            return
        limit = client.config.pool.max_prepared_statements_per_client_count
        if client.prepared is not None and len(client.prepared) >= limit:
            refusal = wire.error_response(
                "53400",
                f"a client may have {limit} prepared statements",
                hint="Close those that are not needed.",
            )
            self._replace(end, _FAILING)
            _expect(server, Expect(Frontend.PARSE, REFUSED, data=refusal, name=name))
            return
        if not whole:
            self._forbid(server, name)
            client.has_long_statement = True
            client.show_pins()
            _expect(server, Expect(Frontend.PARSE, name=name))
            return
        statement = client.gateway.statements.intern(body)  # type: ignore[attr-defined]  # our gateway
        if server.prepared.get(name) is statement:
            self._answer(
                end,
                Expect(Frontend.PARSE, SYNTHETIC, data=wire.parse_complete(), name=name, statement=statement),
            )
            return
        self._make_room(server)
        if self._there(server, name) is None:
            _expect(server, Expect(Frontend.PARSE, FORWARD, name=name, text=name, statement=statement))
            return
        if self._there(server, statement.alias) is statement:
            self._answer(
                end,
                Expect(Frontend.PARSE, SYNTHETIC, data=wire.parse_complete(), name=name, statement=statement),
            )
            return
        self._replace(end, statement.parse(statement.alias))
        _expect(server, Expect(Frontend.PARSE, FORWARD, name=name, text=statement.alias, statement=statement))

    def _answer(self, end: int, expect: Expect) -> None:
        """Answer a message ourselves, in its turn."""
        self._replace(end, b"")
        server = self.client.server
        assert server is not None  # noqa: S101 - the caller looked
        if server.fifo:
            _expect(server, expect)
            return
        client = self.client
        client.write(expect.data)
        server.sent |= 1
        if expect.kind == Frontend.PARSE and expect.statement is not None:
            client.learn_statement(expect.name, expect.statement)
        elif expect.kind == Frontend.CLOSE:
            client.forget_statement(expect.name)

    def _replace(self, end: int, message: bytes) -> None:
        """Send ``message`` instead of the present one."""
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
        if message:
            self.out.append(message)
        self.start = end

    def _make_room(self, server: ServerSession) -> None:
        """Close the statement that was used least recently, where the server has as many as it may."""
        limit = self.client.config.pool.max_prepared_statements_count
        while limit and len(server.prepared) >= limit:
            name = next(iter(server.prepared))
            statement = server.prepared.pop(name)
            self._insert(
                about_statement(Frontend.CLOSE, name),
                Expect(Frontend.CLOSE, DROP, name=name, statement=statement),
            )

    def _at_server(self, server: ServerSession, name: bytes, statement: Statement) -> bytes:
        """Return the name by which the server knows a statement; it is parsed there if need be."""
        prepared = server.prepared
        if prepared.get(name) is statement:
            chosen = name
        elif prepared.get(statement.alias) is statement:
            chosen = statement.alias
        else:
            for one in _naming(server):  # its Parse may be under way
                if one.kind == Frontend.PARSE and one.statement is statement:
                    return one.text
            self._make_room(server)
            chosen = name if self._there(server, name) is None else statement.alias
            self._insert(
                statement.parse(chosen),
                Expect(Frontend.PARSE, DROP, name=name, text=chosen, statement=statement),
            )
            return chosen
        if len(prepared) * 2 > self.client.config.pool.max_prepared_statements_count:
            prepared[chosen] = prepared.pop(chosen)  # the least recently used comes first
        return chosen

    def _there(self, server: ServerSession, name: bytes) -> Statement | None:
        """Return what a name means to the server once it has answered what is under way."""
        for one in reversed(_naming(server)):
            if one.action != SYNTHETIC:
                if one.kind == Frontend.PARSE and one.text == name and one.statement is not None:
                    return one.statement
                if one.kind == Frontend.CLOSE and one.name == name:
                    return None
        return server.prepared.get(name)

    def _find(self, server: ServerSession, name: bytes) -> Statement | None:
        """Return what a name means to the client, also while its Parse is under way."""
        for one in reversed(_naming(server)):
            if one.name == name and one.action != DROP:
                return one.statement if one.kind == Frontend.PARSE else None
        return (self.client.prepared or {}).get(name)

    def _bind(self, server: ServerSession, portal: bytes, name: bytes) -> None:
        client = self.client
        statement = None
        if name:
            statement = self._find(server, name)
            if statement is not None:
                chosen = self._at_server(server, name, statement)
                if chosen != name:
                    portal_end = self.pos + 5 + len(portal)
                    name_end = portal_end + 1 + len(name)
                    head = rename_bind(
                        self.data[self.pos : name_end + 1], portal_end - self.pos, name_end - self.pos, chosen
                    )
                    self._replace(name_end + 1, head)
            else:
                self._forbid(server, name)
        else:
            self._unnamed(server)
        if client.portals is None:
            client.portals = {}
        if statement is not None:
            client.portals[portal] = statement
        else:
            client.portals.pop(portal, None)
        server.fifo.append(Expect(Frontend.BIND, statement=statement))

    def _forbid(self, server: ServerSession, name: bytes) -> None:
        """Let PostgreSQL say that the client has no such name: nobody else's may be there under it."""
        if not self.client.holds & 1:
            self._own(server, name, None)

    def _unnamed(self, server: ServerSession) -> None:
        """Let the unnamed statement on this server be this client's."""
        client = self.client
        if client.unnamed is not None:
            if server.unnamed is not client.unnamed:
                parse = client.unnamed
                self._insert(parse[: 1 + int.from_bytes(parse[1:5], "big")], Expect(Frontend.PARSE, DROP))
                server.unnamed = client.unnamed
        elif not client.holds & 1 and not any(
            type(one) is Expect and one.kind == Frontend.PARSE and not one.name for one in server.fifo
        ):
            self._insert(CLOSE_UNNAMED, Expect(Frontend.CLOSE, DROP))
            server.unnamed = None

    def _named(self, server: ServerSession, kind: int, end: int, target: bytes) -> Statement | None:
        """Describe of a statement or portal: ``target`` is S or P and the name; return the named statement."""
        if target[:1] != b"S":
            return None
        name = target[1:]
        if not name:
            self._unnamed(server)
            return None
        statement = self._find(server, name)
        if statement is None:
            self._forbid(server, name)
            return None
        chosen = self._at_server(server, name, statement)
        if chosen != name:
            self._replace(end, about_statement(kind, chosen))
        return statement

    def _close(self, server: ServerSession, end: int, target: bytes) -> None:
        """Close: of a statement only for this client; the server keeps it for others."""
        name = target[1:]
        if target[:1] != b"S":
            server.fifo.append(Expect(Frontend.CLOSE))
            return
        if not name:
            self.client.unnamed = server.unnamed = None
            server.fifo.append(Expect(Frontend.CLOSE))
            return
        statement = self._find(server, name)
        if statement is not None and server.prepared.get(name) is statement and not self.client.holds & 1:
            self._answer(end, Expect(Frontend.CLOSE, SYNTHETIC, data=wire.close_complete(), name=name))
        elif statement is not None and server.prepared.get(name) is statement:
            del server.prepared[name]
            _expect(server, Expect(Frontend.CLOSE, name=name, statement=statement))
        else:
            self._answer(end, Expect(Frontend.CLOSE, SYNTHETIC, data=wire.close_complete(), name=name))

    def _copy(self, kind: int, end: int) -> None:
        """COPY data goes to a server that takes it; what comes late, after an error, is nobody's."""
        client, server = self.client, self.client.server
        if server is None or not (server.copy_in or server.fifo):
            self._replace(end, b"")
            if end > len(self.data):
                client.discards = True
            return
        client.request = [b""]  # the data are not kept, and without them nothing is sent again
        client.busy |= TRACKED
        client.holds |= 8
        if kind != Frontend.COPY_DATA:
            if server.copy_in:
                server.copy_in = False
            else:
                server.fifo.append(Expect(Frontend.COPY_DONE, SYNTHETIC))


def _expect(server: ServerSession, expect: Expect | Hidden) -> None:
    """Put an entry that may be about a named statement into the queue."""
    server.fifo.append(expect)
    if type(expect) is Expect and expect.name:
        server.naming.append(expect)


def _naming(server: ServerSession) -> deque[Expect]:
    """Return what is under way about named statements; a queue of thousands of requests has few of it."""
    if not server.fifo:
        server.naming.clear()
    return server.naming


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


def _statement_name(text: bytes) -> bytes:
    """Return the name in PREPARE, EXECUTE or DEALLOCATE; empty for all."""
    return (
        session_statements.executed_name(text)
        or session_statements.prepared_name(text)
        or session_statements.deallocated_name(text)
        or b""
    )


def _text_of(parse: bytes) -> bytes:
    """Return the SQL of an unnamed Parse at the beginning of a chunk."""
    return parse[6 : parse.index(0, 6)]


def forget_prepared(client: ClientSession, tag: bytes, text: bytes) -> None:
    """DEALLOCATE and DISCARD ALL close protocol-level statements too."""
    server = client.server
    if tag == b"DEALLOCATE":
        name = _statement_name(text)
        client.forget_statement(name)
        if server is not None:
            server.prepared.pop(name, None)
        return
    client.prepared = None
    if server is not None:
        server.prepared.clear()
        server.unnamed = None
