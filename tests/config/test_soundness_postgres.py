"""The files that ``[postgres]`` names must be there and good, and what is hardly meant is told."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from sojourn.config import SojournSettings, load_text
from sojourn.config.soundness import file_problems, warnings_of
from sojourn.embedded.certificates import LIFETIME, ThrowAwayAuthority

NOW = datetime.datetime.now(datetime.UTC)
GOOD = """\
[[postgres.listeners]]
address = "127.0.0.1:6432"
[[postgres.clusters]]
name = "main"
nodes = [{ name = "db-1", address = "127.0.0.1:5432" }]
[[postgres.databases]]
name = "shop"
cluster = "main"
[[postgres.users]]
name = "shop"
password = "p"
"""


def load(text: str) -> SojournSettings:
    """Return settings without problems."""
    return load_text(text, "sojourn.toml", {})


def warnings(text: str) -> list[str]:
    """Return what is warned about, without the name of the table."""
    return [sentence.removeprefix("postgres: ") for sentence in warnings_of(load(text), NOW)]


def test_a_sensible_table_is_not_warned_about() -> None:
    """Silence means that there is nothing to do."""
    assert warnings(GOOD) == []
    assert list(file_problems(load(GOOD))) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[postgres]\n", "no listener"),
        ("[postgres]\n", "no database"),
        (GOOD.replace('password = "p"\n', ""), "nobody has a password"),
        (
            GOOD.replace("127.0.0.1:6432", "0.0.0.0:6432") + '[postgres.auth]\nmethod = "trust"\n',
            "whoever reaches 0.0.0.0:6432 is let in",
        ),
        (
            GOOD.replace("127.0.0.1:6432", "[::]:6432") + '[postgres.auth]\nmethod = "password"\n',
            "passwords come to [::]:6432 in the clear",
        ),
        (
            GOOD.replace("127.0.0.1:5432", "db.example.net:5432"),
            "what goes to db.example.net:5432 can be read on the way",
        ),
        (
            GOOD.replace('5432" }]', '5432" }, { name = "db-2", address = "127.0.0.1:5433" }]'),
            "cluster main has no monitor_user",
        ),
        (GOOD + '[postgres.pool]\nmode = "session"\nserver_reset_query = ""\n', "pool.server_reset_query"),
        (GOOD + "[postgres.pool]\nreserve_size_count = 5\nqueue_timeout_s = 5\n", "pool.reserve_timeout_s"),
    ],
)
def test_what_is_hardly_meant_is_told(text: str, part: str) -> None:
    """It is allowed, so it is a warning: one sentence with the place."""
    assert [sentence for sentence in warnings(text) if sentence.startswith(part)]


def test_a_password_method_is_fine_where_everybody_has_tls(tmp_path: Path) -> None:
    """The password is not in the clear then; the certificate is warned about before it ends."""
    server = ThrowAwayAuthority(tmp_path).issue("server", ("localhost",))
    text = GOOD.replace("127.0.0.1:6432", "0.0.0.0:6432") + (
        '[postgres.auth]\nmethod = "password"\n[postgres.tls]\nmode = "require"\n'
        f'certificate_file = "{server.certificate_file}"\nprivate_key_file = "{server.private_key_file}"\n'
    )
    settings = load(text)
    assert list(file_problems(settings)) == []
    assert warnings_of(settings, NOW) == []
    assert warnings_of(settings, NOW + LIFETIME)[0].startswith("postgres: tls: ")


def test_every_file_is_looked_at(tmp_path: Path) -> None:
    """All that are missing at once, each under its key."""
    gone = tmp_path / "gone"
    files = f'certificate_file = "{gone}"\nprivate_key_file = "{gone}"\n'
    node = 'nodes = [{ name = "db-1", address = "127.0.0.1:5432" }]\n'
    text = GOOD.replace(node, f'{node}[postgres.clusters.tls]\nca_file = "{gone}"\n{files}')
    text += f"[postgres.tls]\n{files}"
    text += f'[postgres.auth]\nmethod = "hba"\nhba_file = "{gone}"\nident_file = "{gone}"\nuserlist_file = "{gone}"\n'
    found = [(problem.table, problem.key) for problem in file_problems(load(text))]
    assert found == [
        ("postgres.tls", "certificate_file"),
        ("postgres.tls", "private_key_file"),
        ("postgres.clusters[0].tls", "certificate_file"),
        ("postgres.clusters[0].tls", "private_key_file"),
        ("postgres.clusters[0].tls", "ca_file"),
        ("postgres.auth", "hba_file"),
        ("postgres.auth", "ident_file"),
        ("postgres.auth", "userlist_file"),
    ]


def test_lines_that_cannot_be_taken_are_named(tmp_path: Path) -> None:
    """A user list with a broken line lets nobody in silently; the problem has its line and not its password."""
    users = tmp_path / "userlist.txt"
    users.write_text('"ana" "fine"\nben hunter2\n')
    users.chmod(0o600)
    text = GOOD + f'[postgres.auth]\nuserlist_file = "{users}"\n'
    found = [str(problem) for problem in file_problems(load(text))]
    assert len(found) == 1
    assert found[0].startswith(f"{users}:2: ")
    assert "hunter2" not in found[0]
    users.write_bytes(b'"ana" "\xff"\n')
    assert [problem.key for problem in file_problems(load(text))] == ["userlist_file"]
