"""Debian's PgBouncer, started for a benchmark: one process, the database in transaction and in session mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import proxies

from sojourn.embedded.certificates import Identity

PROGRAM = "/usr/sbin/pgbouncer"
SERVING_USER = "postgres"
"""PgBouncer refuses to run as root."""

_END_S = 10.0

CONFIGURATION = """
[databases]
{databases}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/userlist.txt
pool_mode = transaction
default_pool_size = {pool_size_count}
max_client_conn = {clients_count}
server_reset_query = DISCARD ALL
log_connections = 0
log_disconnections = 0
log_stats = 0
logfile = {folder}/pgbouncer.log
client_tls_sslmode = allow
client_tls_cert_file = {certificate}
client_tls_key_file = {key}
ignore_startup_parameters = extra_float_digits
{user}
"""


def is_installed() -> bool:
    """Say whether Debian's package is here."""
    return Path(PROGRAM).exists()


@contextlib.contextmanager
def running(
    folder: Path,
    postgres_port: int,
    identity: Identity,
    *,
    pool_size_count: int,
    clients_count: int,
    name: str = "PgBouncer",
) -> Iterator[proxies.Proxy]:
    """Run a PgBouncer for the length of the block.

    Args:
        folder: exists and is empty; the files are written there.
        postgres_port: where the server is on 127.0.0.1.
        identity: what it shows to clients that want TLS; it takes those that do not on the same port.
    """
    port = proxies.free_port()
    databases = "\n".join(
        f"{proxies.database_in(mode)} = host=127.0.0.1 port={postgres_port} dbname={proxies.DATABASE}"
        f" pool_mode={mode}"
        for mode in proxies.POOL_MODES
    )
    certificate = Path(shutil.copy(identity.certificate_file, folder / "server.pem"))
    key = Path(shutil.copy(identity.private_key_file, folder / "server.key"))
    (folder / "userlist.txt").write_text(f'"{proxies.USER}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(
            databases=databases,
            port=port,
            folder=folder,
            pool_size_count=pool_size_count,
            clients_count=clients_count,
            certificate=certificate,
            key=key,
            user=f"user = {SERVING_USER}" if os.geteuid() == 0 else "",
        )
    )
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, SERVING_USER)
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PROGRAM, "-q", str(folder / "pgbouncer.ini")], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        proxies.wait_until_it_listens(port, process, log)
        yield proxies.Proxy(name, port, process.pid)
    finally:
        process.terminate()
        process.wait(_END_S)
