"""What a node says to the monitor before it asks who we are, and what that tells of the node."""

from __future__ import annotations

import asyncio

import pytest
from gateway_room import gateway_room, settings

from sojourn.errors import SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.clusters import NodeProbe
from sojourn.gateways.postgres.failover import BUSY, REFUSED, SILENT
from sojourn.gateways.postgres.monitor import kind_of


@pytest.mark.parametrize(
    ("sqlstate", "message", "kind"),
    [
        ("57P03", "the database system is starting up", REFUSED),
        ("57P01", "terminating connection due to administrator command", REFUSED),
        ("53300", "sorry, too many clients already", BUSY),
        ("XX000", "out of luck", SILENT),
    ],
)
def test_a_server_that_takes_nobody_is_down_at_once_and_one_that_is_full_is_not(
    run, tmp_path, sqlstate, message, kind
):
    """Specification 6.4: 57P03 and its like mean that the server is down now; 53300 that it lives."""

    async def refuse(reader, writer):
        await reader.read(1024)
        writer.write(wire.error_response(sqlstate, message, severity="FATAL"))
        await writer.drain()
        writer.close()

    async def scenario():
        listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening, gateway_room(settings(address), tmp_path) as room:
            cluster = room.gateway.rooms["main"]
            with pytest.raises(SojournError, match=message) as caught:
                await NodeProbe(cluster, cluster.state.nodes[0]).open()
            return kind_of(caught.value)

    assert run(scenario()) == kind
