"""Rooms: one session that many connections share, and connections that carry many sessions.

    python examples/chat.py
    nc 127.0.0.1 7008                # type "lobby hello": you are in the room "lobby"
    nc 127.0.0.1 7008                # in a third terminal: "lobby hi", and the first one sees it

The room's name is the session's key. Who names a room first opens its session; who names it later is attached to
the session that is there. The room lives until the last connection leaves it.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable

from sojourn.core.connection import Connection
from sojourn.core.gateway import Gateway
from sojourn.core.router import Router
from sojourn.core.server import serve
from sojourn.core.session import Session
from sojourn.errors import SojournError
from sojourn.sansio.framing import LineFraming

router = Router()


def room_of(line: bytes) -> str:
    """Return the first word of a line: the room it is for."""
    return line.partition(b" ")[0].decode(errors="replace")


@router.on(bytes)
def say(room: Session, line: bytes) -> None:
    """Pass a line on to everybody in the room; ``room.connection`` is the one it came from."""
    text = line.partition(b" ")[2]
    room.about = str(room.key)
    for connection in room.connections:
        who = "you" if connection is room.connection else room.connection.peer
        connection.append(f"{room.key} {who}: ".encode() + text + b"\n")


class Chat(Gateway):
    """Knows the rooms that are open; the core knows who is in them."""

    name = "chat"
    router = router
    framing = LineFraming(max_length_bytes=1_000)
    session_key = staticmethod(room_of)
    max_sessions_per_connection_count = 16

    def __init__(self) -> None:
        self.rooms: dict[Hashable, Session] = {}

    def find_session(self, connection: Connection, key: Hashable) -> Session:
        """Attach a connection to the room that it names for the first time, or open that room."""
        room = self.rooms.get(key)
        if room is None or room.ended:
            room = self.rooms[key] = connection.new_session(key)
        else:
            room.attach(connection, key)
        return room

    def disconnected(self, connection: Connection) -> None:  # noqa: ARG002 - its rooms know already
        """Forget the rooms that the last connection has left."""
        self.rooms = {key: room for key, room in self.rooms.items() if not room.ended}

    def refuse(self, connection: Connection, packet: bytes, why: str) -> bytes:  # noqa: ARG002 - the contract
        """Tell why a seventeenth room does not open."""
        return f"refused: {why}\n".encode()

    def broken(self, connection: Connection, error: SojournError) -> bytes:
        """Tell that a line was too long; nothing of the line is repeated."""
        super().broken(connection, error)
        return b"refused: a line of more than 1000 bytes\n"


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7008"
    print("try it: nc", *address.rsplit(":", 1))
    serve(Chat(), address)
