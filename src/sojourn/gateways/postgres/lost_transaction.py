"""A transaction whose server died: what the client hears until it rolls back.

The first request after the loss is told what happened (40001), each further one that the transaction is aborted
(25P02), as PostgreSQL itself would; ROLLBACK or COMMIT ends it and is answered here. No server is held meanwhile.
Source: postgres-proxy.md section 6.4, ``lost_tx``; PostgreSQL's extended query: after an error skip to Sync.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import lexer, owed, recovery, wire
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal, TransactionStatus
from sojourn.gateways.postgres.retry import Action, Verdict
from sojourn.gateways.postgres.statements import names_in
from sojourn.gateways.postgres.states import Busy

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession

_IDLE, _FAILED = TransactionStatus.IDLE, TransactionStatus.FAILED
_ENDED = b"\0"
"""What ``lost_text`` is when an Execute has ended the transaction."""
_COMMITS = re.compile(rb"(?:commit|end)\b", re.IGNORECASE)
_ENDS = re.compile(
    rb"(?:rollback|commit|end|abort)(?:\s+(?:work|transaction))?(?:\s+and\s+no\s+chain)?\Z", re.IGNORECASE
)


def begin(client: ClientSession, verdicts: list[Verdict]) -> None:
    """Tell a client what became of what is under way, request by request, and go on with it from there.

    A transaction that is lost is told once; a request without its Sync is answered too, and skipped to that.
    """
    out: list[bytes] = []
    is_told = False
    client.skips_to_sync = client.is_batch_open = False
    for decision, status, request in verdicts:
        client.lost_told = None
        if decision.action == Action.ANSWER_ROLLBACK:
            out.append(b"" if request is None else owed.answer_to(request.entries, b"ROLLBACK"))
        else:
            if decision.action != Action.END_REQUEST:
                is_known = is_told and decision.sqlstate == SQLSTATE.SERIALIZATION_FAILURE
                client.lost_told = None if is_known else decision.refusal()
                if request is not None:
                    _fail(client, out)
            if request is not None and request.is_whole:
                out.append(wire.ready_for_query(status))
            elif request is not None:
                client.skips_to_sync = client.is_batch_open = True
        is_told = status == _FAILED
        client.status = client.lost_status = status
    if client.status == _FAILED or client.is_batch_open:
        client.busy |= Busy.LOST
    if out:
        client.write(b"".join(out))


def reject(client: ClientSession, refusal: Refusal, data: bytes) -> None:
    """Answer the request that ``data`` begins with by an error; what follows it goes its usual way."""
    client.busy = client.busy & ~Busy.DEFERRED | Busy.LOST
    client.end_beginning()
    if client.status != _IDLE:
        client.status = _FAILED
    client.lost_status = client.status
    client.lost_told = refusal
    take(client, data)


def take(client: ClientSession, data: bytes) -> None:
    """Answer a chunk of a client whose transaction or request is lost."""
    data, client.partial = client.partial + data, b""
    if client.skip:
        rest = min(client.skip, len(data))
        client.skip -= rest
        data = data[rest:]
    out: list[bytes] = []
    pos, size = 0, len(data)
    while size - pos >= 5 and client.busy & Busy.LOST and not client.ended:  # noqa: PLR2004 - type and length
        kind, length = data[pos], int.from_bytes(data[pos + 1 : pos + 5], "big")
        if length < 4 or length > client.config.max_packet_bytes:  # noqa: PLR2004 - the length counts itself
            client.refuse(Refusal(SQLSTATE.PROTOCOL_VIOLATION, f"invalid message length {length}"))
            return
        end = pos + 1 + length
        if end > size and (
            kind == Frontend.COPY_DATA or length > client.config.failover.retained_request_bytes
        ):
            # What such a long message says does not matter any more.
            client.skip = end - size
            end = size
        elif end > size:
            break
        behind = _message(client, kind, data[pos + 5 : end], out)
        pos = end
        if behind:
            data, pos, size = behind + data[end:], 0, len(behind) + size - end
    if out and not client.ended:
        client.write(b"".join(out))
    left = data[pos:]
    if client.ended:
        return
    if client.busy & Busy.LOST:
        client.partial = left
    elif left:
        client.data_received(left)


def _message(client: ClientSession, kind: int, body: bytes, out: list[bytes]) -> bytes:
    """Answer one message; return what of it is for a server, now that its beginning has ended the transaction."""
    if kind == Frontend.TERMINATE:
        client.terminate()
    elif kind == Frontend.SYNC:
        client.skips_to_sync = client.is_batch_open = False
        if client.lost_text == _ENDED:
            over(client)
        _ready(client, out)
    elif kind in (Frontend.QUERY, Frontend.FUNCTION_CALL):
        if client.skips_to_sync:
            return b""
        statements = lexer.split_statements(body[:-1]) if kind == Frontend.QUERY else []
        if statements and client.lost_status == _FAILED and _ENDS.match(statements[0]):
            is_ended = _end(client, statements[0], out)
            over(client)
            if is_ended and len(statements) > 1:
                return wire.query(b";".join(statements[1:]))
        else:
            _fail(client, out)
        _ready(client, out)
    elif not client.skips_to_sync:
        _extended(client, kind, body, out)
    return b""


def _end_in(text: bytes) -> bytes:
    """Return the end of a transaction that a text is, without comments; empty if it is none."""
    statements = lexer.split_statements(text)
    return statements[0] if len(statements) == 1 and _ENDS.match(statements[0]) else b""


def _describes_end(client: ClientSession, target: bytes) -> bool:
    """Say whether what a Describe is about, S or P and a name, is the end of the transaction."""
    statement = (client.prepared or {}).get(target[1:]) if target[:1] == b"S" and target[1:] else None
    return bool(_ENDS.match(client.lost_text) if statement is None else _end_in(statement.text))


def _end(client: ClientSession, text: bytes, out: list[bytes]) -> bool:
    """Answer the end of the transaction; a COMMIT that is the first to hear of the loss gets the error, and False."""
    if client.lost_told is not None and _COMMITS.match(text):
        _fail(client, out)
        return False
    out.append(wire.command_complete(b"ROLLBACK"))
    return True


def _ready(client: ClientSession, out: list[bytes]) -> None:
    """End one request; where only that one was lost, everything is as before."""
    out.append(wire.ready_for_query(client.status))
    if client.busy & Busy.LOST and client.lost_status != _FAILED:
        client.busy &= ~Busy.LOST
        client.lost_told = None
        recovery.rebuild(client)


def _extended(client: ClientSession, kind: int, body: bytes, out: list[bytes]) -> None:
    """Answer a message of the extended query: only a ROLLBACK or COMMIT gets through.

    ``lost_text`` is the end of the transaction that was parsed or bound last.
    """
    is_failed = client.lost_status == _FAILED
    if kind == Frontend.PARSE:
        name, _, rest = body.partition(b"\0")
        text = _end_in(rest[: rest.find(b"\0")]) if is_failed else b""
        if text:
            if name:
                client.learn_statement(name, client.gateway.statements.intern(rest, names_in(client.vector)))
            else:
                client.lost_text = text
            out.append(wire.parse_complete())
            return
    elif kind == Frontend.BIND:
        name = body.split(b"\0", 2)[1]
        if name:
            statement = (client.prepared or {}).get(name)
            client.lost_text = _end_in(statement.text) if statement is not None and is_failed else b""
        if _ENDS.match(client.lost_text):
            out.append(wire.bind_complete())
            return
    elif kind == Frontend.DESCRIBE and is_failed and _describes_end(client, body[:-1]):
        out.append((wire.parameter_description(()) if body[:1] == b"S" else b"") + wire.no_data())
        return
    elif kind == Frontend.EXECUTE and _ENDS.match(client.lost_text):
        client.skips_to_sync = client.lost_told is not None
        _end(client, client.lost_text, out)
        client.lost_text = _ENDED
        return
    elif kind == Frontend.CLOSE and client.lost_status == _FAILED:
        if body[:1] == b"S":
            client.forget_statement(body[1:-1])
        out.append(wire.close_complete())
        return
    elif kind in (Frontend.FLUSH, Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL):
        return
    _fail(client, out)
    client.skips_to_sync = True


def _fail(client: ClientSession, out: list[bytes]) -> None:
    """Say what happened the first time, and the rule after that."""
    told, client.lost_told = client.lost_told, None
    if told is not None:
        out.append(
            wire.error_response(
                told.sqlstate, told.message, severity="ERROR", detail=told.detail, hint=told.hint
            )
        )
    else:
        out.append(
            wire.error_response(
                SQLSTATE.IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
                severity="ERROR",
            )
        )


def over(client: ClientSession) -> None:
    """Let go of the transaction: it is rolled back."""
    client.busy &= ~Busy.LOST
    client.status = _IDLE
    client.lost_text = b""
    client.lost_told = None
    forget_changes(client)
    recovery.rebuild(client)


def forget_changes(client: ClientSession) -> None:
    """Take back what a transaction or request changed that did not end."""
    client.holding.failed()
    client.holding.ready(_IDLE)
    client.vector = client.holding.vector
    client.armed = None


def committed(client: ClientSession) -> None:
    """Let count what a transaction changed that turned out to be committed."""
    client.status = _IDLE
    client.holding.completed(b"COMMIT", b"COMMIT")
    client.holding.ready(_IDLE)
    client.vector = client.holding.vector
