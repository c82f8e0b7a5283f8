"""An HTTP gateway on the core for tests: any application, real sockets, raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from core_lab import address, running

from sojourn.core.gateway import Gateway
from sojourn.core.router import Router
from sojourn.core.settings import LimitSettings
from sojourn.web.config import HttpSettings
from sojourn.web.server import HttpServer, NoFraming


class HttpGateway(Gateway):
    """One aiohttp application as a gateway."""

    name = "http"
    framing = NoFraming()

    def __init__(self, app, settings=None, limits=None):
        self.router = Router()
        self.limits = limits or LimitSettings()
        self.http = HttpServer(app, settings or HttpSettings())

    async def start(self, server):
        await super().start(server)
        await self.http.start()

    def connected(self, connection):
        self.http.welcome(connection)

    async def stop(self):
        await self.http.stop()


@contextlib.asynccontextmanager
async def serving(app, *listeners, settings=None, limits=None, clock=None):
    """Run the application; yields the server, whose ``gateway`` and ``url`` are set."""
    gateway = HttpGateway(app, settings, limits)
    async with running(gateway, *(listeners or ("127.0.0.1:0",)), clock=clock) as server:
        server.gateway = gateway
        if not server.listeners[0].address.startswith(("memory:", "unix:")):
            host, port = address(server)
            server.url = f"http://{host}:{port}"
        yield server


class Raw:
    """A client that sends bytes as they are written."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, text):
        self.writer.write(text.encode() if isinstance(text, str) else text)

    def get(self, path="/", *lines):
        """Send one request without a body."""
        self.send("\r\n".join((f"GET {path} HTTP/1.1", "Host: test", *lines, "", "")))

    async def answer(self):
        """Return status, headers in lower case and body of the next answer."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name
            }
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split(" ")[1]), headers, body

    async def rest(self):
        """Return what comes until the server closes."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    def reset(self):
        """Go away without a goodbye, as a machine that lost its power and came back does."""
        lingering = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        self.writer.transport.abort()

    def close(self):
        self.writer.close()


async def raw(server, index=0, **options):
    """Connect to a TCP listener."""
    host, port = address(server, index)
    return Raw(*await asyncio.open_connection(host, port, **options))
