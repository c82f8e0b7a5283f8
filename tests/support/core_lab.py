"""A small protocol for tests of the core: a header of kind, length and session, then text."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from operator import attrgetter
from typing import ClassVar

import msgspec

from sojourn.core.gateway import Gateway
from sojourn.core.router import Lane, Router
from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings, ListenerSettings
from sojourn.errors import WireError
from sojourn.sansio.framing import HeaderFraming
from sojourn.testing import ManualClock, connect

HEADER = struct.Struct("!BII")
MAX_BYTES = 70_000


class Ask(msgspec.Struct):
    """Kind 1, from the peer."""

    text: str


class Other(msgspec.Struct):
    """Kind 2, from the peer: another message."""

    text: str


class Login(msgspec.Struct):
    """Kind 3, from the peer: one field is secret."""

    secret_fields: ClassVar = frozenset({"password"})
    user: str
    password: str


class Say(msgspec.Struct):
    """Kind 9, to the peer."""

    text: str


class TextCodec:
    """Text is UTF-8; a body that begins with "!" is the test's way to be bad, "?" to meet a bug of the codec."""

    def decode(self, _session, packet):
        text = packet.body.decode()
        if text.startswith("!"):
            raise WireError("a body that begins with !", "another one", "core_lab")
        if text.startswith("?"):
            raise IndexError(text)
        match packet.header[0]:
            case 1:
                return Ask(text)
            case 3:
                return Login(*text.split(" "))
            case _:
                return Other(text)

    def encode(self, session, message):
        key = session.key if isinstance(session.key, int) else 0
        return packet(message.text, session=key, kind=9)


def packet(text, *, session=0, kind=1):
    """Return the bytes of one packet."""
    body = text.encode()
    return HEADER.pack(kind, len(body), session) + body


class Lab(Gateway):
    """The gateway of a test; what it does is in its attributes."""

    name = "lab"

    def __init__(self, **attributes):
        self.framing = HeaderFraming("!BII", length=1, session=2, max_length_bytes=MAX_BYTES)
        self.limits = LimitSettings(idle_timeout_s=1_000, first_byte_timeout_s=10, packet_timeout_s=10)
        self.hooks = []
        self.lost = []
        for name, value in attributes.items():
            setattr(self, name, value)

    body_of = staticmethod(attrgetter("body"))

    def codec(self, _connection):
        return TextCodec()

    def farewell(self, _session, error):
        return Say(f"bye: {type(error).__name__}")

    def refuse(self, _connection, refused, why):
        return packet(f"refused: {why}", session=refused.session_id, kind=9)

    def on_send_error(self, _connection, _session, error):
        self.hooks.append(("gateway", str(error)))

    def disconnected(self, connection):
        self.lost.append(connection.closed)


def lab(handler=None, *, lane=None, router=None, keyed=False, limits=None, **attributes):
    """Return a gateway whose asks go to ``handler``; with ``keyed`` a connection carries many sessions."""
    if router is None:
        router = Router()
        if handler is not None:
            (router.conversation if lane == Lane.CONVERSATION else router.on)(Ask)(handler)
    gateway = Lab(router=router, **attributes)
    if keyed:
        gateway.session_key = attrgetter("session_id")
        gateway.max_sessions_per_connection_count = attributes.get("max_sessions_per_connection_count", 100)
    if limits:
        gateway.limits = msgspec.structs.replace(gateway.limits, **limits)
    return gateway


def _settings(listener):
    return listener if isinstance(listener, ListenerSettings) else ListenerSettings(address=listener)


@contextlib.asynccontextmanager
async def running(gateway, *listeners, clock=None, **options):
    """Run a server with the gateway; at the end nothing of it may be left."""
    before = asyncio.all_tasks()
    server = Server(clock=clock or ManualClock(), **options)
    server.add(gateway, [_settings(one) for one in listeners])
    await server.start()
    server.manager = server.managers[gateway.name]
    try:
        yield server
    finally:
        await server.stop(timeout_s=0)
        await until(lambda: not (asyncio.all_tasks() - before - {asyncio.current_task()}))
        assert not server.manager.connections
        assert not server.manager.tasks
        assert not server.manager.detached
        assert not server.manager._per_peer
        assert not server.manager._reserved_count


async def until(predicate):
    """Give the loop turns until the predicate holds."""
    async with asyncio.timeout(20):
        while not predicate():  # noqa: ASYNC110 - a turn of the loop, no matter who makes the predicate true
            await asyncio.sleep(0)


async def turns(count=30):
    """Give the loop some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


class Wire:
    """A client of the lab's protocol."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, *texts, session=0, kind=1):
        """Send packets in one write."""
        self.writer.write(b"".join(packet(text, session=session, kind=kind) for text in texts))

    async def receive(self, session=None):
        """Return the text of the next packet, which must be of ``session`` if that is said."""
        async with asyncio.timeout(20):
            _, length, number = HEADER.unpack(await self.reader.readexactly(HEADER.size))
            text = (await self.reader.readexactly(length)).decode()
        assert session is None or number == session
        return text

    async def ask(self, text, session=0):
        """Send one packet and return the next one's text."""
        self.send(text, session=session)
        return await self.receive()

    async def rest(self):
        """Return what comes until the server closes."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    def close(self):
        self.writer.close()


def memory(server, **options):
    """Return a client without a socket."""
    return Wire(*connect(server, "lab", **options))


async def tcp(server, index=0, **options):
    """Return a client of the server's TCP listener."""
    host, port = address(server, index)
    return Wire(*await asyncio.open_connection(host, port, **options))


def address(server, index=0):
    """Return host and port of a listener."""
    host, _, port = server.listeners[index].address.rpartition(":")
    return host.strip("[]"), int(port)


def told(server, name=""):
    """Return the events of a kind so far, as mappings of their values; without a name the names of all."""
    server.events.flush()
    if not name:
        return [event.kind.name for event in server.events.recent]
    return [event.fields() for event in server.events.recent if event.kind.name == name]


def only(server):
    """Return the only session there is."""
    (session,) = server.manager.sessions()
    return session


def ended(server):
    """Return reason by session number of all that has ended and is remembered."""
    return {session.number: session.ended for session, _ in server.recorder.ended()}
