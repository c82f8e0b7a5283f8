"""``sojourn probe exchange``: open a session as a user's program would, and say what works and how fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Annotated, Final, NamedTuple

import typer

from sojourn.cli.output import FAILED, print_error, print_table
from sojourn.cli.secret_input import read_secret
from sojourn.core.secret import Secret
from sojourn.core.tls import client_context
from sojourn.errors import BackendUnavailable, ConfigError, SojournError
from sojourn.gateways.exchange.peer import Declined, ExchangeClient, LiveSession

_PORT: Final = 8080
_COLUMNS: Final = ("step", "answer", "ms")
_NEXT: Final = {
    "no_token": "a token: sojourn token issue SUBJECT --key FILE",
    "invalid_token": "a new token, of an issuer that the server believes: sojourn token issue SUBJECT --key FILE",
    "forbidden": "a token with the scope of exchange.auth.user_scope",
    "device_mismatch": "a token of a user who has no session, or --device with the session's device",
    "simulator_failed": "the server's log, and on it: sojourn sessions list",
    "auth_unavailable": "on the server: the issuer of [exchange.auth] must be reachable",
    "too_many_requests": "the same again a little later",
}
"""What to try next, by the code of a refusal."""

Row = tuple[str, str, str]


class _Plan(NamedTuple):
    """Whom to call, as whom and how."""

    url: str
    token: Secret
    device: str
    ca_file: str
    is_binary: bool
    with_simulator: bool
    timeout_s: float


def exchange(
    address: Annotated[
        str, typer.Argument(help="host, host:port, [v6]:port or a base URL; port 8080, without TLS.")
    ],
    *,
    token_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable with the token.")] = None,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the token; - is standard input.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device that the session is opened on.")] = "sojourn-probe",
    simulator: Annotated[
        bool, typer.Option("--simulator", help="Start a simulator too, and trade one order.")
    ] = False,
    msgpack: Annotated[bool, typer.Option("--msgpack", help="MessagePack instead of JSON.")] = False,
    ca_file: Annotated[str, typer.Option(help="TLS: certificates that sign the server.")] = "",
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest wait for one answer.")] = 10.0,
) -> None:
    """Open a session, connect, lose the connection and resume, as a user's program would; then end the session.

    Exit code 0 if everything worked. A session that the user has elsewhere is left alone: nothing is tried then.
    """
    url = _base_url(address, is_tls=bool(ca_file))
    token = read_secret("Token", env=token_env, file=token_file)
    plan = _Plan(url, token, device, ca_file, msgpack, simulator, timeout_s)
    rows: list[Row] = []
    error: SojournError | None = None
    try:
        asyncio.run(_run(plan, rows))
    except ConfigError as problem:
        raise typer.BadParameter(str(problem)) from None
    except SojournError as found:
        error = found
    print_table(_COLUMNS, rows)
    if error is not None:
        print_error(str(error), _next_step(error, url))
        raise typer.Exit(FAILED)


class _Steps:
    """Takes the time of each step."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._began = perf_counter()

    def done(self, step: str, answer: str) -> None:
        """Note what came of a step, and begin the next one."""
        now = perf_counter()
        self._rows.append((step, answer, f"{(now - self._began) * 1000:.1f}"))
        self._began = now


async def _run(plan: _Plan, rows: list[Row]) -> None:
    tls = client_context(plan.ca_file, min_version="1.2") if plan.ca_file else None
    client = ExchangeClient([plan.url], plan.token, device=plan.device, tls=tls, timeout_s=plan.timeout_s)
    async with client:
        steps = _Steps(rows)
        ready = await client.readiness()
        parts = ", ".join(f"{name} {state}" for name, state in ready.parts.items())
        steps.done("readyz", f"pod {ready.pod}: {parts}")
        async with _session(client, plan, steps) as session_id:
            live = client.live(session_id, is_binary=plan.is_binary, timeout_s=plan.timeout_s)
            async with live:
                await _talk(live, steps)
                if plan.with_simulator:
                    await _trade(client, live, steps)
                await _resume(live, steps)


@asynccontextmanager
async def _session(client: ExchangeClient, plan: _Plan, steps: _Steps) -> AsyncIterator[str]:
    """Have a session of our own, which is ended whatever happens. Raises: SojournError."""
    for known in (await client.list_sessions()).sessions:
        if known.state != "ended" and known.devices != (plan.device,):
            where = ", ".join(known.devices)
            raise Declined(
                "device_mismatch", f"the user has session {known.id} on {where}, which is left alone"
            )
    session = await client.create_session({"made_by": "sojourn-probe"})
    steps.done("session", f"{session.id} of {session.subject}, {session.state}")
    try:
        yield session.id
    except SojournError:
        with suppress(SojournError):  # the first error is the one to be told
            await client.end_session(session.id)
        raise
    await client.end_session(session.id)
    steps.done("end", "the session is ended")


async def _talk(live: LiveSession, steps: _Steps) -> None:
    """Say what the server greeted us with, and how fast it answers."""
    welcome = live.welcome
    if welcome is not None:
        beats = f"heartbeat every {welcome.heartbeat.every_s:g} s"
        steps.done("welcome", f"pod {welcome.pod}, epoch {welcome.epoch}, {beats}")
    await live.refresh()
    steps.done("answer", "one request over the WebSocket")


async def _trade(client: ExchangeClient, live: LiveSession, steps: _Steps) -> None:
    """Start a simulator, and buy one share at the market. Raises: SojournError."""
    simulator = await client.start_simulator(live.session_id)
    await live.until(lambda: live.simulator.state == "running" and bool(live.rows))
    steps.done("simulator", f"{simulator.id}, {simulator.driver}, {len(live.rows)} symbols")
    symbol = min(live.rows)
    placed = await live.order(symbol, "buy", 1)
    steps.done("order", f"buy 1 {symbol}: {placed.status}, filled {placed.filled}")
    await live.until(lambda: live.orders.get(placed.order, {}).get("status") == placed.status)
    steps.done(
        "event",
        f"{live.stats.events_count} told, the last at offset {live.resume.events if live.resume else 0}",
    )


async def _resume(live: LiveSession, steps: _Steps) -> None:
    """Lose the connection and come back. Raises: SojournError."""
    live.cut()
    await live.until(lambda: live.stats.reconnects_count == 1)
    resumed = live.welcome.resumed if live.welcome is not None else "none"
    steps.done("resume", f"after a cut: {resumed}, {live.stats.lost_count} lost")


def _next_step(error: SojournError, url: str) -> str:
    match error:
        case Declined(code=code):
            return _NEXT.get(code, "")
        case BackendUnavailable():
            return f"is it {url}, and does it run there? On that host: sojourn check, then sojourn run"
        case _:
            return ""


def _base_url(address: str, *, is_tls: bool) -> str:
    if "://" in address:
        scheme = address.partition("://")[0]
        if scheme not in {"http", "https"}:
            raise typer.BadParameter(f"address: found {scheme}, wanted http or https")
        return address.rstrip("/")
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = address, str(_PORT)
    if not (port.isascii() and port.isdigit()):
        raise typer.BadParameter(f"address: found port {port!r}, wanted a number")
    host = host.strip("[]")
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
