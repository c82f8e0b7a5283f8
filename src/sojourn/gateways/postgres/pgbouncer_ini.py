"""PgBouncer's ``pgbouncer.ini``, accepted as it is: from the file to :class:`PostgresSettings`.

Every key is taken over, accepted without effect (:attr:`PgBouncerConfig.ignored` says why), or unknown
(:attr:`PgBouncerConfig.unknown`); a wrong value is a problem with file and line, and all are reported at once.
What the file leaves out has PgBouncer's default. Reads no user list and no HBA file: their paths are passed on.
Source: PgBouncer 1.18 to 1.25, the manual page pgbouncer.ini(5).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from sojourn.core.settings import ListenerSettings
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres import pgbouncer_keys as words
from sojourn.gateways.postgres.config import (
    AuthSettings,
    ClientTls,
    ConsoleSettings,
    PoolSettings,
    PostgresLimits,
    PostgresSettings,
    ServerTls,
    TimeoutSettings,
)
from sojourn.gateways.postgres.pgbouncer_databases import (
    CONSOLE,
    AuthWish,
    Findings,
    Ignored,
    Keys,
    Places,
    read_databases,
    read_users,
)
from sojourn.gateways.postgres.pgbouncer_lines import Entry, Reading

__all__ = ["Ignored", "PgBouncerConfig", "read"]

_OURS: Final = "sojourn"
_SECTIONS: Final = ("databases", "users", "peers", "pgbouncer")
_IPV6: Final = Path("/proc/net/if_inet6")
_SHORTEST_RETRY_S: Final = 0.05
_KEYS_OF: Final = {
    "auth.method": "auth_type",
    "auth.hba_file": "auth_hba_file",
    "auth.query": "auth_query",
    "auth.query_user": "auth_user",
    "auth.query_database": "auth_dbname",
    "tls.client_ca_file": "client_tls_ca_file",
}
"""What PgBouncer calls the settings that :meth:`Settings.problems` can complain about."""


class PgBouncerConfig(msgspec.Struct, frozen=True):
    """What a ``pgbouncer.ini`` says.

    Shape: ``log_file`` and ``is_verbose`` belong to the ``[log]`` of the whole server; ``unknown`` are keys that
    PgBouncer does not have either, ``ignored`` those that change nothing here.
    """

    settings: PostgresSettings
    log_file: str
    is_verbose: bool
    unknown: tuple[Problem, ...]
    ignored: tuple[Ignored, ...]


def read(path: Path, *, is_strict: bool = False) -> PgBouncerConfig:
    """Read a file and all that it includes.

    Args:
        is_strict: an unknown key is a problem too, as it is to PgBouncer.
    Raises: ConfigError with every problem that there is.
    """
    reading = Reading()
    reading.read(path)
    findings = Findings()
    findings.problems += reading.problems
    sections: dict[str, list[Entry]] = {name: [] for name in _SECTIONS}
    for entry in reading.entries:
        if entry.section in sections:
            sections[entry.section].append(entry)
        else:
            wanted = "one of " + ", ".join(f"[{name}]" for name in _SECTIONS)
            findings.unknown.append(entry.problem("a key of an unknown section", wanted))
    for entry in sections["peers"]:
        why = words.WITHOUT_EFFECT["peer_id"]
        findings.ignored.append(Ignored(entry.file, entry.line, entry.section, entry.key, why))
    keys = Keys({entry.key: (entry, entry.value) for entry in sections["pgbouncer"]}, findings, is_part=False)
    settings = _settings(keys, sections, findings)
    log_file, is_verbose = keys.text("logfile"), keys.take("verbose", words.number, 0) > 0
    keys.finish(words.WITHOUT_EFFECT)
    if not findings.problems:
        findings.problems += _together(settings, keys, path)
    if is_strict:
        findings.problems += findings.unknown
    if findings.problems:
        raise ConfigError(
            sorted(findings.problems, key=lambda problem: (problem.file != str(path), problem.line))
        )
    return PgBouncerConfig(settings, log_file, is_verbose, tuple(findings.unknown), tuple(findings.ignored))


def _settings(keys: Keys, sections: dict[str, list[Entry]], findings: Findings) -> PostgresSettings:
    if keys.take("disable_pqexec", words.flag, default=False) and (entry := keys.entry("disable_pqexec")):
        keys.wrong("disable_pqexec", repr(entry.value), "0: simple queries cannot be refused here", entry)
    pool = _pool(keys)
    directory = keys.text("unix_socket_dir", "/tmp")  # noqa: S108 - PgBouncer's default
    places = Places(_server_tls(keys), directory)
    databases, wishes = read_databases(sections["databases"], places, pool, findings)
    names = {database.name for database in databases}
    clients = keys.take("max_client_conn", words.number, 100) or 1
    return PostgresSettings(
        limits=PostgresLimits(connections_count=clients, connections_per_peer_count=clients),
        listeners=_listeners(keys, directory),
        tls=_client_tls(keys),
        clusters=tuple(places.clusters),
        databases=tuple(databases),
        users=tuple(read_users(sections["users"], findings)),
        pool=pool,
        timeouts=_timeouts(keys),
        auth=_auth(keys, wishes),
        console=ConsoleSettings(
            databases=(CONSOLE, *(name for name in (_OURS,) if name not in names)),
            admin_users=keys.take("admin_users", words.names, words.NO_NAMES),
            stats_users=keys.take("stats_users", words.names, words.NO_NAMES),
        ),
        max_packet_bytes=max(65_536, keys.take("max_packet_size", words.number, 2_147_483_647)),
    )


def _listeners(keys: Keys, directory: str) -> tuple[ListenerSettings, ...]:
    port = keys.take("listen_port", words.port, 6432)
    more: dict[str, Any] = {
        "backlog_count": keys.take("listen_backlog", words.number, 128) or 1,
        "reuse_port": keys.take("so_reuseport", words.flag, default=False),
    }
    hosts = [
        # A socket on [::] takes IPv4 too, but there is none where the kernel knows no IPv6.
        ("::" if _IPV6.exists() else "0.0.0.0") if host == "*" else host  # noqa: S104 - asked for
        for host in keys.take("listen_addr", words.names, words.NO_NAMES)
    ]
    listeners = [
        ListenerSettings(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", **more)
        for host in dict.fromkeys(hosts)
    ]
    unix_mode = keys.take("unix_socket_mode", words.mode, "0777")
    if directory.startswith("@"):
        keys.ignore("unix_socket_dir", "there are no sockets in the abstract namespace")
    elif directory:
        path = f"unix:{directory}/.s.PGSQL.{port}"
        listeners.append(
            ListenerSettings(address=path, unix_mode=unix_mode, backlog_count=more["backlog_count"])
        )
    return tuple(listeners)


def _pool(keys: Keys) -> PoolSettings:
    size = keys.take("default_pool_size", words.number, 20) or 1
    reserve_timeout_s = keys.take("reserve_pool_timeout", words.seconds, 5.0)
    reserve = keys.take("reserve_pool_size", words.number, 0)
    return PoolSettings(
        mode=keys.take("pool_mode", words.one_of(words.POOL_MODES), "session"),  # type: ignore[arg-type] # one of them
        size_count=min(size, 100_000),
        # A time of 0 switches PgBouncer's reserve off.
        reserve_size_count=reserve if reserve_timeout_s else 0,
        reserve_timeout_s=reserve_timeout_s or 5.0,
        min_size_count=min(size, keys.take("min_pool_size", words.number, 0)),
        max_database_connections_count=keys.take("max_db_connections", words.number, 0),
        max_user_connections_count=keys.take("max_user_connections", words.number, 0),
        queue_timeout_s=keys.take("query_wait_timeout", words.seconds, 120.0),
        server_lifetime_s=keys.take("server_lifetime", words.seconds, 3_600.0),
        server_idle_timeout_s=keys.take("server_idle_timeout", words.seconds, 600.0),
        server_connect_timeout_s=keys.take("server_connect_timeout", words.seconds, 15.0) or words.LONGEST_S,
        # Its default of 15 is not taken over: it is what makes a failover long there.
        server_login_retry_s=keys.take("server_login_retry", words.seconds, 1.0) or _SHORTEST_RETRY_S,
        server_reset_query=keys.text("server_reset_query", "DISCARD ALL"),
        server_check_delay_s=keys.take("server_check_delay", words.seconds, 30.0),
        max_prepared_statements_count=keys.take("max_prepared_statements", words.number, 200),
        ignore_startup_parameters=keys.take("ignore_startup_parameters", words.names, words.NO_NAMES),
    )


def _timeouts(keys: Keys) -> TimeoutSettings:
    return TimeoutSettings(
        client_login_timeout_s=keys.take("client_login_timeout", words.seconds, 60.0) or words.LONGEST_S,
        client_idle_timeout_s=keys.take("client_idle_timeout", words.seconds, 0.0),
        idle_in_transaction_timeout_s=keys.take("idle_transaction_timeout", words.seconds, 0.0),
        transaction_timeout_s=keys.take("transaction_timeout", words.seconds, 0.0),
        query_timeout_s=keys.take("query_timeout", words.seconds, 0.0),
        cancel_wait_timeout_s=keys.take("cancel_wait_timeout", words.seconds, 10.0) or words.LONGEST_S,
    )


def _auth(keys: Keys, wishes: list[tuple[Keys, AuthWish]]) -> AuthSettings:
    user, query, dbname = keys.text("auth_user"), keys.text("auth_query"), keys.text("auth_dbname")
    written = [wish for _, wish in wishes if wish.user or wish.query or wish.dbname]
    if not user and written and len(set(written)) == 1:
        # All that say anything say the same, which is then as good as said once for all.
        user, query, dbname = written[0].user, written[0].query or query, written[0].dbname or dbname
    else:
        for part, wish in wishes:
            same = (user, query, dbname)
            for key, wished, global_one in zip(
                ("auth_user", "auth_query", "auth_dbname"), wish, same, strict=True
            ):
                if wished and wished != global_one:
                    part.ignore(key, f"one {key} is for all databases")
    if not user:
        keys.ignore("auth_query", "it is not used without auth_user")
        keys.ignore("auth_dbname", "it is not used without auth_user")
        query = dbname = ""
    return AuthSettings(
        method=keys.take("auth_type", _auth_method, "md5"),  # type: ignore[arg-type] # one of them
        hba_file=keys.text("auth_hba_file"),
        ident_file=keys.text("auth_ident_file"),
        userlist_file=keys.text("auth_file"),
        query=(query or words.DEFAULT_AUTH_QUERY) if user else "",
        query_user=user,
        query_database=dbname,
    )


def _auth_method(text: str) -> str:
    wanted = {
        "any": "trust, and a user= for every database: the name that a client gives always counts here",
        "pam": "hba, scram-sha-256 or cert: PAM is not used",
        "ldap": "hba, scram-sha-256 or cert: LDAP is not used",
        "peer": "hba with a rule 'local ... peer'",
    }.get(text.lower())
    if wanted is not None:
        raise ValueError(wanted)
    return words.one_of(words.AUTH_METHODS)(text)


def _client_tls(keys: Keys) -> ClientTls | None:
    mode = keys.take("client_tls_sslmode", words.one_of(words.CLIENT_TLS_MODES), "disable")
    certificate, key = keys.text("client_tls_cert_file"), keys.text("client_tls_key_file")
    issuers = keys.text("client_tls_ca_file")
    oldest = keys.take("client_tls_protocols", words.oldest_tls, "1.2")
    entry = keys.entry("client_tls_sslmode")
    if mode == "disable" or entry is None:
        return None
    for name, value in (("client_tls_cert_file", certificate), ("client_tls_key_file", key)):
        if not value:
            keys.wrong("client_tls_sslmode", f"{entry.value!r} without {name}", f"{name} too", entry)
    return ClientTls(
        mode=mode,  # type: ignore[arg-type] # one of them
        certificate_file=certificate,
        private_key_file=key,
        client_ca_file=issuers,
        min_version=oldest,  # type: ignore[arg-type] # one of them
    )


def _server_tls(keys: Keys) -> ServerTls | None:
    # "prefer" since 1.21; before, it was "disable", which fails only where TLS is wanted.
    mode = keys.take("server_tls_sslmode", words.one_of(words.SERVER_TLS_MODES), "prefer")
    tls = ServerTls(
        mode=mode,  # type: ignore[arg-type] # one of them
        ca_file=keys.text("server_tls_ca_file"),
        certificate_file=keys.text("server_tls_cert_file"),
        private_key_file=keys.text("server_tls_key_file"),
    )
    return None if mode == "disable" else tls


def _together(settings: PostgresSettings, keys: Keys, path: Path) -> Iterable[Problem]:
    """Yield what only several values together show to be wrong, under the names that PgBouncer has for them."""
    tables: list[tuple[str, Callable[[], Iterable[tuple[str, str, str]]]]] = [
        ("", settings.problems),
        ("auth.", settings.auth.problems),
        *([("tls.", settings.tls.problems)] if settings.tls is not None else []),
    ]
    for key, found, wanted in itertools.chain.from_iterable(
        ((f"{prefix}{key}", found, wanted) for key, found, wanted in problems())
        for prefix, problems in tables
    ):
        name = _KEYS_OF.get(key, "")
        entry = keys.entry(name)
        if entry is not None:
            yield entry.problem(found, wanted)
        elif name:
            yield Problem(str(path), 0, "pgbouncer", name, found, wanted)
        else:
            yield Problem(str(path), 0, "postgres", key, found, wanted)
