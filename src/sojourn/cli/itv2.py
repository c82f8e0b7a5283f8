"""``sojourn itv2``: what to programme in a panel, how panels stand, what they did, tokens, and captures."""

from __future__ import annotations

import socket
from enum import StrEnum
from typing import Annotated

import typer

from sojourn.cli import itv2_history, itv2_panels, itv2_token
from sojourn.cli.options import ConfigOption, load_config
from sojourn.cli.output import FAILED, print_error, print_note, print_table, print_text, print_warning
from sojourn.gateways.itv2.config import PORT, Itv2Settings
from sojourn.gateways.itv2.sections import sections_of
from sojourn.gateways.itv2.setup_sheet import COLUMNS, Place, Row, markdown, rows_of

app = typer.Typer(no_args_is_help=True, help="The gateway for DSC PowerSeries Neo panels.")
app.command()(itv2_panels.panels)
app.command()(itv2_panels.learn)
app.command()(itv2_history.history)
app.command()(itv2_history.anonymise)
app.command()(itv2_history.replay)
app.command("make-token")(itv2_token.make_token)


class Format(StrEnum):
    """How a sheet is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"


class Firmware(StrEnum):
    """Of the communicator."""

    OLD = "4.1"
    NEW = "5"


@app.command("setup-sheet")
def setup_sheet(
    *,
    panel: Annotated[
        str, typer.Argument(help="A configured panel; without one, whatever the options say.")
    ] = "",
    group: Annotated[
        int, typer.Option(min=1, max=4, help="Integration group; the panel's own where one is named.")
    ] = 1,
    firmware: Annotated[
        Firmware, typer.Option(help="Of the communicator; the panel's own where one is named.")
    ] = Firmware.NEW,
    type_1: Annotated[
        bool, typer.Option("--type-1", help="For Type 1 encryption; Type 2 is better.")
    ] = False,
    address: Annotated[str, typer.Option(help="Where panels dial; by default public_address.")] = "",
    form: Annotated[Format, typer.Option("--format", help="How it is printed.")] = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Print the sections to programme in a panel so that it dials this server; no code is shown."""
    settings = load_config(config).itv2 or Itv2Settings()
    title = f"Integration group {group}"
    if panel:
        found = next((one for one in settings.panels if one.name == panel), None)
        if found is None:
            print_error(f"no panel is named {panel!r}", "see: sojourn config show")
            raise typer.Exit(FAILED)
        group, firmware = found.integration_group, Firmware(found.firmware)
        type_1 = found.type2_code is None
        title = f"Panel {panel}, integration group {group}"
    place = _place_of(settings, address)
    rows = tuple(rows_of(sections_of(group, firmware), place, has_type_1=type_1))
    if place.is_loopback:
        print_warning(
            f"no panel can reach {place.host}, which is this host itself: set [[itv2.listeners]] address to one "
            "of the network, such as 0.0.0.0:3072, and [itv2] public_address to what panels dial, or say --address"
        )
    if form == Format.MARKDOWN:
        print_text(markdown(title, rows))
        return
    print_note(title)
    print_table(COLUMNS, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    return row.section, row.what, row.enter, row.remarks


def _place_of(settings: Itv2Settings, address: str) -> Place:
    """Return where panels dial: as said, as configured, or this host's address."""
    listener = settings.listeners[0].address
    host, _, port = listener.rpartition(":")
    number = int(port) if port.isdigit() and int(port) else PORT
    host = host.strip("[]")
    if not address and host in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = _own_address()
    return Place(address or settings.public_address or host, number)


def _own_address() -> str:
    """Return the address that this host goes out with; nothing is sent to find it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "the address of this server"
