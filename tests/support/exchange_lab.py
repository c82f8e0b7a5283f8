"""Pods in one process: sessions on several of them, simulators without sockets, faults on demand.

The bus and the store are the ones in memory, the simulators are real ones behind channels that can be cut. Nothing
waits for real time but turns of the loop. Tries follow each other without a pause, so that what is tried in vain until
a deadline is for :class:`TurningLoop`, where it is over after some turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import selectors

from link_room import KeptOutlet
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from sojourn.core.breaker import Breakers
from sojourn.core.settings import BreakerSettings
from sojourn.errors import BackendUnavailable, SojournError
from sojourn.gateways.exchange.bodies import order_body
from sojourn.gateways.exchange.bus import Pod
from sojourn.gateways.exchange.drain import Drain
from sojourn.gateways.exchange.lifecycle import REPLACE, Timeouts
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.links import ClientLink
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.market.simulation import Simulation
from sojourn.gateways.exchange.memory_bus import MemoryHub
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.pod_commands import PodCommands
from sojourn.gateways.exchange.room_simulators import RoomSimulators
from sojourn.gateways.exchange.services import PodServices
from sojourn.gateways.exchange.sessions import SessionKeeper
from sojourn.gateways.exchange.sim.channel import Fenced, Foreign
from sojourn.gateways.exchange.sim.desk import Desk, Refused
from sojourn.gateways.exchange.sim.link import SimulatorLink
from sojourn.gateways.exchange.sim.settings import SimulatorLinkSettings
from sojourn.gateways.exchange.simulators import SimulatorKeeper, market_of
from sojourn.gateways.exchange.spawners.spawner import (
    Phase,
    SimulatorHandle,
    SimulatorSeen,
    SimulatorStatus,
    Spawner,
)
from sojourn.gateways.exchange.stored_logs import StoredLogs
from sojourn.testing.clock import ManualClock

MARKET = MarketSettings(seed=5, instruments=(InstrumentSettings("AAA", "100", shares=100),), step_ms=100)
LEASE_S = 15.0
TURN_S = 0.01
"""What a turn of a :class:`TurningLoop` takes: a client that waits 2 s for its session makes 200 tries meanwhile."""


class TurningLoop(asyncio.SelectorEventLoop):
    """A loop whose time goes by its turns, and on to the next timer where nothing is to be done."""

    def __init__(self):
        self.now_s = 0.0
        super().__init__(_Turns(self))

    def time(self):
        return self.now_s


class _Turns(selectors.DefaultSelector):
    """Ends each turn of a loop."""

    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        self.loop.now_s += max(TURN_S, timeout or 0.0)
        return super().select(None if timeout is None else 0)


def run_in_turns(work):
    """Run until the work is done, as fast as it can be."""
    with asyncio.Runner(loop_factory=TurningLoop) as runner:
        return runner.run(work)


class MemorySimulator:
    """A simulator and the channels that lead to it."""

    def __init__(self, spec, clock):
        self.desk = Desk(Simulation(spec.market), simulator=spec.simulator, session=spec.session, clock=clock)
        self.news = asyncio.Event()
        self.channels = set()

    def tell(self):
        """Wake who reads."""
        self.news.set()
        self.news = asyncio.Event()

    def cut(self):
        """Lose every connection."""
        for channel in tuple(self.channels):
            channel.break_down()


class MemoryChannel:
    """A line to a simulator, for ``SimulatorLink``."""

    def __init__(self, simulators, endpoint):
        self.endpoint = endpoint
        self.simulator = simulators.get(endpoint)
        self.is_broken = False
        self.broken = asyncio.Event()
        if self.simulator is not None:
            self.simulator.channels.add(self)

    def break_down(self):
        self.is_broken = True
        self.broken.set()
        if self.simulator is not None:
            self.simulator.channels.discard(self)

    def check(self):
        if self.is_broken or self.simulator is None:
            raise BackendUnavailable(self.endpoint, 0.0, "the line is cut")

    def obey(self, act):
        try:
            return act()
        except Refused as refused:
            if refused.code == "fenced":
                raise Fenced(self.simulator.desk.owner_epoch) from None
            if refused.code == "foreign":
                raise Foreign(self.endpoint, 0.0, refused.why) from None
            raise BackendUnavailable(self.endpoint, 0.0, refused.code) from None

    @contextlib.asynccontextmanager
    async def attach(self, request):
        self.check()
        cursor = self.obey(lambda: self.simulator.desk.attach(request))
        yield self.updates(cursor, request.owner.epoch)

    async def updates(self, cursor, epoch):
        simulator = self.simulator
        while True:
            self.check()
            if epoch < simulator.desk.owner_epoch:
                raise Fenced(simulator.desk.owner_epoch)
            news = simulator.news
            update = simulator.desk.update(cursor)
            if update is not None:
                yield update
                continue
            waits = [asyncio.ensure_future(one.wait()) for one in (news, self.broken)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()

    async def call(self, method, request, timeout_s):
        del timeout_s
        self.check()
        desk = self.simulator.desk
        acts = {
            "SubmitOrder": desk.submit,
            "CancelOrder": desk.cancel,
            "ReplaceOrder": desk.replace,
            "Heartbeat": desk.beat,
            "ListOrders": desk.list_orders,
        }
        answer = self.obey(lambda: acts[method](request))
        self.simulator.tell()
        await asyncio.sleep(0)
        self.check()  # the answer may be lost on its way
        return answer

    async def close(self):
        self.break_down()


class MemorySpawner(Spawner):
    """Simulators in this process, which outlive pods."""

    driver = "memory"

    def __init__(self, simulators, clock):
        super().__init__()
        self.simulators = simulators
        self.clock = clock

    def seen(self, name):
        is_there = name in self.simulators
        return SimulatorStatus(
            phase=Phase.RUNNING if is_there else Phase.STOPPED, endpoint=name if is_there else ""
        )

    async def create(self, spec):
        self.simulators.setdefault(spec.simulator, MemorySimulator(spec, self.clock))
        return SimulatorHandle(simulator=spec.simulator, driver=self.driver, session=spec.session)

    async def poll(self, handle):
        return self.seen(handle.simulator)

    async def stop(self, handle, grace_s):
        del grace_s
        simulator = self.simulators.pop(handle.simulator, None)
        if simulator is not None:
            simulator.cut()

    async def list(self):
        return [
            SimulatorSeen(SimulatorHandle(simulator=name, driver=self.driver), self.seen(name))
            for name in self.simulators
        ]


class LabPod:
    """One process of the gateway, as far as sessions are concerned."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.bus = lab.hub.join(name)
        self.tasks = set()
        self.is_dead = False
        simulator_keeper = SimulatorKeeper(
            lab.store,
            {"memory": MemorySpawner(lab.simulators, lab.clock)},
            pod=name,
            owner_timeout_s=0,
            backoff=lab.backoff,
        )
        simulators = RoomSimulators(
            simulator_keeper,
            lab.store,
            driver="memory",
            market=market_of(None, MARKET),
            spawn=self.spawn,
            backoff=lab.backoff,
        )
        self.keeper = SessionKeeper(lambda _: lambda *entry: self.lab.trace.append((self.name, *entry)))
        self.commands = PodCommands(self.keeper)
        self.breakers = Breakers(BreakerSettings(open_s=0.001, open_max_s=0.001), lab.clock)
        self.services = PodServices(
            pod=name,
            bus=self.bus,
            logs=lab.logs_of(self.bus),
            store=lab.store,
            keeper=self.keeper,
            simulators=simulators,
            link=self.link,
            spawn=self.spawn,
            clock=lab.clock,
            wall_ms=lambda: int(lab.clock() * 1000),
            lease_s=LEASE_S,
            command_timeout_s=5.0,
            random=lambda: 0.0,
        )
        self.keeper.services = self.services
        self.bus.serve(self.commands.serve)

    def link(self, endpoint, ownership, reader, after_seq, run):
        return SimulatorLink(
            endpoint,
            ownership,
            reader,
            SimulatorLinkSettings(),
            breakers=self.breakers,
            after_seq=after_seq,
            run=run,
            connect=lambda endpoint, _: MemoryChannel(self.lab.simulators, endpoint),
            random=lambda: 0.0,
        )

    def spawn(self, work):
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self.is_dead:
            self.lab.bugs.append(task.exception())

    def kill(self):
        """End at once, as SIGKILL does: nobody is told anything."""
        self.is_dead = True
        self.bus.serve(None)
        for listeners in list(self.lab.hub.listeners.values()):
            for one in list(listeners):
                if one.pod == self.name:
                    one.close()
        for task in tuple(self.tasks):
            task.cancel()
        for room in self.keeper.rooms.values():
            if getattr(room.role, "link", None) is not None:
                room.role.link.close()

    async def drain(self):
        """Hand every session over, then end."""
        lab = self.lab
        drain = Drain(
            self.keeper, window_s=0.0, pods=lab.pods_that_live, sleep=lab.sleep, flush_s=lab.flush_s
        )
        self.keeper.is_draining = True
        for room in tuple(self.keeper.rooms.values()):
            await drain.hand_over(room)
            for link in room.links:
                link.close(1012, "restart")
        self.kill()


