"""``sojourn decode``: captured bytes in words."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from sojourn.cli.output import print_text
from sojourn.cli.secret_input import read_optional_secret
from sojourn.gateways.itv2 import decoding as itv2_decoding
from sojourn.gateways.postgres.describe import bytes_from_hex, described, speaker_of
from sojourn.gateways.postgres.trace_words import FROM_CLIENT, FROM_SERVER
from sojourn.gateways.tacacs.wire.describe import describe, packets_from_hex


class Speaker(StrEnum):
    """Whose bytes they are."""

    CLIENT = "client"
    SERVER = "server"


_DIRECTIONS = {Speaker.CLIENT: FROM_CLIENT, Speaker.SERVER: FROM_SERVER}

app = typer.Typer(no_args_is_help=True, help="Captured bytes in words.")


@app.command()
def tacacs(
    text: Annotated[
        str, typer.Argument(metavar="[HEX]", help="Hexadecimal digits; by default standard input.")
    ] = "-",
    key_file: Annotated[str | None, typer.Option(metavar="FILE", help="File with the device's key.")] = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the device's key.")
    ] = None,
    max_length_bytes: Annotated[int, typer.Option(min=1, help="Largest body.")] = 65_536,
) -> None:
    """Describe TACACS+ packets; without a key only the headers of obfuscated ones."""
    key = read_optional_secret(env=key_env, file=key_file)
    secret = None if key is None else key.reveal().encode()
    packets = packets_from_hex(sys.stdin.read() if text == "-" else text, max_length_bytes)
    print_text("\n\n".join("\n".join(describe(packet, secret)) for packet in packets))


@app.command()
def postgres(
    text: Annotated[
        str, typer.Argument(metavar="[HEX]", help="Hexadecimal digits; by default standard input.")
    ] = "-",
    speaker: Annotated[
        Speaker | None, typer.Option("--from", help="Whose bytes they are; by default it is guessed.")
    ] = None,
) -> None:
    """Describe PostgreSQL messages of one direction; values, passwords and keys are shown by their sizes."""
    data = bytes_from_hex(sys.stdin.read() if text == "-" else text)
    direction = speaker_of(data) if speaker is None else _DIRECTIONS[speaker]
    for number, lines in enumerate(described(data, direction)):
        print_text(("\n" if number else "") + "\n".join(lines))


@app.command()
def itv2(
    text: Annotated[
        str, typer.Argument(metavar="[HEX]", help="Hexadecimal digits; by default standard input.")
    ] = "-",
    key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File with the panel's access code, or with the key of one direction."
        ),
    ] = None,
    key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable with the same.")] = None,
) -> None:
    """Describe ITv2 packets of one connection, or one frame; with the access code encrypted ones too."""
    secret = read_optional_secret(env=key_env, file=key_file)
    data = itv2_decoding.bytes_from_hex(sys.stdin.read() if text == "-" else text)
    packets = itv2_decoding.described(data, None if secret is None else secret.reveal())
    for number, lines in enumerate(packets):
        print_text(("\n" if number else "") + "\n".join(lines))
