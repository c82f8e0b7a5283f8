"""The rows of the tables that PgBouncer does not have: nodes, failovers, losses, statements, audits.

Shape and units of values are those of :mod:`~sojourn.gateways.postgres.console.rows`.
"""

from __future__ import annotations

from sojourn.gateways.postgres.console.rows import Row


class ClusterRow(Row):
    """``SHOW CLUSTERS``: where a cluster stands; ``state`` is a state of the incident machine."""

    cluster: str
    state: str = "NORMAL"
    primary: str = ""
    timeline: int = 0
    nodes: int = 0
    replicas: int = 0
    """Replicas that may be used now."""
    held_clients: int = 0
    held_bytes: int = 0
    failovers: int = 0
    since: float = 0.0


class NodeRow(Row):
    """``SHOW NODES``: one server of a cluster; ``state`` is a state of :mod:`~sojourn.gateways.postgres.nodes`."""

    cluster: str
    node: str
    host: str = ""
    port: int = 5432
    state: str = "UNKNOWN"
    timeline: int = 0
    lsn: str = ""
    lag_bytes: int | None = None
    lag_ms: int | None = None
    servers: int = 0
    """Server connections to it, busy or not."""
    evidence: str = ""
    """What the state was concluded from, in words."""
    seen: float = 0.0
    changed: float = 0.0


class FailoverRow(Row):
    """``SHOW FAILOVERS``: one incident, planned or not; ``ended`` is 0.0 while it lasts."""

    id: int
    cluster: str
    kind: str = "failover"
    """``failover`` or ``switchover``."""
    state: str = ""
    cause: str = ""
    old_primary: str = ""
    new_primary: str = ""
    timeline: int = 0
    started: float = 0.0
    ended: float = 0.0
    held_ms: int | None = None
    """From the first client held to the first answer of the new primary."""
    clients_held: int = 0
    """Clients that waited for a primary."""
    clients_refused: int = 0
    """Those of them that waited in vain and were told 57P03; they stayed connected."""


class LossRow(Row):
    """``SHOW LOSSES``: how often a server was lost in one situation of the retry table, and what was done."""

    situation: str
    action: str
    count: int = 0
    last: float = 0.0


class StatementRow(Row):
    """``SHOW STATEMENTS``: one remembered statement, slow, failed or sampled; its literals are masked."""

    time: float
    database: str
    user: str
    client: int = 0
    node: str = ""
    duration_us: int = 0
    outcome: str = ""
    sqlstate: str = ""
    statement: str = ""


class PreparedRow(Row):
    """``SHOW PREPARED``: one statement text that clients of a database have prepared."""

    database: str
    name: str = ""
    """Its name at the servers."""
    clients: int = 0
    servers: int = 0
    uses: int = 0
    parameters: int = 0
    statement: str = ""


class AuditRow(Row):
    """``AUDIT``: one difference between what we know of a session and what its server says."""

    client: int
    database: str = ""
    user: str = ""
    node: str = ""
    kind: str = ""
    """What differs: a setting, a role, a prepared statement, a channel, an object."""
    name: str = ""
    tracked: str | None = None
    actual: str | None = None
