"""What SHOW shows: the tables by name, the settings, and what drivers ask every server.

Knows the view and the row classes; knows no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console import incident_rows, rows
from sojourn.gateways.postgres.console.averages import Averages
from sojourn.gateways.postgres.console.commands import MARK, Command, refuse
from sojourn.gateways.postgres.console.results import Result, table
from sojourn.gateways.postgres.console.view import ConsoleView
from sojourn.gateways.postgres.messages import SQLSTATE
from sojourn.gateways.postgres.worker_numbers import worker_of

COMPATIBLE_VERSION: Final = "1.25.0"
"""The PgBouncer whose console this one can stand in for."""

PARAMETERS: Final = {
    "server_version": f"{COMPATIBLE_VERSION}/sojourn",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
    "is_superuser": "on",
    "default_transaction_read_only": "off",
    "in_hot_standby": "off",
}
"""What a login to the console is told in ParameterStatus messages."""

DRIVER_SETTINGS: Final = {name.lower(): value for name, value in PARAMETERS.items()} | {
    "application_name": "",
    "bytea_output": "hex",
    "client_min_messages": "notice",
    "default_transaction_isolation": "read committed",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "0",
    "lc_collate": "C",
    "lc_ctype": "C",
    "lock_timeout": "0",
    "max_identifier_length": "63",
    "search_path": "",
    "session_authorization": "",
    "statement_timeout": "0",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
}
"""Settings of PostgreSQL that drivers and tools set or read before anybody asked them to."""

_LISTS: Final = (
    "databases",
    "users",
    "peers",
    "pools",
    "peer_pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
    "dns_pending",
)

HELP: Final = """
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION|STATE
\tSHOW SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|PEERS|PEER_POOLS
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW NODES|CLUSTERS|FAILOVERS|LOSSES
\tSHOW STATEMENTS|PREPARED
\tSHOW <setting>
\tSET key = value
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client id>
\tWAIT_CLOSE [<db>]
\tSWITCHOVER <cluster> [TO <node>]
\tAUDIT [<db>]
\tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]"""


class Table(NamedTuple):
    """One thing to show: the class of its rows, how to get them, and from which tables of the view."""

    row_type: type[rows.Row]
    rows: Callable[[ConsoleView, Averages], Sequence[rows.Row]]
    needs: tuple[str, ...] = ()


def _nothing(_view: ConsoleView, _averages: Averages) -> Sequence[rows.Row]:
    return ()


def _sockets(view: ConsoleView) -> list[rows.SocketRow]:
    shared = rows.SocketRow.__struct_fields__[: rows.SocketRow.__struct_fields__.index("recv_pos")]
    found = []
    for row in chain(view.clients(), view.servers()):
        prefix = "cl_" if row.type == "C" else "sv_"
        values = {name: getattr(row, name) for name in shared}
        found.append(rows.SocketRow(**values | {"state": prefix + row.state}))
    return found


def _lists(view: ConsoleView, _averages: Averages) -> list[rows.ListRow]:
    counts = dict.fromkeys(_LISTS, 0) | {row.list: row.items for row in view.lists()}
    return [rows.ListRow(list=name, items=count) for name, count in counts.items()]


def _state(view: ConsoleView, _averages: Averages) -> list[rows.StateRow]:
    states = {"active": not view.is_paused, "paused": view.is_paused, "suspended": False}
    return [rows.StateRow(key=key, value="yes" if is_so else "no") for key, is_so in states.items()]


def _version(view: ConsoleView, _averages: Averages) -> list[rows.VersionRow]:
    return [rows.VersionRow(version=version_text(view))]


def version_text(view: ConsoleView) -> str:
    """Return the version; PgBouncer's is first, because tools that look for features read the first number."""
    return f"PgBouncer {COMPATIBLE_VERSION} compatible console of Sojourn {view.version}"


_CONNECTIONS: Final = ("clients", "servers")

