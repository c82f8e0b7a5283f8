"""Passage: one chunk of a client on its way to a server: what goes as it came, what is put in, left out or replaced.

Everything that is due is written in one joined write. Knows where messages begin and end only because it is told.
Source: postgres-proxy.md section 6.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sojourn.gateways.postgres.messages import Frontend
from sojourn.gateways.postgres.replies import Expect, Hidden

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession


class Passage:
    """One chunk on its way.

    Life: made for a chunk that the short way did not take, gone with it. Always true: ``data[start:pos]`` goes to the
    server as it came and is not yet in ``out``; ``pos`` is where the present message begins.
    """

    __slots__ = ("client", "data", "out", "pos", "start")

    def __init__(self, client: ClientSession, data: bytes) -> None:
        self.client = client
        self.data = data
        self.out: list[bytes] = []
        self.start = self.pos = 0

    @property
    def server(self) -> ServerSession:
        """The server that the client has: where this is asked, it has one."""
        server = self.client.server
        assert server is not None  # noqa: S101 - as above
        return server

    def insert(self, message: bytes, expect: Expect | Hidden) -> None:
        """Put a message of ours before the present one."""
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
            self.start = self.pos
        self.out.append(message)
        self.server.expect(expect)

    def replace(self, end: int, message: bytes) -> None:
        """Send ``message`` instead of the present one, which goes up to ``end``."""
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
        if message:
            self.out.append(message)
        self.start = end

    def answer(self, end: int, expect: Expect) -> None:
        """Answer the present message ourselves, in its turn."""
        self.replace(end, b"")
        server = self.server
        if server.fifo:
            server.expect(expect)
            return
        client = self.client
        client.write(expect.data)
        server.sent |= 1
        if expect.kind == Frontend.PARSE and expect.statement is not None:
            client.learn_statement(expect.name, expect.statement)
        elif expect.kind == Frontend.CLOSE:
            client.forget_statement(expect.name)

    def write(self) -> None:
        """Write all that was looked at: a server must never be left in the midst of a message."""
        server = self.client.server
        if self.start < self.pos:
            self.out.append(self.data[self.start : self.pos])
            self.start = self.pos
        if self.out and server is not None:
            whole = self.out[0] if len(self.out) == 1 else b"".join(self.out)
            if whole:
                server.bytes_in += len(whole)
                server.write(whole)
        self.out.clear()
