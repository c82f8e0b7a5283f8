"""``sojourn simulate``: a simulated exchange or alarm panel, to look at or to connect something to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sojourn.cli import simulate_panel
from sojourn.cli.output import print_note, table_of
from sojourn.core.loop import run
from sojourn.gateways.exchange.market.settings import E6, amount_text
from sojourn.gateways.exchange.sim import main as program
from sojourn.gateways.exchange.sim.settings import ServiceSettings

if TYPE_CHECKING:
    from sojourn.gateways.exchange.market.simulation import Event
    from sojourn.gateways.exchange.sim.service import SimulatorService

app = typer.Typer(no_args_is_help=True, help="What a gateway's sessions work on, simulated.")
app.command()(simulate_panel.panel)

REDRAW_S: Final = 0.25
EVENTS_COUNT: Final = 8
"""Of the last events on the screen."""
_STATUS_WORDS: Final = ("", "new", "partially filled", "filled", "canceled", "rejected")


@app.callback()
def _group() -> None:
    """Simulate what a gateway's sessions work on."""


@app.command()
def exchange(
    *,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", exists=True, dir_okay=False, help="Settings as JSON."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="host:port, or unix:/path; by default a free port of 127.0.0.1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same market.")] = None,
    speed: Annotated[
        float | None, typer.Option(min=0, max=100, help="Of its time; 0 = only orders move it.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Follow the prices of a CSV file: time_s,symbol,price.",
        ),
    ] = None,
    interactive: Annotated[
        bool | None,
        typer.Option(
            "--interactive/--json",
            help="Show the market as it moves, or print one line of JSON; by default as output is a terminal.",
        ),
    ] = None,
) -> None:
    """Serve one simulated exchange over gRPC (sim.v1) until Ctrl-C; settings as JSON say the rest."""
    told = ServiceSettings() if settings is None else program.read_file(str(settings))
    market = told.market
    if seed is not None:
        market = msgspec.structs.replace(market, seed=seed)
    if replay is not None:
        market = msgspec.structs.replace(market, replay_file=replay.name)
        told = msgspec.structs.replace(told, replay_directory=str(replay.parent))
    told = msgspec.structs.replace(
        told,
        market=market,
        listen=told.listen if listen is None else listen,
        speed=told.speed if speed is None else speed,
    )
    console = Console(highlight=False)
    is_shown = console.is_terminal if interactive is None else interactive

    async def show(service: SimulatorService) -> None:
        await _show(console, service)

    run(program.serve(told, program.read_prices(told), show if is_shown else program.print_ready))
    if is_shown:
        print_note("the simulator has ended")


async def _show(console: Console, service: SimulatorService) -> None:
    """Draw the market again and again, until canceled."""
    opened = {row.quote.symbol: row.quote.last_e6 for row in service.desk.simulation.rows_after(-1)}
    with Live(_screen(service, opened), console=console, auto_refresh=False) as live:
        try:
            while True:
                await asyncio.sleep(REDRAW_S)
                live.update(_screen(service, opened), refresh=True)
        finally:
            live.update(_screen(service, opened))


def _screen(service: SimulatorService, opened: dict[str, int]) -> Group:
    """Return what is to be seen now; prices are coloured by what they were at first."""
    simulation, desk = service.desk.simulation, service.desk
    quotes = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "bid", "size", "ask", "size", "last", "", "volume"):
        quotes.add_column(column, justify="left" if not column else "right")
    for row in simulation.rows_after(-1):
        quote = row.quote
        change = quote.last_e6 - opened[quote.symbol]
        style = "green" if change > 0 else "red" if change < 0 else ""
        quotes.add_row(
            Text(quote.symbol, "bold"),
            f"{quote.bid_e6 / E6:,.2f}",
            str(quote.bid_quantity),
            f"{quote.ask_e6 / E6:,.2f}",
            str(quote.ask_quantity),
            Text(f"{quote.last_e6 / E6:,.2f}", style),
            Text(f"{100 * change / opened[quote.symbol]:+.2f} %", style),
            str(quote.volume),
        )
    portfolio = simulation.portfolio()
    owner = f"owner of epoch {desk.owner_epoch}" if desk.owner_epoch else "no owner yet"
    lines = Text(
        f"\nat {service.address}\n{owner}, {'attached' if service.is_attached else 'not attached'}\n"
        f"cash {amount_text(portfolio.cash_e6)}, all of it {amount_text(portfolio.value_e6)}, "
        f"{simulation.seq} events\n",
        "dim",
    )
    return Group(quotes, lines, _events(list(simulation.events)[-EVENTS_COUNT:]))


def _events(events: list[Event]) -> Table:
    rows = []
    for event in events:
        order = event.update
        side = "buy" if order.side == 1 else "sell"
        price = amount_text(order.price_e6) if order.price_e6 else "market"
        filled = f"{order.filled} of {order.quantity}"
        rows.append(
            (str(event.seq), order.symbol, side, filled, price, _STATUS_WORDS[order.status], order.reason)
        )
    return table_of(("event", "symbol", "", "filled", "price", "", ""), rows) if rows else Table(box=None)
