"""PgBouncer's words: how its values are written, and the keys of it that change nothing here.

Knows nothing of files or of our settings. Source: PgBouncer 1.18 to 1.25, the manual page pgbouncer.ini(5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

T = TypeVar("T")

DEFAULT_AUTH_QUERY: Final = "SELECT usename, passwd FROM pg_shadow WHERE usename=$1"
"""PgBouncer's default of ``auth_query``."""
LONGEST_S: Final = 31_536_000.0
"""One year: what stands for ever where a setting of ours must have an end."""
NO_NAMES: Final[tuple[str, ...]] = ()
_LARGEST_COUNT: Final = 2_147_483_647

AUTH_METHODS: Final[Mapping[str, str]] = {
    "trust": "trust",
    "md5": "md5",
    "scram-sha-256": "scram-sha-256",
    "plain": "password",
    "cert": "cert",
    "hba": "hba",
}
CLIENT_TLS_MODES: Final[Mapping[str, str]] = {
    "disable": "disable",
    "allow": "allow",
    "prefer": "allow",
    "require": "require",
    "verify-ca": "verify-full",
    "verify-full": "verify-full",
}
SERVER_TLS_MODES: Final[Mapping[str, str]] = {
    "disable": "disable",
    "allow": "prefer",
    "prefer": "prefer",
    "require": "require",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
}
POOL_MODES: Final[Mapping[str, str]] = {mode: mode for mode in ("session", "transaction", "statement")}

_KERNEL = "the kernel's own setting is used"
_LOG = "what is written is chosen by log.level and by the kind of event"
_DNS = "names are looked up whenever a server is dialed"
_TLS = "the TLS library's own choice is used"
_PEERS = "workers pass cancel requests to one another without being told"
_CLIENTS = "clients are limited all together, by max_client_conn"

WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "application_name_add_host": "SHOW CLIENTS and the log name each client's address",
    "auth_ldap_options": "LDAP is not used",
    "auth_ldap_parameter": "LDAP is not used",
    "autodb_idle_timeout": "unused pools go when their last server is closed",
    "client_tls13_ciphers": _TLS,
    "client_tls_ciphers": _TLS,
    "client_tls_dheparams": _TLS,
    "client_tls_ecdhcurve": _TLS,
    "conffile": "the file is the one on the command line",
    "dns_max_ttl": _DNS,
    "dns_nxdomain_ttl": _DNS,
    "dns_zone_check_period": _DNS,
    "job_name": "there is no Windows service",
    "log_connections": _LOG,
    "log_disconnections": _LOG,
    "log_pooler_errors": _LOG,
    "log_stats": "figures are shown by the metrics page and by SHOW STATS",
    "max_db_client_connections": _CLIENTS,
    "max_user_client_connections": _CLIENTS,
    "peer_id": _PEERS,
    "pidfile": "whoever starts the process knows its number",
    "pkt_buf": "buffers grow with what is read",
    "query_wait_notify": "clients that wait get no notice",
    "resolv_conf": _DNS,
    "sbuf_loopcnt": "every connection is read once a turn",
    "scram_iterations": "PostgreSQL's own default of 4096 is used",
    "server_check_query": "the gateway has a check of its own; server_check_delay counts",
    "server_fast_close": "servers are changed under the client, which keeps its connection",
    "server_reset_query_always": "what a client has set goes with it to the next server",
    "server_round_robin": "the server whose settings fit the client best is used",
    "server_tls13_ciphers": _TLS,
    "server_tls_ciphers": _TLS,
    "server_tls_protocols": _TLS,
    "service_name": "there is no Windows service",
    "stats_period": "averages have a period of their own",
    "suspend_timeout": "there is no SUSPEND; a restart hands the listeners over",
    "syslog": "the log is written to standard error or to logfile",
    "syslog_facility": "the log is written to standard error or to logfile",
    "syslog_ident": "the log is written to standard error or to logfile",
    "tcp_defer_accept": _KERNEL,
    "tcp_keepalive": _KERNEL,
    "tcp_keepcnt": _KERNEL,
    "tcp_keepidle": _KERNEL,
    "tcp_keepintvl": _KERNEL,
    "tcp_socket_buffer": _KERNEL,
    "tcp_user_timeout": _KERNEL,
    "track_extra_parameters": "everything that a client sets is kept",
    "unix_socket_group": "the socket belongs to the group of the process",
    "user": "the process stays who started it; start it as this user",
}
"""Keys of ``[pgbouncer]`` that are accepted and change nothing, each with the reason."""

DATABASE_WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "load_balance_hosts": "which host is the primary is found out; reads are spread by routing.balance",
    "max_db_client_connections": _CLIENTS,
    "query_wait_timeout": "one queue_timeout_s is for all databases",
    "server_lifetime": "one server_lifetime is for all databases",
}
USER_WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "client_idle_timeout": "one client_idle_timeout is for all users",
    "idle_transaction_timeout": "one idle_transaction_timeout is for all users",
    "max_user_client_connections": _CLIENTS,
    "query_timeout": "one query_timeout is for all users",
    "query_wait_timeout": "one query_wait_timeout is for all users",
    "reserve_pool_size": "the database's reserve_pool_size is for all users",
    "transaction_timeout": "one transaction_timeout is for all users",
}


def number(text: str) -> int:
    """Read a count. Raises: ValueError, with what is wanted."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _LARGEST_COUNT:
        raise ValueError(f"a whole number from 0 to {_LARGEST_COUNT}")
    return int(text)


def flag(text: str) -> bool:
    """Read a switch. Raises: ValueError, with what is wanted."""
    word = text.lower()
    if word not in {"0", "1", "off", "on", "no", "yes", "false", "true"}:
        raise ValueError("0 or 1")
    return word in {"1", "on", "yes", "true"}


def seconds(text: str) -> float:
    """Read a time; 0 is what it means to the key. Raises: ValueError, with what is wanted."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and 0 <= value <= LONGEST_S * 100):
        raise ValueError("a number of seconds, 0 or more")
    return value


def port(text: str) -> int:
    """Read a port. Raises: ValueError, with what is wanted."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65_536:  # noqa: PLR2004 - the largest port
        raise ValueError("a port from 1 to 65535")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Read a list with commas."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def mode(text: str) -> str:
    """Read permissions of a socket. Raises: ValueError, with what is wanted."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("permissions such as 0777")
    return text


def one_of(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return a reader of one of these words, in whatever case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("one of " + ", ".join(words))
        return words[text.lower()]

    return read


def oldest_tls(text: str) -> str:
    """Read which TLS versions are allowed as the oldest that we would take, 1.2 or 1.3.

    Raises: ValueError, with what is wanted.
    """
    words = {word.strip().lower() for word in re.split(r"[,:\s]+", text) if word.strip()}
    known = {"tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3", "all", "secure", "legacy"}
    if not words or words - known:
        raise ValueError("tlsv1.2, tlsv1.3, secure or all")
    if not words & {"tlsv1.2", "tlsv1.3", "all", "secure", "legacy"}:
        raise ValueError("tlsv1.2 or tlsv1.3 among them; older versions are broken")
    return "1.3" if words == {"tlsv1.3"} else "1.2"
