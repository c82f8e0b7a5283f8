"""A server of the lab's protocol in a process of its own, for signals and for running out of descriptors.

Prints one line of JSON with its addresses when it is ready, and one with its events at its end. A client's "hold"
keeps a session busy until its "go"; everything else is answered in capitals.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

from core_lab import Say, address, lab, told, until

from sojourn.core.loop import run
from sojourn.core.router import Lane
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings


async def handle(session, ask):
    while ask.text == "hold":
        await session.send(Say("held"))
        ask = await session.receive()
    await session.send(Say(ask.text.upper()))


async def main(descriptors):
    listeners = [
        ListenerSettings(address="127.0.0.1:0"),
        ListenerSettings(address="127.0.0.1:0", proxy_protocol=True, trusted_proxies=("127.0.0.0/8",)),
    ]
    reloads = []
    server = Server(on_reload=lambda: reloads.append("reloaded"))
    server.add(lab(handle, lane=Lane.CONVERSATION, keyed=True), listeners)
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    serving = asyncio.ensure_future(server.serve())
    await until(lambda: server.is_ready)
    _tell([address(server, index) for index in range(2)])
    await serving
    _tell(told(server))


def _tell(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(main(int(sys.argv[1])))
