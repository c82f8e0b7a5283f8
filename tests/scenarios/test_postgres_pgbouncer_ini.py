"""``sojourn run --pgbouncer-ini FILE`` on files as they are in use: the same logins as PgBouncer itself, and a reload.

The files hold what installations have: several databases, a user list with three kinds of secrets, rules, limits,
the console's users. PgBouncer, where it is installed, is started with the very same files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from daemon_process import DaemonProcess
from gateway_room import LOCALHOST, PASSWORD, PSQL, server_thread

from sojourn.gateways.postgres.auth import md5_hash

ROLES = f"""
SET password_encryption = 'scram-sha-256'; CREATE ROLE ana LOGIN PASSWORD '{PASSWORD}';
SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE app LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE hidden LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE asker LOGIN SUPERUSER PASSWORD '{PASSWORD}';
CREATE DATABASE shop
"""
HBA = (
    "host all ana 127.0.0.1/32 scram-sha-256",
    "host all old 127.0.0.1/32 md5",
    "host all all 127.0.0.1/32 trust",
)

INI = """\
;; as packages install it, with what an installation changes
[databases]
shop = host=127.0.0.1 port={server} dbname=shop pool_size=3
front = host=127.0.0.1 port={server} dbname=shop user=app password={password} connect_query='SELECT 1'
* = host=127.0.0.1 port={server} auth_user=asker

[users]
old = pool_mode=session

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {folder}
logfile = {folder}/pooler.log
pidfile = {folder}/pooler.pid
auth_type = hba
auth_hba_file = {folder}/hba.conf
auth_file = {folder}/userlist.txt
auth_user = asker
admin_users = boss
stats_users = watcher
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 50
ignore_startup_parameters = extra_float_digits, options
server_reset_query = DISCARD ALL
server_tls_sslmode = disable
%include {folder}/more.ini
"""
RULES = """\
# TYPE DATABASE USER ADDRESS METHOD
local all all trust
host front old 127.0.0.1/32 reject
host all old 127.0.0.1/32 md5
host all boss,watcher 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
"""

LOGINS = [
    ("ana", PASSWORD, "shop", "ana"),
    ("ana", PASSWORD, "postgres", "ana"),
    ("ana", PASSWORD, "front", "app"),
    ("ana", "wrong", "shop", None),
    ("old", PASSWORD, "shop", "old"),
    ("old", PASSWORD, "front", None),
    ("old", "wrong", "shop", None),
    ("hidden", PASSWORD, "postgres", "hidden"),
    ("hidden", "wrong", "postgres", None),
    ("nobody", PASSWORD, "shop", None),
    ("ana", PASSWORD, "nowhere", None),
]
"""Who, by which password, where, and who one then is at the server; None: nobody."""


@pytest.fixture(scope="module")
def server():
    """Give a server with roles of every kind."""
    with server_thread(hba_lines=HBA) as running:
        for line in ROLES.strip().split("\n"):
            for statement in [line] if "SET" in line else line.split(";"):
                if statement.strip():
                    running.sql(statement)
        yield running


@pytest.fixture
def folder():
    """Give a directory that a pooler of another account can enter."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-ini-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def write(folder, server, port, *, size=2):
    """Write the files; ``size`` is what a reload changes."""
    (folder / "pgbouncer.ini").write_text(
        INI.format(server=server.postgres.port, port=port, folder=folder, password=PASSWORD, size=size)
    )
    (folder / "more.ini").write_text("max_prepared_statements = 100\n" if size < 100 else "")
    (folder / "hba.conf").write_text(RULES)
    (folder / "userlist.txt").write_text(
        f'"ana" "{server.verifier("ana")}"\n"old" "{md5_hash("old", PASSWORD.encode())}"\n'
        f'"asker" "{PASSWORD}"\n"boss" "{PASSWORD}"\n"watcher" "{PASSWORD}"\n"app" ""\n'
    )
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder / "pgbouncer.ini"


def free_port():
    """Return a port that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        return sock.getsockname()[1]


def psql(port, user, password, database, *, sql="SELECT current_user", host=LOCALHOST):
    """Run one command; return exit code, output and errors."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    keywords = f"host={host} port={port} user={user} dbname={database} sslmode=disable gssencmode=disable"
    done = subprocess.run(
        [PSQL, "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--command", sql, keywords],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=kept | {"PGPASSWORD": password, "LC_ALL": "C.UTF-8"},
    )
    return done.returncode, done.stdout.strip(), done.stderr


