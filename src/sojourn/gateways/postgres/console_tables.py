"""What the console shows of pools, clients and servers, made from the engine's objects when it is asked for.

Changes nothing and keeps nothing; what operators order is :mod:`.console_view`'s.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres.client_session import ClientSession
from sojourn.gateways.postgres.config import split_address
from sojourn.gateways.postgres.console.incident_rows import PreparedRow
from sojourn.gateways.postgres.console.rows import (
    ClientRow,
    DatabaseRow,
    ListRow,
    MemoryRow,
    PoolRow,
    ServerRow,
    TotalsRow,
    UserRow,
)
from sojourn.gateways.postgres.query_log import shown
from sojourn.gateways.postgres.states import Busy, ClientState, Holds, ServerState

if TYPE_CHECKING:
    import asyncio

    from sojourn.core.peer import Peer
    from sojourn.gateways.postgres.config import Database
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.statements import Statement
    from sojourn.gateways.postgres.totals import Totals

EVERY: Final = "*"
"""Stands for every database: in the settings, and among those that are paused."""
_US: Final = 1_000_000
_NOT_OF_POOLS: Final = frozenset({ClientState.STARTUP, ClientState.CONSOLE})
_SERVER_STATES: Final = {
    ServerState.STARTUP: "new",
    ServerState.IDLE: "idle",
    ServerState.DEPENDENCIES: "active",
    ServerState.QUERY: "active",
    ServerState.RESET: "tested",
    ServerState.BEING_CANCELED: "being_canceled",
}
"""Our states in PgBouncer's words."""


def sessions(gateway: PostgresGateway) -> Iterator[ClientSession]:
    """Yield every client that is there, operators and those that log in among them."""
    for session in gateway.server.managers[gateway.name].sessions():
        if isinstance(session, ClientSession):
            yield session


def clients(gateway: PostgresGateway) -> Iterator[ClientSession]:
    """Yield the clients that belong to a pool."""
    for session in sessions(gateway):
        if session.state not in _NOT_OF_POOLS and not session.has_left:
            yield session


def waiting(gateway: PostgresGateway) -> dict[Pool, list[ClientSession]]:
    """Return who waits for a server of which pool: those in its queue, and those whose login waits for the first."""
    found = {pool: list(pool.waiting()) for pool in gateway.pools.values()}
    for client in clients(gateway):
        if _is_joining(client) and client.pool in found:
            found[client.pool].append(client)
    return found


def _is_joining(client: ClientSession) -> bool:
    """Say whether a client has proved who it is and waits until its pool has had a server."""
    return client.state == ClientState.WAITING and not client.busy & Busy.WAITING


def _waits_since(client: ClientSession) -> float:
    return client.started if _is_joining(client) else client.waits_since


def database_names(gateway: PostgresGateway) -> list[str]:
    """Return the databases that are configured, and those that clients of ``*`` have named."""
    names = [database.name for database in gateway.settings.databases if database.name != EVERY]
    names += [name for name, _ in gateway.pools]
    return list(dict.fromkeys(names))


def pools_of(gateway: PostgresGateway, database: str | None) -> list[Pool]:
    """Return the pools of a database, or of all."""
    return [pool for (name, _), pool in gateway.pools.items() if database is None or name == database]


# Pools and their traffic


def pools(gateway: PostgresGateway) -> list[PoolRow]:
    """Return the rows of ``SHOW POOLS``."""
    now = monotonic()
    return [_pool(pool, clients, now) for pool, clients in waiting(gateway).items()]


def _pool(pool: Pool, waiting: list[ClientSession], now: float) -> PoolRow:
    states = Counter(_server_state(server) for server in pool.servers())
    since = [_waits_since(client) for client in waiting]
    longest_s = max((now - moment for moment in since if moment), default=0.0)
    canceling = sum(bool(server.cancels) for server in pool.servers())
    nodes = sorted(
        (place.node for place in pool.places.values() if place.servers),
        key=lambda node: (node is not pool.room.writable(), node.name),
    )
    return PoolRow(
        database=pool.name,
        user=pool.user,
        cl_active=max(0, pool.clients - len(waiting)),
        cl_waiting=len(waiting),
        sv_active=states["active"],
        sv_active_cancel=canceling,
        sv_being_canceled=states["being_canceled"],
        sv_idle=states["idle"],
        sv_tested=states["tested"],
        sv_login=sum(place.connecting for place in pool.places.values()),
        maxwait=int(longest_s),
        maxwait_us=int(longest_s % 1 * _US),
        pool_mode=pool.mode,
        node=",".join(node.name for node in nodes),
    )


