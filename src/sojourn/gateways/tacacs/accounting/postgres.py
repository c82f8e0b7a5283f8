"""Accounting records as rows of a PostgreSQL table.

"Stored" means committed, with the durability that the server and the role's ``synchronous_commit`` give. A
batch is one statement with one JSON parameter: the server takes it apart, which costs the loop a third of
what a row per parameter list costs. A commit whose answer was lost is repeated, and ``ON CONFLICT DO
NOTHING`` keeps it from doubling.

Knows nothing of queues or waiters. Imported only where a PostgreSQL sink is configured: asyncpg is the extra
``postgres``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.resources import files

import asyncpg
import msgspec

from sojourn.core.migrations import migrate, read_migrations
from sojourn.errors import BackendUnavailable, LocalProtocolError
from sojourn.gateways.tacacs.accounting.record import Record
from sojourn.gateways.tacacs.config import PostgresSink

COMPONENT = "tacacs.accounting"
"""Our name in the schema's table of migrations."""

TABLE = "tacacs_accounting"

_NUMBER_TYPES = {"session_id": "bigint", "priv_lvl": "smallint"}
_TYPES = {"record_id": "uuid", "stored_at": "timestamptz", "args": "jsonb"} | _NUMBER_TYPES

_BAD_RECORD = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""The server is well; this row is not for it. Source: PostgreSQL appendix A, classes 22 and 23."""


def _column_type(field: msgspec.structs.FieldInfo) -> str:
    return _TYPES.get(field.name) or ("bigint" if field.type == (int | None) else "text")


def insert_statement(schema: str) -> str:
    """Return the statement that stores a JSON array of records, each at most once."""
    fields = msgspec.structs.fields(Record)
    names = ", ".join(f'"{field.name}"' for field in fields)
    columns = ", ".join(f'"{field.name}" {_column_type(field)}' for field in fields)
    return (
        f'INSERT INTO "{schema}".{TABLE} ({names}) SELECT {names}'  # noqa: S608 - names of ours, not of a peer
        f" FROM pg_catalog.jsonb_to_recordset($1::jsonb) AS record ({columns})"
        " ON CONFLICT (record_id) DO NOTHING"
    )


class PostgresRows:
    """The connection of one ``[[tacacs.accounting.postgres]]``; one is enough: batches never overlap."""

    kind = "postgres"
    warning = ""

    def __init__(self, settings: PostgresSink) -> None:
        self.name: str = settings.name
        self._settings = settings
        self._statement = insert_statement(settings.schema)
        self._encode = msgspec.json.Encoder().encode
        self._connection: asyncpg.Connection | None = None

    async def open(self) -> bool:
        """Connect and bring the schema up to date.

        Raises:
            BackendUnavailable: the server is not there, refuses us, or is a standby that takes no rows.
            ConfigError: the migrations do not fit what was applied to the database.
        """
        await self.close()
        timeout_s = self._settings.timeout_s
        try:
            connection = await asyncpg.connect(
                self._settings.dsn.reveal(),
                timeout=timeout_s,
                command_timeout=timeout_s,
                server_settings={
                    "application_name": "sojourn accounting",
                    # The server gives up as well, or what we gave up would wait there for its lock.
                    "statement_timeout": str(max(int(timeout_s * 1000), 1)),
                },
            )
        except (asyncpg.PostgresError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from None
        except Exception as error:  # noqa: BLE001 - their text may quote the DSN, and with it the password
            raise BackendUnavailable(self.name, 0.0, f"can't connect ({type(error).__name__})") from None
        self._connection = connection
        try:
            migrations = read_migrations(files(__package__) / "migrations")
            await migrate(connection, migrations, schema=self._settings.schema, component=COMPONENT)
            # No rows at all still need a table, the right to insert, and a server that is no standby.
            await connection.execute(self._statement, "[]")
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._unavailable(error) from error
        return True

    async def store(self, records: Sequence[Record]) -> None:
        """Commit one row for each record that has none yet.

        Raises:
            BackendUnavailable: the server did not commit, or did not say so in time.
            LocalProtocolError: a record does not fit the table.
        """
        connection = self._connection
        if connection is None:
            raise BackendUnavailable(self.name, 0.0, "not connected")
        try:
            await connection.execute(self._statement, self._encode(records).decode())
        except _BAD_RECORD as error:
            source = f"PostgreSQL error {error.sqlstate}"
            raise LocalProtocolError("a record that the table refuses", "one that fits", source) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Close the connection; abort it where the server does not answer to that."""
        if self._connection is not None:
            old, self._connection = self._connection, None
            with contextlib.suppress(Exception):  # asyncpg has aborted it by then
                await old.close(timeout=self._settings.timeout_s / 2)

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
            return BackendUnavailable(self.name, 0.0, f"{error} ({error.sqlstate})")
        if isinstance(error, TimeoutError):
            return BackendUnavailable(self.name, self._settings.timeout_s, "no answer in time")
        if isinstance(error, OSError) and error.strerror:
            return BackendUnavailable(self.name, 0.0, error.strerror)
        return BackendUnavailable(self.name, 0.0, type(error).__name__)
