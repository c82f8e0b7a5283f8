"""The rows that the console shows: one class per table, its fields in the order of the columns.

Where PgBouncer has the table, its columns come first, in its order and under its names, so that scripts and
exporters made for it read ours; ``SHOW LISTS`` and ``SHOW CONFIG`` may not have more than its columns, because
exporters count them. Knows nothing of where values come from.

Shape: an ``int`` is shown as int8, a ``str`` as text, a ``float`` is an instant in Unix seconds and shown as text
(0.0 is none), ``None`` is NULL. Flags are 0 and 1, as PgBouncer has them.

Source: PgBouncer 1.25 usage, "Show commands".
"""

from __future__ import annotations

import types
from functools import cache
from typing import Final, NamedTuple, Union, get_args, get_origin

import msgspec

TEXT_OID: Final = 25
INT8_OID: Final = 20

Value = int | float | str | None


class Column(NamedTuple):
    """One column of a result: its name and the OID of its type."""

    name: str
    oid: int = TEXT_OID


class Row(msgspec.Struct, gc=False):
    """One row of a table; made for one answer and forgotten with it."""

    def values(self) -> tuple[Value, ...]:
        """Return the row's values in the order of its columns."""
        return msgspec.structs.astuple(self)


@cache
def columns_of(row_type: type[Row]) -> tuple[Column, ...]:
    """Return the columns of a row class, made of its fields."""
    return tuple(Column(field.name, _oid(field.type)) for field in msgspec.structs.fields(row_type))


def _oid(declared: object) -> int:
    kinds = get_args(declared) if get_origin(declared) in {Union, types.UnionType} else (declared,)
    return INT8_OID if int in kinds else TEXT_OID


class PoolRow(Row):
    """``SHOW POOLS``: one per database and user, never more: exporters take the two for a key.

    Units: ``maxwait`` whole seconds of the longest wait, ``maxwait_us`` the microseconds beyond them.
    """

    database: str
    user: str
    cl_active: int = 0
    cl_waiting: int = 0
    cl_active_cancel_req: int = 0
    cl_waiting_cancel_req: int = 0
    sv_active: int = 0
    sv_active_cancel: int = 0
    sv_being_canceled: int = 0
    sv_idle: int = 0
    sv_used: int = 0
    sv_tested: int = 0
    sv_login: int = 0
    maxwait: int = 0
    maxwait_us: int = 0
    pool_mode: str = "transaction"
    load_balance_hosts: str | None = None
    node: str = ""
    """The nodes that its servers are at, separated by commas; the primary first."""


class _ConnectionRow(Row):
    """What clients and servers have in common, in PgBouncer's order."""

    type: str = ""
    user: str = ""
    database: str = ""
    replication: str = "none"
    state: str = "idle"
    addr: str = "unix"
    port: int = 0
    local_addr: str = ""
    local_port: int = 0
    connect_time: float = 0.0
    request_time: float = 0.0
    wait: int = 0
    wait_us: int = 0
    close_needed: int = 0
    ptr: str = ""
    """What ``link`` of the other side names: any text that is unique among the connections of this process."""
    link: str = ""
    remote_pid: int = 0
    tls: str = ""
    application_name: str = ""
    prepared_statements: int = 0
    id: int = 0


class ClientRow(_ConnectionRow):
    """``SHOW CLIENTS``; ``state`` is active, idle, waiting, active_cancel_req or waiting_cancel_req."""

    type: str = "C"
    pinned: str = ""
    """Why the client keeps its server between transactions; empty where it does not."""
    waits_for: str = ""
    """What a waiting client waits for: a server, RESUME, a new primary."""


class ServerRow(_ConnectionRow):
    """``SHOW SERVERS``; ``state`` is active, idle, used, tested, new, active_cancel or being_canceled."""

    type: str = "S"
    node: str = ""
    role: str = ""
    timeline: int = 0


class SocketRow(_ConnectionRow):
    """``SHOW SOCKETS``: clients and servers; ``state`` begins with ``cl_`` or ``sv_``."""

    recv_pos: int = 0
    pkt_pos: int = 0
    pkt_remain: int = 0
    send_pos: int = 0
    send_remain: int = 0
    pkt_avail: int = 0
    send_avail: int = 0


