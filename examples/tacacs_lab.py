"""A TACACS+ server, a switch and a user in one process: log in, ask for commands, see why, see what was said.

    python examples/tacacs_lab.py

Nothing is read from files and nothing is left behind: settings are values, the server takes a free port, and the
client is the one behind ``sojourn probe tacacs``.
"""

from __future__ import annotations

import secrets

from sojourn.admin.core_view import CoreView
from sojourn.admin.rendering import trace_mermaid
from sojourn.core.loop import run
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.gateways.tacacs.config import Device, Rule, SharedSecret, TacacsSettings, User
from sojourn.gateways.tacacs.gateway import TacacsGateway
from sojourn.gateways.tacacs.messages import AuthenType
from sojourn.gateways.tacacs.passwords import hash_password
from sojourn.gateways.tacacs.peer import TacacsClient
from sojourn.gateways.tacacs.policy import Policy, Query

KEY = secrets.token_hex(16)
PASSWORD = secrets.token_urlsafe(9)
SHOW = ("service=shell", "cmd=show", "cmd-arg=version", "cmd-arg=<cr>")
RELOAD = ("service=shell", "cmd=reload", "cmd-arg=<cr>")


def lab_settings() -> TacacsSettings:
    """Return one switch, one user who may look, and nobody who may reload."""
    return TacacsSettings(
        devices=(
            Device(
                name="lab-1",
                networks=("127.0.0.0/8",),
                groups=("lab",),
                secrets=(SharedSecret(value=Secret(KEY)),),
            ),
        ),
        users=(User(name="ana", groups=("helpdesk",), password=Secret(hash_password(PASSWORD))),),
        rules=(
            Rule(name="shell", user_groups=("helpdesk",), services=("shell",), commands=("show", "ping")),
            Rule(name="nothing-else", action="deny", message="ask netops"),
        ),
    )


def explain(settings: TacacsSettings, args: tuple[str, ...]) -> None:
    """Print which rule decides and why the ones before it do not, as ``sojourn tacacs explain`` does."""
    query = Query("ana", ("helpdesk",), "lab-1", ("lab",), service="shell", args=args)
    for step in Policy(settings).explain(query):
        print(f"    {step.rule:14} {step.words}")


async def main() -> None:
    """Start the server, be the switch, look at what was recorded."""
    settings = lab_settings()
    server = Server()
    server.add(TacacsGateway(settings), (ListenerSettings(address="127.0.0.1:0"),))
    await server.start()
    try:
        port = int(server.listeners[0].address.rpartition(":")[2])
        async with TacacsClient("127.0.0.1", port, key=KEY.encode(), single_connect=True) as switch:
            login = await switch.login("ana", PASSWORD, authen_type=AuthenType.ASCII)
            print("login             ", login.status)
            for args in (SHOW, RELOAD):
                outcome = await switch.authorize("ana", args)
                print(f"{args[1]:18}", outcome.status, outcome.server_msg)
                explain(settings, args)
        print()
        trace = await CoreView(server).trace("tacacs-1")
        if trace is not None:
            print(trace_mermaid(trace))
    finally:
        await server.stop()


if __name__ == "__main__":
    run(main())
