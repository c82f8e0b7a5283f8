"""``sojourn top``: a running server in a terminal, or one look at it as text."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
import typer

from sojourn.admin.values import Overview
from sojourn.cli.control import ControlClient, Remote
from sojourn.cli.options import ConfigOption, SocketOption, find_socket
from sojourn.cli.output import FAILED, print_error, print_text, print_warning
from sojourn.cli.secret_input import read_secret
from sojourn.cli.top_board import Board
from sojourn.cli.top_lines import PLAIN_CHARACTERS, gateway_lines, head_line, plain, problem_lines

_WIDTH: Final = (100, 24)
"""Of what is no terminal, where COLUMNS says nothing else."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_NO_SCREEN: Final = "install it with: pip install 'sojourn[top]'; or look once with: sojourn top --once"


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print one look as text and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one look as JSON and end.")] = False,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The HTTP API of a server, instead of a control socket."),
    ] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --url: variable with a token.")
    ] = None,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --url: file with a token; - is standard input.")
    ] = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Watch a running server: what is wrong, gateways, sessions, and what happens in one of them.

    What is no terminal gets one look as text. On the screen, ? says what the keys do.
    """
    place = find_socket(socket, config) if url is None else _remote(url, token_env, token_file)
    if url is None and (token_env or token_file):
        raise typer.BadParameter("a token without --url: the control socket needs none")
    if once or as_json or not _is_screen():
        overview = asyncio.run(_look(place))
        print_text(msgspec.json.encode(overview).decode() if as_json else _as_text(overview))
        return
    try:
        import textual  # noqa: F401, PLC0415 - an optional part
    except ImportError:
        print_error("the screen needs textual", _NO_SCREEN)
        raise typer.Exit(FAILED) from None
    asyncio.run(_watch(place))


async def _look(place: Path | Remote) -> Overview:
    async with ControlClient(place) as server:
        return await server.overview()


async def _watch(place: Path | Remote) -> None:
    """Show the screen until somebody quits; a server that is not there now is an error as of any command."""
    from sojourn.cli.top_screen import Top  # noqa: PLC0415 - textual takes its time, and only here

    async with ControlClient(place) as server:
        screen = Top(
            server, Board(await server.overview()), may_close=(await server.visitor()).scope != "view"
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):  # leave the terminal as it was
            loop.add_signal_handler(number, screen.exit)
        await screen.run_async()
    if screen.failure is not None:
        raise screen.failure


def _as_text(overview: Overview) -> str:
    width = shutil.get_terminal_size(_WIDTH).columns
    lines = [head_line(overview, width), *problem_lines(overview, width), [], *gateway_lines(overview, width)]
    text = plain(lines)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ascii_text(text)
    return text


def ascii_text(text: str) -> str:
    """Write a text with characters that every output has."""
    return text.translate(PLAIN_CHARACTERS).encode("ascii", "replace").decode()


def _is_screen() -> bool:
    """Say whether there is a terminal that can be drawn on; textual reads the first and draws on the last of these."""
    return os.environ.get("TERM", "") not in {"", "dumb"} and all(
        stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)
    )


def _remote(url: str, token_env: str | None, token_file: str | None) -> Remote:
    """Return the server that is meant. Raises: typer.BadParameter."""
    wanted = "wanted such as https://sojourn.example:9300"
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or "@" in parts.netloc or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise typer.BadParameter(f"--url: {wanted}")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        print_warning(f"the token goes to {parts.hostname} in the clear; use https")
    return Remote(f"{parts.scheme}://{parts.netloc}", read_secret("Token", env=token_env, file=token_file))
