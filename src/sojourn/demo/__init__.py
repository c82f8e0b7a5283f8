"""The demo: the daemon on made-up devices and users, with real traffic sent through it.

Everything lives in temporary directories and on loopback, and is gone after Ctrl-C. Made-up names, generated
secrets: nothing of it is fit for production, and nothing of it is needed there.

Shape: ``site`` (devices, people, rules and where to listen), ``traffic`` (every request that a switch can make, once),
``shifts`` (people at work), ``database`` (a PostgreSQL primary and its replica), ``customers`` (who uses it while the
primary is killed), ``trader`` (who trades while the WebSocket is killed), ``alarm_day`` (a house with an alarm panel,
through a day in a minute), ``screen`` (what the person in front of it sees).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sojourn.app import Daemon
from sojourn.core.events import Event
from sojourn.core.loop import run as run_loop
from sojourn.core.server import SERVER_DRAINING, SERVER_STARTED
from sojourn.demo.alarm_day import show_alarm_day
from sojourn.demo.screen import Screen, first_of
from sojourn.demo.shifts import begin_shifts
from sojourn.demo.site import Site
from sojourn.demo.traffic import send_traffic
from sojourn.errors import ConfigError, SojournError
from sojourn.gateways.itv2.gateway import Itv2Gateway

if TYPE_CHECKING:
    from sojourn.demo.database import DatabasePair

VISITOR = "visitor"
"""What the audit log calls the browser that the demo's link lets in."""


def run_demo() -> None:
    """Run every gateway on made-up devices and users until a signal says stop.

    Raises: ConfigError if not even a free port can be had.
    """
    run_loop(serve_demo(Screen()))


async def serve_demo(screen: Screen) -> None:
    """Run the demo until a signal says stop."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sojourn-demo-"))
        site = await _prepare(stack, Path(directory), screen)
        await _serve_somewhere(site, screen)
    screen.say("stopped; the demo's directory is gone")


async def _prepare(stack: AsyncExitStack, directory: Path, screen: Screen) -> Site:
    """Make and start all that the daemon stands on, at the same time; ``stack`` ends it."""
    async with asyncio.TaskGroup() as tasks:
        databases = tasks.create_task(_start_databases(stack, screen))
        loading = tasks.create_task(asyncio.to_thread(_load_gateways))
        site = await _make_site(stack, directory, screen)
    site.pair = databases.result()
    if site.pair is not None:
        if loading.result():
            await asyncio.to_thread(_make_token_key, site)
            site.has_exchange = True
        else:
            screen.complain("no exchange in this demo: it needs sojourn[exchange]")
    return site


def _load_gateways() -> bool:
    """Load what takes a moment while there is time; False where there is no exchange gateway."""
    import sojourn.gateways.itv2.gateway  # noqa: PLC0415 - as the docstring says

    try:
        import sojourn.demo.trader  # noqa: PLC0415 - optional, as asyncpg
        import sojourn.gateways.exchange.gateway  # noqa: F401, PLC0415 - as above
    except ImportError:
        return False
    return True


def _make_token_key(site: Site) -> None:
    """Make the key that the traders' tokens are signed with."""
    from sojourn.gateways.exchange.dev_issuer import make_key_file  # noqa: PLC0415 - optional, as asyncpg

    make_key_file(site.dev_key_file)


async def _make_site(stack: AsyncExitStack, directory: Path, screen: Screen) -> Site:
    """Make the site, and start an MQTT broker; where there is none, say how to use another one."""
    with screen.step("making devices, users, keys and certificates"):
        site = await asyncio.to_thread(Site, directory)
    stack.push_async_callback(site.alarm.stop_broker)
    try:
        with screen.step("starting Mosquitto"):
            await site.alarm.start_broker()
    except (ImportError, SojournError):
        screen.say("no MQTT broker in this demo: install Debian's mosquitto; one of your own is")
        screen.say('\\[itv2.mqtt] url = "mqtt://HOST:1883" in a sojourn.toml')
    return site


async def _start_databases(stack: AsyncExitStack, screen: Screen) -> DatabasePair | None:
    """Start a primary and its replica; None where there is no PostgreSQL, which is said."""
    try:
        from sojourn.demo.database import DatabasePair  # noqa: PLC0415 - needs asyncpg, which is optional
    except ImportError:
        screen.complain("no PostgreSQL in this demo: it needs sojourn[embedded]")
        return None
    pair = DatabasePair()
    stack.push_async_callback(pair.stop)
    try:
        with screen.step("starting PostgreSQL: primary, replica, sessions"):
            await pair.start()
    except SojournError as error:
        screen.complain(f"no PostgreSQL in this demo: {error}")
        return None
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
    with screen.step("putting the daemon together"):
        daemon = Daemon(site.settings(), site.settings)
    is_started = asyncio.Event()
    visit = daemon.server.spawn(_visit(site, daemon, screen, is_started))

    def watch(batch: Sequence[Event]) -> None:
        kinds = {event.kind for event in batch}
        if SERVER_STARTED in kinds:
            is_started.set()
        if SERVER_DRAINING in kinds:
            visit.cancel()  # who is at work leaves, so that the server has nobody to wait for

    daemon.server.events.add_view(watch)
    try:
        await daemon.serve()
    finally:
        # Where the daemon never came to life, nobody else ends it.
        visit.cancel()
        await asyncio.gather(visit, return_exceptions=True)


async def _visit(site: Site, daemon: Daemon, screen: Screen, is_started: asyncio.Event) -> None:
    """Send traffic once for the tables, then let everybody go on; ended when the server drains."""
    with screen.step("starting the daemon"):
        await is_started.wait()
        site.found_places([listener.address for listener in daemon.server.listeners], daemon.admin.address)
    screen.show_dashboard(site, daemon.admin.login_link(VISITOR))
    try:
        with screen.step("sending logins, authorizations and accounting"):
            rows = await send_traffic(site)
        screen.show_rows(site, rows)
    except (SojournError, OSError) as error:
        screen.complain(f"the traffic failed: {error}")
    try:
        await _go_on(site, daemon, screen)
    except Exception as error:
        # A demo in which nothing happens any more looks like a server that hangs: say whose fault it is.
        screen.complain(f"the demo's traffic has ended: {first_of(error)!r}")
        raise


async def _go_on(site: Site, daemon: Daemon, screen: Screen) -> None:
    """Let everybody begin to work, and show what comes of it; they work until the task is cancelled."""

    def report(error: Exception) -> None:
        if daemon.server.is_ready:
            screen.complain(f"the traffic failed: {error}")

    async with asyncio.TaskGroup() as tasks:
        begin_shifts(site, tasks, report)
        gateway = daemon.server.gateways[Itv2Gateway.name]
        if isinstance(gateway, Itv2Gateway) and gateway.history is not None:
            tasks.create_task(show_alarm_day(site, screen, gateway.history))
        if site.pair is not None:
            from sojourn.demo.customers import show_failover  # noqa: PLC0415 - needs asyncpg, which is optional

            await show_failover(site.pair, screen, site.postgres_address, tasks)
        if site.has_exchange:
            from sojourn.demo.trader import show_trader  # noqa: PLC0415 - needs jwt, which is optional

            await show_trader(site, screen, tasks)
        screen.show_next_steps(site, daemon.admin.login_link(VISITOR))
