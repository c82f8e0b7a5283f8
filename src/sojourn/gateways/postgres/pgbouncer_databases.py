"""PgBouncer's ``[databases]`` and ``[users]`` as ours: each list of hosts becomes a cluster, used by whoever names it.

Knows connection strings and what they say here; opens no file. Source: PgBouncer 1.25, pgbouncer.ini(5).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from sojourn.core.secret import Secret
from sojourn.errors import Problem
from sojourn.gateways.postgres import pgbouncer_keys as words
from sojourn.gateways.postgres.config import Cluster, Database, NodeSettings, PoolSettings, ServerTls, User
from sojourn.gateways.postgres.pgbouncer_lines import Entry, read_pairs
from sojourn.gateways.postgres.server_config import DEFAULT_PORT

T = TypeVar("T")

CONSOLE: Final = "pgbouncer"
"""The name of PgBouncer's console, which no database may have."""
_PARAMETERS: Final = ("client_encoding", "datestyle", "timezone", "application_name")
_SECRET: Final = frozenset({"password"})
_LONGEST_NAME: Final = 255


class Ignored(NamedTuple):
    """A key that is accepted and changes nothing, and why."""

    file: str
    line: int
    section: str
    key: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.section}.{self.key} changes nothing: {self.why}"


class Findings:
    """What one reading has found besides settings; filled as the sections are gone through."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.unknown: list[Problem] = []
        self.ignored: list[Ignored] = []


class Keys:
    """Keys and values of one section or one connection string, taken one by one.

    Life: made of what was written; whoever knows a key takes it; :meth:`finish` says what is left over.
    """

    def __init__(self, values: Mapping[str, tuple[Entry, str]], findings: Findings, *, is_part: bool) -> None:
        self._values = dict(values)
        self._findings = findings
        self._is_part = is_part
        self._known: set[str] = set()

    def entry(self, key: str) -> Entry | None:
        """Return where a key was written, if it was."""
        return self._values[key][0] if key in self._values else None

    def take(self, key: str, read: Callable[[str], T], default: T) -> T:
        """Return a key's value, or the default if it is not written or is wrong, which is a problem then."""
        self._known.add(key)
        if key not in self._values:
            return default
        entry, text = self._values[key]
        try:
            return read(text)
        except ValueError as error:
            self.wrong(key, "a wrong value" if key in _SECRET else repr(text), str(error), entry)
            return default

    def text(self, key: str, default: str = "") -> str:
        """Return a key's text."""
        return self.take(key, str, default)

    def wrong(self, key: str, found: str, wanted: str, entry: Entry) -> None:
        """Add a problem of a key."""
        self._findings.problems.append(entry.problem(found, wanted, part=key if self._is_part else ""))

    def ignore(self, key: str, why: str) -> None:
        """Say that a key changes nothing, if it is written."""
        self._known.add(key)
        if key in self._values:
            entry, _ = self._values[key]
            name = f"{entry.key}.{key}" if self._is_part else key
            self._findings.ignored.append(Ignored(entry.file, entry.line, entry.section, name, why))

    def finish(self, without_effect: Mapping[str, str]) -> None:
        """Name every key that nobody has taken."""
        for key, why in without_effect.items():
            self.ignore(key, why)
        for key, (entry, _) in self._values.items():
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                wanted = f"{near[0]!r}, perhaps" if near else "a key that PgBouncer has"
                part = key if self._is_part else ""
                self._findings.unknown.append(entry.problem("an unknown key", wanted, part=part))


class AuthWish(NamedTuple):
    """What one database says about how unknown users are looked up."""

    user: str
    query: str
    dbname: str


class Places:
    """The clusters that databases have asked for so far; the same hosts are the same cluster."""

    def __init__(self, tls: ServerTls | None, socket_directory: str) -> None:
        self._tls = tls
        self._socket_directory = socket_directory
        self._names: dict[frozenset[tuple[str, int]], str] = {}
        self.clusters: list[Cluster] = []

    def cluster_of(self, host: str, port: str) -> str:
        """Return the name of the cluster that has these hosts and ports, lists with commas.

        Raises: ValueError, with what is wanted.
        """
        hosts = words.names(host) or (self._socket_directory,)
        if any(not one or one.startswith("@") for one in hosts):
            raise ValueError("a host name, an address or the directory of a unix socket")
        ports = [words.port(one) for one in words.names(port)] or [DEFAULT_PORT]
        if len(ports) not in {1, len(hosts)}:
            raise ValueError(f"one port, or one for each of the {len(hosts)} hosts")
        ports *= len(hosts) // len(ports)
        places = list(dict.fromkeys(zip(hosts, ports, strict=True)))
        key = frozenset(places)
        if key not in self._names:
            self._names[key] = self._add(places)
        return self._names[key]

    def _add(self, places: list[tuple[str, int]]) -> str:
        names = _distinct(_name(host, port) for host, port in places)
        nodes = tuple(
            NodeSettings(name=name, address=_address(host, port))
            for name, (host, port) in zip(names, places, strict=True)
        )
        stem = f"{names[0]}-and-{len(names) - 1}-more" if len(names) > 1 else names[0]
        cluster = _distinct([*(cluster.name for cluster in self.clusters), stem])[-1]
        is_local = all(host.startswith("/") for host, _ in places)
        self.clusters.append(Cluster(name=cluster, nodes=nodes, tls=None if is_local else self._tls))
        return cluster


