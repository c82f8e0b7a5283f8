"""Recovery: what becomes of a client whose server is gone, by the retry table.

Gathers the facts, asks ``retry`` for the decision and carries it out: wait and send again, answer with an honest
error, or rebuild in silence. The client's socket stays open. Source: postgres-proxy.md sections 6.5 and 6.8.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sojourn.gateways.postgres import (
    client_routing,
    commit_outcome,
    lost_transaction,
    owed,
    verified_replay,
    wire,
)
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal, TransactionStatus
from sojourn.gateways.postgres.replies import Entry, Expect, Hidden
from sojourn.gateways.postgres.retry import Action, Decision, Loss, Request, Verdict, decide, loss_report
from sojourn.gateways.postgres.scan import bound_statement
from sojourn.gateways.postgres.snapshot import differences, parse_snapshot, snapshot_sql
from sojourn.gateways.postgres.statements import about_statement
from sojourn.gateways.postgres.states import HOLDS_PLACE, Busy, Holds

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession

_IDLE = TransactionStatus.IDLE
_OF_REQUEST = Busy.WAITING | Busy.INPUT | Busy.TRACKED | Busy.COPYING
_HOLDS_STAY = HOLDS_PLACE | Holds.DRAINING
"""Bits of ``Holds`` that stay when a server goes."""
_TOGETHER = frozenset(
    {
        Action.WAIT_AND_SEND,
        Action.REBUILD_AND_SEND,
        Action.OTHER_SERVER,
        Action.REPLAY_AND_CONTINUE,
        Action.REPLAY_VERIFIED,
        Action.REPEAT,
        Action.REBUILD_SILENTLY,
        Action.WARN_OR_CLOSE,
    }
)
"""What is done with all requests of a pipeline at once: they are sent again as they were, or there are none."""
_REPEATABLE = (SQLSTATE.FEATURE_NOT_SUPPORTED, SQLSTATE.UNDEFINED_PSTATEMENT)


def server_lost(client: ClientSession, server: ServerSession, entries: tuple[Entry, ...], cause: str) -> None:
    """Go on with a client whose server is gone.

    Args:
        client: it has no server any more.
        server: the one that is gone.
        entries: what it owed, in order.
        cause: why it is gone, for the operator.
    """
    gateway = client.gateway
    if client.ended or client.busy & Busy.CLOSING:
        return
    client.note_received(server.node.name, "server lost", f"pid {server.pid}: {cause}", is_error=True)
    client.is_moving = True
    own = tuple(one for one in entries if not isinstance(one, Hidden))
    if client.holding.needs_snapshot and client.status != _IDLE:
        client.holding.needs_snapshot = False  # the transaction takes with it what was to be asked
    if client.holds & HOLDS_PLACE or client.holding.needs_snapshot:
        client.needs_restore = True
    if not gateway.settings.failover.is_enabled:
        client.refuse(Refusal(SQLSTATE.CONNECTION_FAILURE, "the database server was lost"))
        return
    replay = verified_replay.of(client)
    if replay is not None:
        replay.server_lost(cause)
        return
    if server.skip and own and not (server.kept or server.drops):
        # A message too long to be held back was passed on in part, and nobody can complete it: not even by a last
        # word, which the client would take for the rest of its row.
        gateway.count_loss("within_a_message")
        client.connection.close("the database server was lost within a message")
        return
    if client.login_waiter is not None or (client.busy & Busy.WAITING and not own):
        gateway.count_loss("only_state_replay_sent")
        wait_again(client)
        return
    requests = owed.requests(client, own)
    loss, verdicts = _judge(client, server, requests, owed.facts(client, server, requests))
    decision = verdicts[0].decision
    otherwise: list[Verdict] = []
    if decision.action == Action.REPLAY_VERIFIED:
        _, otherwise = _judge(client, server, requests, replace(loss, is_replay_verifiable=False))
    elif client.journal is not None:
        client.journal.drop()
    for verdict in verdicts:
        gateway.count_loss(verdict.decision.situation)
    gateway.told_loss(client, decision)
    client.note(f"{decision.situation}: {decision.reason}")
    kept, client.kept = client.kept, None  # what waited for the answers of this server
    # The primary is there, while another replica may be as dead as this one.
    client.is_route_forced = client.route == 1 and decision.action == Action.REPEAT
    if otherwise:
        verified_replay.begin(client, otherwise)
    else:
        _carry_out(client, own, loss, decision, verdicts)
    if kept:
        client.resume_reading()
    for data in kept or ():
        if not client.ended:
            client.data_received(data)


def _judge(
    client: ClientSession, server: ServerSession, requests: list[Request], loss: Loss
) -> tuple[Loss, list[Verdict]]:
    """Decide about all requests together, or where that would not be the same about each.

    Returns: the facts of the first one, and at least one verdict: where nothing is under way that is without a request.
    """
    decision = decide(loss)
    if len(requests) <= 1 or decision.action in _TOGETHER:
        return loss, [Verdict(decision, decision.then, request) for request in requests or (None,)]
    each = owed.facts_of_each(client, server, requests)
    return each[0][0], [
        Verdict(decide(one), status, request) for (one, status), request in zip(each, requests, strict=True)
    ]


def part(client: ClientSession, server: ServerSession) -> None:
    """Take an idle client from a server that is to be left; it goes on with another one, which is fitted for it."""
    if client.holds & HOLDS_PLACE:
        client.needs_restore = True
    client.server = server.client = None
    server.close(server.closing or "its client goes on elsewhere")
    rebuild(client)


def wait_again(client: ClientSession) -> None:
    """Put a client that waited back into the queue."""
    client.busy &= ~Busy.WAITING
    if client.login_waiter is None and not client.kept:
        rebuild(client)
        return
    client.busy |= Busy.WAITING
    client.pool.take_later(client)


def _carry_out(
    client: ClientSession, own: tuple[Entry, ...], loss: Loss, decision: Decision, verdicts: list[Verdict]
) -> None:
    match decision.action:
        case Action.REBUILD_SILENTLY | Action.WARN_OR_CLOSE:
            forget_request(client)
            if decision.action == Action.WARN_OR_CLOSE and client.config.failover.on_unrestorable == "close":
                client.refuse(loss_report(client.holding.losses(), is_closing=True))
                return
            rebuild(client)
        case Action.RESOLVE_COMMIT:
            commit_outcome.resolve_soon(client, loss, verdicts)
        case action if action in _TOGETHER:
            _send_again(client, own, verdicts)
        case _:
            tell(client, verdicts)


def tell(client: ClientSession, verdicts: list[Verdict]) -> None:
    """Answer what is under way by what was decided of it; a request whose Sync is to come is answered too."""
    forget_request(client)
    if any(verdict.status == _IDLE for verdict in verdicts):
        lost_transaction.forget_changes(client)
    lost_transaction.begin(client, verdicts)
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
        client.busy |= Busy.INPUT


def _send_again(client: ClientSession, own: tuple[Entry, ...], verdicts: list[Verdict]) -> None:
    """Send what is under way to the next server, behind the beginning of its transaction if there is one."""
    if all(isinstance(one, bytes) for one in own):
        data = b"".join(one for one in own if isinstance(one, bytes))
    elif client.request and client.request != [b""]:
        plain = (one for one in own if isinstance(one, bytes))
        data = b"".join((*plain, *client.request))
    else:  # too long to have been kept
        failure = decide(Loss(bytes_written_count=1, in_transaction=client.status != _IDLE))
        tell(client, [Verdict(failure, failure.then, verdict.request) for verdict in verdicts])
        return
    prefix, rest = client.prefix, client.partial
    client.skip = 0
    client.discards = False
    forget_request(client)
    client.partial = b""
    if client.status != _IDLE:
        client.prefix = prefix
        client.busy |= Busy.DEFERRED
    if data or rest:
        client.data_received(data + rest)
    else:
        rebuild(client)


def rebuild(client: ClientSession) -> None:
    """Get a new server at once for a session that lives on one: it may be listening."""
    if (
        client.needs_restore
        and client.server is None
        and not client.busy & (Busy.WAITING | Busy.LOST | Busy.CLOSING)
    ):
        client.busy |= Busy.WAITING
        client.kept = client.kept or []
        client.pool.take_later(client)


def restore(client: ClientSession, server: ServerSession) -> None:
    """Make on a new server what the session held on the old one, and tell what could not be made."""
    client.needs_restore = False
    holding = client.holding
    lost = holding.losses()
    if holding.needs_snapshot:
        lost.append("what its last statement changed")
    if client.has_long_statement or client.has_long_unnamed:
        lost.append("prepared statements that are too long to be kept")
    if lost and client.config.failover.on_unrestorable == "close":
        client.refuse(loss_report(lost, is_closing=True))
        return
    holding.forget_losses()
    if client.has_long_unnamed:
        client.unnamed = None
    client.has_long_statement = client.has_long_unnamed = False
    client.busy |= Busy.WAITING

    def made(what: str) -> Hidden:
        return Hidden(lambda hidden: None if hidden.error is None else lost.append(what))

    def restored(hidden: Hidden) -> None:
        if client.server is not server:
            return
        if hidden.error is None:
            _adopt(client, server, hidden)
        is_error = hidden.error is not None
        words = "state made" if not lost else "state made in part"
        client.note_received(server.node.name, words, ", ".join(lost), is_error=is_error)
        client.show_pins()
        if lost:
            client.gateway.count_loss("state_lost")
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
            client.busy &= ~Busy.WAITING
            client.detach(server)
            return
        client.attached(server)

    restoration = list(holding.restoration())
    what = f"{len(client.prepared or ())} prepared statements, {len(restoration)} things that it had made"
    client.note_sent(server.node.name, "make its state again", what)
    for name, statement in (client.prepared or {}).items():
        if name not in server.prepared:
            server.prepared[name] = statement
            server.send_hidden(statement.parse(name) + wire.sync(), Hidden(partial(_parsed, server, name)))
    for text in restoration:
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
    client.busy |= Busy.WAITING
    holding = client.holding

    def taken(hidden: Hidden) -> None:
        if client.server is not server:
            return
        if hidden.error is None:
            _adopt(client, server, hidden)
        client.show_pins()
        client.attached(server)
        if client.server is server and not client.busy & Busy.WAITING:
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
            table = client.gateway.statements
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
