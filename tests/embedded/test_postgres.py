"""PostgreSQL of our own: the real servers of the wheel, and of the system where there is one."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import asyncpg
import pytest

from sojourn.core.secret import Secret
from sojourn.embedded.account import serving_account
from sojourn.embedded.binaries import postgres_wheel, reachable_program
from sojourn.embedded.external import external
from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import BackendUnavailable, ConfigError

SYSTEM_DIRECTORIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def wheel_directory() -> Path:
    """Return the wheel's PostgreSQL 16 as if it were a system's."""
    account = serving_account("PostgreSQL", ("postgres", "nobody"))
    return reachable_program("PostgreSQL", postgres_wheel(16), account).parent


@pytest.mark.parametrize("version", [16, 18])
def test_a_promoted_replica_has_the_rows_of_its_primary_and_takes_new_ones(run, record_property, version):
    """Issue 2 section 3: primary, streaming replica, promote; versions 16 and 18."""

    async def scenario():
        began = time.monotonic()
        async with PostgresServer(version=version) as primary:
            record_property("ready_after_s", round(time.monotonic() - began, 3))
            writer = await asyncpg.connect(primary.dsn())
            assert writer.get_server_version().major == version
            await writer.execute("CREATE TABLE records (id int)")
            replica = await primary.replica()
            try:
                await writer.execute("INSERT INTO records SELECT generate_series(1, 1000)")
                await replica.catch_up()
                reader = await asyncpg.connect(replica.dsn())
                assert await reader.fetchval("SELECT count(*) FROM records") == 1000
                assert await reader.fetchval("SELECT pg_is_in_recovery()")
                await writer.close()
                await primary.stop()
                await replica.promote()
                await reader.execute("INSERT INTO records VALUES (1001)")
                assert await reader.fetchval("SELECT count(*) FROM records") == 1001
                await reader.close()
            finally:
                await replica.stop()

    run(scenario())


def test_two_servers_start_at_the_same_time_without_meeting(run):
    """Several test workers start servers at once: each has its own place and its own socket."""

    async def scenario():
        one, other = PostgresServer(), PostgresServer()
        await asyncio.gather(one.start(), other.start())
        async with one, other:
            assert one.socket_directory != other.socket_directory
            connections = [await asyncpg.connect(server.dsn()) for server in (one, other)]
            await connections[0].execute("CREATE TABLE only_here ()")
            with pytest.raises(asyncpg.UndefinedTableError):
                await connections[1].execute("SELECT FROM only_here")
            for connection in connections:
                await connection.close()

    run(scenario())


def test_the_loopback_port_and_other_roles_want_their_passwords(run):
    """Every local user can reach a loopback port; hba_lines come before the rule that roles need a password."""

    async def may_log_in(**place):
        try:
            connection = await asyncpg.connect(**place)
        except asyncpg.InvalidPasswordError:
            return False
        await connection.close()
        return True

    async def scenario():
        word = "a word with / and @"
        async with (
            PostgresServer(port=0, password=Secret(word), hba_lines=["local all guest trust"]) as server,
            await server.replica(port=0) as replica,
        ):
            assert word not in repr(server)
            connection = await asyncpg.connect(server.dsn())
            await connection.execute("CREATE ROLE guest LOGIN; CREATE ROLE ana LOGIN PASSWORD 'secret'")
            await connection.close()
            loopback = {"host": server.host, "port": server.port, "database": "postgres"}
            unix = loopback | {"host": str(server.socket_directory)}
            assert await may_log_in(dsn=replica.dsn())
            assert not await may_log_in(**loopback, user="postgres", password="wrong")
            assert not await may_log_in(**loopback, user="guest", password="")
            assert await may_log_in(**unix, user="guest")
            assert await may_log_in(**unix, user="ana", password="secret")
            assert not await may_log_in(**unix, user="ana", password="nope")
            # A DSN instead of a server of ours: the same interface, and stopping it leaves it alone.
            same = external(server.dsn("template1"))
            await same.start()
            assert await may_log_in(dsn=same.dsn())
            await same.stop()
            assert server.is_running

    run(scenario())


def test_data_in_a_directory_of_ones_own_stays_and_is_synced_to_disk(run, open_directory):
    """A named directory outlives the server, and fsync stays on in it."""

    async def scenario():
        server = PostgresServer(directory=open_directory / "database")
        for run_number in (1, 2):
            await server.start()
            connection = await asyncpg.connect(server.dsn())
            await connection.execute("CREATE TABLE IF NOT EXISTS starts (id serial)")
            await connection.execute("INSERT INTO starts DEFAULT VALUES")
            assert await connection.fetchval("SELECT count(*) FROM starts") == run_number
            assert await connection.fetchval("SHOW fsync") == "on"
            await connection.close()
            await server.stop()
        assert open_directory.stat().st_mode & 0o777 == 0o755

    run(scenario())


def test_a_crashed_server_starts_again_with_its_rows(run):
    """Even a temporary server's files stay until it is stopped."""

    async def scenario():
        async with PostgresServer() as server:
            connection = await asyncpg.connect(server.dsn())
            await connection.execute("CREATE TABLE records AS SELECT generate_series(1, 10)")
            await server.crash()
            assert not server.is_running
            # asyncpg answers for a connection that dies under it with any of these, as the race falls.
            died = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
            with pytest.raises(died):
                await connection.fetchval("SELECT count(*) FROM records")
            await server.start()
            connection = await asyncpg.connect(server.dsn())
            assert await connection.fetchval("SELECT count(*) FROM records") == 10
            await connection.close()
            place = server.data_directory
        assert not place.parent.exists()

    run(scenario())


