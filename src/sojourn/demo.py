"""The demo: the daemon on made-up devices and users, with real traffic sent through it.

Everything lives in one temporary directory and on loopback, and is gone after Ctrl-C. Made-up names, generated
secrets: nothing of it is fit for production, and nothing of it is needed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sojourn.admin.config import AdminSettings
from sojourn.app import Daemon
from sojourn.config import SojournSettings
from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings, LogSettings
from sojourn.gateways.tacacs.config import (
    Accounting,
    Device,
    FileSink,
    Rule,
    SharedSecret,
    TacacsSettings,
    User,
)
from sojourn.gateways.tacacs.messages import AcctFlag, AuthenType
from sojourn.gateways.tacacs.passwords import hash_password, new_seal_key, seal
from sojourn.gateways.tacacs.peer import Outcome, TacacsClient

TACACS_PORT = 4949
ADMIN_PORT = 9300
TRAFFIC_INTERVAL_S = 2.0
"""Pause between two rounds of traffic, so that there is something to look at."""


class Demo:
    """A daemon's settings and the people who use it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = secrets.token_hex(16)
        self.passwords = {name: secrets.token_urlsafe(9) for name in ("ana", "ben")}
        self.tacacs_port = _free_port(TACACS_PORT)
        self.admin_port = _free_port(ADMIN_PORT)
        self.records = directory / "accounting.jsonl"
        self.control = directory / "control.sock"
        self.log = directory / "sojourn.log"
        seal_key = new_seal_key()
        self.settings = SojournSettings(
            log=LogSettings(file=str(self.log), format="json"),
            admin=AdminSettings(
                address=f"127.0.0.1:{self.admin_port}", socket=str(self.control), metrics_without_token=True
            ),
            tacacs=TacacsSettings(
                listeners=(ListenerSettings(address=f"127.0.0.1:{self.tacacs_port}"),),
                devices=(
                    Device(
                        name="demo-switches",
                        networks=("127.0.0.0/8",),
                        groups=("access",),
                        secrets=(SharedSecret(value=Secret(self.key)),),
                    ),
                ),
                users=tuple(
                    User(
                        name=name,
                        groups=(group,),
                        password=Secret(hash_password(self.passwords[name])),
                        secret=Secret(seal(self.passwords[name], seal_key, name)),
                    )
                    for name, group in (("ana", "netops"), ("ben", "helpdesk"))
                ),
                rules=(
                    Rule(
                        name="netops-may-all",
                        user_groups=("netops",),
                        services=("shell",),
                        add=("priv-lvl=15",),
                    ),
                    Rule(name="helpdesk-may-look", user_groups=("helpdesk",), commands=("show", "ping")),
                ),
                accounting=Accounting(files=(FileSink(name="records", path=str(self.records)),)),
                seal_key=seal_key,
            ),
        )

    def client(self, **changes: object) -> TacacsClient:
        """Return a device's side of a connection to the daemon."""
        key = str(changes.pop("key", self.key))
        return TacacsClient("127.0.0.1", self.tacacs_port, key=key.encode(), single_connect=True, **changes)  # type: ignore[arg-type]  # keywords of the client

    async def traffic(self) -> list[tuple[str, str, str, Outcome]]:
        """Do what a day at a switch brings; return what was done, what was wanted and what came back."""
        ana, ben = self.passwords["ana"], self.passwords["ben"]
        show = ("service=shell", "cmd=show", "cmd-arg=version", "cmd-arg=<cr>")
        reload = ("service=shell", "cmd=reload", "cmd-arg=<cr>")
        rows: list[tuple[str, str, str, Outcome]] = []

        async def do(what: str, wanted: str, work: Awaitable[Outcome]) -> None:
            rows.append((what, who, wanted, await work))

        async with self.client() as switch:
            who = "ana"
            await do("login, PAP", "PASS", switch.login("ana", ana, authen_type=AuthenType.PAP))
            await do("login, ASCII", "PASS", switch.login("ana", ana, authen_type=AuthenType.ASCII))
            await do("login, CHAP", "PASS", switch.login("ana", ana, authen_type=AuthenType.CHAP))
            await do("login, MS-CHAPv2", "PASS", switch.login("ana", ana, authen_type=AuthenType.MSCHAPV2))
            await do("session authorization", "PASS_ADD", switch.authorize("ana", ("service=shell", "cmd=")))
            await do("command: reload", "PASS_ADD", switch.authorize("ana", reload))
            who = "ben"
            await do("login, PAP", "PASS", switch.login("ben", ben, authen_type=AuthenType.PAP))
            await do(
                "login, wrong password", "FAIL", switch.login("ben", "guess", authen_type=AuthenType.PAP)
            )
            await do("command: show version", "PASS_ADD", switch.authorize("ben", show))
            await do("command: reload", "FAIL", switch.authorize("ben", reload))
            args = ("task_id=7", "service=shell", "cmd=show version <cr>")
            await do("accounting START", "SUCCESS", switch.account(AcctFlag.START, "ben", args))
            await do(
                "accounting STOP", "SUCCESS", switch.account(AcctFlag.STOP, "ben", (*args, "elapsed_time=3"))
            )
        return rows