class ExchangeLab:
    """Some pods, one session, one simulator.

    Args:
        has_stored_logs: events are in the store, as without a Valkey.
        flush_s: that a pod that leaves tries to make a session's events durable.
    """

    pod_class = LabPod

    def __init__(self, pods_count=3, *, has_stored_logs=False, flush_s=0.02):
        self.has_stored_logs = has_stored_logs
        self.flush_s = flush_s
        self.clock = ManualClock(1000.0)
        self.hub = MemoryHub(clock=self.clock)
        self.store = self.make_store()
        self.simulators = {}
        self.trace = []
        self.bugs = []
        self.pods = [self.pod_class(self, f"pod-{number}") for number in range(pods_count)]
        self.born_count = pods_count
        self.session = ""

    def make_store(self):
        return MemoryStore()

    def logs_of(self, bus):
        if not self.has_stored_logs:
            return bus
        return StoredLogs(bus, self.store.events, keep_count=1000, keep_bytes=1_048_576)

    def backoff(self):
        return self.pods[0].services.backoff()

    def pods_that_live(self):
        return [Pod(pod.name, "", pod.keeper.is_draining) for pod in self.pods if not pod.is_dead]

    async def start(self):
        """Make the session and its simulator."""
        await self.store.start()
        opened = await self.store.sessions.open("ana", "d1", policy=REPLACE, timeouts=Timeouts())
        self.session = opened.row.id

    def replace_pod(self, index):
        """Start a new process in the place of one that is dead."""
        self.born_count += 1
        self.pods[index] = self.pod_class(self, f"pod-{self.born_count}")

    @property
    def simulator(self):
        """The one simulator, or None."""
        return next(iter(self.simulators.values()), None)

    def truth(self):
        """Return the bodies of all events that the simulator has told."""
        return [order_body(event.update) for event in self.simulator.desk.simulation.events]

    async def sleep(self, seconds):
        """Let time pass, and others go on."""
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def turns(self, count=30):
        """Let everything go on that can."""
        for _ in range(count):
            for pod in self.pods:
                if not pod.is_dead:
                    pod.keeper.tick(self.clock())
            await asyncio.sleep(0)

    async def renew(self):
        """Let every pod prolong its leases."""
        for pod in self.pods:
            if not pod.is_dead:
                with contextlib.suppress(BackendUnavailable):
                    await pod.keeper.renew()

    async def joined(self, pod):
        """Return a client that has said hello to a pod and has heard what there is."""
        client = LabClient(self)
        assert await client.connect(pod)
        await self.turns()
        client.hear()
        return client

    async def end(self):
        for pod in self.pods:
            pod.kill()
        await asyncio.sleep(0)


