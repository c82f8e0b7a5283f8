"""Whether what a ``[postgres]`` table names is there and makes sense: TLS files, user lists, what nobody can use.

Reads files, unlike the checks of the table itself; never shows a password. Dials nothing and looks no name up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from sojourn.config.reach import file_trouble, is_near
from sojourn.core import tls
from sojourn.core.settings import TlsSettings
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres.config import Cluster, PostgresSettings, ServerTls
from sojourn.gateways.postgres.hba import HbaRules
from sojourn.gateways.postgres.ident import IdentMaps
from sojourn.gateways.postgres.userlist import parse_userlist

_READABLE_BY_OTHERS = 0o004


def file_problems(settings: PostgresSettings) -> Iterator[Problem]:
    """Yield every problem of the files that the table names."""
    if settings.tls is not None and settings.tls.mode != "disable":
        for key, found, wanted in tls.file_problems(settings.tls):
            yield Problem("configuration", 0, "postgres.tls", key, found, wanted)
    for index, cluster in enumerate(settings.clusters):
        for key, found, wanted in _server_tls(cluster.tls) if cluster.tls is not None else ():
            yield Problem("configuration", 0, f"postgres.clusters[{index}].tls", key, found, wanted)
    auth = settings.auth
    readers: tuple[tuple[str, str, Callable[[str, str], object]], ...] = (
        ("hba_file", auth.hba_file, HbaRules.parse),
        ("ident_file", auth.ident_file, IdentMaps.parse),
        ("userlist_file", auth.userlist_file, parse_userlist),
    )
    for key, path, parse in readers:
        if path:
            yield from _parsed(key, path, parse)


def _parsed(key: str, path: str, parse: Callable[[str, str], object]) -> Iterator[Problem]:
    """Yield why a file cannot be had, or every line of it that cannot be taken."""
    if trouble := file_trouble(path):
        yield Problem("configuration", 0, "postgres.auth", key, trouble, "a file that this process can read")
        return
    try:
        parse(Path(path).read_bytes().decode(), path)
    except UnicodeDecodeError:
        yield Problem("configuration", 0, "postgres.auth", key, f"{path}, which is not UTF-8", "UTF-8")
    except ConfigError as error:
        yield from error.problems


def warnings_of(settings: PostgresSettings, now: datetime) -> Iterator[str]:
    """Yield a sentence for each thing that works today and should be mended all the same.

    Args:
        settings: without problems.
        now: with its time zone.
    """
    if settings.tls is not None and settings.tls.mode != "disable":
        yield from (f"tls: {sentence}" for sentence in tls.warnings_of(settings.tls, now))
    if not settings.listeners:
        yield "no listener, so no client can connect"
    if not settings.databases:
        yield "no database, so only the console can be connected to"
    yield from _logins(settings)
    for cluster in settings.clusters:
        yield from _cluster(cluster, is_moving=settings.failover.is_enabled)
    pool = settings.pool
    modes = {pool.mode, *(one.pool_mode for one in settings.databases)}
    modes.update(one.pool_mode for one in settings.users)
    if "session" in modes and not pool.server_reset_query.strip():
        yield "pool.server_reset_query is empty, so what a client sets in session mode may reach the next"
    if pool.reserve_size_count and 0 < pool.queue_timeout_s <= pool.reserve_timeout_s:
        yield "pool.reserve_timeout_s is not before queue_timeout_s, so the reserve is never used"


def _logins(settings: PostgresSettings) -> Iterator[str]:
    auth = settings.auth
    has_users = bool(auth.userlist_file or auth.query or any(user.password for user in settings.users))
    if auth.method in {"scram-sha-256", "md5", "password"} and not has_users:
        yield "nobody has a password: no user with one, no userlist_file, no query; so nobody can log in"
    if auth.userlist_file and Path(auth.userlist_file).stat().st_mode & _READABLE_BY_OTHERS:
        yield f"everybody can read the passwords in {auth.userlist_file}; chmod o-r"
    open_listeners = [one.address for one in settings.listeners if not is_near(one.address)]
    if auth.method == "trust" and open_listeners:
        yield f"whoever reaches {open_listeners[0]} is let in: auth.method is 'trust'"
    has_tls = settings.tls is not None and settings.tls.mode in {"require", "verify-full"}
    if auth.method == "password" and open_listeners and not has_tls:
        yield f"passwords come to {open_listeners[0]} in the clear: auth.method is 'password' without TLS"


def _cluster(cluster: Cluster, *, is_moving: bool) -> Iterator[str]:
    if is_moving and len(cluster.nodes) > 1 and not cluster.monitor_user:
        yield f"cluster {cluster.name} has no monitor_user, so the loss of its primary is seen late"
    far = [node.address for node in cluster.nodes if not is_near(node.address)]
    mode = cluster.tls.mode if cluster.tls is not None else "disable"
    if far and mode in {"disable", "prefer"}:
        yield f"what goes to {far[0]} can be read on the way: cluster {cluster.name} has tls mode {mode!r}"


def _server_tls(settings: ServerTls) -> Iterator[tuple[str, str, str]]:
    if settings.certificate_file:
        own = TlsSettings(
            certificate_file=settings.certificate_file, private_key_file=settings.private_key_file
        )
        yield from tls.file_problems(own)
    if settings.ca_file and (trouble := file_trouble(settings.ca_file)):
        yield "ca_file", trouble, "PEM certificates"
