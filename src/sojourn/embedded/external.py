"""A PostgreSQL that somebody else runs, under the interface of one of our own.

Knows no more of it than its address; nothing here connects to it.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from sojourn.errors import ConfigError, Problem


class Postgres(Protocol):
    """What a user of a server needs, no matter who runs it."""

    async def start(self) -> None:
        """Make it ready, or find that it is."""

    async def stop(self) -> None:
        """Let go of it."""

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of a database, for any client; may hold a password."""


class ExternalPostgres:
    """A PostgreSQL that somebody else runs, under the interface of ours; stopping it leaves it alone."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        if parts.scheme not in ("postgresql", "postgres"):
            problem = Problem(
                file="embedded PostgreSQL",
                line=0,
                table="",
                key="dsn",
                found=f"{parts.scheme or 'no'} scheme",
                wanted="postgresql://...",
            )
            raise ConfigError([problem])
        self._parts = parts

    def __repr__(self) -> str:
        return f"<PostgreSQL at {self._parts.hostname or 'a unix socket'}>"

    async def start(self) -> None:
        """Do nothing: the first connection shows whether it is there."""

    async def stop(self) -> None:
        """Do nothing: it is not ours to stop."""

    def dsn(self, database: str = "postgres") -> str:
        """Return the address with another database in it."""
        return urlunsplit(self._parts._replace(path=f"/{quote(database, safe='')}"))


def external(dsn: str) -> ExternalPostgres:
    """Give a running server the interface of an embedded one.

    Raises: ConfigError if the address is no ``postgresql://`` URL.
    """
    return ExternalPostgres(dsn)
