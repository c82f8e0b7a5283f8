"""``sojourn sessions``, ``trace``, ``drain``, ``reload``: what a running server does, and orders to it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from sojourn.admin.core_view import unseen
from sojourn.admin.rendering import MermaidLines, entry_text, trace_mermaid, trace_text
from sojourn.admin.values import LoginLink
from sojourn.admin.view import Page, SessionRow, Trace, TraceEntry
from sojourn.cli.control import ControlClient
from sojourn.cli.options import ConfigOption, SocketOption, find_socket
from sojourn.cli.output import (
    BAD_USAGE,
    FAILED,
    print_error,
    print_note,
    print_problems,
    print_table,
    print_text,
    table_of,
)
from sojourn.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Sessions of a running server.")

_COLUMNS = ("id", "gateway", "peer", "about", "state", "age", "reason")
_FOLLOW_INTERVAL_S = 0.5
_UNKNOWN = "the server remembers no such session"
_LIST_THEM = "list them with: sojourn sessions list"


class State(StrEnum):
    """States of sessions that can be asked for."""

    OPEN = "open"
    FINISHED = "finished"
    FAILED = "failed"


class Scope(StrEnum):
    """What a browser may."""

    VIEW = "view"
    OPERATE = "operate"
    ADMIN = "admin"


GatewayOption = Annotated[str, typer.Option(help="Only of this gateway.")]
StateOption = Annotated[State | None, typer.Option(help="Only in this state.")]
SearchOption = Annotated[str, typer.Option(help="Only with this text in id, peer or about.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")]
SessionArgument = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]


@app.command("list")
def list_sessions(
    *,
    gateway: GatewayOption = "",
    state: StateOption = None,
    search: SearchOption = "",
    limit: LimitOption = 100,
    cursor: Annotated[str, typer.Option(help="Go on behind an earlier page.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """List sessions, newest first."""
    query = {**_query(gateway, state, search, limit), "cursor": cursor}
    page = asyncio.run(_page(find_socket(socket, config), query))
    if as_json:
        print_text(msgspec.json.encode(page).decode())
        return
    print_table(_COLUMNS, [_cells(row) for row in page.sessions])
    if page.next_cursor:
        print_text(f"there are more: --cursor {page.next_cursor}")


@app.command()
def show(session_id: SessionArgument, socket: SocketOption = None, config: ConfigOption = None) -> None:
    """Show one session."""

    async def ask() -> SessionRow | None:
        async with ControlClient(find_socket(socket, config)) as server:
            return await server.find_session(session_id)

    row = asyncio.run(ask())
    if row is None:
        print_error(_UNKNOWN, _LIST_THEM)
        raise typer.Exit(FAILED)
    print_table(("key", "value"), list(zip(_COLUMNS, _cells(row), strict=True)))


@app.command()
def close(session_id: SessionArgument, socket: SocketOption = None, config: ConfigOption = None) -> None:
    """End an open session with its protocol's own farewell."""

    async def order() -> bool:
        async with ControlClient(find_socket(socket, config)) as server:
            return await server.close_session(session_id)

    if not asyncio.run(order()):
        print_error("no such open session", _LIST_THEM)
        raise typer.Exit(FAILED)
    print_text(f"session {session_id} was told to end")


