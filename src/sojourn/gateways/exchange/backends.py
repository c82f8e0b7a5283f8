"""Backends: the database and the bus that the settings ask for, those of our own included.

A PostgreSQL and a Valkey of our own are started before they are used, restarted if they die, and stopped with us.
Each start has its socket in another place; clients get the address of a link that leads there, so that what they were
told once stays true. Knows nothing of sessions.

Source: exchange-session-service.md section 5.7.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

import msgspec

from sojourn.core.events import EventKind
from sojourn.core.secret import Secret
from sojourn.errors import ConfigError, Problem, SojournError
from sojourn.gateways.exchange.dev_issuer import make_key_file
from sojourn.gateways.exchange.storage import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sojourn.core.events import Events
    from sojourn.gateways.exchange.bus_config import ValkeySettings
    from sojourn.gateways.exchange.config import ExchangeSettings

EMBEDDED_LOST: Final = EventKind("exchange.embedded_lost", ("server",), level="error")
"""A server of our own has died; it is started again."""
EMBEDDED_STARTED: Final = EventKind("exchange.embedded_started", ("server", "directory"))
EMBEDDED_NOT_STARTED: Final = EventKind("exchange.embedded_not_started", ("server", "error"), level="error")
"""A server of our own does not start; it is tried again."""
DIRECTORY_MODE: Final = 0o711
"""As root the servers run as another user, who must be able to pass."""
LOOK_S: Final = 1.0
LONGEST_LINK: Final = 80
"""Characters: the name of a socket behind it must fit into 107 bytes. Source: unix(7), sun_path."""


class OwnServer(Protocol):
    """A server of our own."""

    async def start(self) -> None:
        """Start it. Raises: BackendUnavailable, ConfigError."""

    async def stop(self) -> None:
        """Stop it."""

    @property
    def is_running(self) -> bool:
        """Say whether it lives."""

    host: str
    """The directory of its socket, or an address if it has a port."""


class Backends:
    """The servers of our own.

    Life: started before the store and the bus are made, stopped after both. Always true: a server that has died is
    running again, or an event has told why not.

    Args:
        settings: of the gateway.
        events: of the daemon.
        sleep: waits.
    """

    _dsn: Callable[[], str]
    _url: Callable[[], str]

    def __init__(
        self,
        settings: ExchangeSettings,
        events: Events,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._events = events
        self._sleep = sleep
        self._servers: dict[str, OwnServer] = {}
        self._links: Path | None = None
        self._own_links: Path | None = None

    async def start(self) -> None:
        """Start what is to be our own. Raises: ConfigError, BackendUnavailable."""
        settings = self._settings
        embedded = settings.embedded
        if not embedded.directory:
            return
        _make_directory(Path(embedded.directory))
        self._make_links(Path(embedded.directory))
        if settings.has_own_key and not embedded.dev_key_file.exists():
            make_key_file(embedded.dev_key_file)
        # Launchers stand beside the house: a daemon without servers of its own does not load them.
        from sojourn.embedded.postgres import PostgresServer  # noqa: PLC0415
        from sojourn.embedded.valkey import ValkeyServer  # noqa: PLC0415

        if settings.has_own_postgres:
            postgres = PostgresServer(
                directory=embedded.postgres_directory,
                port=embedded.postgres_port or None,
                password=embedded.password,
                start_within_s=embedded.start_timeout_s,
            )
            self._servers["postgres"], self._dsn = postgres, postgres.dsn
        if settings.has_own_valkey:
            valkey = ValkeyServer(
                directory=embedded.valkey_directory,
                port=embedded.valkey_port or None,
                settings={"appendonly": "yes"},
                password=embedded.password,
                start_within_s=embedded.start_timeout_s,
            )
            self._servers["valkey"], self._url = valkey, valkey.url
        for name, server in self._servers.items():
            await self._run(name, server)

    def _make_links(self, directory: Path) -> None:
        """Make the directory of the links: beside the data, or where a shorter name is to be had."""
        self._links = directory.absolute() / "run"
        if len(str(self._links)) > LONGEST_LINK:
            self._links = self._own_links = Path(tempfile.mkdtemp(prefix="sojourn-exchange-"))
        self._links.mkdir(mode=0o700, exist_ok=True)

    def store(self) -> StoreSettings:
        """Return where sessions are kept."""
        if self._settings.store is not None:
            return self._settings.store
        return StoreSettings(dsn=Secret(self._lasting("postgres", self._dsn(), safe="")))

    def valkey(self) -> ValkeySettings:
        """Return what the pods share."""
        settings = self._settings.valkey
        if "valkey" not in self._servers:
            return settings
        return msgspec.structs.replace(settings, url=Secret(self._lasting("valkey", self._url(), safe="/")))

    def _lasting(self, name: str, address: str, *, safe: str) -> str:
        """Return an address that stays true when the server is started again."""
        host = self._servers[name].host
        if self._links is None or not host.startswith("/"):
            return address
        return address.replace(quote(host, safe=safe), quote(str(self._links / name), safe=safe))

    async def _run(self, name: str, server: OwnServer) -> None:
        """Start a server and let the link lead to it. Raises: ConfigError, BackendUnavailable, OSError."""
        await server.start()
        if self._links is not None and server.host.startswith("/"):
            new = self._links / f"{name}.new"
            new.unlink(missing_ok=True)
            new.symlink_to(server.host)
            new.replace(self._links / name)
        self._events.emit(EMBEDDED_STARTED, None, name, self._settings.embedded.directory)

    async def tend(self) -> None:
        """Start again what has died, for ever."""
        while True:
            await self._sleep(LOOK_S)
            for name, server in self._servers.items():
                if not server.is_running:
                    await self._restart(name, server)

    async def _restart(self, name: str, server: OwnServer) -> None:
        self._events.emit(EMBEDDED_LOST, None, name)
        try:
            await server.stop()
            await self._run(name, server)
        except (SojournError, OSError) as error:
            self._events.emit(EMBEDDED_NOT_STARTED, None, name, str(error) or type(error).__name__)

    async def stop(self) -> None:
        """Stop what is our own."""
        for server in reversed(self._servers.values()):
            await server.stop()
        self._servers.clear()
        if self._own_links is not None:
            shutil.rmtree(self._own_links, ignore_errors=True)


def _make_directory(path: Path) -> None:
    try:
        if not path.exists():
            path.mkdir(parents=True)
            path.chmod(DIRECTORY_MODE)
    except OSError as error:
        found = f"{str(path)!r}: {error.strerror}"
        raise ConfigError(
            [
                Problem(
                    "configuration",
                    0,
                    "exchange.embedded",
                    "directory",
                    found,
                    "a directory that we can make",
                )
            ]
        ) from error
