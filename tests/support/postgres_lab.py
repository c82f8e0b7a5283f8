"""A PostgreSQL, and ways to it: directly, and through a daemon of ours in session and in transaction mode.

A test asks :meth:`Lab.target` for each way that it compares; a daemon is started when it is first asked for. The
clients of a daemon log in by SCRAM, and the daemon logs in by SCRAM at the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from daemon_process import DaemonProcess, running_daemon

from sojourn.core.secret import Secret
from sojourn.embedded.postgres import PostgresServer

DIRECT = "direct"
SESSION = "ours-session"
TRANSACTION = "ours-transaction"
TARGETS = (DIRECT, SESSION, TRANSACTION)
OURS = (SESSION, TRANSACTION)

DEBIAN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/15/bin"))
"""What ``postgresql`` of Debian brings; it has contributed extensions and TLS, which the wheel's build lacks."""

USER = "lab"
PASSWORD = "laboratory"
DATABASE = "lab"
PROGRAM_WITHIN_S = 120.0
SIZES_COUNT = {"session": 60, "transaction": 12, "statement": 12}
"""Few where servers are shared, so that clients do change them."""

SETTINGS = {"max_connections": "200", "max_prepared_transactions": "50", "timezone": "UTC"}


class Target(NamedTuple):
    """One way to the server, as a client needs it."""

    name: str
    host: str
    port: int
    programs: Path
    database: str = DATABASE

    def dsn(self, scheme: str = "postgresql", database: str = "") -> str:
        """Return a URL for any driver; SQLAlchemy wants its own scheme."""
        return f"{scheme}://{USER}:{PASSWORD}@{self.host}:{self.port}/{database or self.database}"

    def environment(self, **more: str) -> dict[str, str]:
        """Return what libpq's programs need to get there, and nothing else of libpq's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return (
            kept
            | {
                "PGHOST": self.host,
                "PGPORT": str(self.port),
                "PGUSER": USER,
                "PGPASSWORD": PASSWORD,
                "PGDATABASE": self.database,
                "PGSSLMODE": "disable",
                "PGGSSENCMODE": "disable",
                "LC_ALL": "C.UTF-8",
                "PSQL_HISTORY": "/dev/null",
            }
            | more
        )

    def program(
        self, name: str, *arguments: str, text: str = "", within_s: float = PROGRAM_WITHIN_S
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs here, to its end."""
        return subprocess.run(
            [str(self.programs / name), *arguments],
            check=False,
            capture_output=True,
            text=True,
            input=text,
            timeout=within_s,
            env=self.environment(),
        )

    def psql(self, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script; what it prints holds its statements too, so that output and errors stay in order."""
        given = ("--no-psqlrc", "--echo-all", "--quiet", *arguments, "--file=-")
        return self.program("psql", *given, text=text)

    def value(self, sql: str) -> str:
        """Return what one statement answers."""
        done = self.program("psql", "--no-psqlrc", "--tuples-only", "--no-align", f"--command={sql}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def configuration(
    folder: Path,
    pool_mode: str,
    addresses: Sequence[str],
    *,
    users: Mapping[str, str] | None = None,
    more: str = "",
) -> str:
    """Return a ``sojourn.toml`` whose gateway passes every database on to these servers."""
    nodes = ", ".join(
        f'{{ name = "node-{number}", address = "{address}" }}' for number, address in enumerate(addresses, 1)
    )
    passwords = {USER: PASSWORD} | dict(users or {})
    tables = "".join(
        f'\n[[postgres.users]]\nname = "{name}"\npassword = "{password}"\n'
        for name, password in passwords.items()
    )
    return f"""
[log]
format = "json"

[admin]
address = ""
socket = "{folder / "control.sock"}"

[postgres.limits]
drain_timeout_s = 1.0

[postgres.pool]
mode = "{pool_mode}"
size_count = {SIZES_COUNT[pool_mode]}

[postgres.auth]
method = "scram-sha-256"

[postgres.console]
admin_users = ["{USER}"]

[[postgres.listeners]]
address = "127.0.0.1:0"

[[postgres.clusters]]
name = "lab"
monitor_user = "{USER}"
monitor_password = "{PASSWORD}"
nodes = [{nodes}]

[[postgres.databases]]
name = "*"
cluster = "lab"
{tables}{more}
"""


@contextlib.contextmanager
def start_gateway(
    mode: str, addresses: Sequence[str], folder: Path, *, more: str = ""
) -> Iterator[DaemonProcess]:
    """Run a daemon in a pool mode before these servers; it must end well.

    Args:
        mode: ``session``, ``transaction`` or ``statement``.
        addresses: ``host:port`` of each server.
        folder: exists; configuration and control socket are written there.
        more: more of the configuration.
    """
    with running_daemon(folder, configuration(folder, mode, addresses, more=more)) as daemon:
        yield daemon


class Lab:
    """One PostgreSQL and the daemons in front of it.

    Life: made by :func:`running_lab`, which ends everything.
    """

    def __init__(self, server: PostgresServer, folder: Path, stack: contextlib.ExitStack) -> None:
        assert server.bin_directory is not None
        self.server = server
        self._folder = folder
        self._stack = stack
        self._targets = {DIRECT: Target(DIRECT, "127.0.0.1", server.port, server.bin_directory)}
        self.daemons: dict[str, DaemonProcess] = {}

    @property
    def direct(self) -> Target:
        """The server itself."""
        return self._targets[DIRECT]

    def target(self, name: str) -> Target:
        """Return one of ``TARGETS``; a daemon starts when it is first asked for."""
        if name not in self._targets:
            folder = self._folder / name
            folder.mkdir()
            address = f"127.0.0.1:{self.server.port}"
            daemon = self._stack.enter_context(start_gateway(name.removeprefix("ours-"), [address], folder))
            self.daemons[name] = daemon
            self._targets[name] = self.direct._replace(name=name, port=daemon.port)
        return self._targets[name]

    def fresh_database(self, name: str) -> None:
        """Make a database anew; whoever is still in it is thrown out."""
        for command in (f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}"):
            done = self.direct._replace(database="postgres").psql(command, "--set=ON_ERROR_STOP=1")
            assert done.returncode == 0, done.stderr


class _Loop:
    """An event loop in a thread of its own, for a server that outlives any one coroutine of the test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work):
        """Run a coroutine there to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PROGRAM_WITHIN_S)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def running_lab(
    folder: Path,
    *,
    version: int = 18,
    is_debian: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Lab]:
    """Run a PostgreSQL with an empty database for the length of the block.

    Args:
        folder: exists; the daemons' files are written there.
        version: of the wheel, 16 or 18.
        is_debian: Debian's instead of the wheel.
    """
    with contextlib.ExitStack() as stack:
        loop = _Loop()
        stack.callback(loop.close)
        server = PostgresServer(
            version=version,
            bin_directory=DEBIAN if is_debian else None,
            port=0,
            settings=SETTINGS | dict(settings or {}),
            password=Secret(PASSWORD),
        )
        loop.run(server.start())
        stack.callback(lambda: loop.run(server.stop()))
        assert server.bin_directory is not None
        psql = server.bin_directory / "psql"
        create_role = f"CREATE ROLE {USER} SUPERUSER LOGIN PASSWORD '{PASSWORD}'"
        for command in (create_role, f"CREATE DATABASE {DATABASE} OWNER {USER}"):
            subprocess.run(
                [str(psql), "--no-psqlrc", "--quiet", f"--command={command}", server.dsn()],
                check=True,
                capture_output=True,
            )
        yield Lab(server, folder, stack)
