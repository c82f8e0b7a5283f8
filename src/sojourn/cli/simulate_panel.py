"""``sojourn simulate panel``: a simulated alarm panel that dials a server, from a script or by hand."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Final, NamedTuple

import msgspec
import typer
from rich.console import Console

from sojourn.cli.options import (
    Type1CodeEnvOption,
    Type1CodeFileOption,
    Type1Option,
    Type2CodeEnvOption,
    Type2CodeFileOption,
)
from sojourn.cli.output import print_note
from sojourn.cli.secret_input import read_optional_secret, read_secret
from sojourn.cli.simulate_panel_lines import order_words, take_orders
from sojourn.cli.simulate_panel_screen import show_panel
from sojourn.core.loop import run
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable
from sojourn.gateways.itv2.messages import Message
from sojourn.gateways.itv2.peer import (
    PanelIdentity,
    PanelProgramme,
    SimulatedPanel,
    Told,
    house,
)
from sojourn.gateways.itv2.peer.script import Script, find_script, load_script, play, ready, shipped_scripts

PORT: Final = 3072
ID_DIGITS: Final = 12
TYPE_1_DIGITS: Final = 8
TYPE_2_DIGITS: Final = 32
LAST_WORDS_S: Final = 30.0
"""How long the server may take to acknowledge what is left after a script."""


class _Plan(NamedTuple):
    """Which panels there are, where they dial, and what they do."""

    identities: Sequence[PanelIdentity]
    host: str
    port: int
    programme: PanelProgramme
    script: Script | None
    speed: float
    connect_s: float
    is_interactive: bool
    takes_lines: bool


def panel(
    *,
    server: Annotated[str, typer.Option(help="host, host:port or [v6]:port; port 3072.")] = "127.0.0.1",
    integration_id: Annotated[
        str, typer.Option("--id", metavar="DIGITS", help="Integration Identification Number, 12 digits.")
    ] = "123456789012",
    zones: Annotated[
        int | None, typer.Option(min=1, max=248, help="Zones; 16, or as many as the script says.")
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help=f"What happens; a file, or one of: {', '.join(shipped_scripts())}."
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.01, max=10_000, help="Of the panel's time; 1, or as fast as the script says."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=10_000, help="So many panels, with consecutive ids and the same code.")
    ] = 1,
    type1: Type1Option = False,
    type1_code_env: Type1CodeEnvOption = None,
    type1_code_file: Type1CodeFileOption = None,
    type2_code_env: Type2CodeEnvOption = None,
    type2_code_file: Type2CodeFileOption = None,
    interactive: Annotated[
        bool | None,
        typer.Option(
            "--interactive/--lines",
            help="Show zones and take orders, or print lines; by default as output is a terminal. With --lines and no "
            "script, orders are read from a pipe or a file, and what the server orders is printed.",
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="How long a script or a pipe's orders wait for the connection.")
    ] = 60.0,
) -> None:
    """Be an HS2032 panel: dial the server, answer it, and live by a script or by typed orders.

    With a script or a pipe's orders it ends after the last one, once the server has acknowledged everything; else with
    Ctrl-C.
    """
    host, port = split_address(server, PORT)
    identity = read_identity(
        integration_id,
        is_type_1=type1,
        type_1=(type1_code_env, type1_code_file),
        type_2=(type2_code_env, type2_code_file),
    )
    told = None if script is None else load_script(find_script(script), zones_count=zones)
    console = Console(highlight=False)
    is_interactive = (console.is_terminal and count == 1) if interactive is None else interactive
    if is_interactive and count > 1:
        raise typer.BadParameter("--interactive: one panel at a time, without --count")
    takes_lines = interactive is False and script is None and count == 1
    if takes_lines and "-" in {type1_code_file, type2_code_file}:
        raise typer.BadParameter(
            "--lines reads orders from standard input: let the code be in a file or variable"
        )
    plan = _Plan(
        _identities(identity, count),
        host,
        port,
        PanelProgramme(zones=house(zones or 16)) if told is None else told.programme,
        told,
        speed or (1.0 if told is None else told.speed),
        timeout_s,
        is_interactive,
        takes_lines,
    )
    if not run(_until_signal(plan, console)):
        raise typer.Exit(1)


def read_identity(
    integration_id: str,
    *,
    is_type_1: bool,
    type_1: tuple[str | None, str | None],
    type_2: tuple[str | None, str | None],
) -> PanelIdentity:
    """Return who the panel is; asks for the code of its encryption type where none was given.

    Args:
        type_1, type_2: a variable's name and a file's, for the code of that type.
    Raises: typer.BadParameter.
    """
    if len(integration_id) != ID_DIGITS or not (integration_id.isascii() and integration_id.isdigit()):
        raise typer.BadParameter(f"--id: found {len(integration_id)} characters, wanted {ID_DIGITS} digits")
    if is_type_1:
        code = read_secret("Type1 code", env=type_1[0], file=type_1[1])
        _must_be_hex(code, "Type 1 code", TYPE_1_DIGITS)
        return PanelIdentity(integration_id, 1, type_1_code=code)
    if read_optional_secret(env=type_1[0], file=None) is not None or type_1[1] is not None:
        raise typer.BadParameter("a Type 1 code without --type1")
    code = read_secret("Type2 code", env=type_2[0], file=type_2[1])
    _must_be_hex(code, "Type 2 code", TYPE_2_DIGITS)
    return PanelIdentity(integration_id, 2, type_2_code=code)


def _must_be_hex(code: Secret, what: str, digits: int) -> None:
    text = code.reveal()
    if len(text) != digits or not all(one in "0123456789abcdefABCDEF" for one in text):
        raise typer.BadParameter(f"{what}: found something else, wanted {digits} hex digits")


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port`` or ``[v6]:port``. Raises: typer.BadParameter."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return address.strip("[]"), default_port
    if not (port.isascii() and port.isdigit()):
        raise typer.BadParameter(f"address: found port {port!r}, wanted a number")
    return host.strip("[]"), int(port)


def _identities(first: PanelIdentity, count: int) -> list[PanelIdentity]:
    number = int(first.integration_id)
    if number + count > 10**ID_DIGITS:
        raise typer.BadParameter(f"--count: there are not {count} ids from {first.integration_id} on")
    return [
        msgspec.structs.replace(first, integration_id=f"{number + index:0{ID_DIGITS}d}")
        for index in range(count)
    ]


async def _until_signal(plan: _Plan, console: Console) -> bool:
    """Simulate until a signal, or the script's end; says whether everything was acknowledged."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    is_over = False

    def end() -> None:
        nonlocal is_over
        is_over = True
        if task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        return await _simulate(plan, console)
    except asyncio.CancelledError:
        if not is_over:
            raise
        return True
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _simulate(plan: _Plan, console: Console) -> bool:
    async with AsyncExitStack() as stack:
        panels = [await stack.enter_async_context(_panel(plan, one)) for one in plan.identities]
        if plan.is_interactive:
            await show_panel(console, panels[0], plan.script, connect_s=plan.connect_s)
            return True
        if plan.takes_lines:
            await _obey(panels[0], plan)
            return await _say_end(panels)
        if plan.script is None:
            await asyncio.Event().wait()
            return True
        await asyncio.gather(*(_live(one, plan, plan.script, is_first=one is panels[0]) for one in panels))
        return await _say_end(panels)


