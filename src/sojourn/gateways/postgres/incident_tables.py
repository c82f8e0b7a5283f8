"""What the console shows of clusters, their incidents and what clients lost, and of remembered statements.

Changes nothing and keeps nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres.config import split_address
from sojourn.gateways.postgres.console.incident_rows import (
    ClusterRow,
    FailoverRow,
    LossRow,
    NodeRow,
    StatementRow,
)
from sojourn.gateways.postgres.nodes import lsn_text
from sojourn.gateways.postgres.retry import TABLE

if TYPE_CHECKING:
    from sojourn.gateways.postgres.clusters import ClusterRoom
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.incidents import Incident
    from sojourn.gateways.postgres.nodes import Node
    from sojourn.gateways.postgres.query_log import Entry

_US: Final = 1_000_000
_ACTIONS: Final = {row.situation: row.action for row in TABLE} | {
    "resolved_aborted": "fail_40001",
    "resolved_committed": "answer_commit",
    "resolved_committed_without_result": "fail_08007",
    "replay_equal": "replay_and_continue",
    "replay_given_up": "fail_40001",
    "misrouted": "repeat",
    "state_lost": "warn",
}


def clusters(gateway: PostgresGateway) -> list[ClusterRow]:
    """Return the rows of ``SHOW CLUSTERS``."""
    unix_time = gateway.server.events.unix_time
    rows = []
    for room in gateway.rooms.values():
        state = room.state
        held = [client for pool in room.pools for client in pool.waiting()]
        rows.append(
            ClusterRow(
                cluster=room.name,
                state=state.state,
                primary=state.primary.name if state.primary is not None else "",
                timeline=state.newest_timeline,
                nodes=len(state.nodes),
                replicas=len(state.readable()),
                held_clients=len(held),
                held_bytes=sum(len(data) for client in held for data in client.kept or ()),
                failovers=state.incidents_count,
                since=unix_time(state.since),
            )
        )
    return rows


def nodes(gateway: PostgresGateway) -> list[NodeRow]:
    """Return the rows of ``SHOW NODES``."""
    return [_node(gateway, room, node) for room in gateway.rooms.values() for node in room.state.nodes]


def _node(gateway: PostgresGateway, room: ClusterRoom, node: Node) -> NodeRow:
    unix_time = gateway.server.events.unix_time
    host, port = split_address(node.address)
    is_replica = node in room.state.readable()
    position = node.replay_lsn if is_replica else node.lsn
    servers = sum(len(pool.places[node].servers) for pool in room.pools if node in pool.places)
    return NodeRow(
        cluster=room.name,
        node=node.name,
        host=host,
        port=port,
        state=node.state,
        timeline=node.timeline,
        lsn=lsn_text(position) if position else "",
        lag_bytes=node.lag_bytes if is_replica else None,
        lag_ms=int(node.lag_s * 1000) if is_replica else None,
        servers=servers,
        evidence=node.evidence,
        seen=unix_time(node.seen_at) if node.seen_at else 0.0,
        changed=unix_time(node.changed_at) if node.changed_at else 0.0,
    )


def failovers(gateway: PostgresGateway) -> list[FailoverRow]:
    """Return the rows of ``SHOW FAILOVERS``: what is remembered, and behind it what goes on."""
    rows = []
    for room in gateway.rooms.values():
        state = room.state
        rows += [_failover(gateway, room, incident, incident.outcome) for incident in state.history]
        if state.incident is not None:
            rows.append(_failover(gateway, room, state.incident, state.state))
    return rows


def _failover(gateway: PostgresGateway, room: ClusterRoom, incident: Incident, state: str) -> FailoverRow:
    unix_time = gateway.server.events.unix_time
    return FailoverRow(
        id=gateway.first_number - 1 + incident.number,
        cluster=room.name,
        kind="switchover" if incident.is_planned else "failover",
        state=state,
        cause=incident.why,
        old_primary=incident.old_primary,
        new_primary=incident.new_primary,
        timeline=incident.new_timeline or incident.old_timeline,
        started=incident.began_at.timestamp(),
        ended=unix_time(incident.ended) if incident.ended else 0.0,
        held_ms=int(incident.unwritable_s * 1000) if incident.found else None,
        clients_held=incident.clients_held,
        clients_refused=incident.clients_refused,
    )


def losses(gateway: PostgresGateway) -> list[LossRow]:
    """Return the rows of ``SHOW LOSSES``."""
    unix_time = gateway.server.events.unix_time
    return [
        LossRow(
            situation=situation,
            action=_ACTIONS.get(situation, ""),
            count=count,
            last=unix_time(gateway.lost_at[situation]),
        )
        for situation, count in sorted(gateway.losses.items())
    ]


def statements(gateway: PostgresGateway) -> list[StatementRow]:
    """Return the rows of ``SHOW STATEMENTS``, the newest last."""
    snapshot = gateway.query_log.snapshot()
    found = [
        (entry, outcome)
        for outcome, entries in (
            ("slow", snapshot.slow),
            ("failed", snapshot.failed),
            ("sampled", snapshot.sampled),
        )
        for entry in entries
    ]
    found.sort(key=lambda one: one[0].finished_at)
    return [_statement(gateway, entry, outcome) for entry, outcome in found]


def _statement(gateway: PostgresGateway, entry: Entry, outcome: str) -> StatementRow:
    number = entry.session_id.rpartition("-")[2]
    return StatementRow(
        time=gateway.server.events.unix_time(entry.finished_at),
        database=entry.database,
        user=entry.user,
        client=int(number, 16) if number else 0,
        node=entry.node,
        duration_us=int(entry.duration_s * _US),
        outcome=outcome,
        sqlstate=entry.sqlstate,
        statement=entry.statement,
    )
