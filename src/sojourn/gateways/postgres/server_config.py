"""The tables of ``[postgres]`` that say what is dialed: clusters, databases, users and pools.

Declares names, units, defaults and help; knows nothing of files, lines or how the values are used.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Settings

DEFAULT_PORT: Final = 5432
"""The port that IANA registers for PostgreSQL."""
_LAST_PORT: Final = 65_535

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        title="a name (letters, digits, _ . -)",
    ),
]
Identifier = Annotated[
    str,
    Meta(min_length=1, max_length=255, pattern=r"^[^\x00]+$", title="a name of 1 to 255 characters"),
]
Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
PoolMode = Literal["session", "transaction", "statement"]
PoolModeOrDefault = Literal["", "session", "transaction", "statement"]


class ServerTls(Settings, frozen=True):
    """TLS towards the servers of one cluster; modes as of libpq's ``sslmode``."""

    mode: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"],
        Meta(description="As libpq's sslmode; only verify-ca and verify-full know whom they talk to."),
    ] = "verify-full"
    ca_file: Annotated[
        str, Meta(description="PEM certificates that sign the servers; empty = those of the system.")
    ] = ""
    certificate_file: Annotated[str, Meta(description="PEM chain that we show to the servers.")] = ""
    private_key_file: Annotated[str, Meta(description="PEM key of that chain.")] = ""


class NodeSettings(Settings, frozen=True):
    """One PostgreSQL server of a cluster."""

    name: Annotated[Name, Meta(description="Name in logs, metrics and the console.", examples=["db-1"])]
    address: Annotated[
        str,
        Meta(
            description="host:port, [v6]:port, or unix:/directory:port.",
            examples=["db-1.example.net:5432"],
        ),
    ]

    @property
    def place(self) -> tuple[str, int]:
        """Return host and port; a host that begins with ``/`` is the directory of a unix socket."""
        return split_address(self.address)


class Cluster(Settings, frozen=True):
    """PostgreSQL servers that replicate one another: one primary, any number of replicas."""

    name: Annotated[Name, Meta(description="Name that databases refer to.", examples=["main"])]
    nodes: Annotated[
        tuple[NodeSettings, ...], Meta(description="Its servers; which is the primary is found out.")
    ] = ()
    patroni_urls: Annotated[
        tuple[str, ...],
        Meta(
            description="Patroni's REST API, asked for roles besides the servers themselves.",
            examples=[["http://db-1.example.net:8008"]],
        ),
    ] = ()
    monitor_user: Annotated[
        str,
        Meta(description="Role that looks at health and role; empty = only connections of clients show it."),
    ] = ""
    monitor_password: Annotated[Secret | None, Meta(description="The monitoring role's password.")] = None
    monitor_database: Annotated[Identifier, Meta(description="Database that the monitoring role uses.")] = (
        "postgres"
    )
    tls: ServerTls | None = None


class Database(Settings, frozen=True):
    """A database that clients may name, and where it is."""

    name: Annotated[
        Identifier, Meta(description="Name that clients ask for; * is every other.", examples=["shop"])
    ]
    cluster: Annotated[Name, Meta(description="Cluster that has it.", examples=["main"])]
    dbname: Annotated[str, Meta(description="Its name there; empty = the name that the client gave.")] = ""
    user: Annotated[str, Meta(description="Role to log in with there; empty = the client's own.")] = ""
    password: Annotated[
        Secret | None, Meta(description="Password there, whoever logs in; none = the user's own.")
    ] = None
    pool_mode: Annotated[PoolModeOrDefault, Meta(description="Empty = pool.mode.")] = ""
    pool_size_count: Annotated[Count, Meta(description="Servers of one pool; 0 = pool.size_count.")] = 0
    reserve_pool_size_count: Annotated[
        Count, Meta(description="More servers when clients wait; 0 = pool.reserve_size_count.")
    ] = 0
    min_pool_size_count: Annotated[Count, Meta(description="Servers kept open; 0 = pool.min_size_count.")] = 0
    max_connections_count: Annotated[
        Count, Meta(description="Servers of all its pools; 0 = pool.max_database_connections_count.")
    ] = 0
    connect_query: Annotated[str, Meta(description="SQL run once on every new server connection.")] = ""
    parameters: Annotated[
        dict[str, str],
        Meta(
            description="Startup parameters of its servers, under those of the client.",
            examples=[{"application_name": "shop"}],
        ),
    ] = msgspec.field(default_factory=dict)


