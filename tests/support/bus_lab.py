"""Pods on one bus, in memory or on a Valkey, with time that passes when a test says so.

And event logs in a database beside a bus in memory, as the embedded gateway has them.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
from redis import asyncio as redis

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import Appended, Owner
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.lifecycle import SessionState
from sojourn.gateways.exchange.memory_bus import MemoryHub
from sojourn.gateways.exchange.memory_store import MemoryStore
from sojourn.gateways.exchange.rows import SessionRow
from sojourn.gateways.exchange.storage import StoreSettings
from sojourn.gateways.exchange.store.postgres import PostgresStore
from sojourn.gateways.exchange.stored_logs import StoredLogs
from sojourn.gateways.exchange.valkey_bus import ValkeyBus
from sojourn.testing.clock import ManualClock

SID = "0193-session"
ANA = Owner("pod-a", 3)
BOB = Owner("pod-b", 4)
TTL_S = 15.0
SMALL = {"log_keep_count": 20, "log_keep_bytes": 4096}
QUICK = {
    "timeout_s": 0.5,
    "ping_every_s": 0.05,
    "reconnect_s": 0.01,
    "reconnect_max_s": 0.05,
    "lease_s": 11.0,
}


def events(first, last, *, simulator="", size=2):
    """Events with contiguous offsets; those of a simulator have ten times the offset as number."""
    return [
        LogEvent(
            offset,
            "fill",
            b"x" * size,
            1_700_000_000_000 + offset,
            simulator,
            offset * 10 if simulator else 0,
        )
        for offset in range(first, last + 1)
    ]


async def until(says_so, within_s=10.0):
    """Look again and again, for at most so long; the condition may be a coroutine function."""
    async with asyncio.timeout(within_s):
        while True:
            answer = says_so()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.005)


async def comes_back(call, within_s=10.0):
    """Make a call again and again until the backend carries it out."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await call()
            except BackendUnavailable:
                await asyncio.sleep(0.005)


class Link:
    """A listener that remembers what it heard."""

    def __init__(self):
        self.heard = []

    def on_frame(self, frame):
        self.heard.append(frame)

    def on_gap(self):
        self.heard.append("gap")


class MemoryLab:
    def __init__(self, settings):
        self.clock = ManualClock()
        self.hub = MemoryHub(settings, self.clock)

    async def bus(self, pod):
        return self.hub.join(pod)

    async def pass_time(self, seconds):
        self.clock.advance(seconds)

    async def lose_data(self):
        self.hub.lose_data()


class StoredBus:
    """A bus in memory whose event logs are in a database; who gets a lease has its epoch from the session's row."""

    def __init__(self, lab, bus):
        self._lab = lab
        self._bus = bus
        settings = lab.settings
        self._logs = StoredLogs(
            bus, lab.store.events, keep_count=settings.log_keep_count, keep_bytes=settings.log_keep_bytes
        )
        self.read_after, self.log_end = self._logs.read_after, self._logs.log_end

    def __getattr__(self, name):
        return getattr(self._bus, name)

    async def acquire(self, session, owner, ttl_s):
        written = self._lab.written.get(session, 0)
        held = await self._bus.owner_of(session)
        if written > owner.epoch and (held is None or held == owner or held.epoch < owner.epoch):
            return Owner("", written)  # the row's epoch only grows: nobody comes back with a smaller one
        holder = await self._bus.acquire(session, owner, ttl_s)
        if holder == owner:
            await self._lab.own(session, owner)
        return holder

    async def transfer(self, session, owner, to, ttl_s):
        holder = await self._bus.transfer(session, owner, to, ttl_s)
        if holder == to:
            await self._lab.own(session, to)
        return holder

    async def append(self, session, owner, epoch, batch):
        return self._note(session, owner, await self._logs.append(session, owner, epoch, batch))

    async def reseed(self, session, owner, epoch, batch, **more):
        return self._note(session, owner, await self._logs.reseed(session, owner, epoch, batch, **more))

    async def forget(self, session, owner):
        is_done = await self._logs.forget(session, owner)
        if is_done:
            self._lab.written.pop(session, None)
        return is_done

    def _note(self, session, owner, answer):
        if isinstance(answer, Appended):
            self._lab.written[session] = owner.epoch
        return answer


