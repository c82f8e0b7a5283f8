"""``sojourn config``: the example file, the reference page, and what is in force."""

from __future__ import annotations

import typer

from sojourn.cli.options import ConfigOption, load_config
from sojourn.cli.output import print_text
from sojourn.config import example, reference_markdown, show

app = typer.Typer(no_args_is_help=True, help="The configuration.")


@app.command("example")
def print_example() -> None:
    """Print a commented sojourn.toml with every setting."""
    print_text(example())


@app.command("show")
def print_settings(config: ConfigOption = None) -> None:
    """Print the settings in force: the file's, the environment's and the defaults; secrets masked."""
    print_text(show(load_config(config)))


@app.command("reference")
def print_reference() -> None:
    """Print the reference page of all settings, in Markdown."""
    print_text(reference_markdown())
