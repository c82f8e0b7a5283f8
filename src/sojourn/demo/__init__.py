"""The demo: the daemon on made-up devices and users, with real traffic sent through it.

Everything lives in temporary directories and on loopback, and is gone after Ctrl-C. Made-up names, generated
secrets: nothing of it is fit for production, and nothing of it is needed there.

Shape: ``site`` (devices, users, rules and where to listen), ``traffic`` (what a switch does all day), ``database`` (a
PostgreSQL primary and its replica), ``customers`` (who uses it while the primary is killed), ``trader`` (who trades
while its WebSocket is killed), ``alarm_day`` (a house with an alarm panel, through a day in a minute), ``screen`` (what
the person in front of it sees).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sojourn.app import Daemon
from sojourn.core.events import Event
from sojourn.core.loop import run as run_loop
from sojourn.core.server import SERVER_STARTED
from sojourn.demo.alarm_day import show_alarm_day
from sojourn.demo.screen import Screen
from sojourn.demo.site import Site
from sojourn.demo.traffic import send_traffic
from sojourn.errors import ConfigError, SojournError
from sojourn.gateways.itv2.gateway import Itv2Gateway

if TYPE_CHECKING:
    from sojourn.demo.database import DatabasePair

TRAFFIC_INTERVAL_S = 2.0
"""Pause between two rounds of traffic, so that there is something to look at."""


def run_demo() -> None:
    """Run every gateway on made-up devices and users until a signal says stop.

    Raises: ConfigError if not even a free port can be had.
    """
    run_loop(serve_demo(Screen()))


async def serve_demo(screen: Screen) -> None:
    """Run the demo until a signal says stop."""
    with tempfile.TemporaryDirectory(prefix="sojourn-demo-") as name:
        with screen.step("making devices, users, keys and certificates"):
            site = await asyncio.to_thread(Site, Path(name))
        site.pair = await _start_databases(screen)
        site.has_exchange = site.pair is not None and _makes_tokens(site, screen)
        try:
            await _start_broker(site, screen)
            await _serve_somewhere(site, screen)
        finally:
            await site.alarm.stop_broker()
            if site.pair is not None:
                await site.pair.stop()
    screen.say("stopped; the demo's directory is gone")


def _makes_tokens(site: Site, screen: Screen) -> bool:
    """Make the key that the trader's token is signed with; False where there is no exchange gateway, which is said."""
    try:
        from sojourn.gateways.exchange.dev_issuer import make_key_file  # noqa: PLC0415 - optional, as asyncpg
    except ImportError:
        screen.complain("no exchange in this demo: it needs sojourn[exchange]")
        return False
    make_key_file(site.dev_key_file)
    return True


async def _start_broker(site: Site, screen: Screen) -> None:
    """Start an MQTT broker; where there is none, say how to use another one."""
    try:
        with screen.step("starting Mosquitto"):
            await site.alarm.start_broker()
    except (ImportError, SojournError):
        screen.say("no MQTT broker in this demo: install Debian's mosquitto; one of your own is")
        screen.say('\\[itv2.mqtt] url = "mqtt://HOST:1883" in a sojourn.toml')


async def _start_databases(screen: Screen) -> DatabasePair | None:
    """Start a primary and its replica; None where there is no PostgreSQL, which is said."""
    try:
        from sojourn.demo.database import DatabasePair  # noqa: PLC0415 - needs asyncpg, which is optional
    except ImportError:
        screen.complain("no PostgreSQL in this demo: it needs sojourn[embedded]")
        return None
    pair = DatabasePair()
    try:
        with screen.step("starting PostgreSQL: primary, replica, sessions"):
            await pair.start()
    except SojournError as error:
        await pair.stop()
        screen.complain(f"no PostgreSQL in this demo: {error}")
        return None
    except BaseException:
        await pair.stop()
        raise
    return pair


async def _serve_somewhere(site: Site, screen: Screen) -> None:
    try:
        await _serve(site, screen)
    except ConfigError:
        if site.is_on_its_own:
            raise
        # Somebody took one of the usual places since we looked, such as another demo: be modest.
        site.leave_usual_places()
        await _serve(site, screen)


async def _serve(site: Site, screen: Screen) -> None:
    daemon = Daemon(site.settings(), site.settings)
    is_started = asyncio.Event()

    def watch(batch: Sequence[Event]) -> None:
        if any(event.kind is SERVER_STARTED for event in batch):
            is_started.set()

    daemon.server.events.add_view(watch)
    visit = daemon.server.spawn(_visit(site, daemon, screen, is_started))
    try:
        await daemon.serve()
    finally:
        # Where the daemon never came to life, nobody else ends it.
        visit.cancel()
        await asyncio.gather(visit, return_exceptions=True)


async def _visit(site: Site, daemon: Daemon, screen: Screen, is_started: asyncio.Event) -> None:
    """Send traffic once for the table, then again and again; the server ends this task at its own end."""
    with screen.step("starting the daemon"):
        await is_started.wait()
        site.found_places([listener.address for listener in daemon.server.listeners], daemon.admin.address)
    try:
        with screen.step("sending logins, authorizations and accounting"):
            rows = await send_traffic(site)
        screen.show_rows(site, rows)
    except (SojournError, OSError) as error:
        screen.complain(f"the traffic failed: {error}")
    async with asyncio.TaskGroup() as tasks:
        gateway = daemon.server.gateways[Itv2Gateway.name]
        if isinstance(gateway, Itv2Gateway) and gateway.history is not None:
            tasks.create_task(show_alarm_day(site, screen, gateway.history))
        if site.pair is not None:
            from sojourn.demo.customers import show_failover  # noqa: PLC0415 - needs asyncpg, which is optional

            await show_failover(site.pair, screen, site.postgres_address, tasks)
        if site.has_exchange:
            from sojourn.demo.trader import show_trader  # noqa: PLC0415 - needs jwt, which is optional

            await show_trader(site, screen, tasks)
        screen.show_next_steps(site)
        await _go_on(site, daemon, screen)


async def _go_on(site: Site, daemon: Daemon, screen: Screen) -> None:
    """Send traffic again and again, until the server begins to stop."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(TRAFFIC_INTERVAL_S)
        if not daemon.server.is_ready:
            return
        try:
            await send_traffic(site)
        except (SojournError, OSError) as error:
            screen.complain(f"after {time.monotonic() - began:.0f} s the traffic failed: {error}")
