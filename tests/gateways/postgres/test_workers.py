"""What workers know of one another, without a daemon: places, keys, and requests that are passed on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from gateway_lab import gateway_lab

from sojourn.app import settings_of_worker
from sojourn.config import SojournSettings
from sojourn.core.clock import monotonic
from sojourn.core.events import Events
from sojourn.core.settings import ListenerSettings
from sojourn.gateways.exchange.config import ExchangeSettings
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.config import PostgresSettings
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.scram import KeyCache
from sojourn.gateways.postgres.worker_link import KEY_FILE, VARIABLE, WorkerLink, WorkerPlace
from sojourn.gateways.postgres.workers import RESTART_FAILED, WORKER_STARTED, Supervisor, worker_environment
from sojourn.gateways.tacacs.config import TacacsSettings


def test_a_place_survives_the_environment(tmp_path: Path):
    """The supervisor tells a worker its place in one variable; a process without it is no worker."""
    place = WorkerPlace(3, False, tmp_path / "with:colon")
    assert WorkerPlace.of({VARIABLE: place.variable}) == place
    assert WorkerPlace.of({}) is None
    assert worker_environment({VARIABLE: place.variable, "HOME": "/"}) == {"HOME": "/"}


def test_only_the_first_worker_has_what_cannot_be_shared(tmp_path: Path):
    """TCP ports are shared by SO_REUSEPORT; a unix socket has one owner."""
    listeners = (
        ListenerSettings(address="127.0.0.1:6432"),
        ListenerSettings(address="unix:/run/pg/.s.PGSQL.6432"),
    )
    settings = SojournSettings(
        postgres=PostgresSettings(listeners=listeners, workers_count=2),
        tacacs=TacacsSettings(),
        exchange=ExchangeSettings(listeners=listeners[:1]),
    )
    of_first = settings_of_worker(settings, WorkerPlace(0, True, tmp_path))
    of_another = settings_of_worker(settings, WorkerPlace(1, False, tmp_path))
    assert (of_first.tacacs, of_first.exchange) == (settings.tacacs, settings.exchange)
    assert (of_another.tacacs, of_another.exchange) == (None, None)
    first, other = of_first.postgres, of_another.postgres
    assert first is not None
    assert other is not None
    assert [one.address for one in first.listeners] == [one.address for one in listeners]
    assert [one.address for one in other.listeners] == ["127.0.0.1:6432"]
    assert all(one.reuse_port for one in (*first.listeners, *other.listeners))


def test_workers_with_one_key_make_up_the_same_salts():
    """A salt that differs between workers would tell that a user does not exist."""
    first, second = KeyCache(), KeyCache()
    assert first.salt_of("nobody") != second.salt_of("nobody")
    for keys in (first, second):
        keys.share(b"k" * 32)
    assert first.mock_verifier("nobody") == second.mock_verifier("nobody")


def _link(directory: Path, index: int) -> WorkerLink:
    return WorkerLink(WorkerPlace(index, index == 0, directory))


def test_an_order_is_carried_out_by_the_others_and_their_refusal_comes_back(run, tmp_path: Path):
    """Orders of a console are for all workers; one that cannot be carried out says why."""
    (tmp_path / KEY_FILE).write_bytes(b"k" * 32)

    async def scenario():
        async with gateway_lab(link=_link(tmp_path, 1)) as lab:
            asking = _link(tmp_path, 0)
            await asking.order("pause", None)
            assert lab.gateway.paused == {"*"}
            await asking.order("resume", None)
            assert lab.gateway.paused == set()
            for state, order in (
                (SQLSTATE.INVALID_PARAMETER_VALUE, ("set_setting", "default_pool_size", "many")),
                (SQLSTATE.UNDEFINED_OBJECT, ("kill_client", "1")),
                (SQLSTATE.FEATURE_NOT_SUPPORTED, ("__class__",)),
            ):
                with pytest.raises(Refusal) as refused:
                    await asking.order(*order)
                assert refused.value.sqlstate == state
            await lab.until((tmp_path / "ready-1").exists)

    run(scenario())


def test_an_order_ends_with_who_gave_it(run, tmp_path: Path):
    """An operator who gives up PAUSE leaves no wait behind at the other workers."""
    (tmp_path / KEY_FILE).write_bytes(b"k" * 32)

    async def scenario():
        async with gateway_lab(link=_link(tmp_path, 1)) as lab:
            client = await lab.connect()
            await client.execute("BEGIN")
            giving = asyncio.ensure_future(_link(tmp_path, 0).order("pause", "postgres"))
            await lab.until(lambda: "postgres" in lab.gateway.paused)
            before = len(asyncio.all_tasks())
            giving.cancel()
            await lab.until(lambda: len(asyncio.all_tasks()) <= before - 3)
            await client.execute("COMMIT")

    run(scenario())


def test_a_request_that_nobody_can_read_ends_its_connection_only(run, tmp_path: Path):
    """The sockets are private, and survive what a broken worker may send."""
    (tmp_path / KEY_FILE).write_bytes(b"k" * 32)

    async def scenario():
        async with gateway_lab(link=_link(tmp_path, 1)) as lab:
            place = WorkerPlace(1, False, tmp_path)
            for path, data in (
                (place.socket_of(1), b"\0\0\0\1junk"),
                (place.socket_of(1), wire.cancel_request(1, b"abcd")),
                (place.socket_of(1), b"\0\0"),
                (place.orders_of(1), b"no order\n"),
                (place.orders_of(1), b""),
                (place.orders_of(1), b"x" * 100_000),
            ):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(data)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            await (await lab.connect()).execute("SELECT 1")

    run(scenario())


WORKER = """#!/bin/sh
touch "${SOJOURN_WORKER##*:}/ready-${SOJOURN_WORKER%%:*}"
exec sleep 60
"""


def test_a_worker_that_cannot_be_started_again_is_tried_again(run, tmp_path: Path):
    """No process or no memory left, or the program just being replaced: the others serve on, and it passes."""
    program, away = tmp_path / "worker", tmp_path / "away"
    program.write_text(WORKER)
    program.chmod(0o700)

    async def scenario():
        events, told, news = Events(monotonic), [], asyncio.Event()

        def see(batch):
            told.extend((event.kind, event.values) for event in batch)
            news.set()

        async def wait_for(kind, count):
            async with asyncio.timeout(20):
                while len(found := [values for one, values in told if one is kind]) < count:
                    news.clear()
                    await news.wait()
            return found

        events.add_view(see)
        supervisor = Supervisor(2, [str(program)], os.environ, events)
        running = asyncio.ensure_future(supervisor.run())
        victim, other = await wait_for(WORKER_STARTED, 2)
        program.rename(away)
        os.kill(victim[1], signal.SIGKILL)
        assert await wait_for(RESTART_FAILED, 1) == [(0, "No such file or directory")]
        os.kill(other[1], 0)
        away.rename(program)
        assert (await wait_for(WORKER_STARTED, 3))[2][0] == victim[0]
        supervisor.stop()
        assert await running == 0

    run(scenario())