class DatabaseRow(Row):
    """``SHOW DATABASES``: one per database; ``host`` and ``port`` are where its primary is now.

    Units: ``server_lifetime`` seconds.
    """

    name: str
    host: str | None = None
    port: int = 5432
    database: str = ""
    force_user: str | None = None
    pool_size: int = 0
    min_pool_size: int = 0
    reserve_pool_size: int = 0
    server_lifetime: int = 0
    pool_mode: str | None = None
    load_balance_hosts: str | None = None
    max_connections: int = 0
    current_connections: int = 0
    max_client_connections: int = 0
    current_client_connections: int = 0
    paused: int = 0
    disabled: int = 0
    cluster: str = ""


class UserRow(Row):
    """``SHOW USERS``; ``None`` where the user has no setting of its own."""

    name: str
    pool_size: int | None = None
    reserve_pool_size: int | None = None
    pool_mode: str | None = None
    max_user_connections: int = 0
    current_connections: int = 0
    max_user_client_connections: int = 0
    current_client_connections: int = 0


class TotalsRow(Row):
    """``SHOW STATS_TOTALS``, and with averages in it ``SHOW STATS_AVERAGES``: one per database.

    Units: times in microseconds, since the process started. The averages are per second, but those of times:
    microseconds per transaction, per query and per assignment of a server.
    """

    database: str
    server_assignment_count: int = 0
    xact_count: int = 0
    query_count: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    xact_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0


class StatsRow(Row):
    """``SHOW STATS``: totals and averages side by side; units as in :class:`TotalsRow`."""

    database: str
    total_server_assignment_count: int
    total_xact_count: int
    total_query_count: int
    total_received: int
    total_sent: int
    total_xact_time: int
    total_query_time: int
    total_wait_time: int
    total_client_parse_count: int
    total_server_parse_count: int
    total_bind_count: int
    avg_server_assignment_count: int
    avg_xact_count: int
    avg_query_count: int
    avg_recv: int
    avg_sent: int
    avg_xact_time: int
    avg_query_time: int
    avg_wait_time: int
    avg_client_parse_count: int
    avg_server_parse_count: int
    avg_bind_count: int


class SumRow(Row):
    """``SHOW TOTALS``: one total or average over all databases."""

    name: str
    value: int


class ListRow(Row):
    """``SHOW LISTS``: how many there are of one kind."""

    list: str
    items: int = 0


class ConfigRow(Row):
    """``SHOW CONFIG``: one setting; ``changeable`` is ``yes`` where SET can change it in the running process.

    PgBouncer's name of a setting is its key where it has one: exporters look for ``max_client_conn`` and
    ``max_user_connections``.
    """

    key: str
    value: str | None
    default: str | None = None
    changeable: str = "no"


class MemoryRow(Row):
    """``SHOW MEM``: one kind of object.

    Units: ``size`` and ``memtotal`` bytes, ``used`` and ``free`` objects.
    """

    name: str
    size: int = 0
    used: int = 0
    free: int = 0
    memtotal: int = 0


class DnsHostRow(Row):
    """``SHOW DNS_HOSTS``: a name in the cache; the gateway keeps none, names are asked for at each connect."""

    hostname: str
    ttl: int
    addrs: str


class DnsZoneRow(Row):
    """``SHOW DNS_ZONES``: a zone in the cache."""

    zonename: str
    serial: int
    count: int


class PeerRow(Row):
    """``SHOW PEERS``: another process that takes cancel requests; our workers find each other by themselves."""

    peer_id: int
    host: str
    port: int
    pool_size: int


class PeerPoolRow(Row):
    """``SHOW PEER_POOLS``: connections to a peer."""

    database: int
    cl_active_cancel_req: int
    cl_waiting_cancel_req: int
    sv_active_cancel: int
    sv_login: int


class StateRow(Row):
    """``SHOW STATE``: whether the process is active, paused, suspended."""

    key: str
    value: str


class VersionRow(Row):
    """``SHOW VERSION``."""

    version: str
