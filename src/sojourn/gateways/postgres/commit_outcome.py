"""What became of a COMMIT whose answer was lost: the questions around ``outcome``'s judgement.

Armed by a hidden probe in the same write as COMMIT; asked at the new primary after the loss, while the client waits.
Source: postgres-proxy.md section 3.3 point 3.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sojourn.errors import SojournError
from sojourn.gateways.postgres import lost_transaction, outcome, owed, recovery, wire
from sojourn.gateways.postgres.outcome import ABORTED, COMMITTED, IN_PROGRESS, OUTCOME_PROBE_SQL, ArmedCommit
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.retry import Action, Loss, Verdict, resolved
from sojourn.gateways.postgres.states import Busy

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.nodes import Node

_LOOK_S = 0.02
"""Time between two looks whether a new primary is known, or whether it has decided."""


def probe(client: ClientSession) -> tuple[bytes, Hidden]:
    """Return the question that arms a COMMIT, to be sent right before it."""
    client.armed = None

    def armed(hidden: Hidden) -> None:
        if hidden.error is None and hidden.results:
            client.armed = outcome.armed_commit(hidden.results[0])

    return wire.query(OUTCOME_PROBE_SQL), Hidden(armed)


def resolve_soon(client: ClientSession, loss: Loss, verdicts: list[Verdict]) -> None:
    """Find out what became of the transaction, then answer; the client's further input waits.

    Args:
        client: whose COMMIT was lost.
        loss: the facts that were decided on.
        verdicts: of the request whose outcome is asked for, and of those behind it.
    """
    client.busy |= Busy.WAITING
    client.kept = client.kept or []
    client.gateway.server.spawn(_resolve(client, loss, verdicts))


async def _resolve(client: ClientSession, loss: Loss, verdicts: list[Verdict]) -> None:
    armed, client.armed = client.armed, None
    answer = await _outcome(client, armed, client.config.failover.buffering_timeout_s)
    if client.ended:
        return
    decision = resolved(loss, {COMMITTED: True, ABORTED: False}.get(answer))
    client.gateway.count_loss(decision.situation)
    client.note(f"{decision.situation}: {decision.reason}")
    client.busy &= ~Busy.WAITING
    kept, client.kept = client.kept, None
    first, *rest = verdicts
    if decision.action == Action.ANSWER_COMMIT:
        lost_transaction.committed(client)
        client.write(owed.answer_to(first.request.entries, b"COMMIT") if first.request else b"")
    else:
        rest = [Verdict(decision, decision.then, first.request), *rest]
    if rest:
        recovery.tell(client, rest)
    else:
        recovery.forget_request(client)
        recovery.rebuild(client)
    client.resume_reading()
    for data in kept or ():
        client.data_received(data)  # waits, if the session is being rebuilt


async def _outcome(client: ClientSession, armed: ArmedCommit, limit_s: float) -> str:
    """Ask the primary of the moment until it has decided, for so long at most."""
    room, asked = client.pool.room, None
    try:
        async with asyncio.timeout(limit_s):
            while True:
                node = room.writable()
                if node is not None:
                    if node is not asked:
                        client.note_sent(node.name, "outcome of COMMIT?")
                    asked = node
                    answer = await _asked(room, node, armed)
                    if answer != IN_PROGRESS:
                        client.note_received(node.name, answer)
                        return answer
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return outcome.UNKNOWN


async def _asked(room: ClusterRoom, node: Node, armed: ArmedCommit) -> str:
    """Ask a node; one that is lost meanwhile has not decided."""
    try:
        return await _ask(room, node, armed)
    except (OSError, SojournError):
        return IN_PROGRESS


async def _ask(room: ClusterRoom, node: Node, armed: ArmedCommit) -> str:
    connection = await room.probe(node)
    try:
        try:
            rows = await connection.query(outcome.outcome_sql(armed.xid)) if armed.xid else []
        except SojournError:
            rows = []
        switch_lsn, is_exact = outcome.promoted_position(node, armed.timeline), False
        if node.timeline != armed.timeline:
            try:
                history = await connection.query(outcome.history_sql(node.timeline))
                found = outcome.switch_position((history[0][0] or b"").decode(), armed.timeline)
                if found:
                    switch_lsn, is_exact = found, True
            except SojournError:
                pass  # it takes rights that the role may not have; the lower bound may do
        return outcome.decide(
            rows, armed=armed, new_timeline=node.timeline, switch_lsn=switch_lsn, is_switch_exact=is_exact
        )
    finally:
        connection.close()