def _free_port(wanted: int) -> int:
    """Return ``wanted`` if nobody listens there, else a free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def serve_demo(console: Console | None = None) -> None:
    """Run the demo until a signal says stop."""
    console = console or Console()
    with tempfile.TemporaryDirectory(prefix="sojourn-demo-") as name:
        with console.status("starting the daemon on made-up devices and users ..."):
            demo = Demo(Path(name))
            daemon = Daemon(demo.settings, lambda: demo.settings)
        async with asyncio.TaskGroup() as group:
            visitor = group.create_task(_visit(demo, daemon, console))
            await daemon.serve()
            visitor.cancel()
    console.print("stopped; the demo's directory is gone")


async def _visit(demo: Demo, daemon: Daemon, console: Console) -> None:
    """Send traffic once for the table, then again and again until the daemon ends."""
    await _until(lambda: daemon.server.is_ready)
    with console.status("sending logins, authorizations and accounting ..."):
        rows = await demo.traffic()
    _show(demo, rows, console)
    while True:
        await asyncio.sleep(TRAFFIC_INTERVAL_S)
        with contextlib.suppress(
            Exception
        ):  # the daemon is draining: the device would turn to its next server
            await demo.traffic()


async def _until(is_so: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.01)


def _show(demo: Demo, rows: list[tuple[str, str, str, Outcome]], console: Console) -> None:
    table = Table(title=f"TACACS+ on 127.0.0.1:{demo.tacacs_port}: what one switch just did")
    for heading in ("request", "user", "answer", "as wanted", "time"):
        table.add_column(heading, justify="right" if heading == "time" else "left")
    for what, user, wanted, outcome in rows:
        is_right = outcome.status == wanted
        table.add_row(
            what,
            user,
            " ".join((outcome.status, *outcome.args)),
            "[green]yes[/]" if is_right else f"[red]no, wanted {wanted}[/]",
            f"{outcome.seconds * 1000:.1f} ms",
        )
    console.print(table)
    stored = len(demo.records.read_text().splitlines())
    console.print(f"{stored} accounting records are in {demo.records}")
    console.print(f"log         tail -f {demo.log}")
    console.print(f"metrics     http://127.0.0.1:{demo.admin_port}/metrics")
    console.print(f"sessions    SOJOURN__ADMIN__SOCKET={demo.control} .venv/bin/sojourn sessions list")
    console.print(
        f"one trace   SOJOURN__ADMIN__SOCKET={demo.control} .venv/bin/sojourn trace tacacs-1 --mermaid"
    )
    console.print("traffic goes on every 2 s; [bold]Ctrl-C[/] stops everything")
