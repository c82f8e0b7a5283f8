"""Options that several commands share, and what stands behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sojourn.admin.serving import control_socket
from sojourn.config import SojournSettings, load
from sojourn.config.environment import PREFIX
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres import pgbouncer_ini as pgbouncer

_PLACES = (Path("sojourn.toml"), Path("/etc/sojourn/sojourn.toml"))

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="SOJOURN_CONFIG",
        metavar="FILE",
        help="The configuration; by default ./sojourn.toml, else /etc/sojourn/sojourn.toml.",
    ),
]
PgBouncerOption = Annotated[
    Path | None,
    typer.Option(
        "--pgbouncer-ini",
        metavar="FILE",
        help="PgBouncer's configuration instead of the table postgres; all else is as configured.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="With --pgbouncer-ini: an unknown key is a problem, not a warning.")
]
Type1Option = Annotated[bool, typer.Option("--type1", help="Encryption type 1 instead of 2.")]
Type1CodeEnvOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Variable with the Type 1 code, 8 hex digits.")
]
Type1CodeFileOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="File with the Type 1 code; - is standard input.")
]
Type2CodeEnvOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Variable with the Type 2 code, 32 hex digits.")
]
Type2CodeFileOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="File with the Type 2 code; - is standard input.")
]
SocketOption = Annotated[
    Path | None,
    typer.Option(
        envvar="SOJOURN_SOCKET",
        metavar="PATH",
        help="The server's control socket; by default the one of its configuration.",
    ),
]


def find_config(given: Path | None) -> Path | None:
    """Return the configuration file to read: the given one, or the first that exists at the usual places."""
    return given or next((place for place in _PLACES if place.is_file()), None)


def load_config(given: Path | None) -> SojournSettings:
    """Read the configuration. Raises: ConfigError with every problem."""
    return load(find_config(given), os.environ)


def load_with_pgbouncer(
    given: Path | None, pgbouncer_ini: Path | None, *, is_strict: bool = False
) -> tuple[SojournSettings, list[str]]:
    """Read the configuration and a ``pgbouncer.ini`` if there is one; return what to warn about too.

    Raises: ConfigError with every problem.
    """
    settings = load_config(given)
    if pgbouncer_ini is None:
        return settings, []
    if settings.postgres is not None:
        wanted = "no [postgres], as --pgbouncer-ini stands for it"
        raise ConfigError(
            [Problem(str(find_config(given) or "environment"), 0, "postgres", "", "a table", wanted)]
        )
    read = pgbouncer.read(pgbouncer_ini, is_strict=is_strict)
    log = settings.log
    if read.log_file and not log.file:
        log = msgspec.structs.replace(log, file=read.log_file)
    if read.is_verbose:
        log = msgspec.structs.replace(log, level="debug")
    # Problems are worded as such, so an unknown key reads the same with --strict and without.
    warnings = [*map(str, read.unknown), *map(str, read.ignored)]
    return msgspec.structs.replace(settings, postgres=read.settings, log=log), warnings


def is_configured(given: Path | None) -> bool:
    """Tell whether there is anything to run with: a file, or settings in the environment."""
    return find_config(given) is not None or any(name.startswith(PREFIX) for name in os.environ)


def find_socket(socket: Path | None, config: Path | None) -> Path:
    """Return the control socket of the server that is meant.

    A problem elsewhere in the configuration does not matter: the server runs on the one that it has read before.

    Raises: ConfigError if ``[admin]`` has problems.
    """
    return socket or control_socket(load(find_config(config), os.environ, only="admin").admin, os.environ)
