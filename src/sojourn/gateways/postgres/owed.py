"""Owed: what a lost server had not answered, cut into requests, and the facts of each for the retry table.

A request is one Query, or everything up to one Sync; each of a pipeline is judged by itself, in order. SQL is read only
where it says how a transaction begins and ends. Decides nothing and writes nothing.
Source: postgres-proxy.md section 6.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import beginnings, client_routing, lexer, wire
from sojourn.gateways.postgres.journal import Journal
from sojourn.gateways.postgres.messages import Frontend, TransactionStatus
from sojourn.gateways.postgres.replies import DROP, Entry, Expect
from sojourn.gateways.postgres.retry import Loss, Request
from sojourn.gateways.postgres.scan import bound_statement
from sojourn.gateways.postgres.states import Busy

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession

_IDLE, _FAILED = TransactionStatus.IDLE, TransactionStatus.FAILED
_IN_TRANSACTION = TransactionStatus.IN_TRANSACTION
_ERROR_SENT, _BLOCK_OPEN, _BLOCK_ENDED, _COMMIT_POSSIBLE = 4, 8, 16, 32
"""Bits of a server's ``sent``: of its present answer the client has seen an error, or a batch has begun or ended a
transaction block, or has run what may commit by itself."""
_BLOCK_TAGS = frozenset((b"BEGIN", b"START TRANSACTION", b"COMMIT", b"ROLLBACK", b"PREPARE TRANSACTION"))
_TEXT_LIMIT_BYTES = 65_536
"""Part of a long query's text that is known; what comes behind it may be a COMMIT."""
_ENDS_REQUEST = (Frontend.SYNC, Frontend.QUERY, Frontend.FUNCTION_CALL)
_EXECUTES = (Frontend.QUERY, Frontend.EXECUTE, Frontend.FUNCTION_CALL)
_COMMITS_NEVER = re.compile(rb"\s*(?:select|insert|update|delete|merge|with|values|table)\b", re.IGNORECASE)
"""Commands that leave it to the Sync to commit them; of all others some do not: CALL, DO, VACUUM, CREATE DATABASE."""
_COMMITS = re.compile(rb"(?:commit|end|prepare\s+transaction)\b", re.IGNORECASE)
_COMMITS_ALONE = re.compile(rb"(?:commit|end)(?:\s+(?:work|transaction))?\Z", re.IGNORECASE)
_ROLLS_BACK = re.compile(rb"(?:rollback|abort)(?:\s+(?:work|transaction))?\Z", re.IGNORECASE)
_BEGINS = re.compile(rb"(?:begin|start\s+transaction)\b", re.IGNORECASE)
_ENDS = re.compile(
    rb"(?:prepare\s+transaction\b"
    rb"|(?:commit|end|rollback|abort)(?:\s+(?:work|transaction))?(?:\s+and\s+no\s+chain)?\Z)",
    re.IGNORECASE,
)
_COPIES = re.compile(
    rb"copy\s+(?!\()[^']*?\b(?:from\s+stdin\b|to\s+(?:stdout\b|program\b|'|E'))", re.IGNORECASE
)
"""COPY that cannot commit before it is answered or the client has sent all: not that from a file, nor of a query."""


def requests(client: ClientSession, entries: Iterable[Entry]) -> list[Request]:
    """Cut what a server owes into requests; the last one may be without its Sync."""
    found: list[Request] = []
    part: list[Entry] = []
    for entry in entries:
        part.append(entry)
        if isinstance(entry, bytes) or (
            isinstance(entry, Expect) and entry.kind in _ENDS_REQUEST and entry.action != DROP
        ):
            found.append(_request(client, part, is_whole=True))
            part = []
    if found and part and all(isinstance(one, Expect) and one.kind == Frontend.COPY_DONE for one in part):
        # The end of data that were sent ahead of their COPY's answer: it belongs to that.
        found[-1] = found[-1]._replace(entries=(*found[-1].entries, *part))
        part = []
    # The server that took COPY data had swallowed the Sync before it; another one follows the data.
    if part or client.is_batch_open or (client.busy & Busy.COPYING and not found):
        found.append(_request(client, part, is_whole=False))
    return found


