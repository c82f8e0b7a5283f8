"""What is wrong with a ``[postgres]`` table that no single value shows: names, references, what cannot work.

Reads declared settings, and whether the SQL parser is installed; opens no file, dials nothing, never shows a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from sojourn.gateways.postgres import classifier
from sojourn.gateways.postgres.config import Cluster, PostgresSettings, split_address

Found = tuple[str, str, str]
"""Key path such as ``databases[2].cluster``, what was found, what was wanted."""

EVERY_DATABASE: Final = "*"
"""The name of the database that stands for every name that is not listed, as in PgBouncer."""


def find_problems(settings: PostgresSettings) -> Iterator[Found]:
    """Yield everything that the operator has to mend."""
    yield from _repeated("clusters", [cluster.name for cluster in settings.clusters])
    yield from _repeated("databases", [database.name for database in settings.databases])
    yield from _repeated("users", [user.name for user in settings.users])
    yield from _listeners(settings)
    for index, cluster in enumerate(settings.clusters):
        yield from _cluster(f"clusters[{index}]", cluster)
    yield from _databases(settings)
    yield from _users(settings)
    yield from _pool(settings)
    yield from _auth(settings)
    yield from _routing(settings)
    yield from _console(settings)


def _repeated(table: str, names: list[str], key: str = ".name") -> Iterator[Found]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            found = f"{name!r} again, as in {table}[{first[name]}]"
            yield f"{table}[{index}]{key}", found, "a name that is used once"


def _listeners(settings: PostgresSettings) -> Iterator[Found]:
    for index, listener in enumerate(settings.listeners):
        if listener.tls is not None:
            wanted = "[postgres.tls] instead: PostgreSQL clients ask for TLS inside the protocol"
            yield f"listeners[{index}].tls", "TLS of the listener itself", wanted
        is_free_port = listener.address.endswith(":0") and not listener.address.startswith("unix:")
        if is_free_port and settings.workers_count > 1:
            found = f"{listener.address!r}, while workers_count is {settings.workers_count}"
            yield f"listeners[{index}].address", found, "a port: each worker would take another free one"


def _cluster(path: str, cluster: Cluster) -> Iterator[Found]:
    if not cluster.nodes:
        yield f"{path}.nodes", "no node", "at least one server"
    yield from _repeated(f"{path}.nodes", [node.name for node in cluster.nodes])
    places: dict[tuple[str, int], int] = {}
    for index, node in enumerate(cluster.nodes):
        try:
            place = split_address(node.address)
        except ValueError as error:
            yield f"{path}.nodes[{index}].address", repr(node.address), str(error)
            continue
        if (first := places.setdefault(place, index)) != index:
            found = f"{node.address!r} again, as in {path}.nodes[{first}]"
            yield f"{path}.nodes[{index}].address", found, "an address of its own for each node"
    for index, url in enumerate(cluster.patroni_urls):
        if not _is_http(url):
            yield f"{path}.patroni_urls[{index}]", repr(url), "http://host:port or https://host:port"
    if cluster.monitor_password is not None and not cluster.monitor_user:
        yield f"{path}.monitor_user", "none", "the user that monitor_password belongs to"
    tls = cluster.tls
    if tls is not None and bool(tls.certificate_file) != bool(tls.private_key_file):
        missing = "private_key_file" if tls.certificate_file else "certificate_file"
        yield f"{path}.tls.{missing}", "none", "both certificate_file and private_key_file, or neither"


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _databases(settings: PostgresSettings) -> Iterator[Found]:
    clusters = {cluster.name for cluster in settings.clusters}
    for index, database in enumerate(settings.databases):
        path = f"databases[{index}]"
        if database.cluster not in clusters:
            yield f"{path}.cluster", f"{database.cluster!r}, which is no cluster", _one_of(clusters)
        size = database.pool_size_count or settings.pool.size_count
        if database.min_pool_size_count > size:
            found = f"{database.min_pool_size_count}, more than the pool's {size}"
            yield f"{path}.min_pool_size_count", found, f"at most {size}"
        for name in ("user", "database"):
            if name in database.parameters:
                yield (
                    f"{path}.parameters.{name}",
                    "a parameter that the login sets",
                    "user and dbname instead",
                )
        for name in ("replication", "options"):
            if name in database.parameters:
                yield (
                    f"{path}.parameters.{name}",
                    "a parameter that is not for all clients",
                    "settings by name",
                )


def _users(settings: PostgresSettings) -> Iterator[Found]:
    routes = any(len(cluster.nodes) > 1 or cluster.patroni_urls for cluster in settings.clusters)
    for index, user in enumerate(settings.users):
        if user.route == "replica" and settings.clusters and not routes:
            yield (
                f"users[{index}].route",
                "'replica', while no cluster has two nodes",
                "a cluster with a replica",
            )


def _pool(settings: PostgresSettings) -> Iterator[Found]:
    pool = settings.pool
    if pool.min_size_count > pool.size_count:
        yield (
            "pool.min_size_count",
            f"{pool.min_size_count}, more than size_count",
            f"at most {pool.size_count}",
        )


def _auth(settings: PostgresSettings) -> Iterator[Found]:
    auth = settings.auth
    if auth.method == "cert" and (settings.tls is None or settings.tls.mode == "disable"):
        yield "auth.method", "'cert' without TLS", "[postgres.tls] with client_ca_file, or another method"
    elif auth.method == "cert" and settings.tls is not None and not settings.tls.client_ca_file:
        yield "tls.client_ca_file", "none", "the certificates that sign clients, as auth.method is 'cert'"
    if auth.query_database:
        names = {database.name for database in settings.databases}
        if auth.query_database not in names and EVERY_DATABASE not in names:
            found = f"{auth.query_database!r}, which is no database"
            yield "auth.query_database", found, _one_of(names)


def _routing(settings: PostgresSettings) -> Iterator[Found]:
    routing = settings.routing
    if routing.classifier and routing.default != "replica_reads":
        found = f"true, while routing.default is {routing.default!r}"
        yield "routing.classifier", found, "false, or routing.default = 'replica_reads'"
    if routing.classifier and not classifier.is_available():
        yield (
            "routing.classifier",
            "true, while pglast is not installed",
            "false, or sojourn[routing] installed",
        )
    if routing.allowed_functions and not routing.classifier:
        yield "routing.allowed_functions", "functions without classifier", "classifier = true, or none"


def _console(settings: PostgresSettings) -> Iterator[Found]:
    console = settings.console
    yield from _repeated("console.databases", list(console.databases), "")
    names = {database.name: index for index, database in enumerate(settings.databases)}
    for index, name in enumerate(console.databases):
        if name == EVERY_DATABASE:
            yield f"console.databases[{index}]", repr(name), "a name; the console cannot be every database"
        elif name in names:
            found = f"{name!r}, which is databases[{names[name]}]"
            yield f"console.databases[{index}]", found, "a name that no database has"
        elif not name:
            yield f"console.databases[{index}]", "an empty name", "a name"


def _one_of(names: Iterable[str]) -> str:
    known = ", ".join(sorted(names))
    return f"one of {known}" if known else "a name that is declared; none is"
