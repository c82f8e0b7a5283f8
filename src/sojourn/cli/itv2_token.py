"""``sojourn itv2 make-token``: a token for the panels' API, of which the configuration gets the digest only."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Final, get_args

import msgspec
import typer

from sojourn.cli.output import print_note, print_text
from sojourn.gateways.itv2.commands import Scope
from sojourn.gateways.itv2.http.config import TokenSettings

_TOKEN_BYTES: Final = 32


def make_token(
    *,
    name: Annotated[str, typer.Argument(help="Who gets it; in the audit of every command.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            "-s",
            help="What it allows: read, arm, disarm, bypass or admin; by default read. Repeatable.",
        ),
    ] = None,
    panel: Annotated[
        list[str] | None,
        typer.Option("--panel", "-p", help="A panel that there is for it; by default all. Repeatable."),
    ] = None,
    needs_code: Annotated[
        bool, typer.Option("--needs-code", help="Its commands must bring an access code.")
    ] = False,
) -> None:
    """Print a new token, once, and to standard error the table for the configuration, which holds its digest."""
    scopes = scope or ["read"]
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    table = {
        "name": name,
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "scopes": scopes,
        **({"panels": panel} if panel else {}),
        **({"needs_code": True} if needs_code else {}),
    }
    _check(table, scopes)
    print_note("Give it to its holder now: it is kept nowhere. Into the configuration:")
    print_note("[[itv2.http.tokens]]")
    for key, value in table.items():
        print_note(f"{key} = {json.dumps(value)}")
    print_text(token)


def _check(table: dict[str, object], scopes: Sequence[str]) -> None:
    """Refuse what the configuration would refuse. Raises: typer.BadParameter."""
    known = get_args(Scope)
    for one in scopes:
        if one not in known:
            raise typer.BadParameter(f"found {one!r}, wanted one of {', '.join(known)}", param_hint="--scope")
    try:
        settings = msgspec.convert(table, TokenSettings)
    except msgspec.ValidationError:
        wanted = "at most 63 letters, digits and _ . @ -, with a letter or digit at both ends"
        raise typer.BadParameter(f"wanted {wanted}", param_hint="NAME") from None
    for _key, found, wanted in settings.problems():
        raise typer.BadParameter(f"found {found}, wanted {wanted}", param_hint="NAME")
