"""The server that ``dashboard.py`` looks at: the core with an echoing gateway, JSON log, recorder, and the admin API.

Knows nothing of measuring. Run as a program (``dashboard_daemon.py FOLDER``) it serves on a port of 127.0.0.1, which it
prints, and writes its log and a login link for one browser into FOLDER.
"""

from __future__ import annotations

import struct
import sys
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import servers

from sojourn.admin.config import AdminSettings
from sojourn.admin.core_view import CoreView
from sojourn.admin.serving import AdminServer
from sojourn.core.gateway import Gateway
from sojourn.core.logs import LogView
from sojourn.core.loop import run, settle
from sojourn.core.router import Router
from sojourn.core.server import Server
from sojourn.core.session import Session
from sojourn.core.settings import LimitSettings, ListenerSettings, LogSettings
from sojourn.errors import BackendUnavailable
from sojourn.sansio.framing import HeaderFraming, Packet

if TYPE_CHECKING:
    from sojourn.core.connection import Connection

HEADER: Final = struct.Struct("!BII")
"""Kind, length of the text, number of the session."""
ASK, END, FAIL = 1, 2, 3
_NEVER_S = 86_400.0


class Ask(msgspec.Struct):
    """A message that is answered with the same text; the first one opens its session."""

    text: str


class End(msgspec.Struct):
    """The last message of a session that ends well."""

    text: str


class Fail(msgspec.Struct):
    """The last message of a session that needs what is not there."""

    text: str


class Answer(msgspec.Struct):
    """What the server says."""

    text: str


_KINDS: Final[dict[int, type[Ask | End | Fail]]] = {ASK: Ask, END: End, FAIL: Fail}


def answer(session: Session, ask: Ask) -> None:
    """Say the same."""
    session.about = session.about or ask.text
    session.reply(Answer(ask.text))


def end(session: Session, message: End) -> None:
    """End the session."""
    session.finish(Answer(message.text))


def fail(session: Session, message: Fail) -> None:
    """Ask somebody who does not answer."""
    raise BackendUnavailable("ledger", 0.0, f"{message.text} of {session.about} refused")


class TextCodec:
    """Text in UTF-8 behind the header."""

    def decode(self, session: Session, packet: Packet) -> Ask | End | Fail:  # noqa: ARG002 - the contract
        """Return the message."""
        return _KINDS[packet.header[0]](packet.body.decode())

    def encode(self, session: Session, message: Answer) -> bytes:
        """Return header and text."""
        text = message.text.encode()
        number = session.key
        assert isinstance(number, int)
        return HEADER.pack(ASK, len(text), number) + text


class EchoGateway(Gateway):
    """Many sessions per connection, which stay open until they are told to end."""

    name = "echo"
    framing = HeaderFraming("!BII", length=1, session=2)
    session_key = attrgetter("session_id")
    body_of = attrgetter("body")
    max_sessions_per_connection_count = 2_000
    limits = LimitSettings(first_byte_timeout_s=_NEVER_S, idle_timeout_s=_NEVER_S)

    def __init__(self) -> None:
        self.router = Router()
        self.router.on(Ask)(answer)
        self.router.on(End)(end)
        self.router.on(Fail)(fail)

    def codec(self, connection: Connection) -> TextCodec:  # noqa: ARG002 - the contract
        """Return the codec, which knows nothing of the connection."""
        return TextCodec()

    def farewell(self, session: Session, error: BaseException) -> Answer:  # noqa: ARG002 - the contract
        """Say that it is over."""
        return Answer("failed")


class View(CoreView):
    """The core's view; nobody orders anything here."""

    async def reload(self) -> None:
        """Do nothing: there is no file."""

    async def drain(self) -> None:
        """Do nothing: the bench ends the server."""


async def _serve(folder: Path) -> None:
    server = Server()
    log = LogView(
        LogSettings(level="info", format="json", file=str(folder / "sojourn.log")), server.events.unix_time
    )
    server.events.add_view(log)
    server.add(EchoGateway(), [ListenerSettings(address="127.0.0.1:0", backlog_count=4_096)])
    await server.start()
    settle()
    admin = AdminServer(View(server), AdminSettings(address="127.0.0.1:0"), folder / "control.sock")
    await admin.start()
    try:
        (folder / "link").write_text(admin.login_link())
        await servers.serve_until_parent_ends(int(server.listeners[0].address.rpartition(":")[2]))
    finally:
        await admin.stop()
        await server.stop(timeout_s=0)
        log.close()


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    sys.exit(run(_serve(Path(sys.argv[1]))))
