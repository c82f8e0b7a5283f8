"""The files of a PostgreSQL cluster: made by initdb, from a cached template, or from a primary.

Knows how a cluster comes into being and who may log in to it; running it is :mod:`sojourn.embedded.postgres`'
work.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sojourn.core.secret import Secret
from sojourn.embedded.account import Account, ourselves
from sojourn.embedded.binaries import fingerprint, publish, unfinished
from sojourn.embedded.process import Deadline, Program, Supervisor
from sojourn.errors import BackendUnavailable

SUPERUSER: Final = "postgres"

INITDB_OPTIONS: Final = (
    f"--username={SUPERUSER}",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--auth=reject",
    "--no-instructions",
)
"""``reject``: the files in the data directory let nobody in; our own, outside of it, say who may."""

QUICK_OPTIONS: Final = ("--no-sync", "--wal-segsize=1")
"""For a cluster that is removed at the end: writing files is most of a start's time, and a WAL segment of
16 MiB would be 40 % of them."""

SCRAM_ITERATIONS: Final = 4096
"""RFC 7677 section 4 and PostgreSQL's scram_iterations."""


def access_rules(account: Account, hba_lines: Sequence[str]) -> tuple[str, str]:
    """Return pg_hba.conf and pg_ident.conf.

    On the unix socket the kernel tells who connects: only the user that we run as and the one that serves are
    the superuser, without a password. Every other role, and everybody on loopback, needs a SCRAM password.
    """
    hba = (
        f"local all,replication {SUPERUSER} peer map=sojourn",
        *hba_lines,
        "local all all scram-sha-256",
        "host all,replication all 127.0.0.1/32 scram-sha-256",
    )
    users = dict.fromkeys((ourselves().name, account.name))
    ident = (f'sojourn "{user}" {SUPERUSER}' for user in users)
    return "\n".join(hba) + "\n", "\n".join(ident) + "\n"


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes one server's cluster by its own programs, run by its supervisor as the serving user."""

    supervisor: Supervisor
    postgres: Path
    account: Account
    deadline: Deadline

    async def create_quickly(self, directory: Path, cache: Path | None) -> None:
        """Fill an empty directory with a cluster that need not survive a power cut.

        The first time initdb makes it, and tar packs it into the cache; from then on it is unpacked from
        there. Both run as the serving user: we never follow what it may have planted in a tree of its own. A
        template holds no secret; clusters made from it share a system identifier.
        """
        tar = shutil.which("tar")
        if cache is None or tar is None:
            await self._initdb(directory, *QUICK_OPTIONS)
            return
        stamp = fingerprint(self.postgres, *INITDB_OPTIONS, *QUICK_OPTIONS, self.account.name)
        template = cache / f"cluster-{stamp}.tar"
        if not template.exists():
            await self._initdb(directory, *QUICK_OPTIONS)
            packed = unfinished(cache)
            argv = (tar, "-c", "-f", "-", "-C", str(directory), ".")
            try:
                await self.supervisor.run(
                    Program(argv=argv, account=self.account, output_file=packed), self.deadline
                )
            except BackendUnavailable:
                # The cache may be full; the cluster itself is there.
                packed.unlink(missing_ok=True)
                return
            publish(packed, template)
            return
        unpack = Program(
            argv=(tar, "-x", "-f", "-", "-C", str(directory)), account=self.account, input_file=template
        )
        try:
            await self.supervisor.run(unpack, self.deadline)
        except BackendUnavailable as error:
            cause = f"{error.cause}; if it is damaged, remove {template}"
            raise BackendUnavailable(error.backend, error.after_s, cause) from error

    async def create_durably(self, directory: Path) -> None:
        """Make a cluster that appears under its name only when it is complete and written to disk."""
        making = self.account.own(directory.with_name(f".{directory.name}-{os.urandom(5).hex()}"))
        try:
            await self._initdb(making)
            making.rename(directory)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    async def copy_primary(self, directory: Path, socket_directory: Path, port: int) -> None:
        """Fill an empty directory with a streaming replica of the server on a unix socket."""
        argv = (
            str(self.postgres.with_name("pg_basebackup")),
            f"--pgdata={directory}",
            f"--host={socket_directory}",
            f"--port={port}",
            f"--username={SUPERUSER}",
            "--no-password",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
        )
        await self.supervisor.run(Program(argv=argv, account=self.account), self.deadline)

    async def _initdb(self, directory: Path, *options: str) -> None:
        argv = (str(self.postgres.with_name("initdb")), f"--pgdata={directory}", *INITDB_OPTIONS, *options)
        await self.supervisor.run(Program(argv=argv, account=self.account), self.deadline)


def password_verifier(password: Secret) -> str:
    """Return what PostgreSQL stores for a password: the password itself is in no statement and no log.

    Source: RFC 5802 section 3; the form is that of pg_authid.rolpassword.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.reveal().encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt64}${stored64}:{server64}"
