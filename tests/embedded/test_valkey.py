"""Valkey of our own: the real server of the wheel."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sojourn.embedded.valkey import ValkeyServer, external
from sojourn.errors import BackendUnavailable, ConfigError


def test_a_value_is_kept_as_long_as_the_server_runs_and_no_longer(run, record_property):
    """Persistence is off by default."""

    async def scenario():
        server = ValkeyServer()
        for _ in range(2):
            began = time.monotonic()
            await server.start()
            record_property("ready_after_s", round(time.monotonic() - began, 3))
            async with redis.from_url(server.url()) as client:
                assert await client.get("key") is None
                await client.set("key", "value")
                assert await client.get("key") == b"value"
            place = server.socket.parent.parent
            await server.stop()
            assert not place.exists()

    run(scenario())


def test_two_servers_on_ports_start_at_the_same_time_and_want_their_passwords(run):
    """Every local user can reach a loopback port, so nobody is let in there without a password."""

    async def scenario():
        one, other = ValkeyServer(port=0), ValkeyServer(port=0)
        await asyncio.gather(one.start(), other.start())
        try:
            assert one.port != other.port
            async with redis.from_url(one.url(3)) as client:
                assert await client.ping()
            once = Retry(NoBackoff(), 0)
            async with redis.Redis(host="127.0.0.1", port=one.port, retry=once) as client:
                with pytest.raises(redis.AuthenticationError):
                    await client.ping()
        finally:
            await asyncio.gather(one.stop(), other.stop())

    run(scenario())


def test_values_in_a_directory_of_ones_own_stay(run, open_directory):
    """A named directory outlives the server."""

    async def scenario():
        server = ValkeyServer(directory=open_directory / "cache")
        for number in (1, 2):
            async with server, redis.from_url(server.url()) as client:
                assert await client.incr("starts") == number

    run(scenario())


def test_a_running_server_has_the_same_interface(run):
    """An address instead of the wheel; stopping it leaves it alone."""

    async def scenario():
        async with ValkeyServer() as server:
            same = external(server.url())
            await same.start()
            async with redis.from_url(same.url(2)) as client:
                assert await client.ping()
            await same.stop()
            assert server.is_running
        assert external("redis://:word@cache:6379").url(4) == "redis://:word@cache:6379/4"
        with pytest.raises(ConfigError, match="wanted redis://"):
            external("http://:secret@localhost/")

    run(scenario())


def test_a_server_that_cannot_start_says_what_its_log_said_last(run, tmp_path):
    """An error names the program and quotes its log, or says what to do."""
    with pytest.raises(BackendUnavailable, match=r"valkey-server ended.*maxmemory"):
        run(ValkeyServer(settings={"maxmemory": "plenty"}).start())
    with pytest.raises(BackendUnavailable, match=r"install sojourn\[embedded\]"):
        run(ValkeyServer(bin_directory=tmp_path).start())
    with pytest.raises(ConfigError, match="the launcher sets it"):
        ValkeyServer(settings={"bind": "*"})