def _request(client: ClientSession, entries: list[Entry], *, is_whole: bool) -> Request:
    statements = [one for text in _texts(client, entries) for one in lexer.split_statements(text)]
    return Request(tuple(entries), tuple(statements), is_whole)


def facts(client: ClientSession, server: ServerSession, owed: list[Request]) -> Loss:
    """Gather the facts of the loss of a server, about all that it owed together."""
    entries = [entry for request in owed for entry in request.entries]
    statements = [one for request in owed for one in request.statements]
    is_executing = any(_executes(entry) for entry in entries)
    status = status_of(client, server)
    begins = len(statements) == 1 and status == _IDLE and bool(_BEGINS.match(statements[0]))
    in_transaction = status != _IDLE or _opens_only(statements)
    has_prefix = client.prefix is not None
    # What was neither executed nor answered in part is as good as unsent; so is what of a batch is still to come where
    # only Parse and Describe have been answered: the next server gets the Parse before it.
    is_unsent = bool(owed) and not is_executing and (not server.sent or not (entries or client.has_bound))
    is_on_replica = client_routing.is_on_replica(client, server)
    is_reading = is_on_replica or beginnings.is_read_only(client.prefix)
    if not in_transaction:
        count = len(statements) or 1
    elif has_prefix:
        count = int(bool(owed))
    else:
        count = 2
    return Loss(
        is_idle=not owed and not in_transaction,
        is_restorable=not (client.holding.losses() or client.has_long_statement or client.has_long_unnamed),
        is_answered=bool(owed) and _is_failure_told(client, server) and len(owed) == 1,
        bytes_written_count=int(bool(owed) and not is_unsent),
        in_transaction=in_transaction,
        is_only_begin_sent=begins or (has_prefix and not client.has_data and status != _FAILED),
        is_read_only_transaction=beginnings.is_read_only(client.prefix),
        on_replica=is_on_replica,
        is_write_possible=not is_reading,
        is_row_forwarded=bool(owed and server.sent),
        statements_count=count,
        is_commit=_commits(client, entries, statements),
        is_commit_alone=len(statements) == 1 and bool(_COMMITS_ALONE.match(statements[0])),
        is_rollback=len(statements) == 1 and bool(_ROLLS_BACK.match(statements[0])),
        is_commit_impossible=bool(owed) and _is_commit_impossible(client, server, owed[-1]),
        is_outcome_armed=_is_armed(client, owed),
        is_copy=_is_copy(client, statements),
        is_copy_done_sent=_is_copy_done_sent(client, server, entries),
        is_replay_verifiable=isinstance(client.journal, Journal) and client.journal.allows(server, owed),
    )


def facts_of_each(
    client: ClientSession, server: ServerSession, owed: list[Request]
) -> list[tuple[Loss, int]]:
    """Gather the facts of each request of a pipeline, all of which may have been executed.

    Returns: with each, the status that it leaves: idle, or failed where it leaves a transaction that is lost open.
    """
    status = status_of(client, server)
    is_reading = client_routing.is_on_replica(client, server) or beginnings.is_read_only(client.prefix)
    found = []
    is_open = status != _IDLE
    for index, request in enumerate(owed):
        was_open, is_open = is_open, _is_open_after(request.statements, is_open=is_open)
        statements, is_first = request.statements, not index
        is_commit = _commits(client, request.entries, statements)
        is_armed = is_first and _is_armed(client, owed)
        loss = Loss(
            is_answered=is_first and _is_failure_told(client, server),
            bytes_written_count=1,
            in_transaction=was_open or is_open,
            on_replica=client_routing.is_on_replica(client, server),
            is_read_only_transaction=is_reading,
            is_write_possible=not is_reading,
            # It is not going to be repeated: its neighbours are not.
            is_row_forwarded=bool(server.sent) or not is_armed,
            statements_count=len(statements) or 1,
            is_commit=is_commit or (is_open and _is_committed_by(client, owed[index + 1 :])),
            is_commit_alone=len(statements) == 1 and bool(_COMMITS_ALONE.match(statements[0])),
            is_rollback=len(statements) == 1 and bool(_ROLLS_BACK.match(statements[0])),
            is_commit_impossible=_is_commit_impossible(client, server if is_first else None, request),
            is_outcome_armed=is_armed,
            is_copy=_is_copy(client, statements, is_present=is_first),
            is_copy_done_sent=not is_first or _is_copy_done_sent(client, server, request.entries),
        )
        found.append((loss, _FAILED if is_open else _IDLE))
    return found


