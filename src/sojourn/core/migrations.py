"""Numbered SQL files that bring a PostgreSQL schema up to date, each applied once, then never changed.

What was applied is written, with a checksum of the file, to the table ``migrations`` of the schema itself.
Several processes may start at once: an advisory lock lets one work while the others wait and then find
nothing to do.

Knows nothing of a driver: whoever owns the connection hands it in, and the driver's errors pass through.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple, Protocol

from sojourn.errors import ConfigError, Problem

LOCK_CLASS = 0x736F6A  # "soj"
"""First half of the advisory lock's key; the second is made of the schema's name."""

_FILE_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_IDENTIFIER = re.compile(r"^[a-z_][a-z0-9_]*$")

_SCHEMA_EXISTS = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1"
_TABLE_EXISTS = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'migrations'"
_MAKE_TABLE = """
CREATE TABLE migrations (
    component  text NOT NULL,
    number     integer NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (component, number)
)
"""
_APPLIED = "SELECT number, name, checksum FROM migrations WHERE component = $1 ORDER BY number"
_NOTE = "INSERT INTO migrations (component, number, name, checksum) VALUES ($1, $2, $3, $4)"


class SqlConnection(Protocol):
    """What is needed of a connection; asyncpg's has it."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run SQL; several statements are allowed when there are no arguments."""

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run a query and return its rows."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Return a block that commits at its end and rolls back on an exception."""


class Migration(NamedTuple):
    """One file. Shape: ``checksum`` is the SHA-256 of its bytes, in hexadecimal."""

    number: int
    name: str
    sql: str
    checksum: str


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Return the folder's ``NNNN_words.sql`` files in order; other files are not looked at.

    Raises:
        ConfigError: the numbers are not 1, 2, 3 and so on.
    """
    found = []
    for entry in folder.iterdir():
        match = _FILE_NAME.match(entry.name)
        if match:
            content = entry.read_bytes()
            found.append(
                Migration(int(match[1]), entry.name, content.decode(), hashlib.sha256(content).hexdigest())
            )
    found.sort()
    numbers = [migration.number for migration in found]
    wanted = list(range(1, len(found) + 1))
    if numbers != wanted:
        problem = Problem(str(folder), 0, "migrations", "", f"numbers {numbers}", f"numbers {wanted}")
        raise ConfigError([problem])
    return tuple(found)


async def migrate(
    connection: SqlConnection, migrations: Sequence[Migration], *, schema: str, component: str
) -> tuple[int, ...]:
    """Apply what has not been applied yet, all of it or nothing, and return the numbers.

    Args:
        connection: outside of a transaction. The files run with ``search_path`` set to the schema alone.
        migrations: all of them, from number 1.
        schema: made if it does not exist.
        component: whose migrations these are; several components may share a schema.

    Raises:
        ConfigError: a file was changed after it had been applied, or the schema was made by a newer version.
    """
    if not _IDENTIFIER.match(schema):
        raise ConfigError([Problem("", 0, "", "schema", repr(schema), "lower-case letters, digits and _")])
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_catalog.pg_advisory_xact_lock($1, pg_catalog.hashtext($2))",
            LOCK_CLASS,
            schema,
        )
        # CREATE ... IF NOT EXISTS would want the right to create even where there is nothing to do.
        if not await connection.fetch(_SCHEMA_EXISTS, schema):
            await connection.execute(f'CREATE SCHEMA "{schema}"')
        await connection.execute(f'SET LOCAL search_path = "{schema}"')
        if not await connection.fetch(_TABLE_EXISTS, schema):
            await connection.execute(_MAKE_TABLE)
        applied = {row["number"]: row for row in await connection.fetch(_APPLIED, component)}
        problems = _problems(migrations, applied, f"{schema}.migrations")
        if problems:
            raise ConfigError(problems)
        fresh = [migration for migration in migrations if migration.number not in applied]
        for migration in fresh:
            await connection.execute(migration.sql)
            await connection.execute(_NOTE, component, migration.number, migration.name, migration.checksum)
    return tuple(migration.number for migration in fresh)


def _problems(migrations: Sequence[Migration], applied: dict[int, Any], table: str) -> list[Problem]:
    problems = []
    known = {migration.number: migration for migration in migrations}
    for number, row in applied.items():
        migration = known.get(number)
        if migration is None:
            found, wanted = "a file applied to the database", "a version that has this file"
            problems.append(Problem(row["name"], 0, table, str(number), found, wanted))
        elif migration.checksum != row["checksum"]:
            found = f"a file with checksum {migration.checksum[:12]}"
            wanted = f"the file that was applied, with checksum {row['checksum'][:12]}"
            problems.append(Problem(migration.name, 0, table, str(number), found, wanted))
    return problems