TABLES: Final[dict[str, Table]] = {
    "POOLS": Table(rows.PoolRow, lambda view, _: view.pools(), ("pools",)),
    "CLIENTS": Table(rows.ClientRow, lambda view, _: view.clients(), ("clients",)),
    "SERVERS": Table(rows.ServerRow, lambda view, _: view.servers(), ("servers",)),
    "SOCKETS": Table(rows.SocketRow, lambda view, _: _sockets(view), _CONNECTIONS),
    "ACTIVE_SOCKETS": Table(
        rows.SocketRow,
        lambda view, _: [row for row in _sockets(view) if row.state[3:] == "active"],
        _CONNECTIONS,
    ),
    "DATABASES": Table(rows.DatabaseRow, lambda view, _: view.databases(), ("databases",)),
    "USERS": Table(rows.UserRow, lambda view, _: view.users(), ("users",)),
    "STATS": Table(rows.StatsRow, lambda view, averages: averages.stats(view.stats()), ("stats",)),
    "STATS_TOTALS": Table(rows.TotalsRow, lambda view, _: view.stats(), ("stats",)),
    "STATS_AVERAGES": Table(
        rows.TotalsRow,
        lambda view, averages: [averages.of(row.database) for row in view.stats()],
        ("stats",),
    ),
    "TOTALS": Table(rows.SumRow, lambda view, averages: averages.sums(view.stats()), ("stats",)),
    "CONFIG": Table(rows.ConfigRow, lambda view, _: view.config()),
    "LISTS": Table(rows.ListRow, _lists, ("lists", "databases", "users", "pools")),
    "MEM": Table(rows.MemoryRow, lambda view, _: view.memory(), ("memory",)),
    "DNS_HOSTS": Table(rows.DnsHostRow, _nothing),
    "DNS_ZONES": Table(rows.DnsZoneRow, _nothing),
    "PEERS": Table(rows.PeerRow, _nothing),
    "PEER_POOLS": Table(rows.PeerPoolRow, _nothing),
    "STATE": Table(rows.StateRow, _state),
    "VERSION": Table(rows.VersionRow, _version),
    "NODES": Table(incident_rows.NodeRow, lambda view, _: view.nodes(), ("nodes",)),
    "CLUSTERS": Table(incident_rows.ClusterRow, lambda view, _: view.clusters(), ("clusters",)),
    "FAILOVERS": Table(incident_rows.FailoverRow, lambda view, _: view.failovers(), ("failovers",)),
    "LOSSES": Table(incident_rows.LossRow, lambda view, _: view.losses(), ("losses",)),
    "STATEMENTS": Table(incident_rows.StatementRow, lambda view, _: view.statements(), ("statements",)),
    "PREPARED": Table(incident_rows.PreparedRow, lambda view, _: view.prepared(), ("prepared",)),
}


def show(command: Command, view: ConsoleView, averages: Averages) -> Result:
    """Answer one SHOW.

    Raises: Refusal for what is not there.
    """
    name = _subject(command)
    if name == "HELP":
        notice = wire.notice_response("00000", "Console usage", severity="NOTICE", detail=HELP)
        return Result("SHOW", notice=notice)
    if name == "FDS":
        refuse(
            "SHOW FDS is not supported: file descriptors are never handed to another process",
            SQLSTATE.FEATURE_NOT_SUPPORTED,
            hint="For a restart without interruption start the new process, then SHUTDOWN WAIT_FOR_CLIENTS here.",
        )
    if name in TABLES:
        row_type, find, _ = TABLES[name]
        found = find(view, averages)
        if not _has_worker(row_type, view):
            return table(row_type, found)
        return Result("SHOW", _columns(row_type, view), [(*row.values(), _worker(row)) for row in found])
    return _setting(name.lower(), view)


def columns(command: Command, view: ConsoleView, averages: Averages) -> tuple[rows.Column, ...] | None:
    """Return the columns that one SHOW will have; None for what answers without rows.

    Raises: Refusal for what is not there.
    """
    name = _subject(command)
    if name in TABLES:
        return _columns(TABLES[name].row_type, view)
    return show(command, view, averages).columns


def needed_tables(command: Command) -> tuple[str, ...]:
    """Return the tables of the view that one SHOW is made of; none for what is no table.

    Raises: Refusal for what is not understood.
    """
    found = TABLES.get(_subject(command))
    return () if found is None else found.needs


def _has_worker(row_type: type[rows.Row], view: ConsoleView) -> bool:
    return view.is_one_of_several and "id" in row_type.__struct_fields__


def _columns(row_type: type[rows.Row], view: ConsoleView) -> tuple[rows.Column, ...]:
    """Return the columns of a table; several workers have one more, the last, so that others stay where they are."""
    columns = rows.columns_of(row_type)
    return (*columns, rows.Column("worker", rows.INT8_OID)) if _has_worker(row_type, view) else columns


def _worker(row: rows.Row) -> int:
    number: int = getattr(row, "id")  # noqa: B009 - not every row has one
    return worker_of(number)


def _subject(command: Command) -> str:
    match command.keywords:
        case ("TRANSACTION", "ISOLATION", "LEVEL"):
            return "TRANSACTION_ISOLATION"
        case ("TIME", "ZONE"):
            return "TIMEZONE"
        case ():
            return "HELP"
    if len(command.rest) != 1 or command.rest[0].kind == MARK:
        refuse("the form is: SHOW what")
    return command.rest[0].text.upper()


def _setting(key: str, view: ConsoleView) -> Result:
    value = next((row.value for row in view.config() if row.key == key), msgspec.UNSET)
    if value is msgspec.UNSET:
        if key not in DRIVER_SETTINGS:
            refuse("there is nothing of this name to show")
        value = DRIVER_SETTINGS[key]
    return Result("SHOW", (rows.Column(key),), [(value,)])
