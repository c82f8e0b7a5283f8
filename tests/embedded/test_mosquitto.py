"""A broker of our own: Debian's Mosquitto."""

from __future__ import annotations

import asyncio
import time

import aiomqtt
import psutil
import pytest

from sojourn.core.secret import Secret
from sojourn.core.tls import client_context
from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.embedded.mosquitto import MosquittoServer, MqttUser, TlsFiles
from sojourn.errors import BackendUnavailable, ConfigError

pytestmark = pytest.mark.debian("mosquitto")


def client(server: MosquittoServer, user: MqttUser | None = None, **more: object) -> aiomqtt.Client:
    """Return a client that logs in as a user."""
    user = user or server.users[0]
    name, word = user.name, user.password.reveal()
    return aiomqtt.Client("127.0.0.1", server.port, username=name, password=word, timeout=5, **more)  # type: ignore[arg-type]


async def kept(server: MosquittoServer, topic: str) -> bytes | None:
    """Return what the broker holds of a topic: it comes before the echo of what we publish after subscribing."""
    async with client(server) as one:
        await one.subscribe([(topic, 0), ("echo", 0)])
        await one.publish("echo", b"")
        async for message in one.messages:
            return bytes(message.payload) if message.topic.value == topic else None  # type: ignore[arg-type]
    return None


def test_nothing_is_kept_without_a_directory_and_all_with_one(run, open_directory, record_property):
    """Started again it has the same port, so that clients find it."""

    async def scenario():
        for directory in (None, open_directory / "broker"):
            began = time.monotonic()
            server = MosquittoServer(directory=directory)
            async with server:
                record_property("ready_after_s", round(time.monotonic() - began, 3))
                port = server.port
                async with client(server) as one:
                    await one.publish("house/state", b"armed", qos=1, retain=True)
                assert await kept(server, "house/state") == b"armed"
            assert not server.is_running
            async with server:
                assert server.port == port
                assert await kept(server, "house/state") == (b"armed" if directory else None)

    run(scenario())


def test_nobody_is_let_in_without_a_password_and_rules_hold(run):
    """Every local user can reach a loopback port."""
    admin = MqttUser("admin", Secret("one word"))
    reader = MqttUser("reader", Secret("another word"), ("read house/#",))

    async def scenario():
        async with MosquittoServer(users=(admin, reader)) as server:
            with pytest.raises(aiomqtt.MqttError):
                await aiomqtt.Client("127.0.0.1", server.port).__aenter__()
            with pytest.raises(aiomqtt.MqttError):
                await client(server, MqttUser("admin", Secret("another word"))).__aenter__()
            async with client(server, reader) as one:
                await one.publish("house/state", b"disarmed", qos=1, retain=True)
            assert await kept(server, "house/state") is None
            assert "word" not in repr(server) + server.url

    run(scenario())


def test_two_start_at_the_same_time_on_ports_of_their_own(run):
    """A port that is free when it is asked for may be taken when it is used."""

    async def scenario():
        async with asyncio.TaskGroup() as group:
            servers = [MosquittoServer() for _ in range(4)]
            for server in servers:
                group.create_task(server.start())
        assert len({server.port for server in servers}) == 4
        for server in servers:
            await server.stop()

    run(scenario())


def test_over_tls_only_whoever_trusts_the_authority_gets_in(run, tmp_path):
    """The key is copied to where the broker's user, and nobody else, can read it."""
    authority = ThrowAwayAuthority(tmp_path)
    identity = authority.issue("broker", ("127.0.0.1",))

    async def scenario():
        async with MosquittoServer(tls=TlsFiles(*identity)) as server:
            assert server.url.startswith("mqtts://")
            async with client(server, tls_context=client_context(str(authority.ca_file))) as one:
                await one.publish("house/state", b"armed", qos=1)

    run(scenario())


def test_it_does_not_run_as_root_and_ends_with_its_owner(run, watch, ended):
    """As root it is Debian's user mosquitto, or nobody; killed, it is gone at once."""

    async def scenario():
        async with MosquittoServer() as server:
            assert psutil.Process(server.pid).uids().effective != 0
            watched = watch(server.pid)
            await server.kill()
            assert not server.is_running
            return watched

    assert ended(run(scenario()))


def test_what_it_cannot_do_is_one_clear_line(run, tmp_path):
    """The program's own last words, or what to do."""
    with pytest.raises(BackendUnavailable, match=r"mosquitto ended.*no_such_setting"):
        run(MosquittoServer(settings={"no_such_setting": "1"}).start())
    with pytest.raises(BackendUnavailable, match="does not exist"):
        run(MosquittoServer(bin_directory=tmp_path).start())
    with pytest.raises(ConfigError, match="the launcher sets it"):
        MosquittoServer(settings={"allow_anonymous": "true"})
    with pytest.raises(ConfigError, match="wanted a plain name"):
        MosquittoServer(users=(MqttUser("a:b", Secret("word")),))
