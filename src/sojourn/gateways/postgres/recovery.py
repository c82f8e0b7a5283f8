"""Recovery: what becomes of a client whose server is gone, by the retry table.

Gathers the facts, asks ``retry`` for the decision and carries it out: wait and send again, answer with an honest
error, or rebuild in silence. The client's socket stays open. Source: postgres-proxy.md sections 6.5 and 6.8.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import (
    beginnings,
    client_routing,
    commit_outcome,
    lexer,
    lost_transaction,
    wire,
)
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal
from sojourn.gateways.postgres.replies import DROP, Entry, Expect, Hidden
from sojourn.gateways.postgres.retry import Action, Decision, Loss, decide, loss_report
from sojourn.gateways.postgres.scan import bound_statement
from sojourn.gateways.postgres.snapshot import differences, parse_snapshot, snapshot_sql
from sojourn.gateways.postgres.statements import StatementTable, about_statement

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.server_session import ServerSession

_IDLE, _FAILED = 73, 69
_WAITING, _INPUT, _TRACKED, _LOST, _COPYING, _DEFERRED, _CLOSING = 1, 2, 4, 8, 16, 128, 256
_OF_REQUEST = _WAITING | _INPUT | _TRACKED | _COPYING
_HOLDS_PLACE = 1 | 2
"""Bits of ``Holds`` that keep a server for a client: session mode and pins."""
_HOLDS_STAY = _HOLDS_PLACE | 1024
"""Bits of ``Holds`` that stay when a server goes."""
_ENDS_REQUEST = (Frontend.SYNC, Frontend.QUERY, Frontend.FUNCTION_CALL)
_EXECUTES = (Frontend.QUERY, Frontend.EXECUTE, Frontend.FUNCTION_CALL)
_COMMITS = re.compile(rb"(?:\A|;)\s*(?:commit|end|prepare\s+transaction)\b", re.IGNORECASE)
_ROLLS_BACK = re.compile(rb"\s*(?:rollback|abort)(?:\s+(?:work|transaction))?\s*;?\s*\Z", re.IGNORECASE)
_BEGINS = re.compile(rb"\s*(?:begin|start\s+transaction)\b[^;]*;?\s*\Z", re.IGNORECASE)
_COMMITS_ALONE = re.compile(rb"\s*(?:commit|end)(?:\s+(?:work|transaction))?\s*;?\s*\Z", re.IGNORECASE)
_FIRST_BEGINS = re.compile(rb"\s*(?:begin|start\s+transaction)\b", re.IGNORECASE)
_ENDS = re.compile(rb"(?:\A|;)\s*(?:commit|end|rollback|abort|prepare\s+transaction)\b", re.IGNORECASE)
_COPIES = re.compile(rb"\s*copy\b", re.IGNORECASE)
_REPEATABLE = (SQLSTATE.FEATURE_NOT_SUPPORTED, SQLSTATE.UNDEFINED_PSTATEMENT)


def server_lost(client: ClientSession, server: ServerSession, entries: tuple[Entry, ...], cause: str) -> None:
    """Go on with a client whose server is gone.

    Args:
        client: it has no server any more.
        server: the one that is gone.
        entries: what it owed, in order.
        cause: why it is gone, for the operator.
    """
    gateway: PostgresGateway = client.gateway  # type: ignore[assignment]  # our sessions have our gateway
    if client.ended or client.busy & _CLOSING:
        return
    client.note(f"the server {server.node.name} (pid {server.pid}) is lost: {cause}")
    own = tuple(one for one in entries if not isinstance(one, Hidden))
    if client.holding.needs_snapshot and client.status != _IDLE:
        client.holding.needs_snapshot = False  # the transaction takes with it what was to be asked
    if client.holds & _HOLDS_PLACE or client.holding.needs_snapshot:
        client.needs_restore = True
    if not gateway.settings.failover.is_enabled:
        client.refuse(Refusal(SQLSTATE.CONNECTION_FAILURE, "the database server was lost"))
        return
    if server.skip and own and not (server.kept or server.drops):
        # A message too long to be held back was passed on in part, and nobody can complete it: not even by a last
        # word, which the client would take for the rest of its row.
        client.connection.close("the database server was lost within a message")
        return
    if client.login_waiter is not None or (client.busy & _WAITING and not own):
        gateway.count_loss("only_state_replay_sent")
        wait_again(client)
        return
    loss = facts(client, server, own)
    decision = decide(loss)
    gateway.count_loss(decision.situation)
    gateway.told_loss(client, decision)
    client.note(f"{decision.situation}: {decision.reason}")
    kept, client.kept = client.kept, None  # what waited for the answers of this server
    # The primary is there, while another replica may be as dead as this one.
    client.is_route_forced = client.route == 1 and decision.action == Action.REPEAT
    _carry_out(client, own, loss, decision)
    if kept:
        client.resume_reading()
    for data in kept or ():
        if not client.ended:
            client.data_received(data)


def part(client: ClientSession, server: ServerSession) -> None:
    """Take an idle client from a server that is to be left; it goes on with another one, which is fitted for it."""
    if client.holds & _HOLDS_PLACE:
        client.needs_restore = True
    client.server = server.client = None
    server.close(server.closing or "its client goes on elsewhere")
    rebuild(client)


def wait_again(client: ClientSession) -> None:
    """Put a client that waited back into the queue."""
    client.busy &= ~_WAITING
    if client.login_waiter is None and not client.kept:
        rebuild(client)
        return
    client.busy |= _WAITING
    client.pool.take_later(client)


def facts(client: ClientSession, server: ServerSession, own: tuple[Entry, ...]) -> Loss:
    """Gather the facts of the loss of a server."""
    texts = tuple(_texts(client, own))
    is_open = bool(own) or client.is_batch_open
    begins = len(texts) == 1 and client.status == _IDLE and bool(_BEGINS.match(texts[0]))
    in_transaction = client.status != _IDLE or _opens_only(texts)
    has_prefix = client.prefix is not None
    # What was neither executed nor answered in part is as good as unsent.
    is_unsent = is_open and not server.sent and not any(_executes(one) for one in own)
    is_on_replica = client_routing.is_on_replica(client, server)
    is_reading = is_on_replica or beginnings.is_read_only(client.prefix)
    is_copy = bool(client.busy & _COPYING) or any(_COPIES.match(text) for text in texts)
    if in_transaction:
        count = int(is_open) if has_prefix else 2
    else:
        count = sum(len(lexer.split_statements(text)) or 1 for text in texts) or 1
    return Loss(
        is_idle=not is_open and not in_transaction,
        is_restorable=not client.holding.losses(),
        bytes_written_count=1 if is_open and not is_unsent else 0,
        in_transaction=in_transaction,
        is_only_begin_sent=begins or (has_prefix and not client.has_data and client.status != _FAILED),
        is_read_only_transaction=beginnings.is_read_only(client.prefix),
        on_replica=is_on_replica,
        is_write_possible=not is_reading,
        is_row_forwarded=bool(is_open and server.sent),
        statements_count=count,
        is_commit=any(_COMMITS.search(text) for text in texts),
        is_commit_alone=len(texts) == 1 and bool(_COMMITS_ALONE.match(texts[0])),
        is_rollback=len(texts) == 1 and bool(_ROLLS_BACK.match(texts[0])),
        is_outcome_armed=client.armed is not None,
        is_copy=is_copy,
        is_copy_done_sent=bool(client.busy & _COPYING) and not server.copy_in,
    )


def _opens_only(texts: tuple[bytes, ...]) -> bool:
    """Say whether requests begin with a BEGIN whose transaction is still open at their end."""
    if not texts or not _FIRST_BEGINS.match(texts[0]):
        return False
    return not any(_ENDS.search(text) for text in texts)


def _executes(entry: Entry) -> bool:
    """Say whether a server that answers an entry executes something of the client's."""
    return isinstance(entry, bytes) or (isinstance(entry, Expect) and entry.kind in _EXECUTES)


