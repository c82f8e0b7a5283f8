"""``sojourn itv2 panels`` and ``learn``: how the panels of a running server stand, and who calls unknown."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Console
from rich.live import Live

from sojourn.cli.control import ControlClient
from sojourn.cli.itv2_history import length_s, local_time
from sojourn.cli.options import ConfigOption, SocketOption, find_socket
from sojourn.cli.output import FAILED, print_error, print_note, print_table, print_text, table_of
from sojourn.gateways.itv2.admin_panel import LEARNING, PANELS
from sojourn.gateways.itv2.doctor import type_words
from sojourn.gateways.itv2.http.rest_types import LearnBody, Learning, LearntPanel, Panels, PanelSummary

GATEWAY: Final = "itv2"
LONGEST_LEARNING_S: Final = 3_600
"""As the gateway allows."""
_COLUMNS: Final = ("panel", "phase", "connected since", "last heard", "state", "diagnosis")
_LOOK_EVERY_S: Final = 0.5

T = TypeVar("T")


def panels(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Show each panel of a running server: whether it is connected, and if not, what to compare.

    What is known of a panel that is out of sight is stale. The diagnosis is the last failed handshake's.
    """
    path = find_socket(socket, config)

    async def look(show: Callable[[list[tuple[str, ...]]], None]) -> None:
        async with ControlClient(path) as server:
            while True:
                found = await _asked(server, "GET", PANELS, Panels)
                show([_cells(one, time.time()) for one in found.panels])
                if not watch:
                    return
                await asyncio.sleep(interval_s)

    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        if watch and console.is_terminal:
            with Live(console=console, auto_refresh=False, screen=False) as live:
                asyncio.run(look(lambda rows: live.update(table_of(_COLUMNS, rows), refresh=True)))
        else:
            asyncio.run(look(lambda rows: print_table(_COLUMNS, rows)))


def learn(
    *,
    span: Annotated[
        str, typer.Option("--for", metavar="SPAN", help="For how long, such as 90s or 5m; at most 1h.")
    ] = "5m",
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Show which panels call a running server without being configured, until the time is over or Ctrl-C.

    They get no answer and are trusted with nothing: compare, and write the ID of yours into the configuration.
    """
    for_s = length_s(span)
    if for_s is None or not 0 < for_s <= LONGEST_LEARNING_S:
        raise typer.BadParameter(f"--for: found {span!r}, wanted 1s to 1h, such as 5m")
    path = find_socket(socket, config)
    count = 0

    def tell(one: LearntPanel) -> None:
        nonlocal count
        count += 1
        words = f"{type_words(one.encryption_type)}, firmware {one.firmware}, from {one.peer}"
        print_text(f"{local_time(one.at_ms, 'seconds')}  {one.integration_id}  {words}")

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_learn(path, float(for_s), tell, span))
    if count:
        print_note("if one is yours: add it to [[itv2.panels]] with its code, then: sojourn reload")
    else:
        print_note("nobody called who is not configured; see: sojourn itv2 panels")


async def _learn(path: Path, for_s: float, tell: Callable[[LearntPanel], None], span: str) -> None:
    """Learn, tell of each panel once, and end it whatever happens; ``span`` is ``for_s`` as it was written."""
    told: set[str] = set()
    async with ControlClient(path) as server:
        now = await _asked(server, "PUT", LEARNING, Learning, LearnBody(for_s))
        print_note(f"listening for {span} for panels that are not configured; Ctrl-C ends it")
        try:
            while True:
                for one in now.panels:
                    if one.integration_id not in told:
                        told.add(one.integration_id)
                        tell(one)
                if not now.left_s:
                    return
                await asyncio.sleep(min(_LOOK_EVERY_S, now.left_s))
                now = await _asked(server, "GET", LEARNING, Learning)
        finally:
            await server.order_gateway(GATEWAY, "DELETE", LEARNING)


async def _asked(
    server: ControlClient, method: str, path: str, kind: type[T], body: LearnBody | None = None
) -> T:
    answer = await server.ask_gateway(GATEWAY, method, path, kind, body)
    if answer is None:
        print_error(
            "the server has no panels' gateway, or is just starting", "add [itv2] to its configuration"
        )
        raise typer.Exit(FAILED)
    return answer


def _cells(panel: PanelSummary, now_s: float) -> tuple[str, ...]:
    heard_ms = panel.last_heard_ms
    return (
        panel.name,
        panel.phase,
        local_time(panel.connected_since_ms, "seconds") if panel.is_connected else "",
        f"{max(0, now_s - heard_ms / 1_000):.0f} s ago" if heard_ms else "never",
        "stale" if panel.is_stale else "live",
        panel.diagnosis,
    )