def _panel(plan: _Plan, identity: PanelIdentity) -> SimulatedPanel:
    is_told = not plan.is_interactive

    def say(told: Told) -> None:
        print_note(f"{identity.integration_id}: {told.words}")

    def say_order(message: Message) -> None:
        if words := order_words(message):
            print(f"the server orders: {words}", flush=True)

    return SimulatedPanel(
        identity,
        plan.host,
        plan.port,
        programme=plan.programme,
        speed=plan.speed,
        on_told=say if is_told and len(plan.identities) == 1 else None,
        on_heard=say_order if plan.takes_lines else None,
    )


async def _obey(one: SimulatedPanel, plan: _Plan) -> None:
    """Carry out the orders of a pipe, and wait for the server's last acknowledgement."""
    await _ready(one, plan)
    await take_orders(one, lambda text: print(text, flush=True))
    await _acknowledged(one)


async def _live(one: SimulatedPanel, plan: _Plan, script: Script, *, is_first: bool) -> None:
    """Wait for the server, live by the script, and wait for its last acknowledgement."""
    await _ready(one, plan)
    await play(one, script, print if is_first else lambda _: None)
    await _acknowledged(one)


async def _ready(one: SimulatedPanel, plan: _Plan) -> None:
    """Wait until what the panel says is live. Raises: BackendUnavailable."""
    try:
        await ready(one, plan.connect_s)
    except TimeoutError:
        server = f"the server at {plan.host}:{plan.port}"
        cause = (
            f"panel {one.identity.integration_id} has not connected; last: {one.record.words or 'nothing'}"
        )
        raise BackendUnavailable(server, plan.connect_s, cause) from None


async def _acknowledged(one: SimulatedPanel) -> None:
    try:
        await one.acknowledged(LAST_WORDS_S)
    except TimeoutError:
        return


async def _say_end(panels: Sequence[SimulatedPanel]) -> bool:
    missing = [one for one in panels if not one.has_said_all]
    acknowledged = sum(one.record.acknowledged_count for one in panels)
    lost = sum(one.outbox.lost_count for one in panels)
    print(f"{acknowledged} messages acknowledged, {lost} lost in full queues")
    if missing:
        ids = ", ".join(one.identity.integration_id for one in missing[:5])
        print_note(f"the server did not acknowledge everything: {ids}")
    return not missing
