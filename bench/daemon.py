"""Our side of ``tacacs.py``: the TACACS+ gateway as a daemon runs it, with policy, JSON log and recorder on.

Knows nothing of measuring. Run as a program (``daemon.py FOLDER [ENTRIES]``) it serves on a port of 127.0.0.1, which it
prints, writes its log and accounting records into FOLDER, and lets operators look in at FOLDER/control.sock. ENTRIES
is the flight recorder's ring per session, 0 = off; its default without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import servers
from exchanges import KEY, USERS

from sojourn.admin.config import AdminSettings
from sojourn.admin.core_view import CoreView
from sojourn.admin.serving import AdminServer
from sojourn.core.logs import LogView
from sojourn.core.loop import run, settle
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings, ListenerSettings, LogSettings, RecorderSettings
from sojourn.gateways.tacacs.config import (
    Accounting,
    Device,
    FileSink,
    Rule,
    SharedSecret,
    TacacsSettings,
    User,
)
from sojourn.gateways.tacacs.gateway import TacacsGateway
from sojourn.gateways.tacacs.passwords import hash_password


def settings_of(folder: Path) -> TacacsSettings:
    """Return a small company: users in groups, a network of devices, rules of which a later one decides."""
    return TacacsSettings(
        limits=LimitSettings(connections_per_peer_count=20_000),
        devices=(
            Device(name="spare", networks=("192.0.2.0/24",), secrets=(SharedSecret(value=Secret(KEY.decode()[::-1])),)),
            Device(
                name="routers",
                networks=("127.0.0.0/8",),
                groups=("edge", "core"),
                secrets=(SharedSecret(value=Secret(KEY.decode())),),
            ),
        ),
        users=tuple(
            User(name=name, groups=("operators",), password=Secret(hash_password(password)))
            for name, password in USERS
        ),
        rules=(
            Rule(name="admins", user_groups=("admins",)),
            Rule(name="no-reload", user_groups=("operators",), commands=("reload", "/^configure .*$/"), action="deny"),
            Rule(name="shell", user_groups=("operators",), device_groups=("core",), services=("shell",),
                 commands=("ping", "traceroute", "show")),
        ),
        accounting=Accounting(files=(FileSink(name="records", path=str(folder / "records.jsonl")),)),
    )  # fmt: skip


class View(CoreView):
    """What operators see; there is no configuration here that could be read again."""

    async def reload(self) -> None:
        """Leave everything as it is."""

    async def drain(self) -> None:
        """Go on."""


async def _serve(folder: Path, recorder: RecorderSettings) -> None:
    server = Server(recorder=recorder)
    log = LogView(
        LogSettings(level="info", format="json", file=str(folder / "sojourn.log")), server.events.unix_time
    )
    server.events.add_view(log)
    address = ListenerSettings(address="127.0.0.1:0", backlog_count=4_096)
    server.add(TacacsGateway(settings_of(folder)), [address])
    admin = AdminServer(View(server), AdminSettings(address=""), folder / "control.sock")
    await admin.start()
    await server.start()
    settle()
    try:
        await servers.serve_until_parent_ends(int(server.listeners[0].address.rpartition(":")[2]))
    finally:
        await admin.stop()
        await server.stop(timeout_s=0)
        log.close()


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    recorder = servers.recorder_of(sys.argv[2:])
    sys.exit(run(_serve(Path(sys.argv[1]), recorder)))
