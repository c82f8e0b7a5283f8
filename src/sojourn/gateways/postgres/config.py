"""The PostgreSQL gateway's one table of settings, ``[postgres]`` in ``sojourn.toml``.

Declares names, units, defaults and help; knows nothing of files, lines or how the values are used.
The reference page and the example file are made from these declarations. What is dialed is declared in
:mod:`~sojourn.gateways.postgres.server_config` and can be had from here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from sojourn.core.settings import LimitSettings, ListenerSettings, Settings, TlsSettings
from sojourn.gateways.postgres.server_config import (
    Cluster,
    Count,
    Database,
    Name,
    NodeSettings,
    PoolMode,
    PoolSettings,
    Seconds,
    ServerTls,
    User,
    split_address,
)

__all__ = [
    "AuthSettings",
    "ClientTls",
    "Cluster",
    "ConsoleSettings",
    "Database",
    "FailoverSettings",
    "Name",
    "NodeSettings",
    "PoolMode",
    "PoolSettings",
    "PostgresLimits",
    "PostgresSettings",
    "QueryLogSettings",
    "RoutingSettings",
    "ServerTls",
    "TimeoutSettings",
    "User",
    "split_address",
]

AuthMethod = Literal["hba", "scram-sha-256", "md5", "password", "trust", "cert"]
SecondsOrOff = Annotated[float, Meta(ge=0)]


class PostgresLimits(LimitSettings, frozen=True):
    """What the core takes from PostgreSQL clients before it refuses; applications keep connections for days."""

    connections_count: Annotated[int, Meta(ge=1, description="Clients at once.")] = 10_000
    connections_per_peer_count: Annotated[
        int, Meta(ge=1, description="Clients at once of one address; an application server has many.")
    ] = 10_000
    accepts_burst_count: Annotated[
        int, Meta(ge=1, description="New connections at once, after a quiet time.")
    ] = 10_000
    packet_timeout_s: Annotated[
        float, Meta(gt=0, description="From a message's first byte to its last; some have gigabytes.")
    ] = 604_800.0
    idle_timeout_s: Annotated[
        float,
        Meta(gt=0, description="Silence of a client; timeouts.client_idle_timeout_s is the one to set."),
    ] = 31_536_000.0


class ClientTls(TlsSettings, frozen=True):
    """TLS towards clients, ``[postgres.tls]``: PostgreSQL asks for it inside the protocol, on the same port."""

    mode: Annotated[
        Literal["disable", "allow", "require", "verify-full"],
        Meta(
            description="allow: with TLS or without, as the client likes; require: only with; "
            "verify-full: only with a certificate that client_ca_file signed."
        ),
    ] = "allow"
    client_ca_file: Annotated[
        str,
        Meta(description="PEM certificates that sign clients; wanted for verify-full and for method cert."),
    ] = ""
    min_version: Annotated[
        Literal["1.2", "1.3"],
        Meta(description="Oldest version that is accepted; many drivers have 1.2 only."),
    ] = "1.2"

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield a demand for certificates that nothing can check."""
        if self.mode == "verify-full" and not self.client_ca_file:
            yield "client_ca_file", "none", "the certificates that sign clients, as mode is 'verify-full'"
        if self.crl_file and not self.client_ca_file:
            yield "client_ca_file", "none", "the certificates that sign clients, as crl_file is set"


class TimeoutSettings(Settings, frozen=True):
    """How long clients may take; 0 is for ever wherever 0 is allowed."""

    client_login_timeout_s: Annotated[Seconds, Meta(description="From accept to the end of the login.")] = (
        60.0
    )
    client_idle_timeout_s: Annotated[
        SecondsOrOff, Meta(description="A client outside a transaction that is silent for longer is closed.")
    ] = 0.0
    idle_in_transaction_timeout_s: Annotated[
        SecondsOrOff, Meta(description="A client inside a transaction that is silent for longer is closed.")
    ] = 0.0
    transaction_timeout_s: Annotated[
        SecondsOrOff, Meta(description="A transaction that takes longer is ended with its client.")
    ] = 0.0
    query_timeout_s: Annotated[
        SecondsOrOff, Meta(description="A statement that takes longer is ended with its client.")
    ] = 0.0
    client_write_timeout_s: Annotated[
        Seconds, Meta(description="A client that holds a server and takes no bytes for this long is closed.")
    ] = 30.0
    cancel_wait_timeout_s: Annotated[
        Seconds, Meta(description="How long a cancel request waits for a connection to the server.")
    ] = 10.0


