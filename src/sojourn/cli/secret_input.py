"""Secrets from a prompt, the environment or a file; never from arguments, which others can read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from sojourn.config.references import References, Trouble
from sojourn.core.secret import Secret


def read_secret(what: str, *, env: str | None, file: str | None, confirm: bool = False) -> Secret:
    """Return a secret from the variable or file that was named, or ask for it.

    Args:
        what: what is asked for, such as ``"Password"``.
        env: a variable's name.
        file: a path; ``-`` is the first line of standard input.
        confirm: ask twice.
    Raises: typer.BadParameter if there is no such variable, file or terminal.
    """
    secret = read_optional_secret(env=env, file=file)
    if secret is not None:
        return secret
    if not sys.stdin.isatty():
        option = what.lower().replace(" ", "-")
        raise typer.BadParameter(f"{what}: no terminal to ask on; use --{option}-env or --{option}-file")
    return Secret(str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)))


def read_optional_secret(*, env: str | None, file: str | None) -> Secret | None:
    """Return a secret from the variable or file that was named, or nothing if none was."""
    if env is not None and file is not None:
        raise typer.BadParameter("a variable and a file: only one of them can be used")
    if env is None and file is None:
        return None
    if file == "-":
        return Secret(sys.stdin.readline().rstrip("\r\n"))
    references = References(os.environ, Path.cwd(), world_readable=True)
    text = references.resolve_secret(f"${{env:{env}}}" if env is not None else f"${{file:{file}}}")
    if isinstance(text, Trouble):
        raise typer.BadParameter(f"found {text.found}, wanted {text.wanted}")
    return Secret(text)
