"""Pods of the exchange gateway in one process: real HTTP and WebSockets, a real PostgreSQL, real simulators.

Without a Valkey there is one pod, with its log in PostgreSQL; with one there may be several.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time

import aiohttp
import msgspec
import pytest
from core_lab import address

from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.embedded.account import free_port
from sojourn.embedded.postgres import PostgresServer
from sojourn.embedded.valkey import ValkeyServer
from sojourn.gateways.exchange import rows
from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.config import (
    ExchangeSettings,
    PodSettings,
    SessionSettings,
    SimulatorsSettings,
)
from sojourn.gateways.exchange.dev_issuer import make_key_file, read_key_file, sign_token
from sojourn.gateways.exchange.gateway import ExchangeGateway
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.storage import StoreSettings

MARKET = MarketSettings(seed=7, instruments=(InstrumentSettings("AAA", "100", shares=1000),), step_ms=50)
QUICK_VALKEY = {
    "timeout_s": 0.5,
    "ping_every_s": 0.1,
    "reconnect_s": 0.02,
    "reconnect_max_s": 0.1,
    "lease_s": 2.0,
    "renew_every_s": 0.5,
}
SCHEMAS = itertools.count(1)
AGAIN = ("unavailable", "outcome_unknown", "no_simulator", "simulator_unavailable")
MSGPACK = "session.v1.msgpack"
FRAMES = {aiohttp.WSMsgType.TEXT: json.loads, aiohttp.WSMsgType.BINARY: msgspec.msgpack.decode}


@contextlib.contextmanager
def running_postgres():
    """Run a PostgreSQL for the tests of a module; each lab has a schema of its own in it."""
    with asyncio.Runner() as runner:
        server = PostgresServer()
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@contextlib.contextmanager
def running_valkey():
    """Run a Valkey whose address stays the same when it is killed and started again, without its data."""
    with asyncio.Runner() as runner:
        server = ValkeyServer(port=free_port(), password=Secret("a password for tests"))
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


async def crash(pod):
    """Let a pod vanish without a word: no lease is given back, no client is told, no simulator is ended."""
    works = tuple(pod.gateway._works)
    for work in works:
        work.cancel()
    await asyncio.gather(*works, return_exceptions=True)
    for listener in pod.listeners:
        await listener.close()
    for connection in tuple(pod.manager.connections):
        connection.abort("crashed")
    await soon(lambda: not pod.manager.connections)


async def kill(server):
    """Kill an embedded server as the kernel would; ``start`` brings it back."""
    os.kill(server.pid, signal.SIGKILL)
    await soon(lambda: not server.is_running)


class Cable:
    """A line to a TCP server that can be cut and mended; ``address`` is where it begins."""

    def __init__(self, target):
        self.target = target
        self.is_cut = False
        self.address = ""
        self._pipes = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _carry(self, reader, writer):
        pipe = asyncio.current_task()
        self._pipes.add(pipe)
        ends = [writer]
        try:
            if not self.is_cut:
                host, _, port = self.target.rpartition(":")
                further, out = await asyncio.open_connection(host, int(port))
                ends.append(out)
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pour(reader, out))
                    both.create_task(_pour(further, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._pipes.discard(pipe)

    def cut(self):
        """Lose every connection, and take no more."""
        self.is_cut = True
        for pipe in self._pipes:
            pipe.cancel()

    def mend(self):
        """Take connections again."""
        self.is_cut = False


async def _pour(reader, writer):
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionError("the other side has ended")


class LabClock:
    """Real time, which a test may let jump ahead: the monotonic clock, or the one on the wall."""

    def __init__(self):
        self.ahead_s = 0.0
        self.wall_ahead_s = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead_s

    def wall(self):
        return time.time() + self.wall_ahead_s


class PodLab:
    """Makes pods that share a database, and clients of them."""

    def __init__(self, folder, dsn, valkey_url=None):
        self.key_file = folder / "dev-key.json"
        make_key_file(self.key_file)
        self.dsn = dsn
        self.schema = f"exchange_pods_{next(SCHEMAS)}_{time.monotonic_ns()}"
        self.valkey_url = valkey_url

    def settings(self, name="pod-1", **more):
        """Return a pod's settings; everything may be said otherwise."""
        made = {
            "listeners": (ListenerSettings(address="127.0.0.1:0"),),
            "pod": PodSettings(name=name, drain_wait_s=0.0, drain_window_s=0.2),
            "auth": AuthSettings(dev_key_file=str(self.key_file)),
            "store": StoreSettings(dsn=Secret(self.dsn), schema=self.schema, singleton_poll_s=0.2),
            "simulators": SimulatorsSettings(driver="inproc", market=MARKET, step_min_ms=10),
            "sessions": SessionSettings(expiry_every_s=0.2),
            "links": LinkSettings(),
        }
        if self.valkey_url:
            made["valkey"] = ValkeySettings(url=Secret(self.valkey_url), **QUICK_VALKEY)
        return ExchangeSettings(**{**made, **more})

    def token(self, subject="ana", scopes=("exchange",), lifetime_s=600.0):
        """Return a token that the pods believe."""
        return sign_token(
            read_key_file(self.key_file),
            subject=subject,
            scopes=scopes,
            issuer="sojourn-dev",
            audience="sojourn",
            lifetime_s=lifetime_s,
            now=time.time(),
        )

    @contextlib.asynccontextmanager
    async def pod(self, name="pod-1", clock=None, *, waits=True, stop_s=0, **more):
        """Run a pod; yields its server, whose ``gateway`` and ``url`` are set, as soon as it is ready.

        With ``stop_s`` it takes leave at the end as it does when it is told to stop, for so long at most.
        """
        settings = self.settings(name, **more)
        clock = clock or LabClock()
        gateway = ExchangeGateway(settings, clock.wall)
        server = Server(clock=clock.monotonic)
        server.add(gateway, settings.listeners)
        await server.start()
        server.gateway, server.manager = gateway, server.managers["exchange"]
        host, port = address(server)
        server.url = f"http://{host}:{port}"
        try:
            if waits:
                await soon(lambda: gateway.is_ready)
            yield server
        finally:
            await server.stop(timeout_s=stop_s)
            assert not server.manager.connections
            assert not server.manager.detached
            assert not gateway._works

    @contextlib.asynccontextmanager
    async def client(self, subject="ana", **token):
        """Return an HTTP client that shows a token."""
        headers = {"Authorization": f"Bearer {self.token(subject, **token)}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield session


async def new_session(client, pod, device="d1", **more):
    """Open a session, or come back to it; return its id."""
    async with client.post(f"{pod.url}/v1/sessions", json={"device": device, **more}) as answer:
        assert answer.status in (200, 201), await answer.text()
        return (await answer.json())["id"]


async def refused(client, url, **options):
    """Return status and headers with which a WebSocket is refused before it is one."""
    options.setdefault("protocols", ("session.v1.json",))
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await client.ws_connect(url, **options)
    return caught.value.status, caught.value.headers


async def simulator_row(pod, session):
    """Return the row of a session's newest simulator."""
    where = rows.SimulatorFilter(session_id=session)
    return (await pod.gateway.store.simulators.list(where, rows.Page(limit_count=1)))[0]


async def becomes(pod, session, **wanted):
    """Return a session's row as soon as the database has it so."""
    async with asyncio.timeout(20):
        while True:
            row = await pod.gateway.store.sessions.get(session)
            if all(getattr(row, key) == value for key, value in wanted.items()):
                return row
            await asyncio.sleep(0.02)


def told(pod, name):
    """Return the events of a kind so far, as mappings."""
    pod.events.flush()
    return [event.fields() for event in pod.events.recent if event.kind.name == f"exchange.{name}"]


class Talk:
    """A raw WebSocket of ``session.v1``: frames in, frames out, nothing clever."""

    def __init__(self, socket):
        self.socket = socket
        self.frames = []
        self.unread = []
        self.welcome = {}

    async def say(self, t, **fields):
        if self.socket.protocol == MSGPACK:
            await self.socket.send_bytes(msgspec.msgpack.encode({"t": t, **fields}))
        else:
            await self.socket.send_str(json.dumps({"t": t, **fields}))

    async def ask(self, t, **fields):
        """Say something that is to be answered; return the answer."""
        ref = f"{t}-{len(self.frames)}-{time.monotonic_ns()}"
        await self.say(t, id=ref, **fields)
        return await self.hear_any_of(ref)

    async def greet(self, device="d1", **hello):
        """Say hello; return the welcome."""
        await self.say("hello", id="hello", device=device, **hello)
        self.welcome = await self.hear("welcome")
        return self.welcome

    async def start(self):
        """Start a simulator and see it run."""
        answer = await self.ask("sim", action="start")
        assert answer["t"] == "ok", answer
        return await self.hear("sim", state="running")

    async def buy(self, quantity=1, **more):
        """Buy at the market; return the answer."""
        order = {"symbol": "AAA", "side": "buy", "type": "market", "tif": "ioc", **more}
        return await self.ask("order", quantity=quantity, **order)

    async def insist(self, quantity):
        """Buy at the market, under one id, until it is known that it was done; return the answer."""
        order = {"symbol": "AAA", "side": "buy", "type": "market", "tif": "ioc", "quantity": quantity}
        ref = f"insist-{time.monotonic_ns()}"
        while True:
            await self.say("order", id=ref, **order)
            answer = await self.hear_any_of(ref)
            if answer["t"] == "ok":
                return answer
            assert answer["code"] in AGAIN, answer
            await asyncio.sleep(min(answer.get("retry_after_s", 0.0), 0.1))

    async def hear_any_of(self, ref):
        """Return the answer to a frame."""
        async with asyncio.timeout(20):
            while True:
                for frame in self.unread:
                    if frame.get("ref") == ref:
                        self.unread.remove(frame)
                        return frame
                await self._take()

    async def events(self, count):
        """Return the next so many events."""
        return [await self.hear("ev") for _ in range(count)]

    def cursor(self):
        """Return what to resume with: what has come, asked for or not."""
        come = [frame for frame in self.frames if frame["t"] in ("ev", "snapshot")]
        last = come[-1]["o"] if come else self.welcome["events"]
        md = [frame["r"] for frame in self.frames if frame["t"] == "md"]
        pf = [frame["r"] for frame in self.frames if frame["t"] == "pf"]
        return {
            "epoch": self.welcome["epoch"],
            "events": last,
            "md": md[-1] if md else self.welcome["md"],
            "pf": pf[-1] if pf else self.welcome["pf"],
        }

    async def hear(self, t, **fields):
        """Return the oldest frame of a type with these fields that was not asked for yet; ``frames`` has them all."""
        async with asyncio.timeout(20):
            while True:
                for frame in self.unread:
                    if frame["t"] == t and fields.items() <= frame.items():
                        self.unread.remove(frame)
                        return frame
                await self._take()

    async def hear_any(self, *types):
        """Return the oldest frame of one of these types that was not asked for yet."""
        async with asyncio.timeout(20):
            while True:
                for frame in self.unread:
                    if frame["t"] in types:
                        self.unread.remove(frame)
                        return frame
                await self._take()

    async def _take(self):
        message = await self.socket.receive()
        assert message.type in FRAMES, (message, self.socket.close_code, self.frames[-5:])
        self.frames.append(FRAMES[message.type](message.data))
        self.unread.append(self.frames[-1])

    async def end(self):
        """Return the close code, after what comes before it."""
        async with asyncio.timeout(20):
            while (message := await self.socket.receive()).type in FRAMES:
                self.frames.append(FRAMES[message.type](message.data))
                self.unread.append(self.frames[-1])
            return self.socket.close_code


@contextlib.asynccontextmanager
async def talking(client, url, session, protocol="session.v1.json", **options):
    """Open a WebSocket to a session."""
    async with client.ws_connect(
        f"{url}/v1/ws?session={session}", protocols=(protocol,), **options
    ) as socket:
        yield Talk(socket)


@contextlib.asynccontextmanager
async def joined(client, pod, session="", device="d1", protocol="session.v1.json", **hello):
    """Join a session, a new one unless one is named, and be welcome."""
    where = f"session={session}" if session else f"device={device}"
    async with client.ws_connect(f"{pod.url}/v1/ws?{where}", protocols=(protocol,)) as socket:
        talk = Talk(socket)
        await talk.greet(device, **hello)
        yield talk


async def soon(predicate, within_s=20.0):
    """Let things go on until something is so; real time passes, for sockets and processes need it."""
    async with asyncio.timeout(within_s):
        while not (found := predicate()):  # noqa: ASYNC110 - whatever makes it true
            await asyncio.sleep(0.01)
        return found


@contextlib.asynccontextmanager
async def beside_somebody(lab, clock=None, **settings):
    """Run a pod on which somebody trades; see at the end that nothing has happened to them."""
    async with (
        lab.pod(clock=clock, **settings) as pod,
        lab.client("bob") as bobs,
        lab.client("ana") as http,
        joined(bobs, pod) as bob,
    ):
        await bob.start()
        yield pod, http
        assert (await bob.buy())["d"]["status"] == "filled"
        await bob.hear("ev", o=2)  # told when it is durable, which may be after the answer
        bob.unread = [frame for frame in bob.unread if frame["t"] != "md"]
        await bob.hear("md")
        await bob.hear("md")
        assert not {"err", "degraded", "warn", "ended"} & {frame["t"] for frame in bob.frames}
        assert [frame["o"] for frame in bob.frames if frame["t"] == "ev"] == [1, 2]
        assert not [event for event in pod.events.recent if event.kind.level == "error"]