class AuthSettings(Settings, frozen=True):
    """How clients prove who they are."""

    method: Annotated[
        AuthMethod,
        Meta(description="One method for everybody, or hba: the first rule of hba_file that fits decides."),
    ] = "scram-sha-256"
    hba_file: Annotated[
        str,
        Meta(description="Rules in the form of pg_hba.conf.", examples=["/etc/sojourn/pg_hba.conf"]),
    ] = ""
    ident_file: Annotated[
        str,
        Meta(
            description="Certificate names to users for rules with map=, in the form of pg_ident.conf.",
            examples=["/etc/sojourn/pg_ident.conf"],
        ),
    ] = ""
    userlist_file: Annotated[
        str,
        Meta(
            description='Users as "name" "password" lines, as PgBouncer reads them.',
            examples=["/etc/sojourn/userlist.txt"],
        ),
    ] = ""
    query: Annotated[
        str,
        Meta(
            description="SQL with $1 that gives name and password of users that are not listed; empty = none.",
            examples=["SELECT usename, passwd FROM pg_shadow WHERE usename = $1"],
        ),
    ] = ""
    query_user: Annotated[str, Meta(description="Listed user that runs the query.")] = ""
    query_database: Annotated[
        str, Meta(description="Database in which the query runs; empty = the one that the client asks for.")
    ] = ""
    query_cache_s: Annotated[
        SecondsOrOff, Meta(description="How long an answer of the query is used again; 0 = never.")
    ] = 10.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield methods and queries that miss what they need."""
        if self.method == "hba" and not self.hba_file:
            yield "hba_file", "none", "a file with rules, as method is 'hba'"
        if self.query and "$1" not in self.query:
            yield "query", "a query without $1", "a query with $1, which becomes the user's name"
        if self.query and not self.query_user:
            yield "query_user", "none", "the user that runs the query"


class FailoverSettings(Settings, frozen=True):
    """What happens between the loss of a primary and the first answer of the next."""

    is_enabled: Annotated[
        bool, Meta(description="Hold clients while a new primary is found; false: they see the loss.")
    ] = True
    poll_interval_s: Annotated[Seconds, Meta(description="Time between two looks at each server.")] = 0.5
    poll_timeout_s: Annotated[
        Seconds, Meta(description="A server that does not answer by then is failing.")
    ] = 2.0
    suspect_timeout_s: Annotated[
        Seconds, Meta(description="How long a primary may be suspected before it counts as lost.")
    ] = 3.0
    buffering_timeout_s: Annotated[
        Seconds, Meta(description="How long clients are held at most; then they get an error, not a hang-up.")
    ] = 30.0
    buffered_clients_count: Annotated[int, Meta(ge=1, description="Clients held at once.")] = 10_000
    retained_request_bytes: Annotated[
        Count, Meta(description="Part of an unanswered request that is kept, so that it can be sent again.")
    ] = 65_536
    arms_commit_outcome: Annotated[
        bool,
        Meta(
            description="Learn the transaction's id before COMMIT, so that its outcome is known afterwards."
        ),
    ] = False
    verified_replay: Annotated[
        bool,
        Meta(
            description="Run a transaction whose primary died again on the next one, and go on if every answer is "
            "the same."
        ),
    ] = False
    verified_replay_bytes: Annotated[
        Count,
        Meta(
            description="Requests of one transaction that are kept for that; a longer one is not run again."
        ),
    ] = 65_536
    verified_replay_timeout_s: Annotated[
        Seconds, Meta(description="From the loss of the server to the end of the replay; then 40001.")
    ] = 30.0
    on_unrestorable: Annotated[
        Literal["warn", "close"],
        Meta(description="What a client gets whose temporary tables or advisory locks went with the server."),
    ] = "warn"

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield a time that ends before it can be of use."""
        if self.buffering_timeout_s < self.poll_interval_s:
            wanted = f"at least poll_interval_s ({self.poll_interval_s})"
            yield "buffering_timeout_s", str(self.buffering_timeout_s), wanted


