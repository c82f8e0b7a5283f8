"""``sojourn tacacs``: why the policy decides as it does, password hashes, and migration."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer

from sojourn.cli.options import ConfigOption, load_config
from sojourn.cli.output import BAD_USAGE, FAILED, print_error, print_note, print_table, print_text
from sojourn.cli.probe import command_args
from sojourn.cli.secret_input import read_optional_secret, read_secret
from sojourn.core.secret import Secret
from sojourn.gateways.tacacs.config import Device, TacacsSettings
from sojourn.gateways.tacacs.devices import DeviceTable
from sojourn.gateways.tacacs.importer import import_tac_plus
from sojourn.gateways.tacacs.passwords import check_seal_key, hash_password, new_seal_key, seal
from sojourn.gateways.tacacs.policy import Policy, Query

app = typer.Typer(no_args_is_help=True, help="The TACACS+ gateway.")


@app.command()
def explain(
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Who asks.")],
    device: Annotated[str, typer.Option("--device", "-d", help="On which device: its name or address.")],
    command: Annotated[str, typer.Option("--cmd", help="The command; '' is the session itself.")] = "",
    service: Annotated[str, typer.Option(help="The service.")] = "shell",
    group: Annotated[
        list[str] | None, typer.Option(help="A group that a directory would give the user. Repeatable.")
    ] = None,
    rem_addr: Annotated[str, typer.Option("--from", help="The user's address.")] = "",
    at: Annotated[str, typer.Option(help="When, such as 2026-12-31T08:30+01:00; by default now.")] = "",
    config: ConfigOption = None,
) -> None:
    """Say which rule decides and why the ones before it do not; exit code 0 means permit, 1 deny."""
    settings = _tacacs(config)
    found = _find_device(settings, device)
    if found is None:
        print_error(f"no device is named or contains {device!r}", "see: sojourn config show")
        raise typer.Exit(FAILED)
    moment = _moment(at)
    groups = {name for one in settings.users if one.name == user for name in one.groups} | set(group or ())
    query = Query(
        user=user,
        user_groups=tuple(sorted(groups)),
        device=found.name,
        device_groups=found.groups,
        rem_addr=rem_addr,
        service=service,
        args=command_args(service, command),
    )
    steps = Policy(settings, lambda: moment).explain(query)
    print_table(
        ("rule", "matches", "why"),
        [(step.rule, "" if step.decision else "yes" if step.matched else "no", step.words) for step in steps],
    )
    decision = steps[-1].decision
    if decision is None or not decision.permit:
        raise typer.Exit(FAILED)


@app.command("hash-password")
def print_hash(
    *,
    sealed: Annotated[
        bool, typer.Option(help="Seal a recoverable secret for CHAP and MS-CHAP instead.")
    ] = False,
    user: Annotated[str, typer.Option("--user", "-u", help="With --sealed: whose secret it is.")] = "",
    password_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the password.")
    ] = None,
    password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the password; - is standard input.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Print what belongs into a user's password or enable; with --sealed, into secret."""
    key = _seal_key(config) if sealed else None
    if sealed and not user:
        raise typer.BadParameter("--sealed needs --user: a sealed secret works for one user only")
    password = read_secret("Password", env=password_env, file=password_file, confirm=True).reveal()
    if not password:
        raise typer.BadParameter("an empty password")
    print_text(hash_password(password) if key is None else seal(password, key, user))


@app.command("new-seal-key")
def print_seal_key() -> None:
    """Print a fresh random key for tacacs.seal_key; keep it in a file of mode 0600."""
    print_text(new_seal_key().reveal())


@app.command("import")
def import_configuration(
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A classic tac_plus.conf.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A new file, mode 0600; by default standard output."
        ),
    ] = None,
    seal_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the key that seals CHAP secrets.")
    ] = None,
    seal_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the key that seals CHAP secrets.")
    ] = None,
) -> None:
    """Turn a tac_plus configuration into ours; what could not be mapped goes to standard error."""
    text = _read(file)
    key = read_optional_secret(env=seal_key_env, file=seal_key_file)
    if key is None:
        imported = import_tac_plus(text, file.name)
    elif (trouble := check_seal_key(key)) is not None:
        raise typer.BadParameter(f"seal key: found {trouble}, wanted one of: sojourn tacacs new-seal-key")
    else:
        reference = f"${{env:{seal_key_env}}}" if seal_key_env else f"${{file:{seal_key_file}}}"
        imported = import_tac_plus(
            text, file.name, seal=lambda secret, user: seal(secret, key, user), seal_key_reference=reference
        )
    if output is None:
        print_text(imported.toml)
    else:
        _write_new(output, imported.toml)
    for item in imported.unmapped:
        print_note(f"{file}:{item.line}: {item.text}: {item.why}")


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="backslashreplace")
    except OSError as error:
        print_error(f"{file}: {error.strerror}")
        raise typer.Exit(FAILED) from None


def _write_new(output: Path, text: str) -> None:
    """Write a file that only its owner can read: it has keys in it."""
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            new.write(text)
    except OSError as error:
        print_error(f"{output}: {error.strerror}", "choose a file that does not exist yet")
        raise typer.Exit(FAILED) from None


def _tacacs(config: Path | None) -> TacacsSettings:
    settings = load_config(config).tacacs
    if settings is None:
        print_error("no [tacacs] is configured", "see: sojourn config example")
        raise typer.Exit(BAD_USAGE)
    return settings


def _seal_key(config: Path | None) -> Secret:
    key = _tacacs(config).seal_key
    if key is None:
        print_error("tacacs.seal_key is not set", "make one with: sojourn tacacs new-seal-key")
        raise typer.Exit(BAD_USAGE)
    return key


def _find_device(settings: TacacsSettings, name: str) -> Device | None:
    by_name = next((one for one in settings.devices if one.name == name), None)
    return by_name or DeviceTable(settings.devices).find(name)


def _moment(at: str) -> datetime.datetime:
    if not at:
        return datetime.datetime.now(datetime.UTC)
    try:
        moment = datetime.datetime.fromisoformat(at)
    except ValueError:
        raise typer.BadParameter("--at: wanted a time such as 2026-12-31T08:30+01:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