@contextlib.contextmanager
def ours(folder):
    """Run ``sojourn run`` on the file."""
    (folder / "sojourn.toml").write_text(
        f'[log]\nformat = "json"\nfile = ""\n[admin]\naddress = ""\nsocket = "{folder}/control.sock"\n'
    )
    arguments = ("--config", str(folder / "sojourn.toml"), "--pgbouncer-ini", str(folder / "pgbouncer.ini"))
    daemon = DaemonProcess(folder, arguments)
    try:
        yield daemon
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    finally:
        daemon.kill()


def wait_for_login(port, database="shop"):
    """Wait until somebody can log in."""
    deadline = time.monotonic() + 20
    while psql(port, "ana", PASSWORD, database)[0]:
        assert time.monotonic() < deadline


def outcomes(port):
    """Return what each login comes to."""
    found = []
    for user, password, database, _ in LOGINS:
        code, out, _ = psql(port, user, password, database)
        found.append((user, password, database, out if code == 0 else None))
    return found


def test_the_files_of_an_installation_let_the_same_people_in(server, folder):
    """User list, rules, forced users, auth_query and ``*``; the console under PgBouncer's name."""
    port = free_port()
    write(folder, server, port)
    with ours(folder):
        wait_for_login(port)
        assert outcomes(port) == LOGINS
        assert psql(port, "ana", "", "shop", host=str(folder))[:2] == (0, "ana")
        code, out, errors = psql(port, "boss", PASSWORD, "pgbouncer", sql="SHOW DATABASES")
        assert code == 0, errors
        assert {line.split("|")[0] for line in out.splitlines()} >= {"shop", "front"}
        assert psql(port, "watcher", PASSWORD, "pgbouncer", sql="SHOW VERSION")[0] == 0
        assert psql(port, "watcher", PASSWORD, "pgbouncer", sql="PAUSE")[0] != 0
        assert psql(port, "ana", PASSWORD, "pgbouncer", sql="SHOW VERSION")[0] != 0
        log = (folder / "pooler.log").read_text()
        assert PASSWORD not in log
        assert "Traceback" not in log


def test_a_signal_puts_a_changed_file_in_force(server, folder):
    """SIGHUP: a larger pool serves who waits; a file with a mistake changes nothing."""
    port = free_port()
    file = write(folder, server, port, size=1)
    dsn = f"host={LOCALHOST} port={port} user=ana password={PASSWORD} dbname=postgres sslmode=disable"
    with ours(folder) as daemon:
        wait_for_login(port, "postgres")
        with psycopg.connect(dsn, autocommit=True) as holder:
            holder.execute("BEGIN")
            waiting = subprocess.Popen(
                [PSQL, "--no-psqlrc", "--tuples-only", "--no-align", "--command", "SELECT 'served'", dsn],
                stdout=subprocess.PIPE,
                text=True,
            )
            with waiting:
                write(folder, server, port, size=2)
                daemon.signal(signal.SIGHUP)
                out, _ = waiting.communicate(timeout=30)
            assert (waiting.returncode, out.strip()) == (0, "served")
            file.write_text(file.read_text().replace("pool_mode = transaction", "pool_mode = nonsense"))
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: "config.refused" in log_of(folder))
            assert psql(port, "ana", PASSWORD, "postgres")[:2] == (0, "ana")
            holder.execute("COMMIT")


def log_of(folder):
    """Return what was logged so far."""
    return (folder / "pooler.log").read_text()


def wait_until(is_so):
    """Wait for what has to come."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline


@pytest.mark.debian("pgbouncer")
def test_pgbouncer_itself_comes_to_the_same_with_the_same_files(server, folder):
    """Conformance: who gets in, and as whom, is the same for every login of the table."""
    port = free_port()
    file = write(folder, server, port)
    (folder / "more.ini").write_text("")  # Debian's release is older than that key
    account = ["--user", "nobody"] if os.getuid() == 0 else []
    pooler = subprocess.Popen(
        [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "--quiet", *account, str(file)],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_login(port)
        assert outcomes(port) == LOGINS
    finally:
        pooler.terminate()
        pooler.wait(20)