def _texts(client: ClientSession, own: tuple[Entry, ...]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Yield the texts of the statements that are under way, as far as they are known."""
    for entry in own:
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


def _carry_out(client: ClientSession, own: tuple[Entry, ...], loss: Loss, decision: Decision) -> None:
    owed = sum(
        isinstance(one, bytes)
        or (isinstance(one, Expect) and one.kind in _ENDS_REQUEST and one.action != DROP)
        for one in own
    )
    match decision.action:
        case Action.WAIT_AND_SEND | Action.REBUILD_AND_SEND | Action.OTHER_SERVER | Action.REPEAT:
            _send_again(client, own, owed)
        case Action.REPLAY_AND_CONTINUE:
            _send_again(client, own, owed)
        case Action.ANSWER_ROLLBACK:
            answer = answer_to(own, b"ROLLBACK")
            forget_request(client)
            client.write(answer)
            lost_transaction.over(client)
        case Action.RESOLVE_COMMIT:
            commit_outcome.resolve_soon(client, loss, owed, answer_to(own, b"COMMIT"))
        case Action.REBUILD_SILENTLY | Action.WARN_OR_CLOSE:
            forget_request(client)
            if decision.action == Action.WARN_OR_CLOSE and client.config.failover.on_unrestorable == "close":
                client.refuse(loss_report(client.holding.losses(), is_closing=True))
                return
            rebuild(client)
        case _:
            fail(client, decision, owed)


def fail(client: ClientSession, decision: Decision, owed: int) -> None:
    """Answer what is under way by the decision's error; a request whose Sync is to come is answered too."""
    # The server that took COPY data had swallowed the Sync before it; another one follows the data.
    is_batch_open = client.is_batch_open or bool(client.busy & _COPYING and not owed)
    forget_request(client)
    client.is_batch_open = is_batch_open
    if decision.then == _IDLE:
        lost_transaction.forget_changes(client)
    lost_transaction.begin(client, decision.refusal(), status=decision.then, owed=owed)
    rebuild(client)


def forget_request(client: ClientSession) -> None:
    """Forget what was under way; the rest of a message that is coming in is dropped."""
    client.busy &= ~_OF_REQUEST
    client.holds &= _HOLDS_STAY
    client.is_batch_open = False
    client.request = client.portals = None
    client.end_beginning()
    if client.skip:
        client.discards = True
    if client.skip or client.partial:
        client.busy |= _INPUT


def answer_to(own: tuple[Entry, ...], tag: bytes) -> bytes:
    """Return a server's answer to a request that is one COMMIT or ROLLBACK and outside a transaction afterwards."""
    out: list[bytes] = []
    for entry in own:
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


def _send_again(client: ClientSession, own: tuple[Entry, ...], owed: int) -> None:
    """Send what is under way to the next server, behind the beginning of its transaction if there is one."""
    if all(isinstance(one, bytes) for one in own):
        data = b"".join(one for one in own if isinstance(one, bytes))
    elif client.request and client.request != [b""]:
        plain = (one for one in own if isinstance(one, bytes))
        data = b"".join((*plain, *client.request))
    else:  # too long to have been kept
        fail(client, decide(Loss(bytes_written_count=1, in_transaction=client.status != _IDLE)), owed)
        return
    prefix, rest = client.prefix, client.partial
    client.skip = 0
    client.discards = False
    forget_request(client)
    client.partial = b""
    if client.status != _IDLE:
        client.prefix = prefix
        client.busy |= _DEFERRED
    if data or rest:
        client.data_received(data + rest)
    else:
        rebuild(client)


def rebuild(client: ClientSession) -> None:
    """Get a new server at once for a session that lives on one: it may be listening."""
    if client.needs_restore and client.server is None and not client.busy & (_WAITING | _LOST | _CLOSING):
        client.busy |= _WAITING
        client.kept = client.kept or []
        client.pool.take_later(client)


def restore(client: ClientSession, server: ServerSession) -> None:
    """Make on a new server what the session held on the old one, and tell what could not be made."""
    client.needs_restore = False
    holding = client.holding
    lost = holding.losses()
    if holding.needs_snapshot:
        lost.append("what its last statement changed")
    if lost and client.config.failover.on_unrestorable == "close":
        client.refuse(loss_report(lost, is_closing=True))
        return
    holding.forget_losses()
    client.busy |= _WAITING

    def made(what: str) -> Hidden:
        return Hidden(lambda hidden: None if hidden.error is None else lost.append(what))

    def restored(hidden: Hidden) -> None:
        if client.server is not server:
            return
        if hidden.error is None:
            _adopt(client, server, hidden)
        client.show_pins()
        if lost:
            client.gateway.count_loss("state_lost")  # type: ignore[attr-defined]  # our gateway
            report = loss_report(lost)
            client.write(
                wire.notice_response(
                    report.sqlstate,
                    report.message,
                    severity="WARNING",
                    detail=report.detail,
                    hint=report.hint,
                )
            )
            client.note(report.detail)
        if client.status == _IDLE and not client.holds and not client.kept:
            client.busy &= ~_WAITING
            client.detach(server)
            return
        client.attached(server)

    for name, statement in (client.prepared or {}).items():
        if name not in server.prepared:
            server.prepared[name] = statement
            server.send_hidden(statement.parse(name) + wire.sync(), Hidden(partial(_parsed, server, name)))
    for text in holding.restoration():
        server.run(text, made(_named(text)))
    server.run(snapshot_sql(holding.custom_names), Hidden(restored))


def _parsed(server: ServerSession, name: bytes, hidden: Hidden) -> None:
    """Forget a statement that this server does not take; its client is told at the next use, by the server."""
    if hidden.error is not None:
        server.prepared.pop(name, None)


def _named(statement: bytes) -> str:
    """Return the command and the name of a statement that makes something, without its text."""
    return b" ".join(statement.split(None, 2)[:2]).decode("utf-8", "replace")


def _adopt(client: ClientSession, server: ServerSession, hidden: Hidden) -> None:
    """Take the server's view of the session for ours."""
    holding = client.holding
    holding.take_snapshot(parse_snapshot(hidden.results))
    client.vector = holding.vector
    server.vector = holding.server_vector
    holding.corrected()


def take_snapshot(client: ClientSession, server: ServerSession) -> None:
    """Ask the server what the session holds, as its text did not tell; the client waits meanwhile."""
    client.busy |= _WAITING
    holding = client.holding

    def taken(hidden: Hidden) -> None:
        if client.server is not server:
            return
        if hidden.error is None:
            _adopt(client, server, hidden)
        client.show_pins()
        client.attached(server)
        if client.server is server and not client.busy & _WAITING:
            client.settle(server.status)

    server.run(snapshot_sql(holding.custom_names), Hidden(taken))


def audit(client: ClientSession, server: ServerSession, hidden: Hidden) -> list[str]:
    """Return where our view of a session and the server's own differ, in words."""
    del server
    if hidden.error is not None:
        return [f"the server did not answer: {hidden.error.get('M', '')}"]
    return differences(client.holding, parse_snapshot(hidden.results))


def repeats(client: ClientSession, server: ServerSession, head: Entry, fields: dict[str, str]) -> bool:
    """Mend a plan that is invalid, or a write that went to a replica: repeat it, once, unseen by the client.

    Only for one plain request outside a transaction of which nothing has been answered: the statement has not run.
    A plan is mended only where the client asks for the columns in the same request, and where the server is shared.
    """
    sqlstate = fields.get("C", "")
    if sqlstate == SQLSTATE.READ_ONLY_SQL_TRANSACTION:
        return client_routing.repeats(client, server)
    if sqlstate not in _REPEATABLE:
        return False
    name = bound_statement(head) if isinstance(head, bytes) and head[0] == Frontend.BIND else b""
    is_outdated = fields.get("R") == "RevalidateCachedQuery" or "cached plan" in fields.get("M", "")
    if sqlstate == SQLSTATE.FEATURE_NOT_SUPPORTED:
        if not is_outdated:
            return False
        statement = head.statement if isinstance(head, Expect) else (client.prepared or {}).get(name)
        if statement is not None:
            table: StatementTable = client.gateway.statements  # type: ignore[attr-defined]  # our gateway
            table.forget(statement)  # whoever parses the text from now on gets a plan of today
    if not isinstance(head, bytes) or not name or server.repeat is head:
        return False
    if client.status != _IDLE or server.sent or len(server.fifo) != 1:
        return False
    if is_outdated and not _is_described(head):
        return False  # it knows the result by what it was told once, and would misread another
    if client.pool.mode == "session":
        return False  # the server is its own: this is PostgreSQL's answer to it
    server.prepared.pop(name, None)
    server.repeat = head
    server.fifo[0] = Hidden(lambda _: _again(client, server, head, name))
    return True


def _is_described(chunk: bytes) -> bool:
    """Say whether a request that begins with Bind asks for the columns that come, before they come."""
    return chunk[1 + int.from_bytes(chunk[1:5], "big")] == Frontend.DESCRIBE


def _again(client: ClientSession, server: ServerSession, chunk: bytes, name: bytes) -> None:
    """Close the statement whose plan is invalid, and send the request again: it is parsed anew on the way."""
    if client.server is not server:
        return
    server.send_hidden(about_statement(Frontend.CLOSE, name) + wire.sync(), Hidden())
    client.data_received(chunk)
