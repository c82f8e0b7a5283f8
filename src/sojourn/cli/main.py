"""The ``sojourn`` command.

Exit codes: 0 fine, 1 failed, 2 bad usage or bad configuration (all problems printed, nothing started).
"""

from __future__ import annotations

from typing import Annotated

import typer

from sojourn import __version__
from sojourn.cli import config as config_commands
from sojourn.cli import decode, itv2, probe, sessions, simulate, tacacs, token, top
from sojourn.cli.options import (
    ConfigOption,
    PgBouncerOption,
    StrictOption,
    find_config,
    is_configured,
    load_with_pgbouncer,
)
from sojourn.cli.output import FINE, ReportingGroup, print_text, print_warning
from sojourn.config import SojournSettings
from sojourn.config.soundness import file_problems, warnings_of
from sojourn.core.clock import utc_now
from sojourn.errors import ConfigError

app = typer.Typer(
    cls=ReportingGroup,
    name="sojourn",
    help="Session servers that keep the conversation alive.",
    # As it is by default, "[v6]:port" would be shown as ":port".
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    # A traceback with local variables could show a secret.
    pretty_exceptions_enable=False,
)
app.add_typer(config_commands.app, name="config")
app.add_typer(sessions.app, name="sessions")
app.add_typer(decode.app, name="decode")
app.add_typer(probe.app, name="probe")
app.add_typer(tacacs.app, name="tacacs")
app.add_typer(token.app, name="token")
app.add_typer(itv2.app, name="itv2")
app.add_typer(simulate.app, name="simulate")
app.command()(sessions.trace)
app.command()(top.top)
app.command("login-link")(sessions.login_link)
app.command()(sessions.drain)
app.command()(sessions.reload)


def main() -> None:
    """Run the command line; what the ``sojourn`` entry point calls."""
    app()


@app.callback(invoke_without_command=True)
def begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Session servers that keep the conversation alive."""
    if version:
        print_text(f"sojourn {__version__}")
        raise typer.Exit(FINE)
    if context.invoked_subcommand is None:
        print_text(context.get_help())


@app.command()
def run(
    config: ConfigOption = None,
    pgbouncer_ini: PgBouncerOption = None,
    strict: StrictOption = False,
    demo: Annotated[bool, typer.Option(help="Run on made-up devices and users instead.")] = False,
) -> None:
    """Run every configured gateway until SIGTERM or Ctrl-C; without any configuration, the demo."""
    if demo or not (pgbouncer_ini or is_configured(config)):
        from sojourn.demo import run_demo  # noqa: PLC0415 - the server's parts only where they are wanted

        run_demo()
        return

    def read() -> SojournSettings:
        return load_with_pgbouncer(config, pgbouncer_ini, is_strict=strict)[0]

    settings, warnings = load_with_pgbouncer(config, pgbouncer_ini, is_strict=strict)
    for sentence in warnings:
        print_warning(sentence)
    from sojourn.app import run as run_server  # noqa: PLC0415 - as above

    run_server(settings, read)


@app.command()
def check(
    config: ConfigOption = None, pgbouncer_ini: PgBouncerOption = None, strict: StrictOption = False
) -> None:
    """Check the configuration and the files that it names; exit code 2 and every problem if there are any.

    What works today and should be mended all the same, such as a certificate that ends soon, is a warning.
    """
    settings, warnings = load_with_pgbouncer(config, pgbouncer_ini, is_strict=strict)
    if problems := list(file_problems(settings)):
        raise ConfigError(problems)
    for sentence in (*warnings, *warnings_of(settings, utc_now())):
        print_warning(sentence)
    found = pgbouncer_ini or find_config(config)
    print_text(f"{found or 'no file, defaults and environment only'}: no problems")