class LabClient:
    """A browser: remembers what it was told, resumes, and proves that it hears each event once."""

    def __init__(self, lab):
        self.lab = lab
        self.bodies = []
        self.told = []
        self.epoch = None
        self.offset = 0
        self.md = self.pf = 0
        self.rows = {}
        self.losses = 0
        self.errors = []
        self.link = None
        self.outlet = None
        self.requests = 0

    async def connect(self, pod):
        """Come to a pod; False if it does not take us."""
        self.cut()
        try:
            async with asyncio.timeout(2):
                room = await pod.keeper.open(self.lab.session)
        except (SojournError, TimeoutError):
            return False
        self.outlet = KeptOutlet()
        self.reader = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=2**24)
        self.link = ClientLink(
            "c",
            room,
            self.outlet,
            LinkSettings(),
            clock=self.lab.clock,
            wall_ms=lambda: int(self.lab.clock() * 1000),
            is_binary=False,
            spawn=pod.spawn,
        )
        resume = None
        if self.epoch is not None:
            resume = {"epoch": self.epoch, "events": self.offset, "md": self.md, "pf": self.pf}
        self.say("hello", device="d1", resume=resume)
        return True

    def say(self, t, **fields):
        self.requests += 1
        if self.link is not None:
            frame = {"t": t, "id": f"r{self.requests}", **{k: v for k, v in fields.items() if v is not None}}
            self.link.receive(json.dumps(frame))

    def cut(self):
        """Lose the connection, and what was on its way."""
        if self.link is not None:
            self.link.lost()
        self.link = self.outlet = None

    def hear(self):
        """Take what came; what does not fit is an error."""
        if self.outlet is None:
            return
        data, self.outlet.data = self.outlet.data, b""
        self.reader.receive_data(data)
        for message in self.reader.events_received():
            self.take(json.loads(bytes(message.data)))
        if self.outlet.closed is not None:
            self.link = self.outlet = None

    def take(self, frame):
        match frame["t"]:
            case "welcome":
                if self.epoch is not None and frame["resumed"] == "none":
                    self.losses += 1
                if frame["resumed"] == "none":
                    self.epoch, self.offset = frame["epoch"], frame["events"]
                    self.rows = {}
            case "snapshot":
                if (frame["epoch"], frame["o"]) != (self.epoch, self.offset):
                    self.losses += 1
                    self.epoch, self.offset = frame["epoch"], frame["o"]
            case "ev":
                if frame["o"] != self.offset + 1:
                    self.errors.append(("order", self.offset, frame["o"]))
                self.offset = frame["o"]
                self.bodies.append(json.dumps(frame["d"], separators=(",", ":")).encode())
            case "md":
                if frame.get("full"):
                    self.rows = {}
                self.rows |= {row["s"]: row for row in frame["rows"]}
                self.md = frame["r"]
            case "pf":
                self.pf = frame["r"]
            case "sim" | "degraded" | "restored":
                self.told.append(frame)


async def began(lab):
    """Start a session with a simulator; return a client at its owner that has heard its welcome."""
    await lab.start()
    client = LabClient(lab)
    assert await client.connect(lab.pods[0])
    await lab.turns()
    client.say("sim", action="start")
    await lab.turns(60)
    client.hear()
    return client
