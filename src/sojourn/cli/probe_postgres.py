"""``sojourn probe postgres``: log in as an application would, and say who answers and how fast."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sojourn.cli.output import FAILED, print_error, print_table
from sojourn.cli.secret_input import read_optional_secret
from sojourn.core.secret import Secret
from sojourn.core.tls import client_context
from sojourn.errors import ConfigError

if TYPE_CHECKING:
    import asyncpg

_PORT = 5432
_COLUMNS = ("step", "answer", "ms")


class TlsMode(StrEnum):
    """How much TLS is asked for, in libpq's words."""

    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"


class _Plan(NamedTuple):
    """Whom to call, as whom and how."""

    host: str
    port: int
    user: str
    database: str
    password: Secret | None
    tls: Any
    rounds_count: int
    timeout_s: float


def postgres(
    address: Annotated[str, typer.Argument(help="host, host:port or [v6]:port; port 5432.")],
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Who logs in.")],
    database: Annotated[
        str, typer.Option("--database", "-d", help="Which database; empty = the user's name.")
    ] = "",
    password_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the password.")
    ] = None,
    password_file: Annotated[str | None, typer.Option(metavar="FILE", help="File with the password.")] = None,
    tls: Annotated[TlsMode, typer.Option(help="disable, prefer or require.")] = TlsMode.PREFER,
    ca_file: Annotated[
        str, typer.Option(help="Certificates that sign the server; its name is checked too.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often the answer time is measured.")] = 20,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest wait for one answer.")] = 10.0,
) -> None:
    """Log in, ask who answers and how long an answer takes, through a gateway or directly.

    Exit code 0 if everything was answered.
    """
    try:
        import asyncpg  # noqa: PLC0415 - an optional part
    except ImportError:
        print_error("this needs a PostgreSQL driver", "pip install 'sojourn[postgres]'")
        raise typer.Exit(FAILED) from None
    host, port = _split_address(address)
    password = read_optional_secret(env=password_env, file=password_file)
    try:
        context = client_context(ca_file, min_version="1.2") if ca_file else str(tls)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    plan = _Plan(host, port, user, database or user, password, context, rounds, timeout_s)
    try:
        rows = asyncio.run(_run(plan))
    except asyncpg.PostgresError as error:
        print_error(f"{error.sqlstate}: {error}")
        raise typer.Exit(FAILED) from None
    except TimeoutError:
        print_error(f"no answer within {timeout_s:g} s")
        raise typer.Exit(FAILED) from None
    except (OSError, asyncpg.InterfaceError) as error:
        print_error(f"{type(error).__name__}: {error}")
        raise typer.Exit(FAILED) from None
    print_table(_COLUMNS, rows)


async def _run(plan: _Plan) -> list[tuple[str, str, str]]:
    import asyncpg  # noqa: PLC0415 - an optional part

    began = perf_counter()
    connection = await asyncpg.connect(
        host=plan.host,
        port=plan.port,
        user=plan.user,
        database=plan.database,
        password=None if plan.password is None else plan.password.reveal(),
        ssl=plan.tls,
        timeout=plan.timeout_s,
        command_timeout=plan.timeout_s,
        server_settings={"application_name": "sojourn probe"},
    )
    took = _ms(perf_counter() - began)
    try:
        return [("login", f"{plan.user}@{plan.database}, {_tls(connection)}", took)] + [
            row async for row in _rows(connection, plan)
        ]
    finally:
        await connection.close(timeout=plan.timeout_s)


async def _rows(connection: asyncpg.Connection, plan: _Plan) -> AsyncIterator[tuple[str, str, str]]:
    began = perf_counter()
    version = await connection.fetchval("SHOW server_version")
    is_replica = await connection.fetchval("SELECT pg_is_in_recovery()")
    yield (
        "server",
        f"PostgreSQL {version}, {'replica' if is_replica else 'primary'}",
        _ms(perf_counter() - began),
    )
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    told = connection.get_server_pid()
    if backend == told:
        yield "backend", f"PID {backend}, as told at the login", ""
    else:
        yield "backend", f"PID {backend}, told at the login {told}: a pooler is between", ""
    times = []
    for _ in range(plan.rounds_count):
        began = perf_counter()
        await connection.execute("SELECT 1")
        times.append(perf_counter() - began)
    yield "answer, median", f"of {len(times)}", _ms(statistics.median(times))
    yield "answer, longest", "", _ms(max(times))


def _tls(connection: Any) -> str:
    # The driver tells it nowhere else.
    tls = connection._transport.get_extra_info("ssl_object")  # noqa: SLF001 - as above
    return "no TLS" if tls is None else str(tls.version())


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def _split_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return address.strip("[]"), _PORT
    if not (port.isascii() and port.isdigit()):
        raise typer.BadParameter(f"address: found port {port!r}, wanted a number")
    return host.strip("[]"), int(port)