def read_databases(
    entries: Iterable[Entry], places: Places, pool: PoolSettings, findings: Findings
) -> tuple[list[Database], list[tuple[Keys, AuthWish]]]:
    """Return databases in order of their lines, and what each says about ``auth_user``; the last of a name counts."""
    found: dict[str, Database] = {}
    wishes: dict[str, tuple[Keys, AuthWish]] = {}
    for entry in entries:
        keys = _keys_of(entry, findings)
        if keys is None:
            continue
        name = entry.key
        if name == CONSOLE:
            wanted = "another name: this one is the console"
            findings.problems.append(entry.problem(f"a database named {name!r}", wanted))
        elif len(name) > _LONGEST_NAME or "\x00" in name:
            findings.problems.append(entry.problem("no name", f"a name of 1 to {_LONGEST_NAME} characters"))
        database = _database(name, entry, keys, places, findings)
        size = database.pool_size_count or pool.size_count
        # PgBouncer caps it silently.
        least = min(database.min_pool_size_count, size)
        found[name] = msgspec.structs.replace(database, min_pool_size_count=least)
        wishes[name] = (
            keys,
            AuthWish(keys.text("auth_user"), keys.text("auth_query"), keys.text("auth_dbname")),
        )
        keys.finish(words.DATABASE_WITHOUT_EFFECT)
    return list(found.values()), list(wishes.values())


def _database(name: str, entry: Entry, keys: Keys, places: Places, findings: Findings) -> Database:
    host, port = keys.text("host"), keys.text("port")
    try:
        cluster = places.cluster_of(host, port)
    except ValueError as error:
        cluster = ""
        written = " ".join(f"{key}={value}" for key, value in (("host", host), ("port", port)) if value)
        findings.problems.append(
            entry.problem(repr(written) if written else "no host", str(error), part="host")
        )
    password = keys.text("password")
    return Database(
        name=name,
        cluster=cluster,
        dbname=keys.text("dbname"),
        user=keys.text("user"),
        password=Secret(password) if password else None,
        pool_mode=keys.take("pool_mode", words.one_of(words.POOL_MODES), ""),  # type: ignore[arg-type] # one of them
        pool_size_count=keys.take("pool_size", words.number, 0),
        reserve_pool_size_count=keys.take(
            "reserve_pool_size", words.number, keys.take("reserve_pool", words.number, 0)
        ),
        min_pool_size_count=keys.take("min_pool_size", words.number, 0),
        max_connections_count=keys.take("max_db_connections", words.number, 0),
        connect_query=keys.text("connect_query"),
        parameters={name: value for name in _PARAMETERS if (value := keys.text(name))},
    )


def read_users(entries: Iterable[Entry], findings: Findings) -> list[User]:
    """Return the users that ``[users]`` sets limits for; the last of a name counts."""
    found: dict[str, User] = {}
    for entry in entries:
        keys = _keys_of(entry, findings)
        if keys is None:
            continue
        found[entry.key] = User(
            name=entry.key,
            pool_mode=keys.take("pool_mode", words.one_of(words.POOL_MODES), ""),  # type: ignore[arg-type] # one of them
            pool_size_count=keys.take("pool_size", words.number, 0),
            max_connections_count=keys.take("max_user_connections", words.number, 0),
        )
        keys.finish(words.USER_WITHOUT_EFFECT)
    return list(found.values())


def _keys_of(entry: Entry, findings: Findings) -> Keys | None:
    try:
        pairs = read_pairs(entry.value)
    except ValueError as error:
        # The string itself stays unsaid: it may hold a password.
        findings.problems.append(entry.problem("a connection string that does not fit the form", str(error)))
        return None
    return Keys({key: (entry, value) for key, value in pairs}, findings, is_part=True)


def _name(host: str, port: int) -> str:
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", host).strip("-.") or "socket"
    return text if port == DEFAULT_PORT else f"{text}-{port}"


def _address(host: str, port: int) -> str:
    if host.startswith("/"):
        return f"unix:{host}:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _distinct(names: Iterable[str]) -> list[str]:
    """Give the second of two equal names a number."""
    taken: dict[str, None] = {}
    for name in names:
        number, candidate = 1, name
        while candidate in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken[candidate] = None
    return list(taken)
