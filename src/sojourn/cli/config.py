"""``sojourn config``: the example file, the reference page, and what is in force."""

from __future__ import annotations

import typer

from sojourn.cli.options import ConfigOption, PgBouncerOption, load_with_pgbouncer
from sojourn.cli.output import print_text, print_warning
from sojourn.config import example, reference_markdown, show

app = typer.Typer(no_args_is_help=True, help="The configuration.")


@app.command("example")
def print_example() -> None:
    """Print a commented sojourn.toml with every setting."""
    print_text(example())


@app.command("show")
def print_settings(config: ConfigOption = None, pgbouncer_ini: PgBouncerOption = None) -> None:
    """Print the settings in force: the file's, the environment's and the defaults; secrets masked.

    With --pgbouncer-ini its table postgres is what that file means here.
    """
    settings, warnings = load_with_pgbouncer(config, pgbouncer_ini)
    for sentence in warnings:
        print_warning(sentence)
    print_text(show(settings))


@app.command("reference")
def print_reference() -> None:
    """Print the reference page of all settings, in Markdown."""
    print_text(reference_markdown())
