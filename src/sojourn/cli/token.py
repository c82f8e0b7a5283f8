"""``sojourn token``: keys and tokens for development, where there is no identity provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sojourn.cli.output import print_note, print_text
from sojourn.core.clock import utc_now

app = typer.Typer(no_args_is_help=True, help="Tokens of the exchange gateway, for development.")

_DEFAULTS = ("sojourn-dev", "sojourn", "exchange")
"""Issuer, audience and scope as ``[exchange.auth]`` has them by default."""

KeyOption = Annotated[
    Path,
    typer.Option(
        "--key",
        "-k",
        envvar="SOJOURN_TOKEN_KEY",
        metavar="FILE",
        help="The key file, as in exchange.auth.dev_key_file.",
    ),
]


@app.command("new-key")
def print_new_key(
    *, file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, made with mode 0600.")]
) -> None:
    """Make a private key; whoever can read it can be anybody."""
    from sojourn.gateways.exchange.dev_issuer import make_key_file  # noqa: PLC0415 - only with the extra "exchange"

    make_key_file(file)
    print_note(f"{file}: for exchange.auth.dev_key_file and for: sojourn token issue SUBJECT --key {file}")


@app.command()
def issue(
    *,
    subject: Annotated[str, typer.Argument(help="Whose token it is.")],
    key: KeyOption,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", help="What it allows; by default exchange. Repeatable."),
    ] = None,
    lifetime: Annotated[float, typer.Option(min=1, help="How long it is good, in seconds.")] = 3_600.0,
    issuer: Annotated[str, typer.Option(help="Its iss, as in exchange.auth.issuer.")] = _DEFAULTS[0],
    audience: Annotated[str, typer.Option(help="Its aud, as in exchange.auth.audience.")] = _DEFAULTS[1],
) -> None:
    """Print a token for a subject."""
    from sojourn.gateways.exchange.dev_issuer import read_key_file, sign_token  # noqa: PLC0415 - as above

    token = sign_token(
        read_key_file(key),
        subject=subject,
        scopes=scope or [_DEFAULTS[2]],
        issuer=issuer,
        audience=audience,
        lifetime_s=lifetime,
        now=utc_now().timestamp(),
    )
    print_text(token)


@app.command()
def jwks(*, key: KeyOption) -> None:
    """Print the public half of a key as a JWK set, for exchange.auth.jwks_file of another server."""
    from sojourn.gateways.exchange.dev_issuer import public_set, read_key_file  # noqa: PLC0415 - as above

    print_text(public_set(read_key_file(key)).decode())