def _is_failure_told(client: ClientSession, server: ServerSession) -> bool:
    """Say whether the client has had the error of the oldest request, of which only the end is missing."""
    return bool(server.sent & _ERROR_SENT) or client.skips_to_sync


def _is_open_after(statements: Iterable[bytes], *, is_open: bool) -> bool:
    """Say whether a transaction block is open after some statements."""
    for statement in statements:
        if _BEGINS.match(statement):
            is_open = True
        elif _ENDS.match(statement):
            is_open = False
    return is_open


def _is_committed_by(client: ClientSession, later: list[Request]) -> bool:
    """Say whether requests that follow within a transaction may have committed it."""
    for request in later:
        for statement in request.statements:
            if _COMMITS.match(statement):
                return True
            if _ENDS.match(statement):
                return False
        if _commits(client, request.entries, request.statements):
            return True
    return False


def _commits(client: ClientSession, entries: Iterable[Entry], statements: Iterable[bytes]) -> bool:
    """Say whether statements may contain a COMMIT: where they are too long to be known, they may."""
    if any(_COMMITS.match(statement) for statement in statements):
        return True
    return (
        any(
            isinstance(entry, Expect)
            and entry.kind == Frontend.QUERY
            and len(entry.text) == _TEXT_LIMIT_BYTES
            for entry in entries
        )
        and not client.skip
    )  # what has not been sent as a whole has not been begun


def _is_commit_impossible(client: ClientSession, server: ServerSession | None, request: Request) -> bool:
    """Say whether a request cannot have been committed outside a block, as its Sync was not sent.

    Args:
        client: whose request it is.
        server: that has answered a part of the request, None if none of it was answered.
        request: one whose commands may not all be known.
    """
    if request.is_whole or client.busy & Busy.COPYING:
        return False
    if server is not None and server.sent & _COMMIT_POSSIBLE:
        return False
    return all(
        bool(text) and all(map(_COMMITS_NEVER.match, lexer.split_statements(text)))
        for text in _texts(client, request.entries)
    )


def _opens_only(statements: list[bytes]) -> bool:
    """Say whether statements begin with a BEGIN whose transaction is still open at their end."""
    if not statements or not _BEGINS.match(statements[0]):
        return False
    return not any(_COMMITS.match(one) or _ENDS.match(one) for one in statements)


def _is_armed(client: ClientSession, owed: list[Request]) -> bool:
    """Say whether the id is known of what the oldest request commits; it must do nothing else behind it."""
    if client.armed is None or not owed:
        return False
    statements = owed[0].statements
    return len(statements) == 1 and bool(_COMMITS_ALONE.match(statements[0]))


def _is_copy(client: ClientSession, statements: Iterable[bytes], *, is_present: bool = True) -> bool:
    """Say whether a COPY is in flight that commits nothing before its end is answered or was sent."""
    if client.busy & Busy.COPYING and is_present:
        return True
    known = list(statements)
    return len(known) == 1 and bool(_COPIES.match(known[0]))


