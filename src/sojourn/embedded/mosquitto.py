"""An MQTT broker of our own: Debian's Mosquitto on a loopback port, with passwords, rules and TLS if wished.

The program comes from the machine or from a directory that the operator names; there is no wheel of it. No client
library is needed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sojourn.core.secret import Secret
from sojourn.embedded import binaries
from sojourn.embedded.account import (
    Account,
    free_port,
    owner_account,
    serving_account,
    take_directory,
    temporary_parent,
)
from sojourn.embedded.process import Deadline, LaunchedProgram, Program, Supervisor
from sojourn.errors import BackendUnavailable, ConfigError, Problem

SERVING_USERS: Final = ("mosquitto", "nobody")
START_WITHIN_S: Final = 15.0
NAME: Final = "Mosquitto"
PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin"
"""Where packages put the program; Debian's is not on an ordinary user's PATH."""

ENDINGS: Final = ((signal.SIGKILL, 3.0),)
SAVING: Final = ((signal.SIGTERM, 5.0), *ENDINGS)
"""SIGTERM saves retained messages and sessions."""

OURS: Final = frozenset(
    {
        "acl_file",
        "allow_anonymous",
        "bind_address",
        "certfile",
        "keyfile",
        "listener",
        "log_dest",
        "password_file",
        "per_listener_settings",
        "persistence",
        "persistence_location",
        "port",
        "set_tcp_nodelay",
        "user",
    }
)
"""Settings that this launcher makes itself."""

_ROUNDS: Final = 101
"""Of PBKDF2, as mosquitto_passwd takes them: the broker pays for them at each login."""


class MqttUser(NamedTuple):
    """Who may log in, and what they may do: ``topics`` are lines such as ``readwrite sojourn/#``.

    Source: mosquitto.conf(5), ``acl_file``.
    """

    name: str
    password: Secret
    topics: Sequence[str] = ("readwrite #",)


class TlsFiles(NamedTuple):
    """What the broker shows to clients, in PEM."""

    certificate_file: Path
    private_key_file: Path


class MosquittoServer(LaunchedProgram):
    """One broker that lives as long as this object says, and never longer than our process.

    Its owner starts and stops it; started again, it has the same port and users. Where we are root it runs as an
    existing ordinary user. Nobody is let in without a password.

    Args:
        directory: where retained messages stay between runs; None forgets them.
        port: a loopback port; 0 takes a free one at the first start.
        users: who may log in; None makes up one who may do everything.
        tls: the port speaks TLS, and nothing else.
        bin_directory: a directory with ``mosquitto``; None looks where packages put it.
        settings: broker settings in addition to ours.
        user: whom to run as where we are root; None takes the first of ``mosquitto`` and ``nobody``.
        start_within_s: how long a start may take.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        port: int = 0,
        users: Sequence[MqttUser] | None = None,
        tls: TlsFiles | None = None,
        bin_directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
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
        self.port = port
        self.users = tuple(users or (MqttUser("sojourn", Secret(secrets.token_urlsafe(24))),))
        for one in self.users:
            if ":" in one.name or not one.name.isprintable():
                raise ConfigError([_problem("users", "a name with a colon or worse", "a plain name")])
        self._takes_any_port = port == 0
        self._tls = tls
        self._bin_directory = bin_directory
        self._settings = dict(settings or {})
        self._accounts = SERVING_USERS if user is None else (user,)

    def __repr__(self) -> str:
        return f"<Mosquitto {'running' if self.is_running else 'stopped'} at {self.url}>"

    @property
    def url(self) -> str:
        """Where clients find it; holds no password."""
        return f"{'mqtt' if self._tls is None else 'mqtts'}://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        """End the broker as a power cut would: nothing is saved, no client is told."""
        if self._supervisor is not None:
            await self._supervisor.signal(signal.SIGKILL)
            await self._supervisor.ended(self._start_within_s)
        await self.stop()

    async def _launch(self, deadline: Deadline) -> None:
        account = serving_account(NAME, self._accounts)
        if self.directory is not None and (self.directory / "data").exists():
            account = owner_account(self.directory / "data", account)
        program = self._program(account)
        supervisor = self._supervisor = Supervisor.open(NAME)
        parent = temporary_parent(NAME, account, f"sojourn-mosquitto-{'x' * 10}/run/mqtt.sock")
        place = self._place = await supervisor.directory(parent, "sojourn-mosquitto-", deadline)
        account.admit(place)
        account.own(place / "run")
        if self.directory is not None:
            take_directory(NAME, self.directory, account)
            if not (self.directory / "data").exists():
                account.own(self.directory / "data")
        self._write(account, "passwords", "".join(_password_line(user) for user in self.users).encode())
        self._write(account, "rules", "".join(_rules(user) for user in self.users).encode())
        if self._tls is not None:
            self._write(account, "server.pem", self._tls.certificate_file.read_bytes())
            self._write(account, "server.key", self._tls.private_key_file.read_bytes())
        while True:
            self.port = self.port or free_port()
            self._write(account, "mosquitto.conf", self._configuration(place).encode())
            argv = (str(program), "-c", str(place / "mosquitto.conf"))
            endings = SAVING if self.directory else ENDINGS
            broker = Program(argv=argv, account=account, endings=endings)
            try:
                self.pid = await supervisor.launch(broker, self._is_ready, deadline)
            except BackendUnavailable as error:
                if self._takes_any_port and "Address already in use" in error.cause and deadline.left_s:
                    self.port = 0
                    continue
                raise
            return

    def _program(self, account: Account) -> Path:
        found = None if self._bin_directory else shutil.which("mosquitto", path=PLACES)
        if self._bin_directory is None and found is None:
            wanted = "install the Debian package mosquitto, or give the address of a running broker"
            raise BackendUnavailable(NAME, 0.0, f"there is none on this machine; {wanted}")
        directory = self._bin_directory or Path(found or "").parent
        return binaries.system_program(NAME, directory, "mosquitto", account)

    def _write(self, account: Account, name: str, content: bytes) -> None:
        """Write a file that this broker may read and nobody else."""
        assert self._place is not None  # noqa: S101  only _launch calls, which has just made it
        file = self._place / name
        file.touch(mode=0o600)
        file.write_bytes(content)
        account.admit(file)

    def _configuration(self, place: Path) -> str:
        """Return the configuration; the unix socket is for our own question if it is ready."""
        persistence = "false" if self.directory is None else "true"
        lines = [
            "per_listener_settings false",
            "allow_anonymous false",
            f"password_file {place / 'passwords'}",
            f"acl_file {place / 'rules'}",
            f"persistence {persistence}",
            "log_dest stderr",
            "set_tcp_nodelay true",
            *(f"{key} {value}" for key, value in self._settings.items()),
        ]
        if self.directory is not None:
            lines.append(f"persistence_location {self.directory / 'data'}/")
        lines.append(f"listener {self.port} 127.0.0.1")
        if self._tls is not None:
            lines += [f"certfile {place / 'server.pem'}", f"keyfile {place / 'server.key'}"]
        lines.append(f"listener 0 {place / 'run' / 'mqtt.sock'}")
        return "\n".join(lines) + "\n"

    async def _is_ready(self, _pid: int) -> bool:
        """Log in as the first user; that all listeners are open comes before."""
        assert self._place is not None  # noqa: S101  as above
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._place / "run" / "mqtt.sock"))
        except OSError:
            return False
        try:
            writer.write(_connect(self.users[0]))
            return (await reader.read(4)) == b"\x20\x02\x00\x00"
        except OSError:
            return False
        finally:
            writer.close()


def _connect(user: MqttUser) -> bytes:
    """Return a CONNECT with a clean session; the names are short enough for lengths of one byte.

    Source: MQTT 3.1.1 section 3.1.
    """
    words = b"".join(
        len(word).to_bytes(2, "big") + word
        for word in (b"sojourn-ready", user.name.encode(), user.password.reveal().encode())
    )
    body = b"\x00\x04MQTT\x04\xc2\x00\x05" + words
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])  # noqa: PLR2004
    return b"\x10" + length + body


def _password_line(user: MqttUser) -> str:
    """Return a line as mosquitto_passwd writes it; that program would take the password as an argument."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", user.password.reveal().encode(), salt, _ROUNDS)
    shown = [base64.b64encode(part).decode() for part in (salt, digest)]
    return f"{user.name}:$7${_ROUNDS}${shown[0]}${shown[1]}\n"


def _rules(user: MqttUser) -> str:
    return f"user {user.name}\n" + "".join(f"topic {line}\n" for line in user.topics) + "\n"


def _problem(key: str, found: str, wanted: str) -> Problem:
    return Problem(file="embedded Mosquitto", line=0, table="", key=key, found=found, wanted=wanted)