SCHEMAS = itertools.count(1)


class StoredLab(MemoryLab):
    """Pods in one process, without a Valkey.

    Args:
        dsn: of a PostgreSQL; empty = the store is in memory.
    """

    def __init__(self, settings, dsn=""):
        super().__init__(settings)
        self.settings = settings
        self.written = {}
        self.dsn = dsn
        self.schema = f"logs_{next(SCHEMAS)}"
        self.store = MemoryStore() if not dsn else PostgresStore(self.store_settings())

    def store_settings(self):
        return StoreSettings(dsn=Secret(self.dsn), schema=self.schema, connections_count=4, deadline_s=30.0)

    async def start(self):
        await self.store.start()
        self.admin = await asyncpg.create_pool(self.dsn, min_size=0, max_size=2) if self.dsn else None

    async def stop(self):
        await self.store.stop()
        if self.admin is not None:
            await self.admin.close()

    async def bus(self, pod):
        return StoredBus(self, self.hub.join(pod))

    async def own(self, session, owner):
        """Have the session's row say who owns it; made if there is none."""
        now = datetime.now(UTC)
        if self.admin is not None:
            await self.admin.execute(
                f"""INSERT INTO {self.schema}.sessions (id, subject, state, devices, policy, attributes,
                    created_at, active_at, owner_pod, owner_epoch)
                VALUES ($1, $1, 'new', '{{}}', '', '{{}}', $2, $2, $3, $4)
                ON CONFLICT (id) DO UPDATE SET owner_pod = $3, owner_epoch = $4""",
                session,
                now,
                owner.pod,
                owner.epoch,
            )
            return
        self.store._tables.sessions[session] = SessionRow(
            id=session,
            subject=session,
            state=SessionState.NEW,
            devices=(),
            policy="",
            attributes={},
            links_count=0,
            quality="",
            created_at=now,
            active_at=now,
            detached_at=now,
            expires_at=None,
            owner_pod=owner.pod,
            owner_epoch=owner.epoch,
            ended_at=None,
            ended_reason=None,
            ended_detail="",
        )

    async def lose_data(self):
        """Forget everything, as a database does that comes back without its newest data."""
        await super().lose_data()
        self.written.clear()
        if self.admin is not None:
            await self.admin.execute(f"DELETE FROM {self.schema}.session_events")
        else:
            self.store._tables.events.clear()


@asynccontextmanager
async def stored_lab(dsn="", **changes):
    """Give a lab whose event logs are in a database."""
    lab = StoredLab(ValkeySettings(**changes), dsn)
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()


class ValkeyLab:
    """Several pods on one server; time passes by making every expiry so much nearer."""

    def __init__(self, url, tasks, settings):
        self.settings = settings
        self.admin = redis.from_url(url)
        self.tasks = tasks
        self.running = []

    async def bus(self, pod):
        bus = ValkeyBus(pod, self.settings)
        self.running.append(self.tasks.create_task(bus.run()))
        await until(lambda: bus.health().is_relay_up)
        return bus

    async def pass_time(self, seconds):
        ms = int(seconds * 1000)
        keys = [key async for key in self.admin.scan_iter(count=10_000)]
        pipeline = self.admin.pipeline(transaction=False)
        for key in keys:
            pipeline.pttl(key)
        for key, left_ms in zip(keys, await pipeline.execute(), strict=True):
            if left_ms >= 0:
                pipeline.pexpire(key, left_ms - ms)
            elif key.endswith(b":live"):
                for name in await self.admin.zrange(key, 0, -1):
                    pipeline.zincrby(key, -ms, name)
        await pipeline.execute()

    async def lose_data(self):
        await self.admin.flushall()


def settings_for(server, **changes):
    return ValkeySettings(url=Secret(server if isinstance(server, str) else server.url()), **changes)


@asynccontextmanager
async def valkey_lab(server, **changes):
    """Give a lab on a server; its pods end with it."""
    async with asyncio.TaskGroup() as tasks:
        lab = ValkeyLab(server.url(), tasks, settings_for(server, **changes))
        async with lab.admin:
            await lab.admin.flushall()
            try:
                yield lab
            finally:
                for each in lab.running:
                    each.cancel()
