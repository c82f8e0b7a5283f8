"""A session without a pod around it, and clients that keep what they get, for tests of links and views."""

from __future__ import annotations

import asyncio
import json

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.event_log import EventLog, LogEvent
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.links import ClientLink
from sojourn.gateways.exchange.view import SessionView
from sojourn.testing.clock import ManualClock


class KeptOutlet:
    """A socket that keeps what is written, and says how much of it waits."""

    def __init__(self):
        self.data = b""
        self.waits_bytes = 0
        self.closed = None

    def write(self, data):
        assert self.closed is None, "written after the end"
        self.data += data

    def waiting_bytes(self):
        return self.waits_bytes

    def close(self, code, reason):
        self.closed = (code, reason)


class LabLink:
    """One client: says frames and returns the answers."""

    def __init__(self, room, *, is_binary=False):
        room.links_count += 1
        self.outlet = KeptOutlet()
        self.is_binary = is_binary
        self.link = ClientLink(
            f"c{room.links_count}",
            room,
            self.outlet,
            room.settings,
            clock=room.clock,
            wall_ms=lambda: int(room.clock() * 1000),
            is_binary=is_binary,
            spawn=room.spawn,
        )
        self.reader = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=2**24)

    def heard(self):
        """Return the frames that came since the last call."""
        data, self.outlet.data = self.outlet.data, b""
        self.reader.receive_data(data)
        frames = []
        for message in self.reader.events_received():
            assert message.opcode == (Opcode.BINARY if self.is_binary else Opcode.TEXT)
            read = msgspec.msgpack.decode if self.is_binary else json.loads
            frames.append(read(bytes(message.data)))
        return frames

    def say(self, t, **fields):
        """Send a frame; return what came since the last call."""
        data = wire.value({"t": t, **fields}, is_binary=self.is_binary)
        self.link.receive(data if self.is_binary else data.decode())
        return self.heard()

    def hello(self, **fields):
        """Say hello."""
        return self.say("hello", **{"id": "h", "device": "d1", **fields})

    @property
    def closed(self):
        """The close code, or None."""
        return self.outlet.closed and self.outlet.closed[0]


class LabRoom:
    """What a link needs of a session; commands are answered by ``do``."""

    session_id = "s-1"
    pod = "pod-1"

    def __init__(self, **settings):
        self.clock = ManualClock(100.0)
        self.settings = LinkSettings(**settings)
        self.view = SessionView(EventLog(1, 0, limit_count=100, limit_bytes=10**6, keep_s=900))
        self.links_count = 0
        self.commands = []
        self.active_count = self.left_count = 0
        self.recorded = []
        self.refusal = None
        self.tasks = []
        self.news = []
        self.is_log_away = False

    def spawn(self, work):
        self.tasks.append(asyncio.ensure_future(work))

    async def settle(self):
        """Let all commands be carried out."""
        while self.tasks:
            await self.tasks.pop()

    def client(self, **options):
        return LabLink(self, **options)

    def event(self, body=None, kind="order"):
        """Make the next event durable and tell it."""
        number = self.view.log.last + 1
        body = body or {"order": number, "status": "new", "text": "x" * 10}
        self.view.publish(LogEvent(number, kind, json.dumps(body).encode(), 0, "sim-1", number))

    def market(self, revision, **rows):
        """Change some prices."""
        self.view.feed.update(
            [(symbol, {"s": symbol, "v": value}) for symbol, value in rows.items()], revision
        )

    # What links call

    def joined(self, _link):
        return self.refusal

    def left(self, _link):
        self.left_count += 1

    def was_active(self, _link):
        self.active_count += 1

    async def refresh(self, _link):
        if self.is_log_away:
            raise BackendUnavailable("log", 0.0, "away")
        for body in self.news:
            self.event(body)

    async def carry_out(self, _link, command):
        self.commands.append(command)
        return await self.do(command)

    async def do(self, _command):
        return {"order": len(self.commands)}

    def record(self, _link, direction, _size_bytes, frame):
        self.recorded.append((direction, type(frame).__name__))