class User(Settings, frozen=True):
    """A user that clients may log in as, or limits of one that is known from elsewhere."""

    name: Annotated[Identifier, Meta(description="Login name.", examples=["ana"])]
    password: Annotated[
        Secret | None,
        Meta(
            description="As in pg_authid: SCRAM-SHA-256$..., md5..., or plain; none = from the user list or query.",
            examples=["${file:/etc/sojourn/ana.password}"],
        ),
    ] = None
    pool_mode: Annotated[PoolModeOrDefault, Meta(description="Empty = the database's, or pool.mode.")] = ""
    pool_size_count: Annotated[Count, Meta(description="Servers of one pool; 0 = the database's.")] = 0
    max_connections_count: Annotated[
        Count, Meta(description="Servers of all pools of this user; 0 = pool.max_user_connections_count.")
    ] = 0
    route: Annotated[
        Literal["", "primary", "replica_reads", "replica"],
        Meta(description="Where this user's statements go; empty = routing.default."),
    ] = ""


class PoolSettings(Settings, frozen=True):
    """Server connections: how many, how long, and when clients get one."""

    mode: Annotated[
        PoolMode, Meta(description="How long a client keeps a server: the whole session, or one of these.")
    ] = "transaction"
    size_count: Annotated[
        int, Meta(ge=1, le=100_000, description="Servers of one pool (one database and user).")
    ] = 20
    reserve_size_count: Annotated[
        Count, Meta(description="More servers of one pool when clients waited for reserve_timeout_s.")
    ] = 0
    reserve_timeout_s: Annotated[Seconds, Meta(description="Wait that opens the reserve.")] = 5.0
    min_size_count: Annotated[Count, Meta(description="Servers of one pool kept open without clients.")] = 0
    max_database_connections_count: Annotated[
        Count, Meta(description="Servers of all pools of one database; 0 = no limit.")
    ] = 0
    max_user_connections_count: Annotated[
        Count, Meta(description="Servers of all pools of one user; 0 = no limit.")
    ] = 0
    queue_timeout_s: Annotated[
        float, Meta(ge=0, description="How long a client waits for a server; 0 = for ever.")
    ] = 120.0
    queue_limit_count: Annotated[
        int, Meta(ge=1, description="Clients that may wait for one pool; more are refused at once.")
    ] = 10_000
    server_lifetime_s: Annotated[
        float, Meta(ge=0, description="An unused server older than this is closed; 0 = after every use.")
    ] = 3_600.0
    server_idle_timeout_s: Annotated[
        float, Meta(ge=0, description="A server unused for this long is closed; 0 = never.")
    ] = 600.0
    server_connect_timeout_s: Annotated[
        Seconds, Meta(description="Connect and log in; later is a failure of the server.")
    ] = 15.0
    server_login_retry_s: Annotated[
        Seconds, Meta(description="First wait after a failed connect; it grows while the failure lasts.")
    ] = 1.0
    server_reset_query: Annotated[
        str, Meta(description="SQL that cleans a server between two clients in session mode.")
    ] = "DISCARD ALL"
    server_check_delay_s: Annotated[
        float, Meta(ge=0, description="A server unused for longer is tried before a client gets it.")
    ] = 30.0
    max_prepared_statements_count: Annotated[
        Count, Meta(description="Prepared statements on one server; the least used gives way. 0 = no limit.")
    ] = 200
    max_prepared_statements_per_client_count: Annotated[
        int, Meta(ge=1, description="Prepared statements that one client may hold.")
    ] = 10_000
    ignore_startup_parameters: Annotated[
        tuple[str, ...], Meta(description="Startup parameters of clients that are not passed on.")
    ] = ()


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of a node's address; a host that begins with ``/`` is a unix socket's directory.

    Raises: ValueError, with what is wanted.
    """
    is_unix = address.startswith("unix:")
    host, colon, port = address.removeprefix("unix:").rpartition(":")
    if not is_unix and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host and not is_unix:
        host = ""
    is_place = host.startswith("/") if is_unix else bool(host) and "/" not in host
    if not (colon and is_place and port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT):
        raise ValueError("host:port, [v6]:port or unix:/directory:port")
    return host, int(port)