def _is_copy_done_sent(client: ClientSession, server: ServerSession, entries: Iterable[Entry]) -> bool:
    """Say whether the server may have got the end of the data."""
    if client.busy & Busy.COPYING and not server.copy_in:
        return True
    return any(isinstance(entry, Expect) and entry.kind == Frontend.COPY_DONE for entry in entries)


def _executes(entry: Entry) -> bool:
    """Say whether a server that answers an entry executes something of the client's."""
    return isinstance(entry, bytes) or (isinstance(entry, Expect) and entry.kind in _EXECUTES)


def _texts(client: ClientSession, entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the texts of the statements that are under way, as far as they are known."""
    for entry in entries:
        if isinstance(entry, bytes):
            yield text_of(client, entry)
        elif isinstance(entry, Expect) and entry.action != DROP:
            if entry.kind == Frontend.QUERY:
                yield entry.text
            elif entry.kind == Frontend.EXECUTE:
                yield entry.statement.text if entry.statement is not None else entry.text


def text_of(client: ClientSession, chunk: bytes) -> bytes:
    """Return the SQL of a plain request."""
    if chunk[0] == Frontend.QUERY:
        return chunk[5:-1]
    if chunk[0] == Frontend.PARSE:
        return chunk[6 : chunk.index(0, 6)]
    name = bound_statement(chunk)
    statement = (client.prepared or {}).get(name) if name else None
    if statement is not None:
        return statement.text
    return client.unnamed[6 : client.unnamed.index(0, 6)] if client.unnamed and not name else b""


def note_command(server: ServerSession, tag: bytes, text: bytes) -> None:
    """Take note of a command of a batch that has ended well before the batch's Sync."""
    if tag in _BLOCK_TAGS:
        _note_block(server, tag, text)
    if _COMMITS_NEVER.match(text) is None:
        server.sent |= _COMMIT_POSSIBLE


def _note_block(server: ServerSession, tag: bytes, text: bytes) -> None:
    """Take note that a command of a batch has begun or ended a transaction block, long before its ReadyForQuery."""
    sent = server.sent & ~(_BLOCK_OPEN | _BLOCK_ENDED)
    if tag in (b"BEGIN", b"START TRANSACTION"):
        server.sent = sent | _BLOCK_OPEN
    elif any(map(_ENDS.match, lexer.split_statements(text)[:1])):  # not ROLLBACK TO, which has the same tag
        server.sent = sent | _BLOCK_ENDED


def status_of(client: ClientSession, server: ServerSession) -> int:
    """Return the transaction status at the moment, which within a batch is another than the client was told."""
    if server.sent & _BLOCK_OPEN:
        return _IN_TRANSACTION
    return _IDLE if server.sent & _BLOCK_ENDED else client.status


def answer_to(entries: Iterable[Entry], tag: bytes) -> bytes:
    """Return a server's answer to a request that is one COMMIT or ROLLBACK and outside a transaction afterwards."""
    out: list[bytes] = []
    for entry in entries:
        if isinstance(entry, bytes):
            messages, _ = wire.split(entry)
            out.extend(_answer_to(kind, body[:1], tag) for kind, body in messages)
        elif isinstance(entry, Expect) and entry.action != DROP:
            out.append(entry.data or _answer_to(entry.kind, entry.name, tag))
    return b"".join(out)


def _answer_to(kind: int, target: bytes, tag: bytes) -> bytes:
    match kind:
        case Frontend.QUERY:
            return wire.command_complete(tag) + wire.ready_for_query(_IDLE)
        case Frontend.PARSE:
            return wire.parse_complete()
        case Frontend.BIND:
            return wire.bind_complete()
        case Frontend.DESCRIBE:
            return (wire.parameter_description(()) if target == b"S" else b"") + wire.no_data()
        case Frontend.EXECUTE:
            return wire.command_complete(tag)
        case Frontend.CLOSE:
            return wire.close_complete()
        case Frontend.SYNC:
            return wire.ready_for_query(_IDLE)
    return b""
