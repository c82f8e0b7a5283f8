"""A gateway of your own: lines in, lines out, with limits, deadlines, drain and a flight recorder thrown in.

In one terminal ``python examples/echo.py``, in another ``nc 127.0.0.1 7007``; type a line, then ``quit``.
"""

from __future__ import annotations

import sys

from sojourn.core.connection import Connection
from sojourn.core.gateway import Gateway
from sojourn.core.router import Router
from sojourn.core.server import serve
from sojourn.core.session import Session
from sojourn.core.table import Mode
from sojourn.sansio.codec import NullCodec
from sojourn.sansio.framing import LineFraming

router = Router()


@router.on(bytes)
def answer(session: Session, line: bytes) -> None:
    """Send every line back; ``quit`` ends the session, and with it the connection."""
    if line == b"quit":
        session.finish(b"bye")
    else:
        session.reply(line)


class Echo(Gateway):
    """What is this protocol's own: its name, how bytes become lines, and who answers them."""

    name = "echo"
    router = router
    framing = LineFraming(max_length_bytes=1_000)
    first_mode = Mode.SINGLE

    def codec(self, connection: Connection) -> NullCodec:  # noqa: ARG002 - the same for every connection
        """Give a line its end back when it is sent."""
        return NullCodec(b"\n")


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7007"
    print("try it: nc", *address.rsplit(":", 1))
    serve(Echo(), address)