@pytest.mark.parametrize(
    "directory", [None, *SYSTEM_DIRECTORIES], ids=lambda path: str(path or "of the wheel")
)
def test_a_directory_of_programs_serves_instead_of_the_wheel(run, directory):
    """Issue 2 section 3: a system PostgreSQL instead."""

    async def scenario():
        async with PostgresServer(bin_directory=directory or wheel_directory()) as server:
            connection = await asyncpg.connect(server.dsn("template1"))
            assert await connection.fetchval("SELECT current_database()") == "template1"
            await connection.close()

    run(scenario())


def test_a_server_that_cannot_start_says_what_its_log_said_last(run):
    """An error names the program and quotes its log, and nothing is left of the attempt."""

    async def scenario():
        server = PostgresServer(settings={"shared_buffers": "plenty"})
        with pytest.raises(BackendUnavailable, match=r"postgres ended.*shared_buffers.*plenty"):
            await server.start()
        assert not server.is_running

    run(scenario())


def test_a_start_has_a_deadline(run):
    """A server that is not ready in time is ended, and the error says so."""

    async def scenario():
        with pytest.raises(BackendUnavailable, match="in time"):
            await PostgresServer(start_within_s=0.001).start()

    run(scenario())


def test_a_cancelled_start_leaves_nothing(run, watch, ended):
    """Cancellation passes through, and cleans up on its way."""

    async def scenario():
        before = set(watch(os.getpid()))
        task = asyncio.ensure_future(PostgresServer().start())
        started: dict[int, int] = {}
        while len(started) < 2:
            await asyncio.sleep(0)
            started = {pid: handle for pid, handle in watch(os.getpid()).items() if pid not in before}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended(started)

    run(scenario())


def test_missing_programs_and_settings_of_ours_are_refused_with_a_next_step(run, tmp_path):
    """What the operator can mend is said in words that help to mend it."""
    with pytest.raises(BackendUnavailable, match=r"install sojourn\[embedded\]"):
        run(PostgresServer(bin_directory=tmp_path).start())
    with pytest.raises(ConfigError, match="the launcher sets it"):
        PostgresServer(settings={"listen_addresses": "*"})
    with pytest.raises(BackendUnavailable, match="start it first"):
        PostgresServer().dsn()
    with pytest.raises(ConfigError, match="wanted postgresql://"):
        external("mysql://root:secret@localhost/")
