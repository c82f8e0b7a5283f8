"""The ``[postgres]`` table: every mistake is named at once, with its place and what is wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sojourn.config import SojournSettings, load_text, show
from sojourn.errors import ConfigError
from sojourn.gateways.postgres.config import PostgresSettings, split_address

ROOT = Path(__file__).resolve().parents[3]

GOOD = """\
[[postgres.listeners]]
address = "127.0.0.1:6432"
[[postgres.clusters]]
name = "main"
nodes = [{ name = "db-1", address = "db-1.example.net:5432" }, { name = "db-2", address = "[2001:db8::2]:5433" }]
monitor_user = "watcher"
monitor_password = "secret-of-the-watcher"
[[postgres.databases]]
name = "shop"
cluster = "main"
"""


CLUSTER = """\
[[postgres.clusters]]
name = "main"
"""
SHOP = """\
[[postgres.databases]]
name = "shop"
cluster = "main"
"""
NODE = """\
[[postgres.clusters.nodes]]
name = "a"
address = "h:1"
"""


def load(text: str) -> PostgresSettings:
    """Return the table that this text has."""
    settings = load_text(text, "sojourn.toml", {}).postgres
    assert settings is not None
    return settings


def problems(text: str) -> list[str]:
    """Return ``table.key: found`` of each problem of this text."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, "sojourn.toml", {})
    return [f"{one.table}.{one.key}: {one.found}" for one in caught.value.problems]


def test_a_small_table_gets_the_defaults_of_a_pooler() -> None:
    """What is left out is what most installations want; clients may stay connected for ever."""
    settings = load(GOOD)
    assert settings.pool.mode == "transaction"
    assert settings.pool.size_count == 20
    assert settings.limits.connections_count == 10_000
    assert settings.limits.idle_timeout_s >= 86_400
    assert settings.auth.method == "scram-sha-256"
    assert settings.routing.default == "primary"
    assert settings.console.databases == ("sojourn",)
    assert [node.place for node in settings.clusters[0].nodes] == [
        ("db-1.example.net", 5432),
        ("2001:db8::2", 5433),
    ]


def test_a_partly_written_limits_table_keeps_the_defaults_for_postgresql() -> None:
    """The defaults belong to the table's type, not to one value of it."""
    limits = load(GOOD + "[postgres.limits]\nconnections_count = 7\n").limits
    assert (limits.connections_count, limits.connections_per_peer_count) == (7, 10_000)


def test_no_password_is_shown() -> None:
    """Neither the listing nor a representation has the secret."""
    settings = load_text(GOOD, "sojourn.toml", {})
    assert "secret-of-the-watcher" not in show(settings) + repr(settings)
    assert "***" in show(settings)


def test_what_is_listed_can_be_read_again() -> None:
    """``sojourn config show`` writes a configuration that means the same."""
    settings = load_text(GOOD.replace('monitor_password = "secret-of-the-watcher"\n', ""), "a", {})
    assert load_text(show(settings), "b", {}) == settings