def stats(gateway: PostgresGateway) -> list[TotalsRow]:
    """Return the totals of each database since the process started, servers that are gone among them."""
    rows = {name: TotalsRow(database=name) for name in database_names(gateway)}
    for (name, _), pool in gateway.pools.items():
        row = rows[name]
        _add(row, pool.totals(), pool.wait_s)
        row.server_assignment_count += pool.assignments
    for client in clients(gateway):
        rows[client.pool.name].wait_time += int(_US * client.wait_s)
    for name, past in gateway.pools.past.items():
        if name in rows:
            _add(rows[name], past.totals, past.wait_s)
            rows[name].server_assignment_count += past.assignments
    return list(rows.values())


def _add(row: TotalsRow, totals: Totals, wait_s: float) -> None:
    row.xact_count += totals.transactions
    row.query_count += totals.queries
    row.bytes_received += totals.bytes_in
    row.bytes_sent += totals.bytes_out
    row.xact_time += int(_US * totals.xact_s)
    row.query_time += int(_US * totals.busy_s)
    row.wait_time += int(_US * wait_s)


# Connections


def client_rows(gateway: PostgresGateway) -> list[ClientRow]:
    """Return the rows of ``SHOW CLIENTS``."""
    now = monotonic()
    return [_client(gateway, client, now) for client in clients(gateway)]


def _client(gateway: PostgresGateway, client: ClientSession, now: float) -> ClientRow:
    server = client.server
    is_waiting = client.busy & Busy.WAITING or client.login_waiter is not None or _is_joining(client)
    since = _waits_since(client) if is_waiting else 0.0
    waited_s = now - since if since else 0.0
    peer = client.connection.peer
    local, local_port = _local(peer)
    unix_time = gateway.server.events.unix_time
    state = "waiting" if is_waiting and server is None else "active" if server is not None else "idle"
    return ClientRow(
        user=client.user,
        database=client.database,
        state=state,
        addr=peer.address,
        port=peer.port,
        local_addr=local,
        local_port=local_port,
        connect_time=unix_time(client.started),
        request_time=unix_time(server.began) if server is not None and server.began else 0.0,
        wait=int(waited_s),
        wait_us=int(waited_s % 1 * _US),
        ptr=f"c{client.number:x}",
        link="" if server is None else f"s{server.number:x}",
        remote_pid=0,
        tls=_tls(client.connection.transport),
        application_name=client.application,
        prepared_statements=len(client.prepared or ()),
        id=client.number,
        pinned=pins(client),
        waits_for=_waits_for(client) if state == "waiting" else "",
    )


def pins(client: ClientSession) -> str:
    """Return why a client keeps its server between transactions, empty where it does not."""
    if client.pool.mode == "session":
        return "session pooling" if client.server is not None else ""
    found = list(client.holding.pins) if client.holds & Holds.PINNED else []
    if client.holds & Holds.SESSION:
        found.append("the audit found a difference")
    return ", ".join(found)


def _waits_for(client: ClientSession) -> str:
    pool = client.pool
    if pool.is_paused:
        return "RESUME"
    return "a server" if pool.room.writable() is not None else "a new primary"


def server_rows(gateway: PostgresGateway) -> list[ServerRow]:
    """Return the rows of ``SHOW SERVERS``."""
    return [_server(gateway, server) for pool in gateway.pools.values() for server in pool.servers()]


def _server(gateway: PostgresGateway, server: ServerSession) -> ServerRow:
    unix_time = gateway.server.events.unix_time
    pool, node, client = server.pool, server.node, server.client
    host, port = split_address(node.address)
    transport = getattr(server, "transport", None)
    local = transport.get_extra_info("sockname") if transport is not None else None
    return ServerRow(
        user=pool.server_user,
        database=pool.dbname,
        state=_server_state(server),
        addr="unix" if host.startswith("/") else host,
        port=port,
        local_addr=local[0] if isinstance(local, tuple) else "",
        local_port=local[1] if isinstance(local, tuple) else 0,
        connect_time=unix_time(server.opened),
        request_time=unix_time(server.began) if server.began else 0.0,
        close_needed=int(is_to_be_closed(server)),
        ptr=f"s{server.number:x}",
        link="" if client is None else f"c{client.number:x}",
        remote_pid=server.pid,
        tls=_tls(transport),
        application_name="" if client is None else client.application,
        prepared_statements=len(server.prepared),
        id=server.number,
        node=node.name,
        role=node.state,
        timeline=node.timeline,
    )


def is_to_be_closed(server: ServerSession) -> bool:
    """Say whether a server is closed as soon as it is free."""
    return bool(server.closing) or server.generation != server.pool.generation


def _server_state(server: ServerSession) -> str:
    if server.client is not None and server.state == ServerState.IDLE:
        return "active"
    return _SERVER_STATES.get(server.state, server.state)


def _local(peer: Peer) -> tuple[str, int]:
    host, _, port = peer.listener.rpartition(":")
    return (
        (host.strip("[]"), int(port)) if port.isdecimal() and "/" not in peer.listener else (peer.listener, 0)
    )


def _tls(transport: asyncio.BaseTransport | None) -> str:
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    cipher = tls.cipher() if tls is not None else None
    return f"{cipher[1]}/{cipher[0]}" if cipher else ""


