"""``sojourn probe``: the other end of a protocol, to try a server with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, NamedTuple

import typer

from sojourn.cli import probe_exchange, probe_itv2, probe_postgres
from sojourn.cli.output import FAILED, print_error, print_table
from sojourn.cli.secret_input import read_secret
from sojourn.core.secret import Secret
from sojourn.core.tls import client_context
from sojourn.errors import ConfigError
from sojourn.gateways.tacacs.messages import AcctFlag, AuthenType
from sojourn.gateways.tacacs.peer import Outcome, TacacsClient

app = typer.Typer(no_args_is_help=True, help="Try a server from the other end.")
app.command()(probe_postgres.postgres)
app.command()(probe_exchange.exchange)
app.command()(probe_itv2.itv2)

_PORT = 49
_TLS_PORT = 300
_COLUMNS = ("step", "answer", "ms", "packets", "pairs", "message")


class LoginType(StrEnum):
    """Ways to log in."""

    ASCII = "ascii"
    PAP = "pap"
    CHAP = "chap"
    MSCHAP = "mschap"
    MSCHAPV2 = "mschapv2"
    NONE = "none"


_TYPES = {
    LoginType.ASCII: AuthenType.ASCII,
    LoginType.PAP: AuthenType.PAP,
    LoginType.CHAP: AuthenType.CHAP,
    LoginType.MSCHAP: AuthenType.MSCHAP,
    LoginType.MSCHAPV2: AuthenType.MSCHAPV2,
}


class _Plan(NamedTuple):
    """What is tried, in this order."""

    user: str
    password: Secret | None
    login_type: LoginType
    service: str
    authorize: tuple[str, ...]
    account: tuple[str, ...]


@app.command()
def tacacs(
    address: Annotated[str, typer.Argument(help="host, host:port or [v6]:port; port 49, over TLS 300.")],
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Who logs in.")],
    login_type: Annotated[LoginType, typer.Option("--type", help="How to log in.")] = LoginType.PAP,
    authorize: Annotated[
        list[str] | None,
        typer.Option(metavar="CMD", help="Ask for this command; '' is the session itself. Repeatable."),
    ] = None,
    service: Annotated[str, typer.Option(help="Service that is authorized.")] = "shell",
    account: Annotated[
        list[str] | None,
        typer.Option(metavar="CMD", help="Hand in START and STOP records of this command. Repeatable."),
    ] = None,
    password_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the password.")
    ] = None,
    password_file: Annotated[str | None, typer.Option(metavar="FILE", help="File with the password.")] = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the device's key.")
    ] = None,
    key_file: Annotated[str | None, typer.Option(metavar="FILE", help="File with the device's key.")] = None,
    tls: Annotated[bool, typer.Option(help="TLS 1.3 (RFC 9887) instead of a key.")] = False,
    ca_file: Annotated[str, typer.Option(help="TLS: certificates that sign the server.")] = "",
    certificate_file: Annotated[str, typer.Option(help="TLS: our certificate.")] = "",
    private_key_file: Annotated[str, typer.Option(help="TLS: our certificate's key.")] = "",
    server_name: Annotated[str, typer.Option(help="TLS: name in the server's certificate.")] = "",
    single_connect: Annotated[bool, typer.Option(help="Ask to keep one connection for all.")] = False,
    rem_addr: Annotated[str, typer.Option(help="Where the user is said to come from.")] = "127.0.0.1",
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest wait for one answer.")] = 10.0,
) -> None:
    """Log in, ask for authorization and hand in accounting records, as a device would.

    Exit code 0 if the server said yes to everything. Password and key are asked for, or come from a variable
    or file.
    """
    host, port = _split_address(address, _TLS_PORT if tls else _PORT)
    if tls and not (ca_file and certificate_file and private_key_file):
        raise typer.BadParameter("--tls needs --ca-file, --certificate-file and --private-key-file")
    key = None if tls else read_secret("Key", env=key_env, file=key_file)
    password = None
    if login_type is not LoginType.NONE:
        password = read_secret("Password", env=password_env, file=password_file)
    try:
        context = client_context(ca_file, certificate_file, private_key_file) if tls else None
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    client = TacacsClient(
        host,
        port,
        key=None if key is None else key.reveal().encode(),
        tls=context,
        server_name=server_name or None,
        single_connect=single_connect,
        rem_addr=rem_addr,
        timeout_s=timeout_s,
    )
    plan = _Plan(user, password, login_type, service, tuple(authorize or ()), tuple(account or ()))
    outcomes = asyncio.run(_run(client, plan))
    print_table(_COLUMNS, [_cells(step, outcome) for step, outcome in outcomes])
    if not all(outcome.passed for _, outcome in outcomes):
        print_error("the server refused something", "on the server: sojourn tacacs explain")
        raise typer.Exit(FAILED)


async def _run(client: TacacsClient, plan: _Plan) -> list[tuple[str, Outcome]]:
    async with client:
        return [step async for step in _steps(client, plan)]


async def _steps(client: TacacsClient, plan: _Plan) -> AsyncIterator[tuple[str, Outcome]]:
    if plan.password is not None:
        kind = _TYPES[plan.login_type]
        outcome = await client.login(plan.user, plan.password.reveal(), authen_type=kind)
        yield f"login {plan.login_type}", outcome
    for command in plan.authorize:
        words = command or "(session)"
        yield f"authorize {words}", await client.authorize(plan.user, command_args(plan.service, command))
    for number, command in enumerate(plan.account, 1):
        args = (f"task_id={number}", *command_args(plan.service, command))
        yield f"account START {command}", await client.account(AcctFlag.START, plan.user, args)
        yield f"account STOP {command}", await client.account(AcctFlag.STOP, plan.user, args)


def command_args(service: str, command: str) -> tuple[str, ...]:
    """Return the pairs with which a device asks for a command; an empty command is the session itself.

    Source: RFC 8907 section 6.1.
    """
    name, *words = command.split() or [""]
    return (f"service={service}", f"cmd={name}", *(f"cmd-arg={word}" for word in words))


def _cells(step: str, outcome: Outcome) -> tuple[str, ...]:
    took = f"{outcome.seconds * 1000:.1f}"
    return step, outcome.status, took, str(outcome.packets), " ".join(outcome.args), outcome.server_msg


def _split_address(address: str, default_port: int) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return address.strip("[]"), default_port
    if not (port.isascii() and port.isdigit()):
        raise typer.BadParameter(f"address: found port {port!r}, wanted a number")
    return host.strip("[]"), int(port)
