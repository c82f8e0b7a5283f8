"""The daemon in this process: what a reload can bring, and what it says of the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sojourn.admin.config import AdminSettings
from sojourn.admin.view import SessionQuery
from sojourn.app import Daemon, Table, tables_of
from sojourn.config import SojournSettings
from sojourn.core.events import Event
from sojourn.core.gateway import Gateway
from sojourn.core.server import SERVER_STARTED, Server
from sojourn.core.settings import (
    BreakerSettings,
    ListenerSettings,
    LogSettings,
    RecorderSettings,
    TlsSettings,
)
from sojourn.errors import ConfigError
from sojourn.gateways.exchange.config import EmbeddedSettings, ExchangeSettings, SessionSettings
from sojourn.gateways.tacacs.config import TacacsSettings

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def settings(folder: Path, **more: Any) -> SojournSettings:
    """Return the settings of a daemon that needs nothing but a folder."""
    given = {
        "log": LogSettings(file=str(folder / "log"), format="json"),
        "admin": AdminSettings(address="", socket=str(folder / "control.sock")),
        "tacacs": TacacsSettings(listeners=(ListenerSettings(),)),
    }
    return SojournSettings(**given | more)


@contextlib.asynccontextmanager
async def serving(daemon: Daemon) -> AsyncIterator[list[Event]]:
    """Run a daemon, give its events, and drain it at the end."""
    events: list[Event] = []
    is_started = asyncio.Event()

    def watch(batch: Any) -> None:
        events.extend(batch)
        if any(event.kind is SERVER_STARTED for event in batch):
            is_started.set()

    daemon.server.events.add_view(watch)
    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.serve())
        await is_started.wait()
        yield events
        await daemon.drain()


def test_what_a_reload_cannot_bring_is_named(run: Run, tmp_path: Path) -> None:
    """The rest of the new configuration is in force all the same."""
    old = settings(tmp_path)
    new = settings(
        tmp_path,
        recorder=RecorderSettings(entries_per_session_count=1),
        tacacs=TacacsSettings(listeners=(ListenerSettings(), ListenerSettings()), session_timeout_s=7.0),
    )
    daemon = Daemon(old, lambda: new)

    async def scene() -> list[Event]:
        async with serving(daemon) as events:
            await daemon.reload()
            assert daemon.server.gateways["tacacs"].session_timeout_s == 7.0
        return events

    told = [event.values for event in run(scene()) if event.kind.name == "config.needs_restart"]
    assert told == [("recorder",), ("tacacs.listeners",)]


def test_a_reload_that_a_gateway_cannot_bring_is_undone_everywhere(run: Run, tmp_path: Path) -> None:
    """Half of the old configuration and half of the new one would be neither."""

    class Other(Gateway):
        name = "other"

        async def start(self, server: Server) -> None:
            await super().start(server)
            self.config = "old"

        def reload(self, config: Any) -> None:
            self.config = config
            if config == "new":
                raise ZeroDivisionError

    old, new = (
        settings(tmp_path, tacacs=TacacsSettings(listeners=(ListenerSettings(),), session_timeout_s=limit_s))
        for limit_s in (5.0, 7.0)
    )
    daemon = Daemon(old, lambda: new)
    daemon.server.add(Other())

    async def scene() -> None:
        async with serving(daemon):
            tacacs, other = daemon.server.gateways.values()
            with pytest.MonkeyPatch.context() as patch:
                tables = {id(old): "old", id(new): "new"}
                patch.setattr(
                    "sojourn.app.tables_of",
                    lambda one: [*tables_of(one), Table("other", tables[id(one)], (), lambda _: other)],
                )
                with pytest.raises(ZeroDivisionError):
                    await daemon.reload()
            assert (tacacs.config.settings.session_timeout_s, other.config) == (5.0, "old")
            assert tacacs.session_timeout_s == 5.0

    run(scene())


def test_parts_of_a_table_that_no_reload_brings_are_named(run: Run, tmp_path: Path) -> None:
    """`Table.only_at_start`: an operator who changes where sessions are kept learns that it waits for a restart."""
    listeners = (ListenerSettings(address="127.0.0.1:1"),)
    old, new = (
        settings(
            tmp_path,
            exchange=ExchangeSettings(
                listeners=listeners,
                embedded=EmbeddedSettings(directory=str(tmp_path / name)),
                sessions=SessionSettings(policy=policy),
            ),
        )
        for name, policy in (("a", "replace"), ("b", "reject"))
    )
    (table,) = (one for one in tables_of(old) if one.name == "exchange")
    assert (table.settings, table.listeners) == (old.exchange, listeners)

    class Other(Gateway):
        name = "exchange"

    def with_another(one: SojournSettings) -> list[Table]:
        return [
            table._replace(listeners=(), make=lambda _: Other()) if table.name == Other.name else table
            for table in tables_of(one)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sojourn.app.tables_of", lambda one, _link=None: with_another(one))
        daemon = Daemon(old, lambda: new)

        async def scene() -> list[Event]:
            async with serving(daemon) as events:
                await daemon.reload()
            return events

        told = [event.values for event in run(scene()) if event.kind.name == "config.needs_restart"]
    assert told == [("exchange.auth",), ("exchange.embedded",)]


def test_the_settings_of_circuit_breakers_reach_the_circuits(run: Run, tmp_path: Path) -> None:
    """``[breaker]``: the directories' circuits are the server's."""
    wanted = BreakerSettings(consecutive_failures_count=1)
    daemon = Daemon(settings(tmp_path, breaker=wanted), lambda: settings(tmp_path, breaker=wanted))

    async def scene() -> None:
        async with serving(daemon):
            assert daemon.server.breakers.settings is wanted
            with contextlib.suppress(OSError), daemon.server.breakers.guard("ldap://192.0.2.1"):
                raise ConnectionRefusedError
            assert (
                'sojourn_circuit_breaker_state{endpoint="ldap://192.0.2.1"} 1.0'
                in await daemon.metrics_text()
            )

    run(scene())


def test_a_gateway_that_is_gone_needs_a_restart(run: Run, tmp_path: Path) -> None:
    """It goes on as it was until then."""
    daemon = Daemon(settings(tmp_path), lambda: settings(tmp_path, tacacs=None))

    async def scene() -> list[Event]:
        async with serving(daemon) as events:
            await daemon.reload()
            assert daemon.readiness().ok
        return events

    told = [event.values for event in run(scene()) if event.kind.name == "config.needs_restart"]
    assert told == [("tacacs, which is gone",)]


def test_a_reload_goes_on_in_a_new_log_where_the_old_one_was_moved(run: Run, tmp_path: Path) -> None:
    """As logrotate wants it: move the file, send SIGHUP."""
    one = settings(tmp_path)
    daemon = Daemon(one, lambda: one)

    async def scene() -> None:
        async with serving(daemon):
            (tmp_path / "log").rename(tmp_path / "log.1")
            await daemon.reload()

    run(scene())
    assert "server.started" in (tmp_path / "log.1").read_text()
    assert "server.reloaded" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("part", ["log", "tls"])
def test_files_that_cannot_be_used_are_found_before_anything_is_open(tmp_path: Path, part: str) -> None:
    """A ConfigError names the setting; no socket is made."""
    tls = TlsSettings(certificate_file=str(tmp_path / "a"), private_key_file=str(tmp_path / "b"))
    bad = {
        "log": {"log": LogSettings(file=str(tmp_path / "no" / "log"))},
        "tls": {"tacacs": TacacsSettings(listeners=(ListenerSettings(tls=tls),))},
    }[part]
    with pytest.raises(ConfigError, match=r"log\.file|certificate_file"):
        Daemon(settings(tmp_path, **bad), lambda: settings(tmp_path))
    assert not (tmp_path / "control.sock").exists()


def test_readiness_names_every_listener(run: Run, tmp_path: Path) -> None:
    """Ready means that each of them listens; a page with a negative cursor is none that was given."""
    two = TacacsSettings(listeners=(ListenerSettings(), ListenerSettings()))
    daemon = Daemon(settings(tmp_path, tacacs=two), lambda: settings(tmp_path))
    assert daemon.readiness().parts == {"server": "starting or draining"}

    async def scene() -> None:
        async with serving(daemon):
            addresses = {listener.address for listener in daemon.server.listeners}
            assert daemon.readiness().parts == {f"tacacs {address}": "listening" for address in addresses}
            assert len(addresses) == 2
            with pytest.raises(ValueError, match="-1"):
                await daemon.list_sessions(SessionQuery(cursor="-1"))

    run(scene())