@app.command()
def watch(
    *,
    gateway: GatewayOption = "",
    state: StateOption = State.OPEN,
    search: SearchOption = "",
    limit: LimitOption = 40,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Watch sessions come and go, until Ctrl-C."""
    path, query = find_socket(socket, config), _query(gateway, state, search, limit)

    async def look(show: Callable[[list[tuple[str, ...]]], None]) -> None:
        async with ControlClient(path) as server:
            while True:
                page = await server.list_sessions(query)
                show([_cells(row) for row in page.sessions])
                await asyncio.sleep(interval_s)

    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, screen=False) as live:
                asyncio.run(look(lambda rows: live.update(table_of(_COLUMNS, rows), refresh=True)))
        else:
            # Into a pipe every look is a table of its own: a live display would show its last one only.
            asyncio.run(look(lambda rows: print_table(_COLUMNS, rows)))


def trace(
    session_id: SessionArgument,
    *,
    follow: Annotated[bool, typer.Option(help="Go on printing until the session ends.")] = False,
    mermaid: Annotated[bool, typer.Option(help="Print a Mermaid sequence diagram.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Print what happened in a session."""
    if follow and as_json:
        raise typer.BadParameter("--follow prints text or Mermaid")
    path = find_socket(socket, config)
    with contextlib.suppress(KeyboardInterrupt):
        if follow:
            found = asyncio.run(_follow(path, session_id, is_mermaid=mermaid))
        else:
            found = asyncio.run(_trace(path, session_id))
        if found is None:
            print_error(_UNKNOWN, _LIST_THEM)
            raise typer.Exit(FAILED)
        if follow:
            return
        if mermaid:
            print_text(trace_mermaid(found))
        elif as_json:
            print_text(msgspec.json.encode(found).decode())
        else:
            print_text(trace_text(found))


def login_link(
    *,
    name: Annotated[str, typer.Option(help="Whose browser it is, as the audit log calls it.")] = "browser",
    scope: Annotated[Scope, typer.Option(help="What the browser may.")] = Scope.ADMIN,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a link that lets one browser into the dashboard, once."""

    async def ask() -> LoginLink:
        async with ControlClient(find_socket(socket, config)) as server:
            return await server.login_link(name, scope.value)

    link = asyncio.run(ask())
    if not link.url:
        print_error("the server listens nowhere for browsers", "set [admin] address")
        raise typer.Exit(FAILED)
    print_text(link.url)
    print_note(f"works once, for {max(0.0, link.expires_at - time.time()):.0f} seconds")


def drain(socket: SocketOption = None, config: ConfigOption = None) -> None:
    """Tell the server to take nothing new, let sessions finish, and stop."""
    asyncio.run(_drain_or_reload(find_socket(socket, config), is_drain=True))
    print_text("draining")


def reload(socket: SocketOption = None, config: ConfigOption = None) -> None:
    """Tell the server to read its configuration again; exit code 2 and every problem if it has any."""
    path = find_socket(socket, config)
    try:
        asyncio.run(_drain_or_reload(path, is_drain=False))
    except ConfigError as error:
        print_problems(error, "the old configuration stays in force")
        raise typer.Exit(BAD_USAGE) from None
    print_text("the new configuration is in force")


async def _page(socket: Path, query: dict[str, str]) -> Page:
    async with ControlClient(socket) as server:
        return await server.list_sessions(query)


async def _trace(socket: Path, session_id: str) -> Trace | None:
    async with ControlClient(socket) as server:
        return await server.trace(session_id)


async def _follow(socket: Path, session_id: str, *, is_mermaid: bool) -> Trace | None:
    """Print what happens until the session ends; as Mermaid, what is printed is a diagram at any time."""
    seen: tuple[TraceEntry, ...] = ()
    lines: MermaidLines | None = None
    async with ControlClient(socket) as server:
        while (now := await server.trace(session_id)) is not None:
            if is_mermaid and lines is None:
                lines = MermaidLines(now)
                print_text("\n".join(lines.head()))
            for entry in unseen(seen, now.entries):
                for line in lines.of(entry) if lines else [entry_text(entry, now.session.started)]:
                    print_text(line)
            seen = now.entries
            if now.session.ended is not None:
                if lines is not None:
                    print_text("\n".join(lines.end(now.session)))
                return now
            await asyncio.sleep(_FOLLOW_INTERVAL_S)
    return None


async def _drain_or_reload(socket: Path, *, is_drain: bool) -> None:
    async with ControlClient(socket) as server:
        await server.order("drain" if is_drain else "reload")


def _query(gateway: str, state: State | None, search: str, limit: int) -> dict[str, str]:
    return {"gateway": gateway, "state": state.value if state else "", "search": search, "limit": str(limit)}


def _cells(row: SessionRow) -> tuple[str, ...]:
    age_s = max((row.ended or time.time()) - row.started, 0.0)
    age = str(datetime.timedelta(seconds=int(age_s))) if age_s >= 1 else f"{age_s * 1000:.0f} ms"
    return row.id, row.gateway, row.peer, row.about, row.state, age, row.reason
