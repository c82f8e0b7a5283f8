"""A server of ``session.v1`` that does what a test says: for clients in Python and for browsers."""

from __future__ import annotations

import asyncio
import contextlib
import json

import msgspec
from aiohttp import web

from sojourn.gateways.exchange.browser import browser_routes

SESSION = "019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6071"
TICKET = "t" * 43
WITHIN_S = 20
PROTOCOLS = ("session.v1.json", "session.v1.msgpack")


class Link:
    """One WebSocket of a client, as the server sees it."""

    def __init__(self, request, socket):
        self.request = request
        self.socket = socket
        self.is_binary = socket.ws_protocol == PROTOCOLS[1]
        self.frames = asyncio.Queue()
        self.ended = asyncio.Event()
        self.close_code = None

    async def serve(self):
        async for message in self.socket:
            data = message.data
            assert isinstance(data, bytes) == self.is_binary
            self.frames.put_nowait(msgspec.msgpack.decode(data) if self.is_binary else json.loads(data))
        self.close_code = self.socket.close_code
        self.ended.set()

    async def hear(self, t=None):
        """Return the client's next frame, which is of this type."""
        async with asyncio.timeout(WITHIN_S):
            frame = await self.frames.get()
        assert t is None or frame["t"] == t, frame
        return frame

    async def say(self, t, **fields):
        """Send a frame."""
        frame = {"t": t, **fields}
        if self.is_binary:
            await self.socket.send_bytes(msgspec.msgpack.encode(frame))
        else:
            await self.socket.send_str(json.dumps(frame))

    async def welcome(self, *, resumed="none", epoch=1, events=0, recovered=0, md=0, pf=0, **more):
        """Greet."""
        fields = {
            "session": SESSION,
            "conn": f"c{id(self)}",
            "pod": "pod-1",
            "heartbeat": {"every_s": 10.0, "timeout_s": 35.0},
            "limits": {"frame_bytes": 65_536, "frames_per_s": 1000.0, "frames_burst_count": 2000},
            "reconnect": {"min_s": 0.2, "max_s": 30.0, "jitter": 1.0},
            "server_time": 1_800_000_000_000,
        } | more
        await self.say(
            "welcome",
            resumed=resumed,
            epoch=epoch,
            events=events,
            recovered=recovered,
            md=md,
            pf=pf,
            **fields,
        )

    async def greet(self, *, epoch=1, events=0, orders=(), **more):
        """Take a hello, let the client in with a snapshot, and return the hello."""
        hello = await self.hear("hello")
        await self.welcome(epoch=epoch, events=events, **more)
        await self.say("snapshot", epoch=epoch, o=events, sim="running", simulator="s1", orders=list(orders))
        return hello

    async def regreet(self, *, missed=(), **more):
        """Take a hello that resumes, send the events behind its cursor, and return the hello."""
        hello = await self.hear("hello")
        resume = hello["resume"]
        fields = {
            "epoch": resume["epoch"],
            "events": resume["events"],
            "md": resume["md"],
            "pf": resume["pf"],
        }
        await self.welcome(**{"resumed": "full", "recovered": len(missed), **fields, **more})
        for number, body in enumerate(missed, resume["events"] + 1):
            await self.event(number, body)
        return hello

    async def event(self, offset, body=None, kind="order"):
        """Send an event."""
        body = body or {"order": offset, "status": "new", "symbol": "AAPL"}
        await self.say("ev", o=offset, y=kind, d=body)

    def cut(self):
        """End the connection as networks do."""
        self.request.transport.abort()

    async def close(self, code, reason=b""):
        await self.socket.close(code=code, message=reason)

    async def gone(self):
        """Wait for the client to leave; return its close code."""
        async with asyncio.timeout(WITHIN_S):
            await self.ended.wait()
        return self.close_code


class ScriptedExchange:
    """The server.

    ``answers`` are what the next requests of a path meet instead: status, body, headers; status 0 breaks the
    connection. ``events`` are what a stream of progress has.
    """

    def __init__(self):
        self.links = asyncio.Queue()
        self.requests = []
        self.answers = {}
        self.events = [b"retry: 2000\n: comment\n\n", *map(progress, STEPS)]
        self.sessions = {"id": SESSION, "subject": "ana", "state": "active", "devices": ["d1"]}
        app = web.Application(middlewares=[self._note])
        app.add_routes(
            [
                web.get("/v1/ws", self._socket),
                web.get("/empty", self._empty),
                web.post("/v1/sessions", self._session),
                web.get(f"/v1/sessions/{SESSION}", self._session),
                web.delete(f"/v1/sessions/{SESSION}", self._end),
                web.post(f"/v1/sessions/{SESSION}/ticket", self._ticket),
                web.put(f"/v1/sessions/{SESSION}/simulator", self._simulator),
                web.get(f"/v1/sessions/{SESSION}/simulator", self._simulator),
                web.get(f"/v1/sessions/{SESSION}/simulator/progress", self._progress),
                web.post(f"/v1/sessions/{SESSION}/orders", self._order),
                *browser_routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self):
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def link(self):
        """Return the next WebSocket that a client opens."""
        async with asyncio.timeout(WITHIN_S):
            return await self.links.get()

    def answer(self, path, status, body=None, **headers):
        """Let the next request of a path meet this instead."""
        self.answers.setdefault(path, []).append((status, body, headers))

    def seen(self, path):
        """Return the requests of a path."""
        return [request for request in self.requests if request.path == path]

    @web.middleware
    async def _note(self, request, handler):
        self.requests.append(request)
        scripted = self.answers.get(request.path)
        if not scripted:
            return await handler(request)
        status, body, headers = scripted.pop(0)
        if not status:
            request.transport.abort()
            status = 500
        return web.json_response(body, status=status, headers=headers)

    async def _socket(self, request):
        socket = web.WebSocketResponse(protocols=PROTOCOLS, autoclose=True, timeout=0.5)
        await socket.prepare(request)
        link = Link(request, socket)
        self.links.put_nowait(link)
        await link.serve()
        return socket

    async def _session(self, _request):
        return web.json_response({**self.sessions, "created_at": NOW, "active_at": NOW}, status=201)

    async def _empty(self, _request):
        return web.Response(text='<!doctype html><link rel="icon" href="data:,">', content_type="text/html")

    async def _end(self, _request):
        return web.Response(status=204)

    async def _ticket(self, _request):
        body = {"ticket": TICKET, "expires_in_s": 30.0, "path": "/v1/ws"}
        return web.json_response(body, status=201)

    async def _simulator(self, _request):
        body = {"id": "s1", "session": SESSION, "desired": "running", "state": "running"}
        return web.json_response({**body, "created_at": NOW, "changed_at": NOW})

    async def _progress(self, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.events:
            if isinstance(event, asyncio.Event):
                await event.wait()
            await response.write(event)
        return response

    async def _order(self, request):
        order = await request.json()
        body = {
            "order": 1,
            "filled": 0,
            "remaining": order["quantity"],
            "status": "new",
            **order,
            "tif": "gtc",
        }
        return web.json_response(body, status=201)


STEPS = ({"state": "starting", "percent": 50}, {"state": "running", "percent": 100, "done": True})


def progress(step):
    """Return one step as a server-sent event."""
    return b"event: progress\ndata: %b\n\n" % json.dumps(step).encode()


NOW = "2026-11-21T20:00:00Z"


@contextlib.asynccontextmanager
async def scripted_exchange():
    """Run the server."""
    async with ScriptedExchange() as server:
        yield server
