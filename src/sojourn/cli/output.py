"""What every command prints with, and how an error looks: one line of what is wrong and what to do next.

Knows no command. What a peer or a server sent is printed without terminal controls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from sojourn.admin.rendering import printable
from sojourn.errors import BackendUnavailable, ConfigError, SojournError

FINE = 0
FAILED = 1
BAD_USAGE = 2


class ReportingGroup(TyperGroup):
    """A group of commands that reports our own errors as lines and exit codes, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            print_problems(error)
            raise typer.Exit(BAD_USAGE) from None
        except SojournError as error:
            print_error(str(error), _next_step(error))
            raise typer.Exit(FAILED) from None
        except BrokenPipeError:
            # The reader went away, as in "sojourn ... | head": nothing is wrong, and nobody is left to tell.
            sys.stderr.close()
            raise typer.Exit(FAILED) from None


def print_text(text: str) -> None:
    """Print lines of ours as they are."""
    typer.echo(text.removesuffix("\n"))


def print_error(what: str, next_step: str = "") -> None:
    """Print what went wrong, and what to do about it, to standard error."""
    typer.secho(f"error: {_one_line(what)}", fg=typer.colors.RED, err=True)
    if next_step:
        typer.echo(f"next: {next_step}", err=True)


def print_note(text: str) -> None:
    """Print one line for people to standard error, apart from what a program may read."""
    typer.echo(_one_line(text), err=True)


def print_warning(text: str) -> None:
    """Print what works and should be mended all the same, to standard error."""
    typer.secho(f"warning: {_one_line(text)}", fg=typer.colors.YELLOW, err=True)


def print_problems(error: ConfigError, outcome: str = "nothing was started") -> None:
    """Print every problem of a configuration, one a line, and what came of them."""
    for problem in error.problems:
        typer.echo(_one_line(str(problem)), err=True)
    count = len(error.problems)
    typer.secho(f"{count} problem{'s' if count > 1 else ''}; {outcome}.", fg=typer.colors.RED, err=True)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of texts; control characters become escapes."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, as wide as the terminal; into a pipe, as wide as its contents."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=400)
    console.print(table_of(columns, rows))


def _one_line(text: str) -> str:
    return " | ".join(printable(line) for line in text.splitlines() if line)


def _next_step(error: SojournError) -> str:
    match error:
        case BackendUnavailable(backend="the server's control socket"):
            return "start it with: sojourn run; or say where it is with --socket or --config"
        case _:
            return ""
