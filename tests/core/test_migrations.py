"""Migrations against a real server: once each, in order, never changed, never half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from sojourn.core.migrations import migrate, read_migrations
from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import ConfigError


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, sql in files.items():
        (folder / f"{name}.sql").write_text(sql)
    return folder


async def with_connection(scenario: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
    async with PostgresServer() as server:
        connection = await asyncpg.connect(server.dsn())
        try:
            await scenario(connection)
        finally:
            await connection.close()


def test_each_file_is_applied_once_and_in_order(run, tmp_path: Path) -> None:
    """A second start finds nothing to do; a new file is applied on top."""
    folder = write(
        tmp_path / "sql",
        **{"0002_b": "ALTER TABLE a ADD y int", "0001_a": "CREATE TABLE a (x int); CREATE TABLE b (x int)"},
    )
    (folder / "README.md").write_text("not a migration")

    async def scenario(connection: asyncpg.Connection) -> None:
        assert await migrate(connection, read_migrations(folder), schema="s", component="c") == (1, 2)
        assert await migrate(connection, read_migrations(folder), schema="s", component="c") == ()
        write(folder, **{"0003_c": "INSERT INTO a VALUES (1, 2)"})
        assert await migrate(connection, read_migrations(folder), schema="s", component="c") == (3,)
        assert await connection.fetchval("SELECT y FROM s.a") == 2
        assert await connection.fetchval("SHOW search_path") == '"$user", public'

    run(with_connection(scenario))


def test_components_share_a_schema_without_knowing_each_other(run, tmp_path: Path) -> None:
    """Numbers are each component's own."""
    one = write(tmp_path / "one", **{"0001_a": "CREATE TABLE a (x int)"})
    two = write(tmp_path / "two", **{"0001_b": "CREATE TABLE b (x int)"})

    async def scenario(connection: asyncpg.Connection) -> None:
        assert await migrate(connection, read_migrations(one), schema="s", component="one") == (1,)
        assert await migrate(connection, read_migrations(two), schema="s", component="two") == (1,)

    run(with_connection(scenario))


def test_a_file_that_was_changed_after_it_was_applied_is_refused(run, tmp_path: Path) -> None:
    """Nobody could say any more what the database holds; nothing is applied then."""
    folder = write(tmp_path / "sql", **{"0001_a": "CREATE TABLE a (x int)"})

    async def scenario(connection: asyncpg.Connection) -> None:
        await migrate(connection, read_migrations(folder), schema="s", component="c")
        write(folder, **{"0001_a": "CREATE TABLE a (x bigint)", "0002_b": "CREATE TABLE b (x int)"})
        with pytest.raises(ConfigError, match=r"0001_a\.sql: s\.migrations\.1: .*checksum"):
            await migrate(connection, read_migrations(folder), schema="s", component="c")
        assert await connection.fetchval("SELECT to_regclass('s.b')") is None

    run(with_connection(scenario))


def test_a_database_of_a_newer_version_is_refused(run, tmp_path: Path) -> None:
    """An older version does not know what the newer one made of the tables."""
    folder = write(tmp_path / "sql", **{"0001_a": "SELECT 1", "0002_b": "SELECT 2"})

    async def scenario(connection: asyncpg.Connection) -> None:
        migrations = read_migrations(folder)
        await migrate(connection, migrations, schema="s", component="c")
        with pytest.raises(ConfigError, match="a version that has this file"):
            await migrate(connection, migrations[:1], schema="s", component="c")

    run(with_connection(scenario))


def test_a_migration_that_fails_leaves_nothing_behind(run, tmp_path: Path) -> None:
    """All of them or none: the next start begins where this one did."""
    folder = write(tmp_path / "sql", **dict.fromkeys(["0001_a", "0002_b"], "CREATE TABLE a (x int)"))

    async def scenario(connection: asyncpg.Connection) -> None:
        with pytest.raises(asyncpg.DuplicateTableError):
            await migrate(connection, read_migrations(folder), schema="s", component="c")
        assert await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 's'") == 0

    run(with_connection(scenario))


def test_many_starts_at_once_apply_each_file_once(run, tmp_path: Path) -> None:
    """The advisory lock lets one work and the others wait, also while the schema is made."""
    folder = write(tmp_path / "sql", **{"0001_a": "CREATE TABLE a (x int)"})

    async def scenario() -> None:
        async with PostgresServer() as server:
            connections = [await asyncpg.connect(server.dsn()) for _ in range(8)]
            applied = await asyncio.gather(
                *[migrate(one, read_migrations(folder), schema="s", component="c") for one in connections]
            )
            assert sorted(applied) == [()] * 7 + [(1,)]
            for connection in connections:
                await connection.close()

    run(scenario())


@pytest.mark.parametrize("names", [["0002_a"], ["0001_a", "0003_b"], ["0001_a", "0001_b"]])
def test_numbers_that_leave_a_gap_or_come_twice_are_refused(tmp_path: Path, names: list[str]) -> None:
    """The order would depend on who merged first."""
    with pytest.raises(ConfigError, match="numbers"):
        read_migrations(write(tmp_path / "sql", **dict.fromkeys(names, "SELECT 1")))


def test_a_schema_name_that_needs_quotes_is_refused(run) -> None:
    """The name is put into statements."""
    with pytest.raises(ConfigError, match="schema"):
        run(migrate(None, (), schema='x"; DROP', component="c"))
