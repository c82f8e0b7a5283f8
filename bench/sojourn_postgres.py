"""Our side of ``postgres.py``: ``sojourn run`` with a ``[postgres]`` table, as in production.

JSON log at level info into a file, flight recorder at its default, the database in transaction and session mode.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import proxies

from sojourn.core.settings import RecorderSettings
from sojourn.embedded.certificates import Identity

PROGRAM = (sys.executable, "-c", "from sojourn.cli.main import main; main()")
_END_S = 40.0

CONFIGURATION = """
[log]
format = "json"
level = "info"
file = "{folder}/sojourn.log"

[recorder]
entries_per_session_count = {entries_count}

[admin]
address = ""
socket = "{folder}/admin.sock"

[postgres.limits]
connections_count = {clients_count}
connections_per_peer_count = {clients_count}
drain_timeout_s = 1.0

[postgres.tls]
mode = "allow"
certificate_file = "{certificate}"
private_key_file = "{key}"

[postgres.pool]
mode = "transaction"
size_count = {pool_size_count}

[postgres.auth]
method = "trust"

[[postgres.listeners]]
address = "127.0.0.1:{port}"
backlog_count = 4096

[[postgres.clusters]]
name = "bench"
monitor_user = "{user}"
monitor_database = "{database}"
nodes = [{{ name = "one", address = "127.0.0.1:{postgres_port}" }}]

[[postgres.users]]
name = "{user}"
{databases}
"""


@contextlib.contextmanager
def running(
    folder: Path,
    postgres_port: int,
    identity: Identity,
    *,
    pool_size_count: int,
    clients_count: int,
    name: str = "sojourn",
    entries_count: int = RecorderSettings().entries_per_session_count,
) -> Iterator[proxies.Proxy]:
    """Run a daemon for the length of the block.

    Args: as of ``pgbouncer.running``; ``entries_count`` of the flight recorder's ring per session, 0 = off.
    """
    port = proxies.free_port()
    databases = "".join(
        f"""
[[postgres.databases]]
name = "{proxies.database_in(mode)}"
dbname = "{proxies.DATABASE}"
cluster = "bench"
pool_mode = "{mode}"
"""
        for mode in proxies.POOL_MODES
    )
    configuration = folder / "sojourn.toml"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            entries_count=entries_count,
            port=port,
            postgres_port=postgres_port,
            user=proxies.USER,
            database=proxies.DATABASE,
            databases=databases,
            pool_size_count=pool_size_count,
            clients_count=clients_count,
            certificate=identity.certificate_file,
            key=identity.private_key_file,
        )
    )
    log = folder / "output.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOJOURN", "PG"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PROGRAM, "run", "--config", str(configuration)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=kept | {"XDG_RUNTIME_DIR": str(folder)},
        )
    try:
        proxies.wait_until_it_listens(port, process, log)
        yield proxies.Proxy(name, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_S)
