"""Pods with the whole of the REST interface's service on them, in one process: memory's bus, store and simulators."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json

import pytest
from exchange_lab import MARKET, ExchangeLab, LabPod
from link_room import KeptOutlet
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from sojourn.core.settings import ListenerSettings
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.bus import Pod
from sojourn.gateways.exchange.config import ExchangeSettings, SessionSettings, SimulatorsSettings
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.links import ClientLink
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.problems import Refusal
from sojourn.gateways.exchange.service import Caller
from sojourn.gateways.exchange.user_service import PodService

ANA = Principal("ana", frozenset({"exchange"}), 0.0, "t1")
BOB = Principal("bob", frozenset({"exchange"}), 0.0, "t2")
ROOT = Principal("root", frozenset({"exchange", "exchange.admin"}), 0.0, "t3")
CALLER = Caller("192.0.2.7", "lab/1")
NO_SESSION = "019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6071"
BUY = t.NewOrder(symbol="AAA", side="buy", quantity=3, price="1")
FILLS = t.NewOrder(symbol="AAA", side="buy", quantity=3, type="market", tif="ioc")


@contextlib.contextmanager
def refused(kind, reason=None, field=None):
    """Expect a problem of this kind."""
    with pytest.raises(Refusal) as caught:
        yield
    assert caught.value.kind is kind
    if reason is not None:
        assert caught.value.reason == reason
    if field is not None:
        assert [error.field for error in caught.value.errors] == [field]


class PodFace:
    """What a process knows of itself."""

    version = "1.2.3"

    def __init__(self):
        self.is_ready = True
        self.parts = {"database": "ok", "bus": "ok", "auth": "ok", "simulators": "ok"}
        self.drains_count = 0

    def checks(self):
        return self.parts

    async def ask_to_drain(self):
        self.drains_count += 1


class ServicePod(LabPod):
    """A pod with the service."""

    def __init__(self, lab, name):
        super().__init__(lab, name)
        self.services = dataclasses.replace(
            self.services,
            wall_ms=lambda: int(lab.wall().timestamp() * 1000),
            command_timeout_s=lab.timeout_s,
        )
        self.keeper.services = self.services
        self.face = PodFace()
        self.service = PodService(self.services, self.keeper, self.commands, lab.settings, self.face)

    async def announce(self):
        """Say that the pod lives."""
        pod = Pod(self.name, f"{self.name}:8443", self.keeper.is_draining, float(len(self.keeper.owned)))
        await self.bus.announce(pod, 15.0)


class ServiceLab(ExchangeLab):
    """Some pods that serve REST, and nothing in them yet.

    Args:
        policy: of devices.
        timeout_s: for commands; a test that waits for one in vain makes it short.
    """

    pod_class = ServicePod

    def __init__(self, pods_count=2, *, policy="replace", timeout_s=5.0, has_stored_logs=False, **sessions):
        self.timeout_s = timeout_s
        self.settings = ExchangeSettings(
            listeners=(ListenerSettings(address="127.0.0.1:0"),),
            sessions=SessionSettings(policy=policy, **sessions),
            simulators=SimulatorsSettings(market=MARKET),
        )
        super().__init__(pods_count, has_stored_logs=has_stored_logs)

    def make_store(self):
        self.wall = self.clock.wall_clock()
        return MemoryStore(self.wall, self.clock)

    async def do(self, work):
        """Let everything go on until a piece of work is done, and return what came of it."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await self.turns(1)
        finally:
            task.cancel()
        return await task

    async def make(self, principal=ANA, device="d1", pod=0):
        """Return the id of a session, made or joined."""
        wish = t.CreateSession(device=device)
        made = await self.do(self.pods[pod].service.create_session(principal, wish, CALLER))
        return made.session.id

    async def running(self, principal=ANA, pod=0):
        """Return the id of a session whose simulator runs."""
        session = await self.make(principal, pod=pod)
        service = self.pods[pod].service
        wish = t.SimulatorWish(desired="running")
        await self.do(service.set_simulator(principal, session, wish))
        await self.do(_last(service.progress(principal, session)))
        await self.do(self.is_up(pod, session))
        return session

    async def is_up(self, pod, session):
        """Return when a pod that owns the session hears its simulator."""
        room = self.pods[pod].keeper.rooms[session]
        while room.view.simulator_state != "running" or room.view.portfolio is None:
            await room.view.change()

    async def link(self, session, device="d1", pod=0):
        """Return a client's WebSocket that has said hello."""
        link = LabSocket(self, self.pods[pod])
        await self.do(link.open(session, device))
        return link


class LabSocket:
    """A client's WebSocket, as far as frames are concerned."""

    def __init__(self, lab, pod):
        self.lab, self.pod = lab, pod
        self.outlet = KeptOutlet()
        self.reader = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=2**24)

    async def open(self, session, device):
        room = await self.pod.keeper.open(session)
        self.link = ClientLink(
            "c",
            room,
            self.outlet,
            LinkSettings(),
            clock=self.lab.clock,
            wall_ms=room.services.wall_ms,
            is_binary=False,
            spawn=self.pod.spawn,
        )
        self.link.receive(json.dumps({"t": "hello", "id": "h", "device": device}))

    def heard(self):
        """Return the frames that came since the last call, without market and portfolio."""
        data, self.outlet.data = self.outlet.data, b""
        self.reader.receive_data(data)
        frames = [json.loads(bytes(message.data)) for message in self.reader.events_received()]
        return [frame for frame in frames if frame["t"] not in {"md", "pf"}]

    @property
    def closed(self):
        """The close code, or None."""
        return self.outlet.closed and self.outlet.closed[0]


async def _last(steps):
    async with contextlib.aclosing(steps):
        return [step async for step in steps][-1]


@contextlib.asynccontextmanager
async def service_lab(pods_count=2, **options):
    """Run pods; nothing may have gone wrong in the background at the end."""
    lab = ServiceLab(pods_count, **options)
    await lab.store.start()
    for pod in lab.pods:
        await pod.announce()
    try:
        yield lab
        assert lab.bugs == []
    finally:
        await lab.end()
