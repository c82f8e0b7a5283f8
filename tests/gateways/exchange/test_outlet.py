"""What a link writes to, over real sockets: it may be gone, and the link not know it yet."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from sojourn.gateways.exchange.websocket import TransportOutlet


async def connected():
    """Return an outlet, its transport and the event of its end, and the other end's transport."""
    ended = asyncio.Event()
    accepted = asyncio.get_running_loop().create_future()

    class Ours(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport)

        def connection_lost(self, _):
            ended.set()

    server = await asyncio.get_running_loop().create_server(Ours, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    peer, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    server.close()
    transport = await accepted
    connection = SimpleNamespace(packets_out=0, bytes_out=0)
    return TransportOutlet(transport, connection, lambda _: None), transport, ended, peer


def test_a_connection_that_was_reset_a_moment_ago_takes_bytes_and_loses_them(run):
    """An outlet never raises: one that did would end the tick of every other link, or a session's writer."""

    async def scenario():
        outlet, transport, ended, peer = await connected()
        assert outlet.waiting_bytes() == 0
        peer.abort()
        transport.abort()
        assert outlet.waiting_bytes() == 0
        outlet.write(b"between")
        await ended.wait()
        assert outlet.waiting_bytes() == 0
        outlet.write(b"afterwards")
        outlet.close(1012, "restart")
        outlet.abort()

    run(scenario())