def test_without_the_table_there_is_no_gateway() -> None:
    """A TACACS+ server needs nothing of PostgreSQL."""
    assert SojournSettings().postgres is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'databases = [{ name = "a", cluster = "nowhere" }]',
            "postgres.databases[0].cluster: 'nowhere', which is no cluster",
        ),
        (
            'users = [{ name = "ana" }, { name = "ana" }]',
            "postgres.users[1].name: 'ana' again, as in users[0]",
        ),
        ('clusters = [{ name = "main" }]', "postgres.clusters[0].nodes: no node"),
        (
            'clusters = [{ name = "main", nodes = [{ name = "a", address = "db-1" }] }]',
            "postgres.clusters[0].nodes[0].address: 'db-1'",
        ),
        (
            CLUSTER + NODE + NODE.replace('"a"', '"b"'),
            "postgres.clusters[0].nodes[1].address: 'h:1' again, as in clusters[0].nodes[0]",
        ),
        (
            'clusters = [{ name = "main", nodes = [{ name = "a", address = "h:1" }], patroni_urls = ["h:8008"] }]',
            "postgres.clusters[0].patroni_urls[0]: 'h:8008'",
        ),
        (
            'clusters = [{ name = "main", nodes = [{ name = "a", address = "h:1" }], monitor_password = "x" }]',
            "postgres.clusters[0].monitor_user: none",
        ),
        (
            CLUSTER + NODE + '[postgres.clusters.tls]\ncertificate_file = "x"\n',
            "postgres.clusters[0].tls.private_key_file: none",
        ),
        ('auth = { method = "hba" }', "postgres.auth.hba_file: none"),
        ('auth = { method = "cert" }', "postgres.auth.method: 'cert' without TLS"),
        ('auth = { query = "SELECT 1", query_user = "a" }', "postgres.auth.query: a query without $1"),
        ('auth = { query = "SELECT $1" }', "postgres.auth.query_user: none"),
        (
            'tls = { certificate_file = "a", private_key_file = "b", mode = "verify-full" }',
            "postgres.tls.client_ca_file: none",
        ),
        (
            'auth = { method = "cert" }\ntls = { certificate_file = "a", private_key_file = "b" }',
            "postgres.tls.client_ca_file: none",
        ),
        (
            'listeners = [{ tls = { certificate_file = "a", private_key_file = "b" } }]',
            "postgres.listeners[0].tls: TLS of the listener itself",
        ),
        (
            'workers_count = 2\nlisteners = [{ address = "127.0.0.1:6432" }, { address = "[::1]:0" }]',
            "postgres.listeners[1].address: '[::1]:0', while workers_count is 2",
        ),
        (
            "pool = { size_count = 2, min_size_count = 3 }",
            "postgres.pool.min_size_count: 3, more than size_count",
        ),
        (
            "routing = { classifier = true }",
            "postgres.routing.classifier: true, while routing.default is 'primary'",
        ),
        (
            'routing = { allowed_functions = ["now"] }',
            "postgres.routing.allowed_functions: functions without classifier",
        ),
        (
            "failover = { poll_interval_s = 5, buffering_timeout_s = 1 }",
            "postgres.failover.buffering_timeout_s: 1.0",
        ),
        (
            CLUSTER + NODE + SHOP + '[postgres.console]\ndatabases = ["shop"]\n',
            "postgres.console.databases[0]: 'shop', which is databases[0]",
        ),
        ('console = { databases = ["*"] }', "postgres.console.databases[0]: '*'"),
        ("audit = 1", "postgres.audit: 1"),
        ("pool = { size_count = 0 }", "postgres.pool.size_count: 0"),
    ],
)
def test_what_cannot_work_is_a_problem_with_its_place(text: str, problem: str) -> None:
    """Cross-field rules: each key path is the one that the operator has to change."""
    found = problems(f"[postgres]\n{text}\n")
    assert any(one.startswith(problem) for one in found), found


def test_all_problems_come_at_once() -> None:
    """An operator goes through the file once."""
    found = problems(
        GOOD
        + '[[postgres.databases]]\nname = "shop"\ncluster = "man"\n[postgres.console]\ndatabases = ["shop"]\n'
    )
    assert [one.split(":")[0] for one in found] == [
        "postgres.databases[1].name",
        "postgres.databases[1].cluster",
        "postgres.console.databases[0]",
    ]


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("db.example.net:5432", ("db.example.net", 5432)),
        ("[::1]:6000", ("::1", 6000)),
        ("unix:/run/postgresql:5432", ("/run/postgresql", 5432)),
        ("unix:/odd:name:1", ("/odd:name", 1)),
    ],
)
def test_an_address_is_a_host_or_a_directory_and_a_port(address: str, place: tuple[str, int]) -> None:
    """As libpq has it: a host that begins with a slash is the directory of a unix socket."""
    assert split_address(address) == place


@pytest.mark.parametrize(
    "address",
    [
        "",
        "db",
        "db:",
        ":5432",
        "db:0",
        "db:65536",
        "::1:5432",
        "db:\uff15",
        "unix:run:5432",
        "unix:/run",
        "/run:5432",
    ],
)
def test_anything_else_is_no_address(address: str) -> None:
    """The words say what is wanted."""
    with pytest.raises(ValueError, match=r"host:port"):
        split_address(address)


def test_the_example_file_is_good() -> None:
    """What is copied from ``examples/`` works."""
    path = ROOT / "examples" / "postgres.toml"
    settings = load_text(path.read_text(), str(path), {"SOJOURN_MONITOR_PASSWORD": "p", "SHOP_PASSWORD": "q"})
    assert settings.postgres is not None
    assert settings.postgres.databases


def test_a_classifier_without_its_parser_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra sojourn[routing] no statement would ever count as reading."""
    text = "[postgres.routing]\nclassifier = true\ndefault = 'replica_reads'\n"
    assert load(text).routing.classifier
    monkeypatch.setitem(sys.modules, "pglast", None)
    assert problems(text) == ["postgres.routing.classifier: true, while pglast is not installed"]
