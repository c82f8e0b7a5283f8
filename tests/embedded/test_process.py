"""No process and no directory is left behind, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.embedded.account import ourselves
from sojourn.embedded.postgres import PostgresServer
from sojourn.embedded.process import Deadline, Program, run_once
from sojourn.embedded.valkey import ValkeyServer
from sojourn.errors import BackendUnavailable

OWNER = """
import asyncio, json, os, signal
from sojourn.embedded.postgres import PostgresServer
from sojourn.embedded.valkey import ValkeyServer

async def main():
    postgres, valkey = PostgresServer(), ValkeyServer()
    await asyncio.gather(postgres.start(), valkey.start())
    places = [str(postgres.socket_directory.parent), str(valkey.socket.parent.parent)]
    # A fork without exec, as multiprocessing makes, keeps our end of the supervisors' pipes open.
    if not (child := os.fork()):
        signal.pause()
    print(json.dumps([child, *places]), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_kill_9_of_the_owner_leaves_no_process_and_no_directory(watch, ended):
    """Issue 2 section 3: no process left behind even after kill -9 of ours."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        child, *names = json.loads(owner.stdout.readline())
        places = [Path(name) for name in names]
        watched = watch(owner.pid)
        os.close(watched.pop(child))
        assert len(watched) > 8
        assert all(place.is_dir() for place in places)
        owner.kill()
        assert ended(watched)
        os.kill(child, signal.SIGKILL)
    assert not any(place.exists() for place in places)


@pytest.mark.parametrize("server", [PostgresServer(), ValkeyServer()], ids=["postgres", "valkey"])
def test_kill_9_of_the_supervisor_ends_the_server(run, watch, ended, server):
    """The kernel sends the server its death signal, though it has changed its user since the fork."""

    async def scenario():
        async with server:
            watched = watch(server.pid)
            place = server.socket_directory if isinstance(server, PostgresServer) else server.socket.parent
            (supervisor,) = (pid for pid in watch(os.getpid()) if is_supervisor_of(pid, server.pid))
            os.kill(supervisor, signal.SIGKILL)
            assert ended(watched)
            assert not server.is_running
            # It starts again with another supervisor; nobody was left to remove the first one's directory.
            await server.start()
            assert server.is_running
            shutil.rmtree(place.parent)

    run(scenario())


def is_supervisor_of(pid: int, program: int) -> bool:
    """Tell whether one process is the parent of another."""
    try:
        return int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1]) == pid
    except OSError:
        return False


def test_what_a_program_leaves_running_is_ended_with_it(run):
    """The supervisor adopts the children of a program that ends, and ends them."""

    async def scenario():
        script = "sleep 300 >/dev/null 2>&1 </dev/null & echo $!"
        return int(
            await run_once(
                "a shell", Program(argv=("/bin/sh", "-c", script), account=ourselves()), Deadline(20.0)
            )
        )

    assert not Path(f"/proc/{run(scenario())}").exists()


def test_a_program_sees_nothing_of_our_environment(run, monkeypatch):
    """PGOPTIONS, LD_LIBRARY_PATH and secrets stay with us."""
    monkeypatch.setenv("PGOPTIONS", "secret")
    printed = run(run_once("env", Program(argv=("/usr/bin/env",), account=ourselves()), Deadline(20.0)))
    assert "secret" not in printed
    assert "LANG=C.UTF-8" in printed


def test_a_program_that_fails_or_does_not_exist_or_never_ends_is_an_error_with_its_name(run):
    """BackendUnavailable says which program it was and what it printed last."""
    cases = {
        ("/bin/sh", "-c", "echo the disk is full >&2; exit 3"): r"sh ended with status 3.*the disk is full",
        ("/nonexistent/postgres",): "cannot execute /nonexistent/postgres: No such file",
        ("/bin/sleep", "300"): "sleep did not finish in time",
    }
    for argv, text in cases.items():
        with pytest.raises(BackendUnavailable, match=text):
            run(run_once("a program", Program(argv=argv, account=ourselves()), Deadline(0.5)))
