"""Options that several commands share, and what stands behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sojourn.admin.serving import control_socket
from sojourn.config import SojournSettings, load
from sojourn.config.environment import PREFIX

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


def is_configured(given: Path | None) -> bool:
    """Tell whether there is anything to run with: a file, or settings in the environment."""
    return find_config(given) is not None or any(name.startswith(PREFIX) for name in os.environ)


def find_socket(socket: Path | None, config: Path | None) -> Path:
    """Return the control socket of the server that is meant.

    A problem elsewhere in the configuration does not matter: the server runs on the one that it has read before.

    Raises: ConfigError if ``[admin]`` has problems.
    """
    return socket or control_socket(load(find_config(config), os.environ, only="admin").admin, os.environ)