# What is configured


def databases(gateway: PostgresGateway) -> list[DatabaseRow]:
    """Return the rows of ``SHOW DATABASES``."""
    return [
        _database(gateway, name, entry)
        for name in database_names(gateway)
        if (entry := gateway.find_database(name)) is not None
    ]


def _database(gateway: PostgresGateway, name: str, entry: Database) -> DatabaseRow:
    room = gateway.rooms[entry.cluster]
    primary = room.writable() or room.state.primary
    host, port = split_address(primary.address) if primary is not None else (None, 0)
    settings = gateway.settings.pool
    mine = pools_of(gateway, name)
    return DatabaseRow(
        name=name,
        host=host,
        port=port,
        database=entry.dbname or name,
        force_user=entry.user or None,
        pool_size=entry.pool_size_count or settings.size_count,
        min_pool_size=entry.min_pool_size_count or settings.min_size_count,
        reserve_pool_size=entry.reserve_pool_size_count or settings.reserve_size_count,
        server_lifetime=int(settings.server_lifetime_s),
        pool_mode=entry.pool_mode or None,
        max_connections=entry.max_connections_count or settings.max_database_connections_count,
        current_connections=sum(1 for pool in mine for _ in pool.servers()),
        current_client_connections=sum(pool.clients for pool in mine),
        paused=int(bool({name, EVERY} & gateway.paused)),
        disabled=int(name in gateway.disabled),
        cluster=entry.cluster,
    )


def users(gateway: PostgresGateway) -> list[UserRow]:
    """Return the rows of ``SHOW USERS``: those of the settings and of the user list, and those that are there."""
    configured = {user.name: user for user in gateway.settings.users}
    names = dict.fromkeys((*configured, *gateway.known_users(), *(user for _, user in gateway.pools)))
    limit = gateway.settings.pool.max_user_connections_count
    found = []
    for name in names:
        own = configured.get(name)
        mine = [pool for (_, user), pool in gateway.pools.items() if user == name]
        found.append(
            UserRow(
                name=name,
                pool_size=own.pool_size_count or None if own else None,
                pool_mode=own.pool_mode or None if own else None,
                max_user_connections=(own.max_connections_count if own else 0) or limit,
                current_connections=sum(1 for pool in mine for _ in pool.servers()),
                current_client_connections=sum(pool.clients for pool in mine),
            )
        )
    return found


def lists(gateway: PostgresGateway) -> list[ListRow]:
    """Return the rows of ``SHOW LISTS``."""
    servers = [server for pool in gateway.pools.values() for server in pool.servers()]
    busy = sum(server.client is not None for server in servers)
    counts = {
        "databases": len(database_names(gateway)),
        "users": len(users(gateway)),
        "pools": len(gateway.pools),
        "used_clients": sum(pool.clients for pool in gateway.pools.values()),
        "login_clients": sum(session.state == ClientState.STARTUP for session in sessions(gateway)),
        "free_servers": len(servers) - busy,
        "used_servers": busy,
    }
    return [ListRow(list=name, items=count) for name, count in counts.items()]


def memory(gateway: PostgresGateway) -> list[MemoryRow]:
    """Return the rows of ``SHOW MEM``: the objects themselves, without what they refer to."""
    kinds: dict[str, Iterable[object]] = {
        "client": clients(gateway),
        "server": (server for pool in gateway.pools.values() for server in pool.servers()),
        "pool": gateway.pools.values(),
    }
    rows = []
    for name, found in kinds.items():
        sizes = [sys.getsizeof(one) for one in found]
        rows.append(MemoryRow(name, sizes[0] if sizes else 0, len(sizes), 0, sum(sizes)))
    waiting = [len(data) for client in clients(gateway) for data in client.kept or ()]
    rows.append(MemoryRow("held_request", 0, len(waiting), 0, sum(waiting)))
    rows.append(MemoryRow("statement", 0, len(gateway.statements), 0, 0))
    return rows


def prepared(gateway: PostgresGateway) -> list[PreparedRow]:
    """Return the rows of ``SHOW PREPARED``: per database and text, who has it."""
    rows: dict[tuple[str, Statement], PreparedRow] = {}

    def row(database: str, statement: Statement) -> PreparedRow:
        found = rows.get((database, statement))
        if found is None:
            found = rows[database, statement] = PreparedRow(
                database=database,
                name=statement.alias.decode(),
                parameters=int.from_bytes(statement.body[len(statement.text) + 1 :][:2], "big"),
                statement=shown(statement.text),
            )
        return found

    for client in clients(gateway):
        for statement in (client.prepared or {}).values():
            row(client.database, statement).clients += 1
    for pool in gateway.pools.values():
        for server in pool.servers():
            for name, statement in server.prepared.items():
                entry = row(pool.name, statement)
                entry.servers += 1
                entry.name = name.decode("utf-8", "replace")
    return list(rows.values())