class RoutingSettings(Settings, frozen=True):
    """Which server of a cluster a statement goes to."""

    default: Annotated[
        Literal["primary", "replica_reads"],
        Meta(description="primary: everything; replica_reads: what is known to only read goes to replicas."),
    ] = "primary"
    classifier: Annotated[
        bool, Meta(description="Read SQL to find statements that only read; needs sojourn[routing].")
    ] = False
    allowed_functions: Annotated[
        tuple[str, ...], Meta(description="Functions that the classifier may take for only reading.")
    ] = ()
    read_your_writes: Annotated[
        bool, Meta(description="A replica is used only if it has what this client has written.")
    ] = False
    max_lag_s: Annotated[
        SecondsOrOff, Meta(description="Replicas further behind are not used; 0 = no limit.")
    ] = 0.0
    max_lag_bytes: Annotated[
        Count, Meta(description="Replicas with more WAL to replay are not used; 0 = no limit.")
    ] = 0
    balance: Annotated[
        Literal["least_outstanding", "round_robin"],
        Meta(description="How one of several replicas is chosen."),
    ] = "least_outstanding"


class ConsoleSettings(Settings, frozen=True):
    """The admin console: databases that are not there, spoken to with psql."""

    databases: Annotated[tuple[str, ...], Meta(description="Names of the console; none = no console.")] = (
        "sojourn",
    )
    admin_users: Annotated[tuple[str, ...], Meta(description="Users that may do everything there.")] = ()
    stats_users: Annotated[tuple[str, ...], Meta(description="Users that may look only.")] = ()


class QueryLogSettings(Settings, frozen=True):
    """Statements remembered for the console and the flight recorder."""

    sample_rate: Annotated[float, Meta(ge=0, le=1, description="Share of statements that is remembered.")] = (
        0.0
    )
    slow_ms: Annotated[
        Count, Meta(description="Statements that take longer are always remembered; 0 = none for that.")
    ] = 1_000
    entries_count: Annotated[Count, Meta(description="Statements remembered; the oldest gives way.")] = 500
    statement_bytes: Annotated[Count, Meta(description="Part of a statement's text that is kept.")] = 1_024
    mask_literals: Annotated[bool, Meta(description="Write ? for every literal of a statement.")] = True


class PostgresSettings(Settings, frozen=True):
    """The PostgreSQL gateway, ``[postgres]``: a pooler whose clients stay when a server goes."""

    limits: PostgresLimits = PostgresLimits()
    listeners: tuple[ListenerSettings, ...] = ()
    tls: ClientTls | None = None
    clusters: tuple[Cluster, ...] = ()
    databases: tuple[Database, ...] = ()
    users: tuple[User, ...] = ()
    pool: PoolSettings = PoolSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    auth: AuthSettings = AuthSettings()
    failover: FailoverSettings = FailoverSettings()
    routing: RoutingSettings = RoutingSettings()
    console: ConsoleSettings = ConsoleSettings()
    query_log: QueryLogSettings = QueryLogSettings()
    workers_count: Annotated[
        int, Meta(ge=1, le=64, description="Processes that share the listeners and divide the pools.")
    ] = 1
    is_deferring_begin: Annotated[
        bool, Meta(description="Answer BEGIN at once and take a server with the first statement.")
    ] = False
    audit: Annotated[
        Literal["off", "log", "pin"],
        Meta(
            description="Compare what we know of a session with what its server says: log a difference, or also "
            "keep the server with the client."
        ),
    ] = "off"
    max_packet_bytes: Annotated[
        int, Meta(ge=65_536, le=2_147_483_647, description="Largest message of a client.")
    ] = 1_073_741_824
    startup_packet_bytes: Annotated[
        int, Meta(ge=256, le=65_536, description="Largest startup packet; PostgreSQL takes 10000.")
    ] = 10_000

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield ``(key, found, wanted)`` for what only several values together can show to be wrong."""
        # Late: the checks are made of the declarations above.
        from sojourn.gateways.postgres.checks import find_problems  # noqa: PLC0415 - the line above says why

        return find_problems(self)
