"""The core's side of ``core.py``: a gateway whose one handler counts and echoes, in the lane that is measured.

Knows nothing of measuring. Run as a program (``lanes.py LANE ENTRIES``) it serves on a port of 127.0.0.1, which
it prints; LANE is 1 (plain ``def``), 2 (``async def``) or 3 (conversation), ENTRIES the flight recorder's ring per
session, 0 = off.
"""

from __future__ import annotations

import struct
import sys
from operator import attrgetter
from typing import TYPE_CHECKING

import servers

from sojourn.core.gateway import Gateway
from sojourn.core.loop import run
from sojourn.core.router import Router
from sojourn.core.server import Server
from sojourn.core.session import Session
from sojourn.core.settings import LimitSettings, ListenerSettings, RecorderSettings
from sojourn.sansio.framing import HeaderFraming, Packet

if TYPE_CHECKING:
    from sojourn.core.connection import Connection

_pack_header = struct.Struct("!BBBBII").pack
_NEVER_S = 3_600.0


def echo(session: Session, packet: Packet) -> None:
    """Lane 1: called inline."""
    session.state = (session.state or 0) + 1
    session.reply(packet)


async def echo_in_a_task(session: Session, packet: Packet) -> None:
    """Lane 2: a task while it runs."""
    session.state = (session.state or 0) + 1
    await session.send(packet)


async def converse(session: Session, packet: Packet) -> None:
    """Lane 3: a coroutine that lives as long as the session."""
    while True:
        session.state = (session.state or 0) + 1
        packet = await session.ask(packet)


class PacketCodec:
    """Header and body to bytes, as the bare protocol does it."""

    def decode(self, session: Session, packet: Packet) -> Packet:  # noqa: ARG002 - the contract
        """Return the packet: it is its own message."""
        return packet

    def encode(self, session: Session, packet: Packet) -> bytes:  # noqa: ARG002 - the contract
        """Return header and body."""
        return _pack_header(*packet.header) + packet.body


class LaneGateway(Gateway):
    """Packets of a 12-byte header, many sessions per connection, one handler."""

    name = "lane"
    framing = HeaderFraming("!BBBBII", length=5, session=4)
    session_key = attrgetter("session_id")
    body_of = attrgetter("body")
    max_sessions_per_connection_count = 1_024
    limits = LimitSettings(
        connections_per_peer_count=20_000, first_byte_timeout_s=_NEVER_S, idle_timeout_s=_NEVER_S
    )

    def __init__(self, lane: int) -> None:
        self.router = Router()
        match lane:
            case 1:
                self.router.on(Packet)(echo)
            case 2:
                self.router.on(Packet)(echo_in_a_task)
            case _:
                self.router.conversation(Packet)(converse)

    def codec(self, connection: Connection) -> PacketCodec:  # noqa: ARG002 - the contract
        """Return the codec, which knows nothing of the connection."""
        return PacketCodec()


async def _serve(lane: int, entries: int) -> None:
    server = Server(recorder=RecorderSettings(entries_per_session_count=entries))
    server.add(LaneGateway(lane), [ListenerSettings(address="127.0.0.1:0", backlog_count=4_096)])
    await server.start()
    try:
        await servers.serve_until_parent_ends(int(server.listeners[0].address.rpartition(":")[2]))
    finally:
        await server.stop(timeout_s=0)


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    sys.exit(run(_serve(int(sys.argv[1]), int(sys.argv[2]))))
